// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stamps and the model of a device's content. See stamp.h.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stamp.h"

#define CHUNK_SECTORS	2048u		/* what is read or written at a time */
#define MAX_RUNS	6u		/* how many wrong runs are described */

static const uint64_t golden = 0x9e3779b97f4a7c15ull;

/*
 *---------------------------------------------------------------
 * Stamps
 *---------------------------------------------------------------
 */

static uint64_t stamp_base(uint32_t stamp, uint64_t sector)
{
	return ((uint64_t)stamp << (64 - STAMP_BITS)) |
	       (sector & ((1ull << (64 - STAMP_BITS)) - 1));
}

void stamp_fill(void *buf, uint64_t sector, uint64_t nr, uint32_t stamp)
{
	uint64_t *word = buf;

	if (stamp == STAMP_ZERO) {
		memset(buf, 0, nr * SECTOR_SIZE);
		return;
	}

	for (; nr; nr--, sector++) {
		uint64_t base = stamp_base(stamp, sector);

		for (unsigned int i = 0; i < SECTOR_WORDS; i++)
			*word++ = htole64(base ^ (i * golden));
	}
}

uint32_t stamp_of(const void *buf, uint64_t sector)
{
	const uint64_t *word = buf;
	uint64_t base = le64toh(word[0]), step = base ? golden : 0;
	uint32_t stamp = base >> (64 - STAMP_BITS);

	if (stamp_base(stamp, sector) != base && base)
		return STAMP_BAD;

	/* Stamp 0 belongs to zeroes: a sector number alone is no stamp. */
	if (base && !stamp)
		return STAMP_BAD;

	for (unsigned int i = 1; i < SECTOR_WORDS; i++)
		if (le64toh(word[i]) != (base ^ (i * step)))
			return STAMP_BAD;

	return stamp;
}

void stamp_describe(char *out, size_t size, const void *buf, uint64_t sector)
{
	const uint64_t *word = buf;
	uint64_t mask = (1ull << (64 - STAMP_BITS)) - 1;
	uint64_t first = le64toh(word[0]);
	uint32_t stamp = stamp_of(buf, sector);

	if (stamp == STAMP_ZERO)
		snprintf(out, size, "zeroes");
	else if (stamp != STAMP_BAD)
		snprintf(out, size, "stamp %u", stamp);
	else if (stamp_of(buf, first & mask) != STAMP_BAD)
		snprintf(out, size, "stamp %u of sector %llu",
			 (uint32_t)(first >> (64 - STAMP_BITS)),
			 (unsigned long long)(first & mask));
	else
		snprintf(out, size, "no stamp (%016llx %016llx ...)",
			 (unsigned long long)first,
			 (unsigned long long)le64toh(word[1]));
}

/*
 *---------------------------------------------------------------
 * Devices
 *---------------------------------------------------------------
 */

static void *chunk_alloc(void)
{
	return aligned_alloc(4096, CHUNK_SECTORS * SECTOR_SIZE);
}

