// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone lvm: a clone that becomes the logical volume VG/LV.
 *
 * Destination and metadata are logical volumes with private names, which LVM does
 * not activate by itself.  The clone lies on them, under the name that device mapper
 * has for VG/LV, and with no UUID; LVM knows nothing of it.  Whatever LVM does with
 * the destination meanwhile (extend it, move it) it does below the clone, as below
 * any user of a volume.
 *
 *	VG-LV (no UUID)	clone	     becomes	VG-LV (UUID LVM-...)  linear
 *	   |	   |	 |				   |
 *	VG-LV_dmclone  ..._meta  source		the same extents
 *	   |
 *	extents
 *
 * The end, once the description says "done":
 *
 * 1. The table of the destination replaces the clone's, under its users.
 * 2. The destination's own mapped device goes; nobody else may have it open.
 * 3. The metadata volume is removed, the destination gets the name LV and is
 *    activated as others are from now on.
 * 4. The mapped device gets the destination's UUID, which the kernel allows as long
 *    as it has none.  That makes it the volume that LVM looks for, with the table
 *    that LVM would load: number and users have stayed.
 *
 * Between 1 and 4 LVM must not move what the table leads to: so its lock on the
 * volume group is held, and the commands in between are told to take none.  Killed
 * anywhere, it is run again.  After a reboot there is no mapped device to keep, and
 * 3 is all there is to do.
 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmclone.h"
#include "lvm.h"
#include "metadata.h"
#include "source.h"

#define TAG		"dmclone"
#define DESTINATION	"_dmclone"
#define METADATA	"_dmclone_meta"
#define LOCK_DIR	"/run/lock/lvm"
#define MAX_WORDS	24
#define LV_NAME		(2 * NAME_LENGTH)	/* "VG/LV", with what we append */

struct volumes {
	char vg[NAME_LENGTH], lv[NAME_LENGTH];
	char whole[LV_NAME];		/* VG/LV */
	char destination[LV_NAME];	/* VG/LV_dmclone */
	char metadata[LV_NAME];
};

static enum result split(const char *text, struct volumes *v)
{
	const char *slash = strchr(text, '/');
	size_t n = slash ? slash - text : 0;

	if (!n || n >= sizeof(v->vg) || !slash[1] || strchr(slash + 1, '/') ||
	    strlen(slash + 1) >= sizeof(v->lv) || *text == '-' || slash[1] == '-')
		return fail(BAD_PARAMETER, "'%s' is no logical volume: VG/NAME", text);
	snprintf(v->vg, sizeof(v->vg), "%.*s", (int)n, text);
	strcpy(v->lv, slash + 1);
	snprintf(v->whole, sizeof(v->whole), "%s", text);
	snprintf(v->destination, sizeof(v->destination), "%s" DESTINATION, text);
	snprintf(v->metadata, sizeof(v->metadata), "%s" METADATA, text);

	return DONE;
}

enum result lvm_mapped_name(const char *lv, char name[NAME_LENGTH])
{
	struct volumes v;
	enum result r;
	size_t n = 0;
	const char *p;

	r = split(lv, &v);
	if (r)
		return r;
	/* A dash in a name becomes two, and one divides them. */
	for (p = lv; *p && n < NAME_LENGTH - 2; p++) {
		if (*p == '-')
			name[n++] = '-';
		name[n++] = *p == '/' ? '-' : *p;
	}
	name[n] = '\0';
	if (*p)
		return fail(BAD_PARAMETER, "'%s' is too long a name", lv);

	return DONE;
}

/* LVM's commands -------------------------------------------------------- */

static void child(char *const words[], int out, int err)
{
	int null = open("/dev/null", O_RDONLY);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(err, STDERR_FILENO) < 0)
		_exit(127);
	setenv("LVM_SUPPRESS_FD_WARNINGS", "1", 1);
	setenv("LC_ALL", "C", 1);
	execvp(*words, words);
	_exit(127);
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;

	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void tell_lines(int fd)
{
	FILE *file = fdopen(dup(fd), "r");
	char line[1024];

	if (!file)
		return;
	rewind(file);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		warn("lvm says: %s", line + strspn(line, " "));
	}
	fclose(file);
}

static enum result run_words(char *const words[], int out, int err)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return fail_errno(-errno, "cannot start another process");
	if (!pid)
		child(words, out, err);
	status = wait_for(pid);
	if (!status)
		return DONE;
	tell_lines(err);
	if (status == 127)
		return fail(BAD_DEVICE, "there is no lvm: install lvm2");

	return fail(BAD_DEVICE, "'lvm %s' failed, with status %d", words[1], status);
}

