/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Hydration: getting regions from the source to the destination.
 *
 * There are two ways to use it.  The target claims regions that somebody waits
 * for, and has them zeroed at once, or has the part of a region copied that it
 * does not write itself.  The rest happens in the background: the engine looks
 * for unhydrated regions, claims them and copies them, a batch at a time, up to
 * a number of regions at once.  The end of one copy starts the next.
 *
 * Copies of whole regions set the hydrated bits before they report that they
 * are done.  The owner of a claim releases it by dm_clone_hydration_release().
 */
#ifndef DM_CLONE_HYDRATION_H
#define DM_CLONE_HYDRATION_H

#include <linux/blk_types.h>
#include <linux/dm-kcopyd.h>	/* for the module parameter */
#include <linux/workqueue.h>

#include "claim.h"
#include "copier.h"
#include "region-map.h"
#include "ranges.h"
#include "zero.h"

/* How the two devices are cut into regions. */
struct dm_clone_geometry {
	struct block_device *source;
	struct block_device *dest;
	sector_t size;			/* of the target */
	unsigned int region_shift;	/* log2 of the region size in sectors */
	unsigned long nr_regions;	/* the last one may be short */
};

/* Where region @region begins. */
static inline sector_t dm_clone_region_start(const struct dm_clone_geometry *geo,
					     unsigned long region)
{
	return (sector_t)region << geo->region_shift;
}

/* Where the range that ends with region @end - 1 ends. */
static inline sector_t dm_clone_range_end(const struct dm_clone_geometry *geo,
					  unsigned long end)
{
	return min(dm_clone_region_start(geo, end), geo->size);
}

struct dm_clone_hydration;
struct dm_clone_fill;

/* What has hydrated regions, or tried to. */
enum dm_clone_means {
	DM_CLONE_BY_COPY,	/* in the background or on demand */
	DM_CLONE_BY_ZEROING,	/* of regions discarded, or known to be empty */
	DM_CLONE_BY_KEEPING,	/* the destination's data, as a discard asked */
	DM_CLONE_BY_READ,	/* with what a user has read */
	DM_CLONE_NR_MEANS
};

/* Any context. */
typedef void (*dm_clone_filled_fn)(struct dm_clone_fill *fill,
				   blk_status_t status);

/*
 * A fill: the regions of one claim, and what fills them: a copy, zeroes, or a
 * write of the user, which uses only the claim.  The caller provides the
 * memory.  The engine owns it from the call until @done is called.
 */
struct dm_clone_fill {
	struct dm_clone_claim claim;	/* the regions to fill */

	/* The engine's. */
	struct dm_clone_hydration *hydration;
	enum dm_clone_means means;
	union {
		struct dm_clone_job job;
		struct dm_clone_zero_job zero;
	};
	sector_t written;		/* by the caller: from here on, */
	sector_t nr_written;		/* this many */
	dm_clone_filled_fn done;
};

/* What the engine tells the target.  Any context. */
struct dm_clone_hydration_events {
	/* There is something to commit, or now all is hydrated. */
	void (*hydrated)(void *context);
	/* The claim that these bios waited for is gone: map them again. */
	void (*released)(void *context, struct bio_list *waiters);
	/* Disabled after too many errors.  Process context. */
	void (*gave_up)(void *context);
	/* Waits for this failing device; NULL: goes on.  Process context. */
	void (*waits)(void *context, const char *device);
	/* A region that counts as unhydrated may have been written to. */
	void (*spoilt)(void *context);
	void *context;
};

/*
 * @geo, @map and @claims must outlive the engine.  What may block on the source
 * runs on @wq_source, the zeroer on its own workqueue, the rest and the engine
 * itself on @wq_dest; both must have a rescuer.  The engine is created disabled
 * and suspended.  Returns an ERR_PTR() on failure.
 */
struct dm_clone_hydration *
dm_clone_hydration_create(const struct dm_clone_geometry *geo,
			  struct dm_clone_region_map *map,
			  struct dm_clone_claims *claims,
			  struct workqueue_struct *wq_source,
			  struct workqueue_struct *wq_dest,
			  struct dm_kcopyd_throttle *throttle,
			  const struct dm_clone_hydration_events *events);

/* The engine must be suspended, and none of the target's copies under way. */
void dm_clone_hydration_destroy(struct dm_clone_hydration *h);

/*
 * Zero the regions of @fill->claim, which is the caller's; first pass a
 * @discard down.  On success they are hydrated when @done is called, in process
 * context.  Any context; for jobs of a moment.
 */
void dm_clone_hydration_zero(struct dm_clone_hydration *h,
			     struct dm_clone_fill *fill, bool discard,
			     dm_clone_filled_fn done);

/*
 * These regions need not be copied: zero those that are not hydrated, in the
 * background, whether or not hydration is enabled.  Until then they read as the
 * source's data; those that another has claimed when their turn comes are left
 * to it.  This is remembered until the engine is destroyed.  May sleep; returns
 * -ENOMEM, or 0.
 */
int dm_clone_hydration_zero_later(struct dm_clone_hydration *h,
				  unsigned long begin, unsigned long end);

/* Are any of these regions to be zeroed?  Any context. */
bool dm_clone_hydration_is_to_zero(struct dm_clone_hydration *h,
				   unsigned long begin, unsigned long end);

/*
 * Copy the region of @fill->claim, which is the caller's (or zero it, if it is
 * marked), without the @nr sectors from @sector on, which the caller writes
 * meanwhile.  Nothing is hydrated when @done is called.  When the write has
 * ended as well, with the status @written, the caller calls end, which hydrates
 * the region if both went well, and returns the status of both.  A write that
 * was @refused, with nothing written, does not count as an error.  Any context.
 */
