// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The state of a clone in memory, see state.h.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Memory that is never touched is never used. */
static uint64_t *new_bits(const struct state *s)
{
	return calloc(clone_md_nr_words(&s->sb), sizeof(uint64_t));
}

int state_begin(struct state *s)
{
	s->nr_regions = clone_md_nr_regions(&s->sb);
	s->lost = NULL;
	s->hydrated = new_bits(s);

	return s->hydrated ? 0 : -ENOMEM;
}

void state_end(struct state *s)
{
	free(s->hydrated);
	free(s->lost);
	s->hydrated = NULL;
	s->lost = NULL;
}

/* The bits of word @first / 64 that are in a run of @nr from there; how many. */
static unsigned int bits_of(uint64_t first, uint64_t nr, uint64_t *bits)
{
	unsigned int shift = first % 64, n = min_u64(64 - shift, nr);

	*bits = (n == 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << shift;
	return n;
}

static void set_bits(uint64_t *words, uint64_t first, uint64_t nr)
{
	while (nr) {
		uint64_t bits;
		unsigned int n = bits_of(first, nr, &bits);

		words[first / 64] |= bits;
		first += n;
		nr -= n;
	}
}

void state_set_hydrated(struct state *s, uint64_t first, uint64_t nr)
{
	set_bits(s->hydrated, first, nr);
}

int state_set_lost(struct state *s, uint64_t first, uint64_t nr)
{
	if (!s->lost)
		s->lost = new_bits(s);
	if (!s->lost)
		return -ENOMEM;
	set_bits(s->lost, first, nr);

	return 0;
}

void state_take_words(struct state *s, uint64_t first, const uint64_t *words,
		      unsigned int nr)
{
	memcpy(s->hydrated + first, words, nr * sizeof(*words));
}

int state_take_lost(struct state *s, uint64_t first, uint64_t nr)
{
	uint64_t end = min_u64((first + nr) * 64, s->nr_regions);

	return state_set_lost(s, first * 64, end - first * 64);
}

bool state_is_hydrated(const struct state *s, uint64_t region)
{
	return s->hydrated[region / 64] >> region % 64 & 1;
}

void state_settle_lost(struct state *s, bool hydrated)
{
	uint64_t nr_words = clone_md_nr_words(&s->sb);

	for (uint64_t i = 0; s->lost && i < nr_words; i++)
		s->hydrated[i] = hydrated ? s->hydrated[i] | s->lost[i] :
					    s->hydrated[i] & ~s->lost[i];

	free(s->lost);
	s->lost = NULL;
}

/* Regions of a kind in a word; what is lost is neither hydrated nor missing. */
static uint64_t word_of(const struct state *s, enum state_kind kind, uint64_t i)
{
	uint64_t lost = s->lost ? s->lost[i] : 0, bits;
	uint64_t tail = s->nr_regions - i * 64;

	if (kind == LOST)
		bits = lost;
	else
		bits = (kind == HYDRATED ? s->hydrated[i] : ~s->hydrated[i]) & ~lost;

	return tail < 64 ? bits & ((UINT64_C(1) << tail) - 1) : bits;
}

uint64_t state_count(const struct state *s, enum state_kind kind)
{
	uint64_t nr_words = clone_md_nr_words(&s->sb), nr = 0;

	for (uint64_t i = 0; i < nr_words; i++)
		nr += __builtin_popcountll(word_of(s, kind, i));

	return nr;
}

/* The first region from @region on that is of a kind, or is not. */
static uint64_t find(const struct state *s, enum state_kind kind, bool is,
		     uint64_t region)
{
	while (region < s->nr_regions) {
		uint64_t word = word_of(s, kind, region / 64);

		word = (is ? word : ~word) >> region % 64;
		if (word)
			return min_u64(region + __builtin_ctzll(word), s->nr_regions);
		region = (region / 64 + 1) * 64;
	}

	return s->nr_regions;
}

bool state_next(const struct state *s, enum state_kind kind, struct range *range)
{
	range->first = find(s, kind, true, range->first + range->nr);
	range->nr = find(s, kind, false, range->first) - range->first;

	return range->nr;
}

struct range range_in_sectors(const struct clone_md_superblock *sb,
			      const struct range *range)
{
	struct range sectors = {
		.first = range->first * sb->region_size,
		.nr = range->nr * sb->region_size,
	};

	sectors.nr = min_u64(sectors.nr, sb->target_size - sectors.first);
	return sectors;
}

void state_list(const struct state *s, enum state_kind kind, FILE *out)
{
	struct range range = { 0, 0 };

	while (state_next(s, kind, &range)) {
		struct range sectors = range_in_sectors(&s->sb, &range);

		fprintf(out, "%ju %ju\n", sectors.first, sectors.nr);
	}
}
