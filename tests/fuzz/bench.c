// SPDX-License-Identifier: GPL-2.0-only
/*
 * The devices that images are tried on, see bench.h.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "dm.h"

#define CONFIGFS	"/sys/kernel/config"
#define NULLB		CONFIGFS "/nullb"
#define REGION		8

/* This many regions have their bits in one block. */
#define PER_ARRAY	(WORDS_PER_ARRAY * 64ull)

/* This many blocks of the array fit in a leaf that is the root. */
#define PER_LEAF	252

struct base bases[] = {
	{ .name = "small", .region_size = REGION, .target_size = 199 * REGION + 5,
	  .meta_blocks = 40 },
	/* As many regions as fit a word; the last one is a sector. */
	{ .name = "64k", .region_size = 128, .target_size = 63 * 128 + 1, .meta_blocks = 40 },
	/* A second bitmap in the space map. */
	{ .name = "roomy", .region_size = REGION, .target_size = 70 * REGION,
	  .meta_blocks = COUNTS_PER_BITMAP + 80 },
	{ .name = "wide", .region_size = REGION,
	  .target_size = (2 * PER_ARRAY + 1000) * REGION + 3, .meta_blocks = 40 },
	{ .name = "deep", .region_size = REGION,
	  .target_size = ((PER_LEAF + 2) * PER_ARRAY + 77) * REGION + 1, .meta_blocks = 560 },
};

const unsigned int nr_bases = ARRAY_SIZE(bases);

static void __attribute__((noreturn, format(printf, 1, 2)))
give_up(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "hostile: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(2);
}

static void must(int r, const char *what)
{
	if (r < 0)
		give_up("%s: %s", what, strerror(-r));
}

/*
 * Modules
 */

static void load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		give_up("%s cannot be loaded: %s", path, strerror(errno));
	close(fd);
}

static void unload_clone(void)
{
	if (!access("/sys/module/dm_clone", F_OK) &&
	    syscall(SYS_delete_module, "dm_clone", O_NONBLOCK))
		give_up("dm_clone cannot be unloaded: %s", strerror(errno));
}

static void load_what_is_needed(const char *module)
{
	if (system("modprobe -a configfs dm_mod dm_persistent_data") ||
	    system("modprobe null_blk nr_devices=0"))
		give_up("modprobe failed");
	if (access(NULLB, F_OK) && mount("configfs", CONFIGFS, "configfs", 0, NULL))
		give_up("configfs cannot be mounted: %s", strerror(errno));
	if (strcmp(module, "loaded")) {
		unload_clone();
		load_module(module);
	}
}

/*
 * Disks
 */

