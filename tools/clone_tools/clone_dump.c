// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_dump: what the metadata of a clone says, for people and programs.
 */

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"
#include "tool.h"

#define NR_LARGEST	10u

static const char usage[] =
"Usage: clone_dump [OPTION...] DEVICE|FILE\n"
"\n"
"Show what the metadata of a clone says.\n"
"\n"
"  -f, --format FORMAT   xml (default), human_readable or json\n"
"      --summary         how much is hydrated, and the largest missing ranges\n"
"      --missing         what is missing: a first sector and a number of sectors a\n"
"                        line, and nothing else\n"
"  -r, --repair          get what can be had from damaged metadata\n"
"  -o, --output FILE     write to this file\n"
"  -q, --quiet           no messages\n"
"  -h, --help            show this\n"
"  -V, --version         show the version\n";

static const struct option options[] = {
	{ "format", required_argument, NULL, 'f' },
	{ "summary", no_argument, NULL, 'S' },
	{ "missing", no_argument, NULL, 'M' },
	{ "repair", no_argument, NULL, 'r' },
	{ "output", required_argument, NULL, 'o' },
	OPTION_HELP, OPTION_VERSION, OPTION_QUIET,
	{ NULL, 0, NULL, 0 },
};

static const char * const kinds[] = {
	[HYDRATED] = "hydrated", [LOST] = "lost",
};

/*
 *---------------------------------------------------------------
 * Everything
 *---------------------------------------------------------------
 */

/* The runs of regions that are hydrated or lost, in ascending order. */
struct known {
	struct range hydrated;		/* the next ones; nr is 0 after the last */
	struct range lost;
};

static void known_begin(const struct state *s, struct known *k)
{
	memset(k, 0, sizeof(*k));
	state_next(s, HYDRATED, &k->hydrated);
	state_next(s, LOST, &k->lost);
}

static bool known_next(const struct state *s, struct known *k, struct range *range,
		       enum state_kind *kind)
{
	bool lost = k->lost.nr && (!k->hydrated.nr || k->lost.first < k->hydrated.first);
	struct range *next = lost ? &k->lost : &k->hydrated;

	*kind = lost ? LOST : HYDRATED;
	*range = *next;
	if (next->nr)
		state_next(s, *kind, next);

	return range->nr;
}

static void format_uuid(const struct state *s, char text[33])
{
	for (unsigned int i = 0; i < sizeof(s->sb.uuid); i++)
		sprintf(text + 2 * i, "%02x", s->sb.uuid[i]);
}

/* All values are numbers: nothing is to be escaped. */
static void dump_xml(const struct state *s, FILE *out)
{
	enum state_kind kind;
	struct range range;
	struct known known;
	char uuid[33];

	format_uuid(s, uuid);
	fprintf(out, "<superblock uuid=\"%s\" flags=\"%u\" version=\"%u\" ",
		uuid, s->sb.flags, s->sb.version);
	fprintf(out, "region_size=\"%ju\" target_size=\"%ju\" nr_regions=\"%ju\"%s>\n",
		s->sb.region_size, s->sb.target_size, s->nr_regions,
		s->sb.dest_zeroed ? " dest_zeroed=\"true\"" : "");

	known_begin(s, &known);
	while (known_next(s, &known, &range, &kind))
		fprintf(out, "  <%s begin=\"%ju\" length=\"%ju\"/>\n", kinds[kind],
			range.first, range.nr);
	fputs("</superblock>\n", out);
}

static void dump_human_readable(const struct state *s, FILE *out)
{
	enum state_kind kind;
	struct range range;
	struct known known;

	fprintf(out, "%ju regions of %ju sectors, %ju sectors in all",
		s->nr_regions, s->sb.region_size, s->sb.target_size);
	if (s->sb.dest_zeroed)
		fputs("; elsewhere the destination is zeroed", out);
	fputc('\n', out);

	known_begin(s, &known);
	while (known_next(s, &known, &range, &kind))
		fprintf(out, "%s: regions %ju to %ju\n", kinds[kind], range.first,
			range.first + range.nr - 1);
}

