/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Hydration: getting regions from the source to the destination.
 *
 * Two ways to use it.  Regions that somebody is waiting for the target claims itself,
 * and has them zeroed at once, or has copied what of a region it doesn't write itself.
 * The rest is done in the background: the engine here looks for unhydrated regions,
 * claims them and copies them, a batch at a time, up to a number of regions in copy
 * at once.  The end of one copy starts the next.
 *
 * Copies of whole regions set the hydrated bits before they report that they are done.
 * Whoever made the claim releases it, by dm_clone_hydration_release().
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

/* What has hydrated regions, or was to. */
enum dm_clone_means {
	DM_CLONE_BY_COPY,	/* in the background or on demand */
	DM_CLONE_BY_ZEROING,	/* of regions discarded, or known to be empty */
	DM_CLONE_BY_KEEPING,	/* what the destination holds: it was said to be right */
	DM_CLONE_BY_READ,	/* with what a reader was given */
	DM_CLONE_NR_MEANS
};

/* Any context. */
typedef void (*dm_clone_filled_fn)(struct dm_clone_fill *fill,
				   blk_status_t status);

/*
 * A fill: the regions of one claim, and what fills them: a copy, zeroes, or a write
 * of the user; then only the claim is used.  The caller provides the memory.  Once
 * given to the engine it is the engine's until @done is called, and the caller's again
 * from then on.
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
	sector_t written;		/* by the caller: from here on ... */
	sector_t nr_written;		/* ... this many */
	dm_clone_filled_fn done;
};

/* What the engine tells the target.  Any context. */
struct dm_clone_hydration_events {
	/* There is something to be committed, or now all is hydrated. */
	void (*hydrated)(void *context);
	/* These bios have waited for a claim that is gone, map them again. */
	void (*released)(void *context, struct bio_list *waiters);
	/* Disabled, because of too many errors.  Process context. */
	void (*gave_up)(void *context);
	/* Waits for this device, which fails; NULL: goes on.  Process context. */
	void (*waits)(void *context, const char *device);
	/* A region that counts as unhydrated may have been written to. */
	void (*spoilt)(void *context);
	void *context;
};

/*
 * @geo, @map and @claims must outlive the engine.  What may block on the source is
 * done on @wq_source, the rest, the engine itself too, on @wq_dest, but for what the
 * zeroer does (zero.h); both must have a
 * rescuer.  The engine is created disabled and suspended.  Returns an ERR_PTR() on
 * failure.
 */
struct dm_clone_hydration *
dm_clone_hydration_create(const struct dm_clone_geometry *geo,
			  struct dm_clone_region_map *map,
			  struct dm_clone_claims *claims,
			  struct workqueue_struct *wq_source,
			  struct workqueue_struct *wq_dest,
			  struct dm_kcopyd_throttle *throttle,
			  const struct dm_clone_hydration_events *events);

/* The engine must be suspended, and no copy of the target's under way. */
void dm_clone_hydration_destroy(struct dm_clone_hydration *h);

/*
 * Zero the regions of @fill->claim, which the caller has claimed, and pass a @discard
 * down before that.  On success they are hydrated when @done is called, in process
 * context.  Any context; for what takes a moment.
 */
void dm_clone_hydration_zero(struct dm_clone_hydration *h, struct dm_clone_fill *fill,
			     bool discard, dm_clone_filled_fn done);

/*
 * These regions need not be copied: have those zeroed that are not hydrated, in the
 * background, whether or not hydration is enabled.  Until then they read as the
 * source's data; those that another has claimed by the time it's their turn are
 * left to that other.  It's remembered until the engine is destroyed.  May sleep;
 * returns -ENOMEM, or 0.
 */
int dm_clone_hydration_zero_later(struct dm_clone_hydration *h, unsigned long begin,
				  unsigned long end);

/* Are any of these regions to be zeroed?  Any context. */
bool dm_clone_hydration_is_to_zero(struct dm_clone_hydration *h, unsigned long begin,
				   unsigned long end);

/*
 * Copy the region of @fill->claim (or zero it, if that's what it is to be), which the
 * caller has claimed, but for the @nr sectors
 * from @sector on: those the caller itself writes meanwhile.  Nothing is hydrated
 * when @done is called.  When that write has ended as well, with the status @written, the
 * caller calls end, which hydrates the region if both went well and returns what
 * has become of both.  A write that was @refused, with nothing written, doesn't
 * count as an error.  Any context.
 */
void dm_clone_hydration_rest_begin(struct dm_clone_hydration *h,
				   struct dm_clone_fill *fill, sector_t sector,
				   sector_t nr, dm_clone_filled_fn done);
blk_status_t dm_clone_hydration_rest_end(struct dm_clone_fill *fill,
					 blk_status_t written,
					 bool refused);

/*
 * For whoever hydrates regions itself, and owns the claim to them: it begins, and it
 * has ended.  If it went well then end sets the hydrated bits.  Any context.
 */
void dm_clone_hydration_begin(struct dm_clone_hydration *h,
			      const struct dm_clone_claim *claim);
void dm_clone_hydration_end(struct dm_clone_hydration *h,
			    const struct dm_clone_claim *claim,
			    enum dm_clone_means means,
			    const struct dm_clone_outcome *outcome);