/* An lvm command, up to NULL.  @answer may be NULL: what it prints is of no interest. */
static enum result lvm(char *answer, size_t room, ...)
{
	char *words[MAX_WORDS] = { "lvm" };
	int out, err, nr = 0;
	enum result r;
	va_list args;
	ssize_t n;

	va_start(args, room);
	while (words[nr] && ++nr < MAX_WORDS - 1)
		words[nr] = va_arg(args, char *);
	va_end(args);

	out = memfd_create("lvm", MFD_CLOEXEC);
	err = memfd_create("lvm", MFD_CLOEXEC);
	r = out < 0 || err < 0 ? out_of_memory() : run_words(words, out, err);
	if (answer) {
		n = r ? 0 : pread(out, answer, room - 1, 0);
		answer[n > 0 ? n : 0] = '\0';
	}
	if (out >= 0)
		close(out);
	if (err >= 0)
		close(err);

	return r;
}

/* @fields of a volume, as words; none if there is no such volume. */
static enum result ask_lvs(const char *vg, const char *lv, const char *fields,
			   char *answer, size_t room)
{
	char select[LV_NAME + 16];

	snprintf(select, sizeof(select), "lv_name=\"%s\"", strchr(lv, '/') + 1);

	return lvm(answer, room, "lvs", "--noheadings", "--readonly", "-o", fields, "-S",
		   select, vg, NULL);
}

static enum result look_for(const struct volumes *v, const char *lv, bool *found)
{
	char answer[LV_NAME];
	enum result r = ask_lvs(v->vg, lv, "lv_name", answer, sizeof(answer));

	*found = answer[strspn(answer, "\n ")];

	return r;
}

/* As its commands do for as long as they change a volume group; -1 if not. */
static int lock_vg(const char *vg)
{
	struct stat held, there;
	char path[PATH_MAX];
	int fd;

	/* It may be there already; that it is not there shows below. */
	mkdir(LOCK_DIR, 0700);
	snprintf(path, sizeof(path), LOCK_DIR "/V_%s", vg);
	for (;;) {
		fd = open(path, O_CREAT | O_APPEND | O_RDWR | O_CLOEXEC, 0777);
		if (fd < 0 || flock(fd, LOCK_EX))
			break;
		/* Whoever had it may have removed the file. */
		if (!fstat(fd, &held) && !stat(path, &there) &&
		    held.st_ino == there.st_ino)
			return fd;
		close(fd);
	}
	fail_errno(-errno, "cannot lock %s", path);
	if (fd >= 0)
		close(fd);

	return -1;
}

/* Activation ------------------------------------------------------------ */

enum result lvm_activate(const struct conf *conf)
{
	struct volumes v;
	enum result r = split(conf->lv, &v);

	/* -K: although they are to be skipped. */
	return r ? r : lvm(NULL, 0, "lvchange", "-ay", "-K", v.destination, v.metadata, NULL);
}

/* They may stay; it is no more than untidy. */
void lvm_deactivate(const struct conf *conf)
{
	struct volumes v;

	if (split(conf->lv, &v) ||
	    lvm(NULL, 0, "lvchange", "-an", v.destination, v.metadata, NULL))
		warn("the volumes of '%s' stay active", conf->name);
}

/* An earlier run may have been killed after it. */
static enum result remove_if_there(const struct volumes *v, const char *lv)
{
	bool found;
	enum result r = look_for(v, lv, &found);

	return r || !found ? r : lvm(NULL, 0, "lvremove", "-y", lv, NULL);
}

enum result lvm_remove(const struct conf *conf)
{
	struct volumes v;
	enum result r;

	r = split(conf->lv, &v);
	if (!r)
		r = remove_if_there(&v, v.metadata);

	return r ? r : remove_if_there(&v, v.destination);
}

/* Making ---------------------------------------------------------------- */

