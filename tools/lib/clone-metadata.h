/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone: reading it from an image, that is a file, a device
 * or anything else that can hand out blocks; and writing it.
 *
 * The image may hold anything at all.  Whatever that is, the reader ends, in a
 * time that depends only on the size of the image, stays within its memory, and
 * never writes.  It reports what is wrong, and goes on where something is left
 * to read.  The writer goes on only with metadata that is sound.
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
 * write() and flush() are for the writer only: what was written before a flush
 * began is durable when it has returned 0.
 */
struct clone_md_image {
	int (*read)(void *context, uint64_t block, void *buf);
	void *context;
	uint64_t nr_blocks;
	int (*write)(void *context, uint64_t block, const void *buf);
	int (*flush)(void *context);
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
	/*
	 * a block is in use, but free in the space map: it would be overwritten
	 */
	CLONE_MD_UNPROTECTED,
	/*
	 * a block has fewer references than in the space map: it is lost, no
	 * more
	 */
	CLONE_MD_LEAKED,
	/* bits that belong to no region are set */
	CLONE_MD_UNTIDY,
};

#define CLONE_MD_NR_PROBLEMS	(CLONE_MD_UNTIDY + 1)

/* Called for what a walk finds.  Each function may be NULL. */
struct clone_md_visitor {
	/*
	 * @nr words from number @first on; in ascending order, each at most
	 * once.  @words is valid during the call.
	 */
	void (*words)(void *context, uint64_t first, const uint64_t *words,
		      unsigned int nr);

	/* Words that cannot be read; words() gets all others. */
	void (*lost)(void *context, uint64_t first, uint64_t nr);

	/* Part @key of the bitset is in @block; words() comes next. */
	void (*array)(void *context, uint64_t key, uint64_t block);

	/*
	 * Without a superblock: a complete tree is at @root, which may have been
	 * the bitset.
	 */
	void (*tree)(void *context, uint64_t root, uint64_t nr_hydrated);

	/* Something refers to @block. */
	void (*reference)(void *context, uint64_t block);

	/*
	 * @text is valid during the call, has no newline and no block number.
	 */
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
 * -EINVAL if clone_md_check_geometry() finds errors.
 */
int clone_md_walk_bitset(const struct clone_md_image *image,
			 const struct clone_md_superblock *sb,
			 const struct clone_md_visitor *visitor);

/*
 * Walk everything that @sb points to, and compare the references that were
 * found with those that the space map counts.  Nothing is called leaked once
 * anything is damaged: it may be in use by what cannot be read.
 *
 * @stats may be NULL.  Returns 0 if nothing was wrong, -EILSEQ if problems were
 * reported, -ENOMEM or -EINVAL as above.
 */
int clone_md_check(const struct clone_md_image *image,
		   const struct clone_md_superblock *sb,
		   const struct clone_md_visitor *visitor,
		   struct clone_md_stats *stats);

/* The same without the bitset: nothing is called leaked. */
int clone_md_check_space_map(const struct clone_md_image *image,
			     const struct clone_md_superblock *sb,
			     const struct clone_md_visitor *visitor);

/* Is it all zeroes?  @size is not 0. */
bool clone_md_is_zero(const void *buf, size_t size);

/*
 * Read or write exactly @size bytes, @offset in bytes; -EIO at the end of the
 * file.  Returns 0 or a negative errno.
 */
int clone_md_read_fd(int fd, void *buf, size_t size, uint64_t offset);
int clone_md_write_fd(int fd, const void *buf, size_t size, uint64_t offset);

/* The size of a file or device in bytes.  Returns 0 or a negative errno. */
int clone_md_size_of_fd(int fd, uint64_t *size);

/*
 * An image in a file or device that is open for reading.  Its size is taken
 * from the descriptor.  The descriptor stays the caller's and has to stay open.
 * Returns 0 or a negative errno.
 */
int clone_md_image_from_fd(struct clone_md_image *image, int fd);

/*
 * Open a block device or a file with O_DIRECT, if its file system has that, and
 * O_CLOEXEC.  O_EXCL in @flags claims a device, and means nothing for a file.
 * Returns a descriptor or a negative errno: -ENOTBLK or -EISDIR for what is
 * neither, -EBUSY for a device that cannot be claimed.
 */
int clone_md_open_fd(const char *path, int flags);

/*
 * An image in a device or a file that is opened by name, with O_DIRECT where
 * that is possible: what other programs have cached does not hide what is on
 * the disk.  See clone-device.c.
 *
 * CLONE_MD_OPEN_READ: a device in use is opened all the same, and @in_use is
 *	set; it must be read live, see clone_md_same_superblock().  Otherwise it
 *	is claimed: nobody activates it meanwhile.
 * CLONE_MD_OPEN_WRITE: a device in use is refused with -EBUSY, always.
 */
enum clone_md_open_mode { CLONE_MD_OPEN_READ, CLONE_MD_OPEN_WRITE };

struct clone_md_device {
	struct clone_md_image image;
	int fd;
	bool in_use;

