// SPDX-License-Identifier: GPL-2.0-only
/*
 * The reader of metadata images (tools/lib/clone-metadata.h) survives anything.
 *
 *	garbage [--images N] [--seed N] IMAGE...
 *
 * Good images are spoiled in many ways, as a rule with checksums that are right
 * again, and read.  The reader must return after a bounded number of reads,
 * having reported each word exactly once.  The compiler's sanitizers watch what
 * it does with memory.  The digest covers all that it reports: it must be the
 * same on a machine of the other endianness.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/lib/clone-metadata.h"
#include "../../tools/lib/crc32c.h"
#include "../../tools/lib/endian-le.h"
#include "../lib/random.h"

#define BLOCK	CLONE_MD_BLOCK_SIZE

enum kind { SUPERBLOCK, NODE, ARRAY, INDEX, BITMAP, NR_KINDS, UNKNOWN = NR_KINDS };

static const uint32_t csum_xors[NR_KINDS] = {
	CLONE_MD_SUPERBLOCK_CSUM_XOR, CLONE_MD_NODE_CSUM_XOR, CLONE_MD_ARRAY_CSUM_XOR,
	CLONE_MD_INDEX_CSUM_XOR, CLONE_MD_BITMAP_CSUM_XOR
};

/* Where the numbers are that matter most: 4 or 8 bytes each. */
struct field {
	enum kind kind;
	unsigned int offset, size;
};

static const struct field fields[] = {
	{ SUPERBLOCK, 4, 4 }, { SUPERBLOCK, 8, 8 }, { SUPERBLOCK, 40, 4 },
	{ SUPERBLOCK, 44, 8 }, { SUPERBLOCK, 52, 8 }, { SUPERBLOCK, 60, 8 },
	{ SUPERBLOCK, 68, 8 }, { SUPERBLOCK, 172, 8 }, { SUPERBLOCK, 180, 8 },
	{ SUPERBLOCK, 188, 8 },
	{ NODE, 4, 4 }, { NODE, 8, 8 }, { NODE, 16, 4 }, { NODE, 20, 4 }, { NODE, 24, 4 },
	{ NODE, 32, 8 }, { NODE, 40, 8 }, { NODE, 2048, 8 }, { NODE, 2056, 8 },
	{ ARRAY, 4, 4 }, { ARRAY, 8, 4 }, { ARRAY, 12, 4 }, { ARRAY, 16, 8 },
	{ INDEX, 8, 8 }, { INDEX, 16, 8 }, { INDEX, 24, 4 }, { INDEX, 28, 4 }, { INDEX, 32, 8 },
	{ BITMAP, 8, 8 }, { BITMAP, 16, 8 }, { BITMAP, 1000, 8 }, { BITMAP, 4088, 8 },
};

struct image {
	uint8_t *good;
	uint8_t *bad;
	uint64_t nr_blocks;

	/* The blocks that the good image uses, and their kinds. */
	uint64_t *used;
	enum kind *kinds;
	uint64_t nr_used;
};

struct watch {
	const struct image *image;
	uint64_t nr_blocks;		/* that there are now */
	uint64_t nr_reads;
	uint64_t failing;		/* this block cannot be read */
	uint64_t next_word;
	bool out_of_order;
};

static uint32_t digest;

static void digest_number(uint64_t number)
{
	uint8_t le[8];

	put_le64(le, number);
	digest = crc32c(digest, le, sizeof(le));
}

static void die(const char *what)
{
	fprintf(stderr, "garbage: %s\n", what);
	exit(2);
}

/*
 *---------------------------------------------------------------
 * Images
 *---------------------------------------------------------------
 */

static enum kind kind_of(const uint8_t *block)
{
	enum kind kind;

	for (kind = 0; kind < NR_KINDS; kind++)
		if (get_le32(block) == clone_md_block_csum(block, csum_xors[kind]))
			return kind;

	return UNKNOWN;
}

static int read_good_block(void *context, uint64_t block, void *buf)
{
	struct image *image = context;

	memcpy(buf, image->good + block * BLOCK, BLOCK);
	image->kinds[image->nr_used] = kind_of(buf);
	image->used[image->nr_used++] = block;

	return 0;
}

static void find_used_blocks(struct image *image, const char *path)
{
	struct clone_md_image source = {
		.read = read_good_block, .context = image, .nr_blocks = image->nr_blocks,
	};
	const struct clone_md_visitor nobody = { 0 };
	struct clone_md_superblock sb;
	const char *text;

	if (clone_md_read_superblock(&source, &sb, &text) ||
	    clone_md_check(&source, &sb, &nobody, NULL))
		die(path);
}

