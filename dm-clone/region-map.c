// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The region map, see region-map.h.
 */

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seqlock.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "compat.h"
#include "region-map.h"

#define LONGS_PER_WORD	(DM_CLONE_REGIONS_PER_WORD / BITS_PER_LONG)

/*
 * There is a dirty bit for each word of 64 regions, the unit in which the disk
 * is written.  The summary has a bit for BITS_PER_LONG words, so that a commit
 * finds a few changes among 2^31 regions without a long search.  In total 64
 * regions take 65.02 bits.
 */
struct bits {
	unsigned long *hydrated;
	unsigned long *dirty;
	unsigned long *summary;
};

/*
 * Bits are set, made dirty and counted under a seqlock, so that whoever takes
 * it sees all or nothing of a change.  Bits are tested without any lock.
 */
struct dm_clone_region_map {
	unsigned long nr_regions;
	u32 nr_words;

	/* Any context, irqs off, innermost.  Protects what follows. */
	seqlock_t lock;
	/* NULL: all regions are hydrated, and that is committed. */
	struct bits __rcu *bits;
	unsigned long nr_hydrated;	/* read without the lock too */
	bool changed;			/* something is dirty */

	/*
	 * Odd from begin_commit to end_commit: words are not dirty any more,
	 * and not durable yet.
	 */
	unsigned int commit_seq;
};

static void free_bits(struct bits *bits)
{
	if (!bits)
		return;

	kvfree(bits->summary);
	kvfree(bits->dirty);
	kvfree(bits->hydrated);
	kfree(bits);
}

static struct bits *alloc_bits(u32 nr_words)
{
	struct bits *bits = kzalloc_obj(*bits, GFP_KERNEL);
	unsigned long nr_dirty = BITS_TO_LONGS(nr_words);

	if (!bits)
		return NULL;

	bits->hydrated = kvcalloc(nr_words, sizeof(u64), GFP_KERNEL);
	bits->dirty = kvcalloc(nr_dirty, sizeof(long), GFP_KERNEL);
	bits->summary = kvcalloc(BITS_TO_LONGS(nr_dirty), sizeof(long),
				 GFP_KERNEL);
	if (bits->hydrated && bits->dirty && bits->summary)
		return bits;

	free_bits(bits);
	return NULL;
}

struct dm_clone_region_map *dm_clone_region_map_create(unsigned long nr_regions)
{
	struct dm_clone_region_map *map = kzalloc_obj(*map, GFP_KERNEL);
	struct bits *bits;

	if (!map)
		return NULL;

	map->nr_regions = nr_regions;
	map->nr_words = DIV_ROUND_UP_ULL(nr_regions, DM_CLONE_REGIONS_PER_WORD);
	seqlock_init(&map->lock);

	bits = alloc_bits(map->nr_words);
	if (!bits) {
		kfree(map);
		return NULL;
	}
	RCU_INIT_POINTER(map->bits, bits);

	return map;
}

/* For those who write the map or set bits: nobody frees them meanwhile. */
static struct bits *__bits(struct dm_clone_region_map *map)
{
	return rcu_dereference_protected(map->bits, true);
}

void dm_clone_region_map_destroy(struct dm_clone_region_map *map)
{
	if (!map)
		return;

	free_bits(__bits(map));
	kfree(map);
}

/*
 *---------------------------------------------------------------
 * Setting and asking
 *---------------------------------------------------------------
 */

static void __mark_word_dirty(struct dm_clone_region_map *map,
			      struct bits *bits, u32 index)
{
	lockdep_assert_held(&map->lock.lock);

	__set_bit(index, bits->dirty);
	__set_bit(index / BITS_PER_LONG, bits->summary);
	map->changed = true;
}

/* Set the bits of @mask in long @i. */
static void __set_bits(struct dm_clone_region_map *map, struct bits *bits,
		       unsigned long i, unsigned long mask)
{
	mask &= ~bits->hydrated[i];
	if (!mask)
		return;

	WRITE_ONCE(bits->hydrated[i], bits->hydrated[i] | mask);
	__mark_word_dirty(map, bits, i / LONGS_PER_WORD);
	WRITE_ONCE(map->nr_hydrated, map->nr_hydrated + hweight_long(mask));
}

bool dm_clone_set_range_hydrated(struct dm_clone_region_map *map,
				 unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, next;
	bool was_changed, commit;
	struct bits *bits;
	unsigned long flags;

	write_seqlock_irqsave(&map->lock, flags);
	was_changed = map->changed;
	bits = __bits(map);

	for (; bits && start < end; start = next) {
		next = min(end,
			   round_down(start, BITS_PER_LONG) + BITS_PER_LONG);
		__set_bits(map, bits, BIT_WORD(start),
			   GENMASK((next - 1) % BITS_PER_LONG, start % BITS_PER_LONG));
	}

	commit = map->changed != was_changed || map->nr_hydrated == map->nr_regions;
	write_sequnlock_irqrestore(&map->lock, flags);

	return commit;
}

