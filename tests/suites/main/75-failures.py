# SPDX-License-Identifier: GPL-2.0-only
"""Metadata, destination and source fail: nothing acknowledged is lost, the request
that met the error hears of it, and there is a way back."""

import errno
import time

from lib import disks, kmsg, metadata
from lib.blk import MIB, SOURCE, ZERO
from lib.errors import Failure, Missed
from lib.framework import test

LOST = "once the metadata has failed, reads return the source's old data"
MODES = "it has other modes"


def fail_metadata(clone, how="writes"):
    if how == "writes":
        clone.meta.fail_writes()
    else:
        clone.meta.fail()


def put_before_the_clock(clone, began, *where):
    """A write that the clone must take, unless the clock has tried to commit before:
    not earlier than a second after it began, with the first write of all."""
    try:
        clone.put(*where)
    except OSError as error:
        if time.monotonic() - began > 0.9 and clone.mode() != "rw":
            raise Missed("the clock has tried to commit before") from error
        raise


HOW = {"writes": "writes", "everything": "all"}


# The metadata device


@test("the metadata fails ({how}): reads still return what was written",
      how=HOW, defect=LOST)
def _(t, how):
    clone = t.idle_clone(region=8)
    began = time.monotonic()
    clone.put(0, 64)
    clone.flush()
    fail_metadata(clone, how)
    clone.put(512, 64)
    put_before_the_clock(clone, began, 1029, 3)
    time.sleep(2.2)                             # commits fail meanwhile
    clone.until_mode("ro|Fail")
    clone.check()
    time.sleep(1.2)
    clone.check()


@test("the metadata fails while writes go on: each acknowledged one is read back",
      limit=90, defect=LOST)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB, kind="null")
    load = t.load(clone, threads=6, errors_ok=True, max_sectors=256)
    t.let_run(load, 100)
    clone.meta.fail_writes()
    clone.until_mode("ro|Fail")
    t.let_run(load, 200)
    load.stop()
    clone.check()
    t.note(f"{load.done} operations, {load.errors()} errors")


@test("the metadata fails during hydration: reads are right",
      limit=90, defect=LOST)
def _(t):
    clone = t.clone(region=8, size=4 * MIB, active=False,
                    core={"hydration_threshold": 4, "hydration_batch_size": 1})
    clone.source.delay(40)
    clone.activate()
    load = t.load(clone, threads=4, errors_ok=True, max_sectors=64)
    t.let_run(load, 60)
    clone.meta.fail_writes()
    t.midway(clone)                             # else there is nothing to commit
    clone.until_mode("ro|Fail")
    time.sleep(1)
    load.stop()
    clone.check()


@test("the metadata fails: flushes fail as long as something written depends on it")
def _(t):
    clone = t.idle_clone(region=8)
    fail_metadata(clone)
    clone.put(512, 64)
    t.fails(clone.flush, errno.EIO, what="the flush")
    t.fails(clone.flush, errno.EIO, what="the next flush")
    clone.until_mode("ro|Fail")


@test("the metadata fails: a write with FUA that needs it fails")
def _(t):
    clone = t.idle_clone(region=8)
    fail_metadata(clone)
    t.fails(lambda: clone.block.put(64, 8, 20, fua=True), errno.EIO, what="the write")
    clone.model.maybe(64, 8, 20)


@test("the metadata fails: reads, and writes to hydrated regions, go on", ours=MODES)
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 64)
    clone.flush()
    fail_metadata(clone)
    clone.put(512, 8)
    clone.until_mode("ro|Fail")
    clone.put(0, 16)
    clone.put(30, 5)
    clone.put(513, 2)                           # hydrated, not committed
    clone.check()


@test("the metadata has failed: what would need it gets an error, and changes nothing",
      ours=MODES)
def _(t):
    clone = t.idle_clone(region=8, kind="null")
    fail_metadata(clone)
    clone.put(512, 8)
    clone.until_mode("ro|Fail")
    t.fails(lambda: clone.block.put(0, 8, 20), errno.EIO, what="a write")
    t.fails(lambda: clone.block.put(67, 2, 20), errno.EIO, what="a partial write")
    t.fails(lambda: clone.block.put(500, 30, 20), errno.EIO, what="a write over both")
    clone.model.maybe(500, 30, 20)
    try:
        clone.discard(128, 64)
        clone.model.maybe(128, 64, ZERO)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    clone.check()


