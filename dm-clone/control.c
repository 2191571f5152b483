// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * What users say, and what they are told: table line, status, messages, and
 * statistics.
 */

#define DM_MSG_PREFIX "clone"

#include <linux/bitops.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/kstrtox.h>
#include <linux/log2.h>
#include <linux/percpu.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "clone.h"

/* The metadata counts regions in 32 bits. */
#define MAX_REGIONS BIT(31)

#define MIN_REGION_SIZE (1 << (12 - SECTOR_SHIFT))
#define MAX_REGION_SIZE (1 << (30 - SECTOR_SHIFT))

/* From sectors to KiB. */
#define KIB_SHIFT (10 - SECTOR_SHIFT)

/* The arguments that every table has. */
#define NR_FIXED_ARGS 4

static const char * const features[NR_FEATURES] = {
	[NO_HYDRATION] = "no_hydration",
	[NO_DISCARD_PASSDOWN] = "no_discard_passdown",
	[HYDRATE_ON_READ] = "hydrate_on_read",
	[ZEROED_DESTINATION] = "zeroed_destination",
};

/*
 *---------------------------------------------------------------
 * The table line
 *---------------------------------------------------------------
 */

/*
 * All numbers of tables and messages come through here.  (Device-mapper's own
 * parsers let numbers wrap around.)
 */
static int parse_number(const char *arg, unsigned int min, unsigned int max,
			unsigned int *nr)
{
	if (!arg || kstrtouint(arg, 10, nr) || *nr < min || *nr > max)
		return -EINVAL;

	return 0;
}

static int parse_device(struct clone *clone, struct dm_arg_set *as,
			typeof(DM_CLONE_READ) mode, struct dm_dev **dev,
			char *error)
{
	int r = dm_get_device(clone->ti, dm_shift_arg(as), mode, dev);

	if (r) {
		*dev = NULL;
		clone->ti->error = error;
	}

	return r;
}

/* The kernel does not stop us from writing to a device that is read-only. */
static int parse_writable_device(struct clone *clone, struct dm_arg_set *as,
				 struct dm_dev **dev, char *error,
				 char *read_only_error)
{
	int r = parse_device(clone, as,
			     DM_CLONE_READ | (clone->read_only ? 0 : DM_CLONE_WRITE),
			     dev, error);

	if (r || clone->read_only || !bdev_read_only((*dev)->bdev))
		return r;

	DMERR("%s: %pg is read-only, but the table is not", clone_name(clone),
	      (*dev)->bdev);
	clone->ti->error = read_only_error;

	return -EROFS;
}

static int parse_metadata_dev(struct clone *clone, struct dm_arg_set *as)
{
	return parse_writable_device(clone, as, &clone->metadata_dev,
				     "Error opening metadata device",
				     "Metadata device is read-only");
}

static int parse_dest_dev(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	int r;

	r = parse_writable_device(clone, as, &clone->dest_dev,
				  "Error opening destination device",
				  "Destination device is read-only");
	if (r)
		return r;

	clone->geo.dest = clone->dest_dev->bdev;
	if (bdev_nr_sectors(clone->geo.dest) < ti->len) {
		ti->error = "Destination device is smaller than the target";
		return -EINVAL;
	}

	if (bdev_is_zoned(clone->geo.dest)) {
		ti->error = "Zoned destination devices are not supported";
		return -EINVAL;
	}

	return 0;
}

/* dm_clone_source_error() judges whether it will do. */
static int parse_source_dev(struct clone *clone, struct dm_arg_set *as)
{
	int r = parse_device(clone, as, DM_CLONE_READ, &clone->source_dev,
			     "Error opening source device");

	if (!r)
		clone->geo.source = clone->source_dev->bdev;

	return r;
}

static char devices_are_the_same[] =
	"Metadata, destination and source must be different devices";
static char wrong_region_size[] =
	"Region size is not a multiple of the devices' logical block size";

