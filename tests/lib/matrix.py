# SPDX-License-Identifier: GPL-2.0-only
"""Pairs of operations: one is held in flight, the other is driven into it.

    top     source     dest           meta          what the clone uses
              |          |           /    \
              |          |        gate     |        its first block alone
              |          |           \\    /
    base    source     dest          meta           what can be made to fail

A hold is a suspended device, under which every bio waits, or a dm-delay of
many minutes, which gives back what it has when its table is swapped, and lets
one kind of bio (writes, or flushes) wait while the others pass.

A base fails while bios wait above it: so they fail when they are released.

What may be read afterwards
---------------------------

Two operations in flight at the same time may take place in either order, sector
by sector. So each sector has a set of stamps that it may hold; what is then
found in it must be one of them, and from then on it must be that one.
"""

import errno
import os
import time

from lib import disks
from lib.blk import FORMER, SOURCE, ZERO, Model
from lib.errors import Failure

REGIONS = 12                    # of each clone; the last one is short
LARGEST = 32                    # sectors of the largest region

QUICK = 10                      # seconds for what must not wait at all
PATIENT = 15                    # seconds for what may wait, once it may go on


class _Split(disks.Disk):
    """A disk whose first block is on a device of its own, the gate."""

    def __init__(self, name, sectors, backing, gate):
        self.gate = gate
        super().__init__(name, sectors, backing)

    def _linear(self, first=0, nr=None):
        return [(0, 8, "linear", f"{self.gate.number} 0"),
                (8, self.sectors - 8, "linear", f"{self.backing.number} 8")]


class Rig:
    """The devices of a test, used by many clones one after the other."""

    def __init__(self, t, kind="ram"):
        self.t = t
        size = REGIONS * LARGEST
        self.source_base = t.source(size)
        self.dest_base = t.disk(size, kind, what="dest")
        self.meta_base = t.disk(8192, what="meta")
        self.source = self._over(self.source_base, "source")
        self.dest = self._over(self.dest_base, "dest")
        self.gate = self._over(self.meta_base, "gate", 8)
        self.meta = self._add(_Split(t.name("meta"), 8192,
                                     disks.Backing(self.meta_base.path), self.gate))

    def _add(self, disk):
        self.t._disks.append(disk)
        return disk

    def _over(self, base, what, sectors=None):
        return self._add(disks.Disk(self.t.name(what), sectors or base.sectors,
                                    disks.Backing(base.path)))

    def heal(self):
        for disk in (self.source_base, self.dest_base, self.meta_base,
                     self.source, self.dest, self.gate, self.meta):
            disk.heal()

    @staticmethod
    def _delay(disk, write, flush):
        lines = [f"{disk.backing.number} {disk.backing.offset} {ms}"
                 for ms in (0, write, flush)]
        disk._swap([(0, disk.sectors, "delay", " ".join(lines))])

    def delay_writes(self, disk):
        self._delay(disk, disks.FOREVER, 0)

    def delay_flushes(self, disk):
        self._delay(disk, 0, disks.FOREVER)


def delayed(disk):
    """How many bios wait in the delay of a disk."""
    return sum(map(int, disk.device.status(noflush=True).split()))


def in_flight(device):
    """How many bios a mapped device has taken, and not given back."""
    with open(f"{device.sysfs}/inflight", encoding="ascii") as f:
        return sum(map(int, f.read().split()))


class Io:
    """An operation on sectors [begin, end)."""

    def __init__(self, what, begin, end, stamp=None):
        self.what = what
        self.begin, self.end = begin, end
        self.stamp = ZERO if what in ("discard", "zero") else stamp
        self.error = None
        self.found = None

    def run(self, block):
        nr = self.end - self.begin
        try:
            if self.what in ("write", "fua"):
                block.put(self.begin, nr, self.stamp, fua=self.what == "fua")
            elif self.what == "read":
                self.found = block.get(self.begin, nr)
            elif self.what == "discard":
                block.discard(self.begin, nr)
            elif self.what == "zero":
                block.zeroout(self.begin, nr)
            elif self.what == "flush":
                block.flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.error = error

    def apply(self, sector, stamps):
        """What a sector may hold afterwards, when it may hold these before."""
        if not self.begin <= sector < self.end or self.stamp is None:
            return stamps
        if self.error or self.what == "discard":
            return stamps | {self.stamp}
        return {self.stamp}


