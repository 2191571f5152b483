/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What the tools have in common: options, messages, and opening metadata.
 */
#ifndef TOOL_H
#define TOOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "clone-metadata.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

struct tool {
	const char *name;
	const char *usage;
	int (*run)(int argc, char **argv);	/* the exit status */
};

extern const struct tool clone_check;
extern const struct tool clone_copy;
extern const struct tool clone_dump;
extern const struct tool clone_metadata_size;
extern const struct tool clone_repair;
extern const struct tool clone_restore;

/* The tool that runs. */
extern const struct tool *tool;

/* -q: nothing is said, the exit status tells. */
extern bool quiet;

/* The options that all tools have; to be put into their tables. */
#define OPTION_HELP	{ "help", no_argument, NULL, 'h' }
#define OPTION_VERSION	{ "version", no_argument, NULL, 'V' }
#define OPTION_QUIET	{ "quiet", no_argument, NULL, 'q' }
#define COMMON_LETTERS	"hVq"

/* Returns false if it is not one of them: a mistake. */
bool common_option(int option);

/* Say what is wrong with the command line, unless that was said; returns 1. */
int wrong_usage(const char *text);

/*
 * On the standard error output, after the name of the tool.  Nothing if quiet.
 */
__attribute__((format(printf, 1, 2)))
void say(const char *format, ...);

/* A decimal number and nothing else. */
bool parse_number(const char *text, uint64_t *number);

/*
 * A size with a unit: b for bytes, s or none for sectors, k, m, g, t, p, e for
 * powers of 1024, capital letters for powers of 1000.  False if it is none, or
 * no multiple of a sector.
 */
bool parse_size(const char *text, uint64_t *sectors);

/* The bytes of such a unit; 0 if it is none. */
uint64_t unit_size(char unit);

/* What regions become of which the state is lost: the value of --lost. */
enum { LOST_UNDECIDED, LOST_HYDRATED, LOST_UNHYDRATED };
bool parse_lost(const char *text, int *lost);

/* Say why a device or file could not be opened. */
void say_not_opened(const char *path, int error);

/* Open it, and say so if that fails. */
int open_metadata(struct clone_md_device *dev, const char *path,
		  enum clone_md_open_mode mode);

/*
 * What a device or file holds, if it is known; NULL if not.  An article and a
 * noun, static storage.
 */
const char *what_it_holds(const char *path);

/* Do the names lead to the same file or device? */
bool is_same_file(const char *a, const char *b);

#endif /* TOOL_H */
