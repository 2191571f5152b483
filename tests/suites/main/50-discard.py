# SPDX-License-Identifier: GPL-2.0-only
"""Discards and write-zeroes: no copy, no leak of what the destination held."""

import errno
import time

from lib.blk import FORMER, MIB, SOURCE, ZERO
from lib.errors import Failure
from lib.framework import test

KINDS = {"a disk with discard": "null", "a disk with discard and write zeroes": "loop",
         "a disk without discard": "ram"}
KEEPING = ["no_hydration", "no_discard_passdown"]
LEAK = "what the destination held before is shown"


def all_kinds(sentence, **more):
    """One test a kind of destination; only one of them shows the defect."""
    def decorate(fn):
        for name, kind in KINDS.items():
            test(sentence.format(kind=name), defect=LEAK if kind == "ram" else None,
                 **more)(lambda t, kind=kind: fn(t, kind))
    return decorate


def no_copy(clone, trace):
    if trace.of(clone.source.number, "R"):
        raise Failure(f"the source was read: {trace.of(clone.source.number)[:5]}")


@all_kinds("discarded regions read as zeroes, now and in the next life: {kind}")
def _(t, kind):
    clone = t.idle_clone(region=128, kind=kind)
    clone.discard(128, 10 * 128)
    clone.model.set(128, 10 * 128, ZERO)
    clone.check()
    clone.reactivate()
    clone.finish()


@all_kinds("a discard of unhydrated regions copies nothing: {kind}")
def _(t, kind):
    clone = t.idle_clone(region=128, kind=kind)
    with t.trace(clone.source) as trace:
        clone.discard(0, 20 * 128)
        clone.flush()
    no_copy(clone, trace)
    clone.expect(hydrated=20)
    clone.model.set(0, 20 * 128, ZERO)
    clone.check()


@all_kinds("the ends of a discard that cover only parts of regions stay as they are: {kind}")
def _(t, kind):
    region = 128
    clone = t.idle_clone(region=region, kind=kind)
    clone.discard(1, 4 * region - 2)
    clone.model.set(region, 2 * region, ZERO)
    clone.discard(10 * region + 8, region - 16)
    clone.discard(20 * region - 8, 16)
    clone.discard(30 * region, region - 1)
    clone.check()
    clone.expect(hydrated=2)


@all_kinds("a discard of the whole device hydrates it at once: {kind}")
def _(t, kind):
    clone = t.idle_clone(region=8, size=8 * MIB, kind=kind)
    event = clone.device.info().event_nr
    with t.trace(clone.source) as trace:
        clone.discard()
        clone.flush()
        clone.until_hydrated()
    no_copy(clone, trace)
    clone.model.set(0, clone.size, ZERO)
    clone.check()
    t.until(lambda: clone.device.info().event_nr != event, "the event")
    clone.reactivate()
    clone.check()


@all_kinds("a discard over hydrated and unhydrated regions by turns: {kind}")
def _(t, kind):
    region = 16
    clone = t.idle_clone(region=region, size=MIB, kind=kind)
    for i in range(0, 60, 3):
        clone.put(i * region, region)
    clone.put(30 * region + 3, 5)
    clone.discard(5, 61 * region)
    clone.model.maybe(5, 61 * region, ZERO)     # hydrated: as the disk does it
    for i in range(1, 60):
        if i % 3 and i != 30:
            clone.model.set(i * region, region, ZERO)
    clone.model.set(0, 5, clone.get(0)[0])
    clone.check()
    clone.reactivate()
    clone.check()


@test("discards are passed down if the destination takes them, of unhydrated regions only "
      "whole ones")
def _(t):
    region = 128
    clone = t.idle_clone(region=region, kind="null")
    with t.trace(clone.dest) as trace:
        clone.discard(8, 4 * region)
    got = sorted((b.sector, b.nr) for b in trace.of(clone.dest.number, "D"))
    sectors = sum(nr for _, nr in got)
    if sectors != 3 * region or got[0][0] != region:
        raise Failure(f"discards of (sector, length) {got}")


@test("a discard of part of a hydrated region is passed down",
      ours="it passes down whole regions only")
def _(t):
    clone = t.idle_clone(region=128, kind="null")
    clone.put(0, 256)
    with t.trace(clone.dest) as trace:
        clone.discard(8, 64)
        clone.discard(120, 16)
    sectors = sum(b.nr for b in trace.of(clone.dest.number, "D"))
    if sectors != 64 + 16:
        raise Failure(f"{trace.of(clone.dest.number)}")
    clone.model.set(8, 64, ZERO)
    clone.model.set(120, 16, ZERO)
    clone.check()


