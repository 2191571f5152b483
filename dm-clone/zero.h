/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The zeroer makes sectors of the destination read as zeroes.
 *
 * This should cost nothing where there is nothing to zero, and no space where
 * the destination has not provisioned any.  So a range is treated like this:
 *
 *	1. It is discarded, if the caller asks for that and the destination
 *	   takes discards.  This may free space, and promises nothing: errors
 *	   are ignored.
 *	2. Write-zeroes is sent, if the destination has it and never refused it.
 *	3. Otherwise the range is read, and zeroes are written where it is not
 *	   zero.  A thin volume reads unprovisioned space without any I/O.
 *
 * Each job has a work, which waits for the destination, a step at a time.  A
 * step takes a moment: up to 64 MiB of write-zeroes if the device is quick.
 * Between steps the work is queued again, so that others have their turn even
 * if only the rescuer is left; and a background job asks whether to stop, and
 * the pacer.
 *
 * Only the destination is touched.  There may be thousands of jobs (a short
 * discard is one), and each keeps a worker until the destination answers.  So
 * they have a workqueue of their own, which runs a few at a time: only zeroing
 * waits for its turn there.
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
 * A job.  When @done is called the memory is the caller's again.  @left is
 * empty then, unless the job has failed, as its outcome tells, or was stopped:
 * what is left has not been zeroed, or may not have been.
 */
struct dm_clone_zero_job {
	/* Set by the caller. */
	dm_clone_zeroed_fn done;
	struct dm_clone_span left;
	bool discard;			/* pass a discard down first */
	dm_clone_stop_fn should_stop;	/* of a background job, else NULL */
	struct dm_clone_buffer *buffer;	/* memory to use, or NULL */
	sector_t buffer_sector;		/* what the buffer begins with */

	struct dm_clone_outcome outcome;

	/* The zeroer's. */
	struct dm_clone_zeroer *zeroer;
	struct delayed_work work;
	sector_t discarded;		/* what is before this has been */
};

/* Returns NULL if there's no memory.  @pacer must outlive the zeroer. */
struct dm_clone_zeroer *dm_clone_zeroer_create(struct block_device *dest,
					       struct dm_clone_pacer *pacer);

/* No job may be under way. */
void dm_clone_zeroer_destroy(struct dm_clone_zeroer *zeroer);

/*
 * Is it known that unhydrated regions of the destination hold only zeroes, or
 * what the source has in the same place?  While it is, zeroes of the source are
 * there already, discards write nothing, and no job may be started.
 */
void dm_clone_zeroer_set_dest_zeroed(struct dm_clone_zeroer *zeroer,
				     bool zeroed);
bool dm_clone_zeroer_is_dest_zeroed(struct dm_clone_zeroer *zeroer);

/* Memory in use, in bytes, without the reserve.  Any context. */
unsigned long dm_clone_zeroer_memory(struct dm_clone_zeroer *zeroer);

/* Start a job.  Any context. */
void dm_clone_zeroer_zero(struct dm_clone_zeroer *zeroer,
			  struct dm_clone_zero_job *job);

#endif /* DM_CLONE_ZERO_H */
