// SPDX-License-Identifier: GPL-2.0-only
/*
 * What may be found after a power cut.  See oracle.h.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/lib/clone-metadata.h"
#include "../lib/stamp.h"
#include "oracle.h"

#define MAX_TEXT_RUNS	8

/*
 *---------------------------------------------------------------
 * Reports
 *---------------------------------------------------------------
 */

__attribute__((format(printf, 2, 3)))
static void report(struct oracle *o, const char *format, ...)
{
	struct verdict *v = o->verdict;
	size_t used = strlen(v->text);
	va_list ap;

	if (v->nr_problems++ >= MAX_TEXT_RUNS)
		return;

	va_start(ap, format);
	vsnprintf(v->text + used, sizeof(v->text) - used, format, ap);
	va_end(ap);
	used = strlen(v->text);
	snprintf(v->text + used, sizeof(v->text) - used, "\n");
}

static void describe_bio(const struct recording *rec, uint32_t upper, char *text, size_t size)
{
	static const char *const names[] = { "write", "write-zeroes", "discard", "flush" };
	const struct bio *b = &rec->upper[upper].b;

	snprintf(text, size, "%s%s %u (%llu+%llu, queued %u, completed %d)",
		 b->fua ? "FUA " : "", names[b->kind], rec->upper[upper].op,
		 (unsigned long long)b->sector, (unsigned long long)b->nr, b->queued,
		 b->completed == NEVER ? -1 : (int)b->completed);
}

static void describe_birth(const struct oracle *o, uint32_t birth, uint64_t sector,
			   bool hydrated, char *text, size_t size)
{
	if (!hydrated)
		snprintf(text, size, "the source's data (not hydrated)");
	else if (birth == BIRTH_SOURCE)
		snprintf(text, size, "the source's data");
	else if (birth == BIRTH_OLD)
		snprintf(text, size, "what the clone showed at first");
	else if (birth == BIRTH_ZERO)
		snprintf(text, size, "zeroes");
	else if (birth == BIRTH_FORMER)
		snprintf(text, size, "what the destination held before");
	else if (birth == BIRTH_BAD)
		stamp_describe(text, size,
			       o->disk->cells[o->rec->meta_sectors + sector].data, sector);
	else
		describe_bio(o->rec, birth, text, size);
}

/*
 *---------------------------------------------------------------
 * Expectations
 *---------------------------------------------------------------
 */

static bool overwrites(const struct bio *b)
{
	return b->kind == BIO_WRITE || b->kind == BIO_ZEROES;
}

static void raise_floor(struct oracle *o, uint32_t *floor, uint32_t upper)
{
	const struct bio *b = &o->rec->upper[upper].b;

	/* Event 0 is none of a bio, so no floor raised is 0. */
	for (uint64_t s = b->sector; s < b->sector + b->nr; s++)
		if (floor[s] < b->queued)
			floor[s] = b->queued;
	o->floor_version++;
}

/* Raise floors for those of @list that were acknowledged before @limit. */
static void cover(struct oracle *o, uint32_t *floor, uint32_t *list, uint32_t *nr,
		  uint32_t limit)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < *nr; i++) {
		if (o->rec->upper[list[i]].b.completed < limit)
			raise_floor(o, floor, list[i]);
		else
			list[kept++] = list[i];
	}
	*nr = kept;
}

static void take_ack(struct oracle *o, uint32_t upper)
{
	const struct bio *b = &o->rec->upper[upper].b;

	if (b->completed == NEVER)
		return;

	if (b->kind == BIO_FLUSH) {
		cover(o, o->floor, o->acked, &o->nr_acked, b->queued);
	} else if (overwrites(b)) {
		o->unsuspended[o->nr_unsuspended++] = upper;
		if (b->fua)
			raise_floor(o, o->floor, upper);
		else
			o->acked[o->nr_acked++] = upper;
	}
}

/* What no flush has covered may be there or not, from here on. */
static void forget_acks(struct oracle *o)
{
	o->nr_acked = 0;
	o->nr_unsuspended = 0;
}

void oracle_advance(struct oracle *o)
{
	const struct event *event = &o->rec->events[o->now];

	if (event->kind == UPPER_COMPLETED)
		take_ack(o, event->index);
	else if (event->kind == SUSPEND)
		o->suspend_began = o->now;
	else if (event->kind == SUSPENDED)
		cover(o, o->suspend_floor, o->unsuspended, &o->nr_unsuspended,
		      o->suspend_began);
	else if (event->kind == RESET)
		forget_acks(o);
	o->now++;
}

