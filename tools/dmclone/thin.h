/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Thin volumes, of which it is known what was never written.
 */
#ifndef DMCLONE_THIN_H
#define DMCLONE_THIN_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * A thin volume without a single block, which has no external origin, in a pool
 * that zeroes what it hands out: it reads as zeroes wherever it was not written.
 */
bool thin_is_fresh(dev_t number);

#endif
