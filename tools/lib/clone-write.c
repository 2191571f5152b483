// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Writing the metadata of a clone, see clone-metadata.h.
 *
 * Only one part of the bitset, an array block, is in memory.  When another one
 * is needed it goes to the disk, to a free block if the superblock refers to
 * its own.  A commit writes everything above the arrays anew: the tree, the
 * space map, and finally the superblock.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clone-format.h"
#include "clone-metadata.h"
#include "endian-le.h"

/* What a block is to the metadata; both, or none: it is free. */
#define COMMITTED	1u	/* the superblock on disk refers to it */
#define CURRENT		2u	/* the next one will */

/*
 * Nodes are not filled: a kernel would split them when it writes a part of the
 * bitset, and need more blocks.
 */
#define NODE_FILL	(NODE_MIN_VALUES * 2)

#define UNFINISHED	"clone metadata, not finished"

struct clone_md_writer {
	struct clone_md_image image;
	struct clone_md_superblock sb;
	bool committed;			/* there is a superblock already */
	bool failed;

	uint64_t nr_blocks;
	uint64_t nr_free;
	uint64_t next_free;		/* where to look for one */
	uint8_t *blocks;		/* COMMITTED, CURRENT */

	uint64_t nr_arrays;
	uint64_t *arrays;		/* their blocks; 0: zeroes, not there yet */
	uint64_t nr_hydrated;

	uint64_t key;			/* of the array at hand, or nr_arrays */
	bool dirty;
	uint8_t array[CLONE_MD_BLOCK_SIZE];

	/* Blocks that a commit has made, and which the next one makes anew. */
	uint64_t *upper;
	uint64_t nr_upper;
};

/* A level of the tree under construction: keys and blocks of nodes. */
struct level {
	uint64_t nr;
	uint64_t *keys;
	uint64_t *blocks;
};

/*
 *---------------------------------------------------------------
 * Sizes
 *---------------------------------------------------------------
 */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t div_round_up(uint64_t a, uint64_t b)
{
	return (a + b - 1) / b;
}

static uint64_t nr_bitmaps(uint64_t nr_blocks)
{
	return div_round_up(min_u64(nr_blocks, CLONE_MD_MAX_BLOCKS), COUNTS_PER_BITMAP);
}

/*
 * These are the bounds and the numbers that the kernel uses, which
 * dm-clone-metadata.c explains; it makes trees of which the nodes are a third
 * full in the worst case.
 */
#define NR_FIXED_BLOCKS		3
#define NR_UNSHADOWED_BLOCKS	2
#define FORMAT_MARGIN		3

static unsigned int max_levels(uint64_t nr)
{
	unsigned int levels = 1;

	for (; nr > NODE_MAX_VALUES; nr = div_round_up(nr, NODE_MIN_VALUES))
		levels++;

	return levels;
}

static uint64_t blocks_in_use(uint64_t nr, uint64_t nr_blocks)
{
	return NR_FIXED_BLOCKS + nr + nr / NODE_MIN_VALUES + max_levels(nr) +
	       nr_bitmaps(nr_blocks);
}

static uint64_t blocks_to_change_array(uint64_t nr, uint64_t nr_blocks)
{
	unsigned int path = 1 + max_levels(nr);

	return path + 1 + min_u64(nr_bitmaps(nr_blocks), 2 * path + 1);
}

static uint64_t smallest_for(uint64_t nr, uint64_t nr_blocks)
{
	return blocks_in_use(nr, nr_blocks) + blocks_to_change_array(nr, nr_blocks) +
	       FORMAT_MARGIN;
}

static uint64_t recommended_for(uint64_t nr, uint64_t nr_blocks)
{
	return 2 * blocks_in_use(nr, nr_blocks) - NR_UNSHADOWED_BLOCKS +
	       blocks_to_change_array(nr, nr_blocks);
}

