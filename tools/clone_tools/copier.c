// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Copying, see copier.h.
 *
 * One bad region spoils no others: a range that cannot be copied is tried again
 * region by region.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "copier.h"

#define QUEUE_LENGTH	64u
#define ALIGNMENT	4096u

/* Zeroes are looked for in pieces of this size. */
#define PIECE_SIZE	65536u

struct copier {
	struct copier_config config;
	pthread_t *threads;
	unsigned int nr_started;

	pthread_mutex_t lock;		/* protects what follows */
	pthread_cond_t work;		/* for the threads: there is some, or an end */
	pthread_cond_t news;		/* for the other side */
	struct range queue[QUEUE_LENGTH];
	unsigned int nr_queued;
	unsigned int nr_busy;
	bool ending;
	struct range *done;
	unsigned int nr_done;
	struct copier_counts counts;
};

/* What a thread has of its own. */
struct buffers {
	uint8_t *data;
	uint8_t *there;
};

/*
 *---------------------------------------------------------------
 * Requests
 *---------------------------------------------------------------
 */

/*
 * Zeroes are written only where the destination has none: a thin volume, or a
 * sparse file, stays so.  If it cannot be read it is written.
 */
static bool has_zeroes(struct copier *c, const struct buffers *b, size_t size,
		       uint64_t offset)
{
	return c->config.dest_zeroed ||
	       (!clone_md_read_fd(c->config.dest, b->there, size, offset) &&
		clone_md_is_zero(b->there, size));
}

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* The pieces from @begin on that are all zeroes, or all not: where they end. */
static size_t end_of_run(const uint8_t *data, size_t begin, size_t size, bool zero)
{
	while (begin < size) {
		size_t n = min_size(PIECE_SIZE, size - begin);

		if (clone_md_is_zero(data + begin, n) != zero)
			break;
		begin += n;
	}

	return begin;
}

static int write_data(struct copier *c, const struct buffers *b, size_t size,
		      uint64_t offset)
{
	size_t begin = 0, end;
	int r = 0;

	for (; !r && begin < size; begin = end) {
		bool zero = clone_md_is_zero(b->data + begin, min_size(PIECE_SIZE, size - begin));

		end = end_of_run(b->data, begin, size, zero);
		if (zero && has_zeroes(c, b, end - begin, offset + begin))
			continue;
		r = clone_md_write_fd(c->config.dest, b->data + begin, end - begin,
				      offset + begin);
	}

	return r;
}

static int copy_request(struct copier *c, const struct buffers *b, size_t size,
			uint64_t offset, bool *reading)
{
	int r = clone_md_read_fd(c->config.source, b->data, size, offset);

	*reading = r;

	return r ? r : write_data(c, b, size, offset);
}

static int copy_range(struct copier *c, const struct buffers *b,
		      const struct range *range, bool *reading)
{
	uint64_t offset = range->first * c->config.region_size * 512;
	uint64_t end = offset + range->nr * c->config.region_size * 512;

	if (end > c->config.target_size * 512)
		end = c->config.target_size * 512;

	while (offset < end) {
		size_t size = end - offset < COPY_SIZE ? end - offset : COPY_SIZE;
		int r = copy_request(c, b, size, offset, reading);

		if (r)
			return r;
		offset += size;
	}

	return 0;
}

/*
 *---------------------------------------------------------------
 * Results
 *---------------------------------------------------------------
 */

static void note_done(struct copier *c, const struct range *range)
{
	pthread_mutex_lock(&c->lock);
	while (c->nr_done == COPIER_MAX_DONE) {
		pthread_cond_broadcast(&c->news);
		pthread_cond_wait(&c->work, &c->lock);
	}
	c->done[c->nr_done++] = *range;
	c->counts.nr_copied += range->nr;
	pthread_mutex_unlock(&c->lock);
}

static void note_failed(struct copier *c, uint64_t region, bool reading, int error)
{
	pthread_mutex_lock(&c->lock);
	c->counts.nr_failed++;
	c->config.failed(region, reading, error);
	pthread_mutex_unlock(&c->lock);
}

static void copy(struct copier *c, const struct buffers *b, const struct range *range)
{
	bool reading;
	int r = copy_range(c, b, range, &reading);

	if (!r) {
		note_done(c, range);
		return;
	}
	if (range->nr == 1) {
		note_failed(c, range->first, reading, -r);
		return;
	}

	for (uint64_t i = 0; i < range->nr; i++) {
		struct range one = { range->first + i, 1 };

		copy(c, b, &one);
	}
}

/*
 *---------------------------------------------------------------
 * Threads
 *---------------------------------------------------------------
 */

