// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * clone_tools: one program, which goes by the names of its tools.
 */

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

static const struct tool * const tools[] = {
	&clone_check,
	&clone_copy,
	&clone_dump,
	&clone_metadata_size,
	&clone_repair,
	&clone_restore,
};

static const struct tool *find_tool(const char *name)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tools); i++)
		if (!strcmp(tools[i]->name, name))
			return tools[i];

	return NULL;
}

static int list_tools(FILE *out)
{
	fputs("Usage: clone_tools TOOL [OPTION...]\n\nTools:\n", out);
	for (unsigned int i = 0; i < ARRAY_SIZE(tools); i++)
		fprintf(out, "  %s\n", tools[i]->name);
	fputs("\nEach has a manual page, and --help.\n", out);

	return out == stdout ? 0 : 1;
}

int main(int argc, char **argv)
{
	int status;

	tool = argc ? find_tool(basename(argv[0])) : NULL;
	if (!tool && argc > 1) {
		if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
			return list_tools(stdout);
		tool = find_tool(argv[1]);
		argc--;
		argv++;
	}
	if (!tool)
		return list_tools(stderr);

	status = tool->run(argc, argv);
	errno = 0;
	if ((fflush(stdout) || ferror(stdout)) && !status) {
		say("cannot write the output: %s", strerror(errno ? errno : EIO));
		status = 1;
	}
	return status;
}
