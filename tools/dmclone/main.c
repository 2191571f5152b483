// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (C) 2026 the dm-clone authors
 *
 * dmclone: clones of volumes, from their making to their end.  Here is what may
 * be typed: one table of actions, and one of options.
 */

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "attach.h"
#include "dmclone.h"
#include "lvm.h"

#ifndef VERSION
#define VERSION "?"
#endif

static const struct action {
	const char *name;
	const char *arguments;
	unsigned int least, most;
	const char *options;		/* by their letters, see below */
	enum result (*run)(const struct request *rq);
	const char *summary;
} actions[] = {
	{ "create", "NAME SOURCE DESTINATION [METADATA]", 3, 4, "RNHrZfAx1", do_create,
	  "make a clone, and use it at once" },
	{ "lvm", "VG/LV --from SOURCE", 1, 1, "STRNHrf", do_lvm,
	  "make a clone that becomes a logical volume" },
	{ "open", "NAME | --all", 1, 1, "afW", do_open,
	  "open a clone again, after a reboot" },
	{ "close", "NAME | --all", 1, 1, "a", do_close,
	  "close a clone; it can be opened again" },
	{ "status", "[NAME]", 0, 1, "jwv", do_status,
	  "how far it is" },
	{ "wait", "NAME", 1, 1, "p", do_wait,
	  "until all is in the destination" },
	{ "pause", "NAME", 1, 1, "", do_pause,
	  "copy nothing in the background" },
	{ "resume", "NAME", 1, 1, "", do_resume,
	  "copy in the background; try again what has failed" },
	{ "rate", "NAME RATE|none", 2, 2, "", do_rate,
	  "copy at this many bytes a second at most" },
	{ "hydrate", "NAME --range START+LENGTH | --file PATH... | --list FILE", 1,
	  MAX_ARGUMENTS, "sFL", do_hydrate,
	  "copy this before the rest" },
	{ "record", "NAME -o FILE -- COMMAND [ARGUMENT...]", 2, MAX_ARGUMENTS, "o", do_record,
	  "list what a command reads, for hydrate --list and create --first" },
	{ "grow", "NAME", 1, 1, "z", do_grow,
	  "use the rest of a larger destination too, at once" },
	{ "monitor", "NAME", 1, 1, "AxO", do_monitor,
	  "have dmeventd watch it, and say what is to be done then" },
	{ "map", "NAME", 1, 1, "", do_map,
	  "a picture of what is hydrated" },
	{ "metrics", "", 0, 0, "", do_metrics,
	  "of all clones, as OpenMetrics text" },
	{ "finish", "NAME", 1, 1, "np", do_finish,
	  "wait, then leave the destination as a plain volume" },
	{ "adopt", "NAME", 1, 1, "p", do_adopt,
	  "finish a clone that systemd has made, of /etc/clonetab" },
	{ "remove", "NAME", 1, 1, "", do_remove,
	  "finish a clone that is done, and close it" },
	{ "abort", "NAME", 1, 1, "f", do_abort,
	  "give up a clone that is not done; what was written to it is lost" },
};

/* Others than people call these. */
static const struct action hidden[] = {
	{ "udev", "MAJOR:MINOR", 1, 1, "", do_udev, "" },
	{ "event", "NAME WHAT", 2, 2, "", do_event, "" },
	{ "unmonitor", "", 0, 0, "", do_unmonitor, "" },
};

