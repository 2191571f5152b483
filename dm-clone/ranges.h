/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Ranges of regions to hydrate before the rest, in the order in which they were
 * first asked for.
 *
 * Ranges that touch are merged, in the place of the first that is not done.
 * Asking for what is in the list already changes nothing: do it as often as you
 * like to see the progress.
 *
 * What has been tried stays in the list, so that it is not tried again each
 * time somebody asks, until dm_clone_ranges_forget_tried().  If the list is
 * full the oldest range that has been tried completely makes room.
 *
 * Nothing here takes a lock, sleeps, or allocates memory: the list has a fixed
 * size, and the caller allocates, protects and frees it.
 */
#ifndef DM_CLONE_RANGES_H
#define DM_CLONE_RANGES_H

#include <linux/types.h>

#define DM_CLONE_MAX_RANGES	1024

/* The regions [begin, end). */
struct dm_clone_range {
	unsigned long begin;
	unsigned long end;
};

struct dm_clone_ranges {
	unsigned int nr;
	struct dm_clone_listed_range {
		struct dm_clone_range range;
		unsigned long next;	/* what is before this has been tried */
	} list[DM_CLONE_MAX_RANGES];
};

/* Returns -EAGAIN if the list is full of ranges that are not done. */
int dm_clone_ranges_add(struct dm_clone_ranges *r,
			const struct dm_clone_range *range);

/* What is left to try of the first range that is not done; false if none is. */
bool dm_clone_ranges_first(const struct dm_clone_ranges *r,
			   struct dm_clone_range *range);

/*
 * What dm_clone_ranges_first() found at @begin has been tried up to @next.  If
 * the list has changed meanwhile so that this is in doubt it is tried again.
 */
void dm_clone_ranges_tried(struct dm_clone_ranges *r, unsigned long begin,
			   unsigned long next);

/* Drop the ranges that have been tried completely. */
void dm_clone_ranges_forget_tried(struct dm_clone_ranges *r);

#endif /* DM_CLONE_RANGES_H */
