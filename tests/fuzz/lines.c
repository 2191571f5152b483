// SPDX-License-Identifier: GPL-2.0-only
/*
 * Table lines and messages, from harmless to hostile.
 *
 * The grammar is implemented here once more, as a small parser written from the
 * administrator's guide. It says whether a line must be accepted. What is
 * accepted must come back from the kernel as a line that is accepted too, and
 * comes back unchanged. What is refused must leave a reason in the log, and
 * every byte of the devices as it was.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <unistd.h>

#include "cases.h"
#include "dm.h"
#include "watch.h"

#define MAX_LINE	65536
#define MAX_WORDS	32768
#define MAX_UINT	0xffffffffull

uint64_t nr_lines = 3000, nr_messages = 3000;

/* What tables and messages may hold. */
static const char * const features[] = {
	"no_hydration", "no_discard_passdown", "zeroed_destination", "hydrate_on_read",
};

#define MAX_REGION_HYDRATED_ON_READ 2048

static const struct {
	const char *name;
	uint64_t min;
} core_args[] = {
	{ "hydration_threshold", 1 }, { "hydration_batch_size", 1 }, { "hydration_rate", 0 },
	{ "hydration_floor", 0 }, { "hydration_max_errors", 0 },
};

static const char * const plain_messages[] = { "enable_hydration", "disable_hydration", "stats" };

enum answer { REFUSE, ACCEPT, UNDECIDED };

/* A line in print: what cannot be printed as a number, the middle left out. */
static void describe(struct text *t, const char *line, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (i == 300 && n > 400) {
			text_add(t, "[%zu bytes]", n - 400);
			i = n - 100;
		}
		if (isprint((unsigned char)line[i]) && line[i] != '"')
			text_add(t, "%c", line[i]);
		else
			text_add(t, "<%02x>", (unsigned char)line[i]);
	}
}

/*
 * What the kernel does with a line before the target sees it
 */

struct words {
	char text[MAX_LINE + 1];
	char *word[MAX_WORDS];
	unsigned int nr;
};

/* The kernel's idea of a space is that of Latin-1. */
static bool is_space(unsigned char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xa0;
}

static void split(struct words *w, const char *line)
{
	const char *in = line;
	char *out = w->text;

	w->nr = 0;
	for (;;) {
		while (is_space(*in))
			in++;
		if (!*in)
			return;
		if (w->nr == MAX_WORDS)
			return;
		w->word[w->nr++] = out;
		while (*in && !is_space(*in)) {
			if (*in == '\\' && in[1])
				in++;
			*out++ = *in++;
		}
		*out++ = '\0';
	}
}

/* The kernel takes a sign, and a newline as echo writes it. */
static bool parse_number(const char *s, uint64_t min, uint64_t max, uint64_t *n)
{
	if (*s == '+')
		s++;
	if (!isdigit((unsigned char)*s))
		return false;
	for (*n = 0; isdigit((unsigned char)*s); s++) {
		unsigned int digit = *s - '0';

		if (*n > (UINT64_MAX - digit) / 10)
			return false;
		*n = *n * 10 + digit;
	}
	if (*s == '\n')
		s++;
	return !*s && *n >= min && *n <= max;
}

static bool is_one_of(const char *word, const char * const *list, unsigned int nr)
{
	while (nr--)
		if (!strcasecmp(word, list[nr]))
			return true;
	return false;
}

/*
 * Table lines: what is right
 */

enum role { META, DEST, SOURCE, NO_DEVICE, UNKNOWN };

static enum role role_of(const struct bench *b, const char *word)
{
	const char * const names[] = { b->meta, b->dest, b->source };
	char node[64];

	for (int i = META; i <= SOURCE; i++) {
		snprintf(node, sizeof(node), "/dev/dm-%s", strchr(names[i], ':') + 1);
		if (!strcmp(word, names[i]) || !strcmp(word, node))
			return i;
	}
	if (!strncmp(word, "/dev/no-", 8) || !*word)
		return NO_DEVICE;
	return UNKNOWN;
}

static enum answer judge_devices(const struct bench *b, char **word, uint64_t length)
{
	enum role role[3];

