/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What the program tells people, and how it ends.
 *
 * A function that can fail returns one of these results; whoever finds out what
 * is wrong says so, once, with fail() or fail_errno().  Callers only hand the
 * result on.
 */
#ifndef DMCLONE_REPORT_H
#define DMCLONE_REPORT_H

#include <stdbool.h>

/* The exit codes: the first five as cryptsetup's. */
enum result {
	DONE = 0,
	BAD_PARAMETER = 1,
	NO_PERMISSION = 2,
	NO_MEMORY = 3,
	BAD_DEVICE = 4,
	BUSY = 5,
	STOPPED = 6,		/* hydration has stopped, or is paused */
};

#define PRINTF(a, b) __attribute__((format(printf, a, b)))

/* Print nothing at all (--quiet), ask nothing (--batch-mode). */
void report_init(bool quiet, bool batch);

/* From now on all goes to the system log: nobody looks at stdout and stderr. */
void report_to_syslog(void);

/* Something to know, on stdout. */
void say(const char *format, ...) PRINTF(1, 2);

/* Something to do, or to mind; on stderr, and nothing fails. */
void warn(const char *format, ...) PRINTF(1, 2);

/* Say what is wrong, and what to do, on stderr.  Returns @result. */
enum result fail(enum result result, const char *format, ...) PRINTF(2, 3);

/* The same for a negative errno, which also decides on the result. */
enum result fail_errno(int error, const char *format, ...) PRINTF(2, 3);

enum result out_of_memory(void);

/*
 * Ask on a terminal; DONE if the answer is yes, or nothing is to be asked.
 * Where there is nobody to answer it fails.
 */
enum result ask(const char *format, ...) PRINTF(1, 2);

#endif
