/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The zeroer: sees to it that sectors of the destination read as zeroes.
 *
 * That is to cost nothing where there is nothing to zero, and no space where
 * the destination has none for it yet.  So for a range:
 *
 *	1. it is discarded, if that's wanted and the destination takes discards.
 *	   That may free the space, and promises nothing: errors are ignored.
 *	2. write-zeroes, where the destination has that and has not refused it.
 *	3. Else it is read, and zeroes are written only where it is not zero.  A
 *	   thin volume reads what it has no space for without any I/O.
 *
 * All of it waits for the destination, in a work of each job's own, a step at
 * a time.  A step is what takes a moment: of write-zeroes up to 64 MiB where
 * the device is quick.  Between steps the work is queued anew, so that others
 * have their turn even when the workqueue is down to its rescuer, and a job in
 * the background asks whether it is to stop, and the pacer.
 *
 * Only the destination is touched.  Of jobs there may be thousands, a short discard
 * is one, and each keeps a worker until the destination answers.  So they have a
 * workqueue of their own, which works on a few at a time: nothing but zeroing waits
 * for its turn there.
 */
#ifndef DM_CLONE_ZERO_H
#define DM_CLONE_ZERO_H

#include <linux/blk_types.h>
#include <linux/workqueue.h>

#include "copier.h"

struct dm_clone_zeroer;
struct dm_clone_zero_job;

/* Process context; on the workqueue. */
typedef void (*dm_clone_zeroed_fn)(struct dm_clone_zero_job *job);
typedef bool (*dm_clone_stop_fn)(struct dm_clone_zero_job *job);

/*
 * A job: the memory is the caller's again when @done is called.  What is left
 * then has not been zeroed, or is not known to be: nothing, unless the job has
 * failed, as its outcome tells, or was stopped.
 */
struct dm_clone_zero_job {
	/* Set by the caller. */
	dm_clone_zeroed_fn done;
	struct dm_clone_span left;
	bool discard;			/* pass a discard down first */
	dm_clone_stop_fn should_stop;	/* a job in the background; or NULL */
	struct dm_clone_buffer *buffer;	/* memory to use; or NULL */
	sector_t buffer_sector;		/* that the first one of the buffer is for */

	struct dm_clone_outcome outcome;

	/* The zeroer's. */
	struct dm_clone_zeroer *zeroer;
	struct delayed_work work;
	sector_t discarded;		/* all before this has been */
};

/* Returns NULL if there's no memory.  @pacer must outlive the zeroer. */
struct dm_clone_zeroer *dm_clone_zeroer_create(struct block_device *dest,
					       struct dm_clone_pacer *pacer);

/* No job may be under way. */
void dm_clone_zeroer_destroy(struct dm_clone_zeroer *zeroer);

/*
 * Regions that are not hydrated are known to hold nothing in the destination but
 * zeroes, or what the source has in the same place; or no longer.  Then zeroes of the
 * source are there already, a discard may leave the rest, and no job is to be started.
 */
void dm_clone_zeroer_set_dest_zeroed(struct dm_clone_zeroer *zeroer, bool zeroed);
bool dm_clone_zeroer_is_dest_zeroed(struct dm_clone_zeroer *zeroer);

/* Memory in use, in bytes, but for the reserve.  Any context. */
unsigned long dm_clone_zeroer_memory(struct dm_clone_zeroer *zeroer);

/* Start a job.  Any context. */
void dm_clone_zeroer_zero(struct dm_clone_zeroer *zeroer, struct dm_clone_zero_job *job);

#endif /* DM_CLONE_ZERO_H */
