/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Threads that copy ranges of regions from the source to the destination.
 * Their creator feeds them, and collects what they have done: they know nothing
 * of metadata.
 */
#ifndef COPIER_H
#define COPIER_H

#include <stdbool.h>
#include <stdint.h>

#include "state.h"

#define COPY_SIZE	1048576u	/* bytes of a request, at most */

/* Ranges that are done and not taken; beyond that the threads wait. */
#define COPIER_MAX_DONE	65536u

struct copier;

struct copier_config {
	int source;			/* file descriptors, O_DIRECT or not */
	int dest;
	uint64_t region_size;		/* sectors */
	uint64_t target_size;
	unsigned int nr_threads;

	/*
	 * The destination reads as zeroes where regions were not copied: zeroes
	 * are not written, and the destination is not read.
	 */
	bool dest_zeroed;

	/* Called in any thread, one at a time: this cannot be copied. */
	void (*failed)(uint64_t region, bool reading, int error);
};

struct copier_counts {
	uint64_t nr_copied;		/* regions */
	uint64_t nr_failed;
};

/* Returns 0 or a negative errno. */
int copier_start(struct copier **copier, const struct copier_config *config);

/* Copy these regions; false, at once, if there is no room in the queue. */
bool copier_offer(struct copier *c, struct range range);

/*
 * Wait until there is room, or nothing is left to do, or this time has passed.
 */
void copier_wait(struct copier *c, unsigned int milliseconds);

/* Is nothing queued or under way? */
bool copier_is_idle(struct copier *c);

/* Is it time to take what is done? */
bool copier_is_full(struct copier *c);

/*
 * What has been written since the last call, as far as @ranges has room.  It is
 * durable after an fsync() that begins afterwards.
 */
unsigned int copier_take_done(struct copier *c, struct range *ranges, unsigned int nr);

struct copier_counts copier_counts(struct copier *c);

/* What is queued is dropped, what is under way ends. */
void copier_cancel(struct copier *c);

/* It is idle. */
void copier_end(struct copier *c);

#endif /* COPIER_H */