/* Nobody names a device twice on purpose. */
static int check_devices_differ(struct clone *clone)
{
	if (clone->metadata_dev->bdev == clone->geo.dest) {
		clone->ti->error = devices_are_the_same;
		return -EINVAL;
	}

	return 0;
}

static bool is_multiple_of_block_size(unsigned int sectors,
				      struct block_device *bdev)
{
	return !(sectors % (bdev_logical_block_size(bdev) >> SECTOR_SHIFT));
}

static int parse_region_size(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int size;

	if (parse_number(dm_shift_arg(as), MIN_REGION_SIZE, MAX_REGION_SIZE, &size) ||
	    !is_power_of_2(size)) {
		ti->error = "Region size is not a power of two between 8 and 2097152";
		return -EINVAL;
	}

	if (!is_multiple_of_block_size(size, clone->geo.dest)) {
		ti->error = wrong_region_size;
		return -EINVAL;
	}

	if (dm_sector_div_up(ti->len, size) > MAX_REGIONS) {
		ti->error = "Too many regions, choose a larger region size";
		return -EINVAL;
	}

	clone->region_size = size;
	clone->geo.size = ti->len;
	clone->geo.region_shift = __ffs(size);
	clone->geo.nr_regions = dm_sector_div_up(ti->len, size);

	return 0;
}

/* For "dmsetup table" to print. */
static int keep_args(struct clone *clone, const struct dm_arg_set *as)
{
	size_t size = 1, sz = 0;
	unsigned int i;

	for (i = 0; i < as->argc; i++)
		size += 1 + strlen(as->argv[i]);

	clone->table_args = kzalloc(size, GFP_KERNEL);
	if (!clone->table_args) {
		clone->ti->error = "Failed to allocate the arguments";
		return -ENOMEM;
	}

	for (i = 0; i < as->argc; i++)
		sz += scnprintf(clone->table_args + sz, size - sz, " %s", as->argv[i]);

	return 0;
}

/* Parse the number of arguments in a group; at least as many must follow. */
static int parse_group(struct dm_arg_set *as, unsigned int *nr, char **error)
{
	const char *arg;

	*nr = 0;
	if (!as->argc)
		return 0;

	arg = dm_shift_arg(as);
	if (parse_number(arg, 0, as->argc, nr)) {
		*error = "Invalid number of feature or core arguments";
		return -EINVAL;
	}

	return 0;
}

/* Returns NR_FEATURES if there is no such feature. */
static enum feature find_feature(const char *name)
{
	unsigned int i;

	for (i = 0; i < NR_FEATURES; i++)
		if (!strcasecmp(name, features[i]))
			break;

	return i;
}

static int parse_features(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int nr;
	int r;

	r = parse_group(as, &nr, &ti->error);
	if (r)
		return r;

	for (; nr; nr--) {
		enum feature feature = find_feature(dm_shift_arg(as));

		if (feature == NR_FEATURES) {
			ti->error = "Unknown feature argument";
			return -EINVAL;
		}
		__set_bit(feature, &clone->features);
	}

	if (has_feature(clone, HYDRATE_ON_READ) && clone->region_size > DM_CLONE_MAX_READ) {
		ti->error = "Regions are too large for hydrate_on_read";
		return -EINVAL;
	}

	return 0;
}

static const struct {
	const char *name;
	unsigned int min;
	void (*set)(struct dm_clone_hydration *h, unsigned int value);
	char *error;
} core_args[NR_CORE_ARGS] = {
	[HYDRATION_THRESHOLD] = {
		"hydration_threshold", 1, dm_clone_hydration_set_threshold,
		"Invalid hydration_threshold",
	},
	[HYDRATION_BATCH_SIZE] = {
		"hydration_batch_size", 1, dm_clone_hydration_set_batch_size,
		"Invalid hydration_batch_size",
	},
	[HYDRATION_RATE] = {
		"hydration_rate", 0, dm_clone_hydration_set_rate,
		"Invalid hydration_rate",
	},
	[HYDRATION_FLOOR] = {
		"hydration_floor", 0, dm_clone_hydration_set_floor,
		"Invalid hydration_floor",
	},
	[HYDRATION_MAX_ERRORS] = {
		"hydration_max_errors", 0, dm_clone_hydration_set_max_errors,
		"Invalid hydration_max_errors",
	},
};

