// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The pacer, see pacer.h.
 */

#include <linux/bits.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "compat.h"
#include "pacer.h"

/*
 * All values that were chosen, and why.
 * Documentation/hydration-performance.rst has the figures.
 */

/*
 * The window, in sectors.  The first one keeps a source with a delay of 20 ms
 * busy at several hundred MiB/s: nothing is known of the devices yet.  The
 * smallest keeps two devices busy that answer at once.
 */
#define FIRST_WINDOW	(16U << (20 - SECTOR_SHIFT))
#define MIN_WINDOW	(2U << (20 - SECTOR_SHIFT))

/* A window holds this many portions at least: one is read, one is written. */
#define PORTIONS_PER_WINDOW 2

/*
 * It grows by this factor as long as each round is faster than the best of late
 * by this part of it: less might be chance.
 */
#define OPEN_FACTOR	4
#define FASTER_PART	8

/*
 * After that it is this many times the best bandwidth times the least latency:
 * once keeps the devices busy if all portions take the same time, which they do
 * not; more than twice only queues.
 */
#define WINDOW_FACTOR	2

/*
 * Devices change: in each round these parts of the best bandwidth and the least
 * latency are forgotten.  Latency more slowly: too high a value opens the
 * window for nothing.
 */
#define FORGET_BANDWIDTH 16
#define FORGET_LATENCY	64

/*
 * User I/O is looked at this often, in ns: every few jiffies, which is how
 * precise the work is that asks.
 */
#define LOOK_PERIOD	(10 * NSEC_PER_MSEC)

/*
 * The pace adapts to the average latency of user I/O this often, in ns.  The
 * average needs some samples, unless a long time has passed.
 */
#define ADAPT_PERIOD	(100 * NSEC_PER_MSEC)
#define MAX_ADAPT_PERIOD NSEC_PER_SEC
#define MIN_SAMPLES	8

/*
 * User I/O is disturbed if its latency is above the baseline by this part of it
 * and by this time, in ns, which fast devices vary by anyway.
 */
#define DISTURBED_PART	2
#define LATENCY_SLACK	(200 * NSEC_PER_USEC)

/*
 * Each time this part of the baseline is forgotten: within some 6 s the latency
 * of now becomes the one to compare with.
 */
#define FORGET_BASELINE	64

/*
 * If user I/O is disturbed the pace is divided by PACE_FACTOR.  Until that has
 * happened once it is otherwise multiplied by the same: within a second from
 * the floor to the bandwidth of most devices.  From then on it gains only this
 * part, so that it takes three steps back to where it was too much.
 */
#define PACE_FACTOR	2
#define PACE_GAIN_PART	4

/* User I/O that comes back within this time, in ns, meets the same pace. */
#define FORGET_AFTER	(5ULL * NSEC_PER_SEC)

/* A pace that has doubled this often is no limit any more. */
#define MAX_IDLE_LOOKS	16

/*
 * There are about this many portions a second at the allowed rate: small enough
 * for the rate to look even, large enough to be worth a bio.  And this part of
 * a second's floor may be in flight at once, whatever the latency.
 */
#define PORTIONS_PER_SECOND 32
#define FLOOR_IN_FLIGHT	4

/*
 * Unused rate may be caught up with for this long, in ns: the work that asks
 * may be some jiffies late.
 */
#define BURST		(25 * NSEC_PER_MSEC)

/* Bounds that keep the arithmetic within 64 bits: sectors a second, and ns. */
#define MAX_PACE	BIT_ULL(32)
#define MAX_LATENCY	(10ULL * NSEC_PER_SEC)

/*
 * Longs: no CPU reads them torn while another one counts, even with 32 bits.
 * There they wrap around: only differences are used, and latency is counted in
 * units of 1024 ns, so that 4398 seconds of it fit between two looks.
 */
#define LATENCY_SHIFT	10

struct user_io {
	unsigned long started;
	unsigned long ended;
	unsigned long latency;	/* of all that have ended */
};

struct dm_clone_pacer {
	struct user_io __percpu *user;
	void (*has_room)(void *context);
	void *context;

	spinlock_t lock;	/* protects the rest */

	u64 limit;
	u64 floor;
	unsigned int in_flight;
	bool awaited;		/* somebody waits for the end of a portion */
	u64 next_start;		/* not before this, if paced */

