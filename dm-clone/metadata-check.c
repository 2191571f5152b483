// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata checker, see metadata-check.h.
 *
 * Blocks are read without a validator: the library's own must still see them
 * when it reads them.
 *
 * What is accepted is what the library writes for a clone: a tree in which each
 * block is referred to once and counted, normally once.  Larger counts are for
 * snapshots, which a clone does not have: such a block never becomes free, nor
 * does one that is counted but not referred to.  That harms nothing else.
 *
 * Errors: -EIO if a block cannot be read, -EUCLEAN if one is not as it should
 * be.
 */

#define DM_MSG_PREFIX "clone metadata"

#include <linux/bitops.h>
#include <linux/device-mapper.h>
#include <linux/mm.h>

#include "compat.h"
#include "disk-format.h"
#include "metadata-check.h"

/* The bitset of 2^31 regions is a tree of three levels. */
#define MAX_DEPTH		4

struct checker {
	struct dm_block_manager *bm;
	u64 nr_blocks;			/* of the space map */
	u64 nr_allocated;		/* in use, by its bitmaps */
	u64 nr_many;			/* with more than two references */
	u64 nr_leaked;			/* with too large counts */
	u64 bitmaps[MAX_BITMAPS];	/* where they are */
	unsigned long *seen;		/* blocks that something refers to */
	unsigned int leaf_depth;	/* of this tree; 0: not known yet */

	u32 nr_words;
	u32 next_word;
	dm_clone_word_fn fn;
	void *context;
};

/*
 * A tree whose values have a given size.  The keys must ascend over all leaves:
 * this and the bound on the depth limit the walk.
 */
struct tree {
	u32 value_size;
	u64 max_key;
	int (*value)(struct checker *c, u64 key, const void *value);
};

/*
 * In a bitmap: there are this many references or more, see the tree of counts.
 */
#define MANY_REFERENCES	3

static int damaged(u64 block, const char *what)
{
	DMERR("metadata block %llu: %s", (unsigned long long)block, what);
	return -EUCLEAN;
}

/*----------------------------------------------------------------*/

static int read_block(struct checker *c, u64 b, u32 csum_xor,
		      struct dm_block **block)
{
	__le32 *data;
	int r;

	if (b >= c->nr_blocks)
		return damaged(b, "reference beyond the end of the metadata");

	r = dm_bm_read_lock(c->bm, b, NULL, block);
	if (r) {
		DMERR("metadata block %llu: cannot be read: %d", (unsigned long long)b, r);
		return r == -ENOMEM ? r : -EIO;
	}

	data = dm_block_data(*block);
	if (dm_bm_checksum(data + 1, BLOCK_SIZE_BYTES - sizeof(*data), csum_xor) ==
	    le32_to_cpu(*data))
		return 0;

	dm_bm_unlock(*block);
	return damaged(b, "wrong checksum");
}

/* 0, 1 or 2 references, or MANY_REFERENCES; the higher bit comes first. */
static unsigned int count_of(const struct disk_bitmap *d, unsigned int i)
{
	unsigned int shift = 2 * (i % COUNTS_PER_BYTE);
	unsigned int bits = d->counts[i / COUNTS_PER_BYTE] >> shift;

	return (bits & 1) << 1 | (bits & 2) >> 1;
}

/* The count of @b in the space map's bitmap, or an error. */
static int read_count(struct checker *c, u64 b)
{
	u64 bitmap = c->bitmaps[b / COUNTS_PER_BITMAP];
	struct dm_block *block;
	unsigned int count;
	int r;

	r = read_block(c, bitmap, BITMAP_CSUM_XOR, &block);
	if (r)
		return r;

	count = count_of(dm_block_data(block), b % COUNTS_PER_BITMAP);
	dm_bm_unlock(block);

	return count;
}

static int check_allocated(struct checker *c, u64 b)
{
	int count = read_count(c, b);

	if (count < 0)
		return count;

	return count ? 0 : damaged(b, "in use, but free in the space map");
}

/* Something refers to @b, and nothing else may. */
static int note_reference(struct checker *c, u64 b)
{
	if (b >= c->nr_blocks)
		return damaged(b, "reference beyond the end of the metadata");

	if (__test_and_set_bit(b, c->seen))
		return damaged(b, "more than one reference");

	return check_allocated(c, b);
}

