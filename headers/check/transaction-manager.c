// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * These cover struct dm_space_map, too.
 */
#include "persistent-data/dm-transaction-manager.h"
#include "persistent-data/dm-space-map.h"
#include "persistent-data/dm-space-map-metadata.h"

#include <linux/mutex.h>
#include <linux/hash.h>
#include <linux/rbtree.h>
#include <linux/slab.h>
#include <linux/device-mapper.h>

#include "check.h"

struct prefetch_set {
	struct mutex lock;	/* none of the fields matters but by its type */
	dm_block_t blocks[128];
};

struct dm_transaction_manager {
	int is_clone;
	struct dm_transaction_manager *real;

	struct dm_block_manager *bm;
	struct dm_space_map *sm;

	spinlock_t lock;	/* the same */
	DM_SHADOWS buckets[256];

	struct prefetch_set prefetches;
};

CHECK_SYMBOL(dm_tm_create_with_sm);
CHECK_SYMBOL(dm_tm_open_with_sm);
CHECK_SYMBOL(dm_tm_destroy);
CHECK_SYMBOL(dm_tm_pre_commit);
CHECK_SYMBOL(dm_tm_commit);
