# SPDX-License-Identifier: GPL-2.0-only
"""hydrate_on_read: what is read is hydrated with what was read."""

import errno
import mmap
import os
import threading
import time

from lib import modules
from lib.blk import MIB, SECTOR, SOURCE, check_stamp
from lib.errors import Failure, Missed
from lib.framework import test

OURS = "it has nothing of the kind"
READING = ["no_hydration", "hydrate_on_read"]
PAUSE = 1.1                     # seconds, after an error
SIZES = {"4 KiB": 8, "64 KiB": 128, "1 MiB": 2048}


def reading_clone(t, region, size=8 * MIB, **args):
    return t.clone(region=region, size=size, features=READING, **args)


def reads_of_source(clone, trace):
    """How often each sector of the source was read."""
    count = bytearray(clone.size)
    for bio in trace.of(clone.source.number, "R"):
        for sector in range(bio.sector, bio.sector + bio.nr):
            count[sector] += 1
    return count


def check_read_once(clone, trace, by_chance=0):
    """by_chance: this many sectors may have been read twice."""
    count = reads_of_source(clone, trace)
    twice = sum(c > 1 for c in count)
    if max(count) > 2 or min(count) < 1 or twice > by_chance:
        raise Failure(f"{count.count(0)} sectors of the source were not read, "
                      f"{twice} more than once")


def until_written(clone, regions):
    """The reads are over, but not yet the writes that follow from them."""
    return clone.until(lambda s: s.hydrated >= regions and not s.hydrating,
                       f"{regions} regions")


def until_hydrated_by(clone, read, regions):
    """Reads until it hydrates again: the pause may have begun later than it seems."""
    for _ in range(5):
        time.sleep(PAUSE)
        read()
        if clone.until(lambda s: not s.hydrating, "the end of it").hydrated >= regions:
            return
    raise Failure(clone.status().text)


@test("each sector of the source is read once, {region} regions, {nr} sectors a read",
      ours=OURS, region=SIZES, nr=[1, 8, 24, 128, 600, 4096])
