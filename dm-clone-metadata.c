// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone, see dm-clone-metadata.h.
 *
 * This file owns the disk format.  It knows nothing of bios, and nothing but
 * this file and dm-clone/metadata-check.c reads or writes the metadata device.
 */

#define DM_MSG_PREFIX "clone metadata"

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/device-mapper.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "persistent-data/dm-bitset.h"
#include "persistent-data/dm-space-map.h"
#include "persistent-data/dm-space-map-metadata.h"
#include "persistent-data/dm-transaction-manager.h"
#include "dm-clone/compat.h"
#include "dm-clone/disk-format.h"
#include "dm-clone-metadata.h"
#include "dm-clone/metadata-check.h"
#include "dm-clone/region-map.h"

/*
 * The most blocks that one thread holds locked at once: a path down a tree
 * twice (the old one and its shadow), and one of the space map.
 */
#define MAX_CONCURRENT_LOCKS	6

/*
 * Values in a node of the tree of arrays.  The library keeps nodes filled to a
 * third at least, so this is what the number of nodes is estimated with.
 */
#define MAX_NODE_VALUES		252
#define MIN_NODE_VALUES		(MAX_NODE_VALUES / 3)

/*
 * Blocks that metadata of any size has: the superblock, the index of the space
 * map, and the root of its tree of large counts, which is empty.  Two of them
 * never need a shadow: the superblock is written in place, and the tree does
 * not change.
 */
#define NR_FIXED_BLOCKS		3
#define NR_UNSHADOWED_BLOCKS	2

/*
 * A device must have this many blocks more than formatting is known to need:
 * one that fails half-way, because the library allocates something by the way,
 * is not worth the room.
 */
#define FORMAT_MARGIN		3

/* A metadata device larger than this (16 GiB) earns a warning. */
#define LARGE_METADATA_SECTORS	(16ULL << (30 - SECTOR_SHIFT))

/*
 *---------------------------------------------------------------
 * In-core structures
 *---------------------------------------------------------------
 */

struct dm_clone_metadata {
	struct block_device *bdev;

	sector_t target_size;
	sector_t region_size;
	unsigned long nr_regions;
	u32 nr_words;			/* of 64 regions */
	struct dm_clone_region_map *map;

	/* Statistics as of the last commit. */
	u64 nr_metadata_blocks;
	u64 nr_free_metadata_blocks;

	/*
	 * Protects everything below, and has transactions take turns.  Held
	 * over I/O to the metadata device.
	 */
	struct rw_semaphore lock;
	struct dm_block_manager *bm;
	struct dm_transaction_manager *tm;	/* NULL: unusable, see abort */
	struct dm_space_map *sm;
	struct dm_btree_info arrays_info;	/* the tree of array blocks */
	dm_block_t bitset_root;
	bool read_only;
	bool is_new;		/* constant once it's open, as is */
	bool found_dest_zeroed;
	bool leaks_told;

	/*
	 * The superblock that the transaction builds on.  While it is in doubt
	 * a crash may leave another one: it was merely read, or the flush after
	 * its write has failed.
	 */
	struct superblock_disk sb;
	bool in_doubt;

	/*
	 * Dirty words are written in rounds over all arrays.  If the device has
	 * too little room for a round it takes several transactions.  Each
	 * begins with the array that had no room in the last one, so that none
	 * starves.
	 */
	u32 cursor;		/* the next array */
	u32 round_left;		/* arrays until the round is over; 0: it is */
	u32 commit_left;	/* the same, once it is committed */

	/* Arrays that already have a new block in this transaction. */
	unsigned long *fresh;
};

u64 dm_clone_metadata_nr_free_blocks(struct dm_clone_metadata *cmd)
{
	return READ_ONCE(cmd->nr_free_metadata_blocks);
}

u64 dm_clone_metadata_nr_blocks(struct dm_clone_metadata *cmd)
{
	return READ_ONCE(cmd->nr_metadata_blocks);
}

/*
 *---------------------------------------------------------------
 * Sizes
 *---------------------------------------------------------------
 */

static u32 nr_arrays(struct dm_clone_metadata *cmd)
{
	return DIV_ROUND_UP(cmd->nr_words, (u32)WORDS_PER_ARRAY);
}

/* The most levels that the tree of arrays can have. */
static unsigned int max_levels(struct dm_clone_metadata *cmd)
{
	unsigned int levels = 1;
	u32 nr;

	for (nr = nr_arrays(cmd); nr > MAX_NODE_VALUES;
	     nr = DIV_ROUND_UP(nr, MIN_NODE_VALUES))
		levels++;

	return levels;
}

