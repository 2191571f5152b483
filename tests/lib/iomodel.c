// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random I/O against a model in memory. See iomodel.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "iomodel.h"
#include "random.h"

#define MAX_THREADS	64

static const char *const op_name[NR_IO_OPS] = {
	"read", "write", "write with FUA", "discard", "write zeroes", "flush"
};

/* A range in flight; readers share, everything else is alone. */
struct range {
	uint64_t sector, nr;
	int shared;
};

struct run {
	struct iomodel *io;
	pthread_mutex_t lock;		/* all below, the model and the stamps */
	pthread_cond_t changed;		/* a range was given back */
	struct range flying[MAX_THREADS];
	uint32_t started;		/* operations */
	int failed;
};

struct worker {
	struct run *run;
	unsigned int index;
	uint64_t rng;
	void *buf;
	pthread_t thread;
};

struct step {
	enum iomodel_op op;
	uint64_t sector, nr;
	uint32_t stamp;
	unsigned int variant;
};

/*
 *---------------------------------------------------------------
 * What to do next
 *---------------------------------------------------------------
 */

static enum iomodel_op pick_op(const struct iomodel *io, uint64_t *rng)
{
	uint64_t sum = 0, n;
	unsigned int op;

	for (op = 0; op < NR_IO_OPS; op++)
		sum += io->weight[op];

	n = random_below(rng, sum);
	for (op = 0; n >= io->weight[op]; op++)
		n -= io->weight[op];

	return op;
}

static uint64_t round_down(uint64_t n, uint64_t to)
{
	return n - n % to;
}

/*
 * Sizes spread evenly over the powers of two. Half of the ranges begin and end
 * at region boundaries, or would if they were long enough.
 */
static void pick_range(const struct iomodel *io, uint64_t *rng, struct step *s)
{
	uint64_t max = io->max_sectors, size, sector;
	uint64_t total = io->model->sectors;
	unsigned int bits = 0;

	while ((2ull << bits) <= max)
		bits++;
	size = 1ull << random_below(rng, bits + 1);
	size += random_below(rng, size);
	sector = random_below(rng, total);

	if (random_below(rng, 2)) {
		uint64_t region = io->region_size;

		sector = round_down(sector + io->model->first -
				    io->model->origin, region);
		sector += io->model->origin;
		sector = sector < io->model->first ?
			 0 : sector - io->model->first;
		if (size >= region)
			size = round_down(size, region);
	}

	if (size > max)
		size = max;
	sector = round_down(sector, io->align);
	size = round_down(size, io->align);
	if (!size)
		size = io->align;
	if (sector + size > total)
		size = total - sector;

	s->sector = io->model->first + sector;
	s->nr = size;
}

static void pick_step(const struct iomodel *io, uint64_t *rng, struct step *s)
{
	s->op = pick_op(io, rng);
	pick_range(io, rng, s);
	s->variant = random_next(rng) >> 32;
}

/*
 *---------------------------------------------------------------
 * Ranges in flight
 *---------------------------------------------------------------
 */

static int overlaps(const struct range *a, const struct range *b)
{
	return a->sector < b->sector + b->nr && b->sector < a->sector + a->nr;
}

static int range_is_free(struct run *run, const struct range *want)
{
	for (unsigned int i = 0; i < run->io->threads; i++) {
		const struct range *r = &run->flying[i];

		if (r->nr && overlaps(r, want) && !(r->shared && want->shared))
			return 0;
	}

	return 1;
}

/* Called with the lock. */
static void range_take(struct worker *w, const struct step *s)
{
	struct range want = {
		.sector = s->sector,
		.nr = s->op == IO_FLUSH ? 0 : s->nr,
		.shared = s->op == IO_READ,
	};

	while (!range_is_free(w->run, &want))
		pthread_cond_wait(&w->run->changed, &w->run->lock);

	w->run->flying[w->index] = want;
}

/* Called with the lock. */
static void range_give_back(struct worker *w)
{
	w->run->flying[w->index].nr = 0;
	pthread_cond_broadcast(&w->run->changed);
}

/*
 *---------------------------------------------------------------
 * Doing it
 *---------------------------------------------------------------
 */

static int do_zero(int fd, uint64_t range[2], unsigned int variant)
{
	int r;

	switch (variant % 3) {
	case 0:
		r = ioctl(fd, BLKZEROOUT, range);
		break;
	case 1:
		r = fallocate(fd, FALLOC_FL_ZERO_RANGE, range[0], range[1]);
		break;
	default:
		/* Offloaded or not at all: a device need not be able to. */
		r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      range[0], range[1]);
		break;
	}

	return r ? -errno : 0;
}

