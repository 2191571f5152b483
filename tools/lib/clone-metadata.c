// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Reading the metadata of a clone from an image, see clone-metadata.h.
 * Documentation/metadata-format.rst describes the format.
 *
 * This ends on any input: a block is entered once, by the first reference to
 * it, and there are finitely many; a tree is not followed deeper than the
 * largest clone needs.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/fs.h>
#endif

#include "clone-format.h"
#include "clone-metadata.h"
#include "crc32c.h"
#include "endian-le.h"

/* Three levels serve 2^31 regions. */
#define MAX_DEPTH		4

/* Reference counts as they are kept here. */
#define COUNT_MANY		3u	/* or more: it is in the tree */
#define COUNT_LARGE		4u	/* and found there */
#define COUNT_UNKNOWN		255u

struct walk {
	const struct clone_md_image *image;
	const struct clone_md_superblock *sb;
	const struct clone_md_visitor *visitor;
	struct clone_md_stats stats;

	uint64_t nr_blocks;		/* those that may be referred to */
	bool *referenced;		/* one a block */
	uint8_t *counts;		/* as the space map has it; one a block */

	bool incomplete;		/* not all references were met */

	unsigned int leaf_depth;	/* of the tree at hand, from 1; 0: unknown */

	uint64_t nr_words;
	uint64_t next_word;		/* all before it were told, or told lost */
	uint64_t nr_problems_there;	/* when that was so */
	bool words_lost;
};

/* A tree of which the values, and the keys, are of a certain kind. */
struct tree {
	uint32_t value_size;
	uint64_t end_key;		/* keys are less than this */
	void (*value)(struct walk *w, uint64_t key, const uint8_t *value);
};

/*
 *---------------------------------------------------------------
 * Problems
 *---------------------------------------------------------------
 */

__attribute__((format(printf, 4, 5)))
static void problem(struct walk *w, enum clone_md_problem kind, uint64_t block,
		    const char *format, ...)
{
	char text[160];
	va_list ap;

	w->stats.problems[kind]++;
	if (!w->visitor->problem)
		return;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	w->visitor->problem(w->visitor->context, kind, block, text);
}

static uint64_t nr_problems(const struct walk *w)
{
	uint64_t nr = 0;

	for (unsigned int i = 0; i < CLONE_MD_NR_PROBLEMS; i++)
		nr += w->stats.problems[i];

	return nr;
}

/*
 *---------------------------------------------------------------
 * Superblock
 *---------------------------------------------------------------
 */

uint32_t clone_md_block_csum(const void *block, uint32_t kind)
{
	return crc32c(~0u, (const uint8_t *)block + 4, CLONE_MD_BLOCK_SIZE - 4) ^ kind;
}

bool clone_md_is_zero(const void *buf, size_t size)
{
	const uint8_t *bytes = buf;

	return !bytes[0] && !memcmp(bytes, bytes + 1, size - 1);
}

static void unpack_superblock(const uint8_t *block, struct clone_md_superblock *sb)
{
	sb->csum = get_le32(block);
	sb->flags = get_le32(block + SB_FLAGS);
	sb->blocknr = get_le64(block + SB_BLOCKNR);
	memcpy(sb->uuid, block + SB_UUID, sizeof(sb->uuid));
	sb->magic = get_le64(block + SB_MAGIC);
	sb->version = get_le32(block + SB_VERSION);
	memcpy(sb->space_map_root, block + SB_SPACE_MAP_ROOT, sizeof(sb->space_map_root));
	sb->region_size = get_le64(block + SB_REGION_SIZE);
	sb->target_size = get_le64(block + SB_TARGET_SIZE);
	sb->bitset_root = get_le64(block + SB_BITSET_ROOT);
	sb->dest_zeroed = get_le64(block + SB_DEST_ZEROED) == DEST_ZEROED_NOTE;
}

