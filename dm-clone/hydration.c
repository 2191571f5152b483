// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The hydration engine, see hydration.h.
 *
 * It goes over the device in passes.  A cursor moves from one unhydrated region
 * to the next, and passes over regions that others have claimed, which will
 * hydrate them.  What is still unhydrated at the end of the device (a copy
 * failed, or a claim was given up) is left to another pass.
 *
 * A batch that fails is tried again region by region, so that what is good in
 * it gets hydrated, and one bad sector costs one region.
 *
 * After a few failures in a row the device may be bad, or a stretch of it, and
 * the engine feels its way: it tries one region at a time, and after a failure
 * goes on at the next multiple of the stride.  The first region that gets
 * copied ends this.  From there the engine starts slowly, with one region in
 * copy, twice as many after each batch that is copied as a whole, and one again
 * after a failure: between bad stretches that are close together most full
 * batches would fail, and what is good in them would be left out.  A pass that
 * fails and leaves regions out is followed by one that begins by feeling its
 * way, with half the stride.  One that leaves out nothing ends the round; the
 * next round begins with the largest stride again.  So
 *
 * - No region starves: in a round in which nothing gets copied the engine feels
 *   its way all the time, and the last pass, with a stride of one at the
 *   latest, tries all that is unhydrated and not claimed by others.  A round in
 *   which something gets copied is progress, and the regions are finite.
 * - What is good among bad regions is found soon: of @bad regions in a row a
 *   pass tries @bad / stride + 1, all passes together 2 * @bad and two each.  A
 *   good stretch of @good regions is found by the first pass whose stride is
 *   not larger, after 2 * @bad / @good tries and a few more.
 *
 * The engine pauses after MIN_TRIES failed tries with nothing copied, and at
 * the end of a round, but never twice without a try in between.  Until
 * something gets copied each pause is twice as long as the last, up to a
 * minute, and after it twice as many tries may fail, up to MAX_TRIES.  So a
 * dead device gets two bios a second, and the first 240 tries in a bad stretch
 * take 7 s.  A bio of a user that ends well at the device cuts the pause short,
 * once a second at most: one good sector does not mean that the bad one is good
 * again.
 *
 * Ranges that were asked for come before the cursor.  What cannot be copied of
 * them is left to the passes.
 *
 * The cursor passes over regions that are marked to be zeroed (marks.h).  A
 * separate work zeroes them, one claim after the other, whether or not
 * hydration is enabled.  It sets the bits of what it has zeroed, and gives the
 * rest of a claim up as soon as somebody waits for it, or for everything to
 * stop.  If it fails the regions are left to be copied.
 */

#define DM_MSG_PREFIX "clone"

#include <linux/device-mapper.h>
#include <linux/jiffies.h>
#include <linux/mempool.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "hydration.h"
#include "marks.h"
#include "pacer.h"
#include "zero.h"

/* Batches that are available whatever the memory pressure. */
#define MIN_BATCHES	4

/* How much to claim at a time for zeroing, in sectors: 64 MiB. */
#define MAX_ZEROING	(64U << (20 - SECTOR_SHIFT))

/* How long zeroing pauses when somebody waits for its regions, in jiffies. */
#define YIELD		(HZ / 20 + 1)

/* Regions whose bits are set at a time if there is nothing to write. */
#define MAX_MARKING	BIT(20)

/* The pause after failures, doubled each time, in jiffies. */
#define MIN_PAUSE	HZ
#define MAX_PAUSE	(60 * HZ)

/* After this many failures in a row the engine feels its way. */
#define MAX_IN_A_ROW	8

/* Failed tries before the first pause, and the most before later ones. */
#define MIN_TRIES	16
#define MAX_TRIES	128

/* The largest stride crosses the device in this many tries. */
#define MIN_STRIDES	64

/* This many good copies in a row are worth saying that hydration goes on. */
#define MANY_COPIES	64U

struct dm_clone_hydration {
	const struct dm_clone_geometry *geo;
	struct dm_clone_region_map *map;
	struct dm_clone_claims *claims;
	struct workqueue_struct *wq;	/* nothing on it blocks on the source */
	struct dm_clone_hydration_events events;

	struct dm_clone_pacer *pacer;
	struct dm_clone_copier *copier;
	struct dm_clone_zeroer *zeroer;
	struct dm_kcopyd_throttle *throttle;
	mempool_t batch_pool;

	/* Regions in copy, in the background and on demand. */
	atomic_long_t nr_in_flight;

	/* Limits; 0: none.  READ_ONCE/WRITE_ONCE. */
	unsigned int threshold;
	unsigned int batch_size;
	unsigned int max_errors;

	bool passdown;			/* constant while running */

	/* Starts copies.  Only the work uses these and the next three. */
	struct delayed_work work;
	unsigned long cursor;
	unsigned long nr_started;	/* copies in this pass */
	bool interrupted;		/* kicks of this pass may be lost */

	/* Zeroes what is marked; claim and fill are in use while h->zeroing. */
	struct dm_clone_marks marks;
	struct delayed_work zero_work;
	struct dm_clone_claim zero_claim;
	struct dm_clone_fill zero_fill;
	unsigned long zero_started;	/* in jiffies */

	spinlock_t lock;		/* protects the rest */
	bool enabled;
	bool running;			/* not stopped */
	u64 resume_at;			/* not before this, in 64-bit jiffies */
	bool pass_failed;
	bool left_out;			/* some regions, by this pass */
	bool feeling;			/* its way, until a copy ends well */
	unsigned long slow_start;	/* most regions in copy; 0: threshold */
	unsigned long failed_until;	/* end of the last try, if it failed */
	unsigned long stride;		/* of tries, in regions, a power of 2 */
	bool waiting;			/* for a device, until a copy is good */
	bool waits_for_dest;		/* rather than for the source */
	unsigned int nr_in_a_row;	/* failures since then, or the pause */
	unsigned int nr_good;		/* copies in a row, to MANY_COPIES */
	u64 waits_since;		/* when the last pause began, */
	u64 retry_at;			/* when it ends, */
	unsigned long pause;		/* and how long the next one is */
	unsigned long nr_background;	/* regions in copy in the background */
	bool zeroing;			/* READ_ONCE/WRITE_ONCE */
	wait_queue_head_t idle;		/* nothing in the background */
	struct dm_clone_ranges *wanted;	/* before the rest; NULL: none */
	struct list_head to_retry;	/* batches that go on by regions */
	unsigned int nr_errors;		/* failed regions since enabled */
	bool gave_up;			/* and so it is disabled now */
	bool report;			/* to the target that it gave up */
	bool told_waiting;		/* the target was told that it waits */
	ktime_t first_start;
	struct dm_clone_hydration_stats stats; /* those that are counted */
};

