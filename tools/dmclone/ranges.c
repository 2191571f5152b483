// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Lists of ranges in files, see ranges.h.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranges.h"

#define SMALLEST_UNIT	8u		/* sectors: a page, and the smallest region */

/* 1024 may wait in the kernel: this leaves room for a few that people ask for. */
#define MOST_RANGES	1000

/* Reading --------------------------------------------------------------- */

/* 1: a range; 0: nothing; -1: something else */
static int take_line(const char *line, uint64_t *start, uint64_t *length)
{
	unsigned long long numbers[2];
	char rest;

	line += strspn(line, " \t\n");
	if (!*line || *line == '#')
		return 0;
	if (strchr(line, '-') ||
	    sscanf(line, "%llu %llu %c", &numbers[0], &numbers[1], &rest) != 2 ||
	    !numbers[1] || numbers[0] + numbers[1] < numbers[0])
		return -1;
	*start = numbers[0];
	*length = numbers[1];

	return 1;
}

enum result ranges_read(const char *path, range_fn fn, void *context)
{
	FILE *file = fopen(path, "re");
	unsigned int number = 0;
	enum result r = DONE;
	uint64_t start, length;
	char *line = NULL;
	size_t room = 0;
	int kind;

	if (!file)
		return fail_errno(-errno, "cannot open %s", path);
	while (!r && getline(&line, &room, file) > 0) {
		number++;
		kind = take_line(line, &start, &length);
		if (kind < 0)
			r = fail(BAD_PARAMETER,
				 "%s, line %u is no range: START LENGTH, in sectors, as dmclone record writes it",
				 path, number);
		else if (kind && fn)
			r = fn(start, length, context);
	}
	free(line);
	fclose(file);

	return r;
}

/* Writing --------------------------------------------------------------- */

struct range {
	uint64_t start, end;		/* sectors */
};

struct range_list {
	struct range *ranges;
	size_t nr, room;
	bool failed;			/* there was no memory for one */
	uint64_t sectors;		/* in all of them */
	uint64_t end;			/* of the volume */
	uint64_t unit;			/* sectors */
	uint8_t seen[];			/* a bit a unit */
};

static struct range_list *begin(uint64_t sectors, uint64_t unit)
{
	/* Pages that nobody touches take no memory. */
	struct range_list *list = calloc(1, sizeof(*list) + sectors / unit / 8 + 1);

	if (list) {
		list->end = sectors;
		list->unit = unit;
	}

	return list;
}

struct range_list *ranges_begin(uint64_t sectors)
{
	return begin(sectors, SMALLEST_UNIT);
}

static void append(struct range_list *list, uint64_t start, uint64_t end)
{
	struct range *last = list->nr ? &list->ranges[list->nr - 1] : NULL;

	list->sectors += end - start;
	if (last && last->end == start) {
		last->end = end;
		return;
	}
	if (list->nr == list->room) {
		size_t room = list->room ? 2 * list->room : 1024;
		struct range *ranges = realloc(list->ranges, room * sizeof(*ranges));

		if (!ranges) {
			list->failed = true;
			return;
		}
		list->ranges = ranges;
		list->room = room;
	}
	list->ranges[list->nr++] = (struct range){ start, end };
}

void ranges_add(struct range_list *list, uint64_t start, uint64_t length)
{
	uint64_t end = start + length, i;

	if (end > list->end)
		end = list->end;
	for (i = start / list->unit; i * list->unit < end; i++) {
		uint64_t stop = (i + 1) * list->unit;

		if (list->seen[i / 8] & 1u << i % 8)
			continue;
		list->seen[i / 8] |= 1u << i % 8;
		append(list, i * list->unit, stop < list->end ? stop : list->end);
	}
}

uint64_t ranges_sectors(const struct range_list *list)
{
	return list->sectors;
}

/* The same in units twice as large: not as many ranges */
static enum result coarsen(struct range_list **list)
{
	const struct range_list *old = *list;
	struct range_list *new = begin(old->end, old->unit * 2);
	size_t i;

	if (!new)
		return out_of_memory();
	for (i = 0; i < old->nr; i++)
		ranges_add(new, old->ranges[i].start,
			   old->ranges[i].end - old->ranges[i].start);
	ranges_end(*list);
	*list = new;

	return new->failed ? out_of_memory() : DONE;
}

static enum result write_list(const struct range_list *list, int fd, const char *path)
{
	FILE *file;
	size_t i;
	int r = 0;

	if (ftruncate(fd, 0) && errno != EINVAL)
		return fail_errno(-errno, "cannot write %s", path);
	file = fdopen(dup(fd), "w");
	if (!file)
		return fail_errno(-errno, "cannot write %s", path);
	fprintf(file, "# dmclone record: START LENGTH, in sectors of 512 bytes\n");
	for (i = 0; i < list->nr; i++)
		fprintf(file, "%llu %llu\n", ULL(list->ranges[i].start),
			ULL(list->ranges[i].end - list->ranges[i].start));
	errno = EIO;
	if (fflush(file) || ferror(file) || (fsync(fd) && errno != EINVAL))
		r = -errno;
	fclose(file);
	if (r)
		return fail_errno(r, "cannot write %s", path);

	return DONE;
}

enum result ranges_write(struct range_list **list, int fd, const char *path)
{
	enum result r = (*list)->failed ? out_of_memory() : DONE;

	while (!r && (*list)->nr > MOST_RANGES)
		r = coarsen(list);

	return r ? r : write_list(*list, fd, path);
}

void ranges_end(struct range_list *list)
{
	if (!list)
		return;
	free(list->ranges);
	free(list);
}
