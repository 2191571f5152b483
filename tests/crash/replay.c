// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rebuilds what a power cut could leave, from a recording, and has each such
 * state judged.
 *
 * A state is a moment, and a choice among the writes that were volatile then
 * (see disk.h).  The moments: every completion of a flush or a FUA write, on
 * the clone and below, each with nothing but what is durable and with other
 * choices; every end of a suspend; and random ones.  The choices: see enum
 * choice.  Writes may be torn, at 512 or at 4096 bytes.
 *
 * All that is random follows from the seed: a seed and a number repeat a state.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/lib/clone-metadata.h"
#include "../../tools/lib/endian-le.h"
#include "../lib/stamp.h"
#include "disk.h"
#include "live.h"
#include "oracle.h"
#include "../lib/random.h"
#include "recording.h"

#define MAX_REPORTS	5
#define MAX_EXPORT_SIZE	200000	/* sectors; of larger clones just one state */
#define MAX_ATTEMPTS	6	/* to find a state that was not seen yet */

/* Which of the volatile writes are on the disk? */
enum choice {
	NOTHING,		/* of them: just what is durable */
	COMPLETED,		/* those that have completed: no power was lost */
	EVERYTHING,
	SOME,			/* each with the same probability */
	METADATA,		/* some of the metadata, nothing of the data */
	DATA,			/* the other way round */
	SUPERBLOCK,		/* whatever there is of it, and a few others */
	ONE,
	ALL_BUT_ONE,
	SUSPENDED_CLONE,	/* COMPLETED, and judged as such */
	NR_CHOICES
};

static const char *const choice_names[] = {
	"nothing volatile", "what has completed", "everything", "some", "some metadata",
	"some data", "the superblock", "one write", "all but one write", "suspended"
};

/* What is done to a state so that the oracle has something to find. */
enum damage {
	NO_DAMAGE,
	TORN_SUPERBLOCK,	/* within a sector */
	OLD_SECTOR,		/* a sector is again what it was before */
	FLIPPED_BIT,		/* in a metadata block that is in use */
	EARLY_BIT,		/* a region is marked, but not copied; checksum right */
	NR_DAMAGES
};

static const char *const damage_names[] = {
	"none", "torn-superblock", "old-sector", "flipped-bit", "early-bit"
};

/* For printf(). */
static unsigned long long llu(uint64_t n)
{
	return n;
}

struct options {
	const char *folder;
	const char *log;
	uint64_t seed;
	uint64_t states;
	int64_t only;			/* the state to tell about, or -1 */
	enum damage damage;
	const char *export_folder;
	uint64_t export_each;
	bool implied_flushes_fail;
};

/* A state that is to be looked at. */
struct plan {
	uint32_t moment;		/* this many events have happened */
	enum choice choice;
	uint64_t rng;
};

struct replay {
	const struct options *options;
	struct recording rec;
	struct disk disk;
	struct live live;
	struct oracle oracle;

	struct plan *plans;
	uint64_t nr_plans;

	uint64_t *seen;			/* hash table of states */
	uint64_t seen_mask;

	uint64_t nr_states;
	uint64_t nr_bad;
	uint64_t nr_unformatted;
	uint64_t nr_damaged;		/* states that could be damaged */
	uint64_t nr_exported;
	uint64_t by_choice[NR_CHOICES];

	/* Of the state at hand. */
	unsigned int torn;		/* sectors that are written as one; 0: all */
	uint32_t nr_added;
	uint32_t nr_torn;
	uint8_t scratch[CLONE_MD_BLOCK_SIZE];
};

/*
 *---------------------------------------------------------------
 * Moments
 *---------------------------------------------------------------
 */

static bool is_end_of_sync(const struct recording *rec, const struct event *event)
{
	const struct bio *b;

	if (event->kind == LOWER_COMPLETED)
		b = &rec->lower[event->index].b;
	else if (event->kind == UPPER_COMPLETED)
		b = &rec->upper[event->index].b;
	else
		return false;

	return b->kind == BIO_FLUSH || b->fua;
}

