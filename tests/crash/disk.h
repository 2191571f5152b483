/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a power cut leaves on the disks.
 *
 * The lower device of a recording stands for two disks, metadata and
 * destination, each with a volatile write cache of its own: a flush that came
 * through one of them says nothing about the other.  (They are one device so
 * that there is one order of everything.)
 *
 * A write is durable once a flush of its disk has completed that was queued
 * after the write had completed; a FUA write once it has completed.  All other
 * writes that were queued by now are volatile: any set of them, and any sectors
 * of each, may be on the disk or not.  Where several writes of a sector are
 * there, the one that took effect last is found.
 *
 * A destination may have no FUA.  Then a flush follows such a write, and if
 * that fails the cache may be lost with it: nothing of what was volatile will
 * ever be on the disk, and no later flush says so.
 *
 * A failed flush of the metadata leaves each write that it should have covered
 * volatile until it is overwritten: no later flush covers it.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "recording.h"

/* A sector: its content, and the write that it is from. */
struct cell {
	const uint8_t *data;
	uint32_t writer;		/* index of the lower bio + 1; 0: none */
	uint32_t birth;			/* destination only */
};

struct disk {
	const struct recording *rec;

	/* Metadata first, destination from rec->meta_sectors on. */
	struct cell *cells;
	uint64_t nr_cells;

	/* Sums up what is in the cells. */
	uint64_t hash;
	uint64_t meta_hash;

	bool implied_flushes_fail;	/* those of FUA writes to the destination */

	uint32_t now;			/* events before this one have happened */
	uint32_t *volatiles;		/* lower bios, in the order of queueing */
	uint32_t nr_volatiles;
	bool *durable;			/* a lower bio each */
	bool *doubtful;			/* the same: no flush covers it any more */

	uint8_t *initial;		/* content of all sectors at first */

	struct change *changes;		/* since disk_begin_cut() */
	uint32_t nr_changes, room_for_changes;
	bool cutting;
};

void disk_init(struct disk *disk, const struct recording *rec);
void disk_free(struct disk *disk);

/* Let the next event happen. */
void disk_advance(struct disk *disk);

/*
 * Between these two disk_add() adds writes and disk_set() changes cells;
 * disk_end_cut() undoes all of that.
 */
void disk_begin_cut(struct disk *disk);
void disk_end_cut(struct disk *disk);

/* Sector @i, counted from its start, of volatile bio @lower is on the disk. */
void disk_add(struct disk *disk, uint32_t lower, uint64_t i);

/* Change a cell, whatever the rules. @data must last until disk_end_cut(). */
void disk_set(struct disk *disk, uint64_t sector, const struct cell *cell);

/* Block @block of the metadata. */
void disk_read_block(const struct disk *disk, uint64_t block, uint8_t *buf);

#endif
