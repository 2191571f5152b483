/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Marks: regions that are to be zeroed rather than copied.
 *
 * One bit a region, in memory that exists only while there are marks.  A mark
 * is a wish, not a right: changing the region takes a claim.  It means nothing
 * if the region is hydrated.  Losing it does no harm: then the region is
 * copied.
 */
#ifndef DM_CLONE_MARKS_H
#define DM_CLONE_MARKS_H

#include <linux/bits.h>
#include <linux/spinlock.h>
#include <linux/types.h>

/* The most regions gone through at a time with interrupts off. */
#define DM_CLONE_MARKS_STRIDE	BIT(18)

struct dm_clone_marks {
	unsigned long nr_regions;

	spinlock_t lock;	/* protects the rest; any context, irqs off */
	unsigned long *bits;	/* NULL: there are none */
	unsigned long begin;	/* marks are not before this, */
	unsigned long end;	/* nor here or after */
};

void dm_clone_marks_init(struct dm_clone_marks *marks,
			 unsigned long nr_regions);
void dm_clone_marks_exit(struct dm_clone_marks *marks);

/* Mark the regions [begin, end).  Returns -ENOMEM, or 0.  May sleep. */
int dm_clone_marks_set(struct dm_clone_marks *marks, unsigned long begin,
		       unsigned long end);

/* Any context. */
void dm_clone_marks_clear(struct dm_clone_marks *marks, unsigned long begin,
			  unsigned long end);

/*
 * The run of regions from @begin on that are all marked, or all not.  Returns
 * whether they are marked; *@run_end is the first region of [begin, end) that
 * differs, or @end.  Any context.
 */
bool dm_clone_marks_find_run(struct dm_clone_marks *marks, unsigned long begin,
			     unsigned long end, unsigned long *run_end);

/*
 * The first run of marked regions, @most of them: [*begin, *end).  Returns
 * false if there are none, and has freed the memory then.  May sleep.
 */
bool dm_clone_marks_find_first(struct dm_clone_marks *marks, unsigned long most,
			       unsigned long *begin, unsigned long *end);

#endif /* DM_CLONE_MARKS_H */
