/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Little-endian numbers at any address, on machines of either endianness.
 */
#ifndef CLONE_ENDIAN_LE_H
#define CLONE_ENDIAN_LE_H

#include <stdint.h>

static inline uint32_t get_le32(const void *p)
{
	const uint8_t *b = p;

	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t get_le64(const void *p)
{
	return get_le32(p) | (uint64_t)get_le32((const uint8_t *)p + 4) << 32;
}

static inline void put_le32(void *p, uint32_t v)
{
	uint8_t *b = p;

	for (int i = 0; i < 4; i++)
		b[i] = v >> (8 * i);
}

static inline void put_le64(void *p, uint64_t v)
{
	put_le32(p, v);
	put_le32((uint8_t *)p + 4, v >> 32);
}

#endif
