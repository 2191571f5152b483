/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Lists of ranges in files: what "dmclone record" writes, and "hydrate --list" and
 * "create --first" read.  A line is START LENGTH, in sectors of 512 bytes from the
 * beginning of the volume; what begins with '#' is for people.
 */
#ifndef DMCLONE_RANGES_H
#define DMCLONE_RANGES_H

#include "attach.h"

/*
 * Calls @fn with sectors for each range of the file, in its order, until it fails.
 * With @fn NULL the file is only checked.
 */
enum result ranges_read(const char *path, range_fn fn, void *context);

/*
 * A list that grows: of what was not added before, in the order in which it is
 * added, with neighbours in one line.  When it is written it is made coarser until
 * the kernel takes it as a whole.
 */
struct range_list;

/* @sectors: of the volume.  NULL if there is no memory. */
struct range_list *ranges_begin(uint64_t sectors);
void ranges_add(struct range_list *list, uint64_t start, uint64_t length);
uint64_t ranges_sectors(const struct range_list *list);

/* Replaces what is in the file, whose name is for messages; durably. */
enum result ranges_write(struct range_list **list, int fd, const char *path);
void ranges_end(struct range_list *list);

#endif
