// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What happens to each bio.
 *
 * The life of a write
 * -------------------
 *
 * To hydrated regions: the piece is remapped to the destination.  Nothing else
 * happens, unless one of the regions is not committed; see commit.c.
 *
 * To whole unhydrated regions: they are claimed, and the piece is remapped to
 * the destination.  When it ends well the regions' bits are set, then the claim
 * is released, then the write is acknowledged.  After a crash before the bits
 * are committed the source's data is read.  If the write fails, whatever it has
 * left in the destination is not shown.
 *
 * To a part of an unhydrated region: the region is claimed, and the piece is
 * remapped to the destination, while the rest of the region is copied.  When
 * both have ended well the bit is set, then the claim is released, then the
 * write is acknowledged.  The two have no sector in common, so it does not
 * matter which ends first; until both have, reads get the source's data, also
 * after a crash.  If either fails the region stays unhydrated, and the write
 * fails.
 *
 * A write that meets another's claim waits for it and is then mapped again.
 *
 * Discards and zeroes
 * -------------------
 *
 * Write-zeroes is a write.  A discard of hydrated regions is passed down or
 * dropped, one of a part of an unhydrated region is dropped.  One of whole
 * unhydrated regions says that they need not be copied:
 *
 *  - With no_discard_passdown it only updates the metadata: the regions are
 *    claimed, their bits are set, and what the destination holds is read from
 *    then on.  A zeroed destination needs no more than that either.
 *  - A short discard claims its regions, and has them discarded and zeroed in
 *    the destination, which may hold old data.  Then they are hydrated, and the
 *    discard ends.
 *  - A long one would take long, so it is remembered (marks.h) and acknowledged
 *    at once.  The engine zeroes the regions in the background.  Until then
 *    they read as the source's data, and a write to a part of one has the rest
 *    zeroed rather than copied.  A discard promises nothing: marks may be lost
 *    in a crash or with the table, and regions that another has claimed
 *    meanwhile are left to it.
 *
 * Zeroing, marking and a copy of the same region exclude each other by its
 * claim, so none of them can land on a write that came after the discard.
 *
 * There is no secure erase: the source would keep the data.
 *
 * Zeroes in the source, and zeroed destinations
 * ---------------------------------------------
 *
 * Copies write as data only what is not zero.  Runs of zeroes, by 64 KiB, are
 * zeroed in the destination instead, without a discard: see zero.h.  So a thin
 * destination stays unprovisioned there.  Reads that hydrate do not look for
 * zeroes, they write what they have read.
 *
 * With zeroed_destination the unhydrated regions of the destination read as
 * zeroes, or as the source's data, until a write there fails: see
 * dm_clone_region_spoilt().  Till then zeroes that are copied, and discards,
 * cost no I/O at all.  A clean deactivation leaves a note of this in the
 * metadata for the next activation: see dm-clone-metadata.h.
 *
 * Reads
 * -----
 *
 * Reads of hydrated regions are remapped to the destination, of unhydrated ones
 * to the source.  A claim does not matter: what hydrates a region meanwhile
 * overlaps with the read, so the source's data is a good answer.
 *
 * With hydrate_on_read a read of unhydrated regions claims them and goes to
 * reader.c.  If another has the claim, and will not hold it for long, the read
 * waits for it once, so that the source is not read a second time; after that
 * it is remapped, in parts if need be.
 *
 * commit.c tells what flushes and FUA need.
 */

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/sched.h>

#include "clone.h"

/*
 * The longest discard that waits until its regions are zeroed, in sectors: a
 * moment's work even for a slow disk.
 */
#define MAX_SHORT_DISCARD (1U << (20 - SECTOR_SHIFT))

/*
 *---------------------------------------------------------------
 * Bios and regions.  The sectors of bios are relative to the target's start
 * from dm_clone_map() on, as those of the devices below are.
 *---------------------------------------------------------------
 */

/* The first region that @bio touches. */
static unsigned long first_region(struct clone *clone, struct bio *bio)
{
	return bio->bi_iter.bi_sector >> clone->geo.region_shift;
}