@test("the metadata has failed: hydration stops, and the device can be removed")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, active=False,
                    core={"hydration_threshold": 2, "hydration_batch_size": 1})
    clone.source.hold_from(2 * MIB, delay=20)
    clone.activate()
    clone.until(lambda s: s.hydrated, "some hydration")
    clone.meta.fail()
    clone.source.delay(20)
    clone.until_mode("ro|Fail", 20)
    t.within(10, clone.deactivate, "removal")


@test("the metadata is back: suspend and resume make the clone rw again, nothing is lost",
      ours="it stays as it is")
def _(t):
    for how in "writes", "all":
        clone = t.idle_clone(region=8)
        began = time.monotonic()
        clone.put(0, 8)
        clone.flush()
        fail_metadata(clone, how)
        clone.put(512, 64)
        put_before_the_clock(clone, began, 1029, 3)
        clone.until_mode("ro|Fail")
        t.fails(clone.flush)
        clone.meta.heal()
        clone.device.suspend_resume()
        clone.until_mode("rw")
        clone.check()
        clone.put(2048, 9)
        clone.flush()
        clone.reactivate()
        clone.finish()


@test("suspend and resume while the metadata is gone do no harm, and it comes back",
      ours="it stays as it is")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 8)
    clone.flush()
    clone.meta.fail()
    clone.put(512, 64)
    clone.until_mode("ro|Fail")
    for noflush in False, True:
        t.within(10, lambda n=noflush: clone.device.suspend(noflush=n), "suspend")
        t.within(10, clone.device.resume, "resume")
        clone.check()
    clone.meta.heal()
    clone.device.suspend_resume()
    clone.until_mode("rw")
    clone.flush()
    clone.reactivate()
    clone.check()


class TwoSuperblocks:
    """A clone whose metadata device has a superblock that was flushed, and after it
    got another one that was not."""

    def __init__(self, t):
        self.t = t
        self.base = t.metadata(kind="null")     # which has a cache
        self.meta = t.add_disk(disks.Cache(t.name("cache"), self.base))
        self.clone = t.idle_clone(region=8, meta=self.meta)
        self.clone.put(0, 64)
        self.clone.reactivate()                 # then it looks for room from the start
        self.clone.put(64, 64)
        self.clone.flush()
        self.flushed = self.base.block.read(0, 8)
        self.bitmap = self._bitmap()

    def _bitmap(self):
        return metadata.Superblock(self.flushed).bitmap(self.base.block, self.clone.regions)

    def fail_flush(self):
        """It fails after the superblock's write, and from then on."""
        t, clone = self.t, self.clone
        self.meta.hold_some(superblock=True)
        clone.put(512, 64)
        flush = t.background(clone.flush)
        t.until(lambda: self.meta.waiting, "a superblock on its way")
        clone.put(1024, 64)                     # something for the next transaction
        self.meta.flushes.fail_writes()
        self.meta.hold_some()
        t.fails(lambda: flush.wait(10, "a flush"), errno.EIO, what="the flush")
        clone.until_mode("ro|Fail")
        if self.base.block.read(0, 8) == self.flushed:
            raise Failure("there is no newer superblock")

    def cut_power(self):
        """The older superblock is as good as ever."""
        metadata.check(self.left_by_power_cut())
        if self._bitmap() != self.bitmap:
            raise Failure("blocks of the older superblock are not what they were")

    def activate(self, lost):
        """With the newer superblock in the cache only. If it's lost it is there to be
        read, and that's all: flushed is what was written since."""
        with self.t.trace(self.meta) as trace:
            self.clone.activate()
        bios = trace.of(self.meta.number)
        if lost:
            written = [i for i, b in enumerate(bios) if b.writes and not b.sector]
            bios = bios[written[0] + 1:] if written else []
        if any(b.flush for b in bios):
            self.flushed = self.base.block.read(0, 8)
            self.bitmap = self._bitmap()

    def left_by_power_cut(self):
        """What the metadata device has then: whatever was not flushed is there, but for
        the newer superblock."""
        return self.flushed + self.base.image()[len(self.flushed):]

    def activate_with(self, image):
        """On a metadata device that has this."""
        metadata.check(image)
        self.clone.deactivate()
        self.base.block.write(0, image)
        self.clone.activate()
        self.clone.check()