bool dm_clone_is_region_hydrated(struct dm_clone_region_map *map,
				 unsigned long region)
{
	struct bits *bits;
	bool r;

	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	r = !bits || test_bit(region, bits->hydrated);
	rcu_read_unlock();

	return r;
}

bool dm_clone_is_range_hydrated(struct dm_clone_region_map *map,
				unsigned long start, unsigned long nr)
{
	struct bits *bits;
	bool r;

	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	if (!bits)
		r = true;
	else if (nr == 1)
		r = test_bit(start, bits->hydrated);	/* most frequent */
	else
		r = find_next_zero_bit(bits->hydrated, start + nr, start) >= start + nr;
	rcu_read_unlock();

	return r;
}

bool dm_clone_find_run(struct dm_clone_region_map *map, unsigned long start,
		       unsigned long end, unsigned long *run_end)
{
	struct bits *bits;
	bool hydrated;

	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	hydrated = !bits || test_bit(start, bits->hydrated);
	if (!bits)
		*run_end = end;
	else if (hydrated)
		*run_end = find_next_zero_bit(bits->hydrated, end, start);
	else
		*run_end = find_next_bit(bits->hydrated, end, start + 1);
	rcu_read_unlock();

	return hydrated;
}

bool dm_clone_is_range_unhydrated(struct dm_clone_region_map *map,
				  unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, run_end;

	return !dm_clone_find_run(map, start, end, &run_end) && run_end == end;
}

unsigned long dm_clone_find_next_unhydrated_region(struct dm_clone_region_map *map,
						   unsigned long start)
{
	unsigned long r = map->nr_regions;
	struct bits *bits;

	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	if (bits)
		r = find_next_zero_bit(bits->hydrated, map->nr_regions, start);
	rcu_read_unlock();

	return r;
}

/* The bits of [start, end) that are not set, in the long of @start only. */
static unsigned int nr_unset_in_long(struct dm_clone_region_map *map,
				     unsigned long start, unsigned long end)
{
	unsigned long mask = BITMAP_FIRST_WORD_MASK(start), set = ~0UL;
	struct bits *bits;

	if (end < round_down(start, BITS_PER_LONG) + BITS_PER_LONG)
		mask &= BITMAP_LAST_WORD_MASK(end);

	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	if (bits)
		set = READ_ONCE(bits->hydrated[BIT_WORD(start)]);
	rcu_read_unlock();

	return hweight_long(~set & mask);
}

unsigned long dm_clone_nr_of_unhydrated(struct dm_clone_region_map *map,
					unsigned long start, unsigned long nr)
{
	unsigned long end = start + nr, sum = 0;

	while (start < end) {
		sum += nr_unset_in_long(map, start, end);
		start = round_down(start, BITS_PER_LONG) + BITS_PER_LONG;
		if (!(start % SZ_1M))
			cond_resched();
	}

	return sum;
}

bool dm_clone_is_range_committed(struct dm_clone_region_map *map,
				 unsigned long start, unsigned long nr)
{
	unsigned long first = start / DM_CLONE_REGIONS_PER_WORD;
	unsigned long end = (start + nr - 1) / DM_CLONE_REGIONS_PER_WORD + 1;
	unsigned int commit_seq, map_seq;
	struct bits *bits;
	bool clean;

	/*
	 * The caller has found the bits set.  Has that writer made them dirty
	 * yet?
	 */
	smp_rmb();
	map_seq = raw_read_seqcount(&map->lock.seqcount);
	commit_seq = READ_ONCE(map->commit_seq);
	if ((map_seq & 1) || (commit_seq & 1))
		return false;

	smp_rmb();	/* pairs with begin_commit and end_commit */
	rcu_read_lock();
	bits = rcu_dereference(map->bits);
	clean = !bits || find_next_bit(bits->dirty, end, first) >= end;
	rcu_read_unlock();

	/* They are clean.  Or has a commit just taken them? */
	smp_rmb();
	return clean && READ_ONCE(map->commit_seq) == commit_seq &&
	       !read_seqcount_retry(&map->lock.seqcount, map_seq);
}

bool dm_clone_changed_this_transaction(struct dm_clone_region_map *map)
{
	unsigned long flags;
	bool r;

	read_seqlock_excl_irqsave(&map->lock, flags);
	r = map->changed || (READ_ONCE(map->commit_seq) & 1);
	read_sequnlock_excl_irqrestore(&map->lock, flags);

	return r;
}

bool dm_clone_is_hydration_done(struct dm_clone_region_map *map)
{
	return dm_clone_nr_of_hydrated_regions(map) == map->nr_regions;
}

unsigned long dm_clone_nr_of_hydrated_regions(struct dm_clone_region_map *map)
{
	return READ_ONCE(map->nr_hydrated);
}

/*
 *---------------------------------------------------------------
 * Writing to the disk
 *---------------------------------------------------------------
 */

