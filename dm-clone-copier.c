// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The copier, see dm-clone-copier.h.
 *
 * A slice goes its way like this:
 *
 *	waiting in its job, for a buffer, and for the pacer
 *	  |	do_read()
 *	reading
 *	  |	read_endio()
 *	in to_write
 *	  |	do_write(): a run of data, or of zeroes
 *	writing, or being zeroed
 *	  |	write_endio(), zeroed(): to_write again, unless that was the last run
 *	done: the buffer is free, and its job too if this was the last slice
 *
 * Each class has a work that reads and one that writes: to submit a bio may sleep.
 * A task that writes does not submit the copy of the rest itself: it may have other
 * things to do than to wait until the source takes a request, and limits of its
 * cgroup are not to apply to the copier.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "dm-clone-buffer.h"
#include "dm-clone-copier.h"
#include "dm-clone-pacer.h"
#include "dm-clone-zero.h"

#define KIB(n)		((n) << (10 - SECTOR_SHIFT))

/*
 * Buffers come in three sizes, so that many small slices can be under way at once
 * without taking much more memory than they hold.  In sectors.
 */
#define NR_SIZES	3

static const unsigned int buffer_sizes[DM_CLONE_NR_CLASSES][NR_SIZES] = {
	[DM_CLONE_URGENT] = { KIB(16), KIB(32), KIB(64) },
	[DM_CLONE_BACKGROUND] = { KIB(16), KIB(128), DM_CLONE_MAX_PIECE },
};

/* Memory for all of them, in sectors. */
static const unsigned int max_memory[DM_CLONE_NR_CLASSES] = {
	[DM_CLONE_URGENT] = KIB(4096),
	[DM_CLONE_BACKGROUND] = DM_CLONE_MAX_WINDOW,
};

/* Background jobs that may wait to be started, in sectors: enough to go on with. */
#define MAX_BACKLOG	DM_CLONE_MIN_PIECE

/* A class of jobs: its buffers, its jobs and its works. */
struct pool {
	struct dm_clone_copier *copier;	/* constant, down to the works */
	bool paced;
	const unsigned int *sizes;
	unsigned int max_memory;
	struct buffer *first;		/* of the largest size; is never freed */
	struct delayed_work read_work;
	struct work_struct write_work;

	unsigned int memory;		/* of all buffers; the rest: copier->lock */
	struct list_head free[NR_SIZES];
	struct list_head jobs;		/* that have something to start */
	struct list_head to_write;	/* buffers */
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

	/* Protects the rest.  Any context; the pacer's may be taken under it. */
	spinlock_t lock;
	sector_t backlog;		/* of background jobs, to be started */
	bool backlogged;		/* @has_room is to be called */
	bool cancelled;			/* background jobs, those to come too */
	struct pool pools[DM_CLONE_NR_CLASSES];
};

struct buffer {
	struct list_head list;		/* in free or to_write; copier->lock */
	struct dm_clone_copier *copier;
	struct pool *pool;
	unsigned int size;		/* which of the pool's sizes */

	/* The slice it is in use for. */
	struct dm_clone_job *job;
	sector_t sector;
	unsigned int nr_sectors;
	u64 started;			/* for the pacer */
	unsigned int nr_written;	/* sectors that are in the destination */

	struct bio bio;
	struct dm_clone_zero_job zero;
	struct dm_clone_buffer *data;
};

static void run_read_work(struct pool *pool)
{
	struct workqueue_struct *wq = pool->copier->wq_source;

	/* If it's pending already it may be for later, but only where there's a pace. */
	if (!queue_delayed_work(wq, &pool->read_work, 0) && pool->paced)
		mod_delayed_work(wq, &pool->read_work, 0);
}

/*
 *---------------------------------------------------------------
 * Buffers
 *---------------------------------------------------------------
 */

static void free_buffer(struct buffer *b)
{
	dm_clone_buffer_free(b->data);
	kfree(b);
}

static struct buffer *alloc_buffer(struct pool *pool, unsigned int size, gfp_t gfp)
{
	struct buffer *b = kzalloc(sizeof(*b), gfp | __GFP_NOWARN);

	if (!b)
		return NULL;

	b->copier = pool->copier;
	b->pool = pool;
	b->size = size;
	b->data = dm_clone_buffer_alloc(pool->sizes[size], 1, gfp);
	if (!b->data) {
		kfree(b);
		return NULL;
	}

	return b;
}

