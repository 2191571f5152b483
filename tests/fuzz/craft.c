// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an enemy would do to an image.  Each operation takes what it finds: the
 * image may have been changed by others before, so every number is checked
 * before it is used as an index, and an operation that finds no place does
 * nothing.
 */

#include "craft.h"

static void __attribute__((format(printf, 2, 3)))
say(struct craft *c, const char *format, ...)
{
	va_list args;

	if (c->what->used)
		text_add(c->what, ", ");
	va_start(args, format);
	text_vadd(c->what, format, args);
	va_end(args);
}

static uint8_t *touch(struct craft *c, uint64_t b)
{
	c->touched[b] = true;
	return image_block(c->image, b);
}

static void set_at(struct craft *c, uint64_t b, unsigned int offset, unsigned int size, uint64_t v)
{
	put_le(touch(c, b) + offset, size, v);
}

static void set(struct craft *c, uint64_t b, enum field field, uint64_t v)
{
	set_field(touch(c, b), field, v);
}

static uint64_t sb_field(struct craft *c, enum field field)
{
	return get_field(c->image->data, field);
}

static bool exists(struct craft *c, uint64_t b)
{
	return b < c->image->nr_blocks;
}

static unsigned int mask_of(enum block_kind kind)
{
	return 1u << kind;
}

/* A block of one of these kinds (a mask), or 0 if there is none. */
static uint64_t pick(struct craft *c, unsigned int kinds)
{
	uint64_t nr = 0, chosen = 0;

	for (uint64_t b = 0; b < c->image->nr_blocks; b++)
		if (kinds & mask_of(c->kind[b]) && rng_one_in(c->rng, ++nr))
			chosen = b;
	return chosen;
}

static const unsigned int nodes = 1u << KIND_REF_NODE | 1u << KIND_BITSET_NODE;
static const unsigned int live = ~(1u << KIND_FREE);
static const unsigned int anything = ~0u;

/* A block that nothing refers to; it belongs to the caller from now on. */
static uint64_t take_free(struct craft *c, enum block_kind kind)
{
	for (uint64_t b = 1; b < c->image->nr_blocks; b++) {
		if (c->kind[b] != KIND_FREE || image_get_count(c->image, b))
			continue;
		c->kind[b] = kind;
		image_set_count(c->image, b, 1);
		set(c, 0, SB_NR_ALLOCATED, sb_field(c, SB_NR_ALLOCATED) + 1);
		for (uint64_t i = 0; i < c->image->nr_blocks; i++)
			if (c->kind[i] == KIND_BITMAP)
				touch(c, i);
		memset(touch(c, b), 0, BLOCK);
		return b;
	}
	return 0;
}

static uint64_t interesting(struct craft *c, uint64_t old)
{
	static const uint64_t fixed[] = {
		0, 1, 2, 3, 4, 8, 63, 64, 84, 85, 252, 253, 254, 255, 256, 338, 339, 508, 509,
		510, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000ull,
		0x7fffffffffffffffull, 0x8000000000000000ull, ~0ull, ~1ull, 255 * 16320ull,
		255 * 16320ull + 1, 16320, 16321,
	};

	switch (rng_below(c->rng, 6)) {
	case 0:
		return fixed[rng_below(c->rng, ARRAY_SIZE(fixed))];
	case 1:
		return old + 1;
	case 2:
		return old - 1;
	case 3:
		return old ^ 1ull << rng_below(c->rng, 64);
	case 4:
		return rng_below(c->rng, c->image->nr_blocks + 2);
	default:
		return rng_next(c->rng) >> rng_below(c->rng, 64);
	}
}

static void change_at(struct craft *c, uint64_t b, const char *name, unsigned int offset,
		      unsigned int size)
{
	uint64_t v = interesting(c, get_le(image_block(c->image, b) + offset, size));

	say(c, "%s of block %u: %llx", name, (unsigned int)b, (unsigned long long)v);
	set_at(c, b, offset, size, v);
}

static void change_field(struct craft *c, uint64_t b, enum field field)
{
	const struct field_place *place = &field_places[field];

	change_at(c, b, place->name, place->offset, place->size);
}

