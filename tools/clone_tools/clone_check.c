// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_check: is the metadata of a clone sound?
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"
#include "tool.h"

static const char usage[] =
"Usage: clone_check [OPTION...] DEVICE|FILE\n"
"\n"
"Check the metadata of a clone. The exit status is 0 if it is sound.\n"
"\n"
"      --super-block-only         only the superblock\n"
"      --skip-mappings            not the regions: the superblock and the space map\n"
"      --ignore-non-fatal-errors  only what a kernel would refuse is an error\n"
"  -q, --quiet                    say nothing, the exit status tells\n"
"  -h, --help                     show this\n"
"  -V, --version                  show the version\n";

static const struct option options[] = {
	{ "super-block-only", no_argument, NULL, 'S' },
	{ "skip-mappings", no_argument, NULL, 'M' },
	{ "ignore-non-fatal-errors", no_argument, NULL, 'I' },
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

/* Leaked blocks, and bits after the last region, do no harm. */
static bool is_fatal(const struct findings *f)
{
	return f->superblock || f->counts[CLONE_MD_UNREADABLE] ||
	       f->counts[CLONE_MD_DAMAGED] || f->counts[CLONE_MD_UNPROTECTED];
}

static void say_sound(const char *path, const struct state *s,
		      const struct findings *f)
{
	if (quiet)
		return;

	printf("%s: %s", path, f->nr ? "usable" : "sound");
	if (s->hydrated)
		printf(", %ju of %ju regions are hydrated",
		       state_count(s, HYDRATED),
		       s->nr_regions);
	putchar('\n');
}

static void say_what_to_do(const char *path, const struct findings *f)
{
	if (!is_fatal(f))
		say("%s: usable as it is, clone_repair makes it sound", path);
	else if (!f->superblock)
		say("%s: not usable, see clone_repair", path);
}

static int check(const char *path, enum load_mode mode, bool ignore_non_fatal)
{
	struct findings findings;
	struct state state;
	int status = 1;
	int r = load_state(&state, path, mode, &findings);

	say_findings(path, &findings);
	if (!r || (r == -EILSEQ && ignore_non_fatal && !is_fatal(&findings))) {
		say_sound(path, &state, &findings);
		status = 0;
	} else if (r == -EILSEQ) {
		say_what_to_do(path, &findings);
	}

	state_end(&state);
	return status;
}

static int run(int argc, char **argv)
{
	enum load_mode mode = LOAD_ALL;
	bool ignore_non_fatal = false;
	int c;

	while ((c = getopt_long(argc, argv, COMMON_LETTERS, options, NULL)) != -1) {
		switch (c) {
		case 'S':
			mode = LOAD_SUPERBLOCK;
			break;
		case 'M':
			if (mode == LOAD_ALL)
				mode = LOAD_SPACE_MAP;
			break;
		case 'I':
			ignore_non_fatal = true;
			break;
		default:
			if (!common_option(c))
				return wrong_usage(NULL);
		}
	}
	if (argc - optind != 1)
		return wrong_usage("name one device or file");

	return check(argv[optind], mode, ignore_non_fatal);
}

const struct tool clone_check = { "clone_check", usage, run };
