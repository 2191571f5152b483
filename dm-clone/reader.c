// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The reader, see reader.h.
 *
 * The life of a read:
 *
 *	prepared: the regions are claimed, the memory is there
 *	  |	dm_clone_reader_submit()
 *	reading: up to three bios, one of them for the user
 *	  |	part_read_endio(): the user's bio gets its data, and ends
 *	  |	the last of them: put_reading()
 *	in to_write
 *	  |	work: do_write_reads()
 *	writing
 *	  |	read_write_endio()
 *	done: the bits are set, the claim is released, the memory is freed
 */

#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/jiffies.h>
#include <linux/minmax.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "buffer.h"
#include "compat.h"
#include "reader.h"

/* The most memory in use, all in all and for reads ahead: 16 and 8 MiB. */
#define MAX_MEMORY	(16U << (20 - SECTOR_SHIFT))
#define MAX_AHEAD_MEMORY (MAX_MEMORY / 2)

/*
 * After an error nothing is hydrated for this long, in jiffies: each attempt
 * reads whole regions, and makes writes to them wait.
 */
#define PAUSE		HZ

/* How far to read ahead, in sectors: at first, at most, and in which steps. */
#define FIRST_AHEAD	(256U << (10 - SECTOR_SHIFT))
#define MAX_AHEAD	(4U << (20 - SECTOR_SHIFT))
#define AHEAD_STEP	(256U << (10 - SECTOR_SHIFT))

/* A buffer is read in parts: the user's, and those before and after it. */
#define NR_PARTS	3

struct dm_clone_read {
	struct dm_clone_reader *reader;
	struct dm_clone_claim claim;
	unsigned int memory;		/* accounted for, in sectors */
	sector_t sector;		/* the regions, as in the buffer */
	unsigned int nr_sectors;

	struct bio *user;		/* NULL: none, or it has ended */
	bool watched;			/* by the engine, which steps back, */
	u64 start;			/* since then */
	struct dm_clone_buffer *buffer;
	struct bio bio;			/* the user's part; also the write */
	struct bio head;		/* the rest of the regions */
	struct bio tail;
	atomic_t nr_reading;		/* bios, and 1 until all are started */

	struct dm_clone_outcome outcome; /* reader->lock */
	struct list_head list;		/* in to_write; reader->lock */
};

struct dm_clone_reader {
	const struct dm_clone_geometry *geo;
	struct dm_clone_region_map *map;
	struct dm_clone_claims *claims;
	struct dm_clone_hydration *hydration;
	struct workqueue_struct *wq_source;
	struct workqueue_struct *wq_dest;

	struct work_struct write_work;
	struct work_struct ahead_work;
	struct dm_clone_memory memory;

	spinlock_t lock;		/* protects the rest; any context */
	bool running;
	u64 resume_at;			/* not before this, in 64-bit jiffies */
	unsigned int nr_sectors;	/* of reads, prepared but not done */
	unsigned long nr_reads;		/* the same */
	wait_queue_head_t idle;
	struct list_head to_write;

	/* See "Ahead of the user". */
	unsigned long ahead_begin;
	unsigned long ahead_next;	/* to be read ahead */
	unsigned long ahead_end;
	unsigned int window;		/* in sectors; 0: not in sequence */
};

/*
 *---------------------------------------------------------------
 * Memory
 *---------------------------------------------------------------
 */

/* Account for a read, if there may be another one with this much memory. */
static bool get_memory(struct dm_clone_reader *reader, unsigned int nr_sectors,
		       unsigned int most)
{
	unsigned long flags;
	bool r;

	spin_lock_irqsave(&reader->lock, flags);
	r = reader->running && reader->nr_sectors + nr_sectors <= most &&
	    time_after_eq64(get_jiffies_64(), reader->resume_at);
	if (r) {
		reader->nr_sectors += nr_sectors;
		reader->nr_reads++;
	}
	spin_unlock_irqrestore(&reader->lock, flags);

	return r;
}

/* The last step of a read: dm_clone_reader_wait() may be waiting for it. */
static void put_memory(struct dm_clone_reader *reader, unsigned int nr_sectors)
{
	unsigned long flags;

	spin_lock_irqsave(&reader->lock, flags);
	reader->nr_sectors -= nr_sectors;
	if (!--reader->nr_reads)
		wake_up(&reader->idle);
	spin_unlock_irqrestore(&reader->lock, flags);
}

static void release_regions(struct dm_clone_read *read)
{
	dm_clone_hydration_release(read->reader->hydration, &read->claim);
}

static void free_read(struct dm_clone_read *read)
{
	struct dm_clone_reader *reader = read->reader;
	unsigned int memory = read->memory;

	dm_clone_buffer_free(read->buffer);
	kfree(read);
	put_memory(reader, memory);
}

