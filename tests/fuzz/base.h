/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What all parts of the fuzzer need: little-endian fields, random numbers that
 * can be repeated, and a description of what is being tried.
 */
#ifndef FUZZ_BASE_H
#define FUZZ_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/lib/endian-le.h"
#include "../lib/random.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Fields of disk blocks need not be aligned. */

static inline uint64_t get_le(const void *p, unsigned int size)
{
	return size == 8 ? get_le64(p) : get_le32(p);
}

/* Any size up to 8. */
static inline void put_le(void *p, unsigned int size, uint64_t v)
{
	for (uint8_t *byte = p; size--; v >>= 8)
		*byte++ = v;
}

struct rng {
	uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
	return random_next(&rng->state);
}

/* 0 … n - 1 */
static inline uint64_t rng_below(struct rng *rng, uint64_t n)
{
	return n ? rng_next(rng) % n : 0;
}

static inline bool rng_one_in(struct rng *rng, unsigned int n)
{
	return !rng_below(rng, n);
}

/* A case has random numbers of its own, whatever was run before it. */
static inline struct rng rng_of(uint64_t seed, const char *section, uint64_t number)
{
	struct rng rng = { .state = seed };

	while (*section)
		rng.state = rng_next(&rng) ^ (uint8_t)*section++;
	rng.state = rng_next(&rng) ^ number;
	rng_next(&rng);
	return rng;
}

/* Text that grows up to a limit and is cut there. */
struct text {
	char *s;
	size_t size, used;
};

static inline void __attribute__((format(printf, 2, 0)))
text_vadd(struct text *t, const char *format, va_list args)
{
	int n = vsnprintf(t->s + t->used, t->size - t->used, format, args);

	t->used = min_u64(t->used + n, t->size - 1);
}

static inline void __attribute__((format(printf, 2, 3)))
text_add(struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	text_vadd(t, format, args);
	va_end(args);
}

static inline void text_clear(struct text *t)
{
	t->used = 0;
	t->s[0] = '\0';
}

static inline void *must_alloc(size_t size)
{
	void *p = calloc(1, size);

	if (!p) {
		fprintf(stderr, "hostile: out of memory\n");
		exit(2);
	}
	return p;
}

#endif
