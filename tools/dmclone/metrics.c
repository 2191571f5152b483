// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone metrics: all clones as OpenMetrics text, for the textfile collector of
 * node_exporter.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dmclone.h"
#include "overview.h"
#include "size.h"

struct sample {
	char name[NAME_MAX + 1];
	char state[16];
	struct progress p;
	bool is_clone;
};

struct samples {
	struct sample *list;
	unsigned int nr;
	bool out_of_memory;
};

static void take_sample(const struct overview *report, void *context)
{
	struct samples *samples = context;
	struct sample *list;

	list = realloc(samples->list, (samples->nr + 1) * sizeof(*list));
	if (!list) {
		samples->out_of_memory = true;
		return;
	}
	samples->list = list;
	list += samples->nr++;
	snprintf(list->name, sizeof(list->name), "%s", report->name);
	snprintf(list->state, sizeof(list->state), "%s", overview_state(report));
	list->p = report->p;
	list->is_clone = report->is_clone;
}

static uint64_t size_of(const struct progress *p)
{
	return p->length * SECTOR;
}

static uint64_t rate_of(const struct progress *p)
{
	return p->rate * KIB;
}

static uint64_t read_errors_of(const struct progress *p)
{
	return p->read_errors;
}

static uint64_t write_errors_of(const struct progress *p)
{
	return p->write_errors;
}

static uint64_t is_writable(const struct progress *p)
{
	return !strcmp(p->mode, "rw");
}

static const struct metric {
	const char *name;
	const char *type;
	const char *sample_suffix;
	const char *help;
	bool needs_stats;
	uint64_t (*value)(const struct progress *p);
} metrics[] = {
	{ "dmclone_size_bytes", "gauge", "", "Size of the clone", false, size_of },
	{ "dmclone_hydrated_bytes", "gauge", "", "What is in the destination", false,
	  progress_bytes_hydrated },
	{ "dmclone_writable", "gauge", "", "1 if the mode is rw", false, is_writable },
	{ "dmclone_rate_bytes_per_second", "gauge", "", "Copied in the last second", true,
	  rate_of },
	{ "dmclone_read_errors", "counter", "_total", "Failed reads of the source", true,
	  read_errors_of },
	{ "dmclone_write_errors", "counter", "_total", "Failed writes to the destination",
	  true, write_errors_of },
};

static void print_metric(const struct metric *metric, const struct samples *samples)
{
	unsigned int i;

	printf("# TYPE %s %s\n# HELP %s %s.\n", metric->name, metric->type, metric->name,
	       metric->help);
	for (i = 0; i < samples->nr; i++) {
		const struct sample *s = &samples->list[i];

		if (!s->is_clone || (metric->needs_stats && !s->p.has_stats))
			continue;
		printf("%s%s{name=\"%s\"} %llu\n", metric->name, metric->sample_suffix,
		       s->name, ULL(metric->value(&s->p)));
	}
}

enum result do_metrics(const struct request *rq)
{
	struct samples samples = { .nr = 0 };
	unsigned int i;
	enum result r;

	(void)rq;
	r = overview_for_each(take_sample, &samples);
	if (!r && samples.out_of_memory)
		r = out_of_memory();
	for (i = 0; !r && i < ARRAY_SIZE(metrics); i++)
		print_metric(&metrics[i], &samples);
	if (!r)
		printf("# TYPE dmclone_state info\n# HELP dmclone_state What it does.\n");
	for (i = 0; !r && i < samples.nr; i++)
		printf("dmclone_state_info{name=\"%s\",state=\"%s\"} 1\n",
		       samples.list[i].name, samples.list[i].state);
	if (!r)
		printf("# EOF\n");
	free(samples.list);

	return r;
}
