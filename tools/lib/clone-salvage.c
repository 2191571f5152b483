// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Finding what is left of damaged metadata, see clone-metadata.h.
 *
 * A leaf of the bitset's tree says which parts of the bitset it is about, so it
 * is useful even if nothing leads to it any more. But earlier states are also
 * on the device, in free blocks: a leaf that is out of date would undo user
 * writes. Only the space map tells them apart.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clone-format.h"
#include "clone-metadata.h"
#include "endian-le.h"

/*
 * What is looked at when there is no superblock, in words: each commit leaves
 * the tree of the one before, until its blocks are needed again.
 */
#define MAX_WORDS_OF_TREES	(UINT64_C(1) << 31)

#define NO_BLOCK	UINT64_MAX

struct salvage {
	const struct clone_md_image *image;
	const struct clone_md_superblock *sb;
	const struct clone_md_visitor *visitor;

	uint64_t nr_arrays;
	uint64_t *arrays;		/* where each one is, or 0, or NO_BLOCK */
	uint8_t *counted;		/* one a block: the space map has it */
	uint64_t nr_blocks;
	bool map_usable;
	uint64_t nr_lost;		/* words */
};

/*
 *---------------------------------------------------------------
 * Blocks
 *---------------------------------------------------------------
 */

static bool read_kind(const struct clone_md_image *image, uint64_t b, uint32_t kind,
		      unsigned int blocknr_offset, uint8_t *block)
{
	return b < image->nr_blocks && !image->read(image->context, b, block) &&
	       get_le32(block) == clone_md_block_csum(block, kind) &&
	       get_le64(block + blocknr_offset) == b;
}

static bool read_bitset_node(const struct clone_md_image *image, uint64_t b,
			     uint8_t *node)
{
	uint32_t nr;

	if (!read_kind(image, b, CLONE_MD_NODE_CSUM_XOR, NODE_BLOCKNR, node))
		return false;

	nr = get_le32(node + NODE_NR_ENTRIES);
	return get_le32(node + NODE_VALUE_SIZE) == 8 && nr && nr <= NODE_MAX_VALUES &&
	       get_le32(node + NODE_MAX_ENTRIES) == NODE_MAX_VALUES;
}

static uint64_t node_key(const uint8_t *node, uint32_t i)
{
	return get_le64(node + NODE_KEYS + 8 * i);
}

static uint64_t node_value(const uint8_t *node, uint32_t i)
{
	return node_key(node, NODE_MAX_VALUES + i);
}

static bool read_array(const struct salvage *s, uint64_t key, uint64_t b, uint8_t *a)
{
	return read_kind(s->image, b, CLONE_MD_ARRAY_CSUM_XOR, ARRAY_BLOCKNR, a) &&
	       get_le32(a + ARRAY_VALUE_SIZE) == 8 &&
	       get_le32(a + ARRAY_MAX_ENTRIES) == WORDS_PER_ARRAY &&
	       get_le32(a + ARRAY_NR_ENTRIES) == words_in_array(s->sb, key);
}

/*
 *---------------------------------------------------------------
 * Telling
 *---------------------------------------------------------------
 */

static void tell_lost(struct salvage *s, uint64_t first, uint64_t nr)
{
	s->nr_lost += nr;
	if (s->visitor->lost)
		s->visitor->lost(s->visitor->context, first, nr);
}

static void tell_array(struct salvage *s, uint64_t key)
{
	unsigned int nr = words_in_array(s->sb, key);
	uint64_t b = s->arrays[key], first = key * WORDS_PER_ARRAY;
	uint64_t words[WORDS_PER_ARRAY];
	uint8_t a[CLONE_MD_BLOCK_SIZE];

	if (!b || b == NO_BLOCK || !read_array(s, key, b, a)) {
		tell_lost(s, first, nr);
		return;
	}

	for (unsigned int i = 0; i < nr; i++)
		words[i] = get_le64(a + ARRAY_VALUES + 8 * i) &
			   word_mask(s->sb, first + i);
	if (s->visitor->words)
		s->visitor->words(s->visitor->context, first, words, nr);
}

/*
 *---------------------------------------------------------------
 * With a superblock
 *---------------------------------------------------------------
 */