/* A copy in the background. */
struct batch {
	struct dm_clone_fill fill;	/* of all of it, or of one region */
	struct dm_clone_claim claim;	/* to all of it */
	unsigned long started;		/* in jiffies */
	unsigned long next;		/* region to try by itself */
	struct list_head list;		/* in to_retry */
	bool failed;			/* a region could not be copied */
	bool is_try;			/* to feel the way */
};

/*
 *---------------------------------------------------------------
 * Copying and zeroing
 *---------------------------------------------------------------
 */

static u64 nr_sectors(struct dm_clone_hydration *h,
		      const struct dm_clone_claim *claim)
{
	return dm_clone_range_end(h->geo, claim->end) -
	       dm_clone_region_start(h->geo, claim->begin);
}

void dm_clone_hydration_begin(struct dm_clone_hydration *h,
			      const struct dm_clone_claim *claim)
{
	atomic_long_add(claim->end - claim->begin, &h->nr_in_flight);
}

/* There may be something to do. */
static void kick(struct dm_clone_hydration *h)
{
	if (!dm_clone_is_hydration_done(h->map))
		mod_delayed_work(h->wq, &h->work, 0);
}

/*
 * The kick comes after the release.  So if the work has met the claim, the kick
 * makes it run once more: it has either begun a new pass by then, or will when
 * the copies of this one have ended.
 */
void dm_clone_hydration_release(struct dm_clone_hydration *h,
				struct dm_clone_claim *claim)
{
	unsigned long nr = claim->end - claim->begin;

	dm_clone_claim_release(h->claims, claim);
	if (!dm_clone_is_range_hydrated(h->map, claim->begin, nr))
		kick(h);
	h->events.released(h->events.context, &claim->waiters);
}

bool dm_clone_hydration_awaits_source(struct dm_clone_hydration *h)
{
	return READ_ONCE(h->waiting) && !READ_ONCE(h->waits_for_dest);
}

/* The device that the engine waits for has served somebody. */
static void __cut_pause_short(struct dm_clone_hydration *h)
{
	u64 retry_at = h->waits_since + MIN_PAUSE;

	lockdep_assert_held(&h->lock);

	if (!h->waiting || h->retry_at <= retry_at)
		return;

	h->pause = MIN_PAUSE;
	h->retry_at = retry_at;
	kick(h);
}

void dm_clone_hydration_works(struct dm_clone_hydration *h, bool source)
{
	unsigned long flags;

	if (!READ_ONCE(h->waiting))
		return;

	spin_lock_irqsave(&h->lock, flags);
	if (source != h->waits_for_dest)
		__cut_pause_short(h);
	spin_unlock_irqrestore(&h->lock, flags);
}

static void account(struct dm_clone_hydration *h, u64 sectors,
		    enum dm_clone_means means,
		    const struct dm_clone_outcome *outcome)
{
	unsigned long flags;

	spin_lock_irqsave(&h->lock, flags);
	if (!outcome->status) {
		h->stats.hydrated[means] += sectors;
		/* From the source to the destination: both of them work. */
		if (means == DM_CLONE_BY_COPY || means == DM_CLONE_BY_READ)
			__cut_pause_short(h);
	} else if (!outcome->cancelled) {
		if (outcome->read_failed)
			h->stats.read_errors++;
		else
			h->stats.write_errors++;
		h->stats.last_error = blk_status_to_errno(outcome->status);
		h->stats.last_error_sector = outcome->sector;
	}
	spin_unlock_irqrestore(&h->lock, flags);
}

/* We have provided @sectors of the regions of @claim. */
static void end_claimed(struct dm_clone_hydration *h,
			const struct dm_clone_claim *claim, u64 sectors,
			enum dm_clone_means means,
			const struct dm_clone_outcome *outcome)
{
	unsigned long nr = claim->end - claim->begin;

	account(h, sectors, means, outcome);
	if (!outcome->status) {
		if (dm_clone_set_range_hydrated(h->map, claim->begin, nr))
			h->events.hydrated(h->events.context);
	} else if (outcome->wrote) {
		h->events.spoilt(h->events.context);
	}
	atomic_long_sub(nr, &h->nr_in_flight);
}

void dm_clone_hydration_end(struct dm_clone_hydration *h,
			    const struct dm_clone_claim *claim,
			    enum dm_clone_means means,
			    const struct dm_clone_outcome *outcome)
{
	end_claimed(h, claim, nr_sectors(h, claim), means, outcome);
}

static void begin_fill(struct dm_clone_hydration *h, struct dm_clone_fill *fill,
		       dm_clone_filled_fn done)
{
	fill->hydration = h;
	fill->done = done;
	dm_clone_hydration_begin(h, &fill->claim);
}

static void copied(struct dm_clone_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, job);

	dm_clone_hydration_end(fill->hydration, &fill->claim, DM_CLONE_BY_COPY,
			       &job->outcome);
	fill->done(fill, job->outcome.status);
}

static void rest_copied(struct dm_clone_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, job);

	fill->done(fill, job->outcome.status);
}

static struct dm_clone_span claim_span(struct dm_clone_hydration *h,
				       const struct dm_clone_claim *claim)
{
	sector_t end = dm_clone_range_end(h->geo, claim->end);

	return (struct dm_clone_span) {
		.begin = dm_clone_region_start(h->geo, claim->begin),
		.end = end,
		.hole_begin = end,
		.hole_end = end,
	};
}

static void zero_span(struct dm_clone_hydration *h, struct dm_clone_fill *fill,
		      const struct dm_clone_span *span, bool discard,
		      dm_clone_stop_fn should_stop, dm_clone_zeroed_fn done)
{
	fill->zero.left = *span;
	fill->zero.discard = discard;
	fill->zero.should_stop = should_stop;
	fill->zero.done = done;
	fill->zero.buffer = NULL;
	dm_clone_zeroer_zero(h->zeroer, &fill->zero);
}

static void rest_zeroed(struct dm_clone_zero_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, zero);

	fill->done(fill, job->outcome.status);
}

void dm_clone_hydration_rest_begin(struct dm_clone_hydration *h,
				   struct dm_clone_fill *fill, sector_t sector,
				   sector_t nr, dm_clone_filled_fn done)
{
	struct dm_clone_span rest = claim_span(h, &fill->claim);

	rest.hole_begin = sector;
	rest.hole_end = sector + nr;
	fill->written = sector;
	fill->nr_written = nr;
	begin_fill(h, fill, done);

	if (!dm_clone_hydration_is_to_zero(h, fill->claim.begin,
					   fill->claim.end)) {
		fill->means = DM_CLONE_BY_COPY;
		dm_clone_copier_copy(h->copier, &fill->job, DM_CLONE_URGENT,
				     &rest, rest_copied);
	} else {
		/* No discard: that might not be exact to the sector. */
		fill->means = DM_CLONE_BY_ZEROING;
		zero_span(h, fill, &rest, false, NULL, rest_zeroed);
	}
}