int clone_md_parse_superblock(const void *block, struct clone_md_superblock *sb,
			      const char **text)
{
	unpack_superblock(block, sb);

	*text = "the superblock is all zeroes";
	if (clone_md_is_zero(block, CLONE_MD_BLOCK_SIZE))
		return -ENODATA;

	*text = "the magic number is not that of a clone";
	if (sb->magic != CLONE_MD_MAGIC)
		return -EILSEQ;

	*text = "the superblock has a wrong checksum";
	if (sb->csum != clone_md_block_csum(block, CLONE_MD_SUPERBLOCK_CSUM_XOR))
		return -EILSEQ;

	*text = "the superblock says that it belongs elsewhere";
	if (sb->blocknr)
		return -EILSEQ;

	*text = "the metadata is of another version";
	if (sb->version != CLONE_MD_VERSION)
		return -ENOTSUP;

	*text = NULL;
	return 0;
}

int clone_md_read_superblock(const struct clone_md_image *image,
			     struct clone_md_superblock *sb, const char **text)
{
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	int r;

	memset(sb, 0, sizeof(*sb));

	*text = "there is no room for a superblock";
	if (!image->nr_blocks)
		return -EILSEQ;

	*text = "the superblock cannot be read";
	r = image->read(image->context, 0, block);
	if (r)
		return r;

	return clone_md_parse_superblock(block, sb, text);
}

/*
 *---------------------------------------------------------------
 * Sizes
 *---------------------------------------------------------------
 */

const char *clone_md_check_geometry(const struct clone_md_superblock *sb)
{
	uint64_t size = sb->region_size;

	if (size < CLONE_MD_MIN_REGION_SIZE || size > CLONE_MD_MAX_REGION_SIZE ||
	    size & (size - 1))
		return "the region size is not a possible one";
	if (!sb->target_size)
		return "the size is zero";
	if ((sb->target_size - 1) / size >= CLONE_MD_MAX_REGIONS)
		return "there are too many regions";

	return NULL;
}

uint64_t clone_md_nr_regions(const struct clone_md_superblock *sb)
{
	return (sb->target_size - 1) / sb->region_size + 1;
}

uint64_t clone_md_nr_words(const struct clone_md_superblock *sb)
{
	return (clone_md_nr_regions(sb) + 63) / 64;
}

/*
 *---------------------------------------------------------------
 * Blocks
 *---------------------------------------------------------------
 */

/*
 * Read block @b, which is known to exist, and check that it is what it should
 * be.
 */
static bool read_block(struct walk *w, uint64_t b, uint32_t kind,
		       unsigned int blocknr_offset, uint8_t *block)
{
	int r = w->image->read(w->image->context, b, block);

	if (r) {
		problem(w, CLONE_MD_UNREADABLE, b, "cannot be read: %s", strerror(-r));
		return false;
	}

	if (get_le32(block) != clone_md_block_csum(block, kind)) {
		problem(w, CLONE_MD_DAMAGED, b, "wrong checksum");
		return false;
	}

	if (get_le64(block + blocknr_offset) != b) {
		problem(w, CLONE_MD_DAMAGED, b, "has the address of block %llu",
			(unsigned long long)get_le64(block + blocknr_offset));
		return false;
	}

	return true;
}

/* Something refers to @b. Returns whether it may be entered. */
static bool note_reference(struct walk *w, uint64_t b)
{
	if (b >= w->nr_blocks) {
		problem(w, CLONE_MD_DAMAGED, b,
			"referred to, but there are only %llu blocks",
			(unsigned long long)w->nr_blocks);
		return false;
	}

	/* The trees of a clone never share anything. */
	if (w->referenced[b]) {
		problem(w, CLONE_MD_DAMAGED, b, "more than one reference");
		return false;
	}
	w->referenced[b] = true;
	if (w->visitor->reference)
		w->visitor->reference(w->visitor->context, b);

	return true;
}

/*
 *---------------------------------------------------------------
 * Trees
 *---------------------------------------------------------------
 */

static const char *check_node_header(const uint8_t *n, const struct tree *tree, bool is_root)
{
	uint32_t flags = get_le32(n + NODE_FLAGS);
	uint32_t nr = get_le32(n + NODE_NR_ENTRIES);
	uint32_t max = get_le32(n + NODE_MAX_ENTRIES);
	uint32_t size = get_le32(n + NODE_VALUE_SIZE);
	bool leaf = flags == NODE_LEAF;

	if (!leaf && flags != NODE_INTERNAL)
		return "tree node of an unknown kind";
	if (size != (leaf ? tree->value_size : 8))
		return "tree node with values of a wrong size";
	if (max > (CLONE_MD_BLOCK_SIZE - NODE_KEYS) / (8 + size) || nr > max)
		return "tree node with too many entries";
	if (!nr && !(leaf && is_root))
		return "tree node without entries";

	return NULL;
}

