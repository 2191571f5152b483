/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The source: a device, an image file, or an NBD export.
 */
#ifndef DMCLONE_SOURCE_H
#define DMCLONE_SOURCE_H

#include "attach.h"
#include "conf.h"
#include "devices.h"

struct source {
	enum { SOURCE_DEVICE, SOURCE_FILE, SOURCE_NBD } kind;
	char text[PATH_MAX];		/* as in the description */
	struct attached attached;	/* open, read-only */
	struct device dev;
};

/* Attach it, if it is no device, and see that nobody writes to it. */
enum result source_open(const char *text, struct source *source);
void source_close(struct source *source);

/*
 * What tells it from others: what libblkid finds, and a hash of its first, its
 * last and 32 other MiB, chosen at random.  The text of the hash says which.
 */
enum result source_identify(struct source *source, struct conf *conf);

/* Is it the one that @conf tells of? */
enum result source_compare(struct source *source, const struct conf *conf);

/*
 * Tell the clone, which is active, what the source knows to be zero, so that it
 * is not copied.  Failures are no harm.
 */
void source_skip_holes(const struct source *source, const struct conf *conf);

#endif