/* Take a buffer that is neither in use nor the first one off the pool. */
static struct buffer *__take_idle(struct pool *pool, unsigned int size)
{
	struct buffer *b;

	list_for_each_entry(b, &pool->free[size], list) {
		if (b == pool->first)
			continue;
		list_del(&b->list);
		pool->memory -= pool->sizes[size];
		return b;
	}

	return NULL;
}

/* Make room for a buffer of @size, if need be at the cost of @idle ones of others. */
static bool __make_room(struct pool *pool, unsigned int size, struct list_head *idle)
{
	unsigned int needed = pool->sizes[size], i;
	struct buffer *b;

	for (i = 0; i < NR_SIZES; i++)
		while (i != size && pool->memory + needed > pool->max_memory &&
		       (b = __take_idle(pool, i)))
			list_add(&b->list, idle);

	if (pool->memory + needed > pool->max_memory)
		return false;

	pool->memory += needed;
	return true;
}

static void free_buffers(struct list_head *list)
{
	struct buffer *b, *tmp;

	list_for_each_entry_safe(b, tmp, list, list)
		free_buffer(b);
}

/* See whether there may be one more buffer of @size. */
static void add_buffer(struct dm_clone_copier *copier, struct pool *pool,
		       unsigned int size)
{
	struct buffer *b;
	LIST_HEAD(idle);
	bool room;

	spin_lock_irq(&copier->lock);
	room = __make_room(pool, size, &idle);
	spin_unlock_irq(&copier->lock);

	free_buffers(&idle);
	if (!room)
		return;

	/* Must not wait: writing out memory may need what we're about to do. */
	b = alloc_buffer(pool, size, DM_CLONE_GFP_NOWAIT);

	spin_lock_irq(&copier->lock);
	if (b)
		list_add(&b->list, &pool->free[size]);
	else
		pool->memory -= pool->sizes[size];
	spin_unlock_irq(&copier->lock);
}

/* The size for a slice of so many sectors. */
static unsigned int fitting_size(struct pool *pool, unsigned int nr_sectors)
{
	unsigned int size = 0;

	while (size < NR_SIZES - 1 && pool->sizes[size] < nr_sectors)
		size++;

	return size;
}

/* A free buffer, of this size if there's one, else a larger one, else any. */
static struct buffer *__find_free(struct pool *pool, unsigned int size)
{
	unsigned int i;

	for (i = size; i < NR_SIZES; i++)
		if (!list_empty(&pool->free[i]))
			return list_first_entry(&pool->free[i], struct buffer, list);

	for (i = size; i--;)
		if (!list_empty(&pool->free[i]))
			return list_first_entry(&pool->free[i], struct buffer, list);

	return NULL;
}

/* Give @b back, and if a job is waiting for one see that it gets it. */
static void put_buffer(struct buffer *b)
{
	struct dm_clone_copier *copier = b->copier;
	unsigned long flags;

	spin_lock_irqsave(&copier->lock, flags);
	list_add(&b->list, &b->pool->free[b->size]);
	if (!list_empty(&b->pool->jobs))
		run_read_work(b->pool);
	spin_unlock_irqrestore(&copier->lock, flags);
}

static void __take_surplus(struct pool *pool, struct list_head *surplus)
{
	struct buffer *b;
	unsigned int i;

	for (i = 0; i < NR_SIZES; i++)
		while ((b = __take_idle(pool, i)))
			list_add(&b->list, surplus);
}

void dm_clone_copier_shrink(struct dm_clone_copier *copier)
{
	unsigned long flags;
	LIST_HEAD(surplus);
	int i;

	spin_lock_irqsave(&copier->lock, flags);
	for (i = 0; i < DM_CLONE_NR_CLASSES; i++)
		__take_surplus(&copier->pools[i], &surplus);
	spin_unlock_irqrestore(&copier->lock, flags);

	free_buffers(&surplus);
}

/*
 *---------------------------------------------------------------
 * Slices
 *---------------------------------------------------------------
 */

/* A slice of @job, or the starting of it, is over. */
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

/* The first slice that fails is the last one that is started. */
static void note_error(struct dm_clone_copier *copier, struct buffer *b)
{
	struct dm_clone_job *job = b->job;
	unsigned long flags;

	spin_lock_irqsave(&copier->lock, flags);
	if (!job->outcome.status) {
		job->outcome.status = b->bio.bi_status;
		job->outcome.sector = b->sector;
		job->outcome.read_failed = bio_op(&b->bio) == REQ_OP_READ;
	}
	spin_unlock_irqrestore(&copier->lock, flags);
}

