// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone record: which sectors of a mapped device a command reads, and in which
 * order.
 *
 * The kernel's tracepoint block_bio_queue tells, in an instance of the tracing
 * file system that is ours alone.  What the page cache has is not read from the
 * device, and is not seen: see the manual page.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dmclone.h"
#include "ranges.h"
#include "size.h"

#define TRACEFS		"/sys/kernel/tracing"
#define EVENT		"events/block/block_bio_queue"
#define EVENT_TEXT	"block_bio_queue: "
#define BUFFER_KIB	65536		/* of all processors: a million reads */

struct recording {
	const char *name;
	dev_t number;
	char path[PATH_MAX];		/* of the instance */
	int lock;			/* held as long as it is used */
};

/* The tracer ---------------------------------------------------------- */

static int put(const struct recording *rec, const char *file, const char *text)
{
	char path[PATH_MAX + 64];
	int fd, r = 0;

	snprintf(path, sizeof(path), "%s/%s", rec->path, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		r = -errno;
	close(fd);

	return r;
}

static void end_tracing(struct recording *rec)
{
	if (rec->lock < 0)
		return;
	put(rec, EVENT "/enable", "0");
	close(rec->lock);
	rec->lock = -1;
	rmdir(rec->path);
}

static int set_up(const struct recording *rec)
{
	long processors = sysconf(_SC_NPROCESSORS_CONF);
	char text[64];
	int r;

	snprintf(text, sizeof(text), "%ld", BUFFER_KIB / (processors > 0 ? processors : 1));
	r = put(rec, "buffer_size_kb", text);
	/* Names of tasks would cost each switch between tasks something. */
	put(rec, "options/record-cmd", "0");
	snprintf(text, sizeof(text), "dev == %u",
		 major(rec->number) << 20 | minor(rec->number));
	if (!r)
		r = put(rec, EVENT "/filter", text);
	/* What a recording has left that was killed */
	if (!r)
		r = put(rec, "trace", "");
	if (!r)
		r = put(rec, EVENT "/enable", "1");

	return r;
}

static enum result begin_tracing(struct recording *rec)
{
	int r;

	snprintf(rec->path, sizeof(rec->path), TRACEFS "/instances/dmclone-%s", rec->name);
	if (mkdir(rec->path, 0700) && errno != EEXIST)
		return fail_errno(-errno,
				  "cannot trace: is there a tracing file system (mount -t tracefs nodev %s)?",
				  TRACEFS);
	rec->lock = open(rec->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rec->lock < 0)
		return fail_errno(-errno, "cannot open %s", rec->path);
	if (flock(rec->lock, LOCK_EX | LOCK_NB)) {
		close(rec->lock);
		rec->lock = -1;
		return fail(BUSY, "'%s' is being recorded already", rec->name);
	}
	r = set_up(rec);
	if (!r)
		return DONE;
	end_tracing(rec);

	return fail_errno(r, "cannot trace block I/O: has the kernel CONFIG_BLK_DEV_IO_TRACE?");
}

/* A line of the trace is "... block_bio_queue: MAJOR,MINOR RWBS SECTOR + NR ...". */
static void take_line(const char *line, struct range_list *list)
{
	const char *event = strstr(line, EVENT_TEXT);
	unsigned long long sector, nr;
	char rwbs[16];

	if (event && sscanf(event + strlen(EVENT_TEXT), "%*u,%*u %15s %llu + %llu", rwbs,
			    &sector, &nr) == 3 && *rwbs == 'R')
		ranges_add(list, sector, nr);
}

static enum result take_trace(const struct recording *rec, struct range_list *list)
{
	unsigned long long kept, written;
	char path[PATH_MAX + 64], *line = NULL;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/trace", rec->path);
	file = fopen(path, "re");
	if (!file)
		return fail_errno(-errno, "cannot read %s", path);
	while (getline(&line, &room, file) > 0) {
		if (sscanf(line, "# entries-in-buffer/entries-written: %llu/%llu", &kept,
			   &written) == 2 && kept < written)
			warn("the first %llu of %llu bios were forgotten: record less at once",
			     written - kept, written);
		take_line(line, list);
	}
	free(line);
	fclose(file);

	return DONE;
}

/* The command --------------------------------------------------------- */

/* What interrupts it from the keyboard does not interrupt us. */
static enum result run_command(const struct request *rq)
{
	char *const *argv = (char *const *)&rq->arguments[1];
	pid_t child;
	int status;

	child = fork();
	if (!child) {
		execvp(argv[0], argv);
		fail_errno(-errno, "cannot run '%s'", argv[0]);
		_exit(127);
	}
	if (child < 0)
		return fail_errno(-errno, "cannot run '%s'", argv[0]);
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return fail_errno(-errno, "cannot wait for '%s'", argv[0]);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return BAD_PARAMETER;
	if (status)
		warn("'%s' has failed; what it has read until then is recorded", argv[0]);

	return DONE;
}

static enum result record(struct recording *rec, const struct request *rq,
			  struct range_list *list)
{
	enum result r = begin_tracing(rec);

	if (r)
		return r;
	r = run_command(rq);
	put(rec, EVENT "/enable", "0");
	if (!r)
		r = take_trace(rec, list);
	end_tracing(rec);

	return r;
}

static enum result find(struct recording *rec, uint64_t *sectors)
{
	const struct target *last;
	struct mapping map;
	enum result r;

	r = table_read(rec->name, &map);
	if (r)
		return r;
	if (!map.live)
		return fail(BAD_PARAMETER, "there is no /dev/mapper/%s", rec->name);
	rec->number = map.number;
	last = &map.targets[map.nr_targets - 1];
	*sectors = last->start + last->length;

	return DONE;
}

enum result do_record(const struct request *rq)
{
	struct recording rec = { .name = rq->arguments[0], .lock = -1 };
	struct range_list *list;
	char text[SIZE_TEXT];
	uint64_t sectors = 0;
	enum result r;
	bool created;
	int fd;

	if (!rq->output)
		return fail(BAD_PARAMETER, "say where to: dmclone record %s -o FILE -- COMMAND",
			    rec.name);
	r = find(&rec, &sectors);
	if (r)
		return r;
	created = access(rq->output, F_OK);
	fd = open(rq->output, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail_errno(-errno, "cannot write %s", rq->output);
	list = ranges_begin(sectors);
	r = list ? record(&rec, rq, list) : out_of_memory();
	if (!r)
		r = ranges_write(&list, fd, rq->output);
	if (!r)
		say("%s were read, see %s", size_text(ranges_sectors(list) * SECTOR, text),
		    rq->output);
	else if (created)
		unlink(rq->output);
	ranges_end(list);
	close(fd);

	return r;
}
