/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What is known of a clone: by its description, if there is one, and by its
 * mapped device, whoever made that.
 */
#ifndef DMCLONE_OVERVIEW_H
#define DMCLONE_OVERVIEW_H

#include "conf.h"
#include "table.h"

struct overview {
	const char *name;
	bool has_conf;
	struct conf conf;
	struct mapping map;
	bool is_clone;			/* has a target of a clone */
	struct progress p;
	struct clone_devices devices;
};

enum result overview_collect(const char *name, struct overview *report);

/* All that have a description, then all others that are clones. */
enum result overview_for_each(void (*fn)(const struct overview *report, void *context),
			      void *context);

/* In a word */
const char *overview_state(const struct overview *report);

#endif