	for (int i = 0; i < 3; i++) {
		role[i] = role_of(b, word[i]);
		if (role[i] == NO_DEVICE)
			return REFUSE;
	}
	if (role[0] == UNKNOWN || role[1] == UNKNOWN || role[2] == UNKNOWN)
		return UNDECIDED;
	if (role[0] == role[1] || role[0] == role[2] || role[1] == role[2])
		return REFUSE;
	/*
	 * The others have no metadata on them, and it is smaller than they are.
	 */
	if (role[0] != META || length > b->base->target_size)
		return REFUSE;
	return ACCEPT;
}

static bool judge_core_arg(const char *name, const char *value)
{
	uint64_t n;

	for (unsigned int i = 0; i < ARRAY_SIZE(core_args); i++)
		if (!strcasecmp(name, core_args[i].name))
			return parse_number(value, core_args[i].min, MAX_UINT, &n);
	return false;
}

static bool judge_core_args(char **word, unsigned int left)
{
	uint64_t nr;

	if (!parse_number(word[0], 0, left - 1, &nr) || nr % 2 || nr != left - 1)
		return false;
	for (word++; nr; nr -= 2, word += 2)
		if (!judge_core_arg(word[0], word[1]))
			return false;
	return true;
}

static bool judge_args(char **word, unsigned int left, uint64_t region)
{
	uint64_t nr;

	if (!left)
		return true;
	if (!parse_number(word[0], 0, left - 1, &nr))
		return false;
	for (uint64_t i = 1; i <= nr; i++)
		if (!is_one_of(word[i], features, ARRAY_SIZE(features)) ||
		    (!strcasecmp(word[i], "hydrate_on_read") &&
		     region > MAX_REGION_HYDRATED_ON_READ))
			return false;
	left -= 1 + nr;
	return !left || judge_core_args(word + 1 + nr, left);
}

static enum answer judge_line(const struct bench *b, struct words *w, const char *line,
			      uint64_t length)
{
	enum answer devices;
	uint64_t region;

	split(w, line);
	if (w->nr < 4 || !length)
		return REFUSE;
	devices = judge_devices(b, w->word, length);
	if (devices == REFUSE || !parse_number(w->word[3], 8, 2097152, &region) ||
	    region & (region - 1) || !judge_args(w->word + 4, w->nr - 4, region))
		return REFUSE;
	return devices;
}

/*
 * Table lines: making them
 */

static const char *some_number(struct rng *rng)
{
	static const char * const fixed[] = {
		"0", "1", "2", "3", "4", "7", "8", "16", "17", "127", "128", "255", "256",
		"65535", "65536", "2097152", "2097153", "4194304", "2147483647", "2147483648",
		"4294967294", "4294967295", "4294967296", "4294967297", "4294967304",
		"9223372036854775807", "9223372036854775808", "18446744073709551615",
		"18446744073709551616", "18446744073709551624",
		"340282366920938463463374607431768211464",
		"-1", "-8", "-2147483648", "+8", "++8", "08", "0x8", "0x", "010", "8.0", "8e0",
		"8k", "8,", "1/2", "NaN", "", "٨", "８", "8\x01", "\xff", "8\xa0",
	};
	static char text[400];

	switch (rng_below(rng, 6)) {
	case 0:
		snprintf(text, sizeof(text), "%llu", (unsigned long long)rng_next(rng) >>
			 rng_below(rng, 64));
		return text;
	case 1:
		snprintf(text, sizeof(text), "%0*u", (int)rng_below(rng, 300), 8);
		return text;
	default:
		return fixed[rng_below(rng, ARRAY_SIZE(fixed))];
	}
}

static const char *some_word(struct rng *rng)
{
	static const char * const fixed[] = {
		"no_hydration", "no_discard_passdown", "hydration_threshold",
		"hydration_batch_size", "hydration_rate", "stats", "NO_HYDRATION",
		"hydrate", "skip", "Hydrate_On_Read", "zeroed_destination",
		"No_Discard_Passdown",
		"HYDRATION_THRESHOLD", "no_hydratio", "no_hydration_", "hydration", "discard",
		"rw", "ro", "Fail", "error", "clone", "%s%s%s%n", "%p", "\\", "\\ ", "'", "\"",
		"../../../../dev/zero", "/dev/null", "/proc/self/mem", "ÿÿÿ", "\xc3\x28", "\x7f",
		"no_hydration\\ no_hydration", "1\\\n", "😀",
	};

	return rng_one_in(rng, 4) ? some_number(rng) :
				    fixed[rng_below(rng, ARRAY_SIZE(fixed))];
}