/* A larger device has more bitmaps, which need room themselves. */
static uint64_t settle(const struct clone_md_superblock *sb,
		       uint64_t (*size_for)(uint64_t nr, uint64_t nr_blocks))
{
	uint64_t nr = nr_arrays(sb), size = size_for(nr, 1), before;

	do {
		before = size;
		size = size_for(nr, before);
	} while (size != before);

	return size;
}

uint64_t clone_md_smallest_size(const struct clone_md_superblock *sb)
{
	return settle(sb, smallest_for);
}

uint64_t clone_md_recommended_size(const struct clone_md_superblock *sb)
{
	return settle(sb, recommended_for);
}

/* The nodes of the tree that build_tree() makes. */
static uint64_t nr_nodes(uint64_t nr)
{
	uint64_t nodes = 1;

	for (; nr > NODE_MAX_VALUES - 1; nr = div_round_up(nr, NODE_FILL))
		nodes += div_round_up(nr, NODE_FILL);

	return nodes;
}

/* What a commit needs besides the arrays: the index and the counts are two. */
static uint64_t nr_upper(const struct clone_md_writer *w)
{
	return nr_nodes(w->nr_arrays) + nr_bitmaps(w->nr_blocks) + 2;
}

/*
 *---------------------------------------------------------------
 * Blocks
 *---------------------------------------------------------------
 */

static int write_block(struct clone_md_writer *w, uint64_t b, uint8_t *block,
		       uint32_t kind, unsigned int blocknr_offset)
{
	int r;

	put_le64(block + blocknr_offset, b);
	put_le32(block, clone_md_block_csum(block, kind));

	r = w->image.write(w->image.context, b, block);
	w->failed |= r;
	return r;
}

static int flush(struct clone_md_writer *w)
{
	int r = w->image.flush(w->image.context);

	w->failed |= r;
	return r;
}

/* The caller knows that there is one. */
static uint64_t take_free_block(struct clone_md_writer *w)
{
	while (w->blocks[w->next_free])
		w->next_free = (w->next_free + 1) % w->nr_blocks;

	w->blocks[w->next_free] = CURRENT;
	w->nr_free--;
	return w->next_free;
}

static void count_free(struct clone_md_writer *w)
{
	w->nr_free = 0;
	for (uint64_t b = 0; b < w->nr_blocks; b++)
		w->nr_free += !w->blocks[b];
}

/*
 *---------------------------------------------------------------
 * Arrays
 *---------------------------------------------------------------
 */

static void make_array(struct clone_md_writer *w, uint64_t key, uint8_t *array)
{
	memset(array, 0, CLONE_MD_BLOCK_SIZE);
	put_le32(array + ARRAY_MAX_ENTRIES, WORDS_PER_ARRAY);
	put_le32(array + ARRAY_NR_ENTRIES, words_in_array(&w->sb, key));
	put_le32(array + ARRAY_VALUE_SIZE, 8);
}

/* Get a block that may be written for the current array, unless it has one. */
static int shadow_array(struct clone_md_writer *w)
{
	uint64_t b = w->arrays[w->key];

	if (b && !(w->blocks[b] & COMMITTED))
		return 0;
	if (w->nr_free <= nr_upper(w))
		return -ENOSPC;

	if (b)
		w->blocks[b] &= ~CURRENT;
	w->arrays[w->key] = take_free_block(w);
	return 0;
}

/* A dirty array has a block of its own, see change_word(). */
static int write_array(struct clone_md_writer *w)
{
	int r;

	if (!w->dirty)
		return 0;

	r = write_block(w, w->arrays[w->key], w->array, CLONE_MD_ARRAY_CSUM_XOR,
			ARRAY_BLOCKNR);
	if (!r)
		w->dirty = false;
	return r;
}

