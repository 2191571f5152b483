// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Tests of tools/lib that need no device and no kernel.  The last line is
 * "N passed, N failed".
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clone-format.h"
#include "endian-le.h"
#include "memory.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

static const char *failure;

#define EXPECT(condition) do {						\
	if (!(condition) && !failure)					\
		failure = "line " LINE(__LINE__) ": " #condition;	\
} while (0)
#define LINE(number)	LINE_(number)
#define LINE_(number)	#number

/* What a walk has told. */
struct told {
	uint8_t *bits;
	uint64_t nr_regions;
	uint64_t nr_hydrated;
	uint64_t nr_lost_words;
	unsigned int nr_trees;
	uint64_t largest_tree;		/* regions */
};

static void tell_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	struct told *told = context;

	for (unsigned int i = 0; i < nr; i++) {
		put_le64(told->bits + (first + i) * 8, words[i]);
		told->nr_hydrated += __builtin_popcountll(words[i]);
	}
}

static void tell_lost(void *context, uint64_t first, uint64_t nr)
{
	struct told *told = context;

	(void)first;
	told->nr_lost_words += nr;
}

static void tell_tree(void *context, uint64_t root, uint64_t nr_hydrated)
{
	struct told *told = context;

	(void)root;
	told->nr_trees++;
	if (nr_hydrated > told->largest_tree)
		told->largest_tree = nr_hydrated;
}

static struct clone_md_visitor listen(struct told *told,
				      const struct clone_md_superblock *sb)
{
	const struct clone_md_visitor visitor = {
		.words = tell_words, .lost = tell_lost, .tree = tell_tree,
		.context = told,
	};

	memset(told, 0, sizeof(*told));
	told->nr_regions = clone_md_nr_regions(sb);
	told->bits = calloc(clone_md_nr_words(sb), 8);
	if (!told->bits)
		exit(1);
	return visitor;
}

static bool bit(const struct told *told, uint64_t region)
{
	return told->bits[region / 8] >> region % 8 & 1;
}

static struct clone_md_superblock clone_of(uint64_t nr_regions)
{
	struct clone_md_superblock sb = { .region_size = 8, .target_size = nr_regions * 8 };

	return sb;
}

static bool is_sound(struct memory *m, struct told *told)
{
	struct clone_md_superblock sb;
	struct clone_md_visitor visitor;
	const char *text;

	if (clone_md_read_superblock(&m->image, &sb, &text))
		return false;
	visitor = listen(told, &sb);
	return !clone_md_check(&m->image, &sb, &visitor, NULL);
}

/* Metadata in which every third region is hydrated. */
static void make_thirds(struct memory *m, uint64_t nr_regions, uint64_t nr_blocks)
{
	struct clone_md_superblock sb = clone_of(nr_regions);
	struct clone_md_writer *w;

	memory_make(m, nr_blocks ? nr_blocks : clone_md_recommended_size(&sb));
	EXPECT(!clone_md_create(&m->image, &sb, &w));
	for (uint64_t i = 0; i < nr_regions; i += 3)
		EXPECT(!clone_md_set_hydrated(w, i, 1));
	EXPECT(!clone_md_commit(w));
	EXPECT(clone_md_nr_hydrated(w) == (nr_regions + 2) / 3);
	clone_md_close(w);
}

/* The same, with a flipped bit in the root of its bitset. */
static void make_thirds_without_root(struct memory *m, uint64_t nr_regions,
				     struct clone_md_superblock *sb)
{
	const char *text;

	make_thirds(m, nr_regions, 0);
	EXPECT(!clone_md_read_superblock(&m->image, sb, &text));
	memory_block(m, sb->bitset_root)[100] ^= 1;
}

