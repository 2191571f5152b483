// SPDX-License-Identifier: GPL-2.0-only
/* A reader of metadata images that trusts nothing, see image.h. */

#include <errno.h>

#include "../../tools/lib/clone-metadata.h"
#include "../../tools/lib/crc32c.h"
#include "image.h"

static const uint32_t csum_xor[NR_KINDS] = {
	[KIND_SUPERBLOCK] = SB_CSUM_XOR,
	[KIND_INDEX] = INDEX_CSUM_XOR,
	[KIND_BITMAP] = BITMAP_CSUM_XOR,
	[KIND_REF_NODE] = NODE_CSUM_XOR,
	[KIND_BITSET_NODE] = NODE_CSUM_XOR,
	[KIND_ARRAY] = ARRAY_CSUM_XOR,
};

const struct field_place field_places[] = {
	[SB_FLAGS] = { "flags", 4, 4 },
	[SB_BLOCKNR] = { "blocknr", 8, 8 },
	[SB_UUID] = { "uuid", 16, 8 },
	[SB_MAGIC] = { "magic", 32, 8 },
	[SB_VERSION] = { "version", 40, 4 },
	[SB_NR_BLOCKS] = { "nr_blocks", 44, 8 },
	[SB_NR_ALLOCATED] = { "nr_allocated", 52, 8 },
	[SB_INDEX_ROOT] = { "index root", 60, 8 },
	[SB_REF_ROOT] = { "reference count root", 68, 8 },
	[SB_REGION_SIZE] = { "region size", 172, 8 },
	[SB_TARGET_SIZE] = { "target size", 180, 8 },
	[SB_BITSET_ROOT] = { "bitset root", 188, 8 },
	[SB_REST] = { "what follows", SB_END, 8 },

	[NODE_FLAGS] = { "flags", 4, 4 },
	[NODE_BLOCKNR] = { "blocknr", 8, 8 },
	[NODE_NR] = { "nr_entries", 16, 4 },
	[NODE_MAX] = { "max_entries", 20, 4 },
	[NODE_VALUE_SIZE] = { "value_size", 24, 4 },
	[NODE_PADDING] = { "padding", 28, 4 },

	[ARRAY_MAX] = { "max_entries", 4, 4 },
	[ARRAY_NR] = { "nr_entries", 8, 4 },
	[ARRAY_VALUE_SIZE] = { "value_size", 12, 4 },
	[ARRAY_BLOCKNR] = { "blocknr", 16, 8 },

	/* And those of the first entry. */
	[INDEX_BLOCKNR] = { "blocknr", 8, 8 },
	[INDEX_BITMAP] = { "bitmap", INDEX_ENTRIES, 8 },
	[INDEX_NR_FREE] = { "nr_free", INDEX_ENTRIES + 8, 4 },
	[INDEX_NONE_FREE_BEFORE] = { "none_free_before", INDEX_ENTRIES + 12, 4 },
};

const char *kind_name(enum block_kind kind)
{
	static const char * const names[] = {
		"free block", "superblock", "index", "bitmap", "reference count node",
		"bitset node", "array block",
	};

	return names[kind];
}

const char *verdict_name(enum verdict verdict)
{
	static const char * const names[] = { "empty", "good", "odd", "broken" };

	return names[verdict];
}

static uint32_t block_csum(const uint8_t *block, enum block_kind kind)
{
	return crc32c(~0u, block + 4, BLOCK - 4) ^ csum_xor[kind];
}

void image_seal(struct image *image, uint64_t b, enum block_kind kind)
{
	uint8_t *block = image_block(image, b);

	put_le(block, 4, block_csum(block, kind));
}

/*
 * Where the two bits of block @b are: byte and shift; NULL if that's nowhere.
 */
static uint8_t *count_of(const struct image *image, uint64_t b, unsigned int *shift)
{
	uint64_t index = get_field(image->data, SB_INDEX_ROOT), bitmap;

	if (index >= image->nr_blocks || b / COUNTS_PER_BITMAP >= MAX_BITMAPS)
		return NULL;

	bitmap = get_le64(image_block(image, index) + INDEX_ENTRIES +
			  b / COUNTS_PER_BITMAP * INDEX_ENTRY_SIZE);
	if (bitmap >= image->nr_blocks)
		return NULL;

	*shift = b % 4 * 2;
	return image_block(image, bitmap) + BITMAP_COUNTS + b % COUNTS_PER_BITMAP / 4;
}