/* Mostly the device that belongs here. */
static void add_device(struct text *t, const struct bench *b, struct rng *rng, int role,
		       bool wrong)
{
	const char * const names[] = { b->meta, b->dest, b->source };
	static const char * const bad[] = {
		"/dev/no-such", "/dev/null", "/dev", "0:0", "254:1048575", "4294967295:4294967295",
		"8:", ":8", "1:2:3", "-1:-1", "/", "//////////", "/dev/\xff", "254:0x1",
		"99999999999999999999:1", "/dev/console",
	};

	if (wrong && rng_one_in(rng, 2))
		text_add(t, "%s ", bad[rng_below(rng, ARRAY_SIZE(bad))]);
	else if (wrong)
		text_add(t, "%s ", names[rng_below(rng, 3)]);
	else if (rng_one_in(rng, 4))
		text_add(t, "/dev/dm-%s ", strchr(names[role], ':') + 1);
	else
		text_add(t, "%s ", names[role]);
}

static void add_features(struct text *t, struct rng *rng, bool wrong)
{
	unsigned int nr = rng_below(rng, 4);

	if (wrong && rng_one_in(rng, 2))
		text_add(t, "%s ", some_number(rng));
	else
		text_add(t, "%u ", nr);
	while (nr--) {
		if (wrong && rng_one_in(rng, 3))
			text_add(t, "%s ", some_word(rng));
		else
			text_add(t, "%s ", features[rng_below(rng, ARRAY_SIZE(features))]);
	}
}

static const char *some_core_arg(struct rng *rng)
{
	return core_args[rng_below(rng, ARRAY_SIZE(core_args))].name;
}

static void add_core_args(struct text *t, struct rng *rng, bool wrong)
{
	unsigned int nr = rng_below(rng, 4);

	if (wrong && rng_one_in(rng, 2))
		text_add(t, "%s ", some_number(rng));
	else
		text_add(t, "%u ", 2 * nr + (wrong && rng_one_in(rng, 4)));
	while (nr--) {
		if (wrong && rng_one_in(rng, 3))
			text_add(t, "%s ", some_word(rng));
		else
			text_add(t, "%s ", some_core_arg(rng));
		if (wrong && rng_one_in(rng, 2))
			text_add(t, "%s ", some_number(rng));
		else
			text_add(t, "%llu ", 1 + ((unsigned long long)rng_next(rng) & MAX_UINT) %
				 (rng_one_in(rng, 2) ? 20 : MAX_UINT));
	}
}

/* By the grammar; one of the parts may be wrong. */
static void make_line(struct text *t, const struct bench *b, struct rng *rng)
{
	unsigned int wrong = rng_below(rng, 10);
	static const char * const regions[] = { "8", "8", "8", "16", "128", "4096", "2097152" };

	for (int role = META; role <= SOURCE; role++)
		add_device(t, b, rng, role, wrong == 1 + (unsigned int)role);
	if (wrong == 4)
		text_add(t, "%s ", some_number(rng));
	else
		text_add(t, "%s ", regions[rng_below(rng, ARRAY_SIZE(regions))]);
	if (rng_one_in(rng, 6))
		return;
	add_features(t, rng, wrong == 5);
	if (rng_one_in(rng, 4))
		return;
	add_core_args(t, rng, wrong == 6);
	if (wrong == 7)
		text_add(t, "%s", some_word(rng));
}

/* Words in any order. */
static void make_soup(struct text *t, const struct bench *b, struct rng *rng)
{
	unsigned int nr = rng_below(rng, 24);

	for (int role = META; role <= SOURCE && !rng_one_in(rng, 6); role++)
		add_device(t, b, rng, role, false);
	while (nr--)
		text_add(t, "%s ", some_word(rng));
}

