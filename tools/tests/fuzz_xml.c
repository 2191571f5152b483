// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Hostile XML for clone_restore, from libFuzzer.
 */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "state.h"
#include "tool.h"
#include "xml.h"

static const struct tool fuzzer = { .name = "fuzz" };

/* Runs are in order, do not touch, and are as many regions as are counted. */
static void look_at(const struct state *s, enum state_kind kind)
{
	struct range range = { 0, 0 };
	uint64_t nr = 0, end = 0;

	while (state_next(s, kind, &range)) {
		struct range sectors = range_in_sectors(&s->sb, &range);

		if ((nr && range.first <= end) || range.nr > s->nr_regions - range.first ||
		    !sectors.nr || sectors.nr > s->sb.target_size - sectors.first)
			abort();
		end = range.first + range.nr;
		nr += range.nr;
	}
	if (nr != state_count(s, kind))
		abort();
}

int fuzz(const uint8_t *data, size_t size)
{
	int fd = memfd_create("xml", 0);
	struct state state;

	tool = &fuzzer;
	quiet = true;
	if (fd < 0 || write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET))
		abort();

	if (!read_xml_fd(&state, fd, "xml")) {
		if (state.nr_regions < 10000000) {
			look_at(&state, HYDRATED);
			look_at(&state, MISSING);
			look_at(&state, LOST);
			state_settle_lost(&state, size % 2);
			look_at(&state, HYDRATED);
		}
		state_end(&state);
	}

	close(fd);
	return 0;
}