static uint32_t end_of_recording(const struct recording *rec)
{
	for (uint32_t e = 0; e < rec->nr_events; e++)
		if (rec->events[e].kind == END)
			return e;

	return rec->nr_events;
}

static void add_plan(struct replay *r, uint32_t moment, enum choice choice, uint64_t *rng)
{
	struct plan *plan = &r->plans[r->nr_plans++];

	plan->moment = moment;
	plan->choice = choice;
	plan->rng = random_next(rng);
}

static enum choice random_choice(uint64_t *rng)
{
	/* The last one is not for any moment. */
	return random_below(rng, SUSPENDED_CLONE);
}

static int compare_plans(const void *pa, const void *pb)
{
	const struct plan *a = pa, *b = pb;

	if (a->moment != b->moment)
		return a->moment < b->moment ? -1 : 1;

	return a->rng < b->rng ? -1 : a->rng > b->rng;
}

static void shuffle(struct plan *plans, uint64_t nr, uint64_t *rng)
{
	for (uint64_t i = 0; i + 1 < nr; i++) {
		uint64_t j = i + random_below(rng, nr - i);
		struct plan plan = plans[i];

		plans[i] = plans[j];
		plans[j] = plan;
	}
}

/*
 * Two thirds of the states are at the ends of flushes, several at each if these
 * are few; the others are anywhere.
 */
static void make_plans(struct replay *r)
{
	const struct recording *rec = &r->rec;
	uint64_t rng = r->options->seed * 0x9e3779b97f4a7c15ull + rec->number;
	uint32_t end = end_of_recording(rec), nr_syncs = 0, nr_suspends = 0;
	uint64_t wanted = r->options->states, at_syncs = wanted * 2 / 3;

	for (uint32_t e = 0; e < end; e++) {
		nr_syncs += is_end_of_sync(rec, &rec->events[e]);
		nr_suspends += rec->events[e].kind == SUSPENDED;
	}
	r->plans = need(at_syncs + 2ull * nr_syncs + nr_suspends + wanted, sizeof(*r->plans));

	for (unsigned int turn = 0; nr_syncs && r->nr_plans < at_syncs; turn++)
		for (uint32_t e = 0; e < end; e++)
			if (is_end_of_sync(rec, &rec->events[e]))
				add_plan(r, e + 1, turn ? random_choice(&rng) : NOTHING, &rng);
	if (r->nr_plans > at_syncs) {
		shuffle(r->plans, r->nr_plans, &rng);
		r->nr_plans = at_syncs;
	}

	for (uint32_t e = 0; e < end; e++)
		if (rec->events[e].kind == SUSPENDED)
			add_plan(r, e + 1, SUSPENDED_CLONE, &rng);
	while (end && r->nr_plans < wanted)
		add_plan(r, 1 + random_below(&rng, end), random_choice(&rng), &rng);

	qsort(r->plans, r->nr_plans, sizeof(*r->plans), compare_plans);
}

/*
 *---------------------------------------------------------------
 * Choices
 *---------------------------------------------------------------
 */

static bool is_completed(const struct replay *r, uint32_t lower)
{
	return r->rec.lower[lower].b.completed < r->disk.now;
}

static bool is_superblock(const struct replay *r, uint32_t lower)
{
	return r->rec.lower[lower].meta && !r->rec.lower[lower].b.sector;
}

/* Is the @i-th of the volatile writes on the disk? */
static bool is_chosen(const struct replay *r, enum choice which, uint32_t i,
		      uint32_t special, unsigned int percent, uint64_t *rng)
{
	uint32_t lower = r->disk.volatiles[i];
	bool lucky = random_below(rng, 100) < percent;

	switch (which) {
	case NOTHING:
		return false;
	case COMPLETED:
	case SUSPENDED_CLONE:
		return is_completed(r, lower);
	case EVERYTHING:
		return true;
	case SOME:
		return lucky;
	case METADATA:
		return r->rec.lower[lower].meta && lucky;
	case DATA:
		return !r->rec.lower[lower].meta && lucky;
	case SUPERBLOCK:
		return is_superblock(r, lower) || (lucky && percent < 50);
	case ONE:
		return i == special;
	case ALL_BUT_ONE:
		return i != special;
	default:
		abort();
	}
}