blk_status_t dm_clone_hydration_rest_end(struct dm_clone_fill *fill,
					 blk_status_t written,
					 bool refused)
{
	struct dm_clone_hydration *h = fill->hydration;
	struct dm_clone_outcome outcome = fill->means == DM_CLONE_BY_COPY ?
					  fill->job.outcome : fill->zero.outcome;

	/*
	 * The copy has written the source's data, which spoils nothing: a
	 * discard that relies on a zeroed destination may show it, but promises
	 * nothing; and where a later copy finds zeroes in the source, this one
	 * has written zeroes.
	 */
	if (refused && !outcome.status) {
		atomic_long_sub(fill->claim.end - fill->claim.begin,
				&h->nr_in_flight);
		return written;
	}

	if (written && !outcome.status)
		outcome = (struct dm_clone_outcome) {
			.status = written,
			.sector = fill->written,
		};
	outcome.wrote = true;
	end_claimed(h, &fill->claim,
		    nr_sectors(h, &fill->claim) - fill->nr_written, fill->means,
		    &outcome);

	return outcome.status;
}

/* Copy in the background. */
static void copy_regions(struct dm_clone_hydration *h,
			 struct dm_clone_fill *fill,
			 dm_clone_awaited_fn is_awaited,
			 dm_clone_filled_fn done)
{
	const struct dm_clone_span all = claim_span(h, &fill->claim);

	begin_fill(h, fill, done);
	fill->job.awaited = is_awaited;
	dm_clone_copier_copy(h->copier, &fill->job, DM_CLONE_BACKGROUND, &all,
			     copied);
}

static void regions_zeroed(struct dm_clone_zero_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, zero);

	dm_clone_hydration_end(fill->hydration, &fill->claim, fill->means,
			       &job->outcome);
	fill->done(fill, job->outcome.status);
}

void dm_clone_hydration_zero(struct dm_clone_hydration *h,
			     struct dm_clone_fill *fill, bool discard,
			     dm_clone_filled_fn done)
{
	const struct dm_clone_span all = claim_span(h, &fill->claim);

	begin_fill(h, fill, done);
	fill->means = DM_CLONE_BY_ZEROING;
	zero_span(h, fill, &all, discard, NULL, regions_zeroed);
}

void dm_clone_hydration_set_dest_zeroed(struct dm_clone_hydration *h,
					bool zeroed)
{
	dm_clone_zeroer_set_dest_zeroed(h->zeroer, zeroed);
}

bool dm_clone_hydration_is_dest_zeroed(struct dm_clone_hydration *h)
{
	return dm_clone_zeroer_is_dest_zeroed(h->zeroer);
}

void dm_clone_hydration_set_passdown(struct dm_clone_hydration *h,
				     bool passdown)
{
	h->passdown = passdown;
}

/*
 *---------------------------------------------------------------
 * Limits
 *---------------------------------------------------------------
 */

void dm_clone_hydration_set_threshold(struct dm_clone_hydration *h,
				      unsigned int nr)
{
	WRITE_ONCE(h->threshold, nr);
	kick(h);
}

void dm_clone_hydration_set_batch_size(struct dm_clone_hydration *h,
				       unsigned int nr)
{
	WRITE_ONCE(h->batch_size, nr);
}

static u64 to_sectors(unsigned int kib)
{
	return (u64)kib << (10 - SECTOR_SHIFT);
}

void dm_clone_hydration_set_rate(struct dm_clone_hydration *h,
				 unsigned int rate)
{
	dm_clone_pacer_set_limit(h->pacer, to_sectors(rate));
	dm_clone_copier_hurry(h->copier);
	kick(h);
}

void dm_clone_hydration_set_floor(struct dm_clone_hydration *h,
				  unsigned int floor)
{
	dm_clone_pacer_set_floor(h->pacer, to_sectors(floor));
	dm_clone_copier_hurry(h->copier);
	kick(h);
}

void dm_clone_hydration_set_max_errors(struct dm_clone_hydration *h,
				       unsigned int nr)
{
	WRITE_ONCE(h->max_errors, nr);
}

static unsigned int limit(struct dm_clone_hydration *h, unsigned int given,
			  unsigned int default_sectors)
{
	return given ?: max(default_sectors >> h->geo->region_shift, 1U);
}

unsigned int dm_clone_hydration_threshold(struct dm_clone_hydration *h)
{
	return limit(h, READ_ONCE(h->threshold), DM_CLONE_MAX_WINDOW);
}

unsigned int dm_clone_hydration_batch_size(struct dm_clone_hydration *h)
{
	return limit(h, READ_ONCE(h->batch_size), DM_CLONE_MAX_PORTION);
}

unsigned long dm_clone_hydration_in_flight(struct dm_clone_hydration *h)
{
	return atomic_long_read(&h->nr_in_flight);
}

/*
 *---------------------------------------------------------------
 * Batches
 *---------------------------------------------------------------
 */

/* Does a bio wait for the claim?  A hint: the claims' lock is not held. */
static bool is_awaited(struct dm_clone_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, job);
	struct batch *batch = container_of(fill, struct batch, fill);

	return READ_ONCE(batch->claim.waiters.head);
}

/* The percentage of the time that copies may take. */
static unsigned int duty(struct dm_clone_hydration *h)
{
	return clamp(READ_ONCE(h->throttle->throttle), 1U, 100U);
}

/* How long to pause after what was @started then, in jiffies. */
static unsigned long pause_after(struct dm_clone_hydration *h,
				 unsigned long started)
{
	unsigned int percent = duty(h);

	return (jiffies - started + 1) * (100 - percent) / percent;
}

/* Start nothing within the next @pause jiffies. */
static void __pause(struct dm_clone_hydration *h, unsigned long pause)
{
	lockdep_assert_held(&h->lock);

	h->resume_at = max(h->resume_at, get_jiffies_64() + pause);
}

static void __wake_if_idle(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	if (!h->nr_background && !h->zeroing)
		wake_up(&h->idle);
}

static void finish_batch(struct batch *batch)
{
	struct dm_clone_hydration *h = batch->fill.hydration;
	unsigned long nr = batch->claim.end - batch->claim.begin;
	unsigned long flags;

	dm_clone_hydration_release(h, &batch->claim);

	/*
	 * All of this is under the lock: dm_clone_hydration_wait() takes it
	 * before it goes on, perhaps to free the engine.
	 */
	spin_lock_irqsave(&h->lock, flags);
	h->pass_failed |= batch->failed;
	h->nr_background -= nr;
	if (duty(h) < 100)
		__pause(h, pause_after(h, batch->started));
	mempool_free(batch, &h->batch_pool);
	kick(h);
	__wake_if_idle(h);
	spin_unlock_irqrestore(&h->lock, flags);
}

