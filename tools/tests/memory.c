// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * An image of metadata in memory, see memory.h.
 */

#include <stdlib.h>
#include <string.h>

#include "memory.h"

uint8_t *memory_block(struct memory *m, uint64_t block)
{
	return m->blocks + block * CLONE_MD_BLOCK_SIZE;
}

static int read_memory(void *context, uint64_t block, void *buf)
{
	memcpy(buf, memory_block(context, block), CLONE_MD_BLOCK_SIZE);
	return 0;
}

static int write_memory(void *context, uint64_t block, const void *buf)
{
	struct memory *m = context;

	m->nr_writes++;
	if (!m->writes_left)
		return 0;
	m->writes_left--;
	memcpy(memory_block(m, block), buf, CLONE_MD_BLOCK_SIZE);
	return 0;
}

static int flush_memory(void *context)
{
	(void)context;
	return 0;
}

void memory_make(struct memory *m, uint64_t nr_blocks)
{
	memset(m, 0, sizeof(*m));
	m->blocks = calloc(nr_blocks, CLONE_MD_BLOCK_SIZE);
	if (!m->blocks)
		exit(1);
	m->writes_left = UINT64_MAX;
	m->image.read = read_memory;
	m->image.write = write_memory;
	m->image.flush = flush_memory;
	m->image.context = m;
	m->image.nr_blocks = nr_blocks;
}

void memory_free(struct memory *m)
{
	free(m->blocks);
}
