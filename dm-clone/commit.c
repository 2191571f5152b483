// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Modes, commits, and flushes.
 *
 * Flush
 * -----
 *
 * A flush needs a commit only if a crash now would lose something that the user
 * wrote: @user_changes says that since the last commit began data has been
 * written to a region that is not committed.  Background copies do not set it:
 * they can be made again.
 *
 * Flushes wait for the commit worker.  All that wait when it starts share one
 * commit or, if none is needed, one flush of the destination.  They are not
 * sent down themselves: if one failed there, and the commit's own succeeded
 * afterwards, nobody would know that copies have been lost which the commit is
 * about to declare hydrated.
 *
 * FUA makes a write's own data durable, not what was acknowledged before it.
 * It is never passed down: where the destination has a volatile cache but no
 * FUA, the layers below would flush after the write, and if that failed only
 * this one bio would hear of it, the same trap as above.  (What the destination
 * says about itself is no help: md and device-mapper offer FUA whatever is
 * below them.)  So FUA is taken off the bio, which waits for the worker once it
 * has ended.  If its regions are not committed it needs a commit; if they are,
 * a flush of the destination, shared with all that wait at that moment; and
 * none if there is no volatile cache.  Once the metadata has failed a FUA write
 * fails where a flush does: see take_fua().
 *
 * Once a clone is finished a commit has nothing left to declare hydrated, and
 * flushes and FUA are passed down as linear does.  FUA writes that began before
 * that still wait for the worker, whose flush may fail now without further
 * consequences.  (If a flush that overlaps with them fails, their data may be
 * lost unnoticed.  So it may on any disk without FUA.)
 *
 * The commit
 * ----------
 *
 *	1. pre_commit puts the bits set by now into the transaction
 *	2. the destination is flushed: the data of these regions is durable
 *	3. commit writes the transaction, its superblock last
 *
 * After a crash before the superblock of 3 is on the disk the previous
 * transaction is found, and regions hydrated since then read as the source's.
 * After a later one they read as the destination's, where 2 has made their data
 * durable.
 *
 * If 1 or 3 fails the metadata goes back to the last transaction, and the
 * device to read-only mode, or to fail mode if even that does not work.  If 3
 * fails at its end, which transaction is the last has to be settled before
 * anything is written again: see dm_clone_metadata_abort().  The doubt outlives
 * the activation, and the machine may be reset during 3; so the next activation
 * settles what it finds, once, before it is resumed.  If 2 fails nobody knows
 * which of the writes since the last flush the destination still has, and a
 * later flush that succeeds proves nothing.  So nothing may be committed until
 * the regions' data has been written anew: read-only until the device is
 * activated again.
 *
 * "No space" is another matter: a thin volume says so before it does anything,
 * so nothing is lost.  (Not so if it is one part of several: device-mapper
 * keeps the last error of a flush that went to all of them, which may hide that
 * another part has lost writes.  Nor if a disk says so about data that it has
 * acknowledged before.  The errno does not tell these apart; the
 * administrator's guide says which destinations this holds for.)  The
 * transaction stays open, and while it is no region counts as committed.  The
 * next attempt, a second later unless somebody asks for one earlier, flushes
 * the destination and commits it.
 *
 * In both modes the bits in core stay as they are, so everything acknowledged
 * stays readable.  Reads, and I/O to hydrated regions, go on; what would change
 * the metadata gets an error, and so does a flush that needs a commit.
 *
 * Read-only tables
 * ----------------
 *
 * A read-only table changes nothing: its devices are opened read-only, nothing
 * is hydrated or committed, and bios that would change anything get an error.
 * (Most kernels let them through to us.)  A flush changes nothing and goes to
 * the destination, for the sake of what an earlier table has written; if that
 * table has left something uncommitted the flush fails.  The metadata is shared
 * with other tables of the device, and its state follows the one that was
 * resumed last.
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

/* Changes are committed after this many jiffies at the latest. */
#define COMMIT_PERIOD HZ

/*
 * The region's bit was set before this.  If user_changes is found set here, and
 * a commit clears it after that, then, with the barriers on both sides, that
 * commit sees the bit.
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

	/* Mode first, then stop: see start_hydration() in dm-clone-target.c. */
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

/* This ends the transaction, even one that was left open. */
static int abort_transaction(struct clone *clone)
{
	clone->store->pre_committed = false;

	return dm_clone_metadata_abort(clone->cmd);
}

/* All failures of operations on the metadata come here. */
static void metadata_operation_failed(struct clone *clone, const char *op,
				      int r)
{
	DMERR("%s: metadata operation '%s' failed: %d", clone_name(clone), op, r);

	set_mode(clone, abort_transaction(clone) ? CM_FAIL : CM_READ_ONLY);
}

static void destination_flush_failed(struct clone *clone, int r)
{
	/* Said once as long as it lasts, which may be hours. */
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
	 * A later flush of the user's might succeed, although writes are lost.
	 * From here on they all fail.
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
 * Make durable what has been written to the destination.  Until the clone is
 * finished nothing else sends a flush there, nor anything with FUA.
 */
static int flush_destination(struct clone *clone)
{
	int r = blkdev_issue_flush(clone->geo.dest);

	lockdep_assert_held(&clone->commit_lock);

	/* When finished this concerns only those that wait. */
	if (r && !clone->finished)
		destination_flush_failed(clone, r);
	if (!r)
		clone->store->no_space = false;

	return r;
}

/* Commit a transaction, or the one that an earlier attempt has left open. */
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
 * If the metadata device is short of room the changes take several
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

/* What changes from here on may be left to a later commit. */
static int __commit_metadata(struct clone *clone)
{
	bool was_open = clone->store->pre_committed;
	int r;

	/* A round that was left open may not include later changes. */
	r = commit_round(clone);
	if (!r && was_open && dm_clone_changed_this_transaction(clone->map))
		r = commit_round(clone);

	if (!r && dm_clone_changed_this_transaction(clone->map))
		queue_delayed_work(clone->wq_commit, &clone->commit_work,
				   COMMIT_PERIOD);

	return r;
}

/* If all is hydrated and committed: the bitmap has had its day. */
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
 * Commit what has changed, if anything has: *@committed.  On success nothing
 * acknowledged before the call depends on metadata that a crash would lose, and
 * if there was a commit, its data is durable too.
 */
static int commit_metadata(struct clone *clone, bool *committed)
{
	bool user_changes;
	int r = 0;

	lockdep_assert_held(&clone->commit_lock);

	/*
	 * Data written from here on to a region that is not committed sets
	 * user_changes again, whether or not this commit covers the region.
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

/* A commit has ended with @r.  Nobody else may ask for the next attempt. */
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

/* Queue the work under the lock: once it has @bio the clone may go away. */
void dm_clone_await_flush(struct clone *clone, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&clone->lock, flags);
	bio_list_add(&clone->awaiting_flush, bio);
	queue_work(clone->wq_commit, &clone->flush_work);
	spin_unlock_irqrestore(&clone->lock, flags);
}

/*
 * Does any of @bios depend on a commit?  A FUA write does only if it went to
 * regions that were not committed: what others have changed does not concern
 * it.
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

/* Make durable what @bios ask for. */
static int make_durable(struct clone *clone, const struct bio_list *bios)
{
	bool committed = false;
	int r = 0;

	/*
	 * An earlier flush has failed, and whoever asked for it knows.  But the
	 * destination may have lost others' writes with it, which later flushes
	 * do not tell.  So this one must not succeed, even if there is nothing
	 * to commit.
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

		/* A write went through bio_endio() when it ended below. */
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
 * This may be the end of the activation, and nothing writes to the destination
 * any more.  If all that is hydrated is committed, note that the destination
 * holds nothing else.  If that fails the note is either absent, or there and
 * true; a superblock in doubt is settled before the next transaction.
 */
static void note_dest_zeroed(struct clone *clone)
{
	if (!is_dest_zeroed(clone) || dm_clone_is_hydration_done(clone->map) ||
	    dm_clone_changed_this_transaction(clone->map))
		return;

	/* Zeroes may have been written since the last commit. */
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
 * From here on what counts as committed must be found after a crash, or flushes
 * would be acknowledged in vain.  And the destination may be written to: the
 * note about it must be gone from the disk before that.  If this fails nothing
 * may be hydrated, and flushes must fail, which is what read-only mode is for.
 *
 * Nothing is written if this activation has settled the metadata before.
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
 * device, or loaded a table.  If the metadata device works again, commit what
 * could not be committed.
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

	/* The previous table may have left something uncommitted. */
	if (dm_clone_changed_this_transaction(clone->map))
		dm_clone_note_user_change(clone);

	if (clone->read_only)
		dm_clone_metadata_set_read_only(clone->cmd);
	else if (get_mode(clone) == CM_WRITE)
		dm_clone_metadata_set_read_write(clone->cmd);
	else
		try_to_recover(clone);
	settle_metadata(clone);

	/* If it could not be settled it is not finished. */
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
