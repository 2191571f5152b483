// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * Descriptions of clones, see conf.h.  One table says what is in them, for the
 * reader and for the writer.
 */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"

#define SUFFIX		".conf"
#define LOCK_DIR	"/run/dmclone"
#define FORMAT		1

const char *const state_names[] = {
	[CREATING] = "creating", [LIVE] = "live", [COMPLETE] = "done",
	[ABANDONED] = "abandoned", NULL
};

/* The first three are texts, of these lengths. */
enum kind { NAME, IDENTITY, PATH, NUMBER, SWITCH, STATE };

static const size_t lengths[] = {
	[NAME] = NAME_LENGTH, [IDENTITY] = IDENTITY_TEXT, [PATH] = PATH_MAX
};

#define FIELD(name)	offsetof(struct conf, name)

static const struct field {
	const char *key;
	enum kind kind;
	bool needed;
	size_t offset;
} fields[] = {
	{ "state", STATE, true, FIELD(state) },
	{ "uuid", NAME, false, FIELD(uuid) },
	{ "source", PATH, true, FIELD(source) },
	{ "source-size", NUMBER, true, FIELD(source_size) },
	{ "source-identity", IDENTITY, false, FIELD(source_identity) },
	{ "source-hash", IDENTITY, false, FIELD(source_hash) },
	{ "destination", PATH, true, FIELD(destination) },
	{ "destination-size", NUMBER, true, FIELD(destination_size) },
	{ "destination-identity", IDENTITY, false, FIELD(destination_identity) },
	{ "metadata", PATH, true, FIELD(metadata) },
	{ "lv", IDENTITY, false, FIELD(lv) },
	{ "size", NUMBER, true, FIELD(size) },
	{ "tail", NUMBER, false, FIELD(tail) },
	{ "region-size", NUMBER, true, FIELD(region_size) },
	{ "hydration", SWITCH, true, FIELD(hydration) },
	{ "hydrate-on-read", SWITCH, false, FIELD(hydrate_on_read) },
	{ "zeroed-destination", SWITCH, false, FIELD(zeroed_destination) },
	{ "rate", NUMBER, false, FIELD(rate) },
	{ "monitor", SWITCH, false, FIELD(monitor) },
	{ "auto-finish", SWITCH, false, FIELD(auto_finish) },
	{ "exec", PATH, false, FIELD(on_trouble) },
};

#define NR_FIELDS	ARRAY_SIZE(fields)

static void *member(const struct conf *conf, const struct field *field)
{
	return (char *)conf + field->offset;
}

enum result conf_check_name(const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("+-._", *p))
			break;
	if (*p || !*name || *name == '-' || *name == '.' ||
	    strlen(name) >= NAME_LENGTH || !strcmp(name, "control"))
		return fail(BAD_PARAMETER,
			    "'%s' cannot be the name of a clone: letters, digits and + - . _, at most %d of them",
			    name, NAME_LENGTH - 1);

	return DONE;
}

enum result conf_take_monitor(struct conf *conf, bool auto_finish, const char *command)
{
	if (!command)
		command = "";
	if (strlen(command) >= sizeof(conf->on_trouble) || strpbrk(command, "\n\r"))
		return fail(BAD_PARAMETER,
			    "a command must be one line, of less than %zu characters: put it in a script",
			    sizeof(conf->on_trouble));
	strcpy(conf->on_trouble, command);
	conf->auto_finish = auto_finish;

	return DONE;
}

static void conf_path(char path[PATH_MAX], const char *name, const char *suffix)
{
	snprintf(path, PATH_MAX, CONF_DIR "/%.*s%s", NAME_LENGTH, name, suffix);
}

bool conf_exists(const char *name)
{
	char path[PATH_MAX];

	conf_path(path, name, SUFFIX);
	return !access(path, F_OK);
}

/* Reading --------------------------------------------------------------- */

static bool take_number(const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 10);

	return isdigit((unsigned char)*text) && !*end && !errno;
}

