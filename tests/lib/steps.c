// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Kill a program before its Nth step, where a step is a call that changes
 * something that outlives the program: to be preloaded, with KILL_AT=N.
 *
 * Between two such calls it does not matter when a program is killed.  Programs
 * that it starts are one step each, and are left alone.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int kill_at;

__attribute__((constructor)) static void init(void)
{
	const char *at = getenv("KILL_AT");

	kill_at = at ? atoi(at) : 0;
	unsetenv("LD_PRELOAD");
}

static void step(void)
{
	static int nr;

	if (++nr == kill_at)
		kill(getpid(), SIGKILL);
}

static bool changes(unsigned long request)
{
	switch (request) {
	case DM_DEV_CREATE:
	case DM_DEV_REMOVE:
	case DM_DEV_RENAME:
	case DM_DEV_SUSPEND:
	case DM_TABLE_LOAD:
	case DM_TABLE_CLEAR:
	case DM_TARGET_MSG:
	case BLKZEROOUT:
	case LOOP_CONFIGURE:
		return true;
	default:
		return false;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int fd, unsigned long request, void *arg);
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (!real)
		real = dlsym(RTLD_NEXT, "ioctl");
	if (changes(request))
		step();

	return real(fd, request, arg);
}

pid_t fork(void)
{
	static pid_t (*real)(void);

	if (!real)
		real = dlsym(RTLD_NEXT, "fork");
	step();

	return real();
}

int fsync(int fd)
{
	static int (*real)(int fd);

	if (!real)
		real = dlsym(RTLD_NEXT, "fsync");
	step();

	return real(fd);
}

int rename(const char *from, const char *to)
{
	static int (*real)(const char *from, const char *to);

	if (!real)
		real = dlsym(RTLD_NEXT, "rename");
	step();

	return real(from, to);
}

int unlink(const char *path)
{
	static int (*real)(const char *path);

	if (!real)
		real = dlsym(RTLD_NEXT, "unlink");
	step();

	return real(path);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
	static int (*real)(int fd, off64_t offset, off64_t length);

	if (!real)
		real = dlsym(RTLD_NEXT, "posix_fallocate64");
	step();

	return real(fd, offset, length);
}
