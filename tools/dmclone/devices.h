/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Block devices: what they are called, whether they may be used, and whether
 * two of them are one.  Nothing here changes anything, but for wiping.
 */
#ifndef DMCLONE_DEVICES_H
#define DMCLONE_DEVICES_H

#include <sys/types.h>

#include "base.h"
#include "report.h"

struct device {
	const char *role;		/* "source", for messages */
	char path[PATH_MAX];		/* as it was given */
	dev_t number;
	uint64_t bytes;
	unsigned int block_size;	/* logical */
	bool readonly;
};

/* Look at a block device that is to be @role. */
enum result device_look(const char *path, const char *role, struct device *dev);

/* As device_look(), of a device that is open. */
enum result device_look_at(int fd, const char *path, const char *role,
			   struct device *dev);

/* Nobody else uses it: it is not mounted, swap, or part of another device. */
enum result device_check_free(const struct device *dev);

/* Nobody writes to it: mapped devices may hold it that only read it. */
enum result device_check_quiet(const struct device *dev);

/* It may be written, and there is nothing on it that anybody knows. */
enum result device_check_writable(const struct device *dev);
enum result device_check_empty(const struct device *dev);

/* They are not one disk under two names, and none is a part of the other. */
enum result device_check_apart(const struct device *a, const struct device *b);

/* The name that will lead to it after the next reboot too, if there is one. */
void device_stable_name(const struct device *dev, char name[PATH_MAX]);

/* What tells the disk from others, whatever is on it; empty if nothing does. */
void device_identity(const struct device *dev, char *text, size_t room);

/* What libblkid finds: "ext4 UUID", "gpt UUID"; empty if nothing. */
enum result content_identity(int fd, const char *path, char *text, size_t room);

/* Zeroes from the beginning on, @bytes of them or all; durable. */
enum result device_wipe(const struct device *dev, uint64_t bytes);

/* "major:minor", as in a table line. */
#define NUMBER_TEXT	32
const char *number_text(dev_t number, char buf[NUMBER_TEXT]);
dev_t number_parse(const char *text);

/* The name that the kernel gives it, /dev/sda or /dev/dm-0 */
void device_node(dev_t number, char *name, size_t room);

/* The first line of a file in /sys/dev/block/MAJOR:MINOR; false if there is none. */
bool sys_read(dev_t number, const char *file, char *text, size_t room);

/* The disk that it is a partition of; itself if it is none. */
dev_t device_whole(dev_t number);

/* Have udev look at it again, now that descriptions have changed. */
void device_trigger(dev_t number);

/*
 * What has been a destination is a disk as others are.  What was read of it before
 * is forgotten: the page cache knows nothing of what has been written by the clone,
 * and keeps what it has as long as anybody has the disk open.
 */
void device_release(dev_t number);

#endif
