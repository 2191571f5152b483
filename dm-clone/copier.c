// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The copier, see copier.h.
 *
 * The life of a slice:
 *
 *	part of its job, which waits for the pacer and for memory
 *	  |	do_read()
 *	reading
 *	  |	slice_read_endio()
 *	in to_write
 *	  |	do_write_slices(): a run of data, or of zeroes
 *	writing, or being zeroed
 *	  |	slice_write_endio(), slice_zeroed(): to_write again, unless
 *	  |	that was the last run
 *	done: the buffer is free, and its job too if this was the last slice
 *
 * Each class has a work that reads and one that writes, since submitting a bio
 * may sleep.  A task whose write needs a copy does not submit that copy itself:
 * it may have better things to do than to wait until the source takes a
 * request, and the limits of its cgroup must not apply to the copier.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/ioprio.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "buffer.h"
#include "compat.h"
#include "copier.h"
#include "pacer.h"
#include "zero.h"

/* The largest slice, and the one in reserve, in sectors: 1 MiB, 64 KiB. */
#define MAX_SLICE	DM_CLONE_MAX_PORTION
#define RESERVED_SLICE	DM_CLONE_MIN_PORTION

/* Enough background jobs waiting to be started, in sectors. */
#define MAX_BACKLOG	DM_CLONE_MIN_PORTION

/* A class of jobs. */
struct pool {
	struct dm_clone_copier *copier;	/* constant, down to the works */
	bool paced;
	struct slice *reserve;
	struct delayed_work read_work;
	struct work_struct write_work;

	struct dm_clone_memory memory;
	bool reserve_used;		/* this and the rest: copier->lock */
	struct list_head jobs;		/* with something left to start */
	struct list_head to_write;	/* slices */
};

struct dm_clone_copier {
	struct block_device *source;
	struct block_device *dest;
	struct workqueue_struct *wq_source;
	struct workqueue_struct *wq_dest;
	struct dm_clone_pacer *pacer;
	struct dm_clone_zeroer *zeroer;
	atomic64_t nr_zero;		/* sectors found to be zero */
	void (*has_room)(void *context);
	void *context;

	/* Protects the rest.  The pacer's may be taken under it. */
	spinlock_t lock;
	sector_t backlog;		/* of background jobs not started */
	bool backlogged;		/* @has_room is to be called */
	bool cancelled;			/* background jobs, new ones too */
	struct pool pools[DM_CLONE_NR_CLASSES];
};

struct slice {
	struct list_head list;		/* in to_write; copier->lock */
	struct pool *pool;
	struct dm_clone_job *job;
	sector_t sector;
	unsigned int nr_sectors;
	u64 started;			/* for the pacer */
	unsigned int nr_written;	/* sectors, to the destination */

	struct bio bio;
	struct dm_clone_zero_job zero;
	struct dm_clone_buffer *buffer;
};

static void run_read_work(struct pool *pool)
{
	struct workqueue_struct *wq = pool->copier->wq_source;

	/* If it is pending, then perhaps for later, but only if it is paced. */
	if (!queue_delayed_work(wq, &pool->read_work, 0) && pool->paced)
		mod_delayed_work(wq, &pool->read_work, 0);
}

/*
 *---------------------------------------------------------------
 * Memory.  A slice has what it needs, for as long as it needs it.
 *---------------------------------------------------------------
 */

static void free_slice(struct slice *s)
{
	if (!s)
		return;

	dm_clone_buffer_free(s->buffer);
	kfree(s);
}

static struct slice *alloc_slice(struct pool *pool,
				 struct dm_clone_memory *memory,
				 unsigned int nr_sectors, gfp_t gfp)
{
	struct slice *s = kzalloc_obj(*s, gfp | __GFP_NOWARN);

	if (!s)
		return NULL;

	s->pool = pool;
	s->nr_sectors = nr_sectors;
	s->buffer = dm_clone_buffer_alloc(memory, nr_sectors, 1, gfp);
	if (!s->buffer) {
		kfree(s);
		return NULL;
	}

	return s;
}

/* The slice in reserve, unless it is in use. */
static struct slice *take_reserve(struct pool *pool, unsigned int nr_sectors)
{
	struct dm_clone_copier *copier = pool->copier;
	struct slice *s = NULL;

	spin_lock_irq(&copier->lock);
	if (!pool->reserve_used) {
		pool->reserve_used = true;
		s = pool->reserve;
		s->nr_sectors = min(nr_sectors, RESERVED_SLICE);
	}
	spin_unlock_irq(&copier->lock);

	return s;
}