/*
 * Bytes and fields
 */

void craft_damage(struct craft *c, uint64_t b)
{
	unsigned int nr = 1 + rng_below(c->rng, 4);
	uint8_t *block = touch(c, b);

	if (rng_one_in(c->rng, 8)) {
		unsigned int from = rng_below(c->rng, BLOCK);

		say(c, "block %u: noise from %u on", (unsigned int)b, from);
		for (unsigned int i = from; i < BLOCK; i++)
			block[i] = rng_next(c->rng);
		return;
	}

	say(c, "block %u: %u bits", (unsigned int)b, nr);
	while (nr--) {
		/* What is at the beginning matters most. */
		unsigned int limit = rng_one_in(c->rng, 2) ? BLOCK : 64;

		block[rng_below(c->rng, limit)] ^= 1u << rng_below(c->rng, 8);
	}
}

static void op_damage(struct craft *c)
{
	craft_damage(c, pick(c, live));
}

static void op_superblock(struct craft *c)
{
	change_field(c, 0, SB_FLAGS + rng_below(c->rng, SB_REST - SB_FLAGS + 1));
}

static void op_node(struct craft *c)
{
	uint64_t b = pick(c, nodes);
	const uint8_t *n = image_block(c->image, b);
	unsigned int entry, max = get_field(n, NODE_MAX);

	if (!rng_one_in(c->rng, 4)) {
		change_field(c, b, NODE_FLAGS + rng_below(c->rng, NODE_PADDING - NODE_FLAGS + 1));
		return;
	}

	entry = rng_below(c->rng, min_u64(get_field(n, NODE_NR) + 1, 252));
	if (rng_one_in(c->rng, 2))
		change_at(c, b, "a key", NODE_KEYS + 8 * entry, 8);
	else if (max <= 252)
		change_at(c, b, "a value", NODE_KEYS + 8 * max + 8 * entry, 8);
}

static void op_array(struct craft *c)
{
	change_field(c, pick(c, mask_of(KIND_ARRAY)),
		     ARRAY_MAX + rng_below(c->rng, ARRAY_BLOCKNR - ARRAY_MAX + 1));
}

static void op_index(struct craft *c)
{
	uint64_t b = pick(c, mask_of(KIND_INDEX));
	unsigned int n = rng_below(c->rng, 8);

	if (n < 7)
		change_field(c, b, INDEX_BLOCKNR + n / 2);
	else
		change_at(c, b, "an entry", INDEX_ENTRIES + INDEX_ENTRY_SIZE *
			  rng_below(c->rng, MAX_BITMAPS), 8);
}

/*
 * Blocks
 */

static void fix_address(struct craft *c, uint64_t b)
{
	set(c, b, c->kind[b] == KIND_ARRAY ? ARRAY_BLOCKNR : NODE_BLOCKNR, b);
}

static void op_copy(struct craft *c)
{
	uint64_t from = pick(c, anything), to = pick(c, live);
	bool fix = rng_one_in(c->rng, 2);

	say(c, "block %u copied over %u%s", (unsigned int)from, (unsigned int)to,
	    fix ? ", address set" : "");
	memmove(touch(c, to), image_block(c->image, from), BLOCK);
	if (fix) {
		c->kind[to] = c->kind[from];
		fix_address(c, to);
	}
}

static void op_swap(struct craft *c)
{
	uint64_t a = pick(c, live), b = pick(c, live);
	uint8_t *pa = touch(c, a), *pb = touch(c, b);
	bool fix = rng_one_in(c->rng, 2);
	uint8_t kind = c->kind[a];

	say(c, "blocks %u and %u swapped%s", (unsigned int)a, (unsigned int)b,
	    fix ? ", addresses set" : "");
	for (unsigned int i = 0; i < BLOCK; i++) {
		uint8_t byte = pa[i];

		pa[i] = pb[i];
		pb[i] = byte;
	}
	c->kind[a] = c->kind[b];
	c->kind[b] = kind;
	if (fix) {
		fix_address(c, a);
		fix_address(c, b);
	}
}

