// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The clone target: a writable device that shows the content of a read-only
 * source at once, and gets it to a destination in the background.
 *
 * This file owns the way of a bio, the commit of the metadata, the mode of the
 * device, and its table, status and messages.  It never touches the disk
 * format (dm-clone-metadata.c) nor decides what to copy next
 * (dm-clone/hydration.c).
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/dm-kcopyd.h>
#include <linux/jiffies.h>
#include <linux/kstrtox.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "dm-clone/buffer.h"
#include "dm-clone/claim.h"
#include "dm-clone/compat.h"
#include "dm-clone/faults.h"
#include "dm-clone/hydration.h"
#include "dm-clone-metadata.h"
#include "dm-clone/read.h"
#include "dm-clone/region-map.h"

#define DM_MSG_PREFIX "clone"

/*
 * Glossary:
 *
 * region: the unit of hydration, a power of two of sectors.  Hydrated means
 *	that the destination has its data, unhydrated that the source has.
 * claim: the right to turn a range of unhydrated regions into hydrated ones
 * run: neighbouring regions that are all hydrated, or all unhydrated
 * piece: the part of a bio that is handled as one.  A bio is cut where what
 *	has to be done changes, and nowhere else.
 * committed: a region whose hydrated bit would be found after a crash
 *
 * The life of a write
 * -------------------
 *
 * To hydrated regions: remapped to the destination.  Nothing else happens,
 * unless one of the regions is not committed; see "Flush" below.
 *
 * To whole unhydrated regions: they are claimed, and the piece is remapped to
 * the destination.  When it ends well the regions are marked hydrated, then
 * the claim is released, then the write is acknowledged.  If there's a crash
 * before the bits are committed then the source's data is found.  If it fails,
 * whatever is in the destination now is not shown.
 *
 * To a part of an unhydrated region: the region is claimed.  The piece is remapped to
 * the destination, and what it leaves of the region is copied meanwhile.  When both
 * have ended well the region is marked hydrated, then the claim is released, then
 * the write is acknowledged.  The two have no sector in common, so it doesn't matter
 * which one ends first; and until both have, it's the source's data that is found
 * after a crash, and by reads.  If either fails the region stays unhydrated, and the
 * write has failed.
 *
 * A write that meets a claim of another waits for it and starts again too.
 *
 * Discards and zeroes
 * -------------------
 *
 * Write-zeroes is a write.  A discard of hydrated regions is passed down or
 * dropped, one of a part of an unhydrated region is dropped.  One of whole
 * unhydrated regions says that they need not be copied:
 *
 *  - With no_discard_passdown it only updates the metadata: the regions are
 *    claimed, marked hydrated, and what the destination holds is what they read
 *    from then on.  Nothing but the metadata changes for a zeroed destination,
 *    either: it's known to read as zeroes.
 *  - A short discard claims its regions, and has them discarded and zeroed in
 *    the destination, which may hold what somebody left there long ago.  Then
 *    they are hydrated, and the discard is over.
 *  - A long one would take long, so it is only remembered (dm-clone/marks.h), and
 *    acknowledged.  The engine zeroes the regions in the background.  Until then
 *    they read as the source's data, and a write to a part of one has the rest
 *    zeroed rather than copied.  A discard promises nothing: it does not matter
 *    that this is forgotten in a crash or with the table, or that regions which
 *    another has claimed meanwhile are left to that other.
 *
 * It is through the claim that zeroing, marking, and a copy of the same region
 * cannot run at once, so none of them can land on a write that came after the
 * discard.
 *
 * There is no secure erase: the source would keep the data.
 *
 * Reads
 * -----
 *
 * To hydrated regions: remapped to the destination.  To unhydrated ones: remapped to
 * the source.  A claim does not matter to reads: what hydrates a region meanwhile
 * overlaps with the read, so the source's data is a good answer.
 *
 * With hydrate_on_read a read of unhydrated regions claims them, and goes the way of
 * dm-clone/read.c.  If another has the claim, and isn't about to take long, the
 * read waits for it once, so that the source isn't read a second time; after that
 * it is remapped, in parts if need be.
 *
 * Flush
 * -----
 *
 * A flush needs a commit only if a crash now would lose something the user
 * wrote: @user_changes says that since the last commit began data has been
 * written to a region that's not committed.  Background copies don't set it,
 * they can be made again.
 *
 * Flushes wait for the commit worker.  All that wait when it starts share one
 * commit, or if none is needed one flush of the destination.  They're not sent
 * down by themselves: if one failed there, and the commit's own succeeded after
 * that, then nobody would know that copies have been lost which the commit is
 * about to declare hydrated.
 *
 * FUA makes a write's own data durable, not what was acknowledged before it.  It is
 * never passed down.  Where the destination has a volatile cache but no FUA, the
 * layers below would flush after the write, and if that failed only this one
 * bio would hear of it: the same trap as above.  (What the destination says of its
 * abilities is no help: md and device-mapper offer FUA whatever is below
 * them.)  So it is taken off the bio, which waits for the worker once it has
 * ended.  If its regions are not committed it needs a commit; if they are, just a
 * flush of the destination, shared with all that wait at that moment, and none
 * if there is no volatile cache.  Once the metadata has failed a FUA write fails
 * where a flush does: see take_fua().
 *
 * Once a clone is finished nothing is left that a commit could declare hydrated,
 * and flushes and FUA are passed down as linear does.  FUA writes that have begun
 * before still wait for the worker, whose flush may fail now without further
 * consequences.  (A flush that overlaps with them and fails may take their data
 * with it unnoticed.  So it may on any disk that has no FUA.)
 *
 * The commit
 * ----------
 *
 *	1. pre_commit puts the bits set by now into the transaction
 *	2. the destination is flushed: the data of these regions is durable
 *	3. commit writes the transaction, its superblock last
 *
 * Crash before the superblock of 3 is on the disk: the previous transaction is
 * found, regions hydrated since then read as the source's.  After: they read as
 * the destination's, where 2 has made their data durable.
 *
 * If 1 or 3 fail the metadata is thrown back to the last transaction and the
 * device goes to read-only mode, or to fail mode if even that doesn't work.  Which
 * one is the last, if 3 fails in the end, has to be settled before anything is
 * written again; see dm_clone_metadata_abort().  Since that outlives the
 * activation, and the machine may have been reset during 3, what is found by the
 * next one has to be settled as well, once, before it's resumed.  If
 * 2 fails, nobody knows which of the writes since the last flush the
 * destination still has, and a later flush that succeeds doesn't tell either.
 * So nothing may be committed any more before the regions' data has been made
 * anew: read-only until the device is activated again.
 *
 * "No space" is another matter: a thin volume says so before it does anything, so
 * nothing has been lost.  (Not so where it is one part of several: device-mapper
 * keeps the last error of a flush that went to all of them, which may hide that
 * another part has lost writes.  Nor where a disk says it of data that it has
 * acknowledged before.  The errno does not tell these apart; the administrator's
 * guide says which destinations this holds for.)  The transaction stays open (while it
 * is, all regions count as not committed) and the next attempt, a second later if
 * nobody asks for it before, flushes the destination and commits it.
 *
 * In both modes the bits in core stay what they are, so everything acknowledged
 * stays readable; I/O to hydrated regions and reads go on; what would change
 * the metadata gets an error, and so does a flush that needs a commit.
 *
 * Read-only tables
 * ----------------
 *
 * A read-only table changes nothing: its devices are opened read-only, nothing is
 * hydrated or committed, and what would change anything gets an error.  (Most
 * kernels let such bios through to us.)  A flush is no change and goes to the
 * destination, for the sake of what an earlier table has written; if that one has
 * left something that is not committed then the flush fails.  The metadata is
 * shared with other tables of the device, and its state follows the one that is
 * resumed.
 *
 * Locks
 * -----
 *
 *	clone->commit_lock	mutex: one commit, or change of mode, at a time
 *	  metadata lock		rwsem: in dm-clone-metadata.c
 *	reserve_lock		mutex: in dm-clone/zero.c; alone
 *	stores_lock		spinlock: the list of open metadata
 *	clone->lock		spinlock, irqs off: lists of bios, commit state
 *	hydration lock		spinlock, irqs off: in dm-clone/hydration.c
 *	reader lock		spinlock, irqs off: in dm-clone/read.c
 *	copier lock		spinlock, irqs off: in dm-clone/copier.c
 *	  pacer lock		spinlock, irqs off: in dm-clone/pacer.c
 *	cache lock		spinlock, irqs off: in dm-clone/buffer.c
 *	claims lock		spinlock, irqs off: in dm-clone/claim.c
 *	marks lock		spinlock, irqs off: in dm-clone/marks.c
 *	map lock		seqlock, irqs off: in dm-clone/region-map.c
 *
 * A mutex or rwsem is taken before those below it, and before any spinlock.
 * Of the spinlocks only one is held at a time, but for the pacer's, which is
 * taken under the copier's.
 *
 * Workers
 * -------
 *
 * A device that takes no more requests blocks whoever submits a bio to it, a worker
 * too.  So what may block on one device shares no worker with what does not need that
 * device, not even the rescuer that is left when there's no memory:
 *
 *	wq_commit	commit_work and flush_work; may block on the metadata device,
 *			and on the destination, for as long as a commit takes
 *	wq_source	deferred_read_work, the copier's reads, reads ahead
 *	wq_dest		deferred_work, the copier's and the reader's writes, and the
 *			engine, which starts no I/O itself
 *	the zeroer's	its works, one a job, a few of them at a time: each waits for
 *			the destination, so any number would leave no worker of wq_dest
 *
 * With a hung source, writes of whole regions and all I/O to hydrated ones go on,
 * waited for a claim or not.  No work waits for another (but for one that zeroes, if
 * there's no memory: for the buffer that another such is using).  None is bound to a
 * CPU: a real-time task that spins for the end of its write would keep that CPU from it.
 *
 * Bios only wait for claims (owned by bios in flight below us, or by copies), for the
 * copy of the rest of their region, and for flush_work.
 */

/* Metadata is committed after this many jiffies, if not before. */
#define COMMIT_PERIOD HZ

/* The metadata's index of regions, and its bits, are limited to 32 bits. */
#define MAX_REGIONS BIT(31)

#define MIN_REGION_SIZE (1 << (12 - SECTOR_SHIFT))
#define MAX_REGION_SIZE (1 << (30 - SECTOR_SHIFT))

/*
 * The longest discard that waits until its regions are zeroed, in sectors: what takes
 * but a moment on a slow disk, too.
 */
#define MAX_SHORT_DISCARD (1U << (20 - SECTOR_SHIFT))

/* The arguments of a table that must be there. */
#define NR_FIXED_ARGS 4

DECLARE_DM_KCOPYD_THROTTLE_WITH_MODULE_PARM(clone_hydration_throttle,
					    "Percentage of the time that copying may take");

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
	struct dm_table *table;		/* the last that has got it; stores_lock */
	bool live;			/* a table with it was resumed; stores_lock */
	bool busy;			/* being opened or closed; stores_lock */

	struct dm_clone_metadata *cmd;

	enum clone_mode mode;		/* changed by set_mode() only */
	bool destination_failed;	/* see "The commit"; commit_lock */
	bool pre_committed;		/* there's a transaction; commit_lock */
	bool no_space;			/* to flush the destination; commit_lock */

	/*
	 * A region that counts as unhydrated may have been written to, with anything
	 * but what the source has there, in this activation (a copy or an overwrite
	 * has failed) or in an earlier one: if that has ended well and knew of none,
	 * the metadata says so.
	 */
	bool spoilt;
};

