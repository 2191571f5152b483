/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The reader: hydrates what is read, with the data that the read gets.
 *
 * A read of unhydrated regions goes to the source anyway.  The reader claims the
 * regions, reads them to a buffer of its own, gives the user the part that was asked
 * for, and then writes the buffer to the destination.  What is left of the regions
 * on both sides of the user's part is read at the same time, with bios of its own,
 * so that the user waits neither for that nor for the write.
 *
 * It's the buffer that is written, not the pages of the user's bio.  Those are the
 * user's, who may change them at any time, even while the read is under way, and that
 * must not get to the destination.  And since the claim has been held from before the
 * read, nothing can have been written to the regions meanwhile: a write waits for the
 * claim.
 *
 * Nobody waits for memory.  If there's none, or too much is in use, the read goes to
 * the source as if there was no reader.
 *
 * Sequential reads are read ahead: regions that come next are hydrated in the same
 * way, with no user.  Only reads of unhydrated regions come here; those of hydrated
 * ones don't take a lock, nor write to memory that CPUs share.
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
 * @geo, @map, @claims and @hydration must outlive the reader.  It reads ahead on
 * @wq_source and writes on @wq_dest; both must have a rescuer.  The reader is
 * created stopped.  Returns an ERR_PTR() on failure.
 */
struct dm_clone_reader *
dm_clone_reader_create(const struct dm_clone_geometry *geo,
		       struct dm_clone_region_map *map, struct dm_clone_claims *claims,
		       struct dm_clone_hydration *hydration,
		       struct workqueue_struct *wq_source,
		       struct workqueue_struct *wq_dest);

/* Stopped, and waited for.  NULL is fine here, and in the next three. */
void dm_clone_reader_destroy(struct dm_clone_reader *reader);

/*
 * stop: nothing more is hydrated from now on.  wait: nothing is in flight any more;
 * sleeps, and wants stop to have been called.
 */
void dm_clone_reader_start(struct dm_clone_reader *reader);
void dm_clone_reader_stop(struct dm_clone_reader *reader);
void dm_clone_reader_wait(struct dm_clone_reader *reader);

/* Memory in use, in bytes.  Any context; NULL is fine. */
unsigned long dm_clone_reader_memory(struct dm_clone_reader *reader);

enum dm_clone_readiness {
	DM_CLONE_READ_READY,	/* *@read is the caller's */
	DM_CLONE_READ_TAKEN,	/* another has claimed @begin, up to *@taken_until */
	DM_CLONE_READ_CHANGED,	/* some have been hydrated meanwhile: look again */
	DM_CLONE_READ_NOT_NOW	/* no memory, stopped, or an error a moment ago */
};

/*
 * Get ready to read the unhydrated regions [begin, end), or as many of them from
 * @begin on as can be claimed and read at once: dm_clone_read_end() tells.  If
 * that works dm_clone_reader_submit() follows, without fail.  Any context.
 */
enum dm_clone_readiness
dm_clone_reader_prepare(struct dm_clone_reader *reader, unsigned long begin,
			unsigned long end, struct dm_clone_read **read,
			unsigned long *taken_until);
unsigned long dm_clone_read_end(struct dm_clone_read *read);

/*
 * @bio reads regions of @read, from the first to the last, or parts of those two.  It
 * is ended when its data has come from the source.  May sleep, as to submit a bio may.
 */
void dm_clone_reader_submit(struct dm_clone_read *read, struct bio *bio);

#endif /* DM_CLONE_READER_H */
