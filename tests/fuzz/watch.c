// SPDX-License-Identifier: GPL-2.0-only
/*
 * Watching the kernel, and the process that makes it work, see watch.h.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "watch.h"

#define RECORD		8192
#define KEPT		60
#define WATCH_MARK	"hostile: "

struct progress *progress;

static const char *old_console_level;
static int kmsg = -1;
static char kept[KEPT][256];
static unsigned int nr_kept;

static const char * const complaints[] = {
	"WARNING:", "BUG:", "BUG at", "Oops", "general protection", "Call Trace", "KASAN:",
	"UBSAN:", "KCSAN:", "leaked", "still has outstanding", "blocked for more than",
	"possible circular", "possible recursive", "inconsistent lock", "suspicious RCU",
	"sleeping function", "scheduling while atomic", "refcount_t:", "corruption",
	"page allocation failure", "soft lockup", "RCU stall", "Objects remaining",
	"unexpected result", "lost track of recursion", "bug in bop",
};

static void put_setting(const char *name, const char *value)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/kernel/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

/*
 * A serial console takes longer for a line than the kernel for a table. So it
 * gets only the marks, and what the kernel says when it dies; the rest is read
 * from the log. And the kernel must not drop marks.
 */
static void quieten_console(void)
{
	static char before[64];
	FILE *f = fopen("/proc/sys/kernel/printk", "r");

	if (f && fgets(before, sizeof(before), f))
		old_console_level = before;
	if (f)
		fclose(f);
	put_setting("printk", "2");
	put_setting("printk_devkmsg", "on\n");
}

static void restore_console(void)
{
	if (old_console_level)
		put_setting("printk", old_console_level);
}

void watch_kernel_open(void)
{
	kmsg = open("/dev/kmsg", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
}

void watch_kernel_mark(const char *text)
{
	char line[160];
	int n = snprintf(line, sizeof(line), "<1>" WATCH_MARK "%s", text);

	if (write(kmsg, line, n) < 0)
		perror("hostile: /dev/kmsg");
}

static bool is_complaint(const char *line)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(complaints); i++)
		if (strstr(line, complaints[i]))
			return true;
	return false;
}

const char *watch_kernel(const char **refusal)
{
	static char complaint[256], refused[256];
	char record[RECORD], *line, *end;
	ssize_t n;

	complaint[0] = '\0';
	refused[0] = '\0';
	for (;;) {
		n = read(kmsg, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			break;
		record[n] = '\0';
		line = strchr(record, ';');
		if (!line)
			continue;
		line++;
		end = strchr(line, '\n');
		if (end)
			*end = '\0';
		snprintf(kept[nr_kept++ % KEPT], sizeof(kept[0]), "%.255s", line);
		if (!complaint[0] && is_complaint(line))
			snprintf(complaint, sizeof(complaint), "%.255s", line);
		if (strstr(line, "device-mapper: table: ") && strstr(line, ": clone: "))
			snprintf(refused, sizeof(refused), "%.255s",
				 strstr(line, ": clone: ") + 9);
	}

	if (refusal)
		*refusal = refused;
	return complaint[0] ? complaint : NULL;
}

void watch_kernel_show(void)
{
	unsigned int i = nr_kept > KEPT ? nr_kept - KEPT : 0, mark;

	/* From the last mark on. */
	for (mark = i; mark < nr_kept; mark++)
		if (!strncmp(kept[mark % KEPT], WATCH_MARK, strlen(WATCH_MARK)))
			i = mark + 1;
	for (; i < nr_kept; i++)
		printf("    | %s\n", kept[i % KEPT]);
	fflush(stdout);
}

/*
 * The parent
 */

static void show_case(const char *why)
{
	printf("FAIL %s:%llu: %s\n    %s\n", progress->section,
	       (unsigned long long)progress->number, why, progress->what);
	fflush(stdout);
}

static void show_blocked_tasks(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	if (fd >= 0 && write(fd, "w", 1) == 1)
		sleep(1);
	if (fd >= 0)
		close(fd);
	watch_kernel(NULL);
	watch_kernel_show();
}

static void __attribute__((noreturn)) finish(void)
{
	restore_console();
	printf("%llu passed, %llu failed\n", (unsigned long long)progress->passed,
	       (unsigned long long)progress->failed);
	fflush(stdout);
	_exit(progress->failed ? 1 : 0);
}

static void __attribute__((noreturn)) child_has_ended(int status)
{
	char why[64];

	if (WIFSIGNALED(status)) {
		snprintf(why, sizeof(why), "the process died of signal %d", WTERMSIG(status));
	} else if (WEXITSTATUS(status) > 1) {
		/* It has said why. */
		restore_console();
		_exit(WEXITSTATUS(status));
	} else {
		finish();
	}
	progress->failed++;
	show_case(why);
	watch_kernel(NULL);
	watch_kernel_show();
	finish();
}

static void watch(pid_t child, unsigned int patience)
{
	uint64_t beats = 0;
	unsigned int still = 0;
	int status;

	for (;;) {
		for (unsigned int i = 0; i < 20; i++) {
			if (waitpid(child, &status, WNOHANG) == child)
				child_has_ended(status);
			usleep(50000);
		}
		/*
		 * Memory is limited for what is kept: read on, show it later.
		 */
		still = progress->beats == beats ? still + 1 : 0;
		beats = progress->beats;
		if (still < patience)
			continue;

		progress->failed++;
		show_case("it hangs");
		show_blocked_tasks();
		kill(child, SIGKILL);
		finish();
	}
}

void watch_child(unsigned int patience)
{
	pid_t child;

	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED) {
		perror("hostile: mmap");
		exit(2);
	}
	quieten_console();
	fflush(stdout);
	child = fork();
	if (child < 0) {
		perror("hostile: fork");
		exit(2);
	}
	if (!child)
		return;

	watch_kernel_open();
	watch(child, patience);
}
