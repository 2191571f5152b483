// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Buffers, see buffer.h.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>

#include "buffer.h"
#include "compat.h"

/* The unit in which zeroes are looked for, in sectors: 64 KiB. */
#define GRANULE		128U

/*
 * Buffers consist of chunks of 64 KiB, or of pages if memory is fragmented; a
 * small buffer is a single chunk of its size.
 */
#define CHUNK_ORDER	get_order(64 * 1024)
#define SMALL_BUFFER	(16 * 1024)

/* The default bound: this much, or this part of a small machine's memory. */
#define DEFAULT_KIB	(32U << 10)
#define DEFAULT_SHIFT	6

/* Chunks that were not needed for this long, in jiffies, are freed. */
#define KEEP_TIME	HZ

static unsigned int max_kib;
module_param_named(clone_buffer_kib, max_kib, uint, 0644);
MODULE_PARM_DESC(clone_buffer_kib,
		 "KiB of memory for data that is being copied, for all clones together");

/* Pages in buffers.  Chunks on their way from the cache count twice. */
static atomic_long_t nr_pages_used;

/*
 *---------------------------------------------------------------
 * Chunks that are not in use.  They are kept for a moment because kernels may
 * clear all memory that they hand out, which is the largest cost of a copy.
 *---------------------------------------------------------------
 */

static DEFINE_SPINLOCK(cache_lock);	/* the next three; any context */
static LIST_HEAD(cache);
static unsigned long nr_cached;		/* chunks */
static unsigned long nr_unneeded;	/* the least number of late */

/* On the kernel's workqueue, whose name has changed: nobody waits for this. */
static void age_cache(struct work_struct *work);
static DECLARE_DELAYED_WORK(age_work, age_cache);

static unsigned long max_pages(void)
{
	return READ_ONCE(max_kib) >> (PAGE_SHIFT - 10);
}

static unsigned long nr_pages_held(void)
{
	return atomic_long_read(&nr_pages_used) + (READ_ONCE(nr_cached) << CHUNK_ORDER);
}

static struct page *take_cached(void)
{
	struct page *page;
	unsigned long flags;

	spin_lock_irqsave(&cache_lock, flags);
	page = list_first_entry_or_null(&cache, struct page, lru);
	if (page) {
		list_del(&page->lru);
		nr_cached--;
		nr_unneeded = min(nr_unneeded, nr_cached);
	}
	spin_unlock_irqrestore(&cache_lock, flags);

	return page;
}

static void cache_chunk(struct page *page)
{
	unsigned long flags;

	spin_lock_irqsave(&cache_lock, flags);
	list_add(&page->lru, &cache);
	if (!nr_cached++)
		schedule_delayed_work(&age_work, KEEP_TIME);
	spin_unlock_irqrestore(&cache_lock, flags);
}

/* Returns the number of chunks freed, @nr at most. */
static unsigned long free_cached(unsigned long nr)
{
	unsigned long freed;
	struct page *page;

	for (freed = 0; freed < nr; freed++) {
		page = take_cached();
		if (!page)
			break;
		__free_pages(page, CHUNK_ORDER);
	}

	return freed;
}

/* Free what was not needed since the last time. */
static void age_cache(struct work_struct *work)
{
	unsigned long nr;

	spin_lock_irq(&cache_lock);
	nr = nr_unneeded;
	spin_unlock_irq(&cache_lock);

	free_cached(nr);

	spin_lock_irq(&cache_lock);
	nr_unneeded = nr_cached;
	if (nr_cached)
		schedule_delayed_work(&age_work, KEEP_TIME);
	spin_unlock_irq(&cache_lock);
}

static unsigned long count_cached(struct shrinker *shrinker,
				  struct shrink_control *sc)
{
	return (READ_ONCE(nr_cached) << CHUNK_ORDER) ?: SHRINK_EMPTY;
}

static unsigned long scan_cached(struct shrinker *shrinker,
				 struct shrink_control *sc)
{
	return free_cached(DIV_ROUND_UP(sc->nr_to_scan, 1UL << CHUNK_ORDER)) << CHUNK_ORDER;
}