/*
 * Let a reference lead elsewhere: to itself, back up, across, out of the image.
 */
static void op_redirect(struct craft *c)
{
	static const unsigned int roots[] = { 60, 68, 188 };
	uint64_t to = rng_one_in(c->rng, 4) ? interesting(c, 0) : pick(c, anything);
	uint64_t b = pick(c, nodes | mask_of(KIND_INDEX) | mask_of(KIND_SUPERBLOCK));
	const uint8_t *block = image_block(c->image, b);
	unsigned int offset, nr, max;

	switch (c->kind[b]) {
	case KIND_SUPERBLOCK:
		offset = roots[rng_below(c->rng, ARRAY_SIZE(roots))];
		break;
	case KIND_INDEX:
		offset = INDEX_ENTRIES;
		break;
	default:
		nr = get_field(block, NODE_NR);
		max = get_field(block, NODE_MAX);
		if (!nr || nr > max || max > 252)
			return;
		offset = NODE_KEYS + 8 * max + 8 * rng_below(c->rng, nr);
	}

	if (rng_one_in(c->rng, 4))
		to = b;
	say(c, "reference in block %u at %u: to %llu", (unsigned int)b, offset,
	    (unsigned long long)to);
	set_at(c, b, offset, 8, to);
}

/*
 * Trees
 */

static uint64_t new_node(struct craft *c, enum block_kind kind, uint32_t flags, uint32_t max,
			 uint32_t value_size)
{
	uint64_t b = take_free(c, kind);

	if (!b)
		return 0;
	set(c, b, NODE_FLAGS, flags);
	set(c, b, NODE_BLOCKNR, b);
	set(c, b, NODE_MAX, max);
	set(c, b, NODE_VALUE_SIZE, value_size);
	return b;
}

static void add_entry(struct craft *c, uint64_t b, uint64_t key, uint64_t value)
{
	uint8_t *n = touch(c, b);
	unsigned int nr = get_field(n, NODE_NR), max = get_field(n, NODE_MAX);
	unsigned int size = get_field(n, NODE_VALUE_SIZE);

	if (nr >= max || (size != 4 && size != 8) || max > (BLOCK - NODE_KEYS) / (8 + size))
		return;
	put_le(n + NODE_KEYS + 8 * nr, 8, key);
	put_le(n + NODE_KEYS + 8 * max + size * nr, size, value);
	set(c, b, NODE_NR, nr + 1);
}

static bool choose_tree(struct craft *c, enum block_kind *kind, uint64_t *root)
{
	bool bitset = !rng_one_in(c->rng, 4);

	*kind = bitset ? KIND_BITSET_NODE : KIND_REF_NODE;
	*root = bitset ? sb_field(c, SB_BITSET_ROOT) : sb_field(c, SB_REF_ROOT);
	return exists(c, *root);
}

static void set_root(struct craft *c, enum block_kind kind, uint64_t root)
{
	if (kind == KIND_BITSET_NODE)
		set(c, 0, SB_BITSET_ROOT, root);
	else
		set(c, 0, SB_REF_ROOT, root);
}

/* Put nodes of one child each above the root. */
static void op_deepen(struct craft *c)
{
	static const uint8_t rooms[] = { 252, 252, 252, 254, 3, 2, 1 };
	unsigned int levels = 1 + rng_below(c->rng, rng_one_in(c->rng, 2) ? 3 : 12);
	enum block_kind kind;
	uint64_t root, b;

	if (!choose_tree(c, &kind, &root))
		return;
	say(c, "%u levels above the %s", levels, kind_name(kind));
	while (levels--) {
		b = new_node(c, kind, NODE_INTERNAL, rooms[rng_below(c->rng, ARRAY_SIZE(rooms))],
			     8);
		if (!b)
			return;
		add_entry(c, b, 0, root);
		set_root(c, kind, b);
		root = b;
	}
}