/*
 * A slice of @nr_sectors, or fewer if memory is short.  Does not wait for
 * memory: freeing it may need the very copy that is about to begin.
 */
static struct slice *get_slice(struct pool *pool, unsigned int nr_sectors)
{
	unsigned int nr = nr_sectors;
	struct slice *s;

	for (;;) {
		s = alloc_slice(pool, &pool->memory, nr,
				DM_CLONE_GFP_NOWAIT);
		if (s)
			return s;
		if (nr <= RESERVED_SLICE)
			return take_reserve(pool, nr);
		nr = rounddown_pow_of_two(nr - 1);
	}
}

/* Free @s, and run the work: a job may have waited for it, or for memory. */
static void put_slice(struct slice *s)
{
	struct pool *pool = s->pool;
	struct dm_clone_copier *copier = pool->copier;
	bool reserved = s == pool->reserve;
	unsigned long flags;

	if (!reserved)
		free_slice(s);

	spin_lock_irqsave(&copier->lock, flags);
	if (reserved)
		pool->reserve_used = false;
	if (!list_empty(&pool->jobs))
		run_read_work(pool);
	spin_unlock_irqrestore(&copier->lock, flags);
}

/*
 *---------------------------------------------------------------
 * Slices
 *---------------------------------------------------------------
 */

/* A slice of @job has ended, or the last one has been started. */
static void put_job(struct dm_clone_copier *copier, struct dm_clone_job *job)
{
	unsigned long flags;
	bool last;

	spin_lock_irqsave(&copier->lock, flags);
	last = !--job->nr_slices;
	spin_unlock_irqrestore(&copier->lock, flags);

	if (last)
		job->done(job);
}

/* Once a slice has failed no more are started. */
static void note_slice_error(struct dm_clone_copier *copier, struct slice *s)
{
	struct dm_clone_job *job = s->job;
	unsigned long flags;

	spin_lock_irqsave(&copier->lock, flags);
	if (!job->outcome.status) {
		job->outcome.status = s->bio.bi_status;
		job->outcome.sector = s->sector;
		job->outcome.read_failed = bio_op(&s->bio) == REQ_OP_READ;
	}
	spin_unlock_irqrestore(&copier->lock, flags);
}

static void end_slice(struct slice *s)
{
	struct dm_clone_copier *copier = s->pool->copier;
	struct dm_clone_job *job = s->job;

	if (s->bio.bi_status)
		note_slice_error(copier, s);
	if (s->pool->paced)
		dm_clone_pacer_end(copier->pacer, s->nr_sectors, s->started,
				   !s->bio.bi_status);

	/* The slice first: after its last job the copier may go away. */
	put_slice(s);
	put_job(copier, job);
}

/* @s has been read, or a run of it has been written. */
static void queue_write(struct slice *s)
{
	struct dm_clone_copier *copier = s->pool->copier;
	unsigned long flags;

	/* Under the lock: once the work has @s, the copier may go away. */
	spin_lock_irqsave(&copier->lock, flags);
	list_add_tail(&s->list, &s->pool->to_write);
	queue_work(copier->wq_dest, &s->pool->write_work);
	spin_unlock_irqrestore(&copier->lock, flags);
}

/* A run of @s has ended. */
static void end_write(struct slice *s)
{
	if (s->bio.bi_status || s->nr_written == s->nr_sectors)
		end_slice(s);
	else
		queue_write(s);
}

static void slice_write_endio(struct bio *bio)
{
	end_write(container_of(bio, struct slice, bio));
}

static void slice_zeroed(struct dm_clone_zero_job *job)
{
	struct slice *s = container_of(job, struct slice, zero);

	/* If this has failed it was not the read. */
	s->bio.bi_opf = REQ_OP_WRITE;
	s->bio.bi_status = job->outcome.status;
	end_write(s);
}

static void slice_read_endio(struct bio *bio)
{
	struct slice *s = container_of(bio, struct slice, bio);

	if (bio->bi_status)
		end_slice(s);
	else
		queue_write(s);
}

/*
 * Submit the @nr sectors from the slice's @offset on.  What somebody waits for
 * is sent like direct I/O, which writeback throttling does not hold up.  The
 * rest is background I/O, and comes last in the best-effort class.  Not in the
 * idle class: mq-deadline may let that wait for 10 s, and with it a write that
 * needs this copy meanwhile.
 */