/* Add a write, perhaps not all of it. */
static void add_write(struct replay *r, uint32_t lower, uint64_t *rng)
{
	uint64_t nr = r->rec.lower[lower].b.nr, first = 0, end = nr;
	bool torn = r->torn && nr > r->torn && !random_below(rng, 3);
	unsigned int way = random_below(rng, 3);

	r->nr_added++;
	r->nr_torn += torn;
	if (torn && way == 0)
		end = random_below(rng, nr / r->torn) * r->torn;
	else if (torn && way == 1)
		first = random_below(rng, nr / r->torn) * r->torn;

	for (uint64_t i = first; i < end; i += r->torn ? r->torn : nr) {
		uint64_t piece_end = r->torn && i + r->torn < end ? i + r->torn : end;

		if (torn && way == 2 && random_below(rng, 2))
			continue;
		for (uint64_t s = i; s < piece_end; s++)
			disk_add(&r->disk, lower, s);
	}
}

static void make_state(struct replay *r, const struct plan *plan, enum choice choice,
		       uint64_t *rng)
{
	static const unsigned int percents[] = { 5, 20, 50, 80, 95 };
	static const unsigned int tears[] = { 0, 1, 8 };
	unsigned int percent = percents[random_below(rng, 5)];
	uint32_t nr = r->disk.nr_volatiles;
	uint32_t special = nr ? random_below(rng, nr) : 0;

	r->nr_added = 0;
	r->nr_torn = 0;
	r->torn = choice == COMPLETED || plan->choice == SUSPENDED_CLONE ?
		  0 : tears[random_below(rng, 3)];

	for (uint32_t i = 0; i < nr; i++)
		if (is_chosen(r, choice, i, special, percent, rng))
			add_write(r, r->disk.volatiles[i], rng);
}

/*
 *---------------------------------------------------------------
 * States that were seen
 *---------------------------------------------------------------
 */

static void init_seen(struct replay *r)
{
	uint64_t size = 1024;

	while (size < 4 * r->nr_plans)
		size *= 2;
	r->seen = need(size, sizeof(*r->seen));
	r->seen_mask = size - 1;
}

/* A state is new if more is expected of the same content. */
static bool is_news(struct replay *r)
{
	uint64_t rng = r->disk.hash ^ r->oracle.floor_version * 0x9e3779b97f4a7c15ull;
	uint64_t key = random_next(&rng) | 1, i = key;

	for (; r->seen[i & r->seen_mask]; i++)
		if (r->seen[i & r->seen_mask] == key)
			return false;
	r->seen[i & r->seen_mask] = key;

	return true;
}

/*
 *---------------------------------------------------------------
 * Damages
 *---------------------------------------------------------------
 */

/* A sector of a block that has been changed, to be put on the disk. */
static void set_sector(struct replay *r, uint64_t sector, const uint8_t *data)
{
	struct cell cell = r->disk.cells[sector];

	cell.data = data;
	disk_set(&r->disk, sector, &cell);
}

static int read_block(void *context, uint64_t block, void *buf)
{
	disk_read_block(context, block, buf);

	return 0;
}

static bool get_superblock(struct replay *r, struct clone_md_superblock *sb)
{
	struct clone_md_image image = {
		.read = read_block, .context = &r->disk,
		.nr_blocks = r->rec.meta_sectors / 8,
	};
	const char *text;

	return !clone_md_read_superblock(&image, sb, &text);
}

/*
 * The superblock that is being written, the first bytes of it: a device that
 * tears a sector.
 */
static bool tear_superblock(struct replay *r, uint64_t *rng)
{
	const uint8_t *old = r->disk.cells[0].data, *new = NULL;
	size_t n;

	for (uint32_t i = 0; i < r->disk.nr_volatiles; i++)
		if (is_superblock(r, r->disk.volatiles[i]))
			new = r->rec.lower[r->disk.volatiles[i]].data;
	if (!new || !memcmp(old, new, SECTOR_SIZE))
		return false;

	/* The result must be neither of the two, nor look unformatted. */
	n = 8 + random_below(rng, 60);
	memcpy(r->scratch, new, n);
	memcpy(r->scratch + n, old + n, SECTOR_SIZE - n);
	if (!memcmp(r->scratch, old, SECTOR_SIZE) || !memcmp(r->scratch, new, SECTOR_SIZE))
		return false;

	set_sector(r, 0, r->scratch);
	return true;
}