/* Distribute the entries of a leaf that is the root among several. */
static void op_split(struct craft *c)
{
	static const uint8_t rooms[] = { 252, 252, 254, 9, 3, 2, 1 };
	unsigned int nr, max, room = rooms[rng_below(c->rng, ARRAY_SIZE(rooms))];
	uint64_t root = sb_field(c, SB_BITSET_ROOT), top, leaf = 0;
	uint8_t old[BLOCK];

	if (!exists(c, root))
		return;
	memcpy(old, image_block(c->image, root), BLOCK);
	nr = get_field(old, NODE_NR);
	max = get_field(old, NODE_MAX);
	if (get_field(old, NODE_FLAGS) != NODE_LEAF || nr > max || max > 252)
		return;

	say(c, "the bitset's leaf split, room for %u", room);
	top = new_node(c, KIND_BITSET_NODE, NODE_INTERNAL, 252, 8);
	for (unsigned int i = 0; top && i < nr; i++) {
		uint64_t key = get_le64(old + NODE_KEYS + 8 * i);

		if (!leaf || get_field(image_block(c->image, leaf), NODE_NR) == room ||
		    rng_one_in(c->rng, 2)) {
			leaf = new_node(c, KIND_BITSET_NODE, NODE_LEAF, room, 8);
			if (!leaf)
				return;
			add_entry(c, top, key, leaf);
		}
		add_entry(c, leaf, key, get_le64(old + NODE_KEYS + 8 * max + 8 * i));
	}
	if (top)
		set_root(c, KIND_BITSET_NODE, top);
}

static void op_cycle(struct craft *c)
{
	enum block_kind kind;
	uint64_t root, b;

	if (!choose_tree(c, &kind, &root))
		return;
	b = new_node(c, kind, NODE_INTERNAL, 252, 8);
	if (!b)
		return;
	say(c, "a cycle above the %s", kind_name(kind));
	if (rng_one_in(c->rng, 2)) {
		add_entry(c, b, 0, b);
		if (rng_one_in(c->rng, 2))
			add_entry(c, b, 1, root);
	} else {
		uint64_t other = new_node(c, kind, NODE_INTERNAL, 252, 8);

		add_entry(c, b, 0, other);
		if (other)
			add_entry(c, other, 0, b);
	}
	set_root(c, kind, b);
}

/* One entry less, one more, twice the same, or in a wrong order. */
static void op_entries(struct craft *c)
{
	uint64_t b = pick(c, nodes);
	uint8_t *n = touch(c, b);
	unsigned int nr = get_field(n, NODE_NR), max = get_field(n, NODE_MAX), i;
	uint8_t *values = n + NODE_KEYS + 8 * max;
	uint64_t v;

	if (!b || nr > max || max > 252 || get_field(n, NODE_VALUE_SIZE) != 8)
		return;
	switch (rng_below(c->rng, 4)) {
	case 0:
		say(c, "node %u: an entry less", (unsigned int)b);
		set(c, b, NODE_NR, nr - 1);
		break;
	case 1:
		say(c, "node %u: an entry more", (unsigned int)b);
		if (nr < max)
			add_entry(c, b, nr ? get_le64(n + NODE_KEYS + 8 * (nr - 1)) + 1 : 0,
				  pick(c, anything));
		break;
	case 2:
		say(c, "node %u: an entry twice", (unsigned int)b);
		if (nr && nr < max)
			add_entry(c, b, get_le64(n + NODE_KEYS + 8 * (nr - 1)) + 1,
				  get_le64(values + 8 * (nr - 1)));
		break;
	default:
		if (nr < 2)
			return;
		i = rng_below(c->rng, nr - 1);
		say(c, "node %u: values %u and %u swapped", (unsigned int)b, i, i + 1);
		v = get_le64(values + 8 * i);
		put_le(values + 8 * i, 8, get_le64(values + 8 * i + 8));
		put_le(values + 8 * i + 8, 8, v);
	}
}

/*
 * A bitset that is shorter or longer than the device, and says so, or does not.
 */
