/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What differs between the kernels that this target is built for, and nothing
 * else.  Each entry probes for the thing itself: stable kernels backport
 * changes, so a version number says little.
 */
#ifndef DM_CLONE_COMPAT_H
#define DM_CLONE_COMPAT_H

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/shrinker.h>
#include <linux/slab.h>

/* The mode of dm_get_device(): blk_mode_t has replaced fmode_t. */
#ifdef BLK_OPEN_READ
#define DM_CLONE_READ	BLK_OPEN_READ
#define DM_CLONE_WRITE	BLK_OPEN_WRITE
#else
#define DM_CLONE_READ	FMODE_READ
#define DM_CLONE_WRITE	FMODE_WRITE
#endif

/* Block validators have become const: the types of their methods tell. */
#define DM_CLONE_VALIDATOR						\
	typeof(*__builtin_choose_expr(					\
		__builtin_types_compatible_p(				\
			typeof(((struct dm_block_validator *)NULL)->check), \
			int (*)(struct dm_block_validator *,		\
				struct dm_block *, size_t)),		\
		(struct dm_block_validator *)NULL,			\
		(const struct dm_block_validator *)NULL))

/*
 * Polling has become a feature of the limits, which io_hints sets.  Earlier
 * kernels set a flag of the queue when they bind a table, if all devices below
 * poll; no I/O gets through before the targets have been resumed.
 */
static inline void dm_clone_disable_polling(struct request_queue *q,
					    struct queue_limits *limits)
{
#ifdef BLK_FEAT_POLL
	if (limits)
		limits->features &= ~BLK_FEAT_POLL;
#else
	if (q)
		blk_queue_flag_clear(QUEUE_FLAG_POLL, q);
#endif
}

/*
 * Features have become a part of the limits.  Drop those that stacking a device
 * has taken away; add none, since dm-table takes care of the destination's.
 */
static inline void dm_clone_take_flags(struct queue_limits *limits,
				       const struct queue_limits *stacked)
{
#ifdef BLK_FLAG_MISALIGNED
	limits->features &= stacked->features;
	limits->flags |= stacked->flags & BLK_FLAG_MISALIGNED;
#else
	limits->misaligned = stacked->misaligned;
#endif
}

/* Memory for one object has come to be asked for by its type. */
#ifndef kzalloc_obj
#define kzalloc_obj(object, gfp)	kzalloc(sizeof(object), gfp)
#define kvzalloc_obj(object, gfp)	kvzalloc(sizeof(object), gfp)
#endif

/* Shrinkers now have a function of their own that allocates them. */
typedef unsigned long (*dm_clone_shrink_fn)(struct shrinker *shrinker,
					    struct shrink_control *sc);

static inline struct shrinker *dm_clone_create_shrinker(dm_clone_shrink_fn count,
							dm_clone_shrink_fn scan)
{
#ifdef SHRINKER_ALLOCATED
	struct shrinker *shrinker = shrinker_alloc(0, "dm-clone");
#else
	struct shrinker *shrinker = kzalloc_obj(*shrinker, GFP_KERNEL);
#endif

	if (!shrinker)
		return NULL;

	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = DEFAULT_SEEKS;
#ifdef SHRINKER_ALLOCATED
	shrinker_register(shrinker);
#else
	if (register_shrinker(shrinker, "dm-clone")) {
		kfree(shrinker);
		return NULL;
	}
#endif

	return shrinker;
}

static inline void dm_clone_destroy_shrinker(struct shrinker *shrinker)
{
#ifdef SHRINKER_ALLOCATED
	shrinker_free(shrinker);
#else
	unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}

#endif /* DM_CLONE_COMPAT_H */
