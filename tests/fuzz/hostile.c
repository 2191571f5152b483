// SPDX-License-Identifier: GPL-2.0-only
/*
 * Gives the clone target what an enemy or an accident might: table lines,
 * messages, and images of metadata. As root, in a machine that may die of it.
 *
 * Every choice follows from the seed and the number of the case, so --seed and
 * --only repeat a failure. The last line is "N passed, N failed"; what is
 * counted are images, lines and messages tried.
 */

#define _GNU_SOURCE
#include <getopt.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "watch.h"

#define MAX_FAILURES	20

struct options {
	const char *module, *peer;
	const char *stages;		/* folder for the first images, or NULL */
	const char *only;
	unsigned int part;		/* run one case in this many */
	unsigned int seconds;		/* stop after this time; 0: never */
	unsigned int patience;		/* how long a case may take */
};

static const char usage[] =
"usage: hostile [options]\n"
"  --seed N       repeat the choices of an earlier run\n"
"  --only NAME    one section, several (NAME,NAME), or one case (NAME:NUMBER)\n"
"  --images N     number of random images\n"
"  --lines N      number of random table lines\n"
"  --messages N   number of random messages\n"
"  --part N       one case in N of the other sections\n"
"  --seconds N    end after this time\n"
"  --patience N   a case takes no longer than this (180 s)\n"
"  --module FILE  load this module; 'loaded': the one that is\n"
"  --peer FILE    another module for the target: take images made by it, too;\n"
"                 'none': not those of an earlier --peer\n"
"  --save DIR     keep the images that fail\n"
"  --stages DIR   keep the images to begin with\n";

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void show_progress(const struct section *s, uint64_t number, uint64_t count, bool last)
{
	static double shown;

	if (!last && now() - shown < 10)
		return;
	shown = now();
	printf("  %-10s %6llu of %llu %s; in all %llu accepted, %llu refused, %llu failed\n",
	       s->name, (unsigned long long)number, (unsigned long long)count, s->what,
	       (unsigned long long)progress->accepted, (unsigned long long)progress->refused,
	       (unsigned long long)progress->failed);
	fflush(stdout);
}

static void run_case(struct fuzzer *f, const struct section *s, uint64_t number)
{
	char mark[96];

	snprintf(mark, sizeof(mark), "--seed %llu --only %s:%llu",
		 (unsigned long long)f->seed, s->name, (unsigned long long)number);
	watch_kernel_mark(mark);
	snprintf(progress->section, sizeof(progress->section), "%s", s->name);
	progress->number = number;
	progress->beats++;
	text_clear(&f->what);
	text_clear(&f->report);

	if (s->run(f, number)) {
		progress->passed++;
		return;
	}
	progress->failed++;
	printf("FAIL %s:%llu (seed %llu)\n    %s%s\n", s->name, (unsigned long long)number,
	       (unsigned long long)f->seed, f->what.s, f->report.s);
	watch_kernel_show();
	fflush(stdout);
}

/*
 * Is this section to be run? Only one case of it? --only is a list of names,
 * each perhaps with a number.
 */
static bool selected(const struct options *o, const struct section *s, int64_t *number)
{
	size_t n = strlen(s->name);
	const char *p = o->only;

	*number = -1;
	while (p) {
		if (!strncmp(p, s->name, n) && strchr(":,", p[n])) {
			if (p[n] == ':')
				*number = strtoull(p + n + 1, NULL, 0);
			return true;
		}
		p = strchr(p, ',');
		if (p)
			p++;
	}
	return !o->only;
}

static void run_section(struct fuzzer *f, const struct options *o, const struct section *s,
			double deadline)
{
	bool random = !strcmp(s->name, "random") || strcmp(s->what, "images");
	unsigned int step = random ? 1 : o->part;
	uint64_t count = s->count(), number;
	int64_t only;

	if (!selected(o, s, &only))
		return;
	if (only >= 0) {
		run_case(f, s, only);
		count = 0;
	}
	for (number = f->seed % step; number < count; number += step) {
		if (progress->failed >= MAX_FAILURES || (deadline && now() > deadline))
			break;
		run_case(f, s, number);
		show_progress(s, number, count, false);
	}
	if (f->bench.live)
		bench_drop(&f->bench, true);
	if (only < 0)
		show_progress(s, min_u64(number, count), count, true);
}

/* What the block manager of a clone that is gone has not given back. */
static void check_leaks(void)
{
	const char *path = "/sys/module/dm_bufio/parameters/current_allocated_bytes";
	FILE *f = fopen(path, "r");
	unsigned long bytes = 0;

	if (!f)
		return;
	if (fscanf(f, "%lu", &bytes) == 1 && bytes) {
		progress->failed++;
		printf("FAIL: dm-bufio has %lu bytes after the last device is gone\n", bytes);
	}
	fclose(f);
}