enum feature {
	NO_HYDRATION,		/* as the table had it; see is_hydration_enabled() */
	NO_DISCARD_PASSDOWN,
	HYDRATE_ON_READ,
	ZEROED_DESTINATION,
	NR_FEATURES
};

static const char * const features[NR_FEATURES] = {
	[NO_HYDRATION] = "no_hydration",
	[NO_DISCARD_PASSDOWN] = "no_discard_passdown",
	[HYDRATE_ON_READ] = "hydrate_on_read",
	[ZEROED_DESTINATION] = "zeroed_destination",
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
	bool finished;			/* all hydrated and committed: just remap */
	bool read_only;			/* the table is, see "Read-only tables" */
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
	char *table_args;		/* behind the region size, as they were given */
	unsigned long features;		/* bit set: asked for in the table */
	unsigned int core_args[NR_CORE_ARGS];
	unsigned long core_args_given;	/* bit set: by table or message */

	/* For stats. */
	u64 __percpu *nr_source_reads;
	atomic64_t nr_overwritten;	/* sectors */
	u64 nr_commits;			/* written under commit_lock */

	struct bio_set parts;		/* of reads that have waited */

	struct workqueue_struct *wq_commit; /* see "Workers" */
	struct workqueue_struct *wq_source;
	struct workqueue_struct *wq_dest;
	struct work_struct deferred_work;
	struct work_struct deferred_read_work;
	struct work_struct flush_work;
	struct delayed_work commit_work;

	struct mutex commit_lock;	/* see "Locks" */

	spinlock_t lock;		/* protects the rest */
	struct bio_list deferred;	/* to be mapped again */
	struct bio_list deferred_reads;	/* the same, and they need the source */
	struct bio_list awaiting_flush;	/* flushes, and FUA writes that ended */
	bool user_changes;		/* see "Flush" */
};

/* What is to be done when a bio ends. */
#define IO_WATCHED	BIT(0)	/* tell the engine, which steps back for the user */
#define IO_OVERWRITE	BIT(1)	/* mark the regions, release the claim */
#define IO_PARTIAL	BIT(2)	/* the same, when the rest of the region is copied */
#define IO_FUA		BIT(3)	/* then wait for a flush of the destination */
#define IO_COMMIT	BIT(4)	/* wait for a commit, which contains one */
#define IO_PROBE	BIT(5)	/* a read of the source, which the engine waits for */

/* Per-bio data.  Not set up for bios that are just remapped, nor for flushes. */
struct clone_io {
	struct clone *clone;
	struct dm_clone_copy copy;	/* has the claim */
	bio_end_io_t *end_io;		/* device-mapper's own */
	u64 start;			/* if watched */
	unsigned int flags;
	atomic_t nr_pending;		/* of the bio, and the copy of the rest */
};

static struct clone_io *bio_to_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct clone_io));
}

static struct bio *copy_to_bio(struct dm_clone_copy *copy)
{
	return dm_bio_from_per_bio_data(container_of(copy, struct clone_io, copy),
					sizeof(struct clone_io));
}

static bool has_feature(struct clone *clone, enum feature feature)
{
	return test_bit(feature, &clone->features);
}

static const char *clone_name(struct clone *clone)
{
	return dm_device_name(dm_table_get_md(clone->ti->table));
}

/*
 * The user's data goes, or went, to a region that is not committed.  That the
 * region is hydrated has been marked before this.  If a commit clears
 * user_changes after it was found set here, then, with the barriers on both
 * sides, that commit sees the mark.
 */
static void note_user_change(struct clone *clone)
{
	unsigned long flags;

	if (dm_clone_fault(FLUSH_FORGETS))
		return;

	smp_mb();	/* pairs with commit_metadata() */
	if (READ_ONCE(clone->user_changes))
		return;

	spin_lock_irqsave(&clone->lock, flags);
	clone->user_changes = true;
	spin_unlock_irqrestore(&clone->lock, flags);
}

/*
 *---------------------------------------------------------------
 * Modes
 *---------------------------------------------------------------
 */

static enum clone_mode get_mode(struct clone *clone)
{
	return READ_ONCE(clone->store->mode);
}

static bool may_change_metadata(struct clone *clone)
{
	return likely(get_mode(clone) == CM_WRITE && !clone->read_only);
}

static void set_mode(struct clone *clone, enum clone_mode mode)
{
	static const char * const names[] = { "write", "read-only", "fail" };

	lockdep_assert_held(&clone->commit_lock);

	if (get_mode(clone) == mode)
		return;

	if (mode == CM_WRITE)
		dm_clone_metadata_set_read_write(clone->cmd);

	/* First the mode, then the stop: see start_hydration(). */
	WRITE_ONCE(clone->store->mode, mode);

	if (mode == CM_WRITE) {
		DMINFO("%s: back in %s mode", clone_name(clone), names[mode]);
	} else {
		dm_clone_hydration_stop(clone->hydration);
		dm_clone_reader_stop(clone->reader);
		dm_clone_metadata_set_read_only(clone->cmd);
		DMERR("%s: switching to %s mode", clone_name(clone), names[mode]);
	}

	dm_table_event(clone->ti->table);
}

/* The transaction is gone, one that was left open included. */
static int abort_transaction(struct clone *clone)
{
	clone->store->pre_committed = false;

	return dm_clone_metadata_abort(clone->cmd);
}

/* The one place to go when something has failed that changes the metadata. */
static void metadata_operation_failed(struct clone *clone, const char *op, int r)
{
	DMERR("%s: metadata operation '%s' failed: %d", clone_name(clone), op, r);

	set_mode(clone, abort_transaction(clone) ? CM_FAIL : CM_READ_ONLY);
}

static void destination_flush_failed(struct clone *clone, int r)
{
	/* As long as that lasts, for hours perhaps, it's said once. */
	if (r == -ENOSPC) {
		if (!clone->store->no_space)
			DMERR("%s: no space to flush the destination, trying again",
			      clone_name(clone));
		clone->store->no_space = true;
		return;
	}

	DMERR("%s: flush of the destination failed: %d; recent writes may be lost",
	      clone_name(clone), r);

	/*
	 * A flush that the user sends may succeed now, for all that is lost.
	 * From here on it fails, as does every other.
	 */
	clone->store->destination_failed = true;
	note_user_change(clone);
	if (get_mode(clone) == CM_WRITE)
		set_mode(clone, CM_READ_ONLY);
}

/*
 *---------------------------------------------------------------
 * Commit
 *---------------------------------------------------------------
 */

/*
 * Make durable what has been written to the destination.  No flush goes there but
 * from here, until the clone is finished; nor does anything with FUA.
 */
static int flush_destination(struct clone *clone)
{
	int r = dm_clone_fault(NO_DEST_FLUSH) ? 0 : blkdev_issue_flush(clone->geo.dest);

	lockdep_assert_held(&clone->commit_lock);

	/* When finished, that's between those that wait and the destination. */
	if (r && !clone->finished)
		destination_flush_failed(clone, r);
	if (!r)
		clone->store->no_space = false;

	return r;
}

/* One transaction, perhaps one that an earlier attempt had to leave open. */
static int commit_once(struct clone *clone)
{
	struct clone_store *store = clone->store;
	int r;

	if (!store->pre_committed) {
		r = dm_clone_metadata_pre_commit(clone->cmd);
		if (r) {
			metadata_operation_failed(clone, "dm_clone_metadata_pre_commit", r);
			return r;
		}
		store->pre_committed = true;
	}

	r = flush_destination(clone);
	if (r)
		return r;

	store->pre_committed = false;
	r = dm_clone_metadata_commit(clone->cmd);
	if (r)
		metadata_operation_failed(clone, "dm_clone_metadata_commit", r);
	else
		WRITE_ONCE(clone->nr_commits, clone->nr_commits + 1);

	return r;
}

/*
 * A metadata device that's short of room takes the changes in several
 * transactions: the blocks that one has replaced are free for the next.
 */
static int commit_round(struct clone *clone)
{
	int r;

	do {
		r = commit_once(clone);
	} while (!r && dm_clone_metadata_has_more(clone->cmd));

	return r;
}

/* What changes from here on need not be in it; somebody else has to see to it. */
static int __commit_metadata(struct clone *clone)
{
	bool was_open = clone->store->pre_committed;
	int r;

	/* A round that was left open has not all of what has changed since. */
	r = commit_round(clone);
	if (!r && was_open && dm_clone_changed_this_transaction(clone->map))
		r = commit_round(clone);

	if (!r && dm_clone_changed_this_transaction(clone->map))
		queue_delayed_work(clone->wq_commit, &clone->commit_work, COMMIT_PERIOD);

	return r;
}

static bool is_finished(struct clone *clone)
{
	return dm_clone_is_hydration_done(clone->map) &&
	       !dm_clone_changed_this_transaction(clone->map);
}

/* A read-only table has to look at each bio. */
static bool can_just_remap(struct clone *clone)
{
	return is_finished(clone) && !clone->read_only;
}

/* All is hydrated and committed: the bitmap has had its day. */
static void check_finished(struct clone *clone)
{
	if (clone->finished || !can_just_remap(clone))
		return;

	dm_clone_release_bitmap(clone->cmd);
	dm_clone_hydration_shrink(clone->hydration);
	WRITE_ONCE(clone->finished, true);
	DMINFO("%s: hydration is complete", clone_name(clone));
	dm_table_event(clone->ti->table);
}

/*
 * Commit what has changed, if anything has; *@committed tells.  On success
 * nothing acknowledged before the call depends on metadata that a crash would
 * lose, and if there was a commit, then its data is durable too.
 */
static int commit_metadata(struct clone *clone, bool *committed)
{
	bool user_changes;
	int r = 0;

	lockdep_assert_held(&clone->commit_lock);

	/*
	 * Data written from here on to a region that is not committed sets
	 * user_changes again, be the region covered by this commit or not.
	 */
	spin_lock_irq(&clone->lock);
	user_changes = clone->user_changes;
	clone->user_changes = false;
	spin_unlock_irq(&clone->lock);
	smp_mb();	/* pairs with note_user_change() */

	*committed = dm_clone_changed_this_transaction(clone->map);
	if (*committed)
		r = may_change_metadata(clone) ? __commit_metadata(clone) : -EIO;

	if (r && user_changes)
		note_user_change(clone);
	if (!r)
		check_finished(clone);

	return r;
}

/* A commit has ended with @r; it may be that nobody asks for the next one. */
static void try_again_after(struct clone *clone, int r)
{
	if (r == -ENOSPC)
		queue_delayed_work(clone->wq_commit, &clone->commit_work,
				   COMMIT_PERIOD);
}

static void do_commit(struct work_struct *work)
{
	struct clone *clone =
		container_of(to_delayed_work(work), struct clone, commit_work);
	bool committed;

	mutex_lock(&clone->commit_lock);
	if (may_change_metadata(clone))
		try_again_after(clone, commit_metadata(clone, &committed));
	mutex_unlock(&clone->commit_lock);
}

/* There's something to be committed, or now all is hydrated.  Any context. */
static void regions_hydrated(void *context)
{
	struct clone *clone = context;

	if (dm_clone_is_hydration_done(clone->map))
		mod_delayed_work(clone->wq_commit, &clone->commit_work, 0);
	else
		queue_delayed_work(clone->wq_commit, &clone->commit_work,
				   COMMIT_PERIOD);
}

/*
 * Have @bio wait for the worker; its flags tell for what.  The work is queued under
 * the lock: once it has @bio, the clone may go away.
 */
