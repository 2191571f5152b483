/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * struct clone, for the files that make up a clone and for no others:
 *
 *	dm-clone-target.c	construct, suspend, resume, destroy; limits
 *	map.c			what happens to each bio
 *	commit.c		modes, commits, flushes
 *	store.c			metadata that tables share
 *	control.c		table line, status, statistics, messages
 *
 * The glossary is in Documentation/internals.rst.
 *
 * Locks
 * -----
 *
 *	clone->commit_lock	mutex: one commit, or change of mode, at a time
 *	  metadata lock		rwsem: in dm-clone-metadata.c
 *	reserve_lock		mutex: in zero.c; alone
 *	stores_lock		spinlock: the list of open metadata
 *	clone->lock		spinlock, irqs off: lists of bios, commit state
 *	hydration lock		spinlock, irqs off: in hydration.c
 *	reader lock		spinlock, irqs off: in reader.c
 *	copier lock		spinlock, irqs off: in copier.c
 *	  pacer lock		spinlock, irqs off: in pacer.c
 *	cache lock		spinlock, irqs off: in buffer.c
 *	claims lock		spinlock, irqs off: in claim.c
 *	marks lock		spinlock, irqs off: in marks.c
 *	map lock		seqlock, irqs off: in region-map.c
 *
 * A mutex or rwsem is taken before those below it, and before any spinlock.
 * Only one spinlock is held at a time, except that the pacer's is taken under
 * the copier's.
 *
 * Workers
 * -------
 *
 * A device that takes no more requests blocks whoever submits a bio to it,
 * workers too.  So what may block on one device shares no worker with what does
 * not need that device, not even the rescuer that is left when memory is short:
 *
 *	wq_commit	commit_work and flush_work; they may block on the
 *			metadata device, and on the destination, for as long as
 *			a commit takes
 *	wq_source	deferred_read_work, the copier's reads, reads ahead
 *	wq_dest		deferred_work, the copier's and the reader's writes, and
 *			the engine, which starts no I/O itself
 *	the zeroer's	a work for each job, a few of them at a time: each waits
 *			for the destination, and many would use up wq_dest
 *
 * While the source hangs, writes of whole regions and all I/O to hydrated
 * regions go on, whether or not they had to wait for a claim.  A work only
 * waits for others of its kind: commit_work and flush_work take turns, and so
 * do works that zero with the one reserved buffer.  None is bound to a CPU: a
 * real-time task that spins until its write ends would keep that CPU from it.
 *
 * Bios only wait for claims (owned by bios in flight below us, or by copies),
 * for the copy of the rest of their region, and for flush_work.
 */
#ifndef DM_CLONE_H
#define DM_CLONE_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "claim.h"
#include "compat.h"
#include "hydration.h"
#include "reader.h"
#include "region-map.h"
#include "../dm-clone-metadata.h"

/* Ordered: a device only gets worse, until it is resumed or activated again. */
enum clone_mode {
	CM_WRITE,	/* metadata may be changed */
	CM_READ_ONLY,	/* metadata may not be changed */
	CM_FAIL,	/* metadata cannot even be read */
};

/*
 * The metadata of a device, shared by its tables: when a new table is loaded,
 * the old one is still changing the metadata, and the new one must see that.
 */
struct clone_store {
	struct list_head list;		/* in stores; stores_lock */
	unsigned int nr_users;		/* stores_lock */
	struct mapped_device *md;
	struct block_device *bdev;
	struct dm_table *table;		/* the last user; stores_lock */
	bool live;			/* a table was resumed; stores_lock */
	bool stale;			/* another is live since; stores_lock */
	bool busy;			/* opening or closing; stores_lock */

	struct dm_clone_metadata *cmd;

	enum clone_mode mode;		/* changed by set_mode() only */
	bool destination_failed;	/* see commit.c; commit_lock */
	bool pre_committed;		/* a transaction is open; commit_lock */
	bool no_space;			/* to flush destination; commit_lock */

