// SPDX-License-Identifier: GPL-2.0-only
/*
 * One system call with one fault in it, see lib/faults.py.
 *
 * In C, so that nothing of the interpreter's comes between: /proc/.../fail-nth
 * counts whatever the thread allocates in the kernel from the moment it is set.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

/*
 * Make the @n'th chance to fail in a system call happen. Returns what the call
 * does, a negative errno when it fails. *@left is 0 if there were this many
 * chances.
 */
long faults_syscall(int fail_nth, uint32_t n, long number, const long *args,
		    uint32_t *left)
{
	char text[16];
	long r;

	snprintf(text, sizeof(text), "%u", n);
	if (write(fail_nth, text, strlen(text)) < 0)
		return -errno;

	r = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (r < 0)
		r = -errno;

	memset(text, 0, sizeof(text));
	if (pread(fail_nth, text, sizeof(text) - 1, 0) < 0)
		*left = 1;	/* it was for this that it came too late */
	else
		*left = strtoul(text, NULL, 10);
	if (write(fail_nth, "0", 1) < 0 && errno != EFAULT)	/* or for this */
		return -errno;

	return r;
}
