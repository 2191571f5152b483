// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The registry of claimed region ranges, see claim.h.
 */

#include "claim.h"

void dm_clone_claims_init(struct dm_clone_claims *claims)
{
	spin_lock_init(&claims->lock);
	claims->root = RB_ROOT;
}

/*
 * The first claim that ends after @begin: the one that holds @begin, or else
 * the next one.  Claims are disjoint, so in order of their beginnings they are
 * also in order of their ends.
 */
static struct dm_clone_claim *__first_beyond(struct dm_clone_claims *claims,
					     unsigned long begin)
{
	struct rb_node *n = claims->root.rb_node;
	struct dm_clone_claim *found = NULL;

	lockdep_assert_held(&claims->lock);

	while (n) {
		struct dm_clone_claim *c = rb_entry(n, struct dm_clone_claim, node);

		if (c->end > begin) {
			found = c;
			n = n->rb_left;
		} else {
			n = n->rb_right;
		}
	}

	return found;
}

static void __insert(struct dm_clone_claims *claims,
		     struct dm_clone_claim *claim, unsigned long begin,
		     unsigned long end)
{
	struct rb_node **link = &claims->root.rb_node, *parent = NULL;

	lockdep_assert_held(&claims->lock);

	claim->begin = begin;
	claim->end = end;
	bio_list_init(&claim->waiters);
	claim->lengthy = false;

	while (*link) {
		parent = *link;
		if (begin < rb_entry(parent, struct dm_clone_claim, node)->begin)
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}

	rb_link_node(&claim->node, parent, link);
	rb_insert_color(&claim->node, &claims->root);
}

bool dm_clone_claim_or_wait(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim,
			    unsigned long begin, unsigned long end,
			    struct bio *bio)
{
	struct dm_clone_claim *other;
	bool claimed = false;
	unsigned long flags;

	spin_lock_irqsave(&claims->lock, flags);

	other = __first_beyond(claims, begin);
	if (other && other->begin < end) {
		bio_list_add(&other->waiters, bio);
	} else {
		__insert(claims, claim, begin, end);
		claimed = true;
	}

	spin_unlock_irqrestore(&claims->lock, flags);

	return claimed;
}

unsigned long dm_clone_claim_free_part(struct dm_clone_claims *claims,
				       struct dm_clone_claim *claim,
				       unsigned long begin, unsigned long end,
				       unsigned long *taken_until)
{
	struct dm_clone_claim *other;
	unsigned long nr = 0, flags;

	spin_lock_irqsave(&claims->lock, flags);

	other = __first_beyond(claims, begin);
	if (other && other->begin <= begin) {
		*taken_until = other->end;
	} else {
		if (other && other->begin < end)
			end = other->begin;
		__insert(claims, claim, begin, end);
		nr = end - begin;
	}

	spin_unlock_irqrestore(&claims->lock, flags);

	return nr;
}

bool dm_clone_claim_wait(struct dm_clone_claims *claims, unsigned long region,
			 struct bio *bio)
{
	struct dm_clone_claim *claim;
	unsigned long flags;
	bool waits;

	spin_lock_irqsave(&claims->lock, flags);

	claim = __first_beyond(claims, region);
	waits = claim && claim->begin <= region && !READ_ONCE(claim->lengthy);
	if (waits)
		bio_list_add(&claim->waiters, bio);

	spin_unlock_irqrestore(&claims->lock, flags);

	return waits;
}

void dm_clone_claim_release(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim)
{
	unsigned long flags;

	spin_lock_irqsave(&claims->lock, flags);
	rb_erase(&claim->node, &claims->root);
	spin_unlock_irqrestore(&claims->lock, flags);
}