/* The region after the last one that @bio touches. */
static unsigned long end_region(struct clone *clone, struct bio *bio)
{
	return ((bio_end_sector(bio) - 1) >> clone->geo.region_shift) + 1;
}

static bool starts_at_region(struct clone *clone, struct bio *bio)
{
	return !(bio->bi_iter.bi_sector & (clone->region_size - 1));
}

/* The region after the last one that @bio reaches the end of. */
static unsigned long end_of_whole_regions(struct clone *clone, struct bio *bio)
{
	sector_t end = bio_end_sector(bio);

	if (end == clone->geo.size)
		return clone->geo.nr_regions;

	return end >> clone->geo.region_shift;
}

/* Does @bio cover all regions that it touches entirely? */
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

/* Queue the work under the lock: once it has the bios the clone may go away. */
void dm_clone_defer_bios(void *context, struct bio_list *bios)
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
	dm_clone_hydration_release(clone->hydration, &io->fill.claim);
}

/*
 *---------------------------------------------------------------
 * The end of a bio
 *---------------------------------------------------------------
 */

void dm_clone_region_spoilt(void *context)
{
	struct clone *clone = context;

	WRITE_ONCE(clone->store->spoilt, true);
	dm_clone_hydration_set_dest_zeroed(clone->hydration, false);
}

static void mark_hydrated(struct clone *clone,
			  const struct dm_clone_claim *claim)
{
	if (dm_clone_set_range_hydrated(clone->map, claim->begin,
					claim->end - claim->begin))
		dm_clone_regions_hydrated(clone);
}

/*
 * Is @bio a write-zeroes that the destination turns out not to support?  Then
 * nothing was written, and its sender writes zeroes instead: the destination
 * has not failed, and is not spoilt.
 */
static bool was_refused(struct clone *clone, struct bio *bio)
{
	if (bio_op(bio) != REQ_OP_WRITE_ZEROES)
		return false;

	/* SCSI says this, and then withdraws the offer. */
	if (bio->bi_status == BLK_STS_TARGET)
		return !bdev_write_zeroes_sectors(clone->geo.dest);

	return bio->bi_status == BLK_STS_NOTSUPP;
}

/* A write that covers the regions of its claim has ended. */
static void end_overwrite(struct clone *clone, struct clone_io *io,
			  struct bio *bio)
{
	struct dm_clone_claim *claim = &io->fill.claim;

	if (!bio->bi_status) {
		mark_hydrated(clone, claim);
		dm_clone_note_user_change(clone);
		dm_clone_hydration_works(clone->hydration, false);
		atomic64_add(dm_clone_range_end(&clone->geo, claim->end) -
			     dm_clone_region_start(&clone->geo, claim->begin),
			     &clone->nr_overwritten);
	}

	if (bio->bi_status && !was_refused(clone, bio))
		dm_clone_region_spoilt(clone);
	release_claim(clone, io);
}

/* A write to a part of a region has ended, and so has the copy of the rest. */
static void end_partial(struct clone *clone, struct clone_io *io,
			struct bio *bio)
{
	bio->bi_status = dm_clone_hydration_rest_end(&io->fill, bio->bi_status,
						     was_refused(clone, bio));
	if (!bio->bi_status) {
		dm_clone_note_user_change(clone);
		atomic64_add(io->fill.nr_written, &clone->nr_overwritten);
	}

	release_claim(clone, io);
}

/* bio_endio() has done its part: only device-mapper is yet to be told. */
static void end_bio(struct clone *clone, struct clone_io *io, struct bio *bio)
{
	if ((io->flags & IO_FUA) && !bio->bi_status)
		dm_clone_await_flush(clone, bio);
	else
		bio->bi_end_io(bio);
}

/*
 * Drop one of two references. atomic_dec_and_test() makes the first one's
 * results visible to the last.
 */
static void put_partial(struct clone *clone, struct clone_io *io,
			struct bio *bio)
{
	if (!atomic_dec_and_test(&io->nr_pending))
		return;

	end_partial(clone, io, bio);
	end_bio(clone, io, bio);
}

