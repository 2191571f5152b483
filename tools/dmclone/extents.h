/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Where the data of a file is on a device.
 */
#ifndef DMCLONE_EXTENTS_H
#define DMCLONE_EXTENTS_H

#include <sys/types.h>

#include "attach.h"

/*
 * Calls @fn for each range of sectors of the mapped device @number that holds a
 * part of the file.  The file system must be on that device, or on logical
 * volumes and dm-crypt devices on it.  Where that cannot be found out it is said
 * so, and nothing is called.
 */
enum result extents_of(const char *path, dev_t number, range_fn fn, void *context);

#endif