/* The most blocks that the bitset can take: arrays and the nodes above them. */
static u64 bitset_blocks(struct dm_clone_metadata *cmd)
{
	return nr_arrays(cmd) + nr_arrays(cmd) / MIN_NODE_VALUES + max_levels(cmd);
}

/* The number of bitmaps in the space map of a device of @nr_blocks. */
static u64 nr_bitmaps(u64 nr_blocks)
{
	nr_blocks = min_t(u64, nr_blocks, DM_SM_METADATA_MAX_BLOCKS);

	return DIV_ROUND_UP_ULL(nr_blocks, COUNTS_PER_BITMAP);
}

/*
 * Blocks that must be free before an array is changed, on a device of
 * @nr_blocks: for its shadow and those of the path to it, and for those of the
 * space map's index and of the bitmaps that these may change: one where each
 * block was, one where it goes, and one for the space map's own blocks.
 *
 * Not counted is what it costs to give up a block with more than one reference:
 * the tree of large counts may change, and the children of a shared node get
 * another reference each.  No clone makes such metadata.  Where somebody else
 * has, the room may run out half-way: then the transaction fails with -ENOSPC,
 * and is aborted like any other that fails.
 */
static u64 blocks_to_change_array(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	unsigned int path = 1 + max_levels(cmd);

	return path + 1 + min_t(u64, nr_bitmaps(nr_blocks), 2 * path + 1);
}

/* The most blocks that metadata can have in use. */
static u64 blocks_in_use(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	return NR_FIXED_BLOCKS + bitset_blocks(cmd) + nr_bitmaps(nr_blocks);
}

/*
 * The blocks that a new clone needs, shadows for its first change included:
 * what cannot work is refused before anything is written.
 */
static u64 blocks_to_format(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	return blocks_in_use(cmd, nr_blocks) +
	       blocks_to_change_array(cmd, nr_blocks) + FORMAT_MARGIN;
}

/*
 * The blocks with which every commit is one transaction, whatever has changed:
 * what is in use stays as it is until the superblock is written, and nearly all
 * of it may have a shadow by then.  Even the last array must find the room that
 * has_room() asks for.
 *
 * This is what Documentation/dm-clone.rst recommends: two bits a region; the
 * heads of the arrays and the nodes add 1.8 % at most.
 */
static u64 blocks_for_one_transaction(struct dm_clone_metadata *cmd,
				      u64 nr_blocks)
{
	return 2 * blocks_in_use(cmd, nr_blocks) - NR_UNSHADOWED_BLOCKS +
	       blocks_to_change_array(cmd, nr_blocks);
}

/*
 *---------------------------------------------------------------
 * Superblock
 *---------------------------------------------------------------
 */

static __le32 superblock_csum(struct dm_block *b, size_t block_size)
{
	struct superblock_disk *sb = dm_block_data(b);

	return cpu_to_le32(dm_bm_checksum(&sb->flags,
					  block_size - sizeof(sb->csum),
					  SUPERBLOCK_CSUM_XOR));
}

static void sb_prepare_for_write(DM_CLONE_VALIDATOR *v, struct dm_block *b,
				 size_t block_size)
{
	struct superblock_disk *sb = dm_block_data(b);

	sb->blocknr = cpu_to_le64(dm_block_location(b));
	sb->csum = superblock_csum(b, block_size);
}

/* The magic comes first: "not a clone" tells more than "wrong checksum". */
static int sb_check(DM_CLONE_VALIDATOR *v, struct dm_block *b,
		    size_t block_size)
{
	struct superblock_disk *sb = dm_block_data(b);

	if (le64_to_cpu(sb->magic) != SUPERBLOCK_MAGIC) {
		DMERR("superblock: magic number is %llx, not %x: not the metadata of a clone",
		      (unsigned long long)le64_to_cpu(sb->magic), SUPERBLOCK_MAGIC);
		return -EINVAL;
	}

	if (sb->csum != superblock_csum(b, block_size)) {
		DMERR("superblock: checksum is %x, should be %x",
		      le32_to_cpu(sb->csum),
		      le32_to_cpu(superblock_csum(b, block_size)));
		return -EUCLEAN;
	}

	if (le64_to_cpu(sb->blocknr) != dm_block_location(b)) {
		DMERR("superblock: claims to be block %llu",
		      (unsigned long long)le64_to_cpu(sb->blocknr));
		return -EUCLEAN;
	}

	return 0;
}

static DM_CLONE_VALIDATOR sb_validator = {
	.name = "superblock",
	.prepare_for_write = sb_prepare_for_write,
	.check = sb_check,
};