static struct page *get_chunk(unsigned int order, gfp_t gfp)
{
	struct page *page = order == CHUNK_ORDER ? take_cached() : NULL;

	return page ?: alloc_pages(gfp, order);
}

static void put_chunk(struct page *page, unsigned int order)
{
	if (order == CHUNK_ORDER && nr_pages_held() + (1UL << order) <= max_pages())
		cache_chunk(page);
	else
		__free_pages(page, order);
}

static int get_held_kib(char *result, const struct kernel_param *kp)
{
	return sysfs_emit(result, "%lu\n", nr_pages_held() << (PAGE_SHIFT - 10));
}

static const struct kernel_param_ops held_ops = { .get = get_held_kib };
module_param_cb(clone_buffer_held_kib, &held_ops, NULL, 0444);
MODULE_PARM_DESC(clone_buffer_held_kib,
		 "KiB of clone_buffer_kib that are in use, or kept for a moment");

static struct shrinker *shrinker;

int dm_clone_memory_init(void)
{
	if (!max_kib)
		max_kib = min_t(unsigned long, DEFAULT_KIB,
				totalram_pages() >> DEFAULT_SHIFT << (PAGE_SHIFT - 10));

	shrinker = dm_clone_create_shrinker(count_cached, scan_cached);

	return shrinker ? 0 : -ENOMEM;
}

void dm_clone_memory_exit(void)
{
	dm_clone_destroy_shrinker(shrinker);
	cancel_delayed_work_sync(&age_work);
	free_cached(ULONG_MAX);
}

/*
 *---------------------------------------------------------------
 * The bound
 *---------------------------------------------------------------
 */

static void uncharge(struct dm_clone_memory *memory, unsigned int nr)
{
	if (!memory)
		return;

	atomic_long_sub(nr, &memory->nr_pages);
	atomic_long_sub(nr, &nr_pages_used);
}

/* Of two at once both may be refused what one could have: no harm is done. */
static bool charge(struct dm_clone_memory *memory, unsigned int nr)
{
	long max = max_pages(), held;

	if (!memory)
		return true;

	held = atomic_long_add_return(nr, &memory->nr_pages);
	if (held > max - atomic_long_add_return(nr, &nr_pages_used)) {
		uncharge(memory, nr);
		return false;
	}

	return true;
}

/*
 *---------------------------------------------------------------
 * Buffers
 *---------------------------------------------------------------
 */

static unsigned int nr_pages(struct dm_clone_buffer *buffer)
{
	return buffer->nr_chunks << buffer->order;
}

static void free_chunks(struct dm_clone_buffer *buffer)
{
	unsigned int i;

	for (i = 0; i < buffer->nr_chunks; i++)
		put_chunk(buffer->chunks[i], buffer->order);
	kfree(buffer);
}

void dm_clone_buffer_free(struct dm_clone_buffer *buffer)
{
	if (!buffer)
		return;

	uncharge(buffer->memory, nr_pages(buffer));
	free_chunks(buffer);
}

/* One allocation holds the vectors too, two of them for a shared chunk. */
static struct dm_clone_buffer *alloc_of_order(unsigned int order,
					      unsigned int nr,
					      unsigned int nr_parts, gfp_t gfp)
{
	struct dm_clone_buffer *buffer;
	size_t size = struct_size(buffer, chunks, nr);

	buffer = kmalloc(size + array_size(nr + nr_parts - 1, sizeof(*buffer->vecs)), gfp);
	if (!buffer)
		return NULL;

	buffer->order = order;
	buffer->vecs = (void *)buffer + size;
	for (buffer->nr_chunks = 0; buffer->nr_chunks < nr; buffer->nr_chunks++) {
		struct page *page = get_chunk(order, gfp);

		if (!page) {
			free_chunks(buffer);
			return NULL;
		}
		buffer->chunks[buffer->nr_chunks] = page;
	}

	return buffer;
}

