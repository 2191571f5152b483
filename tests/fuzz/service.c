// SPDX-License-Identifier: GPL-2.0-only
/*
 * An image was accepted: then the clone must serve.
 *
 * What it must hold follows from the image's bits alone: the source's stamp
 * where a region is not hydrated, the destination's former one where it is. On
 * top of that go writes and discards of our own. As long as the clone is active
 * every read must return what was written last, in every mode. If it goes
 * read-only, because the metadata turns out to be bad after all, what was
 * written since the last successful fsync may be lost, and nothing else.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dm.h"
#include "service.h"
#include "watch.h"

/* Hydrate to the end only what can be done in a moment. */
#define MAX_TO_HYDRATE	3000

#define MAX_WRITE	64		/* sectors */
#define HYDRATION_LIMIT	30000		/* in steps of a millisecond */

/* What is known of the sectors of all windows. */
struct content {
	struct model model[MAX_WINDOWS];
	uint32_t *durable;		/* by the last fsync */
	uint32_t first_stamp;		/* of those written since */
	uint32_t next_stamp;
	bool discarded;			/* something was, since the last fsync */
};

struct life {
	struct service *s;
	const struct base *base;
	struct content content;
	uint64_t hydrated, total;	/* as in the status */
	char mode[8];
};

static bool __attribute__((format(printf, 2, 3)))
bad(struct life *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	text_add(l->s->report, "\n    ");
	text_vadd(l->s->report, format, args);
	va_end(args);
	return false;
}

/*
 * The content
 */

static void init_content(struct life *l)
{
	struct content *c = &l->content;
	uint32_t *p = must_alloc(l->base->window_sectors * 3 * sizeof(*p));

	c->next_stamp = STAMP_FIRST;
	c->first_stamp = STAMP_FIRST;
	c->durable = p + 2 * l->base->window_sectors;
	for (unsigned int i = 0; i < l->base->nr_windows; i++) {
		const struct window *w = &l->base->windows[i];

		c->model[i] = (struct model) {
			.first = w->first, .sectors = w->sectors,
			.now = p, .alt = p + l->base->window_sectors,
		};
		p += w->sectors;
		for (uint64_t k = 0; k < w->sectors; k++) {
			uint64_t region = (w->first + k) / l->base->region_size;

			c->model[i].now[k] = survey_bit(l->s->survey, region) ?
					     STAMP_FORMER : STAMP_SOURCE;
			c->model[i].alt[k] = STAMP_NONE;
		}
	}
}

static void free_content(struct life *l)
{
	free(l->content.model[0].now);
}

static void note_durable(struct life *l)
{
	struct content *c = &l->content;

	memcpy(c->durable, c->model[0].now, l->base->window_sectors * sizeof(*c->durable));
	c->first_stamp = c->next_stamp;
	c->discarded = false;
}

static bool check_content(struct life *l, const char *when)
{
	char report[1500];

	progress->beats++;
	for (unsigned int i = 0; i < l->base->nr_windows; i++) {
		struct model *m = &l->content.model[i];

		if (model_check_device(m, bench_fd(l->s->bench), m->first, m->sectors, report,
				       sizeof(report)))
			return bad(l, "data %s: %s", when, report);
	}
	return true;
}

/* After a bad end: durable, or written since, is what a sector may hold. */
static bool is_allowed_after_loss(const struct content *c, uint32_t durable, uint32_t found)
{
	return found == durable || (found >= c->first_stamp && found < c->next_stamp) ||
	       (found == STAMP_ZERO && c->discarded);
}

