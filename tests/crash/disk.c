// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a power cut leaves on the disks.  See disk.h.
 */
#include <stdlib.h>
#include <string.h>

#include "../lib/stamp.h"
#include "disk.h"

struct change {
	uint64_t sector;
	struct cell before;
};

static const uint8_t zeroes[SECTOR_SIZE];

/* What sector @s of the destination holds at first. */
static uint32_t initial_birth(const struct recording *rec, uint64_t s)
{
	if (rec->initial.dest[s] == rec->initial.view[s])
		return BIRTH_OLD;

	/* Nothing but a discard may have it show. */
	return rec->initial.dest[s] == STAMP_ZERO ? BIRTH_ZERO : BIRTH_FORMER;
}

void disk_init(struct disk *disk, const struct recording *rec)
{
	uint64_t meta = rec->meta_sectors;

	memset(disk, 0, sizeof(*disk));
	disk->rec = rec;
	disk->nr_cells = meta + rec->target_size;
	disk->cells = need(disk->nr_cells, sizeof(*disk->cells));
	disk->volatiles = need(rec->nr_lower, sizeof(*disk->volatiles));
	disk->durable = need(rec->nr_lower, sizeof(*disk->durable));
	disk->doubtful = need(rec->nr_lower, sizeof(*disk->doubtful));

	disk->initial = need(disk->nr_cells, SECTOR_SIZE);
	memcpy(disk->initial, rec->initial.meta, meta * SECTOR_SIZE);
	for (uint64_t s = 0; s < rec->target_size; s++)
		stamp_fill(disk->initial + (meta + s) * SECTOR_SIZE, s, 1, rec->initial.dest[s]);
	for (uint64_t i = 0; i < disk->nr_cells; i++)
		disk->cells[i].data = disk->initial + i * SECTOR_SIZE;
	for (uint64_t s = 0; s < rec->target_size; s++)
		disk->cells[meta + s].birth = initial_birth(rec, s);
}

void disk_free(struct disk *disk)
{
	free(disk->initial);
	free(disk->doubtful);
	free(disk->durable);
	free(disk->volatiles);
	free(disk->cells);
	free(disk->changes);
}

/*
 *---------------------------------------------------------------
 * Cells
 *---------------------------------------------------------------
 */

