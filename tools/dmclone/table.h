/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Mapped devices, their tables, and what a clone target says of itself.
 */
#ifndef DMCLONE_TABLE_H
#define DMCLONE_TABLE_H

#include <sys/types.h>

#include "base.h"
#include "conf.h"
#include "report.h"

#define MAX_TARGETS	256		/* a logical volume may have many segments */
#define MAX_PARAMS	512

struct target {
	uint64_t start, length;		/* sectors */
	char type[16];
	char params[MAX_PARAMS];	/* of the table, or the status */
};

struct mapping {
	bool exists;
	bool live;			/* has a table that is in use */
	bool suspended;
	bool readonly;
	unsigned int nr_open;
	uint32_t event_nr;
	dev_t number;
	char uuid[130];
	unsigned int nr_targets;
	struct target targets[MAX_TARGETS];
};

/* Set up libdevmapper; before anything else here. */
enum result table_init(void);

/*
 * What there is of this name: its table, or its status.  It is no error if
 * there is nothing.
 */
enum result table_read(const char *name, struct mapping *map);
enum result table_status(const char *name, struct mapping *map);

/* Make a device without a table. */
enum result table_create(const char *name, const char *uuid);

/* Load a table; what is in use is not touched.  The kernel's reason is told. */
enum result table_load(const char *name, const struct target *targets,
		       unsigned int nr, bool readonly);

/* Put the loaded table to use, under whoever uses the device. */
enum result table_swap(const char *name);
enum result table_resume(const char *name);

/* Forget a table that was loaded and is not in use. */
enum result table_clear(const char *name);
enum result table_remove(const char *name);

/* Of a device that has none. */
enum result table_set_uuid(const char *name, const char *uuid);

/* @reply may be NULL; it is empty if the target has none. */
enum result table_message(const char *name, uint64_t sector, const char *message,
			  char *reply, size_t room);

/* The same for a message that may be unknown: a negative errno, and no word. */
int table_try_message(const char *name, uint64_t sector, const char *message,
		      char *reply, size_t room);

/* What libdevmapper has said last, for people; empty if it has said nothing. */
const char *table_last_words(void);

/* Is that a clone of ours, by its UUID? */
#define UUID_PREFIX	"CLONE-"

/* Calls @fn for each mapped device. */
enum result table_for_each(enum result (*fn)(const char *name, void *context),
			   void *context);

/*
 * To be woken by the events of all mapped devices: arm it, look at what is to
 * be, then wait until something happens, or for @milliseconds.
 */
int events_open(void);
int events_arm(int fd);
void events_wait(int fd, int milliseconds);

/* What a clone's status and statistics say. */
struct progress {
	bool failed;			/* nothing but "Fail", or unreadable */
	char mode[8];
	uint64_t start, length;		/* of the target, sectors */
	uint64_t region_size;		/* sectors */
	uint64_t nr_hydrated, nr_regions, nr_hydrating;
	bool no_hydration;
	char features[256];		/* separated by spaces */

	bool has_stats;			/* the kernel's own target has none */
	char state[16];
	uint64_t bytes_overwritten, bytes_copied;
	uint64_t read_errors, write_errors, regions_failed;
	uint64_t last_error, last_error_sector;
	uint64_t rate, average_rate;	/* KiB/s */
	int64_t seconds_left;		/* -1: not known */
};

/* False if the words are not those of a clone. */
bool progress_parse(const struct target *target, struct progress *p);

/* With the statistics, if there are any. */
enum result progress_read(const char *name, const struct target *target,
			  struct progress *p);

/* All is in the destination, and that is on the metadata device. */
bool progress_is_done(const struct progress *p);

uint64_t progress_bytes_hydrated(const struct progress *p);

/* The first target of a type; NULL if there is none. */
const struct target *table_find(const struct mapping *map, const char *type);

/* The three devices of a clone's table line, as "major:minor". */
struct clone_devices {
	char metadata[32], destination[32], source[32];
	uint64_t region_size;
};

bool table_clone_devices(const struct target *target, struct clone_devices *devices);

#endif
