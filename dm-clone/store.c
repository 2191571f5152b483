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
 * To open and to close metadata takes I/O, and a device that hangs makes it take for
 * ever.  So it's done without the lock.  Meanwhile the store is in the list, and busy:
 * whoever names the same device waits; nobody else does.
 *
 *  - Two tables open the same device at once: under the lock the first enters a store,
 *    which the second finds, busy, and waits for.  There are never two for a device.
 *  - Opening fails: the store is taken off the list under the lock before it's freed.
 *    Whoever has waited keeps no pointer to it, but looks again, finds none, and
 *    makes its own attempt.
 *  - The last table that uses a store is destroyed: it's busy from the moment that nobody
 *    uses it until the metadata is closed, so whoever comes meanwhile reads what closing
 *    has left.  Nobody can start using it: only a store that is not busy gets users.
 *  - A store that isn't busy has users, whose tables keep the mapped device.  Of a busy
 *    one, @md may be gone, so it is compared with nothing.
 */
static LIST_HEAD(stores);
static DEFINE_SPINLOCK(stores_lock);
static DECLARE_WAIT_QUEUE_HEAD(stores_wait);	/* one is not busy any more */

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
 * Does @ti want another metadata device than the live table has?  It may be the
 * same disk by another name.  The live table goes on changing it until it is
 * suspended, and has changes that are not on it; the new table would not see
 * them, and read the source where the user has written.
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
 * Have @ti use the store of @bdev, or else enter @new, which is yet to be opened.
 * Sleeps, and drops the lock for that.
 */
static struct clone_store *__use_store(struct dm_target *ti, sector_t region_size,
				       struct block_device *bdev,
				       struct clone_store *new)
{
	struct clone_store *store;
	int r;

	wait_event_lock_irq(stores_wait, !__is_busy(bdev), stores_lock);

	store = __find_store(bdev);
	if (store) {
		r = __check_store(ti, region_size, store);
		if (r)
			return ERR_PTR(r);
	} else {
		if (__replaces_live_store(ti)) {
			ti->error = "Metadata device of a live clone cannot be replaced";
			return ERR_PTR(-EBUSY);
		}
		store = new;
		list_add(&store->list, &stores);
	}

	store->nr_users++;
	store->table = ti->table;

	return store;
}

/* Whoever has waited for it looks again. */
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

static struct clone_store *alloc_store(struct dm_target *ti, struct block_device *bdev)
{
	struct clone_store *store = kzalloc(sizeof(*store), GFP_KERNEL);

	if (!store)
		return NULL;

	store->md = dm_table_get_md(ti->table);
	store->bdev = bdev;
	store->mode = CM_WRITE;
	store->busy = true;

	return store;
}

static struct clone_store *open_store(struct dm_target *ti, sector_t region_size,
				      struct clone_store *store, bool may_be_formatted)
{
	store->cmd = dm_clone_metadata_open(store->bdev, ti->len, region_size,
					    may_be_formatted, &ti->error);
	if (IS_ERR(store->cmd)) {
		int r = PTR_ERR(store->cmd);

		end_busy(store, true);
		return ERR_PTR(r);
	}

	store->spoilt = !dm_clone_metadata_is_new(store->cmd) &&
			!dm_clone_metadata_found_dest_zeroed(store->cmd);
	end_busy(store, false);

	return store;
}

struct clone_store *dm_clone_get_store(struct dm_target *ti, sector_t region_size,
				       struct block_device *bdev,
				       bool may_be_formatted)
{
	struct clone_store *new = alloc_store(ti, bdev), *store;

	if (!new) {
		ti->error = "Out of memory";
		return ERR_PTR(-ENOMEM);
	}

	spin_lock_irq(&stores_lock);
	store = __use_store(ti, region_size, bdev, new);
	spin_unlock_irq(&stores_lock);

	if (store == new)
		return open_store(ti, region_size, store, may_be_formatted);

	kfree(new);
	return store;
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
 * A table may have been loaded with another store after this one's had been taken to
 * be resumed, and before it was live: __replaces_live_store() found nothing then.
 * What that store has read of the disk, which may be the same, is about to be
 * outdated.  Of a store that is being closed @md may be gone and another one be in
 * its place: to call that stale does no harm, as nobody can start using it.
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
