// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The kernel's NBD client by generic netlink, see nbd-netlink.h.  There are two
 * sockets: one for requests and their answers, one for what the kernel tells
 * of itself.
 */

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd-netlink.h"

#ifndef NBD_CFLAG_DISCONNECT_ON_CLOSE
#define NBD_CFLAG_DISCONNECT_ON_CLOSE	2
#endif

struct nbd_link {
	int requests;
	int events;
	uint16_t family;
	uint32_t group;
};

/* Requests have few attributes; answers may have more. */
struct message {
	struct nlmsghdr header;
	struct genlmsghdr genl;
	uint8_t attributes[8192];
};

#define HEAD	(NLMSG_HDRLEN + GENL_HDRLEN)

static void begin(struct message *m, uint16_t family, uint8_t command)
{
	memset(m, 0, sizeof(*m));
	m->header.nlmsg_len = HEAD;
	m->header.nlmsg_type = family;
	m->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	m->genl.cmd = command;
	m->genl.version = 1;
}

static struct nlattr *put(struct message *m, uint16_t type, const void *data, size_t n)
{
	struct nlattr *attr = (void *)((uint8_t *)m + m->header.nlmsg_len);

	attr->nla_type = type;
	attr->nla_len = NLA_HDRLEN + n;
	if (n)
		memcpy((uint8_t *)attr + NLA_HDRLEN, data, n);
	m->header.nlmsg_len += NLA_ALIGN(attr->nla_len);

	return attr;
}

static void put_u32(struct message *m, uint16_t type, uint32_t value)
{
	put(m, type, &value, sizeof(value));
}

static void put_u64(struct message *m, uint16_t type, uint64_t value)
{
	put(m, type, &value, sizeof(value));
}

/* Everything since @attr was put is in it. */
static void end_nest(struct message *m, struct nlattr *attr)
{
	attr->nla_type |= NLA_F_NESTED;
	attr->nla_len = (uint8_t *)m + m->header.nlmsg_len - (uint8_t *)attr;
}

static void put_sockets(struct message *m, const int *sockets, unsigned int nr)
{
	struct nlattr *list = put(m, NBD_ATTR_SOCKETS, NULL, 0), *item;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		item = put(m, NBD_SOCK_ITEM, NULL, 0);
		put_u32(m, NBD_SOCK_FD, sockets[i]);
		end_nest(m, item);
	}
	end_nest(m, list);
}

/*
 * Send it, and wait until it is done: 0 or a negative errno.  @reply may be
 * NULL; it is set to what comes before that.
 */
static int ask(struct nbd_link *link, struct message *m, struct message *reply)
{
	struct message answer;
	ssize_t n;

	if (send(link->requests, m, m->header.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		n = recv(link->requests, &answer, sizeof(answer), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)NLMSG_HDRLEN)
			return n < 0 ? -errno : -EPROTO;
		if (answer.header.nlmsg_type == NLMSG_ERROR)
			return ((struct nlmsgerr *)&answer.genl)->error;
		if (reply)
			*reply = answer;
	}
}

/* An attribute between @from and @end; NULL if there is none of this type. */
static const struct nlattr *find(const void *from, const void *end, uint16_t type)
{
	const uint8_t *at = from;

	while (at + NLA_HDRLEN <= (const uint8_t *)end) {
		const struct nlattr *attr = (const void *)at;

		if (attr->nla_len < NLA_HDRLEN || at + attr->nla_len > (const uint8_t *)end)
			break;
		if ((attr->nla_type & NLA_TYPE_MASK) == type)
			return attr;
		at += NLA_ALIGN(attr->nla_len);
	}

	return NULL;
}

static const void *data_of(const struct nlattr *attr)
{
	return (const uint8_t *)attr + NLA_HDRLEN;
}

static const void *end_of(const struct nlattr *attr)
{
	return (const uint8_t *)attr + attr->nla_len;
}

static const struct nlattr *find_in(const struct message *m, uint16_t type)
{
	return find(m->attributes, (const uint8_t *)m + m->header.nlmsg_len, type);
}