static const struct option options[] = {
	{ "region-size", required_argument, NULL, 'R' },
	{ "no-hydration", no_argument, NULL, 'N' },
	{ "hydrate-on-read", no_argument, NULL, 'H' },
	{ "rate", required_argument, NULL, 'r' },
	{ "from", required_argument, NULL, 'S' },
	{ "thinpool", required_argument, NULL, 'T' },
	{ "new-destination", no_argument, NULL, 'Z' },
	{ "all", no_argument, NULL, 'a' },
	{ "force", no_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },
	{ "watch", no_argument, NULL, 'w' },
	{ "progress-json", no_argument, NULL, 'p' },
	{ "no-wait", no_argument, NULL, 'n' },
	{ "zero-tail", no_argument, NULL, 'z' },
	{ "range", required_argument, NULL, 's' },
	{ "wait-for-devices", no_argument, NULL, 'W' },
	{ "file", no_argument, NULL, 'F' },
	{ "auto-finish", no_argument, NULL, 'A' },
	{ "exec", required_argument, NULL, 'x' },
	{ "off", no_argument, NULL, 'O' },
	{ "lvm-filter", no_argument, NULL, 'v' },
	{ "output", required_argument, NULL, 'o' },
	{ "list", required_argument, NULL, 'L' },
	{ "first", required_argument, NULL, '1' },
	{ "batch-mode", no_argument, NULL, 'q' },
	{ "quiet", no_argument, NULL, 'Q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ }
};

static const char *const option_help =
	"Options of create and lvm:\n"
	"  --region-size SIZE    a power of two from 4k; otherwise what suits the volume\n"
	"  --no-hydration        copy nothing in the background\n"
	"  --hydrate-on-read     keep what has been read\n"
	"  --rate RATE           copy at this many bytes a second at most\n"
	"  --first FILE          copy this before the rest: a list that record has made\n"
	"  --new-destination     the destination reads as zeroes where it was never written;\n"
	"                        not of lvm\n"
	"  --from SOURCE         of lvm: what to clone\n"
	"  --thinpool POOL       of lvm: make a thin volume, in that pool of the group\n"
	"Options of create and monitor:\n"
	"  --auto-finish         finish it as soon as all is in the destination\n"
	"  --exec COMMAND        for the shell, when hydration or metadata fails\n"
	"Others:\n"
	"  --all                 all clones that have a description\n"
	"  --wait-for-devices    of open: for a minute and a half, if some are not there yet\n"
	"  --json, --watch       of status: for programs; redraw it each second\n"
	"  --lvm-filter          of status: lines for lvm.conf, of all clones\n"
	"  --progress-json       of wait, finish and adopt: a line of JSON twice a second\n"
	"  --no-wait             of finish: fail if it is not done\n"
	"  --zero-tail           of grow: what the rest held before is overwritten\n"
	"  --off                 of monitor: dmeventd does not watch it any more\n"
	"  --range START+LENGTH  of hydrate: where, from the beginning of the clone\n"
	"  --file PATH...        of hydrate: these files of a file system on the clone\n"
	"  --list FILE           of hydrate: what a list that record has made names\n"
	"  -o, --output FILE     of record: where the list goes\n"
	"  --force               whatever the error says that it is for\n"
	"  -q, --batch-mode      ask nothing\n"
	"  --quiet               print nothing\n"
	"  --help, --version\n"
	"Sizes and rates are numbers with a unit as for lvm2: b s k m g t p e, s is\n"
	"512 bytes, the others are powers of 1024; MiB without one.\n"
	"NAME may also be that of a logical volume, VG/LV.\n"
	"SOURCE is a device, an image file, nbd://HOST[:PORT]/EXPORT or\n"
	"nbd+unix:///EXPORT?socket=PATH.\n"
	"Exit codes: 1 wrong parameters, 2 no permission, 3 out of memory, 4 wrong\n"
	"device, 5 in use, 6 hydration has stopped.\n";

static void help(void)
{
	unsigned int i;

	printf("dmclone ACTION [ARGUMENTS] [OPTIONS]\n\nActions:\n");
	for (i = 0; i < ARRAY_SIZE(actions); i++)
		printf("  %-8s %s\n           %s\n", actions[i].name, actions[i].arguments,
		       actions[i].summary);
	printf("\n%s", option_help);
}

static const struct action *find_action(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(actions[i].name, name))
			return &actions[i];
	for (i = 0; i < ARRAY_SIZE(hidden); i++)
		if (!strcmp(hidden[i].name, name))
			return &hidden[i];

	return NULL;
}

static const char *option_name(int letter)
{
	unsigned int i;

	for (i = 0; options[i].name; i++)
		if (options[i].val == letter)
			return options[i].name;

	return "?";
}

struct command {
	struct request rq;
	bool batch, help, version;
	char used[64];			/* letters of options */
};

