// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone monitor, and event, which the plugin of dmeventd runs.
 *
 * dmeventd has many devices to watch, and must not wait for any of them.  So the
 * plugin looks and logs, and what may take time, or waits for locks, is done here,
 * in a process of its own.
 */

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper-event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmclone.h"
#include "monitor.h"

#define DAEMON		"/sbin/dmeventd"
#define DAEMON_FIFO	"/run/dmeventd-server"
#define PLUGIN		"libdevmapper-event-clone.so"
#define EVENTS		(DM_EVENT_ALL_ERRORS | DM_EVENT_TIMEOUT)

/* No event tells that a quarter has been copied: it looks this often. */
#define SECONDS_BETWEEN_LOOKS	10

/* Beside this program when it has been built, in ../lib when it is installed */
static bool find_plugin(char path[PATH_MAX])
{
	static const char *const places[] = { "", "../lib/dmclone/" };
	char self[PATH_MAX], name[2 * PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	unsigned int i;

	if (length < 0)
		return false;
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(name, sizeof(name), "%s/%s" PLUGIN, self, places[i]);
		if (realpath(name, path))
			return true;
	}

	return false;
}

/* Where nothing has made its pipes it does not run, and is not started by socket. */
static bool daemon_runs(void)
{
	return !access(DAEMON_FIFO, F_OK);
}

static bool change(const char *name, const char *plugin, bool on)
{
	struct dm_event_handler *handler = dm_event_handler_create();
	bool done = false;

	if (!handler)
		return false;
	dm_event_handler_set_event_mask(handler, EVENTS);
	dm_event_handler_set_timeout(handler, SECONDS_BETWEEN_LOOKS);
	if (!dm_event_handler_set_dso(handler, plugin) &&
	    !dm_event_handler_set_dev_name(handler, name))
		done = on ? dm_event_register_handler(handler) :
		       dm_event_unregister_handler(handler);
	dm_event_handler_destroy(handler);

	return done;
}

/*
 * dmeventd does not end while it watches something: a machine that is shut down
 * would wait for it until systemd kills it.  This unit does nothing but call
 * "dmclone unmonitor" before.
 */
static void prepare_shutdown(void)
{
	static const char *const command =
		"systemctl --no-block start dmclone-monitor.service 2>/dev/null";

	if (!access("/run/systemd/system", F_OK) && system(command))
		warn("cannot start dmclone-monitor.service: shutting down may wait for dmeventd");
}

static enum result start_watch(const char *name)
{
	char plugin[PATH_MAX];

	if (access(DAEMON, X_OK))
		return fail(BAD_DEVICE,
			    "nothing monitors '%s': there is no %s. Install the package dmeventd, then dmclone monitor %s",
			    name, DAEMON, name);
	if (!find_plugin(plugin))
		return fail(BAD_DEVICE,
			    "nothing monitors '%s': " PLUGIN " is not installed with this program",
			    name);
	if (!change(name, plugin, true))
		return fail(BAD_DEVICE,
			    "dmeventd does not monitor '%s': %s", name, table_last_words());
	prepare_shutdown();

	return DONE;
}

static void stop_watch(const char *name)
{
	char plugin[PATH_MAX];

	if (daemon_runs() && find_plugin(plugin))
		change(name, plugin, false);
}

/* dmeventd (of lvm2 2.03.16) dies of a device without a UUID. */
static bool can_be_watched(const struct conf *conf)
{
	return conf->monitor && !*conf->lv;
}

void monitor_start(const struct conf *conf)
{
	bool needed = conf->auto_finish || *conf->on_trouble;

	if (can_be_watched(conf) && (needed || daemon_runs()))
		start_watch(conf->name);
}

void monitor_stop(const struct conf *conf)
{
	/* dmeventd forgets by itself, but later, devices that are gone. */
	if (can_be_watched(conf))
		stop_watch(conf->name);
}

/* monitor --------------------------------------------------------------- */

