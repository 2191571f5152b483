// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Records what a program writes, to be loaded before it: LD_PRELOAD.  The log,
 * RECORD_LOG, has a header for each event, and then the data of a write:
 *
 *	u32 event	1: a write has ended, 2: a flush begins, 3: it has ended
 *	u32 file	the inode, its low bits
 *	u64 offset
 *	u64 size	of the data
 *
 * What was logged before a flush began is durable when it has ended.  The event
 * of a write comes after it, so it may be late, but never too early.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum event { WRITTEN = 1, FLUSH_BEGINS, FLUSH_ENDS };

struct header {
	uint32_t event;
	uint32_t file;
	uint64_t offset;
	uint64_t size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int log_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open(getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
			  0600);
	return fd;
}

static void record(enum event event, int fd, const void *data, uint64_t size,
		   uint64_t offset)
{
	struct stat st;
	struct header header = { .event = event, .offset = offset, .size = size };
	struct iovec parts[2] = {
		{ &header, sizeof(header) }, { (void *)data, size },
	};

	if (fstat(fd, &st))
		abort();
	header.file = st.st_ino;

	pthread_mutex_lock(&lock);
	if (writev(log_fd(), parts, 2) != (ssize_t)(sizeof(header) + size))
		abort();
	pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *buf, size_t size, off64_t offset)
{
	ssize_t (*next)(int fd, const void *buf, size_t size, off64_t offset) =
		dlsym(RTLD_NEXT, "pwrite64");
	ssize_t n = next(fd, buf, size, offset);

	if (n > 0)
		record(WRITTEN, fd, buf, n, offset);
	return n;
}

int fsync(int fd)
{
	int (*next)(int fd) = dlsym(RTLD_NEXT, "fsync");
	int r;

	record(FLUSH_BEGINS, fd, NULL, 0, 0);
	r = next(fd);
	if (!r)
		record(FLUSH_ENDS, fd, NULL, 0, 0);
	return r;
}
