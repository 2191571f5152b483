// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone finish, remove and abort: the ends of a clone.
 *
 * finish, once the clone is done:
 *
 * 1. The description says "done", durably.  From now on "open" makes a linear
 *    device, and looks at neither source nor metadata.
 * 2. A linear table replaces the clone's, under a mounted file system.
 * 3. The metadata is wiped, or its file removed.  Zeroes there mean "format" to
 *    the kernel; no description leads to that any more.
 * 4. The description is removed.
 *
 * Loop device and NBD have gone with the clone's table.  Killed anywhere, it is
 * run again: what has been done is found done.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "finish.h"
#include "lvm.h"
#include "metadata.h"
#include "monitor.h"
#include "size.h"

static enum result read_locked(const char *name, struct conf *conf)
{
	enum result r = conf_lock(name);

	return r ? r : conf_read(name, conf);
}

/* Its mapped device, if there is one and it is that of the description */
static enum result read_mapping(const struct conf *conf, struct mapping *map)
{
	enum result r = table_status(conf->name, map);

	if (!r && map->exists && !mapping_is_of(map, conf))
		return fail(BUSY,
			    "there is another mapped device '%s' (UUID '%s'): rename it first (dmsetup rename)",
			    conf->name, map->uuid);

	return r;
}

/* A clone that is not open: the metadata tells. */
static enum result check_closed(const struct conf *conf)
{
	struct attached attached;
	enum metadata_state state;
	struct device dev;
	uint64_t nr;
	enum result r;

	r = metadata_attach(conf, &attached, &dev);
	if (r)
		return r;
	r = metadata_look(conf, &dev, &state, &nr);
	if (attached.fd >= 0)
		close(attached.fd);
	if (!r && state != METADATA_COMPLETE)
		r = fail(STOPPED, "'%s' is not done: dmclone open %s, and let it go on",
			 conf->name, conf->name);

	return r;
}

static enum result check_done(const struct conf *conf, const struct mapping *map)
{
	const struct target *target = table_find(map, "clone");
	struct progress p;
	enum result r;

	if (conf->state == COMPLETE)
		return DONE;
	if (conf->state != LIVE)
		return fail(BAD_PARAMETER, "'%s' is %s: dmclone abort %s", conf->name,
			    state_names[conf->state], conf->name);
	if (!map->live)
		return check_closed(conf);
	if (!target)
		return fail(BAD_DEVICE,
			    "the table of '%s' is none of a clone: who has changed it? If all is hydrated, dmclone close %s and finish it then",
			    conf->name, conf->name);
	r = progress_read(conf->name, target, &p);
	if (!r && !progress_is_done(&p))
		r = fail(STOPPED, "'%s' is not done, %llu regions are missing: dmclone wait %s",
			 conf->name, ULL(p.nr_regions - p.nr_hydrated), conf->name);

	return r;
}

/*
 * The kernel's own target does not tell whether it has committed.  After a flush
 * all that it has in the destination is durable, and so is the metadata.
 */
enum result clone_sync(const char *name, const struct mapping *map)
{
	char path[PATH_MAX];
	int fd, r = 0;

	snprintf(path, sizeof(path), "/dev/dm-%u", minor(map->number));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r)
		return fail_errno(r, "cannot flush '%s': it stays a clone", name);

	return DONE;
}

/* Linear all over, whatever was in the table */
static enum result swap(const struct conf *conf, const struct mapping *map,
			const struct device *destination)
{
	const struct target *last = &map->targets[map->nr_targets - 1];
	struct target target;
	enum result r;

	if (!map->live)
		return map->exists ? table_remove(conf->name) : DONE;
	if (map->nr_targets == 1 && !strcmp(last->type, "linear"))
		return map->suspended ? table_resume(conf->name) : DONE;

	linear_line(destination->number, 0, last->start + last->length, &target);
	r = table_load(conf->name, &target, 1, map->readonly);

	return r ? r : table_swap(conf->name);
}

