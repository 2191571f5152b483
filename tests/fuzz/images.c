// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images of metadata, from harmless to hostile.
 *
 * Each is put on the metadata device and a table is loaded. What this program's
 * own reader finds broken must be refused, with a reason in the log and not one
 * byte of the device changed. What it finds good must be accepted. In between
 * either will do. What is accepted must serve, see service.c.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>

#include "cases.h"
#include "craft.h"
#include "dm.h"
#include "service.h"
#include "watch.h"

uint64_t nr_random_images = 3000;

/* Neighbouring cases use the same base: changing it takes time. */
#define CASES_IN_A_ROW	64

/*
 * One image
 */

struct trial {
	struct fuzzer *f;
	const struct base *base;
	struct image image;
	uint32_t dev_blocks;
	struct rng *rng;
	bool thorough;
};

static void save_image(const struct trial *t)
{
	char path[256];
	FILE *file;

	if (!t->f->save)
		return;
	snprintf(path, sizeof(path), "%s/%s-%llu.image", t->f->save, progress->section,
		 (unsigned long long)progress->number);
	file = fopen(path, "w");
	if (file) {
		fwrite(t->image.data, 1, hot_size(t->dev_blocks), file);
		fclose(file);
		text_add(&t->f->report, "\n    image in %s", path);
	}
}

static bool is_unchanged(const struct trial *t)
{
	struct image now = { .data = must_alloc((size_t)t->dev_blocks * BLOCK) };
	bool same;

	bench_get_image(&t->f->bench, &now);
	same = !memcmp(now.data, t->image.data, hot_size(t->dev_blocks));
	free(now.data);
	return same;
}

/*
 * An activation writes the superblock it has read again. It may drop what is in
 * its unused fields then, and the checksum follows.
 */
static bool is_kept(const struct trial *t)
{
	struct image now = { .data = must_alloc((size_t)t->dev_blocks * BLOCK) };
	bool same;

	bench_get_image(&t->f->bench, &now);
	same = !memcmp(now.data + SB_BEGIN, t->image.data + SB_BEGIN, SB_END - SB_BEGIN) &&
	       !memcmp(now.data + BLOCK, t->image.data + BLOCK,
		       hot_size(t->dev_blocks) - BLOCK);
	free(now.data);
	return same;
}

static bool check_refusal(const struct trial *t, const struct survey *s, int error)
{
	const char *reason, *complaint = watch_kernel(&reason);

	progress->refused++;
	if (complaint)
		return fail(t->f, "the kernel complained: %s", complaint);
	if (s->verdict == IMAGE_GOOD)
		return fail(t->f, "a good image was refused: %s", reason);
	if (s->verdict == IMAGE_EMPTY && t->dev_blocks == t->base->meta_blocks)
		return fail(t->f, "it was not formatted: %s", reason);
	if (!*reason)
		return fail(t->f, "refused without a reason");
	if (error == -ENOMEM || error == -EFAULT)
		return fail(t->f, "refused with %s (%s)", strerror(-error), reason);
	if (!is_unchanged(t))
		return fail(t->f, "refused, but changed (%s)", reason);
	return true;
}

/* A superblock of zeroes must lead to a fresh clone. */
static struct survey *survey_formatted(const struct trial *t)
{
	struct image now = { .data = must_alloc((size_t)t->dev_blocks * BLOCK) };
	struct survey *s;

	bench_get_image(&t->f->bench, &now);
	s = image_survey(&now, t->base->target_size, t->base->region_size);
	free(now.data);
	return s;
}

static bool check_service(const struct trial *t, struct survey *s)
{
	struct service service = {
		.bench = &t->f->bench, .rng = t->rng, .report = &t->f->report, .survey = s,
	};
	bool ok = serve(&service, t->thorough);
	const char *complaint = watch_kernel(NULL);

	if (complaint)
		ok = fail(t->f, "the kernel complained: %s", complaint);
	if (ok && !t->thorough && !is_kept(t))
		ok = fail(t->f, "reading has changed the metadata");
	return ok;
}

static bool check_acceptance(struct trial *t, struct survey *s)
{
	struct survey *formatted = NULL;
	bool ok;

	progress->accepted++;
	if (s->verdict == IMAGE_BROKEN) {
		bench_clear(&t->f->bench);
		return fail(t->f, "a broken image was accepted: %s", s->why);
	}
	if (s->verdict == IMAGE_EMPTY) {
		formatted = survey_formatted(t);
		t->thorough = true;
		if (formatted->verdict == IMAGE_BROKEN || formatted->nr_hydrated ||
		    (formatted->verdict != IMAGE_GOOD &&
		     t->dev_blocks == t->base->meta_blocks)) {
			bench_clear(&t->f->bench);
			ok = fail(t->f, "formatted, but not well: %s", formatted->why);
			survey_free(formatted);
			return ok;
		}
	}
	ok = check_service(t, formatted ?: s);
	bench_reset_meta(&t->f->bench);
	survey_free(formatted);
	return ok;
}