/*
 * Release @claim, whoever has made it and whatever has become of its regions: who
 * has waited for it is handed on, and if a region is still unhydrated the engine
 * hears of it.  While the claim was there the engine may have passed by, and have
 * come to the end of all it could do, to go on when somebody tells it.  Any context.
 */
void dm_clone_hydration_release(struct dm_clone_hydration *h,
				struct dm_clone_claim *claim);

/*
 * Regions that are not hydrated are known to be zero in the destination, but for
 * sectors that hold what the source has there (see dm_clone_hydration_rest_end()); or no
 * longer.  Then there's nothing to write in order to discard them, or to copy zeroes.
 */
void dm_clone_hydration_set_dest_zeroed(struct dm_clone_hydration *h, bool zeroed);
bool dm_clone_hydration_is_dest_zeroed(struct dm_clone_hydration *h);

/* Are discards to be passed down before regions are zeroed in the background? */
void dm_clone_hydration_set_passdown(struct dm_clone_hydration *h, bool passdown);

/*
 * Have these regions hydrated before the rest, while hydration is enabled, in the
 * order in which they are asked for; to ask again costs nothing.  Pauses after errors
 * are kept.  Returns -EAGAIN if too much is on the list (see ranges.h), or
 * -ENOMEM.  May sleep.
 */
int dm_clone_hydration_want(struct dm_clone_hydration *h,
			    const struct dm_clone_range *range);

/* Background hydration, as wanted by the administrator. */
void dm_clone_hydration_enable(struct dm_clone_hydration *h, bool enable);
bool dm_clone_hydration_is_enabled(struct dm_clone_hydration *h);

/*
 * Background hydration, as the life of the device has it.  stop: nothing new is
 * started from now on, and no more of what is under way than can't be helped.
 * wait: nothing is in flight any more; sleeps, and wants stop to have been
 * called.
 */
void dm_clone_hydration_stop(struct dm_clone_hydration *h);
void dm_clone_hydration_wait(struct dm_clone_hydration *h);
void dm_clone_hydration_start(struct dm_clone_hydration *h);

/* Nothing more will be copied in the background: free the memory for that. */
void dm_clone_hydration_shrink(struct dm_clone_hydration *h);

/* A bio is waiting for a claim, perhaps of a background copy.  Any context. */
void dm_clone_hydration_hurry(struct dm_clone_hydration *h);

/*
 * A bio of the user is sent down, or has ended; between the two its start is
 * kept by the caller.  Only if is_watching().  Any context.
 */
bool dm_clone_hydration_is_watching(struct dm_clone_hydration *h);
u64 dm_clone_hydration_user_begin(struct dm_clone_hydration *h);
void dm_clone_hydration_user_end(struct dm_clone_hydration *h, u64 start);

/*
 * Copies fail, and the engine waits for the source, or for the destination, before it
 * tries again.  If a bio of the user ends well there meanwhile that's good news: it
 * tries soon then.  Any context.
 */
bool dm_clone_hydration_awaits_source(struct dm_clone_hydration *h);
void dm_clone_hydration_works(struct dm_clone_hydration *h, bool source);

/*
 * Settings of the administrator.  The most regions in copy at once, and in one
 * copy; 0: not limited.
 */
void dm_clone_hydration_set_threshold(struct dm_clone_hydration *h, unsigned int nr);
void dm_clone_hydration_set_batch_size(struct dm_clone_hydration *h, unsigned int nr);

/* KiB a second that background copies do not exceed; 0: no limit. */
void dm_clone_hydration_set_rate(struct dm_clone_hydration *h, unsigned int rate);

/* KiB a second that user I/O leaves to background copies. */
void dm_clone_hydration_set_floor(struct dm_clone_hydration *h, unsigned int floor);

/* Give up after this many failed copies of a region; 0: never. */
void dm_clone_hydration_set_max_errors(struct dm_clone_hydration *h, unsigned int nr);

/* The limits in force, never 0. */
unsigned int dm_clone_hydration_threshold(struct dm_clone_hydration *h);
unsigned int dm_clone_hydration_batch_size(struct dm_clone_hydration *h);

/* The number of regions in copy, for whatever reason. */
unsigned long dm_clone_hydration_in_flight(struct dm_clone_hydration *h);

struct dm_clone_hydration_stats {
	const char *state;	/* running, limited, waiting, paused or stopped */
	u64 hydrated[DM_CLONE_NR_MEANS]; /* sectors */
	u64 zero;		/* of those copied: sectors found to be zero */
	u64 failed;		/* copies of a region, in the background */
	u64 read_errors;	/* of all means; of the source */
	u64 write_errors;	/* of the destination */
	int last_error;		/* errno of the last of these, or 0 */
	sector_t last_error_sector; /* where the bio that met it began */
	unsigned long memory;	/* bytes in use for copies */
	u64 rate;		/* sectors in the last second, in the background */
	u64 average_rate;	/* sectors a second, since it was first started */
};

/* Any context; does not wait for anything. */
void dm_clone_hydration_get_stats(struct dm_clone_hydration *h,
				  struct dm_clone_hydration_stats *stats);

#endif /* DM_CLONE_HYDRATION_H */
