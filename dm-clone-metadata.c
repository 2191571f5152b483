// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone, see dm-clone-metadata.h.
 *
 * This file owns the disk format and the region bitmap.  It knows nothing of
 * bios, and nothing but this file and dm-clone/metadata-check.c reads or
 * writes the metadata device.
 */

#define DM_MSG_PREFIX "clone metadata"

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/device-mapper.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/seqlock.h>
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

/*
 * Most blocks that one thread holds locked at once: a path down a tree twice
 * (the old one and its shadow), and one of the space map.
 */
#define MAX_CONCURRENT_LOCKS	6

/*
 * Values in a node of the tree of arrays.  The library fills nodes to a third at
 * least, so that many is what the number of nodes is estimated with.
 */
#define MAX_NODE_VALUES		252
#define MIN_NODE_VALUES		(MAX_NODE_VALUES / 3)

/* A metadata device larger than this (16 GiB) earns a warning. */
#define LARGE_METADATA_SECTORS	(16ULL << (30 - SECTOR_SHIFT))

/*
 *---------------------------------------------------------------
 * In-core structures
 *---------------------------------------------------------------
 */

/*
 * The region bitmap, and what of it is not on the disk.
 *
 * Dirtiness is kept a word of 64 regions, which is the unit the disk is written
 * in; the summary has a bit for BITS_PER_LONG such words, so that a commit
 * finds a few changes among 2^31 regions without a long search.  All in all
 * 65.02 bits for 64 regions.
 *
 * Bits are set, marked and counted under a seqlock, so that whoever takes it
 * sees all or nothing of a change.  Bits are tested without any lock.
 */
struct region_map {
	unsigned long *bits;
	unsigned long *dirty;
	unsigned long *summary;
};

struct dm_clone_metadata {
	struct block_device *bdev;

	sector_t target_size;
	sector_t region_size;
	unsigned long nr_regions;
	u32 nr_words;			/* of 64 regions */

	/* Any context, irqs off, innermost.  Protects the next three. */
	seqlock_t map_lock;
	/* NULL: all regions are hydrated, and that is committed. */
	struct region_map __rcu *map;
	unsigned long nr_hydrated;	/* read without the lock too */
	bool changed;			/* something in the map is marked dirty */

	/*
	 * Odd from pre_commit until the end of commit, or of an abort that
	 * has put things right: words have been taken off their dirty marks
	 * and are not durable yet.  Changed under the lock.
	 */
	unsigned int commit_seq;

	/* Statistics as of the last commit. */
	u64 nr_metadata_blocks;
	u64 nr_free_metadata_blocks;

	/*
	 * Protects everything below, and that there's one transaction at a
	 * time.  Held over I/O to the metadata device.
	 */
	struct rw_semaphore lock;
	struct dm_block_manager *bm;
	struct dm_transaction_manager *tm;	/* NULL: unusable, see abort */
	struct dm_space_map *sm;
	struct dm_btree_info arrays_info;	/* the tree of array blocks */
	dm_block_t bitset_root;
	bool read_only;
	bool is_new;		/* these are constant once it's open */
	bool found_dest_zeroed;
	bool leaks_told;

	/*
	 * What the transaction builds on, and whether a crash may not leave that:
	 * it was merely read, or a flush after its write has failed.
	 */
	struct superblock_disk sb;
	bool in_doubt;

	/*
	 * Dirty words are written in rounds over all arrays.  A round that the
	 * room on the device limits takes several transactions, and each begins
	 * with the array that had no room in the last, so that none starves.
	 */
	u32 cursor;		/* the next array */
	u32 round_left;		/* arrays until the round is over; 0: it is */
	u32 commit_left;	/* the same, once the transaction is committed */

	/* Arrays that have a new block already, in this transaction. */
	unsigned long *fresh;
};

/*
 *---------------------------------------------------------------
 * The region map
 *---------------------------------------------------------------
 */

#define LONGS_PER_WORD	(64 / BITS_PER_LONG)

