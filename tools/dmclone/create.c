// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone create: make a clone, see do_create().
 *
 * First everything is looked at, and nothing is changed.  Then, in this order:
 *
 * 1. The description says "creating", durably.
 * 2. The metadata is wiped, all of it.
 * 3. A table is loaded: the kernel formats the metadata, durably.
 * 4. The description says "live", durably.
 * 5. The table is put to use.
 *
 * Nobody can have written to a clone whose description says "creating"; so if
 * this is killed before 4 the next run begins again, and wipes again.  After 4
 * the metadata is never wiped, and "open" finds it formatted.  What holds devices
 * meanwhile (a table, an open loop device) goes away with this process or is
 * taken away by the next run.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "dmclone.h"
#include "metadata.h"
#include "monitor.h"
#include "ranges.h"
#include "size.h"
#include "source.h"
#include "thin.h"

#define SMALLEST_REGION		8u		/* sectors */
#define LARGEST_REGION		2097152u
#define LARGEST_ON_READ		2048u		/* with hydrate_on_read */

/*
 * Small regions suit file systems.  Above this many regions (1 TiB of 4 KiB)
 * their map takes more memory than people expect: 33 MiB.
 */
#define MANY_REGIONS		(UINT64_C(1) << 28)

struct creation {
	const struct request *rq;
	struct conf conf;
	struct source source;
	struct device destination;
	struct device metadata;
	struct attached loop;		/* of a metadata file */
	bool again;			/* an earlier run was interrupted, ... */
	char wiped[PATH_MAX];		/* ... which has wiped this, or has not */
};

/* Looking --------------------------------------------------------------- */

/* Is this what an interrupted run was about to make? */
static enum result look_at_description(struct creation *c, const char *name)
{
	struct conf *conf = &c->conf;
	enum result r;
	bool live;

	if (!conf_exists(name)) {
		struct mapping map;

		r = table_read(name, &map);
		if (!r && map.exists)
			r = fail(BUSY,
				 "there is a mapped device '%s' already: take another name",
				 name);
		return r;
	}
	r = conf_read(name, conf);
	if (r)
		return r;
	if (conf->state != CREATING)
		return fail(BAD_PARAMETER,
			    "there is a clone '%s' already (dmclone status %s): take another name",
			    name, name);
	c->again = true;
	strcpy(c->wiped, conf->metadata);

	return clear_remains(conf, &live);
}

static enum result look_at_destination(struct creation *c)
{
	struct device *dev = &c->destination;
	char sizes[2][SIZE_TEXT];
	enum result r;

	r = device_look(c->rq->arguments[2], "destination", dev);
	if (!r)
		r = device_check_apart(dev, &c->source.dev);
	if (!r)
		r = device_check_writable(dev);
	if (!r)
		r = device_check_free(dev);
	if (r)
		return r;
	if (dev->bytes / SECTOR < c->conf.size)
		return fail(BAD_DEVICE,
			    "the destination %s has %s, the source %s: extend it, by %llu bytes at least, or name a larger one",
			    dev->path, size_text(dev->bytes, sizes[0]),
			    size_text(c->source.dev.bytes, sizes[1]),
			    ULL(c->source.dev.bytes - dev->bytes));

	return device_check_empty(dev);
}

/* The clone has the larger of the two as its sector size. */
static enum result check_sectors(const struct creation *c)
{
	unsigned int source = c->source.dev.block_size;
	unsigned int destination = c->destination.block_size;
	const char *content = c->conf.source_identity;
	bool has_partitions = !strncmp(content, "gpt", 3) || !strncmp(content, "dos", 3);

	if (c->conf.size * SECTOR % destination)
		return fail(BAD_DEVICE,
			    "the source has %llu bytes, no multiple of the sectors of the destination (%u bytes)",
			    ULL(c->source.dev.bytes), destination);
	if (destination <= source)
		return DONE;
	if (has_partitions && !c->rq->force)
		return fail(BAD_DEVICE,
			    "the source has partitions, in sectors of %u bytes; the destination has sectors of %u, and they would not be found: name a destination with the same sector size (--force takes it all the same)",
			    source, destination);
	warn("the source has sectors of %u bytes, the clone those of the destination, %u:",
	     source, destination);
	warn("a file system may refuse that");

	return DONE;
}

static enum result check_region_size(const struct creation *c)
{
	uint64_t size = c->conf.region_size;
	unsigned int largest = c->conf.hydrate_on_read ? LARGEST_ON_READ : LARGEST_REGION;