static void note_array(void *context, uint64_t key, uint64_t block)
{
	struct salvage *s = context;

	s->arrays[key] = block;
}

static void pass_problem(void *context, enum clone_md_problem kind, uint64_t block,
			 const char *text)
{
	struct salvage *s = context;

	if (s->visitor->problem)
		s->visitor->problem(s->visitor->context, kind, block, text);
}

static void note_counts(struct salvage *s, const uint8_t *bitmap, uint64_t first)
{
	for (uint64_t i = 0; i < COUNTS_PER_BITMAP && first + i < s->nr_blocks; i++)
		s->counted[first + i] = bitmap[BITMAP_COUNTS + i / 4] >> 2 * (i % 4) & 3;
}

/* All of the space map must be there: half of it is as bad as none. */
static bool read_space_map(struct salvage *s)
{
	const uint8_t *root = s->sb->space_map_root;
	uint8_t index[CLONE_MD_BLOCK_SIZE], bitmap[CLONE_MD_BLOCK_SIZE];
	uint64_t nr = get_le64(root + ROOT_NR_BLOCKS), i;

	if (!nr || nr > CLONE_MD_MAX_BLOCKS || nr > s->image->nr_blocks)
		return false;
	s->nr_blocks = nr;
	s->counted = calloc(nr, 1);
	if (!s->counted ||
	    !read_kind(s->image, get_le64(root + ROOT_INDEX), CLONE_MD_INDEX_CSUM_XOR,
		       INDEX_BLOCKNR, index))
		return false;

	for (i = 0; i * COUNTS_PER_BITMAP < nr; i++) {
		const uint8_t *entry = index + INDEX_ENTRIES + i * INDEX_ENTRY_SIZE;

		if (!read_kind(s->image, get_le64(entry + ENTRY_BLOCKNR),
			       CLONE_MD_BITMAP_CSUM_XOR, BITMAP_BLOCKNR, bitmap))
			return false;
		note_counts(s, bitmap, i * COUNTS_PER_BITMAP);
	}

	return true;
}

/* Take what this leaf says about parts that were not found by the walk. */
static void use_leaf(struct salvage *s, const uint8_t *leaf)
{
	for (uint32_t i = 0; i < get_le32(leaf + NODE_NR_ENTRIES); i++) {
		uint64_t key = node_key(leaf, i), b = node_value(leaf, i);

		if (key >= s->nr_arrays || !b || b >= s->nr_blocks || !s->counted[b])
			continue;
		if (!s->arrays[key])
			s->arrays[key] = b;
		else if (s->arrays[key] != b)
			s->arrays[key] = NO_BLOCK;
	}
}

static bool have_all_arrays(const struct salvage *s)
{
	for (uint64_t key = 0; key < s->nr_arrays; key++)
		if (!s->arrays[key])
			return false;

	return true;
}

static void look_for_leaves(struct salvage *s)
{
	uint8_t node[CLONE_MD_BLOCK_SIZE];

	for (uint64_t b = 1; b < s->nr_blocks; b++)
		if (s->counted[b] && read_bitset_node(s->image, b, node) &&
		    get_le32(node + NODE_FLAGS) == NODE_LEAF)
			use_leaf(s, node);
}

int clone_md_salvage(const struct clone_md_image *image,
		     const struct clone_md_superblock *sb,
		     const struct clone_md_visitor *visitor)
{
	struct salvage s = { .image = image, .sb = sb, .visitor = visitor };
	const struct clone_md_visitor walk = {
		.array = note_array, .problem = pass_problem, .context = &s,
	};
	int r;

	if (clone_md_check_geometry(sb))
		return -EINVAL;
	s.nr_arrays = nr_arrays(sb);
	s.arrays = calloc(s.nr_arrays, sizeof(*s.arrays));
	if (!s.arrays)
		return -ENOMEM;

	r = clone_md_walk_bitset(image, sb, &walk);
	if (r == -EILSEQ || !r) {
		if (!have_all_arrays(&s) && read_space_map(&s))
			look_for_leaves(&s);
		for (uint64_t key = 0; key < s.nr_arrays; key++)
			tell_array(&s, key);
		r = s.nr_lost ? -EILSEQ : 0;
	}

	free(s.counted);
	free(s.arrays);
	return r;
}