static void free_map(struct region_map *map)
{
	if (!map)
		return;

	kvfree(map->summary);
	kvfree(map->dirty);
	kvfree(map->bits);
	kfree(map);
}

static struct region_map *alloc_map(u32 nr_words)
{
	struct region_map *map = kzalloc(sizeof(*map), GFP_KERNEL);
	unsigned long nr_dirty = BITS_TO_LONGS(nr_words);

	if (!map)
		return NULL;

	map->bits = kvcalloc(nr_words, sizeof(u64), GFP_KERNEL);
	map->dirty = kvcalloc(nr_dirty, sizeof(long), GFP_KERNEL);
	map->summary = kvcalloc(BITS_TO_LONGS(nr_dirty), sizeof(long), GFP_KERNEL);
	if (map->bits && map->dirty && map->summary)
		return map;

	free_map(map);
	return NULL;
}

/* Word @index as it is on the disk. */
static u64 map_word(const struct region_map *map, u32 index)
{
	const unsigned long *p = map->bits + index * LONGS_PER_WORD;
	u64 word = READ_ONCE(p[0]);

	if (LONGS_PER_WORD > 1)
		word |= (u64)READ_ONCE(p[LONGS_PER_WORD - 1]) << 32;

	return word;
}

/* Only before the map is in use. */
static void set_map_word(struct region_map *map, u32 index, u64 word)
{
	unsigned long *p = map->bits + index * LONGS_PER_WORD;

	p[0] = word;
	if (LONGS_PER_WORD > 1)
		p[LONGS_PER_WORD - 1] = word >> 32;
}

static void __mark_word_dirty(struct dm_clone_metadata *cmd,
			      struct region_map *map, u32 index)
{
	lockdep_assert_held(&cmd->map_lock.lock);

	__set_bit(index, map->dirty);
	__set_bit(index / BITS_PER_LONG, map->summary);
	cmd->changed = true;
}

/* Set the bits of @mask in long @i of the map. */
static void __set_bits(struct dm_clone_metadata *cmd, struct region_map *map,
		       unsigned long i, unsigned long mask)
{
	mask &= ~map->bits[i];
	if (!mask)
		return;

	WRITE_ONCE(map->bits[i], map->bits[i] | mask);
	__mark_word_dirty(cmd, map, i / LONGS_PER_WORD);
	WRITE_ONCE(cmd->nr_hydrated, cmd->nr_hydrated + hweight_long(mask));
}

bool dm_clone_set_range_hydrated(struct dm_clone_metadata *cmd,
				 unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, next;
	bool was_changed, commit;
	struct region_map *map;
	unsigned long flags;

	write_seqlock_irqsave(&cmd->map_lock, flags);
	was_changed = cmd->changed;
	map = rcu_dereference_protected(cmd->map, true);

	for (; map && start < end; start = next) {
		next = min(end, round_down(start, BITS_PER_LONG) + BITS_PER_LONG);
		__set_bits(cmd, map, BIT_WORD(start),
			   GENMASK((next - 1) % BITS_PER_LONG, start % BITS_PER_LONG));
	}

	commit = cmd->changed != was_changed || cmd->nr_hydrated == cmd->nr_regions;
	write_sequnlock_irqrestore(&cmd->map_lock, flags);

	return commit;
}

bool dm_clone_is_region_hydrated(struct dm_clone_metadata *cmd,
				 unsigned long region)
{
	struct region_map *map;
	bool r;

	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	r = !map || test_bit(region, map->bits);
	rcu_read_unlock();

	return r;
}

bool dm_clone_is_range_hydrated(struct dm_clone_metadata *cmd,
				unsigned long start, unsigned long nr)
{
	struct region_map *map;
	bool r;

	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	if (!map)
		r = true;
	else if (nr == 1)
		r = test_bit(start, map->bits);	/* by far the most of them */
	else
		r = find_next_zero_bit(map->bits, start + nr, start) >= start + nr;
	rcu_read_unlock();

	return r;
}