def _(t, region, nr):
    clone = reading_clone(t, region, size=4 * MIB + 1000)
    step = max(nr, clone.size // 400 // nr * nr)
    with t.trace(clone.source) as trace:
        for sector in range(0, clone.size, step):
            length = min(nr, clone.size - sector)
            if clone.get(sector, 1) != [SOURCE]:
                raise Failure(f"sector {sector} is wrong")
            clone.block.read(sector, length)
        clone.hydrate()
    check_read_once(clone, trace)
    if not clone.stats()["bytes_read"]:
        raise Failure("no region was hydrated by a read")
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("each sector of the source is read once by readers at random, {region} regions",
      ours=OURS, region=SIZES)
def _(t, region):
    clone = reading_clone(t, region)
    only_reads = {"write": 0, "fua": 0, "discard": 0, "zero": 0, "flush": 0}
    largest = 400
    with t.trace(clone.source) as trace:
        clone.random_io(threads=6, ops=150, max_sectors=largest, weights=only_reads).run()
        clone.hydrate()
    # Whoever waits for a claim that is given up, because its regions were hydrated by
    # another before it was made, reads them without hydrating them.
    check_read_once(clone, trace, by_chance=4 * max(region, largest))
    clone.check()


@test("a read of two regions hydrates the first while the second is being written", ours=OURS)
def _(t):
    with modules.halting(t) as halts:
        clone = reading_clone(t, 8, size=16)
        halts.at(halts.READER)
        read = t.background(lambda: clone.get(0, 16))
        halts.until_at(halts.READER)        # it has seen that both are unhydrated
        clone.put(8, 8)
        halts.at(0)
        read.wait()
        until_written(clone, 2)
        clone.check()


@test("hydration goes on after a read that has given up its claim", ours=OURS)
def _(t):
    with modules.halting(t) as halts:
        clone = reading_clone(t, 8, size=16)
        halts.at(halts.READER)
        read = t.background(lambda: clone.get(0, 16))
        halts.until_at(halts.READER)
        clone.put(8, 8)
        halts.at(halts.READER_CLAIMED)
        halts.until_at(halts.READER_CLAIMED)
        clone.enable_hydration()            # all that is left is claimed
        time.sleep(0.3)
        clone.expect(hydrated=1)
        halts.at(0)
        read.wait()
        clone.until_hydrated()
        clone.check()


@test("a read does not wait for the destination, and a write waits for the read", ours=OURS)
def _(t):
    clone = reading_clone(t, 128)
    clone.dest.hold()
    if t.within(5, lambda: clone.get(130, 1), "the read") != [SOURCE]:
        raise Failure("wrong data")
    write = t.background(lambda: clone.put(140, 1))
    write.must_block(0.5, "a write to the region")
    clone.dest.release()
    write.wait()
    clone.expect_stats(bytes_read=65536, bytes_copied=0)
    clone.check()


@test("a write during the read of the source wins, {what}", ours=OURS,
      what={"of a part": (130, 1), "of all": (128, 128), "of more": (100, 200)})
def _(t, what):
    clone = reading_clone(t, 128)
    clone.source.hold()
    read = t.background(lambda: clone.get(128, 8))
    read.must_block()
    write = t.background(lambda: clone.put(*what))
    write.must_block()
    clone.source.release()
    read.wait()
    write.wait()
    clone.check()
    clone.hydrate()
    clone.check()


@test("what a reader does to its pages does not reach the destination", ours=OURS)
def _(t):
    clone = reading_clone(t, 128, active=False)
    clone.source.delay(30)
    clone.activate()
    buf = mmap.mmap(-1, 65536)
    junk = os.urandom(65536)
    stop = threading.Event()

    def scribble():
        while not stop.is_set():
            buf[:] = junk

    vandal = threading.Thread(target=scribble)
    vandal.start()
    for sector in range(0, clone.size, 128):
        os.preadv(clone.block.fd, [buf], sector * SECTOR)
    stop.set()
    vandal.join()
    until_written(clone, clone.regions)
    clone.check()
    check_stamp(clone.dest.block, 0, clone.size, SOURCE, "the destination")


@test("a read that meets {first} in flight waits and does not read the source again",
      ours=OURS, first={"a read": "read", "a copy": "copy"})
def _(t, first):
    clone = reading_clone(t, 128)
    with t.trace(clone.source) as trace:
        clone.source.hold()
        if first == "copy":
            clone.enable_hydration()
            clone.until(lambda s: s.hydrating, "a copy")
        jobs = [t.background(lambda s=s: clone.get(s, 8)) for s in (0, 8, 64, 120)]
        jobs[0].must_block(0.5)
        clone.source.release()
        for job in jobs:
            if job.wait() != [SOURCE] * 8:
                raise Failure("wrong data")
        clone.hydrate()
    check_read_once(clone, trace)


@test("reads that wait for a copy that fails are served in parts, or fail if they must",
      ours=OURS)
def _(t):
    clone = reading_clone(t, 8, size=MIB, core={"hydration_batch_size": 64})
    clone.source.fail_range(200, 8)
    clone.source.hold()
    clone.enable_hydration()
    clone.until(lambda s: s.hydrating >= 26, "a copy")
    good = t.background(lambda: clone.get(0, 190))
    bad = t.background(lambda: clone.get(100, 150))
    good.must_block()
    bad.must_block()
    clone.source.release()
    if good.wait() != [SOURCE] * 190:
        raise Failure("wrong data")
    t.fails(bad.wait, errno.EIO, what="a read of the bad sectors")
    clone.source.heal()
    clone.hydrate()
    clone.check()


@test("reads that wait for a copy that stops half-way are served in parts", ours=OURS)
def _(t):
    clone = reading_clone(t, 8, size=512, core={"hydration_batch_size": 64})
    # The batch fails, and is copied again region by region, until somebody waits for it.
    clone.source.fail_range(480, 8, delay=60)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated >= 2, "the first regions")
    if clone.get(0, 400) != [SOURCE] * 400:
        raise Failure("wrong data")
    status = clone.status()
    t.note(f"{status.hydrated} regions hydrated meanwhile")
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("a source that fails {bad} what is read does not make the read fail", ours=OURS,
      bad={"before": (128, 32), "after": (176, 80)})
def _(t, bad):
    clone = reading_clone(t, 128)
    # The error comes before the data that was asked for.
    clone.source.fail_range(*bad, delay=50)
    if clone.get(160, 16) != [SOURCE] * 16:
        raise Failure("wrong data")
    t.until(lambda: clone.stats()["read_errors"], "the error")
    if clone.status().hydrated:
        raise Failure("a region was hydrated that could not be read")
    t.fails(lambda: clone.get(bad[0], 1), errno.EIO, what="a read of the bad sector")
    clone.source.heal()
    until_hydrated_by(clone, lambda: clone.get(bad[0], 1), 1)
    clone.check()


@test("a destination that fails does not make the read fail", ours=OURS)
def _(t):
    clone = reading_clone(t, 8)
    clone.dest.fail_writes()
    began = time.monotonic()
    for _ in range(3):
        if clone.get(0, 256) != [SOURCE] * 256:
            raise Failure("wrong data")
        t.until(lambda: not clone.status().hydrating, "the end of the write")
    if time.monotonic() - began > 1:
        raise Missed("it may be tried again after a second")
    clone.expect_stats(write_errors=1)          # it is not tried again and again
    clone.expect(hydrated=0)
    clone.dest.heal()
    until_hydrated_by(clone, lambda: clone.get(0, 256), 32)
    clone.check()


