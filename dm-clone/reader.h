/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The reader hydrates regions with the data that users read.
 *
 * A read of unhydrated regions goes to the source anyway.  The reader claims
 * the regions, reads them into a buffer of its own, gives the user the part
 * that it asked for, and then writes the buffer to the destination.  The rest
 * of the regions on both sides of that part is read at the same time, with
 * separate bios, so that the user waits neither for that nor for the write.
 *
 * The buffer is written, not the pages of the user's bio: the user may change
 * those at any time, even while the read is under way, and such changes must
 * not reach the destination.  The claim is held from before the read, and
 * writes wait for it, so the data cannot be out of date.
 *
 * Nobody waits for memory.  If there is none, or too much is in use, the read
 * goes to the source as if there were no reader.
 *
 * Sequential reads are read ahead: the next regions are hydrated in the same
 * way, without a user.  Only reads of unhydrated regions come here; those of
 * hydrated ones take no lock, and write to no memory that CPUs share.
 */
#ifndef DM_CLONE_READER_H
#define DM_CLONE_READER_H

#include <linux/blk_types.h>
#include <linux/workqueue.h>

#include "claim.h"
#include "hydration.h"

struct dm_clone_reader;
struct dm_clone_read;

/* The largest read, in sectors: 1 MiB.  No region may be larger. */
#define DM_CLONE_MAX_READ	(1U << (20 - SECTOR_SHIFT))

/*
 * @geo, @map, @claims and @hydration must outlive the reader.  It reads ahead
 * on @wq_source and writes on @wq_dest; both must have a rescuer.  The reader
 * is created stopped.  Returns an ERR_PTR() on failure.
 */
struct dm_clone_reader *
dm_clone_reader_create(const struct dm_clone_geometry *geo,
		       struct dm_clone_region_map *map,
		       struct dm_clone_claims *claims,
		       struct dm_clone_hydration *hydration,
		       struct workqueue_struct *wq_source,
		       struct workqueue_struct *wq_dest);

/* Stop it before.  NULL is fine here, and in the next four. */
void dm_clone_reader_destroy(struct dm_clone_reader *reader);

/*
 * stop: hydrate nothing more. wait, after stop: until nothing is in flight;
 * sleeps.
 */
void dm_clone_reader_start(struct dm_clone_reader *reader);
void dm_clone_reader_stop(struct dm_clone_reader *reader);
void dm_clone_reader_wait(struct dm_clone_reader *reader);

/* Memory in use, in bytes.  Any context. */
unsigned long dm_clone_reader_memory(struct dm_clone_reader *reader);

enum dm_clone_readiness {
	DM_CLONE_READ_READY,	/* *@read is the caller's */
	DM_CLONE_READ_TAKEN,	/* claimed by another, up to *@taken_until */
	DM_CLONE_READ_CHANGED,	/* some are hydrated by now: look again */
	DM_CLONE_READ_NOT_NOW	/* no memory, stopped, or a recent error */
};

/*
 * Get ready to read the unhydrated regions [begin, end), or as many of them
 * from @begin on as can be claimed and read at once: dm_clone_read_end() tells.
 * On success the caller must go on with dm_clone_reader_submit().  Any context.
 */
enum dm_clone_readiness
dm_clone_reader_prepare(struct dm_clone_reader *reader, unsigned long begin,
			unsigned long end, struct dm_clone_read **read,
			unsigned long *taken_until);
unsigned long dm_clone_read_end(struct dm_clone_read *read);

/*
 * @bio reads from the first to the last region of @read, or parts of these.  It
 * ends when its data has come from the source.  May sleep, as submitting a bio
 * may.
 */
void dm_clone_reader_submit(struct dm_clone_read *read, struct bio *bio);

#endif /* DM_CLONE_READER_H */