/* The high one of the two bits comes first. */
static unsigned int swap_bits(unsigned int count)
{
	return count >> 1 | (count & 1) << 1;
}

unsigned int image_get_count(const struct image *image, uint64_t b)
{
	unsigned int shift;
	uint8_t *p = count_of(image, b, &shift);

	return p ? swap_bits(*p >> shift & 3) : 0;
}

void image_set_count(struct image *image, uint64_t b, unsigned int count)
{
	unsigned int shift;
	uint8_t *p = count_of(image, b, &shift);

	if (p)
		*p = (*p & ~(3u << shift)) | swap_bits(count) << shift;
}

/*
 * The survey
 */

struct surveyor {
	const struct image *image;
	struct survey *s;
	uint32_t next_word;
	unsigned int leaf_depth;	/* of the current tree; 0: not known */
};

static void __attribute__((format(printf, 3, 4)))
find(struct survey *s, enum verdict finding, const char *format, ...)
{
	va_list args;

	if (s->verdict >= finding)
		return;

	s->verdict = finding;
	va_start(args, format);
	vsnprintf(s->why, sizeof(s->why), format, args);
	va_end(args);
}

static bool is_broken(const struct surveyor *v)
{
	return v->s->verdict == IMAGE_BROKEN;
}

/* Something refers to block @b as one of this kind. NULL if it is not. */
static const uint8_t *visit(struct surveyor *v, uint64_t b, enum block_kind kind,
			    unsigned int blocknr_offset)
{
	const uint8_t *block;

	if (b >= v->s->nr_blocks) {
		find(v->s, IMAGE_BROKEN, "a reference to block %llu", (unsigned long long)b);
		return NULL;
	}

	block = image_block(v->image, b);
	if (v->s->kind[b] != KIND_FREE)
		find(v->s, IMAGE_BROKEN, "two references to block %u", (unsigned int)b);
	else if (get_le32(block) != block_csum(block, kind))
		find(v->s, IMAGE_BROKEN, "checksum of block %u", (unsigned int)b);
	else if (get_le64(block + blocknr_offset) != b)
		find(v->s, IMAGE_BROKEN, "address in block %u", (unsigned int)b);
	v->s->kind[b] = kind;

	return is_broken(v) ? NULL : block;
}

struct tree {
	enum block_kind kind;
	unsigned int value_size;
	void (*value)(struct surveyor *v, uint64_t key, const uint8_t *value);
};

static void check_node(struct surveyor *v, const struct tree *tree, uint64_t b,
		       const uint8_t *n, bool is_root)
{
	uint32_t flags = get_field(n, NODE_FLAGS), nr = get_field(n, NODE_NR);
	uint32_t max = get_field(n, NODE_MAX), size = get_field(n, NODE_VALUE_SIZE);

	if (flags != NODE_LEAF && flags != NODE_INTERNAL)
		find(v->s, IMAGE_BROKEN, "flags of node %u", (unsigned int)b);
	if (size != (flags == NODE_LEAF ? tree->value_size : 8))
		find(v->s, IMAGE_BROKEN, "value size of node %u", (unsigned int)b);
	if (is_broken(v))
		return;
	if (nr > max || max > (BLOCK - NODE_KEYS) / (8 + size))
		find(v->s, IMAGE_BROKEN, "number of entries of node %u", (unsigned int)b);
	if (max != MAX_ENTRIES(size))
		find(v->s, IMAGE_ODD, "room of node %u", (unsigned int)b);
	if (!nr && !(is_root && flags == NODE_LEAF))
		find(v->s, IMAGE_BROKEN, "node %u is empty", (unsigned int)b);
	if (get_field(n, NODE_PADDING))
		find(v->s, IMAGE_ODD, "padding of node %u", (unsigned int)b);
}

