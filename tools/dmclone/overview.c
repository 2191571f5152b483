// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is known of a clone, see overview.h.
 */

#include <string.h>

#include "overview.h"

const char *overview_state(const struct overview *report)
{
	if (report->has_conf && report->conf.state != LIVE && !report->is_clone)
		return state_names[report->conf.state];
	if (!report->map.live)
		return "closed";
	if (!report->is_clone)
		return "linear";
	if (report->p.failed)
		return "failed";
	if (report->p.has_stats)
		return report->p.state;
	if (progress_is_done(&report->p))
		return "done";

	return report->p.no_hydration ? "paused" : "running";
}

enum result overview_collect(const char *name, struct overview *report)
{
	const struct target *target;
	struct mapping table;
	enum result r;

	memset(report, 0, sizeof(*report));
	report->name = name;
	report->has_conf = conf_exists(name);
	if (report->has_conf && conf_read(name, &report->conf))
		return BAD_PARAMETER;
	r = table_status(name, &report->map);
	if (r)
		return r;
	if (!report->map.exists && !report->has_conf)
		return fail(BAD_PARAMETER, "there is no clone '%s'", name);
	target = table_find(&report->map, "clone");
	if (!target)
		return report->has_conf || !strncmp(report->map.uuid, UUID_PREFIX, 6) ? DONE :
		       fail(BAD_PARAMETER, "'%s' is no clone", name);
	r = progress_read(name, target, &report->p);
	if (!r)
		r = table_read(name, &table);
	target = r ? NULL : table_find(&table, "clone");
	report->is_clone = target && table_clone_devices(target, &report->devices);

	return r;
}

struct walk {
	void (*fn)(const struct overview *report, void *context);
	void *context;
};

static enum result take_one(const char *name, struct walk *walk)
{
	struct overview report;
	enum result r = overview_collect(name, &report);

	if (!r)
		walk->fn(&report, walk->context);

	return r;
}

static enum result take_conf(const struct conf *conf, void *context)
{
	return take_one(conf->name, context);
}

static enum result take_mapping(const char *name, void *context)
{
	struct mapping map;

	/* Those with a description have been told of. */
	if (conf_exists(name) || table_status(name, &map) || !table_find(&map, "clone"))
		return DONE;

	return take_one(name, context);
}

enum result overview_for_each(void (*fn)(const struct overview *report, void *context),
			      void *context)
{
	struct walk walk = { .fn = fn, .context = context };
	enum result r;

	r = conf_for_each(take_conf, &walk, true);

	return r ? r : table_for_each(take_mapping, &walk);
}