/* The first group that the family has: it has one. */
static bool take_group(struct nbd_link *link, const struct message *m)
{
	const struct nlattr *groups = find_in(m, CTRL_ATTR_MCAST_GROUPS);
	const struct nlattr *first, *id;

	if (!groups || (const uint8_t *)end_of(groups) - (const uint8_t *)data_of(groups) <
	    NLA_HDRLEN)
		return false;
	first = data_of(groups);
	id = find(data_of(first), end_of(first), CTRL_ATTR_MCAST_GRP_ID);
	if (!id)
		return false;
	memcpy(&link->group, data_of(id), sizeof(link->group));

	return true;
}

static bool resolve(struct nbd_link *link)
{
	struct message m, reply;
	const struct nlattr *id;

	memset(&reply, 0, sizeof(reply));
	begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	if (ask(link, &m, &reply))
		return false;
	id = find_in(&reply, CTRL_ATTR_FAMILY_ID);
	if (!id || !take_group(link, &reply))
		return false;
	memcpy(&link->family, data_of(id), sizeof(link->family));

	return true;
}

static int open_socket(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		fd = -1;
	}

	return fd;
}

struct nbd_link *nbd_link_open(void)
{
	struct nbd_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->requests = open_socket();
	link->events = open_socket();
	if (link->requests >= 0 && link->events >= 0 && resolve(link) &&
	    !setsockopt(link->events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &link->group,
			sizeof(link->group)))
		return link;

	if (link->requests >= 0)
		close(link->requests);
	if (link->events >= 0)
		close(link->events);
	free(link);

	return NULL;
}

int nbd_link_fd(const struct nbd_link *link)
{
	return link->events;
}

static int take_index(const struct message *m)
{
	const struct nlattr *index = find_in(m, NBD_ATTR_INDEX);
	uint32_t number;

	if (!index)
		return -EPROTO;
	memcpy(&number, data_of(index), sizeof(number));

	return number;
}

int nbd_link_connect(struct nbd_link *link, const struct nbd_export *export,
		     const int *sockets, unsigned int nr)
{
	struct message m, reply;
	int r;

	memset(&reply, 0, sizeof(reply));
	begin(&m, link->family, NBD_CMD_CONNECT);
	put_u64(&m, NBD_ATTR_SIZE_BYTES, export->bytes);
	put_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, export->block_size);
	put_u64(&m, NBD_ATTR_SERVER_FLAGS, export->flags);
	put_u64(&m, NBD_ATTR_TIMEOUT, REQUEST_TIMEOUT);
	put_u64(&m, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_TIMEOUT);
	put(&m, NBD_ATTR_BACKEND_IDENTIFIER, export->name, strlen(export->name) + 1);
	put_sockets(&m, sockets, nr);
	r = ask(link, &m, &reply);

	return r ? r : take_index(&reply);
}

int nbd_link_let_close(struct nbd_link *link, int number, const char *name)
{
	struct message m;

	begin(&m, link->family, NBD_CMD_RECONFIGURE);
	put_u32(&m, NBD_ATTR_INDEX, number);
	put(&m, NBD_ATTR_BACKEND_IDENTIFIER, name, strlen(name) + 1);
	put_u64(&m, NBD_ATTR_CLIENT_FLAGS, NBD_CFLAG_DISCONNECT_ON_CLOSE);

	return ask(link, &m, NULL);
}

void nbd_link_disconnect(struct nbd_link *link, int number)
{
	struct message m;

	begin(&m, link->family, NBD_CMD_DISCONNECT);
	put_u32(&m, NBD_ATTR_INDEX, number);
	ask(link, &m, NULL);
}

int nbd_link_reconnect(struct nbd_link *link, int number, const char *name, int socket)
{
	struct message m;

	begin(&m, link->family, NBD_CMD_RECONFIGURE);
	put_u32(&m, NBD_ATTR_INDEX, number);
	put(&m, NBD_ATTR_BACKEND_IDENTIFIER, name, strlen(name) + 1);
	put_sockets(&m, &socket, 1);

	return ask(link, &m, NULL);
}

unsigned int nbd_link_nr_dead(struct nbd_link *link, int number)
{
	unsigned int nr = 0;
	struct message m;

	while (recv(link->events, &m, sizeof(m), MSG_DONTWAIT) > 0)
		nr += m.genl.cmd == NBD_CMD_LINK_DEAD && take_index(&m) == number;

	return nr;
}
