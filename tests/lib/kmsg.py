# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log, and which of its lines are complaints."""

import os
import re

COMPLAINT = re.compile("|".join([
    r"WARNING:", r"\bBUG\b", r"\bOops\b", r"general protection fault",
    r"kernel panic", r"Call Trace", r"KASAN", r"UBSAN", r"KCSAN",
    r"possible (circular|recursive|irq lock)", r"inconsistent lock state",
    r"suspicious RCU", r"held lock freed", r"lock held when returning",
    r"blocked for more than", r"rcu.*(stall|detected)", r"soft lockup",
    r"scheduling while atomic", r"sleeping function called",
    r"refcount_t:", r"list_(add|del) corruption", r"use-after-free",
    r"leaked", r"still has outstanding", r"Objects remaining in",
    r"page allocation failure", r"unexpected result", r"stack trace",
    r"\[dm_clone\] enqueued on deprecated",
]))

# Known noise of emulation, no fault of anybody's. What kmemleak suspects the
# tests in suites/debug/90-leaks.py read, and judge.
NOISE = re.compile(r"clocksource|hrtimer: interrupt took|perf: interrupt took")

# Other people's races: in reports of ours the module's name follows the
# function's.
OTHER_RACE = re.compile(r"BUG: KCSAN: (?!.*\[dm_clone\])")


class Log:
    """Reads /dev/kmsg from the moment it is made."""

    def __init__(self):
        self._fd = os.open("/dev/kmsg", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def mark(self, text):
        os.write(self._fd, f"{text}\n".encode())

    def read(self):
        """The lines since the last read."""
        lines = []
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:     # some were overwritten
                lines.append("(lines lost)")
                continue
            head, _, text = record.partition(";")
            stamp = int(head.split(",")[2]) / 1e6
            lines.append(f"[{stamp:.6f}] {text.splitlines()[0] if text else ''}")


# With an injected fault comes a stack trace, in which nothing is a complaint.
FAULT = re.compile(r"FAULT_INJECTION: |vmalloc error: |kmem_cache_create.* failed with error -(?:12|22)")
STACK = re.compile(r"^\[[\d.]+\] (?: |Call Trace:)")


def _without_faults(lines):
    dump = False
    for line in lines:
        if FAULT.search(line):
            dump = True
        elif "</TASK>" in line:
            dump = False
        if not (dump and STACK.match(line)):
            yield line


def complaints(lines):
    return [line for line in _without_faults(lines)
            if COMPLAINT.search(line) and not NOISE.search(line) and
            not OTHER_RACE.search(line) and "tests: " not in line]


def excerpt(lines, most=60):
    """What is worth showing of a log: all, or its beginning and its end."""
    lines = [line for line in lines if "tests: " not in line]
    if len(lines) <= most:
        return lines
    return lines[:most // 2] + ["..."] + lines[-most // 2:]