/* Returns NR_CORE_ARGS if there is no such argument. */
static enum core_arg find_core_arg(const char *name)
{
	unsigned int i;

	for (i = 0; i < NR_CORE_ARGS; i++)
		if (!strcasecmp(name, core_args[i].name))
			break;

	return i;
}

/* Of the table or a message. */
static int parse_core_arg(struct clone *clone, enum core_arg i,
			  const char *value)
{
	unsigned int nr;

	if (parse_number(value, core_args[i].min, UINT_MAX, &nr))
		return -EINVAL;

	WRITE_ONCE(clone->core_args[i], nr);
	set_bit(i, &clone->core_args_given);

	return 0;
}

static void apply_core_arg(struct clone *clone, enum core_arg i)
{
	if (test_bit(i, &clone->core_args_given))
		core_args[i].set(clone->hydration,
				 READ_ONCE(clone->core_args[i]));
}

void dm_clone_apply_core_args(struct clone *clone)
{
	unsigned int i;

	for (i = 0; i < NR_CORE_ARGS; i++)
		apply_core_arg(clone, i);
}

static int parse_core_args(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	unsigned int nr;
	int r;

	r = parse_group(as, &nr, &ti->error);
	if (r)
		return r;

	if (nr % 2) {
		ti->error = "Number of core arguments is not even";
		return -EINVAL;
	}

	for (; nr; nr -= 2) {
		enum core_arg i = find_core_arg(dm_shift_arg(as));

		if (i == NR_CORE_ARGS) {
			ti->error = "Unknown core argument";
			return -EINVAL;
		}

		if (parse_core_arg(clone, i, dm_shift_arg(as))) {
			ti->error = core_args[i].error;
			return -EINVAL;
		}
	}

	return 0;
}

/*
 * <metadata dev> <destination dev> <source dev> <region size>
 *	[<#feature args> [<feature arg>]* [<#core args> [<key> <value>]*]]
 *
 * feature args: no_hydration, no_discard_passdown, hydrate_on_read,
 *	zeroed_destination
 * core args: hydration_threshold <regions>, hydration_batch_size <regions>,
 *	hydration_rate <KiB/s>, hydration_floor <KiB/s>,
 *	hydration_max_errors <nr>
 */
int dm_clone_parse_args(struct clone *clone, struct dm_arg_set *as)
{
	struct dm_target *ti = clone->ti;
	int r;

	if (as->argc < NR_FIXED_ARGS) {
		ti->error = "Invalid argument count";
		return -EINVAL;
	}

	r = parse_metadata_dev(clone, as) ?: parse_dest_dev(clone, as) ?:
	    parse_source_dev(clone, as) ?: check_devices_differ(clone) ?:
	    parse_region_size(clone, as) ?: keep_args(clone, as) ?:
	    parse_features(clone, as) ?: parse_core_args(clone, as);
	if (r)
		return r;

	if (as->argc) {
		ti->error = "Too many arguments";
		return -EINVAL;
	}

	return 0;
}

char *dm_clone_source_error(struct clone *clone)
{
	struct block_device *source = clone->geo.source;

	if (source == clone->geo.dest || source == clone->metadata_dev->bdev)
		return devices_are_the_same;

	if (bdev_nr_sectors(source) < clone->geo.size)
		return "Source device is smaller than the target";

	if (bdev_is_zoned(source))
		return "Zoned source devices are not supported";

	if (!is_multiple_of_block_size(clone->region_size, source))
		return wrong_region_size;

	return NULL;
}

/*
 *---------------------------------------------------------------
 * Status
 *---------------------------------------------------------------
 */

static bool is_hydration_enabled(struct clone *clone)
{
	return dm_clone_hydration_is_enabled(clone->hydration);
}