static int read_array(struct clone_md_writer *w, uint64_t key)
{
	uint64_t b = w->arrays[key];
	int r;

	if (key == w->key)
		return 0;
	r = write_array(w);
	if (r)
		return r;

	w->key = w->nr_arrays;
	if (!b) {
		make_array(w, key, w->array);
	} else {
		r = w->image.read(w->image.context, b, w->array);
		if (!r && get_le32(w->array) !=
			  clone_md_block_csum(w->array, CLONE_MD_ARRAY_CSUM_XOR))
			r = -EUCLEAN;
	}
	if (r) {
		w->failed = true;
		return r;
	}
	w->key = key;

	return 0;
}

static uint8_t *word_at(struct clone_md_writer *w, uint64_t word)
{
	return w->array + ARRAY_VALUES + word % WORDS_PER_ARRAY * 8;
}

static int set_bits(struct clone_md_writer *w, uint64_t word, uint64_t bits)
{
	uint64_t now;
	int r = read_array(w, word / WORDS_PER_ARRAY);

	if (r)
		return r;
	now = get_le64(word_at(w, word));
	if (!(bits & ~now))
		return 0;

	r = shadow_array(w);
	if (r == -ENOSPC && w->committed) {
		r = clone_md_commit(w);
		if (!r)
			r = shadow_array(w);
	}
	if (r)
		return r;

	w->dirty = true;
	w->nr_hydrated += __builtin_popcountll(bits & ~now);
	put_le64(word_at(w, word), now | bits);
	return 0;
}

int clone_md_set_hydrated(struct clone_md_writer *w, uint64_t first, uint64_t nr)
{
	uint64_t nr_regions = clone_md_nr_regions(&w->sb), end = first + nr;

	if (w->failed)
		return -EIO;
	if (first > nr_regions || nr > nr_regions - first)
		return -EINVAL;

	while (first < end) {
		unsigned int shift = first % 64, n = min_u64(64 - shift, end - first);
		uint64_t bits = n == 64 ? ~UINT64_C(0) : ((UINT64_C(1) << n) - 1) << shift;
		int r = set_bits(w, first / 64, bits);

		if (r)
			return r;
		first += n;
	}

	return 0;
}

int clone_md_is_hydrated(struct clone_md_writer *w, uint64_t region)
{
	int r;

	if (w->failed)
		return -EIO;
	if (region >= clone_md_nr_regions(&w->sb))
		return -EINVAL;

	r = read_array(w, region / REGIONS_PER_ARRAY);
	if (r)
		return r;

	return get_le64(word_at(w, region / 64)) >> region % 64 & 1;
}

int clone_md_next_unhydrated(struct clone_md_writer *w, uint64_t region,
			     uint64_t *found)
{
	uint64_t end = clone_md_nr_regions(&w->sb);

	if (w->failed)
		return -EIO;

	for (; region < end; region = (region / 64 + 1) * 64) {
		uint64_t missing;
		int r = read_array(w, region / REGIONS_PER_ARRAY);

		if (r)
			return r;
		missing = ~get_le64(word_at(w, region / 64)) >> region % 64;
		if (missing) {
			region += __builtin_ctzll(missing);
			break;
		}
	}

	*found = min_u64(region, end);
	return 0;
}

uint64_t clone_md_nr_hydrated(const struct clone_md_writer *w)
{
	return w->nr_hydrated;
}

void clone_md_set_dest_zeroed(struct clone_md_writer *w, bool dest_zeroed)
{
	w->sb.dest_zeroed = dest_zeroed;
}

/*
 *---------------------------------------------------------------
 * What is above the arrays
 *---------------------------------------------------------------
 */

static uint64_t take_upper_block(struct clone_md_writer *w)
{
	uint64_t b = take_free_block(w);

	w->upper[w->nr_upper++] = b;
	return b;
}

static void make_node(uint8_t *node, uint32_t flags, uint32_t value_size)
{
	memset(node, 0, CLONE_MD_BLOCK_SIZE);
	put_le32(node + NODE_FLAGS, flags);
	put_le32(node + NODE_VALUE_SIZE, value_size);
	put_le32(node + NODE_MAX_ENTRIES,
		 (CLONE_MD_BLOCK_SIZE - NODE_KEYS) / (8 + value_size) / 3 * 3);
}

