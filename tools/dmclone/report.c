// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What the program tells people, see report.h.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <unistd.h>

#include "report.h"

static bool quiet;
static bool batch;
static bool to_syslog;

void report_init(bool is_quiet, bool is_batch)
{
	quiet = is_quiet;
	batch = is_batch;
}

void report_to_syslog(void)
{
	openlog("dmclone", LOG_PID, LOG_DAEMON);
	to_syslog = true;
}

/* @error: a negative errno, or 0 */
static void complain(const char *format, va_list args, int error)
{
	char text[4096];

	if (quiet)
		return;
	vsnprintf(text, sizeof(text), format, args);
	if (to_syslog) {
		syslog(LOG_ERR, "%s%s%s", text, error ? ": " : "",
		       error ? strerror(-error) : "");
		return;
	}
	fflush(stdout);
	fprintf(stderr, "dmclone: %s%s%s\n", text, error ? ": " : "",
		error ? strerror(-error) : "");
}

void say(const char *format, ...)
{
	va_list args;

	if (quiet)
		return;
	va_start(args, format);
	if (to_syslog)
		vsyslog(LOG_INFO, format, args);
	else
		vprintf(format, args);
	va_end(args);
	if (to_syslog)
		return;
	putchar('\n');
	fflush(stdout);
}

void warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, 0);
	va_end(args);
}

enum result fail(enum result result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, 0);
	va_end(args);

	return result;
}

static enum result result_of(int error)
{
	switch (-error) {
	case EPERM:
	case EACCES:
		return NO_PERMISSION;
	case ENOMEM:
		return NO_MEMORY;
	case EBUSY:
		return BUSY;
	default:
		return BAD_DEVICE;
	}
}

enum result fail_errno(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, error);
	va_end(args);

	return result_of(error);
}

enum result out_of_memory(void)
{
	return fail(NO_MEMORY, "out of memory");
}

enum result ask(const char *format, ...)
{
	char answer[16];
	va_list args;

	if (batch)
		return DONE;
	va_start(args, format);
	if (!isatty(STDIN_FILENO) || quiet) {
		complain(format, args, 0);
		va_end(args);
		return fail(BAD_PARAMETER,
			    "there is nobody to confirm this; say -q if it is meant");
	}
	vfprintf(stderr, format, args);
	va_end(args);

	fputs(". Go on? (yes/no): ", stderr);
	if (fgets(answer, sizeof(answer), stdin) &&
	    !strcasecmp(answer, "yes\n"))
		return DONE;

	return fail(BAD_PARAMETER, "nothing has been changed");
}
