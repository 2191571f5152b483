# SPDX-License-Identifier: GPL-2.0-only
"""A write to a part of an unhydrated region has two halves: the write itself, and
the copy of the rest. They run at once; the region is hydrated, and the write is
acknowledged, when both have ended well.
"""

import errno
import threading

from lib.blk import MIB, SOURCE, ZERO
from lib.errors import Failure, Missed
from lib.framework import test

WHOLE = "it copies the whole region first"

REGIONS = {"64 KiB": 128, "1 MiB": 2048}
# Where in its region a write is; of negative ones from the end.
PLACES = {"the beginning": (0, 8), "the middle": (40, 9), "the end": (-8, 8), "all but a sector": (1, -1)}


def place_of(first, nr, region, begin):
    first = first if first >= 0 else region + first
    nr = nr if nr > 0 else region + nr
    return begin + first, nr


def sectors(bios):
    """All that they touch; an error if two touch the same."""
    found = [s for b in bios for s in range(b.sector, b.sector + b.nr)]
    if len(found) != len(set(found)):
        raise Failure(f"the same twice: {bios}")
    return set(found)


def expect_halves(clone, trace, region, written):
    """region and written are ranges of sectors."""
    read = sectors(trace.of(clone.source.number, "R"))
    if read != set(region) - set(written):
        raise Failure(f"{len(read)} sectors were read for {len(written)} of {len(region)}: "
                      f"{trace.of(clone.source.number)}")
    wrote = sectors(trace.writes(clone.dest.number))
    if wrote != set(region):
        raise Failure(f"{len(wrote)} sectors were written: {trace.writes(clone.dest.number)}")


@test("a write to {place} of a {region} region: the rest is copied, and nothing twice",
      defect=WHOLE, region=REGIONS, place=PLACES)
def _(t, region, place):
    clone = t.idle_clone(region=region)
    first, nr = place_of(*place, region, region)
    with t.trace(clone.source, clone.dest) as trace:
        clone.put(first, nr)
    expect_halves(clone, trace, range(region, 2 * region), range(first, first + nr))
    clone.expect(hydrated=1)
    clone.check()
    clone.reactivate()
    clone.check()


@test("a write to the short last region copies what there is beside it", defect=WHOLE)
def _(t):
    size = 4 * 2048 + 1001
    clone = t.idle_clone(region=2048, size=size)
    with t.trace(clone.source, clone.dest) as trace:
        clone.put(4 * 2048 + 500, 400)
    expect_halves(clone, trace, range(4 * 2048, size), range(4 * 2048 + 500, 4 * 2048 + 900))
    clone.check()


@test("a large write copies only the rest of the regions at its ends", defect=WHOLE)
def _(t):
    clone = t.idle_clone(region=128)
    with t.trace(clone.source, clone.dest) as trace:
        clone.put(100, 1000)
    expect_halves(clone, trace, range(0, 1152), range(100, 1100))
    clone.expect(hydrated=9)
    clone.check()


@test("write-zeroes to a part of a region: the rest is copied, and nothing twice", defect=WHOLE)
def _(t):
    clone = t.idle_clone(region=128, kind="null")
    with t.trace(clone.source) as trace:
        clone.block.zeroout(136, 16)
    clone.model.set(136, 16, ZERO)
    read = sectors(trace.of(clone.source.number, "R"))
    if read != set(range(128, 256)) - set(range(136, 152)):
        raise Failure(f"{trace.bios}")
    clone.check()


def half_done(t, **args):
    """A clone with a write that is in the destination; the rest waits there."""
    clone = t.idle_clone(region=128, **args)
    clone.source.hold()
    write = t.background(lambda: clone.block.put(140, 8, 50))
    write.must_block(0.3, "a write whose region is not copied")
    t.until(lambda: clone.dest.block.get(140, 8) == [50] * 8, "the write at the destination")
    clone.dest.hold()
    clone.source.release()
    write.must_block(0.3, "a write whose region is not all there")
    return clone, write


