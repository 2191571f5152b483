/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The interface of the kernel's persistent-data library, as far as this target
 * uses it, declared anew.  The kernel keeps its own declarations next to the
 * library, in drivers/md, and no package of headers has them.
 *
 * A declaration that does not fit the kernel would corrupt memory, so none is
 * believed.  The kernel's build has left a checksum of each exported function
 * with the headers packages (Module.symvers): of its arguments and, recursively,
 * of all the types that they consist of.  scripts/private-headers has the
 * kernel's own tools compute the same checksums from what is declared here, and
 * builds with these headers only if each of them agrees (headers/check).
 *
 * That is safer than what it stands in for, the headers out of the newest source
 * package of the same series (as linux-source-6.1): they are merely likely to be
 * those of the kernel that is built for.  These have been compared with it.
 *
 * In a kernel's own tree, or where KSRC names the source, the kernel's own
 * headers are used instead.  Kernels without checksums (Debian's from 7.0 on)
 * are built for if their series has been compared with its source:
 * scripts/check-tree does that.
 */
#ifndef DM_CLONE_BLOCK_MANAGER_H
#define DM_CLONE_BLOCK_MANAGER_H

#include <linux/blkdev.h>
#include <linux/types.h>

/* What validators have become: const, or not yet; written by private-headers. */
#include "dm-validator.h"

struct dm_block;
struct dm_block_manager;

/* Names of types are part of a checksum: these are what the library calls them. */
#define dm_u32	uint32_t
#define dm_u64	uint64_t

typedef uint64_t
	dm_block_t;

struct dm_block_validator {
	const char *name;
	void (*prepare_for_write)(DM_VALIDATOR *v, struct dm_block *b, size_t size);
	int (*check)(DM_VALIDATOR *v, struct dm_block *b, size_t size);
};

struct dm_block_manager *dm_block_manager_create(struct block_device *bdev,
						 unsigned int block_size,
						 unsigned int max_held_per_thread);
void dm_block_manager_destroy(struct dm_block_manager *bm);
void dm_block_manager_reset(struct dm_block_manager *bm);

int dm_bm_read_lock(struct dm_block_manager *bm, dm_block_t b, DM_VALIDATOR *v,
		    struct dm_block **result);
int dm_bm_write_lock_zero(struct dm_block_manager *bm, dm_block_t b,
			  DM_VALIDATOR *v, struct dm_block **result);
void dm_bm_unlock(struct dm_block *b);

dm_block_t dm_block_location(struct dm_block *b);
void *dm_block_data(struct dm_block *b);
u32 dm_bm_checksum(const void *data, size_t len, u32 init_xor);

int dm_bm_flush(struct dm_block_manager *bm);
void dm_bm_set_read_only(struct dm_block_manager *bm);
void dm_bm_set_read_write(struct dm_block_manager *bm);

#endif /* DM_CLONE_BLOCK_MANAGER_H */
