/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The ends of a clone, and where systemd has its own clones described.
 */
#ifndef DMCLONE_FINISH_H
#define DMCLONE_FINISH_H

#include "dmclone.h"

/* From a clone that is done to a plain volume; and tell of it. */
enum result finish_described(struct conf *conf);

/* What has been written to the clone, and what is known of that, is durable. */
enum result clone_sync(const char *name, const struct mapping *map);

/* Is @word the first word of a line, as in fstab? */
bool file_names(const char *path, const char *word);

#define CLONETAB	"/etc/clonetab"

#endif