static void await_flush(struct clone *clone, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&clone->lock, flags);
	bio_list_add(&clone->awaiting_flush, bio);
	queue_work(clone->wq_commit, &clone->flush_work);
	spin_unlock_irqrestore(&clone->lock, flags);
}

/*
 * Does any of @bios depend on a commit?  A FUA write only if it went to regions that
 * were not committed; it has nothing to do with what others have changed.
 */
static bool needs_commit(struct clone *clone, const struct bio_list *bios)
{
	bool user_changes = READ_ONCE(clone->user_changes);
	bool all_flush = !may_change_metadata(clone);	/* see take_fua() */
	struct bio *bio;

	bio_list_for_each(bio, bios) {
		if (user_changes && (all_flush || (bio->bi_opf & REQ_PREFLUSH)))
			return true;
		if (!(bio->bi_opf & REQ_PREFLUSH) &&
		    (bio_to_io(bio)->flags & IO_COMMIT))
			return true;
	}

	return false;
}

/* Make durable what @bios want to be. */
static int make_durable(struct clone *clone, const struct bio_list *bios)
{
	bool committed = false;
	int r = 0;

	/*
	 * An earlier flush has failed, and whoever asked for it knows.  The
	 * destination may have lost the writes of others with it, and says
	 * nothing of them any more.  So this one may not succeed, even if
	 * there is nothing to be committed.
	 */
	if (clone->store->destination_failed)
		return -EIO;

	if (needs_commit(clone, bios))
		r = commit_metadata(clone, &committed);
	if (!r && !committed)
		r = flush_destination(clone);

	return r;
}

static void do_flushes(struct work_struct *work)
{
	struct clone *clone = container_of(work, struct clone, flush_work);
	struct bio_list bios;
	struct bio *bio;
	int r;

	mutex_lock(&clone->commit_lock);

	spin_lock_irq(&clone->lock);
	bios = clone->awaiting_flush;
	bio_list_init(&clone->awaiting_flush);
	spin_unlock_irq(&clone->lock);

	r = bio_list_empty(&bios) ? 0 : make_durable(clone, &bios);
	try_again_after(clone, r);

	mutex_unlock(&clone->commit_lock);

	while ((bio = bio_list_pop(&bios))) {
		if (r)
			bio->bi_status = errno_to_blk_status(r);

		/* A write has been through bio_endio() when it ended below. */
		if (bio->bi_opf & REQ_PREFLUSH)
			bio_endio(bio);
		else
			bio->bi_end_io(bio);
	}
}

/* Flush bios carry no data: device-mapper sends the data of one later. */
static int map_flush(struct clone *clone, struct bio *bio)
{
	bio_set_dev(bio, clone->geo.dest);

	if (READ_ONCE(clone->finished))
		return DM_MAPIO_REMAPPED;

	await_flush(clone, bio);
	return DM_MAPIO_SUBMITTED;
}

/*
 *---------------------------------------------------------------
 * Bios and regions.  The sectors of bios are relative to the target's start
 * from clone_map() on, as those of the devices below are.
 *---------------------------------------------------------------
 */

/* The first region that @bio touches. */
static unsigned long first_region(struct clone *clone, struct bio *bio)
{
	return bio->bi_iter.bi_sector >> clone->geo.region_shift;
}

/* The region behind the last one that @bio touches. */
static unsigned long end_region(struct clone *clone, struct bio *bio)
{
	return ((bio_end_sector(bio) - 1) >> clone->geo.region_shift) + 1;
}

static bool starts_at_region(struct clone *clone, struct bio *bio)
{
	return !(bio->bi_iter.bi_sector & (clone->region_size - 1));
}

/* The region behind the last one that @bio reaches the end of. */
static unsigned long end_of_whole_regions(struct clone *clone, struct bio *bio)
{
	sector_t end = bio_end_sector(bio);

	if (end == clone->geo.size)
		return clone->geo.nr_regions;

	return end >> clone->geo.region_shift;
}

/* Does @bio cover all regions that it touches from end to end? */
static bool covers_whole_regions(struct clone *clone, struct bio *bio)
{
	return starts_at_region(clone, bio) &&
	       end_of_whole_regions(clone, bio) == end_region(clone, bio);
}

/* Let @bio end with region @end - 1; device-mapper sends the rest again. */
static void cut_bio(struct clone *clone, struct bio *bio, unsigned long end)
{
	sector_t sector = dm_clone_range_end(&clone->geo, end);

	if (sector < bio_end_sector(bio))
		dm_accept_partial_bio(bio, sector - bio->bi_iter.bi_sector);
}

/*
 *---------------------------------------------------------------
 * Bios that wait for a claim
 *---------------------------------------------------------------
 */

/* These bios are to be mapped again.  Any context; the lock as above. */
static void defer_bios(void *context, struct bio_list *bios)
{
	struct clone *clone = context;
	unsigned long flags;

	if (bio_list_empty(bios))
		return;

	spin_lock_irqsave(&clone->lock, flags);
	bio_list_merge(&clone->deferred, bios);
	queue_work(clone->wq_dest, &clone->deferred_work);
	spin_unlock_irqrestore(&clone->lock, flags);
}

static void release_claim(struct clone *clone, struct clone_io *io)
{
	dm_clone_hydration_release(clone->hydration, &io->copy.claim);
}

/*
 *---------------------------------------------------------------
 * Changing regions
 *---------------------------------------------------------------
 */

/* See struct clone_store.  Before the claim is released; any context. */
static void region_spoilt(void *context)
{
	struct clone *clone = context;

	WRITE_ONCE(clone->store->spoilt, true);
	dm_clone_hydration_set_dest_zeroed(clone->hydration, false);
}

static void mark_hydrated(struct clone *clone, const struct dm_clone_claim *claim)
{
	if (dm_clone_set_range_hydrated(clone->map, claim->begin,
					claim->end - claim->begin))
		regions_hydrated(clone);
}

/*
 * Is @bio a write-zeroes that the destination doesn't do after all?  Then nothing has
 * been done, and whoever has sent it makes good for it with writes: it's no error of
 * the destination, and has spoilt nothing.
 */
static bool was_refused(struct clone *clone, struct bio *bio)
{
	if (bio_op(bio) != REQ_OP_WRITE_ZEROES)
		return false;

	/* What SCSI says, and then it takes the offer back. */
	if (bio->bi_status == BLK_STS_TARGET)
		return !bdev_write_zeroes_sectors(clone->geo.dest);

	return bio->bi_status == BLK_STS_NOTSUPP;
}

/* A write that covers the regions of its claim has ended. */
static void end_overwrite(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	struct dm_clone_claim *claim = &io->copy.claim;

	if (!bio->bi_status) {
		mark_hydrated(clone, claim);
		note_user_change(clone);
		dm_clone_hydration_works(clone->hydration, false);
		atomic64_add(dm_clone_range_end(&clone->geo, claim->end) -
			     dm_clone_region_start(&clone->geo, claim->begin),
			     &clone->nr_overwritten);
	}

	if (bio->bi_status && !was_refused(clone, bio))
		region_spoilt(clone);
	release_claim(clone, io);
}

/* A write to a part of a region has ended, and so has the copy of the rest. */
static void end_partial(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	bio->bi_status = dm_clone_copy_rest_end(&io->copy, bio->bi_status,
						was_refused(clone, bio));
	if (!bio->bi_status) {
		note_user_change(clone);
		atomic64_add(io->copy.nr_written, &clone->nr_overwritten);
	}

	release_claim(clone, io);
}

/* bio_endio() has done its part of the work: there's only device-mapper to be told. */
static void end_bio(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	if ((io->flags & IO_FUA) && !bio->bi_status && !dm_clone_fault(FUA_FORGETS))
		await_flush(clone, bio);
	else
		bio->bi_end_io(bio);
}

/* Either of the two; what they have left behind is seen by who comes last. */
static void put_partial(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	if (!atomic_dec_and_test(&io->nr_pending))
		return;

	end_partial(clone, io, bio);
	end_bio(clone, io, bio);
}

static void copied_rest(struct dm_clone_copy *copy, blk_status_t status)
{
	struct clone_io *io = container_of(copy, struct clone_io, copy);

	put_partial(io->clone, io, copy_to_bio(copy));
}

static void clone_endio(struct bio *bio)
{
	struct clone_io *io = bio_to_io(bio);
	struct clone *clone = io->clone;

	bio->bi_end_io = io->end_io;

	if (io->flags & IO_WATCHED)
		dm_clone_hydration_user_end(clone->hydration, io->start);
	if ((io->flags & IO_PROBE) && !bio->bi_status)
		dm_clone_hydration_works(clone->hydration, true);
	if (io->flags & IO_PARTIAL) {
		if (dm_clone_fault(HALF_WAY))
			mark_hydrated(clone, &io->copy.claim);
		put_partial(clone, io, bio);
		return;
	}

	if (io->flags & IO_OVERWRITE)
		end_overwrite(clone, io, bio);
	end_bio(clone, io, bio);
}

/* @flags: what to do when @bio ends. */
static void watch_end(struct clone *clone, struct clone_io *io, struct bio *bio,
		      unsigned int flags)
{
	io->clone = clone;
	io->flags = flags;
	io->end_io = bio->bi_end_io;
	bio->bi_end_io = clone_endio;
	if (flags & IO_WATCHED)
		io->start = dm_clone_hydration_user_start(clone->hydration);
}

static unsigned int watched(struct clone *clone)
{
	return dm_clone_hydration_is_watching(clone->hydration) ? IO_WATCHED : 0;
}

/* Send @bio to @bdev.  @flags: what to do when it ends, besides IO_WATCHED. */
static int remap(struct clone *clone, struct bio *bio, struct block_device *bdev,
		 unsigned int flags)
{
	bio_set_dev(bio, bdev);

	flags |= watched(clone);
	if (flags)
		watch_end(clone, bio_to_io(bio), bio, flags);

	return DM_MAPIO_REMAPPED;
}

static bool is_discard(struct bio *bio)
{
	return bio_op(bio) == REQ_OP_DISCARD;
}

/*
 * Take FUA off @bio, which is about to be sent to the destination.  Returns what it
 * is to wait for instead when it has ended.  @committed: its regions are.
 *
 * A flush with data comes as an empty flush and then as a write, which device-mapper
 * sends even if the flush has failed; that error is lost.  A flush that cannot commit
 * has made the mode worse before it ends, so the write that comes after it answers
 * for both: outside of write mode FUA writes wait for what flushes wait for.
 */
static unsigned int take_fua(struct clone *clone, struct bio *bio, bool committed)
{
	if (!(bio->bi_opf & REQ_FUA))
		return 0;

	if (!dm_clone_fault(IMPLIED_FLUSH))
		bio->bi_opf &= ~REQ_FUA;
	if (!committed)
		return IO_FUA | IO_COMMIT;
	if (!may_change_metadata(clone))
		return IO_FUA;

	return !dm_clone_fault(IMPLIED_FLUSH) && bdev_write_cache(clone->geo.dest) ?
	       IO_FUA : 0;
}

/* Map a piece that changes the regions [begin, end), all of which are hydrated. */
static int map_hydrated_change(struct clone *clone, struct bio *bio,
			       unsigned long begin, unsigned long end)
{
	bool committed = dm_clone_is_range_committed(clone->map, begin, end - begin);

	if (!committed)
		note_user_change(clone);

	if (is_discard(bio) && !clone->discard_passdown) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}

	return remap(clone, bio, clone->geo.dest, take_fua(clone, bio, committed));
}

