/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The state of a clone in memory: which regions are hydrated, and for which
 * that is not known.  Two bits a region at most, half a GiB.
 */
#ifndef STATE_H
#define STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "clone-metadata.h"

struct state {
	struct clone_md_superblock sb;
	uint64_t nr_regions;
	uint64_t *hydrated;
	uint64_t *lost;			/* NULL: none is */
};

/* A run of regions; nr is 0 before the first and after the last one. */
struct range {
	uint64_t first;
	uint64_t nr;
};

/* The sizes in s->sb are good.  Returns 0 or -ENOMEM. */
int state_begin(struct state *s);
void state_end(struct state *s);

/* The regions exist. */
void state_set_hydrated(struct state *s, uint64_t first, uint64_t nr);
int state_set_lost(struct state *s, uint64_t first, uint64_t nr);

/* What a walk tells of words, see struct clone_md_visitor. */
void state_take_words(struct state *s, uint64_t first, const uint64_t *words,
		      unsigned int nr);
int state_take_lost(struct state *s, uint64_t first, uint64_t nr);

bool state_is_hydrated(const struct state *s, uint64_t region);

/* What is lost becomes hydrated, or not, and is lost no more. */
void state_settle_lost(struct state *s, bool hydrated);

enum state_kind { HYDRATED, MISSING, LOST };

uint64_t state_count(const struct state *s, enum state_kind kind);

/* The next run of such regions after @range. */
bool state_next(const struct state *s, enum state_kind kind, struct range *range);

/* A run of regions, in sectors: the last region may be short. */
struct range range_in_sectors(const struct clone_md_superblock *sb,
			      const struct range *range);

/* All such runs: a first sector and a number of sectors a line. */
void state_list(const struct state *s, enum state_kind kind, FILE *out);

/*
 * From metadata.  What is wrong with it is collected, as far as there is room.
 */
#define MAX_FINDINGS	100u

struct finding {
	enum clone_md_problem kind;
	uint64_t block;
	char text[160];
};

struct findings {
	unsigned int nr;
	struct finding list[MAX_FINDINGS];
	uint64_t counts[CLONE_MD_NR_PROBLEMS];
	const char *superblock;		/* what is wrong with it, if anything */
};

enum load_mode {
	LOAD_SUPERBLOCK,	/* and nothing else */
	LOAD_SPACE_MAP,		/* no regions */
	LOAD_REGIONS,		/* no space map */
	LOAD_ALL,
	LOAD_SALVAGE,		/* regions, whatever it takes */
};

/*
 * Read the metadata in @path, which may be in use.  Errors to open and to read
 * it live are said here.  Returns 0, -EILSEQ if there are findings, -ENODATA if
 * it is not formatted, or another error.  With the first two the state is there
 * if the superblock is good; with LOAD_SUPERBLOCK and LOAD_SPACE_MAP it has no
 * regions.
 */
int load_state(struct state *s, const char *path, enum load_mode mode,
	       struct findings *findings);

/* Say what was found, and what the device holds if that is not a clone's. */
void say_findings(const char *path, const struct findings *findings);

/* What clone_repair and clone_restore are told of their output. */
struct output {
	const char *path;
	int lost;			/* LOST_HYDRATED, ..., see tool.h */
	bool force;			/* overwrite what is there */
};

/* The options for it; to be put into the tables of both. */
#define OPTION_OUTPUT	{ "output", required_argument, NULL, 'o' }
#define OPTION_LOST	{ "lost", required_argument, NULL, 'L' }
#define OPTION_FORCE	{ "force", no_argument, NULL, 'F' }

/* Returns false if it is none of them, nor one that all tools have. */
bool output_option(struct output *o, int option);

/*
 * To metadata, when it has been told what is lost, see write-state.c.  What goes
 * wrong is said.  0 or an error.
 */
int write_state(struct state *s, const struct output *o);

#endif /* STATE_H */
