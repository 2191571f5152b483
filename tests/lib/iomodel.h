/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random I/O against a model in memory.
 *
 * Threads read, write, discard, zero and flush a device at random places and
 * compare what they read with the model. Operations in flight never overlap in
 * a sector (the model could not say what is right), but they do meet in the
 * same region, block and page all the time.
 *
 * The same seed gives each thread the same operations; how they interleave is
 * up to the machine.
 */
#ifndef TESTS_IOMODEL_H
#define TESTS_IOMODEL_H

#include "stamp.h"

enum iomodel_op {
	IO_READ, IO_WRITE, IO_FUA, IO_DISCARD, IO_ZERO, IO_FLUSH, NR_IO_OPS
};

struct iomodel {
	struct model *model;		/* covers the sectors exercised */
	int fd;				/* open O_RDWR | O_DIRECT */
	uint32_t threads;
	uint64_t seed;
	uint32_t ops;			/* for all threads together */
	uint32_t max_sectors;		/* largest operation */
	uint32_t align;			/* everything in multiples of this */
	uint32_t region_size;		/* half of the ranges snap to this */
	uint32_t weight[NR_IO_OPS];
	uint32_t errors_ok;		/* EIO is to be expected */
	uint32_t next_stamp;		/* in and out */
	volatile uint32_t stop;		/* set it to end early */
	volatile uint32_t done[NR_IO_OPS];
	volatile uint32_t errors[NR_IO_OPS];
	char report[2048];		/* what went wrong */
};

/* 0: everything was right. -1: see the report. */
int iomodel_run(struct iomodel *io);

#endif
