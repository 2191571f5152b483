/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone: which regions are hydrated, on disk.
 *
 * Only what implements this header, and metadata-check.c, know the disk format.  The
 * region map (dm-clone/region-map.h) is the truth while the device lives; the
 * metadata device follows it one transaction at a time:
 *
 *	dm_clone_metadata_pre_commit()	the bits set so far go into the
 *					transaction
 *	(flush the destination)		their data becomes durable
 *	dm_clone_metadata_commit()	the transaction becomes the state that
 *					a crash leaves
 *
 * A bit that is set after pre_commit belongs to the next transaction, however
 * long the flush takes.  If there's a crash before commit has written the
 * superblock, the previous transaction is what is found.
 *
 * Sizes are in 512 byte sectors.  Errors are negative errno.
 *
 * Two sorts of functions:
 *
 *  - open, close, settle, pre_commit, commit, abort, note_dest_zeroed,
 *    set_read_only, set_read_write and release_bitmap sleep, do I/O and take
 *    the metadata lock.  Those but open and close may run against each other,
 *    and pre_commit ... commit are for one thread at a time.
 *  - The counts are for status: no lock, never block, any context.
 */
#ifndef DM_CLONE_METADATA_H
#define DM_CLONE_METADATA_H

#include <linux/blkdev.h>
#include <linux/types.h>

/* Size of a metadata block, in sectors. */
#define DM_CLONE_METADATA_BLOCK_SECTORS 8

struct dm_clone_metadata;
struct dm_clone_region_map;

/*
 * Open the metadata of a clone of @target_size sectors in regions of
 * @region_size sectors.  A device whose first block is all zeroes is
 * formatted, if it @may_be_formatted, or else -ENOENT is returned; valid metadata
 * of these very sizes is loaded; anything else is refused, and then nothing has
 * been written.  What is loaded is to be settled before it is used.
 *
 * -EINVAL: no metadata of a clone, or of another one; -EUCLEAN: damaged; -EIO:
 * cannot be read, or written.
 *
 * On failure returns an ERR_PTR() and points *@error at a short phrase (static
 * storage) that says what is wrong; the kernel log has the details.
 */
struct dm_clone_metadata *
dm_clone_metadata_open(struct block_device *bdev, sector_t target_size,
		       sector_t region_size, bool may_be_formatted,
		       char **error);

/* What the metadata device follows; as long as the metadata is open. */
struct dm_clone_region_map *dm_clone_metadata_map(struct dm_clone_metadata *cmd);

/* Was the device formatted when this was opened? */
bool dm_clone_metadata_is_new(struct dm_clone_metadata *cmd);

/* Is this the metadata of a clone of these sizes? */
bool dm_clone_metadata_matches(struct dm_clone_metadata *cmd, sector_t target_size,
			       sector_t region_size);

/*
 * See to it that a crash leaves what has been read: the superblock may come from
 * a cache whose flush has failed, or not been tried, before this was opened.
 * It's written again, and flushed.  Must have succeeded before anything is
 * written to the destination, and before anything counts as committed (all
 * that is_range_committed and changed_this_transaction tell assumes it); so
 * once an activation.  Nothing is written if nothing is in doubt.  After a
 * failure: dm_clone_metadata_abort(), after which nothing counts as committed.
 *
 * Takes the mark off too, see below.
 */
int dm_clone_metadata_settle(struct dm_clone_metadata *cmd);

/* Free everything.  What has not been committed is not written. */
void dm_clone_metadata_close(struct dm_clone_metadata *cmd);

/*
 * Put every bit that is set by now, and is not on the disk yet, into the
 * transaction.  From here on until dm_clone_metadata_commit() succeeds all
 * regions count as not committed.  After a failure: dm_clone_metadata_abort().
 */
int dm_clone_metadata_pre_commit(struct dm_clone_metadata *cmd);

/*
 * Has the transaction been limited by the room on the metadata device?  Then,
 * once it is committed, there's room for another one.
 */
bool dm_clone_metadata_has_more(struct dm_clone_metadata *cmd);

/*
 * Make the transaction durable.  The destination must have been flushed since
 * dm_clone_metadata_pre_commit().  After a failure: dm_clone_metadata_abort().
 */
int dm_clone_metadata_commit(struct dm_clone_metadata *cmd);

/*
 * Throw the transaction away and go back to what the disk holds, for writing
 * on.  The bits in core stay as they are, and those that the disk does not
 * have are due for the next transaction.  Also the way to come back after
 * the metadata device has failed: if the metadata cannot be read now, the
 * object fails further pre_commits and commits with -EIO until an abort
 * succeeds.
 *
 * After a commit that has failed nobody knows which superblock the disk will
 * have after a crash.  The one that abort finds is written again, and flushed,
 * by the next pre_commit, which writes nothing else, and fails, as long as that
 * does not succeed.
 */
int dm_clone_metadata_abort(struct dm_clone_metadata *cmd);

/*
 * The mark that says: wherever regions are not hydrated the destination reads as
 * zeroes, or as the source does.  It survives a clean deactivation, and must not
 * survive a crash of a clone that may have written to the destination.  So it goes
 * like this:
 *
 *  - dm_clone_metadata_found_dest_zeroed() tells whether it was there when the
 *    metadata was opened; not so if that was formatted.
 *  - Before anything is written to the destination dm_clone_metadata_settle()
 *    takes it off, and if it fails nothing may be written there.
 *  - When nothing will write to the destination any more: note_dest_zeroed(),
 *    after a flush of the destination that covers the zeroes.
 *
 * Both write and flush the superblock of the last transaction, not the bits that
 * have been set since.  Every other superblock is written without the mark.
 */
bool dm_clone_metadata_found_dest_zeroed(struct dm_clone_metadata *cmd);
int dm_clone_metadata_note_dest_zeroed(struct dm_clone_metadata *cmd);

/* In read-only state what would write returns -EPERM. */
void dm_clone_metadata_set_read_only(struct dm_clone_metadata *cmd);
void dm_clone_metadata_set_read_write(struct dm_clone_metadata *cmd);

/*
 * Free the bitmaps: of a clone that is hydrated, committed and settled they say
 * nothing any more.  Does nothing in any other state.
 */
void dm_clone_metadata_release_bitmap(struct dm_clone_metadata *cmd);

/* Counts of metadata blocks, as of the last commit. */
u64 dm_clone_metadata_nr_free_blocks(struct dm_clone_metadata *cmd);
u64 dm_clone_metadata_nr_blocks(struct dm_clone_metadata *cmd);

#endif /* DM_CLONE_METADATA_H */
