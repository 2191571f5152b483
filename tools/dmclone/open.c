// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone open and close.
 *
 * Opening never formats: the kernel formats a metadata device whose first block
 * is all zeroes, and would then clone the source over what users have written.
 * So that block is looked at first.  A clone that is done needs its destination
 * only, and becomes a plain linear device; the description says so, durably,
 * before that can be written to.
 */

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dmclone.h"
#include "lvm.h"
#include "metadata.h"
#include "monitor.h"
#include "source.h"

struct opening {
	struct conf conf;
	struct source source;
	struct device destination;
	struct device metadata;
	struct attached loop;
	bool force;
	time_t patience;		/* seconds left for devices to appear */
};

#define PATIENCE	90		/* as systemd has for devices */

/* At boot they come one after the other.  Whatever is missing then is told. */
static void await(struct opening *o, const char *path)
{
	while (access(path, F_OK) && o->patience > 0) {
		sleep(1);
		o->patience--;
	}
}

/* So may what they lie on. */
static enum result await_volumes(struct opening *o)
{
	enum result r;

	while ((r = lvm_activate(&o->conf)) == BAD_DEVICE && o->patience > 0) {
		sleep(2);
		o->patience -= 2;
	}

	return r;
}

/* A server may come later than the network. */
static enum result await_source(struct opening *o)
{
	bool is_nbd = is_nbd_uri(o->conf.source);
	enum result r;

	if (!is_nbd)
		await(o, o->conf.source);
	while ((r = source_open(o->conf.source, &o->source)) == BAD_DEVICE && is_nbd &&
	       o->patience > 0) {
		sleep(2);
		o->patience -= 2;
	}

	return r;
}

static enum result activate(const struct conf *conf, const struct target *targets,
			    unsigned int nr)
{
	enum result r;

	r = table_create(conf->name, conf->uuid);
	if (!r)
		r = table_load(conf->name, targets, nr, false);
	if (!r)
		r = table_resume(conf->name);
	if (r) {
		struct mapping map;

		if (!table_read(conf->name, &map) && map.exists && !map.live)
			table_remove(conf->name);
	}

	return r;
}

static enum result open_linear(const struct conf *conf, const struct device *destination)
{
	struct target target;
	enum result r;

	linear_line(destination->number, 0, conf->size + conf->tail, &target);
	r = activate(conf, &target, 1);
	if (!r)
		say("/dev/mapper/%s is there; all of it is in %s: dmclone finish %s",
		    conf->name, conf->destination, conf->name);

	return r;
}

static enum result look_at_metadata(struct opening *o, bool *complete)
{
	struct conf *conf = &o->conf;
	enum metadata_state state;
	uint64_t nr_hydrated;
	enum result r;

	*complete = false;
	await(o, conf->metadata);
	r = metadata_attach(conf, &o->loop, &o->metadata);
	if (!r)
		r = device_check_writable(&o->metadata);
	/* The file of ours has been looked at when it was attached. */
	if (!r && !metadata_is_file(conf))
		r = device_check_free(&o->metadata);
	if (!r)
		r = metadata_look(conf, &o->metadata, &state, &nr_hydrated);
	if (r)
		return r;
	if (state == METADATA_EMPTY)
		return fail(BAD_DEVICE,
			    "there is no metadata on %s, and without it nobody knows what is in the destination. Is it the right device? If nothing has been written to the clone: dmclone abort --force %s, and create it again",
			    conf->metadata, conf->name);
	*complete = state == METADATA_COMPLETE;

	return DONE;
}

static enum result open_clone(struct opening *o)
{
	struct conf *conf = &o->conf;
	struct target targets[2];
	enum result r;

	r = await_source(o);
	if (!r && !o->force)
		r = source_compare(&o->source, conf);
	if (!r)
		r = device_check_apart(&o->destination, &o->source.dev);
	if (r)
		return r;
	clone_line(conf, o->metadata.number, o->destination.number, o->source.dev.number,
		   &targets[0]);
	linear_line(o->destination.number, conf->size, conf->tail, &targets[1]);
	r = activate(conf, targets, conf->tail ? 2 : 1);
	if (r)
		return r;
	monitor_start(conf);
	source_skip_holes(&o->source, conf);
	say("/dev/mapper/%s is there", conf->name);

	return DONE;
}

/* A logical volume comes to its end: LVM opens it from now on. */
static enum result open_lv(struct opening *o)
{
	const struct conf *conf = &o->conf;
	enum result r;