/* A sector that a flush has made durable gets its old content back. */
static bool bring_back(struct replay *r, uint64_t *rng)
{
	uint64_t first = random_below(rng, r->rec.target_size);
	struct cell old = {
		.data = r->disk.initial,
		.birth = BIRTH_SOURCE,
	};

	for (uint64_t n = 0; n < r->rec.target_size; n++) {
		uint64_t s = (first + n) % r->rec.target_size;

		if (!r->oracle.floor[s])
			continue;
		disk_set(&r->disk, r->rec.meta_sectors + s, &old);
		return true;
	}

	return false;
}

static bool flip_bit(struct replay *r, uint64_t *rng)
{
	struct clone_md_superblock sb;
	uint64_t sector, bit;

	if (!get_superblock(r, &sb))
		return false;

	/* The roots are certainly in use. */
	switch (random_below(rng, 4)) {
	case 0:
		sector = 0;
		break;
	case 1:
		sector = get_le64(sb.space_map_root + 16) * 8;
		break;
	case 2:
		sector = get_le64(sb.space_map_root + 24) * 8;
		break;
	default:
		sector = sb.bitset_root * 8;
		break;
	}
	sector += random_below(rng, 8);
	bit = random_below(rng, SECTOR_SIZE * 8);
	memcpy(r->scratch, r->disk.cells[sector].data, SECTOR_SIZE);
	r->scratch[bit / 8] ^= 1 << (bit % 8);
	set_sector(r, sector, r->scratch);

	return true;
}

/*
 * Region 0's bit is in the first word of the array block that is the first
 * value of the bitset's root, as long as the tree has one level.
 */
static bool set_bit_early(struct replay *r)
{
	struct clone_md_superblock sb;
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	uint64_t array, region, nr_words;

	if (!get_superblock(r, &sb))
		return false;
	disk_read_block(&r->disk, sb.bitset_root, block);
	array = get_le64(block + 32 + 8 * get_le32(block + 20));
	disk_read_block(&r->disk, array, r->scratch);

	/* Then it may be right. */
	if (r->rec.keeps)
		return false;

	nr_words = get_le32(r->scratch + 8);
	for (region = 0; region < nr_words * 64; region++) {
		uint64_t s = region * r->rec.region_size;
		uint8_t *byte = r->scratch + 24 + region / 8;

		if (s >= r->rec.target_size)
			return false;
		if (*byte >> (region % 8) & 1 ||
		    r->disk.cells[r->rec.meta_sectors + s].birth != BIRTH_FORMER)
			continue;

		*byte |= 1 << (region % 8);
		put_le32(r->scratch, clone_md_block_csum(r->scratch, CLONE_MD_ARRAY_CSUM_XOR));
		for (unsigned int i = 0; i < 8; i++)
			set_sector(r, array * 8 + i, r->scratch + i * SECTOR_SIZE);
		return true;
	}

	return false;
}

/* Returns false if this state cannot be damaged in this way. */
static bool do_damage(struct replay *r, uint64_t *rng)
{
	switch (r->options->damage) {
	case TORN_SUPERBLOCK:
		return tear_superblock(r, rng);
	case OLD_SECTOR:
		return bring_back(r, rng);
	case FLIPPED_BIT:
		return flip_bit(r, rng);
	case EARLY_BIT:
		return set_bit_early(r);
	default:
		return false;
	}
}

/*
 *---------------------------------------------------------------
 * Export: states that the kernel is to have a look at, see activate.py
 *---------------------------------------------------------------
 */

static void put_stamps(FILE *f, const uint32_t *stamps, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint8_t le[4];

		put_le32(le, stamps[i]);
		fwrite(le, sizeof(le), 1, f);
	}
}

