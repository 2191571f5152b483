// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone map: the device as a strip of cells, the fuller the more of it is
 * hydrated, by what is on the metadata device.  A clone that is open goes on
 * meanwhile.
 */

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clone-metadata.h"
#include "dmclone.h"
#include "overview.h"

#define MAX_CELLS	256
#define COLUMNS		80		/* where there is no terminal */
#define ATTEMPTS	100		/* until no commit comes in between */
#define WORD		64u		/* regions */

struct cells {
	unsigned int nr;
	uint64_t nr_regions;
	uint64_t hydrated[MAX_CELLS];
};

/* The first region of a cell */
static uint64_t first_of(const struct cells *cells, unsigned int cell)
{
	return cells->nr_regions * cell / cells->nr;
}

static void take_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	struct cells *cells = context;
	uint64_t region = first * WORD;
	unsigned int i, bit, cell;

	cell = region * cells->nr / cells->nr_regions;
	for (i = 0; i < nr; i++)
		for (bit = 0; bit < WORD && region < cells->nr_regions; bit++, region++) {
			while (region >= first_of(cells, cell + 1))
				cell++;
			cells->hydrated[cell] += words[i] >> bit & 1;
		}
}

/* 0; 1 if it has changed meanwhile; or a negative errno. */
static int read_once(const struct clone_md_image *image, struct cells *cells)
{
	const struct clone_md_visitor visitor = { .words = take_words, .context = cells };
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	struct clone_md_superblock sb;
	const char *text;
	int r, walked;

	memset(cells->hydrated, 0, sizeof(cells->hydrated));
	r = image->read(image->context, 0, block);
	if (!r)
		r = clone_md_parse_superblock(block, &sb, &text);
	if (r)
		return r;
	if (clone_md_check_geometry(&sb))
		return -EILSEQ;
	cells->nr_regions = clone_md_nr_regions(&sb);
	walked = clone_md_walk_bitset(image, &sb, &visitor);
	r = clone_md_same_superblock(image, block);
	if (r < 0)
		return r;

	return r ? walked : 1;
}

static enum result read_cells(const char *path, struct cells *cells)
{
	unsigned int attempts = ATTEMPTS;
	struct clone_md_device md;
	int r;

	r = clone_md_open_device(&md, path, CLONE_MD_OPEN_READ);
	if (r)
		return fail_errno(r, "cannot read the metadata on %s", path);
	do
		r = read_once(&md.image, cells);
	while (r > 0 && --attempts);
	clone_md_close_device(&md);
	if (r < 0)
		return fail_errno(r == -EILSEQ ? -EUCLEAN : r,
				  "cannot understand the metadata on %s", path);

	/* If it changes all the time the last picture is as good as any. */
	return DONE;
}

static const char *shade(uint64_t part, uint64_t whole)
{
	static const char *const fine[] = { " ", "░", "▒", "▓", "█" };
	static const char *const plain[] = { ".", "-", "+", "*", "#" };
	const char *const *shades = strcmp(nl_langinfo(CODESET), "UTF-8") ? plain : fine;

	if (!part)
		return shades[0];
	if (part == whole)
		return shades[4];

	return shades[1 + part * 3 / whole];
}

static void print_cells(const struct cells *cells)
{
	unsigned int i;

	putchar('[');
	for (i = 0; i < cells->nr; i++)
		fputs(shade(cells->hydrated[i], first_of(cells, i + 1) - first_of(cells, i)),
		      stdout);
	puts("]");
}

/* Without the two brackets */
static unsigned int nr_columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_col < 10)
		return COLUMNS - 2;

	return size.ws_col - 2 < MAX_CELLS ? size.ws_col - 2 : MAX_CELLS;
}

enum result do_map(const struct request *rq)
{
	struct cells cells = { .nr = nr_columns() };
	char path[PATH_MAX];
	struct overview report;
	enum result r;

	setlocale(LC_CTYPE, "");
	r = overview_collect(rq->arguments[0], &report);
	if (r)
		return r;
	if (!report.is_clone && !report.has_conf)
		return fail(BAD_PARAMETER, "'%s' is a clone no longer", report.name);
	if (report.is_clone)
		device_node(number_parse(report.devices.metadata), path, sizeof(path));
	else
		strcpy(path, report.conf.metadata);
	r = read_cells(path, &cells);
	if (!r)
		print_cells(&cells);

	return r;
}
