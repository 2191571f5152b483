// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Modes, commits, and flushes.
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
 */

#define DM_MSG_PREFIX "clone"

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "clone.h"

/* Metadata is committed after this many jiffies, if not before. */
#define COMMIT_PERIOD HZ

/*
 * That the region is hydrated has been marked before this.  If a commit clears
 * user_changes after it was found set here, then, with the barriers on both
 * sides, that commit sees the mark.
 */
void dm_clone_note_user_change(struct clone *clone)
{
	unsigned long flags;

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

static void set_mode(struct clone *clone, enum clone_mode mode)
{
	static const char * const names[] = { "write", "read-only", "fail" };

	lockdep_assert_held(&clone->commit_lock);

	if (get_mode(clone) == mode)
		return;

	if (mode == CM_WRITE)
		dm_clone_metadata_set_read_write(clone->cmd);

	/* First the mode, then the stop: see start_hydration() in dm-clone-target.c. */
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
	dm_clone_note_user_change(clone);
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
	int r = blkdev_issue_flush(clone->geo.dest);

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

/* All is hydrated and committed: the bitmap has had its day. */
static void check_finished(struct clone *clone)
{
	if (clone->finished || !can_just_remap(clone))
		return;

	dm_clone_metadata_release_bitmap(clone->cmd);
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
	smp_mb();	/* pairs with dm_clone_note_user_change() */

	*committed = dm_clone_changed_this_transaction(clone->map);
	if (*committed)
		r = may_change_metadata(clone) ? __commit_metadata(clone) : -EIO;

	if (r && user_changes)
		dm_clone_note_user_change(clone);
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

void dm_clone_regions_hydrated(void *context)
{
	struct clone *clone = context;

	if (dm_clone_is_hydration_done(clone->map))
		mod_delayed_work(clone->wq_commit, &clone->commit_work, 0);
	else
		queue_delayed_work(clone->wq_commit, &clone->commit_work,
				   COMMIT_PERIOD);
}

/*
 *---------------------------------------------------------------
 * Flush
 *---------------------------------------------------------------
 */

/* The work is queued under the lock: once it has @bio, the clone may go away. */
void dm_clone_await_flush(struct clone *clone, struct bio *bio)
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
	bool all_flush = !may_change_metadata(clone);	/* see take_fua() in map.c */
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

/*
 *---------------------------------------------------------------
 * Suspend and resume
 *---------------------------------------------------------------
 */

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

void dm_clone_commit_suspend(struct clone *clone)
{
	bool committed;

	flush_work(&clone->flush_work);
	cancel_delayed_work_sync(&clone->commit_work);

	mutex_lock(&clone->commit_lock);
	if (may_change_metadata(clone) && !commit_metadata(clone, &committed))
		note_dest_zeroed(clone);
	mutex_unlock(&clone->commit_lock);
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

void dm_clone_commit_resume(struct clone *clone)
{
	mutex_lock(&clone->commit_lock);

	/* The table before this one may have left something uncommitted. */
	if (dm_clone_changed_this_transaction(clone->map))
		dm_clone_note_user_change(clone);

	if (clone->read_only)
		dm_clone_metadata_set_read_only(clone->cmd);
	else if (get_mode(clone) == CM_WRITE)
		dm_clone_metadata_set_read_write(clone->cmd);
	else
		try_to_recover(clone);
	settle_metadata(clone);

	/* If it could not be settled then it isn't finished. */
	if (can_just_remap(clone)) {
		dm_clone_metadata_release_bitmap(clone->cmd);
		WRITE_ONCE(clone->finished, true);
	}

	mutex_unlock(&clone->commit_lock);
}

void dm_clone_commit_init(struct clone *clone)
{
	mutex_init(&clone->commit_lock);
	bio_list_init(&clone->awaiting_flush);
	INIT_WORK(&clone->flush_work, do_flushes);
	INIT_DELAYED_WORK(&clone->commit_work, do_commit);
}