static void load_image(struct image *image, const char *path)
{
	FILE *f = fopen(path, "r");

	if (!f || fseek(f, 0, SEEK_END))
		die(path);
	image->nr_blocks = ftell(f) / BLOCK;
	image->good = malloc(image->nr_blocks * BLOCK);
	image->bad = malloc(image->nr_blocks * BLOCK);
	image->used = malloc(image->nr_blocks * sizeof(*image->used));
	image->kinds = malloc(image->nr_blocks * sizeof(*image->kinds));
	image->nr_used = 0;
	if (!image->good || !image->bad || !image->used || !image->kinds)
		die("out of memory");
	rewind(f);
	if (fread(image->good, BLOCK, image->nr_blocks, f) != image->nr_blocks)
		die(path);
	fclose(f);

	memcpy(image->bad, image->good, image->nr_blocks * BLOCK);
	find_used_blocks(image, path);
}

static uint8_t *bad_block(struct image *image, uint64_t b)
{
	return image->bad + b * BLOCK;
}

static uint64_t pick_block(const struct image *image, uint64_t *rng)
{
	return image->used[random_below(rng, image->nr_used)];
}

/*
 *---------------------------------------------------------------
 * Ways to spoil one
 *---------------------------------------------------------------
 */

static uint64_t nasty_number(const struct image *image, uint64_t *rng)
{
	static const uint64_t numbers[] = {
		0, 1, 2, 3, 84, 126, 252, 253, 255, 256, 336, 508, 509, 510, 16320, 16321,
		UINT32_MAX, UINT64_MAX, INT64_MAX, (uint64_t)INT64_MAX + 1, 1ull << 32,
		CLONE_MD_MAX_BLOCKS, CLONE_MD_MAX_BLOCKS + 1, CLONE_MD_MAX_REGIONS * 8,
	};

	switch (random_below(rng, 4)) {
	case 0:
		return random_next(rng);
	case 1:
		return numbers[random_below(rng, sizeof(numbers) / sizeof(*numbers))];
	case 2:
		return pick_block(image, rng);
	default:
		return random_below(rng, image->nr_blocks + 2);
	}
}

static void spoil_field(struct image *image, uint64_t *rng)
{
	const struct field *field = &fields[random_below(rng, sizeof(fields) / sizeof(*fields))];
	uint64_t number = nasty_number(image, rng), i;
	uint8_t *block;

	/* There is one of each kind. */
	do {
		i = random_below(rng, image->nr_used);
	} while (image->kinds[i] != field->kind);

	block = bad_block(image, image->used[i]);
	if (field->size == 4)
		put_le32(block + field->offset, number);
	else
		put_le64(block + field->offset, number);
}

static void spoil_words(struct image *image, uint64_t *rng)
{
	uint8_t *block = bad_block(image, pick_block(image, rng));

	for (unsigned int n = random_below(rng, 20); n; n--) {
		unsigned int word = random_below(rng, BLOCK / 8);

		put_le64(block + 8 * word, nasty_number(image, rng));
	}
}

static void spoil_bits(struct image *image, uint64_t *rng)
{
	uint8_t *block = bad_block(image, pick_block(image, rng));

	for (unsigned int n = 1 + random_below(rng, 8); n; n--) {
		unsigned int bit = random_below(rng, BLOCK * 8);

		block[bit / 8] ^= 1u << (bit % 8);
	}
}

static void spoil_place(struct image *image, uint64_t *rng)
{
	uint64_t from = pick_block(image, rng), to = pick_block(image, rng);

	memcpy(bad_block(image, to), bad_block(image, from), BLOCK);
	if (random_below(rng, 2))
		put_le64(bad_block(image, to) + (kind_of(bad_block(image, to)) == ARRAY ? 16 : 8),
			 to);
}

static void spoil_all(struct image *image, uint64_t *rng)
{
	uint8_t *block = bad_block(image, pick_block(image, rng));

	for (unsigned int i = 0; i < BLOCK; i += 8)
		put_le64(block + i, random_next(rng));
}

static void spoil(struct image *image, uint64_t *rng)
{
	static void (*const ways[])(struct image *image, uint64_t *rng) = {
		spoil_field, spoil_field, spoil_field, spoil_words, spoil_bits, spoil_place,
		spoil_all
	};

	/* Nothing else was spoiled before. */
	for (uint64_t i = 0; i < image->nr_used; i++)
		memcpy(bad_block(image, image->used[i]),
		       image->good + image->used[i] * BLOCK, BLOCK);

	for (unsigned int n = 1 + random_below(rng, 4); n; n--)
		ways[random_below(rng, sizeof(ways) / sizeof(*ways))](image, rng);

	/*
	 * Without this the checksums would keep nearly all of it from being
	 * read.
	 */
	if (!random_below(rng, 8))
		return;
	for (uint64_t i = 0; i < image->nr_used; i++) {
		uint8_t *block = bad_block(image, image->used[i]);

		put_le32(block, clone_md_block_csum(block, csum_xors[image->kinds[i]]));
	}
}