/* A node over entries @first to @first + @nr - 1 of @below. */
static int write_node(struct clone_md_writer *w, const struct level *below,
		      uint64_t first, uint32_t nr, bool leaf, uint64_t b)
{
	uint8_t node[CLONE_MD_BLOCK_SIZE];

	make_node(node, leaf ? NODE_LEAF : NODE_INTERNAL, 8);
	put_le32(node + NODE_NR_ENTRIES, nr);
	for (uint32_t i = 0; i < nr; i++) {
		put_le64(node + NODE_KEYS + 8 * i,
			 below->keys ? below->keys[first + i] : first + i);
		put_le64(node + NODE_KEYS + 8 * (NODE_MAX_VALUES + i),
			 below->blocks[first + i]);
	}

	return write_block(w, b, node, CLONE_MD_NODE_CSUM_XOR, NODE_BLOCKNR);
}

static void free_level(struct level *level)
{
	free(level->keys);
	free(level->blocks);
}

/* @nr nodes that share the entries of @below evenly. */
static int build_level(struct clone_md_writer *w, const struct level *below,
		       uint64_t nr, bool leaf, struct level *level)
{
	level->nr = nr;
	level->keys = calloc(nr, sizeof(*level->keys));
	level->blocks = calloc(nr, sizeof(*level->blocks));
	if (!level->keys || !level->blocks)
		return -ENOMEM;

	for (uint64_t i = 0; i < nr; i++) {
		uint64_t first = below->nr * i / nr, end = below->nr * (i + 1) / nr;
		int r;

		level->keys[i] = below->keys ? below->keys[first] : first;
		level->blocks[i] = take_upper_block(w);
		r = write_node(w, below, first, end - first, leaf, level->blocks[i]);
		if (r)
			return r;
	}

	return 0;
}

static int build_tree(struct clone_md_writer *w, uint64_t *root)
{
	struct level below = { .nr = w->nr_arrays, .blocks = w->arrays }, level;
	bool leaf = true;
	uint64_t nr;
	int r;

	do {
		nr = below.nr < NODE_MAX_VALUES ? 1 : div_round_up(below.nr, NODE_FILL);
		r = build_level(w, &below, nr, leaf, &level);
		if (!leaf)
			free_level(&below);
		leaf = false;
		below = level;
	} while (!r && nr > 1);

	if (!r)
		*root = level.blocks[0];
	free_level(&level);
	return r;
}

static int write_counts_tree(struct clone_md_writer *w, uint64_t b)
{
	uint8_t node[CLONE_MD_BLOCK_SIZE];

	make_node(node, NODE_LEAF, 4);
	return write_block(w, b, node, CLONE_MD_NODE_CSUM_XOR, NODE_BLOCKNR);
}

/* Bitmap @i of the space map, to where its entry in the index says. */
static int write_bitmap(struct clone_md_writer *w, uint64_t i, uint8_t *entry,
			uint64_t *nr_used)
{
	uint64_t first = i * COUNTS_PER_BITMAP, nr = w->nr_blocks - first;
	uint8_t bitmap[CLONE_MD_BLOCK_SIZE] = { 0 };
	uint32_t used = 0, first_free = COUNTS_PER_BITMAP;

	nr = min_u64(nr, COUNTS_PER_BITMAP);
	for (uint32_t n = 0; n < COUNTS_PER_BITMAP; n++) {
		if (n < nr && w->blocks[first + n] & CURRENT) {
			bitmap[BITMAP_COUNTS + n / 4] |= 2 << 2 * (n % 4);
			used++;
		} else if (first_free == COUNTS_PER_BITMAP) {
			first_free = n;
		}
	}

	*nr_used += used;
	put_le32(entry + ENTRY_NR_FREE, COUNTS_PER_BITMAP - used);
	put_le32(entry + ENTRY_NONE_FREE_BEFORE, first_free);

	return write_block(w, get_le64(entry + ENTRY_BLOCKNR), bitmap,
			   CLONE_MD_BITMAP_CSUM_XOR, BITMAP_BLOCKNR);
}