static void op_bitset_length(struct craft *c)
{
	uint64_t root = sb_field(c, SB_BITSET_ROOT), b;
	uint64_t last = 0;
	uint32_t nr;

	for (b = 0; b < c->image->nr_blocks; b++)
		if (c->kind[b] == KIND_ARRAY &&
		    get_field(image_block(c->image, b), ARRAY_NR) != WORDS_PER_ARRAY)
			last = b;
	if (!last || !exists(c, root))
		return;

	nr = get_field(image_block(c->image, last), ARRAY_NR);
	switch (rng_below(c->rng, 4)) {
	case 0:
		say(c, "bitset: a word less");
		set(c, last, ARRAY_NR, nr - 1);
		break;
	case 1:
		say(c, "bitset: a word more");
		set(c, last, ARRAY_NR, nr + 1);
		break;
	case 2:
		say(c, "bitset: no words");
		set(c, last, ARRAY_NR, 0);
		break;
	default:
		b = take_free(c, KIND_ARRAY);
		if (!b)
			return;
		say(c, "bitset: a block more");
		memcpy(touch(c, b), image_block(c->image, last), BLOCK);
		set(c, b, ARRAY_BLOCKNR, b);
		set(c, last, ARRAY_NR, WORDS_PER_ARRAY);
		add_entry(c, root, get_field(image_block(c->image, root), NODE_NR), b);
	}
}

/* Bits of regions: of all sorts, and those after the last one. */
static void op_bits(struct craft *c)
{
	uint64_t b = pick(c, mask_of(KIND_ARRAY));
	uint8_t *block = touch(c, b);
	unsigned int nr = get_field(block, ARRAY_NR), i;

	if (!b || nr > WORDS_PER_ARRAY || !nr)
		return;
	i = rng_one_in(c->rng, 3) ? nr - 1 : rng_below(c->rng, nr);
	if (nr < WORDS_PER_ARRAY && rng_one_in(c->rng, 4)) {
		say(c, "bits in unused words");
		i = nr + rng_below(c->rng, WORDS_PER_ARRAY - nr);
	} else {
		say(c, "bits of word %u of block %u", i, (unsigned int)b);
	}

	switch (rng_below(c->rng, 4)) {
	case 0:
		set_at(c, b, ARRAY_WORDS + 8 * i, 8, ~0ull);
		break;
	case 1:
		set_at(c, b, ARRAY_WORDS + 8 * i, 8, 0);
		break;
	case 2:
		set_at(c, b, ARRAY_WORDS + 8 * i, 8, rng_next(c->rng));
		break;
	default:
		set_at(c, b, ARRAY_WORDS + 8 * i, 8,
		       get_le64(block + ARRAY_WORDS + 8 * i) | 1ull << 63);
	}
}

/*
 * Space map
 */

static void touch_bitmaps(struct craft *c)
{
	for (uint64_t b = 0; b < c->image->nr_blocks; b++)
		if (c->kind[b] == KIND_BITMAP || c->kind[b] == KIND_INDEX)
			touch(c, b);
}

static void op_free_live(struct craft *c)
{
	uint64_t b = pick(c, live);

	say(c, "live block %u (%s) is free", (unsigned int)b, kind_name(c->kind[b]));
	image_set_count(c->image, b, 0);
	touch_bitmaps(c);
}

/* Make the space map's numbers agree with its bits. */
static void settle_counts(struct craft *c)
{
	uint64_t index = sb_field(c, SB_INDEX_ROOT), all = 0;
	uint64_t nr = min_u64(sb_field(c, SB_NR_BLOCKS), c->image->nr_blocks);

	for (uint64_t i = 0; i * COUNTS_PER_BITMAP < nr && i < MAX_BITMAPS; i++) {
		unsigned int entry = INDEX_ENTRIES + INDEX_ENTRY_SIZE * i;
		uint64_t used = 0;

		for (uint64_t b = i * COUNTS_PER_BITMAP; b < (i + 1) * COUNTS_PER_BITMAP; b++)
			used += !!image_get_count(c->image, b);
		all += used;
		if (!exists(c, index))
			continue;
		set_at(c, index, entry + 8, 4, COUNTS_PER_BITMAP - used);
		set_at(c, index, entry + 12, 4, 0);
	}
	set(c, 0, SB_NR_ALLOCATED, all);
}

