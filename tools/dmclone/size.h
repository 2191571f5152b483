/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Sizes and rates as lvm2 reads them: a number, which may have a decimal point,
 * and a unit, MiB if there is none.  Upper and lower case are the same: b bytes,
 * s sectors of 512 bytes, k m g t p e powers of 1024.
 */
#ifndef DMCLONE_SIZE_H
#define DMCLONE_SIZE_H

#include "base.h"

/* False if @text is no size, or one that does not fit into 63 bits. */
bool size_parse(const char *text, uint64_t *bytes);

/*
 * A size, rate or time for people; @buf is what is returned.  Sizes have three
 * digits and a unit.
 */
#define SIZE_TEXT	32
const char *size_text(uint64_t bytes, char buf[SIZE_TEXT]);
const char *time_text(uint64_t seconds, char buf[SIZE_TEXT]);

#endif
