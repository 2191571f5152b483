// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Files as loop devices, see attach.h.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach.h"

#define TRIES	64		/* others look for free devices too */

void load_module(const char *name)
{
	char *argv[4] = { "modprobe", "-q", (char *)name, NULL };
	char path[PATH_MAX];
	pid_t pid;

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	if (access(path, F_OK) && !posix_spawnp(&pid, *argv, NULL, NULL, argv, environ))
		waitpid(pid, NULL, 0);
}

/* 0, or a negative errno; -EBUSY if somebody else has been faster. */
static int configure(int control, int file, const char *name, bool writable,
		     struct attached *loop)
{
	struct loop_config config = { .fd = file };
	int number, r, direct;

	number = ioctl(control, LOOP_CTL_GET_FREE);
	if (number < 0)
		return -errno;
	snprintf(loop->path, sizeof(loop->path), "/dev/loop%d", number);
	loop->fd = open(loop->path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (loop->fd < 0)
		return -errno;

	config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (writable ? 0 : LO_FLAGS_READ_ONLY);
	/* Not every file system has it; the kernel does not notice all of those. */
	direct = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (direct >= 0) {
		config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
		close(direct);
	}
	snprintf((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", name);
	if (!ioctl(loop->fd, LOOP_CONFIGURE, &config))
		return 0;
	r = -errno;
	close(loop->fd);

	return r;
}

enum result loop_attach(const char *name, bool writable, struct attached *loop)
{
	unsigned int tries = TRIES;
	int control, file, r;

	file = open(name, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (file < 0)
		return fail_errno(-errno, "cannot open %s", name);
	load_module("loop");
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0) {
		close(file);
		return fail_errno(-errno,
				  "cannot open /dev/loop-control: the kernel has no loop devices");
	}
	do
		r = configure(control, file, name, writable, loop);
	while (r == -EBUSY && --tries);
	close(control);
	close(file);
	if (r)
		return fail_errno(r, "cannot make a loop device over %s", name);

	return DONE;
}

static bool is_over(const char *loop, const struct stat *file)
{
	char path[PATH_MAX], name[PATH_MAX];
	struct stat st;
	FILE *backing;
	bool found;

	snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", loop);
	backing = fopen(path, "re");
	if (!backing)
		return false;
	found = fgets(name, sizeof(name), backing);
	fclose(backing);
	if (found)
		name[strcspn(name, "\n")] = '\0';

	return found && !stat(name, &st) && st.st_dev == file->st_dev &&
	       st.st_ino == file->st_ino;
}

bool loop_find(const char *file, char *name, size_t room)
{
	struct dirent *entry;
	bool found = false;
	struct stat st;
	DIR *dir;

	if (stat(file, &st))
		return false;
	dir = opendir("/sys/block");
	while (dir && !found && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "loop", 4) && is_over(entry->d_name, &st)) {
			snprintf(name, room, "%s", entry->d_name);
			found = true;
		}
	if (dir)
		closedir(dir);

	return found;
}