static void what_is_written_is_read(void)
{
	static const uint64_t sizes[] = {
		1, 63, 64, 65, 32575, 32576, 32577,
		251 * 32576, 252 * 32576 + 1, 400 * 32576 + 7,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct memory m;
		struct told told;

		make_thirds(&m, sizes[i], 0);
		EXPECT(is_sound(&m, &told));
		EXPECT(told.nr_hydrated == (sizes[i] + 2) / 3);
		for (uint64_t region = 0; region < sizes[i]; region += 7)
			EXPECT(bit(&told, region) == !(region % 3));
		free(told.bits);
		memory_free(&m);
	}
}

static void smallest_sizes_suffice(void)
{
	static const uint64_t sizes[] = {
		1, 32577, 252 * 32576, 253 * 32576, 600 * 32576, 3000 * UINT64_C(32576),
		42336 * UINT64_C(1000),
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct clone_md_superblock sb = clone_of(sizes[i]);
		struct clone_md_writer *w;
		struct memory m;
		struct told told;

		memory_make(&m, clone_md_smallest_size(&sb));
		EXPECT(!clone_md_create(&m.image, &sb, &w));
		EXPECT(!clone_md_commit(w));
		clone_md_close(w);
		EXPECT(!clone_md_edit(&m.image, &sb, &w));
		for (uint64_t first = 0; first < sizes[i]; first += 32576)
			EXPECT(!clone_md_set_hydrated(w, first, 1));
		EXPECT(!clone_md_commit(w));
		clone_md_close(w);

		EXPECT(is_sound(&m, &told));
		EXPECT(told.nr_hydrated == (sizes[i] + 32575) / 32576);
		free(told.bits);
		m.image.nr_blocks--;
		EXPECT(clone_md_create(&m.image, &sb, &w) == -ENOSPC);
		memory_free(&m);
	}
}

/* The sizes of the admin guide. */
static void sizes_are_those_of_the_guide(void)
{
	struct clone_md_superblock sb = clone_of(UINT64_C(1) << 31);
	uint64_t size = clone_md_recommended_size(&sb);

	EXPECT(size * 4096 <= (4 << 20) + (UINT64_C(26) << 31) / 100);
	EXPECT(size * 4096 >= UINT64_C(512) << 20);
	EXPECT(clone_md_smallest_size(&sb) < size);
	EXPECT(size == clone_md_recommended_size(&sb));
}

static void a_finished_clone_has_no_missing_region(void)
{
	struct clone_md_superblock sb = clone_of(100000);
	struct clone_md_writer *w;
	struct memory m;
	uint64_t found;

	memory_make(&m, 100);
	EXPECT(!clone_md_create(&m.image, &sb, &w));
	EXPECT(!clone_md_set_hydrated(w, 0, 100000));
	EXPECT(!clone_md_next_unhydrated(w, 0, &found) && found == 100000);
	EXPECT(clone_md_set_hydrated(w, 100000, 1) == -EINVAL);
	EXPECT(clone_md_set_hydrated(w, 1, UINT64_MAX) == -EINVAL);
	EXPECT(!clone_md_commit(w));
	EXPECT(clone_md_is_hydrated(w, 99999) == 1);
	EXPECT(clone_md_is_hydrated(w, 100000) == -EINVAL);
	clone_md_close(w);
	memory_free(&m);
}

/* The power fails after each of the writes of a commit in turn. */
static void a_power_cut_leaves_one_of_two_states(void)
{
	struct clone_md_superblock sb;
	struct clone_md_writer *w;
	struct memory m, before;
	uint64_t nr_writes = 1;

	make_thirds(&before, 300000, 0);
	for (uint64_t i = 0; i < nr_writes; i++) {
		struct told told;

		make_thirds(&m, 300000, 0);
		m.nr_writes = 0;
		m.writes_left = i;
		EXPECT(!clone_md_edit(&m.image, &sb, &w));
		EXPECT(!clone_md_set_hydrated(w, 100000, 100000));
		EXPECT(!clone_md_commit(w));
		clone_md_close(w);
		nr_writes = m.nr_writes;

		EXPECT(is_sound(&m, &told));
		EXPECT(told.nr_hydrated == 100000);
		free(told.bits);
		memory_free(&m);
	}
	EXPECT(nr_writes > 8);
	memory_free(&before);
}

