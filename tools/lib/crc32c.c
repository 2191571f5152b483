// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * CRC-32C, eight bytes at a step, on machines of either endianness.
 */

#include <pthread.h>

#include "crc32c.h"
#include "endian-le.h"

#define POLYNOMIAL	0x82f63b78u	/* bits reversed */

/* table[n][b]: what byte b contributes when n more bytes follow in a step. */
static uint32_t table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
	for (unsigned int b = 0; b < 256; b++) {
		uint32_t c = b;

		for (int bit = 0; bit < 8; bit++)
			c = (c >> 1) ^ (c & 1 ? POLYNOMIAL : 0);
		table[0][b] = c;
	}

	for (unsigned int n = 1; n < 8; n++)
		for (unsigned int b = 0; b < 256; b++)
			table[n][b] = (table[n - 1][b] >> 8) ^
				      table[0][table[n - 1][b] & 0xff];
}

static uint32_t step8(uint32_t crc, const uint8_t *p)
{
	uint64_t v = get_le64(p) ^ crc;
	uint32_t result = 0;

	for (unsigned int n = 0; n < 8; n++)
		result ^= table[7 - n][(v >> (8 * n)) & 0xff];

	return result;
}

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	pthread_once(&once, make_table);

	for (; len >= 8; len -= 8, p += 8)
		crc = step8(crc, p);
	for (; len; len--)
		crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 0xff];

	return crc;
}
