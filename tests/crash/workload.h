/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random I/O that records itself in the trace.
 *
 * Threads write, discard, zero and flush a device at random.  Each operation
 * has a number; a write stamps its sectors with it (tests/lib/stamp.h), and
 * before and after each operation there is a line about it in the kernel's
 * trace buffer, among those about the bios that it causes:
 *
 *	B <number> <letter of the operation> <sector> <sectors>
 *	E <number> <errno>
 *
 * Nothing is checked here, and ranges in flight may overlap: what the device
 * may hold in the end is for the replay to find out.
 */
#ifndef CRASH_WORKLOAD_H
#define CRASH_WORKLOAD_H

#include <stdint.h>

enum workload_op {
	WORKLOAD_WRITE,
	WORKLOAD_FUA,
	WORKLOAD_DISCARD,
	WORKLOAD_ZERO,		/* zeroes, in whatever way */
	WORKLOAD_PUNCH,		/* write-zeroes that may unmap, or nothing */
	WORKLOAD_FLUSH,
	WORKLOAD_READ,
	NR_WORKLOAD_OPS
};

#define WORKLOAD_LETTERS "wudzpfr"

struct workload {
	const char *device;
	int marker;			/* open trace_marker file */
	uint32_t threads;
	uint32_t ops;			/* all threads together */
	uint64_t seed;
	uint64_t sectors;		/* size of the device */
	uint32_t region_size;
	uint32_t align;			/* of ranges; sectors */
	uint32_t max_sectors;		/* in one operation */
	uint32_t pause_us;		/* at most, between two operations */
	uint32_t weight[NR_WORKLOAD_OPS];
	uint32_t first_number;		/* of operations */

	/* The caller may look at the rest. */
	uint32_t stop;			/* set it: threads end after their operation */
	uint32_t failed;		/* unexpectedly */
};

/* Returns 0 when all is done, or a negative errno. */
int workload_run(struct workload *w);

#endif