static void an_unfinished_creation_is_no_metadata(void)
{
	struct clone_md_superblock sb = clone_of(1000), found;
	struct clone_md_writer *w;
	const char *text;
	struct memory m;

	make_thirds(&m, 1000, 0);
	EXPECT(!clone_md_create(&m.image, &sb, &w));
	clone_md_close(w);
	EXPECT(clone_md_read_superblock(&m.image, &found, &text) == -EILSEQ);
	EXPECT(clone_md_is_unfinished(m.blocks));
	memory_free(&m);
}

static void the_note_is_written_and_cleared(void)
{
	struct clone_md_superblock sb = clone_of(1000);
	struct clone_md_writer *w;
	const char *text;
	struct memory m;

	sb.dest_zeroed = true;
	memory_make(&m, 100);
	EXPECT(!clone_md_create(&m.image, &sb, &w));
	EXPECT(!clone_md_commit(w));
	clone_md_close(w);
	EXPECT(!clone_md_read_superblock(&m.image, &sb, &text) && sb.dest_zeroed);
	EXPECT(!clone_md_edit(&m.image, &sb, &w));
	clone_md_set_dest_zeroed(w, false);
	EXPECT(!clone_md_commit(w));
	clone_md_close(w);
	EXPECT(!clone_md_read_superblock(&m.image, &sb, &text) && !sb.dest_zeroed);
	memory_free(&m);
}

/* Its blocks are in use, whatever cannot be found any more. */
static void nothing_is_leaked_where_something_is_damaged(void)
{
	struct clone_md_superblock sb;
	struct clone_md_stats stats;
	struct clone_md_visitor visitor;
	struct told told;
	struct memory m;

	make_thirds_without_root(&m, 400 * 32576, &sb);
	visitor = listen(&told, &sb);
	EXPECT(clone_md_check(&m.image, &sb, &visitor, &stats) == -EILSEQ);
	EXPECT(stats.problems[CLONE_MD_DAMAGED] == 1);
	EXPECT(!stats.problems[CLONE_MD_LEAKED]);
	EXPECT(told.nr_lost_words == clone_md_nr_words(&sb));
	free(told.bits);
	memory_free(&m);
}

static void damaged_metadata_is_not_edited(void)
{
	struct clone_md_superblock sb;
	struct clone_md_writer *w;
	struct memory m;

	make_thirds_without_root(&m, 100000, &sb);
	EXPECT(clone_md_edit(&m.image, &sb, &w) == -EUCLEAN);
	memory_free(&m);
}

static void the_subtrees_of_a_lost_root_are_found(void)
{
	struct clone_md_superblock sb;
	struct clone_md_visitor visitor;
	struct told told;
	struct memory m;

	make_thirds_without_root(&m, 400 * 32576, &sb);
	visitor = listen(&told, &sb);
	EXPECT(!clone_md_salvage(&m.image, &sb, &visitor));
	EXPECT(!told.nr_lost_words);
	EXPECT(told.nr_hydrated == (UINT64_C(400) * 32576 + 2) / 3);
	free(told.bits);
	memory_free(&m);
}

/* Without a space map nothing tells old nodes from new ones. */
static void nothing_is_guessed_without_a_space_map(void)
{
	struct clone_md_superblock sb;
	struct clone_md_visitor visitor;
	struct told told;
	struct memory m;

	make_thirds_without_root(&m, 400 * 32576, &sb);
	memory_block(&m, get_le64(sb.space_map_root + ROOT_INDEX))[100] ^= 1;
	visitor = listen(&told, &sb);
	EXPECT(clone_md_salvage(&m.image, &sb, &visitor) == -EILSEQ);
	EXPECT(told.nr_lost_words == clone_md_nr_words(&sb));
	free(told.bits);
	memory_free(&m);
}

