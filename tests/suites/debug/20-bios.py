# SPDX-License-Identifier: GPL-2.0-only
"""One bio of a clone's life fails, on each of its devices, wherever it is.

A life is: new metadata, a table, reads, writes, discards, zeroes and flushes,
hydration, suspend and resume, removal; and all from the table on a second time.
One life without faults tells which bios there are. Then, in one life after the
other, the kth bio to the metadata device (or destination, or source) fails: of
the bios of one kind from one step of the life one does, and one more for each
STRIDE there are. Which one the seed decides; $EVERY_FAULT=yes takes all.

What has been acknowledged stays, what has failed may or may not have happened,
and once the fault is over everything works again.
"""

import errno
import os
import time

from lib import faults, trace
from lib.blk import ANY, FORMER, SOURCE, ZERO, check_stamp
from lib.errors import Failure
from lib.framework import test

LONG = 120
REGION = 8
SIZE = 64 * REGION
STRIDE = 16
AFTER = "afterlife"
FAILING = 3     # s


class Life:
    def __init__(self, t, clone, bios, watched=None):
        self.t = t
        self.clone = clone
        self.bios = bios
        self.watched = watched  # by a trace, to which its steps are told
        self.unsafe = []        # since the last flush: (sector, nr, stamp before)
        self.failed = []        # what failed
        self.each = False
        self.nr_begun = 0

    def mark(self, step):
        if self.watched:
            self.watched.mark(step)

    def fired(self):
        return self.each or self.bios.fired

    def _may_fail(self, fired_before, needs_metadata):
        if self.fired() and (self.each or not fired_before):
            return True
        return needs_metadata and self.clone.device and self.clone.mode() != "rw"

    def attempt(self, what, fn, needs_metadata=True):
        """Does it; false if it failed, and had a reason to."""
        before = self.fired()
        self.mark(what)
        try:
            fn()
            return True
        except OSError as error:
            self.failed.append(what)
            if error.errno not in (errno.EIO, errno.EREMOTEIO):
                raise
            if not self._may_fail(before, needs_metadata):
                raise Failure(f"{what} fails, and no fault was injected") from None
            return False

    # Each sector is written once between two flushes: it has two values at most.

    def change(self, what, fn, sector, nr, stamp):
        block, model = self.clone.block, self.clone.model
        old = self.old[sector]
        if self.attempt(what, lambda: fn(block)):
            model.set(sector, nr, stamp)
            self.old[sector] = stamp
        else:
            model.maybe(sector, nr, stamp)
            self.old[sector] = ANY
        self.unsafe.append((sector, nr, old))

    def write(self, sector, nr, fua=False):
        stamp = self.t.stamp()
        self.change(f"write {sector}+{nr}",
                    lambda b: b.put(sector, nr, stamp, fua), sector, nr, stamp)
        if fua and self.old[sector] == stamp:
            self.unsafe.pop()

    def discard(self, sector, nr):
        self.change(f"discard {sector}+{nr}", lambda b: b.discard(sector, nr),
                    sector, nr, ZERO)
        if not self.discards:
            # Of hydrated regions it's dropped then.
            sector, nr, old = self.unsafe[-1]
            if old == ANY:
                self.clone.model.set(sector, nr, ANY)
            else:
                self.clone.model.maybe(sector, nr, old)
            self.old[sector] = ANY

    def zero(self, sector, nr):
        self.change(f"zeroes {sector}+{nr}", lambda b: b.zeroout(sector, nr),
                    sector, nr, ZERO)

    def read(self, sector, nr):
        data = []
        if self.attempt(f"read {sector}+{nr}",
                        lambda: data.append(self.clone.block.read(sector, nr)),
                        needs_metadata=False):
            self.clone.model.check_data(data[0], sector, nr)

    def flush(self):
        if self.attempt("flush", self.clone.block.flush):
            self.unsafe.clear()

    # Stages

    def begin(self):
        """The table; what fails the first time works the second time."""
        self.nr_begun += 1
        for _ in range(3):
            if self.attempt(f"table {self.nr_begun}", self.clone.activate):
                return True
        return False

    def end(self):
        """What is not committed may be lost if the mode is not rw, or becomes so."""
        if not self.clone.device:
            return
        fired, mode = self.fired(), self.clone.mode()
        self.mark(f"end {self.nr_begun}")
        self.clone.deactivate()
        if mode != "rw" or self.each or self.fired() and not fired:
            for sector, nr, old in self.unsafe:
                if old == ANY:
                    self.clone.model.set(sector, nr, ANY)
                else:
                    self.clone.model.maybe(sector, nr, old)
        self.unsafe.clear()

    def recover(self):
        """The way back that the administrator's guide tells."""
        self.clone.device.suspend_resume()
        if self.clone.mode() != "rw":
            self.end()
            return self.begin()
        return True

    def _errors(self):
        stats = self.clone.stats()
        return stats["read_errors"] + stats["write_errors"]

    def hydrate(self, seconds):
        """To the end; if bios go on failing then for some time after the first."""
        self.mark("hydrate")
        before = self._errors()
        self.clone.enable_hydration()
        began = time.monotonic()
        deadline = began + seconds * self.t.patience
        while time.monotonic() < deadline:
            status = self.clone.status()
            if status.done or status.mode != "rw":
                return
            if self.each and time.monotonic() > began + FAILING and \
                    self._errors() > before:
                return
            time.sleep(0.02)
        if not self.each:
            raise Failure(f"no end of hydration: {status.text}")

    def first_half(self):
        r = REGION
        for sector in 0, 5 * r + 3, 40 * r:
            self.read(sector, 2 * r)
        self.write(1 * r + 1, 2)
        self.write(3 * r, 3 * r)
        self.write(7 * r + 3, 2 * r)
        self.discard(11 * r, 3 * r)
        self.zero(15 * r, 2 * r)
        self.zero(18 * r + 2, 4)
        self.flush()
        self.write(20 * r, r, fua=True)
        self.write(22 * r + 2, 3, fua=True)
        self.write(3 * r, 3 * r)
        self.discard(20 * r, r)
        self.write(24 * r + 1, r)
        self.read(0, 32 * r)

    def second_half(self):
        r = REGION
        self.write(40 * r + 5, 2)
        self.discard(45 * r, 4 * r)
        self.hydrate(10)
        self.write(30 * r, 2 * r)
        self.flush()
        self.write(33 * r + 1, 2)
        self.discard(34 * r, 2 * r)

    def live(self):
        """With faults. Ends early where nothing can go on."""
        self.old = dict.fromkeys(range(SIZE), SOURCE)
        if not self.begin():
            return
        self.first_half()
        if self.clone.mode() != "rw" and not self.recover():
            return
        self.mark("suspend")
        self.clone.device.suspend_resume()
        self.read(0, SIZE)
        self.end()

        if not self.begin():
            return
        self.read(0, SIZE)
        self.second_half()
        self.read(0, SIZE)
        self.end()

    def afterlife(self):
        """Without faults all is well, or can be made so."""
        clone = self.clone
        if clone.device:
            clone.check()
            self.end()
        clone.activate()
        clone.check()
        clone.hydrate()
        clone.check()
        clone.put(50 * REGION, 4)
        clone.flush()
        clone.deactivate()
        clone.check_left_behind()
        check_stamp(clone.source.block, 0, SIZE, SOURCE, "the source")


