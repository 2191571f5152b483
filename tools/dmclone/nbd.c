// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * NBD exports as block devices, see attach.h.
 *
 * libnbd connects and negotiates; its sockets are then handed to the kernel, by
 * netlink (nbd-netlink.c), and the kernel does the I/O.  A process of its own,
 * the keeper, remains: it hears from the kernel when a connection has died, and
 * gives it another.  Until then I/O waits, for DEAD_TIMEOUT at most.
 *
 *	dmclone				keeper
 *	  fork, exec			  connects /dev/nbdN, opens it
 *	  opens /dev/nbdN	<----	  "nbdN" to its stdout
 *	  loads the table
 *	  ends			---->	  end of file on stdin: closes /dev/nbdN
 *
 * The device disconnects when it is closed for the last time.  So it goes away
 * if the one or the other is killed before a table holds it, and with the table;
 * the keeper sees that and ends.
 */

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <linux/nbd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "attach.h"
#include "nbd-netlink.h"

#define CONNECTIONS	4
#define FIRST_PAUSE	1		/* seconds between attempts to connect again */
#define LONGEST_PAUSE	10
#define LOOK		2000		/* ms: is the device still connected? */
#define MAX_EXTENT	UINT32_C(0x40000000)	/* bytes, of one question */

bool is_nbd_uri(const char *text)
{
	return strstr(text, "://") && !strncmp(text, "nbd", 3);
}

/*
 * Connect; NULL if that fails.  The kernel knows simple replies only; what asks
 * for a map needs the others.
 */
static struct nbd_handle *connect_uri(const char *uri, bool map)
{
	struct nbd_handle *nbd = nbd_create();

	if (!nbd)
		return NULL;
	nbd_set_request_structured_replies(nbd, map);
	nbd_set_uri_allow_tls(nbd, LIBNBD_TLS_DISABLE);
	nbd_set_uri_allow_local_file(nbd, true);
	if ((map && nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION)) ||
	    nbd_connect_uri(nbd, uri)) {
		nbd_close(nbd);
		return NULL;
	}

	return nbd;
}

/* The socket, for the kernel.  Closing the handle says nothing to the server. */
static int take_socket(struct nbd_handle *nbd)
{
	int fd = nbd_aio_get_fd(nbd);

	fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	nbd_close(nbd);
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);

	return fd;
}

/* The keeper ------------------------------------------------------------ */

struct keeper {
	const char *uri;
	struct nbd_link *link;
	struct nbd_export export;
	int number;			/* N of /dev/nbdN */
	int fd;				/* of it; -1 once the table holds it */
	unsigned int nr_dead;		/* connections to replace */
	unsigned int pause;		/* seconds; 0: try at once */
};

static void tell_parent(const char *text)
{
	printf("%s\n", text);
	fflush(stdout);
}

static bool ask_export(struct nbd_handle *nbd, const char *uri, struct nbd_export *export)
{
	int64_t size = nbd_get_size(nbd);
	int64_t block = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);

	export->name = uri;
	export->bytes = size;
	export->block_size = block > SECTOR ? block : SECTOR;
	export->flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY;
	if (nbd_can_multi_conn(nbd) == 1)
		export->flags |= NBD_FLAG_CAN_MULTI_CONN;

	return size >= 0;
}

/* As many connections as help; one has to work. */
static unsigned int open_sockets(struct keeper *k, int sockets[CONNECTIONS])
{
	struct nbd_handle *nbd = connect_uri(k->uri, false);
	unsigned int nr = 0, want = 1;

	while (nbd) {
		if (!nr && !ask_export(nbd, k->uri, &k->export)) {
			nbd_close(nbd);
			break;
		}
		if (k->export.flags & NBD_FLAG_CAN_MULTI_CONN)
			want = CONNECTIONS;
		sockets[nr] = take_socket(nbd);
		if (sockets[nr] < 0 || ++nr == want)
			break;
		nbd = connect_uri(k->uri, false);
	}

	return nr;
}

/*
 * A device that is open cannot be connected.  Others may open and close it at
 * once, as udev does; so it disconnects by itself only once it is open here.
 */
static int connect_device(struct keeper *k, const int *sockets, unsigned int nr)
{
	char path[64];
	int r;

	k->number = nbd_link_connect(k->link, &k->export, sockets, nr);
	if (k->number < 0)
		return k->number;
	snprintf(path, sizeof(path), "/dev/nbd%d", k->number);
	k->fd = open(path, O_RDONLY | O_CLOEXEC);
	r = k->fd < 0 ? -errno : nbd_link_let_close(k->link, k->number, k->uri);
	if (r)
		nbd_link_disconnect(k->link, k->number);

	return r;
}

static bool start_keeping(struct keeper *k)
{
	int sockets[CONNECTIONS];
	unsigned int nr, i;
	char text[64];
	int r;

	k->link = nbd_link_open();
	if (!k->link) {
		tell_parent("the kernel has no nbd (modprobe nbd)");
		return false;
	}
	nr = open_sockets(k, sockets);
	if (!nr) {
		tell_parent(nbd_get_error());
		return false;
	}
	r = connect_device(k, sockets, nr);
	for (i = 0; i < nr; i++)
		close(sockets[i]);
	if (r) {
		tell_parent(strerror(-r));
		return false;
	}
	snprintf(text, sizeof(text), "nbd%d", k->number);
	tell_parent(text);

	return true;
}