/* Bytes changed, put in, or taken out. */
static void mutate(struct text *t, struct rng *rng)
{
	unsigned int nr = 1 + rng_below(rng, 3);

	while (nr-- && t->used) {
		size_t at = rng_below(rng, t->used);
		char c = rng_one_in(rng, 3) ? (char)(1 + rng_below(rng, 255)) :
			 " \t\n\\-+0819:,%"[rng_below(rng, 13)];

		switch (rng_below(rng, 3)) {
		case 0:
			t->s[at] = c;
			break;
		case 1:
			memmove(t->s + at, t->s + at + 1, t->used - at);
			t->used--;
			break;
		default:
			if (t->used + 2 > t->size)
				break;
			memmove(t->s + at + 1, t->s + at, t->used - at + 1);
			t->s[at] = c;
			t->used++;
		}
	}
}

static void make_noise(struct text *t, struct rng *rng)
{
	size_t n = rng_below(rng, rng_one_in(rng, 8) ? MAX_LINE - 1 : 200);

	while (n--)
		text_add(t, "%c", (char)(1 + rng_below(rng, 255)));
}

/* One word of great length, or many words. */
static void make_long(struct text *t, const struct bench *b, struct rng *rng)
{
	size_t n = rng_below(rng, MAX_LINE / 2);

	make_line(t, b, rng);
	switch (rng_below(rng, 3)) {
	case 0:
		text_add(t, "%0*u", (int)n, 8);
		break;
	case 1:
		text_add(t, "%u", (unsigned int)n / 13);
		for (size_t i = 0; i < n / 13; i++)
			text_add(t, " no_hydration");
		break;
	default:
		for (size_t i = 0; i < n / 2; i++)
			text_add(t, " %u", (unsigned int)rng_below(rng, 10));
	}
}

static uint64_t some_length(const struct bench *b, struct rng *rng)
{
	static const uint64_t fixed[] = { 1, 7, 8, 9, 64, 1596, 1597, 1598, 1600, 1ull << 31,
					  1ull << 32, 1ull << 40, (1ull << 54) - 1 };

	return rng_one_in(rng, 8) ? fixed[rng_below(rng, ARRAY_SIZE(fixed))] :
				    b->base->target_size;
}

static void make_any_line(struct text *t, const struct bench *b, struct rng *rng)
{
	switch (rng_below(rng, 16)) {
	case 0:
		make_noise(t, rng);
		break;
	case 1:
		make_long(t, b, rng);
		break;
	case 2:
	case 3:
		make_soup(t, b, rng);
		break;
	case 4 ... 7:
		make_line(t, b, rng);
		mutate(t, rng);
		break;
	default:
		make_line(t, b, rng);
	}
}

/*
 * Table lines: trying them
 */

static const struct image *blank_metadata(const struct bench *b)
{
	static struct image blank;

	if (!blank.data) {
		blank.nr_blocks = b->base->meta_blocks;
		blank.data = must_alloc((size_t)blank.nr_blocks * BLOCK);
	}
	return &blank;
}

static bool is_blank(struct bench *b)
{
	const struct image *blank = blank_metadata(b);
	struct image now = { .data = must_alloc((size_t)blank->nr_blocks * BLOCK) };
	bool same;

	bench_get_image(b, &now);
	same = !memcmp(now.data, blank->data, (size_t)blank->nr_blocks * BLOCK);
	free(now.data);
	return same;
}

static bool holds(const struct bench *b, int fd, uint32_t stamp, char *report, size_t size)
{
	uint64_t n = b->base->target_size;
	struct model m = { .sectors = n, .now = must_alloc(n * 4), .alt = must_alloc(n * 4) };
	bool ok;

	model_set(&m, 0, n, stamp);
	ok = !model_check_device(&m, fd, 0, n, report, size);
	free(m.now);
	free(m.alt);
	return ok;
}

static int load_line(const struct bench *b, const char *line, uint64_t length)
{
	const struct dm_piece piece = { 0, length, "clone", line };

	(void)b;
	return dm_load(CLONE, &piece, 1);
}

