// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Thin volumes, see thin.h.
 */

#include <stdio.h>
#include <string.h>

#include "devices.h"
#include "table.h"
#include "thin.h"

/* The only target of a mapped device; false if it is none of this type. */
static bool only_target(dev_t number, const char *type, bool status, struct target *target)
{
	char name[NAME_MAX];
	struct mapping map;

	if (!sys_read(number, "dm/name", name, sizeof(name)) ||
	    (status ? table_status(name, &map) : table_read(name, &map)) ||
	    map.nr_targets != 1 || strcmp(map.targets[0].type, type))
		return false;
	*target = map.targets[0];

	return true;
}

/* Blocks that are handed out as they are show what they held before. */
static bool pool_zeroes(dev_t number)
{
	struct target target;

	return only_target(number, "thin-pool", false, &target) &&
	       !strstr(target.params, "skip_block_zeroing");
}

bool thin_is_fresh(dev_t number)
{
	char pool[32], origin[PATH_MAX];
	unsigned long long mapped;
	struct target target;

	if (!only_target(number, "thin", false, &target) ||
	    sscanf(target.params, "%31s %*s %4095s", pool, origin) != 1)
		return false;
	if (!only_target(number, "thin", true, &target) ||
	    sscanf(target.params, "%llu", &mapped) != 1)
		return false;

	return !mapped && pool_zeroes(number_parse(pool));
}
