# SPDX-License-Identifier: GPL-2.0-only
"""Where the kernel's instructions go: a part of tests/bench/io-guest, with profile.c in QEMU."""

import bisect
import collections
import os

SPINS = 300000
USER = 1 << 63                  # addresses below are not the kernel's
KERNEL = "kernel"


class Counter:
    """Counts instructions and calls by function, of what happens in between."""

    def __init__(self, folder):
        self._folder = folder
        self._symbols = sorted(self._read_symbols())
        self._addresses = [address for address, _, _ in self._symbols]

    @staticmethod
    def _read_symbols():
        with open("/proc/kallsyms", encoding="ascii") as file:
            for line in file:
                address, kind, name, *module = line.split()
                if kind in "tTwW":
                    yield int(address, 16), name, module[0][1:-1] if module else KERNEL

    def _tell(self, what):
        path = os.path.join(self._folder, what)
        # Renamed, since it may be gone again before a file system has created it.
        with open(f"{path}.new", "w", encoding="ascii"):
            pass
        os.rename(f"{path}.new", path)
        # Most of this waiting is not in the kernel, and so is not counted.
        while os.path.exists(path):
            for _ in range(SPINS):
                pass

    def begin(self):
        self._tell("begin")

    def end(self):
        """{(module, function): [instructions, calls]}"""
        self._tell("end")
        found = collections.defaultdict(lambda: [0, 0])
        with open(os.path.join(self._folder, "counts"), encoding="ascii") as file:
            for line in file:
                address, instructions, times = line.split()
                self._add(found, int(address, 16), int(instructions), int(times))
        return found

    def _add(self, found, address, instructions, times):
        if address < USER:
            return
        start, name, module = self._symbols[bisect.bisect_right(self._addresses, address) - 1]
        found[module, name][0] += instructions * times
        if address == start:
            found[module, name][1] += times


def measure(counter, action, operations):
    """[module, function, instructions, calls] an operation, but for what counting costs."""
    counter.begin()
    nothing = counter.end()
    counter.begin()
    action()
    found = counter.end()
    rows = [[module, name, *((value - base) / operations for value, base in
                             zip(found[module, name], nothing[module, name]))]
            for module, name in found]
    return [row for row in rows if row[2] >= 1]