/*
 *---------------------------------------------------------------
 * Without a superblock
 *---------------------------------------------------------------
 */

/* What the trees that were found agree on. */
struct agreement {
	uint64_t nr_words;
	uint64_t *set;			/* in all of them */
	uint64_t *clear;		/* in all of them */
	uint64_t *set_now;		/* in the one at hand */
};

static void note_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	struct agreement *a = context;

	memcpy(a->set_now + first, words, nr * sizeof(*words));
}

/*
 * The root covers all keys from 0 on; whether the tree is complete shows later.
 */
static bool may_be_root(const struct clone_md_superblock *sb, const uint8_t *node)
{
	if (node_key(node, 0))
		return false;
	if (get_le32(node + NODE_FLAGS) == NODE_LEAF)
		return get_le32(node + NODE_NR_ENTRIES) == nr_arrays(sb);

	return get_le32(node + NODE_FLAGS) == NODE_INTERNAL;
}

static int use_tree(struct agreement *a, const struct clone_md_image *image,
		    const struct clone_md_superblock *sb,
		    const struct clone_md_visitor *listener)
{
	const struct clone_md_visitor visitor = { .words = note_words, .context = a };
	uint64_t nr_hydrated = 0;
	int r = clone_md_walk_bitset(image, sb, &visitor);

	if (r)
		return r == -EILSEQ ? 0 : r;

	for (uint64_t i = 0; i < a->nr_words; i++) {
		nr_hydrated += __builtin_popcountll(a->set_now[i]);
		a->set[i] &= a->set_now[i];
		a->clear[i] &= ~a->set_now[i];
	}
	if (listener->tree)
		listener->tree(listener->context, sb->bitset_root, nr_hydrated);
	return 0;
}

static int look_for_trees(struct agreement *a, const struct clone_md_image *image,
			  const struct clone_md_superblock *sb,
			  const struct clone_md_visitor *listener)
{
	struct clone_md_superblock with_root = *sb;
	uint8_t node[CLONE_MD_BLOCK_SIZE];
	uint64_t nr_words = 0;

	for (uint64_t b = 1; b < image->nr_blocks; b++) {
		int r;

		if (!read_bitset_node(image, b, node) || !may_be_root(sb, node))
			continue;
		nr_words += a->nr_words;
		if (nr_words > MAX_WORDS_OF_TREES)
			return -E2BIG;
		with_root.bitset_root = b;
		r = use_tree(a, image, &with_root, listener);
		if (r)
			return r;
	}

	return 0;
}

static int tell_agreement(const struct agreement *a,
			  const struct clone_md_superblock *sb,
			  const struct clone_md_visitor *visitor)
{
	int r = 0;

	for (uint64_t i = 0; i < a->nr_words; i++) {
		uint64_t mask = word_mask(sb, i);
		uint64_t word = a->set[i] & mask;

		if (((a->set[i] ^ a->clear[i]) & mask) == mask) {
			if (visitor->words)
				visitor->words(visitor->context, i, &word, 1);
		} else {
			if (visitor->lost)
				visitor->lost(visitor->context, i, 1);
			r = -EILSEQ;
		}
	}

	return r;
}

static void free_agreement(struct agreement *a)
{
	free(a->set_now);
	free(a->clear);
	free(a->set);
}

int clone_md_salvage_without_superblock(const struct clone_md_image *image,
					const struct clone_md_superblock *sb,
					const struct clone_md_visitor *visitor)
{
	struct agreement a = { 0 };
	int r = -ENOMEM;

	if (clone_md_check_geometry(sb))
		return -EINVAL;

	a.nr_words = clone_md_nr_words(sb);
	a.set = malloc(a.nr_words * 8);
	a.clear = malloc(a.nr_words * 8);
	a.set_now = malloc(a.nr_words * 8);
	if (a.set && a.clear && a.set_now) {
		memset(a.set, 0xff, a.nr_words * 8);
		memset(a.clear, 0xff, a.nr_words * 8);
		r = look_for_trees(&a, image, sb, visitor);
	}
	if (!r)
		r = tell_agreement(&a, sb, visitor);

	free_agreement(&a);
	return r;
}