/* Try one region at a time from here on. */
static void __feel_way(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	h->feeling = true;
	h->failed_until = ULONG_MAX;
	h->slow_start = 1;
}

static unsigned long largest_stride(struct dm_clone_hydration *h)
{
	return rounddown_pow_of_two(max(h->geo->nr_regions / MIN_STRIDES, 1UL));
}

/* Nothing can be copied: pause. */
static void __wait(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	h->nr_in_a_row = 0;
	h->nr_good = 0;
	h->waits_since = get_jiffies_64();
	h->retry_at = h->waits_since + h->pause;
	h->pause = min_t(unsigned long, 2 * h->pause, MAX_PAUSE);
	WRITE_ONCE(h->waiting, true);
}

/* End the pause, early or not. */
static void __go_on(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	h->nr_in_a_row = 0;
	h->pause = MIN_PAUSE;
	h->retry_at = 0;
	h->feeling = false;
	WRITE_ONCE(h->waiting, false);
}

/* The most regions to have in copy in the background. */
static unsigned long __window(struct dm_clone_hydration *h)
{
	unsigned long threshold = dm_clone_hydration_threshold(h);

	lockdep_assert_held(&h->lock);

	return h->slow_start ? min(h->slow_start, threshold) : threshold;
}

/* Only a batch that is good as a whole says that no bad stretch is near. */
static void __adjust_window(struct dm_clone_hydration *h, bool good, bool whole)
{
	lockdep_assert_held(&h->lock);

	if (!h->slow_start)
		return;
	if (!good)
		h->slow_start = 1;
	else if (whole)
		h->slow_start *= 2;
	if (h->slow_start > dm_clone_hydration_threshold(h))
		h->slow_start = 0;
}

/* A region could not be copied. */
static void __count_failure(struct dm_clone_hydration *h)
{
	unsigned int max_errors = READ_ONCE(h->max_errors);

	lockdep_assert_held(&h->lock);

	h->stats.failed++;
	h->nr_errors++;
	if (max_errors && h->nr_errors >= max_errors && h->enabled) {
		h->enabled = false;
		h->gave_up = true;
		h->report = true;
	}
}

/*
 * Tell the target what it does not know yet, but not each pause, and each
 * region copied after one: a bad stretch may have thousands.
 */
static void report(struct dm_clone_hydration *h)
{
	const char *device = NULL;
	bool gave_up, changed;

	spin_lock_irq(&h->lock);
	gave_up = h->report;
	h->report = false;
	changed = h->told_waiting ? h->nr_good == MANY_COPIES : h->waiting;
	h->told_waiting ^= changed;
	if (h->told_waiting)
		device = h->waits_for_dest ? "destination" : "source";
	spin_unlock_irq(&h->lock);

	if (changed)
		h->events.waits(h->events.context, device);
	if (gave_up)
		h->events.gave_up(h->events.context);
}

/* Should a failed batch go on region by region? */
static bool __goes_on(struct dm_clone_hydration *h, struct batch *batch)
{
	lockdep_assert_held(&h->lock);

	/*
	 * Not if somebody waits for the claim, or for everything to stop: each
	 * region may take until the device gives up.
	 */
	return batch->next != batch->claim.end && h->running && h->enabled &&
	       !h->feeling && !is_awaited(&batch->fill.job);
}

/* This pass does not try some regions. */
static void __leave_out(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	h->pass_failed = true;
	h->left_out = true;
}

/* The next pass finds what is left of a batch. */
static void __leave_rest(struct dm_clone_hydration *h, struct batch *batch)
{
	lockdep_assert_held(&h->lock);

	if (h->running && batch->next != batch->claim.end) {
		batch->failed = true;
		__leave_out(h);
	}
}

/*
 * Tries that may fail before the next pause.  If the number did not grow, a bad
 * stretch would be searched as slowly as a dead device is tried.
 */
static unsigned int __max_tries(struct dm_clone_hydration *h)
{
	return min(MIN_TRIES * h->pause / MIN_PAUSE, (unsigned long)MAX_TRIES);
}

/*
 * A copy of @batch has ended, of a region or of all of it.  Copies that fail
 * beside the tries began before them, and tell nothing new.
 */
static void __note_end(struct dm_clone_hydration *h, struct batch *batch,
		       blk_status_t status)
{
	bool whole = batch->fill.claim.begin == batch->claim.begin &&
		     batch->fill.claim.end == batch->claim.end;

	lockdep_assert_held(&h->lock);

	if (!batch->fill.job.outcome.cancelled)
		__adjust_window(h, !status, whole);
	if (!status) {
		h->nr_good = min(h->nr_good + 1, MANY_COPIES);
		__go_on(h);
	} else if (!batch->fill.job.outcome.cancelled) {
		WRITE_ONCE(h->waits_for_dest,
			   !batch->fill.job.outcome.read_failed);
		h->nr_good = 0;
		if (h->feeling && !batch->is_try)
			return;
		h->nr_in_a_row++;
		h->failed_until = batch->claim.end;
		if (h->feeling && h->nr_in_a_row >= __max_tries(h))
			__wait(h);
		else if (!h->feeling && h->nr_in_a_row >= MAX_IN_A_ROW)
			__feel_way(h);
	}
}

static void end_copy(struct batch *batch, blk_status_t status, bool of_region)
{
	struct dm_clone_hydration *h = batch->fill.hydration;
	unsigned long flags;
	bool again;

	spin_lock_irqsave(&h->lock, flags);

	if (of_region && status && !batch->fill.job.outcome.cancelled) {
		batch->failed = true;
		__count_failure(h);
	}
	__note_end(h, batch, status);

	/* The work goes on: from here copies of single regions might nest. */
	again = __goes_on(h, batch);
	if (again) {
		list_add_tail(&batch->list, &h->to_retry);
		kick(h);
	} else {
		__leave_rest(h, batch);
	}

	spin_unlock_irqrestore(&h->lock, flags);

	if (!again)
		finish_batch(batch);
}

/* The copy of a region, of a batch that failed as a whole, has ended. */
static void copied_one(struct dm_clone_fill *fill, blk_status_t status)
{
	end_copy(container_of(fill, struct batch, fill), status, true);
}

static void copied_batch(struct dm_clone_fill *fill, blk_status_t status)
{
	struct batch *batch = container_of(fill, struct batch, fill);
	bool of_region = batch->claim.end - batch->claim.begin == 1;

	if (!status || fill->job.outcome.cancelled || of_region)
		batch->next = batch->claim.end;
	end_copy(batch, status, of_region);
}

static struct batch *pop_to_retry(struct dm_clone_hydration *h, bool *goes_on)
{
	struct batch *batch;

	spin_lock_irq(&h->lock);
	batch = list_first_entry_or_null(&h->to_retry, struct batch, list);
	if (batch) {
		list_del(&batch->list);
		*goes_on = __goes_on(h, batch);
		if (!*goes_on)
			__leave_rest(h, batch);
	}
	spin_unlock_irq(&h->lock);

