/* SPDX-License-Identifier: GPL-2.0-only */
/* Has the reader of the tools (tools/lib) check an image of metadata. */
#ifndef TESTS_MDCHECK_H
#define TESTS_MDCHECK_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0 if there is nothing to complain about; else see @report. */
int metadata_check(const void *image, uint64_t nr_blocks, char *report, size_t size);

/*
 * The same of a device.  It may be all zeroes, and then has no metadata.  If
 * something uses it again it is not judged.
 */
int metadata_check_device(const char *path, char *report, size_t size);

#endif
