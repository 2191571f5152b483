/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * A clone that dmeventd watches.  The plugin in tools/dmeventd looks at it, writes
 * to the system log, and runs "dmclone event NAME WHAT" for what is to be done.
 */
#ifndef DMCLONE_MONITOR_H
#define DMCLONE_MONITOR_H

#include "conf.h"

/* What the plugin has seen, by the word that it hands on */
#define EVENT_DONE	"done"		/* all is in the destination */
#define EVENT_STOPPED	"stopped"	/* hydration, because of errors */
#define EVENT_MODE	"mode"		/* metadata is not rw any more */

/*
 * A clone has been put to use: have it watched, if its description says so, and
 * dmeventd runs.  It works unwatched too, so failure is a warning at most.
 */
void monitor_start(const struct conf *conf);

/* It is about to go away, or has become a plain device. */
void monitor_stop(const struct conf *conf);

#endif
