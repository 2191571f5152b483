# SPDX-License-Identifier: GPL-2.0-only
"""Memory for data that is being copied: bounded for all clones together, and held
no longer than it is needed.
"""

from lib.blk import MIB
from lib.errors import Failure, Missed
from lib.framework import test

PARAMETER = "/sys/module/dm_clone/parameters/clone_buffer_kib"
HELD = "/sys/module/dm_clone/parameters/clone_buffer_held_kib"
OURS = "it has no such bound"
NR = 20


def limit():
    with open(PARAMETER, encoding="ascii") as f:
        return int(f.read())


class Limited:
    """Another bound, for a while."""

    def __init__(self, kib):
        self.kib, self.before = kib, limit()

    def _set(self, kib):
        with open(PARAMETER, "w", encoding="ascii") as f:
            f.write(f"{kib}\n")

    def __enter__(self):
        self._set(self.kib)

    def __exit__(self, *_):
        self._set(self.before)


def held():
    with open(HELD, encoding="ascii") as f:
        return int(f.read())


def in_use(clones):
    return sum(clone.stats()["memory_kib"] for clone in clones)


def available():
    """KiB."""
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(next(line for line in f if line.startswith("MemAvailable")).split()[1])


def fleet(t, size, **args):
    return [t.clone(region=128, size=size, active=False, **args) for _ in range(NR)]


@test("twenty hydrating clones share one bound of memory, and give it back",
      ours=OURS)
def _(t):
    clones = fleet(t, 16 * MIB)
    before = available()
    for clone in clones:
        clone.source.delay(100)
        clone.activate()
    most, peak = limit(), 0
    while not all(clone.status().done for clone in clones):
        # A sum over moments, and so no bound of it; what is held is of one. But what is
        # just being taken from what is kept counts twice there.
        peak = max(peak, in_use(clones))
        now = held()
        if now > most + 2048:
            raise Failure(f"{now} KiB held, of {most}")
    if not peak:
        raise Missed("none was ever seen to be in use")
    t.note(f"{peak} of {most} KiB")
    t.until(lambda: not held(), "all to be given back")
    # Each keeps its reserve and its tables. Copies of all data would be 320 MiB.
    less = before - available()
    t.note(f"{less} KiB less available with {NR} that are done")
    if less > 40 << 10:
        raise Failure(f"{less} KiB less than before are available")
    for clone in clones:
        clone.source.heal()


@test("a clone whose source hangs leaves memory to another", ours=OURS)
def _(t):
    with Limited(4096):
        hung = t.clone(region=128, size=32 * MIB, active=False)
        hung.source.hold()
        hung.activate()
        kib = t.until(lambda: in_use([hung]) > 1024 and in_use([hung]), "copies that hang")
        if kib > 2048:
            raise Failure(f"it holds {kib} of 4096 KiB")
        other = t.clone(region=128, size=16 * MIB)
        other.source.delay(5)
        peak = 0
        while not other.status().done:
            peak = max(peak, in_use([other]))
        if in_use([hung, other]) > 4096:
            raise Failure(f"{in_use([hung, other])} of 4096 KiB are in use")
        t.note(f"{kib} KiB held, up to {peak} left to the other")
        other.check()
        hung.source.release()
        hung.until_hydrated()
        hung.check()


@test("without memory clones still hydrate and take writes, with their reserves",
      ours=OURS)
def _(t):
    with Limited(1):
        clones = [t.clone(region=region, size=4 * MIB, features=["hydrate_on_read"])
                  for region in (8, 128, 2048)]
        loads = [t.load(clone, ops=200) for clone in clones]
        for clone, load in zip(clones, loads):
            clone.until_hydrated()
            load.stop()
            clone.expect_stats(memory_kib=0)
            clone.check()