/* All its blocks are taken before the first bitmap is made. */
static int build_space_map(struct clone_md_writer *w, uint8_t *root)
{
	uint64_t nr = nr_bitmaps(w->nr_blocks), nr_used = 0;
	uint64_t counts = take_upper_block(w), index_block = take_upper_block(w);
	uint8_t index[CLONE_MD_BLOCK_SIZE] = { 0 };
	int r = write_counts_tree(w, counts);

	for (uint64_t i = 0; i < nr; i++)
		put_le64(index + INDEX_ENTRIES + i * INDEX_ENTRY_SIZE + ENTRY_BLOCKNR,
			 take_upper_block(w));
	for (uint64_t i = 0; !r && i < nr; i++)
		r = write_bitmap(w, i, index + INDEX_ENTRIES + i * INDEX_ENTRY_SIZE,
				 &nr_used);
	if (!r)
		r = write_block(w, index_block, index, CLONE_MD_INDEX_CSUM_XOR,
				INDEX_BLOCKNR);

	memset(root, 0, CLONE_MD_SPACE_MAP_ROOT_SIZE);
	put_le64(root + ROOT_NR_BLOCKS, w->nr_blocks);
	put_le64(root + ROOT_NR_ALLOCATED, nr_used);
	put_le64(root + ROOT_INDEX, index_block);
	put_le64(root + ROOT_REF_COUNTS, counts);
	return r;
}

static int write_superblock(struct clone_md_writer *w)
{
	const struct clone_md_superblock *sb = &w->sb;
	uint8_t block[CLONE_MD_BLOCK_SIZE] = { 0 };

	put_le32(block + SB_FLAGS, sb->flags);
	memcpy(block + SB_UUID, sb->uuid, sizeof(sb->uuid));
	put_le64(block + SB_MAGIC, CLONE_MD_MAGIC);
	put_le32(block + SB_VERSION, CLONE_MD_VERSION);
	memcpy(block + SB_SPACE_MAP_ROOT, sb->space_map_root,
	       sizeof(sb->space_map_root));
	put_le64(block + SB_REGION_SIZE, sb->region_size);
	put_le64(block + SB_TARGET_SIZE, sb->target_size);
	put_le64(block + SB_BITSET_ROOT, sb->bitset_root);
	if (sb->dest_zeroed)
		put_le64(block + SB_DEST_ZEROED, DEST_ZEROED_NOTE);

	return write_block(w, 0, block, CLONE_MD_SUPERBLOCK_CSUM_XOR, SB_BLOCKNR);
}

/*
 *---------------------------------------------------------------
 * Transactions
 *---------------------------------------------------------------
 */

/* New metadata consists of zeroes where nothing was set. */
static int write_missing_arrays(struct clone_md_writer *w)
{
	for (uint64_t key = 0; key < w->nr_arrays; key++) {
		int r;

		if (w->arrays[key])
			continue;
		r = read_array(w, key);
		if (!r)
			r = shadow_array(w);
		if (r)
			return r;
		w->dirty = true;
	}

	return write_array(w);
}

/* The superblock refers to what is current, and to nothing else. */
static void begin_transaction(struct clone_md_writer *w)
{
	for (uint64_t b = 0; b < w->nr_blocks; b++)
		w->blocks[b] = w->blocks[b] & CURRENT ? COMMITTED | CURRENT : 0;

	for (uint64_t i = 0; i < w->nr_upper; i++)
		w->blocks[w->upper[i]] = COMMITTED;
	w->nr_upper = 0;
	count_free(w);
}