	return batch;
}

static void retry_batches(struct dm_clone_hydration *h)
{
	struct batch *batch;
	bool goes_on;

	while ((batch = pop_to_retry(h, &goes_on))) {
		if (!goes_on) {
			finish_batch(batch);
			continue;
		}
		batch->fill.claim.begin = batch->next++;
		batch->fill.claim.end = batch->next;
		copy_regions(h, &batch->fill, is_awaited, copied_one);
	}
}

/*
 *---------------------------------------------------------------
 * Ranges sent by the administrator
 *---------------------------------------------------------------
 */

int dm_clone_hydration_want(struct dm_clone_hydration *h,
			    const struct dm_clone_range *range)
{
	struct dm_clone_ranges *new = NULL;
	int r = -ENOMEM;

	if (!READ_ONCE(h->wanted))
		new = kvzalloc_obj(*new, GFP_NOIO);

	spin_lock_irq(&h->lock);
	if (!h->wanted)
		swap(h->wanted, new);
	if (h->wanted)
		r = dm_clone_ranges_add(h->wanted, range);
	spin_unlock_irq(&h->lock);

	kvfree(new);
	if (!r)
		kick(h);

	return r;
}

/* All is hydrated. */
static void drop_wanted(struct dm_clone_hydration *h)
{
	struct dm_clone_ranges *dropped = NULL;

	spin_lock_irq(&h->lock);
	swap(h->wanted, dropped);
	spin_unlock_irq(&h->lock);

	kvfree(dropped);
}

/* The next wanted regions to try, hydrated or not. */
static bool first_wanted(struct dm_clone_hydration *h,
			 struct dm_clone_range *range)
{
	bool r;

	spin_lock_irq(&h->lock);
	r = h->wanted && dm_clone_ranges_first(h->wanted, range);
	spin_unlock_irq(&h->lock);

	return r;
}

static void tried_wanted(struct dm_clone_hydration *h, unsigned long begin,
			 unsigned long next)
{
	spin_lock_irq(&h->lock);
	if (h->wanted && next > begin)
		dm_clone_ranges_tried(h->wanted, begin, next);
	spin_unlock_irq(&h->lock);
}

/* The next wanted regions, of which the first is unhydrated. */
static bool next_wanted(struct dm_clone_hydration *h,
			struct dm_clone_range *range)
{
	unsigned long next;

	while (first_wanted(h, range)) {
		if (!dm_clone_find_run(h->map, range->begin, range->end, &next))
			return true;
		tried_wanted(h, range->begin, next);
		cond_resched();
	}

	return false;
}

/*
 *---------------------------------------------------------------
 * The engine
 *---------------------------------------------------------------
 */

/* Nothing may start before this, in 64-bit jiffies. */
static u64 __not_before(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	return max(h->resume_at, h->retry_at);
}

/*
 * How many regions may be copied now, in one batch?  If none, something kicks
 * us when that changes.
 */
static unsigned long room(struct dm_clone_hydration *h)
{
	unsigned long window, nr = 0;
	unsigned int portion;
	u64 wait;

	spin_lock_irq(&h->lock);
	window = __window(h);
	if (!h->enabled || !h->running ||
	    time_before64(get_jiffies_64(), __not_before(h)))
		nr = 0;
	else if (h->feeling)
		nr = h->nr_background ? 0 : 1;
	else if (duty(h) < 100)		/* one, and then the pause after it */
		nr = h->nr_background ? 0 : window;
	else if (h->nr_background < window)
		nr = window - h->nr_background;
	spin_unlock_irq(&h->lock);

	/* What is claimed but cannot start would only be in the way. */
	if (!nr || dm_clone_copier_is_backlogged(h->copier))
		return 0;

	portion = dm_clone_pacer_room(h->pacer, &wait);
	if (!portion && wait != U64_MAX)
		queue_delayed_work(h->wq, &h->work, nsecs_to_jiffies(wait) + 1);
	if (!portion)
		return 0;

	nr = min_t(unsigned long, nr, dm_clone_hydration_batch_size(h));
	return min_t(unsigned long, nr,
		     max(portion >> h->geo->region_shift, 1U));
}

/*
 * Account for @batch, unless all is stopped.  It is no try if others are under
 * way: then room() still saw the engine at full speed.
 */
static bool account_start(struct dm_clone_hydration *h, struct batch *batch)
{
	unsigned long nr = batch->claim.end - batch->claim.begin;
	bool r;

	spin_lock_irq(&h->lock);
	r = h->enabled && h->running;
	if (r) {
		batch->is_try = h->feeling && !h->nr_background && nr == 1;
		h->nr_background += nr;
	}
	spin_unlock_irq(&h->lock);

	return r;
}

/*
 * Claim what is free of the unhydrated regions [begin, end), from @begin on,
 * for @batch.  *@next is the region after that.  Returns false if nothing was
 * claimed: then *@next is after what is in the way, or unchanged if @begin must
 * be looked at again.
 */
static bool claim_batch(struct dm_clone_hydration *h, struct batch *batch,
			unsigned long begin, unsigned long end,
			unsigned long *next)
{
	unsigned long nr, taken_until;

	nr = dm_clone_claim_free_part(h->claims, &batch->claim, begin, end,
				      &taken_until);
	if (!nr) {
		*next = taken_until;
		return false;
	}

	/* Now that they're ours: are they still as they were? */
	if (!dm_clone_is_range_unhydrated(h->map, begin, nr)) {
		dm_clone_hydration_release(h, &batch->claim);
		return false;
	}

	*next = begin + nr;
	batch->fill.claim.begin = begin;
	batch->fill.claim.end = begin + nr;

	return true;
}

/* Copy what is free of unhydrated regions.  Returns whether to go on. */
static bool start_batch(struct dm_clone_hydration *h, unsigned long begin,
			unsigned long end, unsigned long *next)
{
	struct batch *batch = mempool_alloc(&h->batch_pool, GFP_NOWAIT);

	/* Without memory others are under way, and their end kicks us. */
	if (!batch)
		return false;

	if (!claim_batch(h, batch, begin, end, next)) {
		mempool_free(batch, &h->batch_pool);
		return true;
	}

	if (!account_start(h, batch)) {
		*next = begin;
		dm_clone_hydration_release(h, &batch->claim);
		mempool_free(batch, &h->batch_pool);
		return false;
	}

	h->nr_started++;
	batch->failed = false;
	batch->started = jiffies;
	batch->next = begin;
	copy_regions(h, &batch->fill, is_awaited, copied_batch);

	return true;
}

/* A pass has failed. */
static void __begin_another(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	if (h->left_out && h->stride > 1) {
		h->stride /= 2;
	} else {
		h->stride = largest_stride(h);
		/* Unless it has just paused, and tried nothing since. */
		if (!h->waiting || h->nr_in_a_row)
			__wait(h);
	}
	__feel_way(h);
}

