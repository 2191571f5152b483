// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random I/O that leaves a trace of itself.  See workload.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../lib/stamp.h"
#include "../lib/random.h"
#include "workload.h"

struct worker {
	struct workload *w;
	unsigned int index;
	int fd;
	uint64_t rng;
	void *buf;
	pthread_t thread;
};

struct op {
	enum workload_op kind;
	uint32_t number;
	uint64_t sector, nr;
};

/*
 *---------------------------------------------------------------
 * What to do next
 *---------------------------------------------------------------
 */

static enum workload_op pick_kind(const struct workload *w, uint64_t *rng)
{
	uint64_t sum = 0, n;
	unsigned int op;

	for (op = 0; op < NR_WORKLOAD_OPS; op++)
		sum += w->weight[op];

	n = random_below(rng, sum);
	for (op = 0; n >= w->weight[op]; op++)
		n -= w->weight[op];

	return op;
}

static uint64_t round_to(uint64_t n, uint64_t unit)
{
	return n - n % unit;
}

/*
 * Sizes spread evenly over the powers of two.  Half of the ranges are in an
 * eighth of the device, so that sectors are written again and again; half of
 * them begin, and, if long enough, end where a region does.
 */
static void pick_range(const struct workload *w, uint64_t *rng, struct op *op)
{
	uint64_t area = random_below(rng, 2) ? w->sectors : w->sectors / 8;
	unsigned int bits = 0;
	uint64_t size;

	while ((2ull << bits) <= w->max_sectors)
		bits++;
	size = 1ull << random_below(rng, bits + 1);
	size += random_below(rng, size);

	op->sector = random_below(rng, area);
	if (random_below(rng, 2)) {
		op->sector = round_to(op->sector, w->region_size);
		if (size >= w->region_size)
			size = round_to(size, w->region_size);
	}

	op->sector = round_to(op->sector, w->align);
	if (size > w->max_sectors)
		size = w->max_sectors;
	size = round_to(size, w->align);
	if (!size)
		size = w->align;
	if (op->sector + size > w->sectors)
		size = w->sectors - op->sector;
	op->nr = size;
}

/*
 *---------------------------------------------------------------
 * Doing it
 *---------------------------------------------------------------
 */

static void mark(struct workload *w, const char *text, int len)
{
	/* Whoever reads the trace notices a lost line. */
	if (write(w->marker, text, len) != len)
		__atomic_add_fetch(&w->failed, 1, __ATOMIC_RELAXED);
}

static int do_rw(struct worker *worker, const struct op *op)
{
	struct iovec iov = {
		.iov_base = worker->buf,
		.iov_len = op->nr * SECTOR_SIZE,
	};
	off_t offset = op->sector * SECTOR_SIZE;
	ssize_t n;

	if (op->kind == WORKLOAD_READ)
		n = preadv2(worker->fd, &iov, 1, offset, 0);
	else
		n = pwritev2(worker->fd, &iov, 1, offset,
			     op->kind == WORKLOAD_FUA ? RWF_DSYNC : 0);
	if (n < 0)
		return errno;

	return (size_t)n == iov.iov_len ? 0 : EIO;
}

static int do_op(struct worker *worker, const struct op *op)
{
	uint64_t range[2] = { op->sector * SECTOR_SIZE, op->nr * SECTOR_SIZE };
	int r;

	switch (op->kind) {
	case WORKLOAD_WRITE:
	case WORKLOAD_FUA:
		stamp_fill(worker->buf, op->sector, op->nr, op->number);
		return do_rw(worker, op);
	case WORKLOAD_READ:
		return do_rw(worker, op);
	case WORKLOAD_DISCARD:
		r = ioctl(worker->fd, BLKDISCARD, range);
		break;
	case WORKLOAD_ZERO:
		r = ioctl(worker->fd, BLKZEROOUT, range);
		break;
	case WORKLOAD_PUNCH:
		r = fallocate(worker->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      range[0], range[1]);
		break;
	case WORKLOAD_FLUSH:
		r = fdatasync(worker->fd);
		break;
	default:
		abort();
	}

	return r ? errno : 0;
}

static void run_op(struct worker *worker, const struct op *op)
{
	static const char letters[] = WORKLOAD_LETTERS;
	struct workload *w = worker->w;
	char line[80];
	int r, len;

	len = snprintf(line, sizeof(line), "B %u %c %llu %llu\n", op->number,
		       letters[op->kind], (unsigned long long)op->sector,
		       (unsigned long long)op->nr);
	mark(w, line, len);

	r = do_op(worker, op);
	if (r && !(r == EOPNOTSUPP && op->kind == WORKLOAD_PUNCH))
		__atomic_add_fetch(&w->failed, 1, __ATOMIC_RELAXED);

	len = snprintf(line, sizeof(line), "E %u %d\n", op->number, r);
	mark(w, line, len);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct workload *w = worker->w;

	/* The numbers are dealt out in advance: a seed repeats them. */
	for (uint32_t n = worker->index; n < w->ops; n += w->threads) {
		struct op op = { .number = w->first_number + n };

		if (__atomic_load_n(&w->stop, __ATOMIC_RELAXED))
			break;

		op.kind = pick_kind(w, &worker->rng);
		pick_range(w, &worker->rng, &op);
		run_op(worker, &op);
		if (w->pause_us)
			usleep(random_below(&worker->rng, w->pause_us));
	}

	return NULL;
}

int workload_run(struct workload *w)
{
	struct worker *workers = calloc(w->threads, sizeof(*workers));
	unsigned int i, running = 0;
	int r = workers ? 0 : -ENOMEM;

	for (i = 0; !r && i < w->threads; i++) {
		struct worker *worker = &workers[i];

		worker->w = w;
		worker->index = i;
		worker->rng = w->seed + i * 0x5851f42d4c957f2dull;
		worker->fd = open(w->device, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (worker->fd < 0)
			r = -errno;
		worker->buf = aligned_alloc(4096, (w->max_sectors + 8) / 8 * 4096);
		if (!r && !worker->buf)
			r = -ENOMEM;
		if (!r)
			r = -pthread_create(&worker->thread, NULL, work, worker);
		if (!r)
			running++;
	}

	if (r)
		w->stop = 1;
	for (i = 0; i < running; i++)
		pthread_join(workers[i].thread, NULL);
	for (i = 0; workers && i < w->threads; i++) {
		if (workers[i].w && workers[i].fd >= 0)
			close(workers[i].fd);
		free(workers[i].buf);
	}
	free(workers);

	return r;
}