int clone_md_commit(struct clone_md_writer *w)
{
	int r;

	if (w->failed)
		return -EIO;
	r = write_missing_arrays(w);
	if (r)
		return r;
	if (w->nr_free < nr_upper(w))
		return -ENOSPC;

	r = build_tree(w, &w->sb.bitset_root);
	if (!r)
		r = build_space_map(w, w->sb.space_map_root);
	if (!r)
		r = flush(w);
	if (!r)
		r = write_superblock(w);
	if (!r)
		r = flush(w);
	if (r) {
		w->failed = true;
		return r;
	}

	w->committed = true;
	begin_transaction(w);
	return 0;
}

/*
 *---------------------------------------------------------------
 * Opening and closing
 *---------------------------------------------------------------
 */

static int new_writer(const struct clone_md_image *image,
		      const struct clone_md_superblock *sb,
		      struct clone_md_writer **writer)
{
	struct clone_md_writer *w;

	if (clone_md_check_geometry(sb))
		return -EINVAL;
	if (image->nr_blocks < clone_md_smallest_size(sb))
		return -ENOSPC;

	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;

	w->image = *image;
	w->sb = *sb;
	w->nr_blocks = min_u64(image->nr_blocks, CLONE_MD_MAX_BLOCKS);
	w->nr_arrays = nr_arrays(sb);
	w->key = w->nr_arrays;
	w->arrays = calloc(w->nr_arrays, sizeof(*w->arrays));
	w->blocks = calloc(w->nr_blocks, 1);
	w->upper = calloc(nr_upper(w), sizeof(*w->upper));
	if (!w->arrays || !w->blocks || !w->upper) {
		clone_md_close(w);
		return -ENOMEM;
	}
	w->blocks[0] = COMMITTED | CURRENT;
	count_free(w);

	*writer = w;
	return 0;
}

void clone_md_close(struct clone_md_writer *w)
{
	free(w->upper);
	free(w->blocks);
	free(w->arrays);
	free(w);
}

int clone_md_create(const struct clone_md_image *image,
		    const struct clone_md_superblock *sb,
		    struct clone_md_writer **writer)
{
	uint8_t block[CLONE_MD_BLOCK_SIZE] = UNFINISHED;
	int r = new_writer(image, sb, writer);

	if (r)
		return r;

	r = image->write(image->context, 0, block);
	if (!r)
		r = image->flush(image->context);
	if (r)
		clone_md_close(*writer);
	return r;
}

bool clone_md_is_unfinished(const void *block)
{
	return !memcmp(block, UNFINISHED, sizeof(UNFINISHED));
}

static void load_array(void *context, uint64_t key, uint64_t block)
{
	struct clone_md_writer *w = context;

	w->arrays[key] = block;
	w->blocks[block] |= CURRENT;
}

static void load_reference(void *context, uint64_t block)
{
	struct clone_md_writer *w = context;

	w->blocks[block] |= COMMITTED;
}

static int load(struct clone_md_writer *w)
{
	const struct clone_md_visitor visitor = {
		.array = load_array,
		.reference = load_reference,
		.context = w,
	};
	struct clone_md_stats stats;
	int r = clone_md_check(&w->image, &w->sb, &visitor, &stats);

	if (r && r != -EILSEQ)
		return r;
	if (stats.problems[CLONE_MD_UNREADABLE] || stats.problems[CLONE_MD_DAMAGED] ||
	    stats.problems[CLONE_MD_UNPROTECTED] || stats.problems[CLONE_MD_UNTIDY])
		return -EUCLEAN;

	w->nr_hydrated = stats.nr_hydrated;
	w->committed = true;
	count_free(w);
	return 0;
}

int clone_md_edit(const struct clone_md_image *image,
		  struct clone_md_superblock *sb,
		  struct clone_md_writer **writer)
{
	const char *text;
	int r = clone_md_read_superblock(image, sb, &text);

	if (r)
		return r;
	if (clone_md_check_geometry(sb))
		return -EUCLEAN;
	r = new_writer(image, sb, writer);
	if (r)
		return r;

	r = load(*writer);
	if (r)
		clone_md_close(*writer);
	return r;
}
