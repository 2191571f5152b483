/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Ranges of regions that are to be hydrated before the rest, in the order in which
 * they were first asked for.
 *
 * Ranges that touch become one, in the place of the first of them that is not done
 * with.  To ask for what is in the list already changes nothing, so it may be done as
 * often as one likes, to see how far it has got.
 *
 * What has been tried of a range stays in the list, so that it isn't tried again
 * each time somebody asks: that's for dm_clone_ranges_forget_tried() to allow.  If
 * the list is full the oldest range that has been tried as a whole makes room.
 *
 * Nothing here takes a lock, sleeps, or allocates memory: the list has a fixed size,
 * and is the caller's to allocate, to protect, and to free.
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
		unsigned long next;	/* all before this has been tried */
	} list[DM_CLONE_MAX_RANGES];
};

/* Returns -EAGAIN if there are too many different ranges that have not been tried. */
int dm_clone_ranges_add(struct dm_clone_ranges *r, const struct dm_clone_range *range);

/* The first that has not been tried, from there on; false if there's none. */
bool dm_clone_ranges_first(const struct dm_clone_ranges *r,
			   struct dm_clone_range *range);

/*
 * What the above found to begin with @begin has been tried up to @next.  If the list
 * has changed meanwhile in a way that makes this doubtful it will be tried again.
 */
void dm_clone_ranges_tried(struct dm_clone_ranges *r, unsigned long begin,
			   unsigned long next);

/* Drop the ranges of which nothing is left to be tried. */
void dm_clone_ranges_forget_tried(struct dm_clone_ranges *r);

#endif /* DM_CLONE_RANGES_H */