static bool check_refused_line(struct fuzzer *f, const struct words *w, int error,
			       const char *reason)
{
	struct bench *b = &f->bench;
	char report[1000];

	progress->refused++;
	if (error == -ENOMEM || error == -EFAULT)
		return fail(f, "refused with %s", strerror(-error));
	if (!*reason || strstr(reason, "Unknown error"))
		return fail(f, "refused with %s, without a reason", strerror(-error));
	if (!is_blank(b))
		return fail(f, "refused (%s), but the metadata device has changed", reason);
	/* If it has taken another device for the metadata. */
	if (w->nr && role_of(b, w->word[0]) == DEST &&
	    !holds(b, b->dest_fd, STAMP_FORMER, report, sizeof(report)))
		return fail(f, "refused, but the destination has changed: %s", report);
	return true;
}

/* What the kernel prints must load, and be printed the same. */
static bool check_round_trip(struct fuzzer *f, uint64_t length)
{
	static char first[32768], second[32768];	/* a line as long as was loaded */
	int r = dm_table(CLONE, true, first, sizeof(first));

	if (r)
		return fail(f, "no table line: %s", strerror(-r));
	r = load_line(&f->bench, first, length);
	if (r)
		return fail(f, "the line '%s' that the kernel prints does not load: %s", first,
			    strerror(-r));
	r = dm_table(CLONE, true, second, sizeof(second));
	if (r || strcmp(first, second))
		return fail(f, "'%s' is printed as '%s'", first, second);
	return true;
}

/* Activate it: as everything is fresh, it must read as the source. */
static bool check_life(struct fuzzer *f)
{
	struct bench *b = &f->bench;
	char report[1000];
	bool ok = true;
	int r = bench_resume(b);

	if (r)
		ok = fail(f, "resume: %s", strerror(-r));
	else if (bench_fd(b) < 0 || !holds(b, b->clone_fd, STAMP_SOURCE, report, sizeof(report)))
		ok = fail(f, "it does not read as the source: %s", report);
	r = bench_drop(b, false);
	if (r)
		ok = fail(f, "taking it off: %s", strerror(-r));
	bench_reset_dest(b);
	return ok;
}

static bool check_accepted_line(struct fuzzer *f, const struct words *w, uint64_t length,
				struct rng *rng)
{
	struct bench *b = &f->bench;
	bool ok = check_round_trip(f, length);

	progress->accepted++;
	if (ok && length == b->base->target_size && role_of(b, w->word[0]) == META &&
	    role_of(b, w->word[1]) == DEST && role_of(b, w->word[2]) == SOURCE &&
	    rng_one_in(rng, 4))
		ok = check_life(f);
	else
		dm_clear(CLONE);
	bench_put_image(b, blank_metadata(b), b->base->meta_blocks);
	return ok;
}

static uint64_t count_lines(void)
{
	return nr_lines;
}

static bool run_line(struct fuzzer *f, uint64_t number)
{
	static char line[MAX_LINE];
	static struct words words;
	struct rng rng = rng_of(f->seed, "lines", number);
	struct text t = { line, sizeof(line), 0 };
	const char *reason, *complaint;
	enum answer answer;
	uint64_t length;
	bool ok;
	int r;

	if (!number || f->bench.base != &bases[0]) {
		bench_use(&f->bench, &bases[0], bases[0].meta_blocks);
		bench_put_image(&f->bench, blank_metadata(&f->bench), bases[0].meta_blocks);
	}
	text_clear(&t);
	make_any_line(&t, &f->bench, &rng);
	length = some_length(&f->bench, &rng);
	answer = judge_line(&f->bench, &words, line, length);
	text_add(&f->what, "%llu sectors, \"", (unsigned long long)length);
	describe(&f->what, line, t.used);
	text_add(&f->what, "\"");
	snprintf(progress->what, sizeof(progress->what), "%s", f->what.s);

	watch_kernel(NULL);
	r = load_line(&f->bench, line, length);
	complaint = watch_kernel(&reason);
	if (r)
		ok = check_refused_line(f, &words, r, length ? reason : "-");
	else
		ok = check_accepted_line(f, &words, length, &rng);
	if (r && answer == ACCEPT)
		ok = fail(f, "refused: %s", reason);
	if (!r && answer == REFUSE)
		ok = fail(f, "accepted");
	if (!complaint)
		complaint = watch_kernel(NULL);
	if (complaint)
		ok = fail(f, "the kernel complained: %s", complaint);
	return ok;
}

