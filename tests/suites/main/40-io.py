# SPDX-License-Identifier: GPL-2.0-only
"""What is read is what was written: random I/O against a model, at every stage
of a clone's life."""

import time

from lib.blk import FORMER, MIB, SOURCE, Model
from lib.errors import Failure, Missed
from lib.framework import test

REGIONS = {"4 KiB": 8, "64 KiB": 128, "1 MiB": 2048}
KINDS = {"a RAM disk": "ram", "a disk with discard and cache": "null",
         "a disk with write zeroes": "loop"}

LEAK = "what the destination held before is shown after a discard"
STALE = "a table that was loaded before a write does not know of it"


def leak(region, kind):
    return LEAK if kind == "ram" and region < 2048 else None


@test("random I/O, {region} regions on {kind}: before, during and after hydration",
      limit=180, region=REGIONS, kind=KINDS, defect=leak)
def _(t, region, kind):
    clone = t.idle_clone(region=region, size=16 * MIB, kind=kind,
                         core={"hydration_threshold": max(2, 512 // region)})
    args = {"threads": 6, "max_sectors": max(2 * MIB, 3 * region)}

    before = clone.random_io(ops=500, **args).run().done
    clone.check()

    clone.source.delay(4)
    clone.enable_hydration()
    load = t.load(clone, **args)
    t.let_run(load, 200)
    clone.source.heal()
    clone.until_hydrated(90)
    during = load.stop().done

    after = clone.random_io(ops=700, **args).run().done
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
    t.note(f"{before} + {during} + {after} operations")


@test("random I/O of single sectors in one place, {region} regions",
      limit=120, region=REGIONS)
def _(t, region):
    clone = t.idle_clone(region=region, size=4 * max(region, 128))
    clone.random_io(ops=1500, threads=8, max_sectors=4).run()
    clone.check()
    clone.enable_hydration()
    clone.random_io(ops=500, threads=8, max_sectors=4).run()
    clone.until_hydrated()
    clone.check()


@test("random I/O over many lives, {region} regions, hydration going on",
      limit=240, region=REGIONS)
def _(t, region):
    size = 16 * MIB
    clone = t.clone(region=region, size=size, kind="null", active=False,
                    core={"hydration_threshold": max(1, 128 // region),
                          "hydration_batch_size": 1})
    clone.source.delay(20)
    lives = 0
    for lives in range(1, 9):
        clone.activate()
        clone.random_io(ops=120, threads=4).run()
        clone.deactivate()
        if lives % 2:
            clone.source.heal()
            clone.check_left_behind()
            clone.source.delay(20)
    clone.source.heal()
    clone.activate()
    clone.until_hydrated()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("random I/O under table reloads, {region} regions", limit=120, region=REGIONS,
      defect=STALE)
def _(t, region):
    clone = t.clone(region=region, size=16 * MIB, active=False)
    clone.source.delay(2)
    clone.activate()
    load = t.load(clone, threads=6)
    for i in range(12):
        t.let_run(load, 20)
        features = [["no_hydration"], []][i % 2]
        clone.reload(features=features, core={"hydration_threshold": 1 + i},
                     noflush=i % 4 == 3)
    clone.source.heal()
    load.stop()
    clone.reload(features=[], core={})
    clone.until_hydrated()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("random I/O under suspend and resume, with and without flush", limit=120)
def _(t):
    clone = t.clone(region=8, size=8 * MIB, kind="null", active=False)
    clone.source.delay(3)
    clone.activate()
    load = t.load(clone, threads=6)
    for i in range(20):
        t.let_run(load, 10)
        clone.device.suspend(noflush=bool(i % 2))
        stopped = load.done
        time.sleep(0.05)
        if not i % 2 and load.done > stopped + 6:
            raise Failure("I/O goes on in a suspended device")
        clone.device.resume()
    clone.source.heal()
    load.stop()
    clone.until_hydrated()
    clone.check()


@test("whole reads during hydration show the source, never the destination", limit=120)
def _(t):
    clone = t.clone(region=8, size=8 * MIB, active=False,
                    core={"hydration_threshold": 4, "hydration_batch_size": 1})
    clone.source.delay(2)
    clone.activate()
    passes = 0
    clone.until(lambda s: s.hydrated, "hydration that has begun")
    while not clone.status().done:
        clone.check()
        # Only those count that have ended before hydration has.
        passes += not clone.status().done
    clone.source.heal()
    clone.check()
    if not passes:
        raise Missed("no whole read has ended before hydration")
    t.note(f"{passes} passes")


@test("every offset and length near a region boundary is written and read right",
      limit=180)
def _(t):
    region = 8
    clone = t.idle_clone(region=region, size=4 * MIB)
    place = region
    for start in range(region + 1):
        for length in range(1, 2 * region + 2):
            clone.put(place + start, length)
            clone.model.check(clone.block, place - 1, 4 * region, "around the write")
            place += 4 * region
            if place + 5 * region > clone.size:
                clone.check()
                clone.deactivate()
                clone.check_left_behind()
                clone.meta.block.fill(0, 0, 8)
                clone.dest.fill(FORMER)
                clone.model = Model(clone.size, SOURCE)
                clone.activate()
                place = region
    clone.check()


@test("a write of a whole region copies nothing, a write of a part copies the region")
def _(t):
    clone = t.idle_clone(region=128)
    with t.trace(clone.source) as trace:
        clone.put(0, 128)
        clone.put(256, 512)
    if trace.of(clone.source.number):
        raise Failure(f"the source was read: {trace.bios}")
    clone.expect(hydrated=5)
    with t.trace(clone.source) as trace:
        clone.put(128 + 64, 8)
    read = sum(b.nr for b in trace.of(clone.source.number, "R"))
    if not 120 <= read <= 128:
        raise Failure(f"{read} sectors of the source were read")
    clone.check()


@test("the destination is not read, the source not written, before hydration")
def _(t):
    clone = t.idle_clone(region=128, kind="null")
    with t.trace(clone.source, clone.dest) as trace:
        clone.check()
    if trace.of(clone.dest.number):
        raise Failure(f"I/O at the destination: {trace.of(clone.dest.number)[:5]}")
    with t.trace(clone.source, clone.dest) as trace:
        clone.random_io(ops=200).run()
        clone.hydrate()
        clone.random_io(ops=200).run()
    if trace.writes(clone.source.number):
        raise Failure(f"writes at the source: {trace.writes(clone.source.number)[:5]}")


@test("once all is hydrated the source is no longer read")
def _(t):
    clone = t.clone(region=8)
    clone.until_hydrated()
    with t.trace(clone.source) as trace:
        clone.random_io(ops=300).run()
        clone.check()
    if trace.bios:
        raise Failure(f"{len(trace.bios)} bios at the source")
    clone.source.fail()
    clone.check()


@test("what the page cache wrote is what direct I/O reads")
def _(t):
    clone = t.clone(region=8, size=8 * MIB)
    t.run("dd", "if=/dev/zero", f"of={clone.path}", "bs=1M", "seek=1", "count=3",
          "conv=fsync")
    clone.model.set(MIB * 1 * 1, 3 * MIB, 0)
    clone.check()
    clone.until_hydrated()
    clone.check()