/* All keys of the subtree must be in [begin, end). */
static void survey_subtree(struct surveyor *v, const struct tree *tree, uint64_t b,
			   unsigned int depth, uint64_t begin, uint64_t end)
{
	const uint8_t *n = visit(v, b, tree->kind, 8), *values;
	uint32_t nr, size;
	bool leaf;

	if (n)
		check_node(v, tree, b, n, depth == 1);
	if (is_broken(v))
		return;

	leaf = get_field(n, NODE_FLAGS) == NODE_LEAF;
	nr = get_field(n, NODE_NR);
	size = get_field(n, NODE_VALUE_SIZE);
	values = n + NODE_KEYS + 8 * get_field(n, NODE_MAX);

	if (leaf && v->leaf_depth && v->leaf_depth != depth)
		find(v->s, IMAGE_ODD, "leaves at depths %u and %u", v->leaf_depth, depth);
	if (leaf)
		v->leaf_depth = depth;
	if (depth > 4)
		find(v->s, IMAGE_ODD, "a tree of depth %u", depth);

	for (uint32_t i = 0; i < nr && !is_broken(v); i++) {
		uint64_t key = get_le64(n + NODE_KEYS + 8 * i);
		uint64_t next = i + 1 < nr ? get_le64(n + NODE_KEYS + 8 * i + 8) : end;

		if (key < begin || key >= next || next > end)
			find(v->s, IMAGE_BROKEN, "keys of node %u", (unsigned int)b);
		else if (leaf)
			tree->value(v, key, values + i * size);
		else
			survey_subtree(v, tree, get_le64(values + i * size), depth + 1, key, next);
	}
}

static void survey_tree(struct surveyor *v, const struct tree *tree, uint64_t root)
{
	v->leaf_depth = 0;
	survey_subtree(v, tree, root, 1, 0, ~0ull);
}

static void ref_count_value(struct surveyor *v, uint64_t key, const uint8_t *value)
{
	(void)value;
	find(v->s, IMAGE_ODD, "block %llu has many references", (unsigned long long)key);
}

/* The root of the space map and what it says, except for the counts. */
static void survey_space_map(struct surveyor *v)
{
	static const struct tree tree = { KIND_REF_NODE, 4, ref_count_value };
	const uint8_t *sb = v->image->data, *index;
	uint64_t nr = get_field(sb, SB_NR_BLOCKS), i;

	v->s->nr_blocks = nr;
	if (!nr || nr > v->image->nr_blocks) {
		find(v->s, IMAGE_BROKEN, "a space map of %llu blocks", (unsigned long long)nr);
		return;
	}
	v->s->kind[0] = KIND_SUPERBLOCK;

	index = visit(v, get_field(sb, SB_INDEX_ROOT), KIND_INDEX, 8);
	for (i = 0; index && i * COUNTS_PER_BITMAP < nr; i++) {
		uint64_t b = get_le64(index + INDEX_ENTRIES + i * INDEX_ENTRY_SIZE);

		if (!visit(v, b, KIND_BITMAP, 8))
			return;
	}

	if (!is_broken(v))
		survey_tree(v, &tree, get_field(sb, SB_REF_ROOT));
}

static void array_value(struct surveyor *v, uint64_t key, const uint8_t *value)
{
	uint64_t b = get_le64(value);
	const uint8_t *block = visit(v, b, KIND_ARRAY, 16);
	uint32_t left = v->s->nr_words - v->next_word;
	uint32_t nr = min_u64(WORDS_PER_ARRAY, left);

	if (!block)
		return;
	if (get_field(block, ARRAY_MAX) != WORDS_PER_ARRAY || !left ||
	    get_field(block, ARRAY_NR) != nr || get_field(block, ARRAY_VALUE_SIZE) != 8 ||
	    key != v->next_word / WORDS_PER_ARRAY) {
		find(v->s, IMAGE_BROKEN, "header of array block %u", (unsigned int)b);
		return;
	}

	v->s->first_word[b] = v->next_word;
	for (uint32_t i = 0; i < nr; i++)
		v->s->words[v->next_word++] = get_le64(block + ARRAY_WORDS + 8 * i);
}

