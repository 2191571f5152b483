// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_metadata_size: how large should a metadata device be?
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

static const char usage[] =
"Usage: clone_metadata_size -b SIZE -s SIZE|DEVICE [OPTION...]\n"
"\n"
"Tell how large the metadata device of a clone should be.\n"
"\n"
"  -b, --region-size SIZE    of the regions: sectors, or with a unit, see below\n"
"  -s, --size SIZE|DEVICE    of the clone, or a device or file that is as large:\n"
"                            the source\n"
"  -u, --unit UNIT           of the answer: b bytes, s sectors, k m g t p e powers\n"
"                            of 1024, K M G T P E powers of 1000; m if not given\n"
"  -n, --numeric-only        only the number: the recommended size\n"
"      --smallest            only the smallest size that works, with -n\n"
"  -q, --quiet               no messages\n"
"  -h, --help                show this\n"
"  -V, --version             show the version\n"
"\n"
"Sizes are rounded up to the unit.\n";

static const struct option options[] = {
	{ "region-size", required_argument, NULL, 'b' },
	{ "block-size", required_argument, NULL, 'b' },
	{ "size", required_argument, NULL, 's' },
	{ "unit", required_argument, NULL, 'u' },
	{ "numeric-only", no_argument, NULL, 'n' },
	{ "smallest", no_argument, NULL, 'm' },
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

struct request {
	struct clone_md_superblock sb;
	char unit;
	bool numeric_only;
	bool smallest;
};

static bool size_of_device(const char *path, uint64_t *sectors)
{
	int fd = clone_md_open_fd(path, O_RDONLY);
	uint64_t bytes = 0;
	bool good;

	if (fd < 0)
		return false;
	good = !clone_md_size_of_fd(fd, &bytes);
	close(fd);

	*sectors = bytes / 512;
	return good;
}

static void print_size(const struct request *q, const char *what, uint64_t blocks)
{
	uint64_t bytes = blocks * CLONE_MD_BLOCK_SIZE, unit = unit_size(q->unit);
	uint64_t number = bytes / unit + !!(bytes % unit);

	if (q->numeric_only)
		printf("%ju\n", number);
	else
		printf("%s %ju%c\n", what, number, q->unit);
}

static int answer(const struct request *q)
{
	const char *wrong = clone_md_check_geometry(&q->sb);

	if (wrong) {
		say("%s: regions are powers of two, 4 KiB to 1 GiB, at most 2147483648 of them",
		    wrong);
		return 1;
	}

	if (!q->smallest)
		print_size(q, "recommended:", clone_md_recommended_size(&q->sb));
	if (q->smallest || !q->numeric_only)
		print_size(q, "smallest:   ", clone_md_smallest_size(&q->sb));
	return 0;
}

static bool take_option(struct request *q, int c)
{
	switch (c) {
	case 'b':
		return parse_size(optarg, &q->sb.region_size);
	case 's':
		return parse_size(optarg, &q->sb.target_size) ||
		       size_of_device(optarg, &q->sb.target_size);
	case 'u':
		q->unit = optarg[0];
		return unit_size(q->unit) && !optarg[1];
	case 'n':
		q->numeric_only = true;
		return true;
	case 'm':
		q->smallest = true;
		return true;
	}

	return false;
}

static int run(int argc, char **argv)
{
	struct request q = { .unit = 'm' };
	int c;

	while ((c = getopt_long(argc, argv, "b:s:u:n" COMMON_LETTERS, options,
				NULL)) != -1) {
		if (common_option(c) || take_option(&q, c))
			continue;
		if (c != '?')
			say("not a size, unit or device: %s", optarg);
		return wrong_usage(NULL);
	}
	if (argc != optind || !q.sb.region_size || !q.sb.target_size)
		return wrong_usage("a region size and the size of the clone are needed");

	return answer(&q);
}

const struct tool clone_metadata_size = { "clone_metadata_size", usage, run };
