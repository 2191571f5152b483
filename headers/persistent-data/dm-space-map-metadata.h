/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What the disk format says of space maps in metadata: see dm-block-manager.h.
 */
#ifndef DM_CLONE_SPACE_MAP_METADATA_H
#define DM_CLONE_SPACE_MAP_METADATA_H

#include "dm-block-manager.h"

/* In sectors */
#define DM_SM_METADATA_BLOCK_SIZE	(4096 >> SECTOR_SHIFT)

/* One block of pointers to bitmaps, each with two bits a block after its header */
#define DM_SM_METADATA_MAX_BLOCKS	(255 * ((1 << 14) - 64))

#endif /* DM_CLONE_SPACE_MAP_METADATA_H */