/* Nearly all blocks in use: a commit finds no room, or little. */
static void op_fill(struct craft *c)
{
	uint64_t nr = c->image->nr_blocks;
	unsigned int keep = rng_below(c->rng, 14), left = keep;
	bool settle = !rng_one_in(c->rng, 4);
	/* What will be written must be where it is looked at. */
	bool keep_first = nr > HOT_BLOCKS || rng_one_in(c->rng, 2);

	say(c, "all but %u free blocks in use%s", keep, settle ? "" : ", counts left as they were");
	for (uint64_t i = 1; i < nr; i++) {
		uint64_t b = keep_first ? i : nr - i;

		if (image_get_count(c->image, b))
			continue;
		if (left)
			left--;
		else
			image_set_count(c->image, b, 1);
	}
	touch_bitmaps(c);
	if (settle)
		settle_counts(c);
}

static void op_counts(struct craft *c)
{
	unsigned int nr = 1 + rng_below(c->rng, rng_one_in(c->rng, 4) ? 64 : 4);
	unsigned int count = rng_below(c->rng, 4);

	say(c, "count of %u blocks: %u", nr, count);
	while (nr--)
		image_set_count(c->image, pick(c, rng_one_in(c->rng, 4) ? anything : live), count);
	touch_bitmaps(c);
	if (!rng_one_in(c->rng, 4))
		settle_counts(c);
}

static uint64_t some_count(struct craft *c)
{
	static const uint32_t counts[] = { 3, 3, 3, 4, 0, 1, 2, 0xffffffff, 0x80000000, 1000 };

	return counts[rng_below(c->rng, ARRAY_SIZE(counts))];
}

/*
 * A tree of reference counts, for live blocks mostly: when those are replaced
 * the library removes entries, and rebalances, merges and frees nodes.
 */
static void op_ref_counts(struct craft *c)
{
	static const unsigned int rooms[] = { 336, 336, 338, 9, 6, 3, 2, 1 };
	unsigned int room = rooms[rng_below(c->rng, ARRAY_SIZE(rooms))];
	bool same_room = rng_one_in(c->rng, 2), honest = rng_one_in(c->rng, 2);
	bool tree = rng_one_in(c->rng, 2);
	uint64_t top = 0, leaf = 0;

	if (tree)
		top = new_node(c, KIND_REF_NODE, NODE_INTERNAL, rng_one_in(c->rng, 4) ? room : 252,
			       8);
	say(c, "reference counts in %s, room for %u%s", top ? "a tree" : "a leaf", room,
	    same_room ? "" : " and other numbers");
	for (uint64_t b = 0; b < c->image->nr_blocks; b++) {
		uint8_t *n = leaf ? image_block(c->image, leaf) : NULL;

		if (rng_one_in(c->rng, 4) || (c->kind[b] == KIND_FREE && !rng_one_in(c->rng, 8)))
			continue;
		if (!n || (top && (get_field(n, NODE_NR) == room || rng_one_in(c->rng, 3)))) {
			leaf = new_node(c, KIND_REF_NODE, NODE_LEAF, room, 4);
			if (!leaf)
				break;
			if (top)
				add_entry(c, top, b, leaf);
			if (!same_room)
				room = rooms[rng_below(c->rng, ARRAY_SIZE(rooms))];
		}
		add_entry(c, leaf, b, honest ? 3 : some_count(c));
		if (honest || !rng_one_in(c->rng, 8))
			image_set_count(c->image, b, 3);
	}
	touch_bitmaps(c);
	settle_counts(c);
	if (leaf)
		set_root(c, KIND_REF_NODE, top ? top : leaf);
}

/* Wrong numbers of free blocks. */
static void op_nr_free(struct craft *c)
{
	uint64_t index = sb_field(c, SB_INDEX_ROOT);

	if (!exists(c, index))
		return;
	say(c, "wrong numbers of free blocks");
	if (rng_one_in(c->rng, 2))
		change_field(c, 0, SB_NR_ALLOCATED);
	if (rng_one_in(c->rng, 2))
		change_field(c, index, INDEX_NR_FREE);
	if (rng_one_in(c->rng, 2))
		change_field(c, index, INDEX_NONE_FREE_BEFORE);
}

