/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * No block that a superblock refers to is written while a crash may leave that
 * superblock.  Unlike the oracle this does not care whether the new content
 * happens to make sense: often it is a block of the same kind.
 */
#ifndef CRASH_LIVE_H
#define CRASH_LIVE_H

#include "disk.h"

struct live_superblock;

struct live {
	struct disk *disk;
	uint64_t nr_blocks;
	struct live_superblock *first;	/* the durable one first; or none */
	uint64_t nr_bad;		/* writes */
};

void live_init(struct live *live, struct disk *disk);
void live_free(struct live *live);

/* After disk_advance(): look at the event that has just happened. */
void live_advance(struct live *live);

#endif
