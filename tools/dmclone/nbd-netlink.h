/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The kernel's NBD client by generic netlink.
 */
#ifndef DMCLONE_NBD_NETLINK_H
#define DMCLONE_NBD_NETLINK_H

#include "base.h"

#define REQUEST_TIMEOUT		30	/* seconds, of one request */
#define DEAD_TIMEOUT		600	/* seconds, for a connection to come back */

struct nbd_export {
	uint64_t bytes;
	uint64_t block_size;
	uint64_t flags;			/* as the protocol has them */
	const char *name;		/* "backend" in sysfs; newer kernels have that */
};

struct nbd_link;

/* NULL if the kernel has no NBD.  From now on dead connections are heard of. */
struct nbd_link *nbd_link_open(void);
int nbd_link_fd(const struct nbd_link *link);

/*
 * Connect a device that is free; the kernel says which.  Returns its number or
 * a negative errno.
 */
int nbd_link_connect(struct nbd_link *link, const struct nbd_export *export,
		     const int *sockets, unsigned int nr);

/* From now on the device disconnects when it is closed for the last time. */
int nbd_link_let_close(struct nbd_link *link, int number, const char *name);

void nbd_link_disconnect(struct nbd_link *link, int number);

/* Replace one dead connection; -ENOSPC if none is dead. */
int nbd_link_reconnect(struct nbd_link *link, int number, const char *name, int socket);

/* How many connections of the device have died since this was last asked. */
unsigned int nbd_link_nr_dead(struct nbd_link *link, int number);

#endif
