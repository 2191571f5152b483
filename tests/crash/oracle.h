/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What may be found after a power cut.
 *
 * Metadata: a valid superblock, or none at all yet; trees, checksums and
 * reference counts without faults.
 *
 * Each sector of the clone, which is read where the metadata says: what it was
 * at first, as a rule the source's data, or what a write that was begun had for
 * it, or zeroes if it was zeroed or discarded; never what the destination held
 * before.  But nothing that was overwritten for good: if a write, or
 * write-zeroes, was acknowledged and then covered by a flush (which was queued
 * after that and has completed), or was a FUA write, then everything that had
 * been acknowledged before it was queued is gone, and so is what was at first.
 * A discard promises nothing, so it overwrites nothing for good.
 *
 * If the superblock says that the destination reads as zeroes wherever regions
 * are not hydrated, then so it does.
 *
 * After a suspend, as long as there is power, the same holds for everything
 * that was acknowledged before the suspend.
 */
#ifndef CRASH_ORACLE_H
#define CRASH_ORACLE_H

#include "disk.h"

struct oracle {
	const struct recording *rec;
	const struct disk *disk;
	uint32_t now;

	/*
	 * A sector each: everything acknowledged before this event is gone; 0:
	 * not even what was at first is.  The second one is for suspends.
	 */
	uint32_t *floor;
	uint32_t *suspend_floor;

	uint32_t *acked;		/* upper bios that no flush has covered */
	uint32_t nr_acked;
	uint32_t *unsuspended;		/* the same for suspends */
	uint32_t nr_unsuspended;
	uint32_t suspend_began;
	uint64_t floor_version;		/* how often floors were raised */

	/* A sector each: the bios that may have zeroed it. */
	uint32_t *zeroers;
	uint64_t *first_zeroer;

	/* Of the state that is looked at. */
	uint8_t *bitmap;
	struct verdict *verdict;
};

/* What is wrong with a state. */
struct verdict {
	uint64_t nr_problems;
	bool formatted;
	uint64_t nr_hydrated;
	uint64_t first_sector;		/* of the first wrong run, if there is one */
	char text[4096];
};

void oracle_init(struct oracle *o, const struct recording *rec, const struct disk *disk);
void oracle_free(struct oracle *o);

/* Let the next event happen. */
void oracle_advance(struct oracle *o);

/*
 * Judge what is on the disk now.  @suspended: the last event is the end of a
 * suspend, and no power was lost.
 */
void oracle_judge(struct oracle *o, bool suspended, struct verdict *verdict);

/* After oracle_judge() has found nothing wrong: the stamps that are read. */
void oracle_view(const struct oracle *o, uint32_t *stamps);

/* Does the region of this sector read from the destination? */
bool oracle_is_hydrated(const struct oracle *o, uint64_t sector);

#endif