static void survey_bitset(struct surveyor *v)
{
	static const struct tree tree = { KIND_BITSET_NODE, 8, array_value };
	struct survey *s = v->s;
	unsigned int tail = s->nr_regions % 64;

	survey_tree(v, &tree, get_field(v->image->data, SB_BITSET_ROOT));
	if (is_broken(v))
		return;

	if (v->next_word != s->nr_words) {
		find(s, IMAGE_BROKEN, "bitset of %u words for %u", v->next_word, s->nr_words);
		return;
	}

	if (tail && s->words[s->nr_words - 1] >> tail) {
		find(s, IMAGE_ODD, "bits beyond the last region");
		s->words[s->nr_words - 1] &= (1ull << tail) - 1;
	}
	for (uint32_t i = 0; i < s->nr_words; i++)
		s->nr_hydrated += __builtin_popcountll(s->words[i]);
}

/* Bits of blocks that do not exist. */
static bool has_surplus_counts(const struct surveyor *v)
{
	uint64_t nr = v->s->nr_blocks;
	uint64_t end = (nr + COUNTS_PER_BITMAP - 1) / COUNTS_PER_BITMAP * COUNTS_PER_BITMAP;

	while (nr < end)
		if (image_get_count(v->image, nr++))
			return true;
	return false;
}