static void take_option(struct command *c, int letter)
{
	struct request *rq = &c->rq;

	switch (letter) {
	case 'R':
		rq->region_size = optarg;
		break;
	case 'r':
		rq->rate = optarg;
		break;
	case 's':
		rq->range = optarg;
		break;
	case 'S':
		rq->from = optarg;
		break;
	case 'T':
		rq->thinpool = optarg;
		break;
	case 'N':
		rq->no_hydration = true;
		break;
	case 'H':
		rq->hydrate_on_read = true;
		break;
	case 'Z':
		rq->new_destination = true;
		break;
	case 'a':
		rq->all = true;
		break;
	case 'f':
		rq->force = true;
		break;
	case 'j':
		rq->json = true;
		break;
	case 'w':
		rq->watch = true;
		break;
	case 'p':
		rq->progress_json = true;
		break;
	case 'W':
		rq->wait_for_devices = true;
		break;
	case 'F':
		rq->file = true;
		break;
	case 'A':
		rq->auto_finish = true;
		break;
	case 'x':
		rq->exec = optarg;
		break;
	case 'v':
		rq->lvm_filter = true;
		break;
	case 'O':
		rq->off = true;
		break;
	case 'o':
		rq->output = optarg;
		break;
	case 'L':
		rq->list = optarg;
		break;
	case '1':
		rq->first = optarg;
		break;
	case 'z':
		rq->zero_tail = true;
		break;
	case 'n':
		rq->no_wait = true;
		break;
	}
}

/* Those that every action has */
static bool take_common(struct command *c, int letter)
{
	switch (letter) {
	case 'q':
		c->batch = true;
		return true;
	case 'Q':
		c->rq.quiet = true;
		return true;
	case 'h':
		c->help = true;
		return true;
	case 'V':
		c->version = true;
		return true;
	}

	return false;
}

static enum result parse(struct command *c, int argc, char **argv)
{
	size_t nr = 0;
	int letter;

	while ((letter = getopt_long(argc, argv, "qho:", options, NULL)) != -1) {
		if (letter == '?')
			return fail(BAD_PARAMETER, "see dmclone --help");
		if (take_common(c, letter))
			continue;
		if (nr + 1 < sizeof(c->used) && !strchr(c->used, letter))
			c->used[nr++] = letter;
		take_option(c, letter);
	}
	if (argc - optind > MAX_ARGUMENTS)
		return fail(BAD_PARAMETER, "there are more than %d arguments", MAX_ARGUMENTS);
	for (; optind < argc; optind++)
		c->rq.arguments[c->rq.nr++] = argv[optind];
	report_init(c->rq.quiet, c->batch);

	return DONE;
}

/* A clone that becomes a logical volume may be named by that. */
static enum result take_name(struct request *rq, const struct action *action)
{
	static char name[NAME_LENGTH];
	enum result r;

	if (!rq->nr || action->run == do_create || action->run == do_lvm ||
	    !strchr(rq->arguments[0], '/'))
		return DONE;
	r = lvm_mapped_name(rq->arguments[0], name);
	rq->arguments[0] = name;

	return r;
}

/* The first argument is the action's name. */
static enum result check(struct command *c, const struct action *action)
{
	struct request *rq = &c->rq;
	const char *p;

	rq->nr--;
	memmove(rq->arguments, rq->arguments + 1, rq->nr * sizeof(*rq->arguments));
	for (p = c->used; *p; p++)
		if (!strchr(action->options, *p))
			return fail(BAD_PARAMETER, "%s has no option --%s: see dmclone --help",
				    action->name, option_name(*p));
	if (rq->all ? rq->nr : rq->nr < action->least || rq->nr > action->most)
		return fail(BAD_PARAMETER, "it is: dmclone %s %s", action->name,
			    action->arguments);

	return take_name(rq, action);
}

static enum result run(struct command *c)
{
	const struct action *action;
	enum result r;

	if (!c->rq.nr)
		return fail(BAD_PARAMETER, "say what to do: see dmclone --help");
	action = find_action(c->rq.arguments[0]);
	if (!action)
		return fail(BAD_PARAMETER, "there is no action '%s': see dmclone --help",
			    c->rq.arguments[0]);
	r = check(c, action);
	if (!r)
		r = table_init();

	return r ? r : action->run(&c->rq);
}

int main(int argc, char **argv)
{
	static struct command c;
	enum result r;

	umask(022);
	if (argc == 3 && !strcmp(argv[1], KEEPER))
		return nbd_keeper(argv[2]);
	r = parse(&c, argc, argv);
	if (r)
		return r;
	if (c.help)
		help();
	else if (c.version)
		printf("dmclone %s\n", VERSION);
	else
		r = run(&c);

	return r;
}
