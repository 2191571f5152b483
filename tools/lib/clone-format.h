/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Where things are in the blocks of the metadata, for code that reads or makes
 * them; see Documentation/metadata-format.rst.
 */
#ifndef CLONE_FORMAT_H
#define CLONE_FORMAT_H

#include "clone-metadata.h"

/* The superblock. */
#define SB_FLAGS		4
#define SB_BLOCKNR		8
#define SB_UUID			16
#define SB_MAGIC		32
#define SB_VERSION		40
#define SB_SPACE_MAP_ROOT	44
#define SB_REGION_SIZE		172
#define SB_TARGET_SIZE		180
#define SB_BITSET_ROOT		188
#define SB_DEST_ZEROED		196
#define DEST_ZEROED_NOTE	UINT64_C(0x6f72657a74736564)

/* A node of a tree: header, room for max_entries keys, then the values. */
#define NODE_FLAGS		4
#define NODE_BLOCKNR		8
#define NODE_NR_ENTRIES		16
#define NODE_MAX_ENTRIES	20
#define NODE_VALUE_SIZE		24
#define NODE_KEYS		32

#define NODE_INTERNAL		1u
#define NODE_LEAF		2u

/* A block of an array. */
#define ARRAY_MAX_ENTRIES	4
#define ARRAY_NR_ENTRIES	8
#define ARRAY_VALUE_SIZE	12
#define ARRAY_BLOCKNR		16
#define ARRAY_VALUES		24

#define WORDS_PER_ARRAY		((CLONE_MD_BLOCK_SIZE - ARRAY_VALUES) / 8)
#define REGIONS_PER_ARRAY	(WORDS_PER_ARRAY * 64)

/* The blocks that the bitset's words take, and the words in one; a good geometry. */
static inline uint64_t nr_arrays(const struct clone_md_superblock *sb)
{
	return (clone_md_nr_words(sb) - 1) / WORDS_PER_ARRAY + 1;
}

static inline unsigned int words_in_array(const struct clone_md_superblock *sb,
					  uint64_t key)
{
	uint64_t left = clone_md_nr_words(sb) - key * WORDS_PER_ARRAY;

	return left < WORDS_PER_ARRAY ? left : WORDS_PER_ARRAY;
}

/* The bits of word @index, which exists, that belong to regions. */
static inline uint64_t word_mask(const struct clone_md_superblock *sb, uint64_t index)
{
	uint64_t left = clone_md_nr_regions(sb) - index * 64;

	return left < 64 ? (UINT64_C(1) << left) - 1 : ~UINT64_C(0);
}

/* The root of the space map, in the superblock. */
#define ROOT_NR_BLOCKS		0
#define ROOT_NR_ALLOCATED	8
#define ROOT_INDEX		16
#define ROOT_REF_COUNTS		24

/* The index of the space map: one entry a bitmap. */
#define INDEX_BLOCKNR		8
#define INDEX_ENTRIES		16
#define INDEX_ENTRY_SIZE	16
#define ENTRY_BLOCKNR		0
#define ENTRY_NR_FREE		8
#define ENTRY_NONE_FREE_BEFORE	12

/* A bitmap of the space map: two bits a block. */
#define BITMAP_BLOCKNR		8
#define BITMAP_COUNTS		16

#define COUNTS_PER_BITMAP	((CLONE_MD_BLOCK_SIZE - BITMAP_COUNTS) * 4)

/* The entries of a node in the bitset's tree, as the library makes it. */
#define NODE_MAX_VALUES		252u
#define NODE_MIN_VALUES		(NODE_MAX_VALUES / 3)

#endif /* CLONE_FORMAT_H */