static void tell(const struct conf *conf, bool mapped)
{
	char path[PATH_MAX];

	if (*conf->lv) {
		say("/dev/%s is a logical volume as others are; the source is not needed any more",
		    conf->lv);
		return;
	}
	snprintf(path, sizeof(path), "/dev/mapper/%s", conf->name);
	say("all of '%s' is in %s; source and metadata are not needed any more", conf->name,
	    conf->destination);
	if (mapped)
		say("%s stays until it is closed or the machine is rebooted", path);
	if (file_names("/etc/fstab", path))
		warn("/etc/fstab names %s: let it name %s, or its UUID", path,
		     conf->destination);
}

static enum result end(const struct conf *conf, const struct mapping *map,
		       const struct device *destination)
{
	enum result r;

	if (*conf->lv)
		return lvm_end(conf);
	r = swap(conf, map, destination);

	return r ? r : metadata_discard(conf);
}

/* From a clone that is done to none */
static enum result settle(struct conf *conf)
{
	struct device destination = { .number = 0 };
	struct mapping map;
	enum result r;

	r = read_mapping(conf, &map);
	if (!r && *conf->lv && !map.live && conf->state == LIVE)
		r = lvm_activate(conf);
	/* I/O waits there, and so would we.  A swap of ours waits for the rest of it. */
	if (!r && map.suspended && conf->state != COMPLETE)
		r = fail(BUSY,
			 "'%s' is suspended: dmsetup resume %s, or dmclone open %s if it was dmclone that was killed",
			 conf->name, conf->name, conf->name);
	if (!r)
		r = check_done(conf, &map);
	/* A logical volume may have the other name already. */
	if (!r && (!*conf->lv || conf->state == LIVE))
		r = destination_look(conf, &destination);
	if (!r && table_find(&map, "clone") && !map.suspended)
		r = clone_sync(conf->name, &map);
	if (r)
		return r;

	conf->state = COMPLETE;
	r = conf_write(conf);
	if (!r)
		r = end(conf, &map, &destination);
	if (!r)
		r = conf_remove(conf->name);
	if (r)
		return r;
	monitor_stop(conf);
	if (!*conf->lv)
		device_release(destination.number);
	if (map.live)
		device_trigger(map.number);

	return DONE;
}

enum result finish_described(struct conf *conf)
{
	struct mapping map;
	enum result r;

	r = settle(conf);
	if (!r)
		r = table_read(conf->name, &map);
	if (!r)
		tell(conf, map.exists);

	return r;
}

/*
 * Without the lock, which others need to pause it, say.  *@gone: another process
 * has finished it meanwhile, as with --auto-finish.
 */
static enum result wait_for_end(const struct request *rq, bool *gone)
{
	const char *name = rq->arguments[0];
	struct mapping map;
	struct conf conf;
	enum result r;

	*gone = false;
	r = conf_read(name, &conf);
	if (!r)
		r = read_mapping(&conf, &map);
	if (r || rq->no_wait || conf.state != LIVE || map.suspended ||
	    !table_find(&map, "clone"))
		return r;
	r = wait_until_done(name, rq);
	*gone = !r && !conf_exists(name);

	return r;
}

enum result do_finish(const struct request *rq)
{
	const char *name = rq->arguments[0];
	struct conf conf;
	enum result r;
	bool gone;

	if (file_names(CLONETAB, name))
		return fail(BAD_PARAMETER,
			    "'%s' is systemd's, by its line in " CLONETAB ": dmclone adopt %s",
			    name, name);
	r = wait_for_end(rq, &gone);
	if (!r && gone)
		say("'%s' has been finished meanwhile", name);
	if (r || gone)
		return r;
	r = read_locked(name, &conf);

	return r ? r : finish_described(&conf);
}

static enum result check_unused(const struct mapping *map, const char *name)
{
	if (!map->nr_open)
		return DONE;

	return fail(BUSY, "/dev/mapper/%s is in use: unmount it, or take away what lies on it",
		    name);
}

