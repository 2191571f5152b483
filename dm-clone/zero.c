// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The zeroer, see zero.h.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/mutex.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "buffer.h"
#include "compat.h"
#include "pacer.h"
#include "zero.h"

#define KIB(n)		((n) << (10 - SECTOR_SHIFT))

/*
 * How much commands discard or zero at a time, in sectors.  It begins with the
 * least, doubles when a step takes less than SHORT, and halves when one takes
 * more than LONG: a stop takes about that long.
 */
#define MIN_COMMAND	KIB(1024U)
#define MAX_COMMAND	KIB(65536U)
#define SHORT		(50 * NSEC_PER_MSEC)
#define LONG		(200 * NSEC_PER_MSEC)

/*
 * How much is read back at a time, in sectors: in the background, where there
 * is one job at a time, and in other jobs, of which there may be many, or with
 * the reserve.
 */
#define MAX_SLICE	DM_CLONE_MAX_PORTION
#define SMALL_SLICE	DM_CLONE_MIN_PORTION

/* Jobs that run at once: enough to keep a device busy. */
#define MAX_AT_WORK	8

/* A background job asks again after this many jiffies at the latest. */
#define MAX_WAIT	(HZ / 50 + 1)

struct dm_clone_zeroer {
	struct block_device *dest;
	struct workqueue_struct *wq;
	struct dm_clone_pacer *pacer;
	struct dm_clone_memory memory;

	/* READ_ONCE/WRITE_ONCE: concurrent jobs may lose changes. */
	unsigned int command;		/* sectors at a time */
	bool refused;			/* write-zeroes */
	bool dest_zeroed;

	struct mutex reserve_lock;	/* held over I/O to the destination */
	struct dm_clone_buffer *reserve;
};

/*
 *---------------------------------------------------------------
 * Reading back
 *---------------------------------------------------------------
 */

static blk_status_t transfer(struct dm_clone_zeroer *zeroer, enum req_op op,
			     struct dm_clone_buffer *buffer,
			     unsigned int offset, sector_t sector,
			     unsigned int nr)
{
	struct bio bio;
	int r;

	dm_clone_buffer_init_bio(buffer, &bio, zeroer->dest, op, 0, offset, nr);
	bio.bi_iter.bi_sector = sector;
	r = submit_bio_wait(&bio);
	bio_uninit(&bio);

	return errno_to_blk_status(r);
}

static void note_zero_error(struct dm_clone_zero_job *job, blk_status_t status,
			    sector_t sector)
{
	job->outcome.status = status;
	job->outcome.sector = sector;
}

/*
 * Zero the @nr sectors from @sector on, with the memory from sector @at of
 * @buffer on.  What cannot be read is written: that may well work.
 */
static void read_back(struct dm_clone_zero_job *job,
		      struct dm_clone_buffer *buffer, unsigned int at,
		      sector_t sector, unsigned int nr)
{
	bool unknown = transfer(job->zeroer, REQ_OP_READ, buffer, at, sector,
				nr);
	unsigned int done, len;
	blk_status_t status;

	for (done = 0; done < nr; done += len) {
		bool zero = false;

		len = nr;
		if (!unknown)
			len = dm_clone_buffer_find_run(buffer, at + done,
						       at + nr, sector + done,
						       &zero);
		if (zero)
			continue;

		dm_clone_buffer_clear(buffer, at + done, len);
		status = transfer(job->zeroer, REQ_OP_WRITE, buffer, at + done,
				  sector + done, len);
		if (status) {
			note_zero_error(job, status, sector + done);
			return;
		}
		cond_resched();
	}
}

/* Returns how many of the @nr sectors are done. */
static unsigned int zero_by_writing(struct dm_clone_zero_job *job,
				    sector_t sector, unsigned int nr)
{
	struct dm_clone_zeroer *zeroer = job->zeroer;
	struct dm_clone_buffer *buffer = job->buffer;

	if (buffer) {
		read_back(job, buffer, sector - job->buffer_sector, sector, nr);
		return nr;
	}

	buffer = dm_clone_buffer_alloc(&zeroer->memory, nr, 1,
				       DM_CLONE_GFP_NOWAIT);
	if (buffer) {
		read_back(job, buffer, 0, sector, nr);
		dm_clone_buffer_free(buffer);
		return nr;
	}

	/* Whoever holds it waits for nothing but the destination. */
	nr = min(nr, SMALL_SLICE);
	mutex_lock(&zeroer->reserve_lock);
	read_back(job, zeroer->reserve, 0, sector, nr);
	mutex_unlock(&zeroer->reserve_lock);

	return nr;
}