static uint64_t mix(uint64_t sector, uint64_t writer)
{
	uint64_t z = (sector << 32 | writer) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void put_cell(struct disk *disk, uint64_t sector, const struct cell *cell)
{
	struct cell *old = &disk->cells[sector];
	uint64_t delta = mix(sector, old->writer) ^ mix(sector, cell->writer);

	disk->hash ^= delta;
	if (sector < disk->rec->meta_sectors)
		disk->meta_hash ^= delta;
	*old = *cell;
}

static void note_change(struct disk *disk, uint64_t sector)
{
	if (disk->nr_changes == disk->room_for_changes) {
		disk->room_for_changes = disk->room_for_changes * 2 + 1024;
		disk->changes = realloc(disk->changes, disk->room_for_changes *
					sizeof(*disk->changes));
		if (!disk->changes)
			fail("out of memory");
	}

	disk->changes[disk->nr_changes].sector = sector;
	disk->changes[disk->nr_changes++].before = disk->cells[sector];
}

void disk_set(struct disk *disk, uint64_t sector, const struct cell *cell)
{
	if (disk->cutting)
		note_change(disk, sector);
	put_cell(disk, sector, cell);
}

/* Did @a take effect after @b? */
static bool is_later(const struct recording *rec, uint32_t a, uint32_t b)
{
	uint32_t ma = rec->lower[a].moment, mb = rec->lower[b].moment;

	return ma > mb || (ma == mb && a > b);
}

void disk_add(struct disk *disk, uint32_t lower, uint64_t i)
{
	const struct lower_bio *bio = &disk->rec->lower[lower];
	uint64_t sector = bio->b.sector + i;
	uint32_t writer = disk->cells[sector].writer;
	struct cell cell = {
		.data = bio->data ? bio->data + i * SECTOR_SIZE : zeroes,
		.writer = lower + 1,
		.birth = bio->births ? bio->births[i] : BIRTH_BAD,
	};

	if (!writer || is_later(disk->rec, lower, writer - 1))
		disk_set(disk, sector, &cell);
}

void disk_read_block(const struct disk *disk, uint64_t block, uint8_t *buf)
{
	for (unsigned int i = 0; i < 8; i++)
		memcpy(buf + i * SECTOR_SIZE, disk->cells[block * 8 + i].data, SECTOR_SIZE);
}

/*
 *---------------------------------------------------------------
 * Time
 *---------------------------------------------------------------
 */

static void make_durable(struct disk *disk, uint32_t lower)
{
	const struct lower_bio *bio = &disk->rec->lower[lower];

	disk->durable[lower] = true;
	/* A discard is a hint: its effect may never reach the disk. */
	if (bio->b.kind == BIO_DISCARD && lower % 2)
		return;
	for (uint64_t i = 0; i < bio->b.nr; i++)
		disk_add(disk, lower, i);
}

static bool is_covered(const struct lower_bio *bio, const struct lower_bio *flush)
{
	return bio->meta == flush->meta && bio->b.completed < flush->b.queued;
}

/* @end has completed: a flush, or a FUA write. */
static void settle_volatiles(struct disk *disk, uint32_t end)
{
	const struct lower_bio *last = &disk->rec->lower[end];
	uint32_t kept = 0;

	for (uint32_t i = 0; i < disk->nr_volatiles; i++) {
		uint32_t lower = disk->volatiles[i];
		const struct lower_bio *bio = &disk->rec->lower[lower];

		if (lower == end || (last->b.kind == BIO_FLUSH && !disk->doubtful[lower] &&
				     is_covered(bio, last)))
			make_durable(disk, lower);
		else
			disk->volatiles[kept++] = lower;
	}
	disk->nr_volatiles = kept;
}

/* The destination's cache is lost, except for what is in flight. */
static void lose_volatiles(struct disk *disk)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < disk->nr_volatiles; i++) {
		const struct lower_bio *bio = &disk->rec->lower[disk->volatiles[i]];

		if (bio->meta || bio->b.completed >= disk->now)
			disk->volatiles[kept++] = disk->volatiles[i];
	}
	disk->nr_volatiles = kept;
}

static void doubt_metadata(struct disk *disk)
{
	for (uint32_t i = 0; i < disk->nr_volatiles; i++) {
		uint32_t lower = disk->volatiles[i];

		if (disk->rec->lower[lower].meta && disk->rec->lower[lower].b.completed < disk->now)
			disk->doubtful[lower] = true;
	}
}

void disk_advance(struct disk *disk)
{
	const struct event *event = &disk->rec->events[disk->now++];
	const struct bio *b = &disk->rec->lower[event->index].b;

	if (event->kind == FLUSH_FAILED)
		doubt_metadata(disk);

	if (event->kind == LOWER_QUEUED && b->kind != BIO_FLUSH)
		disk->volatiles[disk->nr_volatiles++] = event->index;
	else if (event->kind == LOWER_COMPLETED && (b->kind == BIO_FLUSH || b->fua))
		settle_volatiles(disk, event->index);

	if (event->kind == LOWER_COMPLETED && b->fua && b->kind != BIO_FLUSH &&
	    !disk->rec->lower[event->index].meta && disk->implied_flushes_fail)
		lose_volatiles(disk);
}

void disk_begin_cut(struct disk *disk)
{
	disk->cutting = true;
	disk->nr_changes = 0;
}

void disk_end_cut(struct disk *disk)
{
	disk->cutting = false;
	while (disk->nr_changes) {
		struct change *change = &disk->changes[--disk->nr_changes];

		put_cell(disk, change->sector, &change->before);
	}
}
