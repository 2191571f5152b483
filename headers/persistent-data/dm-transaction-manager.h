/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is used of the transaction manager: see dm-block-manager.h.
 */
#ifndef DM_CLONE_TRANSACTION_MANAGER_H
#define DM_CLONE_TRANSACTION_MANAGER_H

#include "dm-block-manager.h"

struct dm_space_map;
struct dm_transaction_manager;

int dm_tm_create_with_sm(struct dm_block_manager *bm, dm_block_t sb_location,
			 struct dm_transaction_manager **tm,
			 struct dm_space_map **sm);
int dm_tm_open_with_sm(struct dm_block_manager *bm, dm_block_t sb_location,
		       void *sm_root, size_t root_len,
		       struct dm_transaction_manager **tm,
		       struct dm_space_map **sm);
void dm_tm_destroy(struct dm_transaction_manager *tm);

int dm_tm_pre_commit(struct dm_transaction_manager *tm);
int dm_tm_commit(struct dm_transaction_manager *tm, struct dm_block *superblock);

#endif /* DM_CLONE_TRANSACTION_MANAGER_H */
