// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone wait: until a clone is done, or will not be by itself.
 *
 * The end is an event.  The clock only redraws what is shown meanwhile.
 */

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dmclone.h"
#include "size.h"

#define REDRAW_TERMINAL	500		/* ms */
#define REDRAW_LINES	10000
#define BAR		30

struct watch {
	const char *name;
	enum { SILENT, TERMINAL, LINES, JSON } kind;
	double began;
	double then;			/* and how far it was then, in bytes */
	uint64_t bytes_then;
	uint64_t rate;			/* bytes a second */
	bool line_is_open;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Showing --------------------------------------------------------------- */

static void take_rate(struct watch *w, const struct progress *p)
{
	uint64_t bytes = progress_bytes_hydrated(p);
	double time = now();

	if (p->has_stats)
		w->rate = p->rate * KIB;
	else if (time - w->then >= 0.4 && bytes >= w->bytes_then)
		w->rate = (bytes - w->bytes_then) / (time - w->then);
	else
		return;
	w->then = time;
	w->bytes_then = bytes;
}

static int64_t seconds_left(const struct watch *w, const struct progress *p)
{
	if (p->seconds_left >= 0 || !w->rate)
		return p->seconds_left;

	return (p->length * SECTOR - progress_bytes_hydrated(p)) / w->rate;
}

static void show_text(struct watch *w, const struct progress *p)
{
	uint64_t bytes = progress_bytes_hydrated(p), size = p->length * SECTOR;
	int64_t left = seconds_left(w, p);
	char texts[4][SIZE_TEXT], bar[BAR + 1];
	int full = bytes * BAR / size;

	memset(bar, '.', BAR);
	memset(bar, '#', full);
	bar[BAR] = '\0';
	if (w->kind == TERMINAL)
		printf("\r[%s] ", bar);
	printf("%3u %%  %s of %s  %s/s  ETA %s", (unsigned int)(bytes * 100 / size),
	       size_text(bytes, texts[0]), size_text(size, texts[1]),
	       size_text(w->rate, texts[2]), left < 0 ? "-:--" : time_text(left, texts[3]));
	if (!strcmp(p->state, "waiting"))
		printf("  (waits: copies fail)");
	/* What a longer line has left */
	printf(w->kind == TERMINAL ? "\033[K" : "\n");
	fflush(stdout);
	w->line_is_open = w->kind == TERMINAL;
}

/* Keys as in cryptsetup's --progress-json */
static void show_json(struct watch *w, const struct progress *p)
{
	struct json_object *line = json_object_new_object();
	int64_t left = seconds_left(w, p);

	json_object_object_add(line, "device", json_object_new_string(w->name));
	json_object_object_add(line, "device_bytes",
			       json_object_new_int64(progress_bytes_hydrated(p)));
	json_object_object_add(line, "device_size", json_object_new_int64(p->length * SECTOR));
	json_object_object_add(line, "speed", json_object_new_int64(w->rate));
	json_object_object_add(line, "eta_ms",
			       json_object_new_int64(left < 0 ? -1 : left * 1000));
	json_object_object_add(line, "time_ms",
			       json_object_new_int64((now() - w->began) * 1000));
	printf("%s\n", json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN |
					      JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
	json_object_put(line);
}

static void show(struct watch *w, const struct progress *p)
{
	take_rate(w, p);
	switch (w->kind) {
	case TERMINAL:
	case LINES:
		show_text(w, p);
		break;
	case JSON:
		show_json(w, p);
		break;
	case SILENT:
		break;
	}
}

static void close_line(struct watch *w)
{
	if (w->line_is_open)
		putchar('\n');
	w->line_is_open = false;
}

/* Judging --------------------------------------------------------------- */

static enum result tell_stopped(const char *name, const struct progress *p)
{
	if (!strcmp(p->state, "stopped"))
		return fail(STOPPED,
			    "hydration of '%s' has stopped: %llu regions failed, the last error was '%s' at sector %llu. Mend the device, then dmclone resume %s",
			    name, ULL(p->regions_failed), strerror(p->last_error),
			    ULL(p->last_error_sector), name);

	return fail(STOPPED, "hydration of '%s' is paused: dmclone resume %s", name, name);
}

/* DONE: it goes on, or it is done, see progress_is_done(). */
static enum result judge(const char *name, const struct live *live,
			 const struct progress *p)
{
	if (progress_is_done(p))
		return DONE;
	if (strcmp(p->mode, "rw"))
		return fail(BAD_DEVICE,
			    "'%s' is in mode %s: the metadata device, or a flush of the destination, has failed. Leave the clone open; when the device works again, dmsetup suspend %s and dmsetup resume %s",
			    name, p->mode, name, name);
	if (p->no_hydration && !live->map.suspended)
		return tell_stopped(name, p);

	return DONE;
}

static enum result look(struct watch *w, struct progress *p, bool *done)
{
	struct live live;
	enum result r;

	r = table_status(w->name, &live.map);
	if (r)
		return r;
	live.target = table_find(&live.map, "clone");
	/* Somebody else has finished it meanwhile. */
	*done = live.map.live && !live.target;
	if (*done)
		return DONE;
	if (!live.target)
		return fail(BAD_PARAMETER, "'%s' is not open any more", w->name);
	r = progress_read(w->name, live.target, p);
	if (r)
		return r;
	show(w, p);
	*done = progress_is_done(p);
	r = judge(w->name, &live, p);
	if (r || *done)
		close_line(w);

	return r;
}

static void begin(struct watch *w, const char *name, const struct request *rq)
{
	memset(w, 0, sizeof(*w));
	w->name = name;
	w->began = now();
	w->then = w->began;
	if (rq->progress_json)
		w->kind = JSON;
	else if (rq->quiet)
		w->kind = SILENT;
	else
		w->kind = isatty(STDOUT_FILENO) ? TERMINAL : LINES;
}

enum result wait_until_done(const char *name, const struct request *rq)
{
	struct progress p;
	struct watch w;
	bool done = false;
	enum result r;
	int events, error;

	events = events_open();
	if (events < 0)
		return fail_errno(events, "cannot open /dev/mapper/control");
	begin(&w, name, rq);
	do {
		/* What happens from here on ends the wait. */
		error = events_arm(events);
		if (error) {
			r = fail_errno(error, "cannot wait for events");
			break;
		}
		r = look(&w, &p, &done);
		if (!r && !done)
			events_wait(events, w.kind == TERMINAL || w.kind == JSON ?
				    REDRAW_TERMINAL : REDRAW_LINES);
	} while (!r && !done);
	close(events);

	return r;
}

enum result do_wait(const struct request *rq)
{
	struct live live;
	enum result r = live_find(rq->arguments[0], &live);

	return r ? r : wait_until_done(rq->arguments[0], rq);
}
