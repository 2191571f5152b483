// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The list of ranges that come first, see ranges.h.
 */

#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/string.h>

#include "ranges.h"

static bool is_tried(const struct dm_clone_listed_range *l)
{
	return l->next >= l->range.end;
}

static bool is_within(const struct dm_clone_range *a,
		      const struct dm_clone_range *b)
{
	return a->begin >= b->begin && a->end <= b->end;
}

static bool touch(const struct dm_clone_range *a,
		  const struct dm_clone_range *b)
{
	return a->begin <= b->end && b->begin <= a->end;
}

static void remove(struct dm_clone_ranges *r, unsigned int i)
{
	r->nr--;
	memmove(&r->list[i], &r->list[i + 1], (r->nr - i) * sizeof(r->list[0]));
}

static void insert(struct dm_clone_ranges *r, unsigned int i,
		   const struct dm_clone_listed_range *l)
{
	memmove(&r->list[i + 1], &r->list[i], (r->nr - i) * sizeof(r->list[0]));
	r->list[i] = *l;
	r->nr++;
}

/*
 * Merge the ranges that touch @new into it, and take them off the list.
 * Returns the place for @new.
 *
 * No two ranges in the list touch.  So growing does not make @new touch more of
 * them, and only one of them begins before it: that one's progress is kept.
 */
static unsigned int merge(struct dm_clone_ranges *r,
			  struct dm_clone_listed_range *new)
{
	unsigned int i, nr = 0, place = DM_CLONE_MAX_RANGES;

	for (i = 0; i < r->nr; i++) {
		const struct dm_clone_listed_range *l = &r->list[i];

		if (!touch(&l->range, &new->range)) {
			r->list[nr++] = *l;
			continue;
		}

		if (!is_tried(l))
			place = min(place, nr);
		if (l->range.begin <= new->range.begin) {
			new->range.begin = l->range.begin;
			new->next = l->next;
		}
		new->range.end = max(new->range.end, l->range.end);
	}
	r->nr = nr;

	return min(place, nr);
}

static bool make_room(struct dm_clone_ranges *r)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (is_tried(&r->list[i])) {
			remove(r, i);
			return true;
		}

	return false;
}

int dm_clone_ranges_add(struct dm_clone_ranges *r,
			const struct dm_clone_range *range)
{
	struct dm_clone_listed_range new = { .range = *range, .next = range->begin };
	unsigned int i, place;

	for (i = 0; i < r->nr; i++)
		if (is_within(range, &r->list[i].range))
			return 0;

	place = merge(r, &new);
	if (r->nr == DM_CLONE_MAX_RANGES) {
		/* Nothing was merged, so it goes to the end. */
		if (!make_room(r))
			return -EAGAIN;
		place = r->nr;
	}
	insert(r, place, &new);

	return 0;
}

bool dm_clone_ranges_first(const struct dm_clone_ranges *r,
			   struct dm_clone_range *range)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (!is_tried(&r->list[i])) {
			range->begin = r->list[i].next;
			range->end = r->list[i].range.end;
			return true;
		}

	return false;
}

void dm_clone_ranges_tried(struct dm_clone_ranges *r, unsigned long begin,
			   unsigned long next)
{
	unsigned int i;

	for (i = 0; i < r->nr; i++)
		if (r->list[i].next == begin && !is_tried(&r->list[i])) {
			r->list[i].next = min(next, r->list[i].range.end);
			return;
		}
}

void dm_clone_ranges_forget_tried(struct dm_clone_ranges *r)
{
	unsigned int i, nr = 0;

	for (i = 0; i < r->nr; i++)
		if (!is_tried(&r->list[i]))
			r->list[nr++] = r->list[i];
	r->nr = nr;
}
