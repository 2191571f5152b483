// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * The state of a clone from XML as clone_dump writes it.  What is not
 * understood is refused: a part of a state is useless.
 */

#include <errno.h>
#include <expat.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "state.h"
#include "tool.h"
#include "xml.h"

#define READ_SIZE	65536

struct reading {
	XML_Parser parser;
	struct state *state;
	bool begun;			/* the superblock is there */
	bool inside_range;
	uint64_t next;			/* ranges are in order */
	const char *wrong;
};

struct attribute {
	const char *name;
	uint64_t value;
	bool required;
	bool found;
};

static void stop(struct reading *r, const char *text)
{
	if (r->wrong)
		return;
	r->wrong = text;
	XML_StopParser(r->parser, XML_FALSE);
}

/*
 *---------------------------------------------------------------
 * Attributes
 *---------------------------------------------------------------
 */

static struct attribute *find_attribute(struct attribute *list, unsigned int nr,
					const char *name)
{
	for (unsigned int i = 0; i < nr; i++)
		if (!strcmp(list[i].name, name))
			return &list[i];

	return NULL;
}

/* Expat makes sure that none is there twice. */
static bool take_attributes(struct reading *r, struct attribute *list,
			    unsigned int nr, const char **attributes)
{
	for (; *attributes; attributes += 2) {
		struct attribute *a = find_attribute(list, nr, attributes[0]);

		if (!a) {
			stop(r, "an attribute that is not known");
			return false;
		}
		if (!parse_number(attributes[1], &a->value)) {
			stop(r, "a value that is no number");
			return false;
		}
		a->found = true;
	}

	for (unsigned int i = 0; i < nr; i++)
		if (list[i].required && !list[i].found) {
			stop(r, "an attribute is missing");
			return false;
		}

	return true;
}

static bool parse_uuid(const char *text, uint8_t *uuid)
{
	for (unsigned int i = 0; i < 16; i++) {
		unsigned int byte;

		if (strspn(text, "0123456789abcdef") < 2 ||
		    sscanf(text, "%2x", &byte) != 1)
			return false;
		uuid[i] = byte;
		text += 2;
	}

	return !*text;
}

/*
 *---------------------------------------------------------------
 * Elements
 *---------------------------------------------------------------
 */

enum { FLAGS, VERSION, REGION_SIZE, TARGET_SIZE, NR_REGIONS, NR_NUMBERS };

static bool take_sizes(struct reading *r, const struct attribute *a)
{
	struct clone_md_superblock *sb = &r->state->sb;
	const char *wrong;

	sb->flags = a[FLAGS].value;
	sb->version = a[VERSION].value;
	sb->region_size = a[REGION_SIZE].value;
	sb->target_size = a[TARGET_SIZE].value;

	wrong = clone_md_check_geometry(sb);
	if (!wrong && a[FLAGS].value > UINT32_MAX)
		wrong = "flags that cannot be";
	if (!wrong && a[VERSION].value != CLONE_MD_VERSION)
		wrong = "the version is not supported";
	if (!wrong && a[NR_REGIONS].found && a[NR_REGIONS].value != clone_md_nr_regions(sb))
		wrong = "the number of regions does not follow from the sizes";
	if (wrong)
		stop(r, wrong);

	return !wrong;
}

/* The attributes that are no numbers are taken out of the list. */
static bool take_words(struct reading *r, const char **attributes)
{
	const char **out = attributes;

	for (; *attributes; attributes += 2) {
		const char *name = attributes[0], *value = attributes[1];

		if (!strcmp(name, "uuid")) {
			if (!parse_uuid(value, r->state->sb.uuid)) {
				stop(r, "this is no UUID");
				return false;
			}
		} else if (!strcmp(name, "dest_zeroed")) {
			r->state->sb.dest_zeroed = !strcmp(value, "true");
			if (!r->state->sb.dest_zeroed && strcmp(value, "false")) {
				stop(r, "dest_zeroed is true or false");
				return false;
			}
		} else {
			*out++ = name;
			*out++ = value;
		}
	}
	*out = NULL;

	return true;
}