static bool check_content_after_loss(struct life *l)
{
	const struct content *c = &l->content;
	const uint32_t *durable = c->durable;
	int fd = bench_fd(l->s->bench);
	bool ok = true;
	void *buf;

	if (posix_memalign(&buf, 4096, l->base->window_sectors * SECTOR_SIZE))
		exit(2);
	for (unsigned int i = 0; ok && i < l->base->nr_windows; i++) {
		const struct window *w = &l->base->windows[i];
		ssize_t n = w->sectors * SECTOR_SIZE;

		if (pread(fd, buf, n, w->first * SECTOR_SIZE) != n)
			ok = bad(l, "a read after the loss: %s", strerror(errno));
		for (uint64_t k = 0; ok && k < w->sectors; k++, durable++) {
			uint32_t found = stamp_of((char *)buf + k * SECTOR_SIZE, w->first + k);

			if (!is_allowed_after_loss(c, *durable, found))
				ok = bad(l, "after the loss: sector %llu holds %u, durable was %u",
					 (unsigned long long)(w->first + k), found, *durable);
		}
	}
	free(buf);
	return ok;
}

/*
 * Status
 */

static bool read_status(struct life *l)
{
	unsigned long long used, total, region, in_flight;
	char status[512];
	int r = dm_status(CLONE, status, sizeof(status));

	if (r)
		return bad(l, "status: %s", strerror(-r));
	if (!strcmp(status, "Fail")) {
		strcpy(l->mode, "Fail");
		return true;
	}
	if (sscanf(status, "8 %llu/%llu %llu %llu/%llu %llu", &used, &total, &region,
		   (unsigned long long *)&l->hydrated, (unsigned long long *)&l->total,
		   &in_flight) != 6)
		return bad(l, "status: %s", status);
	snprintf(l->mode, sizeof(l->mode), "%s", strrchr(status, ' ') + 1);
	if (strcmp(l->mode, "rw") && strcmp(l->mode, "ro"))
		return bad(l, "mode in status: %s", status);
	if (region != l->base->region_size || l->total != l->s->survey->nr_regions ||
	    l->hydrated > l->total || in_flight > l->total)
		return bad(l, "numbers in status: %s", status);
	if (used > total && l->s->survey->verdict == IMAGE_GOOD)
		return bad(l, "blocks in status: %s", status);
	return true;
}

static bool is_rw(struct life *l)
{
	return !strcmp(l->mode, "rw");
}

/* An operation has failed: that's only right if the clone has left rw mode. */
static bool may_fail(struct life *l, const char *op)
{
	int error = errno;

	if (!read_status(l))
		return false;
	if (is_rw(l))
		return bad(l, "%s failed with %s in mode rw", op, strerror(error));
	if (l->s->survey->verdict == IMAGE_GOOD && !l->s->sabotaged)
		return bad(l, "%s failed with %s, mode %s, though the metadata was good", op,
			   strerror(error), l->mode);
	l->s->went_bad = true;
	return true;
}

/*
 * Operations
 */

struct range {
	unsigned int window;
	uint64_t first, nr;
};

static struct range choose_range(struct life *l)
{
	struct range r = { .window = rng_below(l->s->rng, l->base->nr_windows) };
	const struct window *w = &l->base->windows[r.window];
	uint64_t region = l->base->region_size;

	r.nr = 1 + rng_below(l->s->rng, min_u64(MAX_WRITE, w->sectors));
	r.first = w->first + rng_below(l->s->rng, w->sectors - r.nr + 1);
	if (rng_one_in(l->s->rng, 2)) {
		/* Whole regions, mostly. */
		r.first = r.first / region * region;
		r.nr = min_u64((r.nr + region - 1) / region * region,
			       w->first + w->sectors - r.first);
	}
	return r;
}

static bool do_write(struct life *l)
{
	struct range r = choose_range(l);
	uint32_t stamp = l->content.next_stamp++;
	struct model *m = &l->content.model[r.window];
	ssize_t size = r.nr * SECTOR_SIZE;
	bool ok = true;
	void *buf;

	if (posix_memalign(&buf, 4096, size))
		exit(2);
	stamp_fill(buf, r.first, r.nr, stamp);
	if (pwrite(bench_fd(l->s->bench), buf, size, r.first * SECTOR_SIZE) == size) {
		model_set(m, r.first, r.nr, stamp);
	} else {
		model_maybe(m, r.first, r.nr, stamp);
		ok = may_fail(l, "a write");
	}
	free(buf);
	return ok;
}