bool dm_clone_find_run(struct dm_clone_metadata *cmd, unsigned long start,
		       unsigned long end, unsigned long *run_end)
{
	struct region_map *map;
	bool hydrated;

	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	hydrated = !map || test_bit(start, map->bits);
	if (!map)
		*run_end = end;
	else if (hydrated)
		*run_end = find_next_zero_bit(map->bits, end, start);
	else
		*run_end = find_next_bit(map->bits, end, start + 1);
	rcu_read_unlock();

	return hydrated;
}

bool dm_clone_is_range_unhydrated(struct dm_clone_metadata *cmd,
				  unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, run_end;

	return !dm_clone_find_run(cmd, start, end, &run_end) && run_end == end;
}

unsigned long dm_clone_find_next_unhydrated_region(struct dm_clone_metadata *cmd,
						   unsigned long start)
{
	unsigned long r = cmd->nr_regions;
	struct region_map *map;

	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	if (map)
		r = find_next_zero_bit(map->bits, cmd->nr_regions, start);
	rcu_read_unlock();

	return r;
}

/* Of the long of the bitmap that @start is in, the bits of [start, end). */
static unsigned int nr_unset_in_long(struct dm_clone_metadata *cmd,
				     unsigned long start, unsigned long end)
{
	unsigned long mask = BITMAP_FIRST_WORD_MASK(start), bits = ~0UL;
	struct region_map *map;

	if (end < round_down(start, BITS_PER_LONG) + BITS_PER_LONG)
		mask &= BITMAP_LAST_WORD_MASK(end);

	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	if (map)
		bits = READ_ONCE(map->bits[BIT_WORD(start)]);
	rcu_read_unlock();

	return hweight_long(~bits & mask);
}

unsigned long dm_clone_nr_of_unhydrated(struct dm_clone_metadata *cmd,
					unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, sum = 0;

	while (start < end) {
		sum += nr_unset_in_long(cmd, start, end);
		start = round_down(start, BITS_PER_LONG) + BITS_PER_LONG;
		if (!(start % SZ_1M))
			cond_resched();
	}

	return sum;
}

bool dm_clone_is_range_committed(struct dm_clone_metadata *cmd,
				 unsigned long start, unsigned long nr)
{
	unsigned long first = start / 64, end = (start + nr - 1) / 64 + 1;
	unsigned int commit_seq, map_seq;
	struct region_map *map;
	bool clean;

	/*
	 * The caller has found the bits set: not so by somebody who has yet to
	 * mark them?
	 */
	smp_rmb();
	map_seq = raw_read_seqcount(&cmd->map_lock.seqcount);
	commit_seq = READ_ONCE(cmd->commit_seq);
	if ((map_seq & 1) || (commit_seq & 1))
		return false;

	smp_rmb();	/* pairs with __begin_commit() and __end_commit() */
	rcu_read_lock();
	map = rcu_dereference(cmd->map);
	clean = !map || find_next_bit(map->dirty, end, first) >= end;
	rcu_read_unlock();

	/* The marks are clear: not because a commit has just taken them? */
	smp_rmb();
	return clean && READ_ONCE(cmd->commit_seq) == commit_seq &&
	       !read_seqcount_retry(&cmd->map_lock.seqcount, map_seq);
}

bool dm_clone_changed_this_transaction(struct dm_clone_metadata *cmd)
{
	unsigned long flags;
	bool r;

	read_seqlock_excl_irqsave(&cmd->map_lock, flags);
	r = cmd->changed || (READ_ONCE(cmd->commit_seq) & 1);
	read_sequnlock_excl_irqrestore(&cmd->map_lock, flags);

	return r;
}

bool dm_clone_is_hydration_done(struct dm_clone_metadata *cmd)
{
	return dm_clone_nr_of_hydrated_regions(cmd) == cmd->nr_regions;
}