/*
 *---------------------------------------------------------------
 * JSON
 *---------------------------------------------------------------
 */

static void add_number(struct json_object *o, const char *key, uint64_t number)
{
	json_object_object_add(o, key, json_object_new_uint64(number));
}

static struct json_object *json_of_range(struct range range)
{
	struct json_object *pair = json_object_new_array_ext(2);

	json_object_array_add(pair, json_object_new_uint64(range.first));
	json_object_array_add(pair, json_object_new_uint64(range.nr));
	return pair;
}

static struct json_object *json_of_sizes(const struct state *s)
{
	struct json_object *o = json_object_new_object();
	char uuid[33];

	format_uuid(s, uuid);
	json_object_object_add(o, "uuid", json_object_new_string(uuid));
	add_number(o, "flags", s->sb.flags);
	add_number(o, "version", s->sb.version);
	add_number(o, "region_size", s->sb.region_size);
	add_number(o, "target_size", s->sb.target_size);
	add_number(o, "nr_regions", s->nr_regions);
	json_object_object_add(o, "dest_zeroed",
			       json_object_new_boolean(s->sb.dest_zeroed));
	return o;
}

/* An array of ranges may be longer than there is memory: one at a time. */
static void dump_json_ranges(const struct state *s, enum state_kind kind, FILE *out)
{
	struct range range = { 0, 0 };
	const char *comma = "";

	fprintf(out, ",\n\"%s\":[", kinds[kind]);
	while (state_next(s, kind, &range)) {
		struct json_object *pair = json_of_range(range);

		fprintf(out, "%s\n%s", comma,
			json_object_to_json_string_ext(pair, JSON_C_TO_STRING_PLAIN));
		json_object_put(pair);
		comma = ",";
	}
	fputc(']', out);
}

static void dump_json(const struct state *s, FILE *out)
{
	struct json_object *o = json_of_sizes(s);
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);

	/* All but the closing brace. */
	fprintf(out, "%.*s", (int)strlen(text) - 1, text);
	dump_json_ranges(s, HYDRATED, out);
	dump_json_ranges(s, LOST, out);
	fputs("}\n", out);
	json_object_put(o);
}

/*
 *---------------------------------------------------------------
 * Answers
 *---------------------------------------------------------------
 */

struct largest {
	unsigned int nr;
	struct range ranges[NR_LARGEST];	/* descending */
};

static void find_largest(const struct state *s, struct largest *l)
{
	struct range range = { 0, 0 };

	l->nr = 0;
	while (state_next(s, MISSING, &range)) {
		unsigned int i = l->nr;

		while (i && l->ranges[i - 1].nr < range.nr)
			i--;
		if (i == NR_LARGEST)
			continue;
		if (l->nr < NR_LARGEST)
			l->nr++;
		memmove(l->ranges + i + 1, l->ranges + i,
			(l->nr - 1 - i) * sizeof(range));
		l->ranges[i] = range;
	}
}

