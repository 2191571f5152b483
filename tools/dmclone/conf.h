/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The description of a clone, /etc/dmclone/NAME.conf: all that is needed to
 * open it again, and how far its life has come.  It is replaced as a whole, and
 * what a function here has written is durable when it returns.
 */
#ifndef DMCLONE_CONF_H
#define DMCLONE_CONF_H

#include "base.h"
#include "report.h"

#define CONF_DIR	"/etc/dmclone"
#define NAME_LENGTH	80

/*
 * The life of a clone.  What has been done when it is in a state:
 *
 * CREATING: nothing that anybody could have used; begin again.
 * LIVE: the metadata has been formatted.  From now on it must never be wiped,
 *	since the destination holds what users have written.
 * COMPLETE: all is in the destination, and neither source nor metadata is ever
 *	used again; the metadata may be gone.
 * ABANDONED: it has been given up; the metadata may be gone.
 */
enum state { CREATING, LIVE, COMPLETE, ABANDONED };

extern const char *const state_names[];

struct conf {
	char name[NAME_LENGTH];
	uint64_t state;
	char uuid[NAME_LENGTH];			/* of the mapped device; none with lv */

	char source[PATH_MAX];			/* device, file or NBD URI */
	uint64_t source_size;			/* bytes */
	char source_identity[IDENTITY_TEXT];	/* what libblkid finds in it */
	char source_hash[IDENTITY_TEXT];	/* see source.h */

	char destination[PATH_MAX];
	uint64_t destination_size;		/* bytes */
	char destination_identity[IDENTITY_TEXT];	/* of the disk, not its content */

	char metadata[PATH_MAX];		/* device, or a file of ours */

	char lv[IDENTITY_TEXT];			/* VG/NAME that it becomes, see lvm.c */

	uint64_t size;				/* sectors, of the clone */
	uint64_t tail;				/* sectors after it, see grow.c */
	uint64_t region_size;			/* sectors */
	bool hydration;
	bool hydrate_on_read;
	bool zeroed_destination;
	uint64_t rate;				/* KiB/s, 0 for no limit */

	bool monitor;				/* by dmeventd, see monitor.h */
	bool auto_finish;
	char on_trouble[PATH_MAX];		/* a command for the shell */
};

/* Names that are used for files, devices and unit names alike. */
enum result conf_check_name(const char *name);

/* Set what a monitor is to do; a NULL @command for nothing. */
enum result conf_take_monitor(struct conf *conf, bool auto_finish, const char *command);

bool conf_exists(const char *name);

/* Refuses what it does not understand: it may have been written by a newer one. */
enum result conf_read(const char *name, struct conf *conf);
enum result conf_write(const struct conf *conf);
enum result conf_remove(const char *name);

/* 0 or a negative errno: which files are in it is durable. */
int conf_sync_dir(const char *path);

/*
 * Call @fn for each description, in alphabetical order, until one returns
 * another result than DONE; or to the end, when the last such result is
 * returned, if @all.
 */
enum result conf_for_each(enum result (*fn)(const struct conf *conf, void *context),
			  void *context, bool all);

/*
 * Nobody else works on the clone until this program ends.  Waits for whoever
 * does.
 */
enum result conf_lock(const char *name);

#endif
