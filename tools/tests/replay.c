// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * replay FILE...: what libFuzzer has found once, without libFuzzer.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define MAX_SIZE	65536u

/* In memory of exactly its size, so that each access beyond it is noticed. */
static void replay(const char *path)
{
	static uint8_t content[MAX_SIZE];
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	size_t size;

	if (!file) {
		perror(path);
		exit(1);
	}
	size = fread(content, 1, sizeof(content), file);
	fclose(file);

	data = malloc(size);
	if (size && !data)
		abort();
	if (size)
		memcpy(data, content, size);
	fuzz(data, size);
	free(data);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		replay(argv[i]);

	return 0;
}
