/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Claims: who may change which regions.
 *
 * Picture a land registry.  Before anybody turns an unhydrated region into a
 * hydrated one, by copying, overwriting or zeroing it, they enter a claim to
 * the range [begin, end).  Claims never overlap.  Whoever comes second leaves a
 * bio with the claim in the way, and gets it back when that claim is released,
 * to look at the regions again: they are hydrated by then, or the first owner
 * has failed and they are free.
 *
 * The rules that make this safe:
 *
 *  - Owners look at the hydrated bits again once they have the claim: between
 *    the first look and the claim another owner may have come and gone.
 *  - The hydrated bits are set after the owner's last write to the regions has
 *    ended, and before the claim is released.
 *  - Nobody waits for a claim while holding one.  So there are no cycles, and
 *    there is no order of claims to keep.
 *
 * I/O to hydrated regions does not come here, nor do reads, unless they hydrate
 * what they read: see reader.h.
 *
 * The memory of a claim belongs to its owner (a bio's per-bio data, or a batch
 * of the background copy): nothing here allocates or sleeps.  All functions may
 * be called in any context; the lock is taken with interrupts off and is
 * innermost.
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

	/* Bios that wait for some of these regions; dm_clone_claims.lock. */
	struct bio_list waiters;

	/* Set by the owner: reads should not wait for it.  A hint. */
	bool lengthy;
};

struct dm_clone_claims {
	spinlock_t lock;	/* protects the tree and the waiters */
	struct rb_root root;	/* disjoint claims, by position */
};

void dm_clone_claims_init(struct dm_clone_claims *claims);

/*
 * Claim [begin, end), or leave @bio with the claim that is in the way.
 *
 * Returns true if the range is now claimed.  Otherwise @bio is queued and may
 * already be in other hands: the caller must not touch it, nor @claim, again.
 */
bool dm_clone_claim_or_wait(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim,
			    unsigned long begin, unsigned long end,
			    struct bio *bio);

/*
 * Claim as much of [begin, end) as is free from its beginning on.
 *
 * Returns the number of regions claimed. 0: another has claimed @begin, and
 * *@taken_until is the end of that claim.
 */
unsigned long dm_clone_claim_free_part(struct dm_clone_claims *claims,
				       struct dm_clone_claim *claim,
				       unsigned long begin, unsigned long end,
				       unsigned long *taken_until);

/*
 * Leave @bio with the claim to @region.  Returns false if there is none, or if
 * it is a lengthy one.
 */
bool dm_clone_claim_wait(struct dm_clone_claims *claims, unsigned long region,
			 struct bio *bio);

/*
 * Give up @claim.  Its waiters, in the order they came, are then the caller's
 * to map again; and the engine, which passes over what others have claimed, may
 * have to be told.  So this is for dm_clone_hydration_release() only.
 */
void dm_clone_claim_release(struct dm_clone_claims *claims,
			    struct dm_clone_claim *claim);

#endif /* DM_CLONE_CLAIM_H */