class Pair:
    """One clone, an operation held in it, and one driven into that."""

    def __init__(self, rig, hold, driven, region, flush, hydrate):
        self.rig, self.t = rig, rig.t
        self.hold, self.driven = hold, driven
        self.region = region
        self.size = REGIONS * region - 3
        self.flush = flush              # in the end, before it is deactivated
        self.hydrate = hydrate          # after that
        self.held = None                # the Io held, None for a copy of its own
        self.ios = []                   # those driven in
        self.job = None
        self.errors_ok = False
        self.must_be_rw = True

        rig.dest_base.block.fill(FORMER, 0, REGIONS * LARGEST)
        rig.meta_base.block.fill(ZERO, 0, 8)
        core = {"hydration_threshold": 8, "hydration_batch_size": 4}
        self.clone = self.t.idle_clone(region=region, size=self.size, core=core, meta=rig.meta,
                                       dest=rig.dest, source=rig.source, former=None,
                                       active=False)
        self.before = [{SOURCE}] * self.size
        self.flushed = list(self.before)
        self.clone.activate()

    # For Hold and Driven

    def sectors(self, begin, end):
        """From and to these regions, plus a number of sectors."""
        def place(where):
            regions, sectors = where if isinstance(where, tuple) else (where, 0)
            return min(regions * self.region + sectors, self.size)
        return place(begin), place(end)

    def io(self, what, begin=0, end=0):
        stamp = self.t.stamp() if what in ("write", "fua") else None
        return Io(what, *self.sectors(begin, end), stamp)

    def write_first(self, begin, end, flush):
        """Writes something before all that."""
        io = self.io("write", begin, end)
        io.run(self.clone.block)
        self.before = [io.apply(i, s) for i, s in enumerate(self.before)]
        if flush:
            self.clone.flush()
            self.flushed = list(self.before)

    def in_background(self, fn):
        self.job = self.t.background(fn)
        return self.job

    def start(self, io):
        """Starts the operation to be held."""
        self.held = io
        block = self.clone.block
        self.held_job = self.t.background(lambda: io.run(block))

    def drive(self, io):
        self.ios.append(io)
        block = self.clone.block
        return self.in_background(lambda: io.run(block))

    # The course of it

    def run(self):
        self.held_job = None
        self.hold.begin(self)
        time.sleep(0.01)
        if self.held_job and self.held_job.done:
            self.held_job.wait()
            raise Failure(f"{self.hold.name} was not held")

        blocked = False
        self.driven.begin(self)
        if self.job:
            if self.driven.passes(self.hold):
                self.job.wait(QUICK, "what need not wait for it")
            else:
                blocked = not self.job.join(0.02)
        if self.held_job and self.held_job.done:
            raise Failure(f"{self.hold.name} was acknowledged while it was held")

        self.hold.end(self)
        if self.job:
            self.job.wait(PATIENT, "what was driven in")
        self.driven.end(self)
        if self.held_job:
            self.held_job.wait(PATIENT, "what was held")
        self._check_failed_flush()
        self.rig.heal()
        self.judge()
        return blocked

    # The judgement

    def _operations(self):
        done = [self.held] if self.held else []
        return done + self.ios

    def _allowed(self, before):
        """A set for each sector: the operations in either order."""
        ios = [io for io in self._operations() if io.stamp is not None]
        orders = [ios, ios[::-1]]
        sets = []
        for sector, stamps in enumerate(before):
            outcomes = set()
            for order in orders:
                now = set(stamps)
                for io in order:
                    now = io.apply(sector, now)
                outcomes |= now
            sets.append(outcomes)
        return sets

    def _check_errors(self):
        for io in self._operations():
            if io.error and not self.errors_ok:
                raise Failure(f"{io.what} of [{io.begin}, {io.end}) failed")

    def _check_failed_flush(self):
        """What could not be committed stays so: later flushes fail too."""
        if self.held and self.held.what == "flush" and self.held.error:
            again = self.io("flush")
            again.run(self.clone.block)
            if not again.error:
                raise Failure("a flush failed, the next one did not")

    def _check_reads(self):
        """What was read meanwhile: the old, or what was in flight."""
        allowed = self._allowed(self.before)
        for io in self.ios:
            if not io.found:
                continue
            for i, stamp in enumerate(io.found):
                sector = io.begin + i
                if stamp not in allowed[sector] | self.before[sector]:
                    raise Failure(f"while it was held, sector {sector} read as "
                                  f"stamp {stamp}, not {allowed[sector]}")

    def _settle(self, allowed, when):
        """Reads all; from now on it must stay so."""
        found = self.clone.block.get(0, self.size)
        for sector, stamp in enumerate(found):
            if stamp not in allowed[sector]:
                raise Failure(f"{when}, sector {sector} (region "
                              f"{sector // self.region}) holds stamp {stamp}, "
                              f"should be one of {sorted(allowed[sector])}")
        model = Model(self.size, found[0])
        for sector, stamp in enumerate(found):
            model.set(sector, 1, stamp)
        self.clone.model = model

    def _recover(self):
        """After a failure: the way back that needs no deactivation."""
        clone = self.clone
        if clone.mode() != "rw":
            clone.device.suspend(noflush=True)
            clone.device.resume(noflush=True)
        if clone.mode() == "rw":
            clone.check()
            return True
        if self.must_be_rw:
            raise Failure(f"it does not recover: {clone.status().text}")
        clone.check()
        return False

    def _check_crash(self):
        """All was flushed: it is all there if the power goes now."""
        for attempt in range(20):
            try:
                self.clone.check_left_behind()
                return
            except Failure as error:
                # A commit of copies may have met the reading of its blocks.
                if "checksum" not in str(error) or attempt == 19:
                    raise

    def _survive(self):
        """Off and on again: everything is there."""
        clone = self.clone
        clone.deactivate()
        clone.check_left_behind()
        clone.features = [] if self.hydrate else ["no_hydration"]
        clone.activate()
        clone.check()
        if self.hydrate:
            clone.until_hydrated(PATIENT)
            clone.check()

    def _lose_at_most_what_was_not_flushed(self):
        clone = self.clone
        allowed = self._allowed(self.flushed)
        for sector, stamps in enumerate(self.before):
            allowed[sector] |= stamps | self.flushed[sector]
        clone.reactivate()
        self._settle(allowed, "after what could not be committed")

    def judge(self):
        clone = self.clone
        self._check_errors()
        self._check_reads()
        if not clone.device:
            clone.activate()
        self._settle(self._allowed(self.before), "afterwards")
        if self.errors_ok and not self._recover():
            self._lose_at_most_what_was_not_flushed()
        if self.flush:
            clone.flush()
            self._check_crash()
        self._survive()
        clone.deactivate()


