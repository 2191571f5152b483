// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone status --lvm-filter: what keeps LVM from the devices whose content the
 * clones have too.  udev's rule keeps it from activating them; its commands look at
 * all devices themselves.
 */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "attach.h"
#include "dmclone.h"

/* With this file LVM looks at what is named there, and nothing else. */
#define DEVICES_FILE	"/etc/lvm/devices/system.devices"

/* As a regular expression, where these characters mean something */
static void say_pattern(const char *path)
{
	printf("\t\t\"r|^");
	for (; *path; path++)
		printf(strchr(".+", *path) ? "[%c]" : "%c", *path);
	printf("$|\",\n");
}

static enum result say_devices(const struct conf *conf, void *context)
{
	(void)context;
	printf("\t\t# %s\n", conf->name);
	if (is_nbd_uri(conf->source))
		printf("\t\t\"r|^/dev/nbd[0-9]+$|\",\n");
	else if (!strncmp(conf->source, "/dev/", 5))
		say_pattern(conf->source);
	else
		printf("\t\t\"r|^/dev/loop[0-9]+$|\",\n");
	say_pattern(conf->destination);

	return DONE;
}

enum result say_lvm_filter(void)
{
	enum result r;

	if (!access(DEVICES_FILE, F_OK)) {
		say("LVM looks only at what " DEVICES_FILE
		    " names: let that be clones, and neither their sources nor their destinations (lvmdevices)");
		return DONE;
	}
	printf("devices {\n\tglobal_filter = [\n");
	r = conf_for_each(say_devices, NULL, true);
	printf("\t]\n}\n");

	return r;
}
