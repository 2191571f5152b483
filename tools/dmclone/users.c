// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Who uses a block device, and which others it is made of; see devices.h.
 *
 * A mapped device shares with other mapped devices what it opens: the kernel
 * would let a clone have a destination that a logical volume lies on.  So
 * whatever holds a device is looked for here, and refused.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devices.h"
#include "table.h"

/* The block device of this name; 0 if it is none. */
static dev_t number_of(const char *path)
{
	struct stat st;

	return stat(path, &st) || !S_ISBLK(st.st_mode) ? 0 : st.st_rdev;
}

/* The device itself, or a partition on it */
static bool is_on(dev_t part, dev_t number)
{
	return part && (part == number || device_whole(part) == number);
}

/* Where it is mounted; some file systems have numbers of their own. */
static bool find_mount(dev_t number, char where[PATH_MAX])
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[3 * PATH_MAX], *rest, source[PATH_MAX];
	unsigned int major, minor;
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*u %*u %u:%u %*s %4095s", &major, &minor, where) != 3)
			continue;
		rest = strstr(line, " - ");
		if (!rest || sscanf(rest, " - %*s %4095s", source) != 1)
			continue;
		found = is_on(makedev(major, minor), number) ||
			is_on(number_of(source), number);
	}
	if (file)
		fclose(file);

	return found;
}

static bool is_swap(dev_t number)
{
	FILE *file = fopen("/proc/swaps", "re");
	char line[PATH_MAX + 128], path[PATH_MAX];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%4095s", path) == 1 &&
			is_on(number_of(path), number);
	if (file)
		fclose(file);

	return found;
}

typedef bool (*device_fn)(dev_t number, void *context);

/*
 * Calls @fn for each device in a directory of links to devices, until it
 * returns true; returns whether it did.
 */
static bool visit_links(const char *path, device_fn fn, void *context)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir))) {
		char file[2 * PATH_MAX], text[NUMBER_TEXT] = "";
		FILE *number;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s/dev", path, entry->d_name);
		number = fopen(file, "re");
		if (!number)
			continue;
		if (fgets(text, sizeof(text), number))
			found = fn(number_parse(text), context);
		fclose(number);
	}
	if (dir)
		closedir(dir);

	return found;
}

static bool visit_holders(dev_t number, device_fn fn, void *context)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(number),
		 minor(number));

	return visit_links(path, fn, context);
}

struct holder {
	dev_t held, number;
	bool readers_too;
};

/* A clone only reads its source. */
static bool is_reader(dev_t number, dev_t held)
{
	struct clone_devices devices;
	const struct target *target;
	char name[NAME_MAX];
	struct mapping map;

	if (!sys_read(number, "dm/name", name, sizeof(name)) ||
	    table_read(name, &map))
		return false;
	target = map.nr_targets == 1 ? table_find(&map, "clone") : NULL;

	return target && table_clone_devices(target, &devices) &&
	       number_parse(devices.source) == held &&
	       number_parse(devices.destination) != held &&
	       number_parse(devices.metadata) != held;
}

static bool take_holder(dev_t number, void *context)
{
	struct holder *holder = context;

	holder->number = number;

	return holder->readers_too || !is_reader(number, holder->held);
}

/* Holders of a disk's partitions hold the disk. */
static bool take_partition(dev_t number, void *context)
{
	struct holder *holder = context;

	return device_whole(number) == holder->held &&
	       visit_holders(number, take_holder, context);
}

static bool find_holder(dev_t number, bool readers_too, dev_t *found)
{
	struct holder holder = { .held = number, .readers_too = readers_too };
	char path[PATH_MAX];
	bool is_held;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(number), minor(number));
	is_held = visit_holders(number, take_holder, &holder) ||
		  visit_links(path, take_partition, &holder);
	*found = holder.number;

	return is_held;
}

static void name_of(dev_t number, char *name, size_t room)
{
	if (!sys_read(number, "dm/name", name, room))
		device_node(number, name, room);
}

static enum result check_users(const struct device *dev, bool readers_too)
{
	char text[PATH_MAX];
	dev_t holder;

	if (find_mount(dev->number, text))
		return fail(BUSY, "the %s %s is mounted on %s: unmount it first", dev->role,
			    dev->path, text);
	if (is_swap(dev->number))
		return fail(BUSY, "the %s %s is in use as swap: swapoff it first", dev->role,
			    dev->path);
	if (find_holder(dev->number, readers_too, &holder)) {
		name_of(holder, text, sizeof(text));
		return fail(BUSY,
			    "the %s %s is in use by the device '%s': take that away first, or name another",
			    dev->role, dev->path, text);
	}

	return DONE;
}

enum result device_check_free(const struct device *dev)
{
	enum result r = check_users(dev, true);
	int fd;

	if (r)
		return r;
	fd = open(dev->path, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(-errno, "the %s %s is in use, or cannot be opened",
				  dev->role, dev->path);
	close(fd);

	return DONE;
}

enum result device_check_quiet(const struct device *dev)
{
	return check_users(dev, false);
}

/* Two that are one ------------------------------------------------------ */

#define MAX_LAYERS	16

struct search {
	dev_t wanted;
	unsigned int depth;
};

static bool is_made_of(dev_t number, void *context);

static bool slaves_have(dev_t number, struct search *search)
{
	char path[PATH_MAX];
	bool found;

	if (search->depth >= MAX_LAYERS)
		return false;
	search->depth++;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/slaves", major(number),
		 minor(number));
	found = visit_links(path, is_made_of, search);
	search->depth--;

	return found;
}

/* The wanted device is this one, what it is a part of, or what lies below it. */
static bool is_made_of(dev_t number, void *context)
{
	struct search *search = context;
	dev_t whole = device_whole(number);

	return number == search->wanted || whole == search->wanted ||
	       slaves_have(number, search) ||
	       (whole != number && slaves_have(whole, search));
}

static bool lies_on(dev_t upper, dev_t lower)
{
	struct search search = { .wanted = lower };

	return is_made_of(upper, &search);
}

/* Two paths to one disk, or two loop devices over one file */
static bool is_same_disk(const struct device *a, const struct device *b)
{
	static const char *const files[] = { "wwid", "device/wwid", "loop/backing_file" };
	char texts[2][PATH_MAX];
	unsigned int i;

	if (device_whole(a->number) == device_whole(b->number))
		return false;		/* two partitions of it, say */
	for (i = 0; i < ARRAY_SIZE(files); i++)
		if (sys_read(device_whole(a->number), files[i], texts[0], PATH_MAX) &&
		    sys_read(device_whole(b->number), files[i], texts[1], PATH_MAX) &&
		    !strcmp(texts[0], texts[1]))
			return true;

	return false;
}

enum result device_check_apart(const struct device *a, const struct device *b)
{
	if (lies_on(a->number, b->number) || lies_on(b->number, a->number) ||
	    is_same_disk(a, b))
		return fail(BAD_PARAMETER,
			    "%s %s and %s %s are the same disk, or one is a part of the other: name another",
			    a->role, a->path, b->role, b->path);

	return DONE;
}
