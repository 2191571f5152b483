// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Sizes and rates, see size.h.
 */

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "size.h"

static const char units[] = "kmgtpe";

/* What a unit stands for in bytes; 0 for none that is known. */
static uint64_t unit_size(char unit)
{
	const char *at;

	switch (tolower((unsigned char)unit)) {
	case '\0':
		return MIB;
	case 'b':
		return 1;
	case 's':
		return SECTOR;
	}
	at = strchr(units, tolower((unsigned char)unit));

	return at ? UINT64_C(1) << (10 * (at - units + 1)) : 0;
}

/* "MiB" and "MB" are "m" for lvm2's users. */
static bool is_unit_tail(const char *text)
{
	return !*text || !strcasecmp(text, "b") || !strcasecmp(text, "ib");
}

bool size_parse(const char *text, uint64_t *bytes)
{
	__uint128_t number = 0;
	uint64_t unit, scale = 1;
	bool point = false;
	const char *p;

	for (p = text; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
		if (*p == '.') {
			point = true;
			continue;
		}
		number = number * 10 + (*p - '0');
		scale *= point ? 10 : 1;
		if (number > INT64_MAX || scale > UINT64_C(1000000000000))
			return false;
	}
	if (!isdigit((unsigned char)*text) || p[-1] == '.')
		return false;

	unit = unit_size(*p);
	if (!unit || (*p && !is_unit_tail(p + 1)))
		return false;
	number = number * unit / scale;
	if (number > INT64_MAX)
		return false;

	*bytes = number;
	return true;
}

const char *size_text(uint64_t bytes, char buf[SIZE_TEXT])
{
	double value = bytes;
	int i = -1;

	while (value >= 999.5 && i < 5) {
		value /= 1024;
		i++;
	}
	if (i < 0)
		snprintf(buf, SIZE_TEXT, "%llu bytes", ULL(bytes));
	else
		snprintf(buf, SIZE_TEXT, "%.*f %ciB",
			 value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value,
			 toupper((unsigned char)units[i]));

	return buf;
}

const char *time_text(uint64_t seconds, char buf[SIZE_TEXT])
{
	if (seconds < 3600)
		snprintf(buf, SIZE_TEXT, "%u:%02u", (unsigned int)seconds / 60,
			 (unsigned int)seconds % 60);
	else if (seconds < 100 * 3600)
		snprintf(buf, SIZE_TEXT, "%u:%02u:%02u", (unsigned int)seconds / 3600,
			 (unsigned int)seconds / 60 % 60, (unsigned int)seconds % 60);
	else
		snprintf(buf, SIZE_TEXT, "%llu days", ULL(seconds / 86400));

	return buf;
}
