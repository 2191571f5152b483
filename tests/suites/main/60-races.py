# SPDX-License-Identifier: GPL-2.0-only
"""One change of a region at a time: whoever is second waits, then looks again.

A disk that is held keeps a copy, an overwrite or a commit in flight for as long as a
test likes: what meets it then is not left to chance.
"""

import time

from lib.blk import MIB, SOURCE, ZERO, check_stamp, stamped
from lib.errors import Failure
from lib.framework import test

REGIONS = {"4 KiB": 8, "64 KiB": 128, "1 MiB": 2048}


def copying(t, **args):
    """A clone with the background copy of its first regions held in flight."""
    args.setdefault("core", {"hydration_threshold": 4, "hydration_batch_size": 1})
    clone = t.clone(active=False, **args)
    clone.source.hold()
    clone.activate()
    clone.until(lambda s: s.hydrating, "a copy in flight")
    time.sleep(0.2)
    return clone


def is_mixture(clone, sector, stamps):
    """Is each word of the sector that of one of these?"""
    data = clone.block.read(sector, 1)
    written = [stamped(sector, 1, stamp) for stamp in stamps]
    return all(any(data[i:i + 8] == one[i:i + 8] for one in written)
               for i in range(0, len(data), 8))


def settle(clone, first, nr, stamps):
    """Each sector is that of one of several writers; that's what it has to stay.

    On RAM disks not always: those that write at the same time copy at the same time, and may be
    overtaken in the middle of a sector, without a clone as well.
    """
    for sector, found in enumerate(clone.get(first, nr), first):
        if found not in stamps:
            if not is_mixture(clone, sector, stamps):
                raise Failure(f"sector {sector} holds stamp {found}")
            found = stamps[0]
            clone.block.put(sector, 1, found)
        clone.model.set(sector, 1, found)


@test("a write to part of a region in copy waits and then wins: {region}",
      region=REGIONS)
def _(t, region):
    clone = copying(t, region=region, size=4 * region)
    write = t.background(lambda: clone.put(3, 4))
    write.must_block(0.4, "a write to a region in copy")
    clone.source.release()
    write.wait()
    clone.finish()


@test("a write of a whole region in copy waits and then wins: {region}",
      region=REGIONS)
def _(t, region):
    clone = copying(t, region=region, size=4 * region)
    write = t.background(lambda: clone.put(0, region))
    write.join(0.4)
    clone.source.release()
    write.wait()
    clone.finish()


@test("a write over many regions, some of them in copy, waits for these only")
def _(t):
    clone = copying(t, region=8, size=512)
    write = t.background(lambda: clone.put(4, 500))
    write.join(0.4)
    clone.source.release()
    write.wait()
    clone.finish()


@test("a write to another region does not wait for the copy in flight")
def _(t):
    clone = copying(t, region=8, size=MIB)
    t.within(10, lambda: clone.put(MIB - 64, 8), "a write of another region")
    t.within(10, lambda: clone.put(MIB - 128, 64), "a write of other regions")
    clone.finish()


@test("a flush does not wait for the copy in flight")
def _(t):
    clone = copying(t, region=8, size=MIB)
    clone.put(MIB - 64, 8)
    t.within(10, clone.flush, "a flush")
    clone.finish()


@test("reads of hydrated regions go on while copies and commits are in flight")
def _(t):
    clone = copying(t, region=8, size=MIB)
    clone.put(MIB - 64, 32)
    clone.meta.hold_writes()
    clone.put(MIB - 24, 8)
    t.until(lambda: clone.meta.waiting, "a commit that hangs")
    t.within(10, lambda: clone.get(MIB - 64, 32), "a read")
    t.within(10, lambda: clone.put(MIB - 64, 8), "a write to a hydrated region")
    clone.meta.heal()
    clone.finish()


@test("two writers of one region: both writes are kept, the region is copied once")
def _(t):
    clone = t.idle_clone(region=128, size=MIB)
    before = clone.source.sectors_read
    clone.source.hold()
    jobs = [t.background(lambda i=i: clone.block.put(i * 16, 4, 30 + i)) for i in range(8)]
    time.sleep(0.5)
    for job in jobs:
        job.must_block(0.02, "a write to a region in copy")
    clone.source.release()
    for job in jobs:
        job.wait()
    for i in range(8):
        clone.model.set(i * 16, 4, 30 + i)
    read = clone.source.sectors_read - before
    if read != 124:
        raise Failure(f"{read} sectors of the source were read, not the 124 that a write of "
                      "4 leaves of 128")
    clone.finish()


@test("many writers in one region, many times over", limit=120)
def _(t):
    clone = t.idle_clone(region=128, size=4 * MIB)
    weights = {"read": 5, "write": 90, "discard": 0, "zero": 3, "fua": 2, "flush": 0}
    clone.random_io(ops=1500, threads=24, max_sectors=8, weights=weights).run()
    clone.finish()


@test("overlapping writers: each sector is one of them, and stays")
def _(t):
    for region in 8, 128:
        clone = t.idle_clone(region=region, size=MIB)
        for place in range(0, 1024, 256):
            jobs = [t.background(lambda s=stamp: clone.block.put(place + 3, 200, s))
                    for stamp in (40, 41, 42)]
            for job in jobs:
                job.wait()
            settle(clone, place + 3, 200, (40, 41, 42))
        clone.finish()


