/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Buffers: memory that data rests in on its way from the source to the
 * destination, in chunks as large as they are to be had.
 */
#ifndef DM_CLONE_BUFFER_H
#define DM_CLONE_BUFFER_H

#include <linux/bio.h>
#include <linux/gfp.h>
#include <linux/types.h>

/*
 * For what can do without it: not from the reserves of a task that writes out memory
 * to free it, in whose context we may be.
 */
#define DM_CLONE_GFP_NOWAIT	(GFP_NOWAIT | __GFP_NOMEMALLOC | __GFP_NOWARN)

struct dm_clone_buffer {
	unsigned int order;		/* of the chunks */
	unsigned int nr_chunks;
	struct bio_vec *vecs;		/* for the bios that are set up here */
	struct page *chunks[];
};

/*
 * A buffer for @sectors, of which a bio each may hold one of @nr_parts parts at
 * a time.  Returns NULL if there's no memory, and does not warn of that.
 */
struct dm_clone_buffer *dm_clone_buffer_alloc(unsigned int sectors,
					      unsigned int nr_parts, gfp_t gfp);

/* NULL is fine. */
void dm_clone_buffer_free(struct dm_clone_buffer *buffer);

/*
 * Set up @bio, as bio_init() does, for the @sectors from sector @offset of the
 * buffer on.  @part: that many other parts, which come before this one in the
 * buffer, have bios now.
 */
void dm_clone_buffer_init_bio(struct dm_clone_buffer *buffer, struct bio *bio,
			      struct block_device *bdev, blk_opf_t opf,
			      unsigned int part, unsigned int offset,
			      unsigned int sectors);

/* Copy what is in the buffer from sector @offset on to the pages of @bio. */
void dm_clone_buffer_copy_to(struct dm_clone_buffer *buffer, unsigned int offset,
			     struct bio *bio);

/*
 * The sectors from @offset on that are all zeroes, or all not, by the 64 KiB of the
 * device that they are for: the first one is for @sector.  That's what space is
 * provisioned by at best.  Returns how many there are before @end; *@zero tells which.
 */
unsigned int dm_clone_buffer_find_run(struct dm_clone_buffer *buffer,
				      unsigned int offset, unsigned int end,
				      sector_t sector, bool *zero);

/* Make the @sectors from sector @offset on zeroes. */
void dm_clone_buffer_clear(struct dm_clone_buffer *buffer, unsigned int offset,
			   unsigned int sectors);

#endif /* DM_CLONE_BUFFER_H */