unsigned long dm_clone_nr_of_hydrated_regions(struct dm_clone_metadata *cmd)
{
	return READ_ONCE(cmd->nr_hydrated);
}

u64 dm_clone_get_free_metadata_block_count(struct dm_clone_metadata *cmd)
{
	return READ_ONCE(cmd->nr_free_metadata_blocks);
}

u64 dm_clone_get_metadata_dev_size(struct dm_clone_metadata *cmd)
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

/* The most levels the tree of arrays has. */
static unsigned int max_levels(struct dm_clone_metadata *cmd)
{
	unsigned int levels = 1;
	u32 nr;

	for (nr = nr_arrays(cmd); nr > MAX_NODE_VALUES;
	     nr = DIV_ROUND_UP(nr, MIN_NODE_VALUES))
		levels++;

	return levels;
}

/* The most blocks that the bitset takes: its arrays and the nodes above them. */
static u64 bitset_blocks(struct dm_clone_metadata *cmd)
{
	return nr_arrays(cmd) + nr_arrays(cmd) / MIN_NODE_VALUES + max_levels(cmd);
}

/* The bitmaps that the space map of a device of @nr_blocks has. */
static u64 nr_bitmaps(u64 nr_blocks)
{
	nr_blocks = min_t(u64, nr_blocks, DM_SM_METADATA_MAX_BLOCKS);

	return DIV_ROUND_UP_ULL(nr_blocks, COUNTS_PER_BITMAP);
}

/*
 * Blocks that are to be free when an array is changed, on a device of
 * @nr_blocks: its shadow and those of the path to it; and for the space map the
 * index and as many of its bitmaps as may have to do with these.
 */
static u64 blocks_to_change_array(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	unsigned int path = 1 + max_levels(cmd);

	return path + 1 + min_t(u64, nr_bitmaps(nr_blocks), 2 * path + 1);
}

/* The most that a superblock refers to, with itself and the root of the counts. */
static u64 blocks_in_use(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	return 3 + bitset_blocks(cmd) + nr_bitmaps(nr_blocks);
}

/*
 * The blocks that a fresh clone needs, and the shadows that will be needed at
 * once: what cannot work is refused before anything has been written.
 */
static u64 blocks_to_format(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	return blocks_in_use(cmd, nr_blocks) +
	       blocks_to_change_array(cmd, nr_blocks) + 3;
}

/*
 * The blocks with which every commit is one transaction, whatever has changed:
 * what is in use stays as it is until the superblock is written, and all of it,
 * but for the superblock and the root of the counts, may have a shadow by then.
 * The last array is still to find what has_room() asks for.
 *
 * This is what Documentation/dm-clone.rst recommends: two bits a region; the
 * heads of the arrays and the nodes add 1.8 % at most.
 */