static void copied_rest(struct dm_clone_fill *fill, blk_status_t status)
{
	struct clone_io *io = container_of(fill, struct clone_io, fill);

	put_partial(io->clone, io, fill_to_bio(fill));
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
		io->start = dm_clone_hydration_user_begin(clone->hydration);
}

static unsigned int watched(struct clone *clone)
{
	return dm_clone_hydration_is_watching(clone->hydration) ? IO_WATCHED : 0;
}

/* Send @bio to @bdev.  @flags: what to do when it ends, besides IO_WATCHED. */
static int remap(struct clone *clone, struct bio *bio,
		 struct block_device *bdev, unsigned int flags)
{
	bio_set_dev(bio, bdev);

	flags |= watched(clone);
	if (flags)
		watch_end(clone, bio_to_io(bio), bio, flags);

	return DM_MAPIO_REMAPPED;
}

/*
 *---------------------------------------------------------------
 * Changes
 *---------------------------------------------------------------
 */

static bool is_discard(struct bio *bio)
{
	return bio_op(bio) == REQ_OP_DISCARD;
}

/*
 * Take FUA off @bio, which is about to be sent to the destination.  Returns
 * what it must wait for instead once it has ended.  @committed: its regions
 * are.
 *
 * A flush with data comes as an empty flush and then as a write, which
 * device-mapper sends even if the flush has failed; that error is lost.  A
 * flush that cannot commit makes the mode worse before it ends, so the write
 * after it answers for both: outside of write mode FUA writes wait for what
 * flushes wait for.
 */
static unsigned int take_fua(struct clone *clone, struct bio *bio,
			     bool committed)
{
	if (!(bio->bi_opf & REQ_FUA))
		return 0;

	bio->bi_opf &= ~REQ_FUA;
	if (!committed)
		return IO_FUA | IO_COMMIT;
	if (!may_change_metadata(clone))
		return IO_FUA;

	return bdev_write_cache(clone->geo.dest) ? IO_FUA : 0;
}

/* Map a piece that changes the hydrated regions [begin, end). */
static int map_hydrated_change(struct clone *clone, struct bio *bio,
			       unsigned long begin, unsigned long end)
{
	bool committed = dm_clone_is_range_committed(clone->map, begin,
						     end - begin);

	if (!committed)
		dm_clone_note_user_change(clone);

	if (is_discard(bio) && !clone->discard_passdown) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}

	return remap(clone, bio, clone->geo.dest,
		     take_fua(clone, bio, committed));
}

/* End a discard whose regions are hydrated, or could not be. */
static void end_discard(struct clone *clone, struct clone_io *io,
			struct bio *bio, blk_status_t status)
{
	if (!status)
		dm_clone_note_user_change(clone);
	release_claim(clone, io);

	bio->bi_status = status;
	bio_endio(bio);
}

static void zeroed_for_bio(struct dm_clone_fill *fill, blk_status_t status)
{
	struct clone_io *io = container_of(fill, struct clone_io, fill);

	end_discard(io->clone, io, fill_to_bio(fill), status);
}

/* Count the regions of a discard as hydrated, whatever they hold. */
static void keep_discarded(struct clone *clone, struct clone_io *io,
			   struct bio *bio, enum dm_clone_means means)
{
	const struct dm_clone_outcome good = { .status = BLK_STS_OK };

	dm_clone_hydration_begin(clone->hydration, &io->fill.claim);
	dm_clone_hydration_end(clone->hydration, &io->fill.claim, means, &good);
	end_discard(clone, io, bio, BLK_STS_OK);
}

/* Remember that the regions [begin, end) are to be zeroed, and end @bio. */
static void remember_discard(struct clone *clone, struct bio *bio,
			     unsigned long begin, unsigned long end)
{
	/* If there is no memory for that, the discard is ignored. */
	dm_clone_hydration_zero_later(clone->hydration, begin, end);
	bio_endio(bio);
}

/* The same for regions that were claimed only for a moment. */
static void remember_claimed(struct clone *clone, struct clone_io *io,
			     struct bio *bio)
{
	unsigned long begin = io->fill.claim.begin, end = io->fill.claim.end;