	if (size & (size - 1) || size < SMALLEST_REGION || size > largest)
		return fail(BAD_PARAMETER,
			    "the region size must be a power of two from 4k to %s%s",
			    largest == LARGEST_REGION ? "1g" : "1m",
			    largest == LARGEST_REGION ? "" : " (with --hydrate-on-read)");
	if (size * SECTOR % c->source.dev.block_size ||
	    size * SECTOR % c->destination.block_size)
		return fail(BAD_PARAMETER,
			    "the region size must be a multiple of the sectors of both devices, %u and %u bytes",
			    c->source.dev.block_size, c->destination.block_size);
	if (c->conf.size / size >= UINT64_C(1) << 31)
		return fail(BAD_PARAMETER,
			    "there would be more than 2147483648 regions: take larger ones");

	return DONE;
}

enum result take_region_size(const struct request *rq, uint64_t sectors, uint64_t *size)
{
	uint64_t bytes;

	if (rq->region_size) {
		if (!size_parse(rq->region_size, &bytes))
			return fail(BAD_PARAMETER, "'%s' is no size", rq->region_size);
		*size = bytes % SECTOR ? 0 : bytes / SECTOR;
		return DONE;
	}
	*size = SMALLEST_REGION;
	while (*size < LARGEST_REGION && sectors / *size > MANY_REGIONS)
		*size *= 2;

	return DONE;
}

static enum result choose_region_size(struct creation *c)
{
	uint64_t *size = &c->conf.region_size;
	char text[SIZE_TEXT];
	enum result r;

	r = take_region_size(c->rq, c->conf.size, size);
	if (r || c->rq->region_size)
		return r ? r : check_region_size(c);
	say("region size %s: %s", size_text(*size * SECTOR, text),
	    *size == SMALLEST_REGION ?
	    "the block size of most file systems, so few writes need a copy" :
	    "the smallest for which the map of a volume this large stays within 33 MiB of memory");

	return check_region_size(c);
}

static enum result look_at_metadata_device(struct creation *c)
{
	struct device *dev = &c->metadata;
	char sizes[2][SIZE_TEXT];
	enum result r;

	r = device_look(c->rq->arguments[3], "metadata device", dev);
	if (!r)
		r = device_check_apart(dev, &c->source.dev);
	if (!r)
		r = device_check_apart(dev, &c->destination);
	if (!r)
		r = device_check_writable(dev);
	if (!r)
		r = device_check_free(dev);
	if (r)
		return r;
	device_stable_name(dev, c->conf.metadata);
	/* An interrupted run may have had it formatted. */
	if (!c->again || strcmp(c->conf.metadata, c->wiped))
		r = device_check_empty(dev);
	if (r)
		return r;
	if (dev->bytes < metadata_smallest(&c->conf))
		return fail(BAD_DEVICE,
			    "the metadata device %s has %s, at least %llu bytes are needed, %s are best: extend it, or take a larger --region-size",
			    dev->path, size_text(dev->bytes, sizes[0]),
			    ULL(metadata_smallest(&c->conf)),
			    size_text(metadata_recommended(&c->conf), sizes[1]));
	if (dev->bytes < metadata_recommended(&c->conf))
		warn("%s has %s; with %s no fsync waits for several commits",
		     dev->path, size_text(dev->bytes, sizes[0]),
		     size_text(metadata_recommended(&c->conf), sizes[1]));

	return DONE;
}

static enum result look_at_metadata(struct creation *c)
{
	char size[SIZE_TEXT];

	if (c->rq->nr > 3)
		return look_at_metadata_device(c);
	metadata_file_name(c->conf.name, c->conf.metadata);
	if (!c->again && !access(c->conf.metadata, F_OK))
		return fail(BUSY,
			    "%s exists, from a clone '%s' that has no description: if that is not needed any more, remove the file",
			    c->conf.metadata, c->conf.name);
	say("metadata: %s (%s), which must outlive reboots", c->conf.metadata,
	    size_text(metadata_recommended(&c->conf), size));

	return DONE;
}

/* What is on a logical volume that has no blocks yet reads as zeroes. */
static bool is_known_to_be_zero(const struct creation *c)
{
	if (c->rq->new_destination)
		return true;
	if (!thin_is_fresh(c->destination.number))
		return false;
	say("the destination is a new thin volume: what is zero is not written to it");

	return true;
}

static enum result make_uuid(struct conf *conf)
{
	uint64_t random[2];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return fail(BAD_DEVICE, "cannot get random numbers");
	snprintf(conf->uuid, sizeof(conf->uuid), UUID_PREFIX "%016llx%016llx", ULL(random[0]),
		 ULL(random[1]));

	return DONE;
}

/* What was asked for; the devices fill in the rest. */
static enum result take_request(struct creation *c)
{
	const struct request *rq = c->rq;
	struct conf *conf = &c->conf;

	memset(conf, 0, sizeof(*conf));
	snprintf(conf->name, sizeof(conf->name), "%s", rq->arguments[0]);
	conf->state = CREATING;
	conf->hydration = !rq->no_hydration;
	conf->hydrate_on_read = rq->hydrate_on_read;
	conf->monitor = true;
	if ((rq->rate && parse_rate(rq->rate, &conf->rate)) ||
	    conf_take_monitor(conf, rq->auto_finish, rq->exec))
		return BAD_PARAMETER;

