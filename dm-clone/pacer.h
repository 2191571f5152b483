/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The pacer: how much may be copied in the background, and when.
 *
 * It answers one question for each portion of a background copy: now, or when?
 * The answer depends on three things:
 *
 *  - How much is worth having in flight.  More than the devices take at a time
 *    only makes everybody wait.  While there is no user I/O the window opens as
 *    long as that makes copying faster, and then stays at about twice what
 *    keeps the devices busy: the rate times the time that a portion takes if
 *    nothing is in its way.
 *  - User I/O.  While there is some, portions are small and paced.  The pace
 *    rises as long as the latency of user I/O stays near what it is with hardly
 *    any copying, and is halved when it does not; it never falls below a floor.
 *    When user I/O stops the window is soon open again.
 *  - A limit set by the administrator.
 *
 * User I/O is counted on each CPU by itself.  The rest is under the pacer's own
 * spinlock, innermost, irqs off: all functions but create and destroy may be
 * called in any context.  Sizes are in sectors, rates in sectors a second,
 * times in nanoseconds of ktime_get_ns().
 */
#ifndef DM_CLONE_PACER_H
#define DM_CLONE_PACER_H

#include <linux/blk_types.h>
#include <linux/types.h>

struct dm_clone_pacer;

/* The largest window, and so the most memory of background copies: 64 MiB. */
#define DM_CLONE_MAX_WINDOW	(64U << (20 - SECTOR_SHIFT))

/* The largest and the smallest portion.  1 MiB, 64 KiB. */
#define DM_CLONE_MAX_PORTION	(1U << (20 - SECTOR_SHIFT))
#define DM_CLONE_MIN_PORTION	(64U << (10 - SECTOR_SHIFT))

/* The floor beside user I/O unless it is set: 1 MiB a second. */
#define DM_CLONE_DEFAULT_FLOOR	(1U << (20 - SECTOR_SHIFT))

/*
 * Others end portions than ask for them: the copier ends copies, the zeroer
 * ends zeroing, and the engine asks as well.  So the pacer tells: when a
 * portion ends after somebody was told to wait for that, dm_clone_pacer_end()
 * calls @has_room with @context before it returns.  So callers that wait need
 * to stay only while a portion is under way.  Called in any context, without a
 * lock.
 */
struct dm_clone_pacer *dm_clone_pacer_create(void (*has_room)(void *context),
					     void *context);
void dm_clone_pacer_destroy(struct dm_clone_pacer *pacer);

/* In sectors a second; a limit of 0 means none. */
void dm_clone_pacer_set_limit(struct dm_clone_pacer *pacer, u64 limit);
void dm_clone_pacer_set_floor(struct dm_clone_pacer *pacer, u64 floor);

/* A bio of the user's is sent down; it has ended. begin returns @start. */
u64 dm_clone_pacer_user_begin(struct dm_clone_pacer *pacer);
void dm_clone_pacer_user_end(struct dm_clone_pacer *pacer, u64 start);

/*
 * How large a portion may be started now? 0: none, and *@wait is the time after
 * which to ask again, or U64_MAX if only the end of a portion makes room: then
 * @has_room is called, see dm_clone_pacer_create().
 */
unsigned int dm_clone_pacer_room(struct dm_clone_pacer *pacer, u64 *wait);

/*
 * A portion is started, and has ended, @ok or not; begin returns the @start for
 * end.  A portion that was started without having @asked, because somebody
 * waits for it, does not count against those that ask later.
 */
u64 dm_clone_pacer_begin(struct dm_clone_pacer *pacer, unsigned int sectors,
			 bool asked);
void dm_clone_pacer_end(struct dm_clone_pacer *pacer, unsigned int sectors,
			u64 start, bool ok);

/* For stats: the rate of the last second; is it held back on purpose? */
u64 dm_clone_pacer_rate(struct dm_clone_pacer *pacer);
bool dm_clone_pacer_is_limited(struct dm_clone_pacer *pacer);

#endif /* DM_CLONE_PACER_H */