/*
 * Messages
 */

/* Ranges of sectors in the target, pairs of start and length. */
static bool judge_ranges(char **word, unsigned int nr)
{
	uint64_t size = bases[0].target_size, start, length;

	for (; nr >= 2; nr -= 2, word += 2)
		if (!parse_number(word[0], 0, size - 1, &start) ||
		    !parse_number(word[1], 1, size - start, &length))
			return false;
	return !nr;
}

/* Clones no longer read as the source once some of it counts as empty. */
static bool empties(struct words *w)
{
	return w->nr >= 3 && !strcasecmp(w->word[0], "skip") &&
	       judge_ranges(w->word + 1, w->nr - 1);
}

static enum answer judge_message(struct words *w, const char *text)
{
	split(w, text);
	/* Those are for device-mapper itself. */
	if (w->nr && w->word[0][0] == '@')
		return UNDECIDED;
	if (w->nr == 1 && is_one_of(w->word[0], plain_messages, ARRAY_SIZE(plain_messages)))
		return ACCEPT;
	if (w->nr == 2 && judge_core_arg(w->word[0], w->word[1]))
		return ACCEPT;
	if (w->nr == 3 && !strcasecmp(w->word[0], "hydrate") && judge_ranges(w->word + 1, 2))
		return ACCEPT;
	if (empties(w))
		return ACCEPT;
	return REFUSE;
}

static void add_range(struct text *t, struct rng *rng)
{
	unsigned int size = (unsigned int)bases[0].target_size, start = rng_below(rng, size);

	if (rng_one_in(rng, 4))
		text_add(t, " %s", some_number(rng));
	else
		text_add(t, " %u", start);
	if (rng_one_in(rng, 4))
		text_add(t, " %s", some_number(rng));
	else
		text_add(t, " %u", (unsigned int)rng_below(rng, size - start) + 1);
}

static void make_message(struct text *t, struct rng *rng)
{
	switch (rng_below(rng, 10)) {
	case 8:
	case 9:
		text_add(t, "%s", rng_one_in(rng, 4) ? "skip" : "hydrate");
		for (unsigned int nr = rng_below(rng, 3) ? 1 : rng_below(rng, 5); nr--;)
			add_range(t, rng);
		break;
	case 0:
		make_noise(t, rng);
		return;
	case 1:
		for (unsigned int nr = rng_below(rng, 6); nr--;)
			text_add(t, "%s ", some_word(rng));
		return;
	case 2:
	case 3:
		text_add(t, "%s", plain_messages[rng_below(rng, ARRAY_SIZE(plain_messages))]);
		break;
	default:
		text_add(t, "%s ", some_core_arg(rng));
		text_add(t, "%s", rng_one_in(rng, 3) ? "5" : some_number(rng));
	}
	if (rng_one_in(rng, 6))
		text_add(t, " %s", some_word(rng));
	if (rng_one_in(rng, 3))
		mutate(t, rng);
}

/* Of the status: the words that messages can change. */
static const char *settings(char *status, size_t size)
{
	char *p = status;

	if (dm_status(CLONE, status, size))
		return "no status";
	for (unsigned int i = 0; i < 5 && p; i++)
		p = strchr(p + 1, ' ');
	return p ?: "nothing";
}

static bool check_number_set(struct fuzzer *f, const struct words *w)
{
	char status[512], want[128];
	uint64_t n;

	if (w->nr != 2 || !parse_number(w->word[1], 0, MAX_UINT, &n))
		return true;
	snprintf(want, sizeof(want), " %s %llu", w->word[0], (unsigned long long)n);
	if (!strcasestr(settings(status, sizeof(status)), want))
		return fail(f, "not in the status: %s", status);
	return true;
}

