/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper by ioctl.  All return 0 or a negative errno.
 */
#ifndef FUZZ_DM_H
#define FUZZ_DM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dm_piece {
	uint64_t start, length;
	const char *target;
	const char *params;
};

int dm_open_control(void);

int dm_create(const char *name, unsigned int *major, unsigned int *minor);
int dm_remove(const char *name);

/* Into the inactive slot. */
int dm_load(const char *name, const struct dm_piece *pieces, unsigned int nr);
int dm_clear(const char *name);
int dm_suspend(const char *name);
/* What was loaded becomes live. */
int dm_resume(const char *name);

/* One target's line of the status, or of the table; live or inactive. */
int dm_status(const char *name, char *out, size_t size);
int dm_table(const char *name, bool inactive, char *out, size_t size);

/* The same with little room for the reply: -ENOBUFS if it does not fit. */
int dm_status_in(const char *name, size_t room, char *out, size_t size);

/* The message's text need not end with a NUL if @text_size leaves it out. */
int dm_message(const char *name, uint64_t sector, const void *text, size_t text_size);

#endif
