/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A load: threads that read and write blocks of 4 KiB at random, one at a time
 * each, and how long each of these took.
 *
 * What is read and what is written are separate parts of the device, so that
 * reads may stay in what is not hydrated.
 */
#ifndef TESTS_LOAD_H
#define TESTS_LOAD_H

#include <stdint.h>

enum load_op {
	LOAD_READ, LOAD_WRITE, NR_LOAD_OPS
};

struct load {
	int fd;				/* open O_RDWR | O_DIRECT */
	uint32_t threads;
	uint32_t pause_us;		/* of each thread after each operation */
	uint32_t seed;
	uint32_t sync;			/* each write is made durable, and that counts */
	uint64_t first[NR_LOAD_OPS];	/* blocks */
	uint64_t nr[NR_LOAD_OPS];
	uint64_t max_samples;		/* room for this many of each */
	uint64_t *latency[NR_LOAD_OPS];	/* ns */
	volatile uint32_t stop;		/* set it to end the load */
	volatile uint32_t recording;	/* latencies are noted while it is set */
	uint64_t samples[NR_LOAD_OPS];	/* how many were noted */
};

/* Runs until it is told to stop. Returns 0, or a negative errno. */
int load_run(struct load *load);

#endif