@test("an overwrite in flight and a write to part of its region both count")
def _(t):
    clone = t.idle_clone(region=128, size=MIB)
    clone.dest.hold()
    whole = t.background(lambda: clone.block.put(0, 256, 50))
    whole.must_block(0.3, "a write to a held destination")
    part = t.background(lambda: clone.block.put(130, 4, 51))
    part.must_block(0.3, "a write after it")
    clone.dest.release()
    whole.wait()
    part.wait()
    clone.model.set(0, 256, 50)
    found = clone.get(130, 4)
    if found not in ([50] * 4, [51] * 4):
        raise Failure(str(found))
    clone.model.set(130, 4, found[0])
    clone.finish()


@test("an overwrite in flight: reads show old or new data, and new once it is acknowledged")
def _(t):
    clone = t.idle_clone(region=8, size=MIB)
    clone.dest.hold()
    write = t.background(lambda: clone.block.put(0, 8, 50))
    write.must_block(0.3, "a write to a held destination")
    if t.within(10, lambda: clone.get(0), "a read") != [SOURCE]:
        raise Failure("the region was taken for hydrated before it was")
    clone.dest.release()
    write.wait()
    clone.model.set(0, 8, 50)
    clone.finish()


@test("an overwrite in flight is not undone by a background copy")
def _(t):
    clone = t.idle_clone(region=8, size=64)
    clone.dest.hold()
    write = t.background(lambda: clone.put(0, 8))
    write.must_block(0.3, "a write to a held destination")
    clone.enable_hydration()
    time.sleep(0.5)
    clone.dest.release()
    write.wait()
    clone.finish()


@test("a discard and an overwrite in flight: either wins, and stays")
def _(t):
    for first in "write", "discard":
        clone = t.idle_clone(region=128, size=MIB, kind="null")
        clone.dest.hold()
        todo = {"write": lambda c=clone: c.block.put(0, 256, 50),
                "discard": lambda c=clone: c.discard(0, 256)}
        jobs = [t.background(todo.pop(first))]
        time.sleep(0.3)
        jobs.append(t.background(todo.popitem()[1]))
        time.sleep(0.3)
        clone.dest.release()
        for job in jobs:
            job.wait()
        for i, stamp in enumerate(clone.get(0, 256)):
            if stamp not in (50, ZERO):
                raise Failure(f"sector {i} holds stamp {stamp}")
            clone.model.set(i, 1, stamp)
        clone.finish()


@test("a discard waits for the overwrite of its region, or the other way round, "
      "but not forever")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB, kind="null")
    weights = {"read": 0, "write": 50, "discard": 50, "zero": 0, "fua": 0, "flush": 0}
    clone.random_io(ops=1500, threads=16, max_sectors=64, weights=weights).run()
    clone.finish()


@test("sixteen writes that wait for one copy all go on")
def _(t):
    clone = copying(t, region=2048, size=4 * 2048)
    jobs = [t.background(lambda i=i: clone.put(i * 100, 1 + i)) for i in range(16)]
    time.sleep(0.5)
    clone.source.release()
    for job in jobs:
        job.wait()
    clone.finish()


@test("writes to overlapping ranges of regions do not wait for each other in a circle")
def _(t):
    clone = t.idle_clone(region=8, size=MIB)
    clone.source.delay(2)
    for _ in range(6):
        jobs = []
        for i in range(12):
            start = t.rng.randrange(MIB - 900)
            jobs.append(t.background(lambda s=start, i=i: clone.block.put(s, 900, 70 + i)))
        for job in jobs:
            job.wait(30)
    written = range(70, 82)
    for sector, found in enumerate(clone.get(0, MIB)):
        if found != SOURCE:
            settle(clone, sector, 1, written)
    clone.finish()


@test("a background copy does not begin in a region that is being written")
def _(t):
    clone = t.idle_clone(region=128, size=1024,
                         core={"hydration_threshold": 64, "hydration_batch_size": 64})
    clone.source.hold()
    write = t.background(lambda: clone.put(130, 8))
    write.must_block(0.3, "a write that needs a copy")
    with t.trace(clone.source) as trace:
        clone.enable_hydration()
        time.sleep(0.3)
        clone.source.release()
        write.wait()
        clone.until_hydrated()
    read = sum(b.nr for b in trace.of(clone.source.number, "R")
               if 128 <= b.sector < 256 and b.nr <= 128)
    if read > 128:
        raise Failure(f"{read} sectors were read for a region of 128")
    clone.finish()


@test("a read that began before a write sees old or new data, never the destination's")
def _(t):
    clone = t.idle_clone(region=8, size=MIB)
    clone.source.delay(30)
    for place in range(0, 512, 64):
        read = t.background(lambda p=place: clone.get(p, 64))
        time.sleep(0.01)
        stamp = clone.put(place, 64)
        if set(read.wait()) - {SOURCE, stamp}:
            raise Failure(f"the read saw {set(read.wait())}")
    clone.finish()


@test("the source is read at most once for what the background copies")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    with t.trace(clone.source) as trace:
        clone.hydrate()
    read = sum(b.nr for b in trace.of(clone.source.number, "R"))
    if read != clone.size:
        raise Failure(f"{read} sectors read for a source of {clone.size}")
    check_stamp(clone.dest.block, 0, clone.size, SOURCE, "the destination")
