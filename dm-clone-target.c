// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The clone target: a writable device that shows the content of a read-only
 * source at once, and gets it to a destination in the background.
 *
 * This file makes a clone, suspends, resumes and destroys it, and sets its
 * limits.  Everything else is in dm-clone/: clone.h says where.
 */

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/dm-kcopyd.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "dm-clone/buffer.h"
#include "dm-clone/clone.h"

#define DM_MSG_PREFIX "clone"

DECLARE_DM_KCOPYD_THROTTLE_WITH_MODULE_PARM(clone_hydration_throttle,
					    "Percentage of the time that copying may take");

/*
 *---------------------------------------------------------------
 * Constructor and destructor
 *---------------------------------------------------------------
 */

static void hydration_gave_up(void *context)
{
	struct clone *clone = context;

	DMERR("%s: hydration has stopped because of errors", clone_name(clone));
	dm_table_event(clone->ti->table);
}

static bool can_pass_discards_down(struct clone *clone)
{
	return !has_feature(clone, NO_DISCARD_PASSDOWN) &&
	       bdev_max_discard_sectors(clone->geo.dest);
}

/* Rate-limited: a device may come and go often. */
static void hydration_waits(void *context, const char *device)
{
	struct clone *clone = context;

	if (device)
		DMWARN_LIMIT("%s: hydration waits for the %s, where copies have failed",
			     clone_name(clone), device);
	else
		DMINFO("%s: hydration goes on", clone_name(clone));
}

static int create_hydration(struct clone *clone)
{
	const struct dm_clone_hydration_events events = {
		.hydrated = dm_clone_regions_hydrated,
		.released = dm_clone_defer_bios,
		.gave_up = hydration_gave_up,
		.waits = hydration_waits,
		.spoilt = dm_clone_region_spoilt,
		.context = clone,
	};

	clone->hydration = dm_clone_hydration_create(&clone->geo, clone->map,
						     &clone->claims,
						     clone->wq_source,
						     clone->wq_dest,
						     &dm_kcopyd_throttle,
						     &events);
	if (IS_ERR(clone->hydration)) {
		int r = PTR_ERR(clone->hydration);

		clone->hydration = NULL;
		clone->ti->error = "Failed to create the hydration engine";
		return r;
	}

	dm_clone_apply_core_args(clone);
	dm_clone_hydration_set_passdown(clone->hydration,
					can_pass_discards_down(clone));
	dm_clone_hydration_enable(clone->hydration,
				  !has_feature(clone, NO_HYDRATION));

	return 0;
}

static int create_reader(struct clone *clone)
{
	struct dm_clone_reader *reader;

	if (!has_feature(clone, HYDRATE_ON_READ))
		return 0;

	reader = dm_clone_reader_create(&clone->geo, clone->map, &clone->claims,
					clone->hydration, clone->wq_source,
					clone->wq_dest);
	if (IS_ERR(reader)) {
		clone->ti->error = "Failed to create the reader";
		return PTR_ERR(reader);
	}

	clone->reader = reader;

	return 0;
}

static struct workqueue_struct *create_workqueue_for(const char *what)
{
	return alloc_workqueue("dm-clone-%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, what);
}

static int create_resources(struct clone *clone)
{
	clone->wq_commit = create_workqueue_for("commit");
	clone->wq_source = create_workqueue_for("source");
	clone->wq_dest = create_workqueue_for("dest");
	if (!clone->wq_commit || !clone->wq_source || !clone->wq_dest) {
		clone->ti->error = "Failed to allocate a workqueue";
		return -ENOMEM;
	}

	if (bioset_init(&clone->parts, BIO_POOL_SIZE, 0, 0)) {
		clone->ti->error = "Failed to allocate the bio set";
		return -ENOMEM;
	}

	return 0;
}

/*
 * A finished clone reads nothing from its source: any device may be in its
 * place.  So the metadata is opened before the source is judged, but not
 * formatted if the source is bad.
 */
static int open_metadata(struct clone *clone)
{
	char *bad_source = dm_clone_source_error(clone);
	struct dm_target *ti = clone->ti;
	int r;

	r = dm_clone_get_store(ti, clone->region_size,
			       clone->metadata_dev->bdev,
			       !clone->read_only && !bad_source, &clone->store);

	/*
	 * If source and metadata are one device, that is the error to report.
	 */
	if (r && r != -ENOENT && clone->geo.source != clone->metadata_dev->bdev)
		return r;

	if (!r) {
		clone->cmd = clone->store->cmd;
		clone->map = dm_clone_metadata_map(clone->cmd);
		/* Not clone->finished: the metadata has to be settled first. */
		if (is_finished(clone))
			return 0;
	}

	if (bad_source) {
		ti->error = bad_source;
		return -EINVAL;
	}

	if (r) {
		ti->error = "Metadata device is not formatted, and the table is read-only";
		return -EROFS;
	}

	return 0;
}

static void destroy_workqueues(struct clone *clone)
{
	if (clone->wq_commit) {
		cancel_delayed_work_sync(&clone->commit_work);
		destroy_workqueue(clone->wq_commit);
	}
	if (clone->wq_source)
		destroy_workqueue(clone->wq_source);
	if (clone->wq_dest)
		destroy_workqueue(clone->wq_dest);
}

static void destroy_clone(struct clone *clone)
{
	struct dm_target *ti = clone->ti;

	dm_clone_reader_destroy(clone->reader);
	if (clone->hydration) {
		/* A message may have started work after the last suspend. */
		dm_clone_hydration_stop(clone->hydration);
		dm_clone_hydration_destroy(clone->hydration);
	}
	destroy_workqueues(clone);
	bioset_exit(&clone->parts);
	if (clone->store)
		dm_clone_put_store(ti, clone->store);
	if (clone->source_dev)
		dm_put_device(ti, clone->source_dev);
	if (clone->dest_dev)
		dm_put_device(ti, clone->dest_dev);
	if (clone->metadata_dev)
		dm_put_device(ti, clone->metadata_dev);
	mutex_destroy(&clone->commit_lock);
	free_percpu(clone->nr_source_reads);
	kfree(clone->table_args);
	kfree(clone);
}

static struct clone *alloc_clone(struct dm_target *ti)
{
	struct clone *clone = kzalloc_obj(*clone, GFP_KERNEL);