static bool images_selected(const struct options *o)
{
	int64_t number;

	for (unsigned int i = 0; i < nr_image_sections; i++)
		if (selected(o, &image_sections[i], &number))
			return true;
	return false;
}

/* Load the module; make the images to begin with, by the peer and by it. */
static void set_up(struct fuzzer *f, const struct options *o)
{
	bool images = images_selected(o);

	if (images && o->peer) {
		bench_open(&f->bench, o->peer);
		bench_make_stages(&f->bench, "peer ");
		bench_swap_module(&f->bench, o->module);
	} else {
		bench_open(&f->bench, o->module);
	}
	if (images)
		bench_make_stages(&f->bench, "");
}

static void keep_stages(const char *folder)
{
	char path[256];

	for (unsigned int i = 0; i < nr_bases; i++) {
		for (unsigned int k = 0; k < bases[i].nr_stages; k++) {
			const struct stage *stage = &bases[i].stages[k];
			FILE *f;

			snprintf(path, sizeof(path), "%s/%s-%s.image", folder, bases[i].name,
				 stage->name);
			f = fopen(path, "w");
			if (!f || fwrite(stage->image.data, hot_size(stage->image.nr_blocks), 1,
					 f) != 1 || fclose(f))
				perror(path);
		}
	}
}

static void work(struct fuzzer *f, const struct options *o)
{
	double begin = now(), deadline = o->seconds ? begin + o->seconds : 0;

	progress->beats++;
	watch_kernel_open();
	set_up(f, o);
	printf("seed %llu; set up in %.0f s\n", (unsigned long long)f->seed, now() - begin);
	fflush(stdout);
	if (o->stages)
		keep_stages(o->stages);

	for (unsigned int i = 0; i < nr_line_sections; i++)
		run_section(f, o, &line_sections[i], deadline);
	for (unsigned int i = 0; i < nr_image_sections; i++)
		run_section(f, o, &image_sections[i], deadline);

	bench_close(&f->bench);
	check_leaks();
	printf("seed %llu, %.0f s, %llu accepted, %llu refused\n", (unsigned long long)f->seed,
	       now() - begin, (unsigned long long)progress->accepted,
	       (unsigned long long)progress->refused);
	fflush(stdout);
}

static uint64_t number_of(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (*end || !*text) {
		fprintf(stderr, "hostile: not a number: %s\n", text);
		exit(2);
	}
	return n;
}

static void parse_options(int argc, char **argv, struct options *o, struct fuzzer *f)
{
	static const struct option names[] = {
		{ "seed", 1, NULL, 's' }, { "only", 1, NULL, 'o' }, { "images", 1, NULL, 'i' },
		{ "lines", 1, NULL, 'l' }, { "messages", 1, NULL, 'm' }, { "part", 1, NULL, 'p' },
		{ "seconds", 1, NULL, 't' }, { "patience", 1, NULL, 'w' },
		{ "module", 1, NULL, 'k' }, { "peer", 1, NULL, 'e' }, { "save", 1, NULL, 'd' },
		{ "stages", 1, NULL, 'g' },
		{ "help", 0, NULL, 'h' }, { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 's':
			f->seed = number_of(optarg);
			break;
		case 'o':
			o->only = optarg;
			break;
		case 'i':
			nr_random_images = number_of(optarg);
			break;
		case 'l':
			nr_lines = number_of(optarg);
			break;
		case 'm':
			nr_messages = number_of(optarg);
			break;
		case 'p':
			o->part = number_of(optarg) ?: 1;
			break;
		case 't':
			o->seconds = number_of(optarg);
			break;
		case 'w':
			o->patience = number_of(optarg);
			break;
		case 'k':
			o->module = optarg;
			break;
		case 'e':
			o->peer = strcmp(optarg, "none") ? optarg : NULL;
			break;
		case 'd':
			f->save = optarg;
			break;
		case 'g':
			o->stages = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct options o = { .module = "dm-clone.ko", .part = 1, .patience = 180 };
	struct fuzzer f = { .seed = time(NULL) % 1000000 };

	f.what = (struct text) { must_alloc(4096), 4096, 0 };
	f.report = (struct text) { must_alloc(16384), 16384, 0 };
	parse_options(argc, argv, &o, &f);
	if (geteuid()) {
		fprintf(stderr, "hostile: must be root; better: in tests/vm/run\n");
		return 2;
	}

	watch_child(o.patience);
	work(&f, &o);
	return progress->failed ? 1 : 0;
}