static void submit_slice(struct slice *s, struct block_device *bdev,
			 enum req_op op, unsigned int offset, unsigned int nr,
			 bio_end_io_t *endio)
{
	bool awaited = !s->pool->paced || s->job->awaited(s->job);
	blk_opf_t opf = op;

	if (awaited)
		opf |= REQ_SYNC | REQ_IDLE;
	else if (op == REQ_OP_WRITE)
		opf |= REQ_BACKGROUND;

	dm_clone_buffer_init_bio(s->buffer, &s->bio, bdev, opf, 0, offset, nr);
	s->bio.bi_iter.bi_sector = s->sector + offset;
	s->bio.bi_end_io = endio;
	if (!awaited)
		s->bio.bi_ioprio = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE,
						     IOPRIO_NR_LEVELS - 1);
	submit_bio(&s->bio);
}

/* The slice to go on with: one that is awaited, or the first. */
static struct slice *__next_to_write(struct pool *pool)
{
	struct slice *s;

	if (pool->paced)
		list_for_each_entry(s, &pool->to_write, list)
			if (s->job->awaited(s->job))
				return s;

	return list_first_entry_or_null(&pool->to_write, struct slice, list);
}

/*
 * One at a time: the block layer may hold the worker up for a background write,
 * and the next slice may be awaited by then.
 */
static struct slice *pop_slice(struct dm_clone_copier *copier,
			       struct pool *pool)
{
	struct slice *s;

	spin_lock_irq(&copier->lock);
	s = __next_to_write(pool);
	if (s)
		list_del(&s->list);
	spin_unlock_irq(&copier->lock);

	return s;
}

static void zero_run(struct dm_clone_copier *copier, struct slice *s,
		     unsigned int offset, unsigned int nr)
{
	sector_t begin = s->sector + offset, end = begin + nr;

	s->zero.left = (struct dm_clone_span) { begin, end, end, end };
	s->zero.discard = false;
	s->zero.should_stop = NULL;
	s->zero.buffer = s->buffer;
	s->zero.buffer_sector = s->sector;
	s->zero.done = slice_zeroed;
	dm_clone_zeroer_zero(copier->zeroer, &s->zero);
}

/*
 * Write the next run of @s: zeroes, or data.  Zeroes are written only where the
 * destination does not have them already: nothing else reads or writes these
 * sectors while the job's owner has the claim.
 */
static void write_run(struct dm_clone_copier *copier, struct slice *s)
{
	unsigned int offset = s->nr_written, nr;
	bool zero;

	nr = dm_clone_buffer_find_run(s->buffer, offset, s->nr_sectors,
				      s->sector + offset, &zero);
	s->nr_written += nr;
	if (!zero) {
		s->job->outcome.wrote = true;
		submit_slice(s, copier->dest, REQ_OP_WRITE, offset, nr,
			     slice_write_endio);
		return;
	}

	atomic64_add(nr, &copier->nr_zero);
	if (dm_clone_zeroer_is_dest_zeroed(copier->zeroer)) {
		end_write(s);
	} else {
		s->job->outcome.wrote = true;
		zero_run(copier, s, offset, nr);
	}
}

static void do_write_slices(struct work_struct *work)
{
	struct pool *pool = container_of(work, struct pool, write_work);
	struct dm_clone_copier *copier = pool->copier;
	struct blk_plug plug;
	struct slice *s;

	blk_start_plug(&plug);
	while ((s = pop_slice(copier, pool)))
		write_run(copier, s);
	blk_finish_plug(&plug);
}

/* The job to go on with: one that is awaited, or the first. */
static struct dm_clone_job *__next_job(struct pool *pool, bool *awaited)
{
	struct dm_clone_job *job;

	*awaited = true;
	if (pool->paced)
		list_for_each_entry(job, &pool->jobs, list)
			if (job->awaited(job))
				return job;

	*awaited = !pool->paced;
	return list_first_entry_or_null(&pool->jobs, struct dm_clone_job, list);
}

/* How much of a job may be started now? 0: nothing; the work may be queued. */
static unsigned int __room(struct pool *pool, bool awaited)
{
	struct dm_clone_copier *copier = pool->copier;
	unsigned int room;
	u64 wait;

	if (awaited)
		return MAX_SLICE;

	room = dm_clone_pacer_room(copier->pacer, &wait);
	if (!room && wait != U64_MAX)
		queue_delayed_work(copier->wq_source, &pool->read_work,
				   nsecs_to_jiffies(wait) + 1);

	return room;
}

/* @nr sectors of background jobs no longer wait. */
static void __reduce_backlog(struct dm_clone_copier *copier, sector_t nr)
{
	lockdep_assert_held(&copier->lock);

	copier->backlog -= nr;
	if (copier->backlogged && copier->backlog < MAX_BACKLOG) {
		copier->backlogged = false;
		copier->has_room(copier->context);
	}
}

