// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 */
#include "persistent-data/dm-bitset.h"
#include "persistent-data/dm-btree.h"

#include <linux/device-mapper.h>

#include "check.h"

CHECK_SYMBOL(dm_btree_lookup);
CHECK_SYMBOL(dm_btree_insert);
CHECK_SYMBOL(dm_disk_bitset_init);
CHECK_SYMBOL(dm_bitset_empty);
CHECK_SYMBOL(dm_bitset_resize);
