// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What a clone says of itself: its status line, the reply to "stats", and its
 * table line; see Documentation/dm-clone.rst.  The kernel's own clone target
 * has no "stats", and nothing else is different.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "size.h"
#include "table.h"

/* The next word of @text, which is cut up; NULL if there is none. */
static char *next_word(char **text)
{
	char *word;

	do
		word = strsep(text, "\n ");
	while (word && !*word);

	return word;
}

static bool take_number(const char *word, uint64_t *number)
{
	char *end;

	if (!word || *word < '0' || *word > '9')
		return false;
	*number = strtoull(word, &end, 10);

	return !*end;
}

static bool take_fraction(const char *word, uint64_t *part, uint64_t *whole)
{
	unsigned long long a, b;

	if (!word || sscanf(word, "%llu/%llu", &a, &b) != 2)
		return false;
	*part = a;
	*whole = b;

	return true;
}

static bool take_features(char **text, struct progress *p)
{
	uint64_t nr;
	size_t used = 0;

	if (!take_number(next_word(text), &nr))
		return false;
	while (nr--) {
		const char *word = next_word(text);

		if (!word)
			return false;
		if (!strcmp(word, "no_hydration"))
			p->no_hydration = true;
		used += snprintf(p->features + used, sizeof(p->features) - used, "%s%s",
				 used ? " " : "", word);
		if (used >= sizeof(p->features))
			return false;
	}

	return true;
}

/* <block size> <used/total> <region size> <hydrated/total> <hydrating> ... <mode> */
static bool take_status(char *text, struct progress *p)
{
	const char *word;
	uint64_t nr;

	if (!next_word(&text) || !next_word(&text) ||
	    !take_number(next_word(&text), &p->region_size) ||
	    !take_fraction(next_word(&text), &p->nr_hydrated, &p->nr_regions) ||
	    !take_number(next_word(&text), &p->nr_hydrating) ||
	    !take_features(&text, p) || !take_number(next_word(&text), &nr))
		return false;
	while (nr--)
		if (!next_word(&text))
			return false;
	word = next_word(&text);
	if (!word || !p->region_size)
		return false;
	snprintf(p->mode, sizeof(p->mode), "%s", word);

	return true;
}

bool progress_parse(const struct target *target, struct progress *p)
{
	char text[MAX_PARAMS];

	memset(p, 0, sizeof(*p));
	p->start = target->start;
	p->length = target->length;
	p->seconds_left = -1;
	snprintf(text, sizeof(text), "%s", target->params);
	if (!strncmp(text, "Fail", 4) || !strncmp(text, "Error", 5)) {
		p->failed = true;
		strcpy(p->mode, "Fail");
		return true;
	}

	return take_status(text, p);
}

static void take_statistic(struct progress *p, const char *key, const char *value)
{
	const struct {
		const char *key;
		uint64_t *place;
	} numbers[] = {
		{ "bytes_overwritten", &p->bytes_overwritten },
		{ "bytes_copied", &p->bytes_copied },
		{ "read_errors", &p->read_errors },
		{ "write_errors", &p->write_errors },
		{ "regions_failed", &p->regions_failed },
		{ "last_error_sector", &p->last_error_sector },
		{ "rate", &p->rate },
		{ "average_rate", &p->average_rate },
	};
	unsigned int i;

	if (!strcmp(key, "state"))
		snprintf(p->state, sizeof(p->state), "%s", value);
	else if (!strcmp(key, "seconds_left"))
		p->seconds_left = strtoll(value, NULL, 10);
	else if (!strcmp(key, "last_error"))
		p->last_error = llabs(strtoll(value, NULL, 10));
	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		if (!strcmp(key, numbers[i].key))
			*numbers[i].place = strtoull(value, NULL, 10);
}

enum result progress_read(const char *name, const struct target *target,
			  struct progress *p)
{
	char reply[2048], *text = reply, *word, *value;

	if (!progress_parse(target, p))
		return fail(BAD_DEVICE, "the status of '%s' is not understood: '%s'", name,
			    target->params);
	if (table_try_message(name, target->start, "stats", reply, sizeof(reply)) || !*reply)
		return DONE;

	p->has_stats = true;
	while ((word = next_word(&text))) {
		value = strchr(word, '=');
		if (!value)
			continue;
		*value++ = '\0';
		take_statistic(p, word, value);
	}

	return DONE;
}

bool progress_is_done(const struct progress *p)
{
	if (p->has_stats)
		return !strcmp(p->state, "done");

	return !p->failed && p->nr_hydrated == p->nr_regions;
}

uint64_t progress_bytes_hydrated(const struct progress *p)
{
	uint64_t bytes = p->nr_hydrated * p->region_size * SECTOR;
	uint64_t whole = p->length * SECTOR;

	/* The last region may be short. */
	return bytes < whole ? bytes : whole;
}

bool table_clone_devices(const struct target *target, struct clone_devices *devices)
{
	unsigned long long region_size;

	if (sscanf(target->params, "%31s %31s %31s %llu", devices->metadata,
		   devices->destination, devices->source, &region_size) != 4)
		return false;
	devices->region_size = region_size;

	return true;
}