/*
 *---------------------------------------------------------------
 * The end of a read
 *---------------------------------------------------------------
 */

static void pause_after_error(struct dm_clone_reader *reader)
{
	unsigned long flags;

	spin_lock_irqsave(&reader->lock, flags);
	reader->resume_at = get_jiffies_64() + PAUSE;
	spin_unlock_irqrestore(&reader->lock, flags);
}

static void end_read(struct dm_clone_read *read)
{
	struct dm_clone_reader *reader = read->reader;
	bool failed = read->outcome.status;

	dm_clone_hydration_end(reader->hydration, &read->claim,
			       DM_CLONE_BY_READ, &read->outcome);
	release_regions(read);
	if (failed)
		pause_after_error(reader);
	free_read(read);
}

static void note_read_error(struct dm_clone_read *read, struct bio *bio,
			    sector_t sector)
{
	unsigned long flags;

	spin_lock_irqsave(&read->reader->lock, flags);
	if (!read->outcome.status) {
		read->outcome.status = bio->bi_status;
		read->outcome.read_failed = bio_op(bio) == REQ_OP_READ;
		read->outcome.sector = sector;
	}
	spin_unlock_irqrestore(&read->reader->lock, flags);
}

static void read_write_endio(struct bio *bio)
{
	struct dm_clone_read *read = bio->bi_private;

	if (bio->bi_status)
		note_read_error(read, bio, read->sector);
	end_read(read);
}

static struct dm_clone_read *pop_read(struct dm_clone_reader *reader)
{
	struct dm_clone_read *read;

	spin_lock_irq(&reader->lock);
	read = list_first_entry_or_null(&reader->to_write, struct dm_clone_read,
					list);
	if (read)
		list_del(&read->list);
	spin_unlock_irq(&reader->lock);

	return read;
}

static void do_write_reads(struct work_struct *work)
{
	struct dm_clone_reader *reader =
		container_of(work, struct dm_clone_reader, write_work);
	struct dm_clone_read *read;
	struct blk_plug plug;

	blk_start_plug(&plug);
	while ((read = pop_read(reader))) {
		struct bio *bio = &read->bio;

		dm_clone_buffer_init_bio(read->buffer, bio, reader->geo->dest,
					 REQ_OP_WRITE, 0, 0, read->nr_sectors);
		read->outcome.wrote = true;
		bio->bi_iter.bi_sector = read->sector;
		bio->bi_end_io = read_write_endio;
		bio->bi_private = read;
		submit_bio(bio);
	}
	blk_finish_plug(&plug);
}

/*
 *---------------------------------------------------------------
 * Reading
 *---------------------------------------------------------------
 */

/* A bio of the read has ended, or the last of them has been started. */
static void put_reading(struct dm_clone_read *read)
{
	struct dm_clone_reader *reader = read->reader;
	unsigned long flags;

	if (!atomic_dec_and_test(&read->nr_reading))
		return;

	if (read->outcome.status) {
		end_read(read);
		return;
	}

	/* Under the lock: once the work has @read the reader may go away. */
	spin_lock_irqsave(&reader->lock, flags);
	list_add_tail(&read->list, &reader->to_write);
	queue_work(reader->wq_dest, &reader->write_work);
	spin_unlock_irqrestore(&reader->lock, flags);
}

static void end_user(struct dm_clone_read *read, blk_status_t status)
{
	struct bio *user = read->user;

	if (!user)
		return;

	read->user = NULL;
	if (read->watched)
		dm_clone_hydration_user_end(read->reader->hydration,
					    read->start);
	if (!status)
		dm_clone_buffer_copy_to(read->buffer,
					user->bi_iter.bi_sector - read->sector,
					user);
	user->bi_status = status;
	bio_endio(user);
}

/* Once the bios are submitted only the user's part looks at read->user. */
static void part_read_endio(struct bio *bio)
{
	struct dm_clone_read *read = bio->bi_private;

	if (bio->bi_status)
		note_read_error(read, bio, read->sector);
	if (bio == &read->bio)
		end_user(read, bio->bi_status);
	put_reading(read);
}

/*
 * @nr_before: bios for parts before this one in the buffer.  The user's part is
 *	charged to the user's cgroup, the rest is not.
 */
static void submit_part(struct dm_clone_read *read, struct bio *bio,
			unsigned int nr_before, sector_t begin, sector_t end,
			blk_opf_t opf)
{
	if (begin == end)
		return;

	dm_clone_buffer_init_bio(read->buffer, bio, read->reader->geo->source,
				 opf, nr_before, begin - read->sector,
				 end - begin);
	bio->bi_iter.bi_sector = begin;
	bio->bi_end_io = part_read_endio;
	bio->bi_private = read;

	atomic_inc(&read->nr_reading);
	if (bio == &read->bio && read->user) {
		bio->bi_ioprio = read->user->bi_ioprio;
		dm_submit_bio_remap(read->user, bio);
	} else {
		bio_associate_blkg_from_css(bio, blkcg_root_css);
		submit_bio_noacct(bio);
	}
}

