// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is on a device that has no clone's metadata, see tool.h.
 */

#include <blkid/blkid.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

static bool describe(blkid_probe probe, char *text, size_t size)
{
	const char *type, *usage = "";

	if (!blkid_probe_lookup_value(probe, "TYPE", &type, NULL)) {
		blkid_probe_lookup_value(probe, "USAGE", &usage, NULL);
		if (!strcmp(usage, "filesystem"))
			snprintf(text, size, "a file system (%s)", type);
		else if (!strcmp(usage, "raid"))
			snprintf(text, size, "part of a volume group or an array (%s)", type);
		else
			snprintf(text, size, "data of %s", type);
		return true;
	}
	if (!blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL)) {
		snprintf(text, size, "a partition table (%s)", type);
		return true;
	}

	return false;
}

const char *what_it_holds(const char *path)
{
	static char text[80];
	blkid_probe probe = blkid_new_probe_from_filename(path);
	bool found = false;

	if (!probe)
		return NULL;

	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
	blkid_probe_enable_partitions(probe, 1);

	/* -2: there is more than one thing, which is as bad for the caller. */
	switch (blkid_do_safeprobe(probe)) {
	case 0:
		found = describe(probe, text, sizeof(text));
		break;
	case -2:
		snprintf(text, sizeof(text), "more than one thing");
		found = true;
		break;
	}

	blkid_free_probe(probe);
	return found ? text : NULL;
}
