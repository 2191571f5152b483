/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is used of B-trees: see dm-block-manager.h.
 */
#ifndef DM_CLONE_BTREE_H
#define DM_CLONE_BTREE_H

#include "dm-block-manager.h"

struct dm_transaction_manager;

/* Whoever inserts a value tells sparse that it is little-endian. */
#ifdef __CHECKER__
#define __dm_written_to_disk(x)	__releases(x)
#define __dm_bless_for_disk(x)	__acquire(x)
#else
#define __dm_written_to_disk(x)
#define __dm_bless_for_disk(x)
#endif

struct dm_btree_value_type {
	void *context;
	dm_u32 size;
	void (*inc)(void *context, const void *value, unsigned int count);
	void (*dec)(void *context, const void *value, unsigned int count);
	int (*equal)(void *context, const void *value1, const void *value2);
};

struct dm_btree_info {
	struct dm_transaction_manager *tm;
	unsigned int levels;
	struct dm_btree_value_type value_type;
};

int dm_btree_lookup(struct dm_btree_info *info, dm_block_t root, dm_u64 *keys,
		    void *value_le);
int dm_btree_insert(struct dm_btree_info *info, dm_block_t root, dm_u64 *keys,
		    void *value, dm_block_t *new_root) __dm_written_to_disk(value);

#endif /* DM_CLONE_BTREE_H */
