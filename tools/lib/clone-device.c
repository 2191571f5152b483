// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Metadata in a device or file that is opened by name, see clone-metadata.h.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clone-metadata.h"

#define WINDOW_BLOCKS	32u

static int fill_window(struct clone_md_device *dev, uint64_t block, uint64_t nr)
{
	int r;

	if (nr > dev->image.nr_blocks - block)
		nr = dev->image.nr_blocks - block;

	dev->window_nr = 0;
	r = clone_md_read_fd(dev->fd, dev->window, nr * CLONE_MD_BLOCK_SIZE,
			     block * CLONE_MD_BLOCK_SIZE);
	if (r)
		return r;

	dev->window_start = block;
	dev->window_nr = nr;
	return 0;
}

/*
 * Neighbours are read along.  A superblock is always read anew, and what was
 * read before it is forgotten: reading live metadata relies on that.
 */
static int read_device(void *context, uint64_t block, void *buf)
{
	struct clone_md_device *dev = context;
	int r = 0;

	if (!block || block < dev->window_start ||
	    block - dev->window_start >= dev->window_nr) {
		r = fill_window(dev, block, block ? WINDOW_BLOCKS : 1);
		if (r && block)		/* a neighbour may be the cause */
			r = fill_window(dev, block, 1);
	}
	if (r)
		return r;

	memcpy(buf, dev->window + (block - dev->window_start) * CLONE_MD_BLOCK_SIZE,
	       CLONE_MD_BLOCK_SIZE);
	return 0;
}

static int write_device(void *context, uint64_t block, const void *buf)
{
	struct clone_md_device *dev = context;

	dev->window_nr = 0;
	memcpy(dev->window, buf, CLONE_MD_BLOCK_SIZE);

	return clone_md_write_fd(dev->fd, dev->window, CLONE_MD_BLOCK_SIZE,
				 block * CLONE_MD_BLOCK_SIZE);
}

static int flush_device(void *context)
{
	struct clone_md_device *dev = context;

	return fsync(dev->fd) ? -errno : 0;
}

int clone_md_open_fd(const char *path, int flags)
{
	struct stat st;
	int fd;

	/* A fifo would keep us waiting for its other end. */
	if (stat(path, &st))
		return -errno;
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -ENOTBLK;
	if (S_ISREG(st.st_mode))
		flags &= ~O_EXCL;

	fd = open(path, flags | O_DIRECT | O_CLOEXEC);
	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int open_fd(struct clone_md_device *dev, const char *path,
		   enum clone_md_open_mode mode)
{
	int flags = mode == CLONE_MD_OPEN_WRITE ? O_RDWR : O_RDONLY;

	dev->fd = clone_md_open_fd(path, flags | O_EXCL);
	if (dev->fd == -EBUSY && mode == CLONE_MD_OPEN_READ) {
		dev->in_use = true;
		dev->fd = clone_md_open_fd(path, flags);
	}

	return dev->fd < 0 ? dev->fd : 0;
}

int clone_md_open_device(struct clone_md_device *dev, const char *path,
			 enum clone_md_open_mode mode)
{
	int r;

	memset(dev, 0, sizeof(*dev));
	r = open_fd(dev, path, mode);
	if (r)
		return r;

	r = clone_md_image_from_fd(&dev->image, dev->fd);
	if (!r) {
		dev->window = aligned_alloc(CLONE_MD_BLOCK_SIZE,
					    WINDOW_BLOCKS * CLONE_MD_BLOCK_SIZE);
		r = dev->window ? 0 : -ENOMEM;
	}
	if (r) {
		close(dev->fd);
		return r;
	}

	dev->image.read = read_device;
	if (mode == CLONE_MD_OPEN_WRITE) {
		dev->image.write = write_device;
		dev->image.flush = flush_device;
	}
	dev->image.context = dev;
	return 0;
}

void clone_md_close_device(struct clone_md_device *dev)
{
	close(dev->fd);
	free(dev->window);
}

int clone_md_same_superblock(const struct clone_md_image *image, const void *block)
{
	uint8_t now[CLONE_MD_BLOCK_SIZE];
	int r = image->read(image->context, 0, now);

	return r ? r : !memcmp(now, block, sizeof(now));
}
