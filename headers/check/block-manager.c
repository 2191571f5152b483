// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 */
#include "persistent-data/dm-block-manager.h"

#include <linux/dm-bufio.h>
#include <linux/crc32c.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/rwsem.h>
#include <linux/device-mapper.h>
#include <linux/stacktrace.h>
#include <linux/sched/task.h>

#include "check.h"

struct dm_block_manager {
	struct dm_bufio_client *bufio;
	bool read_only:1;
};

CHECK_SYMBOL(dm_block_manager_create);
CHECK_SYMBOL(dm_block_manager_destroy);
CHECK_SYMBOL(dm_block_manager_reset);
CHECK_SYMBOL(dm_bm_read_lock);
CHECK_SYMBOL(dm_bm_write_lock_zero);
CHECK_SYMBOL(dm_bm_unlock);
CHECK_SYMBOL(dm_block_location);
CHECK_SYMBOL(dm_block_data);
CHECK_SYMBOL(dm_bm_checksum);
CHECK_SYMBOL(dm_bm_flush);
CHECK_SYMBOL(dm_bm_set_read_only);
CHECK_SYMBOL(dm_bm_set_read_write);