/*
 *---------------------------------------------------------------
 * Commands
 *---------------------------------------------------------------
 */

/*
 * Send a command for the @nr sectors from @sector on, @most at a time.
 *
 * Like all of the zeroer's bios these are on the stack, one at a time:
 * blkdev_issue_zeroout() and its like allocate from a pool that all layers
 * share.  Layers above may hold its reserve, and wait for us.
 */
static int command(struct dm_clone_zeroer *zeroer, enum req_op op,
		   sector_t sector, unsigned int nr, unsigned int most)
{
	unsigned int len;
	int r = 0;

	for (; nr && !r; sector += len, nr -= len) {
		struct bio bio;

		len = min(nr, most);
		bio_init(&bio, zeroer->dest, NULL, 0, op);
		bio.bi_iter.bi_sector = sector;
		bio.bi_iter.bi_size = len << SECTOR_SHIFT;
		r = submit_bio_wait(&bio);
		bio_uninit(&bio);
		cond_resched();
	}

	return r;
}

/* The queue below splits it, by its granularity, which we do not know. */
static void discard(struct dm_clone_zeroer *zeroer, sector_t sector,
		    unsigned int nr)
{
	command(zeroer, REQ_OP_DISCARD, sector, nr, MAX_COMMAND);
}

/*
 * Whatever the error, zeroes may be written instead.  A device that refuses is
 * not asked again: some find out only then that they do not support it.
 */
static bool zero_by_command(struct dm_clone_zeroer *zeroer, sector_t sector,
			    unsigned int nr)
{
	unsigned int block = bdev_logical_block_size(zeroer->dest) >> SECTOR_SHIFT;
	unsigned int most = round_down(bdev_write_zeroes_sectors(zeroer->dest),
				       block);
	int r;

	if (READ_ONCE(zeroer->refused) || !most)
		return false;

	/* Not all devices split these: the sender has to keep to the limit. */
	r = command(zeroer, REQ_OP_WRITE_ZEROES, sector, nr, most);
	if (r == -EOPNOTSUPP || r == -EREMOTEIO)
		WRITE_ONCE(zeroer->refused, true);

	return !r;
}

static void adapt_command(struct dm_clone_zeroer *zeroer, u64 took)
{
	unsigned int command = READ_ONCE(zeroer->command);

	if (took < SHORT)
		command = min(2 * command, MAX_COMMAND);
	else if (took > LONG)
		command = max(command / 2, MIN_COMMAND);
	WRITE_ONCE(zeroer->command, command);
}

/* Zero some sectors; read back @slice of them at most. */
static void zero_step(struct dm_clone_zero_job *job, unsigned int slice)
{
	struct dm_clone_zeroer *zeroer = job->zeroer;
	sector_t sector = job->left.begin;
	unsigned int nr = min_t(sector_t, dm_clone_span_contiguous(&job->left),
				READ_ONCE(zeroer->command));
	u64 started = ktime_get_ns();

	if (job->discard && sector >= job->discarded) {
		discard(zeroer, sector, nr);
		job->discarded = sector + nr;
	}

	if (!zero_by_command(zeroer, sector, nr))
		nr = zero_by_writing(job, sector, min(nr, slice));

	adapt_command(zeroer, ktime_get_ns() - started);
	if (job->outcome.status)
		return;

	dm_clone_span_advance(&job->left, nr);
}

/*
 *---------------------------------------------------------------
 * Jobs
 *---------------------------------------------------------------
 */