/* What is to hold after a reboot too */
static enum result describe(const struct request *rq)
{
	const char *name = rq->arguments[0];
	struct conf conf;
	enum result r;

	if (!conf_exists(name)) {
		if (rq->auto_finish || rq->exec)
			return fail(BAD_PARAMETER,
				    "'%s' has no description, which would say what to do: it was not made by dmclone",
				    name);
		return DONE;
	}
	r = conf_read(name, &conf);
	if (!r)
		r = conf_take_monitor(&conf, rq->auto_finish, rq->exec);
	if (r)
		return r;
	conf.monitor = !rq->off;

	return conf_write(&conf);
}

/* See can_be_watched(). */
static enum result refuse_to_watch(const char *name)
{
	struct conf conf;

	if (conf_exists(name) && !conf_read(name, &conf) && *conf.lv)
		return fail(BAD_DEVICE,
			    "'%s' has no UUID, by which dmeventd knows devices, until it is the logical volume %s: dmclone wait %s",
			    name, conf.lv, conf.lv);

	return fail(BAD_DEVICE,
		    "'%s' has no UUID, by which dmeventd knows devices: give it one, dmsetup rename %s --setuuid UUID",
		    name, name);
}

enum result do_monitor(const struct request *rq)
{
	const char *name = rq->arguments[0];
	struct live live;
	enum result r;

	if (rq->off && (rq->auto_finish || rq->exec))
		return fail(BAD_PARAMETER, "--off goes with no other option");
	r = conf_lock(name);
	if (!r)
		r = live_find(name, &live);
	if (!r)
		r = describe(rq);
	if (r)
		return r;
	if (!*live.map.uuid)
		return refuse_to_watch(name);
	if (!rq->off)
		return start_watch(name);
	stop_watch(name);

	return DONE;
}

/* unmonitor ------------------------------------------------------------- */

static enum result forget(const char *name, void *plugin)
{
	struct mapping map;

	if (!table_read(name, &map) && *map.uuid && table_find(&map, "clone"))
		change(name, plugin, false);

	return DONE;
}

enum result do_unmonitor(const struct request *rq)
{
	char plugin[PATH_MAX];

	(void)rq;
	if (!daemon_runs() || !find_plugin(plugin))
		return DONE;

	return table_for_each(forget, plugin);
}

/* event ----------------------------------------------------------------- */

/* It knows what has happened from its environment. */
static enum result run_command(const struct conf *conf, const char *event)
{
	pid_t child;
	int status;

	if (!*conf->on_trouble)
		return DONE;
	setenv("DMCLONE_NAME", conf->name, true);
	setenv("DMCLONE_EVENT", event, true);
	child = fork();
	if (!child) {
		execl("/bin/sh", "sh", "-c", conf->on_trouble, NULL);
		_exit(127);
	}
	if (child < 0)
		return fail_errno(-errno, "cannot run '%s'", conf->on_trouble);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return DONE;
	if (status)
		return fail(BAD_PARAMETER, "'%s' has failed, with status %#x",
			    conf->on_trouble, status);

	return DONE;
}

static enum result finish_now(const struct conf *conf)
{
	struct request rq = {
		.arguments = { conf->name }, .nr = 1, .no_wait = true,
	};
	enum result r;

	if (!conf->auto_finish)
		return DONE;
	r = do_finish(&rq);
	if (r)
		run_command(conf, "finish-failed");

	return r;
}

/* dmeventd must outlive a lack of memory; what it starts need not. */
static void be_ordinary(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "0", 1) < 0)
		warn("cannot change oom_score_adj");
	close(fd);
}

enum result do_event(const struct request *rq)
{
	struct conf conf;
	enum result r;

	report_to_syslog();
	be_ordinary();
	if (!conf_exists(rq->arguments[0]))
		return DONE;
	r = conf_read(rq->arguments[0], &conf);
	if (r)
		return r;

	return strcmp(rq->arguments[1], EVENT_DONE) ?
	       run_command(&conf, rq->arguments[1]) : finish_now(&conf);
}