static bool wake_up_clone(struct fuzzer *f)
{
	struct bench *b = &f->bench;
	int r;

	if (b->live)
		return true;
	bench_use(b, &bases[0], bases[0].meta_blocks);
	bench_put_image(b, blank_metadata(b), bases[0].meta_blocks);
	bench_reset_dest(b);
	r = bench_load(b, "1 no_hydration") ?: bench_resume(b);
	return r ? fail(f, "no clone: %s", strerror(-r)) : true;
}

static uint64_t count_messages(void)
{
	return nr_messages;
}

static bool send_and_compare(struct fuzzer *f, const char *text, size_t size, uint64_t sector,
			     enum answer answer, const struct words *w)
{
	char status[512], later[512];
	const char *before = settings(status, sizeof(status));
	int r = dm_message(CLONE, sector, text, size);

	if (r)
		progress->refused++;
	else
		progress->accepted++;
	if (r && answer == ACCEPT)
		return fail(f, "refused: %s", strerror(-r));
	if (!r && answer == REFUSE)
		return fail(f, "accepted");
	if (r && r != -EINVAL && answer != UNDECIDED)
		return fail(f, "refused with %s", strerror(-r));
	if (r && strcmp(before, settings(later, sizeof(later))))
		return fail(f, "refused, but the settings changed from %s to %s", before,
			    settings(later, sizeof(later)));
	return r || answer != ACCEPT || check_number_set(f, w);
}

/* A status is either complete, or reported as not fitting. */
static bool check_small_buffer(struct fuzzer *f, size_t room)
{
	char status[512];
	int r = dm_status_in(CLONE, room, status, sizeof(status));

	if (r)
		return r == -ENOBUFS || fail(f, "status in %zu bytes: %s", room, strerror(-r));
	if (strlen(status) < 3 || strcmp(status + strlen(status) - 3, " rw"))
		return fail(f, "status in %zu bytes: %s", room, status);
	return true;
}

static bool run_message(struct fuzzer *f, uint64_t number)
{
	static char text[MAX_LINE];
	static struct words words;
	static bool emptied;
	struct rng rng = rng_of(f->seed, "messages", number);
	struct text t = { text, sizeof(text), 0 };
	uint64_t sector = 0, size;
	const char *complaint;
	enum answer answer;
	bool ok;

	text_clear(&t);
	make_message(&t, &rng);
	answer = judge_message(&words, text);
	size = t.used + 1;
	if (rng_one_in(&rng, 32)) {
		sector = rng_next(&rng) >> rng_below(&rng, 64);
		if (sector >= bases[0].target_size)
			answer = REFUSE;
	} else if (rng_one_in(&rng, 32)) {
		/* No end; or an end in the middle. */
		size = rng_below(&rng, size);
		answer = UNDECIDED;
	}
	text_add(&f->what, "sector %llu, %llu bytes of \"", (unsigned long long)sector,
		 (unsigned long long)size);
	describe(&f->what, text, t.used);
	text_add(&f->what, "\"");
	snprintf(progress->what, sizeof(progress->what), "%s", f->what.s);

	watch_kernel(NULL);
	emptied = (emptied && f->bench.live) || empties(&words);
	ok = wake_up_clone(f) &&
	     send_and_compare(f, text, size, sector, answer, &words) &&
	     check_small_buffer(f, rng_below(&rng, 400));
	complaint = watch_kernel(NULL);
	if (complaint)
		ok = fail(f, "the kernel complained: %s", complaint);

	/* A new one now and then, since hydration comes to its end. */
	if (f->bench.live && (number % 64 == 63 || number == nr_messages - 1)) {
		char report[1000];

		if (bench_fd(&f->bench) < 0 ||
		    (!emptied && !holds(&f->bench, f->bench.clone_fd, STAMP_SOURCE, report,
					sizeof(report))))
			ok = fail(f, "it does not read as the source: %s", report);
		if (bench_drop(&f->bench, rng_one_in(&rng, 2)))
			ok = fail(f, "it cannot be taken off");
		bench_reset_dest(&f->bench);
	}
	return ok;
}

const struct section line_sections[] = {
	{ "messages", "messages", count_messages, run_message },
	{ "lines", "lines", count_lines, run_line },
};

const unsigned int nr_line_sections = ARRAY_SIZE(line_sections);