static void begin_superblock(struct reading *r, const char **attributes)
{
	const char *copy[2 * 16 + 1];
	struct attribute numbers[NR_NUMBERS] = {
		[FLAGS] = { .name = "flags" },
		[VERSION] = { .name = "version", .value = CLONE_MD_VERSION },
		[REGION_SIZE] = { .name = "region_size", .required = true },
		[TARGET_SIZE] = { .name = "target_size", .required = true },
		[NR_REGIONS] = { .name = "nr_regions" },
	};
	unsigned int nr = 0;

	for (; attributes[nr] && nr < 2 * 16; nr++)
		copy[nr] = attributes[nr];
	copy[nr] = NULL;
	if (attributes[nr]) {
		stop(r, "too many attributes");
		return;
	}

	if (!take_words(r, copy) || !take_attributes(r, numbers, NR_NUMBERS, copy) ||
	    !take_sizes(r, numbers))
		return;
	if (state_begin(r->state)) {
		stop(r, "not enough memory");
		return;
	}
	r->begun = true;
}

static void take_range(struct reading *r, bool lost, const char **attributes)
{
	struct attribute a[] = {
		{ .name = "begin", .required = true },
		{ .name = "length", .required = true },
	};
	uint64_t first, nr;

	if (!take_attributes(r, a, 2, attributes))
		return;
	first = a[0].value;
	nr = a[1].value;

	if (first < r->next)
		stop(r, "ranges that overlap, or are not in order");
	else if (!nr || first >= r->state->nr_regions || nr > r->state->nr_regions - first)
		stop(r, "a range that is not in the clone");
	else if (!lost)
		state_set_hydrated(r->state, first, nr);
	else if (state_set_lost(r->state, first, nr))
		stop(r, "not enough memory");
	r->next = first + nr;
}

static void begin_element(void *context, const char *name, const char **attributes)
{
	struct reading *r = context;

	if (r->wrong)
		return;

	if (!r->begun) {
		if (strcmp(name, "superblock"))
			stop(r, "this is not what clone_dump writes");
		else
			begin_superblock(r, attributes);
		return;
	}

	if (r->inside_range)
		stop(r, "an element inside of a range");
	else if (!strcmp(name, "hydrated"))
		take_range(r, false, attributes);
	else if (!strcmp(name, "lost"))
		take_range(r, true, attributes);
	else
		stop(r, "an element that is not known");
	r->inside_range = true;
}

static void end_element(void *context, const char *name)
{
	struct reading *r = context;

	(void)name;
	r->inside_range = false;
}

static void take_text(void *context, const char *text, int length)
{
	struct reading *r = context;

	for (int i = 0; i < length; i++)
		if (!strchr(" \t\r\n", text[i]) || !text[i]) {
			stop(r, "text between the elements");
			return;
		}
}

/* Nobody needs entities here. */
static void refuse_doctype(void *context, const char *name, const char *sysid,
			   const char *pubid, int has_internal_subset)
{
	(void)name;
	(void)sysid;
	(void)pubid;
	(void)has_internal_subset;
	stop(context, "a document type is not expected");
}

/*
 *---------------------------------------------------------------
 * Documents
 *---------------------------------------------------------------
 */

static int parse(struct reading *r, int fd)
{
	for (;;) {
		void *buf = XML_GetBuffer(r->parser, READ_SIZE);
		ssize_t n;

		if (!buf)
			return -ENOMEM;
		n = read(fd, buf, READ_SIZE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (XML_ParseBuffer(r->parser, n, !n) != XML_STATUS_OK)
			return -EBADMSG;
		if (!n)
			return 0;
	}
}

static void say_where(const struct reading *r, const char *path)
{
	const char *text = r->wrong;

	if (!text)
		text = XML_ErrorString(XML_GetErrorCode(r->parser));
	say("%s, line %lu: %s", path,
	    (unsigned long)XML_GetCurrentLineNumber(r->parser), text);
}

int read_xml_fd(struct state *s, int fd, const char *name)
{
	struct reading reading = { .state = s };
	int r;

	memset(s, 0, sizeof(*s));
	reading.parser = XML_ParserCreate(NULL);
	if (!reading.parser) {
		say("not enough memory");
		return -ENOMEM;
	}
	XML_SetUserData(reading.parser, &reading);
	XML_SetElementHandler(reading.parser, begin_element, end_element);
	XML_SetCharacterDataHandler(reading.parser, take_text);
	XML_SetStartDoctypeDeclHandler(reading.parser, refuse_doctype);

	r = parse(&reading, fd);
	if (r == -EBADMSG)
		say_where(&reading, name);
	else if (r)
		say("%s: %s", name, strerror(-r));

	XML_ParserFree(reading.parser);
	if (r)
		state_end(s);
	return r;
}

int read_xml(struct state *s, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = -errno;

	if (fd < 0) {
		say("%s: %s", path, strerror(-r));
		return r;
	}
	r = read_xml_fd(s, fd, path);
	close(fd);

	return r;
}
