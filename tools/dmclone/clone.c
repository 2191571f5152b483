// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What several actions do with a clone and its mapped device, see dmclone.h.
 */

#include <stdio.h>
#include <string.h>

#include "devices.h"
#include "dmclone.h"
#include "size.h"

enum result live_find(const char *name, struct live *live)
{
	enum result r;

	/* It may be one that was made by hand, with any name. */
	r = table_status(name, &live->map);
	if (r)
		return r;
	live->target = table_find(&live->map, "clone");
	if (live->target)
		return DONE;
	if (live->map.live)
		return fail(BAD_PARAMETER, "'%s' is no clone, or is one no longer", name);
	if (conf_exists(name))
		return fail(BAD_PARAMETER, "'%s' is not open: dmclone open %s", name, name);

	return fail(BAD_PARAMETER, "there is no clone '%s'", name);
}

enum result live_progress(const char *name, struct progress *p)
{
	struct live live;
	enum result r = live_find(name, &live);

	return r ? r : progress_read(name, live.target, p);
}

void clone_line(const struct conf *conf, dev_t metadata, dev_t destination,
		dev_t source, struct target *target)
{
	char numbers[3][NUMBER_TEXT], features[128] = "", core[64] = "";
	unsigned int nr = 0;

	if (!conf->hydration && ++nr)
		strcat(features, " no_hydration");
	if (conf->hydrate_on_read && ++nr)
		strcat(features, " hydrate_on_read");
	if (conf->zeroed_destination && ++nr)
		strcat(features, " zeroed_destination");
	if (conf->rate)
		snprintf(core, sizeof(core), " 2 hydration_rate %llu", ULL(conf->rate));

	target->start = 0;
	target->length = conf->size;
	strcpy(target->type, "clone");
	snprintf(target->params, sizeof(target->params), "%s %s %s %llu %u%s%s",
		 number_text(metadata, numbers[0]), number_text(destination, numbers[1]),
		 number_text(source, numbers[2]), ULL(conf->region_size), nr, features,
		 core);
}

void linear_line(dev_t destination, uint64_t start, uint64_t length,
		 struct target *target)
{
	char number[NUMBER_TEXT];

	target->start = start;
	target->length = length;
	strcpy(target->type, "linear");
	snprintf(target->params, sizeof(target->params), "%s %llu",
		 number_text(destination, number), ULL(start));
}

const char *mapping_uuid(const struct mapping *map)
{
	return *map->uuid ? map->uuid : "none";
}

/* 0 if it is not known */
static dev_t destination_of(const struct mapping *map)
{
	const struct target *target = table_find(map, "clone");
	struct clone_devices devices;

	if (target)
		return table_clone_devices(target, &devices) ?
		       number_parse(devices.destination) : 0;
	target = table_find(map, "linear");

	return target ? number_parse(target->params) : 0;
}

enum result take_away(const char *name)
{
	struct mapping map;
	enum result r;

	r = table_read(name, &map);
	if (!r)
		r = table_remove(name);
	if (!r && destination_of(&map))
		device_release(destination_of(&map));

	return r;
}

enum result destination_look(const struct conf *conf, struct device *dev)
{
	char identity[IDENTITY_TEXT];
	enum result r;

	r = device_look(conf->destination, "destination", dev);
	if (r)
		return r;
	device_identity(dev, identity, sizeof(identity));
	if (strcmp(identity, conf->destination_identity))
		return fail(BAD_DEVICE,
			    "%s is '%s' now, the destination of '%s' was '%s': it is another disk",
			    dev->path, identity, conf->name, conf->destination_identity);
	if (dev->bytes < conf->destination_size)
		return fail(BAD_DEVICE,
			    "%s has %llu bytes now, the destination of '%s' had %llu: it is another one, or has shrunk",
			    dev->path, ULL(dev->bytes), conf->name,
			    ULL(conf->destination_size));

	return device_check_writable(dev);
}

bool mapping_is_of(const struct mapping *map, const struct conf *conf)
{
	if (*conf->lv)
		return !*map->uuid || !strcmp(map->uuid, conf->destination_identity);

	return !strcmp(mapping_uuid(map), conf->uuid);
}

enum result clear_remains(const struct conf *conf, bool *live)
{
	struct mapping map;
	enum result r;

	*live = false;
	r = table_read(conf->name, &map);
	if (r || !map.exists)
		return r;
	if (!mapping_is_of(&map, conf))
		return fail(BUSY,
			    "there is another mapped device '%s' (UUID '%s'): rename it (dmsetup rename), or take another name",
			    conf->name, map.uuid);
	*live = map.live;
	if (!map.live)
		return table_remove(conf->name);
	if (map.suspended)
		return table_resume(conf->name);

	return DONE;
}

enum result parse_rate(const char *text, uint64_t *rate)
{
	uint64_t bytes;

	*rate = 0;
	if (!strcmp(text, "none"))
		return DONE;
	if (!size_parse(text, &bytes) || bytes < KIB)
		return fail(BAD_PARAMETER,
			    "'%s' is no rate: a size as 50M, of at least 1k, which is meant a second; or 'none'",
			    text);
	*rate = bytes / KIB;

	return DONE;
}