/* What they held before must be nothing that anybody knows. */
static enum result make_destination(const struct volumes *v, const struct request *rq,
				    uint64_t bytes)
{
	const char *lv = strchr(v->destination, '/') + 1;
	char size[32], pool[LV_NAME];

	snprintf(size, sizeof(size), "%llub", ULL(bytes));
	snprintf(pool, sizeof(pool), "%s/%s", v->vg, rq->thinpool ? rq->thinpool : "");
	if (rq->thinpool)
		return lvm(NULL, 0, "lvcreate", "-y", "-ky", "-K", "--addtag", TAG, "-V",
			   size, "-T", pool, "-n", lv, NULL);

	return lvm(NULL, 0, "lvcreate", "-y", "-Wy", "-Zy", "-ky", "-K", "--addtag", TAG,
		   "-L", size, "-n", lv, v->vg, NULL);
}

static enum result make_metadata(const struct volumes *v, uint64_t bytes)
{
	char size[32];

	snprintf(size, sizeof(size), "%llub", ULL(bytes));

	return lvm(NULL, 0, "lvcreate", "-y", "-Wy", "-Zy", "-ky", "-K", "--addtag", TAG,
		   "-L", size, "-n", strchr(v->metadata, '/') + 1, v->vg, NULL);
}

static enum result check_names(const struct volumes *v)
{
	bool whole, destination, metadata;
	enum result r;

	r = look_for(v, v->whole, &whole);
	if (!r)
		r = look_for(v, v->destination, &destination);
	if (!r)
		r = look_for(v, v->metadata, &metadata);
	if (r)
		return r;
	if (whole)
		return fail(BUSY, "there is a logical volume %s already: take another name",
			    v->whole);
	if (destination || metadata)
		return fail(BUSY,
			    "there is %s already, and no description of a clone: was dmclone killed when it made it? If nobody needs it: lvremove %s",
			    destination ? v->destination : v->metadata,
			    destination ? v->destination : v->metadata);

	return DONE;
}

/* The size of the source, which is no physical volume */
static enum result look_at_source(const struct request *rq, struct conf *conf)
{
	struct source source = { .attached.fd = -1 };
	char content[IDENTITY_TEXT];
	enum result r;
	int fd;

	r = source_open(rq->from, &source);
	if (r)
		return r;
	fd = open(source.dev.path, O_RDONLY | O_CLOEXEC);
	r = fd < 0 ? fail_errno(-errno, "cannot open the source %s", rq->from) :
	    content_identity(fd, source.dev.path, content, sizeof(content));
	if (fd >= 0)
		close(fd);
	conf->size = source.dev.bytes / SECTOR;
	source_close(&source);
	if (!r && !strncmp(content, "LVM2_member", strlen("LVM2_member")) && !rq->force)
		r = fail(BAD_PARAMETER,
			 "the source is a physical volume of LVM, and so would be the clone, with the same identifiers: LVM uses neither of two. Hide the source from LVM first (global_filter, or the devices file), or clone the volumes in it one by one; --force takes it all the same");

	return r;
}

static enum result make_volumes(const struct volumes *v, const struct request *rq)
{
	struct conf conf = { .size = 0 };
	enum result r;

	r = look_at_source(rq, &conf);
	if (!r)
		r = take_region_size(rq, conf.size, &conf.region_size);
	if (!r)
		r = check_names(v);
	if (!r)
		r = make_destination(v, rq, conf.size * SECTOR);
	if (r)
		return r;
	r = make_metadata(v, metadata_recommended(&conf));
	if (r)
		lvm(NULL, 0, "lvremove", "-y", v->destination, NULL);

	return r;
}

enum result do_lvm(const struct request *rq)
{
	char name[NAME_LENGTH], destination[LV_NAME + 8], metadata[LV_NAME + 8];
	struct request create = *rq;
	struct volumes v;
	struct conf conf;
	enum result r;

	if (!rq->from)
		return fail(BAD_PARAMETER, "say what to clone: --from SOURCE");
	r = split(rq->arguments[0], &v);
	/* The longest of the names will have to fit, too. */
	if (!r)
		r = lvm_mapped_name(v.metadata, name);
	if (!r)
		r = lvm_mapped_name(v.whole, name);
	if (!r)
		r = conf_check_name(name);
	if (r)
		return r;

	/* An earlier run was interrupted, or there is such a clone, as will be said. */
	if (conf_exists(name)) {
		r = conf_read(name, &conf);
		if (!r && conf.lv[0] && conf.state == CREATING)
			r = lvm_activate(&conf);
	} else {
		r = make_volumes(&v, rq);
	}
	if (r)
		return r;

