// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_copy: finish a clone without a kernel module.
 *
 * A region is marked as hydrated only once its data is durable: the threads'
 * work is collected, the destination is flushed, and then the metadata is
 * committed. So this may end at any instant: whatever was not committed is
 * copied again. Nothing else uses the three devices meanwhile.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "copier.h"
#include "tool.h"

#define DEFAULT_INTERVAL	60u	/* seconds */
#define DEFAULT_DEPTH		8u
#define MAX_DEPTH		64u
#define TICK			100u	/* milliseconds */

static const char usage[] =
"Usage: clone_copy --metadata-device DEVICE --source-device DEVICE\n"
"                  --dest-device DEVICE [OPTION...]\n"
"\n"
"Finish a clone that is not active: copy what is missing from the source to the\n"
"destination. May be interrupted at any instant, and run again.\n"
"\n"
"      --metadata-device DEVICE|FILE\n"
"      --source-device DEVICE|FILE\n"
"      --dest-device DEVICE|FILE\n"
"                            as in the table line\n"
"      --list-failed-blocks  what cannot be copied goes to the standard output: a\n"
"                            first sector and a number of sectors a line\n"
"      --commit-interval SECONDS\n"
"                            how often the metadata is updated (60)\n"
"      --queue-depth NUMBER  requests under way at once (8)\n"
"  -q, --quiet               say nothing, the exit status tells\n"
"  -h, --help                show this\n"
"  -V, --version             show the version\n";