/* For each sector the bios that zero or discard it, in one array. */
static void find_zeroers(struct oracle *o)
{
	const struct recording *rec = o->rec;
	uint64_t *next = need(rec->target_size + 1, sizeof(*next)), total = 0;

	o->first_zeroer = need(rec->target_size + 2, sizeof(*o->first_zeroer));
	for (uint32_t i = 0; i < rec->nr_upper; i++) {
		const struct bio *b = &rec->upper[i].b;

		if (b->kind == BIO_ZEROES || b->kind == BIO_DISCARD)
			for (uint64_t s = b->sector; s < b->sector + b->nr; s++)
				o->first_zeroer[s + 1]++;
	}
	for (uint64_t s = 0; s < rec->target_size; s++) {
		o->first_zeroer[s + 1] += o->first_zeroer[s];
		next[s] = o->first_zeroer[s];
	}
	total = o->first_zeroer[rec->target_size];

	o->zeroers = need(total, sizeof(*o->zeroers));
	for (uint32_t i = 0; i < rec->nr_upper; i++) {
		const struct bio *b = &rec->upper[i].b;

		if (b->kind == BIO_ZEROES || b->kind == BIO_DISCARD)
			for (uint64_t s = b->sector; s < b->sector + b->nr; s++)
				o->zeroers[next[s]++] = i;
	}
	free(next);
}

void oracle_init(struct oracle *o, const struct recording *rec, const struct disk *disk)
{
	uint64_t nr_regions = (rec->target_size - 1) / rec->region_size + 1;

	memset(o, 0, sizeof(*o));
	o->rec = rec;
	o->disk = disk;
	o->floor = need(rec->target_size, sizeof(*o->floor));
	o->suspend_floor = need(rec->target_size, sizeof(*o->suspend_floor));
	o->acked = need(rec->nr_upper, sizeof(*o->acked));
	o->unsuspended = need(rec->nr_upper, sizeof(*o->unsuspended));
	o->bitmap = need(nr_regions / 64 + 1, 8);
	find_zeroers(o);
}

void oracle_free(struct oracle *o)
{
	free(o->zeroers);
	free(o->first_zeroer);
	free(o->bitmap);
	free(o->unsuspended);
	free(o->acked);
	free(o->suspend_floor);
	free(o->floor);
}

/*
 *---------------------------------------------------------------
 * Metadata
 *---------------------------------------------------------------
 */

static int read_block(void *context, uint64_t block, void *buf)
{
	disk_read_block(context, block, buf);

	return 0;
}

static void take_words(void *context, uint64_t first, const uint64_t *words, unsigned int nr)
{
	struct oracle *o = context;

	for (unsigned int i = 0; i < nr; i++)
		for (unsigned int byte = 0; byte < 8; byte++)
			o->bitmap[(first + i) * 8 + byte] = words[i] >> (8 * byte);
}

static void take_problem(void *context, enum clone_md_problem kind, uint64_t block,
			 const char *text)
{
	(void)kind;
	report(context, "metadata block %llu: %s", (unsigned long long)block, text);
}

/* What a superblock says of the destination must be so. */
static void judge_note(struct oracle *o)
{
	static const uint8_t zeroes[SECTOR_SIZE];
	const struct cell *cells = o->disk->cells + o->rec->meta_sectors;

	for (uint64_t s = 0; s < o->rec->target_size; s++) {
		if (oracle_is_hydrated(o, s) || !memcmp(cells[s].data, zeroes, SECTOR_SIZE))
			continue;
		report(o, "sector %llu of the destination is not zero, as the superblock says",
		       (unsigned long long)s);
		return;
	}
}

static void judge_formatted(struct oracle *o, const struct clone_md_image *image,
			    const struct clone_md_superblock *sb)
{
	struct clone_md_visitor visitor = {
		.words = take_words,
		.problem = take_problem,
		.context = o,
	};
	struct clone_md_stats stats;

	if (sb->region_size != o->rec->region_size || sb->target_size != o->rec->target_size) {
		report(o, "superblock: wrong sizes");
		return;
	}

	if (clone_md_check(image, sb, &visitor, &stats) && !o->verdict->nr_problems)
		report(o, "the metadata cannot be checked");
	o->verdict->nr_hydrated = stats.nr_hydrated;
	if (sb->dest_zeroed && !o->verdict->nr_problems)
		judge_note(o);
}

