// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What the tools have in common, see tool.h.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tool.h"

const struct tool *tool;
bool quiet;

void say(const char *format, ...)
{
	va_list ap;

	if (quiet)
		return;

	fprintf(stderr, "%s: ", tool->name);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/*
 *---------------------------------------------------------------
 * Options
 *---------------------------------------------------------------
 */

bool common_option(int option)
{
	switch (option) {
	case 'h':
		fputs(tool->usage, stdout);
		exit(0);
	case 'V':
		puts(CLONE_TOOLS_VERSION);
		exit(0);
	case 'q':
		quiet = true;
		return true;
	}

	return false;
}

int wrong_usage(const char *text)
{
	if (text)
		say("%s", text);
	if (!quiet)
		fprintf(stderr, "Try %s --help.\n", tool->name);
	return 1;
}

bool parse_number(const char *text, uint64_t *number)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*number = strtoull(text, &end, 10);

	return !errno && !*end;
}

uint64_t unit_size(char unit)
{
	static const char binary[] = "kmgtpe", decimal[] = "KMGTPE";
	const char *p;
	uint64_t size = 1;

	if (unit == 'b')
		return 1;
	if (unit == 's')
		return 512;
	if (!unit)
		return 0;

	p = strchr(binary, unit);
	if (p)
		return UINT64_C(1024) << 10 * (p - binary);
	p = strchr(decimal, unit);
	if (!p)
		return 0;
	for (; p >= decimal; p--)
		size *= 1000;
	return size;
}

bool parse_size(const char *text, uint64_t *sectors)
{
	uint64_t size, unit = 512;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	size = strtoull(text, &end, 10);
	if (errno)
		return false;

	if (*end) {
		unit = unit_size(*end);
		if (!unit || end[1])
			return false;
	}
	if (__builtin_mul_overflow(size, unit, &size) || size % 512)
		return false;

	*sectors = size / 512;
	return true;
}

bool parse_lost(const char *text, int *lost)
{
	if (!strcmp(text, "hydrated"))
		*lost = LOST_HYDRATED;
	else if (!strcmp(text, "unhydrated"))
		*lost = LOST_UNHYDRATED;
	else
		return false;

	return true;
}

/*
 *---------------------------------------------------------------
 * Files
 *---------------------------------------------------------------
 */

void say_not_opened(const char *path, int error)
{
	if (error == -EBUSY)
		say("%s is in use", path);
	else if (error == -ENOTBLK)
		say("%s is neither a block device nor a file", path);
	else
		say("%s: %s", path, strerror(-error));
}

int open_metadata(struct clone_md_device *dev, const char *path,
		  enum clone_md_open_mode mode)
{
	int r = clone_md_open_device(dev, path, mode);

	if (r)
		say_not_opened(path, r);
	return r;
}

bool is_same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (stat(a, &sa) || stat(b, &sb))
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;

	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}