static bool take_state(const char *text, uint64_t *state)
{
	for (*state = 0; state_names[*state]; (*state)++)
		if (!strcmp(text, state_names[*state]))
			return true;

	return false;
}

static bool take_value(struct conf *conf, const struct field *field, const char *text)
{
	void *place = member(conf, field);

	switch (field->kind) {
	case NAME:
	case IDENTITY:
	case PATH:
		if (!*text || strlen(text) >= lengths[field->kind])
			return false;
		strcpy(place, text);
		return true;
	case NUMBER:
		return take_number(text, place);
	case SWITCH:
		*(bool *)place = !strcmp(text, "yes");
		return *(bool *)place || !strcmp(text, "no");
	case STATE:
		return take_state(text, place);
	}

	return false;
}

static char *strip(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = '\0';
	while (isspace((unsigned char)*text))
		text++;

	return text;
}

/* "key = value"; marks it in @seen.  False for what is not understood. */
static bool take_line(struct conf *conf, char *line, bool *seen, bool *version_seen)
{
	char *value = strchr(line, '=');
	const char *key;
	uint64_t number;
	unsigned int i;

	if (!value)
		return false;
	*value++ = '\0';
	key = strip(line);
	value = strip(value);

	if (!strcmp(key, "version")) {
		*version_seen = true;
		return take_number(value, &number) && number == FORMAT;
	}
	for (i = 0; i < NR_FIELDS; i++)
		if (!strcmp(key, fields[i].key))
			break;
	if (i == NR_FIELDS || seen[i])
		return false;
	seen[i] = true;

	return take_value(conf, &fields[i], value);
}

static bool is_sane(const struct conf *conf)
{
	uint64_t r = conf->region_size;

	return !*conf->uuid == !!*conf->lv && conf->size && r && !(r & (r - 1)) &&
	       conf->size <= conf->source_size / 512 &&
	       conf->size <= conf->destination_size / 512;
}

static enum result read_lines(struct conf *conf, FILE *file, const char *path)
{
	bool seen[NR_FIELDS] = { false }, version_seen = false;
	unsigned int number = 0, i;
	enum result r = DONE;
	char *line = NULL;
	size_t room = 0;

	while (r == DONE && getline(&line, &room, file) > 0) {
		char *text = strip(line);

		number++;
		if (*text && *text != '#' &&
		    !take_line(conf, text, seen, &version_seen))
			r = fail(BAD_PARAMETER,
				 "%s, line %u is not understood: see dmclone.conf(5); was it written by a newer dmclone?",
				 path, number);
	}
	free(line);
	for (i = 0; r == DONE && i < NR_FIELDS; i++)
		if (fields[i].needed && !seen[i])
			r = fail(BAD_PARAMETER, "%s says nothing of '%s'", path,
				 fields[i].key);
	if (r == DONE && (!version_seen || !is_sane(conf)))
		r = fail(BAD_PARAMETER, "%s: version, UUID and sizes do not fit together",
			 path);

	return r;
}

enum result conf_read(const char *name, struct conf *conf)
{
	char path[PATH_MAX];
	enum result r;
	FILE *file;

	r = conf_check_name(name);
	if (r)
		return r;
	conf_path(path, name, SUFFIX);
	file = fopen(path, "re");
	if (!file && errno == ENOENT)
		return fail(BAD_PARAMETER,
			    "there is no clone '%s': it has no description %s", name,
			    path);
	if (!file)
		return fail_errno(-errno, "cannot open %s", path);

	memset(conf, 0, sizeof(*conf));
	strcpy(conf->name, name);
	r = read_lines(conf, file, path);
	fclose(file);

	return r;
}

/* Writing --------------------------------------------------------------- */

