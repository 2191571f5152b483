/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is used of space maps: see dm-block-manager.h.
 */
#ifndef DM_CLONE_SPACE_MAP_H
#define DM_CLONE_SPACE_MAP_H

#include "dm-block-manager.h"

typedef void (*dm_sm_threshold_fn)(void *context);

/* Others call what they want of it by the names below. */
struct dm_space_map {
	void (*destroy)(struct dm_space_map *sm);
	int (*extend)(struct dm_space_map *sm, dm_block_t extra_blocks);
	int (*get_nr_blocks)(struct dm_space_map *sm, dm_block_t *count);
	int (*get_nr_free)(struct dm_space_map *sm, dm_block_t *count);
	int (*get_count)(struct dm_space_map *sm, dm_block_t b, dm_u32 *result);
	int (*count_is_more_than_one)(struct dm_space_map *sm, dm_block_t b,
				      int *result);
	int (*set_count)(struct dm_space_map *sm, dm_block_t b, dm_u32 count);
	int (*commit)(struct dm_space_map *sm);
	int (*inc_blocks)(struct dm_space_map *sm, dm_block_t b, dm_block_t e);
	int (*dec_blocks)(struct dm_space_map *sm, dm_block_t b, dm_block_t e);
	int (*new_block)(struct dm_space_map *sm, dm_block_t *b);
	int (*root_size)(struct dm_space_map *sm, size_t *result);
	int (*copy_root)(struct dm_space_map *sm, void *root, size_t len);
	int (*register_threshold_callback)(struct dm_space_map *sm,
					   dm_block_t threshold,
					   dm_sm_threshold_fn fn, void *context);
};

static inline void dm_sm_destroy(struct dm_space_map *sm)
{
	if (sm)
		sm->destroy(sm);
}

static inline int dm_sm_extend(struct dm_space_map *sm, dm_block_t extra_blocks)
{
	return sm->extend(sm, extra_blocks);
}

static inline int dm_sm_get_nr_blocks(struct dm_space_map *sm, dm_block_t *count)
{
	return sm->get_nr_blocks(sm, count);
}

static inline int dm_sm_get_nr_free(struct dm_space_map *sm, dm_block_t *count)
{
	return sm->get_nr_free(sm, count);
}

static inline int dm_sm_dec_block(struct dm_space_map *sm, dm_block_t b)
{
	return sm->dec_blocks(sm, b, b + 1);
}

static inline int dm_sm_new_block(struct dm_space_map *sm, dm_block_t *b)
{
	return sm->new_block(sm, b);
}

static inline int dm_sm_root_size(struct dm_space_map *sm, size_t *result)
{
	return sm->root_size(sm, result);
}

static inline int dm_sm_copy_root(struct dm_space_map *sm, void *root, size_t len)
{
	return sm->copy_root(sm, root, len);
}

#endif /* DM_CLONE_SPACE_MAP_H */
