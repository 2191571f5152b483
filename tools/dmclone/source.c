// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The source, see source.h.
 */

#include <errno.h>
#include <fcntl.h>
#include <gcrypt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "size.h"
#include "source.h"
#include "table.h"

#define RANDOM_PARTS	32
#define RANGES_A_MESSAGE	512
#define ATTEMPTS	50		/* of a message that is to be sent later */
#define PAUSE		100000		/* us, in between */

static bool is_file(const char *text)
{
	struct stat st;

	return !stat(text, &st) && S_ISREG(st.st_mode);
}

static enum result attach(const char *text, struct source *source)
{
	char *path;

	snprintf(source->text, sizeof(source->text), "%s", text);
	if (is_nbd_uri(text)) {
		source->kind = SOURCE_NBD;
		return nbd_attach(text, &source->attached);
	}
	if (is_file(text)) {
		source->kind = SOURCE_FILE;
		path = realpath(text, NULL);
		if (path)
			snprintf(source->text, sizeof(source->text), "%s", path);
		free(path);
		return loop_attach(text, false, &source->attached);
	}

	source->kind = SOURCE_DEVICE;
	source->attached.fd = open(text, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (source->attached.fd < 0)
		return fail_errno(-errno, "cannot open the source %s", text);

	return DONE;
}

enum result source_open(const char *text, struct source *source)
{
	enum result r;

	source->attached.fd = -1;
	if (strlen(text) >= PATH_MAX || strpbrk(text, "\n\r"))
		return fail(BAD_PARAMETER, "'%s' cannot be the name of a source", text);
	r = attach(text, source);
	if (r)
		return r;
	r = device_look_at(source->attached.fd, source->kind == SOURCE_DEVICE ?
			   text : source->attached.path, "source", &source->dev);
	if (!r && source->kind == SOURCE_DEVICE) {
		device_stable_name(&source->dev, source->text);
		r = device_check_quiet(&source->dev);
	}
	if (!r && source->dev.bytes < SECTOR)
		r = fail(BAD_DEVICE, "the source %s is empty", text);
	if (r)
		source_close(source);

	return r;
}

void source_close(struct source *source)
{
	if (source->attached.fd >= 0)
		close(source->attached.fd);
	source->attached.fd = -1;
}

/* Identity -------------------------------------------------------------- */

/* The next of a sequence that looks random (splitmix64) */
static uint64_t next_random(uint64_t *seed)
{
	uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);

	return z ^ z >> 31;
}

