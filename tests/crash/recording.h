/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A recording: what a clone did to its devices, and what was asked of it.
 *
 * It is made by record.py from two sources.  The kernel's trace tells when each
 * bio was queued and when it completed, on the clone and on the one device
 * below it that is both metadata and destination (the "lower" one).  The log of
 * dm-log-writes tells what was written.  Neither is enough: the trace has no
 * data; the log only has the order of completion, and not even that for FUA
 * writes, or when two flushes overlap.
 *
 * Time is the position of an event in the trace.
 */
#ifndef CRASH_RECORDING_H
#define CRASH_RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEVER	UINT32_MAX

enum bio_kind {
	BIO_WRITE,
	BIO_ZEROES,		/* only above: below, they are writes */
	BIO_DISCARD,
	BIO_FLUSH,
};

struct bio {
	enum bio_kind kind;
	bool fua;
	uint32_t queued;
	uint32_t completed;	/* NEVER also if it failed */
	uint64_t sector, nr;
};

/* A bio of the lower device. */
struct lower_bio {
	struct bio b;
	bool meta;		/* came through the metadata device */
	bool logged;

	/* When it takes effect: some time between queued and completed. */
	uint32_t moment;

	/* The rest is for what changes sectors. */
	const uint8_t *data;	/* in the log; NULL: discard */
	uint32_t *births;	/* of each sector, see below; NULL: metadata */
};

/*
 * Where the content of a sector comes from: the upper bio with this index, or
 * one of these.
 */
#define BIRTH_OLD	0xfffffffbu	/* what the clone showed at first */
#define BIRTH_ZERO	0xfffffffcu	/* zeroes, by whomever */
#define BIRTH_SOURCE	0xfffffffdu
#define BIRTH_FORMER	0xfffffffeu	/* was there before the clone */
#define BIRTH_BAD	0xffffffffu	/* no idea */

/* A bio of the clone. */
struct upper_bio {
	struct bio b;
	uint32_t op;		/* operation of the workload, and the stamp */
	uint32_t next_of_op;	/* index of the next one, or NEVER */
};

enum event_kind {
	LOWER_QUEUED,
	LOWER_COMPLETED,
	UPPER_QUEUED,
	UPPER_COMPLETED,
	SUSPEND,		/* or removal: it begins */
	SUSPENDED,		/* all that was acknowledged can be found */
	RESET,			/* of the machine: no power is lost, but the clone is */
	FLUSH_FAILED,		/* of the metadata; what it was to cover may be lost */
	END,			/* what follows is taking down, not part of it */
};

struct event {
	enum event_kind kind;
	uint32_t index;		/* of the bio */
};

/*
 * What was there at first: nothing but the source, or a state that an earlier
 * replay came by, so that the clone begins with what a power cut has left.
 */
struct initial {
	uint8_t *meta;
	uint32_t *dest;			/* stamps */
	uint32_t *view;			/* stamps: as it reads */
};

struct recording {
	char scenario[128];
	uint64_t seed, number;
	uint64_t meta_sectors, target_size, region_size;
	uint32_t source_stamp, former_stamp, junk_stamp;
	bool keeps;		/* discards keep what the destination holds */

	struct initial initial;
	struct event *events;
	uint32_t nr_events;
	struct lower_bio *lower;
	uint32_t nr_lower;
	struct upper_bio *upper;
	uint32_t nr_upper;

	void *log;		/* mapped */
	size_t log_size;
};

/*
 * Load the recording in @folder, with the log in @log_file.  If the two do not
 * fit together the program ends with a message: the replay would prove nothing.
 */
void recording_load(struct recording *rec, const char *folder, const char *log_file);

void recording_free(struct recording *rec);

/* The stamp of a sector of the clone with this birth.  Not for BIRTH_BAD. */
uint32_t recording_stamp(const struct recording *rec, uint64_t sector, uint32_t birth);

/* Ends the program. */
__attribute__((noreturn, format(printf, 1, 2)))
void fail(const char *format, ...);

/* Memory, zeroed; ends the program if there is none. */
void *need(size_t nr, size_t size);

#endif