class Hold:
    """What is held in flight.

    on:    source, dest, meta, superblock, flush: what waits
    start: a function of the pair that starts it
    kind:  what the destination is: ram; null has discards, and a cache to flush
    """

    def __init__(self, name, on, start, own=False, kind="ram"):
        self.name, self.on = name, on
        self.kind = kind
        self._start = start
        self.own = own                  # nobody in userspace waits for it

    def begin(self, pair):
        rig = pair.rig
        pair.write_first(4, 5, flush=pair.region > 8)
        if self.own:
            pair.clone.close_block()
        if self.on == "superblock":
            rig.delay_writes(rig.gate)
        elif self.on == "flush":
            rig.delay_flushes(rig.dest)
        else:
            self.device(rig).hold()
        if self.on in ("meta", "superblock", "flush"):
            # Something to commit, and that a flush has to wait for; the clock
            # can't have committed it before the flush comes.
            pair.write_first(2, 4, flush=False)
        self._start(pair)
        self._wait(pair)

    def _wait(self, pair):
        if self.on in ("superblock", "flush"):
            disk = self.device(pair.rig)
            pair.t.until(lambda: delayed(disk), f"{self.name} in flight")
        elif self.own:
            pair.clone.until(lambda s: s.hydrating, "a copy in flight")
        else:
            pair.t.until(lambda: in_flight(pair.clone.device),
                         f"{self.name} in flight")

    def device(self, rig):
        return {"source": rig.source, "dest": rig.dest, "meta": rig.meta,
                "superblock": rig.gate, "flush": rig.dest}[self.on]

    def base(self, rig):
        return {"source": rig.source_base, "dest": rig.dest_base,
                "meta": rig.meta_base, "superblock": rig.meta_base,
                "flush": rig.dest_base}[self.on]

    def end(self, pair):
        self.device(pair.rig).heal()


class Driven:
    """What is driven in.

    passes: a function of the hold: must this end before the release?
    """

    def __init__(self, name, begin, end=None, passes=None):
        self.name = name
        self.begin = begin
        self._end = end
        self._passes = passes

    def end(self, pair):
        if self._end:
            self._end(pair)

    def passes(self, hold):
        return bool(self._passes and self._passes(hold))


def wait_until_gone(pair):
    """Once its folder in sysfs is gone it holds no other device."""
    clone = pair.clone
    pair.t.until(lambda: not os.path.exists(clone.device.sysfs), "removal", PATIENT)
    clone.device = None
