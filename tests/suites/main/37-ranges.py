# SPDX-License-Identifier: GPL-2.0-only
"""Messages about ranges: hydrate this first, this is empty; and zeroed_destination."""

import errno
import time

from lib.blk import FORMER, MIB, SOURCE, check_stamp
from lib.errors import Failure
from lib.framework import test

OURS = "it has nothing of the kind"


def missing(clone, first, nr):
    reply = clone.message(f"hydrate {first} {nr}")
    key, value = reply.strip().split("=")
    if key != "sectors_missing":
        raise Failure(reply)
    return int(value)


def sparse_clone(t, holes, region=8, size=4 * MIB, **args):
    """A clone whose source has holes; the model knows of them."""
    source = t.disk(size, what="source", fill=SOURCE)
    for first, nr in holes:
        source.block.fill(0, first, nr)
    args.setdefault("features", ["no_hydration"])
    clone = t.clone(region=region, size=size, source=source, **args)
    for first, nr in holes:
        clone.model.set(first, nr, 0)
    return clone


def until_idle(clone, regions):
    return clone.until(lambda s: s.hydrated >= regions and not s.hydrating,
                       f"{regions} regions")


@test("ranges that are asked for come first, in their order", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB, core={"hydration_threshold": 32})
    wanted = [(10 * MIB, 800), (3 * MIB + 4, 600), (14 * MIB, 800)]
    for first, nr in wanted:
        if missing(clone, first, nr) != nr:
            raise Failure("all of it is missing")
    if clone.status().hydrated:
        raise Failure("hydration is not enabled")
    with t.trace(clone.source) as trace:
        clone.hydrate()
    reads = sorted(trace.of(clone.source.number, "R"), key=lambda b: b.time)
    at = [bio.sector for bio in reads]
    order = [next(i for i, (first, nr) in enumerate(wanted + [(0, clone.size)])
                  if first // 8 * 8 <= sector < first + nr) for sector in at]
    if order != sorted(order) or set(order) != {0, 1, 2, 3}:
        raise Failure(f"the order of the reads: {order[:60]}")
    clone.check()


@test("hydrate tells how much of the range is missing", ours=OURS)
def _(t):
    clone = t.idle_clone(region=64, size=4 * MIB)
    clone.put(128, 64)
    for first, nr, expected in [(0, 4 * MIB, 4 * MIB - 64), (128, 64, 0), (130, 1, 0),
                                (127, 2, 1), (191, 2, 1), (120, 80, 16), (0, 1, 1),
                                (4 * MIB - 1, 1, 1)]:
        found = missing(clone, first, nr)
        if found != expected:
            raise Failure(f"{first}+{nr}: {found}, not {expected}")
    for _ in range(200):
        missing(clone, 0, 4 * MIB)
    clone.hydrate()
    if missing(clone, 0, 4 * MIB):
        raise Failure("nothing is missing")
    clone.check()


@test("ranges that make no sense are refused, and change nothing", ours=OURS)
def _(t):
    clone = t.idle_clone(size=4 * MIB)
    for word in ("hydrate", "skip"):
        for rest in ("", "0", "0 0", "x 8", "0 x", "-8 16", "0 -8", f"{4 * MIB} 8",
                     f"0 {4 * MIB + 1}", "8 18446744073709551615",
                     "18446744073709551608 16", "18446744073709551616 8", "0 8 8",
                     "0 8 8 x", f"0 8 {4 * MIB} 8", "0x0 8"):
            t.fails(lambda w=word, r=rest: clone.message(f"{w} {r}"), errno.EINVAL,
                    what=f"{word} {rest}")
    t.fails(lambda: clone.message("hydrate 0 8 8 8"), errno.EINVAL, what="two ranges")
    time.sleep(0.3)
    clone.expect(hydrated=0)
    clone.check()


@test("skipped ranges read as zeroes and are not copied, {kind} destination", ours=OURS,
      kind=["ram", "null", "loop"])
def _(t, kind):
    holes = [(100, 1000), (2 * MIB, MIB), (4 * MIB - 77, 77)]
    clone = sparse_clone(t, holes, region=64, kind=kind)
    with t.trace(clone.source) as trace:
        clone.message("skip " + " ".join(f"{first} {nr}" for first, nr in holes))
        until_idle(clone, 15 + 32 + 1)
        if clone.status().hydrated != 15 + 32 + 1:
            raise Failure(f"parts of regions: {clone.status().text}")
        clone.check()
        clone.hydrate()
    clone.check()
    skipped = 15 * 64 + MIB + 64
    clone.expect_stats(bytes_zeroed=skipped * 512,
                       bytes_copied=(clone.size - skipped) * 512)
    if any(2 * MIB <= bio.sector < 3 * MIB for bio in trace.of(clone.source.number, "R")
           if bio.sector + bio.nr <= 3 * MIB and bio.nr == 64):
        raise Failure("a skipped region was copied")
    clone.deactivate()
    clone.check_left_behind()


@test("a skip while suspended is done after resume, and found in the next life", ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, MIB)])
    clone.device.suspend()
    with t.trace(clone.dest, clone.meta) as trace:
        t.within(5, lambda: clone.message(f"skip 0 {MIB}"), "skip")
        time.sleep(0.5)
    if trace.bios or clone.status().hydrated:
        raise Failure(f"a suspended clone has done this: {trace.bios}")
    clone.device.resume()
    until_idle(clone, 256)
    clone.check()
    clone.reactivate()
    clone.expect(hydrated=256)
    clone.check()


