// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Mapped devices through libdevmapper, see table.h.
 */

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <linux/dm-ioctl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "table.h"

/* What libdevmapper has said last: people are told by us, and in one line. */
static char last_words[512];

__attribute__((format(printf, 5, 6)))
static void take_words(int level, const char *file, int line, int error,
		       const char *format, ...)
{
	va_list args;

	(void)file;
	(void)line;
	(void)error;
	if ((level & 7) > 3)
		return;
	va_start(args, format);
	vsnprintf(last_words, sizeof(last_words), format, args);
	va_end(args);
}

enum result table_init(void)
{
	dm_log_with_errno_init(take_words);
	dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE);
	if (geteuid())
		return fail(NO_PERMISSION, "this needs root");

	return DONE;
}

const char *table_last_words(void)
{
	return last_words;
}

static struct dm_task *new_task(int type, const char *name)
{
	struct dm_task *task = dm_task_create(type);

	if (task && name && !dm_task_set_name(task, name)) {
		dm_task_destroy(task);
		task = NULL;
	}

	return task;
}

/* Run it, with udev's consent where that is there; 0 or a negative errno. */
static int run_task(struct dm_task *task, bool udev)
{
	uint32_t cookie = 0;
	int r = 0;

	last_words[0] = '\0';
	if (udev && !dm_task_set_cookie(task, &cookie, 0))
		return -EIO;
	if (!dm_task_run(task))
		r = -dm_task_get_errno(task);
	if (udev)
		dm_udev_wait(cookie);

	return r;
}

static enum result simple_task(int type, const char *name, bool udev, const char *what)
{
	struct dm_task *task = new_task(type, name);
	int r;

	if (!task)
		return out_of_memory();
	r = run_task(task, udev);
	dm_task_destroy(task);
	if (r)
		return fail_errno(r, "cannot %s '%s'", what, name);

	return DONE;
}

/* Reading --------------------------------------------------------------- */

static bool take_targets(struct dm_task *task, struct mapping *map)
{
	char *type, *params;
	void *next = NULL;

	map->nr_targets = 0;
	do {
		struct target *target = &map->targets[map->nr_targets];

		next = dm_get_next_target(task, next, &target->start, &target->length,
					  &type, &params);
		if (!type)
			continue;
		snprintf(target->type, sizeof(target->type), "%s", type);
		snprintf(target->params, sizeof(target->params), "%s",
			 params ? params : "");
		map->nr_targets++;
	} while (next && map->nr_targets < MAX_TARGETS);

	return !next;
}

static bool take_info(struct dm_task *task, struct mapping *map)
{
	struct dm_info info;
	const char *uuid;

	if (!dm_task_get_info(task, &info))
		return false;
	uuid = dm_task_get_uuid(task);
	snprintf(map->uuid, sizeof(map->uuid), "%s", uuid ? uuid : "");
	map->exists = info.exists;
	map->live = info.live_table;
	map->suspended = info.suspended;
	map->readonly = info.read_only;
	map->nr_open = info.open_count;
	map->event_nr = info.event_nr;
	map->number = makedev(info.major, info.minor);

	return true;
}

static enum result read_mapping(int type, const char *name, struct mapping *map)
{
	struct dm_task *task = new_task(type, name);
	enum result r = DONE;
	int error;

	memset(map, 0, sizeof(*map));
	if (!task)
		return out_of_memory();
	dm_task_no_flush(task);
	error = run_task(task, false);
	if (error && error != -ENXIO)
		r = fail_errno(error, "cannot ask for the state of '%s'", name);
	else if (!error && (!take_info(task, map) || !take_targets(task, map)))
		r = fail(BAD_DEVICE, "'%s' has more than %d targets", name, MAX_TARGETS);
	dm_task_destroy(task);

	return r;
}

enum result table_read(const char *name, struct mapping *map)
{
	return read_mapping(DM_DEVICE_TABLE, name, map);
}

enum result table_status(const char *name, struct mapping *map)
{
	return read_mapping(DM_DEVICE_STATUS, name, map);
}

const struct target *table_find(const struct mapping *map, const char *type)
{
	unsigned int i;

	for (i = 0; i < map->nr_targets; i++)
		if (!strcmp(map->targets[i].type, type))
			return &map->targets[i];

	return NULL;
}

enum result table_for_each(enum result (*fn)(const char *name, void *context),
			   void *context)
{
	struct dm_task *task = new_task(DM_DEVICE_LIST, NULL);
	struct dm_names *names;
	enum result r = DONE;
	int error;

	if (!task)
		return out_of_memory();
	error = run_task(task, false);
	names = error ? NULL : dm_task_get_names(task);
	if (!names)
		r = fail_errno(error ? error : -ENOMEM, "cannot list mapped devices");
	while (r == DONE && names->dev) {
		r = fn(names->name, context);
		if (!names->next)
			break;
		names = (void *)((char *)names + names->next);
	}
	dm_task_destroy(task);

	return r;
}