/* Discarded regions are hydrated, or were to be: the bio is over. */
static void end_discard(struct clone *clone, struct clone_io *io, struct bio *bio,
			blk_status_t status)
{
	if (!status)
		note_user_change(clone);
	release_claim(clone, io);

	bio->bi_status = status;
	bio_endio(bio);
}

static void zeroed_for_bio(struct dm_clone_copy *copy, blk_status_t status)
{
	struct clone_io *io = container_of(copy, struct clone_io, copy);

	end_discard(io->clone, io, copy_to_bio(copy), status);
}

/* The regions of a discard count as hydrated as they are. */
static void keep_discarded(struct clone *clone, struct clone_io *io, struct bio *bio,
			   enum dm_clone_means means)
{
	const struct dm_clone_outcome good = { .status = BLK_STS_OK };

	dm_clone_hydration_begin(clone->hydration, &io->copy.claim);
	dm_clone_hydration_end(clone->hydration, &io->copy.claim, means, &good);
	end_discard(clone, io, bio, BLK_STS_OK);
}

/* Have the whole regions [begin, end) of @bio zeroed later: a discard that is over. */
static void remember_discard(struct clone *clone, struct bio *bio,
			     unsigned long begin, unsigned long end)
{
	/* If there's no memory to remember it with, then not. */
	dm_clone_hydration_zero_later(clone->hydration, begin, end);
	bio_endio(bio);
}

/* The regions of a claim that was made for no more than a moment. */
static void remember_claimed(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	unsigned long begin = io->copy.claim.begin, end = io->copy.claim.end;

	/* First: zeroing leaves to others what they have claimed. */
	release_claim(clone, io);
	remember_discard(clone, bio, begin, end);
}

/*
 * A discard of whole regions that owns the claim.  It may be a long one: the destination
 * was zeroed when that was looked at, and then a write failed for which this has waited.
 */
static void discard_claimed(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	if (has_feature(clone, NO_DISCARD_PASSDOWN))
		keep_discarded(clone, io, bio, DM_CLONE_BY_KEEPING);
	else if (dm_clone_hydration_is_dest_zeroed(clone->hydration))
		keep_discarded(clone, io, bio, DM_CLONE_BY_ZEROING);
	else if (bio_sectors(bio) > MAX_SHORT_DISCARD)
		remember_claimed(clone, io, bio);
	else
		dm_clone_zero_regions(clone->hydration, &io->copy,
				      clone->discard_passdown, zeroed_for_bio);
}

/* Does a discard of this length take more than a moment? */
static bool is_long_discard(struct clone *clone, struct bio *bio)
{
	return is_discard(bio) && bio_sectors(bio) > MAX_SHORT_DISCARD &&
	       !has_feature(clone, NO_DISCARD_PASSDOWN) &&
	       !dm_clone_hydration_is_dest_zeroed(clone->hydration);
}

/* Map a piece of a long discard, of the whole regions [begin, end). */
static int map_long_discard(struct clone *clone, struct bio *bio,
			    unsigned long begin, unsigned long end)
{
	if (!may_change_metadata(clone))
		return DM_MAPIO_KILL;

	remember_discard(clone, bio, begin, end);

	return DM_MAPIO_SUBMITTED;
}

/* Map a piece that changes regions, whole ones or a part of one; it owns the claim. */
static int map_claimed_change(struct clone *clone, struct clone_io *io,
			      struct bio *bio, bool whole)
{
	struct dm_clone_copy *copy = &io->copy;
	unsigned int flags = watched(clone);

	if (is_discard(bio)) {
		discard_claimed(clone, io, bio);
		return DM_MAPIO_SUBMITTED;
	}

	flags |= take_fua(clone, bio, false);
	if (dm_clone_fault(MARK_FIRST))
		mark_hydrated(clone, &copy->claim);

	bio_set_dev(bio, clone->geo.dest);
	if (whole) {
		watch_end(clone, io, bio, flags | IO_OVERWRITE);
	} else {
		watch_end(clone, io, bio, flags | IO_PARTIAL);
		atomic_set(&io->nr_pending, 2);
		dm_clone_copy_rest_start(clone->hydration, copy, bio->bi_iter.bi_sector,
					 bio_sectors(bio), copied_rest);
	}

	return DM_MAPIO_REMAPPED;
}

/* Map a piece that changes the regions [begin, end): @whole ones, or a part of one. */
static int map_unhydrated_change(struct clone *clone, struct bio *bio,
				 unsigned long begin, unsigned long end, bool whole)
{
	struct clone_io *io;

	if (is_discard(bio) && !whole) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}

	if (!may_change_metadata(clone))
		return DM_MAPIO_KILL;

	io = bio_to_io(bio);
	io->clone = clone;
	if (!dm_clone_claim_or_wait(&clone->claims, &io->copy.claim, begin, end, bio)) {
		dm_clone_hydration_hurry(clone->hydration);
		return DM_MAPIO_SUBMITTED;
	}

	/* Another may have been here between the look and the claim. */
	if (dm_clone_is_range_hydrated(clone->map, begin, end - begin)) {
		release_claim(clone, io);
		return map_hydrated_change(clone, bio, begin, end);
	}

	return map_claimed_change(clone, io, bio, whole);
}

/*
 * Make a piece of a bio that changes regions, and map it.  The piece is one of: to
 * hydrated regions only; to a part of one region; to whole regions, and those
 * were unhydrated a moment ago.
 */
static int map_change(struct clone *clone, struct bio *bio)
{
	unsigned long begin = first_region(clone, bio);
	unsigned long whole_end = end_of_whole_regions(clone, bio);
	bool whole, is_long = is_long_discard(clone, bio);
	unsigned long end;

	if (unlikely(clone->read_only))
		return DM_MAPIO_KILL;

	if (dm_clone_find_run(clone->map, begin, end_region(clone, bio), &end)) {
		cut_bio(clone, bio, end);
		return map_hydrated_change(clone, bio, begin, end);
	}

	whole = starts_at_region(clone, bio) && whole_end > begin;
	end = whole ? min(end, whole_end) : begin + 1;
	cut_bio(clone, bio, end);
	if (is_long && whole)
		return map_long_discard(clone, bio, begin, end);

	return map_unhydrated_change(clone, bio, begin, end, whole);
}

/*
 * Map a piece that has waited.  What was found out about the regions when it was
 * cut is forgotten; that they are a part of one, or whole ones, is all that counts.
 */
static int map_cut_change(struct clone *clone, struct bio *bio)
{
	unsigned long begin = first_region(clone, bio);
	unsigned long end = end_region(clone, bio);

	if (dm_clone_is_range_hydrated(clone->map, begin, end - begin))
		return map_hydrated_change(clone, bio, begin, end);

	return map_unhydrated_change(clone, bio, begin, end,
				     covers_whole_regions(clone, bio));
}

/*
 *---------------------------------------------------------------
 * Map
 *---------------------------------------------------------------
 */

/* To where the regions are that @bio reads; they are hydrated or all not. */
static int remap_read(struct clone *clone, struct bio *bio, bool hydrated)
{
	if (hydrated)
		return remap(clone, bio, clone->geo.dest, 0);

	this_cpu_inc(*clone->nr_source_reads);
	return remap(clone, bio, clone->geo.source,
		     dm_clone_hydration_awaits_source(clone->hydration) ? IO_PROBE : 0);
}

/*
 * Map a piece of a read.  If regions of an unhydrated run are hydrated after this
 * look, then what hydrates them overlaps with this read: the source's data will do.
 */
static int map_plain_read(struct clone *clone, struct bio *bio)
{
	unsigned long end;
	bool hydrated = dm_clone_find_run(clone->map, first_region(clone, bio),
					  end_region(clone, bio), &end);

	cut_bio(clone, bio, end);
	return remap_read(clone, bio, hydrated);
}

/*
 * Map a read that has waited for a claim.  It's too late to cut it, so it goes on in
 * parts if its regions are not of one kind by now.  Only from the work: below
 * submit_bio_noacct() a part would not be sent before the next one is allocated.
 */
static int map_uncut_read(struct clone *clone, struct bio *bio)
{
	unsigned long end;
	struct bio *part;
	bool hydrated;
	sector_t sector;

	for (;;) {
		hydrated = dm_clone_find_run(clone->map, first_region(clone, bio),
					     end_region(clone, bio), &end);
		sector = dm_clone_range_end(&clone->geo, end);
		if (sector >= bio_end_sector(bio))
			return remap_read(clone, bio, hydrated);

		/* What is split off has no per-bio data: just send it. */
		part = bio_split(bio, sector - bio->bi_iter.bi_sector, GFP_NOIO,
				 &clone->parts);
		bio_chain(part, bio);
		bio_set_dev(part, hydrated ? clone->geo.dest : clone->geo.source);
		if (!hydrated)
			this_cpu_inc(*clone->nr_source_reads);
		dm_submit_bio_remap(bio, part);
	}
}

/*
 * Map a read of unhydrated regions, up to @end, so that it hydrates them.  What others
 * have hydrated by now makes that run shorter each time, so this comes to an end.
 */
static int map_hydrating_read(struct clone *clone, struct bio *bio, unsigned long end)
{
	unsigned long begin = first_region(clone, bio), taken_until;
	struct dm_clone_read *read;

	do {
		switch (dm_clone_reader_prepare(clone->reader, begin, end, &read,
						&taken_until)) {
		case DM_CLONE_READ_READY:
			cut_bio(clone, bio, dm_clone_read_end(read));
			this_cpu_inc(*clone->nr_source_reads);
			dm_clone_reader_submit(read, bio);
			return DM_MAPIO_SUBMITTED;
		case DM_CLONE_READ_TAKEN:
			end = min(end, taken_until);
			cut_bio(clone, bio, end);
			if (!dm_clone_claim_wait(&clone->claims, begin, bio))
				return map_plain_read(clone, bio);
			dm_clone_hydration_hurry(clone->hydration);
			return DM_MAPIO_SUBMITTED;
		case DM_CLONE_READ_NOT_NOW:
			return map_plain_read(clone, bio);
		case DM_CLONE_READ_CHANGED:
			break;
		}
	} while (!dm_clone_find_run(clone->map, begin, end, &end));

	return map_plain_read(clone, bio);
}

static int map_read(struct clone *clone, struct bio *bio)
{
	unsigned long end;

	if (clone->reader && may_change_metadata(clone) &&
	    !dm_clone_find_run(clone->map, first_region(clone, bio),
			       end_region(clone, bio), &end))
		return map_hydrating_read(clone, bio, end);

	return map_plain_read(clone, bio);
}

/*
 *---------------------------------------------------------------
 * Bios that have waited for a claim
 *---------------------------------------------------------------
 */

static struct bio_list take_deferred(struct clone *clone, struct bio_list *list)
{
	struct bio_list bios;

	spin_lock_irq(&clone->lock);
	bios = *list;
	bio_list_init(list);
	spin_unlock_irq(&clone->lock);

	return bios;
}

/*
 * @r: as clone_map() returns it.  What a worker sends is charged to the cgroup that it
 * came from, and no device may see it otherwise: hence dm_submit_bio_remap(), here and
 * wherever else a bio of the user is sent that clone_map() has kept.
 */
static void submit_mapped(struct bio *bio, int r)
{
	if (r == DM_MAPIO_REMAPPED)
		dm_submit_bio_remap(bio, NULL);
	else if (r == DM_MAPIO_KILL)
		bio_io_error(bio);
	cond_resched();
}

/* A read, of which some at least is in the source, has to wait for that alone. */
static void defer_read(struct clone *clone, struct bio *bio)
{
	spin_lock_irq(&clone->lock);
	bio_list_add(&clone->deferred_reads, bio);
	queue_work(clone->wq_source, &clone->deferred_read_work);
	spin_unlock_irq(&clone->lock);
}