@test("with no_discard_passdown a discard only updates the metadata: what the destination "
      "holds is kept and read, {kind} destination", kind=["ram", "null", "loop"])
def _(t, kind):
    region = 128
    clone = t.clone(region=region, kind=kind, features=KEEPING)
    clone.put(0, 4 * region)
    with t.trace(clone.dest, clone.source) as trace:
        clone.discard(8, 10 * region)
        clone.discard(20 * region, clone.size - 20 * region)
    if trace.of(clone.dest.number) or trace.of(clone.source.number):
        raise Failure(f"not the metadata only: {trace.bios[:8]}")
    clone.model.set(4 * region, 6 * region, FORMER)
    clone.model.set(20 * region, clone.size - 20 * region, FORMER)
    clone.check()
    clone.flush()
    clone.deactivate()
    clone.check_left_behind()
    clone.activate()
    clone.check()


@test("lost metadata is rebuilt by discards with no_discard_passdown")
def _(t):
    region = 8
    clone = t.clone(region=region, features=KEEPING)
    for i in range(0, clone.regions, 7):
        clone.put(i * region, region)
    clone.put(3 * region + 2, 3)
    clone.deactivate()
    known = clone.check_left_behind()
    clone.meta.block.fill(0, 0, 8)
    clone.activate()
    clone.expect(hydrated=0)
    for i in range(clone.regions):
        if known[i // 8] >> i % 8 & 1:
            clone.discard(i * region, region)
    clone.check()
    clone.features = []
    clone.reactivate()
    clone.until_hydrated()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("a discard of hydrated data changes nothing if the destination takes no discards")
def _(t):
    clone = t.idle_clone(region=128, kind="ram")
    clone.put(0, 1024)
    clone.discard(0, 1024)
    clone.check()


@test("discarded regions can be written again: {kind}", kind=KINDS)
def _(t, kind):
    region = 128
    clone = t.idle_clone(region=region, kind=kind)
    for i in range(40):
        clone.discard(i * region, region)
        clone.put(i * region, region)
    clone.discard(50 * region, 4 * region)
    clone.put(50 * region, 2 * region)
    clone.put(52 * region, 2 * region)
    clone.check()
    clone.reactivate()
    clone.check()


@test("a partial write into a discarded region leaves zeroes around it", defect=LEAK)
def _(t):
    region = 128
    clone = t.idle_clone(region=region)
    clone.discard(0, 4 * region)
    clone.model.set(0, 4 * region, ZERO)
    clone.put(region + 5, 3)
    clone.put(2 * region - 1, 2)
    clone.check()


@test("a discard meets a copy in flight: a write after it stays ({how})",
      defect="the copy overwrites what was written after the discard",
      how={"slow source": "delay", "held source": "hold"})
def _(t, how):
    clone = t.clone(region=8, size=64, kind="null", active=False,
                    core={"hydration_threshold": 64, "hydration_batch_size": 8})
    if how == "delay":
        clone.source.delay(1500)
    else:
        clone.source.hold()
    clone.activate()
    clone.until(lambda s: s.hydrating or s.done, "a copy in flight")
    t.midway(clone)
    discard = t.background(lambda: clone.discard(0, 64))
    if how == "hold" and not discard.join(0.5):
        clone.source.release()                  # the discard waits for the copy
    discard.wait(30, "the discard")
    clone.model.set(0, 64, ZERO)
    clone.put(0, 8)
    clone.put(10, 3)
    clone.put(24, 40)
    clone.check()
    clone.source.heal()
    clone.until_hydrated()
    clone.until(lambda s: not s.hydrating, "the end of all copies")
    time.sleep(0.5)                             # the status need not know of it
    clone.check()
    clone.reactivate()
    clone.check()


@test("a discard meets a copy on demand: both the write and the discard count",
      defect="the copy overwrites what was written after the discard")
def _(t):
    clone = t.idle_clone(region=128, kind="null")
    clone.source.hold()
    first = t.background(lambda: clone.block.put(3, 5, 50))
    first.must_block(0.2, "a write that needs a copy")
    discard = t.background(lambda: clone.discard(0, 128))
    discard.join(0.3)
    second = t.background(lambda: clone.block.put(64, 8, 51))
    second.join(0.3)
    clone.source.release()
    for job in first, discard, second:
        job.wait()
    clone.model.maybe(0, 128, ZERO)
    clone.model.set(3, 5, 50)
    clone.model.maybe(3, 5, ZERO)
    clone.model.set(64, 8, 51)
    clone.model.maybe(64, 8, ZERO)              # not ordered: both were in flight
    clone.check()
    clone.reactivate()
    clone.check()


@all_kinds("a write that meets a discard in flight is not undone by it: {kind}")
def _(t, kind):
    clone = t.idle_clone(region=128, kind=kind)
    clone.dest.hold()
    discard = t.background(lambda: clone.discard(0, 256))
    discard.join(0.3)
    write = t.background(lambda: clone.block.put(8, 16, 60))
    write.join(0.3)
    clone.dest.release()
    discard.wait()
    write.wait()
    found = clone.get(8, 16)
    if found not in ([60] * 16, [0] * 16):      # in flight together: either
        raise Failure(str(found))
    clone.model.set(0, 256, ZERO)
    clone.model.set(8, 16, found[0])
    clone.check()
    clone.put(8, 16)
    clone.check()
    clone.reactivate()
    clone.check()


@test("write-zeroes of whole regions needs no copy and leaves zeroes: {kind}",
      kind=KINDS)
def _(t, kind):
    clone = t.idle_clone(region=128, kind=kind)
    with t.trace(clone.source) as trace:
        clone.block.zeroout(128, 1280)
    no_copy(clone, trace)
    clone.model.set(128, 1280, ZERO)
    clone.check()
    clone.reactivate()
    clone.check()


@test("write-zeroes of parts of regions leaves the rest as it was: {kind}",
      kind=KINDS)
def _(t, kind):
    clone = t.idle_clone(region=128, kind=kind)
    for sector, nr in (7, 250), (1000, 1), (2047, 2), (3000, 128), (4095, 514):
        clone.block.zeroout(sector, nr)
        clone.model.set(sector, nr, ZERO)
    clone.check()
    clone.reactivate()
    clone.check()


@test("write-zeroes is passed down if the destination has it",
      ours="it offers none")
def _(t):
    # A loop device may only have what its file system has.
    clone = t.idle_clone(region=128, kind="scsi")
    clone.put(0, 1024)
    with t.trace(clone.dest) as trace:
        clone.block.zeroout(0, 1024)
        clone.block.punch(2048, 1024)
    zeroes = sum(b.nr for b in trace.of(clone.dest.number, "N"))
    if zeroes < 2048:
        raise Failure(f"{trace.of(clone.dest.number)[:10]}")
    clone.model.set(0, 1024, ZERO)
    clone.model.set(2048, 1024, ZERO)
    clone.check()


@test("secure erase is not offered: it is refused, and changes nothing")
def _(t):
    clone = t.idle_clone(region=128, kind="null")
    t.fails(lambda: clone.block.secure_discard(0, 1024), errno.EOPNOTSUPP)
    clone.check()


@test("discards among many copies and writes never lose a write", limit=120,
      defect="copies overwrite what was written after a discard")
def _(t):
    weights = {"read": 10, "write": 45, "discard": 45, "zero": 0, "fua": 0, "flush": 0}
    for _ in range(6):
        clone = t.clone(region=8, size=MIB, kind="null", active=False,
                        core={"hydration_threshold": 256, "hydration_batch_size": 4})
        clone.source.delay(300)
        clone.activate()
        clone.random_io(ops=300, threads=12, max_sectors=32, align=8,
                        weights=weights).run()
        clone.until_hydrated()
        clone.until(lambda s: not s.hydrating, "the end of all copies")
        clone.check()
        clone.source.heal()
        clone.deactivate()
        clone.check_left_behind()


@all_kinds("a short last region can be discarded as a whole: {kind}")
def _(t, kind):
    region, size = 128, 10 * 128 + 24
    clone = t.idle_clone(region=region, size=size, kind=kind)
    clone.discard(10 * region, 24)
    if clone.status().hydrated not in (0, 1):
        raise Failure(clone.status().text)
    clone.model.maybe(10 * region, 24, ZERO)
    clone.check()
    clone.discard(9 * region, region + 24)
    clone.model.maybe(9 * region, region + 24, ZERO)
    clone.check()
    clone.reactivate()
    clone.check()
    clone.hydrate()
    clone.check()


@test("stamps tell the source's data from the destination's old data")
def _(t):
    clone = t.idle_clone(region=8, size=64)
    if clone.get(0) != [SOURCE] or clone.dest.block.get(0) != [FORMER]:
        raise Failure("the devices are not what the tests think they are")