static int superblock_is_all_zeroes(struct dm_block_manager *bm, bool *result)
{
	struct dm_block *b;
	int r;

	/* No validator: it would reject an unformatted device. */
	r = dm_bm_read_lock(bm, SUPERBLOCK_LOCATION, NULL, &b);
	if (r)
		return r == -ENOMEM ? r : -EIO;

	*result = !memchr_inv(dm_block_data(b), 0, BLOCK_SIZE_BYTES);
	dm_bm_unlock(b);

	return 0;
}

/* Does a valid superblock describe this clone? */
static int check_superblock_matches(struct dm_clone_metadata *cmd,
				    const struct superblock_disk *sb,
				    char **error)
{
	u64 region_size = le64_to_cpu(sb->region_size);
	u64 target_size = le64_to_cpu(sb->target_size);

	if (le32_to_cpu(sb->version) != METADATA_VERSION) {
		DMERR("%pg: version %u of the metadata is not supported, only %u is",
		      cmd->bdev, le32_to_cpu(sb->version), METADATA_VERSION);
		*error = "Unsupported version of the metadata";
		return -EINVAL;
	}

	if (region_size != cmd->region_size) {
		DMERR("%pg: metadata is for a region size of %llu sectors, not %llu",
		      cmd->bdev, (unsigned long long)region_size,
		      (unsigned long long)cmd->region_size);
		*error = "Region size does not match the metadata";
		return -EINVAL;
	}

	if (target_size != cmd->target_size) {
		DMERR("%pg: metadata is for a target of %llu sectors, not %llu",
		      cmd->bdev, (unsigned long long)target_size,
		      (unsigned long long)cmd->target_size);
		*error = "Target size does not match the metadata";
		return -EINVAL;
	}

	return 0;
}

/*
 *---------------------------------------------------------------
 * Low-level metadata handling.  __foo() must be called with the lock held for
 * writing, or before anybody else knows of @cmd.
 *---------------------------------------------------------------
 */

static void __update_block_counts(struct dm_clone_metadata *cmd)
{
	dm_block_t nr;

	if (!dm_sm_get_nr_blocks(cmd->sm, &nr))
		WRITE_ONCE(cmd->nr_metadata_blocks, nr);
	if (!dm_sm_get_nr_free(cmd->sm, &nr))
		WRITE_ONCE(cmd->nr_free_metadata_blocks, nr);
}

/* Lock the superblock, to be written as @sb; the validator adds the rest. */
static int __lock_superblock(struct dm_clone_metadata *cmd,
			     const struct superblock_disk *sb,
			     struct dm_block **b)
{
	/* What extensions of the format may have put there is out of date. */
	int r = dm_bm_write_lock_zero(cmd->bm, SUPERBLOCK_LOCATION,
				      &sb_validator, b);

	if (!r)
		memcpy(dm_block_data(*b), sb, sizeof(*sb));

	return r;
}

/* Write blocks and superblock: the end of a transaction. */
static int __commit_transaction(struct dm_clone_metadata *cmd)
{
	struct superblock_disk sb = {
		.magic = cpu_to_le64(SUPERBLOCK_MAGIC),
		.version = cpu_to_le32(METADATA_VERSION),
		.region_size = cpu_to_le64(cmd->region_size),
		.target_size = cpu_to_le64(cmd->target_size),
		.bitset_root = cpu_to_le64(cmd->bitset_root),
	};
	struct dm_block *b;
	size_t len;
	int r;

	r = dm_tm_pre_commit(cmd->tm);
	if (r)
		return r;

	/* All that can fail is done before the superblock is locked. */
	r = dm_sm_root_size(cmd->sm, &len);
	if (r)
		return r;
	r = dm_sm_copy_root(cmd->sm, sb.metadata_space_map_root, len);
	if (r)
		return r;

	r = __lock_superblock(cmd, &sb, &b);
	if (r)
		return r;

	cmd->in_doubt = true;
	r = dm_tm_commit(cmd->tm, b);
	if (r)
		return r;

	cmd->in_doubt = false;
	cmd->sb = sb;
	bitmap_zero(cmd->fresh, nr_arrays(cmd));
	__update_block_counts(cmd);

	return 0;
}

/* Write the superblock that the transaction builds on once more. */
static int __rewrite_superblock(struct dm_clone_metadata *cmd)
{
	struct dm_block *b;
	int r;

	cmd->in_doubt = true;
	r = __lock_superblock(cmd, &cmd->sb, &b);
	if (r)
		return r;

	dm_bm_unlock(b);
	r = dm_bm_flush(cmd->bm);
	if (!r)
		cmd->in_doubt = false;

	return r;
}