static bool do_discard(struct life *l)
{
	struct range r = choose_range(l);
	uint64_t range[2] = { r.first * SECTOR_SIZE, r.nr * SECTOR_SIZE };

	l->content.discarded = true;
	model_maybe(&l->content.model[r.window], r.first, r.nr, STAMP_ZERO);
	if (!ioctl(bench_fd(l->s->bench), BLKDISCARD, range))
		return true;
	return may_fail(l, "a discard");
}

static bool do_flush(struct life *l)
{
	if (fsync(bench_fd(l->s->bench)))
		return may_fail(l, "a flush");
	/* Reading settles which of two contents is there. */
	if (!check_content(l, "after a flush"))
		return false;
	note_durable(l);
	return true;
}

static bool do_reload(struct life *l)
{
	int r = bench_load(l->s->bench, "1 no_hydration") ?: bench_resume(l->s->bench);

	return r ? bad(l, "reloading the table: %s", strerror(-r)) : read_status(l);
}

static bool do_something(struct life *l)
{
	progress->beats++;
	switch (rng_below(l->s->rng, 8)) {
	case 0:
		return do_flush(l);
	case 1:
		return do_discard(l);
	case 2:
		return check_content(l, "between");
	case 3:
		return !rng_one_in(l->s->rng, 3) || do_reload(l);
	default:
		return do_write(l);
	}
}

static bool hydrate(struct life *l)
{
	unsigned int i = 0;
	int r;

	if (l->total - l->hydrated > MAX_TO_HYDRATE)
		return true;
	r = dm_message(CLONE, 0, "enable_hydration", 17);
	if (r)
		return bad(l, "enable_hydration: %s", strerror(-r));
	do {
		progress->beats++;
		if (!read_status(l))
			return false;
		if (!is_rw(l))
			return may_fail(l, "hydration");
		if (l->hydrated == l->total)
			return true;
		usleep(1000);
	} while (++i < HYDRATION_LIMIT);
	return bad(l, "hydration stays at %llu of %llu", (unsigned long long)l->hydrated,
		   (unsigned long long)l->total);
}

/*
 * Lives
 */

static bool begin(struct life *l)
{
	int r = bench_resume(l->s->bench);

	if (r)
		return bad(l, "resume: %s", strerror(-r));
	if (bench_fd(l->s->bench) < 0)
		return bad(l, "%s: %s", l->s->bench->node, strerror(errno));
	if (!read_status(l))
		return false;
	if (!is_rw(l))
		return bad(l, "the mode is %s right away", l->mode);
	if (l->hydrated != l->s->survey->nr_hydrated)
		return bad(l, "%llu regions hydrated, the image says %llu",
			   (unsigned long long)l->hydrated,
			   (unsigned long long)l->s->survey->nr_hydrated);
	return check_content(l, "as found");
}

static bool use_a_little(struct life *l)
{
	unsigned int nr = 2 + rng_below(l->s->rng, 8);

	while (nr--)
		if (!do_something(l))
			return false;
	return true;
}

static bool use(struct life *l)
{
	if (!use_a_little(l) || !hydrate(l) || !check_content(l, "in the end"))
		return false;
	if (rng_one_in(l->s->rng, 2) && !do_flush(l))
		return false;
	return true;
}