u32 dm_clone_region_map_nr_words(struct dm_clone_region_map *map)
{
	return map->nr_words;
}

/* The last word may have bits that belong to no region. */
static u64 word_mask(struct dm_clone_region_map *map, u32 index)
{
	unsigned int tail = map->nr_regions % DM_CLONE_REGIONS_PER_WORD;

	return index == map->nr_words - 1 && tail ? (1ULL << tail) - 1 : ~0ULL;
}

static u64 get_word(const struct bits *bits, u32 index)
{
	const unsigned long *p = bits->hydrated + index * LONGS_PER_WORD;
	u64 word = READ_ONCE(p[0]);

	if (LONGS_PER_WORD > 1)
		word |= (u64)READ_ONCE(p[LONGS_PER_WORD - 1]) << 32;

	return word;
}

void dm_clone_region_map_load_word(struct dm_clone_region_map *map, u32 index,
				   u64 word)
{
	unsigned long *p = __bits(map)->hydrated + index * LONGS_PER_WORD;

	word &= word_mask(map, index);
	p[0] = word;
	if (LONGS_PER_WORD > 1)
		p[LONGS_PER_WORD - 1] = word >> 32;
	map->nr_hydrated += hweight64(word);
}

void dm_clone_region_map_compare_word(struct dm_clone_region_map *map,
				      u32 index, u64 word)
{
	struct bits *bits = __bits(map);

	if (!bits || (word & word_mask(map, index)) == get_word(bits, index))
		return;

	write_seqlock_irq(&map->lock);
	__mark_word_dirty(map, bits, index);
	write_sequnlock_irq(&map->lock);
}

u32 dm_clone_region_map_next_dirty_word(struct dm_clone_region_map *map,
					u32 from)
{
	unsigned long nr_longs = BITS_TO_LONGS(map->nr_words);
	unsigned long i = BIT_WORD(from), index;
	unsigned long end = min_t(unsigned long, (i + 1) * BITS_PER_LONG,
				  map->nr_words);
	struct bits *bits = __bits(map);

	if (!bits || from >= map->nr_words)
		return map->nr_words;

	read_seqlock_excl_irq(&map->lock);
	index = find_next_bit(bits->dirty, end, from);
	if (index >= end) {
		i = find_next_bit(bits->summary, nr_longs, i + 1);
		index = i < nr_longs ? i * BITS_PER_LONG + __ffs(bits->dirty[i]) :
				       map->nr_words;
	}
	read_sequnlock_excl_irq(&map->lock);

	return index;
}

/* Bits set meanwhile are dirty again, so it does not matter which is first. */
static void copy_words(const struct bits *bits, u32 first, u32 nr,
		       __le64 *words)
{
#ifdef __LITTLE_ENDIAN
	/* The same bytes. */
	data_race(memcpy(words, bits->hydrated + first * LONGS_PER_WORD,
			 nr * sizeof(*words)));
#else
	u32 i;

	for (i = 0; i < nr; i++)
		words[i] = cpu_to_le64(get_word(bits, first + i));
#endif
}

void dm_clone_region_map_take_words(struct dm_clone_region_map *map, u32 first,
				    u32 nr, __le64 *words)
{
	struct bits *bits = __bits(map);
	unsigned long i = first;

	write_seqlock_irq(&map->lock);
	for_each_set_bit_from(i, bits->dirty, first + nr) {
		__clear_bit(i, bits->dirty);
		if (!bits->dirty[BIT_WORD(i)])
			__clear_bit(BIT_WORD(i), bits->summary);
	}
	write_sequnlock_irq(&map->lock);

	copy_words(bits, first, nr, words);
}

void dm_clone_region_map_set_changed(struct dm_clone_region_map *map,
				     bool changed)
{
	write_seqlock_irq(&map->lock);
	map->changed = changed;
	write_sequnlock_irq(&map->lock);
}

void dm_clone_region_map_begin_commit(struct dm_clone_region_map *map)
{
	WRITE_ONCE(map->commit_seq, map->commit_seq | 1);
	smp_wmb();	/* pairs with dm_clone_is_range_committed() */
}

/* From here on the dirty bits tell again what is committed. */
void dm_clone_region_map_end_commit(struct dm_clone_region_map *map)
{
	smp_wmb();	/* pairs with dm_clone_is_range_committed() */
	WRITE_ONCE(map->commit_seq, (map->commit_seq | 1) + 1);
}

void dm_clone_region_map_release(struct dm_clone_region_map *map)
{
	struct bits *bits;

	write_seqlock_irq(&map->lock);
	bits = __bits(map);
	if (map->nr_hydrated != map->nr_regions || map->changed || (map->commit_seq & 1))
		bits = NULL;
	else
		RCU_INIT_POINTER(map->bits, NULL);
	write_sequnlock_irq(&map->lock);

	if (bits) {
		synchronize_rcu();
		free_bits(bits);
	}
}