static bool has_note(const struct superblock_disk *sb)
{
	return le64_to_cpu(sb->dest_zeroed) == DEST_ZEROED_NOTE;
}

static void set_note(struct superblock_disk *sb, bool zeroed)
{
	sb->dest_zeroed = cpu_to_le64(zeroed ? DEST_ZEROED_NOTE : 0);
}

/*
 * If a superblock is written and the flush after it fails, a crash may leave
 * that one or its predecessor, whichever is read afterwards, in this activation
 * or in a later one.  A later flush that succeeds proves nothing: what the
 * failed one has lost need not be dirty any more (in the page cache below a
 * loop device it is clean).  A transaction on top of either superblock writes
 * to blocks that the other one needs.  So before its first block is written,
 * the superblock that was read is written again, and a flush makes it the one
 * that a crash leaves.
 *
 * This also removes the note of a zeroed destination, a predecessor's too.
 */
static int __settle_superblock(struct dm_clone_metadata *cmd)
{
	if (!cmd->in_doubt && !has_note(&cmd->sb))
		return 0;

	set_note(&cmd->sb, false);
	return __rewrite_superblock(cmd);
}

/* Forget the transaction and what is cached of the disk. */
static void __destroy_transaction(struct dm_clone_metadata *cmd)
{
	if (!cmd->tm)
		return;

	dm_sm_destroy(cmd->sm);
	dm_tm_destroy(cmd->tm);
	cmd->sm = NULL;
	cmd->tm = NULL;
}

static u64 metadata_blocks_of(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev) >> __ffs(DM_SM_METADATA_BLOCK_SIZE);
}

/* The library's errors for damage mean something else to users. */
static bool means_damage(int r)
{
	return r == -EILSEQ || r == -ENOTBLK;
}

/* Read and check the superblock.  The copy may be trusted. */
static int __read_superblock(struct dm_clone_metadata *cmd,
			     struct superblock_disk *sb, char **error)
{
	struct dm_block *b;
	int r;

	*error = "Metadata device holds no valid clone metadata";
	r = dm_bm_read_lock(cmd->bm, SUPERBLOCK_LOCATION, &sb_validator, &b);
	if (r) {
		DMERR("%pg: failed to read the superblock: %d", cmd->bdev, r);
		return r;
	}

	memcpy(sb, dm_block_data(b), sizeof(*sb));
	dm_bm_unlock(b);

	return check_superblock_matches(cmd, sb, error);
}

/* Once, not each time the metadata is read again. */
static void tell_leaks(struct dm_clone_metadata *cmd, u64 nr)
{
	if (nr && !cmd->leaks_told)
		DMWARN("%pg: space map counts too many references to %llu blocks: lost",
		       cmd->bdev, (unsigned long long)nr);
	cmd->leaks_told = true;
}

/* Begin a transaction on what the disk holds; @fn gets the bitset's words. */
static int __open_transaction(struct dm_clone_metadata *cmd,
			      dm_clone_word_fn fn, char **error)
{
	struct superblock_disk *sb = &cmd->sb;
	u64 nr_leaked;
	int r;

	r = __read_superblock(cmd, sb, error);
	if (r)
		return r;

	*error = "Metadata is damaged";
	r = dm_clone_metadata_check(cmd->bm, metadata_blocks_of(cmd->bdev),
				    sb->metadata_space_map_root,
				    le64_to_cpu(sb->bitset_root), cmd->nr_words,
				    fn, cmd->map, &nr_leaked);
	if (r) {
		DMERR("%pg: failed to check the metadata: %d", cmd->bdev, r);
		return r;
	}
	tell_leaks(cmd, nr_leaked);

	r = dm_tm_open_with_sm(cmd->bm, SUPERBLOCK_LOCATION,
			       sb->metadata_space_map_root, SPACE_MAP_ROOT_SIZE,
			       &cmd->tm, &cmd->sm);
	if (r) {
		DMERR("%pg: failed to open the transaction manager: %d",
		      cmd->bdev, r);
		cmd->tm = NULL;
		return means_damage(r) ? -EUCLEAN : r;
	}

	cmd->arrays_info = (struct dm_btree_info) {
		.tm = cmd->tm,
		.levels = 1,
		.value_type.size = sizeof(__le64),
	};
	cmd->bitset_root = le64_to_cpu(sb->bitset_root);
	bitmap_zero(cmd->fresh, nr_arrays(cmd));
	__update_block_counts(cmd);

	return 0;
}

static void load_word(void *context, u32 index, u64 word)
{
	dm_clone_region_map_load_word(context, index, word);
}

