// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The state of a clone to a metadata device, see state.h.
 */

#include <errno.h>
#include <string.h>

#include "state.h"
#include "tool.h"

/* What would be overwritten?  NULL if nothing. */
static const char *what_is_there(const struct clone_md_image *image, const char *path)
{
	uint8_t block[CLONE_MD_BLOCK_SIZE];
	struct clone_md_superblock sb;
	const char *text, *other = what_it_holds(path);

	if (other)
		return other;
	if (!image->nr_blocks)
		return NULL;
	if (image->read(image->context, 0, block))
		return "what cannot be read";
	if (clone_md_is_zero(block, sizeof(block)) || clone_md_is_unfinished(block))
		return NULL;
	if (!clone_md_parse_superblock(block, &sb, &text))
		return "the metadata of a clone";

	return "something";
}

static int write_regions(const struct state *s, struct clone_md_writer *w)
{
	struct range range = { 0, 0 };
	int r = 0;

	while (!r && state_next(s, HYDRATED, &range))
		r = clone_md_set_hydrated(w, range.first, range.nr);

	return r ? r : clone_md_commit(w);
}

static int write_image(const struct state *s, const struct clone_md_image *image,
		       const char *path)
{
	uint64_t needed = clone_md_smallest_size(&s->sb);
	struct clone_md_writer *w;
	int r;

	if (image->nr_blocks < needed) {
		say("%s has %ju blocks of 4 KiB, %ju are needed", path,
		    image->nr_blocks, needed);
		return -ENOSPC;
	}

	r = clone_md_create(image, &s->sb, &w);
	if (!r) {
		r = write_regions(s, w);
		clone_md_close(w);
	}
	if (r)
		say("%s: %s", path, strerror(-r));
	return r;
}

bool output_option(struct output *o, int option)
{
	switch (option) {
	case 'o':
		o->path = optarg;
		return true;
	case 'L':
		return parse_lost(optarg, &o->lost);
	case 'F':
		o->force = true;
		return true;
	}

	return common_option(option);
}

static bool settle_lost(struct state *s, const struct output *o)
{
	uint64_t nr = s->lost ? state_count(s, LOST) : 0;

	if (nr && o->lost == LOST_UNDECIDED) {
		say("%ju regions are lost: --lost has to say what they are", nr);
		return false;
	}

	state_settle_lost(s, o->lost == LOST_HYDRATED);
	return true;
}

int write_state(struct state *s, const struct output *o)
{
	struct clone_md_device dev;
	const char *there;
	int r;

	if (!settle_lost(s, o))
		return -EINVAL;
	r = open_metadata(&dev, o->path, CLONE_MD_OPEN_WRITE);
	if (r)
		return r;

	there = o->force ? NULL : what_is_there(&dev.image, o->path);
	if (there) {
		say("%s holds %s, which --force would overwrite", o->path, there);
		r = -EEXIST;
	} else {
		r = write_image(s, &dev.image, o->path);
	}

	clone_md_close_device(&dev);
	return r;
}