/*----------------------------------------------------------------*/

static int check_node_header(u64 b, const struct disk_node *n,
			     const struct tree *tree, bool is_root)
{
	bool leaf = le32_to_cpu(n->flags) == NODE_LEAF;
	u32 nr = le32_to_cpu(n->nr_entries);
	u32 max = le32_to_cpu(n->max_entries);
	u32 size = le32_to_cpu(n->value_size);

	if (le64_to_cpu(n->blocknr) != b)
		return damaged(b, "tree node with the address of another");
	if (!leaf && le32_to_cpu(n->flags) != NODE_INTERNAL)
		return damaged(b, "tree node of an unknown kind");
	if (size != (leaf ? tree->value_size : sizeof(__le64)))
		return damaged(b, "tree node with values of a wrong size");
	/* The library splits and merges them by thirds. */
	if (max != (BLOCK_SIZE_BYTES - sizeof(*n)) / (sizeof(__le64) + size) / 3 * 3 ||
	    nr > max)
		return damaged(b, "tree node with a wrong number of entries");
	if (!nr && !(leaf && is_root))
		return damaged(b, "tree node without entries");

	return 0;
}

static int check_leaf_depth(struct checker *c, u64 b, unsigned int depth)
{
	if (!c->leaf_depth)
		c->leaf_depth = depth + 1;

	return c->leaf_depth == depth + 1 ? 0 : damaged(b, "tree is not balanced");
}

/* The subtree at @b holds keys in [@begin, @end), and no others. */
static int check_subtree(struct checker *c, const struct tree *tree, u64 b,
			 unsigned int depth, u64 begin, u64 end)
{
	struct dm_block *block;
	struct disk_node *n;
	const void *values;
	u32 i, nr;
	bool leaf;
	int r;

	if (depth == MAX_DEPTH)
		return damaged(b, "tree is too deep");

	r = note_reference(c, b);
	if (r)
		return r;

	r = read_block(c, b, NODE_CSUM_XOR, &block);
	if (r)
		return r;

	n = dm_block_data(block);
	r = check_node_header(b, n, tree, !depth);
	if (r)
		goto out;

	leaf = le32_to_cpu(n->flags) == NODE_LEAF;
	r = leaf ? check_leaf_depth(c, b, depth) : 0;
	if (r)
		goto out;

	nr = le32_to_cpu(n->nr_entries);
	values = &n->keys[le32_to_cpu(n->max_entries)];

	for (i = 0; i < nr; i++) {
		u64 key = le64_to_cpu(n->keys[i]);
		u64 next = i + 1 < nr ? le64_to_cpu(n->keys[i + 1]) : end;
		const void *value = values + i * le32_to_cpu(n->value_size);

		if (key < begin || key >= next || next > end) {
			r = damaged(b, "tree node with keys out of order");
			goto out;
		}

		if (leaf)
			r = tree->value(c, key, value);
		else
			r = check_subtree(c, tree, le64_to_cpup(value),
					  depth + 1, key, next);
		if (r)
			goto out;
		cond_resched();
	}
out:
	dm_bm_unlock(block);
	return r;
}

static int check_tree(struct checker *c, const struct tree *tree, u64 root)
{
	c->leaf_depth = 0;

	return check_subtree(c, tree, root, 0, 0, tree->max_key + 1);
}

/*----------------------------------------------------------------*/

/*
 * The keys ascend: if each of them is right, and their number, none is missing.
 */
static int check_ref_count(struct checker *c, u64 key, const void *value)
{
	int count = read_count(c, key);

	if (count < 0)
		return count;
	if (count != MANY_REFERENCES || le32_to_cpup(value) < MANY_REFERENCES)
		return damaged(key, "counts of references that disagree");

	c->nr_many--;
	return 0;
}

static int check_space_map_index(struct checker *c, u64 root)
{
	u64 i, nr = DIV_ROUND_UP_ULL(c->nr_blocks, COUNTS_PER_BITMAP);
	struct dm_block *block;
	struct disk_index *d;
	int r;

	r = read_block(c, root, INDEX_CSUM_XOR, &block);
	if (r)
		return r;

	d = dm_block_data(block);
	if (le64_to_cpu(d->blocknr) != root)
		r = damaged(root, "space map index with the address of another");
	for (i = 0; i < nr; i++)
		c->bitmaps[i] = le64_to_cpu(d->entries[i].blocknr);
	dm_bm_unlock(block);

	return r;
}

