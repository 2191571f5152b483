// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Where the data of a file is, see extents.h.
 *
 * The file system tells where a file is on its device (FIEMAP).  That device may
 * lie on others, of which only those are understood that leave sectors in their
 * order: dm-linear, which logical volumes are made of, and dm-crypt.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices.h"
#include "extents.h"
#include "table.h"

#define EXTENTS		256u		/* of one question */
#define MAX_LAYERS	16

/* Where they have no place on the device */
#define NOWHERE		(FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | \
			 FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_INLINE)

/* Between the file system's device and the clone, from above */
struct stack {
	dev_t clone;
	unsigned int nr;
	struct mapping layers[MAX_LAYERS];
	range_fn fn;
	void *context;
};

/* The device and the first sector that a target begins at; 0 if not understood. */
static dev_t below(const struct target *target, uint64_t *offset)
{
	unsigned long long start;
	char device[64];

	if (!strcmp(target->type, "linear")) {
		if (sscanf(target->params, "%63s %llu", device, &start) != 2)
			return 0;
	} else if (strcmp(target->type, "crypt") ||
		   sscanf(target->params, "%*s %*s %*s %63s %llu", device, &start) != 2) {
		return 0;
	}
	*offset = start;

	return number_parse(device);
}

/* Add layers until the clone is there. */
static enum result build(struct stack *stack, dev_t number, const char *path)
{
	char name[NAME_MAX];
	uint64_t offset;

	while (number && number != stack->clone && stack->nr < MAX_LAYERS) {
		struct mapping *map = &stack->layers[stack->nr];

		if (!sys_read(number, "dm/name", name, sizeof(name)) ||
		    table_read(name, map) || !map->nr_targets)
			break;
		stack->nr++;
		number = below(&map->targets[0], &offset);
	}
	if (number == stack->clone)
		return DONE;

	return fail(BAD_PARAMETER,
		    "%s is on no file system of which it is known that it lies on the clone (on it, or on logical volumes or dm-crypt on it): take --range",
		    path);
}

/* One range, through the layers from @layer on */
static enum result pass(const struct stack *stack, unsigned int layer, uint64_t start,
			uint64_t end)
{
	const struct mapping *map = &stack->layers[layer];
	enum result r = DONE;
	dev_t below_layer;
	unsigned int i;

	if (layer == stack->nr)
		return stack->fn(start, end - start, stack->context);
	below_layer = layer + 1 < stack->nr ? stack->layers[layer + 1].number : stack->clone;
	for (i = 0; !r && i < map->nr_targets; i++) {
		const struct target *t = &map->targets[i];
		uint64_t from = start > t->start ? start : t->start;
		uint64_t to = end < t->start + t->length ? end : t->start + t->length;
		uint64_t offset;
		dev_t device;

		if (from >= to)
			continue;
		device = below(t, &offset);
		/* A part of a volume may be elsewhere: no business of the clone. */
		if (device == below_layer)
			r = pass(stack, layer + 1, from - t->start + offset,
				 to - t->start + offset);
	}

	return r;
}

static enum result pass_extents(const struct stack *stack, struct fiemap *map,
				uint64_t *next, bool *last)
{
	enum result r = DONE;
	unsigned int i;

	*last = !map->fm_mapped_extents;
	for (i = 0; !r && i < map->fm_mapped_extents; i++) {
		const struct fiemap_extent *e = &map->fm_extents[i];

		*next = e->fe_logical + e->fe_length;
		*last = e->fe_flags & FIEMAP_EXTENT_LAST;
		if (!(e->fe_flags & NOWHERE))
			r = pass(stack, 0, e->fe_physical / SECTOR,
				 (e->fe_physical + e->fe_length + SECTOR - 1) / SECTOR);
	}

	return r;
}

static enum result visit(int fd, const char *path, const struct stack *stack)
{
	struct fiemap *map = calloc(1, sizeof(*map) +
				       EXTENTS * sizeof(struct fiemap_extent));
	enum result r = DONE;
	uint64_t next = 0;
	bool last = false;

	if (!map)
		return out_of_memory();
	while (!r && !last) {
		map->fm_start = next;
		map->fm_length = FIEMAP_MAX_OFFSET - next;
		map->fm_flags = FIEMAP_FLAG_SYNC;
		map->fm_extent_count = EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, map))
			r = fail_errno(-errno, "the file system does not tell where %s is",
				       path);
		else
			r = pass_extents(stack, map, &next, &last);
	}
	free(map);

	return r;
}

enum result extents_of(const char *path, dev_t number, range_fn fn, void *context)
{
	struct stack *stack = calloc(1, sizeof(*stack));
	struct stat st;
	enum result r;
	int fd;

	if (!stack)
		return out_of_memory();
	*stack = (struct stack){ .clone = number, .fn = fn, .context = context };
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st)) {
		r = fail_errno(-errno, "cannot open %s", path);
	} else {
		r = build(stack, st.st_dev, path);
		if (!r)
			r = visit(fd, path, stack);
	}
	if (fd >= 0)
		close(fd);
	free(stack);

	return r;
}