static bool is_for_export(const struct replay *r)
{
	uint64_t each = r->options->export_each;

	if (!r->options->export_folder)
		return false;
	/* The kernel takes long for a large one. */
	if (r->rec.target_size > MAX_EXPORT_SIZE && r->nr_exported)
		return false;

	/* Not the first one of each recording, which is dull. */
	return (r->nr_states + 17 * r->rec.number) % each == each / 2;
}

/*
 * A line of text; the metadata; stamps of the destination; stamps to be read.
 */
static void export_state(struct replay *r)
{
	uint64_t size = r->rec.target_size, meta = r->rec.meta_sectors;
	uint32_t *stamps = need(size, sizeof(*stamps));
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%04llu-%06llu", r->options->export_folder,
		 llu(r->rec.number), llu(r->nr_states));
	f = fopen(path, "w");
	if (!f)
		fail("%s: %s", path, strerror(errno));

	fprintf(f, "%llu %llu %llu\n", llu(meta), llu(size), llu(r->rec.region_size));
	for (uint64_t s = 0; s < meta; s++)
		fwrite(r->disk.cells[s].data, SECTOR_SIZE, 1, f);
	for (uint64_t s = 0; s < size; s++)
		stamps[s] = recording_stamp(&r->rec, s, r->disk.cells[meta + s].birth);
	put_stamps(f, stamps, size);
	oracle_view(&r->oracle, stamps);
	put_stamps(f, stamps, size);

	if (fclose(f))
		fail("%s: %s", path, strerror(errno));
	free(stamps);
	r->nr_exported++;
}

/*
 *---------------------------------------------------------------
 * Reports
 *---------------------------------------------------------------
 */

static void tell_bio(const char *what, const struct bio *b)
{
	static const char *const names[] = { "write", "write-zeroes", "discard", "flush" };

	printf("      %s %s%s %llu+%llu (queued %u, completed %d)\n", what,
	       b->fua ? "FUA " : "", names[b->kind], llu(b->sector), llu(b->nr), b->queued,
	       b->completed == NEVER ? -1 : (int)b->completed);
}

static void tell_event(const struct replay *r, uint32_t e)
{
	const struct recording *rec = &r->rec;
	const struct event *event = &rec->events[e];

	switch (event->kind) {
	case LOWER_QUEUED:
		tell_bio(rec->lower[event->index].meta ? "metadata queued" :
			 "destination queued", &rec->lower[event->index].b);
		break;
	case LOWER_COMPLETED:
		tell_bio(rec->lower[event->index].meta ? "metadata completed" :
			 "destination completed", &rec->lower[event->index].b);
		break;
	case UPPER_QUEUED:
		tell_bio("clone queued", &rec->upper[event->index].b);
		break;
	case UPPER_COMPLETED:
		tell_bio("clone completed", &rec->upper[event->index].b);
		break;
	default:
		printf("      %s\n", event->kind == SUSPEND ? "suspend" :
		       event->kind == SUSPENDED ? "suspended" :
		       event->kind == RESET ? "reset" :
		       event->kind == FLUSH_FAILED ? "flush of the metadata failed" : "end");
		break;
	}
}

/* What happened to a sector, up to now. */
static void tell_history(const struct replay *r, uint64_t sector)
{
	const struct recording *rec = &r->rec;

	printf("    all about sector %llu (%llu below):\n", llu(sector),
	       llu(sector + rec->meta_sectors));
	for (uint32_t e = 0; e < r->disk.now; e++) {
		const struct event *event = &rec->events[e];
		bool lower = event->kind == LOWER_QUEUED || event->kind == LOWER_COMPLETED;
		bool upper = event->kind == UPPER_QUEUED || event->kind == UPPER_COMPLETED;
		const struct bio *b = lower ? &rec->lower[event->index].b :
				      upper ? &rec->upper[event->index].b : NULL;
		uint64_t s = lower ? sector + rec->meta_sectors : sector;

		if (b && s - b->sector < b->nr)
			tell_event(r, e);
	}
}