static unsigned int emit_features(struct clone *clone, char *result,
				  unsigned int maxlen, unsigned int sz)
{
	unsigned long mask = clone->features;
	unsigned int i;

	__assign_bit(NO_HYDRATION, &mask, !is_hydration_enabled(clone));

	DMEMIT(" %u", (unsigned int)hweight_long(mask));
	for_each_set_bit(i, &mask, NR_FEATURES)
		DMEMIT(" %s", features[i]);

	return sz;
}

/* Those that were given, and the two limits in any case. */
static unsigned int emit_core_args(struct clone *clone, char *result,
				   unsigned int maxlen, unsigned int sz)
{
	unsigned long shown = READ_ONCE(clone->core_args_given) |
			      BIT(HYDRATION_THRESHOLD) | BIT(HYDRATION_BATCH_SIZE);
	unsigned int values[NR_CORE_ARGS], i;

	for (i = 0; i < NR_CORE_ARGS; i++)
		values[i] = READ_ONCE(clone->core_args[i]);

	values[HYDRATION_THRESHOLD] = dm_clone_hydration_threshold(clone->hydration);
	values[HYDRATION_BATCH_SIZE] = dm_clone_hydration_batch_size(clone->hydration);

	DMEMIT(" %u", 2 * (unsigned int)hweight_long(shown));
	for (i = 0; i < NR_CORE_ARGS; i++)
		if (shown & BIT(i))
			DMEMIT(" %s %u", core_args[i].name, values[i]);

	return sz;
}

/*
 * <metadata block size> <#used metadata blocks>/<#total metadata blocks>
 * <region size> <#hydrated regions>/<#total regions> <#hydrating regions>
 * <#feature args> <feature args>* <#core args> <core args>* <rw|ro|Fail>
 *
 * or just Fail.
 */
static void emit_info(struct clone *clone, char *result, unsigned int maxlen)
{
	u64 total = dm_clone_metadata_nr_blocks(clone->cmd);
	enum clone_mode mode = get_mode(clone);
	unsigned int sz = 0;

	if (mode == CM_FAIL) {
		DMEMIT("Fail");
		return;
	}

	DMEMIT("%u %llu/%llu %llu %lu/%lu %lu", DM_CLONE_METADATA_BLOCK_SECTORS,
	       total - dm_clone_metadata_nr_free_blocks(clone->cmd), total,
	       (unsigned long long)clone->region_size,
	       dm_clone_nr_of_hydrated_regions(clone->map),
	       clone->geo.nr_regions,
	       dm_clone_hydration_in_flight(clone->hydration));
	sz = emit_features(clone, result, maxlen, sz);
	sz = emit_core_args(clone, result, maxlen, sz);
	DMEMIT(" %s", may_change_metadata(clone) ? "rw" : "ro");
}

/* The line that was loaded; the status shows what messages have changed. */
static void emit_table(struct clone *clone, char *result, unsigned int maxlen)
{
	unsigned int sz = 0;

	DMEMIT("%s %s %s %llu%s", clone->metadata_dev->name, clone->dest_dev->name,
	       clone->source_dev->name, (unsigned long long)clone->region_size,
	       clone->table_args);
}