	/* First, since zeroing leaves claimed regions to their owner. */
	release_claim(clone, io);
	remember_discard(clone, bio, begin, end);
}

/*
 * A discard of whole regions that owns the claim.  It may be a long one: the
 * destination was zeroed when it was mapped first, and then the write failed
 * for which it has waited.
 */
static void discard_claimed(struct clone *clone, struct clone_io *io,
			    struct bio *bio)
{
	if (has_feature(clone, NO_DISCARD_PASSDOWN))
		keep_discarded(clone, io, bio, DM_CLONE_BY_KEEPING);
	else if (dm_clone_hydration_is_dest_zeroed(clone->hydration))
		keep_discarded(clone, io, bio, DM_CLONE_BY_ZEROING);
	else if (bio_sectors(bio) > MAX_SHORT_DISCARD)
		remember_claimed(clone, io, bio);
	else
		dm_clone_hydration_zero(clone->hydration, &io->fill,
					clone->discard_passdown,
					zeroed_for_bio);
}

/* Would this discard take more than a moment? */
static bool is_long_discard(struct clone *clone, struct bio *bio)
{
	return is_discard(bio) && bio_sectors(bio) > MAX_SHORT_DISCARD &&
	       !has_feature(clone, NO_DISCARD_PASSDOWN) &&
	       !dm_clone_hydration_is_dest_zeroed(clone->hydration);
}

/* Map a piece of a long discard: the whole regions [begin, end). */
static int map_long_discard(struct clone *clone, struct bio *bio,
			    unsigned long begin, unsigned long end)
{
	if (!may_change_metadata(clone))
		return DM_MAPIO_KILL;

	remember_discard(clone, bio, begin, end);

	return DM_MAPIO_SUBMITTED;
}

/*
 * Map a piece that has the claim to its regions: @whole ones, or a part of one.
 */
static int map_claimed_change(struct clone *clone, struct clone_io *io,
			      struct bio *bio, bool whole)
{
	struct dm_clone_fill *fill = &io->fill;
	unsigned int flags = watched(clone);

	if (is_discard(bio)) {
		discard_claimed(clone, io, bio);
		return DM_MAPIO_SUBMITTED;
	}

	flags |= take_fua(clone, bio, false);

	bio_set_dev(bio, clone->geo.dest);
	if (whole) {
		watch_end(clone, io, bio, flags | IO_OVERWRITE);
	} else {
		watch_end(clone, io, bio, flags | IO_PARTIAL);
		atomic_set(&io->nr_pending, 2);
		dm_clone_hydration_rest_begin(clone->hydration, fill,
					      bio->bi_iter.bi_sector,
					      bio_sectors(bio), copied_rest);
	}

	return DM_MAPIO_REMAPPED;
}

/*
 * Map a piece that changes the regions [begin, end): @whole, or a part of one.
 */
static int map_unhydrated_change(struct clone *clone, struct bio *bio,
				 unsigned long begin, unsigned long end,
				 bool whole)
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
	if (!dm_clone_claim_or_wait(&clone->claims, &io->fill.claim, begin, end,
				    bio)) {
		dm_clone_hydration_hurry(clone->hydration);
		return DM_MAPIO_SUBMITTED;
	}

	/* Another may have hydrated them between the look and the claim. */
	if (dm_clone_is_range_hydrated(clone->map, begin, end - begin)) {
		release_claim(clone, io);
		return map_hydrated_change(clone, bio, begin, end);
	}

	return map_claimed_change(clone, io, bio, whole);
}

/*
 * Cut a piece off a bio that changes regions, and map it.  It covers hydrated
 * regions only; or a part of one region; or whole regions, all of which were
 * unhydrated a moment ago.
 */
