// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone status: what a person wants to know of a clone, or a program with
 * --json.  Clones that were made by hand, by systemd or with the kernel's own
 * target are shown as well as ours.
 */

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices.h"
#include "dmclone.h"
#include "overview.h"
#include "size.h"

#define LINE		288

/* What the device is called, of "major:minor" */
static void device_name(const char *number, char *name, size_t room)
{
	char mapped[NAME_MAX];

	if (sys_read(number_parse(number), "dm/name", mapped, sizeof(mapped)))
		snprintf(name, room, "/dev/mapper/%s", mapped);
	else
		device_node(number_parse(number), name, room);
}

/* For people ------------------------------------------------------------ */

static void print_progress(const struct overview *report)
{
	const struct progress *p = &report->p;
	uint64_t bytes = progress_bytes_hydrated(p), size = p->length * SECTOR;
	char texts[3][SIZE_TEXT];

	printf("  hydrated     %u %%: %s of %s", (unsigned int)(size ? bytes * 100 / size : 0),
	       size_text(bytes, texts[0]), size_text(size, texts[1]));
	if (p->has_stats && strcmp(p->state, "done")) {
		printf(", %s/s", size_text(p->rate * KIB, texts[0]));
		if (p->seconds_left >= 0)
			printf(", %s left", time_text(p->seconds_left, texts[1]));
	}
	putchar('\n');
}

static void print_errors(const struct progress *p)
{
	if (!p->has_stats || !(p->read_errors || p->write_errors || p->regions_failed))
		return;
	printf("  errors       %llu of the source, %llu of the destination, %llu copies failed\n",
	       ULL(p->read_errors), ULL(p->write_errors), ULL(p->regions_failed));
	if (p->last_error)
		printf("               the last: %s, at sector %llu\n", strerror(p->last_error),
		       ULL(p->last_error_sector));
}

static void print_device(const char *role, const char *described, const char *number)
{
	char name[LINE];

	device_name(number, name, sizeof(name));
	if (!described || !strcmp(described, name))
		printf("  %-12s %s\n", role, name);
	else
		printf("  %-12s %s (%s)\n", role, described, name);
}

static void print_clone(const struct overview *report)
{
	const struct conf *conf = report->has_conf ? &report->conf : NULL;
	const struct progress *p = &report->p;
	char text[SIZE_TEXT];

	if (!p->failed)
		print_progress(report);
	print_device("source", conf ? conf->source : NULL, report->devices.source);
	print_device("destination", conf ? conf->destination : NULL,
		     report->devices.destination);
	print_device("metadata", conf ? conf->metadata : NULL, report->devices.metadata);
	printf("  regions      of %s\n", size_text(report->devices.region_size * SECTOR, text));
	printf("  mode         %s%s%s%s\n", p->mode, *p->features ? ", " : "", p->features,
	       report->map.suspended ? ", suspended" : "");
	print_errors(p);
}

static void print_conf(const struct conf *conf)
{
	char text[SIZE_TEXT];

	printf("  size         %s\n", size_text(conf->size * SECTOR, text));
	printf("  source       %s\n  destination  %s\n  metadata     %s\n", conf->source,
	       conf->destination, conf->metadata);
}

static void print_report(const struct overview *report)
{
	printf("%s: %s\n", report->name, overview_state(report));
	if (report->is_clone)
		print_clone(report);
	else if (report->has_conf)
		print_conf(&report->conf);
}

/* For programs ---------------------------------------------------------- */

static void add_text(struct json_object *object, const char *key, const char *text)
{
	json_object_object_add(object, key, json_object_new_string(text));
}

static void add_number(struct json_object *object, const char *key, int64_t number)
{
	json_object_object_add(object, key, json_object_new_int64(number));
}

static void add_device(struct json_object *object, const char *key, const char *number)
{
	char name[LINE];

	device_name(number, name, sizeof(name));
	add_text(object, key, name);
}

static void add_progress(struct json_object *object, const struct overview *report)
{
	const struct progress *p = &report->p;

	add_text(object, "mode", p->mode);
	if (!p->failed) {
		add_number(object, "bytes_hydrated", progress_bytes_hydrated(p));
		add_number(object, "regions", p->nr_regions);
		add_number(object, "regions_hydrated", p->nr_hydrated);
		add_number(object, "regions_hydrating", p->nr_hydrating);
	}
	add_number(object, "region_bytes", report->devices.region_size * SECTOR);
	add_number(object, "bytes", p->length * SECTOR);
	add_device(object, "source_device", report->devices.source);
	add_device(object, "destination_device", report->devices.destination);
	add_device(object, "metadata_device", report->devices.metadata);
	if (!p->has_stats)
		return;
	add_number(object, "rate", p->rate * KIB);
	add_number(object, "seconds_left", p->seconds_left);
	add_number(object, "read_errors", p->read_errors);
	add_number(object, "write_errors", p->write_errors);
	add_number(object, "regions_failed", p->regions_failed);
	add_number(object, "last_error", p->last_error);
	add_number(object, "last_error_sector", p->last_error_sector);
}

static struct json_object *to_json(const struct overview *report)
{
	struct json_object *object = json_object_new_object();

	add_text(object, "name", report->name);
	add_text(object, "state", overview_state(report));
	json_object_object_add(object, "open", json_object_new_boolean(report->map.live));
	if (report->has_conf) {
		add_text(object, "source", report->conf.source);
		add_text(object, "destination", report->conf.destination);
		add_text(object, "metadata", report->conf.metadata);
	}
	if (report->is_clone)
		add_progress(object, report);

	return object;
}

/* Which ----------------------------------------------------------------- */

struct listing {
	const struct request *rq;
	struct json_object *array;	/* with --json */
	unsigned int nr;
};

static void take_one(const struct overview *report, void *context)
{
	struct listing *listing = context;

	listing->nr++;
	if (listing->array)
		json_object_array_add(listing->array, to_json(report));
	else if (!listing->rq->quiet)
		print_report(report);
}

static enum result take_named(const char *name, struct listing *listing)
{
	struct overview report;
	enum result r = overview_collect(name, &report);

	if (!r)
		take_one(&report, listing);

	return r;
}

static enum result show_once(const struct request *rq)
{
	struct listing listing = { .rq = rq };
	struct json_object *shown;
	enum result r;

	if (rq->json)
		listing.array = json_object_new_array();
	if (rq->nr) {
		r = take_named(rq->arguments[0], &listing);
	} else {
		r = overview_for_each(take_one, &listing);
		if (!r && !rq->json && !listing.nr)
			say("there are no clones");
	}
	if (!listing.array)
		return r;

	shown = rq->nr ? json_object_array_get_idx(listing.array, 0) : listing.array;
	if (shown)
		printf("%s\n", json_object_to_json_string_ext(shown,
							      JSON_C_TO_STRING_PRETTY |
							      JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(listing.array);

	return r;
}

enum result do_status(const struct request *rq)
{
	enum result r;

	if (rq->lvm_filter)
		return say_lvm_filter();
	if (!rq->watch)
		return show_once(rq);
	do {
		printf("\033[H\033[2J");
		r = show_once(rq);
		fflush(stdout);
	} while (!r && !sleep(1));

	return r;
}
