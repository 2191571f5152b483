/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * An image of metadata in memory, with a power switch.
 */
#ifndef TEST_MEMORY_H
#define TEST_MEMORY_H

#include "clone-metadata.h"

struct memory {
	struct clone_md_image image;
	uint8_t *blocks;

	/* This many more writes arrive; those after them are lost, silently. */
	uint64_t writes_left;
	uint64_t nr_writes;
};

/* Zeroes.  Exits if there is no memory. */
void memory_make(struct memory *m, uint64_t nr_blocks);
void memory_free(struct memory *m);
uint8_t *memory_block(struct memory *m, uint64_t block);

#endif /* TEST_MEMORY_H */
