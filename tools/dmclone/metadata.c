// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The metadata of a clone, see metadata.h.  It is formatted by the kernel, which
 * does that where the first block is all zeroes; so zeroes are written for new
 * clones only, and once a clone has been used a device with zeroes is refused.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clone-metadata.h"
#include "metadata.h"
#include "size.h"

#define WIPE_AT_END	MIB		/* of a clone's device that is done */

void metadata_file_name(const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, METADATA_DIR "/%.*s.metadata", NAME_LENGTH, name);
}

bool metadata_is_file(const struct conf *conf)
{
	char path[PATH_MAX];

	metadata_file_name(conf->name, path);
	return !strcmp(path, conf->metadata);
}

static struct clone_md_superblock geometry(const struct conf *conf)
{
	return (struct clone_md_superblock){
		.region_size = conf->region_size, .target_size = conf->size,
	};
}

uint64_t metadata_smallest(const struct conf *conf)
{
	struct clone_md_superblock sb = geometry(conf);

	return clone_md_smallest_size(&sb) * CLONE_MD_BLOCK_SIZE;
}

uint64_t metadata_recommended(const struct conf *conf)
{
	struct clone_md_superblock sb = geometry(conf);

	return clone_md_recommended_size(&sb) * CLONE_MD_BLOCK_SIZE;
}

/* Making it ------------------------------------------------------------- */

/* Blocks are allocated: it cannot run out of space when it is needed. */
enum result metadata_make_file(const struct conf *conf)
{
	int fd, r;

	if (mkdir(METADATA_DIR, 0700) && errno != EEXIST)
		return fail_errno(-errno, "cannot make " METADATA_DIR);
	fd = open(conf->metadata, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_errno(-errno, "cannot make %s", conf->metadata);
	r = -posix_fallocate(fd, 0, metadata_recommended(conf));
	if (!r && fsync(fd))
		r = -errno;
	close(fd);
	if (!r)
		r = conf_sync_dir(METADATA_DIR);
	if (!r)
		r = conf_sync_dir("/var/lib");
	if (r)
		return fail_errno(r, "cannot write %s", conf->metadata);

	return DONE;
}

enum result metadata_attach(const struct conf *conf, struct attached *attached,
			    struct device *dev)
{
	char loop[NAME_MAX];
	enum result r;

	attached->fd = -1;
	if (!metadata_is_file(conf))
		return device_look(conf->metadata, "metadata device", dev);

	if (loop_find(conf->metadata, loop, sizeof(loop)))
		return fail(BUSY, "%s is in use by %s: take that away first (losetup -d)",
			    conf->metadata, loop);
	r = loop_attach(conf->metadata, true, attached);
	if (r)
		return r;
	r = device_look_at(attached->fd, attached->path, "metadata device", dev);
	if (r) {
		close(attached->fd);
		attached->fd = -1;
	}

	return r;
}

/* Looking at it --------------------------------------------------------- */

static void count_words(void *context, uint64_t first, const uint64_t *words,
			unsigned int nr)
{
	uint64_t *nr_hydrated = context;

	(void)first;
	while (nr--)
		*nr_hydrated += __builtin_popcountll(words[nr]);
}

static enum result count_hydrated(const struct clone_md_image *image,
				  const struct clone_md_superblock *sb,
				  uint64_t *nr_hydrated)
{
	const struct clone_md_visitor visitor = {
		.words = count_words, .context = nr_hydrated,
	};
	int r;

	*nr_hydrated = 0;
	r = clone_md_walk_bitset(image, sb, &visitor);
	if (r)
		return fail_errno(r == -EILSEQ ? -EUCLEAN : r,
				  "the metadata is damaged, see clone_check(8)");

	return DONE;
}

static enum result check_superblock(const struct conf *conf, const struct device *dev,
				    const struct clone_md_superblock *sb)
{
	if (sb->region_size == conf->region_size && sb->target_size == conf->size)
		return DONE;

	return fail(BAD_DEVICE,
		    "%s holds the metadata of another clone, of %llu sectors in regions of %llu; '%s' has %llu and %llu",
		    dev->path, ULL(sb->target_size), ULL(sb->region_size), conf->name,
		    ULL(conf->size), ULL(conf->region_size));
}

static enum result look_at_image(const struct conf *conf, const struct device *dev,
				 const struct clone_md_image *image,
				 enum metadata_state *state, uint64_t *nr_hydrated)
{
	struct clone_md_superblock sb;
	const char *text = NULL;
	enum result r;
	int error;

	error = clone_md_read_superblock(image, &sb, &text);
	*state = METADATA_EMPTY;
	if (error == -ENODATA)
		return DONE;
	if (error)
		return fail(BAD_DEVICE, "%s does not hold the metadata of '%s': %s",
			    dev->path, conf->name, text ? text : strerror(-error));
	r = check_superblock(conf, dev, &sb);
	if (!r)
		r = count_hydrated(image, &sb, nr_hydrated);
	if (!r)
		*state = *nr_hydrated >= clone_md_nr_regions(&sb) ? METADATA_COMPLETE :
			 METADATA_PARTIAL;

	return r;
}

enum result metadata_look(const struct conf *conf, const struct device *dev,
			  enum metadata_state *state, uint64_t *nr_hydrated)
{
	struct clone_md_device md;
	enum result r;
	int error;

	error = clone_md_open_device(&md, dev->path, CLONE_MD_OPEN_READ);
	if (error)
		return fail_errno(error, "cannot read the metadata device %s", dev->path);
	r = look_at_image(conf, dev, &md.image, state, nr_hydrated);
	clone_md_close_device(&md);

	return r;
}

/* The end --------------------------------------------------------------- */

/* It may be another disk by now: what is not ours is left alone. */
static enum result check_ours(const struct conf *conf, const struct device *dev)
{
	struct clone_md_superblock sb;
	struct clone_md_device md;
	const char *text;
	int error;

	error = clone_md_open_device(&md, dev->path, CLONE_MD_OPEN_READ);
	if (error)
		return fail_errno(error, "cannot read the metadata device %s", dev->path);
	error = clone_md_read_superblock(&md.image, &sb, &text);
	clone_md_close_device(&md);
	if (error == -ENODATA)
		return DONE;
	if (error)
		return fail(BAD_DEVICE,
			    "%s does not hold the metadata of '%s', and is not wiped: %s",
			    dev->path, conf->name, text ? text : strerror(-error));

	return check_superblock(conf, dev, &sb);
}

static enum result wipe_device(const struct conf *conf)
{
	enum result r;
	struct device dev;

	if (access(conf->metadata, F_OK)) {
		warn("the metadata device %s is not there: if it comes back, zero its first 4 KiB",
		     conf->metadata);
		return DONE;
	}
	r = device_look(conf->metadata, "metadata device", &dev);

	if (!r)
		r = check_ours(conf, &dev);

	return r ? r : device_wipe(&dev, WIPE_AT_END);
}

enum result metadata_discard(const struct conf *conf)
{
	if (!metadata_is_file(conf))
		return wipe_device(conf);
	if (unlink(conf->metadata) && errno != ENOENT)
		return fail_errno(-errno, "cannot remove %s", conf->metadata);

	return DONE;
}