/* The image that the first life has left must serve for a second one. */
static bool live_again(struct life *l)
{
	struct bench *b = l->s->bench;
	struct image image = { .data = must_alloc((size_t)b->meta_blocks * BLOCK) };
	enum verdict before = l->s->survey->verdict;
	bool lost = l->s->went_bad, ok;
	struct survey *survey;
	int r;

	bench_get_image(b, &image);
	survey = image_survey(&image, l->base->target_size, l->base->region_size);
	if (survey->verdict == IMAGE_BROKEN) {
		survey_free(survey);
		bench_get_whole_image(b, &image);
		survey = image_survey(&image, l->base->target_size, l->base->region_size);
	}
	free(image.data);

	if (survey->verdict == IMAGE_BROKEN || (before == IMAGE_GOOD &&
						survey->verdict != IMAGE_GOOD))
		ok = bad(l, "a %s image has become %s: %s", verdict_name(before),
			 verdict_name(survey->verdict), survey->why);
	else
		ok = true;

	l->s->survey = survey;
	if (ok) {
		r = bench_load(b, "1 no_hydration");
		if (r)
			ok = bad(l, "the image that was left is refused: %s", strerror(-r));
	}
	if (ok) {
		r = bench_resume(b);
		ok = !r && bench_fd(b) >= 0 ? read_status(l) : bad(l, "second resume");
		ok = ok && (lost ? check_content_after_loss(l) : check_content(l, "again"));
	}
	survey_free(survey);
	l->s->survey = NULL;
	return ok;
}

/* Suspending commits: that may fail, too. */
static bool end(struct life *l)
{
	int r = dm_suspend(CLONE);

	if (r)
		return bad(l, "suspend: %s", strerror(-r));
	if (!read_status(l))
		return false;
	return is_rw(l) || may_fail(l, "suspend");
}

bool serve(struct service *s, bool thorough)
{
	struct life l = { .s = s, .base = s->bench->base };
	bool ok;
	int r;

	init_content(&l);
	note_durable(&l);
	ok = begin(&l);
	if (ok && thorough)
		ok = use(&l) && end(&l);
	r = bench_drop(s->bench, thorough && rng_one_in(s->rng, 4));
	if (r)
		ok = bad(&l, "taking the clone off: %s", strerror(-r));

	if (ok && thorough) {
		ok = live_again(&l);
		r = bench_drop(s->bench, false);
		if (r)
			ok = bad(&l, "taking the clone off again: %s", strerror(-r));
	}
	free_content(&l);
	if (thorough)
		bench_reset_dest(s->bench);
	return ok;
}

/*
 * Sabotage
 */

/* Let the metadata device fail until the clone has noticed; then heal it. */
static bool fail_metadata(struct life *l)
{
	unsigned int i;
	int r = bench_fail_meta(l->s->bench, true);
	bool ok = !r || bad(l, "failing metadata: %s", strerror(-r));

	for (i = 0; ok && i < 20 && is_rw(l); i++)
		ok = do_write(l) && do_flush(l) && read_status(l);
	bench_fail_meta(l->s->bench, false);
	return ok;
}

static bool suspend_and_resume(struct life *l)
{
	int r = dm_suspend(CLONE) ?: dm_resume(CLONE);

	return r ? bad(l, "suspend and resume: %s", strerror(-r)) : read_status(l);
}

static bool live_with_sabotage(struct life *l, void (*sabotage)(void *context), void *context)
{
	bool ok = use_a_little(l);

	l->s->sabotaged = true;
	sabotage(context);
	if (ok && rng_one_in(l->s->rng, 2))
		ok = fail_metadata(l);
	ok = ok && use_a_little(l) && suspend_and_resume(l) && use_a_little(l);
	if (ok && rng_one_in(l->s->rng, 2))
		ok = suspend_and_resume(l) && hydrate(l);
	return ok && check_content(l, "with sabotaged metadata");
}

bool serve_sabotaged(struct service *s, void (*sabotage)(void *context), void *context)
{
	struct life l = { .s = s, .base = s->bench->base };
	bool ok;
	int r;

	init_content(&l);
	note_durable(&l);
	ok = begin(&l) && live_with_sabotage(&l, sabotage, context);
	r = bench_drop(s->bench, rng_one_in(s->rng, 2));
	if (r)
		ok = bad(&l, "taking the clone off: %s", strerror(-r));
	free_content(&l);
	bench_reset_dest(s->bench);
	return ok;
}
