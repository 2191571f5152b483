// SPDX-License-Identifier: GPL-2.0-only
/* Operations in sequence, see timing.h. */

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "timing.h"

#define HUGE_PAGE 2097152
#define STAT_ROOM 512
#define WRITTEN_FIELD 7		/* sectors written, the seventh of a stat file */

struct runner {
	struct timing *timing;
	pthread_t thread;
	unsigned int number;
	void *buf;
	int error;
};

/* Held for writing until all threads are there, so that none is done before others begin. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Made once, and never given back. Each is a huge page: its parts are neighbours. */
static void *buffer(unsigned int number)
{
	static void *buffers[TIMING_MAX_THREADS];
	void *buf;

	if (!buffers[number]) {
		if (posix_memalign(&buf, HUGE_PAGE, HUGE_PAGE))
			return NULL;
		madvise(buf, HUGE_PAGE, MADV_HUGEPAGE);
		memset(buf, number + 1, HUGE_PAGE);
		buffers[number] = buf;
	}

	return buffers[number];
}

static int one_operation(struct timing *timing, uint64_t offset, void *buf)
{
	ssize_t done;

	if (timing->op == TIMING_READ)
		done = pread(timing->fd, buf, timing->size, offset);
	else
		done = pwrite(timing->fd, buf, timing->size, offset);
	if (done != (ssize_t)timing->size)
		return done < 0 ? -errno : -EIO;

	return timing->fsync && fsync(timing->fd) ? -errno : 0;
}

static void *run(void *arg)
{
	struct runner *runner = arg;
	struct timing *timing = runner->timing;
	uint64_t i;

	pthread_rwlock_rdlock(&gate);
	pthread_rwlock_unlock(&gate);

	for (i = runner->number; i < timing->nr && !runner->error; i += timing->threads)
		runner->error = one_operation(timing, timing->offsets[i], runner->buf);

	return NULL;
}

static int run_threads(struct timing *timing, struct runner *runners)
{
	unsigned int i, started = 0;
	int r = 0;

	pthread_rwlock_wrlock(&gate);
	while (!r && started < timing->threads) {
		r = -pthread_create(&runners[started].thread, NULL, run, &runners[started]);
		if (!r)
			started++;
	}
	pthread_rwlock_unlock(&gate);

	for (i = 0; i < started; i++) {
		pthread_join(runners[i].thread, NULL);
		if (!r)
			r = runners[i].error;
	}

	return r;
}

int timing_run(struct timing *timing)
{
	struct runner runners[TIMING_MAX_THREADS] = { 0 };
	uint64_t began;
	unsigned int i;
	int r;

	if (!timing->threads || timing->threads > TIMING_MAX_THREADS ||
	    timing->size > TIMING_MAX_SIZE)
		return -EINVAL;

	for (i = 0; i < timing->threads; i++) {
		runners[i].timing = timing;
		runners[i].number = i;
		runners[i].buf = buffer(i);
		if (!runners[i].buf)
			return -ENOMEM;
	}

	began = now_ns();
	if (timing->threads > 1) {
		r = run_threads(timing, runners);
	} else {
		run(&runners[0]);
		r = runners[0].error;
	}
	timing->ns = now_ns() - began;

	return r;
}

int timing_copy(int from, int to, uint64_t size, uint64_t nr, uint64_t *ns)
{
	struct timing read = { .fd = from, .op = TIMING_READ, .size = size };
	struct timing write = { .fd = to, .op = TIMING_WRITE, .size = size };
	void *buf = size <= TIMING_MAX_SIZE ? buffer(0) : NULL;
	uint64_t began = now_ns();
	uint64_t i;
	int r = buf ? 0 : -ENOMEM;

	for (i = 0; i < nr && !r; i++) {
		r = one_operation(&read, i * size, buf);
		if (!r)
			r = one_operation(&write, i * size, buf);
	}
	*ns = now_ns() - began;

	return r;
}

int timing_ioctl(int fd, unsigned long request, const void *argument, uint64_t size,
		 uint64_t nr, uint64_t *ns)
{
	void *copy = malloc(size);
	uint64_t began, i;
	int r = copy ? 0 : -ENOMEM;

	began = now_ns();
	for (i = 0; i < nr && !r; i++) {
		memcpy(copy, argument, size);
		if (ioctl(fd, request, copy))
			r = -errno;
	}
	*ns = now_ns() - began;
	free(copy);

	return r;
}

static int sectors_written(int stat_fd, uint64_t *sectors)
{
	char text[STAT_ROOM], *at = text;
	ssize_t n = pread(stat_fd, text, sizeof(text) - 1, 0);
	int field;

	if (n <= 0)
		return n ? -errno : -EIO;

	text[n] = '\0';
	for (field = 0; field < WRITTEN_FIELD; field++)
		*sectors = strtoull(at, &at, 10);

	return 0;
}

int timing_until_written(int stat_fd, uint64_t sectors, uint64_t step_ns, uint64_t limit_ns)
{
	const struct timespec step = { .tv_nsec = step_ns };
	uint64_t began = now_ns();
	uint64_t written;
	int r;

	while (!(r = sectors_written(stat_fd, &written)) && written < sectors) {
		if (now_ns() - began > limit_ns)
			return -ETIME;
		nanosleep(&step, NULL);
	}

	return r;
}