/* Good enough for reading, but not for the library when it changes the tree. */
static void check_node_shape(struct walk *w, uint64_t b, const uint8_t *n, unsigned int depth)
{
	uint32_t max = get_le32(n + NODE_MAX_ENTRIES);
	uint32_t size = get_le32(n + NODE_VALUE_SIZE);

	/* This many, rounded down to a multiple of three, are what it makes. */
	if (max != (CLONE_MD_BLOCK_SIZE - NODE_KEYS) / (8 + size) / 3 * 3)
		problem(w, CLONE_MD_DAMAGED, b, "tree node for %u entries", max);

	if (get_le32(n + NODE_FLAGS) != NODE_LEAF)
		return;
	if (w->leaf_depth && w->leaf_depth != depth + 1)
		problem(w, CLONE_MD_DAMAGED, b, "tree is not balanced");
	w->leaf_depth = depth + 1;
}

static uint64_t node_key(const uint8_t *n, uint32_t i)
{
	return get_le64(n + NODE_KEYS + 8 * i);
}

/* The subtree at @b has keys in [@begin, @end), if it is as it should be. */
static void walk_subtree(struct walk *w, const struct tree *tree, uint64_t b,
			 unsigned int depth, uint64_t begin, uint64_t end)
{
	uint8_t n[CLONE_MD_BLOCK_SIZE];
	const uint8_t *values;
	const char *wrong;
	uint32_t nr, size;

	if (!note_reference(w, b) || !read_block(w, b, CLONE_MD_NODE_CSUM_XOR, NODE_BLOCKNR, n))
		return;

	wrong = check_node_header(n, tree, !depth);
	if (!wrong && depth == MAX_DEPTH)
		wrong = "tree is too deep";
	if (wrong) {
		problem(w, CLONE_MD_DAMAGED, b, "%s", wrong);
		return;
	}
	check_node_shape(w, b, n, depth);

	nr = get_le32(n + NODE_NR_ENTRIES);
	size = get_le32(n + NODE_VALUE_SIZE);
	values = n + NODE_KEYS + 8 * get_le32(n + NODE_MAX_ENTRIES);

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t key = node_key(n, i);
		uint64_t next = i + 1 < nr ? node_key(n, i + 1) : end;

		if (key < begin || key >= next || next > end) {
			problem(w, CLONE_MD_DAMAGED, b, "tree node with keys out of order");
			return;
		}

		if (get_le32(n + NODE_FLAGS) == NODE_LEAF)
			tree->value(w, key, values + i * size);
		else
			walk_subtree(w, tree, get_le64(values + i * size), depth + 1,
				     key, next);
	}
}

static void walk_tree(struct walk *w, const struct tree *tree, uint64_t root)
{
	w->leaf_depth = 0;
	walk_subtree(w, tree, root, 0, 0, tree->end_key);
}

/*
 *---------------------------------------------------------------
 * The bitset
 *---------------------------------------------------------------
 */

/* Everything up to @word that was not told yet is lost. */
static void skip_to_word(struct walk *w, uint64_t word)
{
	if (w->next_word >= word)
		return;

	/*
	 * A block that cannot be used has been told, one that's missing not
	 * yet.
	 */
	if (nr_problems(w) == w->nr_problems_there)
		problem(w, CLONE_MD_DAMAGED, w->sb->bitset_root,
			"the bitset lacks words %llu to %llu",
			(unsigned long long)w->next_word, (unsigned long long)word - 1);
	if (w->visitor->lost)
		w->visitor->lost(w->visitor->context, w->next_word, word - w->next_word);
	w->words_lost = true;
	w->next_word = word;
}