	/*
	 * The window adapts in rounds: a round ends when as much as the window
	 * has been copied since it began.
	 */
	unsigned int window;
	bool opening;		/* it still pays to open it */
	bool held_back;		/* something else was the limit in this round */
	u64 bandwidth;		/* the best of late */
	u64 latency;		/* the least of late that a portion took */
	u64 round_start;
	u64 round_done;		/* sectors */

	/* User I/O. */
	bool busy;
	u64 busy_until;		/* the last look that found some */
	u64 looked;		/* the time of the last look, */
	struct user_io seen;	/* and what it found */
	u64 adapted;		/* when the pace was last adapted, */
	struct user_io before;	/* and the counts then */
	u64 pace;		/* beside user I/O */
	unsigned int idle_looks; /* in a row: each doubles the pace */
	bool climbing;		/* users have not been disturbed yet */
	bool paced;		/* the pace held copies back since then */
	u64 baseline;		/* average latency of undisturbed user I/O */

	/* For stats: what was copied in the last second or a little more. */
	u64 rate;
	u64 rate_start;
	u64 rate_done;		/* sectors since */
};

/*
 *---------------------------------------------------------------
 * User I/O
 *---------------------------------------------------------------
 */

u64 dm_clone_pacer_user_begin(struct dm_clone_pacer *pacer)
{
	this_cpu_inc(pacer->user->started);

	return ktime_get_ns();
}

void dm_clone_pacer_user_end(struct dm_clone_pacer *pacer, u64 start)
{
	this_cpu_inc(pacer->user->ended);
	this_cpu_add(pacer->user->latency,
		     (ktime_get_ns() - start) >> LATENCY_SHIFT);
}

/* This is no snapshot, and need not be. */
static struct user_io sum_user_io(struct dm_clone_pacer *pacer)
{
	struct user_io sum = {};
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct user_io *io = per_cpu_ptr(pacer->user, cpu);

		sum.ended += READ_ONCE(io->ended);
		sum.latency += READ_ONCE(io->latency);
		sum.started += READ_ONCE(io->started);
	}

	return sum;
}

static u64 __floor(struct dm_clone_pacer *pacer)
{
	return max_t(u64, pacer->floor, DM_CLONE_MIN_PORTION);
}

/* Adapt the pace to @latency, the average since the last time. */
static void __adapt_pace(struct dm_clone_pacer *pacer, u64 latency)
{
	bool at_floor = pacer->pace <= __floor(pacer);

	/* The latency with hardly any copying; slowly forgotten. */
	if (!pacer->baseline)
		pacer->baseline = latency;
	else if (at_floor || latency < pacer->baseline)
		pacer->baseline = (pacer->baseline + latency) / 2;
	else
		pacer->baseline += pacer->baseline / FORGET_BASELINE;

	if (latency > pacer->baseline + pacer->baseline / DISTURBED_PART +
		      LATENCY_SLACK) {
		pacer->pace /= PACE_FACTOR;
		pacer->climbing = false;
	} else if (pacer->paced) {
		pacer->pace += pacer->climbing ? (PACE_FACTOR - 1) * pacer->pace :
						 pacer->pace / PACE_GAIN_PART;
	}

	pacer->pace = clamp(pacer->pace, __floor(pacer), MAX_PACE);
	pacer->paced = false;
}

/* User I/O begins; after a short pause the pace is unchanged. */
static void __begin_busy(struct dm_clone_pacer *pacer, u64 now)
{
	if (!pacer->busy_until || now - pacer->busy_until > FORGET_AFTER) {
		pacer->pace = __floor(pacer);
		pacer->baseline = 0;
		pacer->climbing = true;
	}

	pacer->busy = true;
	pacer->adapted = now;
	pacer->before = pacer->seen;
}

/* The rate beside user I/O, and for a moment after it. */
static u64 __pace(struct dm_clone_pacer *pacer)
{
	return min(pacer->pace << pacer->idle_looks, MAX_PACE);
}

/*
 * There is no user I/O.  Copies make use of that step by step: this may be just
 * a gap between two bios of the user, and the next one must not find a whole
 * window in its way.
 */
static void __go_idle(struct dm_clone_pacer *pacer)
{
	pacer->idle_looks++;
	if (pacer->idle_looks > MAX_IDLE_LOOKS || __pace(pacer) > pacer->bandwidth)
		pacer->busy = false;
}

/*
 * Is there user I/O: has some begun since the last look, or is some in flight?
 */
