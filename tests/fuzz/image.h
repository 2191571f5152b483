/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Images of a metadata device: what is where, and whether it is good.
 *
 * Written from Documentation/metadata-format.rst, without a look at the
 * module's own checks: the two are compared with each other, image by image.
 */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include "base.h"

#define BLOCK			4096u
#define SECTORS_PER_BLOCK	8u

#define SB_CSUM_XOR		257649492u
#define NODE_CSUM_XOR		121107u
#define ARRAY_CSUM_XOR		595846735u
#define INDEX_CSUM_XOR		160478u
#define BITMAP_CSUM_XOR		240779u

/* Fields with a place of their own; struct field_place tells where. */
enum field {
	SB_FLAGS, SB_BLOCKNR, SB_UUID, SB_MAGIC, SB_VERSION, SB_NR_BLOCKS, SB_NR_ALLOCATED,
	SB_INDEX_ROOT, SB_REF_ROOT, SB_REGION_SIZE, SB_TARGET_SIZE, SB_BITSET_ROOT, SB_REST,
	NODE_FLAGS, NODE_BLOCKNR, NODE_NR, NODE_MAX, NODE_VALUE_SIZE, NODE_PADDING,
	ARRAY_MAX, ARRAY_NR, ARRAY_VALUE_SIZE, ARRAY_BLOCKNR,
	INDEX_BLOCKNR, INDEX_BITMAP, INDEX_NR_FREE, INDEX_NONE_FREE_BEFORE,
};

struct field_place {
	const char *name;
	unsigned int offset, size;
};

extern const struct field_place field_places[];

/* Tree node */
#define NODE_KEYS		32
#define NODE_INTERNAL		1u
#define NODE_LEAF		2u

/* Block of the array */
#define ARRAY_WORDS		24
#define WORDS_PER_ARRAY		509u

/* Space map: index, and bitmap of two bits a block */
#define INDEX_ENTRIES		16
#define INDEX_ENTRY_SIZE	16
#define MAX_BITMAPS		255u
#define BITMAP_COUNTS		16
#define COUNTS_PER_BITMAP	((BLOCK - BITMAP_COUNTS) * 4)

#define SB_BEGIN		32	/* of what is in use: the magic */
#define SB_END			196
#define MAGIC			0x8af27f64ull

/* A tree node holds this many entries at most, a multiple of three. */
#define MAX_ENTRIES(value_size)	((BLOCK - NODE_KEYS) / (8 + (value_size)) / 3 * 3)

/*
 * New images have no content beyond this, so a large device need not be
 * written, read and compared as a whole each time.  (One that claims fewer
 * blocks than the device grows, and then may have.)
 */
#define HOT_BLOCKS		600u

struct image {
	uint8_t *data;
	uint32_t nr_blocks;
};

static inline size_t hot_size(uint32_t nr_blocks)
{
	return (size_t)(nr_blocks < HOT_BLOCKS ? nr_blocks : HOT_BLOCKS) * BLOCK;
}

enum block_kind {
	KIND_FREE, KIND_SUPERBLOCK, KIND_INDEX, KIND_BITMAP, KIND_REF_NODE,
	KIND_BITSET_NODE, KIND_ARRAY, NR_KINDS
};

enum verdict {
	IMAGE_EMPTY,		/* a superblock of zeroes: to be formatted */
	IMAGE_GOOD,		/* just as the target would write it: must be accepted */
	IMAGE_ODD,		/* wrong, but harmlessly: either will do */
	IMAGE_BROKEN,		/* must be refused */
};

struct survey {
	enum verdict verdict;
	char why[120];			/* the first thing that is wrong */
	uint64_t region_size, target_size, nr_regions;

	uint8_t *kind;			/* of each block, an enum block_kind */
	uint32_t *first_word;		/* of each block of the array */
	uint64_t *words;		/* of the bitset; bits beyond the end are 0 */
	uint32_t nr_words;
	uint64_t nr_hydrated;
	uint64_t nr_blocks;		/* of the space map */
};

static inline uint8_t *image_block(const struct image *image, uint64_t b)
{
	return image->data + b * BLOCK;
}

static inline uint64_t get_field(const uint8_t *block, enum field field)
{
	return get_le(block + field_places[field].offset, field_places[field].size);
}

static inline void set_field(uint8_t *block, enum field field, uint64_t v)
{
	put_le(block + field_places[field].offset, field_places[field].size, v);
}

const char *kind_name(enum block_kind kind);
const char *verdict_name(enum verdict verdict);

/* Give block @b the checksum that a block of its kind must have. */
void image_seal(struct image *image, uint64_t b, enum block_kind kind);

/*
 * The two bits of block @b in the space map; the bitmap's block must be sane.
 */
unsigned int image_get_count(const struct image *image, uint64_t b);
void image_set_count(struct image *image, uint64_t b, unsigned int count);

/*
 * Look at all of an image that should be for a target of @target_size sectors
 * in regions of @region_size.
 */
struct survey *image_survey(const struct image *image, uint64_t target_size,
			    uint64_t region_size);
void survey_free(struct survey *s);

/*
 * Does the reader of the tools (tools/lib) come to the same opinion? Returns
 * NULL, or how it differs.
 */
const char *image_compare_readers(const struct image *image, const struct survey *s);

static inline bool survey_bit(const struct survey *s, uint64_t region)
{
	return s->words[region / 64] >> (region % 64) & 1;
}

#endif
