/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone: which regions are hydrated, on disk.
 *
 * Only the implementation and metadata-check.c know the disk format.  The
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
 * long the flush takes.  After a crash before commit has written the superblock
 * the previous transaction is found.
 *
 * Sizes are in 512 byte sectors.  Errors are negative errno.
 *
 * Two sorts of functions:
 *
 *  - open, close, settle, pre_commit, commit, abort, note_dest_zeroed,
 *    set_read_only, set_read_write and release_bitmap sleep, do I/O and take
 *    the metadata lock.  Except for open and close they may run concurrently;
 *    pre_commit ... commit are for one thread at a time.
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
 * @region_size sectors.  If the device's first block is all zeroes it is
 * formatted, or -ENOENT is returned unless it @may_be_formatted.  Valid
 * metadata of these sizes is loaded; it must be settled before it is used.
 * Anything else is refused, and nothing is written.
 *
 * -EINVAL: not a clone's metadata, or another clone's; -EUCLEAN: damaged; -EIO:
 * cannot be read or written.
 *
 * On failure returns an ERR_PTR() and points *@error at a short phrase (static
 * storage) that says what is wrong; the kernel log has the details.
 */
struct dm_clone_metadata *
dm_clone_metadata_open(struct block_device *bdev, sector_t target_size,
		       sector_t region_size, bool may_be_formatted,
		       char **error);

/* The region map that the metadata device follows; valid until close. */
struct dm_clone_region_map *dm_clone_metadata_map(struct dm_clone_metadata *cmd);

/* Was the device formatted when it was opened? */
bool dm_clone_metadata_is_new(struct dm_clone_metadata *cmd);

/* Is this the metadata of a clone of these sizes? */
bool dm_clone_metadata_matches(struct dm_clone_metadata *cmd,
			       sector_t target_size, sector_t region_size);

/*
 * Make sure that a crash leaves the superblock that was read: it may come from
 * a cache whose flush failed, or was never tried.  It is written again, and
 * flushed, unless it is not in doubt.  Must succeed once an activation, before
 * anything is written to the destination, and before anything counts as
 * committed (is_range_committed and changed_this_transaction assume it).  After
 * a failure: dm_clone_metadata_abort(); then nothing counts as committed.
 *
 * Removes the note of a zeroed destination too, see below.
 */
int dm_clone_metadata_settle(struct dm_clone_metadata *cmd);

/* Free everything; write nothing. */
void dm_clone_metadata_close(struct dm_clone_metadata *cmd);

/*
 * Put every bit that is set by now and is not on the disk yet into the
 * transaction.  From here on until dm_clone_metadata_commit() succeeds no
 * region counts as committed.  After a failure: dm_clone_metadata_abort().
 */
int dm_clone_metadata_pre_commit(struct dm_clone_metadata *cmd);

/*
 * Was there too little room on the metadata device for all that has changed?
 * Then there is room for another transaction once this one is committed.
 */
bool dm_clone_metadata_has_more(struct dm_clone_metadata *cmd);

/*
 * Make the transaction durable.  The destination must have been flushed since
 * dm_clone_metadata_pre_commit().  After a failure: dm_clone_metadata_abort().
 */
int dm_clone_metadata_commit(struct dm_clone_metadata *cmd);

/*
 * Throw the transaction away and go on from what the disk holds.  The bits in
 * core stay as they are; those that the disk does not have go into the next
 * transaction.  This is also the way back after the metadata device has failed:
 * if the metadata cannot be read now, further pre_commits and commits fail with
 * -EIO until an abort succeeds.
 *
 * After a failed commit nobody knows which superblock a crash leaves.  The next
 * pre_commit first writes the one that abort finds again, and flushes it; until
 * that succeeds it writes nothing else, and fails.
 */
int dm_clone_metadata_abort(struct dm_clone_metadata *cmd);

/*
 * The note of a zeroed destination says: wherever regions are not hydrated the
 * destination reads as zeroes, or as the source does.  It survives a clean
 * deactivation, and must not survive a crash of a clone that may have written
 * to the destination:
 *
 *  - dm_clone_metadata_found_dest_zeroed() tells whether it was there when the
 *    metadata was opened; false if that was formatted.
 *  - dm_clone_metadata_settle() removes it before anything is written to the
 *    destination; if that fails nothing may be written there.
 *  - dm_clone_metadata_note_dest_zeroed() writes it, when nothing will write to
 *    the destination any more and after a flush that covers the zeroes.
 *
 * Both write and flush the superblock of the last transaction, not the bits
 * that have been set since.  Every other superblock is written without the
 * note.
 */
bool dm_clone_metadata_found_dest_zeroed(struct dm_clone_metadata *cmd);
int dm_clone_metadata_note_dest_zeroed(struct dm_clone_metadata *cmd);

/* In the read-only state functions that would write return -EPERM. */
void dm_clone_metadata_set_read_only(struct dm_clone_metadata *cmd);
void dm_clone_metadata_set_read_write(struct dm_clone_metadata *cmd);

/*
 * Free the bitmaps of a clone that is hydrated, committed and settled: they say
 * nothing any more.  Does nothing in any other state.
 */
void dm_clone_metadata_release_bitmap(struct dm_clone_metadata *cmd);

/* Counts of metadata blocks, as of the last commit. */
u64 dm_clone_metadata_nr_free_blocks(struct dm_clone_metadata *cmd);
u64 dm_clone_metadata_nr_blocks(struct dm_clone_metadata *cmd);

#endif /* DM_CLONE_METADATA_H */