static void tell_words(struct walk *w, uint64_t b, const uint8_t *values, unsigned int nr)
{
	uint64_t words[WORDS_PER_ARRAY];

	for (unsigned int i = 0; i < nr; i++) {
		uint64_t mask = word_mask(w->sb, w->next_word + i);

		words[i] = get_le64(values + 8 * i);
		if (words[i] & ~mask) {
			problem(w, CLONE_MD_UNTIDY, b, "bits after the last region are set");
			words[i] &= mask;
		}
		w->stats.nr_hydrated += __builtin_popcountll(words[i]);
	}

	if (nr && w->visitor->words)
		w->visitor->words(w->visitor->context, w->next_word, words, nr);
	w->next_word += nr;
	w->nr_problems_there = nr_problems(w);
}

/* A value of the bitset's tree: the number of an array block. */
static void walk_array_block(struct walk *w, uint64_t key, const uint8_t *value)
{
	unsigned int expected = words_in_array(w->sb, key);
	uint64_t b = get_le64(value);
	uint8_t a[CLONE_MD_BLOCK_SIZE];
	uint32_t nr;

	if (!note_reference(w, b) || !read_block(w, b, CLONE_MD_ARRAY_CSUM_XOR, ARRAY_BLOCKNR, a))
		return;

	if (get_le32(a + ARRAY_VALUE_SIZE) != 8 ||
	    get_le32(a + ARRAY_MAX_ENTRIES) != WORDS_PER_ARRAY) {
		problem(w, CLONE_MD_DAMAGED, b, "part of the bitset with a wrong layout");
		return;
	}

	nr = get_le32(a + ARRAY_NR_ENTRIES);
	if (nr != expected) {
		problem(w, CLONE_MD_DAMAGED, b,
			"part of the bitset with %u words instead of %u", nr,
			expected);
		if (nr > expected)
			nr = expected;
	}

	skip_to_word(w, key * WORDS_PER_ARRAY);
	if (w->visitor->array)
		w->visitor->array(w->visitor->context, key, b);
	tell_words(w, b, a + ARRAY_VALUES, nr);
}

static void walk_bitset(struct walk *w)
{
	struct tree arrays = {
		.value_size = 8,
		.end_key = nr_arrays(w->sb),
		.value = walk_array_block,
	};

	w->nr_problems_there = nr_problems(w);
	walk_tree(w, &arrays, w->sb->bitset_root);
	skip_to_word(w, w->nr_words);
}

/*
 *---------------------------------------------------------------
 * The space map
 *---------------------------------------------------------------
 */

/*
 * The library numbers the two bits of a count as it does those of a bitmap in
 * general, lowest first, but takes the first for the higher one.
 */
static unsigned int bitmap_count(const uint8_t *bitmap, unsigned int i)
{
	unsigned int bits = bitmap[BITMAP_COUNTS + i / 4] >> (2 * (i % 4));

	return (bits & 1) << 1 | (bits >> 1 & 1);
}

/* Take the counts from a bitmap, and see whether its index entry is right. */
static void read_counts(struct walk *w, uint64_t b, uint64_t first,
			const uint8_t *bitmap, const uint8_t *entry)
{
	unsigned int used = 0, first_free = COUNTS_PER_BITMAP;

	for (unsigned int i = 0; i < COUNTS_PER_BITMAP; i++) {
		unsigned int count = bitmap_count(bitmap, i);

		if (count)
			used++;
		else if (first_free == COUNTS_PER_BITMAP)
			first_free = i;

		if (first + i < w->nr_blocks)
			w->counts[first + i] = count;
		else if (count)
			problem(w, CLONE_MD_DAMAGED, b,
				"space map counts blocks that do not exist");
	}

	w->stats.nr_used += used;
	if (get_le32(entry + ENTRY_NR_FREE) != COUNTS_PER_BITMAP - used)
		problem(w, CLONE_MD_DAMAGED, b, "space map has %u free blocks here, not %u",
			COUNTS_PER_BITMAP - used, get_le32(entry + ENTRY_NR_FREE));
	if (get_le32(entry + ENTRY_NONE_FREE_BEFORE) > first_free)
		problem(w, CLONE_MD_DAMAGED, b, "space map overlooks a free block");
}

