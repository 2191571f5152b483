// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_restore: metadata from what clone_dump has written.
 */

#include <errno.h>
#include <stdio.h>

#include "state.h"
#include "tool.h"
#include "xml.h"

static const char usage[] =
"Usage: clone_restore -i FILE -o DEVICE|FILE [OPTION...]\n"
"\n"
"Write the metadata of a clone from XML that clone_dump has written.\n"
"\n"
"  -i, --input FILE          the XML\n"
"  -o, --output DEVICE|FILE  where the metadata goes: a file has to be there, and\n"
"                            as large as clone_metadata_size says\n"
"      --lost hydrated|unhydrated\n"
"                            what the regions are that the XML has as lost\n"
"      --dest-zeroed         the note that the destination is zeroed still holds\n"
"      --force               overwrite what the device holds\n"
"  -q, --quiet               say nothing, the exit status tells\n"
"  -h, --help                show this\n"
"  -V, --version             show the version\n";

static const struct option options[] = {
	{ "input", required_argument, NULL, 'i' },
	{ "dest-zeroed", no_argument, NULL, 'Z' },
	OPTION_OUTPUT, OPTION_LOST, OPTION_FORCE,
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

struct request {
	const char *input;
	struct output output;
	bool dest_zeroed;
};

/*
 * The destination may have been written to since the dump: only a user who
 * knows better may set the note.
 */
static void judge_note(struct state *s, const struct request *q)
{
	if (s->sb.dest_zeroed && !q->dest_zeroed) {
		say("the note that the destination is zeroed is left out: see --dest-zeroed");
		s->sb.dest_zeroed = false;
	}
}

static int restore(const struct request *q)
{
	struct state state;
	int status;

	if (read_xml(&state, q->input))
		return 1;

	judge_note(&state, q);
	status = write_state(&state, &q->output) ? 1 : 0;
	state_end(&state);

	return status;
}

static bool take_option(struct request *q, int c)
{
	switch (c) {
	case 'i':
		q->input = optarg;
		return true;
	case 'Z':
		q->dest_zeroed = true;
		return true;
	}

	return output_option(&q->output, c);
}

static int run(int argc, char **argv)
{
	struct request q = { .output.lost = LOST_UNDECIDED };
	int c;

	while ((c = getopt_long(argc, argv, "i:o:" COMMON_LETTERS, options,
				NULL)) != -1)
		if (!take_option(&q, c))
			return wrong_usage(c == 'L' ? "--lost is hydrated or unhydrated" :
						      NULL);
	if (argc != optind || !q.input || !q.output.path)
		return wrong_usage("an input and an output are needed");

	return restore(&q);
}

const struct tool clone_restore = { "clone_restore", usage, run };
