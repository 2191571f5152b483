// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone pause, resume, rate and hydrate: messages to a clone.  What is to
 * hold after the next reboot too goes into the description, if there is one.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dmclone.h"
#include "extents.h"
#include "ranges.h"
#include "size.h"

#define MISSING		"sectors_missing="
#define ATTEMPTS	600		/* while there are too many ranges */
#define PAUSE		100000		/* us, in between */

static enum result send(const char *name, const char *message, char *reply, size_t room)
{
	struct live live;
	enum result r;

	r = conf_lock(name);
	if (!r)
		r = live_find(name, &live);

	return r ? r : table_message(name, live.target->start, message, reply, room);
}

static enum result set_hydration(const char *name, bool hydration)
{
	struct conf conf;
	enum result r;

	r = send(name, hydration ? "enable_hydration" : "disable_hydration", NULL, 0);
	if (r || !conf_exists(name))
		return r;
	r = conf_read(name, &conf);
	if (r || conf.hydration == hydration)
		return r;
	conf.hydration = hydration;

	return conf_write(&conf);
}

enum result do_pause(const struct request *rq)
{
	return set_hydration(rq->arguments[0], false);
}

enum result do_resume(const struct request *rq)
{
	return set_hydration(rq->arguments[0], true);
}

enum result do_rate(const struct request *rq)
{
	const char *name = rq->arguments[0];
	struct conf conf;
	char message[64];
	uint64_t rate;
	enum result r;

	r = parse_rate(rq->arguments[1], &rate);
	if (r)
		return r;
	snprintf(message, sizeof(message), "hydration_rate %llu", ULL(rate));
	r = send(name, message, NULL, 0);
	if (r || !conf_exists(name))
		return r;
	r = conf_read(name, &conf);
	if (r)
		return r;
	conf.rate = rate;

	return conf_write(&conf);
}

/* START+LENGTH, two sizes */
static enum result parse_range(const char *text, uint64_t *start, uint64_t *length)
{
	char copy[128], *plus;

	snprintf(copy, sizeof(copy), "%s", text);
	plus = strchr(copy, '+');
	if (plus)
		*plus++ = '\0';
	if (!plus || !size_parse(copy, start) || !size_parse(plus, length) ||
	    *start % SECTOR || *length % SECTOR || !*length)
		return fail(BAD_PARAMETER,
			    "'%s' is no range: START+LENGTH, two sizes as 10g+512m or 2048s+8s",
			    text);
	*start /= SECTOR;
	*length /= SECTOR;

	return DONE;
}

struct hydrating {
	const char *name;
	uint64_t target;		/* its first sector in the table */
	uint64_t nr_sectors;		/* of the target */
	uint64_t missing;		/* sectors */
};

/* @start and @length in sectors.  A full list gets empty by and by. */
static enum result send_range(uint64_t start, uint64_t length, void *context)
{
	struct hydrating *h = context;
	char message[96], reply[128];
	unsigned int attempts = ATTEMPTS;
	int r;

	snprintf(message, sizeof(message), "hydrate %llu %llu", ULL(start), ULL(length));
	do {
		r = table_try_message(h->name, h->target, message, reply, sizeof(reply));
		if (r == -EAGAIN)
			usleep(PAUSE);
	} while (r == -EAGAIN && --attempts);
	if (r == -EINVAL)
		return fail(BAD_DEVICE,
			    "the clone target does not take '%s': is the range in the clone? The kernel's own target has no such message",
			    message);
	if (r)
		return fail_errno(r, "cannot send '%s' to '%s'", message, h->name);
	if (!strncmp(reply, MISSING, strlen(MISSING)))
		h->missing += strtoull(reply + strlen(MISSING), NULL, 10);

	return DONE;
}

/* What lies in the tail is there anyway. */
static enum result hydrate_extent(uint64_t start, uint64_t length, void *context)
{
	struct hydrating *h = context;
	uint64_t end = start + length;

	if (end > h->nr_sectors)
		end = h->nr_sectors;

	return start >= end ? DONE : send_range(start, end - start, context);
}

static enum result hydrate_files(const struct request *rq, const struct live *live,
				 struct hydrating *h)
{
	enum result r = DONE;
	unsigned int i;

	if (rq->nr < 2)
		return fail(BAD_PARAMETER, "say which files: dmclone hydrate %s --file PATH...",
			    h->name);
	for (i = 1; !r && i < rq->nr; i++)
		r = extents_of(rq->arguments[i], live->map.number, hydrate_extent, h);

	return r;
}

static enum result hydrate_range(const char *text, struct hydrating *h)
{
	uint64_t start, length;
	enum result r = parse_range(text, &start, &length);

	return r ? r : send_range(start, length, h);
}

static enum result begin(const char *name, struct live *live, struct hydrating *h)
{
	enum result r = live_find(name, live);

	if (r)
		return r;
	memset(h, 0, sizeof(*h));
	h->name = name;
	h->target = live->target->start;
	h->nr_sectors = live->target->length;

	return DONE;
}

enum result hydrate_list(const char *name, const char *list)
{
	struct hydrating h;
	struct live live;
	enum result r = begin(name, &live, &h);

	return r ? r : ranges_read(list, hydrate_extent, &h);
}

enum result do_hydrate(const struct request *rq)
{
	struct hydrating h;
	char text[SIZE_TEXT];
	struct live live;
	enum result r;

	if (!!rq->range + rq->file + !!rq->list != 1 || (!rq->file && rq->nr > 1))
		return fail(BAD_PARAMETER,
			    "say what to hydrate: --range START+LENGTH, --file PATH..., or --list FILE");
	/* The list as a whole, before any of it is sent */
	if (rq->list && ranges_read(rq->list, NULL, NULL))
		return BAD_PARAMETER;
	r = begin(rq->arguments[0], &live, &h);
	if (r)
		return r;
	if (rq->file)
		r = hydrate_files(rq, &live, &h);
	else if (rq->list)
		r = ranges_read(rq->list, hydrate_extent, &h);
	else
		r = hydrate_range(rq->range, &h);
	if (!r)
		say("%s of it are missing", size_text(h.missing * SECTOR, text));

	return r;
}