	if (!rq->lv)
		return make_uuid(conf);
	snprintf(conf->lv, sizeof(conf->lv), "%s", rq->lv);

	return DONE;
}

static enum result look_at_devices(struct creation *c)
{
	struct conf *conf = &c->conf;
	enum result r;

	r = source_open(c->rq->arguments[1], &c->source);
	if (r)
		return r;
	strcpy(conf->source, c->source.text);
	conf->size = c->source.dev.bytes / SECTOR;
	r = look_at_destination(c);
	if (!r)
		r = choose_region_size(c);
	if (!r)
		r = look_at_metadata(c);
	if (!r)
		r = source_identify(&c->source, conf);
	if (!r)
		r = check_sectors(c);
	if (r)
		return r;

	device_stable_name(&c->destination, conf->destination);
	conf->destination_size = c->destination.bytes;
	device_identity(&c->destination, conf->destination_identity,
			sizeof(conf->destination_identity));
	conf->zeroed_destination = is_known_to_be_zero(c);

	return DONE;
}

static enum result look(struct creation *c)
{
	const char *name = c->rq->arguments[0];
	enum result r;

	r = conf_lock(name);
	if (!r && c->rq->first)
		r = ranges_read(c->rq->first, NULL, NULL);
	if (!r)
		r = look_at_description(c, name);
	if (!r)
		r = take_request(c);
	if (!r)
		r = look_at_devices(c);
	if (!r && c->again && strcmp(c->conf.metadata, c->wiped))
		r = fail(BAD_PARAMETER,
			 "'%s' has been half made, with the metadata on %s: name the same again, or dmclone abort %s",
			 name, c->wiped, name);

	return r;
}

/* Changing -------------------------------------------------------------- */

static enum result make_metadata(struct creation *c)
{
	enum result r;

	if (!metadata_is_file(&c->conf))
		return device_wipe(&c->metadata, 0);
	r = metadata_make_file(&c->conf);

	return r ? r : metadata_attach(&c->conf, &c->loop, &c->metadata);
}

static enum result activate(struct creation *c)
{
	struct conf *conf = &c->conf;
	struct target target;
	enum result r;

	clone_line(conf, c->metadata.number, c->destination.number, c->source.dev.number,
		   &target);
	r = table_create(conf->name, conf->uuid);
	if (!r)
		r = table_load(conf->name, &target, 1, false);
	if (r)
		return r;
	conf->state = LIVE;
	r = conf_write(conf);

	return r ? r : table_resume(conf->name);
}

/* Nobody has used it: nothing is left. */
static void undo(struct creation *c)
{
	struct mapping map;

	if (!table_read(c->conf.name, &map) && map.exists && !map.live &&
	    !strcmp(map.uuid, c->conf.uuid))
		table_remove(c->conf.name);
	if (c->loop.fd >= 0)
		close(c->loop.fd);
	if (c->conf.state == CREATING && !metadata_discard(&c->conf))
		conf_remove(c->conf.name);
}

static enum result make(struct creation *c)
{
	enum result r;

	r = conf_write(&c->conf);
	if (r)
		return r;
	device_trigger(c->destination.number);
	r = make_metadata(c);
	if (!r)
		r = activate(c);
	if (r)
		undo(c);

	return r;
}

static void tell(const struct creation *c)
{
	const char *name = c->conf.name;
	char text[SIZE_TEXT];

	monitor_start(&c->conf);
	if (c->rq->first && hydrate_list(name, c->rq->first))
		warn("the clone works all the same; dmclone hydrate %s --list %s tries it again",
		     name, c->rq->first);
	source_skip_holes(&c->source, &c->conf);
	say("/dev/mapper/%s is there, %s: mount and use it now", name,
	    size_text(c->conf.size * SECTOR, text));
	if (c->conf.hydration)
		say("it is copied meanwhile: dmclone status %s; in the end dmclone finish %s",
		    name, name);
	else
		say("nothing is copied in the background until you say so: dmclone resume %s",
		    name);
}

enum result do_create(const struct request *rq)
{
	struct creation c = { .rq = rq, .source.attached.fd = -1, .loop.fd = -1 };
	char size[SIZE_TEXT];
	enum result r;

	r = look(&c);
	/* A logical volume of ours is new. */
	if (!r && !c.again && !rq->lv)
		r = ask("What is on %s (%s) will be overwritten", c.destination.path,
			size_text(c.destination.bytes, size));
	if (!r)
		r = make(&c);
	if (!r)
		tell(&c);
	if (c.loop.fd >= 0)
		close(c.loop.fd);
	source_close(&c.source);

	return r;
}
