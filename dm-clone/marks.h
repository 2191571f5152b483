/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Marks: regions that are to be zeroed rather than copied.
 *
 * One bit a region, in memory that is there only while there are marks.  A mark
 * is a wish, not a right: whoever is to change the region needs a claim to it.
 * It means nothing for a region that is hydrated.  To lose it is no harm, the
 * region is copied then, as if nothing had been said of it.
 */
#ifndef DM_CLONE_MARKS_H
#define DM_CLONE_MARKS_H

#include <linux/bits.h>
#include <linux/spinlock.h>
#include <linux/types.h>

/* Regions that are gone through at a time, at most, with interrupts off. */
#define DM_CLONE_MARKS_STRIDE	BIT(18)

struct dm_clone_marks {
	unsigned long nr_regions;

	spinlock_t lock;	/* protects the rest; any context, irqs off */
	unsigned long *bits;	/* NULL: there are none */
	unsigned long begin;	/* nothing is marked before this, */
	unsigned long end;	/* or from this on */
};

void dm_clone_marks_init(struct dm_clone_marks *marks, unsigned long nr_regions);
void dm_clone_marks_exit(struct dm_clone_marks *marks);

/* Mark the regions [begin, end).  Returns -ENOMEM, or 0.  May sleep. */
int dm_clone_marks_set(struct dm_clone_marks *marks, unsigned long begin,
		       unsigned long end);

/* Any context. */
void dm_clone_marks_clear(struct dm_clone_marks *marks, unsigned long begin,
			  unsigned long end);

/*
 * The run of regions from @begin on that are all marked, or all not.  Returns whether
 * they are; *@run_end is the first one of [begin, end) that is different, or @end.
 * Any context.
 */
bool dm_clone_marks_find_run(struct dm_clone_marks *marks, unsigned long begin,
			     unsigned long end, unsigned long *run_end);

/*
 * The first regions that are marked, @most of them: [*begin, *end).  Returns false if
 * there are none, and then the memory is free again.  May sleep.
 */
bool dm_clone_marks_find_first(struct dm_clone_marks *marks, unsigned long most,
			       unsigned long *begin, unsigned long *end);

#endif /* DM_CLONE_MARKS_H */
