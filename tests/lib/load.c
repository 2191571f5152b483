// SPDX-License-Identifier: GPL-2.0-only
/* A load, see load.h. */

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"
#include "random.h"

#define BLOCK 4096

struct worker {
	struct load *load;
	pthread_t thread;
	uint64_t random;
	void *buf;
	int error;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Between a half and one and a half of what was asked: threads get out of step. */
static void pause_a_little(struct worker *w)
{
	uint64_t us = w->load->pause_us;
	struct timespec ts;

	if (!us)
		return;

	us = us / 2 + random_next(&w->random) % us;
	ts.tv_sec = us / 1000000;
	ts.tv_nsec = us % 1000000 * 1000;
	nanosleep(&ts, NULL);
}

static void note(struct load *load, enum load_op op, uint64_t latency)
{
	uint64_t i;

	if (!load->recording)
		return;

	i = __atomic_fetch_add(&load->samples[op], 1, __ATOMIC_RELAXED);
	if (i < load->max_samples)
		load->latency[op][i] = latency;
}

static int one_operation(struct worker *w)
{
	struct load *load = w->load;
	enum load_op op = random_next(&w->random) % NR_LOAD_OPS;
	off_t where = (load->first[op] + random_next(&w->random) % load->nr[op]) * BLOCK;
	uint64_t began = now_ns();
	ssize_t done;

	if (op == LOAD_READ)
		done = pread(load->fd, w->buf, BLOCK, where);
	else
		done = pwrite(load->fd, w->buf, BLOCK, where);
	if (done != BLOCK)
		return done < 0 ? -errno : -EIO;
	if (op == LOAD_WRITE && load->sync && fdatasync(load->fd))
		return -errno;

	note(load, op, now_ns() - began);

	return 0;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!w->load->stop && !w->error) {
		w->error = one_operation(w);
		pause_a_little(w);
	}

	return NULL;
}

static int start_worker(struct worker *w, struct load *load, unsigned int number)
{
	w->load = load;
	w->random = (uint64_t)(load->seed + 1) << 16 | (number + 1);
	if (posix_memalign(&w->buf, BLOCK, BLOCK))
		return -ENOMEM;
	memset(w->buf, number, BLOCK);

	return -pthread_create(&w->thread, NULL, work, w);
}

int load_run(struct load *load)
{
	struct worker *workers = calloc(load->threads, sizeof(*workers));
	unsigned int i, started = 0;
	int r = workers ? 0 : -ENOMEM;

	while (!r && started < load->threads) {
		r = start_worker(&workers[started], load, started);
		if (!r)
			started++;
	}
	if (r)
		load->stop = 1;

	for (i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		if (!r)
			r = workers[i].error;
	}
	for (i = 0; workers && i < load->threads; i++)
		free(workers[i].buf);
	free(workers);

	return r;
}