/* A value of the tree of large reference counts: the bitmaps say the same. */
static void read_large_count(struct walk *w, uint64_t key, const uint8_t *value)
{
	uint32_t count = get_le32(value);

	if (w->counts[key] == COUNT_MANY && count >= COUNT_MANY) {
		w->counts[key] = COUNT_LARGE;
	} else if (w->counts[key] != COUNT_UNKNOWN) {
		problem(w, CLONE_MD_DAMAGED, key, "space map has a large count of %u, and %u",
			count, w->counts[key]);
		w->counts[key] = COUNT_UNKNOWN;
	}
}

static void walk_space_map(struct walk *w)
{
	struct tree ref_counts = {
		.value_size = 4,
		.end_key = w->nr_blocks,
		.value = read_large_count,
	};
	const uint8_t *root = w->sb->space_map_root;
	uint64_t index_block = get_le64(root + ROOT_INDEX);
	uint8_t index[CLONE_MD_BLOCK_SIZE], bitmap[CLONE_MD_BLOCK_SIZE];
	uint64_t first;

	if (note_reference(w, index_block) &&
	    read_block(w, index_block, CLONE_MD_INDEX_CSUM_XOR, INDEX_BLOCKNR, index)) {
		const uint8_t *entry = index + INDEX_ENTRIES;

		for (first = 0; first < w->nr_blocks; first += COUNTS_PER_BITMAP) {
			uint64_t b = get_le64(entry + ENTRY_BLOCKNR);

			if (note_reference(w, b) &&
			    read_block(w, b, CLONE_MD_BITMAP_CSUM_XOR, BITMAP_BLOCKNR, bitmap))
				read_counts(w, b, first, bitmap, entry);
			entry += INDEX_ENTRY_SIZE;
		}
	}

	walk_tree(w, &ref_counts, get_le64(root + ROOT_REF_COUNTS));
}

static void compare_count(struct walk *w, uint64_t b)
{
	unsigned int count = w->counts[b];

	if (count == COUNT_UNKNOWN)
		return;

	if (count == COUNT_MANY)
		problem(w, CLONE_MD_DAMAGED, b, "its large reference count is missing");
	else if (w->referenced[b] && !count)
		problem(w, CLONE_MD_UNPROTECTED, b, "in use, but free in the space map");
	else if (w->incomplete)
		return;
	else if (w->referenced[b] && count > 1)
		problem(w, CLONE_MD_LEAKED, b, "one reference, but space map has %u%s",
			count < COUNT_MANY ? count : COUNT_MANY,
			count < COUNT_MANY ? "" : " or more");
	else if (!w->referenced[b] && count)
		problem(w, CLONE_MD_LEAKED, b, "free, but in use in the space map");
}

static void compare_counts(struct walk *w)
{
	uint64_t allocated = get_le64(w->sb->space_map_root + ROOT_NR_ALLOCATED);
	bool all_known = true;

	/* What damaged blocks refer to is not known: it may be in use. */
	if (w->stats.problems[CLONE_MD_UNREADABLE] || w->stats.problems[CLONE_MD_DAMAGED])
		w->incomplete = true;

	for (uint64_t b = 0; b < w->nr_blocks; b++) {
		compare_count(w, b);
		all_known &= w->counts[b] != COUNT_UNKNOWN;
	}

	if (all_known && allocated != w->stats.nr_used)
		problem(w, CLONE_MD_DAMAGED, 0, "space map has %llu blocks in use, not %llu",
			(unsigned long long)w->stats.nr_used,
			(unsigned long long)allocated);
}

/* Is the size of the space map credible? */
static bool check_space_map_root(struct walk *w)
{
	uint64_t nr = get_le64(w->sb->space_map_root + ROOT_NR_BLOCKS);

	w->stats.nr_blocks = nr;
	if (nr && nr <= w->nr_blocks)
		return true;

	problem(w, CLONE_MD_DAMAGED, 0, "space map is for %llu blocks, there are %llu",
		(unsigned long long)nr, (unsigned long long)w->nr_blocks);
	return false;
}

/*
 *---------------------------------------------------------------
 * Walks
 *---------------------------------------------------------------
 */