static bool is_hydrated(struct clone *clone, struct bio *bio)
{
	unsigned long begin = first_region(clone, bio);

	return dm_clone_is_range_hydrated(clone->map, begin,
					  end_region(clone, bio) - begin);
}

/* Nothing here blocks on the source: what a change needs of it the copier reads. */
static void do_deferred(struct work_struct *work)
{
	struct clone *clone = container_of(work, struct clone, deferred_work);
	struct bio_list bios = take_deferred(clone, &clone->deferred);
	struct bio *bio;

	while ((bio = bio_list_pop(&bios))) {
		if (bio_op(bio) != REQ_OP_READ)
			submit_mapped(bio, map_cut_change(clone, bio));
		else if (is_hydrated(clone, bio))
			submit_mapped(bio, remap_read(clone, bio, true));
		else
			defer_read(clone, bio);
	}
}

static void do_deferred_reads(struct work_struct *work)
{
	struct clone *clone = container_of(work, struct clone, deferred_read_work);
	struct bio_list bios = take_deferred(clone, &clone->deferred_reads);
	struct bio *bio;

	while ((bio = bio_list_pop(&bios)))
		submit_mapped(bio, map_uncut_read(clone, bio));
}

static int clone_map(struct dm_target *ti, struct bio *bio)
{
	struct clone *clone = ti->private;

	if (unlikely(bio->bi_opf & REQ_PREFLUSH))
		return map_flush(clone, bio);

	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);

	if (READ_ONCE(clone->finished) && likely(!is_discard(bio))) {
		bio_set_dev(bio, clone->geo.dest);
		return DM_MAPIO_REMAPPED;
	}

	if (bio_op(bio) == REQ_OP_READ)
		return map_read(clone, bio);

	return map_change(clone, bio);
}

/*
 *---------------------------------------------------------------
 * Stores: metadata that the tables of one device share
 *---------------------------------------------------------------
 */

/*
 * To open and to close metadata takes I/O, and a device that hangs makes it take for
 * ever.  So it's done without the lock.  Meanwhile the store is in the list, and busy:
 * whoever names the same device waits; nobody else does.
 *
 *  - Two tables open the same device at once: under the lock the first enters a store,
 *    which the second finds, busy, and waits for.  There are never two for a device.
 *  - Opening fails: the store is taken off the list under the lock before it's freed.
 *    Whoever has waited keeps no pointer to it, but looks again, finds none, and
 *    makes its own attempt.
 *  - The last table that uses a store is destroyed: it's busy from the moment that nobody
 *    uses it until the metadata is closed, so whoever comes meanwhile reads what closing
 *    has left.  Nobody can start using it: only a store that is not busy gets users.
 *  - A store that isn't busy has users, whose tables keep the mapped device.  Of a busy
 *    one, @md may be gone, so it is compared with nothing.
 */
static LIST_HEAD(stores);
static DEFINE_SPINLOCK(stores_lock);
static DECLARE_WAIT_QUEUE_HEAD(stores_wait);	/* one is not busy any more */

static struct clone_store *__find_store(struct block_device *bdev)
{
	struct clone_store *store;

	lockdep_assert_held(&stores_lock);

	list_for_each_entry(store, &stores, list)
		if (store->bdev == bdev)
			return store;

	return NULL;
}

static bool __is_busy(struct block_device *bdev)
{
	struct clone_store *store = __find_store(bdev);

	return store && store->busy;
}

/*
 * Does @ti want another metadata device than the live table has?  It may be the
 * same disk by another name.  The live table goes on changing it until it is
 * suspended, and has changes that are not on it; the new table would not see
 * them, and read the source where the user has written.
 */
static bool __replaces_live_store(struct dm_target *ti)
{
	struct clone_store *store;

	lockdep_assert_held(&stores_lock);

	list_for_each_entry(store, &stores, list)
		if (!store->busy && store->live && store->table != ti->table &&
		    store->md == dm_table_get_md(ti->table))
			return true;

	return false;
}

/* May the table of @ti use a store that is open already? */
static int __check_store(struct dm_target *ti, sector_t region_size,
			 struct clone_store *store)
{
	lockdep_assert_held(&stores_lock);

	if (store->md != dm_table_get_md(ti->table)) {
		ti->error = "Metadata device is in use by another clone";
		return -EBUSY;
	}

	if (store->table == ti->table) {
		ti->error = "Metadata device is used twice in this table";
		return -EINVAL;
	}

	if (!dm_clone_metadata_matches(store->cmd, ti->len, region_size)) {
		ti->error = "Region size or target size does not match the metadata";
		return -EINVAL;
	}

	return 0;
}

/*
 * Have @ti use the store of @bdev, or else enter @new, which is yet to be opened.
 * Sleeps, and drops the lock for that.
 */
static struct clone_store *__use_store(struct dm_target *ti, sector_t region_size,
				       struct block_device *bdev,
				       struct clone_store *new)
{
	struct clone_store *store;
	int r;

	wait_event_lock_irq(stores_wait, !__is_busy(bdev), stores_lock);

	store = __find_store(bdev);
	if (store) {
		r = __check_store(ti, region_size, store);
		if (r)
			return ERR_PTR(r);
	} else {
		if (__replaces_live_store(ti)) {
			ti->error = "Metadata device of a live clone cannot be replaced";
			return ERR_PTR(-EBUSY);
		}
		store = new;
		list_add(&store->list, &stores);
	}

	store->nr_users++;
	store->table = ti->table;

	return store;
}

/* Whoever has waited for it looks again. */
static void end_busy(struct clone_store *store, bool gone)
{
	spin_lock_irq(&stores_lock);
	store->busy = false;
	if (gone)
		list_del(&store->list);
	spin_unlock_irq(&stores_lock);

	wake_up_all(&stores_wait);
	if (gone)
		kfree(store);
}

static struct clone_store *alloc_store(struct dm_target *ti, struct block_device *bdev)
{
	struct clone_store *store = kzalloc(sizeof(*store), GFP_KERNEL);

	if (!store)
		return NULL;

	store->md = dm_table_get_md(ti->table);
	store->bdev = bdev;
	store->mode = CM_WRITE;
	store->busy = true;

	return store;
}

static struct clone_store *open_store(struct dm_target *ti, sector_t region_size,
				      struct clone_store *store, bool may_be_formatted)
{
	store->cmd = dm_clone_metadata_open(store->bdev, ti->len, region_size,
					    may_be_formatted, &ti->error);
	if (IS_ERR(store->cmd)) {
		int r = PTR_ERR(store->cmd);

		end_busy(store, true);
		return ERR_PTR(r);
	}

	store->spoilt = !dm_clone_metadata_is_new(store->cmd) &&
			!dm_clone_metadata_found_dest_zeroed(store->cmd);
	end_busy(store, false);

	return store;
}

static struct clone_store *get_store(struct dm_target *ti, sector_t region_size,
				     struct block_device *bdev, bool may_be_formatted)
{
	struct clone_store *new = alloc_store(ti, bdev), *store;

	if (!new) {
		ti->error = "Out of memory";
		return ERR_PTR(-ENOMEM);
	}

	spin_lock_irq(&stores_lock);
	store = __use_store(ti, region_size, bdev, new);
	spin_unlock_irq(&stores_lock);

	if (store == new)
		return open_store(ti, region_size, store, may_be_formatted);

	kfree(new);
	return store;
}

static void put_store(struct dm_target *ti, struct clone_store *store)
{
	bool last;

	spin_lock_irq(&stores_lock);
	if (store->table == ti->table)
		store->table = NULL;
	last = !--store->nr_users;
	store->busy = last;
	spin_unlock_irq(&stores_lock);

	if (last) {
		dm_clone_metadata_close(store->cmd);
		end_busy(store, true);
	}
}

/*
 *---------------------------------------------------------------
 * Constructor: parsing
 *---------------------------------------------------------------
 */

/*
 * Every number of the table, and of messages, comes through here.  (The
 * parsing helpers of device-mapper let numbers wrap round.)
 */
static int parse_number(const char *arg, unsigned int min, unsigned int max,
			unsigned int *nr)
{
	if (!arg || kstrtouint(arg, 10, nr) || *nr < min || *nr > max)
		return -EINVAL;

	return 0;
}

static int parse_device(struct clone *clone, struct dm_arg_set *as,
			typeof(DM_CLONE_READ) mode, struct dm_dev **dev,
			char *error)
{
	int r = dm_get_device(clone->ti, dm_shift_arg(as), mode, dev);

	if (r) {
		*dev = NULL;
		clone->ti->error = error;
	}

	return r;
}

/* The kernel doesn't keep us from writing to a device that is read-only. */
static int parse_writable_device(struct clone *clone, struct dm_arg_set *as,
				 struct dm_dev **dev, char *error, char *read_only_error)
{
	int r = parse_device(clone, as,
			     DM_CLONE_READ | (clone->read_only ? 0 : DM_CLONE_WRITE),
			     dev, error);

	if (r || clone->read_only || !bdev_read_only((*dev)->bdev))
		return r;

	DMERR("%s: %pg is read-only, but the table is not", clone_name(clone),
	      (*dev)->bdev);
	clone->ti->error = read_only_error;

	return -EROFS;
}

static int parse_metadata_dev(struct clone *clone, struct dm_arg_set *as)
{
	return parse_writable_device(clone, as, &clone->metadata_dev,
				     "Error opening metadata device",
				     "Metadata device is read-only");
}

static int parse_dest_dev(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	int r;

	r = parse_writable_device(clone, as, &clone->dest_dev,
				  "Error opening destination device",
				  "Destination device is read-only");
	if (r)
		return r;

	clone->geo.dest = clone->dest_dev->bdev;
	if (bdev_nr_sectors(clone->geo.dest) < ti->len) {
		ti->error = "Destination device is smaller than the target";
		return -EINVAL;
	}

	if (bdev_is_zoned(clone->geo.dest)) {
		ti->error = "Zoned destination devices are not supported";
		return -EINVAL;
	}

	return 0;
}

/* What it is good for is judged in open_metadata(). */
static int parse_source_dev(struct clone *clone, struct dm_arg_set *as)
{
	int r = parse_device(clone, as, DM_CLONE_READ, &clone->source_dev,
			     "Error opening source device");

	if (!r)
		clone->geo.source = clone->source_dev->bdev;

	return r;
}

static char devices_are_the_same[] =
	"Metadata, destination and source must be different devices";
static char wrong_region_size[] =
	"Region size is not a multiple of the devices' logical block size";

/* Nobody who names a device twice means it. */
static int check_devices_differ(struct clone *clone)
{
	if (clone->metadata_dev->bdev == clone->geo.dest) {
		clone->ti->error = devices_are_the_same;
		return -EINVAL;
	}

	return 0;
}

static bool is_multiple_of_block_size(unsigned int sectors, struct block_device *bdev)
{
	return !(sectors % (bdev_logical_block_size(bdev) >> SECTOR_SHIFT));
}

static int parse_region_size(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int size;

	if (parse_number(dm_shift_arg(as), MIN_REGION_SIZE, MAX_REGION_SIZE, &size) ||
	    !is_power_of_2(size)) {
		ti->error = "Region size is not a power of two between 8 and 2097152";
		return -EINVAL;
	}

	if (!is_multiple_of_block_size(size, clone->geo.dest)) {
		ti->error = wrong_region_size;
		return -EINVAL;
	}

	if (dm_sector_div_up(ti->len, size) > MAX_REGIONS) {
		ti->error = "Too many regions, choose a larger region size";
		return -EINVAL;
	}

	clone->region_size = size;
	clone->geo.size = ti->len;
	clone->geo.region_shift = __ffs(size);
	clone->geo.nr_regions = dm_sector_div_up(ti->len, size);

	return 0;
}