static void tell_state(struct replay *r, const struct plan *plan, enum choice choice,
		       const struct verdict *verdict)
{
	uint32_t first = r->disk.now > 12 ? r->disk.now - 12 : 0;

	printf("  state %llu of recording %s, seed %llu: after event %u; %s: ",
	       llu(r->nr_states), r->options->folder, llu(r->options->seed), plan->moment,
	       choice_names[choice]);
	printf("%u of %u volatile writes, %u torn at %u\n", r->nr_added, r->disk.nr_volatiles,
	       r->nr_torn, r->torn * SECTOR_SIZE);
	printf("    %llu regions hydrated, %llu problems:\n", llu(verdict->nr_hydrated),
	       llu(verdict->nr_problems));
	for (const char *line = verdict->text; *line; line = strchr(line, '\n') + 1)
		printf("    %.*s\n", (int)strcspn(line, "\n"), line);

	printf("    the last events:\n");
	for (uint32_t e = first; e < r->disk.now; e++)
		tell_event(r, e);
	if (verdict->nr_problems && strstr(verdict->text, "sector"))
		tell_history(r, verdict->first_sector);
}

/*
 *---------------------------------------------------------------
 * The replay
 *---------------------------------------------------------------
 */

static void judge_state(struct replay *r, const struct plan *plan, enum choice choice)
{
	bool damaged = r->options->damage != NO_DAMAGE;
	struct verdict verdict;

	oracle_judge(&r->oracle, choice == SUSPENDED_CLONE, &verdict);
	r->by_choice[choice]++;
	r->nr_unformatted += !verdict.formatted;
	if (verdict.nr_problems)
		r->nr_bad++;
	if ((verdict.nr_problems && r->nr_bad <= MAX_REPORTS && !damaged) ||
	    (int64_t)r->nr_states == r->options->only)
		tell_state(r, plan, choice, &verdict);

	if (!verdict.nr_problems && verdict.formatted && is_for_export(r))
		export_state(r);
	r->nr_states++;
}

static void try_plan(struct replay *r, const struct plan *plan)
{
	uint64_t rng = plan->rng;
	enum choice choice = plan->choice;

	for (unsigned int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
		bool news;

		disk_begin_cut(&r->disk);
		make_state(r, plan, choice, &rng);
		news = is_news(r) || choice == SUSPENDED_CLONE;
		if (news && r->options->damage) {
			news = do_damage(r, &rng);
			r->nr_damaged += news;
		}
		if (news)
			judge_state(r, plan, choice);
		disk_end_cut(&r->disk);
		if (news || choice == SUSPENDED_CLONE)
			return;

		choice = random_choice(&rng);
	}
}

static void advance_to(struct replay *r, uint32_t moment)
{
	while (r->disk.now < moment) {
		disk_advance(&r->disk);
		live_advance(&r->live);
		oracle_advance(&r->oracle);
	}
}

static void replay(struct replay *r)
{
	make_plans(r);
	init_seen(r);
	disk_init(&r->disk, &r->rec);
	r->disk.implied_flushes_fail = r->options->implied_flushes_fail;
	live_init(&r->live, &r->disk);
	oracle_init(&r->oracle, &r->rec, &r->disk);

	for (uint64_t i = 0; i < r->nr_plans; i++) {
		advance_to(r, r->plans[i].moment);
		try_plan(r, &r->plans[i]);
	}
	advance_to(r, end_of_recording(&r->rec));

	oracle_free(&r->oracle);
	live_free(&r->live);
	disk_free(&r->disk);
	free(r->seen);
	free(r->plans);
}

/*
 *---------------------------------------------------------------
 * Other uses
 *---------------------------------------------------------------
 */

static void tell_problem(void *context, enum clone_md_problem kind, uint64_t block,
			 const char *text)
{
	(void)kind;
	printf("%s: block %llu: %s\n", (const char *)context, llu(block), text);
}

