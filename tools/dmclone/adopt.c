// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone adopt: finish a clone that systemd has made of a line in /etc/clonetab.
 *
 * clonetab cannot say that a clone is done, and systemd binds the clone to its
 * source.  So once all is in the destination:
 *
 * 1. A description says "done", durably: from now on any run of adopt or finish
 *    knows what there is to do.
 * 2. The line goes, durably.  Only then may the metadata be wiped: with zeroes
 *    there systemd would have it formatted, and cloned over what users have
 *    written.
 * 3. systemd reads its files again, and stops nothing any more if the source
 *    goes.
 * 4. The rest is that of finish.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmclone.h"
#include "finish.h"

bool file_names(const char *path, const char *word)
{
	FILE *file = fopen(path, "re");
	char line[PATH_MAX], first[PATH_MAX];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%4095s", first) == 1 && !strcmp(first, word);
	if (file)
		fclose(file);

	return found;
}

/* The line ------------------------------------------------------------------ */

static int copy_others(FILE *from, FILE *to, const char *name)
{
	char *line = NULL, first[PATH_MAX];
	size_t room = 0;
	int r = 0;

	while (!r && getline(&line, &room, from) > 0)
		if ((sscanf(line, "%4095s", first) != 1 || strcmp(first, name)) &&
		    fputs(line, to) < 0)
			r = -EIO;
	if (ferror(from))
		r = -EIO;
	free(line);

	return r;
}

static int write_without(const char *path, const char *new, const char *name)
{
	FILE *from = fopen(path, "re"), *to = from ? fopen(new, "we") : NULL;
	struct stat st;
	int r;

	if (!from || !to)
		r = -errno;
	else
		r = copy_others(from, to, name);
	if (!r && (fstat(fileno(from), &st) || fchmod(fileno(to), st.st_mode & 07777) ||
		   fflush(to) || fsync(fileno(to))))
		r = -errno;
	if (from)
		fclose(from);
	if (to)
		fclose(to);

	return r;
}

/* Durably.  It may be a link to somewhere else. */
static enum result drop_line(const char *name)
{
	char path[PATH_MAX], new[PATH_MAX + 8], *slash;
	int r = 0;

	if (!file_names(CLONETAB, name))
		return DONE;
	if (!realpath(CLONETAB, path))
		return fail_errno(-errno, "cannot find " CLONETAB);
	snprintf(new, sizeof(new), "%s.new", path);
	r = write_without(path, new, name);
	if (!r && rename(new, path))
		r = -errno;
	slash = strrchr(path, '/');
	*(slash == path ? slash + 1 : slash) = '\0';
	if (!r)
		r = conf_sync_dir(path);
	if (r)
		return fail_errno(r, "cannot take the line of '%s' out of " CLONETAB, name);
	say("the line of '%s' is not in " CLONETAB " any more", name);

	return DONE;
}

static void reload_systemd(void)
{
	static const char *const command = "systemctl daemon-reload";
	int status;

	if (access("/run/systemd/system", F_OK))
		return;
	status = system(command);
	if (status)
		warn("'%s' has failed: run it before the source goes away", command);
}

/* The clone ----------------------------------------------------------------- */

static enum result look_at(const char *number, const char *role, struct device *dev,
			   char name[PATH_MAX])
{
	char node[PATH_MAX];
	enum result r;

	device_node(number_parse(number), node, sizeof(node));
	r = device_look(node, role, dev);
	if (!r)
		device_stable_name(dev, name);

	return r;
}

/* All that finish has to know */
static enum result describe(const char *name, struct conf *conf)
{
	struct clone_devices devices;
	struct device dev;
	struct mapping map;
	enum result r;

	r = table_read(name, &map);
	if (r)
		return r;
	if (map.nr_targets != 1 || strcmp(map.targets->type, "clone") ||
	    !table_clone_devices(map.targets, &devices))
		return fail(BAD_DEVICE, "the table of '%s' is not that of one clone", name);

	memset(conf, 0, sizeof(*conf));
	snprintf(conf->name, sizeof(conf->name), "%s", name);
	snprintf(conf->uuid, sizeof(conf->uuid), "%s", mapping_uuid(&map));
	conf->state = COMPLETE;
	conf->hydration = true;
	conf->size = map.targets->length;
	conf->region_size = devices.region_size;
	r = look_at(devices.source, "source", &dev, conf->source);
	if (r)
		return r;
	conf->source_size = dev.bytes;
	r = look_at(devices.metadata, "metadata device", &dev, conf->metadata);
	if (!r)
		r = look_at(devices.destination, "destination", &dev, conf->destination);
	if (r)
		return r;
	conf->destination_size = dev.bytes;
	device_identity(&dev, conf->destination_identity,
			sizeof(conf->destination_identity));

	return DONE;
}

/* Without the lock, which others need to pause it, say. */
static enum result wait_for_end(const char *name, const struct request *rq)
{
	struct live live;
	enum result r;

	if (!file_names(CLONETAB, name))
		return fail(BAD_PARAMETER, CLONETAB " has no line of a clone '%s'", name);
	r = live_find(name, &live);

	return r ? r : wait_until_done(name, rq);
}

/* It is done; nothing has changed before. */
static enum result take_over(const char *name, struct conf *conf)
{
	struct live live;
	enum result r;

	r = live_find(name, &live);
	if (!r)
		r = describe(name, conf);
	if (!r)
		r = clone_sync(name, &live.map);

	return r ? r : conf_write(conf);
}

enum result do_adopt(const struct request *rq)
{
	const char *name = rq->arguments[0];
	enum result r = DONE;
	struct conf conf;

	if (!conf_exists(name))
		r = wait_for_end(name, rq);
	if (!r)
		r = conf_lock(name);
	if (r)
		return r;
	r = conf_exists(name) ? conf_read(name, &conf) : take_over(name, &conf);
	if (!r && conf.state != COMPLETE)
		r = fail(BAD_PARAMETER,
			 "'%s' has a description of its own, and is not done: dmclone finish %s",
			 name, name);
	if (!r)
		r = drop_line(name);
	if (r)
		return r;
	reload_systemd();

	return finish_described(&conf);
}