void dm_clone_reader_submit(struct dm_clone_read *read, struct bio *bio)
{
	sector_t begin = read->sector, end = begin + read->nr_sectors;
	sector_t from = begin, to = end;
	struct dm_clone_hydration *h = read->reader->hydration;
	blk_opf_t opf = REQ_OP_READ;

	dm_clone_hydration_begin(h, &read->claim);

	if (bio) {
		from = bio->bi_iter.bi_sector;
		to = bio_end_sector(bio);
		opf |= bio->bi_opf & (REQ_SYNC | REQ_META | REQ_PRIO);
		read->watched = dm_clone_hydration_is_watching(h);
	}
	if (read->watched)
		read->start = dm_clone_hydration_user_begin(h);

	read->user = bio;
	atomic_set(&read->nr_reading, 1);
	submit_part(read, &read->bio, 1, from, to, opf);
	submit_part(read, &read->head, 0, begin, from, REQ_OP_READ);
	submit_part(read, &read->tail, 2, to, end, REQ_OP_READ);
	put_reading(read);
}

unsigned long dm_clone_read_end(struct dm_clone_read *read)
{
	return read->claim.end;
}

static struct dm_clone_read *alloc_read(struct dm_clone_reader *reader,
					unsigned int nr_sectors,
					unsigned int most)
{
	struct dm_clone_read *read;

	if (!get_memory(reader, nr_sectors, most))
		return NULL;

	read = kzalloc_obj(*read, DM_CLONE_GFP_NOWAIT);
	if (!read) {
		put_memory(reader, nr_sectors);
		return NULL;
	}

	read->reader = reader;
	read->memory = nr_sectors;
	read->buffer = dm_clone_buffer_alloc(&reader->memory, nr_sectors,
					     NR_PARTS, DM_CLONE_GFP_NOWAIT);
	if (!read->buffer) {
		free_read(read);
		return NULL;
	}

	return read;
}

/* @most: memory that may be in use then, in sectors */
static enum dm_clone_readiness
prepare(struct dm_clone_reader *reader, unsigned long begin, unsigned long end,
	unsigned int most, struct dm_clone_read **result,
	unsigned long *taken_until)
{
	const struct dm_clone_geometry *geo = reader->geo;
	sector_t sector = dm_clone_region_start(geo, begin);
	struct dm_clone_read *read;

	end = min(end, begin + (DM_CLONE_MAX_READ >> geo->region_shift));

	/* A claim would be in the way of zeroing, which passes over it. */
	if (dm_clone_hydration_is_to_zero(reader->hydration, begin, end))
		return DM_CLONE_READ_NOT_NOW;

	read = alloc_read(reader, dm_clone_range_end(geo, end) - sector, most);
	if (!read)
		return DM_CLONE_READ_NOT_NOW;

	if (!dm_clone_claim_free_part(reader->claims, &read->claim, begin, end,
				      taken_until)) {
		free_read(read);
		return DM_CLONE_READ_TAKEN;
	}

	/* Now that we own them: are they still to be copied? */
	if (dm_clone_hydration_is_to_zero(reader->hydration, begin,
					  read->claim.end)) {
		release_regions(read);
		free_read(read);
		return DM_CLONE_READ_NOT_NOW;
	}
	if (!dm_clone_is_range_unhydrated(reader->map, begin,
					  read->claim.end - begin)) {
		release_regions(read);
		free_read(read);
		return DM_CLONE_READ_CHANGED;
	}

	read->sector = sector;
	read->nr_sectors = dm_clone_range_end(geo, read->claim.end) - sector;
	*result = read;

	return DM_CLONE_READ_READY;
}

/*
 *---------------------------------------------------------------
 * Ahead of the user
 *
 * A read that begins where the last one ended, or where the reading ahead for
 * it ended, is in sequence: regions are hydrated @window ahead of it, and twice
 * as far the next time.  Only reads of unhydrated regions come here: those that
 * find what was read ahead cost no more than other reads of hydrated regions.
 *---------------------------------------------------------------
 */

/* A user is reading the regions [begin, end). */
static void note_read(struct dm_clone_reader *reader, unsigned long begin,
		      unsigned long end)
{
	const struct dm_clone_geometry *geo = reader->geo;
	unsigned long flags;

	spin_lock_irqsave(&reader->lock, flags);

	/* Reads are in flight at once: this one is ahead of us. */
	if (begin >= reader->ahead_begin && begin < reader->ahead_end)
		goto out;

	if (begin == reader->ahead_end)
		reader->window = clamp(2 * reader->window, FIRST_AHEAD,
				       MAX_AHEAD);
	else
		reader->window = 0;
	reader->ahead_begin = end;
	reader->ahead_next = end;
	reader->ahead_end = min(end + (reader->window >> geo->region_shift),
				geo->nr_regions);
	if (end < reader->ahead_end && reader->running)
		queue_work(reader->wq_source, &reader->ahead_work);
out:
	spin_unlock_irqrestore(&reader->lock, flags);
}