/* A step in the background.  Returns false, and a time to wait, if not now. */
static bool zero_paced_step(struct dm_clone_zero_job *job, unsigned long *wait)
{
	struct dm_clone_pacer *pacer = job->zeroer->pacer;
	unsigned int room;
	u64 ns, start;

	room = dm_clone_pacer_room(pacer, &ns);
	if (!room) {
		*wait = min_t(u64, ns, jiffies_to_nsecs(MAX_WAIT));
		*wait = nsecs_to_jiffies(*wait) + 1;
		return false;
	}

	/* A command counts as one portion, however much it covers. */
	room = min(room, MAX_SLICE);
	start = dm_clone_pacer_begin(pacer, room, true);
	zero_step(job, room);
	dm_clone_pacer_end(pacer, room, start, !job->outcome.status);

	return true;
}

/* Returns true if the job is over. */
static bool advance(struct dm_clone_zero_job *job, unsigned long *wait)
{
	*wait = 0;
	if (!job->should_stop)
		zero_step(job, job->buffer ? MAX_SLICE : SMALL_SLICE);
	else if (job->should_stop(job))
		return true;
	else if (!zero_paced_step(job, wait))
		return false;

	return job->outcome.status || job->left.begin >= job->left.end;
}

/* No I/O to free memory: that may need what we are about to do. */
static void do_zero(struct work_struct *work)
{
	struct dm_clone_zero_job *job =
		container_of(to_delayed_work(work), struct dm_clone_zero_job,
			     work);
	unsigned int noio = memalloc_noio_save();
	unsigned long wait;
	bool over = advance(job, &wait);

	memalloc_noio_restore(noio);

	/* After its last job the zeroer may go away. */
	if (over)
		job->done(job);
	else
		queue_delayed_work(job->zeroer->wq, &job->work, wait);
}

void dm_clone_zeroer_set_dest_zeroed(struct dm_clone_zeroer *zeroer,
				     bool zeroed)
{
	WRITE_ONCE(zeroer->dest_zeroed, zeroed);
}

bool dm_clone_zeroer_is_dest_zeroed(struct dm_clone_zeroer *zeroer)
{
	return READ_ONCE(zeroer->dest_zeroed);
}

void dm_clone_zeroer_zero(struct dm_clone_zeroer *zeroer,
			  struct dm_clone_zero_job *job)
{
	job->zeroer = zeroer;
	job->outcome = (struct dm_clone_outcome) {
		.sector = job->left.begin,
		.wrote = true,
	};
	job->discarded = 0;
	if (!bdev_max_discard_sectors(zeroer->dest))
		job->discard = false;
	dm_clone_span_advance(&job->left, 0);
	INIT_DELAYED_WORK(&job->work, do_zero);
	queue_delayed_work(zeroer->wq, &job->work, 0);
}

struct dm_clone_zeroer *dm_clone_zeroer_create(struct block_device *dest,
					       struct dm_clone_pacer *pacer)
{
	struct dm_clone_zeroer *zeroer = kzalloc_obj(*zeroer, GFP_KERNEL);

	if (!zeroer)
		return NULL;

	zeroer->wq = alloc_workqueue("dm-clone-zero", WQ_MEM_RECLAIM | WQ_UNBOUND,
				     MAX_AT_WORK);
	if (!zeroer->wq)
		goto bad;

	zeroer->reserve = dm_clone_buffer_alloc(NULL, SMALL_SLICE, 1,
						GFP_KERNEL);
	if (!zeroer->reserve)
		goto bad_wq;

	zeroer->dest = dest;
	zeroer->pacer = pacer;
	zeroer->command = MIN_COMMAND;
	mutex_init(&zeroer->reserve_lock);

	return zeroer;

bad_wq:
	destroy_workqueue(zeroer->wq);
bad:
	kfree(zeroer);
	return NULL;
}

unsigned long dm_clone_zeroer_memory(struct dm_clone_zeroer *zeroer)
{
	return dm_clone_memory_in_use(&zeroer->memory);
}

void dm_clone_zeroer_destroy(struct dm_clone_zeroer *zeroer)
{
	/* The last job is done, but its work may not have returned yet. */
	destroy_workqueue(zeroer->wq);
	mutex_destroy(&zeroer->reserve_lock);
	dm_clone_buffer_free(zeroer->reserve);
	kfree(zeroer);
}