	snprintf(destination, sizeof(destination), "/dev/%s", v.destination);
	snprintf(metadata, sizeof(metadata), "/dev/%s", v.metadata);
	create.lv = v.whole;
	create.arguments[0] = name;
	create.arguments[1] = rq->from;
	create.arguments[2] = destination;
	create.arguments[3] = metadata;
	create.nr = 4;
	r = do_create(&create);
	if (r && !conf_exists(name)) {
		strcpy(conf.lv, v.whole);
		lvm_remove(&conf);
	}

	return r;
}

/* The end --------------------------------------------------------------- */

/* Is it one whose table leads to extents, or to a pool, and to nothing that moves? */
static enum result look_if_plain(const struct volumes *v, bool *plain)
{
	char answer[256], attr[32], type[32];
	enum result r;

	/* A line for each segment; they are of one type. */
	r = ask_lvs(v->vg, v->destination, "lv_attr,segtype", answer, sizeof(answer));
	*plain = !r && sscanf(answer, "%31s %31s", attr, type) == 2 &&
		 strchr("-V", attr[0]) && !isupper((unsigned char)attr[2]) &&
		 (!strcmp(type, "linear") || !strcmp(type, "striped") ||
		  !strcmp(type, "thin"));

	return r;
}

/* 1. and 2., under the lock */
static enum result take_over(const struct conf *conf, const struct volumes *v,
			     struct mapping *map)
{
	char name[NAME_LENGTH];
	struct mapping own;
	enum result r;
	bool plain;

	r = lvm_mapped_name(v->destination, name);
	if (!r)
		r = table_read(name, &own);
	if (!r && own.live)
		r = look_if_plain(v, &plain);
	if (r || !own.live)
		return r;
	/* LVM has to make it anew. */
	if (!plain && !map->nr_open) {
		map->live = false;
		return table_remove(conf->name);
	}
	if (!plain)
		r = fail(BUSY,
			 "%s is no plain volume now: wait for pvmove and lvconvert, and remove snapshots of it; or unmount /dev/%s, and run this again",
			 v->destination, v->whole);
	if (!r)
		r = table_load(conf->name, own.targets, own.nr_targets, map->readonly);
	if (!r)
		r = table_swap(conf->name);

	return r ? r : lvm(NULL, 0, "lvchange", "--nolocking", "-an", v->destination, NULL);
}

/* 3.; what has the name already has all of it. */
static enum result rename_volume(const struct volumes *v)
{
	bool found;
	enum result r;

	r = look_for(v, v->destination, &found);
	if (r || !found)
		return r;
	r = lvm(NULL, 0, "lvchange", "--nolocking", "-kn", "--deltag", TAG, v->destination,
		NULL);

	return r ? r : lvm(NULL, 0, "lvrename", "--nolocking", v->vg,
			   strchr(v->destination, '/') + 1, v->lv, NULL);
}

/*
 * Was an earlier run killed when it swapped tables?  LVM's commands would wait for
 * I/O to a device that is suspended, and what was loaded may lead to extents that
 * have been moved since.
 */
static enum result undo_swap(const struct conf *conf)
{
	struct mapping map;
	enum result r;

	r = table_read(conf->name, &map);
	if (!r && map.exists && map.suspended && map.live)
		r = table_clear(conf->name);
	if (!r && map.exists && map.suspended && map.live)
		r = table_resume(conf->name);

	return r;
}

static enum result end_locked(const struct conf *conf, const struct volumes *v)
{
	struct mapping map;
	enum result r;

	r = undo_swap(conf);
	if (!r)
		r = table_read(conf->name, &map);
	if (!r && map.exists && !map.live)
		r = table_remove(conf->name);
	if (!r && map.live && !*map.uuid)
		r = take_over(conf, v, &map);
	if (!r)
		r = rename_volume(v);
	if (!r && map.live && !*map.uuid)
		r = table_set_uuid(conf->name, conf->destination_identity);

	return r;
}

enum result lvm_end(const struct conf *conf)
{
	struct volumes v;
	enum result r;
	int lock;

	r = split(conf->lv, &v);
	if (r)
		return r;
	lock = lock_vg(v.vg);
	if (lock < 0)
		return BAD_DEVICE;
	r = end_locked(conf, &v);
	close(lock);
	if (!r)
		r = lvm(NULL, 0, "lvchange", "-ay", v.whole, NULL);
	if (!r)
		r = lvm(NULL, 0, "lvchange", "--refresh", v.whole, NULL);

	return r ? r : remove_if_there(&v, v.metadata);
}