/* The next unhydrated regions to read ahead; false if there are none. */
static bool next_ahead(struct dm_clone_reader *reader, unsigned long *begin,
		       unsigned long *end)
{
	unsigned long step = max(AHEAD_STEP >> reader->geo->region_shift, 1U), goal;
	bool hydrated;

	do {
		spin_lock_irq(&reader->lock);
		*begin = reader->ahead_next;
		goal = min(reader->ahead_end, *begin + step);
		spin_unlock_irq(&reader->lock);

		if (*begin >= goal)
			return false;

		hydrated = dm_clone_find_run(reader->map, *begin, goal, end);

		spin_lock_irq(&reader->lock);
		if (reader->ahead_next == *begin)	/* the same sequence */
			reader->ahead_next = *end;
		spin_unlock_irq(&reader->lock);
	} while (hydrated);

	return true;
}

/* What cannot be read now is left to the user. */
static void do_ahead(struct work_struct *work)
{
	struct dm_clone_reader *reader =
		container_of(work, struct dm_clone_reader, ahead_work);
	unsigned long begin, end, taken_until;
	struct dm_clone_read *read;
	struct blk_plug plug;

	blk_start_plug(&plug);
	while (next_ahead(reader, &begin, &end)) {
		if (prepare(reader, begin, end, MAX_AHEAD_MEMORY, &read,
			    &taken_until) == DM_CLONE_READ_READY)
			dm_clone_reader_submit(read, NULL);
		cond_resched();
	}
	blk_finish_plug(&plug);
}

enum dm_clone_readiness
dm_clone_reader_prepare(struct dm_clone_reader *reader, unsigned long begin,
			unsigned long end, struct dm_clone_read **read,
			unsigned long *taken_until)
{
	enum dm_clone_readiness r = prepare(reader, begin, end, MAX_MEMORY,
					    read, taken_until);

	if (r == DM_CLONE_READ_READY)
		note_read(reader, begin, (*read)->claim.end);

	return r;
}

/*
 *---------------------------------------------------------------
 * Life
 *---------------------------------------------------------------
 */

void dm_clone_reader_start(struct dm_clone_reader *reader)
{
	if (!reader)
		return;

	spin_lock_irq(&reader->lock);
	reader->running = true;
	spin_unlock_irq(&reader->lock);
}

void dm_clone_reader_stop(struct dm_clone_reader *reader)
{
	if (!reader)
		return;

	spin_lock_irq(&reader->lock);
	reader->running = false;
	spin_unlock_irq(&reader->lock);
}

unsigned long dm_clone_reader_memory(struct dm_clone_reader *reader)
{
	return reader ? dm_clone_memory_in_use(&reader->memory) : 0;
}

void dm_clone_reader_wait(struct dm_clone_reader *reader)
{
	if (!reader)
		return;

	spin_lock_irq(&reader->lock);
	wait_event_lock_irq(reader->idle, !reader->nr_reads, reader->lock);
	spin_unlock_irq(&reader->lock);

	/* If it is queued it finds that nothing may be started. */
	flush_work(&reader->ahead_work);
}

struct dm_clone_reader *
dm_clone_reader_create(const struct dm_clone_geometry *geo,
		       struct dm_clone_region_map *map,
		       struct dm_clone_claims *claims,
		       struct dm_clone_hydration *hydration,
		       struct workqueue_struct *wq_source,
		       struct workqueue_struct *wq_dest)
{
	struct dm_clone_reader *reader = kzalloc_obj(*reader, GFP_KERNEL);

	if (!reader)
		return ERR_PTR(-ENOMEM);

	reader->geo = geo;
	reader->map = map;
	reader->claims = claims;
	reader->hydration = hydration;
	reader->wq_source = wq_source;
	reader->wq_dest = wq_dest;
	INIT_WORK(&reader->write_work, do_write_reads);
	INIT_WORK(&reader->ahead_work, do_ahead);
	spin_lock_init(&reader->lock);
	init_waitqueue_head(&reader->idle);
	INIT_LIST_HEAD(&reader->to_write);
	/* Nobody has read anything yet. */
	reader->ahead_begin = geo->nr_regions;
	reader->ahead_end = geo->nr_regions;

	return reader;
}

void dm_clone_reader_destroy(struct dm_clone_reader *reader)
{
	if (!reader)
		return;

	dm_clone_reader_wait(reader);
	/* The end of the last read may have queued it for nothing. */
	cancel_work_sync(&reader->write_work);
	kfree(reader);
}