static void __look_at_user_io(struct dm_clone_pacer *pacer, u64 now)
{
	struct user_io io;
	u64 nr_ended;
	bool any;

	if (now - pacer->looked < LOOK_PERIOD)
		return;

	io = sum_user_io(pacer);
	any = io.started != pacer->seen.started || io.started != io.ended;
	pacer->looked = now;
	pacer->seen = io;

	if (!any) {
		if (pacer->busy)
			__go_idle(pacer);
		return;
	}

	if (!pacer->busy)
		__begin_busy(pacer, now);
	pacer->busy_until = now;
	pacer->idle_looks = 0;

	nr_ended = io.ended - pacer->before.ended;
	if (now - pacer->adapted < ADAPT_PERIOD || !nr_ended ||
	    (nr_ended < MIN_SAMPLES && now - pacer->adapted < MAX_ADAPT_PERIOD))
		return;

	__adapt_pace(pacer,
		     div64_u64((u64)(io.latency - pacer->before.latency)
			       << LATENCY_SHIFT, nr_ended));
	pacer->adapted = now;
	pacer->before = io;
}

/*
 *---------------------------------------------------------------
 * The window
 *---------------------------------------------------------------
 */

static unsigned int clamp_window(u64 window)
{
	return clamp_t(u64, window, MIN_WINDOW, DM_CLONE_MAX_WINDOW);
}

/* What is worth having in flight at @rate. */
static u64 __worth_in_flight(struct dm_clone_pacer *pacer, u64 rate)
{
	return mul_u64_u64_div_u64(min(rate, MAX_PACE),
				   WINDOW_FACTOR * min(pacer->latency, MAX_LATENCY),
				   NSEC_PER_SEC);
}

static void __begin_round(struct dm_clone_pacer *pacer, u64 now)
{
	pacer->round_start = now;
	pacer->round_done = 0;
	pacer->held_back = false;
}

static void __end_round(struct dm_clone_pacer *pacer, u64 now)
{
	u64 bandwidth = mul_u64_u64_div_u64(pacer->round_done, NSEC_PER_SEC,
					    max(now - pacer->round_start, 1ULL));
	bool faster = bandwidth > pacer->bandwidth + pacer->bandwidth / FASTER_PART;

	pacer->bandwidth = max(bandwidth, pacer->bandwidth -
					  pacer->bandwidth / FORGET_BANDWIDTH);
	pacer->latency += pacer->latency / FORGET_LATENCY;

	if (pacer->opening && faster) {
		pacer->window = clamp_window((u64)OPEN_FACTOR * pacer->window);
	} else {
		/* If it was faster, that alone makes the window wider. */
		pacer->opening = false;
		pacer->window = clamp_window(__worth_in_flight(pacer, pacer->bandwidth));
	}
}

static void __account_portion(struct dm_clone_pacer *pacer,
			      unsigned int sectors, u64 took, u64 now)
{
	if (!pacer->latency || took < pacer->latency)
		pacer->latency = max(took, 1ULL);

	pacer->round_done += sectors;
	if (pacer->round_done < pacer->window)
		return;

	/* A round that was held back does not tell how fast it could be. */
	if (!pacer->held_back)
		__end_round(pacer, now);
	__begin_round(pacer, now);
}

/*
 *---------------------------------------------------------------
 * The answer
 *---------------------------------------------------------------
 */

/* The rate to keep now; 0: none. */
static u64 __allowed_rate(struct dm_clone_pacer *pacer)
{
	if (!pacer->busy)
		return pacer->limit;

	return pacer->limit ? min(pacer->limit, __pace(pacer)) : __pace(pacer);
}

static unsigned int portion_size(u64 rate, unsigned int window)
{
	u64 size = rate ? div_u64(rate, PORTIONS_PER_SECOND) :
			  window / PORTIONS_PER_WINDOW;

	size = clamp_t(u64, size, DM_CLONE_MIN_PORTION, DM_CLONE_MAX_PORTION);

	return rounddown_pow_of_two(size);
}

unsigned int dm_clone_pacer_room(struct dm_clone_pacer *pacer, u64 *wait)
{
	unsigned int window, portion;
	unsigned long flags;
	u64 rate, now;

	spin_lock_irqsave(&pacer->lock, flags);

	now = ktime_get_ns();
	__look_at_user_io(pacer, now);
	rate = __allowed_rate(pacer);
	window = pacer->window;
	if (pacer->busy)
		window = min_t(u64, window, max(__worth_in_flight(pacer, rate),
						__floor(pacer) / FLOOR_IN_FLIGHT));
	portion = portion_size(rate, window);

	if (pacer->in_flight && pacer->in_flight + portion > window) {
		portion = 0;
		pacer->awaited = true;
		*wait = U64_MAX;
	} else if (rate && now < pacer->next_start) {
		pacer->held_back = true;
		pacer->paced = true;
		portion = 0;
		*wait = pacer->next_start - now;
		if (pacer->busy)
			*wait = min_t(u64, *wait, LOOK_PERIOD);
	}

	spin_unlock_irqrestore(&pacer->lock, flags);

	return portion;
}