/*
 *---------------------------------------------------------------
 * Reading it
 *---------------------------------------------------------------
 */

static int read_block(void *context, uint64_t block, void *buf)
{
	struct watch *w = context;

	if (block >= w->nr_blocks)
		die("a block is read that does not exist");
	w->nr_reads++;
	if (block == w->failing)
		return -EIO;
	memcpy(buf, w->image->bad + block * BLOCK, BLOCK);

	return 0;
}

static void take_words(void *context, uint64_t first, const uint64_t *words, unsigned int nr)
{
	struct watch *w = context;

	for (unsigned int i = 0; i < nr; i++)
		digest_number(words[i]);
	w->out_of_order |= first != w->next_word || !nr;
	w->next_word = first + nr;
}

static void take_lost(void *context, uint64_t first, uint64_t nr)
{
	struct watch *w = context;

	w->out_of_order |= first != w->next_word || !nr;
	w->next_word = first + nr;
}

static void take_problem(void *context, enum clone_md_problem kind, uint64_t block,
			 const char *text)
{
	(void)context;
	digest_number(kind);
	digest_number(block);
	digest = crc32c(digest, text, strlen(text));
	if (kind >= CLONE_MD_NR_PROBLEMS || !*text || strchr(text, '\n'))
		die("a problem that is none");
}

/* NULL, or what the reader does wrong. */
static const char *judge(const struct watch *w, const struct clone_md_superblock *sb)
{
	if (w->nr_reads > w->nr_blocks)
		return "blocks are read again and again";
	if (w->out_of_order)
		return "words are told in disorder";
	if (w->next_word != clone_md_nr_words(sb))
		return "not all words are told";

	return NULL;
}

static const char *read_it(const struct image *image, uint64_t *rng, bool *valid)
{
	struct watch w = { .image = image, .nr_blocks = image->nr_blocks, .failing = UINT64_MAX };
	struct clone_md_visitor visitor = {
		.words = take_words, .lost = take_lost, .problem = take_problem, .context = &w,
	};
	struct clone_md_image source = {
		.read = read_block, .context = &w, .nr_blocks = image->nr_blocks,
	};
	struct clone_md_superblock sb;
	struct clone_md_stats stats;
	const char *text;

	*valid = false;
	if (!random_below(rng, 10))
		source.nr_blocks = random_below(rng, image->nr_blocks + 1);
	if (!random_below(rng, 10))
		w.failing = pick_block(image, rng);

	w.nr_blocks = source.nr_blocks;
	if (clone_md_read_superblock(&source, &sb, &text) || clone_md_check_geometry(&sb))
		return NULL;

	w.nr_reads = 0;
	*valid = !clone_md_check(&source, &sb, &visitor, &stats);
	text = judge(&w, &sb);
	if (text)
		return text;

	w.nr_reads = 0;
	w.next_word = 0;
	clone_md_walk_bitset(&source, &sb, &visitor);
	return judge(&w, &sb);
}

static void free_image(struct image *image)
{
	free(image->good);
	free(image->bad);
	free(image->used);
	free(image->kinds);
}

/* Returns false if the reader has done something wrong. */
static bool try_image(const char *path, uint64_t images, uint64_t seed, uint64_t *good)
{
	const char *wrong = NULL;
	struct image image;
	bool valid;

	load_image(&image, path);
	for (uint64_t n = 0; !wrong && n < images; n++) {
		uint64_t rng = seed + n;

		spoil(&image, &rng);
		wrong = read_it(&image, &rng, &valid);
		*good += valid;
		if (wrong)
			printf("%s, spoiled with seed %llu: %s\n", path,
			       (unsigned long long)(seed + n), wrong);
	}
	free_image(&image);

	return !wrong;
}

int main(int argc, char **argv)
{
	uint64_t images = 10000, seed = 0, good = 0, each;
	int first = 1;

	while (first + 1 < argc && !strncmp(argv[first], "--", 2)) {
		if (!strcmp(argv[first], "--images"))
			images = strtoull(argv[first + 1], NULL, 0);
		else if (!strcmp(argv[first], "--seed"))
			seed = strtoull(argv[first + 1], NULL, 0);
		else
			die("unknown option");
		first += 2;
	}
	if (first == argc)
		die("no image");

	each = (images - 1) / (argc - first) + 1;
	for (int i = first; i < argc; i++)
		if (!try_image(argv[i], each, seed, &good))
			return 1;

	printf("%llu spoiled images are read, %llu of them without complaint, digest %08x\n",
	       (unsigned long long)each * (argc - first), (unsigned long long)good, digest);
	return 0;
}