def can_discard(disk):
    path = f"{disk.device.sysfs}/queue/discard_max_bytes"
    with open(path, encoding="ascii") as f:
        return f.read().strip() != "0"


def disk(clone, role):
    return {"metadata": clone.meta, "destination": clone.dest,
            "source": clone.source}[role]


def a_life(t, clone, bios, role=None, k=None, each=False, watched=None):
    """Without a role none fails. Returns whether one has, and the life."""
    clone.meta.block.fill(0, 0, 8)
    clone.dest.fill(ZERO if "zeroed_destination" in clone.features else FORMER)
    clone.model.set(0, SIZE, SOURCE)
    life = Life(t, clone, bios, watched)
    life.each = each
    life.discards = can_discard(clone.dest)
    if role:
        bios.arm(disk(clone, role), k, each)
    try:
        life.live()
    except Failure as failure:
        raise Failure(f"bio {k}: {failure} (failed before: "
                      f"{', '.join(life.failed) or 'nothing'})") from None
    finally:
        fired = bios.disarm()
    life.mark(AFTER)
    try:
        life.afterlife()
    except (Failure, OSError) as failure:
        raise Failure(f"bio {k}, afterwards: {failure} (failed before: "
                      f"{', '.join(life.failed) or 'nothing'})") from None
    return fired, life


def a_clone(t, kind, *features):
    return t.clone(active=False, size=SIZE, region=REGION, kind=kind,
                   features=["no_hydration", *features],
                   meta=t.metadata(2048, kind="null"))


def a_sample(t, queued):
    """Which of these bios are to fail, the first being number 1."""
    kinds = {}
    for k, bio in enumerate(queued, 1):
        kinds.setdefault((bio.mark, bio.rwbs), []).append(k)
    if os.environ.get("EVERY_FAULT"):
        return range(1, len(queued) + 1)
    return sorted(k for ks in kinds.values()
                  for k in ks[t.rng.randrange(min(STRIDE, len(ks)))::STRIDE])


@test("one bio to the {role} fails: destination {kind}", limit=LONG,
      role=["metadata", "destination", "source"],
      kind={"without cache and discard": ("ram",), "with both": ("null",),
            "zeroed, and reads hydrate": ("ram", "hydrate_on_read", "zeroed_destination")})
def _(t, role, kind):
    clone, bios = a_clone(t, *kind), faults.Bios(t)
    number = disk(clone, role).number
    with trace.Trace(number) as watched:
        _, life = a_life(t, clone, bios, watched=watched)
    if life.failed:
        raise Failure(f"without any fault these fail: {', '.join(life.failed)}")

    queued = [bio for bio in watched.of(number) if bio.mark not in (None, AFTER)]
    sample, failures, nr_fired = a_sample(t, queued), {}, 0
    for k in sample:
        fired, life = a_life(t, clone, bios, role, k)
        nr_fired += fired
        for what in life.failed:
            what = what.split()[0]
            failures[what] = failures.get(what, 0) + 1
    # How many there are is a matter of luck, but not by much.
    if nr_fired < len(sample) * 3 // 4:
        raise Failure(f"of {len(sample)} faults only {nr_fired} came about")
    t.note(f"{nr_fired} of {len(queued)} bios; seen as failures of " +
           (", ".join(f"{n} {what}" for what, n in failures.items()) or "nothing"))


@test("every {k} bio to the {role} fails", limit=LONG,
      role=["metadata", "destination", "source"],
      k={"one": 1, "second": 2, "third": 3, "seventh": 7, "20th": 20})
def _(t, role, k):
    clone, bios = a_clone(t, "null"), faults.Bios(t)
    _, life = a_life(t, clone, bios, role, k, each=True)
    t.note(f"{len(life.failed)} failures seen")