	/* A window of blocks that was read at once. */
	uint8_t *window;
	uint64_t window_start;
	uint64_t window_nr;
};

int clone_md_open_device(struct clone_md_device *dev, const char *path,
			 enum clone_md_open_mode mode);
void clone_md_close_device(struct clone_md_device *dev);

/*
 * How to read live metadata: read block 0 with @image->read, parse it, walk
 * what it refers to, and compare.  What a superblock refers to is there until
 * the second commit after it.  So the walk counts only if the block has not
 * changed since; if it has, start again.  Returns 1 if @block is what the image
 * has as its superblock now, 0 if not, or a negative errno.
 */
int clone_md_same_superblock(const struct clone_md_image *image, const void *block);

/*
 * Get back what is left of the bitset when parts of its tree are damaged.  It
 * tells words() and lost() as clone_md_walk_bitset() does, in ascending order,
 * and problem() for what that walk finds.  Nodes that cannot be reached are
 * looked for in all blocks that the space map counts; if that is damaged too
 * then they remain lost, since nothing tells old nodes from new ones.
 *
 * Returns 0 if all words were told, -EILSEQ if some are lost, or another
 * negative errno.
 */
int clone_md_salvage(const struct clone_md_image *image,
		     const struct clone_md_superblock *sb,
		     const struct clone_md_visitor *visitor);

/*
 * The same without a superblock: only the sizes in @sb are used.  All trees are
 * looked for that may have been the bitset.  Regions that one of them has as
 * hydrated, and another as not, are lost: each commit leaves the tree of the one
 * before it, and so does a clone that had the device before.  tree() is told of
 * each; whoever knows which one it was walks that.  -E2BIG if there are too many
 * to look at them all.
 */
int clone_md_salvage_without_superblock(const struct clone_md_image *image,
					const struct clone_md_superblock *sb,
					const struct clone_md_visitor *visitor);

/*
 * Sizes of metadata devices, in blocks.  The smallest one that the kernel
 * accepts, with which a commit may have to be split; and the one with which
 * each commit is one transaction.  The geometry must be good.
 */
uint64_t clone_md_smallest_size(const struct clone_md_superblock *sb);
uint64_t clone_md_recommended_size(const struct clone_md_superblock *sb);

/*
 * The writer.  It changes metadata as the kernel does: what the superblock
 * refers to is never overwritten; so whenever the power fails the metadata is
 * that of the last commit or, during a commit, that of either.  Memory: 16
 * bytes per 32576 regions, and a byte a block.  No threads, or a lock.  After
 * any error but -ENOSPC and -EINVAL the writer can only be closed; what was
 * committed is there.
 */
struct clone_md_writer;

/*
 * New metadata: @sb has region_size, target_size, dest_zeroed, flags and uuid.
 * No region is hydrated.  Block 0 is made invalid, durably, before this
 * returns: until the first commit nothing takes the image for metadata.
 * -EINVAL if the sizes are no good, -ENOSPC if the image is too small.
 */
int clone_md_create(const struct clone_md_image *image,
		    const struct clone_md_superblock *sb,
		    struct clone_md_writer **writer);

/* Is this the block 0 that clone_md_create() leaves until the first commit? */
bool clone_md_is_unfinished(const void *block);

/*
 * Metadata that exists and must be sound: -EUCLEAN otherwise, or what
 * clone_md_read_superblock() returns.  @sb is set to the superblock.  Nothing
 * is written yet.  Blocks that are leaked come back with the first commit.
 */
int clone_md_edit(const struct clone_md_image *image,
		  struct clone_md_superblock *sb,
		  struct clone_md_writer **writer);

/*
 * What the next commit says about unhydrated regions.  Whoever writes to the
 * destination must clear the note, and commit, before.
 */
void clone_md_set_dest_zeroed(struct clone_md_writer *w, bool dest_zeroed);

/* Is @region hydrated, in the next commit?  0, 1 or a negative errno. */
int clone_md_is_hydrated(struct clone_md_writer *w, uint64_t region);

/*
 * The first region from @region on that is not hydrated in the next commit; the
 * number of regions if there is none.  Returns 0 or a negative errno.
 */
int clone_md_next_unhydrated(struct clone_md_writer *w, uint64_t region,
			     uint64_t *found);

/*
 * Mark @nr regions from @first on as hydrated.  Their data must be durable in
 * the destination: when the device is full this commits what there is so far,
 * and goes on; so a commit may come before clone_md_commit() is called.  Works
 * best in ascending order.  -EINVAL if there are no such regions; -ENOSPC if
 * the device is too small even so.
 */
int clone_md_set_hydrated(struct clone_md_writer *w, uint64_t first, uint64_t nr);

/* One transaction: returns 0 when it is durable. */
int clone_md_commit(struct clone_md_writer *w);

/* How many regions are hydrated, in the next commit. */
uint64_t clone_md_nr_hydrated(const struct clone_md_writer *w);

/* What is not committed is lost.  The image stays the caller's. */
void clone_md_close(struct clone_md_writer *w);

#endif