/* What "dmsetup table" is to print. */
static int keep_args(struct clone *clone, const struct dm_arg_set *as)
{
	size_t size = 1, sz = 0;
	unsigned int i;

	for (i = 0; i < as->argc; i++)
		size += 1 + strlen(as->argv[i]);

	clone->table_args = kzalloc(size, GFP_KERNEL);
	if (!clone->table_args) {
		clone->ti->error = "Failed to allocate the arguments";
		return -ENOMEM;
	}

	for (i = 0; i < as->argc; i++)
		sz += scnprintf(clone->table_args + sz, size - sz, " %s", as->argv[i]);

	return 0;
}

/* The number that begins a group, and is followed by as many arguments. */
static int parse_group(struct dm_arg_set *as, unsigned int *nr, char **error)
{
	const char *arg;

	*nr = 0;
	if (!as->argc)
		return 0;

	arg = dm_shift_arg(as);
	if (parse_number(arg, 0, as->argc, nr)) {
		*error = "Invalid number of feature or core arguments";
		return -EINVAL;
	}

	return 0;
}

/* Returns NR_FEATURES if there is no such feature. */
static enum feature find_feature(const char *name)
{
	unsigned int i;

	for (i = 0; i < NR_FEATURES; i++)
		if (!strcasecmp(name, features[i]))
			break;

	return i;
}

static int parse_features(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int nr;
	int r;

	r = parse_group(as, &nr, &ti->error);
	if (r)
		return r;

	for (; nr; nr--) {
		enum feature feature = find_feature(dm_shift_arg(as));

		if (feature == NR_FEATURES) {
			ti->error = "Unknown feature argument";
			return -EINVAL;
		}
		__set_bit(feature, &clone->features);
	}

	if (has_feature(clone, HYDRATE_ON_READ) && clone->region_size > DM_CLONE_MAX_READ) {
		ti->error = "Regions are too large for hydrate_on_read";
		return -EINVAL;
	}

	return 0;
}

static const struct {
	const char *name;
	unsigned int min;
	void (*set)(struct dm_clone_hydration *h, unsigned int value);
	char *error;
} core_args[NR_CORE_ARGS] = {
	[HYDRATION_THRESHOLD] = {
		"hydration_threshold", 1, dm_clone_hydration_set_threshold,
		"Invalid hydration_threshold",
	},
	[HYDRATION_BATCH_SIZE] = {
		"hydration_batch_size", 1, dm_clone_hydration_set_batch_size,
		"Invalid hydration_batch_size",
	},
	[HYDRATION_RATE] = {
		"hydration_rate", 0, dm_clone_hydration_set_rate,
		"Invalid hydration_rate",
	},
	[HYDRATION_FLOOR] = {
		"hydration_floor", 0, dm_clone_hydration_set_floor,
		"Invalid hydration_floor",
	},
	[HYDRATION_MAX_ERRORS] = {
		"hydration_max_errors", 0, dm_clone_hydration_set_max_errors,
		"Invalid hydration_max_errors",
	},
};

/* Returns NR_CORE_ARGS if there is no such argument. */
static enum core_arg find_core_arg(const char *name)
{
	unsigned int i;

	for (i = 0; i < NR_CORE_ARGS; i++)
		if (!strcasecmp(name, core_args[i].name))
			break;

	return i;
}

/* From the table, or a message. */
static int parse_core_arg(struct clone *clone, enum core_arg i, const char *value)
{
	unsigned int nr;

	if (parse_number(value, core_args[i].min, UINT_MAX, &nr))
		return -EINVAL;

	WRITE_ONCE(clone->core_args[i], nr);
	set_bit(i, &clone->core_args_given);

	return 0;
}

static void apply_core_arg(struct clone *clone, enum core_arg i)
{
	if (test_bit(i, &clone->core_args_given))
		core_args[i].set(clone->hydration, READ_ONCE(clone->core_args[i]));
}

static int parse_core_args(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int nr;
	int r;

	r = parse_group(as, &nr, &ti->error);
	if (r)
		return r;

	if (nr % 2) {
		ti->error = "Number of core arguments is not even";
		return -EINVAL;
	}

	for (; nr; nr -= 2) {
		enum core_arg i = find_core_arg(dm_shift_arg(as));

		if (i == NR_CORE_ARGS) {
			ti->error = "Unknown core argument";
			return -EINVAL;
		}

		if (parse_core_arg(clone, i, dm_shift_arg(as))) {
			ti->error = core_args[i].error;
			return -EINVAL;
		}
	}

	return 0;
}

/*
 * <metadata dev> <destination dev> <source dev> <region size>
 *	[<#feature args> [<feature arg>]* [<#core args> [<key> <value>]*]]
 *
 * feature args: no_hydration, no_discard_passdown, hydrate_on_read,
 *	zeroed_destination
 * core args: hydration_threshold <regions>, hydration_batch_size <regions>,
 *	hydration_rate <KiB/s>, hydration_floor <KiB/s>, hydration_max_errors <nr>
 */
static int parse_clone_args(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	int r;

	if (as->argc < NR_FIXED_ARGS) {
		ti->error = "Invalid argument count";
		return -EINVAL;
	}

	r = parse_metadata_dev(clone, as) ?: parse_dest_dev(clone, as) ?:
	    parse_source_dev(clone, as) ?: check_devices_differ(clone) ?:
	    parse_region_size(clone, as) ?: keep_args(clone, as) ?:
	    parse_features(clone, as) ?: parse_core_args(clone, as);
	if (r)
		return r;

	if (as->argc) {
		ti->error = "Too many arguments";
		return -EINVAL;
	}

	return 0;
}

/*
 *---------------------------------------------------------------
 * Constructor and destructor
 *---------------------------------------------------------------
 */

static void hydration_gave_up(void *context)
{
	struct clone *clone = context;

	DMERR("%s: hydration has stopped because of errors", clone_name(clone));
	dm_table_event(clone->ti->table);
}

static bool can_pass_discards_down(struct clone *clone)
{
	return !has_feature(clone, NO_DISCARD_PASSDOWN) &&
	       bdev_max_discard_sectors(clone->geo.dest);
}

/* A device that comes and goes may have much of this to tell. */
static void hydration_waits(void *context, const char *device)
{
	struct clone *clone = context;

	if (device)
		DMWARN_LIMIT("%s: hydration waits for the %s, where copies have failed",
			     clone_name(clone), device);
	else
		DMINFO("%s: hydration goes on", clone_name(clone));
}

static int create_hydration(struct clone *clone)
{
	const struct dm_clone_hydration_events events = {
		.hydrated = regions_hydrated,
		.released = defer_bios,
		.gave_up = hydration_gave_up,
		.waits = hydration_waits,
		.spoilt = region_spoilt,
		.context = clone,
	};
	unsigned int i;

	clone->hydration = dm_clone_hydration_create(&clone->geo, clone->map,
						     &clone->claims, clone->wq_source,
						     clone->wq_dest, &dm_kcopyd_throttle,
						     &events);
	if (IS_ERR(clone->hydration)) {
		int r = PTR_ERR(clone->hydration);

		clone->hydration = NULL;
		clone->ti->error = "Failed to create the hydration engine";
		return r;
	}

	for (i = 0; i < NR_CORE_ARGS; i++)
		apply_core_arg(clone, i);

	dm_clone_hydration_set_passdown(clone->hydration, can_pass_discards_down(clone));
	dm_clone_hydration_enable(clone->hydration, !has_feature(clone, NO_HYDRATION));

	return 0;
}

static int create_reader(struct clone *clone)
{
	struct dm_clone_reader *reader;

	if (!has_feature(clone, HYDRATE_ON_READ))
		return 0;

	reader = dm_clone_reader_create(&clone->geo, clone->map, &clone->claims,
					clone->hydration, clone->wq_source,
					clone->wq_dest);
	if (IS_ERR(reader)) {
		clone->ti->error = "Failed to create the reader";
		return PTR_ERR(reader);
	}

	clone->reader = reader;

	return 0;
}

static struct workqueue_struct *create_workqueue_for(const char *what)
{
	return alloc_workqueue("dm-clone-%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, what);
}

static int create_resources(struct clone *clone)
{
	clone->wq_commit = create_workqueue_for("commit");
	clone->wq_source = create_workqueue_for("source");
	clone->wq_dest = create_workqueue_for("dest");
	if (!clone->wq_commit || !clone->wq_source || !clone->wq_dest) {
		clone->ti->error = "Failed to allocate a workqueue";
		return -ENOMEM;
	}

	if (bioset_init(&clone->parts, BIO_POOL_SIZE, 0, 0)) {
		clone->ti->error = "Failed to allocate the bio set";
		return -ENOMEM;
	}

	return 0;
}

/* Why the source cannot be one, or NULL. */
static char *source_error(struct clone *clone)
{
	struct block_device *source = clone->geo.source;

	if (source == clone->geo.dest || source == clone->metadata_dev->bdev)
		return devices_are_the_same;

	if (bdev_nr_sectors(source) < clone->geo.size)
		return "Source device is smaller than the target";

	if (bdev_is_zoned(source))
		return "Zoned source devices are not supported";

	if (!is_multiple_of_block_size(clone->region_size, source))
		return wrong_region_size;

	return NULL;
}

/*
 * Nothing is read of the source of a finished clone: anything may be in its place.
 * So the metadata is read before the source is judged, but not formatted if it
 * would be in vain.
 */
static int open_metadata(struct clone *clone)
{
	char *bad_source = source_error(clone);
	struct dm_target *ti = clone->ti;
	struct clone_store *store;

	store = get_store(ti, clone->region_size, clone->metadata_dev->bdev,
			  !clone->read_only && !bad_source);

	/* What the source holds is no metadata: that's not the reason to tell. */
	if (IS_ERR(store) && store != ERR_PTR(-ENOENT) &&
	    clone->geo.source != clone->metadata_dev->bdev)
		return PTR_ERR(store);

	if (!IS_ERR(store)) {
		clone->store = store;
		clone->cmd = store->cmd;
		clone->map = dm_clone_metadata_map(store->cmd);
		/* Not clone->finished: that has to be settled, see preresume. */
		if (is_finished(clone))
			return 0;
	}

	if (bad_source) {
		ti->error = bad_source;
		return -EINVAL;
	}

	if (IS_ERR(store)) {
		ti->error = "Metadata device is not formatted, and the table is read-only";
		return -EROFS;
	}

	return 0;
}

static void destroy_workqueues(struct clone *clone)
{
	if (clone->wq_commit) {
		cancel_delayed_work_sync(&clone->commit_work);
		destroy_workqueue(clone->wq_commit);
	}
	if (clone->wq_source)
		destroy_workqueue(clone->wq_source);
	if (clone->wq_dest)
		destroy_workqueue(clone->wq_dest);
}

static void destroy_clone(struct clone *clone)
{
	struct dm_target *ti = clone->ti;

	dm_clone_reader_destroy(clone->reader);
	if (clone->hydration) {
		/* A message may have brought up work since the last suspend. */
		dm_clone_hydration_stop(clone->hydration);
		dm_clone_hydration_destroy(clone->hydration);
	}
	destroy_workqueues(clone);
	bioset_exit(&clone->parts);
	if (clone->store)
		put_store(ti, clone->store);
	if (clone->source_dev)
		dm_put_device(ti, clone->source_dev);
	if (clone->dest_dev)
		dm_put_device(ti, clone->dest_dev);
	if (clone->metadata_dev)
		dm_put_device(ti, clone->metadata_dev);
	mutex_destroy(&clone->commit_lock);
	free_percpu(clone->nr_source_reads);
	kfree(clone->table_args);
	kfree(clone);
}

static struct clone *alloc_clone(struct dm_target *ti)
{
	struct clone *clone = kzalloc(sizeof(*clone), GFP_KERNEL);