static void summary_json(const struct state *s, FILE *out)
{
	struct json_object *o = json_of_sizes(s);
	struct json_object *list = json_object_new_array();
	struct largest largest;

	add_number(o, "nr_hydrated", state_count(s, HYDRATED));
	add_number(o, "nr_missing", state_count(s, MISSING));
	add_number(o, "nr_lost", state_count(s, LOST));
	find_largest(s, &largest);
	for (unsigned int i = 0; i < largest.nr; i++)
		json_object_array_add(list,
				      json_of_range(range_in_sectors(&s->sb, &largest.ranges[i])));
	json_object_object_add(o, "largest_missing_sectors", list);

	fprintf(out, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static void summary(const struct state *s, FILE *out)
{
	uint64_t nr_hydrated = state_count(s, HYDRATED), nr_lost = state_count(s, LOST);
	struct largest largest;

	fprintf(out, "region size:  %ju sectors\n", s->sb.region_size);
	fprintf(out, "clone size:   %ju sectors\n", s->sb.target_size);
	fprintf(out, "regions:      %ju\n", s->nr_regions);
	fprintf(out, "hydrated:     %ju, %.1f %%\n", nr_hydrated,
		100.0 * nr_hydrated / s->nr_regions);
	fprintf(out, "missing:      %ju\n", state_count(s, MISSING));
	if (nr_lost)
		fprintf(out, "lost:         %ju\n", nr_lost);
	if (s->sb.dest_zeroed)
		fputs("destination:  zeroed where regions are missing\n", out);

	find_largest(s, &largest);
	if (largest.nr)
		fputs("largest missing ranges, in sectors:\n", out);
	for (unsigned int i = 0; i < largest.nr; i++) {
		struct range sectors = range_in_sectors(&s->sb, &largest.ranges[i]);

		fprintf(out, "  %ju at %ju\n", sectors.nr, sectors.first);
	}
}

static void list_missing(const struct state *s, FILE *out)
{
	state_list(s, MISSING, out);
}

/*
 *---------------------------------------------------------------
 * The tool
 *---------------------------------------------------------------
 */

typedef void (*dump_fn)(const struct state *s, FILE *out);

static dump_fn choose(const char *format, bool with_summary, bool missing)
{
	if (missing)
		return list_missing;
	if (!strcmp(format, "json"))
		return with_summary ? summary_json : dump_json;
	if (with_summary)
		return summary;
	if (!strcmp(format, "human_readable"))
		return dump_human_readable;
	if (!strcmp(format, "xml"))
		return dump_xml;

	return NULL;
}

static int write_dump(const struct state *s, dump_fn dump, const char *path)
{
	FILE *out = path ? fopen(path, "w") : stdout;
	int r = 0;

	if (!out) {
		say("%s: %s", path, strerror(errno));
		return 1;
	}

	dump(s, out);
	if (fflush(out) || ferror(out))
		r = 1;
	if (path && fclose(out))
		r = 1;
	if (r)
		say("cannot write %s: %s", path ? path : "the output", strerror(errno));
	return r;
}

static int dump(const char *path, dump_fn fn, const char *output, bool repair)
{
	struct findings findings;
	struct state state;
	int status = 1;
	int r = load_state(&state, path, repair ? LOAD_SALVAGE : LOAD_REGIONS, &findings);

	say_findings(path, &findings);
	if (!r || (repair && state.hydrated))
		status = write_dump(&state, fn, output);
	else if (state.hydrated)
		say("the metadata is damaged: see --repair");
	if (r && state.lost)
		status = 1;

	state_end(&state);
	return status;
}

static int run(int argc, char **argv)
{
	const char *format = "xml", *output = NULL;
	bool with_summary = false, missing = false, repair = false;
	dump_fn fn;
	int c;

	while ((c = getopt_long(argc, argv, "f:ro:" COMMON_LETTERS, options,
				NULL)) != -1) {
		switch (c) {
		case 'f':
			format = optarg;
			break;
		case 'S':
			with_summary = true;
			break;
		case 'M':
			missing = true;
			break;
		case 'r':
			repair = true;
			break;
		case 'o':
			output = optarg;
			break;
		default:
			if (!common_option(c))
				return wrong_usage(NULL);
		}
	}
	if (argc - optind != 1)
		return wrong_usage("name one device or file");
	fn = choose(format, with_summary, missing);
	if (!fn)
		return wrong_usage("the format is xml, human_readable or json");
	if (output && is_same_file(argv[optind], output))
		return wrong_usage("the metadata is never written: name another output");

	return dump(argv[optind], fn, output, repair);
}

const struct tool clone_dump = { "clone_dump", usage, run };
