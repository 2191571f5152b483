/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Watching the kernel, and the process that makes it work.
 *
 * The work is done by a child. If the kernel kills it, or lets it hang, the
 * parent can still tell which case it was.
 */
#ifndef FUZZ_WATCH_H
#define FUZZ_WATCH_H

#include <stdatomic.h>

#include "base.h"

/* Shared by the two processes. */
struct progress {
	atomic_ullong beats;		/* moves as long as the child does */
	atomic_ullong passed, failed, accepted, refused;
	char section[32];
	uint64_t number;		/* of the case in its section */
	char what[1024];		/* the case in words */
};

extern struct progress *progress;

/* Fork. Returns in the child; the parent never does, it exits at the end. */
void watch_child(unsigned int patience);

/*
 * Read what the kernel has said since the last call. Returns its first line
 * that is a complaint, or NULL. *@refusal is the last line in which
 * device-mapper tells why a table was refused, or "".
 */
void watch_kernel_open(void);
const char *watch_kernel(const char **refusal);
/* Put a line in its log that says what is being done, in case it panics. */
void watch_kernel_mark(const char *text);
/* The last lines it said, for a report. */
void watch_kernel_show(void);

#endif