@test("one half has ended: reads show the source's data until the write is acknowledged",
      ours="it copies before it writes")
def _(t):
    clone, write = half_done(t)
    if t.within(10, lambda: clone.get(128, 128), "a read") != [SOURCE] * 128:
        raise Failure("the region was taken for hydrated before it was")
    if clone.status().hydrated or not clone.status().hydrating:
        raise Failure(clone.status().text)
    clone.dest.release()
    write.wait()
    clone.model.set(140, 8, 50)
    clone.check()
    clone.until(lambda s: not s.hydrating, "the end of all copies")


@test("one half has ended: another write to the region waits, and then wins",
      ours="it copies before it writes")
def _(t):
    clone, write = half_done(t)
    clone.model.set(140, 8, 50)
    other = t.background(lambda: clone.block.put(130, 12, 51))
    other.must_block(0.3, "a write to the same region")
    clone.dest.release()
    write.wait()
    other.wait()
    clone.model.set(130, 12, 51)
    clone.check()


@test("one half has ended: a suspend waits for the other",
      ours="it copies before it writes")
def _(t):
    clone, write = half_done(t)
    suspend = t.background(clone.device.suspend)
    suspend.must_block(0.4, "a suspend with a write in flight")
    clone.dest.release()
    write.wait()
    suspend.wait()
    clone.device.resume()
    clone.model.set(140, 8, 50)
    clone.check()
    clone.reactivate()
    clone.check()


HALVES = {"the source": lambda c: c.source.fail(),
          "the destination, for the write": lambda c: c.dest.fail_range(140, 1),
          "the destination, for the rest": lambda c: c.dest.fail_range(200, 1),
          "the destination, for both": lambda c: c.dest.fail()}


@test("{what} fails: so does the write, and the region stays as it was", what=HALVES)
def _(t, what):
    clone = t.idle_clone(region=128)
    what(clone)
    t.fails(lambda: clone.block.put(136, 16, 50), errno.EIO, what="a partial write")
    clone.expect(hydrated=0, hydrating=0)
    clone.source.heal()
    clone.dest.heal()
    clone.check()
    clone.put(136, 16)
    clone.expect(hydrated=1)
    clone.check()


def read_until(disk, event):
    while not event.is_set():
        disk.block.read(0, 8)


def in_flight(disk):
    with open(f"{disk.device.sysfs}/inflight", encoding="ascii") as f:
        return any(int(word) for word in f.read().split())


@test("a partial write is sent without waiting for the source",
      ours="it copies before it writes")
def _(t):
    source = t.source(MIB, "null", busy_ms=100)
    clone = t.idle_clone(region=128, size=MIB, source=source)
    release = threading.Event()
    reader = t.background(lambda: read_until(source, release))
    t.until(lambda: in_flight(source), "a read of the source")
    write = t.background(lambda: clone.put(140, 8))
    stacks = set()
    while not write.done:
        stacks.add(write.stack)
    release.set()
    reader.wait()
    write.wait()
    if not any("submit_bio_wait" in stack or "dio" in stack for stack in stacks):
        raise Missed("the write was over at once")
    if any("blk_mq_get_tag" in stack for stack in stacks):
        raise Failure("it waits for a request of the source")
    clone.check()


@test("a partial write with FUA is committed when it is acknowledged")
def _(t):
    clone = t.idle_clone(region=128)
    with t.trace(clone.meta, clone.dest) as trace:
        clone.put(140, 8, fua=True)
    if len(trace.commits(clone.meta.number)) != 1:
        raise Failure(f"{len(trace.commits(clone.meta.number))} commits")
    clone.check()


@test("written and copied sectors are counted separately")
def _(t):
    clone = t.idle_clone(region=128, size=4 * MIB)
    clone.put(140, 8)
    clone.put(1000, 48)                 # ends where a region does not
    clone.expect_stats(bytes_overwritten=56 * 512, bytes_copied=(3 * 128 - 56) * 512)
    clone.check()
