/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The pacer: how much may be copied in the background, and when.
 *
 * It answers one question, for each portion of a background copy: now, or when?
 * Three things come into it:
 *
 *  - How much is worth having in flight.  More than the devices take at a time
 *    only makes everybody wait.  While there's no user I/O the window is opened
 *    as long as that makes the copying faster, and is then kept at about twice
 *    what is needed to keep the devices busy: the rate times the time a portion
 *    takes if nothing is in its way.
 *  - User I/O.  While there is some, portions are small and paced.  The pace
 *    rises as long as the latency of user I/O stays near to what it is when
 *    hardly anything is copied, and is halved when it does not; it never falls
 *    below a floor.  When user I/O stops, the window is open again at once.
 *  - A limit set by the administrator.
 *
 * User I/O is counted on each CPU by itself.  The rest is under a spinlock of
 * the pacer's own, innermost, irqs off: all functions but create and destroy
 * may be called in any context.  Sizes are in sectors, rates in sectors a
 * second, times in nanoseconds of ktime_get_ns().
 */
#ifndef DM_CLONE_PACER_H
#define DM_CLONE_PACER_H

#include <linux/blk_types.h>
#include <linux/types.h>

struct dm_clone_pacer;

/* Most memory of background copies: the largest window.  64 MiB. */
#define DM_CLONE_MAX_WINDOW	(64U << (20 - SECTOR_SHIFT))

/* The largest and the smallest portion.  1 MiB, 64 KiB. */
#define DM_CLONE_MAX_PORTION	(1U << (20 - SECTOR_SHIFT))
#define DM_CLONE_MIN_PORTION	(64U << (10 - SECTOR_SHIFT))

/* The floor under user I/O unless it's set: 1 MiB a second. */
#define DM_CLONE_DEFAULT_FLOOR	(1U << (20 - SECTOR_SHIFT))

/*
 * Portions are ended by others than those who ask: copies by the copier, zeroing by the
 * zeroer, and the engine asks as well.  So it's the pacer that tells: @has_room is
 * called with @context when a portion ends after somebody has been told to wait for that.
 * This is done by dm_clone_pacer_end() before it returns, so whoever asks has to stay
 * only as long as a portion is under way.  Any context, without a lock.
 */
struct dm_clone_pacer *dm_clone_pacer_create(void (*has_room)(void *context),
					     void *context);
void dm_clone_pacer_destroy(struct dm_clone_pacer *pacer);

/* Sectors a second; a limit of 0 is none. */
void dm_clone_pacer_set_limit(struct dm_clone_pacer *pacer, u64 limit);
void dm_clone_pacer_set_floor(struct dm_clone_pacer *pacer, u64 floor);

/* A bio of the user is sent down; it has ended.  @start is for the latter. */
u64 dm_clone_pacer_user_begin(struct dm_clone_pacer *pacer);
void dm_clone_pacer_user_end(struct dm_clone_pacer *pacer, u64 start);

/*
 * How large a portion may be started now?  0: none, and *@wait is the time after
 * which to ask again, or U64_MAX if the end of a portion will allow for more: then
 * @has_room is called, see dm_clone_pacer_create().
 */
unsigned int dm_clone_pacer_room(struct dm_clone_pacer *pacer, u64 *wait);

/*
 * A portion is started, returns its @start; it has ended, @ok or not.  What is
 * started without having @asked, for somebody who waits, isn't held against
 * those that ask later.
 */
u64 dm_clone_pacer_begin(struct dm_clone_pacer *pacer, unsigned int sectors,
			 bool asked);
void dm_clone_pacer_end(struct dm_clone_pacer *pacer, unsigned int sectors,
			u64 start, bool ok);

/* For stats: the rate of the last seconds; is it held back on purpose? */
u64 dm_clone_pacer_rate(struct dm_clone_pacer *pacer);
bool dm_clone_pacer_is_limited(struct dm_clone_pacer *pacer);

#endif /* DM_CLONE_PACER_H */