static void put_attribute(const char *disk, const char *key, unsigned long value)
{
	char path[128], text[24];
	int fd;

	snprintf(path, sizeof(path), NULLB "/%s/%s", disk, key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	snprintf(text, sizeof(text), "%lu\n", value);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		give_up("%s: %s", path, strerror(errno));
	close(fd);
}

/* The node of a null_blk: older kernels number them. */
static void null_blk_node(const char *disk, char *node, size_t size)
{
	char path[128];
	int index = -1;
	FILE *f;

	snprintf(node, size, "/dev/%s", disk);
	if (!access(node, F_OK))
		return;
	snprintf(path, sizeof(path), NULLB "/%s/index", disk);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%d", &index) != 1)
		give_up("%s has no index", disk);
	fclose(f);
	snprintf(node, size, "/dev/nullb%d", index);
}

static void make_disk(const char *disk, unsigned int mib)
{
	char path[128];

	snprintf(path, sizeof(path), NULLB "/%s", disk);
	if (mkdir(path, 0755))
		give_up("%s: %s", path, strerror(errno));
	put_attribute(disk, "memory_backed", 1);
	put_attribute(disk, "discard", 1);
	put_attribute(disk, "blocksize", 512);
	put_attribute(disk, "queue_mode", 0);
	put_attribute(disk, "size", mib);
	put_attribute(disk, "power", 1);
}

static void remove_disk(const char *disk)
{
	char path[128];

	snprintf(path, sizeof(path), NULLB "/%s", disk);
	rmdir(path);
}

/* A mapped device over a disk, with nothing in it yet. */
static void make_mapped(const char *name, char *number, size_t size)
{
	unsigned int major, minor;

	must(dm_create(name, &major, &minor), name);
	snprintf(number, size, "%u:%u", major, minor);
}

static int open_mapped(const char *number)
{
	char node[64];
	int fd;

	snprintf(node, sizeof(node), "/dev/dm-%s", strchr(number, ':') + 1);
	fd = open(node, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		give_up("%s: %s", node, strerror(errno));
	return fd;
}

static void swap_table(const char *name, const struct dm_piece *pieces, unsigned int nr)
{
	must(dm_load(name, pieces, nr), name);
	must(dm_suspend(name), name);
	must(dm_resume(name), name);
}

/* Linear in the windows, zero elsewhere. */
static void set_up_data(const char *name, const char *disk, const struct base *base)
{
	char params[MAX_WINDOWS][64], node[32];
	struct dm_piece pieces[2 * MAX_WINDOWS + 1];
	uint64_t at = 0, used = 0;
	unsigned int nr = 0;

	null_blk_node(disk, node, sizeof(node));
	for (unsigned int i = 0; i < base->nr_windows; i++) {
		const struct window *w = &base->windows[i];

		if (w->first > at)
			pieces[nr++] = (struct dm_piece) { at, w->first - at, "zero", "" };
		snprintf(params[i], sizeof(params[i]), "%s %llu", node, (unsigned long long)used);
		pieces[nr++] = (struct dm_piece) { w->first, w->sectors, "linear", params[i] };
		used += w->sectors;
		at = w->first + w->sectors;
	}
	swap_table(name, pieces, nr);
}

static void stamp_windows(int fd, const struct base *base, uint32_t stamp)
{
	for (unsigned int i = 0; i < base->nr_windows; i++)
		must(stamp_write_device(fd, base->windows[i].first, base->windows[i].sectors,
					stamp, 0), "stamping");
}

static void set_up_meta(struct bench *b, uint32_t nr_blocks)
{
	char params[64], node[32];
	struct dm_piece piece = { 0, nr_blocks * SECTORS_PER_BLOCK, "linear", params };

	null_blk_node("t-fuzz-disk-meta", node, sizeof(node));
	snprintf(params, sizeof(params), "%s 0", node);
	swap_table("t-fuzz-meta", &piece, 1);
	b->meta_blocks = nr_blocks;
}

void bench_use(struct bench *b, const struct base *base, uint32_t meta_blocks)
{
	if (b->base != base) {
		set_up_data("t-fuzz-dest", "t-fuzz-disk-dest", base);
		set_up_data("t-fuzz-source", "t-fuzz-disk-source", base);
		b->base = base;
		stamp_windows(b->source_fd, base, STAMP_SOURCE);
		bench_reset_dest(b);
	}
	if (b->meta_blocks != meta_blocks)
		set_up_meta(b, meta_blocks);
}

void bench_reset_dest(struct bench *b)
{
	stamp_windows(b->dest_fd, b->base, STAMP_FORMER);
}

static void add_window(struct base *base, uint64_t first, uint64_t sectors)
{
	base->windows[base->nr_windows++] = (struct window) { first, sectors };
	base->window_sectors += sectors;
}

static void choose_windows(struct base *base)
{
	uint64_t array = PER_ARRAY * base->region_size, margin = 64 * base->region_size;
	uint64_t size = base->target_size;

	if (size < 1 << 16) {
		add_window(base, 0, size);
		return;
	}
	add_window(base, 0, margin);
	add_window(base, array - margin, 2 * margin);
	add_window(base, 2 * array - margin, 2 * margin);
	if (size > PER_LEAF * array) {
		add_window(base, PER_LEAF / 2 * array - margin, 2 * margin);
		add_window(base, PER_LEAF * array - margin, 2 * margin);
	}
	/* From a region's start to the end, which is none. */
	add_window(base, (size / base->region_size - 64) * base->region_size,
		   size - (size / base->region_size - 64) * base->region_size);
}

/*
 * Images
 */

#define DIRECT_SIZE 1048576u

static void transfer(int fd, uint8_t *data, size_t size, bool write)
{
	static uint8_t *buf;

	if (!buf && posix_memalign((void **)&buf, BLOCK, DIRECT_SIZE))
		give_up("out of memory");
	for (size_t at = 0; at < size; at += DIRECT_SIZE) {
		size_t n = min_u64(size - at, DIRECT_SIZE);
		ssize_t done;

		if (write) {
			memcpy(buf, data + at, n);
			done = pwrite(fd, buf, n, at);
		} else {
			done = pread(fd, buf, n, at);
			memcpy(data + at, buf, n);
		}
		if (done != (ssize_t)n)
			give_up("the metadata device: %s", strerror(errno));
	}
}

void bench_put_image(struct bench *b, const struct image *image, uint32_t nr_blocks)
{
	bench_use(b, b->base, nr_blocks);
	transfer(b->meta_fd, image->data, hot_size(nr_blocks), true);
}

void bench_get_image(struct bench *b, struct image *image)
{
	image->nr_blocks = b->meta_blocks;
	transfer(b->meta_fd, image->data, hot_size(image->nr_blocks), false);
}

void bench_get_whole_image(struct bench *b, struct image *image)
{
	image->nr_blocks = b->meta_blocks;
	transfer(b->meta_fd, image->data, (size_t)image->nr_blocks * BLOCK, false);
}

void bench_reset_meta(struct bench *b)
{
	uint64_t hot = hot_size(b->meta_blocks), size = (uint64_t)b->meta_blocks * BLOCK;
	uint64_t range[2] = { hot, size - hot };

	if (size > hot && ioctl(b->meta_fd, BLKDISCARD, range))
		give_up("discard of metadata: %s", strerror(errno));
}

int bench_fail_meta(struct bench *b, bool fail)
{
	const struct dm_piece piece = {
		0, (uint64_t)b->meta_blocks * SECTORS_PER_BLOCK, "error", ""
	};

	if (!fail) {
		set_up_meta(b, b->meta_blocks);
		return 0;
	}
	return dm_load("t-fuzz-meta", &piece, 1) ?: dm_suspend("t-fuzz-meta") ?:
	       dm_resume("t-fuzz-meta");
}

/*
 * The clone
 */

int bench_load(struct bench *b, const char *args)
{
	char params[256];
	struct dm_piece piece = { 0, b->base->target_size, "clone", params };

	snprintf(params, sizeof(params), "%s %s %s %llu %s", b->meta, b->dest, b->source,
		 (unsigned long long)b->base->region_size, args);
	return dm_load(CLONE, &piece, 1);
}

int bench_resume(struct bench *b)
{
	int r = dm_suspend(CLONE);

	b->live = true;
	return r ?: dm_resume(CLONE);
}

int bench_clear(struct bench *b)
{
	(void)b;
	return dm_clear(CLONE);
}

int bench_fd(struct bench *b)
{
	if (b->clone_fd < 0)
		b->clone_fd = open(b->node, O_RDWR | O_DIRECT | O_CLOEXEC);
	return b->clone_fd;
}

static void make_clone_device(struct bench *b)
{
	unsigned int major, minor;

	must(dm_create(CLONE, &major, &minor), CLONE);
	snprintf(b->node, sizeof(b->node), "/dev/dm-%u", minor);
}

int bench_drop(struct bench *b, bool remove)
{
	const struct dm_piece idle = { 0, b->base->target_size, "error", "" };
	int r;

	if (b->clone_fd >= 0)
		close(b->clone_fd);
	b->clone_fd = -1;
	b->live = false;

	if (remove) {
		r = dm_remove(CLONE);
		if (!r)
			make_clone_device(b);
		return r;
	}
	return dm_load(CLONE, &idle, 1) ?: dm_suspend(CLONE) ?: dm_resume(CLONE);
}

/*
 * The stages of a clone's life
 */

static void keep_stage(struct bench *b, struct base *base, const char *by, const char *name)
{
	struct stage *stage = &base->stages[base->nr_stages++];

	snprintf(stage->name, sizeof(stage->name), "%s%s", by, name);
	stage->image.data = must_alloc((size_t)base->meta_blocks * BLOCK);
	bench_get_image(b, &stage->image);
	stage->survey = image_survey(&stage->image, base->target_size, base->region_size);
	if (stage->survey->verdict != IMAGE_GOOD)
		give_up("the image %s of %s, %s made by the module, is %s: %s", stage->name,
			base->name, by, verdict_name(stage->survey->verdict), stage->survey->why);
	for (unsigned int i = 0; i < stage->image.nr_blocks; i++)
		if (stage->survey->kind[i] != KIND_FREE)
			stage->nr_blocks = min_u64(i + 8, stage->image.nr_blocks);
}

static void activate(struct bench *b, const char *args)
{
	must(bench_load(b, args), "a table for fresh metadata");
	must(bench_resume(b), "resume");
	if (bench_fd(b) < 0)
		give_up("%s: %s", b->node, strerror(errno));
}

/* Some regions in each window, nothing outside of them. */
static void hydrate_some(struct bench *b, const struct base *base, unsigned int from)
{
	uint64_t region = base->region_size;

	for (unsigned int i = 0; i < base->nr_windows; i++) {
		const struct window *w = &base->windows[i];

		for (uint64_t at = w->first + from * region;
		     at + 5 * region < w->first + w->sectors; at += 11 * region)
			must(stamp_write_device(bench_fd(b), at, 3 * region, STAMP_FORMER, 0),
			     "a write to the clone");
	}
	fsync(bench_fd(b));
}

static bool in_window(const struct base *base, uint64_t region)
{
	for (unsigned int i = 0; i < base->nr_windows; i++) {
		const struct window *w = &base->windows[i];

		if (region >= w->first / base->region_size &&
		    region < (w->first + w->sectors) / base->region_size + 1)
			return true;
	}
	return false;
}

/*
 * Everything between the windows, in the image, where it takes a moment. The
 * module would do as much work as for a clone of that size.
 */
static void hydrate_holes(struct bench *b, const struct base *base)
{
	const struct stage *last = &base->stages[base->nr_stages - 1];
	struct image image = last->image;

	image.data = must_alloc((size_t)image.nr_blocks * BLOCK);
	memcpy(image.data, last->image.data, hot_size(image.nr_blocks));
	for (uint32_t i = 0; i < image.nr_blocks; i++) {
		uint8_t *block = image_block(&image, i);

		if (last->survey->kind[i] != KIND_ARRAY)
			continue;
		for (uint32_t w = 0; w < get_field(block, ARRAY_NR); w++) {
			uint64_t region = (last->survey->first_word[i] + w) * 64ull;

			if (!in_window(base, region) && !in_window(base, region + 63))
				put_le(block + ARRAY_WORDS + 8 * w, 8, ~0ull);
		}
		image_seal(&image, i, KIND_ARRAY);
	}
	bench_put_image(b, &image, image.nr_blocks);
	free(image.data);
}

static void wait_for_the_end(void)
{
	char status[512], *slash;
	unsigned long done, all;

	for (unsigned int i = 0; i < 60000; i++) {
		must(dm_status(CLONE, status, sizeof(status)), "status");
		slash = strchr(strchr(status, '/') + 1, '/');
		all = strtoul(slash + 1, NULL, 10);
		while (slash > status && slash[-1] != ' ')
			slash--;
		done = strtoul(slash, NULL, 10);
		if (done == all)
			return;
		usleep(1000);
	}
	give_up("hydration does not end: %s", status);
}

static void make_stages(struct bench *b, struct base *base, const char *by)
{
	struct image empty = { .data = must_alloc((size_t)base->meta_blocks * BLOCK),
			       .nr_blocks = base->meta_blocks };

	bench_use(b, base, base->meta_blocks);
	bench_put_image(b, &empty, base->meta_blocks);
	free(empty.data);

	activate(b, "1 no_hydration");
	keep_stage(b, base, by, "fresh");
	hydrate_some(b, base, 0);
	must(bench_drop(b, true), "remove");
	keep_stage(b, base, by, "partly");

	if (base->nr_windows > 1) {
		hydrate_holes(b, base);
		activate(b, "1 no_hydration");
		hydrate_some(b, base, 2);
		must(bench_drop(b, true), "remove");
		keep_stage(b, base, by, "mostly");
		activate(b, "");
	} else {
		activate(b, "1 no_hydration");
		must(dm_message(CLONE, 0, "enable_hydration", 17), "message");
	}
	wait_for_the_end();
	must(bench_drop(b, true), "remove");
	keep_stage(b, base, by, "done");
	bench_reset_dest(b);
}

void bench_make_stages(struct bench *b, const char *by)
{
	for (unsigned int i = 0; i < nr_bases; i++)
		make_stages(b, &bases[i], by);
}

/*
 * Setting up and taking down
 */

void bench_swap_module(struct bench *b, const char *module)
{
	(void)b;
	dm_remove(CLONE);
	unload_clone();
	load_module(module);
	make_clone_device(b);
}

void bench_open(struct bench *b, const char *module)
{
	static const struct dm_piece nothing = { 0, 8, "zero", "" };

	memset(b, 0, sizeof(*b));
	b->clone_fd = -1;
	for (unsigned int i = 0; i < nr_bases; i++)
		choose_windows(&bases[i]);
	load_what_is_needed(module);
	must(dm_open_control(), "/dev/mapper/control");
	make_disk("t-fuzz-disk-meta", 80);
	make_disk("t-fuzz-disk-dest", 16);
	make_disk("t-fuzz-disk-source", 16);
	make_mapped("t-fuzz-meta", b->meta, sizeof(b->meta));
	make_mapped("t-fuzz-dest", b->dest, sizeof(b->dest));
	make_mapped("t-fuzz-source", b->source, sizeof(b->source));
	make_clone_device(b);
	swap_table("t-fuzz-meta", &nothing, 1);
	swap_table("t-fuzz-dest", &nothing, 1);
	swap_table("t-fuzz-source", &nothing, 1);
	b->meta_fd = open_mapped(b->meta);
	b->dest_fd = open_mapped(b->dest);
	b->source_fd = open_mapped(b->source);
}

void bench_close(struct bench *b)
{
	if (b->clone_fd >= 0)
		close(b->clone_fd);
	close(b->meta_fd);
	close(b->dest_fd);
	close(b->source_fd);
	dm_remove(CLONE);
	dm_remove("t-fuzz-meta");
	dm_remove("t-fuzz-dest");
	dm_remove("t-fuzz-source");
	remove_disk("t-fuzz-disk-meta");
	remove_disk("t-fuzz-disk-dest");
	remove_disk("t-fuzz-disk-source");
}
