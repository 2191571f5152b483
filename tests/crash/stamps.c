// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices whose content is told by stamps.  See stamps.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "../lib/stamp.h"
#include "stamps.h"

#define CHUNK	2048u		/* sectors at a time */

static uint64_t chunk_at(uint64_t sector, uint64_t nr)
{
	return nr - sector < CHUNK ? nr - sector : CHUNK;
}

int stamps_write(int fd, uint64_t first, const uint32_t *stamps, uint64_t nr)
{
	uint8_t *buf = aligned_alloc(4096, CHUNK * SECTOR_SIZE);
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; !r && at < nr; at += CHUNK) {
		uint64_t n = chunk_at(at, nr);
		ssize_t done;

		for (uint64_t i = 0; i < n; i++)
			stamp_fill(buf + i * SECTOR_SIZE, at + i, 1, stamps[at + i]);
		done = pwrite(fd, buf, n * SECTOR_SIZE, (first + at) * SECTOR_SIZE);
		if (done != (ssize_t)(n * SECTOR_SIZE))
			r = done < 0 ? -errno : -EIO;
	}
	free(buf);

	return r;
}

int64_t stamps_compare(int fd, const uint32_t *stamps, uint64_t nr, uint32_t *found)
{
	uint8_t *buf = aligned_alloc(4096, CHUNK * SECTOR_SIZE);
	int64_t r = buf ? (int64_t)nr : -ENOMEM;

	for (uint64_t first = 0; r == (int64_t)nr && first < nr; first += CHUNK) {
		uint64_t n = chunk_at(first, nr);
		ssize_t done = pread(fd, buf, n * SECTOR_SIZE, first * SECTOR_SIZE);

		if (done != (ssize_t)(n * SECTOR_SIZE))
			r = done < 0 ? -errno : -EIO;
		for (uint64_t i = 0; r == (int64_t)nr && i < n; i++) {
			*found = stamp_of(buf + i * SECTOR_SIZE, first + i);
			if (*found != stamps[first + i])
				r = first + i;
		}
	}
	free(buf);

	return r;
}
