/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Claims: who may change which regions.
 *
 * Picture a land registry.  Before anybody turns an unhydrated region into a
 * hydrated one, by copying it, by overwriting it, or by zeroing it, they enter
 * a claim to the range [begin, end).  Claims never overlap.  Whoever comes second
 * leaves a bio with the claim in the way, and gets it back when that claim
 * is released, to look at the regions again: they are hydrated by then, or
 * the first owner has failed and they are to be had.
 *
 * The rules that make this safe:
 *
 *  - Whoever holds a claim looks at the hydrated bits again before acting on
 *    them.  Between a look without a claim and the claim, another owner may
 *    have come and gone.
 *  - The hydrated bits are set before the claim is released, and after the
 *    last write of the owner to these regions has ended.
 *  - Nobody waits for a claim while holding one.  So there is no cycle, and
 *    no order of claims to keep.
 *
 * I/O to hydrated regions does not come here at all, nor do reads, unless they are
 * to hydrate what they read: see reader.h.
 *
 * The memory of a claim belongs to its owner (a bio's per-bio data, or a
 * batch of the background copy): nothing is allocated here, and nothing here
 * sleeps.  All functions may be called in any context; the lock is taken with
 * interrupts off and is innermost.
 */
#ifndef DM_CLONE_CLAIM_H
#define DM_CLONE_CLAIM_H

#include <linux/bio.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>

struct dm_clone_claim {
	struct rb_node node;

	/* The regions [begin, end). */
	unsigned long begin;
	unsigned long end;

	/* Bios that want some of these regions; under dm_clone_claims.lock until released. */
	struct bio_list waiters;

	/* Set by the owner: reads had better not wait for it.  A hint. */
	bool lengthy;
};

struct dm_clone_claims {
	spinlock_t lock;	/* protects everything in here and the waiters */
	struct rb_root root;	/* disjoint claims, by position */
};

void dm_clone_claims_init(struct dm_clone_claims *claims);

/*
 * Claim [begin, end), or leave @bio with a claim in the way.
 *
 * Returns true if the range is now claimed.  False: @bio has been queued and
 * may already be in other hands, so the caller must not touch it, nor @claim,
 * again.
 */
bool dm_clone_claim_or_wait(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim,
			    unsigned long begin, unsigned long end,
			    struct bio *bio);

/*
 * Claim as much of [begin, end) as is free from its start on.
 *
 * Returns the number of regions claimed.  0: @begin itself is claimed by
 * another, and *@taken_until is the end of that claim.
 */
unsigned long dm_clone_claim_free_part(struct dm_clone_claims *claims,
				       struct dm_clone_claim *claim,
				       unsigned long begin, unsigned long end,
				       unsigned long *taken_until);

/*
 * Leave @bio with the claim that holds @region, if there's one.  Returns
 * false if there's none, or it is a lengthy one.
 */
bool dm_clone_claim_wait(struct dm_clone_claims *claims, unsigned long region,
			 struct bio *bio);

/*
 * Give up @claim.  Its waiters are the caller's then, in the order they came, to
 * be mapped again; and the engine, which passes by what others have claimed, may
 * have to be told.  So this is for dm_clone_hydration_release() only.
 */
void dm_clone_claim_release(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim);

#endif /* DM_CLONE_CLAIM_H */