	if (clone)
		clone->nr_source_reads = alloc_percpu(u64);
	if (!clone || !clone->nr_source_reads) {
		ti->error = "Failed to allocate the clone";
		kfree(clone);
		return NULL;
	}

	clone->ti = ti;
	clone->read_only = !(dm_table_get_mode(ti->table) & DM_CLONE_WRITE);
	mutex_init(&clone->commit_lock);
	spin_lock_init(&clone->lock);
	bio_list_init(&clone->deferred);
	bio_list_init(&clone->deferred_reads);
	bio_list_init(&clone->awaiting_flush);
	dm_clone_claims_init(&clone->claims);
	INIT_WORK(&clone->deferred_work, do_deferred);
	INIT_WORK(&clone->deferred_read_work, do_deferred_reads);
	INIT_WORK(&clone->flush_work, do_flushes);
	INIT_DELAYED_WORK(&clone->commit_work, do_commit);

	return clone;
}

static void set_target_features(struct clone *clone)
{
	struct dm_target *ti = clone->ti;

	clone->discard_passdown = can_pass_discards_down(clone);

	ti->private = clone;
	ti->per_io_data_size = sizeof(struct clone_io);

	/* The metadata is a write cache, whether or not the devices have one. */
	ti->num_flush_bios = 1;
	ti->flush_supported = true;

	/* To know that regions need not be copied is of use in any case. */
	ti->num_discard_bios = 1;
	ti->discards_supported = true;

	ti->num_write_zeroes_bios = 1;
}

static int clone_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct clone *clone = alloc_clone(ti);
	int r;

	if (!clone)
		return -ENOMEM;

	r = parse_clone_args(clone, &as) ?: create_resources(clone) ?:
	    open_metadata(clone) ?: create_hydration(clone) ?: create_reader(clone);
	if (r)
		goto bad;

	set_target_features(clone);

	return 0;
bad:
	destroy_clone(clone);
	return r;
}

static void clone_dtr(struct dm_target *ti)
{
	destroy_clone(ti->private);
}

/*
 *---------------------------------------------------------------
 * Suspend and resume
 *---------------------------------------------------------------
 */

/*
 * Copies for bios go on: device-mapper waits for the bios now.  What copies in
 * the background is still in flight is waited for in clone_postsuspend().
 */
static void clone_presuspend(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	dm_clone_reader_stop(clone->reader);
	dm_clone_hydration_stop(clone->hydration);
}

/* The mode may get worse at any time: whoever comes second here or in set_mode() stops. */
static void start_hydration(struct clone *clone)
{
	if (!may_change_metadata(clone))
		return;

	dm_clone_hydration_start(clone->hydration);
	dm_clone_reader_start(clone->reader);

	if (!may_change_metadata(clone)) {
		dm_clone_hydration_stop(clone->hydration);
		dm_clone_reader_stop(clone->reader);
	}
}

static void clone_presuspend_undo(struct dm_target *ti)
{
	start_hydration(ti->private);
}

/* Is there nothing but zeroes, or the source's, where regions are not hydrated? */
static bool is_dest_zeroed(struct clone *clone)
{
	return has_feature(clone, ZEROED_DESTINATION) && !READ_ONCE(clone->store->spoilt);
}

/*
 * This may be the end of the activation, and nothing writes to the destination any
 * more: if what it holds is hydrated on the disk too, then note that it holds nothing
 * else.  If that fails it is not noted, or it is and true; a superblock in doubt is
 * settled before the next transaction.
 */
static void note_dest_zeroed(struct clone *clone)
{
	if (!is_dest_zeroed(clone) || dm_clone_is_hydration_done(clone->map) ||
	    dm_clone_changed_this_transaction(clone->map))
		return;

	/* The zeroes need not be older than the last commit. */
	if (!flush_destination(clone))
		dm_clone_metadata_note_dest_zeroed(clone->cmd);
}

/*
 * From here on what counts as committed must be found after a crash, or flushes of
 * it would be acknowledged in vain.  And the destination may be written to, and a
 * crash leave it so: whatever is noted of it must be gone from the disk.  If that
 * can't be done nothing may be hydrated, and flushes fail, which is what read-only
 * mode is for.
 *
 * Nothing is written where this has been done in this activation.
 */
static void settle_metadata(struct clone *clone)
{
	int r;

	if (!may_change_metadata(clone))
		return;

	r = dm_clone_metadata_settle(clone->cmd);
	if (r)
		metadata_operation_failed(clone, "dm_clone_metadata_settle", r);
}

/* No bios are in flight any more. */
static void clone_postsuspend(struct dm_target *ti)
{
	struct clone *clone = ti->private;
	bool committed;

	dm_clone_reader_wait(clone->reader);
	dm_clone_hydration_wait(clone->hydration);
	flush_work(&clone->deferred_work);
	flush_work(&clone->deferred_read_work);
	flush_work(&clone->flush_work);
	cancel_delayed_work_sync(&clone->commit_work);

	mutex_lock(&clone->commit_lock);
	if (may_change_metadata(clone) && !commit_metadata(clone, &committed))
		note_dest_zeroed(clone);
	mutex_unlock(&clone->commit_lock);
}

/*
 * The metadata has failed, and the administrator has suspended and resumed the
 * device, or loaded a table: see whether the metadata device is back.  If so,
 * what could not be committed is committed now.
 */
static void try_to_recover(struct clone *clone)
{
	bool committed;

	if (clone->store->destination_failed) {
		DMERR("%s: the destination has failed to flush; deactivate and activate the device",
		      clone_name(clone));
		return;
	}

	if (abort_transaction(clone))
		return;

	set_mode(clone, CM_WRITE);
	commit_metadata(clone, &committed);
}

static int clone_preresume(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	spin_lock_irq(&stores_lock);
	clone->store->live = true;
	spin_unlock_irq(&stores_lock);

	mutex_lock(&clone->commit_lock);

	/* The table before this one may have left something uncommitted. */
	if (dm_clone_changed_this_transaction(clone->map))
		note_user_change(clone);

	if (clone->read_only)
		dm_clone_metadata_set_read_only(clone->cmd);
	else if (get_mode(clone) == CM_WRITE)
		dm_clone_metadata_set_read_write(clone->cmd);
	else
		try_to_recover(clone);
	settle_metadata(clone);

	/* If it could not be settled then it isn't finished. */
	if (can_just_remap(clone)) {
		dm_clone_release_bitmap(clone->cmd);
		WRITE_ONCE(clone->finished, true);
	}

	mutex_unlock(&clone->commit_lock);

	return 0;
}

static void clone_resume(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	dm_clone_disable_polling(dm_disk(dm_table_get_md(ti->table))->queue, NULL);

	if (dm_clone_changed_this_transaction(clone->map))
		regions_hydrated(clone);

	/*
	 * Once it has been spoilt, here or under an earlier table, that's it.  Only
	 * here, where nothing is in flight that could spoil it meanwhile.
	 */
	dm_clone_hydration_set_dest_zeroed(clone->hydration,
					   is_dest_zeroed(clone));
	start_hydration(clone);
}

/*
 *---------------------------------------------------------------
 * Status and messages.  They read counters, so that they never wait for a
 * device: they work on a suspended and on a failed clone.
 *---------------------------------------------------------------
 */

static bool is_hydration_enabled(struct clone *clone)
{
	return dm_clone_hydration_is_enabled(clone->hydration);
}

static unsigned int emit_features(struct clone *clone, char *result,
				  unsigned int maxlen, unsigned int sz)
{
	unsigned long mask = clone->features;
	unsigned int i;

	__assign_bit(NO_HYDRATION, &mask, !is_hydration_enabled(clone));

	DMEMIT(" %u", (unsigned int)hweight_long(mask));
	for_each_set_bit(i, &mask, NR_FEATURES)
		DMEMIT(" %s", features[i]);

	return sz;
}

/* Those that were given; the two limits in any case. */
static unsigned int emit_core_args(struct clone *clone, char *result,
				   unsigned int maxlen, unsigned int sz)
{
	unsigned long shown = READ_ONCE(clone->core_args_given) |
			      BIT(HYDRATION_THRESHOLD) | BIT(HYDRATION_BATCH_SIZE);
	unsigned int values[NR_CORE_ARGS], i;

	for (i = 0; i < NR_CORE_ARGS; i++)
		values[i] = READ_ONCE(clone->core_args[i]);

	values[HYDRATION_THRESHOLD] = dm_clone_hydration_threshold(clone->hydration);
	values[HYDRATION_BATCH_SIZE] = dm_clone_hydration_batch_size(clone->hydration);

	DMEMIT(" %u", 2 * (unsigned int)hweight_long(shown));
	for (i = 0; i < NR_CORE_ARGS; i++)
		if (shown & BIT(i))
			DMEMIT(" %s %u", core_args[i].name, values[i]);

	return sz;
}

/*
 * <metadata block size> <#used metadata blocks>/<#total metadata blocks>
 * <region size> <#hydrated regions>/<#total regions> <#hydrating regions>
 * <#feature args> <feature args>* <#core args> <core args>* <rw|ro|Fail>
 *
 * or just Fail.
 */
static void emit_info(struct clone *clone, char *result, unsigned int maxlen)
{
	u64 total = dm_clone_get_metadata_dev_size(clone->cmd);
	enum clone_mode mode = get_mode(clone);
	unsigned int sz = 0;

	if (mode == CM_FAIL) {
		DMEMIT("Fail");
		return;
	}

	DMEMIT("%u %llu/%llu %llu %lu/%lu %lu", DM_CLONE_METADATA_BLOCK_SECTORS,
	       total - dm_clone_get_free_metadata_block_count(clone->cmd), total,
	       (unsigned long long)clone->region_size,
	       dm_clone_nr_of_hydrated_regions(clone->map), clone->geo.nr_regions,
	       dm_clone_hydration_in_flight(clone->hydration));
	sz = emit_features(clone, result, maxlen, sz);
	sz = emit_core_args(clone, result, maxlen, sz);
	DMEMIT(" %s", may_change_metadata(clone) ? "rw" : "ro");
}

/* The line that was loaded: what messages have made of it the status tells. */
static void emit_table(struct clone *clone, char *result, unsigned int maxlen)
{
	unsigned int sz = 0;

	DMEMIT("%s %s %s %llu%s", clone->metadata_dev->name, clone->dest_dev->name,
	       clone->source_dev->name, (unsigned long long)clone->region_size,
	       clone->table_args);
}

