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
#include <unistd.h>

#include "report.h"

static bool quiet;
static bool batch;

void report_init(bool is_quiet, bool is_batch)
{
	quiet = is_quiet;
	batch = is_batch;
}

static void complain(const char *format, va_list args, const char *end)
{
	if (quiet)
		return;
	fflush(stdout);
	fputs("dmclone: ", stderr);
	vfprintf(stderr, format, args);
	fputs(end, stderr);
}

void say(const char *format, ...)
{
	va_list args;

	if (quiet)
		return;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

void warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, "\n");
	va_end(args);
}

enum result fail(enum result result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args, "\n");
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
	complain(format, args, ": ");
	va_end(args);
	if (!quiet)
		fprintf(stderr, "%s\n", strerror(-error));

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
		complain(format, args,
			 ": there is nobody to confirm this; say -q if it is meant\n");
		va_end(args);
		return BAD_PARAMETER;
	}
	vfprintf(stderr, format, args);
	va_end(args);

	fputs(". Go on? (yes/no): ", stderr);
	if (fgets(answer, sizeof(answer), stdin) &&
	    !strcasecmp(answer, "yes\n"))
		return DONE;

	return fail(BAD_PARAMETER, "nothing has been changed");
}