static int begin_walk(struct walk *w, const struct clone_md_image *image,
		      const struct clone_md_superblock *sb,
		      const struct clone_md_visitor *visitor)
{
	memset(w, 0, sizeof(*w));
	if (clone_md_check_geometry(sb) || !image->nr_blocks)
		return -EINVAL;

	w->image = image;
	w->sb = sb;
	w->visitor = visitor;
	w->nr_words = clone_md_nr_words(sb);
	w->nr_blocks = image->nr_blocks;
	if (w->nr_blocks > CLONE_MD_MAX_BLOCKS)
		w->nr_blocks = CLONE_MD_MAX_BLOCKS;

	w->referenced = calloc(w->nr_blocks, sizeof(*w->referenced));
	if (!w->referenced)
		return -ENOMEM;
	w->referenced[0] = true;	/* the superblock */

	return 0;
}

int clone_md_walk_bitset(const struct clone_md_image *image,
			 const struct clone_md_superblock *sb,
			 const struct clone_md_visitor *visitor)
{
	struct walk w;
	int r = begin_walk(&w, image, sb, visitor);

	if (r)
		return r;

	walk_bitset(&w);
	free(w.referenced);

	return w.words_lost ? -EILSEQ : 0;
}

static int check(const struct clone_md_image *image,
		 const struct clone_md_superblock *sb,
		 const struct clone_md_visitor *visitor, bool with_bitset,
		 struct clone_md_stats *stats)
{
	struct walk w;
	bool map_usable;
	int r = begin_walk(&w, image, sb, visitor);

	if (r)
		return r;

	w.counts = malloc(w.nr_blocks * sizeof(*w.counts));
	if (!w.counts) {
		free(w.referenced);
		return -ENOMEM;
	}
	memset(w.counts, COUNT_UNKNOWN, w.nr_blocks * sizeof(*w.counts));

	/* What is beyond the blocks of the space map may not be referred to. */
	map_usable = check_space_map_root(&w);
	if (map_usable)
		w.nr_blocks = w.stats.nr_blocks;

	if (with_bitset)
		walk_bitset(&w);
	else
		w.incomplete = true;
	if (map_usable) {
		walk_space_map(&w);
		compare_counts(&w);
	}

	free(w.counts);
	free(w.referenced);
	if (stats)
		*stats = w.stats;

	return nr_problems(&w) ? -EILSEQ : 0;
}

int clone_md_check(const struct clone_md_image *image,
		   const struct clone_md_superblock *sb,
		   const struct clone_md_visitor *visitor,
		   struct clone_md_stats *stats)
{
	return check(image, sb, visitor, true, stats);
}

int clone_md_check_space_map(const struct clone_md_image *image,
			     const struct clone_md_superblock *sb,
			     const struct clone_md_visitor *visitor)
{
	return check(image, sb, visitor, false, NULL);
}

/*
 *---------------------------------------------------------------
 * Images in files
 *---------------------------------------------------------------
 */

static int transfer(int fd, bool write, uint8_t *buf, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t n = write ? pwrite(fd, buf, size, offset) :
				    pread(fd, buf, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO;
		buf += n;
		size -= n;
		offset += n;
	}

	return 0;
}

int clone_md_read_fd(int fd, void *buf, size_t size, uint64_t offset)
{
	return transfer(fd, false, buf, size, offset);
}

int clone_md_write_fd(int fd, const void *buf, size_t size, uint64_t offset)
{
	return transfer(fd, true, (uint8_t *)buf, size, offset);
}

int clone_md_size_of_fd(int fd, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;

	if (S_ISREG(st.st_mode)) {
		*size = st.st_size;
		return 0;
	}
#ifdef BLKGETSIZE64
	return ioctl(fd, BLKGETSIZE64, size) ? -errno : 0;
#else
	return -EINVAL;
#endif
}

static int read_image(void *context, uint64_t block, void *buf)
{
	return clone_md_read_fd((intptr_t)context, buf, CLONE_MD_BLOCK_SIZE,
				block * CLONE_MD_BLOCK_SIZE);
}

int clone_md_image_from_fd(struct clone_md_image *image, int fd)
{
	uint64_t size;
	int r = clone_md_size_of_fd(fd, &size);

	if (r)
		return r;

	*image = (struct clone_md_image) {
		.read = read_image,
		.context = (void *)(intptr_t)fd,
		.nr_blocks = size / CLONE_MD_BLOCK_SIZE,
	};

	return 0;
}
