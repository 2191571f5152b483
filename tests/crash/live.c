// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes to blocks that are in use.  See live.h.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../tools/lib/clone-metadata.h"
#include "live.h"

#define MAX_REPORTS	5
#define FROM_THE_START	UINT32_MAX

/* A superblock that a crash may leave. */
struct live_superblock {
	struct live_superblock *next;
	uint32_t lower;			/* the write, or FROM_THE_START */
	uint8_t used[];			/* a block each */
};

struct reader {
	const struct live *live;
	struct live_superblock *sb;
};

/* The walk reads what the superblock refers to. */
static int read_block(void *context, uint64_t block, void *buf)
{
	struct reader *reader = context;

	if (block < reader->live->nr_blocks)
		reader->sb->used[block] = 1;
	disk_read_block(reader->live->disk, block, buf);

	return 0;
}

/* The disk as it reads now, cache included, has a superblock. */
static void add_superblock(struct live *live, uint32_t lower)
{
	struct live_superblock *sb = need(1, sizeof(*sb) + live->nr_blocks), **p;
	struct reader reader = { live, sb };
	struct clone_md_image image = {
		.read = read_block, .context = &reader, .nr_blocks = live->nr_blocks,
	};
	const struct clone_md_visitor nobody = { 0 };
	struct clone_md_superblock found;
	const char *text;

	sb->lower = lower;
	if (clone_md_read_superblock(&image, &found, &text)) {
		free(sb);
		return;
	}

	/* The oracle judges whether it is good. */
	clone_md_check(&image, &found, &nobody, NULL);
	for (p = &live->first; *p; p = &(*p)->next)
		;
	*p = sb;
}

static void take_superblock(struct live *live, uint32_t lower)
{
	struct disk *disk = live->disk;

	disk_begin_cut(disk);
	for (uint32_t i = 0; i < disk->nr_volatiles; i++) {
		const struct lower_bio *bio = &disk->rec->lower[disk->volatiles[i]];

		for (uint64_t s = 0; bio->meta && s < bio->b.nr; s++)
			disk_add(disk, disk->volatiles[i], s);
	}
	add_superblock(live, lower);
	disk_end_cut(disk);
}

static void take_write(struct live *live, uint32_t lower)
{
	const struct lower_bio *bio = &live->disk->rec->lower[lower];
	uint64_t block = bio->b.sector / 8, end = (bio->b.sector + bio->b.nr - 1) / 8 + 1;
	const struct live_superblock *sb;

	if (!block) {
		take_superblock(live, lower);
		block++;
	}

	for (; block < end; block++) {
		for (sb = live->first; sb && !sb->used[block]; sb = sb->next)
			;
		if (!sb || sb->lower == lower)
			continue;
		if (live->nr_bad++ < MAX_REPORTS)
			printf("  event %u: block %llu is written, which superblock %d needs\n",
			       live->disk->now - 1, (unsigned long long)block, (int)sb->lower);
	}
}

/* The last superblock that is durable: a crash leaves none before it. */
static void drop_superblocks(struct live *live)
{
	struct live_superblock *sb, *durable = NULL;

	for (sb = live->first; sb; sb = sb->next)
		if (sb->lower != FROM_THE_START && live->disk->durable[sb->lower])
			durable = sb;

	while (durable && live->first != durable) {
		sb = live->first;
		live->first = sb->next;
		free(sb);
	}
}

void live_advance(struct live *live)
{
	const struct recording *rec = live->disk->rec;
	const struct event *event = &rec->events[live->disk->now - 1];

	if (event->kind != LOWER_QUEUED && event->kind != LOWER_COMPLETED)
		return;
	if (!rec->lower[event->index].meta)
		return;

	if (event->kind == LOWER_COMPLETED)
		drop_superblocks(live);
	else if (rec->lower[event->index].b.nr)
		take_write(live, event->index);
}

void live_init(struct live *live, struct disk *disk)
{
	*live = (struct live) {
		.disk = disk,
		.nr_blocks = disk->rec->meta_sectors / 8,
	};
	add_superblock(live, FROM_THE_START);
}

void live_free(struct live *live)
{
	while (live->first) {
		struct live_superblock *sb = live->first;

		live->first = sb->next;
		free(sb);
	}
}
