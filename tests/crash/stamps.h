/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Devices whose content is told by a stamp for each sector (tests/lib/stamp.h),
 * which is how states of the replay get to the kernel and back.
 */
#ifndef CRASH_STAMPS_H
#define CRASH_STAMPS_H

#include <stdint.h>

/*
 * Write @nr sectors from @first on; in stamps they count from 0.  Returns 0 or
 * a negative errno.
 */
int stamps_write(int fd, uint64_t first, const uint32_t *stamps, uint64_t nr);

/*
 * Compare sectors 0 to @nr - 1 with @stamps.  Returns the first one that differs,
 * and *@found is its stamp; @nr if there is none, or a negative errno.
 */
int64_t stamps_compare(int fd, const uint32_t *stamps, uint64_t nr, uint32_t *found);

#endif
