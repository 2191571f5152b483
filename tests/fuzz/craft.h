/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Hostile images: a good one, and a few changes.
 */
#ifndef FUZZ_CRAFT_H
#define FUZZ_CRAFT_H

#include "base.h"
#include "image.h"

struct craft {
	struct image *image;		/* to be changed */
	uint32_t dev_blocks;		/* of the device it will lie on; may shrink */
	const struct survey *base;	/* what the image was */
	struct rng *rng;
	struct text *what;		/* says what is done */
	bool *touched;			/* blocks that need a new checksum */
	uint8_t *kind;			/* blocks' kinds by now */
};

struct craft_op {
	const char *name;
	void (*apply)(struct craft *c);
};

extern const struct craft_op craft_ops[];
extern const unsigned int nr_craft_ops;

void craft_init(struct craft *c, struct image *image, const struct survey *base,
		struct rng *rng, struct text *what);

/* Give all blocks that were changed a checksum that fits. */
void craft_seal(struct craft *c);
void craft_exit(struct craft *c);

/* Several operations, and mostly checksums that fit. */
void craft_at_random(struct craft *c);

/* Change some bits of block @b. */
void craft_damage(struct craft *c, uint64_t b);

#endif