static bool get_work(struct copier *c, struct range *range)
{
	bool found;

	pthread_mutex_lock(&c->lock);
	while (!c->nr_queued && !c->ending)
		pthread_cond_wait(&c->work, &c->lock);
	found = c->nr_queued;
	if (found) {
		*range = c->queue[0];
		memmove(c->queue, c->queue + 1, --c->nr_queued * sizeof(*range));
		c->nr_busy++;
	}
	pthread_mutex_unlock(&c->lock);

	return found;
}

static void end_work(struct copier *c)
{
	pthread_mutex_lock(&c->lock);
	c->nr_busy--;
	pthread_cond_broadcast(&c->news);
	pthread_mutex_unlock(&c->lock);
}

static void *run_thread(void *context)
{
	struct copier *c = context;
	struct buffers b = {
		.data = aligned_alloc(ALIGNMENT, COPY_SIZE),
		.there = aligned_alloc(ALIGNMENT, COPY_SIZE),
	};
	struct range range;

	while (get_work(c, &range)) {
		if (b.data && b.there)
			copy(c, &b, &range);
		else
			for (uint64_t i = 0; i < range.nr; i++)
				note_failed(c, range.first + i, true, ENOMEM);
		end_work(c);
	}

	free(b.data);
	free(b.there);
	return NULL;
}

static void end_threads(struct copier *c)
{
	pthread_mutex_lock(&c->lock);
	c->ending = true;
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);

	for (unsigned int i = 0; i < c->nr_started; i++)
		pthread_join(c->threads[i], NULL);
}

/*
 *---------------------------------------------------------------
 * The other side
 *---------------------------------------------------------------
 */

int copier_start(struct copier **copier, const struct copier_config *config)
{
	struct copier *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->config = *config;
	c->threads = calloc(config->nr_threads, sizeof(*c->threads));
	c->done = calloc(COPIER_MAX_DONE, sizeof(*c->done));
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->work, NULL);
	pthread_cond_init(&c->news, NULL);

	while (c->threads && c->done && c->nr_started < config->nr_threads &&
	       !pthread_create(&c->threads[c->nr_started], NULL, run_thread, c))
		c->nr_started++;

	if (!c->nr_started) {
		copier_end(c);
		return -ENOMEM;
	}
	*copier = c;
	return 0;
}

void copier_end(struct copier *c)
{
	end_threads(c);
	pthread_cond_destroy(&c->news);
	pthread_cond_destroy(&c->work);
	pthread_mutex_destroy(&c->lock);
	free(c->done);
	free(c->threads);
	free(c);
}

bool copier_offer(struct copier *c, struct range range)
{
	bool room;

	pthread_mutex_lock(&c->lock);
	room = c->nr_queued < QUEUE_LENGTH;
	if (room) {
		c->queue[c->nr_queued++] = range;
		pthread_cond_broadcast(&c->work);
	}
	pthread_mutex_unlock(&c->lock);

	return room;
}

void copier_wait(struct copier *c, unsigned int milliseconds)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += milliseconds % 1000 * 1000000L;
	end.tv_sec += milliseconds / 1000 + end.tv_nsec / 1000000000L;
	end.tv_nsec %= 1000000000L;

	pthread_mutex_lock(&c->lock);
	if ((c->nr_queued == QUEUE_LENGTH || c->nr_busy) && c->nr_done < COPIER_MAX_DONE)
		pthread_cond_timedwait(&c->news, &c->lock, &end);
	pthread_mutex_unlock(&c->lock);
}

bool copier_is_idle(struct copier *c)
{
	bool idle;

	pthread_mutex_lock(&c->lock);
	idle = !c->nr_queued && !c->nr_busy;
	pthread_mutex_unlock(&c->lock);

	return idle;
}

bool copier_is_full(struct copier *c)
{
	bool full;

	pthread_mutex_lock(&c->lock);
	full = c->nr_done > COPIER_MAX_DONE / 2;
	pthread_mutex_unlock(&c->lock);

	return full;
}

unsigned int copier_take_done(struct copier *c, struct range *ranges, unsigned int nr)
{
	pthread_mutex_lock(&c->lock);
	if (nr > c->nr_done)
		nr = c->nr_done;
	c->nr_done -= nr;
	memcpy(ranges, c->done + c->nr_done, nr * sizeof(*ranges));
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);

	return nr;
}

struct copier_counts copier_counts(struct copier *c)
{
	struct copier_counts counts;

	pthread_mutex_lock(&c->lock);
	counts = c->counts;
	pthread_mutex_unlock(&c->lock);

	return counts;
}

void copier_cancel(struct copier *c)
{
	pthread_mutex_lock(&c->lock);
	c->nr_queued = 0;
	pthread_mutex_unlock(&c->lock);
}