	if (clone)
		clone->nr_source_reads = alloc_percpu(unsigned long);
	if (!clone || !clone->nr_source_reads) {
		ti->error = "Failed to allocate the clone";
		kfree(clone);
		return NULL;
	}

	clone->ti = ti;
	clone->read_only = !(dm_table_get_mode(ti->table) & DM_CLONE_WRITE);
	spin_lock_init(&clone->lock);
	dm_clone_claims_init(&clone->claims);
	dm_clone_map_init(clone);
	dm_clone_commit_init(clone);

	return clone;
}

static void set_target_features(struct clone *clone)
{
	struct dm_target *ti = clone->ti;

	clone->discard_passdown = can_pass_discards_down(clone);

	ti->private = clone;
	ti->per_io_data_size = sizeof(struct clone_io);

	/* The metadata is a write cache even if the devices have none. */
	ti->num_flush_bios = 1;
	ti->flush_supported = true;

	/* It always helps to know that regions need not be copied. */
	ti->num_discard_bios = 1;
	ti->discards_supported = true;

	ti->num_write_zeroes_bios = 1;
}

static int clone_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct clone *clone = alloc_clone(ti);
	int r;

	if (!clone)
		return -ENOMEM;

	r = dm_clone_parse_args(clone, &as) ?: create_resources(clone) ?:
	    open_metadata(clone) ?: create_hydration(clone) ?: create_reader(clone);
	if (r)
		goto bad;

	set_target_features(clone);

	return 0;
bad:
	destroy_clone(clone);
	return r;
}

static void clone_dtr(struct dm_target *ti)
{
	destroy_clone(ti->private);
}

/*
 *---------------------------------------------------------------
 * Suspend and resume
 *---------------------------------------------------------------
 */

/*
 * Copies for bios go on: device-mapper waits for the bios now.  Background
 * copies that are still in flight are waited for in clone_postsuspend().
 */
static void clone_presuspend(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	dm_clone_reader_stop(clone->reader);
	dm_clone_hydration_stop(clone->hydration);
}

/*
 * The mode may get worse at any time: the second of this and set_mode() stops.
 */
static void start_hydration(struct clone *clone)
{
	if (!may_change_metadata(clone))
		return;

	dm_clone_hydration_start(clone->hydration);
	dm_clone_reader_start(clone->reader);

	if (!may_change_metadata(clone)) {
		dm_clone_hydration_stop(clone->hydration);
		dm_clone_reader_stop(clone->reader);
	}
}

static void clone_presuspend_undo(struct dm_target *ti)
{
	start_hydration(ti->private);
}

/* No bios are in flight any more. */
static void clone_postsuspend(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	dm_clone_reader_wait(clone->reader);
	dm_clone_hydration_wait(clone->hydration);
	flush_work(&clone->deferred_work);
	flush_work(&clone->deferred_read_work);
	dm_clone_commit_suspend(clone);
}

static int clone_preresume(struct dm_target *ti)
{
	struct clone *clone = ti->private;
	int r = dm_clone_store_set_live(ti, clone->store);

	if (r) {
		DMERR("%s: another metadata device has been in use since the table was loaded",
		      clone_name(clone));
		return r;
	}

	dm_clone_commit_resume(clone);

	return 0;
}

