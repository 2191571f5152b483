// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper by ioctl: starting dmsetup each time would take longer than
 * everything else.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "base.h"
#include "dm.h"

static int control = -1;

int dm_open_control(void)
{
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	return control < 0 ? -errno : 0;
}

/* The ioctl's buffer: header, then @room bytes of payload. */
static struct dm_ioctl *new_request(const char *name, size_t room)
{
	struct dm_ioctl *io = must_alloc(sizeof(*io) + room);

	io->version[0] = 4;
	io->data_size = sizeof(*io) + room;
	io->data_start = sizeof(*io);
	snprintf(io->name, sizeof(io->name), "%s", name);
	return io;
}

static int do_request(unsigned long command, struct dm_ioctl *io)
{
	return ioctl(control, command, io) < 0 ? -errno : 0;
}

static int simple_request(unsigned long command, const char *name, uint32_t flags)
{
	struct dm_ioctl *io = new_request(name, 256);
	int r;

	io->flags = flags;
	r = do_request(command, io);
	free(io);
	return r;
}

int dm_create(const char *name, unsigned int *major_out, unsigned int *minor_out)
{
	struct dm_ioctl *io = new_request(name, 256);
	int r = do_request(DM_DEV_CREATE, io);

	if (!r) {
		*major_out = major(io->dev);
		*minor_out = minor(io->dev);
	}
	free(io);
	return r;
}

int dm_remove(const char *name)
{
	return simple_request(DM_DEV_REMOVE, name, 0);
}

int dm_clear(const char *name)
{
	return simple_request(DM_TABLE_CLEAR, name, 0);
}

int dm_suspend(const char *name)
{
	return simple_request(DM_DEV_SUSPEND, name, DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG);
}

int dm_resume(const char *name)
{
	return simple_request(DM_DEV_SUSPEND, name, DM_SKIP_LOCKFS_FLAG);
}

static size_t spec_size(const struct dm_piece *piece)
{
	return (sizeof(struct dm_target_spec) + strlen(piece->params) + 1 + 7) & ~(size_t)7;
}

int dm_load(const char *name, const struct dm_piece *pieces, unsigned int nr)
{
	size_t room = 0;
	struct dm_ioctl *io;
	char *p;
	int r;

	for (unsigned int i = 0; i < nr; i++)
		room += spec_size(&pieces[i]);

	io = new_request(name, room);
	io->target_count = nr;
	p = (char *)(io + 1);
	for (unsigned int i = 0; i < nr; i++) {
		struct dm_target_spec *spec = (void *)p;

		spec->sector_start = pieces[i].start;
		spec->length = pieces[i].length;
		spec->next = spec_size(&pieces[i]);
		snprintf(spec->target_type, sizeof(spec->target_type), "%s", pieces[i].target);
		memcpy(spec + 1, pieces[i].params, strlen(pieces[i].params) + 1);
		p += spec->next;
	}

	r = do_request(DM_TABLE_LOAD, io);
	free(io);
	return r;
}

static int read_status(const char *name, uint32_t flags, size_t room, char *out, size_t size)
{
	struct dm_ioctl *io = new_request(name, room);
	struct dm_target_spec *spec;
	int r;

	io->flags = flags | DM_NOFLUSH_FLAG;
	r = do_request(DM_TABLE_STATUS, io);
	if (!r && (io->flags & DM_BUFFER_FULL_FLAG))
		r = -ENOBUFS;
	if (!r && !io->target_count)
		r = -ENXIO;
	if (!r) {
		spec = (void *)((char *)io + io->data_start);
		snprintf(out, size, "%s", (char *)(spec + 1));
	}
	free(io);
	return r;
}

int dm_status(const char *name, char *out, size_t size)
{
	return read_status(name, 0, 65536, out, size);
}

int dm_status_in(const char *name, size_t room, char *out, size_t size)
{
	return read_status(name, 0, room, out, size);
}

int dm_table(const char *name, bool inactive, char *out, size_t size)
{
	return read_status(name, DM_STATUS_TABLE_FLAG |
			   (inactive ? DM_QUERY_INACTIVE_TABLE_FLAG : 0), 65536, out, size);
}

int dm_message(const char *name, uint64_t sector, const void *text, size_t text_size)
{
	struct dm_ioctl *io = new_request(name, sizeof(struct dm_target_msg) + text_size);
	struct dm_target_msg *msg = (void *)(io + 1);
	int r;

	msg->sector = sector;
	memcpy(msg->message, text, text_size);
	r = do_request(DM_TARGET_MSG, io);
	free(io);
	return r;
}
