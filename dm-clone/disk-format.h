/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What lies on a metadata device.  Numbers are little-endian, blocks 4 KiB.
 * Each block begins with a crc32c, xored with a constant for its kind.
 *
 * The superblock is the clone's own.  The rest belongs to the persistent-data
 * library, which declares it in private files (dm-btree-internal.h, dm-array.c,
 * dm-space-map-common.h).
 */
#ifndef DM_CLONE_DISK_FORMAT_H
#define DM_CLONE_DISK_FORMAT_H

#include <linux/bits.h>
#include <linux/blkdev.h>
#include <linux/types.h>

#include "persistent-data/dm-space-map-metadata.h"

#define BLOCK_SIZE_BYTES	(DM_SM_METADATA_BLOCK_SIZE << SECTOR_SHIFT)

#define SUPERBLOCK_LOCATION	0
#define SUPERBLOCK_MAGIC	0x8af27f64
#define METADATA_VERSION	1
#define SPACE_MAP_ROOT_SIZE	128

/* What the checksum of each kind of block is xored with. */
#define SUPERBLOCK_CSUM_XOR	257649492
#define NODE_CSUM_XOR		121107
#define ARRAY_CSUM_XOR		595846735
#define INDEX_CSUM_XOR		160478
#define BITMAP_CSUM_XOR		240779

struct superblock_disk {
	__le32 csum;
	__le32 flags;
	__le64 blocknr;

	__u8 uuid[16];
	__le64 magic;
	__le32 version;

	__u8 metadata_space_map_root[SPACE_MAP_ROOT_SIZE];

	__le64 region_size;
	__le64 target_size;

	/*
	 * A dm_bitset: a tree of array blocks, by their number.  A set bit
	 * means that the region is hydrated.
	 */
	__le64 bitset_root;

	/*
	 * Room for compatible extensions, otherwise zeroes.  A kernel that does
	 * not know one writes zeroes there with its next superblock.
	 *
	 * 0, or DEST_ZEROED_NOTE: wherever regions are not hydrated the
	 * destination reads as zeroes.  The note is there only while the clone
	 * is not active.
	 */
	__le64 dest_zeroed;
} __packed;

#define DEST_ZEROED_NOTE	0x6f72657a74736564ULL	/* "destzero" */

#define NODE_INTERNAL		BIT(0)
#define NODE_LEAF		BIT(1)

struct disk_node {
	__le32 csum;
	__le32 flags;
	__le64 blocknr;
	__le32 nr_entries;
	__le32 max_entries;
	__le32 value_size;
	__le32 padding;
	__le64 keys[];		/* max_entries of them, then the values */
} __packed __aligned(8);

/* A part of the bitset, in words of 64 regions; the lowest bit comes first. */
struct disk_array {
	__le32 csum;
	__le32 max_entries;
	__le32 nr_entries;
	__le32 value_size;
	__le64 blocknr;
	__le64 words[];
} __packed __aligned(8);

#define WORDS_PER_ARRAY \
	((BLOCK_SIZE_BYTES - sizeof(struct disk_array)) / sizeof(__le64))

/* A bitmap of the space map: two bits a block, its number of references. */
struct disk_bitmap {
	__le32 csum;
	__le32 unused;
	__le64 blocknr;
	u8 counts[];
} __packed __aligned(8);

#define COUNTS_PER_BYTE		4
#define COUNTS_PER_BITMAP \
	((BLOCK_SIZE_BYTES - sizeof(struct disk_bitmap)) * COUNTS_PER_BYTE)

/* As many as the library has in its index, which fills a block. */
#define MAX_BITMAPS		255

struct disk_index {
	__le32 csum;
	__le32 padding;
	__le64 blocknr;
	struct {
		__le64 blocknr;
		__le32 nr_free;
		__le32 none_free_before;
	} __packed entries[MAX_BITMAPS];
} __packed __aligned(8);

/* The root of the space map, in the superblock. */
struct disk_space_map {
	__le64 nr_blocks;
	__le64 nr_allocated;
	__le64 bitmap_root;
	__le64 ref_count_root;	/* tree of those blocks with more than 2 */
} __packed;

#endif /* DM_CLONE_DISK_FORMAT_H */
