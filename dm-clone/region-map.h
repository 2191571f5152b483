/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The region map: which regions are hydrated, in core, and which of the bits
 * are not on the disk yet.
 *
 * It is the truth while the device lives. dm-clone-metadata.c writes what is
 * dirty to the disk, one transaction at a time; nobody else needs to know how.
 *
 * Regions are numbered from 0 on; a range is (first region, number of
 * regions).  Two sorts of functions:
 *
 *  - The set and query functions work in any context.  Setting, and asking
 *    whether anything has changed, takes a spinlock, which is innermost; asking
 *    about regions takes none.  Counts are read without a lock.
 *  - Those that write the map to the disk are for one thread at a time.
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
 * Set the bits of @nr regions from @start on.  Their data must be complete in
 * the destination, but need not be durable.
 *
 * Returns true if the caller has to arrange for a commit: these are the first
 * changes since the last commit took them, or now all regions are hydrated.
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
 * The run of regions from @start on that are all hydrated, or all not.  Returns
 * whether they are hydrated; *@run_end is the first region of [start, end) that
 * differs, or @end.
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
 * Would all of these regions be found hydrated after a crash now?  If true,
 * they would.  It may be false although they would, for regions in the same
 * word as one that is not committed, and for all regions while a commit is
 * under way.
 *
 * The caller must have found the bits set.  If the answer is false the next
 * commit covers them, or the one under way.
 */
bool dm_clone_is_range_committed(struct dm_clone_region_map *map,
				 unsigned long start, unsigned long nr);

/* Have bits been set since the last commit took them (or was it aborted)? */
bool dm_clone_changed_this_transaction(struct dm_clone_region_map *map);

/* Are all regions hydrated, in core? */
bool dm_clone_is_hydration_done(struct dm_clone_region_map *map);

unsigned long dm_clone_nr_of_hydrated_regions(struct dm_clone_region_map *map);

/*
 * For dm-clone-metadata.c.  Words are numbered from 0, and have the bits of 64
 * regions each, the lowest for the first.
 */

/* How many words are there? */
u32 dm_clone_region_map_nr_words(struct dm_clone_region_map *map);

/* Set word @index, as the disk has it, before anybody else uses the map. */
void dm_clone_region_map_load_word(struct dm_clone_region_map *map, u32 index,
				   u64 word);

/* The disk has @word: if word @index differs it is dirty. */
void dm_clone_region_map_compare_word(struct dm_clone_region_map *map,
				      u32 index, u64 word);

/* The first dirty word at or after @from, or the number of words. */
u32 dm_clone_region_map_next_dirty_word(struct dm_clone_region_map *map,
					u32 from);

/*
 * Store the @nr words from @first on, which are not dirty any more.  Words in
 * which bits are set meanwhile are dirty again, and stored with or without
 * these.
 */
void dm_clone_region_map_take_words(struct dm_clone_region_map *map, u32 first,
				    u32 nr, __le64 *words);

/*
 * What dm_clone_changed_this_transaction() says: false before words are taken,
 * true if dirty words are left afterwards.  Setting bits sets it too, and tells
 * its caller when it was false.
 */
void dm_clone_region_map_set_changed(struct dm_clone_region_map *map,
				     bool changed);

/*
 * No region counts as committed from begin_commit, before words are taken, to
 * end_commit, when they are durable or dirty again.
 */
void dm_clone_region_map_begin_commit(struct dm_clone_region_map *map);
void dm_clone_region_map_end_commit(struct dm_clone_region_map *map);

/*
 * Free the bits if all regions are hydrated and committed: they say nothing any
 * more.  Does nothing in any other state.  Sleeps.
 */
void dm_clone_region_map_release(struct dm_clone_region_map *map);

#endif /* DM_CLONE_REGION_MAP_H */