void dm_clone_hydration_rest_begin(struct dm_clone_hydration *h,
				   struct dm_clone_fill *fill, sector_t sector,
				   sector_t nr, dm_clone_filled_fn done);
blk_status_t dm_clone_hydration_rest_end(struct dm_clone_fill *fill,
					 blk_status_t written,
					 bool refused);

/*
 * For callers that own a claim and hydrate its regions themselves: it begins;
 * it has ended.  If it went well end sets the hydrated bits.  Any context.
 */
void dm_clone_hydration_begin(struct dm_clone_hydration *h,
			      const struct dm_clone_claim *claim);
void dm_clone_hydration_end(struct dm_clone_hydration *h,
			    const struct dm_clone_claim *claim,
			    enum dm_clone_means means,
			    const struct dm_clone_outcome *outcome);

/*
 * Release @claim, whoever has made it and whatever has become of its regions:
 * its waiters are handed on, and if a region is still unhydrated the engine is
 * told.  It may have passed over the claim, and have run out of work since.
 * Any context.
 */
void dm_clone_hydration_release(struct dm_clone_hydration *h,
				struct dm_clone_claim *claim);

/*
 * Is it known that unhydrated regions of the destination hold only zeroes, or
 * what the source has there (see dm_clone_hydration_rest_end())?  While it is,
 * nothing need be written to discard them, or to copy zeroes.
 */
void dm_clone_hydration_set_dest_zeroed(struct dm_clone_hydration *h,
					bool zeroed);
bool dm_clone_hydration_is_dest_zeroed(struct dm_clone_hydration *h);

/* Pass discards down before regions are zeroed in the background? */
void dm_clone_hydration_set_passdown(struct dm_clone_hydration *h,
				     bool passdown);

/*
 * Hydrate these regions before the rest, while hydration is enabled, in the
 * order of the calls; asking again costs nothing.  Pauses after errors are
 * kept.  Returns -EAGAIN if the list is full (see ranges.h), or -ENOMEM.  May
 * sleep.
 */
int dm_clone_hydration_want(struct dm_clone_hydration *h,
			    const struct dm_clone_range *range);

/* Background hydration, as the administrator wants it. */
void dm_clone_hydration_enable(struct dm_clone_hydration *h, bool enable);
bool dm_clone_hydration_is_enabled(struct dm_clone_hydration *h);

/*
 * Background hydration, as the state of the device allows it. stop: start
 * nothing more, and end what is under way early. wait, after stop: until
 * nothing is in flight; sleeps.
 */
void dm_clone_hydration_stop(struct dm_clone_hydration *h);
void dm_clone_hydration_wait(struct dm_clone_hydration *h);
void dm_clone_hydration_start(struct dm_clone_hydration *h);

/* Nothing more will be copied in the background: free memory. */
void dm_clone_hydration_shrink(struct dm_clone_hydration *h);

/* A bio is waiting for a claim, perhaps of a background copy.  Any context. */
void dm_clone_hydration_hurry(struct dm_clone_hydration *h);

/*
 * A bio of the user is sent down; it has ended. begin returns @start.  Only if
 * is_watching().  Any context.
 */
bool dm_clone_hydration_is_watching(struct dm_clone_hydration *h);
u64 dm_clone_hydration_user_begin(struct dm_clone_hydration *h);
void dm_clone_hydration_user_end(struct dm_clone_hydration *h, u64 start);

/*
 * Copies fail, and the engine waits for the source or the destination before it
 * tries again.  If a bio of the user ends well there meanwhile, tell it: then
 * it tries soon.  Any context.
 */
bool dm_clone_hydration_awaits_source(struct dm_clone_hydration *h);
void dm_clone_hydration_works(struct dm_clone_hydration *h, bool source);

/*
 * The administrator's settings.  The most regions in copy at once, and in one
 * copy; 0: no limit.
 */
void dm_clone_hydration_set_threshold(struct dm_clone_hydration *h,
				      unsigned int nr);
void dm_clone_hydration_set_batch_size(struct dm_clone_hydration *h,
				       unsigned int nr);

/* KiB a second that background copies do not exceed; 0: no limit. */
void dm_clone_hydration_set_rate(struct dm_clone_hydration *h,
				 unsigned int rate);

/* KiB a second that background copies get beside user I/O. */
void dm_clone_hydration_set_floor(struct dm_clone_hydration *h,
				  unsigned int floor);

/* Give up after this many failed copies of a region; 0: never. */
void dm_clone_hydration_set_max_errors(struct dm_clone_hydration *h,
				       unsigned int nr);

/* The limits in force, never 0. */
unsigned int dm_clone_hydration_threshold(struct dm_clone_hydration *h);
unsigned int dm_clone_hydration_batch_size(struct dm_clone_hydration *h);

/* The number of regions in copy, for whatever reason. */
unsigned long dm_clone_hydration_in_flight(struct dm_clone_hydration *h);

struct dm_clone_hydration_stats {
	const char *state;	/* as in Documentation/dm-clone.rst */
	u64 hydrated[DM_CLONE_NR_MEANS]; /* sectors */
	u64 zero;		/* of those copied: sectors found to be zero */
	u64 failed;		/* copies of a region, in the background */
	u64 read_errors;	/* of the source, by all means */
	u64 write_errors;	/* of the destination */
	int last_error;		/* errno of the last of these, or 0 */
	sector_t last_error_sector; /* where the bio that met it began */
	unsigned long memory;	/* bytes in use for copies */
	u64 rate;		/* background: sectors in the last second */
	u64 average_rate;	/* sectors a second since the first start */
};

/* Any context; does not wait for anything. */
void dm_clone_hydration_get_stats(struct dm_clone_hydration *h,
				  struct dm_clone_hydration_stats *stats);

#endif /* DM_CLONE_HYDRATION_H */