static void end_slice(struct buffer *b)
{
	struct dm_clone_copier *copier = b->copier;
	struct dm_clone_job *job = b->job;

	if (b->bio.bi_status)
		note_error(copier, b);
	if (b->pool->paced)
		dm_clone_pacer_end(copier->pacer, b->nr_sectors, b->started,
				   !b->bio.bi_status);

	/* The buffer first: with its last job the copier may go away. */
	put_buffer(b);
	put_job(copier, job);
}

/* @b has been read, or written as far as it has. */
static void queue_write(struct buffer *b)
{
	struct dm_clone_copier *copier = b->copier;
	unsigned long flags;

	/* Under the lock: once the work has @b, the copier may go away. */
	spin_lock_irqsave(&copier->lock, flags);
	list_add_tail(&b->list, &b->pool->to_write);
	queue_work(copier->wq_dest, &b->pool->write_work);
	spin_unlock_irqrestore(&copier->lock, flags);
}

/* A run of @b has ended. */
static void end_write(struct buffer *b)
{
	if (b->bio.bi_status || b->nr_written == b->nr_sectors)
		end_slice(b);
	else
		queue_write(b);
}

static void write_endio(struct bio *bio)
{
	end_write(container_of(bio, struct buffer, bio));
}

static void zeroed(struct dm_clone_zero_job *job)
{
	struct buffer *b = container_of(job, struct buffer, zero);

	/* It's not the read that has failed. */
	b->bio.bi_opf = REQ_OP_WRITE;
	b->bio.bi_status = job->outcome.status;
	end_write(b);
}

static void read_endio(struct bio *bio)
{
	struct buffer *b = container_of(bio, struct buffer, bio);

	if (bio->bi_status)
		end_slice(b);
	else
		queue_write(b);
}

/* The @nr sectors from its sector @offset on. */
static void submit_slice(struct buffer *b, struct block_device *bdev, enum req_op op,
			 unsigned int offset, unsigned int nr, bio_end_io_t *endio)
{
	dm_clone_buffer_init_bio(b->data, &b->bio, bdev, op, 0, offset, nr);
	b->bio.bi_iter.bi_sector = b->sector + offset;
	b->bio.bi_end_io = endio;
	submit_bio(&b->bio);
}

static struct buffer *pop_to_write(struct dm_clone_copier *copier, struct pool *pool)
{
	struct buffer *b;

	spin_lock_irq(&copier->lock);
	b = list_first_entry_or_null(&pool->to_write, struct buffer, list);
	if (b)
		list_del(&b->list);
	spin_unlock_irq(&copier->lock);

	return b;
}

static void zero_run(struct dm_clone_copier *copier, struct buffer *b,
		     unsigned int offset, unsigned int nr)
{
	sector_t begin = b->sector + offset, end = begin + nr;

	b->zero.left = (struct dm_clone_span) { begin, end, end, end };
	b->zero.discard = false;
	b->zero.should_stop = NULL;
	b->zero.buffer = b->data;
	b->zero.buffer_sector = b->sector;
	b->zero.done = zeroed;
	dm_clone_zero(copier->zeroer, &b->zero);
}

/*
 * Write what comes next of @b, as far as it is zero in all, or not at all.  Zeroes are
 * written only where the destination doesn't have them already: nothing else looks at
 * these sectors, nor writes there, as long as the job's owner has the claim.
 */
static void write_run(struct dm_clone_copier *copier, struct buffer *b)
{
	unsigned int offset = b->nr_written, nr;
	bool zero;

	nr = dm_clone_buffer_find_run(b->data, offset, b->nr_sectors,
				      b->sector + offset, &zero);
	b->nr_written += nr;
	if (!zero) {
		b->job->outcome.wrote = true;
		submit_slice(b, copier->dest, REQ_OP_WRITE, offset, nr, write_endio);
		return;
	}

	atomic64_add(nr, &copier->nr_zero);
	if (dm_clone_zeroer_is_dest_zeroed(copier->zeroer)) {
		end_write(b);
	} else {
		b->job->outcome.wrote = true;
		zero_run(copier, b, offset, nr);
	}
}

