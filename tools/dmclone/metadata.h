/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata: a device, or a file of ours on a loop device.
 */
#ifndef DMCLONE_METADATA_H
#define DMCLONE_METADATA_H

#include "attach.h"
#include "conf.h"
#include "devices.h"

#define METADATA_DIR	"/var/lib/dmclone"

/* The name of the file for a clone whose metadata has no device. */
void metadata_file_name(const char *name, char path[PATH_MAX]);
bool metadata_is_file(const struct conf *conf);

/* Sizes in bytes: the smallest that works, and the one that is best. */
uint64_t metadata_smallest(const struct conf *conf);
uint64_t metadata_recommended(const struct conf *conf);

/* Make the file, of the recommended size and with nothing but zeroes; durable. */
enum result metadata_make_file(const struct conf *conf);

/* The block device with the metadata; @fd keeps it there. */
enum result metadata_attach(const struct conf *conf, struct attached *attached,
			    struct device *dev);

/*
 * What is on it: -ENODATA for zeroes, that is nothing; otherwise it must be the
 * metadata of this clone, and @complete says whether all is hydrated.  What is
 * wrong is told.
 */
enum metadata_state { METADATA_EMPTY, METADATA_PARTIAL, METADATA_COMPLETE };
enum result metadata_look(const struct conf *conf, const struct device *dev,
			  enum metadata_state *state, uint64_t *nr_hydrated);

/* Wipe a device, or remove the file.  No clone is there any more after that. */
enum result metadata_discard(const struct conf *conf);

#endif