def read_in_sequence(t, clone, first):
    """(reads of the source for 128 of a user, sectors that are read ahead in the end)"""
    before = clone.status().hydrated * 8
    with t.trace(clone.source) as trace:
        for sector in range(first, first + 2 * MIB, 32):
            clone.get(sector, 32)
        got = clone.until(lambda s: not s.hydrating, "an end").hydrated * 8 - before
    return len(trace.of(clone.source.number, "R")), got - 2 * MIB


@test("sequential reads are read ahead", ours=OURS)
def _(t):
    clone = reading_clone(t, 8, size=16 * MIB, active=False)
    clone.source.delay(20)
    clone.activate()
    # When the worker that reads ahead stands still, the reader is faster: not each time.
    for first in range(0, 15 * MIB, 5 * MIB):
        reads, ahead = read_in_sequence(t, clone, first)
        t.note(f"{reads} reads of the source for 128 of a user, {ahead // 2} KiB ahead")
        if ahead >= 512 and reads <= 64:
            break
    else:
        raise Failure("nothing is read ahead")
    clone.check()
    clone.hydrate()
    clone.check()


@test("reads at random are not read ahead", ours=OURS)
def _(t):
    clone = reading_clone(t, 8, size=32 * MIB)
    places = t.rng.sample(range(0, clone.size, 256), 100)
    for sector in places:
        clone.get(sector, 8)
    status = until_written(clone, len(places))
    if status.hydrated != len(places):
        raise Failure(f"{status.hydrated} regions for {len(places)} reads")


@test("more reads than the bound on memory allows are served", ours=OURS)
def _(t):
    clone = reading_clone(t, 8, size=64 * MIB)
    clone.dest.hold()
    jobs = [t.background(lambda n=n: clone.get(n * 3072, MIB)) for n in range(40)]
    for job in jobs:
        if job.wait() != [SOURCE] * MIB:
            raise Failure("wrong data")
    clone.dest.release()
    if clone.until(lambda s: not s.hydrating, "the end of it").hydrated * 8 > 20 * MIB:
        raise Failure("memory without bound")
    clone.check()


@test("a read does not wait for a skip of its region", ours=OURS)
def _(t):
    source = t.disk(4 * MIB, what="source", fill=0)
    clone = t.clone(region=8, features=READING, source=source)
    clone.model.set(0, clone.size, 0)
    clone.dest.hold()
    clone.message(f"skip 0 {clone.size}")
    clone.until(lambda s: s.hydrating, "the skip")
    if any(t.within(5, lambda: clone.get(80, 16), "the read")):
        raise Failure("wrong data")
    clone.dest.release()
    clone.until_hydrated()
    clone.check()


@test("suspend waits for what reads have begun to hydrate, and commits it", ours=OURS)
def _(t):
    clone = reading_clone(t, 8)
    clone.dest.hold()
    clone.get(0, 800)
    suspend = t.background(lambda: clone.device.suspend(noflush=True))
    suspend.must_block()
    clone.dest.release()
    suspend.wait()
    clone.device.resume()
    if clone.status().hydrated < 100:
        raise Failure(clone.status().text)
    clone.reactivate()
    if clone.status().hydrated < 100:
        raise Failure("it was not committed")
    clone.check()


@test("reads go on when the metadata has failed", ours=OURS)
def _(t):
    clone = reading_clone(t, 8)
    clone.meta.fail()
    clone.put(0, 8)
    t.fails(clone.flush, errno.EIO, what="a flush")
    if clone.get(0, 64)[8:] != [SOURCE] * 56:
        raise Failure("wrong data")
    clone.check()
    if clone.status(noflush=True).mode not in ("ro", "Fail"):
        raise Failure(clone.status().text)


@test("random I/O with all features, {region} regions, {kind} destination", ours=OURS,
      region=SIZES, kind=["ram", "null"])
def _(t, region, kind):
    clone = t.clone(region=region, size=8 * MIB, kind=kind, active=False,
                    features=["hydrate_on_read", "zeroed_destination"],
                    former=0, core={"hydration_rate": 2048})
    clone.source.delay(2)
    clone.activate()
    load = t.load(clone, threads=6, max_sectors=600)
    for turn in range(4):
        t.let_run(load, 150)
        clone.device.suspend(noflush=turn % 2)
        clone.device.resume()
        t.let_run(load, 50)
        clone.reload(noflush=turn % 2 == 0)
    load.stop()
    clone.check()
    clone.message("hydration_rate 0")
    clone.until_hydrated()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("hydrate_on_read is refused with regions that are too large", ours=OURS)
def _(t):
    t.fails(lambda: t.clone(region=4096, features=READING), errno.EINVAL)
    clone = reading_clone(t, 2048)
    clone.expect(features=READING)
