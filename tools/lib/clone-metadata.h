/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Reading the metadata of a clone from an image of it: a file, a device that
 * nobody uses, or anything else that can hand out blocks.
 *
 * The image may hold anything at all.  Whatever it is, these functions end, in
 * a time that depends on the size of the image only, stay within their
 * memory, and never write.  What they find wrong they report, and go on where
 * something is left to be read.
 *
 * Blocks have 4096 bytes and are counted from 0; region and target sizes are
 * in sectors of 512 bytes; a word is 64 regions, the lowest bit for the first
 * one.  Numbers are the machine's own, whatever its endianness.  All memory
 * belongs to the caller, and nothing is kept between calls; several threads
 * may read at once.  Errors are negative errno.
 */
#ifndef CLONE_METADATA_H
#define CLONE_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLONE_MD_BLOCK_SIZE		4096u
#define CLONE_MD_SPACE_MAP_ROOT_SIZE	128u

#define CLONE_MD_MAGIC			0x8af27f64u
#define CLONE_MD_VERSION		1u

/* What a clone may be; see clone_md_check_geometry(). */
#define CLONE_MD_MIN_REGION_SIZE	8u
#define CLONE_MD_MAX_REGION_SIZE	2097152u
#define CLONE_MD_MAX_REGIONS		(UINT64_C(1) << 31)

/* The most blocks that a metadata space map can manage; more are not used. */
#define CLONE_MD_MAX_BLOCKS		(UINT64_C(255) * ((1u << 14) - 64))

/*
 * Where the metadata is.  read() gets block @block, which is less than
 * @nr_blocks, into the 4096 bytes of @buf, and returns 0 or a negative errno.
 */
struct clone_md_image {
	int (*read)(void *context, uint64_t block, void *buf);
	void *context;
	uint64_t nr_blocks;
};

struct clone_md_superblock {
	uint32_t csum;
	uint32_t flags;
	uint64_t blocknr;
	uint8_t uuid[16];
	uint64_t magic;
	uint32_t version;
	uint8_t space_map_root[CLONE_MD_SPACE_MAP_ROOT_SIZE];
	uint64_t region_size;
	uint64_t target_size;
	uint64_t bitset_root;

	/* Where regions are not hydrated the destination reads as zeroes. */
	bool dest_zeroed;
};

/*
 * The first three keep the kernel from using the metadata, the others do not.
 */
enum clone_md_problem {
	/* read() has failed */
	CLONE_MD_UNREADABLE,
	/* a checksum, an address, a number or an order that cannot be right */
	CLONE_MD_DAMAGED,
	/* a block is in use, but free in the space map: it would be overwritten */
	CLONE_MD_UNPROTECTED,
	/* a block has fewer references than in the space map: it is lost, that's all */
	CLONE_MD_LEAKED,
	/* bits that belong to no region are set */
	CLONE_MD_UNTIDY,
};

#define CLONE_MD_NR_PROBLEMS	(CLONE_MD_UNTIDY + 1)

/*
 * Who is told what a walk finds.  Each function may be NULL.
 */
struct clone_md_visitor {
	/*
	 * @nr words from number @first on; in ascending order, each at most
	 * once.  @words is valid during the call.
	 */
	void (*words)(void *context, uint64_t first, const uint64_t *words,
		      unsigned int nr);

	/* Words that cannot be read.  What is not told so is told by words(). */
	void (*lost)(void *context, uint64_t first, uint64_t nr);

	/* @text is valid during the call, has no newline and no block number. */
	void (*problem)(void *context, enum clone_md_problem kind,
			uint64_t block, const char *text);

	void *context;
};

struct clone_md_stats {
	uint64_t nr_blocks;		/* in the space map's view */
	uint64_t nr_used;		/* by count, not by what the root says */
	uint64_t nr_hydrated;		/* regions; lost ones are not counted */
	uint64_t problems[CLONE_MD_NR_PROBLEMS];
};

/*
 * The checksum that belongs into the first four bytes of a block; @kind is one
 * of the numbers below, by what the block is.
 */
uint32_t clone_md_block_csum(const void *block, uint32_t kind);

#define CLONE_MD_SUPERBLOCK_CSUM_XOR	257649492u
#define CLONE_MD_NODE_CSUM_XOR		121107u		/* of any tree */
#define CLONE_MD_ARRAY_CSUM_XOR		595846735u	/* part of the bitset */
#define CLONE_MD_INDEX_CSUM_XOR		160478u		/* of the space map */
#define CLONE_MD_BITMAP_CSUM_XOR	240779u		/* of the space map */

/*
 * Take a superblock apart.
 *
 * @text is set to what is wrong, static storage, or NULL if nothing is.
 *
 * Returns 0; -ENODATA if the block is all zeroes, that is if the device was
 * never formatted; -EILSEQ if it is no superblock of a clone, or a damaged
 * one; -ENOTSUP for another version.  In the last two cases *@sb has what was
 * found, for those who want to tell.
 */
int clone_md_parse_superblock(const void *block, struct clone_md_superblock *sb,
			      const char **text);

/* The same on block 0 of an image; other errors are read()'s. */
int clone_md_read_superblock(const struct clone_md_image *image,
			     struct clone_md_superblock *sb, const char **text);

/*
 * Are the sizes in @sb those of a possible clone?  NULL, or what is wrong.
 * Must hold before the functions below are used.
 */
const char *clone_md_check_geometry(const struct clone_md_superblock *sb);

uint64_t clone_md_nr_regions(const struct clone_md_superblock *sb);
uint64_t clone_md_nr_words(const struct clone_md_superblock *sb);

/*
 * Walk the bitset that @sb points to, and nothing else: what is left of a
 * clone whose space map is damaged.
 *
 * Returns 0 if all words were told, -EILSEQ if some are lost, -ENOMEM, or
 * -EINVAL if clone_md_check_geometry() is not happy.
 */
int clone_md_walk_bitset(const struct clone_md_image *image,
			 const struct clone_md_superblock *sb,
			 const struct clone_md_visitor *visitor);

/*
 * Walk everything that @sb points to, and compare the references that were
 * found with those that the space map counts.
 *
 * @stats may be NULL.  Returns 0 if there was nothing to complain about,
 * -EILSEQ if problems were reported, -ENOMEM or -EINVAL as above.
 */
int clone_md_check(const struct clone_md_image *image,
		   const struct clone_md_superblock *sb,
		   const struct clone_md_visitor *visitor,
		   struct clone_md_stats *stats);

/*
 * An image in a file or device that is open for reading.  Its size is taken
 * from the descriptor.  The descriptor stays the caller's and has to stay open.
 * Returns 0 or a negative errno.
 */
int clone_md_image_from_fd(struct clone_md_image *image, int fd);

#endif