@test("a flush of the metadata fails after the superblock's write, and so do attempts to "
      "recover: the previous superblock stays good", ours="it has no way back")
def _(t):
    two = TwoSuperblocks(t)
    two.fail_flush()
    two.cut_power()
    for _ in range(3):
        two.clone.device.suspend_resume()
        two.clone.until_mode("ro|Fail")
        two.clone.check()
        two.cut_power()

    for where in 512, 1024:
        two.clone.model.maybe(where, 64, SOURCE)
    two.clone.deactivate()
    two.meta.heal()
    two.base.block.write(0, two.flushed)
    two.clone.activate()
    two.clone.check()


@test("a flush of the metadata has failed after the superblock's write: when the clone "
      "recovers a superblock is written and flushed before anything else",
      ours="it has no way back")
def _(t):
    two = TwoSuperblocks(t)
    two.fail_flush()
    two.meta.flushes.heal()
    with t.trace(two.meta) as trace:
        two.clone.device.suspend_resume()
        two.clone.until_mode("rw")
    changes = [b for b in trace.of(two.meta.number) if b.writes]
    first = trace.bios.index(changes[0])
    between = trace.bios[first:trace.bios.index(changes[1])]
    if changes[0].sector or not any(b.flush for b in between):
        raise Failure(f"{changes[:3]}, in between: {between}")
    two.clone.check()
    two.clone.reactivate()
    two.clone.check()


@test("a superblock that {how} is read, built upon, and power is cut: the one that is left "
      "is good, and covers what was flushed", ours="it trusts what it reads",
      how={"a reset has left in a cache": False, "a failed flush has left in a cache": True})
def _(t, how):
    two = TwoSuperblocks(t)
    if how:
        two.fail_flush()
    else:
        two.clone.put(512, 64)
        two.clone.flush()                       # now say that this was not flushed
    two.clone.deactivate()
    two.meta.heal()
    two.activate(lost=how)
    two.clone.put(512, 9)                       # committed, by what was read
    two.clone.flush()
    image = two.left_by_power_cut()

    two.meta.hold_some(flush=True)
    two.clone.put(1024, 64)
    flush = t.background(two.clone.flush)
    t.until(lambda: two.meta.waiting, "a flush of the next transaction's blocks")
    two.cut_power()
    two.meta.hold_some()
    flush.wait(10, "a flush")
    two.clone.model.maybe(1024, 64, SOURCE)
    two.activate_with(image)


@test("a superblock that a failed flush has left in a cache says that all is hydrated: power "
      "is cut, and what was flushed is found", ours="it trusts what it reads")
def _(t):
    two = TwoSuperblocks(t)
    clone = two.clone
    clone.put(0, 512)
    clone.put(576, clone.size - 576)
    clone.flush()
    two.flushed = two.base.block.read(0, 8)
    two.fail_flush()
    clone.deactivate()
    two.meta.heal()
    two.activate(lost=True)
    clone.expect_stats(state="done")            # by the superblock in the cache
    clone.put(512, 9)
    clone.flush()
    two.activate_with(two.left_by_power_cut())


@test("an activation cannot write the superblock again, {what}: ro, and flushes fail; "
      "rw after resume", ours="it does not write it",
      what={"hydration goes on": False, "all is hydrated": True})
