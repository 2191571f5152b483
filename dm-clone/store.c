// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Stores: metadata that the tables of one device share.
 */

#include <linux/device-mapper.h>
#include <linux/err.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "clone.h"

/*
 * Opening and closing metadata does I/O, which a hanging device delays forever.
 * So it is done without the lock.  Meanwhile the store is in the list, and
 * busy: tables that name the same device wait, others do not.
 *
 *  - Two tables open the same device at once: the first adds a store under the
 *    lock; the second finds it busy, and waits.  A device never has two stores.
 *  - Opening fails: the store is taken off the list under the lock before it is
 *    freed.  A table that has waited keeps no pointer to it; it looks again,
 *    finds none, and makes its own attempt.
 *  - The last table that uses a store is destroyed: the store is busy until the
 *    metadata is closed, so a table that comes meanwhile reads what closing has
 *    left.  It cannot use the old store: only a store that is not busy gets
 *    users.
 *  - A store that is not busy has users, whose tables keep the mapped device.
 *    The @md of a busy one may be gone, so it is compared with nothing.
 */
static LIST_HEAD(stores);
static DEFINE_SPINLOCK(stores_lock);
static DECLARE_WAIT_QUEUE_HEAD(stores_wait);	/* a store is no longer busy */

static struct clone_store *__find_store(struct block_device *bdev)
{
	struct clone_store *store;

	lockdep_assert_held(&stores_lock);

	list_for_each_entry(store, &stores, list)
		if (store->bdev == bdev)
			return store;

	return NULL;
}

static bool __is_busy(struct block_device *bdev)
{
	struct clone_store *store = __find_store(bdev);

	return store && store->busy;
}

/*
 * Does @ti name another metadata device than the live table?  It may be the
 * same disk by another name.  The live table goes on changing it until it is
 * suspended, and has changes that are not on it yet; the new table would not
 * see them, and would read the source where the user has written.
 */
static bool __replaces_live_store(struct dm_target *ti)
{
	struct clone_store *store;

	lockdep_assert_held(&stores_lock);

	list_for_each_entry(store, &stores, list)
		if (!store->busy && store->live && store->table != ti->table &&
		    store->md == dm_table_get_md(ti->table))
			return true;

	return false;
}

/* May the table of @ti use a store that is open already? */
static int __check_store(struct dm_target *ti, sector_t region_size,
			 struct clone_store *store)
{
	lockdep_assert_held(&stores_lock);

	if (store->md != dm_table_get_md(ti->table)) {
		ti->error = "Metadata device is in use by another clone";
		return -EBUSY;
	}

	if (store->table == ti->table) {
		ti->error = "Metadata device is used twice in this table";
		return -EINVAL;
	}

	if (!dm_clone_metadata_matches(store->cmd, ti->len, region_size)) {
		ti->error = "Region size or target size does not match the metadata";
		return -EINVAL;
	}

	return 0;
}

/*
 * Have @ti use the store of @bdev, or else add @new, which is yet to be opened.
 * Sleeps, and drops the lock for that.
 */
static int __use_store(struct dm_target *ti, sector_t region_size,
		       struct block_device *bdev, struct clone_store *new,
		       struct clone_store **store)
{
	int r;

	wait_event_lock_irq(stores_wait, !__is_busy(bdev), stores_lock);

	*store = __find_store(bdev);
	if (*store) {
		r = __check_store(ti, region_size, *store);
		if (r)
			return r;
	} else {
		if (__replaces_live_store(ti)) {
			ti->error = "Metadata device of a live clone cannot be replaced";
			return -EBUSY;
		}
		*store = new;
		list_add(&new->list, &stores);
	}

	(*store)->nr_users++;
	(*store)->table = ti->table;

	return 0;
}

/* The tables that have waited for it look again. */
static void end_busy(struct clone_store *store, bool gone)
{
	spin_lock_irq(&stores_lock);
	store->busy = false;
	if (gone)
		list_del(&store->list);
	spin_unlock_irq(&stores_lock);

	wake_up_all(&stores_wait);
	if (gone)
		kfree(store);
}

static struct clone_store *alloc_store(struct dm_target *ti,
				       struct block_device *bdev)
{
	struct clone_store *store = kzalloc_obj(*store, GFP_KERNEL);

	if (!store)
		return NULL;

	store->md = dm_table_get_md(ti->table);
	store->bdev = bdev;
	store->mode = CM_WRITE;
	store->busy = true;

	return store;
}

static int open_store(struct dm_target *ti, sector_t region_size,
		      struct clone_store *store, bool may_be_formatted)
{
	store->cmd = dm_clone_metadata_open(store->bdev, ti->len, region_size,
					    may_be_formatted, &ti->error);
	if (IS_ERR(store->cmd)) {
		int r = PTR_ERR(store->cmd);

		end_busy(store, true);
		return r;
	}

	store->spoilt = !dm_clone_metadata_is_new(store->cmd) &&
			!dm_clone_metadata_found_dest_zeroed(store->cmd);
	end_busy(store, false);

	return 0;
}

int dm_clone_get_store(struct dm_target *ti, sector_t region_size,
		       struct block_device *bdev, bool may_be_formatted,
		       struct clone_store **result)
{
	struct clone_store *new = alloc_store(ti, bdev), *store;
	int r;

	if (!new) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}

	spin_lock_irq(&stores_lock);
	r = __use_store(ti, region_size, bdev, new, &store);
	spin_unlock_irq(&stores_lock);

	if (!r && store == new)
		r = open_store(ti, region_size, new, may_be_formatted);
	else
		kfree(new);
	if (!r)
		*result = store;

	return r;
}

void dm_clone_put_store(struct dm_target *ti, struct clone_store *store)
{
	bool last;

	spin_lock_irq(&stores_lock);
	if (store->table == ti->table)
		store->table = NULL;
	last = !--store->nr_users;
	store->busy = last;
	spin_unlock_irq(&stores_lock);

	if (last) {
		dm_clone_metadata_close(store->cmd);
		end_busy(store, true);
	}
}

/*
 * A table with another store may have been loaded after the resume of this one
 * began, and before it was live: __replaces_live_store() found nothing then.
 * What that store has read from the disk, which may be the same, is about to be
 * out of date.  The @md of a store that is being closed may be gone, with
 * another one in its place: to call that store stale does no harm, since nobody
 * can start using it.
 */
static void __outdate_others(struct dm_target *ti, struct clone_store *store)
{
	struct clone_store *other;

	lockdep_assert_held(&stores_lock);

	list_for_each_entry(other, &stores, list)
		if (other != store && other->table != ti->table && other->md == store->md)
			other->stale = true;
}

int dm_clone_store_set_live(struct dm_target *ti, struct clone_store *store)
{
	int r = 0;

	spin_lock_irq(&stores_lock);
	if (store->stale) {
		r = -EBUSY;
	} else {
		store->live = true;
		__outdate_others(ti, store);
	}
	spin_unlock_irq(&stores_lock);

	return r;
}
