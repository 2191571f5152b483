// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * A plugin for QEMU: counts how often each block of instructions runs in the
 * machine, from when it finds a file "begin" in the folder dir= until it finds
 * "end". Each is removed when that's done. With "end" there's a file "counts"
 * then, a line a block: address (hex), instructions in it, times.
 *
 * Blocks are told apart by address and length.
 */

#define _DEFAULT_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qemu-plugin.h"

#define LOOK_EVERY_US	2000
#define NR_BLOCKS	0x400000u	/* a power of two, much more than there are */

int qemu_plugin_version = 1;

static struct block {
	uint64_t address;
	uint64_t instructions;
	uint64_t times;
} blocks[NR_BLOCKS];

static const char *folder;

/* The counter of a block, which is found again when it is translated again. */
static struct block *find_block(uint64_t address, uint64_t instructions)
{
	uint64_t i = (address * 0x9e3779b97f4a7c15u ^ instructions * 0x85ebca6bu) >> 42;

	while (blocks[i].instructions &&
	       (blocks[i].address != address || blocks[i].instructions != instructions))
		i = (i + 1) % NR_BLOCKS;

	blocks[i].address = address;
	blocks[i].instructions = instructions;
	return &blocks[i];
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	struct block *b = find_block(qemu_plugin_tb_vaddr(tb), qemu_plugin_tb_n_insns(tb));

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &b->times, 1);
}

static void path_of(char *path, const char *name)
{
	snprintf(path, PATH_MAX, "%s/%s", folder, name);
}

static void begin(void)
{
	for (unsigned int i = 0; i < NR_BLOCKS; i++)
		blocks[i].times = 0;
}

static void end(void)
{
	char path[PATH_MAX];
	FILE *file;

	path_of(path, "counts");
	file = fopen(path, "w");
	if (!file) {
		fprintf(stderr, "profile: %s: %s\n", path, strerror(errno));
		return;
	}

	for (unsigned int i = 0; i < NR_BLOCKS; i++)
		if (blocks[i].times)
			fprintf(file, "%llx %llu %llu\n",
				(unsigned long long)blocks[i].address,
				(unsigned long long)blocks[i].instructions,
				(unsigned long long)blocks[i].times);
	fclose(file);
}

static void look_for(const char *name, void (*what)(void))
{
	char path[PATH_MAX];

	path_of(path, name);
	if (access(path, F_OK))
		return;
	what();
	unlink(path);
}

static void *watch(void *unused)
{
	(void)unused;
	for (;;) {
		usleep(LOOK_EVERY_US);
		look_for("begin", begin);
		look_for("end", end);
	}
	return NULL;
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	pthread_t thread;

	(void)info;
	if (argc != 1 || strncmp(argv[0], "dir=", 4)) {
		fprintf(stderr, "profile: usage: -plugin FILE,dir=FOLDER\n");
		return -1;
	}

	folder = strdup(argv[0] + 4);
	if (!folder || pthread_create(&thread, NULL, watch, NULL))
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);

	return 0;
}