struct dm_clone_buffer *dm_clone_buffer_alloc(struct dm_clone_memory *memory,
					      unsigned int sectors,
					      unsigned int nr_parts, gfp_t gfp)
{
	unsigned int bytes = sectors << SECTOR_SHIFT;
	unsigned int order = bytes > SMALL_BUFFER ? CHUNK_ORDER : get_order(bytes);
	unsigned int nr = DIV_ROUND_UP(bytes, PAGE_SIZE << order);
	struct dm_clone_buffer *buffer = NULL;

	if (!charge(memory, nr << order))
		return NULL;

	/* Compound, since network devices take references to single pages. */
	gfp |= __GFP_NOWARN;
	if (order)
		buffer = alloc_of_order(order, nr, nr_parts,
					gfp | __GFP_NORETRY | __GFP_COMP);
	if (!buffer)
		buffer = alloc_of_order(0, nr << order, nr_parts, gfp);
	if (!buffer) {
		uncharge(memory, nr << order);
		return NULL;
	}

	buffer->memory = memory;

	/* Kept memory makes way for memory in use. */
	while (nr_pages_held() > max_pages() && free_cached(1))
		;

	return buffer;
}

/* The chunk of byte @offset; *@len is cut to what there is up to its end. */
static struct page *chunk_at(struct dm_clone_buffer *buffer,
			     unsigned int offset, unsigned int *begin,
			     unsigned int *len)
{
	unsigned int size = PAGE_SIZE << buffer->order;

	*begin = offset % size;
	*len = min(*len, size - *begin);

	return buffer->chunks[offset / size];
}

void dm_clone_buffer_init_bio(struct dm_clone_buffer *buffer, struct bio *bio,
			      struct block_device *bdev, blk_opf_t opf,
			      unsigned int part, unsigned int offset,
			      unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int size = PAGE_SIZE << buffer->order;
	unsigned int first = at / size;

	bio_init(bio, bdev, buffer->vecs + first + part,
		 DIV_ROUND_UP(end, size) - first, opf);

	while (at < end) {
		unsigned int begin, len = end - at;
		struct page *chunk = chunk_at(buffer, at, &begin, &len);

		__bio_add_page(bio, chunk, len, begin);
		at += len;
	}
}

/* Chunks are not in high memory: their pages are contiguous in memory. */
void dm_clone_buffer_copy_to(struct dm_clone_buffer *buffer,
			     unsigned int offset, struct bio *bio)
{
	unsigned int at = offset << SECTOR_SHIFT;
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_segment(bv, bio, iter) {
		unsigned int done = 0;

		while (done < bv.bv_len) {
			unsigned int begin, len = bv.bv_len - done;
			struct page *chunk = chunk_at(buffer, at, &begin, &len);

			memcpy_to_page(bv.bv_page, bv.bv_offset + done,
				       page_address(chunk) + begin, len);
			done += len;
			at += len;
		}
	}
}

/* The address of byte @at; *@len: the bytes there up to @end, or fewer. */
static void *address_at(struct dm_clone_buffer *buffer, unsigned int at,
			unsigned int end, unsigned int *len)
{
	unsigned int begin;
	struct page *chunk;

	*len = end - at;
	chunk = chunk_at(buffer, at, &begin, len);

	return page_address(chunk) + begin;
}

static bool is_zero(struct dm_clone_buffer *buffer, unsigned int offset,
		    unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int len;

	while (at < end) {
		void *address = address_at(buffer, at, end, &len);

		if (memchr_inv(address, 0, len))
			return false;
		at += len;
	}

	return true;
}

/* memchr_inv() stops at the first byte that is not zero: data is cheap. */
unsigned int dm_clone_buffer_find_run(struct dm_clone_buffer *buffer,
				      unsigned int offset, unsigned int end,
				      sector_t sector, bool *zero)
{
	unsigned int at = offset, len;

	for (; at < end; at += len, sector += len) {
		bool z;

		len = min_t(sector_t, end - at,
			    GRANULE - (sector & (GRANULE - 1)));
		z = is_zero(buffer, at, len);
		if (at == offset)
			*zero = z;
		else if (z != *zero)
			break;
	}

	return at - offset;
}

void dm_clone_buffer_clear(struct dm_clone_buffer *buffer, unsigned int offset,
			   unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int len;

	while (at < end) {
		void *address = address_at(buffer, at, end, &len);

		memset(address, 0, len);
		at += len;
	}
}
