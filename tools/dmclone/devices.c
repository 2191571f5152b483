// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Block devices by what they are, see devices.h.  Who uses them is in users.c.
 */

#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "clone-metadata.h"
#include "devices.h"
#include "size.h"

enum result device_look_at(int fd, const char *path, const char *role,
			   struct device *dev)
{
	int block_size = 0, readonly = 0;
	struct stat st;
	uint64_t bytes;

	if (fstat(fd, &st))
		return fail_errno(-errno, "cannot look at the %s %s", role, path);
	if (!S_ISBLK(st.st_mode))
		return fail(BAD_PARAMETER, "the %s %s is no block device", role, path);
	if (ioctl(fd, BLKGETSIZE64, &bytes) || ioctl(fd, BLKSSZGET, &block_size) ||
	    ioctl(fd, BLKROGET, &readonly))
		return fail_errno(-errno, "cannot ask the %s %s for its size", role, path);

	dev->role = role;
	snprintf(dev->path, sizeof(dev->path), "%s", path);
	dev->number = st.st_rdev;
	dev->bytes = bytes;
	dev->block_size = block_size;
	dev->readonly = readonly;

	return DONE;
}

enum result device_look(const char *path, const char *role, struct device *dev)
{
	enum result r;
	struct stat st;
	int fd;

	/* A fifo would keep us waiting for its other end. */
	if (!stat(path, &st) && !S_ISBLK(st.st_mode))
		return fail(BAD_PARAMETER, "the %s %s is no block device", role, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(-errno, "cannot open the %s %s", role, path);
	r = device_look_at(fd, path, role, dev);
	close(fd);

	return r;
}

enum result device_check_writable(const struct device *dev)
{
	if (!dev->readonly)
		return DONE;

	return fail(BAD_DEVICE,
		    "the %s %s is read-only: make it writable (blockdev --setrw %s; lvchange -p rw), or name another",
		    dev->role, dev->path, dev->path);
}

/* What is on it --------------------------------------------------------- */

static blkid_probe new_probe(int fd)
{
	blkid_probe probe = blkid_new_probe();

	if (!probe)
		return NULL;
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
					  BLKID_SUBLKS_LABEL | BLKID_SUBLKS_MAGIC);
	blkid_probe_enable_partitions(probe, 1);
	blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC);
	if (blkid_probe_set_device(probe, fd, 0, 0)) {
		blkid_free_probe(probe);
		return NULL;
	}

	return probe;
}

static const char *lookup(blkid_probe probe, const char *name)
{
	const char *value;

	return blkid_probe_lookup_value(probe, name, &value, NULL) ? NULL : value;
}

/*
 * Type and UUID of what is there; "" if there is nothing.  What may be several
 * things at once has a type of its own.
 */
static enum result probe_content(int fd, const char *path, char *text, size_t room)
{
	blkid_probe probe = new_probe(fd);
	const char *type, *uuid;
	int r;

	*text = '\0';
	if (!probe)
		return out_of_memory();
	r = blkid_do_safeprobe(probe);
	if (r == -2) {
		snprintf(text, room, "ambiguous");
	} else if (!r) {
		type = lookup(probe, "TYPE");
		uuid = lookup(probe, "UUID");
		if (!type) {
			type = lookup(probe, "PTTYPE");
			uuid = lookup(probe, "PTUUID");
		}
		if (type)
			snprintf(text, room, "%s%s%s", type, uuid ? " " : "",
				 uuid ? uuid : "");
	}
	blkid_free_probe(probe);
	if (r == -1)
		return fail(BAD_DEVICE, "cannot find out what is on %s: is it readable?",
			    path);

	return DONE;
}

enum result content_identity(int fd, const char *path, char *text, size_t room)
{
	return probe_content(fd, path, text, room);
}

static bool holds_metadata(int fd)
{
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	struct clone_md_superblock sb;
	const char *text;

	if (pread(fd, block, sizeof(block), 0) != sizeof(block))
		return false;
	clone_md_parse_superblock(block, &sb, &text);

	return sb.magic == CLONE_MD_MAGIC;
}

enum result device_check_empty(const struct device *dev)
{
	char found[IDENTITY_TEXT] = "";
	enum result r;
	int fd;

	fd = open(dev->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(-errno, "cannot open the %s %s", dev->role, dev->path);
	r = probe_content(fd, dev->path, found, sizeof(found));
	if (r == DONE && !*found && holds_metadata(fd))
		strcpy(found, "the metadata of a clone");
	close(fd);
	if (r == DONE && *found)
		r = fail(BAD_DEVICE,
			 "the %s %s holds something (%s): if nobody needs that any more, run 'wipefs -a %s'%s",
			 dev->role, dev->path, found, dev->path,
			 strstr(found, "metadata") ? " and zero its first 4 KiB" : "");

	return r;
}

static enum result wipe_fd(int fd, const struct device *dev, uint64_t bytes)
{
	uint64_t range[2] = { 0, bytes };