/* Is there valid metadata in this file, of a finished clone if @done? */
static int check_file(char *path, bool done)
{
	struct clone_md_visitor visitor = { .problem = tell_problem, .context = path };
	struct clone_md_superblock sb;
	struct clone_md_image image;
	struct clone_md_stats stats;
	FILE *f = fopen(path, "r");
	const char *text;

	if (!f || clone_md_image_from_fd(&image, fileno(f)))
		fail("%s: %s", path, strerror(errno));
	if (clone_md_read_superblock(&image, &sb, &text)) {
		printf("%s: %s\n", path, text);
		return 1;
	}
	if (clone_md_check(&image, &sb, &visitor, &stats))
		return 1;
	fclose(f);
	if (done && stats.nr_hydrated != clone_md_nr_regions(&sb)) {
		printf("%s: %llu of %llu regions are hydrated\n", path,
		       llu(stats.nr_hydrated), llu(clone_md_nr_regions(&sb)));
		return 1;
	}

	return 0;
}

/*----------------------------------------------------------------*/

static const char usage[] =
"Usage: replay [OPTION...] RECORDING LOG\n"
"       replay --check-metadata FILE...\n"
"\n"
"  --states N        how many states to look at (1000)\n"
"  --seed N          which ones\n"
"  --only N          tell all about this one\n"
"  --damage KIND     damage them all, to see that it is noticed: torn-superblock,\n"
"                    old-sector, flipped-bit or early-bit\n"
"  --export DIR      write some states to files, for activate.py\n"
"  --each N          every Nth (100)\n"
"  --implied-flushes-fail   those of FUA writes, if any reach the destination\n"
"\n"
"The exit status is 0 if all states are good (with --damage: if none is), 1 if\n"
"not, 2 if there was nothing to look at.\n";

static enum damage parse_damage(const char *name)
{
	for (unsigned int i = 0; i < NR_DAMAGES; i++)
		if (!strcmp(name, damage_names[i]))
			return i;

	fail("no such damage: %s", name);
}

/* Returns the index of the first word that is not an option. */
static int parse_options(int argc, char **argv, struct options *o, bool *files)
{
	static const struct option names[] = {
		{ "states", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "only", required_argument, NULL, 'o' },
		{ "damage", required_argument, NULL, 'd' },
		{ "export", required_argument, NULL, 'x' },
		{ "each", required_argument, NULL, 'e' },
		{ "implied-flushes-fail", no_argument, NULL, 'i' },
		{ "check-metadata", no_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 'n':
			o->states = strtoull(optarg, NULL, 0);
			break;
		case 's':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			o->only = strtoll(optarg, NULL, 0);
			break;
		case 'd':
			o->damage = parse_damage(optarg);
			break;
		case 'x':
			o->export_folder = optarg;
			break;
		case 'e':
			o->export_each = strtoull(optarg, NULL, 0);
			break;
		case 'i':
			o->implied_flushes_fail = true;
			break;
		case 'm':
			*files = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}

	return optind;
}

static int replay_recording(const struct options *options)
{
	struct replay r = { .options = options };
	int status;

	recording_load(&r.rec, options->folder, options->log);
	replay(&r);

	printf("recording %llu: %llu states, %llu bad", llu(r.rec.number), llu(r.nr_states),
	       llu(r.nr_bad));
	if (options->damage)
		printf(" of %llu damaged by %s", llu(r.nr_damaged),
		       damage_names[options->damage]);
	if (r.live.nr_bad)
		printf(", %llu writes to metadata that is in use", llu(r.live.nr_bad));
	printf("; %u writes below, %llu states before formatting, %llu exported (%s)\n",
	       r.rec.nr_lower, llu(r.nr_unformatted), llu(r.nr_exported), r.rec.scenario);

	if (!r.nr_states)
		status = 2;
	else if (options->damage)
		status = r.nr_bad != r.nr_damaged;
	else
		status = r.nr_bad || r.live.nr_bad;
	recording_free(&r.rec);

	return status;
}

int main(int argc, char **argv)
{
	struct options options = { .states = 1000, .only = -1, .export_each = 100 };
	bool files = false;
	int i = parse_options(argc, argv, &options, &files), status = 0;

	if (files) {
		for (; i < argc; i++)
			status |= check_file(argv[i], true);
		return status;
	}

	if (argc - i != 2 || !options.export_each) {
		fputs(usage, stderr);
		return 2;
	}
	options.folder = argv[i];
	options.log = argv[i + 1];

	return replay_recording(&options);
}