/* Words that the disk does not have are written by the next transaction. */
static void compare_word(void *context, u32 index, u64 word)
{
	dm_clone_region_map_compare_word(context, index, word);
}

/*
 *---------------------------------------------------------------
 * Writing the bitset.  We change array blocks ourselves: dm_array_set_value()
 * leaves a block locked if it runs into an error half-way, which the block
 * manager's BUG_ON() finds later on.  It also sets one word at a time.
 *---------------------------------------------------------------
 */

static void array_prepare_for_write(DM_CLONE_VALIDATOR *v, struct dm_block *b,
				    size_t block_size)
{
	struct disk_array *d = dm_block_data(b);

	d->blocknr = cpu_to_le64(dm_block_location(b));
	d->csum = cpu_to_le32(dm_bm_checksum(&d->max_entries,
					     block_size - sizeof(d->csum),
					     ARRAY_CSUM_XOR));
}

/* Everything else was checked when the metadata was opened. */
static int array_check(DM_CLONE_VALIDATOR *v, struct dm_block *b,
		       size_t block_size)
{
	struct disk_array *d = dm_block_data(b);
	u32 csum = dm_bm_checksum(&d->max_entries, block_size - sizeof(d->csum),
				  ARRAY_CSUM_XOR);

	if (le32_to_cpu(d->csum) == csum &&
	    le64_to_cpu(d->blocknr) == dm_block_location(b))
		return 0;

	DMERR_LIMIT("metadata block %llu: part of the bitset is damaged",
		    (unsigned long long)dm_block_location(b));
	return -EUCLEAN;
}

static DM_CLONE_VALIDATOR array_validator = {
	.name = "array",
	.prepare_for_write = array_prepare_for_write,
	.check = array_check,
};

/* Fill the block of array @array from the map; none of it stays dirty. */
static void __fill_array(struct dm_clone_metadata *cmd, u32 array,
			 struct disk_array *d)
{
	u32 first = array * WORDS_PER_ARRAY;
	u32 nr = min_t(u32, WORDS_PER_ARRAY, cmd->nr_words - first);

	d->max_entries = cpu_to_le32(WORDS_PER_ARRAY);
	d->nr_entries = cpu_to_le32(nr);
	d->value_size = cpu_to_le32(sizeof(__le64));

	dm_clone_region_map_take_words(cmd->map, first, nr, d->words);
}

/*
 * Lock a zeroed block for array @array, whose block is @old now.  @old is not
 * read: the map has all that it may hold.  If this transaction has written it,
 * no superblock refers to it yet, and it is used again.
 */
static int __lock_new_array(struct dm_clone_metadata *cmd, u32 array,
			    dm_block_t old, struct dm_block **b)
{
	dm_block_t new = old;
	int r = 0;

	if (!test_bit(array, cmd->fresh)) {
		/* It stays what it is until the transaction is committed. */
		r = dm_sm_dec_block(cmd->sm, old);
		if (!r)
			r = dm_sm_new_block(cmd->sm, &new);
	}

	return r ?: dm_bm_write_lock_zero(cmd->bm, new, &array_validator, b);
}

static int __write_array(struct dm_clone_metadata *cmd, u32 array)
{
	dm_block_t old, new;
	struct dm_block *b;
	u64 key = array;
	__le64 value;
	int r;

	r = dm_btree_lookup(&cmd->arrays_info, cmd->bitset_root, &key, &value);
	if (r)
		return r;

	old = le64_to_cpu(value);
	r = __lock_new_array(cmd, array, old, &b);
	if (r)
		return r;

	__fill_array(cmd, array, dm_block_data(b));
	new = dm_block_location(b);
	dm_bm_unlock(b);
	__set_bit(array, cmd->fresh);

	if (new == old)
		return 0;

	value = cpu_to_le64(new);
	__dm_bless_for_disk(&value);
	return dm_btree_insert(&cmd->arrays_info, cmd->bitset_root, &key,
			       &value, &cmd->bitset_root);
}

static bool has_room(struct dm_clone_metadata *cmd)
{
	dm_block_t nr;

	return !dm_sm_get_nr_free(cmd->sm, &nr) &&
	       nr >= blocks_to_change_array(cmd, cmd->nr_metadata_blocks);
}

/* The first array from @from on with dirty words, or the number of arrays. */
static u32 __next_dirty_array(struct dm_clone_metadata *cmd, u32 from)
{
	u32 index = dm_clone_region_map_next_dirty_word(cmd->map,
							from * WORDS_PER_ARRAY);

	return index < cmd->nr_words ? index / WORDS_PER_ARRAY : nr_arrays(cmd);
}