	/*
	 * Something other than the source's data may have been written to
	 * unhydrated regions of the destination: in this activation, by a copy
	 * or an overwrite that failed, or in an earlier one, unless the
	 * metadata denies it.
	 */
	bool spoilt;
};

enum feature {
	NO_HYDRATION,		/* in the table: see is_hydration_enabled() */
	NO_DISCARD_PASSDOWN,
	HYDRATE_ON_READ,
	ZEROED_DESTINATION,
	NR_FEATURES
};

enum core_arg {
	HYDRATION_THRESHOLD,
	HYDRATION_BATCH_SIZE,
	HYDRATION_RATE,
	HYDRATION_FLOOR,
	HYDRATION_MAX_ERRORS,
	NR_CORE_ARGS
};

struct clone {
	/* What each bio looks at comes first. */
	struct dm_clone_geometry geo;
	bool finished;			/* hydrated and committed: just remap */
	bool read_only;			/* the table is, see commit.c */
	bool discard_passdown;		/* asked for, and the destination can */

	struct dm_target *ti;
	struct dm_clone_metadata *cmd;	/* the store's */
	struct dm_clone_region_map *map; /* the metadata's */
	struct clone_store *store;
	struct dm_clone_hydration *hydration;
	struct dm_clone_reader *reader;	/* NULL without hydrate_on_read */
	struct dm_clone_claims claims;

	struct dm_dev *metadata_dev;
	struct dm_dev *dest_dev;
	struct dm_dev *source_dev;

	sector_t region_size;		/* in sectors */
	char *table_args;		/* after the region size, as given */
	unsigned long features;		/* bit set: asked for in the table */
	unsigned int core_args[NR_CORE_ARGS];
	unsigned long core_args_given;	/* bit set: by table or message */

	/* For stats. */
	unsigned long __percpu *nr_source_reads;
	atomic64_t nr_overwritten;	/* sectors */
	u64 nr_commits;			/* written under commit_lock */

	struct bio_set parts;		/* of reads that have waited */

	struct workqueue_struct *wq_commit; /* see above */
	struct workqueue_struct *wq_source;
	struct workqueue_struct *wq_dest;
	struct work_struct deferred_work;
	struct work_struct deferred_read_work;
	struct work_struct flush_work;
	struct delayed_work commit_work;

	struct mutex commit_lock;	/* see above */

	spinlock_t lock;		/* protects the rest */
	struct bio_list deferred;	/* to be mapped again */
	struct bio_list deferred_reads;	/* the same, and they need the source */
	struct bio_list awaiting_flush;	/* flushes, and FUA writes that ended */
	bool user_changes;		/* see commit.c */
};

/* What is to be done when a bio ends. */
#define IO_WATCHED	BIT(0)	/* tell the engine, which gives way */
#define IO_OVERWRITE	BIT(1)	/* set the regions' bits, release the claim */
#define IO_PARTIAL	BIT(2)	/* the same, once the rest has been copied */
#define IO_FUA		BIT(3)	/* then wait for a flush of the destination */
#define IO_COMMIT	BIT(4)	/* wait for a commit, which includes a flush */
#define IO_PROBE	BIT(5)	/* if it ends well the source works again */

/*
 * Per-bio data.  Not set up for bios that are just remapped, nor for flushes.
 */
struct clone_io {
	struct clone *clone;
	struct dm_clone_fill fill;	/* has the claim */
	bio_end_io_t *end_io;		/* device-mapper's own */
	u64 start;			/* if watched */
	unsigned int flags;
	atomic_t nr_pending;		/* bio, and copy of the rest */
};

static inline struct clone_io *bio_to_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct clone_io));
}

static inline struct bio *fill_to_bio(struct dm_clone_fill *fill)
{
	return dm_bio_from_per_bio_data(container_of(fill, struct clone_io, fill),
					sizeof(struct clone_io));
}

static inline bool has_feature(struct clone *clone, enum feature feature)
{
	return test_bit(feature, &clone->features);
}

static inline const char *clone_name(struct clone *clone)
{
	return dm_device_name(dm_table_get_md(clone->ti->table));
}