u64 dm_clone_pacer_begin(struct dm_clone_pacer *pacer, unsigned int sectors,
			 bool asked)
{
	unsigned long flags;
	u64 rate, now;

	spin_lock_irqsave(&pacer->lock, flags);

	now = ktime_get_ns();
	if (!pacer->in_flight)
		__begin_round(pacer, now);	/* it was idle or held back */
	pacer->in_flight += sectors;

	rate = __allowed_rate(pacer);
	if (rate && asked)
		pacer->next_start = max(pacer->next_start, now - BURST) +
			mul_u64_u64_div_u64(sectors, NSEC_PER_SEC, rate);

	spin_unlock_irqrestore(&pacer->lock, flags);

	return now;
}

static void __update_rate(struct dm_clone_pacer *pacer, u64 now)
{
	u64 passed = now - pacer->rate_start;

	if (passed < NSEC_PER_SEC)
		return;

	pacer->rate = mul_u64_u64_div_u64(pacer->rate_done, NSEC_PER_SEC,
					  passed);
	pacer->rate_start = now;
	pacer->rate_done = 0;
}

void dm_clone_pacer_end(struct dm_clone_pacer *pacer, unsigned int sectors,
			u64 start, bool ok)
{
	unsigned long flags;
	bool awaited;
	u64 now;

	spin_lock_irqsave(&pacer->lock, flags);

	now = ktime_get_ns();
	pacer->in_flight -= sectors;
	awaited = pacer->awaited;
	pacer->awaited = false;
	if (ok) {
		__account_portion(pacer, sectors, now - start, now);
		pacer->rate_done += sectors;
	}
	__update_rate(pacer, now);

	spin_unlock_irqrestore(&pacer->lock, flags);

	if (awaited)
		pacer->has_room(pacer->context);
}

/*
 *---------------------------------------------------------------
 * Settings and stats
 *---------------------------------------------------------------
 */

void dm_clone_pacer_set_limit(struct dm_clone_pacer *pacer, u64 limit)
{
	unsigned long flags;

	spin_lock_irqsave(&pacer->lock, flags);
	pacer->limit = limit;
	pacer->next_start = 0;	/* the old limit has set it */
	spin_unlock_irqrestore(&pacer->lock, flags);
}

void dm_clone_pacer_set_floor(struct dm_clone_pacer *pacer, u64 floor)
{
	unsigned long flags;

	spin_lock_irqsave(&pacer->lock, flags);
	pacer->floor = floor;
	pacer->next_start = 0;
	spin_unlock_irqrestore(&pacer->lock, flags);
}

u64 dm_clone_pacer_rate(struct dm_clone_pacer *pacer)
{
	unsigned long flags;
	u64 rate;

	spin_lock_irqsave(&pacer->lock, flags);
	__update_rate(pacer, ktime_get_ns());
	rate = pacer->rate;
	spin_unlock_irqrestore(&pacer->lock, flags);

	return rate;
}

bool dm_clone_pacer_is_limited(struct dm_clone_pacer *pacer)
{
	unsigned long flags;
	bool r;

	spin_lock_irqsave(&pacer->lock, flags);
	r = __allowed_rate(pacer);
	spin_unlock_irqrestore(&pacer->lock, flags);

	return r;
}

struct dm_clone_pacer *dm_clone_pacer_create(void (*has_room)(void *context),
					     void *context)
{
	struct dm_clone_pacer *pacer = kzalloc_obj(*pacer, GFP_KERNEL);

	if (!pacer)
		return NULL;

	pacer->user = alloc_percpu(struct user_io);
	if (!pacer->user) {
		kfree(pacer);
		return NULL;
	}

	pacer->has_room = has_room;
	pacer->context = context;
	spin_lock_init(&pacer->lock);
	pacer->floor = DM_CLONE_DEFAULT_FLOOR;
	pacer->window = FIRST_WINDOW;
	pacer->opening = true;
	pacer->rate_start = ktime_get_ns();

	return pacer;
}

void dm_clone_pacer_destroy(struct dm_clone_pacer *pacer)
{
	free_percpu(pacer->user);
	kfree(pacer);
}
