// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_repair: new metadata from what is left of damaged metadata.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"
#include "tool.h"

static const char usage[] =
"Usage: clone_repair -i DEVICE|FILE -o DEVICE|FILE [OPTION...]\n"
"\n"
"Write new metadata from what is left of damaged metadata, which is only read.\n"
"\n"
"  -i, --input DEVICE|FILE   the damaged metadata\n"
"  -o, --output DEVICE|FILE  where the new metadata goes, never the same; a file\n"
"                            has to be there, and as large as the damaged one\n"
"      --lost hydrated|unhydrated\n"
"                            what the regions are of which that is lost: what was\n"
"                            written to such regions is taken back if they become\n"
"                            unhydrated; if they become hydrated, those that had\n"
"                            not been copied yet show junk\n"
"      --region-size SECTORS, --target-size SECTORS\n"
"                            as in the table line, if the superblock is lost\n"
"      --tree BLOCK          then: take this one of the trees that are found\n"
"      --force               overwrite what the output holds\n"
"  -q, --quiet               say nothing, the exit status tells\n"
"  -h, --help                show this\n"
"  -V, --version             show the version\n"
"\n"
"The sectors of which the state is lost go to the standard output: a first sector\n"
"and a number of sectors a line.\n";

static const struct option options[] = {
	{ "input", required_argument, NULL, 'i' },
	{ "region-size", required_argument, NULL, 'R' },
	{ "target-size", required_argument, NULL, 'T' },
	{ "tree", required_argument, NULL, 'B' },
	OPTION_OUTPUT, OPTION_LOST, OPTION_FORCE,
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

struct request {
	const char *input;
	struct output output;
	uint64_t region_size;
	uint64_t target_size;
	uint64_t tree;			/* 0: any */
};

/*
 *---------------------------------------------------------------
 * Without a superblock
 *---------------------------------------------------------------
 */

struct search {
	struct state *state;
	unsigned int nr_trees;
};

static void take_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	struct search *s = context;

	state_take_words(s->state, first, words, nr);
}

/* Its memory was seen to before, see below. */
static void take_lost(void *context, uint64_t first, uint64_t nr)
{
	struct search *s = context;

	state_take_lost(s->state, first, nr);
}

static void say_tree(void *context, uint64_t root, uint64_t nr_hydrated)
{
	struct search *s = context;

	s->nr_trees++;
	say("--tree %ju may have been the bitset: %ju regions are hydrated", root,
	    nr_hydrated);
}

static void say_problem(void *context, enum clone_md_problem kind, uint64_t block,
			const char *text)
{
	(void)context;
	(void)kind;
	say("block %ju: %s", block, text);
}

static int look_for_trees(struct state *s, const struct clone_md_image *image,
			  uint64_t tree)
{
	struct search search = { .state = s };
	const struct clone_md_visitor visitor = {
		.words = take_words, .lost = take_lost, .tree = say_tree,
		.problem = tree ? say_problem : NULL, .context = &search,
	};
	int r = state_begin(s);

	if (!r)
		r = state_set_lost(s, 0, 0);
	if (r) {
		say("not enough memory");
		return r;
	}

	s->sb.bitset_root = tree;
	r = tree ? clone_md_walk_bitset(image, &s->sb, &visitor) :
		   clone_md_salvage_without_superblock(image, &s->sb, &visitor);
	if (r == -E2BIG)
		say("there are too many such trees: --tree has to name one");
	else if (r && r != -EILSEQ)
		say("%s", strerror(-r));
	else if (!tree && !search.nr_trees)
		say("nothing was found that may have been the bitset of such a clone");

	return r == -EILSEQ ? 0 : r;
}

/* @s->sb is what a damaged superblock says, only a hint. */
static int begin_without_superblock(struct state *s, const struct request *q)
{
	const char *wrong;

	if (!q->region_size || !q->target_size) {
		if (s->sb.magic == CLONE_MD_MAGIC)
			say("the superblock says --region-size %ju --target-size %ju",
			    s->sb.region_size, s->sb.target_size);
		say("the superblock is lost: --region-size and --target-size are needed");
		return -EINVAL;
	}

	memset(s, 0, sizeof(*s));
	s->sb.region_size = q->region_size;
	s->sb.target_size = q->target_size;
	wrong = clone_md_check_geometry(&s->sb);
	if (wrong)
		say("%s", wrong);

	return wrong ? -EINVAL : 0;
}

static int load_without_superblock(struct state *s, const struct request *q)
{
	struct clone_md_device dev;
	int r = begin_without_superblock(s, q);

	if (!r)
		r = open_metadata(&dev, q->input, CLONE_MD_OPEN_READ);
	if (r)
		return r;

	r = look_for_trees(s, &dev.image, q->tree);
	clone_md_close_device(&dev);
	return r;
}

/*
 *---------------------------------------------------------------
 * With one
 *---------------------------------------------------------------
 */

static bool fits_superblock(const struct state *s, const struct request *q)
{
	if (q->tree) {
		say("the superblock is good: --tree is for a lost one");
		return false;
	}
	if ((!q->region_size || q->region_size == s->sb.region_size) &&
	    (!q->target_size || q->target_size == s->sb.target_size))
		return true;

	say("the superblock is good, and says --region-size %ju --target-size %ju",
	    s->sb.region_size, s->sb.target_size);
	return false;
}

static int load(struct state *s, const struct request *q)
{
	struct findings findings;
	int r = load_state(s, q->input, LOAD_SALVAGE, &findings);

	say_findings(q->input, &findings);
	if (findings.superblock)
		return load_without_superblock(s, q);
	if (r && r != -EILSEQ)
		return r;

	/* What was repaired may be wrong: nothing may rely on it. */
	s->sb.dest_zeroed = false;
	return fits_superblock(s, q) ? 0 : -EINVAL;
}

/*
 *---------------------------------------------------------------
 * The tool
 *---------------------------------------------------------------
 */

static int write_repaired(struct state *s, const struct request *q)
{
	uint64_t nr_lost = state_count(s, LOST);

	if (!quiet)
		state_list(s, LOST, stdout);
	if (write_state(s, &q->output))
		return 1;

	say("%ju of %ju regions are hydrated, %ju were lost",
	    state_count(s, HYDRATED), s->nr_regions, nr_lost);
	return 0;
}

static int repair(const struct request *q)
{
	struct state state;
	int status = 1;

	if (!load(&state, q))
		status = write_repaired(&state, q);

	state_end(&state);
	return status;
}

static bool take_option(struct request *q, int c)
{
	switch (c) {
	case 'i':
		q->input = optarg;
		return true;
	case 'R':
		return parse_number(optarg, &q->region_size) && q->region_size;
	case 'T':
		return parse_number(optarg, &q->target_size) && q->target_size;
	case 'B':
		return parse_number(optarg, &q->tree) && q->tree;
	}

	return output_option(&q->output, c);
}

static int run(int argc, char **argv)
{
	struct request q = { .output.lost = LOST_UNDECIDED };
	int c;

	while ((c = getopt_long(argc, argv, "i:o:" COMMON_LETTERS, options,
				NULL)) != -1) {
		if (take_option(&q, c))
			continue;
		if (c != '?')
			say("wrong value: %s", optarg);
		return wrong_usage(NULL);
	}
	if (argc != optind || !q.input || !q.output.path)
		return wrong_usage("an input and an output are needed");
	if (is_same_file(q.input, q.output.path))
		return wrong_usage("the input is never written: name another output");

	return repair(&q);
}

const struct tool clone_repair = { "clone_repair", usage, run };