def _(t, what):
    clone = t.idle_clone(region=8)
    clone.put(0, clone.size if what else 64)
    clone.reactivate()
    clone.deactivate()
    clone.meta.fail_writes()
    clone.activate()
    clone.until_mode("ro")
    clone.put(0, 16)
    t.fails(clone.flush, errno.EIO, what="a flush")
    if not what:
        t.fails(lambda: clone.block.put(512, 8, 20), errno.EIO, what="a write")
    clone.device.suspend_resume()
    clone.until_mode("ro")
    t.fails(clone.flush, errno.EIO, what="a flush")
    clone.check()
    clone.meta.heal()
    clone.device.suspend_resume()
    clone.until_mode("rw")
    clone.put(512, 8)
    clone.flush()
    if what:
        clone.expect_stats(state="done")
    clone.reactivate()
    clone.check()


@test("the metadata fails, the clone is removed, the metadata is back: "
      "what was flushed is there")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 64)
    clone.flush()
    clone.meta.fail()
    clone.block.put(512, 64, 20)
    clone.model.maybe(512, 64, 20)
    clone.until_mode("ro|Fail")
    clone.deactivate()
    clone.meta.heal()
    clone.activate()
    clone.check()


@test("a failed clone reports: {how} fails, status ro or Fail, one line a kind in the log",
      how=HOW)
def _(t, how):
    clone = t.idle_clone(region=8)
    event = clone.device.info().event_nr
    log = kmsg.Log()
    fail_metadata(clone, how)
    clone.put(512, 64)
    status = clone.until_mode("ro|Fail")
    if status.mode == "ro" and status.regions != clone.regions:
        raise Failure(status.text)
    t.until(lambda: clone.device.info().event_nr != event, "the event")
    time.sleep(3)
    lines = [line for line in log.read() if "clone" in line]
    if not lines:
        raise Failure("nothing in the log")
    if not t.peer and len(lines) > 12:
        raise Failure(f"expected 12 lines in the log at most, found {len(lines)}:\n" +
                      "\n".join(lines))
    twice = sorted({line for line in lines if lines.count(line) > 1})
    if not t.peer and twice:
        raise Failure("expected each line once in the log, found more of:\n" + "\n".join(twice))


@test("status, table and messages answer on a failed clone")
def _(t):
    clone = t.idle_clone(region=8)
    clone.meta.fail()
    clone.put(0, 8)
    clone.until_mode("ro|Fail")
    t.within(10, clone.device.status, "status")
    t.within(10, lambda: clone.status(noflush=False), "status")
    table = t.within(10, clone.device.table, "table")
    if not t.peer and table[0][3] != clone.line():
        raise Failure(str(table))
    t.within(10, lambda: clone.message("hydration_threshold 7"), "a message")
    t.within(10, clone.enable_hydration, "a message")
    t.within(10, clone.device.info, "info")


@test("the smallest metadata devices that are accepted last, or fail the clone only",
      limit=120, ours="it takes the kernel down with it")
def _(t):
    accepted = []
    for blocks in range(4, 24):
        clone = t.idle_clone(meta=t.disk(blocks * 8, fill=0), source=t.disk(8 * MIB),
                             dest=t.disk(8 * MIB), size=8 * MIB, former=None,
                             active=False)
        try:
            clone.activate()
        except OSError:
            continue
        accepted.append(blocks)
        for region in range(0, clone.regions, 50):
            try:
                clone.put(region * 8, 8)
                clone.flush()
            except OSError:
                break
        t.within(10, clone.status, "status")
        t.within(10, clone.deactivate, "removal")
    t.note(f"{accepted[0]} blocks are enough" if accepted else "none accepted")


@test("a metadata device that shrinks under a clone fails the clone only",
      ours="it takes the kernel down with it")
def _(t):
    clone = t.idle_clone(meta=t.metadata(4096), size=64 * MIB, source=t.disk(64 * MIB),
                         dest=t.disk(64 * MIB), former=None)
    clone.put(0, 8)
    clone.flush()
    clone.meta.shrink_to(64)
    for region in range(0, clone.regions, 100):
        try:
            clone.put(region * 8, 8)
            clone.flush()
        except OSError:
            break
    else:
        t.skip("it never needed more than that")
    t.within(10, clone.status, "status")
    t.within(10, clone.deactivate, "removal")


# The source