static void a_lost_array_loses_its_own_regions_only(void)
{
	struct clone_md_superblock sb;
	struct clone_md_visitor visitor;
	const char *text;
	struct told told;
	struct memory m;
	uint64_t array;

	make_thirds(&m, 400 * 32576, 0);
	EXPECT(!clone_md_read_superblock(&m.image, &sb, &text));
	array = get_le64(memory_block(&m, get_le64(memory_block(&m, sb.bitset_root) +
			 NODE_KEYS + 8 * NODE_MAX_VALUES)) + NODE_KEYS + 8 * NODE_MAX_VALUES);
	memory_block(&m, array)[100] ^= 1;
	visitor = listen(&told, &sb);
	EXPECT(clone_md_salvage(&m.image, &sb, &visitor) == -EILSEQ);
	EXPECT(told.nr_lost_words == 509);
	free(told.bits);
	memory_free(&m);
}

static void without_a_superblock_the_tree_is_found(void)
{
	struct clone_md_superblock sb = clone_of(400 * 32576);
	struct clone_md_visitor visitor;
	struct told told;
	struct memory m;

	make_thirds(&m, 400 * 32576, 0);
	memset(m.blocks, 0xff, CLONE_MD_BLOCK_SIZE);
	visitor = listen(&told, &sb);
	EXPECT(!clone_md_salvage_without_superblock(&m.image, &sb, &visitor));
	EXPECT(told.nr_trees == 1);
	EXPECT(told.nr_hydrated == (UINT64_C(400) * 32576 + 2) / 3);
	free(told.bits);
	memory_free(&m);
}

/* Both states of a commit are there: where they differ nobody knows. */
static void without_a_superblock_states_that_differ_are_lost(void)
{
	struct clone_md_superblock sb;
	struct clone_md_visitor visitor;
	struct clone_md_writer *w;
	struct told told;
	struct memory m;

	make_thirds(&m, 100000, 100);
	EXPECT(!clone_md_edit(&m.image, &sb, &w));
	EXPECT(!clone_md_set_hydrated(w, 1, 1));
	EXPECT(!clone_md_commit(w));
	clone_md_close(w);

	memset(m.blocks, 0xff, CLONE_MD_BLOCK_SIZE);
	visitor = listen(&told, &sb);
	EXPECT(clone_md_salvage_without_superblock(&m.image, &sb, &visitor) == -EILSEQ);
	EXPECT(told.nr_trees == 2);
	EXPECT(told.largest_tree == 33335);
	EXPECT(told.nr_lost_words == 1);
	free(told.bits);
	memory_free(&m);
}

struct test {
	const char *name;
	void (*run)(void);
};

#define TEST(name)	{ #name, name }

static const struct test tests[] = {
	TEST(what_is_written_is_read),
	TEST(smallest_sizes_suffice),
	TEST(sizes_are_those_of_the_guide),
	TEST(a_finished_clone_has_no_missing_region),
	TEST(a_power_cut_leaves_one_of_two_states),
	TEST(an_unfinished_creation_is_no_metadata),
	TEST(the_note_is_written_and_cleared),
	TEST(nothing_is_leaked_where_something_is_damaged),
	TEST(damaged_metadata_is_not_edited),
	TEST(the_subtrees_of_a_lost_root_are_found),
	TEST(nothing_is_guessed_without_a_space_map),
	TEST(a_lost_array_loses_its_own_regions_only),
	TEST(without_a_superblock_the_tree_is_found),
	TEST(without_a_superblock_states_that_differ_are_lost),
};

static bool run(const struct test *test)
{
	failure = NULL;
	test->run();
	printf("  %s %s\n", failure ? "FAIL" : "pass", test->name);
	if (failure)
		printf("       %s\n", failure);
	return !failure;
}

int main(void)
{
	unsigned int nr = ARRAY_SIZE(tests), passed = 0;

	for (unsigned int i = 0; i < nr; i++)
		passed += run(&tests[i]);

	printf("%u passed, %u failed\n", passed, nr - passed);
	return passed == nr ? 0 : 1;
}
