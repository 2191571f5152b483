// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Marks, see marks.h.
 */

#include <linux/bitmap.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "marks.h"

void dm_clone_marks_init(struct dm_clone_marks *marks, unsigned long nr_regions)
{
	marks->nr_regions = nr_regions;
	spin_lock_init(&marks->lock);
	marks->bits = NULL;
}

void dm_clone_marks_exit(struct dm_clone_marks *marks)
{
	kvfree(marks->bits);
}

/* Mark them if there is memory for that; if there was none so far use @bits. */
static bool mark(struct dm_clone_marks *marks, unsigned long **bits,
		 unsigned long begin, unsigned long end)
{
	unsigned long flags;
	bool r;

	spin_lock_irqsave(&marks->lock, flags);
	if (!marks->bits && *bits) {
		WRITE_ONCE(marks->bits, *bits);
		*bits = NULL;
		marks->begin = begin;
		marks->end = end;
	}
	r = marks->bits;
	if (r) {
		bitmap_set(marks->bits, begin, end - begin);
		marks->begin = min(marks->begin, begin);
		marks->end = max(marks->end, end);
	}
	spin_unlock_irqrestore(&marks->lock, flags);

	return r;
}

/*
 * Marks are dispensable, so this may fail.  Neither I/O is worth it, nor the
 * compaction that kvcalloc() would ask for with these flags.
 */
static unsigned long *alloc_marks(unsigned long nr)
{
	const gfp_t gfp = GFP_NOIO | __GFP_RETRY_MAYFAIL | __GFP_NOWARN | __GFP_ZERO;
	size_t size = BITS_TO_LONGS(nr) * sizeof(unsigned long);

	return size > PAGE_SIZE ? __vmalloc(size, gfp) : kmalloc(size, gfp);
}

int dm_clone_marks_set(struct dm_clone_marks *marks, unsigned long begin,
		       unsigned long end)
{
	unsigned long *bits = NULL, next;

	for (; begin < end; begin = next) {
		next = min(end, begin + DM_CLONE_MARKS_STRIDE);
		while (!mark(marks, &bits, begin, next)) {
			bits = alloc_marks(marks->nr_regions);
			if (!bits)
				return -ENOMEM;
		}
		cond_resched();
	}
	kvfree(bits);

	return 0;
}

static void clear_some(struct dm_clone_marks *marks, unsigned long begin,
		       unsigned long end)
{
	unsigned long flags;

	spin_lock_irqsave(&marks->lock, flags);
	if (marks->bits)
		bitmap_clear(marks->bits, begin, end - begin);
	spin_unlock_irqrestore(&marks->lock, flags);
}

void dm_clone_marks_clear(struct dm_clone_marks *marks, unsigned long begin,
			  unsigned long end)
{
	unsigned long next;

	for (; begin < end; begin = next) {
		next = min(end, begin + DM_CLONE_MARKS_STRIDE);
		clear_some(marks, begin, next);
	}
}

bool dm_clone_marks_find_run(struct dm_clone_marks *marks, unsigned long begin,
			     unsigned long end, unsigned long *run_end)
{
	bool marked = false;
	unsigned long flags;

	*run_end = end;
	if (!READ_ONCE(marks->bits))
		return false;

	spin_lock_irqsave(&marks->lock, flags);
	if (marks->bits) {
		marked = test_bit(begin, marks->bits);
		*run_end = marked ? find_next_zero_bit(marks->bits, end, begin) :
				    find_next_bit(marks->bits, end, begin);
	}
	spin_unlock_irqrestore(&marks->lock, flags);

	return marked;
}

/* Look at a stride.  If no marks are left the bits become the caller's. */
static bool __find(struct dm_clone_marks *marks, unsigned long most,
		   unsigned long *begin, unsigned long *end,
		   unsigned long **unused)
{
	unsigned long until = min(marks->end,
				  marks->begin + DM_CLONE_MARKS_STRIDE);

	lockdep_assert_held(&marks->lock);

	marks->begin = find_next_bit(marks->bits, until, marks->begin);
	if (marks->begin < until) {
		*begin = marks->begin;
		until = min(marks->end,
			    *begin + min(most, DM_CLONE_MARKS_STRIDE));
		*end = find_next_zero_bit(marks->bits, until, *begin);
		return true;
	}

	if (until == marks->end) {
		*unused = marks->bits;
		WRITE_ONCE(marks->bits, NULL);
	}

	return false;
}

bool dm_clone_marks_find_first(struct dm_clone_marks *marks, unsigned long most,
			       unsigned long *begin, unsigned long *end)
{
	unsigned long *unused = NULL;
	bool found = false;

	while (!found && !unused && READ_ONCE(marks->bits)) {
		spin_lock_irq(&marks->lock);
		if (marks->bits)
			found = __find(marks, most, begin, end, &unused);
		spin_unlock_irq(&marks->lock);
		cond_resched();
	}
	kvfree(unused);

	return found;
}