/* The index summarizes each bitmap, and the allocator relies on that. */
static int check_bitmap_summary(struct checker *c, u64 b, u64 first_block,
				u32 nr_free, u32 none_free_before,
				const struct disk_bitmap *d)
{
	u32 i, nr_used = 0, first_free = COUNTS_PER_BITMAP;

	for (i = 0; i < COUNTS_PER_BITMAP; i++) {
		if (count_of(d, i) && first_block + i >= c->nr_blocks)
			return damaged(b, "space map bitmap with blocks beyond the end in use");
		if (count_of(d, i) == MANY_REFERENCES)
			c->nr_many++;
		if (count_of(d, i))
			nr_used++;
		else if (first_free == COUNTS_PER_BITMAP)
			first_free = i;
	}
	c->nr_allocated += nr_used;

	if (nr_free != COUNTS_PER_BITMAP - nr_used)
		return damaged(b, "space map bitmap with a wrong number of free blocks");
	if (none_free_before > first_free)
		return damaged(b, "space map bitmap with a free block where none is expected");

	return 0;
}

static int check_space_map_bitmap(struct checker *c, u64 root, unsigned int i)
{
	u32 nr_free, none_free_before;
	struct dm_block *block;
	struct disk_index *index;
	struct disk_bitmap *d;
	u64 b = c->bitmaps[i];
	int r;

	r = read_block(c, root, INDEX_CSUM_XOR, &block);
	if (r)
		return r;
	index = dm_block_data(block);
	nr_free = le32_to_cpu(index->entries[i].nr_free);
	none_free_before = le32_to_cpu(index->entries[i].none_free_before);
	dm_bm_unlock(block);

	r = read_block(c, b, BITMAP_CSUM_XOR, &block);
	if (r)
		return r;
	d = dm_block_data(block);
	if (le64_to_cpu(d->blocknr) != b)
		r = damaged(b, "space map bitmap with the address of another");
	else
		r = check_bitmap_summary(c, b, (u64)i * COUNTS_PER_BITMAP,
					 nr_free, none_free_before, d);
	dm_bm_unlock(block);

	return r ?: note_reference(c, b);
}

/* Check the root: from here on its numbers are safe as bounds. */
static int check_space_map_root(struct checker *c,
				const struct disk_space_map *root,
				u64 nr_dev_blocks)
{
	u64 nr_blocks = le64_to_cpu(root->nr_blocks);

	if (nr_blocks > DM_SM_METADATA_MAX_BLOCKS || !nr_blocks) {
		DMERR("space map claims %llu blocks, 1 to %llu are possible",
		      (unsigned long long)nr_blocks,
		      (unsigned long long)DM_SM_METADATA_MAX_BLOCKS);
		return -EUCLEAN;
	}

	if (nr_blocks > nr_dev_blocks) {
		DMERR("space map claims %llu blocks, the device has %llu",
		      (unsigned long long)nr_blocks,
		      (unsigned long long)nr_dev_blocks);
		return -EUCLEAN;
	}

	c->nr_blocks = nr_blocks;
	return 0;
}

static int check_space_map(struct checker *c, const struct disk_space_map *root)
{
	const struct tree ref_counts = {
		.value_size = sizeof(__le32),
		.max_key = c->nr_blocks - 1,
		.value = check_ref_count,
	};
	u64 i, nr = DIV_ROUND_UP_ULL(c->nr_blocks, COUNTS_PER_BITMAP);
	u64 index = le64_to_cpu(root->bitmap_root);
	int r;

	r = check_space_map_index(c, index);
	for (i = 0; !r && i < nr; i++)
		r = check_space_map_bitmap(c, index, i);
	if (r)
		return r;

	if (le64_to_cpu(root->nr_allocated) != c->nr_allocated) {
		DMERR("space map says %llu blocks are in use, its bitmaps say %llu",
		      (unsigned long long)le64_to_cpu(root->nr_allocated),
		      (unsigned long long)c->nr_allocated);
		return -EUCLEAN;
	}

	/* Block 0 is the superblock: no block may refer to it. */
	r = note_reference(c, 0);
	if (r)
		return r;

	r = note_reference(c, index);
	if (r)
		return r;

	r = check_tree(c, &ref_counts, le64_to_cpu(root->ref_count_root));
	if (!r && c->nr_many)
		return damaged(le64_to_cpu(root->ref_count_root),
			       "space map that lacks large counts");

	return r;
}