static bool try_image(struct trial *t)
{
	const struct image on_device = { t->image.data, t->dev_blocks };
	struct survey *s = image_survey(&on_device, t->base->target_size, t->base->region_size);
	const char *differs;
	bool ok;
	int r;

	text_add(&t->f->what, "; it is %s", verdict_name(s->verdict));
	if (s->verdict >= IMAGE_ODD)
		text_add(&t->f->what, " (%s)", s->why);
	snprintf(progress->what, sizeof(progress->what), "%s", t->f->what.s);

	bench_use(&t->f->bench, t->base, t->dev_blocks);
	bench_put_image(&t->f->bench, &t->image, t->dev_blocks);
	watch_kernel(NULL);
	r = bench_load(&t->f->bench, "1 no_hydration");
	ok = r ? check_refusal(t, s, r) : check_acceptance(t, s);
	differs = image_compare_readers(&on_device, s);
	if (differs)
		ok = fail(t->f, "the tools' reader has another opinion: %s", differs);
	if (!ok)
		save_image(t);
	survey_free(s);
	return ok;
}

static bool try_copy_of(struct fuzzer *f, const struct base *base, const struct stage *stage,
			struct rng *rng, void (*change)(struct craft *c, void *arg), void *arg,
			unsigned int thorough_one_in)
{
	struct trial t = { .f = f, .base = base, .rng = rng,
			   .thorough = rng_one_in(rng, thorough_one_in) };
	size_t size = (size_t)stage->image.nr_blocks * BLOCK;
	struct craft c;
	bool ok;

	t.image.nr_blocks = stage->image.nr_blocks;
	t.image.data = must_alloc(size);
	memcpy(t.image.data, stage->image.data, hot_size(stage->image.nr_blocks));

	text_add(&f->what, "%s, %s: ", base->name, stage->name);
	craft_init(&c, &t.image, stage->survey, rng, &f->what);
	change(&c, arg);
	t.dev_blocks = c.dev_blocks;
	craft_exit(&c);

	ok = try_image(&t);
	free(t.image.data);
	return ok;
}

/* All stages of all bases in a row. */

static unsigned int nr_stages(void)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < nr_bases; i++)
		nr += bases[i].nr_stages;
	return nr;
}

static const struct stage *get_stage(unsigned int n, const struct base **base)
{
	unsigned int i = 0;

	while (n >= bases[i].nr_stages)
		n -= bases[i++].nr_stages;
	*base = &bases[i];
	return &bases[i].stages[n];
}

/*
 * The images as they are
 */

static void change_nothing(struct craft *c, void *arg)
{
	(void)arg;
	text_add(c->what, "as it was");
}

static uint64_t count_plain(void)
{
	return 2 * nr_stages();
}

static bool run_plain(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "plain", number);
	const struct base *base;
	const struct stage *stage = get_stage(number / 2, &base);

	return try_copy_of(f, base, stage, &rng, change_nothing, NULL, 1 + number % 2 * 1000);
}

/*
 * Each byte of a superblock, with and without a checksum that fits
 */

static void change_byte(struct craft *c, void *arg)
{
	uint64_t number = *(uint64_t *)arg;
	unsigned int byte = number / 2;
	uint8_t mask = 1 + rng_below(c->rng, 255);

	text_add(c->what, "byte %u of the superblock ^ %02x", byte, mask);
	c->image->data[byte] ^= mask;
	if (number % 2) {
		text_add(c->what, ", checksum repaired");
		c->touched[0] = true;
		craft_seal(c);
	}
}

static uint64_t count_superblock(void)
{
	return 2 * BLOCK;
}

static bool run_superblock(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "superblock", number);

	/* Most accepted images differ only in bytes that mean nothing. */
	return try_copy_of(f, &bases[0], &bases[0].stages[1], &rng, change_byte, &number, 40);
}

/*
 * Each block of each image, with and without a checksum that fits
 */

struct block_case {
	uint64_t block;
	bool repair;
};

/* How often each block is damaged: less often where there are many. */
static unsigned int nr_damages(const struct stage *stage)
{
	return stage->nr_blocks > 100 ? 1 : 4;
}

static void change_block(struct craft *c, void *arg)
{
	const struct block_case *block_case = arg;

	craft_damage(c, block_case->block);
	if (block_case->repair) {
		text_add(c->what, ", checksum repaired");
		craft_seal(c);
	}
}

static uint64_t count_blocks(void)
{
	uint64_t nr = 0;
	const struct base *base;

	for (unsigned int i = 0; i < nr_stages(); i++) {
		const struct stage *stage = get_stage(i, &base);

		nr += stage->nr_blocks * (uint64_t)nr_damages(stage);
	}
	return nr;
}

static bool run_blocks(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "blocks", number);
	unsigned int i = 0;
	const struct base *base;
	const struct stage *stage = get_stage(0, &base);
	struct block_case block_case;
	uint64_t n = number;

	while (n >= stage->nr_blocks * (uint64_t)nr_damages(stage)) {
		n -= stage->nr_blocks * (uint64_t)nr_damages(stage);
		stage = get_stage(++i, &base);
	}
	block_case.block = n / nr_damages(stage);
	block_case.repair = nr_damages(stage) == 1 ? !rng_one_in(&rng, 4) : n % 2;

	/*
	 * Damage to a block that is free does no harm, so this is soon known.
	 */
	return try_copy_of(f, base, stage, &rng, change_block, &block_case,
			   stage->survey->kind[block_case.block] == KIND_FREE ? 30 : 2);
}