static enum result read_unused(const char *name, struct conf *conf, struct mapping *map)
{
	enum result r = read_locked(name, conf);

	if (!r)
		r = read_mapping(conf, map);

	return r ? r : check_unused(map, name);
}

enum result do_remove(const struct request *rq)
{
	struct mapping map;
	struct conf conf;
	enum result r;

	r = read_unused(rq->arguments[0], &conf, &map);
	if (!r)
		r = settle(&conf);
	if (!r && map.live && !*conf.lv)
		r = take_away(conf.name);
	if (!r && *conf.lv)
		tell(&conf, false);
	else if (!r)
		say("all of '%s' is in %s, and the clone is gone", conf.name, conf.destination);

	return r;
}

/* Giving up ------------------------------------------------------------- */

/* What of the destination would be lost: an upper bound, in bytes */
static enum result count_losses(const struct conf *conf, const struct mapping *map,
				uint64_t *bytes, uint64_t *written)
{
	const struct target *target = table_find(map, "clone");
	struct attached attached;
	enum metadata_state state;
	struct device dev;
	struct progress p;
	uint64_t nr = 0;
	enum result r;

	*written = 0;
	if (map->live && target) {
		r = progress_read(conf->name, target, &p);
		*bytes = r ? 0 : progress_bytes_hydrated(&p);
		*written = p.bytes_overwritten;
		return r;
	}
	r = metadata_attach(conf, &attached, &dev);
	if (r)
		return r;
	r = metadata_look(conf, &dev, &state, &nr);
	if (attached.fd >= 0)
		close(attached.fd);
	*bytes = nr * conf->region_size * SECTOR;

	return r;
}

static enum result check_losses(const struct conf *conf, const struct mapping *map,
				const struct request *rq)
{
	uint64_t bytes = 0, written = 0;
	char texts[2][SIZE_TEXT];
	enum result r;

	if (conf->state == CREATING || conf->state == ABANDONED || rq->force)
		return DONE;
	if (conf->state == COMPLETE)
		return fail(BAD_PARAMETER,
			    "'%s' is done, nothing is to be given up: dmclone finish %s",
			    conf->name, conf->name);
	r = count_losses(conf, map, &bytes, &written);
	if (r || !bytes)
		return r;

	return fail(BAD_PARAMETER,
		    "what was written to '%s' is in %s only and would be lost: up to %s, of which %s were written since it was opened; --force gives it up",
		    conf->name, conf->destination, size_text(bytes, texts[0]),
		    size_text(written, texts[1]));
}

/*
 * The description says so first: whatever of the rest has been done, nobody
 * opens the clone again.
 */
static enum result give_up(struct conf *conf, const struct mapping *map)
{
	enum result r;

	conf->state = ABANDONED;
	r = conf_write(conf);
	monitor_stop(conf);
	if (!r && map->exists)
		r = table_remove(conf->name);
	if (!r)
		r = *conf->lv ? lvm_remove(conf) : metadata_discard(conf);

	return r ? r : conf_remove(conf->name);
}

enum result do_abort(const struct request *rq)
{
	struct device destination;
	struct mapping map;
	struct conf conf;
	enum result r;

	r = read_unused(rq->arguments[0], &conf, &map);
	if (!r && *conf.lv && !map.live && conf.state == LIVE && !rq->force)
		r = lvm_activate(&conf);
	if (!r)
		r = check_losses(&conf, &map, rq);
	if (!r)
		r = ask("'%s' is given up, what has been copied to %s is worth nothing then",
			conf.name, conf.destination);
	if (!r)
		r = give_up(&conf, &map);
	if (r)
		return r;

	say("'%s' is gone, and the source is as it was", conf.name);
	if (*conf.lv)
		return DONE;
	say("%s holds parts of it: wipefs -a it, before they are taken for the whole",
	    conf.destination);
	if (!device_look(conf.destination, "destination", &destination))
		device_release(destination.number);

	return DONE;
}
