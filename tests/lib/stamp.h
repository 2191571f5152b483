/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stamps: sectors that say who wrote them.
 *
 * A stamp is a small number that names a write: the source's content is one
 * stamp, what the destination held before is another, and each write of a test
 * has one of its own. All 512 bytes of a sector follow from the stamp and the
 * sector's number, so a sector that holds the wrong thing tells what it holds
 * instead: the old data of the source, a neighbour's, zeroes, half of
 * something. They are little-endian, so that machines can read each other's.
 */
#ifndef TESTS_STAMP_H
#define TESTS_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SECTOR_SIZE	512u
#define SECTOR_WORDS	(SECTOR_SIZE / sizeof(uint64_t))

#define STAMP_BITS	24		/* the other 40 hold the sector */
#define STAMP_MAX	((1u << STAMP_BITS) - 1)

#define STAMP_ZERO	0u		/* a sector of zeroes */
#define STAMP_BAD	0xfffffffdu	/* found: nothing we know */
#define STAMP_ANY	0xfffffffeu	/* expected: do not look */
#define STAMP_NONE	0xffffffffu	/* expected: no alternative */
#define STAMP_LATER	0xfffffffcu	/* expected: zeroes now, or some time */

/*
 * What a range of sectors may hold: now[i], or alt[i] unless STAMP_NONE. An
 * alternative appears where an operation may or may not have changed the sector
 * (a discard, a write that failed), and goes once the sector has been read.
 * With STAMP_LATER it may still change: what is seen to be now[i] may be zeroes
 * the next time, and stays zeroes then.
 *
 * Sector numbers in stamps count from @origin, so that the content of a source
 * can be compared with a target that begins in the middle of a table.
 */
struct model {
	uint64_t first;			/* sector of the device at index 0 */
	uint64_t sectors;
	uint64_t origin;
	uint32_t *now;
	uint32_t *alt;
};

/* Fills @buf with @nr sectors of @stamp, the first one being @sector. */
void stamp_fill(void *buf, uint64_t sector, uint64_t nr, uint32_t stamp);

/* Which stamp does this sector hold? STAMP_BAD when none for this sector. */
uint32_t stamp_of(const void *buf, uint64_t sector);

/* Says in words what a sector holds. */
void stamp_describe(char *out, size_t size, const void *buf, uint64_t sector);

/* Device helpers; all return 0 or a negative errno. */

/*
 * Reads or writes all @len bytes, in steps if need be; @flags as of preadv2().
 */
int full_io(int fd, void *buf, size_t len, off_t offset, bool write, int flags);

int stamp_write_device(int fd, uint64_t first, uint64_t nr, uint32_t stamp,
		       uint64_t origin);

/*
 * Compares [sector, sector + nr) in @buf with the model, settles alternatives
 * that were seen, and returns how many sectors are wrong. The first wrong runs
 * are described in @report.
 */
uint64_t model_check_buf(struct model *model, const void *buf, uint64_t sector,
			 uint64_t nr, char *report, size_t size);

/* The same, reading from a device. A read error counts as wrong sectors. */
uint64_t model_check_device(struct model *model, int fd, uint64_t sector,
			    uint64_t nr, char *report, size_t size);

/*
 * The same for a device that is off: each region is read from the destination
 * if its bit in @bitmap is set, else from the source.
 */
uint64_t model_check_offline(struct model *model, int source, int dest,
			     const uint8_t *bitmap, uint64_t region_size,
			     char *report, size_t size);

void model_set(struct model *model, uint64_t sector, uint64_t nr,
	       uint32_t stamp);
/* The range holds what it held, or @stamp. */
void model_maybe(struct model *model, uint64_t sector, uint64_t nr,
		 uint32_t stamp);
/* It holds what it held, or zeroes; or that now, and zeroes some time later. */
void model_later(struct model *model, uint64_t sector, uint64_t nr);

#endif