/*
 * The cursor is at the end of the device.  Returns true if another pass begins
 * now.
 */
static bool end_pass(struct dm_clone_hydration *h)
{
	bool over, failed, again;

	spin_lock_irq(&h->lock);
	/* The pass lasts until its last copy ends, which kicks us. */
	over = !h->nr_background;
	failed = h->pass_failed;
	if (over) {
		if (failed)
			__begin_another(h);
		else
			h->stride = largest_stride(h);
		h->pass_failed = false;
		h->left_out = false;
		if (h->wanted)
			dm_clone_ranges_forget_tried(h->wanted);
	}
	spin_unlock_irq(&h->lock);

	if (!over)
		return false;

	h->cursor = 0;

	/*
	 * If nothing was started others had claimed all that was left, and kick
	 * us if they fail.  But if there was no room for a while during the
	 * pass, a kick for a region that the cursor had passed was lost.
	 */
	again = (h->nr_started || h->interrupted) && !failed &&
		!dm_clone_is_hydration_done(h->map);
	h->nr_started = 0;
	h->interrupted = false;
	if (failed)
		kick(h);

	return again;
}

/*
 * Pass over marked regions from @begin on, many in one go: there may be
 * millions, and each kick may make us pass over them again.  If @begin has lost
 * its mark by now *@next stays where it is.
 */
static void pass_over_marked(struct dm_clone_hydration *h,
			     unsigned long begin, unsigned long end,
			     unsigned long *next)
{
	unsigned long run_end;

	end = min(end, begin + DM_CLONE_MARKS_STRIDE);
	if (dm_clone_marks_find_run(&h->marks, begin, end, &run_end))
		*next = run_end;
}

/* Go on with the unhydrated region @begin; nothing from @end on. */
static bool start_from(struct dm_clone_hydration *h, unsigned long nr,
		       unsigned long begin, unsigned long end,
		       unsigned long *next)
{
	unsigned long run_end;

	nr = min(nr, end - begin);
	if (dm_clone_find_run(h->map, begin, begin + nr, &run_end))
		return true;	/* hydrated by now, look for another */
	if (dm_clone_marks_find_run(&h->marks, begin, run_end, &run_end)) {
		pass_over_marked(h, begin, end, next);
		return true;
	}

	return start_batch(h, begin, run_end, next);
}

/*
 * Where to go on in the regions [from, end), of which @begin is the first that
 * is unhydrated?  If the last try ended at @from and failed, at a multiple of
 * the stride.
 */
static unsigned long stride_on(struct dm_clone_hydration *h, unsigned long from,
			       unsigned long begin, unsigned long end)
{
	unsigned long next = begin;

	spin_lock_irq(&h->lock);
	if (h->feeling && from == h->failed_until) {
		next = clamp(round_up(from, h->stride), begin, end);
		if (next != begin)
			__leave_out(h);
	}
	spin_unlock_irq(&h->lock);

	return next;
}

static bool start_next(struct dm_clone_hydration *h)
{
	unsigned long begin, next, nr = room(h);
	struct dm_clone_range wanted;
	bool r;

	if (!nr) {
		h->interrupted |= h->cursor != 0;
		return false;
	}

	if (next_wanted(h, &wanted)) {
		begin = stride_on(h, wanted.begin, wanted.begin, wanted.end);
		next = begin;
		r = begin == wanted.end ||
		    start_from(h, nr, begin, wanted.end, &next);
		tried_wanted(h, wanted.begin, next);
		return r;
	}

	begin = dm_clone_find_next_unhydrated_region(h->map, h->cursor);
	if (begin >= h->geo->nr_regions)
		return end_pass(h);

	h->cursor = stride_on(h, h->cursor, begin, h->geo->nr_regions);
	if (h->cursor != begin)
		return true;

	return start_from(h, nr, begin, h->geo->nr_regions, &h->cursor);
}

/*
 *---------------------------------------------------------------
 * Zeroing what is marked
 *---------------------------------------------------------------
 */

static void kick_zeroing(struct dm_clone_hydration *h, unsigned long pause)
{
	mod_delayed_work(h->wq, &h->zero_work, pause);
}

bool dm_clone_hydration_is_to_zero(struct dm_clone_hydration *h,
				   unsigned long begin, unsigned long end)
{
	unsigned long run_end;

	return dm_clone_marks_find_run(&h->marks, begin, end, &run_end) || run_end < end;
}

int dm_clone_hydration_zero_later(struct dm_clone_hydration *h,
				  unsigned long begin, unsigned long end)
{
	int r = dm_clone_marks_set(&h->marks, begin, end);

	/* If the work waits it has a reason. */
	if (!r)
		queue_delayed_work(h->wq, &h->zero_work, 0);

	return r;
}

static bool is_zeroing_awaited(struct dm_clone_hydration *h)
{
	return READ_ONCE(h->zero_claim.waiters.head);
}

static bool should_stop_zeroing(struct dm_clone_zero_job *job)
{
	struct dm_clone_fill *fill = container_of(job, struct dm_clone_fill, zero);

	return !READ_ONCE(fill->hydration->running) || is_zeroing_awaited(fill->hydration);
}

/* The regions of the claim before this one have been zeroed. */
static unsigned long zeroed_until(struct dm_clone_hydration *h)
{
	sector_t left = h->zero_fill.zero.left.begin;

	if (left >= dm_clone_range_end(h->geo, h->zero_claim.end))
		return h->zero_claim.end;

	return left >> h->geo->region_shift;
}

static void release_zeroed(struct dm_clone_hydration *h, unsigned long pause)
{
	unsigned long flags;

	dm_clone_hydration_release(h, &h->zero_claim);

	/* All under the lock, as in finish_batch(). */
	spin_lock_irqsave(&h->lock, flags);
	WRITE_ONCE(h->zeroing, false);
	kick_zeroing(h, pause);
	__wake_if_idle(h);
	spin_unlock_irqrestore(&h->lock, flags);
}

/*
 * The regions have lost their marks, and are to be copied.  Nothing else says
 * that this pass has left something out, so it counts as failed.
 */
static void zeroing_failed(struct dm_clone_hydration *h)
{
	spin_lock_irq(&h->lock);
	h->pass_failed = true;
	WRITE_ONCE(h->waits_for_dest, true);
	spin_unlock_irq(&h->lock);
}

/*
 * What has been zeroed is hydrated; the rest of the claim keeps its marks,
 * unless zeroing failed.  A region left half-way may hold anything.
 */
