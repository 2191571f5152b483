// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What udev's rule is told of a device, see data/61-dmclone.rules.
 *
 * Source, destination and clone hold the same file system, with one UUID.  As
 * long as there is a description the clone alone may be found by it: neither a
 * mount by UUID nor LVM may take the others.
 *
 * udev runs this for each block device, also early at boot: it reads files and
 * looks into sysfs, nothing else.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "attach.h"
#include "devices.h"
#include "dmclone.h"

/* A device, and what udev calls it: the links that it is about to make. */
struct event {
	dev_t number, whole;
	const char *node;
	const char *links;		/* separated by spaces */
	char backing[PATH_MAX];		/* of a loop device, or of NBD */
	const char *role;		/* what has been found */
	char name[NAME_LENGTH];
	char lv[IDENTITY_TEXT];
};

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "";
}

static bool has_link(const char *links, const char *path)
{
	size_t n = strlen(path);
	const char *at;

	for (at = links; (at = strstr(at, path)); at += n)
		if ((at == links || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
			return true;

	return false;
}

/* Partitions are what their disk is.  Links of this event may not be there yet. */
static bool is_named(const struct event *event, const char *path)
{
	struct stat st;

	if (!*path)
		return false;
	if (!strcmp(path, event->node) || has_link(event->links, path) ||
	    !strcmp(path, event->backing))
		return true;

	return !stat(path, &st) && S_ISBLK(st.st_mode) &&
	       (st.st_rdev == event->number || st.st_rdev == event->whole);
}

/* A clone that becomes a logical volume has no UUID by which the rule would know it. */
static bool is_lv(const struct conf *conf)
{
	return *conf->lv && !*variable("DM_UUID") && !strcmp(variable("DM_NAME"), conf->name);
}

static enum result match(const struct conf *conf, void *context)
{
	struct event *event = context;

	if (is_lv(conf))
		event->role = "clone";
	else if (is_named(event, conf->destination))
		event->role = "destination";
	else if (is_named(event, conf->metadata))
		event->role = "metadata";
	else if (is_named(event, conf->source))
		event->role = "source";
	else
		return DONE;
	strcpy(event->name, conf->name);
	strcpy(event->lv, conf->lv);

	/* That's enough. */
	return BUSY;
}

/* Those that lead to it by what is on it go, the others stay. */
static void print_links(char *links)
{
	static const char *const by_content[] = {
		"/dev/disk/by-uuid/", "/dev/disk/by-label/", "/dev/disk/by-partuuid/",
		"/dev/disk/by-partlabel/", "/dev/disk/by-id/lvm-pv-uuid-",
		"/dev/gpt-auto-root",
	};
	const char *link;
	unsigned int i;

	printf("DMCLONE_LINKS=");
	while ((link = strsep(&links, " "))) {
		for (i = 0; i < ARRAY_SIZE(by_content); i++)
			if (!strncmp(link, by_content[i], strlen(by_content[i])))
				break;
		if (i == ARRAY_SIZE(by_content) && !strncmp(link, "/dev/", 5))
			printf("%s ", link + 5);
	}
	putchar('\n');
}

enum result do_udev(const struct request *rq)
{
	struct event event = {
		.number = number_parse(rq->arguments[0]),
		.node = variable("DEVNAME"),
		.links = variable("DEVLINKS"),
	};
	char *links;

	event.whole = device_whole(event.number);
	if (!sys_read(event.whole, "loop/backing_file", event.backing, PATH_MAX))
		sys_read(event.whole, "backend", event.backing, PATH_MAX);
	conf_for_each(match, &event, false);
	if (!event.role)
		return DONE;

	printf("DMCLONE_NAME=%s\nDMCLONE_ROLE=%s\n", event.name, event.role);
	if (!strcmp(event.role, "clone")) {
		printf("DMCLONE_LINKS=%s\n", event.lv);
		return DONE;
	}
	links = strdup(event.links);
	if (!links)
		return out_of_memory();
	print_links(links);
	free(links);

	return DONE;
}
