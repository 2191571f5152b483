/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The region map: which regions are hydrated, in core, and what of that is not
 * on the disk.
 *
 * It is the truth while the device lives.  dm-clone-metadata.c writes what is
 * marked dirty to the disk, one transaction at a time; nobody else needs to
 * know how.
 *
 * Regions are numbered from 0 on; a range is (first region, number of
 * regions).  Two sorts of functions:
 *
 *  - The set and query functions work in any context.  Setting, and asking
 *    whether anything has changed, takes a spinlock that's innermost; asking
 *    about regions takes none.  Counts are read without a lock.
 *  - Those for whoever writes the map to the disk are for one thread at a time.
 */
#ifndef DM_CLONE_REGION_MAP_H
#define DM_CLONE_REGION_MAP_H

#include <linux/types.h>

/* Regions whose bits are written together. */
#define DM_CLONE_REGIONS_PER_WORD 64

struct dm_clone_region_map;

/* No region is hydrated, nothing is dirty.  NULL if there is no memory. */
struct dm_clone_region_map *dm_clone_region_map_create(unsigned long nr_regions);
void dm_clone_region_map_destroy(struct dm_clone_region_map *map);

/*
 * Set the bits of @nr regions from @start on.  The data of these regions must
 * be complete in the destination (though not yet durable).
 *
 * Returns true if the caller has to see to it that there's a commit: these are the
 * first changes since the last commit took them, or now all regions are hydrated.
 */
bool dm_clone_set_range_hydrated(struct dm_clone_region_map *map,
				 unsigned long start, unsigned long nr);

bool dm_clone_is_region_hydrated(struct dm_clone_region_map *map,
				 unsigned long region);
bool dm_clone_is_range_hydrated(struct dm_clone_region_map *map,
				unsigned long start, unsigned long nr);

/* Are none of the regions hydrated? */
bool dm_clone_is_range_unhydrated(struct dm_clone_region_map *map,
				  unsigned long start, unsigned long nr);

/*
 * The run of regions from @start on that are all hydrated, or all not.
 * Returns whether they are hydrated; *@run_end is the first region of
 * [start, end) that is different, or @end.
 */
bool dm_clone_find_run(struct dm_clone_region_map *map, unsigned long start,
		       unsigned long end, unsigned long *run_end);

/* The first unhydrated region at or after @start, or the number of regions. */
unsigned long dm_clone_find_next_unhydrated_region(struct dm_clone_region_map *map,
						   unsigned long start);

/* How many of the @nr regions from @start on are not hydrated?  May sleep. */
unsigned long dm_clone_nr_of_unhydrated(struct dm_clone_region_map *map,
					unsigned long start, unsigned long nr);

/*
 * Would a crash now find all of these regions hydrated?  True only if so; may
 * be false although it would, for regions within 64 regions of one that is
 * not committed, and for all regions while a commit is under way.
 *
 * The bits must have been found set before.  If the answer is false, then the
 * next commit or the one under way covers them.
 */
bool dm_clone_is_range_committed(struct dm_clone_region_map *map,
				 unsigned long start, unsigned long nr);

/* Have bits been set since the last commit took them (or was it aborted)? */
bool dm_clone_changed_this_transaction(struct dm_clone_region_map *map);

/* Are all regions hydrated, in core? */
bool dm_clone_is_hydration_done(struct dm_clone_region_map *map);

unsigned long dm_clone_nr_of_hydrated_regions(struct dm_clone_region_map *map);

/*
 * For dm-clone-metadata.c.  Words are numbered from 0 on, and have the bits of 64
 * regions each, the first of them lowest.
 */

/* How many words are there? */
u32 dm_clone_region_map_nr_words(struct dm_clone_region_map *map);

/* Word @index, as the disk has it.  Before the map is used by anybody else. */
void dm_clone_region_map_load_word(struct dm_clone_region_map *map, u32 index, u64 word);

/* Is word @index not what the disk has, which is @word?  Then it is dirty. */
void dm_clone_region_map_compare_word(struct dm_clone_region_map *map, u32 index, u64 word);

/* The first dirty word at or after @from, or the number of words. */
u32 dm_clone_region_map_next_dirty_word(struct dm_clone_region_map *map, u32 from);

/*
 * Take the @nr words from @first on off their dirty marks, and store them.  What is
 * set meanwhile is marked again, and stored or not.
 */
void dm_clone_region_map_take_words(struct dm_clone_region_map *map, u32 first, u32 nr,
				    __le64 *words);

/*
 * What dm_clone_changed_this_transaction() tells, and whether setting bits does: false
 * before words are taken, true if dirty ones are left when that has ended.
 */
void dm_clone_region_map_set_changed(struct dm_clone_region_map *map, bool changed);

/*
 * From begin_commit to end_commit no region counts as committed: before words are
 * taken, until they are durable or marked dirty again.
 */
void dm_clone_region_map_begin_commit(struct dm_clone_region_map *map);
void dm_clone_region_map_end_commit(struct dm_clone_region_map *map);

/*
 * Free the bits: if all regions are hydrated, and that is committed, then they say
 * nothing any more.  Does nothing in any other state.  Sleeps.
 */
void dm_clone_region_map_release(struct dm_clone_region_map *map);

#endif /* DM_CLONE_REGION_MAP_H */
