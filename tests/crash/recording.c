// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading a recording.  See recording.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../tools/lib/endian-le.h"
#include "../lib/stamp.h"
#include "../lib/random.h"
#include "recording.h"
#include "workload.h"

#define MAX_CLONES	8
#define MAX_OPS		0x800000u
#define MAX_THREADS	64

/* See drivers/md/dm-log-writes.c of the kernel. */
#define LOG_MAGIC	0x6a736677736872ull
#define LOG_FUA		0x2u
#define LOG_DISCARD	0x4u
#define LOG_MARK	0x8u
#define LOG_END		"dm-log-writes-end"

/* What a thread of the workload is doing. */
struct thread {
	unsigned int tid;
	uint32_t op;
	char letter;
};

struct loader {
	struct recording *rec;
	char *folder;
	bool has_initial;
	char logged[16];		/* device numbers */
	char clones[MAX_CLONES][16];
	unsigned int nr_clones;
	uint64_t log_offset;

	struct thread threads[MAX_THREADS];
	unsigned int nr_threads;
	uint32_t *first_of_op;		/* upper bios; NEVER if there is none */
	uint32_t max_events;

	/* The bios in flight, to be found again when they complete. */
	uint32_t *flying[2];
	unsigned int nr_flying[2];
};

/* A line about a bio. */
struct bio_line {
	bool complete;
	bool lower;
	unsigned int tid;
	char device[16];
	char rwbs[12];
	uint64_t sector, nr;
	int error;
};

/*
 *---------------------------------------------------------------
 * Helpers
 *---------------------------------------------------------------
 */