@test("the source fails: reads from it get errors, hydrated regions none")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 64)
    clone.source.fail()
    t.fails(lambda: clone.get(512), errno.EIO, what="a read from the source")
    t.fails(lambda: clone.block.put(515, 2, 20), errno.EIO, what="a partial write")
    clone.put(0, 64)
    clone.put(64, 8)                            # whole regions need no source
    clone.put(1024, 128)
    clone.flush()
    clone.source.heal()
    clone.check()
    clone.expect(mode="rw")


@test("the source fails during hydration, and comes back: hydration ends well")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, active=False,
                    core={"hydration_threshold": 8, "hydration_batch_size": 4})
    # However slow this test is: it can't be over before the source's table is swapped.
    # While it is, what was held goes on, as fast as it can.
    clone.source.hold_from(2 * MIB, delay=3)
    clone.activate()
    clone.until(lambda s: s.hydrated > 20, "some hydration")
    clone.source.fail()
    clone.put(3 * MIB, 16)
    if t.peer:
        time.sleep(1.5)
    else:
        t.until(lambda: clone.status().done or clone.stats()["read_errors"],
                "errors of the source")
        if not clone.stats()["read_errors"]:
            t.midway(clone)
    clone.expect(done=False, mode="rw")
    clone.source.heal()
    clone.hydrate(60)
    clone.check()


@test("one bad sector in the source costs its own region only")
def _(t):
    clone = t.clone(region=8, size=2 * MIB, active=False,
                    core={"hydration_threshold": 256, "hydration_batch_size": 64})
    clone.source.fail_range(1003, 1)
    clone.activate()
    want = clone.regions - (65 if t.peer else 1)
    clone.until(lambda s: s.hydrated >= want, "hydration of all the other regions", 30)
    t.fails(lambda: clone.block.read(1003, 1), errno.EIO, what="a read of it")
    clone.model.check(clone.block, 0, 1000)
    clone.model.check(clone.block, 1008)
    clone.put(1000, 8)                          # a write that covers it mends it
    if not t.peer:
        clone.until_hydrated()
    clone.check()
    clone.source.heal()


@test("the source fails under load: no acknowledged write is lost")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, kind="null")
    load = t.load(clone, threads=6, errors_ok=True, max_sectors=128)
    for _ in range(4):
        t.let_run(load, 30)
        clone.source.fail()
        time.sleep(0.1)
        clone.source.heal()
    load.stop()
    clone.hydrate(60)
    clone.check()


# The destination


@test("the destination fails: the requests that meet it hear of it, the source's "
      "regions are still read")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 64)
    clone.flush()
    clone.dest.fail()
    t.fails(lambda: clone.get(0), errno.EIO, what="a read")
    t.fails(lambda: clone.block.put(512, 8, 20), errno.EIO, what="an overwrite")
    t.fails(lambda: clone.block.put(1027, 2, 21), errno.EIO, what="a partial write")
    clone.model.check(clone.block, 4096, 1024)
    clone.dest.heal()
    clone.model.maybe(512, 8, 20)
    clone.model.maybe(1027, 2, 21)
    clone.check()
    clone.reactivate()
    clone.check()


@test("a write that failed at the destination does not hydrate its region")
def _(t):
    clone = t.idle_clone(region=8)
    clone.dest.fail()
    t.fails(lambda: clone.block.put(512, 8, 20), errno.EIO, what="an overwrite")
    t.fails(lambda: clone.block.put(1027, 2, 21), errno.EIO, what="a partial write")
    clone.expect(hydrated=0)
    if clone.get(512) != [SOURCE] or clone.get(1024) != [SOURCE]:
        raise Failure("reads go to a destination that was not written")
    clone.dest.heal()
    clone.check()


@test("a discard that fails at the destination hydrates nothing and shows no old data: {kind}",
      kind={"a disk with discard": "null", "a disk without": "ram"},
      ours="what the destination held before is shown")
def _(t, kind):
    clone = t.idle_clone(region=8, kind=kind)
    clone.dest.fail_range(1024, 64)
    try:
        clone.discard(0, MIB)                   # a longer one is not over when it ends
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    clone.dest.heal()
    clone.model.maybe(0, MIB, ZERO)
    clone.check()
    clone.reactivate()
    clone.check()
    clone.hydrate()
    clone.check()