static void clone_resume(struct dm_target *ti)
{
	struct clone *clone = ti->private;

	dm_clone_disable_polling(dm_disk(dm_table_get_md(ti->table))->queue,
				 NULL);

	if (dm_clone_changed_this_transaction(clone->map))
		dm_clone_regions_hydrated(clone);

	/*
	 * A destination that has been spoilt, under this table or an earlier
	 * one, stays so.  Here nothing is in flight that could spoil it
	 * meanwhile.
	 */
	dm_clone_hydration_set_dest_zeroed(clone->hydration,
					   is_dest_zeroed(clone));
	start_hydration(clone);
}

/*
 *---------------------------------------------------------------
 * Limits
 *---------------------------------------------------------------
 */

/*
 * The destination only: callers ask what can be done to the device, and the
 * source only gets reads.  Those of its limits that matter to reads are added
 * in clone_io_hints().
 */
static int clone_iterate_devices(struct dm_target *ti,
				 iterate_devices_callout_fn fn, void *data)
{
	struct clone *clone = ti->private;

	return fn(ti, clone->dest_dev, 0, ti->len, data);
}

/*
 * The source is only read: take from the stacked limits what matters to reads.
 * The rest (write-zeroes, atomic writes, zones) stays as it is for the
 * destination alone: kernels check that those limits agree with each other, and
 * new kernels add more of them.
 */
static void stack_source_limits(struct clone *clone,
				struct queue_limits *limits)
{
	struct block_device *source = clone->geo.source;
	struct queue_limits both = *limits;

	if (blk_stack_limits(&both, &bdev_get_queue(source)->limits,
			     get_start_sect(source)) < 0)
		DMWARN("%s: source is not aligned to the blocks of the destination",
		       clone_name(clone));

	limits->logical_block_size = both.logical_block_size;
	limits->physical_block_size = both.physical_block_size;
	limits->alignment_offset = both.alignment_offset;
	limits->io_min = both.io_min;
	limits->io_opt = both.io_opt;

	limits->max_sectors = both.max_sectors;
	limits->max_hw_sectors = both.max_hw_sectors;
	limits->max_dev_sectors = both.max_dev_sectors;
	limits->chunk_sectors = both.chunk_sectors;

	limits->max_segments = both.max_segments;
	limits->max_segment_size = both.max_segment_size;
	limits->seg_boundary_mask = both.seg_boundary_mask;
	limits->virt_boundary_mask = both.virt_boundary_mask;
	limits->dma_alignment = both.dma_alignment;

	dm_clone_take_flags(limits, &both);
}

static void clone_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct clone *clone = ti->private;
	unsigned int granularity = clone->region_size << SECTOR_SHIFT;

	if (!is_finished(clone))
		stack_source_limits(clone, limits);

	/*
	 * Some kernels send polled requests as ones that must not wait, which
	 * we do not serve: to offer polling would have each of them fail.
	 */
	dm_clone_disable_polling(NULL, limits);

	/*
	 * Only whole regions need not be copied, and the destination cannot use
	 * less than its own granularity.  Any length will do: whoever passes
	 * the discard on splits it.
	 */
	if (clone->discard_passdown)
		granularity = max(granularity,
				  bdev_discard_granularity(clone->geo.dest));
	limits->discard_granularity = granularity;
	limits->discard_alignment = 0;
	limits->max_hw_discard_sectors = rounddown(UINT_MAX >> SECTOR_SHIFT,
						   granularity >> SECTOR_SHIFT);
	limits->max_discard_sectors = limits->max_hw_discard_sectors;
}

static struct target_type clone_target = {
	.name = "clone",
	.version = {1, 2, 0},	/* MODULE_VERSION() too, see CONTRIBUTING.md */
	.module = THIS_MODULE,
	.ctr = clone_ctr,
	.dtr = clone_dtr,
	.map = dm_clone_map,
	.presuspend = clone_presuspend,
	.presuspend_undo = clone_presuspend_undo,
	.postsuspend = clone_postsuspend,
	.preresume = clone_preresume,
	.resume = clone_resume,
	.status = dm_clone_status,
	.message = dm_clone_message,
	.io_hints = clone_io_hints,
	.iterate_devices = clone_iterate_devices,
};

static int __init dm_clone_init(void)
{
	int r = dm_clone_memory_init();

	if (r)
		return r;

	r = dm_register_target(&clone_target);
	if (r < 0) {
		DMERR("failed to register the target: %d", r);
		dm_clone_memory_exit();
	}

	return r;
}

static void __exit dm_clone_exit(void)
{
	dm_unregister_target(&clone_target);
	dm_clone_memory_exit();
}

module_init(dm_clone_init);
module_exit(dm_clone_exit);

MODULE_DESCRIPTION(DM_NAME " clone target");
MODULE_AUTHOR("the dm-clone authors");
MODULE_VERSION("1.2.0");
MODULE_LICENSE("GPL");
