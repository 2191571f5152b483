// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The state of a clone from its metadata, see state.h.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "state.h"
#include "tool.h"

/* Give up if a clone commits faster than its metadata can be read. */
#define LIVE_SECONDS	20

struct loading {
	struct state *state;
	struct findings *findings;
	int error;
};

static void take_words(void *context, uint64_t first, const uint64_t *words,
		       unsigned int nr)
{
	struct loading *l = context;

	state_take_words(l->state, first, words, nr);
}

static void take_lost(void *context, uint64_t first, uint64_t nr)
{
	struct loading *l = context;
	int r = state_take_lost(l->state, first, nr);

	if (r)
		l->error = r;
}

static void take_problem(void *context, enum clone_md_problem kind,
			 uint64_t block, const char *text)
{
	struct loading *l = context;
	struct findings *f = l->findings;
	struct finding *finding;

	f->counts[kind]++;
	if (f->nr == MAX_FINDINGS)
		return;

	finding = &f->list[f->nr++];
	finding->kind = kind;
	finding->block = block;
	snprintf(finding->text, sizeof(finding->text), "%s", text);
}

static int walk(struct loading *l, const struct clone_md_image *image,
		enum load_mode mode)
{
	const struct clone_md_superblock *sb = &l->state->sb;
	const struct clone_md_visitor visitor = {
		.words = mode == LOAD_SPACE_MAP ? NULL : take_words,
		.lost = mode == LOAD_SPACE_MAP ? NULL : take_lost,
		.problem = take_problem,
		.context = l,
	};
	int r;

	switch (mode) {
	case LOAD_SUPERBLOCK:
		return 0;
	case LOAD_SPACE_MAP:
		return clone_md_check_space_map(image, sb, &visitor);
	case LOAD_REGIONS:
		r = clone_md_walk_bitset(image, sb, &visitor);
		break;
	case LOAD_ALL:
		r = clone_md_check(image, sb, &visitor, NULL);
		break;
	default:
		r = clone_md_salvage(image, sb, &visitor);
		break;
	}

	return l->error ? l->error : r;
}

/* All of it, from what block 0 is right now, which goes to @block. */
static int load_once(struct loading *l, const struct clone_md_image *image,
		     enum load_mode mode, uint8_t *block)
{
	struct findings *f = l->findings;
	int r;

	memset(f, 0, sizeof(*f));
	memset(block, 0, CLONE_MD_BLOCK_SIZE);
	f->superblock = "there is no room for a superblock";
	if (!image->nr_blocks)
		return -EILSEQ;
	f->superblock = "the superblock cannot be read";
	r = image->read(image->context, 0, block);
	if (r)
		return r;

	r = clone_md_parse_superblock(block, &l->state->sb, &f->superblock);
	if (r)
		return r;
	f->superblock = clone_md_check_geometry(&l->state->sb);
	if (f->superblock)
		return -EILSEQ;

	if (mode != LOAD_SUPERBLOCK && mode != LOAD_SPACE_MAP) {
		r = state_begin(l->state);
		if (r)
			return r;
	}
	return walk(l, image, mode);
}

/* What was found may be half of it, or of two commits: it means nothing. */
static void forget(struct loading *l)
{
	const char *superblock = l->findings->superblock;

	state_end(l->state);
	memset(l->findings, 0, sizeof(*l->findings));
	l->findings->superblock = superblock;
}

/* See clone_md_same_superblock(). */
static int load_live(struct loading *l, const struct clone_md_image *image,
		     enum load_mode mode)
{
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	time_t end = time(NULL) + LIVE_SECONDS;
	int r, same;

	do {
		state_end(l->state);
		r = load_once(l, image, mode, block);
		if (r && r != -EILSEQ)
			return r;
		same = clone_md_same_superblock(image, block);
		if (same < 0)
			return same;
	} while (!same && time(NULL) < end);

	if (same)
		return r;
	say("the metadata changes faster than it can be read: suspend the clone first");
	return -EAGAIN;
}

int load_state(struct state *s, const char *path, enum load_mode mode,
	       struct findings *findings)
{
	struct loading l = { .state = s, .findings = findings };
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	struct clone_md_device dev;
	int r;

	memset(s, 0, sizeof(*s));
	memset(findings, 0, sizeof(*findings));
	r = open_metadata(&dev, path, CLONE_MD_OPEN_READ);
	if (r)
		return r;

	if (dev.in_use) {
		say("%s is in use: reading it live", path);
		r = load_live(&l, &dev.image, mode);
	} else {
		r = load_once(&l, &dev.image, mode, block);
	}

	clone_md_close_device(&dev);
	if (r && r != -EILSEQ)
		forget(&l);
	if (r == -ENOMEM)
		say("%s: not enough memory", path);
	return r;
}

static const char * const kinds[] = {
	[CLONE_MD_UNREADABLE] = "unreadable",
	[CLONE_MD_DAMAGED] = "damaged",
	[CLONE_MD_UNPROTECTED] = "unprotected",
	[CLONE_MD_LEAKED] = "leaked",
	[CLONE_MD_UNTIDY] = "untidy",
};

void say_findings(const char *path, const struct findings *f)
{
	uint64_t nr = 0;

	if (f->superblock) {
		const char *other = what_it_holds(path);

		say("%s: %s%s%s", path, f->superblock,
		    other ? "; it seems to hold " : "", other ? other : "");
	}

	for (unsigned int i = 0; i < f->nr; i++)
		say("block %ju, %s: %s", f->list[i].block,
		    kinds[f->list[i].kind], f->list[i].text);
	for (unsigned int kind = 0; kind < CLONE_MD_NR_PROBLEMS; kind++)
		nr += f->counts[kind];
	if (nr > f->nr)
		say("and %ju more", nr - f->nr);
}