static void zeroed_marked(struct dm_clone_zero_job *job)
{
	struct dm_clone_hydration *h =
		container_of(job, struct dm_clone_hydration, zero_fill.zero);
	struct dm_clone_claim *claim = &h->zero_claim, done = {
		.begin = claim->begin,
		.end = zeroed_until(h),
	};
	unsigned long pause = 0;

	/* A step that failed may have written, one that was stopped too. */
	if (done.end < claim->end)
		h->events.spoilt(h->events.context);
	if (done.end > done.begin) {
		account(h, nr_sectors(h, &done), DM_CLONE_BY_ZEROING,
			&(struct dm_clone_outcome) { .status = BLK_STS_OK });
		if (dm_clone_set_range_hydrated(h->map, done.begin,
						done.end - done.begin))
			h->events.hydrated(h->events.context);
	}
	if (job->outcome.status)
		account(h, 0, DM_CLONE_BY_ZEROING, &job->outcome);
	atomic_long_sub(claim->end - claim->begin, &h->nr_in_flight);

	dm_clone_marks_clear(&h->marks, claim->begin,
			     job->outcome.status ? claim->end : done.end);
	if (job->outcome.status)
		zeroing_failed(h);

	if (duty(h) < 100)
		pause = pause_after(h, h->zero_started);
	if (is_zeroing_awaited(h))
		pause = max(pause, YIELD);
	release_zeroed(h, pause);
}

/* One claim at a time, and none if all is stopped. */
static bool account_zeroing(struct dm_clone_hydration *h)
{
	bool r;

	spin_lock_irq(&h->lock);
	r = h->running && !h->zeroing;
	if (r)
		WRITE_ONCE(h->zeroing, true);
	spin_unlock_irq(&h->lock);

	return r;
}

/* How many regions to claim at a time. */
static unsigned long max_zeroing(struct dm_clone_hydration *h, bool dest_zeroed)
{
	unsigned int sectors = duty(h) < 100 ? DM_CLONE_MAX_PORTION : MAX_ZEROING;
	unsigned long nr = max(sectors >> h->geo->region_shift, 1U);

	return dest_zeroed ? max(nr, MAX_MARKING) : nr;
}

static void zero_claimed(struct dm_clone_hydration *h, bool dest_zeroed)
{
	struct dm_clone_fill *fill = &h->zero_fill;
	struct dm_clone_span all;

	fill->claim.begin = h->zero_claim.begin;
	fill->claim.end = h->zero_claim.end;
	fill->hydration = h;
	all = claim_span(h, &fill->claim);
	dm_clone_hydration_begin(h, &fill->claim);
	h->zero_started = jiffies;
	WRITE_ONCE(h->zero_claim.lengthy, true);

	if (!dest_zeroed) {
		zero_span(h, fill, &all, h->passdown, should_stop_zeroing,
			  zeroed_marked);
		return;
	}

	fill->zero.outcome = (struct dm_clone_outcome) { .status = BLK_STS_OK };
	fill->zero.left.begin = all.end;
	zeroed_marked(&fill->zero);
}

/*
 * Regions that another has claimed are left to it.  Returns false if nothing
 * was claimed, and *@next is where to go on.
 */
static bool claim_to_zero(struct dm_clone_hydration *h, unsigned long begin,
			  unsigned long end, bool dest_zeroed,
			  unsigned long *next)
{
	unsigned long nr, taken_until;

	nr = dm_clone_claim_free_part(h->claims, &h->zero_claim, begin, end,
				      &taken_until);
	if (!nr) {
		*next = min(taken_until, end);
		return false;
	}

	/*
	 * They are ours now: are they still as they were?  And is the
	 * destination, where nobody else spoils these regions from here on?  If
	 * it is not known to be zero any more, they are too many to be zeroed
	 * at a time.
	 */
	if (dm_clone_is_range_unhydrated(h->map, begin, nr) &&
	    (!dest_zeroed || dm_clone_zeroer_is_dest_zeroed(h->zeroer)))
		return true;

	*next = begin;
	dm_clone_hydration_release(h, &h->zero_claim);
	return false;
}

/* Returns whether to go on at once. */
static bool zero_next(struct dm_clone_hydration *h)
{
	bool dest_zeroed = dm_clone_zeroer_is_dest_zeroed(h->zeroer);
	unsigned long begin, end, next;

	if (!dm_clone_marks_find_first(&h->marks, max_zeroing(h, dest_zeroed),
				       &begin, &end))
		return false;

	if (dm_clone_find_run(h->map, begin, end, &next)) {
		dm_clone_marks_clear(&h->marks, begin, next);
		return true;
	}

	if (!account_zeroing(h))
		return false;

	if (claim_to_zero(h, begin, next, dest_zeroed, &end)) {
		zero_claimed(h, dest_zeroed);
		return false;
	}

	dm_clone_marks_clear(&h->marks, begin, end);

	/*
	 * The owner of the claim may have failed and released it since.  That
	 * has kicked the engine, which passed over the regions because of the
	 * marks.  So kick it again, before this counts as idle: see
	 * dm_clone_hydration_wait().
	 */
	spin_lock_irq(&h->lock);
	kick(h);
	WRITE_ONCE(h->zeroing, false);
	__wake_if_idle(h);
	spin_unlock_irq(&h->lock);

	return true;
}

static void do_zeroing(struct work_struct *work)
{
	struct dm_clone_hydration *h =
		container_of(to_delayed_work(work), struct dm_clone_hydration,
			     zero_work);

	while (!READ_ONCE(h->zeroing) && zero_next(h))
		cond_resched();
}

/*
 *---------------------------------------------------------------
 * The life of the engine
 *---------------------------------------------------------------
 */

/* How long to wait, in jiffies; 0: not at all. */
static unsigned long time_to_wait(struct dm_clone_hydration *h)
{
	u64 now = get_jiffies_64();
	unsigned long wait = 0;

	spin_lock_irq(&h->lock);
	if (h->enabled && h->running && time_before64(now, __not_before(h)))
		wait = __not_before(h) - now;
	spin_unlock_irq(&h->lock);

	return wait;
}

void dm_clone_hydration_hurry(struct dm_clone_hydration *h)
{
	dm_clone_copier_hurry(h->copier);
}

bool dm_clone_hydration_is_watching(struct dm_clone_hydration *h)
{
	return READ_ONCE(h->enabled) || READ_ONCE(h->zeroing);
}

u64 dm_clone_hydration_user_begin(struct dm_clone_hydration *h)
{
	return dm_clone_pacer_user_begin(h->pacer);
}

void dm_clone_hydration_user_end(struct dm_clone_hydration *h, u64 start)
{
	dm_clone_pacer_user_end(h->pacer, start);
}

static void do_hydration(struct work_struct *work)
{
	struct dm_clone_hydration *h =
		container_of(to_delayed_work(work), struct dm_clone_hydration,
			     work);
	unsigned long wait;

	if (dm_clone_is_hydration_done(h->map)) {
		drop_wanted(h);
		return;
	}

	retry_batches(h);
	report(h);

	wait = time_to_wait(h);
	if (wait) {
		queue_delayed_work(h->wq, &h->work, wait);
		return;
	}

	while (start_next(h))
		cond_resched();
}

