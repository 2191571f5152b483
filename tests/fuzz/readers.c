// SPDX-License-Identifier: GPL-2.0-only
/*
 * Gives hostile images to the reader of the tools (tools/lib), and compares it
 * with the fuzzer's own. No kernel is needed, so this can try many more images
 * than the virtual machine, with the compiler watching every access.
 *
 * The first images are those that hostile --stages has kept. The last line is
 * "N passed, N failed".
 */

#include <dirent.h>
#include <getopt.h>
#include <time.h>

#include "craft.h"

#define MAX_STAGES	64
#define MAX_FAILURES	10

struct stage {
	char name[64];
	struct image image;
	struct survey *survey;
};

static struct stage stages[MAX_STAGES];
static unsigned int nr_stages;

static bool is_image(const char *name)
{
	size_t n = strlen(name);

	return n > 6 && n < sizeof(stages[0].name) && !strcmp(name + n - 6, ".image");
}

/* The sizes are those that the image itself tells. */
static void add_stage(const char *folder, const char *name)
{
	struct stage *s = &stages[nr_stages];
	char path[512];
	long size;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "r");
	if (!f || fseek(f, 0, SEEK_END)) {
		perror(path);
		exit(2);
	}
	size = ftell(f);
	rewind(f);
	s->image.data = must_alloc(size);
	if (size < (long)BLOCK || fread(s->image.data, size, 1, f) != 1) {
		fprintf(stderr, "readers: %s cannot be read\n", path);
		exit(2);
	}
	fclose(f);
	/* The end of a large one was not kept: it is empty. */
	s->image.nr_blocks = get_field(s->image.data, SB_NR_BLOCKS);
	s->image.data = realloc(s->image.data, (size_t)s->image.nr_blocks * BLOCK);
	memset(s->image.data + size, 0, (size_t)s->image.nr_blocks * BLOCK - size);
	s->survey = image_survey(&s->image, get_field(s->image.data, SB_TARGET_SIZE),
				 get_field(s->image.data, SB_REGION_SIZE));
	if (s->survey->verdict != IMAGE_GOOD) {
		fprintf(stderr, "readers: %s is %s: %s\n", path,
			verdict_name(s->survey->verdict), s->survey->why);
		exit(2);
	}
	snprintf(s->name, sizeof(s->name), "%s", name);
	nr_stages++;
}

static void get_stages(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	if (!dir) {
		perror(folder);
		exit(2);
	}
	while ((entry = readdir(dir)))
		if (is_image(entry->d_name) && nr_stages < MAX_STAGES)
			add_stage(folder, entry->d_name);
	closedir(dir);
	if (!nr_stages) {
		fprintf(stderr, "readers: no images in %s\n", folder);
		exit(2);
	}
}

static const struct stage *choose_stage(struct rng *rng)
{
	const struct stage *s = &stages[rng_below(rng, nr_stages)];

	/* Those that are large take long: less often. */
	if ((s->survey->nr_words > 10000 || s->image.nr_blocks > 10000) && !rng_one_in(rng, 20))
		return &stages[0];
	return s;
}

static bool try_image(uint64_t seed, uint64_t number, struct text *what)
{
	struct rng rng = rng_of(seed, "readers", number);
	const struct stage *stage = choose_stage(&rng);
	size_t size = (size_t)stage->image.nr_blocks * BLOCK;
	struct image image = { must_alloc(size), stage->image.nr_blocks };
	const char *differs;
	struct survey *s;
	struct craft c;

	memcpy(image.data, stage->image.data, hot_size(image.nr_blocks));
	text_clear(what);
	text_add(what, "%s: ", stage->name);
	craft_init(&c, &image, stage->survey, &rng, what);
	craft_at_random(&c);
	image.nr_blocks = c.dev_blocks;

	s = image_survey(&image, stage->survey->target_size, stage->survey->region_size);
	text_add(what, "; it is %s (%s)", verdict_name(s->verdict), s->why);
	differs = image_compare_readers(&image, s);
	if (differs)
		printf("FAIL --seed %llu --first %llu: the tools' reader differs: %s\n    %s\n",
		       (unsigned long long)seed, (unsigned long long)number, differs, what->s);
	survey_free(s);
	craft_exit(&c);
	free(image.data);
	return !differs;
}

static const char usage[] =
"usage: readers [--seed N] [--images N] [--first N] FOLDER\n";

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", 1, NULL, 's' }, { "images", 1, NULL, 'i' }, { "first", 1, NULL, 'f' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t seed = time(NULL) % 1000000, nr = 20000, first = 0, passed = 0, failed = 0;
	struct text what = { must_alloc(4096), 4096, 0 };
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'i')
			nr = strtoull(optarg, NULL, 0);
		else if (c == 'f')
			first = strtoull(optarg, NULL, 0);
		else
			break;
	}
	if (c != -1 || optind != argc - 1) {
		fputs(usage, stderr);
		return 2;
	}

	get_stages(argv[optind]);
	printf("seed %llu\n", (unsigned long long)seed);
	for (uint64_t i = first; i < first + nr && failed < MAX_FAILURES; i++) {
		if (try_image(seed, i, &what))
			passed++;
		else
			failed++;
	}
	printf("%llu passed, %llu failed\n", (unsigned long long)passed,
	       (unsigned long long)failed);

	while (nr_stages--) {
		survey_free(stages[nr_stages].survey);
		free(stages[nr_stages].image.data);
	}
	free(what.s);
	return failed ? 1 : 0;
}