/* Replace one connection that has died; true if that is done. */
static bool replace_one(struct keeper *k)
{
	struct nbd_handle *nbd = connect_uri(k->uri, false);
	struct nbd_export export;
	int fd, r;

	if (!nbd)
		return false;
	if (!ask_export(nbd, k->uri, &export) || export.bytes != k->export.bytes) {
		syslog(LOG_ERR, "%s has another size now: not connected", k->uri);
		nbd_close(nbd);
		return false;
	}
	fd = take_socket(nbd);
	if (fd < 0)
		return false;
	r = nbd_link_reconnect(k->link, k->number, k->uri, fd);
	close(fd);
	if (r == -ENOSPC)		/* nothing is dead */
		k->nr_dead = 1;

	return !r || r == -ENOSPC;
}

static void mend(struct keeper *k)
{
	while (k->nr_dead && replace_one(k)) {
		k->nr_dead--;
		k->pause = 0;
		if (!k->nr_dead)
			syslog(LOG_NOTICE, "%s is connected again", k->uri);
	}
	if (k->nr_dead) {
		k->pause = k->pause ? 2 * k->pause : FIRST_PAUSE;
		if (k->pause > LONGEST_PAUSE)
			k->pause = LONGEST_PAUSE;
	}
}

static bool is_connected(const struct keeper *k)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/nbd%d/pid", k->number);
	return !access(path, F_OK);
}

static void let_go(struct keeper *k)
{
	close(k->fd);
	k->fd = -1;
}

/* Until the device is no longer connected */
static void keep(struct keeper *k)
{
	struct pollfd fds[] = {
		{ .fd = nbd_link_fd(k->link), .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	int timeout;

	while (is_connected(k)) {
		timeout = k->nr_dead ? (int)k->pause * 1000 : LOOK;
		if (poll(fds, ARRAY_SIZE(fds), timeout) < 0 && errno != EINTR)
			return;
		if (fds[1].revents) {
			let_go(k);
			fds[1].fd = -1;
			fds[1].revents = 0;
		}
		if (fds[0].revents)
			k->nr_dead += nbd_link_nr_dead(k->link, k->number);
		if (k->nr_dead)
			mend(k);
	}
}

int nbd_keeper(const char *uri)
{
	struct keeper k = { .uri = uri, .fd = -1 };
	int null;

	signal(SIGPIPE, SIG_IGN);
	if (!start_keeping(&k))
		return BAD_DEVICE;

	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	if (chdir("/"))
		return BAD_DEVICE;
	openlog("dmclone", LOG_PID, LOG_DAEMON);
	keep(&k);

	return DONE;
}

/* Starting it ----------------------------------------------------------- */

/*
 * @in ends when this process does.  The keeper is nobody's child: whoever waits
 * for dmclone does not wait for it.
 */
static void run_keeper(const char *uri, int in, int out)
{
	/* The @ tells systemd not to kill it before file systems are unmounted. */
	char *argv[4] = { "@dmclone", KEEPER, (char *)uri, NULL };

	if (fork())
		_exit(0);
	setsid();
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	execv("/proc/self/exe", argv);
	_exit(1);
}

static int start_keeper(const char *uri)
{
	int in[2], out[2];
	pid_t pid;

	if (pipe2(in, O_CLOEXEC))
		return -errno;
	if (pipe2(out, O_CLOEXEC)) {
		close(in[0]);
		close(in[1]);
		return -errno;
	}
	pid = fork();
	if (!pid)
		run_keeper(uri, in[0], out[1]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	close(in[0]);
	close(out[1]);
	if (pid > 0)
		return out[0];
	close(in[1]);
	close(out[0]);

	return -EAGAIN;
}

enum result nbd_attach(const char *uri, struct attached *nbd)
{
	char answer[512] = "it has ended without a word";
	FILE *file;
	int fd;

	load_module("nbd");
	fd = start_keeper(uri);
	if (fd < 0)
		return fail_errno(fd, "cannot start a process for %s", uri);
	file = fdopen(fd, "r");
	if (file && fgets(answer, sizeof(answer), file))
		answer[strcspn(answer, "\n")] = '\0';
	if (file)
		fclose(file);
	if (strncmp(answer, "nbd", 3) || strchr(answer, ' '))
		return fail(BAD_DEVICE, "cannot attach %s: %s", uri, answer);

	snprintf(nbd->path, sizeof(nbd->path), "/dev/%.32s", answer);
	nbd->fd = open(nbd->path, O_RDONLY | O_CLOEXEC);
	if (nbd->fd < 0)
		return fail_errno(-errno, "cannot open %s", nbd->path);

	return DONE;
}

/* The map --------------------------------------------------------------- */

struct holes {
	uint64_t at;			/* what has been told so far */
	range_fn fn;
	void *context;
	enum result result;
};

static int take_extents(void *context, const char *name, uint64_t offset,
			uint32_t *entries, size_t nr, int *error)
{
	struct holes *holes = context;
	size_t i;

	(void)error;
	if (strcmp(name, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return 0;
	for (i = 0; i + 1 < nr; i += 2) {
		uint32_t length = entries[i];

		if (entries[i + 1] & LIBNBD_STATE_ZERO && !holes->result)
			holes->result = holes->fn(offset, length, holes->context);
		offset += length;
	}
	holes->at = offset;

	return 0;
}

enum result nbd_visit_holes(const char *uri, range_fn fn, void *context)
{
	struct holes holes = { .fn = fn, .context = context };
	struct nbd_handle *nbd = connect_uri(uri, true);
	int64_t size = nbd ? nbd_get_size(nbd) : -1;

	if (size < 0 || nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
		size = 0;		/* it knows of none, that's all */
	while (holes.at < (uint64_t)size && !holes.result) {
		uint64_t left = size - holes.at, before = holes.at;
		nbd_extent_callback callback = {
			.callback = take_extents, .user_data = &holes,
		};

		if (nbd_block_status(nbd, left < MAX_EXTENT ? left : MAX_EXTENT,
				     holes.at, callback, 0) || holes.at == before)
			break;
	}
	if (nbd)
		nbd_close(nbd);

	return holes.result;
}