static enum result hash_part(const struct source *source, gcry_md_hd_t digest,
			     uint8_t *buf, uint64_t offset)
{
	uint64_t left = source->dev.bytes - offset;
	size_t want = left < MIB ? left : MIB, done = 0;

	while (done < want) {
		ssize_t n = pread(source->attached.fd, buf + done, want - done,
				  offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_errno(n ? -errno : -EIO,
					  "cannot read the source %s at byte %llu",
					  source->text, ULL(offset + done));
		done += n;
	}
	gcry_md_write(digest, buf, want);

	return DONE;
}

/* The kernel reads no more than this for one request to read ahead. */
#define READ_AHEAD	(128 * KIB)

static void read_ahead(int fd, uint64_t offset)
{
	uint64_t end = offset + MIB;

	for (; offset < end; offset += READ_AHEAD)
		posix_fadvise(fd, offset, READ_AHEAD, POSIX_FADV_WILLNEED);
}

/*
 * Where the samples are, in bytes: first, last and random MiB.  A slow source is
 * asked for all of them at once: one after the other its delays would add up.
 */
static unsigned int choose_parts(const struct source *source, uint64_t seed,
				 uint64_t offsets[RANDOM_PARTS + 2])
{
	uint64_t parts = (source->dev.bytes + MIB - 1) / MIB;
	unsigned int nr = 0, i;

	offsets[nr++] = 0;
	offsets[nr++] = (parts - 1) * MIB;
	while (parts > 2 && nr < RANDOM_PARTS + 2)
		offsets[nr++] = next_random(&seed) % parts * MIB;
	for (i = 0; i < nr; i++)
		read_ahead(source->attached.fd, offsets[i]);

	return nr;
}

/* "sha256:SEED:DIGEST"; the size is part of it too. */
static enum result hash(const struct source *source, uint64_t seed, char *text)
{
	uint64_t offsets[RANDOM_PARTS + 2];
	uint8_t *buf = malloc(MIB);
	const uint8_t *bytes;
	gcry_md_hd_t digest;
	enum result r = DONE;
	unsigned int i, nr;

	/* The library is to be asked for its version before anything else. */
	gcry_check_version(NULL);
	if (!buf || gcry_md_open(&digest, GCRY_MD_SHA256, 0)) {
		free(buf);
		return out_of_memory();
	}
	nr = choose_parts(source, seed, offsets);
	for (i = 0; !r && i < nr; i++)
		r = hash_part(source, digest, buf, offsets[i]);
	free(buf);

	text += sprintf(text, "sha256:%016llx:", ULL(seed));
	bytes = gcry_md_read(digest, GCRY_MD_SHA256);
	for (i = 0; i < gcry_md_get_algo_dlen(GCRY_MD_SHA256); i++)
		text += sprintf(text, "%02x", bytes[i]);
	gcry_md_close(digest);

	return r;
}

enum result source_identify(struct source *source, struct conf *conf)
{
	uint64_t seed;
	enum result r;

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return fail_errno(-errno, "cannot get random numbers");
	conf->source_size = source->dev.bytes;
	r = content_identity(source->attached.fd, source->text, conf->source_identity,
			     sizeof(conf->source_identity));

	return r ? r : hash(source, seed, conf->source_hash);
}

enum result source_compare(struct source *source, const struct conf *conf)
{
	char text[IDENTITY_TEXT];
	unsigned long long seed;
	enum result r;

	if (source->dev.bytes != conf->source_size)
		return fail(BAD_DEVICE,
			    "%s has %llu bytes, the source of '%s' has %llu: it is another one",
			    source->text, ULL(source->dev.bytes), conf->name,
			    ULL(conf->source_size));
	r = content_identity(source->attached.fd, source->text, text, sizeof(text));
	if (r)
		return r;
	if (strcmp(text, conf->source_identity))
		return fail(BAD_DEVICE,
			    "%s holds '%s', the source of '%s' holds '%s': it is another one, or has changed; --force takes it all the same",
			    source->text, text, conf->name, conf->source_identity);
	if (sscanf(conf->source_hash, "sha256:%llx:", &seed) != 1)
		return DONE;
	r = hash(source, seed, text);
	if (!r && strcmp(text, conf->source_hash))
		return fail(BAD_DEVICE,
			    "%s is not the source of '%s', or has changed since: samples of its content differ; --force takes it all the same",
			    source->text, conf->name);

	return r;
}

/* Holes ----------------------------------------------------------------- */

struct skipping {
	const struct conf *conf;
	char message[RANGES_A_MESSAGE * 42 + 8];
	size_t used;
	unsigned int nr;
	uint64_t sectors;		/* all that have been told of */
};

static enum result send_ranges(struct skipping *s)
{
	unsigned int attempt;
	int r = 0;

	if (!s->nr)
		return DONE;
	for (attempt = 0; attempt < ATTEMPTS; attempt++) {
		r = table_try_message(s->conf->name, 0, s->message, NULL, 0);
		if (r != -EAGAIN)
			break;
		usleep(PAUSE);
	}
	s->nr = 0;
	s->used = 0;

	/* The kernel's own target has no such message: it copies zeroes. */
	return r ? BAD_DEVICE : DONE;
}

/* Regions that lie in the range as a whole are worth telling. */
static enum result take_hole(uint64_t start, uint64_t length, void *context)
{
	struct skipping *s = context;
	uint64_t region = s->conf->region_size * SECTOR;
	uint64_t end = (start + length) / SECTOR;

	start = (start + region - 1) / region * s->conf->region_size;
	if (end > s->conf->size)
		end = s->conf->size;
	if (end < s->conf->size)
		end -= end % s->conf->region_size;
	if (start >= end)
		return DONE;

	s->used += snprintf(s->message + s->used, sizeof(s->message) - s->used,
			    s->used ? " %llu %llu" : "skip %llu %llu", ULL(start),
			    ULL(end - start));
	s->sectors += end - start;

	return ++s->nr < RANGES_A_MESSAGE ? DONE : send_ranges(s);
}

static enum result visit_file(const char *path, struct skipping *s)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END), hole, data = 0;
	enum result r = DONE;

	while (!r && data < end) {
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0 || hole >= end)
			break;
		data = lseek(fd, hole, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			break;
		if (data < 0)
			data = end;
		r = take_hole(hole, data - hole, s);
	}
	if (fd >= 0)
		close(fd);

	return r;
}

void source_skip_holes(const struct source *source, const struct conf *conf)
{
	struct skipping *s = calloc(1, sizeof(*s));
	char text[SIZE_TEXT];
	enum result r = DONE;

	if (!s)
		return;
	s->conf = conf;
	if (source->kind == SOURCE_FILE)
		r = visit_file(source->text, s);
	else if (source->kind == SOURCE_NBD)
		r = nbd_visit_holes(source->text, take_hole, s);
	if (!r)
		r = send_ranges(s);
	if (!r && s->sectors)
		say("%s of the source are known to be zero and are not copied",
		    size_text(s->sectors * SECTOR, text));
	free(s);
}