static void put_value(FILE *file, const struct conf *conf, const struct field *field)
{
	const void *value = member(conf, field);

	switch (field->kind) {
	case NAME:
	case IDENTITY:
	case PATH:
		if (*(const char *)value)
			fprintf(file, "%s = %s\n", field->key, (const char *)value);
		break;
	case NUMBER:
		fprintf(file, "%s = %llu\n", field->key,
			ULL(*(const uint64_t *)value));
		break;
	case SWITCH:
		fprintf(file, "%s = %s\n", field->key,
			*(const bool *)value ? "yes" : "no");
		break;
	case STATE:
		fprintf(file, "%s = %s\n", field->key,
			state_names[*(const uint64_t *)value]);
		break;
	}
}

static int write_file(const struct conf *conf, const char *path)
{
	FILE *file = fopen(path, "we");
	unsigned int i;
	int r = 0;

	if (!file)
		return -errno;
	fprintf(file, "# Written and read by dmclone: see dmclone.conf(5)\n");
	fprintf(file, "version = %d\n", FORMAT);
	for (i = 0; i < NR_FIELDS; i++)
		put_value(file, conf, &fields[i]);
	errno = EIO;
	if (fflush(file) || ferror(file) || fsync(fileno(file)))
		r = -errno;
	fclose(file);

	return r;
}

int conf_sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd))
		r = -errno;
	close(fd);

	return r;
}

/* The directory, durably: what is in it is worth no more than it. */
static int make_conf_dir(void)
{
	if (!mkdir(CONF_DIR, 0755))
		return conf_sync_dir("/etc");

	return errno == EEXIST ? 0 : -errno;
}

enum result conf_write(const struct conf *conf)
{
	char path[PATH_MAX], new[PATH_MAX];
	int r;

	conf_path(path, conf->name, SUFFIX);
	conf_path(new, conf->name, SUFFIX ".new");
	r = make_conf_dir();
	if (!r)
		r = write_file(conf, new);
	if (!r && rename(new, path))
		r = -errno;
	if (!r)
		r = conf_sync_dir(CONF_DIR);
	if (r)
		return fail_errno(r, "cannot write %s", path);

	return DONE;
}

enum result conf_remove(const char *name)
{
	char path[PATH_MAX];
	int r;

	/* What a writer has left that was killed */
	conf_path(path, name, SUFFIX ".new");
	unlink(path);

	conf_path(path, name, SUFFIX);
	r = unlink(path) && errno != ENOENT ? -errno : conf_sync_dir(CONF_DIR);
	if (r)
		return fail_errno(r, "cannot remove %s", path);

	return DONE;
}

/* All of them ----------------------------------------------------------- */

static int is_description(const struct dirent *entry)
{
	size_t length = strlen(entry->d_name), tail = strlen(SUFFIX);

	return entry->d_name[0] != '.' && length > tail &&
	       length - tail < NAME_LENGTH &&
	       !strcmp(entry->d_name + length - tail, SUFFIX);
}

enum result conf_for_each(enum result (*fn)(const struct conf *conf, void *context),
			  void *context, bool all)
{
	enum result r = DONE, one;
	struct dirent **entries;
	struct conf conf;
	int i, nr;

	nr = scandir(CONF_DIR, &entries, is_description, alphasort);
	if (nr < 0)
		return errno == ENOENT ? DONE :
		       fail_errno(-errno, "cannot read " CONF_DIR);

	for (i = 0; i < nr; i++) {
		if (r == DONE || all) {
			entries[i]->d_name[strlen(entries[i]->d_name) -
					   strlen(SUFFIX)] = '\0';
			one = conf_read(entries[i]->d_name, &conf);
			if (one == DONE)
				one = fn(&conf, context);
			if (one)
				r = one;
		}
		free(entries[i]);
	}
	free(entries);

	return r;
}

enum result conf_lock(const char *name)
{
	char path[PATH_MAX];
	enum result r;
	int fd;

	r = conf_check_name(name);
	if (r)
		return r;
	if (mkdir(LOCK_DIR, 0755) && errno != EEXIST)
		return fail_errno(-errno, "cannot make " LOCK_DIR);
	snprintf(path, sizeof(path), LOCK_DIR "/%s.lock", name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX))
		return fail_errno(-errno, "cannot lock %s", path);

	/* It is held until the process ends. */
	return DONE;
}
