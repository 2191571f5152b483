// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * libdevmapper-event-clone.so: dmeventd loads it, and calls it for each clone that
 * "dmclone monitor" has registered: when the kernel raises an event, and each ten
 * seconds.
 *
 * It writes to the system log what people want to know.  It never waits for I/O:
 * the status is read without a flush, and whatever is to be done is done by
 * "dmclone event", which it does not wait for.  dmeventd locks its memory, so all of
 * this works while a device below the root file system is suspended; what is run
 * waits until it is resumed.
 */

#include <dlfcn.h>
#include <errno.h>
#include <libdevmapper-event.h>
#include <libdevmapper.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "monitor.h"
#include "table.h"

/* A clone that is watched: what it was when it was looked at last */
struct watched {
	bool known;		/* it has been looked at */
	bool done;
	bool waits;
	bool stopped;
	unsigned int percent;
	char mode[8];
	char program[PATH_MAX];
};

/* dmclone: beside this library when it has been built, in sbin when installed */
static void find_program(char path[PATH_MAX])
{
	static const char *const places[] = { "", "../../sbin/" };
	char self[PATH_MAX], name[2 * PATH_MAX];
	Dl_info info;
	unsigned int i;

	*path = '\0';
	if (!dladdr((void *)find_program, &info))
		return;
	snprintf(self, sizeof(self), "%s", info.dli_fname);
	if (!strrchr(self, '/'))
		return;
	*strrchr(self, '/') = '\0';
	for (i = 0; i < ARRAY_SIZE(places) && !*path; i++) {
		snprintf(name, sizeof(name), "%s/%sdmclone", self, places[i]);
		if (!realpath(name, path))
			*path = '\0';
	}
}

/*
 * Not a child of dmeventd, whose plugins wait for children of theirs: a grandchild,
 * which init adopts.  Between fork and exec there is nothing but system calls, as
 * dmeventd has threads.
 */
static void run_program(const struct watched *w, const char *name, const char *what)
{
	sigset_t none;
	pid_t child;
	int status;

	if (!*w->program)
		return;
	sigemptyset(&none);
	child = fork();
	if (child < 0)
		syslog(LOG_ERR, "clone %s: cannot run %s: %m", name, w->program);
	if (child > 0)
		while (waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
	if (child)
		return;

	if (fork())
		_exit(0);
	setsid();
	sigprocmask(SIG_SETMASK, &none, NULL);
	close_range(3, ~0U, 0);
	execl(w->program, "dmclone", "event", name, what, NULL);
	_exit(127);
}

static void look_at_mode(struct watched *w, const char *name, const struct progress *p)
{
	const char *before = w->known ? w->mode : "rw";

	if (!strcmp(p->mode, before))
		return;
	if (!strcmp(p->mode, "rw")) {
		syslog(LOG_NOTICE, "clone %s: metadata is in mode rw again", name);
		return;
	}
	syslog(LOG_ERR,
	       "clone %s: metadata is in mode %s: its device, or a flush of the destination, has failed",
	       name, p->mode);
	run_program(w, name, EVENT_MODE);
}

static void look_at_hydration(struct watched *w, const char *name,
			      const struct progress *p)
{
	bool waits = !strcmp(p->state, "waiting"), waited = w->waits;
	bool stopped = !strcmp(p->state, "stopped"), was_stopped = w->stopped;

	w->waits = waits;
	w->stopped = stopped;
	if (waits && !waited)
		syslog(LOG_WARNING,
		       "clone %s: copies fail, the last with '%s' at sector %llu; it goes on trying",
		       name, strerror(p->last_error), ULL(p->last_error_sector));
	if (!stopped || was_stopped)
		return;
	syslog(LOG_ERR,
	       "clone %s: hydration has stopped: %llu regions failed, the last with '%s' at sector %llu; dmclone resume %s tries again",
	       name, ULL(p->regions_failed), strerror(p->last_error),
	       ULL(p->last_error_sector), name);
	run_program(w, name, EVENT_STOPPED);
}

static void look_at_progress(struct watched *w, const char *name, bool done,
			     unsigned int percent)
{
	if (done && !w->done) {
		syslog(LOG_NOTICE, "clone %s: all is in the destination", name);
		run_program(w, name, EVENT_DONE);
	} else if (!done && (!w->known || percent / 25 > w->percent / 25)) {
		syslog(LOG_INFO, "clone %s: %u %% are hydrated", name, percent);
	}
}

static void look(struct watched *w, const char *name, const struct progress *p)
{
	unsigned int percent = p->nr_regions ? p->nr_hydrated * 100 / p->nr_regions : 0;
	bool done = progress_is_done(p);

	look_at_mode(w, name, p);
	if (!p->failed) {
		look_at_hydration(w, name, p);
		look_at_progress(w, name, done, percent);
		w->done = done;
		w->percent = percent;
	}
	snprintf(w->mode, sizeof(w->mode), "%s", p->mode);
	w->known = true;
}

/* False if it is no clone, or has become something else. */
static bool find_clone(struct dm_task *task, struct target *target)
{
	char *type, *params;
	void *next = NULL;

	do {
		next = dm_get_next_target(task, next, &target->start, &target->length,
					  &type, &params);
		if (!type || !params || strcmp(type, "clone"))
			continue;
		snprintf(target->params, sizeof(target->params), "%s", params);
		return true;
	} while (next);

	return false;
}

void process_event(struct dm_task *task, enum dm_event_mask event, void **user)
{
	const char *name = dm_task_get_name(task);
	struct target target;
	struct progress p;

	(void)event;
	if (find_clone(task, &target) && !progress_read(name, &target, &p))
		look(*user, name, &p);
}

int register_device(const char *name, const char *uuid, int major, int minor, void **user)
{
	struct watched *w = calloc(1, sizeof(*w));

	(void)uuid;
	(void)major;
	(void)minor;
	if (!w)
		return 0;
	find_program(w->program);
	syslog(LOG_INFO, "clone %s: monitored", name);
	*user = w;

	return 1;
}

int unregister_device(const char *name, const char *uuid, int major, int minor,
		      void **user)
{
	(void)uuid;
	(void)major;
	(void)minor;
	syslog(LOG_INFO, "clone %s: no longer monitored", name);
	free(*user);
	*user = NULL;

	return 1;
}
