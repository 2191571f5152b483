// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Buffers, see dm-clone-buffer.h.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "dm-clone-buffer.h"

/* What is looked at for zeroes at a time, in sectors: 64 KiB. */
#define GRANULE		128U

/* Chunks, if memory is not fragmented; else pages. */
#define CHUNK_ORDER	get_order(64 * 1024)

void dm_clone_buffer_free(struct dm_clone_buffer *buffer)
{
	unsigned int i;

	if (!buffer)
		return;

	for (i = 0; i < buffer->nr_chunks; i++)
		__free_pages(buffer->chunks[i], buffer->order);
	kfree(buffer->vecs);
	kfree(buffer);
}

static struct dm_clone_buffer *alloc_of_order(unsigned int order, unsigned int bytes,
					      unsigned int nr_parts, gfp_t gfp)
{
	unsigned int nr = DIV_ROUND_UP(bytes, PAGE_SIZE << order);
	struct dm_clone_buffer *buffer;

	buffer = kzalloc(struct_size(buffer, chunks, nr), gfp);
	if (!buffer)
		return NULL;

	/* A chunk that two parts share has a vector in both. */
	buffer->order = order;
	buffer->vecs = kmalloc_array(nr + nr_parts - 1, sizeof(*buffer->vecs), gfp);
	if (!buffer->vecs)
		goto bad;

	while (buffer->nr_chunks < nr) {
		struct page *page = alloc_pages(gfp, order);

		if (!page)
			goto bad;
		buffer->chunks[buffer->nr_chunks++] = page;
	}

	return buffer;
bad:
	dm_clone_buffer_free(buffer);
	return NULL;
}

struct dm_clone_buffer *dm_clone_buffer_alloc(unsigned int sectors,
					      unsigned int nr_parts, gfp_t gfp)
{
	unsigned int bytes = sectors << SECTOR_SHIFT;
	unsigned int order = min(get_order(bytes), CHUNK_ORDER);
	struct dm_clone_buffer *buffer = NULL;

	/* Compound: a network device below may hold references to single pages. */
	gfp |= __GFP_NOWARN;
	if (order)
		buffer = alloc_of_order(order, bytes, nr_parts,
					gfp | __GFP_NORETRY | __GFP_COMP);
	if (!buffer)
		buffer = alloc_of_order(0, bytes, nr_parts, gfp);

	return buffer;
}

/* The chunk of byte @offset; *@len: from there to its end, or less if it's less. */
static struct page *chunk_at(struct dm_clone_buffer *buffer, unsigned int offset,
			     unsigned int *begin, unsigned int *len)
{
	unsigned int size = PAGE_SIZE << buffer->order;

	*begin = offset % size;
	*len = min(*len, size - *begin);

	return buffer->chunks[offset / size];
}

void dm_clone_buffer_init_bio(struct dm_clone_buffer *buffer, struct bio *bio,
			      struct block_device *bdev, blk_opf_t opf,
			      unsigned int part, unsigned int offset,
			      unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int size = PAGE_SIZE << buffer->order;
	unsigned int first = at / size;

	bio_init(bio, bdev, buffer->vecs + first + part,
		 DIV_ROUND_UP(end, size) - first, opf);

	while (at < end) {
		unsigned int begin, len = end - at;
		struct page *chunk = chunk_at(buffer, at, &begin, &len);

		__bio_add_page(bio, chunk, len, begin);
		at += len;
	}
}

/* Chunks are not in high memory: their pages are mapped side by side. */
void dm_clone_buffer_copy_to(struct dm_clone_buffer *buffer, unsigned int offset,
			     struct bio *bio)
{
	unsigned int at = offset << SECTOR_SHIFT;
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_segment(bv, bio, iter) {
		unsigned int done = 0;

		while (done < bv.bv_len) {
			unsigned int begin, len = bv.bv_len - done;
			struct page *chunk = chunk_at(buffer, at, &begin, &len);

			memcpy_to_page(bv.bv_page, bv.bv_offset + done,
				       page_address(chunk) + begin, len);
			done += len;
			at += len;
		}
	}
}

static bool is_zero(struct dm_clone_buffer *buffer, unsigned int offset,
		    unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int begin, len;

	for (; at < end; at += len) {
		struct page *chunk;

		len = end - at;
		chunk = chunk_at(buffer, at, &begin, &len);
		if (memchr_inv(page_address(chunk) + begin, 0, len))
			return false;
	}

	return true;
}

/* memchr_inv() stops at the first byte that is not zero: data costs next to nothing. */
unsigned int dm_clone_buffer_find_run(struct dm_clone_buffer *buffer,
				      unsigned int offset, unsigned int end,
				      sector_t sector, bool *zero)
{
	unsigned int at = offset, len;

	for (; at < end; at += len, sector += len) {
		bool z;

		len = min_t(sector_t, end - at, GRANULE - (sector & (GRANULE - 1)));
		z = is_zero(buffer, at, len);
		if (at == offset)
			*zero = z;
		else if (z != *zero)
			break;
	}

	return at - offset;
}

void dm_clone_buffer_clear(struct dm_clone_buffer *buffer, unsigned int offset,
			   unsigned int sectors)
{
	unsigned int at = offset << SECTOR_SHIFT, end = at + (sectors << SECTOR_SHIFT);
	unsigned int begin, len;

	for (; at < end; at += len) {
		struct page *chunk;

		len = end - at;
		chunk = chunk_at(buffer, at, &begin, &len);
		memset(page_address(chunk) + begin, 0, len);
	}
}