int full_io(int fd, void *buf, size_t len, off_t offset, bool write, int flags)
{
	while (len) {
		struct iovec iov = { .iov_base = buf, .iov_len = len };
		ssize_t n = write ? pwritev2(fd, &iov, 1, offset, flags)
				  : preadv2(fd, &iov, 1, offset, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -ENOSPC;

		buf = (char *)buf + n;
		len -= n;
		offset += n;
	}

	return 0;
}

static uint64_t chunk_len(uint64_t nr)
{
	return nr < CHUNK_SECTORS ? nr : CHUNK_SECTORS;
}

int stamp_write_device(int fd, uint64_t first, uint64_t nr, uint32_t stamp,
		       uint64_t origin)
{
	void *buf = chunk_alloc();
	int r = 0;

	if (!buf)
		return -ENOMEM;

	while (nr && !r) {
		uint64_t n = chunk_len(nr);

		stamp_fill(buf, first - origin, n, stamp);
		r = full_io(fd, buf, n * SECTOR_SIZE, first * SECTOR_SIZE, true, 0);
		first += n;
		nr -= n;
	}

	free(buf);
	return r;
}

/*
 *---------------------------------------------------------------
 * The model
 *---------------------------------------------------------------
 */

struct report {
	char *out;
	size_t size;
	unsigned int runs;
	uint64_t bad;
	uint64_t last;			/* the last wrong sector */
};

static void report_init(struct report *rep, char *out, size_t size)
{
	memset(rep, 0, sizeof(*rep));
	rep->out = out;
	rep->size = size;
	if (size)
		*out = '\0';
}

__attribute__((format(printf, 2, 3)))
static void report_add(struct report *rep, const char *fmt, ...)
{
	size_t used = strlen(rep->out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(rep->out + used, rep->size - used, fmt, ap);
	va_end(ap);
}

static void report_sector(struct report *rep, uint64_t sector, uint32_t now,
			  uint32_t alt, const char *found)
{
	rep->bad++;
	if (rep->runs && rep->last + 1 == sector) {	/* goes on */
		rep->last = sector;
		return;
	}

	rep->last = sector;
	if (++rep->runs > MAX_RUNS || !rep->size)
		return;

	report_add(rep, "%ssector %llu: expected ", rep->runs > 1 ? "; " : "",
		   (unsigned long long)sector);
	report_add(rep, now == STAMP_ZERO ? "zeroes" : "stamp %u", now);
	if (alt == STAMP_ZERO || alt == STAMP_LATER)
		report_add(rep, " or zeroes");
	else if (alt != STAMP_NONE)
		report_add(rep, " or stamp %u", alt);
	report_add(rep, ", found %s", found);
}

static void report_end(struct report *rep)
{
	if (rep->bad && rep->size)
		report_add(rep, " (%llu wrong sectors in all)",
			   (unsigned long long)rep->bad);
}

static void check_buf(struct model *model, const void *buf, uint64_t sector,
		      uint64_t nr, struct report *rep)
{
	for (; nr; nr--, sector++, buf = (const char *)buf + SECTOR_SIZE) {
		uint64_t i = sector - model->first;
		uint32_t now = model->now[i], alt = model->alt[i];
		uint32_t found;
		char text[96];

		if (now == STAMP_ANY)
			continue;

		found = stamp_of(buf, sector - model->origin);
		if (found == now && alt == STAMP_LATER)
			continue;
		if (alt == STAMP_LATER)
			alt = STAMP_ZERO;
		if (found == now || (alt != STAMP_NONE && found == alt)) {
			model->now[i] = found;
			model->alt[i] = STAMP_NONE;
			continue;
		}

		stamp_describe(text, sizeof(text), buf, sector - model->origin);
		report_sector(rep, sector, now, alt, text);
	}
}

uint64_t model_check_buf(struct model *model, const void *buf, uint64_t sector,
			 uint64_t nr, char *report, size_t size)
{
	struct report rep;

	report_init(&rep, report, size);
	check_buf(model, buf, sector, nr, &rep);
	report_end(&rep);

	return rep.bad;
}

static void check_read_error(struct model *model, uint64_t sector, uint64_t nr,
			     int error, struct report *rep)
{
	char text[64];

	snprintf(text, sizeof(text), "a read error (%s)", strerror(-error));
	for (; nr; nr--, sector++)
		report_sector(rep, sector, model->now[sector - model->first],
			      model->alt[sector - model->first], text);
}

static void check_fd(struct model *model, int fd, uint64_t base,
		     uint64_t sector, uint64_t nr, void *buf,
		     struct report *rep)
{
	while (nr) {
		uint64_t n = chunk_len(nr);
		int r = full_io(fd, buf, n * SECTOR_SIZE,
				(sector - base) * SECTOR_SIZE, false, 0);

		if (r && n > 8) {		/* which of them? */
			n = n / 2;
			check_fd(model, fd, base, sector, n, buf, rep);
		} else if (r) {
			check_read_error(model, sector, n, r, rep);
		} else {
			check_buf(model, buf, sector, n, rep);
		}
		sector += n;
		nr -= n;
	}
}

uint64_t model_check_device(struct model *model, int fd, uint64_t sector,
			    uint64_t nr, char *report, size_t size)
{
	void *buf = chunk_alloc();
	struct report rep;

	report_init(&rep, report, size);
	if (!buf)
		abort();
	check_fd(model, fd, 0, sector, nr, buf, &rep);
	report_end(&rep);
	free(buf);

	return rep.bad;
}

static int bitmap_test(const uint8_t *bitmap, uint64_t bit)
{
	return bitmap[bit / 8] & (1u << (bit % 8));
}

uint64_t model_check_offline(struct model *model, int source, int dest,
			     const uint8_t *bitmap, uint64_t region_size,
			     char *report, size_t size)
{
	uint64_t end = model->first + model->sectors;
	uint64_t sector = model->origin;
	void *buf = chunk_alloc();
	struct report rep;

	report_init(&rep, report, size);
	if (!buf)
		abort();

	while (sector < end) {
		uint64_t region = (sector - model->origin) / region_size;
		int hydrated = bitmap_test(bitmap, region);
		uint64_t next = sector;

		/* Join regions in the same state: region sizes can be small. */
		do {
			next += region_size;
			region++;
		} while (next < end && next - sector < CHUNK_SECTORS &&
			 !bitmap_test(bitmap, region) == !hydrated);
		if (next > end)
			next = end;

		check_fd(model, hydrated ? dest : source, model->origin,
			 sector, next - sector, buf, &rep);
		sector = next;
	}

	report_end(&rep);
	free(buf);
	return rep.bad;
}

void model_set(struct model *model, uint64_t sector, uint64_t nr,
	       uint32_t stamp)
{
	uint64_t i = sector - model->first;

	for (; nr; nr--, i++) {
		model->now[i] = stamp;
		model->alt[i] = STAMP_NONE;
	}
}

void model_maybe(struct model *model, uint64_t sector, uint64_t nr,
		 uint32_t stamp)
{
	uint64_t i = sector - model->first;

	for (; nr; nr--, i++) {
		if (model->now[i] == stamp || model->now[i] == STAMP_ANY)
			continue;
		if (model->alt[i] == STAMP_LATER && stamp == STAMP_ZERO)
			continue;
		if (model->alt[i] == STAMP_NONE)
			model->alt[i] = stamp;
		else if (model->alt[i] != stamp)
			model->now[i] = STAMP_ANY;	/* one of three */
	}
}

void model_later(struct model *model, uint64_t sector, uint64_t nr)
{
	uint64_t i = sector - model->first;

	model_maybe(model, sector, nr, STAMP_ZERO);
	for (; nr; nr--, i++)
		if (model->alt[i] == STAMP_ZERO)
			model->alt[i] = STAMP_LATER;
}
