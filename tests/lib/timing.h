/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A sequence of operations, and how long all of them together take.
 *
 * Only the system calls are between the two readings of the clock. Buffers are
 * the same each time, and huge pages: whether their parts are neighbours
 * decides what a request of 1 MiB looks like to the devices.
 */
#ifndef TESTS_TIMING_H
#define TESTS_TIMING_H

#include <stdint.h>

enum timing_op {
	TIMING_READ, TIMING_WRITE
};

#define TIMING_MAX_THREADS 64
#define TIMING_MAX_SIZE 1048576

struct timing {
	int fd;				/* open O_RDWR | O_DIRECT */
	uint32_t op;
	uint32_t fsync;			/* after each operation */
	uint32_t threads;		/* they share the operations out */
	uint64_t size;			/* bytes of an operation */
	uint64_t nr;			/* operations of all threads */
	const uint64_t *offsets;	/* bytes, one an operation */
	uint64_t ns;			/* how long it took */
};

/* 0, or a negative errno. */
int timing_run(struct timing *timing);

/* Copies as dd does, nr times size bytes from one device to another. */
int timing_copy(int from, int to, uint64_t size, uint64_t nr, uint64_t *ns);

/* The same ioctl as often as asked for, on a fresh copy of its argument. */
int timing_ioctl(int fd, unsigned long request, const void *argument, uint64_t size,
		 uint64_t nr, uint64_t *ns);

/*
 * Waits until this many sectors have been written to a device since it was
 * made, by its stat file, which is read every so often; -ETIME after the limit.
 */
int timing_until_written(int stat_fd, uint64_t sectors, uint64_t step_ns, uint64_t limit_ns);

#endif