static void do_write(struct work_struct *work)
{
	struct pool *pool = container_of(work, struct pool, write_work);
	struct dm_clone_copier *copier = pool->copier;
	struct blk_plug plug;
	struct buffer *b;

	blk_start_plug(&plug);
	while ((b = pop_to_write(copier, pool)))
		write_run(copier, b);
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

/* How much may be started of a job now?  0: nothing; the work may be waiting. */
static unsigned int __room(struct dm_clone_copier *copier, struct pool *pool,
			   bool awaited)
{
	unsigned int room;
	u64 wait;

	if (awaited)
		return pool->sizes[NR_SIZES - 1];

	room = dm_clone_pacer_room(copier->pacer, &wait);
	if (!room && wait != U64_MAX)
		queue_delayed_work(copier->wq_source, &pool->read_work,
				   nsecs_to_jiffies(wait) + 1);

	return room;
}

/* How many sectors there are up to the next hole, or the end. */
static sector_t piece(const struct dm_clone_span *s)
{
	return (s->begin < s->hole_begin ? s->hole_begin : s->end) - s->begin;
}

/* Take @nr sectors off the begin of @s, at most up to its hole; and then that too. */
static void advance(struct dm_clone_span *s, sector_t nr)
{
	s->begin += nr;
	if (s->begin == s->hole_begin)
		s->begin = s->hole_end;
}

/* @nr sectors of background jobs wait no more. */
static void __reduce_backlog(struct dm_clone_copier *copier, sector_t nr)
{
	lockdep_assert_held(&copier->lock);

	copier->backlog -= nr;
	if (copier->backlogged && copier->backlog < MAX_BACKLOG) {
		copier->backlogged = false;
		copier->has_room(copier->context);
	}
}

/* Give @b the next slice of @job, of @nr_sectors at most. */
static void __set_slice(struct buffer *b, struct dm_clone_job *job,
			unsigned int nr_sectors, bool awaited)
{
	struct pool *pool = b->pool;

	list_del(&b->list);
	b->job = job;
	b->sector = job->left.begin;
	b->nr_sectors = min(nr_sectors, pool->sizes[b->size]);
	b->nr_written = 0;
	advance(&job->left, b->nr_sectors);
	job->nr_slices++;
	if (!pool->paced)
		return;

	b->started = dm_clone_pacer_start(b->copier->pacer, b->nr_sectors, !awaited);
	__reduce_backlog(b->copier, b->nr_sectors);
}

/* There's no more of @job to be started. */
static void __remove_job(struct pool *pool, struct dm_clone_job *job)
{
	list_del(&job->list);
	if (pool->paced)
		__reduce_backlog(pool->copier, job->left.end - job->left.begin);
}

/*
 * Take a free buffer and the slice it is for, if there are both and the pacer
 * lets it be started.  A job leaves the list when there's no more to start of
 * it; *@started is that job.
 *
 * If no buffer of the right size is free then that's *@size, and NULL is returned;
 * if it was that before the call already, then any buffer will do.
 */
static struct buffer *take_slice(struct dm_clone_copier *copier, struct pool *pool,
				 struct dm_clone_job **started, unsigned int *size)
{
	unsigned int nr = 0, fitting;
	struct dm_clone_job *job;
	struct buffer *b = NULL;
	bool awaited;

	*started = NULL;
	spin_lock_irq(&copier->lock);

	job = __next_job(pool, &awaited);
	if (job && !job->outcome.status)
		nr = min_t(sector_t, __room(copier, pool, awaited), piece(&job->left));

	fitting = fitting_size(pool, nr);
	if (nr && list_empty(&pool->free[fitting]) && *size != fitting) {
		*size = fitting;
		goto out;
	}

	*size = NR_SIZES;
	if (nr)
		b = __find_free(pool, fitting);
	if (b)
		__set_slice(b, job, nr, awaited);

	if (job && (job->outcome.status || job->left.begin == job->left.end)) {
		__remove_job(pool, job);
		*started = job;
	} else if (b && !pool->paced) {
		list_move_tail(&job->list, &pool->jobs);	/* take turns */
	}
out:
	spin_unlock_irq(&copier->lock);

	return b;
}

static bool has_jobs(struct pool *pool)
{
	return !list_empty_careful(&pool->jobs);
}

/*
 * What cannot be started now will be later.  If that's because no buffer is
 * free, then some are in use, since the first one is kept; the end of their
 * slices will run the work.  If it's the pacer, then either the end of a piece
 * changes its mind, of a slice or of zeroing, of which we hear by
 * dm_clone_copier_hurry(); or the work has been queued for when it's time.
 */
static void start_slices(struct pool *pool)
{
	struct dm_clone_copier *copier = pool->copier;
	unsigned int size = NR_SIZES;	/* none */
	struct dm_clone_job *started;
	struct buffer *b;

	while (has_jobs(pool)) {
		b = take_slice(copier, pool, &started, &size);
		if (b)
			submit_slice(b, copier->source, REQ_OP_READ, 0,
				     b->nr_sectors, read_endio);
		if (started)
			put_job(copier, started);
		if (size < NR_SIZES)
			add_buffer(copier, pool, size);
		else if (!b && !started)
			return;
	}
}

static void do_read(struct work_struct *work)
{
	struct pool *pool = container_of(to_delayed_work(work), struct pool, read_work);
	struct blk_plug plug;

	blk_start_plug(&plug);
	start_slices(pool);
	blk_finish_plug(&plug);
}

void dm_clone_copier_copy(struct dm_clone_copier *copier, struct dm_clone_job *job,
			  enum dm_clone_copier_class class,
			  const struct dm_clone_span *span, dm_clone_job_fn done)
{
	struct pool *pool = &copier->pools[class];
	unsigned long flags;

	job->done = done;
	job->outcome = (struct dm_clone_outcome) { .sector = span->begin };
	job->left = *span;
	advance(&job->left, 0);
	job->nr_slices = 1;

	/* Under the lock: once the work has @job, the copier may go away. */
	spin_lock_irqsave(&copier->lock, flags);
	if (class == DM_CLONE_BACKGROUND && copier->cancelled)
		job->outcome.status = DM_CLONE_CANCELLED;
	list_add_tail(&job->list, &pool->jobs);
	if (pool->paced)
		copier->backlog += job->left.end - job->left.begin;
	run_read_work(pool);	/* a barrier: pairs with dm_clone_copier_hurry() */
	spin_unlock_irqrestore(&copier->lock, flags);
}

u64 dm_clone_copier_nr_zero(struct dm_clone_copier *copier)
{
	return atomic64_read(&copier->nr_zero);
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
	 * The bio waits, then this looks for jobs; dm_clone_copier_copy() adds the
	 * job, then queues the work, which looks for bios.
	 */
	smp_mb();
	if (has_jobs(pool))
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
			job->outcome.status = DM_CLONE_CANCELLED;
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

static int init_pool(struct dm_clone_copier *copier, enum dm_clone_copier_class class)
{
	struct pool *pool = &copier->pools[class];
	const unsigned int largest = NR_SIZES - 1;

	pool->paced = class == DM_CLONE_BACKGROUND;
	pool->sizes = buffer_sizes[class];
	pool->max_memory = max_memory[class];

	pool->first = alloc_buffer(pool, largest, GFP_KERNEL);
	if (!pool->first)
		return -ENOMEM;

	pool->memory = pool->sizes[largest];
	list_add(&pool->first->list, &pool->free[largest]);

	return 0;
}

static void exit_pool(struct pool *pool)
{
	unsigned int i;

	for (i = 0; i < NR_SIZES; i++)
		free_buffers(&pool->free[i]);
}

static void free_copier(struct dm_clone_copier *copier)
{
	int i;

	for (i = 0; i < DM_CLONE_NR_CLASSES; i++)
		exit_pool(&copier->pools[i]);
	kfree(copier);
}

struct dm_clone_copier *
dm_clone_copier_create(struct block_device *source, struct block_device *dest,
		       struct workqueue_struct *wq_source,
		       struct workqueue_struct *wq_dest, struct dm_clone_pacer *pacer,
		       struct dm_clone_zeroer *zeroer,
		       void (*has_room)(void *context), void *context)
{
	struct dm_clone_copier *copier = kzalloc(sizeof(*copier), GFP_KERNEL);
	int i, j, r;

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
	for (i = 0; i < DM_CLONE_NR_CLASSES; i++) {
		struct pool *pool = &copier->pools[i];

		pool->copier = copier;
		INIT_DELAYED_WORK(&pool->read_work, do_read);
		INIT_WORK(&pool->write_work, do_write);
		for (j = 0; j < NR_SIZES; j++)
			INIT_LIST_HEAD(&pool->free[j]);
		INIT_LIST_HEAD(&pool->jobs);
		INIT_LIST_HEAD(&pool->to_write);
	}

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

	/* The end of the last slice may have queued it for nothing. */
	for (i = 0; i < DM_CLONE_NR_CLASSES; i++) {
		cancel_delayed_work_sync(&copier->pools[i].read_work);
		cancel_work_sync(&copier->pools[i].write_work);
	}
	free_copier(copier);
}