static inline enum clone_mode get_mode(struct clone *clone)
{
	return READ_ONCE(clone->store->mode);
}

static inline bool may_change_metadata(struct clone *clone)
{
	return likely(get_mode(clone) == CM_WRITE && !clone->read_only);
}

static inline bool is_finished(struct clone *clone)
{
	return dm_clone_is_hydration_done(clone->map) &&
	       !dm_clone_changed_this_transaction(clone->map);
}

/* A read-only table has to look at each bio. */
static inline bool can_just_remap(struct clone *clone)
{
	return is_finished(clone) && !clone->read_only;
}

/*
 * Do unhydrated regions of the destination hold zeroes, or the source's data?
 */
static inline bool is_dest_zeroed(struct clone *clone)
{
	return has_feature(clone, ZEROED_DESTINATION) && !READ_ONCE(clone->store->spoilt);
}

/*
 *---------------------------------------------------------------
 * map.c
 *---------------------------------------------------------------
 */

/* Set up what bios wait in.  dm_clone_map() is the target's map function. */
void dm_clone_map_init(struct clone *clone);
int dm_clone_map(struct dm_target *ti, struct bio *bio);

/* Map these bios again.  Any context; takes clone->lock. */
void dm_clone_defer_bios(void *context, struct bio_list *bios);

/* See struct clone_store.  Call before the claim is released.  Any context. */
void dm_clone_region_spoilt(void *context);

/*
 *---------------------------------------------------------------
 * commit.c
 *---------------------------------------------------------------
 */

void dm_clone_commit_init(struct clone *clone);

/*
 * Before resume: settle the metadata, or recover it if it has failed.  Sleeps.
 */
void dm_clone_commit_resume(struct clone *clone);

/* After suspend, with no bios in flight: commit what has changed.  Sleeps. */
void dm_clone_commit_suspend(struct clone *clone);

/*
 * User data goes, or went, to a region that is not committed.  If the region is
 * hydrated its bit was set before this.  Any context.
 */
void dm_clone_note_user_change(struct clone *clone);

/* There is something to commit, or now all is hydrated.  Any context. */
void dm_clone_regions_hydrated(void *context);

/*
 * Queue @bio, a flush or a write that has ended, for the worker; its flags say
 * what it needs.  Any context.
 */
void dm_clone_await_flush(struct clone *clone, struct bio *bio);

/*
 *---------------------------------------------------------------
 * store.c
 *---------------------------------------------------------------
 */

/*
 * Get the metadata on @bdev for the table of @ti: open it, unless another table
 * of the same device has done so.  Sleeps.  On failure ti->error says why;
 * -ENOENT: the device is not formatted, and must not be.
 */
int dm_clone_get_store(struct dm_target *ti, sector_t region_size,
		       struct block_device *bdev, bool may_be_formatted,
		       struct clone_store **store);

/* Close the metadata if nobody else uses it.  Sleeps. */
void dm_clone_put_store(struct dm_target *ti, struct clone_store *store);

/*
 * The table of @ti is resumed: from now on its metadata cannot be replaced.
 * Returns -EBUSY if another table of the device, with other metadata, has been
 * live since this one was loaded.
 */
int dm_clone_store_set_live(struct dm_target *ti, struct clone_store *store);

/*
 *---------------------------------------------------------------
 * control.c
 *---------------------------------------------------------------
 */

/* Open the devices of the table line and set up what it says.  May sleep. */
int dm_clone_parse_args(struct clone *clone, struct dm_arg_set *as);

/* Pass on to the engine what the table line and messages have set. */
void dm_clone_apply_core_args(struct clone *clone);

/* Why the device cannot be a source (static storage), or NULL if it can. */
char *dm_clone_source_error(struct clone *clone);

/* These only read counters, and never wait for a device. */
void dm_clone_status(struct dm_target *ti, status_type_t type,
		     unsigned int status_flags, char *result,
		     unsigned int maxlen);
int dm_clone_message(struct dm_target *ti, unsigned int argc, char **argv,
		     char *result, unsigned int maxlen);

#endif /* DM_CLONE_H */