/*
 * The device
 */

static void op_truncate(struct craft *c)
{
	c->dev_blocks = 1 + rng_below(c->rng, c->image->nr_blocks);
	say(c, "device of %u blocks", c->dev_blocks);
	if (rng_one_in(c->rng, 2))
		set(c, 0, SB_NR_BLOCKS, c->dev_blocks);
}

/* A superblock that is not a clone's, with or without a clone after it. */
static void op_foreign(struct craft *c)
{
	static const struct {
		const char *name;
		unsigned int offset, size;
		uint64_t magic;
	} others[] = {
		{ "thin-pool", 32, 8, 27022010 }, { "cache", 32, 8, 06142003 },
		{ "era", 32, 8, 2126579579 }, { "ext4", 1080, 2, 0xef53 },
		{ "xfs", 0, 4, 0x42534658 }, { "luks", 0, 4, 0x534b554c },
		{ "nothing", 0, 1, 0 },
	};
	unsigned int i = rng_below(c->rng, ARRAY_SIZE(others));
	uint8_t *sb = image_block(c->image, 0);

	if (rng_one_in(c->rng, 2))
		memset(sb, 0, BLOCK);
	if (rng_one_in(c->rng, 4)) {
		say(c, "noise everywhere");
		for (size_t n = 0; n < hot_size(c->image->nr_blocks); n++)
			c->image->data[n] = rng_next(c->rng);
	}
	say(c, "superblock of %s", others[i].name);
	put_le(sb + others[i].offset, others[i].size, others[i].magic);
	if (rng_one_in(c->rng, 4)) {
		say(c, "a byte in it");
		sb[rng_below(c->rng, BLOCK)] = 1 + rng_below(c->rng, 255);
	}
}

/* Only zeroes in block 0: to be formatted, whatever else is there. */
static void op_zero_superblock(struct craft *c)
{
	say(c, "zeroes in block 0");
	memset(image_block(c->image, 0), 0, BLOCK);
	c->touched[0] = false;
	c->kind[0] = KIND_FREE;
}

const struct craft_op craft_ops[] = {
	{ "damage", op_damage },
	{ "superblock", op_superblock },
	{ "node", op_node },
	{ "array", op_array },
	{ "index", op_index },
	{ "copy", op_copy },
	{ "swap", op_swap },
	{ "redirect", op_redirect },
	{ "deepen", op_deepen },
	{ "split", op_split },
	{ "cycle", op_cycle },
	{ "entries", op_entries },
	{ "bitset length", op_bitset_length },
	{ "bits", op_bits },
	{ "free live", op_free_live },
	{ "fill", op_fill },
	{ "counts", op_counts },
	{ "reference counts", op_ref_counts },
	{ "free blocks", op_nr_free },
	{ "truncate", op_truncate },
	{ "foreign", op_foreign },
	{ "zero superblock", op_zero_superblock },
};

const unsigned int nr_craft_ops = ARRAY_SIZE(craft_ops);

void craft_init(struct craft *c, struct image *image, const struct survey *base,
		struct rng *rng, struct text *what)
{
	c->image = image;
	c->dev_blocks = image->nr_blocks;
	c->base = base;
	c->rng = rng;
	c->what = what;
	c->touched = must_alloc(image->nr_blocks * sizeof(bool));
	c->kind = must_alloc(image->nr_blocks);
	memcpy(c->kind, base->kind, image->nr_blocks);
}

void craft_seal(struct craft *c)
{
	for (uint64_t b = 0; b < c->image->nr_blocks; b++)
		if (c->touched[b] && c->kind[b] != KIND_FREE)
			image_seal(c->image, b, c->kind[b]);
}

void craft_exit(struct craft *c)
{
	free(c->touched);
	free(c->kind);
}

void craft_at_random(struct craft *c)
{
	unsigned int nr = 1 + rng_below(c->rng, 4);

	while (nr--)
		craft_ops[rng_below(c->rng, nr_craft_ops)].apply(c);
	if (rng_one_in(c->rng, 16))
		text_add(c->what, ", checksums left as they were");
	else
		craft_seal(c);
}