/* Changing -------------------------------------------------------------- */

enum result table_create(const char *name, const char *uuid)
{
	struct dm_task *task = new_task(DM_DEVICE_CREATE, name);
	int r;

	if (!task || !dm_task_set_uuid(task, uuid)) {
		if (task)
			dm_task_destroy(task);
		return out_of_memory();
	}
	r = run_task(task, false);
	dm_task_destroy(task);
	if (r)
		return fail_errno(r, "cannot create the device '%s'", name);

	return DONE;
}

/* Why the kernel refuses a table is in its log, and nowhere else. */
static int open_log(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);

	return fd;
}

static void tell_log(int fd)
{
	char record[2048];
	ssize_t n;

	if (fd < 0)
		return;
	while ((n = read(fd, record, sizeof(record) - 1)) > 0 || errno == EPIPE) {
		char *text;

		if (n < 0)
			continue;
		record[n] = '\0';
		text = strchr(record, ';');
		if (!text || !strstr(text, "device-mapper:"))
			continue;
		text[strcspn(text, "\n")] = '\0';
		warn("the kernel says: %s", text + 1);
	}
}

static struct dm_task *load_task(const char *name, const struct target *targets,
				 unsigned int nr, bool readonly)
{
	struct dm_task *task = new_task(DM_DEVICE_RELOAD, name);
	unsigned int i;

	for (i = 0; task && i < nr; i++)
		if (!dm_task_add_target(task, targets[i].start, targets[i].length,
					targets[i].type, targets[i].params)) {
			dm_task_destroy(task);
			task = NULL;
		}
	if (task && readonly)
		dm_task_set_ro(task);

	return task;
}

enum result table_load(const char *name, const struct target *targets,
		       unsigned int nr, bool readonly)
{
	struct dm_task *task = load_task(name, targets, nr, readonly);
	enum result result = DONE;
	int log, r;

	if (!task)
		return out_of_memory();
	log = open_log();
	r = run_task(task, false);
	dm_task_destroy(task);
	if (r) {
		result = fail_errno(r, "the kernel refuses the table '%s %s' of '%s'",
				    targets->type, targets->params, name);
		tell_log(log);
		if (r == -EINVAL && log < 0)
			warn("the kernel's log says why: dmesg | tail");
	}
	if (log >= 0)
		close(log);

	return result;
}

enum result table_resume(const char *name)
{
	return simple_task(DM_DEVICE_RESUME, name, true, "resume");
}

enum result table_clear(const char *name)
{
	return simple_task(DM_DEVICE_CLEAR, name, false, "clear");
}

enum result table_remove(const char *name)
{
	return simple_task(DM_DEVICE_REMOVE, name, true, "remove");
}

enum result table_set_uuid(const char *name, const char *uuid)
{
	struct dm_task *task = new_task(DM_DEVICE_RENAME, name);
	int r = -ENOMEM;

	if (task && dm_task_set_newuuid(task, uuid))
		r = run_task(task, true);
	if (task)
		dm_task_destroy(task);
	if (r)
		return fail_errno(r, "cannot give '%s' the UUID '%s'", name, uuid);

	return DONE;
}

enum result table_swap(const char *name)
{
	enum result r;

	/* While it is suspended this program may not be readable: it may be on it. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	r = simple_task(DM_DEVICE_SUSPEND, name, false, "suspend");
	if (!r)
		r = table_resume(name);
	munlockall();

	return r;
}

int table_try_message(const char *name, uint64_t sector, const char *message,
		      char *reply, size_t room)
{
	struct dm_task *task = new_task(DM_DEVICE_TARGET_MSG, name);
	const char *text;
	int r = -ENOMEM;

	if (reply && room)
		*reply = '\0';
	if (!task)
		return r;
	if (dm_task_set_sector(task, sector) && dm_task_set_message(task, message))
		r = run_task(task, false);
	text = r ? NULL : dm_task_get_message_response(task);
	if (text && reply)
		snprintf(reply, room, "%s", text);
	dm_task_destroy(task);

	return r;
}

enum result table_message(const char *name, uint64_t sector, const char *message,
			  char *reply, size_t room)
{
	int r = table_try_message(name, sector, message, reply, room);

	if (r == -EINVAL)
		return fail(BAD_DEVICE,
			    "the clone target of this kernel does not know '%s': it needs the module dm-clone of this project",
			    message);
	if (r)
		return fail_errno(r, "cannot send '%s' to '%s'", message, name);

	return DONE;
}

/* Events ---------------------------------------------------------------- */

int events_open(void)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int events_arm(int fd)
{
	struct dm_ioctl arg = {
		.version = { 4, 37, 0 },
		.data_size = sizeof(arg),
	};

	return ioctl(fd, DM_DEV_ARM_POLL, &arg) ? -errno : 0;
}

void events_wait(int fd, int milliseconds)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	poll(&pollfd, 1, milliseconds);
}