	while ((r = lvm_end(conf)) == BAD_DEVICE && o->patience > 0) {
		sleep(2);
		o->patience -= 2;
	}
	if (!r)
		r = conf_remove(conf->name);
	if (!r)
		say("/dev/%s is there, a logical volume as others are", conf->lv);

	return r;
}

static enum result open_complete(struct opening *o)
{
	return *o->conf.lv ? open_lv(o) : open_linear(&o->conf, &o->destination);
}

static enum result open_live(struct opening *o)
{
	bool complete;
	enum result r;

	r = look_at_metadata(o, &complete);
	if (r)
		return r;
	if (!complete)
		return open_clone(o);

	o->conf.state = COMPLETE;
	r = conf_write(&o->conf);

	return r ? r : open_complete(o);
}

static enum result check_state(const struct conf *conf)
{
	switch (conf->state) {
	case CREATING:
		return fail(BAD_PARAMETER,
			    "the creation of '%s' was interrupted: run dmclone create again, with the same devices",
			    conf->name);
	case ABANDONED:
		return fail(BAD_PARAMETER,
			    "'%s' has been given up: dmclone abort %s takes the rest away",
			    conf->name, conf->name);
	default:
		return DONE;
	}
}

static enum result open_described(struct opening *o)
{
	struct conf *conf = &o->conf;
	enum result r;
	bool live;

	r = check_state(conf);
	if (!r && *conf->lv && conf->state == COMPLETE)
		return open_lv(o);
	if (!r)
		r = clear_remains(conf, &live);
	if (r)
		return r;
	if (live) {
		say("'%s' is open already", conf->name);
		return DONE;
	}
	if (*conf->lv) {
		r = await_volumes(o);
		if (r)
			return r;
	}
	await(o, conf->destination);
	r = destination_look(conf, &o->destination);
	if (!r)
		r = device_check_free(&o->destination);
	if (r)
		return r;

	return conf->state == COMPLETE ? open_complete(o) : open_live(o);
}

static enum result open_one(const struct conf *conf, void *context)
{
	const struct request *rq = context;
	struct opening o = {
		.source.attached.fd = -1, .loop.fd = -1, .force = rq->force,
		.patience = rq->wait_for_devices ? PATIENCE : 0,
	};
	enum result r;

	r = conf_lock(conf->name);
	/* It may have changed before the lock was there. */
	if (!r)
		r = conf_read(conf->name, &o.conf);
	if (!r)
		r = open_described(&o);
	source_close(&o.source);
	if (o.loop.fd >= 0)
		close(o.loop.fd);

	return r;
}

/* Those that have become something that can be opened; others are none of it. */
static enum result open_if_whole(const struct conf *conf, void *context)
{
	if (conf->state == CREATING || conf->state == ABANDONED)
		return DONE;

	return open_one(conf, context);
}

enum result do_open(const struct request *rq)
{
	struct conf conf;
	enum result r;

	if (rq->all)
		return conf_for_each(open_if_whole, (void *)rq, true);
	r = conf_read(rq->arguments[0], &conf);

	return r ? r : open_one(&conf, (void *)rq);
}

/* Closing --------------------------------------------------------------- */

/* It need not have a description any more. */
static enum result close_one(const char *name)
{
	struct conf conf = { .state = LIVE };
	struct mapping map;
	enum result r;

	r = conf_lock(name);
	if (!r)
		r = table_read(name, &map);
	if (!r && conf_exists(name))
		r = conf_read(name, &conf);
	if (r)
		return r;
	if (!map.exists)
		return conf_exists(name) ? DONE :
		       fail(BAD_PARAMETER, "there is no clone '%s'", name);
	if (strncmp(map.uuid, UUID_PREFIX, strlen(UUID_PREFIX)) &&
	    !(*conf.lv && !*map.uuid))
		return fail(BAD_PARAMETER,
			    "'%s' was not made by dmclone (UUID '%s'): dmsetup remove %s",
			    name, map.uuid, name);
	if (map.nr_open)
		return fail(BUSY,
			    "/dev/mapper/%s is in use: unmount it, or take away what lies on it",
			    name);
	monitor_stop(&conf);
	r = take_away(name);
	if (!r && *conf.lv)
		lvm_deactivate(&conf);

	return r;
}

static enum result close_described(const struct conf *conf, void *context)
{
	(void)context;

	return close_one(conf->name);
}

enum result do_close(const struct request *rq)
{
	if (rq->all)
		return conf_for_each(close_described, NULL, true);

	return close_one(rq->arguments[0]);
}