@test("skip and hydrate do not disturb random I/O, {region} regions, {kind} destination",
      ours=OURS, region=[8, 128], kind=["ram", "null"])
def _(t, region, kind):
    clone = sparse_clone(t, [(0, 8 * MIB)], region=region, size=8 * MIB, kind=kind,
                         features=["zeroed_destination", "hydrate_on_read"], former=0,
                         core={"hydration_rate": 1024})
    load = t.load(clone, threads=5, max_sectors=400)
    while clone.status().hydrated < clone.regions // 2 and load.running:
        first = t.rng.randrange(clone.size - 600)
        clone.message(f"{t.rng.choice(('skip', 'hydrate'))} {first} {t.rng.randrange(1, 600)}")
    t.let_run(load, 50)
    load.stop()
    clone.check()
    clone.message(f"skip 0 {clone.size}")
    clone.until_hydrated()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("a skip leaves regions to those who have claimed them", ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, MIB)], region=128)
    clone.dest.hold()
    write = t.background(lambda: clone.put(256, 128))
    write.must_block()
    clone.message(f"skip 0 {MIB}")
    time.sleep(0.3)
    clone.dest.release()
    write.wait()
    until_idle(clone, 16)
    clone.check()


@test("a failed zeroing of skipped regions leaves them to be copied", ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, MIB)])
    clone.dest.fail_writes()
    clone.message(f"skip 0 {MIB}")
    t.until(lambda: clone.stats()["write_errors"], "the error")
    t.until(lambda: not clone.status().hydrating, "its end")
    clone.check()
    clone.expect(hydrated=0)
    clone.dest.heal()
    clone.hydrate()
    clone.check()


