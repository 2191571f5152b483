/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sections of the fuzzer. Each is a row of numbered cases; a case needs
 * nothing but the seed and its number to be repeated.
 */
#ifndef FUZZ_CASES_H
#define FUZZ_CASES_H

#include "bench.h"

struct fuzzer {
	struct bench bench;
	uint64_t seed;
	const char *save;		/* folder for images that fail, or NULL */
	struct text what;		/* the case in words */
	struct text report;		/* what is wrong */
};

/* Adds a line to the report. Returns false. */
static inline bool __attribute__((format(printf, 2, 3)))
fail(struct fuzzer *f, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	text_add(&f->report, "\n    ");
	text_vadd(&f->report, format, args);
	va_end(args);
	return false;
}

struct section {
	const char *name;
	const char *what;		/* of what its cases are: images, lines, messages */
	uint64_t (*count)(void);
	/* False: failed, see the report. */
	bool (*run)(struct fuzzer *f, uint64_t number);
};

extern const struct section image_sections[];
extern const unsigned int nr_image_sections;
extern const struct section line_sections[];
extern const unsigned int nr_line_sections;

/* Set before count() is asked. */
extern uint64_t nr_random_images, nr_lines, nr_messages;

#endif