static int do_step(struct worker *w, const struct step *s)
{
	uint64_t range[2] = { s->sector * SECTOR_SIZE, s->nr * SECTOR_SIZE };
	uint64_t number = s->sector - w->run->io->model->origin;
	int fd = w->run->io->fd;

	switch (s->op) {
	case IO_WRITE:
	case IO_FUA:
		stamp_fill(w->buf, number, s->nr, s->stamp);
		/* fall through */
	case IO_READ:
		return full_io(fd, w->buf, range[1], range[0], s->op != IO_READ,
			       s->op == IO_FUA ? RWF_DSYNC : 0);
	case IO_DISCARD:
		return ioctl(fd, BLKDISCARD, range) ? -errno : 0;
	case IO_ZERO:
		return do_zero(fd, range, s->variant);
	case IO_FLUSH:
		return fdatasync(fd) ? -errno : 0;
	default:
		abort();
	}
}

/*
 *---------------------------------------------------------------
 * What it means for the model. Called with the lock.
 *---------------------------------------------------------------
 */

static void fail(struct worker *w, const struct step *s, const char *why)
{
	struct iomodel *io = w->run->io;

	if (!w->run->failed)
		snprintf(io->report, sizeof(io->report),
			 "seed %llu, thread %u, %s of %llu sectors at %llu: %s",
			 (unsigned long long)io->seed, w->index,
			 op_name[s->op], (unsigned long long)s->nr,
			 (unsigned long long)s->sector, why);
	w->run->failed = 1;
}

/* A longer discard takes effect some time after it has ended. */
#define LARGEST_DONE	2048

static void settle_discard(struct model *model, const struct step *s)
{
	if (s->nr > LARGEST_DONE)
		model_later(model, s->sector, s->nr);
	else
		model_maybe(model, s->sector, s->nr, STAMP_ZERO);
}

static void settle_error(struct worker *w, const struct step *s, int r)
{
	struct iomodel *io = w->run->io;

	if (r == -EOPNOTSUPP && s->op == IO_ZERO)
		return;

	io->errors[s->op]++;
	if (!io->errors_ok || r != -EIO)
		fail(w, s, strerror(-r));

	if (s->op == IO_WRITE || s->op == IO_FUA)
		model_maybe(io->model, s->sector, s->nr, s->stamp);
	else if (s->op == IO_DISCARD)
		settle_discard(io->model, s);
	else if (s->op == IO_ZERO)
		model_maybe(io->model, s->sector, s->nr, STAMP_ZERO);
}

static void settle_success(struct worker *w, const struct step *s)
{
	struct model *model = w->run->io->model;
	char why[1024];

	w->run->io->done[s->op]++;
	switch (s->op) {
	case IO_READ:
		if (model_check_buf(model, w->buf, s->sector, s->nr, why,
				    sizeof(why)))
			fail(w, s, why);
		break;
	case IO_WRITE:
	case IO_FUA:
		model_set(model, s->sector, s->nr, s->stamp);
		break;
	case IO_DISCARD:
		settle_discard(model, s);
		break;
	case IO_ZERO:
		model_set(model, s->sector, s->nr, STAMP_ZERO);
		break;
	default:
		break;
	}
}

/*
 *---------------------------------------------------------------
 * Threads
 *---------------------------------------------------------------
 */

static int go_on(struct run *run)
{
	return !run->failed && !run->io->stop && run->started < run->io->ops;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct run *run = w->run;

	pthread_mutex_lock(&run->lock);
	while (go_on(run)) {
		struct step s;
		int r;

		run->started++;
		pick_step(run->io, &w->rng, &s);
		s.stamp = run->io->next_stamp;
		if (++run->io->next_stamp > STAMP_MAX)
			run->io->next_stamp = STAMP_MAX / 2;
		range_take(w, &s);
		pthread_mutex_unlock(&run->lock);

		r = do_step(w, &s);

		pthread_mutex_lock(&run->lock);
		if (r)
			settle_error(w, &s, r);
		else
			settle_success(w, &s);
		range_give_back(w);
	}
	pthread_mutex_unlock(&run->lock);

	return NULL;
}

int iomodel_run(struct iomodel *io)
{
	struct worker *workers;
	struct run run = { .io = io };
	unsigned int i, started = 0;

	io->report[0] = '\0';
	if (!io->threads || io->threads > MAX_THREADS)
		return -1;

	workers = calloc(io->threads, sizeof(*workers));
	if (!workers)
		return -1;

	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.changed, NULL);

	for (i = 0; i < io->threads; i++) {
		struct worker *w = &workers[i];

		w->run = &run;
		w->index = i;
		w->rng = io->seed + i * 0x5851f42d4c957f2dull;
		w->buf = aligned_alloc(4096, (io->max_sectors + 7) / 8 * 4096);
		if (!w->buf || pthread_create(&w->thread, NULL, work, w)) {
			free(w->buf);
			snprintf(io->report, sizeof(io->report),
				 "cannot start thread %u", i);
			run.failed = 1;
			break;
		}
		started++;
	}

	for (i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		free(workers[i].buf);
	}

	pthread_cond_destroy(&run.changed);
	pthread_mutex_destroy(&run.lock);
	free(workers);

	return run.failed ? -1 : 0;
}
