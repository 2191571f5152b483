// SPDX-License-Identifier: GPL-2.0-only
/* Has the reader of the tools check an image of metadata. */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "clone-metadata.h"
#include "mdcheck.h"

struct checking {
	const uint8_t *image;
	char *report;
	size_t size, used;
};

static int read_block(void *context, uint64_t block, void *buf)
{
	const struct checking *c = context;

	memcpy(buf, c->image + block * CLONE_MD_BLOCK_SIZE, CLONE_MD_BLOCK_SIZE);
	return 0;
}

static void add(struct checking *c, uint64_t block, const char *text)
{
	int n = snprintf(c->report + c->used, c->size - c->used, "block %llu: %s\n",
			 (unsigned long long)block, text);

	c->used += n;
	if (c->used >= c->size)
		c->used = c->size - 1;
}

static void add_problem(void *context, enum clone_md_problem kind, uint64_t block,
			const char *text)
{
	(void)kind;
	add(context, block, text);
}

static int check(struct checking *c, const struct clone_md_image *md)
{
	const struct clone_md_visitor visitor = { .problem = add_problem, .context = c };
	struct clone_md_superblock sb;
	const char *text;
	int r = clone_md_read_superblock(md, &sb, &text);

	if (!r) {
		text = "impossible sizes";
		r = clone_md_check(md, &sb, &visitor, NULL);
	}
	if (r && !c->used)
		add(c, 0, text);
	return r;
}

int metadata_check(const void *image, uint64_t nr_blocks, char *report, size_t size)
{
	struct checking c = { .image = image, .report = report, .size = size };
	const struct clone_md_image md = {
		.read = read_block, .context = &c, .nr_blocks = nr_blocks,
	};

	report[0] = '\0';
	return check(&c, &md);
}

int metadata_check_device(const char *path, char *report, size_t size)
{
	struct checking c = { .report = report, .size = size };
	struct clone_md_device dev;
	int r;

	report[0] = '\0';
	r = clone_md_open_device(&dev, path, CLONE_MD_OPEN_READ);
	if (r) {
		add(&c, 0, "the device cannot be opened");
		return r;
	}
	if (!dev.in_use)
		r = check(&c, &dev.image);
	clone_md_close_device(&dev);

	return r == -ENODATA ? 0 : r;
}
