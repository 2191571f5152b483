/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The actions of the program, and what was asked for.  main.c has the table of
 * them.
 */
#ifndef DMCLONE_H
#define DMCLONE_H

#include "conf.h"
#include "devices.h"
#include "table.h"

#define MAX_ARGUMENTS	64

struct request {
	const char *arguments[MAX_ARGUMENTS + 1];	/* the last is NULL */
	unsigned int nr;

	const char *region_size;
	const char *rate;
	const char *range;
	const char *exec;
	const char *output;
	const char *list;		/* files of ranges, see ranges.h */
	const char *first;
	const char *from;
	const char *thinpool;
	const char *lv;			/* that create is to end as; of do_lvm() */
	bool no_hydration;
	bool hydrate_on_read;
	bool new_destination;
	bool all;
	bool force;
	bool json;
	bool watch;
	bool progress_json;
	bool no_wait;
	bool zero_tail;
	bool lvm_filter;
	bool auto_finish;
	bool off;
	bool file;
	bool wait_for_devices;
	bool quiet;
};

enum result do_create(const struct request *rq);
enum result do_lvm(const struct request *rq);
enum result do_open(const struct request *rq);
enum result do_close(const struct request *rq);
enum result do_status(const struct request *rq);
enum result do_wait(const struct request *rq);
enum result do_finish(const struct request *rq);
enum result do_pause(const struct request *rq);
enum result do_resume(const struct request *rq);
enum result do_rate(const struct request *rq);
enum result do_hydrate(const struct request *rq);
enum result do_record(const struct request *rq);
enum result do_grow(const struct request *rq);
enum result do_map(const struct request *rq);
enum result do_metrics(const struct request *rq);
enum result do_adopt(const struct request *rq);
enum result do_remove(const struct request *rq);
enum result do_abort(const struct request *rq);

enum result do_monitor(const struct request *rq);

/*
 * For systemd, at shutdown: dmeventd watches no clone any more.  Descriptions say
 * what they said.
 */
enum result do_unmonitor(const struct request *rq);

/* For dmeventd's plugin: something has happened to a clone, see monitor.h. */
enum result do_event(const struct request *rq);

/* For udev's rule: what the device "major:minor" is to a clone. */
enum result do_udev(const struct request *rq);

/*
 * A live clone of this name, whoever made it, and where its target is in the
 * table.
 */
struct live {
	struct mapping map;
	const struct target *target;
};

enum result live_find(const char *name, struct live *live);

/* live_find(), and how far it is. */
enum result live_progress(const char *name, struct progress *p);

/* The table line of a clone. */
void clone_line(const struct conf *conf, dev_t metadata, dev_t destination,
		dev_t source, struct target *target);

/*
 * The destination as it is, from @start on: what comes after the clone in the
 * table, or all of it in the clone's place.
 */
void linear_line(dev_t destination, uint64_t start, uint64_t length,
		 struct target *target);

/* What a description says of the UUID of its mapped device. */
const char *mapping_uuid(const struct mapping *map);

/*
 * Take the mapped device away; its destination, whatever the device has become, is
 * read anew from now on.
 */
enum result take_away(const char *name);

/* Check that the destination is the disk that it was when the clone was made. */
enum result destination_look(const struct conf *conf, struct device *dev);

/*
 * A mapped device that has no table in use is what somebody has left who was
 * killed: it is taken away.  @live: it is in use.  A foreign one is refused.
 */
enum result clear_remains(const struct conf *conf, bool *live);

/*
 * Wait until the clone is done: with a progress bar on a terminal, and lines or
 * JSON otherwise.  STOPPED if that will not come by itself.
 */
enum result wait_until_done(const char *name, const struct request *rq);

/* Have what the list names hydrated before the rest, in its order. */
enum result hydrate_list(const char *name, const char *list);

/* In sectors: what was asked for, or what suits a volume of that many sectors. */
enum result take_region_size(const struct request *rq, uint64_t sectors, uint64_t *size);

/* Is that the mapped device of the clone, or what it has become? */
bool mapping_is_of(const struct mapping *map, const struct conf *conf);

/* Print the lines for lvm.conf that hide what clones are made of. */
enum result say_lvm_filter(void);

/* The rate in KiB/s, 0 for "none". */
enum result parse_rate(const char *text, uint64_t *rate);

#endif