static void clone_status(struct dm_target *ti, status_type_t type,
			 unsigned int status_flags, char *result,
			 unsigned int maxlen)
{
	struct clone *clone = ti->private;

	switch (type) {
	case STATUSTYPE_INFO:
		emit_info(clone, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		emit_table(clone, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static u64 nr_source_reads(struct clone *clone)
{
	u64 nr = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		nr += READ_ONCE(*per_cpu_ptr(clone->nr_source_reads, cpu));

	return nr;
}

/* Sectors that are to be hydrated yet; a short last region counts as whole. */
static u64 nr_unhydrated_sectors(struct clone *clone)
{
	return (u64)(clone->geo.nr_regions -
		     dm_clone_nr_of_hydrated_regions(clone->map)) <<
	       clone->geo.region_shift;
}

/*
 * key=value words.  Bytes, KiB a second, seconds; seconds_left is -1 if there's
 * no telling.
 */
static void emit_stats(struct clone *clone, char *result, unsigned int maxlen)
{
	u64 left = nr_unhydrated_sectors(clone);
	struct dm_clone_hydration_stats stats;
	unsigned int sz = 0;
	s64 seconds;

	dm_clone_hydration_get_stats(clone->hydration, &stats);
	if (!left)
		seconds = 0;
	else if (stats.rate)
		seconds = div64_u64(left, stats.rate);
	else
		seconds = -1;

	DMEMIT("state=%s", is_finished(clone) ? "done" : stats.state);
	DMEMIT(" bytes_copied=%llu bytes_overwritten=%llu bytes_zeroed=%llu",
	       stats.hydrated[DM_CLONE_BY_COPY] << SECTOR_SHIFT,
	       (u64)atomic64_read(&clone->nr_overwritten) << SECTOR_SHIFT,
	       stats.hydrated[DM_CLONE_BY_ZEROING] << SECTOR_SHIFT);
	DMEMIT(" bytes_zero=%llu", stats.zero << SECTOR_SHIFT);
	DMEMIT(" bytes_kept=%llu bytes_read=%llu",
	       stats.hydrated[DM_CLONE_BY_KEEPING] << SECTOR_SHIFT,
	       stats.hydrated[DM_CLONE_BY_READ] << SECTOR_SHIFT);
	DMEMIT(" regions_failed=%llu read_errors=%llu write_errors=%llu",
	       stats.failed, stats.read_errors, stats.write_errors);
	DMEMIT(" last_error=%d last_error_sector=%llu", stats.last_error,
	       (unsigned long long)stats.last_error_sector);
	DMEMIT(" rate=%llu average_rate=%llu seconds_left=%lld", stats.rate / 2,
	       stats.average_rate / 2, seconds);
	DMEMIT(" memory_kib=%lu",
	       (stats.memory + dm_clone_reader_memory(clone->reader)) >> 10);
	DMEMIT(" regions_in_flight=%lu source_reads=%llu commits=%llu",
	       dm_clone_hydration_in_flight(clone->hydration), nr_source_reads(clone),
	       READ_ONCE(clone->nr_commits));
}

static int set_core_arg(struct clone *clone, const char *name, const char *value)
{
	enum core_arg i = find_core_arg(name);

	if (i == NR_CORE_ARGS || parse_core_arg(clone, i, value))
		return -EINVAL;

	apply_core_arg(clone, i);
	return 0;
}

/* A range of sectors of the target, [begin, end). */
struct sectors {
	sector_t begin;
	sector_t end;
};

static int parse_sectors(struct clone *clone, char **argv, struct sectors *s)
{
	u64 begin, nr;

	if (kstrtou64(argv[0], 10, &begin) || kstrtou64(argv[1], 10, &nr) || !nr ||
	    begin >= clone->geo.size || nr > clone->geo.size - begin)
		return -EINVAL;

	s->begin = begin;
	s->end = begin + nr;

	return 0;
}

/* Those of the sectors that are in unhydrated regions. */
static u64 nr_missing(struct clone *clone, const struct sectors *s)
{
	unsigned int shift = clone->geo.region_shift;
	unsigned long first = s->begin >> shift, last = (s->end - 1) >> shift;
	u64 nr = (u64)dm_clone_nr_of_unhydrated(clone->map, first, last + 1 - first) << shift;

	/* Of the first and the last only a part may be asked for. */
	if (nr && !dm_clone_is_region_hydrated(clone->map, first))
		nr -= min(nr, s->begin - dm_clone_region_start(&clone->geo, first));
	if (nr && !dm_clone_is_region_hydrated(clone->map, last))
		nr -= min(nr, dm_clone_region_start(&clone->geo, last + 1) - s->end);

	return nr;
}

/* hydrate <start> <length>: put this before the rest, say how much is missing */
static int hydrate_first(struct clone *clone, char **argv, char *result,
			 unsigned int maxlen)
{
	unsigned int shift = clone->geo.region_shift, sz = 0;
	struct dm_clone_range range;
	struct sectors s;
	u64 missing;
	int r;

	r = parse_sectors(clone, argv, &s);
	if (r)
		return r;

	missing = nr_missing(clone, &s);
	if (missing && !clone->read_only) {
		range.begin = s.begin >> shift;
		range.end = ((s.end - 1) >> shift) + 1;
		r = dm_clone_hydration_want(clone->hydration, &range);
		if (r)
			return r;
	}

	DMEMIT("sectors_missing=%llu", missing);

	return 1;	/* there is a reply */
}

/* Whole regions: what is beside them may hold data. */
static void whole_regions(struct clone *clone, const struct sectors *s,
			  struct dm_clone_range *range)
{
	range->begin = dm_sector_div_up(s->begin, clone->region_size);
	if (s->end == clone->geo.size)
		range->end = clone->geo.nr_regions;
	else
		range->end = s->end >> clone->geo.region_shift;
}

/* skip <start> <length> [<start> <length>]*: these are empty in the source */
static int skip(struct clone *clone, unsigned int nr_args, char **argv)
{
	struct dm_clone_range range;
	struct sectors s;
	unsigned int i;
	int r = 0;

	/* If one makes no sense then none is taken. */
	for (i = 0; i + 1 < nr_args; i += 2)
		if (parse_sectors(clone, argv + i, &s))
			return -EINVAL;

	if (clone->read_only)
		return -EROFS;
	if (dm_clone_is_hydration_done(clone->map))
		return 0;

	/* If there's no memory for one, those before it are kept: they cost nothing. */
	for (i = 0; i + 1 < nr_args && !r; i += 2) {
		parse_sectors(clone, argv + i, &s);
		whole_regions(clone, &s, &range);
		if (range.begin < range.end)
			r = dm_clone_hydration_zero_later(clone->hydration, range.begin,
							  range.end);
	}

	return r;
}

/*
 * enable_hydration
 * disable_hydration
 * stats
 * hydrate <start sector> <length>
 * skip <start sector> <length> [<start sector> <length>]*
 * <core argument> <value>
 *
 * Returns 1 if there is a reply.
 */
static int handle_message(struct clone *clone, unsigned int argc, char **argv,
			  char *result, unsigned int maxlen)
{
	if (argc == 1 && !strcasecmp(argv[0], "stats")) {
		emit_stats(clone, result, maxlen);
		return 1;
	}

	if (argc == 1 && !strcasecmp(argv[0], "enable_hydration")) {
		dm_clone_hydration_enable(clone->hydration, true);
		return 0;
	}

	if (argc == 1 && !strcasecmp(argv[0], "disable_hydration")) {
		dm_clone_hydration_enable(clone->hydration, false);
		return 0;
	}

	if (argc == 3 && !strcasecmp(argv[0], "hydrate"))
		return hydrate_first(clone, argv + 1, result, maxlen);

	if (argc >= 3 && argc % 2 && !strcasecmp(argv[0], "skip"))
		return skip(clone, argc - 1, argv + 1);

	if (argc == 2)
		return set_core_arg(clone, argv[0], argv[1]);

	return -EINVAL;
}

static int clone_message(struct dm_target *ti, unsigned int argc, char **argv,
			 char *result, unsigned int maxlen)
{
	struct clone *clone = ti->private;
	unsigned int noio;
	int r;

	/*
	 * Device-mapper calls this within a section that suspend waits for.  I/O for
	 * memory may wait for this device to be resumed.
	 */
	noio = memalloc_noio_save();
	r = handle_message(clone, argc, argv, result, maxlen);
	memalloc_noio_restore(noio);

	if (r == -EINVAL)
		DMERR("%s: unsupported message '%s', or arguments that do not fit it",
		      clone_name(clone), argv[0]);

	return r;
}

/*
 *---------------------------------------------------------------
 * Limits
 *---------------------------------------------------------------
 */

/*
 * The destination only: the checks that go through here ask what can be done
 * to the device, and nothing but reads comes to the source.  Those of its
 * limits that matter to reads are taken in clone_io_hints().
 */
static int clone_iterate_devices(struct dm_target *ti,
				 iterate_devices_callout_fn fn, void *data)
{
	struct clone *clone = ti->private;

	return fn(ti, clone->dest_dev, 0, ti->len, data);
}

static void stack_source_limits(struct clone *clone, struct queue_limits *limits)
{
	struct block_device *source = clone->geo.source;
	unsigned int write_zeroes = limits->max_write_zeroes_sectors;

	if (blk_stack_limits(limits, &bdev_get_queue(source)->limits,
			     get_start_sect(source)) < 0)
		DMWARN("%s: source is not aligned to the blocks of the destination",
		       clone_name(clone));

	limits->max_write_zeroes_sectors = write_zeroes;
}

static void clone_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct clone *clone = ti->private;
	unsigned int granularity = clone->region_size << SECTOR_SHIFT;

	if (!is_finished(clone))
		stack_source_limits(clone, limits);

	/*
	 * Polled requests may be such as must not wait, and those are not served: to say
	 * that they are would have each of them fail.
	 */
	dm_clone_disable_polling(NULL, limits);

	/*
	 * Whole regions are what need not be copied, and the destination can do
	 * nothing with less than it asks for itself.  It's any length: whoever passes it
	 * on cuts it.
	 */
	if (clone->discard_passdown)
		granularity = max(granularity, bdev_discard_granularity(clone->geo.dest));
	limits->discard_granularity = granularity;
	limits->discard_alignment = 0;
	limits->max_hw_discard_sectors = rounddown(UINT_MAX >> SECTOR_SHIFT,
						   granularity >> SECTOR_SHIFT);
	limits->max_discard_sectors = limits->max_hw_discard_sectors;
}

/*----------------------------------------------------------------*/

static struct target_type clone_target = {
	.name = "clone",
	.version = {1, 2, 0},	/* MODULE_VERSION() too, see CONTRIBUTING.md */
	.module = THIS_MODULE,
	.ctr = clone_ctr,
	.dtr = clone_dtr,
	.map = clone_map,
	.presuspend = clone_presuspend,
	.presuspend_undo = clone_presuspend_undo,
	.postsuspend = clone_postsuspend,
	.preresume = clone_preresume,
	.resume = clone_resume,
	.status = clone_status,
	.message = clone_message,
	.io_hints = clone_io_hints,
	.iterate_devices = clone_iterate_devices,
};

static int __init dm_clone_init(void)
{
	int r = dm_clone_memory_init();

	if (r)
		return r;

	r = dm_register_target(&clone_target);
	if (r < 0) {
		DMERR("failed to register the target: %d", r);
		dm_clone_memory_exit();
	}

	return r;
}

static void __exit dm_clone_exit(void)
{
	dm_unregister_target(&clone_target);
	dm_clone_memory_exit();
}

module_init(dm_clone_init);
module_exit(dm_clone_exit);

#if dm_clone_fault(HALTS)
unsigned int dm_clone_halt_param, dm_clone_halted_param;
module_param_named(halt, dm_clone_halt_param, uint, 0644);
module_param_named(halted, dm_clone_halted_param, uint, 0444);
#endif

MODULE_DESCRIPTION(DM_NAME " clone target");
MODULE_AUTHOR("the dm-clone authors");
MODULE_VERSION("1.2.0");
MODULE_LICENSE("GPL");