/* When all references are known. */
static int count_leaks(struct checker *c)
{
	unsigned int i, nr = DIV_ROUND_UP_ULL(c->nr_blocks, COUNTS_PER_BITMAP);
	struct dm_block *block;
	u64 b = 0, end;
	int r;

	for (i = 0; i < nr; i++) {
		r = read_block(c, c->bitmaps[i], BITMAP_CSUM_XOR, &block);
		if (r)
			return r;

		end = min(c->nr_blocks, b + COUNTS_PER_BITMAP);
		for (; b < end; b++)
			if (count_of(dm_block_data(block), b % COUNTS_PER_BITMAP) >
			    (test_bit(b, c->seen) ? 1 : 0))
				c->nr_leaked++;
		dm_bm_unlock(block);
		cond_resched();
	}

	return 0;
}

/*----------------------------------------------------------------*/

static int check_array_header(struct checker *c, u64 b, u64 key,
			      const struct disk_array *d)
{
	u32 nr = min_t(u32, WORDS_PER_ARRAY, c->nr_words - c->next_word);

	if (le64_to_cpu(d->blocknr) != b)
		return damaged(b, "part of the bitset with the address of another");
	if (le32_to_cpu(d->value_size) != sizeof(__le64) ||
	    le32_to_cpu(d->max_entries) != WORDS_PER_ARRAY)
		return damaged(b, "part of the bitset with a wrong layout");
	if (key * WORDS_PER_ARRAY != c->next_word ||
	    le32_to_cpu(d->nr_entries) != nr)
		return damaged(b, "part of the bitset with a wrong length");

	return 0;
}

static int check_array_block(struct checker *c, u64 key, const void *value)
{
	u64 b = le64_to_cpup(value);
	struct dm_block *block;
	struct disk_array *d;
	u32 i;
	int r;

	r = note_reference(c, b);
	if (r)
		return r;

	r = read_block(c, b, ARRAY_CSUM_XOR, &block);
	if (r)
		return r;

	d = dm_block_data(block);
	r = check_array_header(c, b, key, d);
	if (!r)
		for (i = 0; i < le32_to_cpu(d->nr_entries); i++)
			c->fn(c->context, c->next_word++,
			      le64_to_cpu(d->words[i]));
	dm_bm_unlock(block);

	return r;
}

static int check_bitset(struct checker *c, u64 root)
{
	struct tree arrays = {
		.value_size = sizeof(__le64),
		.max_key = (c->nr_words - 1) / WORDS_PER_ARRAY,
		.value = check_array_block,
	};
	int r;

	r = check_tree(c, &arrays, root);
	if (r)
		return r;

	if (c->next_word != c->nr_words)
		return damaged(root, "bitset is shorter than the device");

	return 0;
}

int dm_clone_metadata_check(struct dm_block_manager *bm, u64 nr_dev_blocks,
			    const void *sm_root, u64 bitset_root, u32 nr_words,
			    dm_clone_word_fn fn, void *context, u64 *nr_leaked)
{
	struct disk_space_map root;
	struct checker *c;
	int r;

	c = kvzalloc_obj(*c, GFP_KERNEL);
	if (!c)
		return -ENOMEM;

	c->bm = bm;
	c->nr_words = nr_words;
	c->fn = fn;
	c->context = context;

	memcpy(&root, sm_root, sizeof(root));
	r = check_space_map_root(c, &root, nr_dev_blocks);
	if (r)
		goto out;

	c->seen = kvcalloc(BITS_TO_LONGS(c->nr_blocks), sizeof(long),
			   GFP_KERNEL);
	if (!c->seen) {
		r = -ENOMEM;
		goto out;
	}

	r = check_space_map(c, &root);
	if (!r)
		r = check_bitset(c, bitset_root);
	if (!r)
		r = count_leaks(c);
	*nr_leaked = c->nr_leaked;
out:
	kvfree(c->seen);
	kvfree(c);
	return r;
}