void fail(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fputs("replay: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

void *need(size_t nr, size_t size)
{
	void *p = calloc(nr ? nr : 1, size);

	if (!p)
		fail("out of memory");

	return p;
}

static char *read_file(const char *folder, const char *name)
{
	char path[4096];
	size_t size = 0, room = 1 << 20;
	char *text = need(room, 1);
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "r");
	if (!f)
		fail("%s: %s", path, strerror(errno));

	while (true) {
		size_t n = fread(text + size, 1, room - size - 1, f);

		size += n;
		if (!n)
			break;
		if (size == room - 1) {
			room *= 2;
			text = realloc(text, room);
			if (!text)
				fail("out of memory");
		}
	}
	fclose(f);
	text[size] = '\0';

	return text;
}

/* Take the next line off *@text; NULL at the end. */
static char *next_line(char **text)
{
	char *line = *text, *end;

	if (!*line)
		return NULL;

	end = strchr(line, '\n');
	if (end) {
		*end = '\0';
		*text = end + 1;
	} else {
		*text = line + strlen(line);
	}

	return line;
}

/*
 *---------------------------------------------------------------
 * The info file
 *---------------------------------------------------------------
 */

static void take_info(struct loader *l, const char *key, char *value)
{
	struct recording *rec = l->rec;
	uint64_t number = strtoull(value, NULL, 10);
	char *word, *save;

	if (!strcmp(key, "scenario")) {
		snprintf(rec->scenario, sizeof(rec->scenario), "%s", value);
	} else if (!strcmp(key, "seed")) {
		rec->seed = number;
	} else if (!strcmp(key, "number")) {
		rec->number = number;
	} else if (!strcmp(key, "initial")) {
		l->has_initial = true;
	} else if (!strcmp(key, "log_offset")) {
		l->log_offset = number * SECTOR_SIZE;
	} else if (!strcmp(key, "meta_sectors")) {
		rec->meta_sectors = number;
	} else if (!strcmp(key, "target_size")) {
		rec->target_size = number;
	} else if (!strcmp(key, "region_size")) {
		rec->region_size = number;
	} else if (!strcmp(key, "source_stamp")) {
		rec->source_stamp = number;
	} else if (!strcmp(key, "former_stamp")) {
		rec->former_stamp = number;
	} else if (!strcmp(key, "junk_stamp")) {
		rec->junk_stamp = number;
	} else if (!strcmp(key, "keeps")) {
		rec->keeps = number;
	} else if (!strcmp(key, "logged")) {
		snprintf(l->logged, sizeof(l->logged), "%s", value);
	} else if (!strcmp(key, "clones")) {
		for (word = strtok_r(value, " ", &save); word && l->nr_clones < MAX_CLONES;
		     word = strtok_r(NULL, " ", &save))
			snprintf(l->clones[l->nr_clones++], sizeof(l->clones[0]), "%s", word);
	} else {
		fail("%s/info: unknown key %s", l->folder, key);
	}
}

static void load_info(struct loader *l)
{
	char *text = read_file(l->folder, "info"), *rest = text, *line;

	while ((line = next_line(&rest))) {
		char *value = strchr(line, ' ');

		if (!value)
			fail("%s/info: no value: %s", l->folder, line);
		*value++ = '\0';
		take_info(l, line, value);
	}
	free(text);

	if (!l->rec->region_size || !l->rec->target_size || !l->rec->meta_sectors ||
	    !l->nr_clones)
		fail("%s/info is incomplete", l->folder);
}

/*
 *---------------------------------------------------------------
 * What was there at first
 *---------------------------------------------------------------
 */

static void load_stamps(struct loader *l, FILE *f, uint32_t *stamps)
{
	for (uint64_t i = 0; i < l->rec->target_size; i++) {
		uint8_t le[4];

		if (fread(le, sizeof(le), 1, f) != 1)
			fail("%s/initial is too short", l->folder);
		stamps[i] = get_le32(le);
	}
}

/* See export_state() in replay.c. */
static void load_initial_file(struct loader *l)
{
	struct initial *initial = &l->rec->initial;
	unsigned long long meta, size, region;
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/initial", l->folder);
	f = fopen(path, "r");
	if (!f)
		fail("%s: %s", path, strerror(errno));
	if (fscanf(f, "%llu %llu %llu", &meta, &size, &region) != 3 || fgetc(f) != '\n' ||
	    meta != l->rec->meta_sectors || size != l->rec->target_size ||
	    region != l->rec->region_size)
		fail("%s does not fit the recording", path);
	if (fread(initial->meta, SECTOR_SIZE, meta, f) != meta)
		fail("%s is too short", path);
	load_stamps(l, f, initial->dest);
	load_stamps(l, f, initial->view);
	fclose(f);
}

static void load_initial(struct loader *l)
{
	struct recording *rec = l->rec;

	rec->initial.meta = need(rec->meta_sectors, SECTOR_SIZE);
	rec->initial.dest = need(rec->target_size, sizeof(uint32_t));
	rec->initial.view = need(rec->target_size, sizeof(uint32_t));
	if (l->has_initial) {
		load_initial_file(l);
		return;
	}

	/* As record.py prepares it. */
	stamp_fill(rec->initial.meta, 0, rec->meta_sectors, rec->junk_stamp);
	stamp_fill(rec->initial.meta, 0, 8, STAMP_ZERO);
	for (uint64_t i = 0; i < rec->target_size; i++) {
		rec->initial.dest[i] = rec->former_stamp;
		rec->initial.view[i] = rec->source_stamp;
	}
}

/*
 *---------------------------------------------------------------
 * Operations and events
 *---------------------------------------------------------------
 */

static struct thread *find_thread(struct loader *l, unsigned int tid)
{
	for (unsigned int i = 0; i < l->nr_threads; i++)
		if (l->threads[i].tid == tid)
			return &l->threads[i];

	if (l->nr_threads == MAX_THREADS)
		fail("%s/trace: too many threads", l->folder);
	l->threads[l->nr_threads].tid = tid;

	return &l->threads[l->nr_threads++];
}

static uint32_t add_event(struct loader *l, enum event_kind kind, uint32_t index)
{
	struct recording *rec = l->rec;

	rec->events[rec->nr_events].kind = kind;
	rec->events[rec->nr_events].index = index;

	return rec->nr_events++;
}

/* A line of our own: "B 17 w 128 8", "E 17 0", "X suspend". */
static void take_mark(struct loader *l, unsigned int tid, const char *text)
{
	struct thread *thread = find_thread(l, tid);
	unsigned int number;
	char letter;

	if (sscanf(text, "B %u %c", &number, &letter) == 2) {
		if (number >= MAX_OPS || !strchr(WORKLOAD_LETTERS, letter))
			fail("%s/trace: not an operation: %s", l->folder, text);
		thread->op = number;
		thread->letter = letter;
	} else if (sscanf(text, "E %u", &number) == 1) {
		thread->op = 0;
	} else if (!strcmp(text, "X suspend")) {
		add_event(l, SUSPEND, 0);
	} else if (!strcmp(text, "X suspended")) {
		add_event(l, SUSPENDED, 0);
	} else if (!strcmp(text, "X reset")) {
		add_event(l, RESET, 0);
	} else if (!strcmp(text, "X flush failed")) {
		add_event(l, FLUSH_FAILED, 0);
	} else if (!strcmp(text, "X end")) {
		add_event(l, END, 0);
	} else {
		fail("%s/trace: unknown mark: %s", l->folder, text);
	}
}

/*
 *---------------------------------------------------------------
 * Bios
 *---------------------------------------------------------------
 */

/*
 * The letters of blk_fill_rwbs(): a leading F is a flush, a later one FUA.
 * Write-zeroes is N, or WZ with newer kernels.
 */
static void parse_rwbs(const struct loader *l, const char *rwbs, struct bio *b)
{
	bool flush = *rwbs == 'F';
	char letter;

	rwbs += flush;
	letter = *rwbs++;
	if (letter == 'W' && *rwbs == 'Z')
		letter = 'N';
	b->fua = strchr(rwbs, 'F');

	if (flush && !b->nr)
		b->kind = BIO_FLUSH;
	else if (flush)
		fail("%s/trace: a flush with data", l->folder);
	else if (letter == 'W')
		b->kind = BIO_WRITE;
	else if (letter == 'D')
		b->kind = BIO_DISCARD;
	else if (letter == 'N')
		b->kind = BIO_ZEROES;
	else
		fail("%s/trace: unknown kind of bio", l->folder);
}

static void queue_lower(struct loader *l, const struct bio *b)
{
	struct recording *rec = l->rec;
	uint32_t index = rec->nr_lower++;
	struct lower_bio *lower = &rec->lower[index];

	/* Delay targets shift empty flushes too: so they tell where from. */
	lower->b = *b;
	lower->b.queued = add_event(l, LOWER_QUEUED, index);
	lower->meta = b->sector < rec->meta_sectors;
	if (b->kind == BIO_ZEROES)
		fail("%s/trace: log-writes does not know write-zeroes", l->folder);
	l->flying[0][l->nr_flying[0]++] = index;
}

static void queue_upper(struct loader *l, const struct bio *b, unsigned int tid)
{
	struct recording *rec = l->rec;
	struct thread *thread = find_thread(l, tid);
	uint32_t index = rec->nr_upper++, *link;
	struct upper_bio *upper = &rec->upper[index];

	upper->b = *b;
	upper->b.queued = add_event(l, UPPER_QUEUED, index);
	upper->op = thread->op;
	upper->next_of_op = NEVER;
	l->flying[1][l->nr_flying[1]++] = index;

	/* When the last user closes a device the kernel flushes it. */
	if (!thread->op && b->kind == BIO_FLUSH)
		return;
	if (!thread->op)
		fail("%s/trace: a bio that belongs to no operation", l->folder);

	/* Zeroes may be written in any way: which one does not matter. */
	if (strchr("zp", thread->letter) && b->kind == BIO_WRITE)
		upper->b.kind = BIO_ZEROES;

	link = &l->first_of_op[thread->op];
	while (*link != NEVER)
		link = &rec->upper[*link].next_of_op;
	*link = index;
}

static struct bio *bio_at(struct loader *l, bool lower, uint32_t index)
{
	return lower ? &l->rec->lower[index].b : &l->rec->upper[index].b;
}

static bool is_same_kind(const struct bio *a, const struct bio *b)
{
	/* Above, write-zeroes may be writes. */
	if (a->kind == BIO_FLUSH || b->kind == BIO_FLUSH || a->kind == BIO_DISCARD ||
	    b->kind == BIO_DISCARD)
		return a->kind == b->kind;

	return a->fua == b->fua;
}

/*
 * Which of the bios in flight has completed?  Device-mapper moves the start of
 * a bio that it maps in pieces, so the end counts, and of several bios the
 * first.  (If those are for the same sectors then no order of them was
 * promised.)
 */
static void complete_bio(struct loader *l, const struct bio_line *line,
			 const struct bio *done)
{
	unsigned int which = !line->lower, i;
	uint32_t *flying = l->flying[which], at, index;
	struct bio *b = NULL;

	for (i = 0; i < l->nr_flying[which]; i++) {
		b = bio_at(l, line->lower, flying[i]);
		if (b->sector + b->nr == done->sector + done->nr && is_same_kind(b, done))
			break;
	}
	if (i == l->nr_flying[which])
		fail("%s/trace: %s %llu+%llu completes, but was not queued", l->folder,
		     line->rwbs, (unsigned long long)line->sector,
		     (unsigned long long)line->nr);

	index = flying[i];
	memmove(flying + i, flying + i + 1, (--l->nr_flying[which] - i) * sizeof(*flying));
	at = add_event(l, line->lower ? LOWER_COMPLETED : UPPER_COMPLETED, index);
	b->completed = line->error ? NEVER : at;
	if (line->error && line->lower)
		fail("%s/trace: an I/O error below", l->folder);
}

static void take_bio(struct loader *l, const struct bio_line *line)
{
	struct bio b = {
		.sector = line->sector,
		.nr = line->nr,
		.completed = NEVER,
	};

	/* Flushes of a clone have no address. */
	parse_rwbs(l, line->rwbs, &b);
	if (b.kind == BIO_FLUSH && !line->lower)
		b.sector = 0;

	if (line->complete)
		complete_bio(l, line, &b);
	else if (line->lower)
		queue_lower(l, &b);
	else
		queue_upper(l, &b, line->tid);
}

/*
 *---------------------------------------------------------------
 * The trace
 *---------------------------------------------------------------
 */

/* "   python3-134     [000] .....    4: block_bio_queue: 253,3 W 16 + 8 [python3]" */
static bool parse_tid(const char *line, const char *event, unsigned int *tid)
{
	const char *p = strstr(line, " [");
	char *end;

	if (!p || p > event)
		return false;
	while (p > line && p[-1] == ' ')
		p--;
	while (p > line && p[-1] >= '0' && p[-1] <= '9')
		p--;
	*tid = strtoul(p, &end, 10);

	return end != p;
}

static bool is_device_of(struct loader *l, struct bio_line *line)
{
	char *comma = strchr(line->device, ',');

	if (comma)
		*comma = ':';
	line->lower = !strcmp(line->device, l->logged);
	if (line->lower)
		return true;

	for (unsigned int i = 0; i < l->nr_clones; i++)
		if (!strcmp(line->device, l->clones[i]))
			return true;

	return false;
}

static bool parse_bio_line(struct loader *l, const char *event, struct bio_line *line)
{
	const char *rest = strchr(event + 1, ':') + 2, *bracket = strrchr(event, '[');

	unsigned long long sector, nr;

	if (sscanf(rest, "%15s %11s %llu + %llu", line->device, line->rwbs, &sector, &nr) != 4)
		return false;
	line->sector = sector;
	line->nr = nr;
	if (line->complete && (!bracket || sscanf(bracket, "[%d", &line->error) != 1))
		return false;

	return is_device_of(l, line);
}

static void take_line(struct loader *l, char *text)
{
	static const char queue[] = ": block_bio_queue: ";
	static const char complete[] = ": block_bio_complete: ";
	static const char mark[] = ": tracing_mark_write: ";
	struct bio_line line = { .error = 0 };
	char *event;

	if (*text == '#' || !*text)
		return;
	if (strstr(text, "LOST"))
		fail("%s/trace: events are missing", l->folder);

	event = strstr(text, mark);
	if (event) {
		if (!parse_tid(text, event, &line.tid))
			fail("%s/trace: %s", l->folder, text);
		take_mark(l, line.tid, event + strlen(mark));
		return;
	}

	event = strstr(text, queue);
	if (!event) {
		event = strstr(text, complete);
		line.complete = true;
	}
	if (!event || !parse_tid(text, event, &line.tid) ||
	    !parse_bio_line(l, event + 1, &line))
		fail("%s/trace: %s", l->folder, text);

	take_bio(l, &line);
}

static uint32_t count_lines(const char *text)
{
	uint32_t n = 1;

	while ((text = strchr(text, '\n'))) {
		text++;
		n++;
	}

	return n;
}

static void load_trace(struct loader *l)
{
	char *text = read_file(l->folder, "trace"), *rest = text, *line;
	struct recording *rec = l->rec;

	l->max_events = count_lines(text);
	rec->events = need(l->max_events, sizeof(*rec->events));
	rec->lower = need(l->max_events, sizeof(*rec->lower));
	rec->upper = need(l->max_events, sizeof(*rec->upper));
	l->flying[0] = need(l->max_events, sizeof(uint32_t));
	l->flying[1] = need(l->max_events, sizeof(uint32_t));
	l->first_of_op = need(MAX_OPS, sizeof(uint32_t));
	memset(l->first_of_op, 0xff, MAX_OPS * sizeof(uint32_t));

	while ((line = next_line(&rest)))
		take_line(l, line);
	free(text);

	if (l->nr_flying[0])
		fail("%s/trace: %u bios below have not completed", l->folder, l->nr_flying[0]);
}

/*
 *---------------------------------------------------------------
 * The log
 *---------------------------------------------------------------
 */

/*
 * What dm-log-writes must have made of these bios: it keeps completed ones
 * until a flush is queued, and logs them when that completes; it logs FUA
 * writes at once.  Fills @order with the indices of the bios that have an entry
 * with data, or are discards; returns how many there are.
 */
static uint32_t predict_log(const struct loader *l, uint32_t *order)
{
	struct recording *rec = l->rec;
	uint32_t *done = need(rec->nr_lower, sizeof(*done)), nr_done = 0, nr = 0;
	uint32_t **taken = need(rec->nr_lower, sizeof(*taken));
	uint32_t *nr_taken = need(rec->nr_lower, sizeof(*nr_taken));

	for (uint32_t e = 0; e < rec->nr_events; e++) {
		uint32_t i = rec->events[e].index;
		const struct bio *b = &rec->lower[i].b;

		if (rec->events[e].kind == LOWER_QUEUED && b->kind == BIO_FLUSH) {
			taken[i] = need(nr_done, sizeof(uint32_t));
			memcpy(taken[i], done, nr_done * sizeof(uint32_t));
			nr_taken[i] = nr_done;
			nr_done = 0;
		} else if (rec->events[e].kind == LOWER_COMPLETED) {
			if (b->kind == BIO_FLUSH) {
				memcpy(order + nr, taken[i], nr_taken[i] * sizeof(uint32_t));
				nr += nr_taken[i];
			} else if (b->fua) {
				order[nr++] = i;
			} else {
				done[nr_done++] = i;
			}
		}
	}
	memcpy(order + nr, done, nr_done * sizeof(uint32_t));
	nr += nr_done;

	for (uint32_t i = 0; i < rec->nr_lower; i++)
		free(taken[i]);
	free(taken);
	free(nr_taken);
	free(done);

	return nr;
}

static bool is_entry_of(const struct lower_bio *lower, uint64_t sector, uint64_t nr,
			uint64_t flags)
{
	const struct bio *b = &lower->b;

	return !lower->logged && b->sector == sector && b->nr == nr &&
	       b->fua == !!(flags & LOG_FUA) &&
	       (b->kind == BIO_DISCARD) == !!(flags & LOG_DISCARD);
}

static uint32_t find_birth(const struct loader *l, uint32_t stamp, uint64_t sector)
{
	const struct recording *rec = l->rec;
	uint32_t i;

	if (stamp == STAMP_ZERO)
		return BIRTH_ZERO;
	if (stamp == rec->source_stamp)
		return BIRTH_SOURCE;
	if (stamp == rec->former_stamp)
		return BIRTH_FORMER;
	if (stamp >= MAX_OPS)
		return BIRTH_BAD;

	for (i = l->first_of_op[stamp]; i != NEVER; i = rec->upper[i].next_of_op) {
		const struct bio *b = &rec->upper[i].b;

		if (b->kind == BIO_WRITE && sector - b->sector < b->nr)
			return i;
	}

	return BIRTH_BAD;
}

/* When was the data of a log entry handed to the clone?  0: it was not. */
static uint32_t asked_for_at(const struct loader *l, const uint8_t *entry)
{
	uint64_t sector = get_le64(entry) - l->rec->meta_sectors;
	uint32_t birth;

	if (get_le64(entry + 16) & LOG_DISCARD || get_le64(entry) < l->rec->meta_sectors)
		return 0;
	birth = find_birth(l, stamp_of(entry + SECTOR_SIZE, sector), sector);

	return birth < l->rec->nr_upper ? l->rec->upper[birth].b.queued : 0;
}

/*
 * Find the bio of a log entry.  As a rule it's the next one of that kind in the
 * prediction, which may be off by a few places, the trace and the log being
 * written a moment apart.  But writes of the user to the same sectors can be in
 * flight at once: then it's the one that came next after its data was asked
 * for.
 */
static struct lower_bio *find_bio_of_entry(struct loader *l, const uint32_t *order,
					   uint32_t nr_order, const uint8_t *entry)
{
	uint32_t asked = asked_for_at(l, entry);
	struct lower_bio *best = NULL;

	for (uint32_t i = 0; i < nr_order; i++) {
		struct lower_bio *lower = &l->rec->lower[order[i]];

		if (!is_entry_of(lower, get_le64(entry), get_le64(entry + 8),
				 get_le64(entry + 16)))
			continue;
		if (!asked)
			return lower;
		if (lower->b.queued > asked && (!best || lower->b.queued < best->b.queued))
			best = lower;
	}

	return best;
}

static void match_entry(struct loader *l, const uint32_t *order, uint32_t nr_order,
			uint32_t *next, const uint8_t *entry)
{
	struct lower_bio *lower;

	while (*next < nr_order && l->rec->lower[order[*next]].logged)
		(*next)++;

	lower = find_bio_of_entry(l, order + *next, nr_order - *next, entry);
	if (!lower)
		fail("%s: the log has %llu+%llu (flags %llu), the trace has not", l->folder,
		     (unsigned long long)get_le64(entry),
		     (unsigned long long)get_le64(entry + 8),
		     (unsigned long long)get_le64(entry + 16));

	lower->logged = true;
	if (!(get_le64(entry + 16) & LOG_DISCARD))
		lower->data = entry + SECTOR_SIZE;
}

static void map_log(struct loader *l, const char *path)
{
	struct recording *rec = l->rec;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		fail("%s: %s", path, strerror(errno));
	if ((uint64_t)st.st_size <= l->log_offset)
		fail("%s is too short", path);
	rec->log_size = st.st_size - l->log_offset;
	rec->log = mmap(NULL, rec->log_size, PROT_READ, MAP_PRIVATE, fd, l->log_offset);
	if (rec->log == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	close(fd);
}

/* Returns the entry at *@sector, and moves it past that entry and its data. */
static const uint8_t *next_entry(struct loader *l, uint64_t *sector)
{
	const uint8_t *entry = (const uint8_t *)l->rec->log + *sector * SECTOR_SIZE;
	uint64_t room = l->rec->log_size / SECTOR_SIZE, nr = 0;

	if (*sector >= room)
		fail("%s: the log ends too soon", l->folder);
	if (!(get_le64(entry + 16) & LOG_DISCARD))
		nr = get_le64(entry + 8);
	if (nr >= room - *sector)
		fail("%s: the log is damaged", l->folder);
	*sector += 1 + nr;

	return entry;
}

static void load_log(struct loader *l, const char *path)
{
	struct recording *rec = l->rec;
	uint32_t *order = need(rec->nr_lower, sizeof(*order));
	uint32_t nr_order = predict_log(l, order), next = 0;
	const uint8_t *entry = NULL;
	uint64_t nr_entries, sector = 1;

	map_log(l, path);
	if (get_le64(rec->log) != LOG_MAGIC)
		fail("%s: there is no log", l->folder);
	nr_entries = get_le64((uint8_t *)rec->log + 16);

	for (uint64_t i = 0; i < nr_entries; i++) {
		entry = next_entry(l, &sector);
		if (!(get_le64(entry + 16) & LOG_MARK) && get_le64(entry + 8))
			match_entry(l, order, nr_order, &next, entry);
	}
	if (!entry || strncmp((const char *)entry + 32, LOG_END, strlen(LOG_END)))
		fail("%s: the log has no end", l->folder);

	for (uint32_t i = 0; i < nr_order; i++)
		if (!rec->lower[order[i]].logged)
			fail("%s: the trace has %llu+%llu, the log has not", l->folder,
			     (unsigned long long)rec->lower[order[i]].b.sector,
			     (unsigned long long)rec->lower[order[i]].b.nr);
	free(order);
}

/*
 *---------------------------------------------------------------
 * Births
 *---------------------------------------------------------------
 */

static void find_births(const struct loader *l, struct lower_bio *lower)
{
	struct recording *rec = l->rec;

	lower->births = need(lower->b.nr, sizeof(uint32_t));
	for (uint64_t i = 0; i < lower->b.nr; i++) {
		uint64_t sector = lower->b.sector + i - rec->meta_sectors;
		uint32_t birth = BIRTH_ZERO;

		if (lower->data)
			birth = find_birth(l, stamp_of(lower->data + i * SECTOR_SIZE, sector),
					   sector);
		/* Data from the future: then all the ordering is wrong. */
		if (birth < rec->nr_upper && rec->upper[birth].b.queued > lower->b.queued)
			fail("%s: sector %llu is written before it was asked for", l->folder,
			     (unsigned long long)sector);
		lower->births[i] = birth;
	}
}

static void settle_lower_bios(const struct loader *l)
{
	struct recording *rec = l->rec;
	uint64_t rng = rec->seed + rec->number;
	uint64_t size = rec->meta_sectors + rec->target_size;

	for (uint32_t i = 0; i < rec->nr_lower; i++) {
		struct lower_bio *lower = &rec->lower[i];
		const struct bio *b = &lower->b;

		if (b->sector + b->nr > size ||
		    (lower->meta && b->sector + b->nr > rec->meta_sectors))
			fail("%s/trace: a bio beyond the end", l->folder);
		lower->moment = b->queued + random_below(&rng, b->completed - b->queued);
		if (!lower->meta && b->nr)
			find_births(l, lower);
	}
}

/*----------------------------------------------------------------*/

void recording_load(struct recording *rec, const char *folder, const char *log_file)
{
	struct loader l = { .rec = rec };

	memset(rec, 0, sizeof(*rec));
	l.folder = strdup(folder);
	if (!l.folder)
		fail("out of memory");

	load_info(&l);
	load_initial(&l);
	load_trace(&l);
	load_log(&l, log_file);
	settle_lower_bios(&l);

	free(l.first_of_op);
	free(l.flying[0]);
	free(l.flying[1]);
	free(l.folder);
}

void recording_free(struct recording *rec)
{
	for (uint32_t i = 0; i < rec->nr_lower; i++)
		free(rec->lower[i].births);
	free(rec->initial.meta);
	free(rec->initial.dest);
	free(rec->initial.view);
	free(rec->lower);
	free(rec->upper);
	free(rec->events);
	munmap(rec->log, rec->log_size);
}

uint32_t recording_stamp(const struct recording *rec, uint64_t sector, uint32_t birth)
{
	switch (birth) {
	case BIRTH_OLD:
		return rec->initial.view[sector];
	case BIRTH_ZERO:
		return STAMP_ZERO;
	case BIRTH_SOURCE:
		return rec->source_stamp;
	case BIRTH_FORMER:
		return rec->initial.dest[sector];
	default:
		return rec->upper[birth].op;
	}
}
