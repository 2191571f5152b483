/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is used of bitsets: see dm-block-manager.h.
 */
#ifndef DM_CLONE_BITSET_H
#define DM_CLONE_BITSET_H

#include "dm-btree.h"

struct dm_array_info {
	struct dm_transaction_manager *tm;
	struct dm_btree_value_type value_type;
	struct dm_btree_info btree_info;
};

struct dm_disk_bitset {
	struct dm_array_info array_info;
	dm_u32 current_index;
	dm_u64 current_bits;
	bool current_index_set:1;
	bool dirty:1;
};

void dm_disk_bitset_init(struct dm_transaction_manager *tm,
			 struct dm_disk_bitset *info);
int dm_bitset_empty(struct dm_disk_bitset *info, dm_block_t *new_root);
int dm_bitset_resize(struct dm_disk_bitset *info, dm_block_t old_root,
		     dm_u32 old_nr_entries, dm_u32 new_nr_entries, bool default_value,
		     dm_block_t *new_root);

#endif /* DM_CLONE_BITSET_H */
