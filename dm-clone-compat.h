/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What differs between the kernels this target is built for, and nothing
 * else.  Each entry probes for the thing itself: stable kernels get changes
 * backported, so a version number says little.
 */
#ifndef DM_CLONE_COMPAT_H
#define DM_CLONE_COMPAT_H

#include <linux/blkdev.h>
#include <linux/fs.h>

/* Mode of dm_get_device(): blk_mode_t has replaced fmode_t. */
#ifdef BLK_OPEN_READ
#define DM_CLONE_READ	BLK_OPEN_READ
#define DM_CLONE_WRITE	BLK_OPEN_WRITE
#else
#define DM_CLONE_READ	FMODE_READ
#define DM_CLONE_WRITE	FMODE_WRITE
#endif

/* Block validators have become const; Kbuild looks at the header. */
#ifdef DM_CLONE_CONST_VALIDATORS
#define DM_CLONE_VALIDATOR const struct dm_block_validator
#else
#define DM_CLONE_VALIDATOR struct dm_block_validator
#endif

#endif /* DM_CLONE_COMPAT_H */
