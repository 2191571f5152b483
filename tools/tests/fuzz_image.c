// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Hostile metadata for tools/lib, from libFuzzer.
 *
 * An input is a list of changes to good metadata: where, how many bytes, and
 * the bytes.  After it the checksums of what has changed are made right, unless
 * the input says that they are to be wrong: random bytes would never pass them.
 */

#include <stdlib.h>
#include <string.h>

#include "clone-format.h"
#include "endian-le.h"
#include "fuzz.h"
#include "memory.h"

#define NR_BASES	3u
#define NR_BLOCKS	32u
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#define KEEP_CHECKSUM	0x80

static const uint64_t regions_of_base[NR_BASES] = {
	1000, 3 * REGIONS_PER_ARRAY + 5, 8 * REGIONS_PER_ARRAY,
};

static struct memory bases[NR_BASES];
static uint32_t kinds[NR_BASES][NR_BLOCKS];

/* What kind a block is by its checksum; 0 if none. */
static uint32_t kind_of(const uint8_t *block)
{
	static const uint32_t all[] = {
		CLONE_MD_SUPERBLOCK_CSUM_XOR, CLONE_MD_NODE_CSUM_XOR,
		CLONE_MD_ARRAY_CSUM_XOR, CLONE_MD_INDEX_CSUM_XOR,
		CLONE_MD_BITMAP_CSUM_XOR,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(all); i++)
		if (get_le32(block) == clone_md_block_csum(block, all[i]))
			return all[i];

	return 0;
}

/* Two commits, so that there is a tree of the first one, too. */
static void make_base(unsigned int n)
{
	struct clone_md_superblock sb = {
		.region_size = 8, .target_size = regions_of_base[n] * 8 - 3,
	};
	struct memory *m = &bases[n];
	struct clone_md_writer *w;

	memory_make(m, NR_BLOCKS);
	if (clone_md_create(&m->image, &sb, &w) || clone_md_set_hydrated(w, 3, 500) ||
	    clone_md_commit(w) || clone_md_set_hydrated(w, 700, 1) || clone_md_commit(w))
		abort();
	clone_md_close(w);

	for (unsigned int b = 0; b < NR_BLOCKS; b++)
		kinds[n][b] = kind_of(memory_block(m, b));
}

/*
 * Header of a change: block, with a flag; offset; length, its content follows.
 */
static void apply_changes(struct memory *m, unsigned int base, const uint8_t *data,
			  size_t size)
{
	while (size >= 4) {
		unsigned int block = (data[0] & 0x7f) % NR_BLOCKS;
		unsigned int offset = (data[1] | data[2] << 8) % CLONE_MD_BLOCK_SIZE;
		bool keep = data[0] & KEEP_CHECKSUM;
		size_t length = data[3];
		uint8_t *at = memory_block(m, block);

		data += 4;
		size -= 4;
		if (length > size)
			length = size;
		if (length > CLONE_MD_BLOCK_SIZE - offset)
			length = CLONE_MD_BLOCK_SIZE - offset;
		memcpy(at + offset, data, length);
		data += length;
		size -= length;
		if (!keep && kinds[base][block])
			put_le32(at, clone_md_block_csum(at, kinds[base][block]));
	}
}

/* What was told must be within bounds, in order, and complete. */
struct told {
	uint64_t next;
	uint64_t nr_words;
	bool lost;
};

static void tell(struct told *told, uint64_t first, uint64_t nr)
{
	if (first < told->next || !nr || nr > told->nr_words - first)
		abort();
	told->next = first + nr;
}

static void tell_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < nr; i++)
		sum += words[i];
	tell(context, first, nr);
	if (sum == 4711 && getenv("NEVER"))	/* so that all words are read */
		abort();
}

static void tell_lost(void *context, uint64_t first, uint64_t nr)
{
	struct told *told = context;

	tell(told, first, nr);
	told->lost = true;
}

static void read_all(const struct clone_md_image *image,
		     const struct clone_md_superblock *sb)
{
	for (unsigned int way = 0; way < 4; way++) {
		struct told told = { .nr_words = clone_md_nr_words(sb) };
		const struct clone_md_visitor visitor = {
			.words = tell_words, .lost = tell_lost, .context = &told,
		};
		int r;

		if (way == 0)
			r = clone_md_check(image, sb, &visitor, NULL);
		else if (way == 1)
			r = clone_md_walk_bitset(image, sb, &visitor);
		else if (way == 2)
			r = clone_md_salvage(image, sb, &visitor);
		else
			r = clone_md_salvage_without_superblock(image, sb, &visitor);
		if (!r && (told.lost || told.next != told.nr_words))
			abort();
	}
}

/* What is sound can be changed, and is sound afterwards. */
static void change(struct memory *m)
{
	static const struct clone_md_visitor nobody;
	struct clone_md_superblock sb;
	struct clone_md_stats stats;
	struct clone_md_writer *w;
	const char *text;
	int r;

	if (clone_md_edit(&m->image, &sb, &w))
		return;
	r = clone_md_set_hydrated(w, 0, clone_md_nr_regions(&sb) / 2);
	if (!r)
		r = clone_md_commit(w);
	clone_md_close(w);
	if (r)
		return;

	if (clone_md_read_superblock(&m->image, &sb, &text) ||
	    clone_md_check(&m->image, &sb, &nobody, &stats) ||
	    stats.nr_hydrated < clone_md_nr_regions(&sb) / 2)
		abort();
}

int fuzz(const uint8_t *data, size_t size)
{
	unsigned int base = size ? data[0] % NR_BASES : 0;
	struct clone_md_superblock sb;
	const char *text;
	struct memory m;

	if (!bases[0].blocks)
		for (unsigned int n = 0; n < NR_BASES; n++)
			make_base(n);

	memory_make(&m, NR_BLOCKS);
	memcpy(m.blocks, bases[base].blocks, NR_BLOCKS * CLONE_MD_BLOCK_SIZE);
	if (size)
		apply_changes(&m, base, data + 1, size - 1);

	/* A clone of 2^31 regions is as large as it says, and takes as long. */
	if (!clone_md_read_superblock(&m.image, &sb, &text) &&
	    !clone_md_check_geometry(&sb) && clone_md_nr_regions(&sb) < 10000000) {
		read_all(&m.image, &sb);
		change(&m);
	}

	memory_free(&m);
	return 0;
}