void dm_clone_hydration_enable(struct dm_clone_hydration *h, bool enable)
{
	spin_lock_irq(&h->lock);
	h->enabled = enable;
	h->gave_up = false;
	if (enable) {
		h->nr_errors = 0;
		h->pass_failed = false;
		h->resume_at = 0;
		h->stride = largest_stride(h);
		h->told_waiting = false;
		h->slow_start = 0;
		__go_on(h);
	}
	spin_unlock_irq(&h->lock);

	if (enable)
		kick(h);
}

bool dm_clone_hydration_is_enabled(struct dm_clone_hydration *h)
{
	return READ_ONCE(h->enabled);
}

void dm_clone_hydration_stop(struct dm_clone_hydration *h)
{
	spin_lock_irq(&h->lock);
	h->running = false;
	spin_unlock_irq(&h->lock);

	/*
	 * A large region may take long, even more so if paced.  The work may
	 * have accounted for a batch, or be about to retry one, that the copier
	 * does not know yet: that is cancelled when it comes.
	 */
	dm_clone_copier_cancel(h->copier);
}

void dm_clone_hydration_wait(struct dm_clone_hydration *h)
{
	spin_lock_irq(&h->lock);
	wait_event_lock_irq(h->idle, !h->nr_background && !h->zeroing, h->lock);
	spin_unlock_irq(&h->lock);

	cancel_delayed_work_sync(&h->work);
	cancel_delayed_work_sync(&h->zero_work);
}

void dm_clone_hydration_shrink(struct dm_clone_hydration *h)
{
	/* The works drop ranges and marks. */
	queue_delayed_work(h->wq, &h->work, 0);
	queue_delayed_work(h->wq, &h->zero_work, 0);
}

void dm_clone_hydration_start(struct dm_clone_hydration *h)
{
	/* First: nothing that starts from now on may be cancelled. */
	dm_clone_copier_resume(h->copier);

	spin_lock_irq(&h->lock);
	h->running = true;
	if (!h->first_start)
		h->first_start = ktime_get();
	spin_unlock_irq(&h->lock);

	kick(h);
	kick_zeroing(h, 0);
}

static const char *__state(struct dm_clone_hydration *h)
{
	lockdep_assert_held(&h->lock);

	if (h->gave_up)
		return "stopped";
	if (!h->enabled || !h->running)
		return "paused";
	if (h->waiting)
		return "waiting";
	if (duty(h) < 100 || dm_clone_pacer_is_limited(h->pacer))
		return "limited";

	return "running";
}

void dm_clone_hydration_get_stats(struct dm_clone_hydration *h,
				  struct dm_clone_hydration_stats *stats)
{
	unsigned long flags;
	s64 ms;

	spin_lock_irqsave(&h->lock, flags);
	*stats = h->stats;
	stats->state = __state(h);
	ms = h->first_start ? ktime_ms_delta(ktime_get(), h->first_start) : 0;
	spin_unlock_irqrestore(&h->lock, flags);

	stats->zero = dm_clone_copier_nr_zero(h->copier);
	stats->memory = dm_clone_copier_memory(h->copier) +
			dm_clone_zeroer_memory(h->zeroer);
	stats->rate = dm_clone_pacer_rate(h->pacer);
	stats->average_rate = 0;
	if (ms > 0)
		stats->average_rate = div64_u64(stats->hydrated[DM_CLONE_BY_COPY] *
						MSEC_PER_SEC, ms);
}

/*
 *---------------------------------------------------------------
 * Making and destroying
 *---------------------------------------------------------------
 */

static void copier_has_room(void *context)
{
	kick(context);
}

/*
 * A portion has ended.  If it was zeroing's, and the only one, nothing else
 * tells the copier and us.  Its batch, or h->zeroing, is still accounted for,
 * so dm_clone_hydration_wait() will cancel what is queued here.
 */
static void pacer_has_room(void *context)
{
	struct dm_clone_hydration *h = context;

	dm_clone_copier_hurry(h->copier);
	kick(h);
}

struct dm_clone_hydration *
dm_clone_hydration_create(const struct dm_clone_geometry *geo,
			  struct dm_clone_region_map *map,
			  struct dm_clone_claims *claims,
			  struct workqueue_struct *wq_source,
			  struct workqueue_struct *wq_dest,
			  struct dm_kcopyd_throttle *throttle,
			  const struct dm_clone_hydration_events *events)
{
	struct dm_clone_hydration *h = kzalloc_obj(*h, GFP_KERNEL);
	int r;

	if (!h)
		return ERR_PTR(-ENOMEM);

	h->geo = geo;
	h->map = map;
	h->claims = claims;
	h->wq = wq_dest;
	h->events = *events;
	h->pause = MIN_PAUSE;
	h->stride = largest_stride(h);
	INIT_DELAYED_WORK(&h->work, do_hydration);
	INIT_DELAYED_WORK(&h->zero_work, do_zeroing);
	dm_clone_marks_init(&h->marks, geo->nr_regions);
	spin_lock_init(&h->lock);
	init_waitqueue_head(&h->idle);
	INIT_LIST_HEAD(&h->to_retry);

	r = mempool_init_kmalloc_pool(&h->batch_pool, MIN_BATCHES,
				      sizeof(struct batch));
	if (r)
		goto bad;

	h->throttle = throttle;
	h->pacer = dm_clone_pacer_create(pacer_has_room, h);
	if (!h->pacer) {
		r = -ENOMEM;
		goto bad_pool;
	}

	h->zeroer = dm_clone_zeroer_create(geo->dest, h->pacer);
	if (!h->zeroer) {
		r = -ENOMEM;
		goto bad_pacer;
	}

	h->copier = dm_clone_copier_create(geo->source, geo->dest, wq_source,
					   wq_dest, h->pacer, h->zeroer,
					   copier_has_room, h);
	if (IS_ERR(h->copier)) {
		r = PTR_ERR(h->copier);
		goto bad_zeroer;
	}

	return h;

bad_zeroer:
	dm_clone_zeroer_destroy(h->zeroer);
bad_pacer:
	dm_clone_pacer_destroy(h->pacer);
bad_pool:
	mempool_exit(&h->batch_pool);
bad:
	kfree(h);
	return ERR_PTR(r);
}

void dm_clone_hydration_destroy(struct dm_clone_hydration *h)
{
	dm_clone_hydration_wait(h);
	kvfree(h->wanted);
	dm_clone_marks_exit(&h->marks);
	dm_clone_copier_destroy(h->copier);
	dm_clone_zeroer_destroy(h->zeroer);
	dm_clone_pacer_destroy(h->pacer);
	mempool_exit(&h->batch_pool);
	kfree(h);
}