void dm_clone_status(struct dm_target *ti, status_type_t type,
		     unsigned int status_flags, char *result,
		     unsigned int maxlen)
{
	struct clone *clone = ti->private;

	switch (type) {
	case STATUSTYPE_INFO:
		emit_info(clone, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		emit_table(clone, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

/*
 *---------------------------------------------------------------
 * Messages.  Replies come from counters, like the status, so they never wait
 * for a device: they work on a suspended and on a failed clone.
 *---------------------------------------------------------------
 */

static unsigned long nr_source_reads(struct clone *clone)
{
	unsigned long nr = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		nr += READ_ONCE(*per_cpu_ptr(clone->nr_source_reads, cpu));

	return nr;
}

/* Sectors that are not hydrated yet; a short last region counts as whole. */
static u64 nr_unhydrated_sectors(struct clone *clone)
{
	return (u64)(clone->geo.nr_regions -
		     dm_clone_nr_of_hydrated_regions(clone->map)) <<
	       clone->geo.region_shift;
}

/*
 * key=value words.  Units are bytes, KiB a second, and seconds; seconds_left is
 * -1 if it is not known.
 */
static void emit_stats(struct clone *clone, char *result, unsigned int maxlen)
{
	u64 left = nr_unhydrated_sectors(clone);
	struct dm_clone_hydration_stats stats;
	unsigned int sz = 0;
	s64 seconds;

	dm_clone_hydration_get_stats(clone->hydration, &stats);
	if (!left)
		seconds = 0;
	else if (stats.rate)
		seconds = div64_u64(left, stats.rate);
	else
		seconds = -1;

	DMEMIT("state=%s", is_finished(clone) ? "done" : stats.state);
	DMEMIT(" bytes_copied=%llu bytes_overwritten=%llu bytes_zeroed=%llu",
	       stats.hydrated[DM_CLONE_BY_COPY] << SECTOR_SHIFT,
	       (u64)atomic64_read(&clone->nr_overwritten) << SECTOR_SHIFT,
	       stats.hydrated[DM_CLONE_BY_ZEROING] << SECTOR_SHIFT);
	DMEMIT(" bytes_zero=%llu", stats.zero << SECTOR_SHIFT);
	DMEMIT(" bytes_kept=%llu bytes_read=%llu",
	       stats.hydrated[DM_CLONE_BY_KEEPING] << SECTOR_SHIFT,
	       stats.hydrated[DM_CLONE_BY_READ] << SECTOR_SHIFT);
	DMEMIT(" regions_failed=%llu read_errors=%llu write_errors=%llu",
	       stats.failed, stats.read_errors, stats.write_errors);
	DMEMIT(" last_error=%d last_error_sector=%llu", stats.last_error,
	       (unsigned long long)stats.last_error_sector);
	DMEMIT(" rate=%llu average_rate=%llu seconds_left=%lld",
	       stats.rate >> KIB_SHIFT, stats.average_rate >> KIB_SHIFT,
	       seconds);
	DMEMIT(" memory_kib=%lu",
	       (stats.memory + dm_clone_reader_memory(clone->reader)) >> 10);
	DMEMIT(" regions_in_flight=%lu source_reads=%lu commits=%llu",
	       dm_clone_hydration_in_flight(clone->hydration),
	       nr_source_reads(clone), READ_ONCE(clone->nr_commits));
}

static int set_core_arg(struct clone *clone, const char *name,
			const char *value)
{
	enum core_arg i = find_core_arg(name);

	if (i == NR_CORE_ARGS || parse_core_arg(clone, i, value))
		return -EINVAL;

	apply_core_arg(clone, i);
	return 0;
}

/* A range of sectors of the target, [begin, end). */
struct sectors {
	sector_t begin;
	sector_t end;
};

static int parse_sectors(struct clone *clone, char **argv, struct sectors *s)
{
	u64 begin, nr;

	if (kstrtou64(argv[0], 10, &begin) || kstrtou64(argv[1], 10, &nr) || !nr ||
	    begin >= clone->geo.size || nr > clone->geo.size - begin)
		return -EINVAL;

	s->begin = begin;
	s->end = begin + nr;

	return 0;
}

/* How many of these sectors are in unhydrated regions? */
static u64 nr_missing(struct clone *clone, const struct sectors *s)
{
	unsigned int shift = clone->geo.region_shift;
	unsigned long first = s->begin >> shift, last = (s->end - 1) >> shift;
	u64 nr = (u64)dm_clone_nr_of_unhydrated(clone->map, first, last + 1 - first) << shift;

	/* The range may cover only a part of its first and last region. */
	if (nr && !dm_clone_is_region_hydrated(clone->map, first))
		nr -= min(nr,
			  s->begin - dm_clone_region_start(&clone->geo, first));
	if (nr && !dm_clone_is_region_hydrated(clone->map, last))
		nr -= min(nr, dm_clone_region_start(&clone->geo, last + 1) - s->end);

	return nr;
}

/* hydrate <start> <length>: before the rest; says how much is missing */
static int hydrate_first(struct clone *clone, char **argv, char *result,
			 unsigned int maxlen)
{
	unsigned int shift = clone->geo.region_shift, sz = 0;
	struct dm_clone_range range;
	struct sectors s;
	u64 missing;
	int r;

	r = parse_sectors(clone, argv, &s);
	if (r)
		return r;

	missing = nr_missing(clone, &s);
	if (missing && !clone->read_only) {
		range.begin = s.begin >> shift;
		range.end = ((s.end - 1) >> shift) + 1;
		r = dm_clone_hydration_want(clone->hydration, &range);
		if (r)
			return r;
	}

	DMEMIT("sectors_missing=%llu", missing);

	return 1;	/* there is a reply */
}

/* Whole regions: what is beside them may hold data. */
static void whole_regions(struct clone *clone, const struct sectors *s,
			  struct dm_clone_range *range)
{
	range->begin = dm_sector_div_up(s->begin, clone->region_size);
	if (s->end == clone->geo.size)
		range->end = clone->geo.nr_regions;
	else
		range->end = s->end >> clone->geo.region_shift;
}

/* skip <start> <length> [<start> <length>]*: these are empty in the source */
static int skip(struct clone *clone, unsigned int nr_args, char **argv)
{
	struct dm_clone_range range;
	struct sectors s;
	unsigned int i;
	int r = 0;

	/* If one range is invalid none is accepted. */
	for (i = 0; i + 1 < nr_args; i += 2)
		if (parse_sectors(clone, argv + i, &s))
			return -EINVAL;

	if (clone->read_only)
		return -EROFS;
	if (dm_clone_is_hydration_done(clone->map))
		return 0;

	/* Without memory for one, those before it stay: they do no harm. */
	for (i = 0; i + 1 < nr_args && !r; i += 2) {
		parse_sectors(clone, argv + i, &s);
		whole_regions(clone, &s, &range);
		if (range.begin < range.end)
			r = dm_clone_hydration_zero_later(clone->hydration,
							  range.begin,
							  range.end);
	}

	return r;
}

/*
 * enable_hydration
 * disable_hydration
 * stats
 * hydrate <start sector> <length>
 * skip <start sector> <length> [<start sector> <length>]*
 * <core argument> <value>
 *
 * Returns 1 if there is a reply.
 */
static int handle_message(struct clone *clone, unsigned int argc, char **argv,
			  char *result, unsigned int maxlen)
{
	if (argc == 1 && !strcasecmp(argv[0], "stats")) {
		emit_stats(clone, result, maxlen);
		return 1;
	}

	if (argc == 1 && !strcasecmp(argv[0], "enable_hydration")) {
		dm_clone_hydration_enable(clone->hydration, true);
		return 0;
	}

	if (argc == 1 && !strcasecmp(argv[0], "disable_hydration")) {
		dm_clone_hydration_enable(clone->hydration, false);
		return 0;
	}

	if (argc == 3 && !strcasecmp(argv[0], "hydrate"))
		return hydrate_first(clone, argv + 1, result, maxlen);

	if (argc >= 3 && argc % 2 && !strcasecmp(argv[0], "skip"))
		return skip(clone, argc - 1, argv + 1);

	if (argc == 2)
		return set_core_arg(clone, argv[0], argv[1]);

	return -EINVAL;
}

int dm_clone_message(struct dm_target *ti, unsigned int argc, char **argv,
		     char *result, unsigned int maxlen)
{
	struct clone *clone = ti->private;
	unsigned int noio;
	int r;

	/*
	 * Suspend waits until this returns.  I/O to free memory may wait for
	 * this very device to be resumed.
	 */
	noio = memalloc_noio_save();
	r = handle_message(clone, argc, argv, result, maxlen);
	memalloc_noio_restore(noio);

	if (r == -EINVAL)
		DMERR("%s: message '%s' is unknown, or has wrong arguments",
		      clone_name(clone), argv[0]);

	return r;
}
