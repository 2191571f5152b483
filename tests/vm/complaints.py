# SPDX-License-Identifier: GPL-2.0-only
"""What in a kernel log means that the kernel is not well."""

import re

# The beginning of a line, after its time stamp. I/O errors are none of these:
# the tests provoke them.
_COMPLAINT = re.compile(
    r"""(?:\[[\s\d.]+\]\s*(?:\[\s*[TC]\d+\]\s*)?)?(?:\S+:\s)?(?:
        WARNING:\s | BUG:\s | BUG\s | Oops: | Kernel\ panic | kernel\ BUG\ at
      | -+\[\ cut\ here\ \]-+
      | INFO:\ task\ .*\ blocked\ for\ more\ than
      | INFO:\ (?:possible|suspicious|inconsistent|trying\ to\ register|rcu_\S+\ detected)
      | INFO:\ (?:rcu_\S+\ self-detected)
      | general\ protection\ fault | stack\ segment: | divide\ error: | invalid\ opcode:
      | double\ fault: | traps:\ .*\ trap\ | Unable\ to\ handle | unable\ to\ handle
      | KASAN: | UBSAN: | KCSAN: | KFENCE:
      | refcount_t: | list_add\ corruption | list_del\ corruption | ODEBUG:
      | DEBUG_LOCKS_WARN_ON | Slab\ .*\ (?:corrupt|overwritten)
      | .*page\ allocation\ failure:
      | watchdog:\ BUG | .*\bRCU\ stall
    )""", re.VERBOSE)

# A report goes on for some lines: how many of them are worth showing.
_REPORT_LINES = 60
_END_OF_REPORT = re.compile(r"---\[ end (?:trace|Kernel panic)")


def is_complaint(line):
    return bool(_COMPLAINT.match(line))


class ComplaintFilter:
    """Takes a kernel log line by line and keeps the reports in it."""

    def __init__(self):
        self.lines = []
        self._left = 0

    def feed(self, line):
        if is_complaint(line):
            self._left = _REPORT_LINES
        if self._left:
            self.lines.append(line)
            self._left -= 1
        if _END_OF_REPORT.search(line):
            self._left = 0