static u64 blocks_for_one_transaction(struct dm_clone_metadata *cmd, u64 nr_blocks)
{
	return 2 * blocks_in_use(cmd, nr_blocks) - 2 +
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

/* The magic comes first: that something is no clone is the better news. */
static int sb_check(DM_CLONE_VALIDATOR *v, struct dm_block *b, size_t block_size)
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
		DMERR("superblock: says that it belongs to block %llu",
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

	/* No validator: it'd reject what is yet to be formatted. */
	r = dm_bm_read_lock(bm, SUPERBLOCK_LOCATION, NULL, &b);
	if (r)
		return r == -ENOMEM ? r : -EIO;

	*result = !memchr_inv(dm_block_data(b), 0, BLOCK_SIZE_BYTES);
	dm_bm_unlock(b);

	return 0;
}

/* Does a valid superblock describe this clone? */
static int check_superblock_matches(struct dm_clone_metadata *cmd,
				    const struct superblock_disk *sb, char **error)
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
 * Low-level metadata handling: __foo() wants the lock held for writing, or
 * that nobody else knows of @cmd yet.
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
			     const struct superblock_disk *sb, struct dm_block **b)
{
	/* What an extension of the format may have put there is outdated now. */
	int r = dm_bm_write_lock_zero(cmd->bm, SUPERBLOCK_LOCATION, &sb_validator, b);

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

/* The superblock that the transaction builds on, once more. */
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

static bool has_mark(const struct superblock_disk *sb)
{
	return le64_to_cpu(sb->dest_zeroed) == DEST_ZEROED_MARK;
}

static void set_mark(struct superblock_disk *sb, bool zeroed)
{
	sb->dest_zeroed = cpu_to_le64(zeroed ? DEST_ZEROED_MARK : 0);
}

/*
 * A superblock was written, and the flush after it failed: a crash may leave
 * that one or its predecessor, whichever of them is read afterwards, in this
 * activation or in a later one.  Nor does a flush that succeeds then tell: what
 * the failed one has lost need not be dirty any more (of a loop device over a
 * file it is clean, in the page cache).  A transaction on top of either
 * superblock writes to blocks that the other one needs.  So before the first
 * block of it is written, the superblock that was read goes to the disk again,
 * and a flush makes it the one that a crash leaves.
 *
 * The mark goes with that, of a predecessor too.
 */
static int __settle_superblock(struct dm_clone_metadata *cmd)
{
	if (!cmd->in_doubt && !has_mark(&cmd->sb))
		return 0;

	set_mark(&cmd->sb, false);
	return __rewrite_superblock(cmd);
}

/* Forget the transaction and all that is cached of the disk. */
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

/* What the library calls damage reads as something else to the user. */
static bool means_damage(int r)
{
	return r == -EILSEQ || r == -ENOTBLK;
}

/* Read and check the superblock.  The copy is safe to be used. */
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

/* Once, not each time that the metadata is read again. */
static void tell_leaks(struct dm_clone_metadata *cmd, u64 nr)
{
	if (nr && !cmd->leaks_told)
		DMWARN("%pg: space map counts %llu blocks more often than they are in use: lost",
		       cmd->bdev, (unsigned long long)nr);
	cmd->leaks_told = true;
}

/* Begin a transaction on what the disk holds; @fn gets the bitset's words. */
static int __open_transaction(struct dm_clone_metadata *cmd, dm_clone_word_fn fn,
			      char **error)
{
	struct superblock_disk *sb = &cmd->sb;
	u64 nr_leaked;
	int r;

	r = __read_superblock(cmd, sb, error);
	if (r)
		return r;

	*error = "Metadata is damaged";
	r = dm_clone_check_metadata(cmd->bm, metadata_blocks_of(cmd->bdev),
				    sb->metadata_space_map_root,
				    le64_to_cpu(sb->bitset_root), cmd->nr_words,
				    fn, cmd, &nr_leaked);
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

static struct region_map *__map(struct dm_clone_metadata *cmd)
{
	return rcu_dereference_protected(cmd->map, true);
}

/* The last word has bits that belong to no region: they're not ours. */
static u64 word_mask(struct dm_clone_metadata *cmd, u32 index)
{
	unsigned int tail = cmd->nr_regions % 64;

	return index == cmd->nr_words - 1 && tail ? (1ULL << tail) - 1 : ~0ULL;
}

static void load_word(void *context, u32 index, u64 word)
{
	struct dm_clone_metadata *cmd = context;

	word &= word_mask(cmd, index);
	set_map_word(__map(cmd), index, word);
	cmd->nr_hydrated += hweight64(word);
}

/* What the disk doesn't have goes there with the next transaction. */
static void compare_word(void *context, u32 index, u64 word)
{
	struct dm_clone_metadata *cmd = context;
	struct region_map *map = __map(cmd);

	if (!map || (word & word_mask(cmd, index)) == map_word(map, index))
		return;

	write_seqlock_irq(&cmd->map_lock);
	__mark_word_dirty(cmd, map, index);
	write_sequnlock_irq(&cmd->map_lock);
}

/*
 *---------------------------------------------------------------
 * Writing the bitset.  Array blocks are changed by us, since dm_array_set_value()
 * leaves a block locked if it runs into an error half-way, and the block
 * manager's BUG_ON() finds that later on.  It also takes each word by itself.
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

/* Everything has been looked at when the metadata was opened: just the sum. */
static int array_check(DM_CLONE_VALIDATOR *v, struct dm_block *b, size_t block_size)
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

/* Fill the block of array @array from the map: none of it is dirty any more. */
static void __fill_array(struct dm_clone_metadata *cmd, struct region_map *map,
			 u32 array, struct disk_array *d)
{
	u32 first = array * WORDS_PER_ARRAY;
	u32 nr = min_t(u32, WORDS_PER_ARRAY, cmd->nr_words - first);
	unsigned long i = first;

	d->max_entries = cpu_to_le32(WORDS_PER_ARRAY);
	d->nr_entries = cpu_to_le32(nr);
	d->value_size = cpu_to_le32(sizeof(__le64));

	write_seqlock_irq(&cmd->map_lock);
	for_each_set_bit_from(i, map->dirty, first + nr) {
		__clear_bit(i, map->dirty);
		if (!map->dirty[BIT_WORD(i)])
			__clear_bit(BIT_WORD(i), map->summary);
	}
	write_sequnlock_irq(&cmd->map_lock);

	/* What is set meanwhile is marked too, and may be written twice. */
	for (i = 0; i < nr; i++)
		d->words[i] = cpu_to_le64(map_word(map, first + i));
}

/*
 * Lock a block of zeroes for array @array, whose block is @old now.  That one
 * isn't read, as all that it may hold is in the map.  If this transaction has
 * written it then no superblock refers to it yet, and it's used again.
 */
static int __lock_new_array(struct dm_clone_metadata *cmd, u32 array, dm_block_t old,
			    struct dm_block **b)
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

static int __write_array(struct dm_clone_metadata *cmd, struct region_map *map,
			 u32 array)
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

	__fill_array(cmd, map, array, dm_block_data(b));
	new = dm_block_location(b);
	dm_bm_unlock(b);
	__set_bit(array, cmd->fresh);

	if (new == old)
		return 0;

	value = cpu_to_le64(new);
	__dm_bless_for_disk(&value);
	return dm_btree_insert(&cmd->arrays_info, cmd->bitset_root, &key, &value,
			       &cmd->bitset_root);
}

/* The first dirty word at or after @from, or the number of words. */
static u32 __next_dirty_word(struct dm_clone_metadata *cmd, struct region_map *map,
			     u32 from)
{
	unsigned long nr_longs = BITS_TO_LONGS(cmd->nr_words);
	unsigned long i = BIT_WORD(from), index;
	unsigned long end = min_t(unsigned long, (i + 1) * BITS_PER_LONG, cmd->nr_words);

	if (from >= cmd->nr_words)
		return cmd->nr_words;

	read_seqlock_excl_irq(&cmd->map_lock);
	index = find_next_bit(map->dirty, end, from);
	if (index >= end) {
		i = find_next_bit(map->summary, nr_longs, i + 1);
		index = i < nr_longs ? i * BITS_PER_LONG + __ffs(map->dirty[i]) :
				       cmd->nr_words;
	}
	read_sequnlock_excl_irq(&cmd->map_lock);

	return index;
}

static bool has_room(struct dm_clone_metadata *cmd)
{
	dm_block_t nr;

	return !dm_sm_get_nr_free(cmd->sm, &nr) &&
	       nr >= blocks_to_change_array(cmd, cmd->nr_metadata_blocks);
}

static void set_changed(struct dm_clone_metadata *cmd, bool changed)
{
	write_seqlock_irq(&cmd->map_lock);
	cmd->changed = changed;
	write_sequnlock_irq(&cmd->map_lock);
}

/* The first array at or after @from with dirty words, or the number of arrays. */
static u32 __next_dirty_array(struct dm_clone_metadata *cmd, struct region_map *map,
			      u32 from)
{
	u32 index = __next_dirty_word(cmd, map, from * WORDS_PER_ARRAY);

	return index < cmd->nr_words ? index / WORDS_PER_ARRAY : nr_arrays(cmd);
}

/*
 * Move the cursor to the next array of the round with dirty words.  Returns how
 * many are left of the round with that one; 0: it's over.
 */
static u32 __advance_round(struct dm_clone_metadata *cmd, struct region_map *map,
			   u32 left)
{
	while (left) {
		u32 array = __next_dirty_array(cmd, map, cmd->cursor);
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
 * One round takes all words that were dirty when it began.  Some that have got
 * dirty since may have to wait for the next one.
 */
static int __write_dirty_words(struct dm_clone_metadata *cmd, struct region_map *map)
{
	u32 left = cmd->round_left ?: nr_arrays(cmd);
	bool written = false;
	int r = 0;

	/* If it isn't committed another round has to begin. */
	cmd->round_left = 0;
	set_changed(cmd, false);

	while ((left = __advance_round(cmd, map, left))) {
		if (!has_room(cmd)) {
			r = written ? 0 : -ENOSPC;
			break;
		}

		r = __write_array(cmd, map, cmd->cursor);
		if (r)
			break;
		written = true;
		cmd->cursor++;
		left--;
	}

	cmd->commit_left = left;
	if (r || __next_dirty_word(cmd, map, 0) < cmd->nr_words)
		set_changed(cmd, true);

	return r;
}

/* From here on no region counts as committed. */
static void __begin_commit(struct dm_clone_metadata *cmd)
{
	WRITE_ONCE(cmd->commit_seq, cmd->commit_seq | 1);
	smp_wmb();	/* pairs with dm_clone_is_range_committed() */
}

/* From here on the dirty marks tell again what is committed. */
static void __end_commit(struct dm_clone_metadata *cmd)
{
	smp_wmb();	/* pairs with dm_clone_is_range_committed() */
	WRITE_ONCE(cmd->commit_seq, (cmd->commit_seq | 1) + 1);
}

/*
 * Take the blocks that the metadata device has more than when it was formatted.
 * The space map needs new bitmaps for them and puts these into the new room,
 * with the next superblock.
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
	if (!r && __map(cmd)) {
		__begin_commit(cmd);
		r = __write_dirty_words(cmd, __map(cmd));
	}
	/* A round that breaks off says nothing of what the next call needs. */
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
		/* The space map may take it for done; nothing may build on that. */
		if (r)
			__destroy_transaction(cmd);
		else
			__end_commit(cmd);
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
 * An error of a write that nobody needs would be found by the next commit.  How
 * the flush ends is of no interest: nothing relies on it.
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
	 * Writes the blocks of the transaction that are dirty.  They are free in
	 * the superblock it builds on, which is the one that a crash leaves: if
	 * that was in doubt, then it has been settled before the first of them.
	 * After a commit that has failed, or a settlement, nothing is dirty.
	 */
	dm_block_manager_reset(cmd->bm);
	__forget_write_errors(cmd);

	/*
	 * The words that were taken off their marks get marked again.  If that
	 * fails, all regions count as not committed.  So they do while the
	 * superblock just read may not be what a crash leaves, which the next
	 * pre_commit settles.
	 */
	r = __open_transaction(cmd, compare_word, &error);
	if (r || cmd->in_doubt)
		__begin_commit(cmd);
	else
		__end_commit(cmd);
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

/* If this fails the disk may have the mark or not, which is to be settled. */
int dm_clone_metadata_note_dest_zeroed(struct dm_clone_metadata *cmd)
{
	int r;

	down_write(&cmd->lock);
	r = __usable(cmd);
	if (!r && (!has_mark(&cmd->sb) || cmd->in_doubt)) {
		set_mark(&cmd->sb, true);
		r = __rewrite_superblock(cmd);
		if (r)
			set_mark(&cmd->sb, false);
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

void dm_clone_release_bitmap(struct dm_clone_metadata *cmd)
{
	struct region_map *map;

	down_write(&cmd->lock);
	write_seqlock_irq(&cmd->map_lock);
	map = __map(cmd);
	if (cmd->nr_hydrated != cmd->nr_regions || cmd->changed ||
	    (cmd->commit_seq & 1) || cmd->in_doubt)
		map = NULL;
	else
		RCU_INIT_POINTER(cmd->map, NULL);
	write_sequnlock_irq(&cmd->map_lock);
	up_write(&cmd->lock);

	if (map) {
		synchronize_rcu();
		free_map(map);
	}
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

	return dm_bitset_resize(&info, cmd->bitset_root, 0, cmd->nr_regions, false,
				&cmd->bitset_root);
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
	 * The zeroes may be in the disk's cache only, and what was there before
	 * come back in a crash: on top of blocks that are written now.
	 */
	*error = "Failed to flush the metadata device";
	r = blkdev_issue_flush(cmd->bdev);
	if (r) {
		DMERR("%pg: failed to flush: %d", cmd->bdev, r);
		return r;
	}

	*error = "Failed to format the metadata device";
	r = dm_tm_create_with_sm(cmd->bm, SUPERBLOCK_LOCATION, &cmd->tm, &cmd->sm);
	if (r) {
		cmd->tm = NULL;
		return r;
	}

	r = __create_bitset(cmd);
	if (!r)
		r = __commit_transaction(cmd);
	if (r) {
		DMERR("%pg: failed to format: %d", cmd->bdev, r);
		/* It was written a moment ago: the device has lost it. */
		return means_damage(r) ? -EIO : r;
	}

	/* From here on array blocks have our validator, not the library's. */
	__destroy_transaction(cmd);
	dm_block_manager_reset(cmd->bm);

	return __open_transaction(cmd, load_word, error);
}

static int __open_or_format(struct dm_clone_metadata *cmd, bool may_be_formatted,
			    char **error)
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
	 * The machine may have been reset before this superblock had been flushed,
	 * or the flush may have failed in the last activation.
	 */
	cmd->in_doubt = true;
	cmd->found_dest_zeroed = has_mark(&cmd->sb);

	return 0;
}

static void free_metadata(struct dm_clone_metadata *cmd)
{
	kvfree(cmd->fresh);
	free_map(__map(cmd));
	kfree(cmd);
}

static struct dm_clone_metadata *alloc_metadata(struct block_device *bdev,
						sector_t target_size,
						sector_t region_size)
{
	struct dm_clone_metadata *cmd = kzalloc(sizeof(*cmd), GFP_KERNEL);
	struct region_map *map;

	if (!cmd)
		return NULL;

	cmd->bdev = bdev;
	cmd->target_size = target_size;
	cmd->region_size = region_size;
	cmd->nr_regions = dm_sector_div_up(target_size, region_size);
	cmd->nr_words = DIV_ROUND_UP_ULL(cmd->nr_regions, 64);
	seqlock_init(&cmd->map_lock);
	init_rwsem(&cmd->lock);

	map = alloc_map(cmd->nr_words);
	RCU_INIT_POINTER(cmd->map, map);
	cmd->fresh = kvcalloc(BITS_TO_LONGS(nr_arrays(cmd)), sizeof(long), GFP_KERNEL);
	if (!map || !cmd->fresh) {
		free_metadata(cmd);
		return NULL;
	}

	return cmd;
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

bool dm_clone_metadata_is_new(struct dm_clone_metadata *cmd)
{
	return cmd->is_new;
}

bool dm_clone_metadata_matches(struct dm_clone_metadata *cmd, sector_t target_size,
			       sector_t region_size)
{
	return cmd->target_size == target_size && cmd->region_size == region_size;
}

void dm_clone_metadata_close(struct dm_clone_metadata *cmd)
{
	__destroy_transaction(cmd);
	dm_block_manager_destroy(cmd->bm);
	free_metadata(cmd);
}