/* Compare the space map's counts with the references that were found. */
static void survey_counts(struct surveyor *v)
{
	const uint8_t *index = image_block(v->image, get_field(v->image->data, SB_INDEX_ROOT));
	uint64_t allocated = 0, live = 0, nr_bitmaps;
	struct survey *s = v->s;

	nr_bitmaps = (s->nr_blocks + COUNTS_PER_BITMAP - 1) / COUNTS_PER_BITMAP;
	for (uint64_t i = 0; i < nr_bitmaps; i++) {
		const uint8_t *entry = index + INDEX_ENTRIES + i * INDEX_ENTRY_SIZE;
		uint64_t begin = i * COUNTS_PER_BITMAP;
		uint64_t end = min_u64(begin + COUNTS_PER_BITMAP, s->nr_blocks);
		uint64_t used = 0, first_free = end;

		for (uint64_t b = begin; b < end; b++) {
			unsigned int count = image_get_count(v->image, b);

			if (s->kind[b] != KIND_FREE && !count)
				find(s, IMAGE_BROKEN, "live block %u is free", (unsigned int)b);
			else if (count != (s->kind[b] != KIND_FREE))
				find(s, IMAGE_ODD, "count of block %u is %u", (unsigned int)b,
				     count);
			used += !!count;
			live += s->kind[b] != KIND_FREE;
			if (!count && first_free == end)
				first_free = b;
		}
		/*
		 * The library relies on all of a bitmap, even beyond the last
		 * block.
		 */
		if (get_le32(entry + 8) != COUNTS_PER_BITMAP - used)
			find(s, IMAGE_ODD, "free blocks of bitmap %u", (unsigned int)i);
		if (get_le32(entry + 12) > first_free - begin)
			find(s, IMAGE_ODD, "first free block of bitmap %u", (unsigned int)i);
		allocated += used;
	}
	if (get_field(v->image->data, SB_NR_ALLOCATED) != allocated)
		find(s, IMAGE_ODD, "number of allocated blocks");
	if (has_surplus_counts(v))
		find(s, IMAGE_ODD, "counts of blocks beyond the last");
	/*
	 * A commit may need a new block for each, and goes read-only without.
	 */
	if (s->nr_blocks - allocated < live)
		find(s, IMAGE_ODD, "%llu free blocks for %llu in use",
		     (unsigned long long)(s->nr_blocks - allocated), (unsigned long long)live);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static void survey_superblock(struct surveyor *v)
{
	const uint8_t *sb = v->image->data;
	struct survey *s = v->s;

	if (is_zero(sb, BLOCK))
		return;
	if (get_field(sb, SB_MAGIC) != MAGIC)
		find(s, IMAGE_BROKEN, "magic number");
	else if (get_le32(sb) != block_csum(sb, KIND_SUPERBLOCK))
		find(s, IMAGE_BROKEN, "checksum of the superblock");
	else if (get_field(sb, SB_BLOCKNR))
		find(s, IMAGE_BROKEN, "address in the superblock");
	else if (get_field(sb, SB_VERSION) != 1)
		find(s, IMAGE_BROKEN, "version");
	else if (get_field(sb, SB_REGION_SIZE) != s->region_size)
		find(s, IMAGE_BROKEN, "region size");
	else if (get_field(sb, SB_TARGET_SIZE) != s->target_size)
		find(s, IMAGE_BROKEN, "target size");
	else if (get_field(sb, SB_FLAGS) || !is_zero(sb + 16, 16) || !is_zero(sb + 76, 96) ||
		 !is_zero(sb + SB_END, BLOCK - SB_END))
		find(s, IMAGE_ODD, "unused fields of the superblock");
	else
		find(s, IMAGE_GOOD, "nothing");
}

struct survey *image_survey(const struct image *image, uint64_t target_size,
			    uint64_t region_size)
{
	struct survey *s = must_alloc(sizeof(*s));
	struct surveyor v = { .image = image, .s = s };

	s->target_size = target_size;
	s->region_size = region_size;
	s->nr_regions = (target_size + region_size - 1) / region_size;
	s->nr_words = (s->nr_regions + 63) / 64;
	s->words = must_alloc((size_t)s->nr_words * 8);
	s->kind = must_alloc(image->nr_blocks);
	s->first_word = must_alloc((size_t)image->nr_blocks * sizeof(*s->first_word));

	survey_superblock(&v);
	if (s->verdict != IMAGE_EMPTY && !is_broken(&v))
		survey_space_map(&v);
	if (s->verdict != IMAGE_EMPTY && !is_broken(&v))
		survey_bitset(&v);
	if (s->verdict != IMAGE_EMPTY && !is_broken(&v))
		survey_counts(&v);

	return s;
}

/*
 * The reader that the tools use
 */

static int read_from_memory(void *context, uint64_t block, void *buf)
{
	memcpy(buf, image_block(context, block), BLOCK);
	return 0;
}

struct comparison {
	const struct survey *s;
	bool words_differ;
};

static void compare_words(void *context, uint64_t first, const uint64_t *words, unsigned int nr)
{
	struct comparison *c = context;

	if (memcmp(words, c->s->words + first, nr * sizeof(*words)))
		c->words_differ = true;
}

/* How the tools' reader judges an image with a superblock that it accepts. */
static const char *compare_contents(const struct clone_md_image *image,
				    const struct clone_md_superblock *sb, const struct survey *s)
{
	struct comparison c = { .s = s };
	const struct clone_md_visitor visitor = { .words = compare_words, .context = &c };
	struct clone_md_stats stats;
	int r = clone_md_check(image, sb, &visitor, &stats);
	bool harm;

	if (r == -EINVAL && s->verdict == IMAGE_BROKEN)
		return NULL;
	if (r && r != -EILSEQ)
		return "it cannot check";

	harm = stats.problems[CLONE_MD_DAMAGED] || stats.problems[CLONE_MD_UNPROTECTED];
	if (s->verdict == IMAGE_GOOD)
		return r ? "it complains" : c.words_differ ? "it reads other bits" : NULL;
	if (s->verdict == IMAGE_BROKEN)
		return harm ? NULL : "it finds no harm";
	return harm || !c.words_differ ? NULL : "it reads other bits";
}

const char *image_compare_readers(const struct image *image, const struct survey *s)
{
	const struct clone_md_image md = {
		.read = read_from_memory, .context = (void *)image, .nr_blocks = image->nr_blocks,
	};
	struct clone_md_superblock sb;
	const char *text;
	int r = clone_md_read_superblock(&md, &sb, &text);

	if (s->verdict == IMAGE_EMPTY || r == -ENODATA)
		return s->verdict == IMAGE_EMPTY && r == -ENODATA ? NULL : "is it empty?";
	if (r)
		return s->verdict == IMAGE_BROKEN ? NULL : "it does not like the superblock";
	/* It has nothing to compare these with. */
	if (sb.region_size != s->region_size || sb.target_size != s->target_size)
		return s->verdict == IMAGE_BROKEN ? NULL : "it reads other sizes";

	return compare_contents(&md, &sb, s);
}

void survey_free(struct survey *s)
{
	if (!s)
		return;
	free(s->kind);
	free(s->first_word);
	free(s->words);
	free(s);
}