/* No more of @job is to be started. */
static void __remove_job(struct pool *pool, struct dm_clone_job *job)
{
	list_del(&job->list);
	if (pool->paced)
		__reduce_backlog(pool->copier, job->left.end - job->left.begin);
}

enum next {
	NEXT_NOTHING,		/* there are no jobs, or they have to wait */
	NEXT_SLICE,		/* start @nr_sectors of @job at most */
	NEXT_END,		/* @job has failed, and has left the list */
};

static enum next next_step(struct pool *pool, struct dm_clone_job **job,
			   unsigned int *nr_sectors, bool *awaited)
{
	struct dm_clone_copier *copier = pool->copier;
	enum next next = NEXT_NOTHING;

	spin_lock_irq(&copier->lock);
	*job = __next_job(pool, awaited);
	if (!*job)
		goto out;

	if ((*job)->outcome.status) {
		__remove_job(pool, *job);
		next = NEXT_END;
		goto out;
	}

	*nr_sectors = min_t(sector_t, __room(pool, *awaited),
			    dm_clone_span_contiguous(&(*job)->left));
	if (*nr_sectors)
		next = NEXT_SLICE;
out:
	spin_unlock_irq(&copier->lock);

	return next;
}

/*
 * Take @s off what is left of @job.  If nothing is left the job leaves the
 * list, and @s takes over the reference of starting it.
 */
static void set_slice(struct slice *s, struct dm_clone_job *job, bool awaited)
{
	struct pool *pool = s->pool;
	struct dm_clone_copier *copier = pool->copier;

	spin_lock_irq(&copier->lock);

	s->job = job;
	s->sector = job->left.begin;
	s->nr_written = 0;
	dm_clone_span_advance(&job->left, s->nr_sectors);
	if (pool->paced) {
		s->started = dm_clone_pacer_begin(copier->pacer, s->nr_sectors,
						  !awaited);
		__reduce_backlog(copier, s->nr_sectors);
	}

	if (job->left.begin == job->left.end) {
		__remove_job(pool, job);
	} else {
		job->nr_slices++;
		/* Urgent jobs take turns. */
		if (!pool->paced)
			list_move_tail(&job->list, &pool->jobs);
	}

	spin_unlock_irq(&copier->lock);
}

/*
 * What cannot be started now will be started later.  If memory is short the
 * reserve is in use, and the end of that slice, or of another, runs the work.
 * If the pacer says no, the end of a portion, of a slice or of zeroing, changes
 * that, and dm_clone_copier_hurry() is called; or the work has been queued for
 * when it is time.
 *
 * Only the work takes jobs off the list, so @job stays while memory for it is
 * allocated.
 */
static void start_slices(struct pool *pool)
{
	struct dm_clone_copier *copier = pool->copier;
	struct dm_clone_job *job;
	unsigned int nr_sectors;
	struct slice *s;
	bool awaited;

	for (;;) {
		switch (next_step(pool, &job, &nr_sectors, &awaited)) {
		case NEXT_NOTHING:
			return;
		case NEXT_END:
			put_job(copier, job);
			break;
		case NEXT_SLICE:
			s = get_slice(pool, nr_sectors);
			if (!s)
				return;
			set_slice(s, job, awaited);
			submit_slice(s, copier->source, REQ_OP_READ, 0,
				     s->nr_sectors, slice_read_endio);
			break;
		}
	}
}

static void do_read(struct work_struct *work)
{
	struct pool *pool = container_of(to_delayed_work(work), struct pool,
					 read_work);
	struct blk_plug plug;

	blk_start_plug(&plug);
	start_slices(pool);
	blk_finish_plug(&plug);
}

static void __cancel(struct dm_clone_job *job)
{
	job->outcome.status = BLK_STS_IOERR;
	job->outcome.cancelled = true;
}

void dm_clone_copier_copy(struct dm_clone_copier *copier,
			  struct dm_clone_job *job,
			  enum dm_clone_copier_class class,
			  const struct dm_clone_span *span,
			  dm_clone_job_fn done)
{
	struct pool *pool = &copier->pools[class];
	unsigned long flags;

	job->done = done;
	job->outcome = (struct dm_clone_outcome) { .sector = span->begin };
	job->left = *span;
	dm_clone_span_advance(&job->left, 0);
	job->nr_slices = 1;

	/* Under the lock: once the work has @job, the copier may go away. */
	spin_lock_irqsave(&copier->lock, flags);
	if (class == DM_CLONE_BACKGROUND && copier->cancelled)
		__cancel(job);
	list_add_tail(&job->list, &pool->jobs);
	if (pool->paced)
		copier->backlog += job->left.end - job->left.begin;
	run_read_work(pool);	/* pairs with dm_clone_copier_hurry() */
	spin_unlock_irqrestore(&copier->lock, flags);
}