static const struct option options[] = {
	{ "metadata-device", required_argument, NULL, 'M' },
	{ "source-device", required_argument, NULL, 'S' },
	{ "dest-device", required_argument, NULL, 'D' },
	{ "list-failed-blocks", no_argument, NULL, 'L' },
	{ "commit-interval", required_argument, NULL, 'I' },
	{ "queue-depth", required_argument, NULL, 'Q' },
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

struct request {
	const char *metadata;
	const char *source;
	const char *dest;
	bool list_failed;
	uint64_t interval;
	uint64_t depth;
};

struct copy {
	const struct request *request;
	struct clone_md_device dev;
	struct clone_md_superblock sb;
	struct clone_md_writer *writer;
	int source;
	int dest;

	struct copier *copier;
	uint64_t nr_regions;
	uint64_t next;			/* regions before it were seen to */
	struct range *done;
	uint64_t nr_at_first;		/* hydrated */
	time_t began;
	time_t committed;
};

static volatile sig_atomic_t interrupted;

/*
 *---------------------------------------------------------------
 * Devices
 *---------------------------------------------------------------
 */

static int check_size(const char *path, int fd, uint64_t sectors)
{
	uint64_t size;

	if (clone_md_size_of_fd(fd, &size))
		size = 0;
	size /= 512;
	if (size >= sectors)
		return 0;

	say("%s has %ju sectors, %ju are needed", path, size, sectors);
	return -1;
}

static int open_data(const char *path, int flags, uint64_t sectors)
{
	int fd = clone_md_open_fd(path, flags);

	if (fd < 0) {
		say_not_opened(path, fd);
	} else if (check_size(path, fd, sectors)) {
		close(fd);
		fd = -1;
	}

	return fd;
}

static const char *why_no_metadata(int error)
{
	switch (error) {
	case -ENODATA:
		return "is all zeroes: no clone has used it, or it was overwritten";
	case -EILSEQ:
		return "is not the metadata of a clone, or its superblock is damaged";
	case -EUCLEAN:
		return "is damaged: see clone_check";
	case -ENOTSUP:
		return "has another version";
	}

	return strerror(-error);
}

static int open_clone(struct copy *c)
{
	const struct request *q = c->request;
	int r = open_metadata(&c->dev, q->metadata, CLONE_MD_OPEN_WRITE);

	if (r)
		return r;
	r = clone_md_edit(&c->dev.image, &c->sb, &c->writer);
	if (r) {
		say("%s %s", q->metadata, why_no_metadata(r));
		clone_md_close_device(&c->dev);
		return r;
	}
	c->nr_regions = clone_md_nr_regions(&c->sb);
	c->nr_at_first = clone_md_nr_hydrated(c->writer);

	return 0;
}

static bool open_both(struct copy *c)
{
	const struct request *q = c->request;

	c->source = open_data(q->source, O_RDONLY, c->sb.target_size);
	if (c->source < 0)
		return false;
	c->dest = open_data(q->dest, O_RDWR | O_EXCL, c->sb.target_size);
	if (c->dest < 0) {
		close(c->source);
		return false;
	}

	return true;
}

/*
 *---------------------------------------------------------------
 * Progress
 *---------------------------------------------------------------
 */

/* For failed(), which is called by threads, one at a time. */
static const struct copy *current;

static void failed(uint64_t region, bool reading, int error)
{
	struct range one = { region, 1 }, sectors = range_in_sectors(&current->sb, &one);

	if (current->request->list_failed) {
		printf("%ju %ju\n", sectors.first, sectors.nr);
		fflush(stdout);
	} else {
		say("region %ju, sector %ju: cannot be %s: %s", region, sectors.first,
		    reading ? "read" : "written", strerror(error));
	}
}

/* On a terminal a line that changes; otherwise one for each commit. */
static void show_progress(struct copy *c, bool commit)
{
	uint64_t nr = copier_counts(c->copier).nr_copied;
	uint64_t left = c->nr_regions - c->nr_at_first - nr;
	time_t seconds = time(NULL) - c->began;
	uint64_t rate = seconds ? nr * c->sb.region_size / 2048 / seconds : 0;
	uint64_t minutes = nr ? left * seconds / nr / 60 : 0;

	if (quiet || isatty(STDERR_FILENO) == commit)
		return;
	fprintf(stderr, "%s%5.1f %% hydrated, %ju MiB/s, %ju minutes left%s",
		commit ? "" : "\r",
		100.0 * (c->nr_regions - left) / c->nr_regions, rate, minutes,
		commit ? "\n" : "  ");
}

/*
 *---------------------------------------------------------------
 * The metadata
 *---------------------------------------------------------------
 */

static int by_region(const void *a, const void *b)
{
	const struct range *ra = a, *rb = b;

	return ra->first < rb->first ? -1 : ra->first > rb->first;
}

/* The order is what matters: see the beginning of this file. */
static int commit(struct copy *c)
{
	unsigned int nr = copier_take_done(c->copier, c->done, COPIER_MAX_DONE);
	int r = 0;

	c->committed = time(NULL);
	if (!nr)
		return 0;

	if (fsync(c->dest)) {
		r = -errno;
		say("the destination cannot be flushed: %s", strerror(errno));
		return r;
	}

	qsort(c->done, nr, sizeof(*c->done), by_region);
	for (unsigned int i = 0; !r && i < nr; i++)
		r = clone_md_set_hydrated(c->writer, c->done[i].first, c->done[i].nr);
	if (!r)
		r = clone_md_commit(c->writer);
	if (r)
		say("the metadata cannot be updated: %s", strerror(-r));
	else
		show_progress(c, true);
	return r;
}

/* From the first write on the note about the destination is wrong. */
static int clear_note(struct copy *c)
{
	int r;

	if (!c->sb.dest_zeroed)
		return 0;

	clone_md_set_dest_zeroed(c->writer, false);
	r = clone_md_commit(c->writer);
	if (r)
		say("the metadata cannot be updated: %s", strerror(-r));
	return r;
}

/*
 *---------------------------------------------------------------
 * Copying
 *---------------------------------------------------------------
 */

/* The next run of missing regions, not longer than a request. */
static int next_missing(struct copy *c, struct range *range)
{
	uint64_t most = COPY_SIZE / 512 / c->sb.region_size;
	int r = clone_md_next_unhydrated(c->writer, c->next, &range->first);

	range->nr = 0;
	if (r || range->first == c->nr_regions)
		return r;

	do {
		range->nr++;
		if (range->nr >= most || range->first + range->nr == c->nr_regions)
			return 0;
		r = clone_md_is_hydrated(c->writer, range->first + range->nr);
	} while (!r);

	return r < 0 ? r : 0;
}

/* As much as there is room for in the queue. */
static int feed(struct copy *c)
{
	while (c->next < c->nr_regions) {
		struct range range;
		int r = next_missing(c, &range);

		if (r) {
			say("the metadata cannot be read: %s", strerror(-r));
			return r;
		}
		if (range.nr && !copier_offer(c->copier, range))
			return 0;
		c->next = range.first + range.nr;
	}

	return 0;
}

static int copy_all(struct copy *c)
{
	int r = 0;

	while (!r && !interrupted &&
	       (c->next < c->nr_regions || !copier_is_idle(c->copier))) {
		r = feed(c);
		copier_wait(c->copier, TICK);
		show_progress(c, false);
		if (!r && (copier_is_full(c->copier) ||
			   time(NULL) - c->committed >= (time_t)c->request->interval))
			r = commit(c);
	}

	/* After an error nothing more counts as done. */
	copier_cancel(c->copier);
	while (!copier_is_idle(c->copier)) {
		copier_wait(c->copier, TICK);
		if (copier_is_full(c->copier) && !r)
			r = commit(c);
		else if (r)
			copier_take_done(c->copier, c->done, COPIER_MAX_DONE);
	}

	return r ? r : commit(c);
}

static int start(struct copy *c)
{
	const struct copier_config config = {
		.source = c->source, .dest = c->dest,
		.region_size = c->sb.region_size, .target_size = c->sb.target_size,
		.nr_threads = c->request->depth,
		.dest_zeroed = c->sb.dest_zeroed,
		.failed = failed,
	};
	int r;

	current = c;
	c->began = time(NULL);
	c->committed = c->began;
	c->done = calloc(COPIER_MAX_DONE, sizeof(*c->done));
	r = c->done ? copier_start(&c->copier, &config) : -ENOMEM;
	if (r)
		say("not enough memory");
	return r;
}

static int run_copy(struct copy *c)
{
	int r = clear_note(c);

	if (!r)
		r = start(c);
	if (!r) {
		r = copy_all(c);
		if (!quiet && isatty(STDERR_FILENO))
			fputc('\n', stderr);
		copier_end(c->copier);
	}

	free(c->done);
	return r;
}

static int conclude(const struct copy *c)
{
	uint64_t missing = c->nr_regions - clone_md_nr_hydrated(c->writer);

	if (!missing) {
		say("all %ju regions are hydrated", c->nr_regions);
		return 0;
	}

	say("%s%ju of %ju regions are missing: run this again",
	    interrupted ? "interrupted; " : "", missing, c->nr_regions);
	return 1;
}

static int finish_clone(const struct request *q)
{
	struct copy c = { .request = q };
	int status = 1;

	if (open_clone(&c))
		return 1;

	if (c.nr_at_first == c.nr_regions) {
		status = conclude(&c);
	} else if (open_both(&c)) {
		if (!run_copy(&c))
			status = conclude(&c);
		close(c.source);
		close(c.dest);
	}

	clone_md_close(c.writer);
	clone_md_close_device(&c.dev);
	return status;
}

/*
 *---------------------------------------------------------------
 * The tool
 *---------------------------------------------------------------
 */

static void interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

/* The second one ends it at once, which does no harm. */
static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = interrupt, .sa_flags = SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static bool take_option(struct request *q, int c)
{
	switch (c) {
	case 'M':
		q->metadata = optarg;
		return true;
	case 'S':
		q->source = optarg;
		return true;
	case 'D':
		q->dest = optarg;
		return true;
	case 'L':
		q->list_failed = true;
		return true;
	case 'I':
		return parse_number(optarg, &q->interval);
	case 'Q':
		return parse_number(optarg, &q->depth) && q->depth &&
		       q->depth <= MAX_DEPTH;
	}

	return common_option(c);
}

static int run(int argc, char **argv)
{
	struct request q = { .interval = DEFAULT_INTERVAL, .depth = DEFAULT_DEPTH };
	int c;

	while ((c = getopt_long(argc, argv, COMMON_LETTERS, options, NULL)) != -1) {
		if (take_option(&q, c))
			continue;
		if (c != '?')
			say("not a possible number: %s", optarg);
		return wrong_usage(NULL);
	}
	if (argc != optind || !q.metadata || !q.source || !q.dest)
		return wrong_usage("the three devices of a clone are needed");
	if (is_same_file(q.metadata, q.source) || is_same_file(q.metadata, q.dest) ||
	    is_same_file(q.source, q.dest))
		return wrong_usage("the three devices must not be the same");

	catch_signals();
	return finish_clone(&q);
}

const struct tool clone_copy = { "clone_copy", usage, run };
