/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The devices that images are tried on.
 *
 *	              t-fuzz  (clone; or error when idle)
 *	    +------------+-------------+
 *	  t-fuzz-meta  t-fuzz-dest   t-fuzz-source
 *	  (linear)     (linear in the windows, zero elsewhere)
 *	    |            |             |
 *	    +------------+-------------+---- null_blk, in memory
 *
 * A base is a kind of clone with the images that it had at several stages of
 * its life. Large ones only have data in a few windows: at the start, at the
 * end, and where the blocks of the bitset meet. Stamps (../lib/stamp.h) tell
 * what each sector of a window holds.
 */
#ifndef FUZZ_BENCH_H
#define FUZZ_BENCH_H

#include "../lib/stamp.h"
#include "base.h"
#include "image.h"

#define CLONE		"t-fuzz"
#define STAMP_SOURCE	1
#define STAMP_FORMER	2
#define STAMP_FIRST	16

#define MAX_WINDOWS	8
#define MAX_STAGES	8

struct window {
	uint64_t first, sectors;
};

struct stage {
	char name[24];
	struct image image;
	struct survey *survey;
	unsigned int nr_blocks;		/* that something is in, and some more */
};

struct base {
	const char *name;
	uint64_t target_size, region_size;
	uint32_t meta_blocks;

	struct window windows[MAX_WINDOWS];
	unsigned int nr_windows;
	uint64_t window_sectors;	/* of all of them */
	struct stage stages[MAX_STAGES];
	unsigned int nr_stages;
};

struct bench {
	char meta[32], dest[32], source[32];	/* as table lines name them */
	char node[32];				/* of the clone */
	int meta_fd, dest_fd, source_fd;
	int clone_fd;				/* -1: not open */
	const struct base *base;		/* that the devices are set up for */
	uint32_t meta_blocks;
	bool live;				/* the clone, not the error table */
};

extern struct base bases[];
extern const unsigned int nr_bases;

/*
 * Load module @module ("loaded": it is), make the devices. Exits if it cannot.
 */
void bench_open(struct bench *b, const char *module);
void bench_close(struct bench *b);
/* Replace the clone target's module by another. */
void bench_swap_module(struct bench *b, const char *module);

/* Make the images of all bases with the module that is loaded. */
void bench_make_stages(struct bench *b, const char *by);

/* Set the devices up for a base, and a metadata device of this size. */
void bench_use(struct bench *b, const struct base *base, uint32_t meta_blocks);
void bench_reset_dest(struct bench *b);

void bench_put_image(struct bench *b, const struct image *image, uint32_t nr_blocks);
void bench_get_image(struct bench *b, struct image *image);

/* All of the device, not only where images have content when they are made. */
void bench_get_whole_image(struct bench *b, struct image *image);
/* Zero what no image uses. */
void bench_reset_meta(struct bench *b);
/* From now on all I/O to the metadata device fails, or works again. */
int bench_fail_meta(struct bench *b, bool fail);

/* Load a table for the clone (@args: features and core arguments). */
int bench_load(struct bench *b, const char *args);
int bench_resume(struct bench *b);
/* Take it off again: by an error table, or by removing the device. */
int bench_drop(struct bench *b, bool remove);
/* The same for a table that is loaded, not live. */
int bench_clear(struct bench *b);
/* The clone, opened for direct I/O. */
int bench_fd(struct bench *b);

#endif