u64 dm_clone_copier_nr_zero(struct dm_clone_copier *copier)
{
	return atomic64_read(&copier->nr_zero);
}

unsigned long dm_clone_copier_memory(struct dm_clone_copier *copier)
{
	unsigned long bytes = 0;
	int i;

	for (i = 0; i < DM_CLONE_NR_CLASSES; i++)
		bytes += dm_clone_memory_in_use(&copier->pools[i].memory);

	return bytes;
}

bool dm_clone_copier_is_backlogged(struct dm_clone_copier *copier)
{
	unsigned long flags;
	bool r;

	spin_lock_irqsave(&copier->lock, flags);
	r = copier->backlog >= MAX_BACKLOG;
	copier->backlogged |= r;
	spin_unlock_irqrestore(&copier->lock, flags);

	return r;
}

void dm_clone_copier_hurry(struct dm_clone_copier *copier)
{
	struct pool *pool = &copier->pools[DM_CLONE_BACKGROUND];

	/*
	 * First the bio waits, then this looks for jobs. dm_clone_copier_copy()
	 * first adds the job, then queues the work, which looks for bios.
	 */
	smp_mb();
	if (!list_empty_careful(&pool->jobs))
		run_read_work(pool);
}

void dm_clone_copier_cancel(struct dm_clone_copier *copier)
{
	struct pool *pool = &copier->pools[DM_CLONE_BACKGROUND];
	struct dm_clone_job *job;
	unsigned long flags;

	spin_lock_irqsave(&copier->lock, flags);
	copier->cancelled = true;
	list_for_each_entry(job, &pool->jobs, list)
		if (!job->outcome.status)
			__cancel(job);
	run_read_work(pool);
	spin_unlock_irqrestore(&copier->lock, flags);
}

void dm_clone_copier_resume(struct dm_clone_copier *copier)
{
	unsigned long flags;

	spin_lock_irqsave(&copier->lock, flags);
	copier->cancelled = false;
	spin_unlock_irqrestore(&copier->lock, flags);
}

/*
 *---------------------------------------------------------------
 * Making and destroying
 *---------------------------------------------------------------
 */

static int init_pool(struct dm_clone_copier *copier,
		     enum dm_clone_copier_class class)
{
	struct pool *pool = &copier->pools[class];

	pool->copier = copier;
	pool->paced = class == DM_CLONE_BACKGROUND;
	INIT_DELAYED_WORK(&pool->read_work, do_read);
	INIT_WORK(&pool->write_work, do_write_slices);
	INIT_LIST_HEAD(&pool->jobs);
	INIT_LIST_HEAD(&pool->to_write);

	pool->reserve = alloc_slice(pool, NULL, RESERVED_SLICE, GFP_KERNEL);

	return pool->reserve ? 0 : -ENOMEM;
}

static void free_copier(struct dm_clone_copier *copier)
{
	int i;

	for (i = 0; i < DM_CLONE_NR_CLASSES; i++)
		free_slice(copier->pools[i].reserve);
	kfree(copier);
}

struct dm_clone_copier *
dm_clone_copier_create(struct block_device *source, struct block_device *dest,
		       struct workqueue_struct *wq_source,
		       struct workqueue_struct *wq_dest,
		       struct dm_clone_pacer *pacer,
		       struct dm_clone_zeroer *zeroer,
		       void (*has_room)(void *context), void *context)
{
	struct dm_clone_copier *copier = kzalloc_obj(*copier, GFP_KERNEL);
	int r;

	if (!copier)
		return ERR_PTR(-ENOMEM);

	copier->source = source;
	copier->dest = dest;
	copier->wq_source = wq_source;
	copier->wq_dest = wq_dest;
	copier->pacer = pacer;
	copier->zeroer = zeroer;
	copier->has_room = has_room;
	copier->context = context;
	spin_lock_init(&copier->lock);

	r = init_pool(copier, DM_CLONE_URGENT) ?: init_pool(copier, DM_CLONE_BACKGROUND);
	if (r) {
		free_copier(copier);
		return ERR_PTR(r);
	}

	return copier;
}

void dm_clone_copier_destroy(struct dm_clone_copier *copier)
{
	int i;

	/* The end of the last slice may have queued them for nothing. */
	for (i = 0; i < DM_CLONE_NR_CLASSES; i++) {
		cancel_delayed_work_sync(&copier->pools[i].read_work);
		cancel_work_sync(&copier->pools[i].write_work);
	}
	free_copier(copier);
}