/*
 * Each operation of craft.c on each image
 */

static unsigned int nr_variations(const struct stage *stage)
{
	return stage->nr_blocks > 100 ? 3 : 8;
}

static void change_by_op(struct craft *c, void *arg)
{
	const struct craft_op *op = arg;

	op->apply(c);
	craft_seal(c);
}

static uint64_t count_crafted(void)
{
	uint64_t nr = 0;
	const struct base *base;

	for (unsigned int i = 0; i < nr_stages(); i++)
		nr += nr_variations(get_stage(i, &base)) * (uint64_t)nr_craft_ops;
	return nr;
}

static bool run_crafted(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "crafted", number);
	unsigned int i = 0;
	const struct base *base;
	const struct stage *stage = get_stage(0, &base);
	uint64_t n = number;

	while (n >= nr_variations(stage) * (uint64_t)nr_craft_ops) {
		n -= nr_variations(stage) * (uint64_t)nr_craft_ops;
		stage = get_stage(++i, &base);
	}
	return try_copy_of(f, base, stage, &rng, change_by_op,
			   (void *)&craft_ops[n / nr_variations(stage)], 1);
}

/*
 * Several operations on any image
 */

static void change_at_random(struct craft *c, void *arg)
{
	(void)arg;
	craft_at_random(c);
}

static uint64_t count_random(void)
{
	return nr_random_images;
}

static bool run_random(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "random base", number / CASES_IN_A_ROW);
	unsigned int base_nr = rng_below(&rng, nr_bases);
	const struct base *base;
	const struct stage *stage;

	/* The last one is large: half as often as the others. */
	if (base_nr == nr_bases - 1 && rng_one_in(&rng, 2))
		base_nr = 0;
	base = &bases[base_nr];
	rng = rng_of(f->seed, "random", number);
	stage = &base->stages[rng_below(&rng, base->nr_stages)];

	return try_copy_of(f, base, stage, &rng, change_at_random, NULL, 1);
}

/*
 * Metadata that changes under a clone that is active
 */

#define SABOTAGES	20		/* of each image */

/* Read what is there, change it, and write it back. */
static void sabotage(void *context)
{
	struct trial *t = context;
	struct survey *s;
	struct craft c;

	bench_get_image(&t->f->bench, &t->image);
	s = image_survey(&t->image, t->base->target_size, t->base->region_size);
	text_add(&t->f->what, "%s when sabotaged: ", verdict_name(s->verdict));
	craft_init(&c, &t->image, s, t->rng, &t->f->what);
	craft_at_random(&c);
	craft_exit(&c);
	survey_free(s);
	snprintf(progress->what, sizeof(progress->what), "%s", t->f->what.s);
	bench_put_image(&t->f->bench, &t->image, t->dev_blocks);
}

static uint64_t count_sabotage(void)
{
	return (uint64_t)nr_stages() * SABOTAGES;
}

static bool run_sabotage(struct fuzzer *f, uint64_t number)
{
	struct rng rng = rng_of(f->seed, "sabotage", number);
	struct trial t = { .f = f, .rng = &rng };
	const struct stage *stage = get_stage(number / SABOTAGES, &t.base);
	struct service service = {
		.bench = &f->bench, .rng = &rng, .report = &f->report, .survey = stage->survey,
	};
	const char *complaint;
	bool ok;

	text_add(&f->what, "%s, %s, ", t.base->name, stage->name);
	t.dev_blocks = stage->image.nr_blocks;
	t.image.nr_blocks = stage->image.nr_blocks;
	t.image.data = must_alloc((size_t)stage->image.nr_blocks * BLOCK);
	bench_use(&f->bench, t.base, t.dev_blocks);
	bench_put_image(&f->bench, &stage->image, t.dev_blocks);
	watch_kernel(NULL);
	if (bench_load(&f->bench, "1 no_hydration"))
		ok = fail(f, "a good image was refused");
	else
		ok = serve_sabotaged(&service, sabotage, &t);
	progress->accepted++;
	complaint = watch_kernel(NULL);
	if (complaint)
		ok = fail(f, "the kernel complained: %s", complaint);
	bench_reset_meta(&f->bench);
	free(t.image.data);
	return ok;
}

const struct section image_sections[] = {
	{ "plain", "images", count_plain, run_plain },
	{ "crafted", "images", count_crafted, run_crafted },
	{ "random", "images", count_random, run_random },
	{ "sabotage", "images", count_sabotage, run_sabotage },
	{ "blocks", "images", count_blocks, run_blocks },
	{ "superblock", "images", count_superblock, run_superblock },
};

const unsigned int nr_image_sections = ARRAY_SIZE(image_sections);