@test("the destination fails during hydration, and comes back: hydration ends well")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, active=False,
                    core={"hydration_threshold": 8, "hydration_batch_size": 4})
    clone.source.hold_from(2 * MIB, delay=3)
    clone.activate()
    clone.until(lambda s: s.hydrated > 20, "some hydration")
    clone.dest.fail_range(2 * MIB, 2 * MIB)
    clone.source.delay(3)
    if t.peer:
        time.sleep(1.5)
    else:
        t.until(lambda: clone.stats()["write_errors"], "errors of the destination")
    clone.expect(done=False, mode="rw")
    clone.dest.heal()
    clone.source.heal()
    clone.hydrate(60)
    clone.check()


@test("the destination fails under load: no acknowledged write is lost")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB, kind="ram")
    load = t.load(clone, threads=6, errors_ok=True, max_sectors=128,
                  weights={"discard": 0})
    for _ in range(4):
        t.let_run(load, 30)
        clone.dest.fail()
        time.sleep(0.1)
        clone.dest.heal()
    load.stop()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("a flush that fails at the destination fails, commits nothing, and turns the "
      "clone ro until it is activated again", ours="it goes on as if nothing had happened")
def _(t):
    clone = t.idle_clone(region=8, kind="null")
    clone.put(0, 8)
    clone.flush()
    clone.put(512, 64)
    clone.dest.fail_writes()
    with t.trace(clone.meta) as trace:
        t.fails(clone.flush, errno.EIO, what="the flush")
    if trace.commits(clone.meta.number):
        raise Failure("committed, although the data may be lost")
    clone.dest.heal()
    clone.until_mode("ro")
    t.fails(clone.flush, errno.EIO, what="a later flush")
    clone.device.suspend_resume()
    clone.expect(mode="ro")
    clone.check()
    clone.deactivate()
    clone.model.maybe(512, 64, SOURCE)          # never made durable: lost, or not
    clone.activate()
    clone.expect(mode="rw")
    clone.check()


@test("a write-zeroes that the destination refuses becomes writes, and is no error: {what}",
      ours="it has no counters", what={"whole regions": (64, 128), "parts of regions": (67, 3)})
def _(t, what):
    # Files of tmpfs know how to punch holes, but not how to zero a range in place.
    clone = t.clone(region=8, features=["no_hydration", "zeroed_destination"], kind="loop",
                    former=ZERO)
    with t.trace(clone.dest) as trace:
        clone.block.zeroout(*what)
    if not trace.of(clone.dest.number, "N") or not trace.of(clone.dest.number, "W"):
        t.skip(f"nothing was refused here: {trace.bios[:8]}")
    clone.model.set(*what, ZERO)
    clone.expect_stats(write_errors=0, last_error=0)
    hydrated = clone.status().hydrated
    with t.trace(clone.dest) as trace:
        clone.message("skip 1024 512")
        clone.until(lambda s: s.hydrated == hydrated + 512 // 8, "the skipping")
    if trace.writes(clone.dest.number):
        raise Failure(f"the destination does not count as zero any more: {trace.bios[:8]}")
    clone.model.set(1024, 512, ZERO)
    clone.check()


@test("everything fails at once: nothing hangs, removal works")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, active=False,
                    core={"hydration_threshold": 8, "hydration_batch_size": 4})
    clone.source.delay(20)
    clone.activate()
    load = t.load(clone, threads=6, errors_ok=True, max_sectors=128)
    t.let_run(load, 20)
    for disk in clone.source, clone.dest, clone.meta:
        disk.fail()
    time.sleep(1.5)
    t.within(15, load.stop, "I/O on failed devices")
    t.within(10, clone.device.status, "status")
    t.within(15, clone.deactivate, "removal")


@test("a suspend does not wait for a source that fails forever")
def _(t):
    clone = t.clone(region=8, size=MIB, active=False)
    clone.source.fail()
    clone.activate()
    time.sleep(0.5)
    t.within(10, clone.device.suspend, "suspend")
    clone.device.resume()
    t.within(10, clone.deactivate, "removal")
    clone.source.heal()
