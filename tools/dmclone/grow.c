// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone grow: what a destination has more than the source becomes usable.
 *
 * The table gets a linear tail after the clone.  The description says so first:
 * a file system that has grown must never find its device smaller.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dmclone.h"
#include "size.h"

static enum result zero_tail(const struct device *dev, uint64_t start)
{
	uint64_t range[2] = { start * SECTOR, dev->bytes - start * SECTOR };
	int fd = open(dev->path, O_RDWR | O_CLOEXEC), r = 0;

	if (fd < 0 || ioctl(fd, BLKZEROOUT, range) || fsync(fd))
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r)
		return fail_errno(r, "cannot write zeroes to the end of %s", dev->path);

	return DONE;
}

/* The same lines as before, and another for the tail */
static enum result load(const struct conf *conf, const struct device *dev)
{
	struct target targets[2];
	struct mapping map;
	const struct target *clone;
	enum result r;

	r = table_read(conf->name, &map);
	if (r)
		return r;
	clone = table_find(&map, "clone");
	if (clone) {
		targets[0] = *clone;
		linear_line(dev->number, conf->size, conf->tail, &targets[1]);
	} else {
		linear_line(dev->number, 0, conf->size + conf->tail, &targets[0]);
	}
	r = table_load(conf->name, targets, clone ? 2 : 1, false);
	if (r)
		return r;
	r = conf_write(conf);

	return r ? r : table_swap(conf->name);
}

/* What is in use now.  A run that was killed may have described more. */
static enum result look_at_size(const struct conf *conf, uint64_t *mapped)
{
	const struct target *last;
	struct mapping map;
	enum result r;

	r = table_read(conf->name, &map);
	if (!r && (strcmp(map.uuid, conf->uuid) || !map.live))
		r = fail(BAD_PARAMETER, "'%s' is not open: dmclone open %s", conf->name,
			 conf->name);
	if (r)
		return r;
	last = &map.targets[map.nr_targets - 1];
	*mapped = last->start + last->length;

	return DONE;
}

enum result do_grow(const struct request *rq)
{
	char text[SIZE_TEXT];
	struct device dev;
	struct conf conf;
	uint64_t size, mapped;
	enum result r;

	r = conf_lock(rq->arguments[0]);
	if (!r)
		r = conf_read(rq->arguments[0], &conf);
	if (!r)
		r = destination_look(&conf, &dev);
	if (r)
		return r;
	size = dev.bytes / SECTOR;
	r = look_at_size(&conf, &mapped);
	if (r)
		return r;
	if (size <= mapped)
		return fail(BAD_DEVICE, "'%s' has all of %s already: extend that first",
			    conf.name, dev.path);
	if (rq->zero_tail)
		r = zero_tail(&dev, mapped);
	conf.tail = size - conf.size;
	if (!r)
		r = load(&conf, &dev);
	if (!r)
		say("/dev/mapper/%s has %s now: let the file system grow (resize2fs, xfs_growfs)",
		    conf.name, size_text(dev.bytes, text));

	return r;
}