/*
 * Move the cursor to the next array of the round that has dirty words.  Returns
 * how many arrays are left of the round, that one included; 0: it is over.
 */
static u32 __advance_round(struct dm_clone_metadata *cmd, u32 left)
{
	while (left) {
		u32 array = __next_dirty_array(cmd, cmd->cursor);
		u32 clean = min(array - cmd->cursor, left);

		cmd->cursor += clean;
		left -= clean;
		if (cmd->cursor < nr_arrays(cmd))
			break;
		cmd->cursor = 0;
	}

	return left;
}

/*
 * A round takes all words that were dirty when it began.  Words that become
 * dirty later may have to wait for the next one.
 */
static int __write_dirty_words(struct dm_clone_metadata *cmd)
{
	u32 left = cmd->round_left ?: nr_arrays(cmd);
	bool written = false;
	int r = 0;

	/* If this is not committed another round has to begin. */
	cmd->round_left = 0;
	dm_clone_region_map_set_changed(cmd->map, false);

	while ((left = __advance_round(cmd, left))) {
		if (!has_room(cmd)) {
			r = written ? 0 : -ENOSPC;
			break;
		}

		r = __write_array(cmd, cmd->cursor);
		if (r)
			break;
		written = true;
		cmd->cursor++;
		left--;
	}

	cmd->commit_left = left;
	if (r || dm_clone_region_map_next_dirty_word(cmd->map, 0) < cmd->nr_words)
		dm_clone_region_map_set_changed(cmd->map, true);

	return r;
}

/*
 * Use the blocks that the metadata device has gained since it was formatted.
 * The space map puts the bitmaps for them into the new room, with the next
 * superblock.
 */
static int __use_added_blocks(struct dm_clone_metadata *cmd)
{
	dm_block_t dev = min_t(u64, metadata_blocks_of(cmd->bdev),
			       DM_SM_METADATA_MAX_BLOCKS);
	dm_block_t nr;
	int r;

	r = dm_sm_get_nr_blocks(cmd->sm, &nr);
	if (r || dev <= nr)
		return r;

	DMINFO("%pg: metadata device has grown from %llu to %llu blocks", cmd->bdev,
	       (unsigned long long)nr, (unsigned long long)dev);

	return dm_sm_extend(cmd->sm, dev - nr);
}

static int __usable(struct dm_clone_metadata *cmd)
{
	lockdep_assert_held_write(&cmd->lock);

	if (!cmd->tm)
		return -EIO;

	return cmd->read_only ? -EPERM : 0;
}

/*
 *---------------------------------------------------------------
 * Transactions
 *---------------------------------------------------------------
 */

int dm_clone_metadata_pre_commit(struct dm_clone_metadata *cmd)
{
	int r;

	down_write(&cmd->lock);
	r = __usable(cmd);
	if (!r)
		r = __settle_superblock(cmd);
	if (!r)
		r = __use_added_blocks(cmd);
	if (!r) {
		dm_clone_region_map_begin_commit(cmd->map);
		r = __write_dirty_words(cmd);
	}
	/* A round that breaks off says nothing about the next one. */
	if (r)
		cmd->round_left = 0;
	up_write(&cmd->lock);

	return r;
}

int dm_clone_metadata_commit(struct dm_clone_metadata *cmd)
{
	int r;

	down_write(&cmd->lock);
	r = __usable(cmd);
	if (!r) {
		r = __commit_transaction(cmd);
		/* The space map may believe that it succeeded. */
		if (r)
			__destroy_transaction(cmd);
		else
			dm_clone_region_map_end_commit(cmd->map);
	}
	cmd->round_left = r ? 0 : cmd->commit_left;
	up_write(&cmd->lock);

	return r;
}

bool dm_clone_metadata_has_more(struct dm_clone_metadata *cmd)
{
	return cmd->round_left;
}

/*
 * The next commit would find errors of writes that nobody needs any more.  The
 * result of the flush does not matter: nothing relies on it.
 */
static void __forget_write_errors(struct dm_clone_metadata *cmd)
{
	dm_bm_set_read_write(cmd->bm);
	dm_bm_flush(cmd->bm);
	if (cmd->read_only)
		dm_bm_set_read_only(cmd->bm);
}

