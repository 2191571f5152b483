/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Buffers: memory for data on its way from the source to the destination, in
 * chunks as large as are available.
 *
 * All clones share one bound.  A user of buffers may hold no more than it
 * leaves to all others.  So a single user may take half of the bound; n of them
 * end up with a part in n + 1 each, as buffers come and go; and one that gives
 * nothing back, since its device hangs, leaves half to the rest.  A user that
 * gets none must have a reserve to go on with.
 */
#ifndef DM_CLONE_BUFFER_H
#define DM_CLONE_BUFFER_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/gfp.h>
#include <linux/types.h>

/*
 * For allocations that may fail: not from the reserves of a task that frees
 * memory, in whose context we may be.
 */
#define DM_CLONE_GFP_NOWAIT	(GFP_NOWAIT | __GFP_NOMEMALLOC | __GFP_NOWARN)

/* A user of buffers: zero it before use. */
struct dm_clone_memory {
	atomic_long_t nr_pages;
};

static inline unsigned long dm_clone_memory_in_use(struct dm_clone_memory *memory)
{
	return atomic_long_read(&memory->nr_pages) << PAGE_SHIFT;
}

/* When the module is loaded, and unloaded. */
int dm_clone_memory_init(void);
void dm_clone_memory_exit(void);

struct dm_clone_buffer {
	struct dm_clone_memory *memory;	/* the user's, or NULL */
	unsigned int order;		/* of the chunks */
	unsigned int nr_chunks;
	struct bio_vec *vecs;		/* for the bios that are set up here */
	struct page *chunks[];
};

/*
 * Allocate a buffer of @sectors.  Up to @nr_parts bios may be set up on
 * disjoint parts of it at once.  It counts as @memory's; with NULL it is
 * neither counted nor bound.  Returns NULL, without a warning, if there is no
 * memory.
 */
struct dm_clone_buffer *dm_clone_buffer_alloc(struct dm_clone_memory *memory,
					      unsigned int sectors,
					      unsigned int nr_parts, gfp_t gfp);

/* NULL is fine.  Any context. */
void dm_clone_buffer_free(struct dm_clone_buffer *buffer);

/*
 * Set up @bio, as bio_init() does, for the @sectors from sector @offset of the
 * buffer on.  @part: how many other parts, before this one in the buffer, have
 * bios now.
 */
void dm_clone_buffer_init_bio(struct dm_clone_buffer *buffer, struct bio *bio,
			      struct block_device *bdev, blk_opf_t opf,
			      unsigned int part, unsigned int offset,
			      unsigned int sectors);

/* Copy from sector @offset of the buffer on to the pages of @bio. */
void dm_clone_buffer_copy_to(struct dm_clone_buffer *buffer,
			     unsigned int offset, struct bio *bio);

/*
 * The run of sectors from @offset on, before @end, that are zeroes, or that are
 * data: *@zero.  Units are 64 KiB of the device, the smallest that thin pools
 * provision; the first sector is @sector there.  Returns the length of the run.
 */
unsigned int dm_clone_buffer_find_run(struct dm_clone_buffer *buffer,
				      unsigned int offset, unsigned int end,
				      sector_t sector, bool *zero);

/* Zero the @sectors from sector @offset on. */
void dm_clone_buffer_clear(struct dm_clone_buffer *buffer, unsigned int offset,
			   unsigned int sectors);

#endif /* DM_CLONE_BUFFER_H */
