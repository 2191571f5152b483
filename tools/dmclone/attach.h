/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Files and NBD exports as block devices.
 *
 * Nothing has to be detached: such a device goes away when it is closed for the
 * last time, be it by this program, killed perhaps, or by a table that has been
 * taken away.  So keep @fd open until a table holds the device.
 */
#ifndef DMCLONE_ATTACH_H
#define DMCLONE_ATTACH_H

#include "base.h"
#include "report.h"

struct attached {
	int fd;
	char path[64];			/* of the block device */
};

enum result loop_attach(const char *file, bool writable, struct attached *loop);

/* Which loop device has the file already; false if none. */
bool loop_find(const char *file, char *name, size_t room);

/* What a driver needs that is not built in; that it fails shows soon enough. */
void load_module(const char *name);

bool is_nbd_uri(const char *text);
enum result nbd_attach(const char *uri, struct attached *nbd);

/*
 * The process that holds the connection of an NBD device, and connects it
 * again.  It is this program, called in a way of its own.
 */
#define KEEPER	"nbd-keeper"
int nbd_keeper(const char *uri);

/*
 * Calls @fn for each range, in bytes, that the server says to read as zeroes.
 * Nothing is called if it says nothing.
 */
typedef enum result (*range_fn)(uint64_t start, uint64_t length, void *context);
enum result nbd_visit_holes(const char *uri, range_fn fn, void *context);

#endif
