# SPDX-License-Identifier: GPL-2.0-only
"""dmclone record, and clones that begin with what it has listed."""

import os
import sys

from lib.blk import FORMER, MIB
from lib.dmclone import PARAMETER, Volume
from lib.errors import Failure
from lib.framework import test

# Direct reads: 4 KiB at each sector that it is given
READER = """
import mmap, os, sys
fd, page = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
for sector in range(*map(int, sys.argv[2:5])):
    os.preadv(fd, [page], sector * 512)
"""


def volume(t, size):
    return Volume(t, size, t.source(size), t.disk(size, what="dest", fill=FORMER),
                  t.metadata())


def record(t, vol, *command, **args):
    """What dmclone says, and the ranges it lists: [(start, length)], sectors."""
    path = f"{t.folder()}/list"
    said = vol("record", "-o", path, "--", *command, **args)
    with open(path, encoding="ascii") as f:
        lines = [line for line in f if not line.startswith("#")]
    return said, path, [tuple(map(int, line.split())) for line in lines]


@test("what a command reads is listed in its order, each sector once, and another clone has "
      "that hydrated before the rest", limit=240)
def _(t):
    first, second = volume(t, 2 * MIB), volume(t, 2 * MIB)
    first.create("--no-hydration")
    script = "".join(f'"$1" -c "$0" "$2" {where} || exit\n' for where in
                     ("3000 3024 8", "96 104 8", "3000 3032 8"))
    said, path, ranges = record(t, first, "sh", "-c", script, READER, sys.executable,
                                first.path)
    if ranges != [(3000, 24), (96, 8), (3024, 8)] or "20.0 KiB were read" not in said:
        raise Failure(f"{said}: {ranges}")

    second.create("--no-hydration", "--first", path)
    with t.trace(second.source) as trace:
        second("resume")
        second.until_hydrated()
    copied = [bio.sector for bio in trace.of(second.source.number, "R")]
    # 3024 and 3000 touch: the kernel takes them as one.
    if copied[:2] != [3000, 96] or 0 not in copied:
        raise Failure(f"copied {copied[:8]} first")
    if second("hydrate", "--list", path).strip() != "0 bytes of it are missing":
        raise Failure("something of the list is missing")
    os.unlink(path)


@test("a list of many ranges is made coarser, until the kernel takes all of it at once",
      limit=240)
def _(t):
    vol = volume(t, 16 * MIB)
    vol.create("--no-hydration")
    said, path, ranges = record(t, vol, sys.executable, "-c", READER, vol.path, "0",
                                str(16 * MIB), "24")
    if "5.33 MiB" in said or not 0 < len(ranges) <= 1000:
        raise Failure(f"{said}: {len(ranges)} ranges")
    listed = {sector for start, nr in ranges for sector in range(start, start + nr, 8)}
    if not set(range(0, 16 * MIB, 24)) <= listed:
        raise Failure("something that was read is not listed")
    vol("hydrate", "--list", path, says="are missing")
    os.unlink(path)


@test("a list or a command that is none is refused, and nothing is left of it", limit=120)
def _(t):
    vol = volume(t, 2 * MIB)
    path = f"{t.folder()}/list"
    vol("record", "-o", path, "--", "true", code=PARAMETER, says="there is no")
    for text in "8\n", "8 0\n", "8 -8\n", "8 8 8\n", "a b\n", "18446744073709551615 2\n":
        with open(path, "w", encoding="ascii") as f:
            f.write("# a comment\n" + text)
        vol.create("--first", path, code=PARAMETER, says="line 2 is no range")
    if vol.described or vol.is_open:
        raise Failure("a clone was made")
    vol.create("--no-hydration")
    vol("hydrate", "--list", path, code=PARAMETER, says="line 2")
    vol("hydrate", "--list", path, "--range", "1m+1m", code=PARAMETER, says="say what")
    os.unlink(path)
    vol("record", "--", "true", code=PARAMETER, says="say where to")
    vol("record", "-o", path, "--", "/no/such", code=PARAMETER, says="cannot run")
    left = os.listdir("/sys/kernel/tracing/instances")
    if os.path.exists(path) or any(name.startswith("dmclone") for name in left):
        raise Failure(f"left: {path}, {left}")