def work_of_skip(t, clone, first, nr):
    """How many bios but flushes the destination gets for a skip of whole regions."""
    before = clone.status().hydrated
    with t.trace(clone.dest) as trace:
        clone.message(f"skip {first} {nr}")
        until_idle(clone, before + nr // clone.region)
    return sum(1 for bio in trace.of(clone.dest.number) if bio.nr)


ZEROED = ["no_hydration", "zeroed_destination"]


@test("skipping regions of a new zeroed destination reads and writes nothing",
      ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, 3 * MIB)], features=ZEROED, former=0)
    if work_of_skip(t, clone, 0, MIB):
        raise Failure("a zeroed destination was looked at")
    clone.check()
    clone.reload()
    if work_of_skip(t, clone, MIB, MIB // 2):
        raise Failure("a zeroed destination was looked at, after a reload")
    clone.check()
    # An activation that has ended well has said so.
    clone.reactivate()
    if work_of_skip(t, clone, 2 * MIB, MIB // 2):
        raise Failure("a zeroed destination was looked at, in a second activation")
    clone.put(3 * MIB + 3, 5)
    clone.reactivate()
    if work_of_skip(t, clone, 5 * MIB // 2, MIB // 4):
        raise Failure("a zeroed destination was looked at, in a third activation")
    clone.check()


@test("a crash, and a table that does not say so, end that a destination counts as zeroed",
      ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, 4 * MIB)], features=ZEROED, former=0)
    clone.reactivate()
    # What a power cut leaves now; the next life begins with it.
    crashed = clone.meta.image()
    clone.deactivate()
    clone.meta.block.write(0, crashed)
    clone.activate()
    if not work_of_skip(t, clone, 0, MIB):
        raise Failure("nobody knows what the crash has left in the destination")
    clone.deactivate()

    clone.meta.block.fill(0, 0, 8)
    clone.activate()
    clone.reload(features=["no_hydration"])
    clone.deactivate()
    clone.features = ZEROED
    clone.activate()
    if not work_of_skip(t, clone, 0, MIB):
        raise Failure("a table that does not say that it's zeroed has been active")
    clone.check()


@test("the note of a zeroed destination is off the disk before anything is written there",
      ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, 4 * MIB)], features=ZEROED, former=0)
    clone.deactivate()
    noted = clone.meta.image()
    clone.activate()
    if clone.meta.image()[:4096] == noted[:4096]:
        raise Failure("the superblock is what it was while the clone was not active")
    clone.deactivate()
    if clone.meta.image()[:4096] != noted[:4096]:
        raise Failure("the superblock is not what the first activation has left")
    clone.meta.fail_writes()
    try:
        clone.activate()
    except OSError:
        return                          # refused: as good
    clone.expect(mode="ro")
    t.fails(lambda: clone.block.put(0, 8, 33), errno.EIO, what="a write that hydrates")
    clone.meta.heal()
    clone.device.suspend_resume()
    clone.expect(mode="rw")
    clone.put(0, 8)
    clone.check()


@test("a destination no longer counts as zeroed after a write has failed", ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, 3 * MIB)], features=ZEROED, former=0)
    clone.dest.fail_range(512, 8)
    # Half of this is written.
    t.fails(lambda: clone.block.put(0, MIB, 77), errno.EIO, what="the write")
    clone.dest.heal()
    clone.check()
    if not work_of_skip(t, clone, 0, MIB):
        raise Failure("what the write has left there may show")
    clone.check()
    clone.reload()
    if not work_of_skip(t, clone, MIB, MIB):
        raise Failure("the reload has forgotten")
    clone.check()


@test("a discard of unhydrated regions of a zeroed destination writes nothing", ours=OURS)
def _(t):
    clone = t.clone(features=ZEROED, former=0)
    with t.trace(clone.dest) as trace:
        clone.discard(0, MIB)
    if any(bio.nr for bio in trace.of(clone.dest.number)):
        raise Failure(str(trace.bios))
    clone.model.set(0, MIB, 0)
    clone.check()
    clone.hydrate()
    clone.check()


@test("without the argument the destination does not count as zeroed", ours=OURS)
def _(t):
    clone = sparse_clone(t, [(0, MIB)])
    if not work_of_skip(t, clone, 0, MIB):
        raise Failure("what the destination held before may show")
    check_stamp(clone.dest.block, 0, MIB, 0, "the destination")
    check_stamp(clone.dest.block, MIB, MIB, FORMER, "the rest")
    clone.check()