int dm_clone_metadata_abort(struct dm_clone_metadata *cmd)
{
	unsigned int noio;
	char *error;
	int r;

	/* Flushes wait for us, and reclaim may wait for flushes. */
	noio = memalloc_noio_save();
	down_write(&cmd->lock);
	__destroy_transaction(cmd);

	/*
	 * This writes the transaction's dirty blocks.  They are free in the
	 * superblock that it builds on, which is the one that a crash leaves:
	 * if it was in doubt it was settled before the first of them was
	 * written.  After a failed commit, or a failed settlement, nothing is
	 * dirty.
	 */
	dm_block_manager_reset(cmd->bm);
	__forget_write_errors(cmd);

	/*
	 * Words that were taken are marked dirty again.  If that fails, no
	 * region counts as committed; nor does any while the superblock just
	 * read is in doubt, which the next pre_commit settles.
	 */
	r = __open_transaction(cmd, compare_word, &error);
	if (r || cmd->in_doubt)
		dm_clone_region_map_begin_commit(cmd->map);
	else
		dm_clone_region_map_end_commit(cmd->map);
	up_write(&cmd->lock);
	memalloc_noio_restore(noio);

	return r;
}

bool dm_clone_metadata_found_dest_zeroed(struct dm_clone_metadata *cmd)
{
	return cmd->found_dest_zeroed;
}

int dm_clone_metadata_settle(struct dm_clone_metadata *cmd)
{
	int r;

	down_write(&cmd->lock);
	r = __usable(cmd);
	if (!r)
		r = __settle_superblock(cmd);
	up_write(&cmd->lock);

	return r;
}

/* If this fails the disk may have the note or not: it has to be settled. */
int dm_clone_metadata_note_dest_zeroed(struct dm_clone_metadata *cmd)
{
	int r;

	down_write(&cmd->lock);
	r = __usable(cmd);
	if (!r && (!has_note(&cmd->sb) || cmd->in_doubt)) {
		set_note(&cmd->sb, true);
		r = __rewrite_superblock(cmd);
		if (r)
			set_note(&cmd->sb, false);
	}
	up_write(&cmd->lock);

	return r;
}

void dm_clone_metadata_set_read_only(struct dm_clone_metadata *cmd)
{
	down_write(&cmd->lock);
	cmd->read_only = true;
	dm_bm_set_read_only(cmd->bm);
	up_write(&cmd->lock);
}

void dm_clone_metadata_set_read_write(struct dm_clone_metadata *cmd)
{
	down_write(&cmd->lock);
	cmd->read_only = false;
	dm_bm_set_read_write(cmd->bm);
	up_write(&cmd->lock);
}

void dm_clone_metadata_release_bitmap(struct dm_clone_metadata *cmd)
{
	down_write(&cmd->lock);
	if (!cmd->in_doubt)
		dm_clone_region_map_release(cmd->map);
	up_write(&cmd->lock);
}

/*
 *---------------------------------------------------------------
 * Opening and closing
 *---------------------------------------------------------------
 */

static int __create_bitset(struct dm_clone_metadata *cmd)
{
	struct dm_disk_bitset info;
	int r;

	dm_disk_bitset_init(cmd->tm, &info);

	r = dm_bitset_empty(&info, &cmd->bitset_root);
	if (r)
		return r;

	return dm_bitset_resize(&info, cmd->bitset_root, 0, cmd->nr_regions,
				false, &cmd->bitset_root);
}

static int __format(struct dm_clone_metadata *cmd, char **error)
{
	u64 nr = metadata_blocks_of(cmd->bdev);
	u64 needed = blocks_to_format(cmd, nr);
	int r;

	if (nr < needed) {
		DMERR("%pg: metadata device has %llu blocks of 4 KiB, %llu are needed",
		      cmd->bdev, (unsigned long long)nr, (unsigned long long)needed);
		*error = "Metadata device is too small";
		return -ENOSPC;
	}

	/*
	 * The zeroes may be in the disk's cache only.  Then a crash may bring
	 * back the superblock before them, on top of blocks that are written
	 * now.
	 */
	*error = "Failed to flush the metadata device";
	r = blkdev_issue_flush(cmd->bdev);
	if (r) {
		DMERR("%pg: failed to flush: %d", cmd->bdev, r);
		return r;
	}

	*error = "Failed to format the metadata device";
	r = dm_tm_create_with_sm(cmd->bm, SUPERBLOCK_LOCATION, &cmd->tm,
				 &cmd->sm);
	if (r) {
		cmd->tm = NULL;
		return r;
	}

	r = __create_bitset(cmd);
	if (!r)
		r = __commit_transaction(cmd);
	if (r) {
		DMERR("%pg: failed to format: %d", cmd->bdev, r);
		/* We wrote it a moment ago: the device has lost it. */
		return means_damage(r) ? -EIO : r;
	}

	/* From here on array blocks have our validator. */
	__destroy_transaction(cmd);
	dm_block_manager_reset(cmd->bm);

	return __open_transaction(cmd, load_word, error);
}