static void judge_metadata(struct oracle *o)
{
	struct clone_md_image image = {
		.read = read_block,
		.context = (void *)o->disk,
		.nr_blocks = o->rec->meta_sectors / 8,
	};
	struct clone_md_superblock sb;
	const char *text;
	int r;

	memset(o->bitmap, 0, ((o->rec->target_size - 1) / o->rec->region_size / 64 + 1) * 8);
	r = clone_md_read_superblock(&image, &sb, &text);
	o->verdict->formatted = !r;
	if (!r)
		judge_formatted(o, &image, &sb);
	else if (r != -ENODATA)
		report(o, "%s", text);
}

/*
 *---------------------------------------------------------------
 * Data
 *---------------------------------------------------------------
 */

/*
 * A discard of unhydrated regions leaves zeroes or the source's data, at once
 * or later, or the destination's data if that is to be kept.
 */
static bool may_be_zeroed(const struct oracle *o, uint64_t sector, uint32_t floor,
			  bool by_discard)
{
	for (uint64_t i = o->first_zeroer[sector]; i < o->first_zeroer[sector + 1]; i++) {
		const struct bio *b = &o->rec->upper[o->zeroers[i]].b;

		if (by_discard && b->kind != BIO_DISCARD)
			continue;
		if (b->queued < o->now && b->completed >= floor)
			return true;
	}

	return false;
}

/* May a sector be what was born so, when everything before @floor is gone? */
static bool may_be(const struct oracle *o, uint64_t sector, uint32_t birth, uint32_t floor)
{
	if (birth < o->rec->nr_upper)
		return o->rec->upper[birth].b.completed >= floor;
	if (birth == BIRTH_SOURCE)
		return !floor && o->rec->initial.view[sector] == o->rec->source_stamp;
	if (birth == BIRTH_OLD)
		return !floor;

	if (birth == BIRTH_FORMER)
		return o->rec->keeps && may_be_zeroed(o, sector, floor, true);

	return birth == BIRTH_ZERO && may_be_zeroed(o, sector, floor, false);
}

bool oracle_is_hydrated(const struct oracle *o, uint64_t sector)
{
	uint64_t region = sector / o->rec->region_size;

	return o->bitmap[region / 8] >> (region % 8) & 1;
}

static void report_sector(struct oracle *o, uint64_t sector, uint32_t birth, uint32_t floor)
{
	bool hydrated = oracle_is_hydrated(o, sector);
	char text[160], wanted[160] = "something of the clone";

	describe_birth(o, birth, sector, hydrated, text, sizeof(text));
	if (floor)
		describe_bio(o->rec, o->rec->events[floor].index, wanted, sizeof(wanted));
	if (!o->verdict->nr_problems)
		o->verdict->first_sector = sector;
	report(o, "sector %llu (region %llu): found %s; expected %s%s",
	       (unsigned long long)sector,
	       (unsigned long long)(sector / o->rec->region_size), text, wanted,
	       floor ? " or later" : "");
}

/*
 * What flushes have made durable stays so over resets; suspends only count for
 * one life.
 */
static uint32_t floor_of(const struct oracle *o, uint64_t sector, bool suspended)
{
	uint32_t floor = o->floor[sector], of_suspend = o->suspend_floor[sector];

	return suspended && of_suspend > floor ? of_suspend : floor;
}

static void judge_data(struct oracle *o, bool suspended)
{
	const struct cell *cells = o->disk->cells + o->rec->meta_sectors;
	uint32_t last_birth = BIRTH_BAD, last_floor = 0;
	uint64_t last_bad = UINT64_MAX - 1;

	for (uint64_t s = 0; s < o->rec->target_size; s++) {
		uint32_t birth = oracle_is_hydrated(o, s) ? cells[s].birth : BIRTH_SOURCE;
		uint32_t floor = floor_of(o, s, suspended);

		if (may_be(o, s, birth, floor))
			continue;

		/*
		 * A sector that is wrong like its neighbour is not reported
		 * again.
		 */
		if (last_bad + 1 != s || birth != last_birth || floor != last_floor)
			report_sector(o, s, birth, floor);
		last_bad = s;
		last_birth = birth;
		last_floor = floor;
	}
}

void oracle_judge(struct oracle *o, bool suspended, struct verdict *verdict)
{
	memset(verdict, 0, sizeof(*verdict));
	o->verdict = verdict;

	judge_metadata(o);
	if (!verdict->nr_problems)
		judge_data(o, suspended);
}

void oracle_view(const struct oracle *o, uint32_t *stamps)
{
	const struct cell *cells = o->disk->cells + o->rec->meta_sectors;

	for (uint64_t s = 0; s < o->rec->target_size; s++)
		stamps[s] = oracle_is_hydrated(o, s) ?
			    recording_stamp(o->rec, s, cells[s].birth) : o->rec->source_stamp;
}