static int map_change(struct clone *clone, struct bio *bio)
{
	unsigned long begin = first_region(clone, bio);
	unsigned long whole_end = end_of_whole_regions(clone, bio);
	bool whole, is_long = is_long_discard(clone, bio);
	unsigned long end;

	if (unlikely(clone->read_only))
		return DM_MAPIO_KILL;

	if (dm_clone_find_run(clone->map, begin, end_region(clone, bio),
			      &end)) {
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
 * Map a piece that has waited.  The bits may have changed since it was cut;
 * that it covers whole regions, or a part of one, has not.
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
 * Reads
 *---------------------------------------------------------------
 */

/* @bio reads regions that are all hydrated, or all not. */
static int remap_read(struct clone *clone, struct bio *bio, bool hydrated)
{
	if (hydrated)
		return remap(clone, bio, clone->geo.dest, 0);

	this_cpu_inc(*clone->nr_source_reads);
	return remap(clone, bio, clone->geo.source,
		     dm_clone_hydration_awaits_source(clone->hydration) ? IO_PROBE : 0);
}

/*
 * Map a piece of a read.  What hydrates regions after this look overlaps with
 * the read, so the source's data will do.
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
 * Map a read that has waited for a claim.  It is too late to cut it, so it is
 * split if some of its regions are hydrated by now.  Only the work may do this:
 * below submit_bio_noacct() no part would be sent before the next one is
 * allocated.
 */
static int map_uncut_read(struct clone *clone, struct bio *bio)
{
	unsigned long end;
	struct bio *part;
	bool hydrated;
	sector_t sector;

	for (;;) {
		hydrated = dm_clone_find_run(clone->map,
					     first_region(clone, bio),
					     end_region(clone, bio), &end);
		sector = dm_clone_range_end(&clone->geo, end);
		if (sector >= bio_end_sector(bio))
			return remap_read(clone, bio, hydrated);

		/* A part has no per-bio data: just send it. */
		part = bio_split(bio, sector - bio->bi_iter.bi_sector, GFP_NOIO,
				 &clone->parts);
		bio_chain(part, bio);
		bio_set_dev(part,
			    hydrated ? clone->geo.dest : clone->geo.source);
		if (!hydrated)
			this_cpu_inc(*clone->nr_source_reads);
		dm_submit_bio_remap(bio, part);
	}
}

/*
 * Map a read of unhydrated regions, up to @end, so that it hydrates them.  The
 * loop ends: others hydrate regions, so the run becomes shorter each time.
 */
static int map_hydrating_read(struct clone *clone, struct bio *bio,
			      unsigned long end)
{
	unsigned long begin = first_region(clone, bio), taken_until;
	struct dm_clone_read *read;

	do {
		switch (dm_clone_reader_prepare(clone->reader, begin, end,
						&read, &taken_until)) {
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
 * @r: as dm_clone_map() returns it.
 *
 * dm_submit_bio_remap() charges the bio to the cgroup that it came from, which
 * submit_bio() would not: use it for all bios that dm_clone_map() has kept.
 */
static void submit_mapped(struct bio *bio, int r)
{
	if (r == DM_MAPIO_REMAPPED)
		dm_submit_bio_remap(bio, NULL);
	else if (r == DM_MAPIO_KILL)
		bio_io_error(bio);
	cond_resched();
}

/* A read that needs the source moves on to a work that may block on it. */
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

/* This never blocks on the source: the copier reads what changes need of it. */
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
	struct clone *clone = container_of(work, struct clone,
					   deferred_read_work);
	struct bio_list bios = take_deferred(clone, &clone->deferred_reads);
	struct bio *bio;

	while ((bio = bio_list_pop(&bios)))
		submit_mapped(bio, map_uncut_read(clone, bio));
}

void dm_clone_map_init(struct clone *clone)
{
	bio_list_init(&clone->deferred);
	bio_list_init(&clone->deferred_reads);
	INIT_WORK(&clone->deferred_work, do_deferred);
	INIT_WORK(&clone->deferred_read_work, do_deferred_reads);
}

/*
 *---------------------------------------------------------------
 * Map
 *---------------------------------------------------------------
 */

/* Flush bios carry no data: device-mapper sends that later. */
static int map_flush(struct clone *clone, struct bio *bio)
{
	bio_set_dev(bio, clone->geo.dest);

	if (READ_ONCE(clone->finished))
		return DM_MAPIO_REMAPPED;

	dm_clone_await_flush(clone, bio);
	return DM_MAPIO_SUBMITTED;
}

int dm_clone_map(struct dm_target *ti, struct bio *bio)
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