static int __open_or_format(struct dm_clone_metadata *cmd,
			    bool may_be_formatted, char **error)
{
	bool unformatted;
	int r;

	*error = "Failed to read the metadata device";
	r = superblock_is_all_zeroes(cmd->bm, &unformatted);
	if (r) {
		DMERR("%pg: failed to read the superblock: %d", cmd->bdev, r);
		return r;
	}

	if (unformatted && !may_be_formatted) {
		*error = "Metadata device is not formatted";
		return -ENOENT;
	}

	cmd->is_new = unformatted;
	if (unformatted)
		return __format(cmd, error);

	r = __open_transaction(cmd, load_word, error);
	if (r)
		return r;

	/*
	 * The machine may have been reset before this superblock was flushed,
	 * or the flush may have failed in the last activation.
	 */
	cmd->in_doubt = true;
	cmd->found_dest_zeroed = has_note(&cmd->sb);

	return 0;
}

static void free_metadata(struct dm_clone_metadata *cmd)
{
	kvfree(cmd->fresh);
	dm_clone_region_map_destroy(cmd->map);
	kfree(cmd);
}

static struct dm_clone_metadata *alloc_metadata(struct block_device *bdev,
						sector_t target_size,
						sector_t region_size)
{
	struct dm_clone_metadata *cmd = kzalloc_obj(*cmd, GFP_KERNEL);

	if (!cmd)
		return NULL;

	cmd->bdev = bdev;
	cmd->target_size = target_size;
	cmd->region_size = region_size;
	cmd->nr_regions = dm_sector_div_up(target_size, region_size);
	init_rwsem(&cmd->lock);

	cmd->map = dm_clone_region_map_create(cmd->nr_regions);
	if (!cmd->map)
		goto bad;

	cmd->nr_words = dm_clone_region_map_nr_words(cmd->map);
	cmd->fresh = kvcalloc(BITS_TO_LONGS(nr_arrays(cmd)), sizeof(long),
			      GFP_KERNEL);
	if (!cmd->fresh)
		goto bad;

	return cmd;
bad:
	free_metadata(cmd);
	return NULL;
}

static void warn_if_small(struct dm_clone_metadata *cmd)
{
	u64 nr = metadata_blocks_of(cmd->bdev);
	u64 enough = blocks_for_one_transaction(cmd, nr);

	if (nr < enough)
		DMINFO("%pg: metadata device has %llu blocks; with %llu no commit is split",
		       cmd->bdev, (unsigned long long)nr, (unsigned long long)enough);
}

struct dm_clone_metadata *
dm_clone_metadata_open(struct block_device *bdev, sector_t target_size,
		       sector_t region_size, bool may_be_formatted,
		       char **error)
{
	struct dm_clone_metadata *cmd;
	int r;

	*error = "Out of memory for the region bitmap";
	cmd = alloc_metadata(bdev, target_size, region_size);
	if (!cmd)
		return ERR_PTR(-ENOMEM);

	if (bdev_nr_sectors(bdev) > LARGE_METADATA_SECTORS)
		DMWARN("%pg: metadata device is larger than %llu sectors: the excess is not used",
		       bdev, LARGE_METADATA_SECTORS);

	*error = "Failed to open the metadata device";
	cmd->bm = dm_block_manager_create(bdev, BLOCK_SIZE_BYTES,
					  MAX_CONCURRENT_LOCKS);
	if (IS_ERR(cmd->bm)) {
		r = PTR_ERR(cmd->bm);
		goto bad;
	}

	r = __open_or_format(cmd, may_be_formatted, error);
	if (r) {
		__destroy_transaction(cmd);
		dm_block_manager_destroy(cmd->bm);
		goto bad;
	}

	warn_if_small(cmd);
	return cmd;
bad:
	free_metadata(cmd);
	return ERR_PTR(r);
}

struct dm_clone_region_map *dm_clone_metadata_map(struct dm_clone_metadata *cmd)
{
	return cmd->map;
}

bool dm_clone_metadata_is_new(struct dm_clone_metadata *cmd)
{
	return cmd->is_new;
}

bool dm_clone_metadata_matches(struct dm_clone_metadata *cmd,
			       sector_t target_size, sector_t region_size)
{
	return cmd->target_size == target_size && cmd->region_size == region_size;
}

void dm_clone_metadata_close(struct dm_clone_metadata *cmd)
{
	__destroy_transaction(cmd);
	dm_block_manager_destroy(cmd->bm);
	free_metadata(cmd);
}