	if (ioctl(fd, BLKZEROOUT, range) || fsync(fd))
		return fail_errno(-errno, "cannot write zeroes to the %s %s", dev->role,
				  dev->path);

	return DONE;
}

enum result device_wipe(const struct device *dev, uint64_t bytes)
{
	enum result r;
	int fd;

	fd = open(dev->path, O_RDWR | O_EXCL | O_CLOEXEC);
	if (fd < 0)
		return fail_errno(-errno, "cannot open the %s %s to wipe it", dev->role,
				  dev->path);
	r = wipe_fd(fd, dev, bytes && bytes < dev->bytes ? bytes : dev->bytes);
	close(fd);

	return r;
}

/* What it is called ----------------------------------------------------- */

const char *number_text(dev_t number, char buf[NUMBER_TEXT])
{
	snprintf(buf, NUMBER_TEXT, "%u:%u", major(number), minor(number));

	return buf;
}

dev_t number_parse(const char *text)
{
	unsigned int major, minor;

	return sscanf(text, "%u:%u", &major, &minor) == 2 ? makedev(major, minor) : 0;
}

bool sys_read(dev_t number, const char *file, char *text, size_t room)
{
	char path[PATH_MAX];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(number),
		 minor(number), file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, room - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';

	return n > 0;
}

dev_t device_whole(dev_t number)
{
	char text[NUMBER_TEXT];

	if (!sys_read(number, "partition", text, sizeof(text)) ||
	    !sys_read(number, "../dev", text, sizeof(text)))
		return number;

	return number_parse(text);
}

void device_node(dev_t number, char *name, size_t room)
{
	char path[PATH_MAX], link[PATH_MAX];
	const char *last;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(number), minor(number));
	n = readlink(path, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	last = strrchr(link, '/');
	snprintf(name, room, "/dev/%.*s", NAME_MAX, last ? last + 1 : "?");
}

void device_trigger(dev_t number)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/uevent", major(number),
		 minor(number));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	/* If nobody listens that is no harm. */
	if (write(fd, "change", 6) != 6)
		errno = 0;
	close(fd);
}

static void drop_cache(dev_t number, bool partitions)
{
	char path[PATH_MAX];
	int fd;

	device_node(number, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ioctl(fd, BLKFLSBUF, 0);
	/* It is refused while partitions are in use, or if there cannot be any. */
	if (partitions)
		ioctl(fd, BLKRRPART, 0);
	close(fd);
}

void device_release(dev_t number)
{
	dev_t whole = device_whole(number);

	drop_cache(number, number == whole);
	if (number != whole)
		drop_cache(whole, false);
	device_trigger(number);
}

/*
 * Links by what is on the disk are no good: the destination will hold what the
 * source holds.  The less a name says of the disk the lower its rank.
 */
static unsigned int rank(const char *link)
{
	static const char *const best[] = {
		"lvm-pv-uuid-", "dm-name-", "dm-uuid-",		/* never */
		"", "ata-", "scsi-", "md-", "nvme-", "nvme-eui", "wwn-",
	};
	unsigned int i;

	for (i = ARRAY_SIZE(best); i-- > 1; )
		if (*best[i] && !strncmp(link, best[i], strlen(best[i])))
			break;
	if (!i)
		return strncmp(link, best[0], strlen(best[0])) ? 3 : 0;

	return i < 3 ? 0 : i;
}

static void by_id(dev_t number, char name[PATH_MAX])
{
	DIR *dir = opendir("/dev/disk/by-id");
	unsigned int best = 0;
	struct dirent *entry;
	struct stat st;

	while (dir && (entry = readdir(dir))) {
		if (rank(entry->d_name) <= best ||
		    fstatat(dirfd(dir), entry->d_name, &st, 0) ||
		    !S_ISBLK(st.st_mode) || st.st_rdev != number)
			continue;
		best = rank(entry->d_name);
		snprintf(name, PATH_MAX, "/dev/disk/by-id/%s", entry->d_name);
	}
	if (dir)
		closedir(dir);
}

/* Where udev is not there to make them names may be missing. */
static bool leads_to(const char *name, dev_t number)
{
	struct stat st;

	return !stat(name, &st) && S_ISBLK(st.st_mode) && st.st_rdev == number;
}

void device_stable_name(const struct device *dev, char name[PATH_MAX])
{
	char text[NAME_MAX];

	if (sys_read(dev->number, "dm/name", text, sizeof(text))) {
		snprintf(name, PATH_MAX, "/dev/mapper/%s", text);
		if (leads_to(name, dev->number))
			return;
	}
	snprintf(name, PATH_MAX, "%s", dev->path);
	if (strncmp(dev->path, "/dev/disk/by-", 13))
		by_id(dev->number, name);
}

void device_identity(const struct device *dev, char *text, size_t room)
{
	static const char *const files[] = {
		"dm/uuid", "wwid", "device/wwid", "serial", "device/serial", "md/uuid",
	};
	dev_t whole = device_whole(dev->number);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(files); i++)
		if (sys_read(whole, files[i], text, room))
			break;
	if (i == ARRAY_SIZE(files))
		*text = '\0';
}
