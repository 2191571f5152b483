# SPDX-License-Identifier: GPL-2.0-only
"""Disks that fail in one way only, and what a clone on them must do.

                  Ailing   dm-delay: reads, writes and flushes each to one of
                    |
      +-------------+-------------+
      |             |             |
    backing       dead          lossy
    sound, or     dm-flakey:    dm-flakey: says that all is
    slow          only errors   written, and writes nothing

A clone is set up, one of its disks begins to fail, and one thing is done to the
clone. Regions are used like this:

    0   4   8   12  16  20  24                  39
    |   |***|***|   |###|   |                    |
         |   |       |
         |   |       what is done to the clone, unless to all of it
         |   written and acknowledged, not flushed
         written and flushed

Then the clone is judged, see Case.run().
"""

import errno
import time

from lib import disks, dm, kmsg
from lib.blk import FORMER, SOURCE, ZERO
from lib.errors import Failure, Missed

ERROR, DROP = "error", "drop"

REGION = 8
REGIONS = 40
SIZE = REGIONS * REGION - 3
FLUSHED = 4 * REGION, 4 * REGION        # (sector, number of sectors)
PENDING = 8 * REGION, 4 * REGION
PLACE = 16 * REGION, 4 * REGION

QUICK = 10                              # seconds, for what must not wait at all
PATIENT = 15

COMMIT_PERIOD = 0.9                     # seconds, and a little less: nothing is committed yet
TRIES = 30


class Ailing(disks.Disk):
    """A disk whose reads, writes and flushes can fail independently."""

    def __init__(self, t, sectors, backing, what):
        super().__init__(t.name(what), sectors, backing)
        here = f"{backing.number} {backing.offset} 0 1000"
        self._others = {}
        for mood, features in (ERROR, "0"), (DROP, "1 drop_writes"):
            device = self._others[mood] = dm.Device(t.name(mood))
            device.load([(0, sectors, "flakey", f"{here} {features}")])
            device.resume()

    def _way(self, mood):
        if mood in self._others:
            return f"{self._others[mood].number} 0 0"
        return f"{self.backing.number} {self.backing.offset} {mood}"

    def ail(self, read=0, write=0, flush=0):
        """Each of them: ERROR, DROP, or a delay in ms."""
        ways = " ".join(map(self._way, (read, write, flush)))
        self.sound_metadata &= DROP not in (write, flush)
        self._swap([(0, self.sectors, "delay", ways)])

    def close(self):
        if self._block:
            self._block.close()
        self.device.remove()
        for device in self._others.values():
            device.remove()


class Rig:
    """The disks of a test; its clones use them one after the other."""

    def __init__(self, t, meta_sectors=1024):
        self.t = t
        self.bases = [t.source(SIZE), t.disk(SIZE, "null", what="dest"),
                      t.disk(meta_sectors, "null", what="meta")]
        self.source, self.dest, self.meta = [
            self.over(base, what) for base, what in
            zip(self.bases, ("source", "dest", "meta"))]

    def over(self, base, what):
        return self.t.add_disk(Ailing(self.t, base.sectors,
                                      disks.Backing(base.path), what))

    def heal(self):
        for disk in self.source, self.dest, self.meta:
            disk.heal()

    def clone(self):
        """A new clone that copies nothing by itself."""
        _, dest, meta = self.bases
        dest.block.fill(FORMER)
        meta.block.fill(ZERO, 0, 8)
        return self.t.idle_clone(region=REGION, size=SIZE, meta=self.meta, dest=self.dest,
                                 source=self.source, former=None, active=False)


class Expected:
    """What a kind of failure should look like.

    fails:      the stages in which the user gets an error
    mode:       that a commit, or the attempt, leads to
    copies:     whether the background copy comes to its end
    comes_back: by itself, by "resume", or only when activated again ("activate")
    lies:       what is acknowledged never gets there, and nobody can know
    """

    def __init__(self, fails=(), mode="rw", copies=True, comes_back="itself",
                 lies=False):
        self.fails = fails
        self.mode = mode
        self.copies = copies
        self.comes_back = comes_back
        self.lies = lies


class Stage:
    """Something that is done to a clone on a failing disk.

    do:      a function of the case
    commits: the attempt to commit is over when it returns
    before:  done to a clone that is not active, in this state
    changes: it would fail, and must not, on a clone that has failed to commit
    """

    def __init__(self, name, do, commits=False, before=None, changes=False):
        self.name = name
        self.do = do
        self.commits = commits
        self.before = before
        self.changes = changes


class Case:
    """One stage with one disk that fails in one way."""

    def __init__(self, rig, device, moods, stage, expected):
        self.rig, self.t = rig, rig.t
        self.device, self.moods = device, moods
        self.stage, self.expected = stage, expected
        self.error = None               # what the user got

    # What stages use

    def attempt(self, fn):
        """Does what may fail in this stage; returns whether it went well."""
        try:
            self.t.within(PATIENT, fn, self.stage.name)
            return True
        except OSError as error:
            # A table that is refused has many reasons.
            if error.errno != errno.EIO and not self.stage.before:
                raise
            self.error = error
            return False

    def change(self, fn, where, stamp, untouched):
        """fn writes these sectors, or discards them."""
        if not self.attempt(fn):
            self.clone.model.maybe(*where, stamp)
        elif self.expected.lies and self.device == "dest":
            self.clone.model.set(*where, untouched)
        else:
            self.clone.model.set(*where, stamp)

    def write(self, where, untouched=FORMER, fua=False):
        """untouched: what is in the destination before it."""
        stamp = self.t.stamp()
        self.change(lambda: self.clone.block.put(*where, stamp, fua), where, stamp,
                    untouched)

    def discard(self, where):
        self.change(lambda: self.clone.discard(*where), where, ZERO, FORMER)

    def nothing_arrived(self, where):
        """Copies of these sectors were dropped: the destination's old data shows."""
        if self.expected.lies and self.device == "dest":
            self.clone.model.set(*where, FORMER)

    def until_committed(self):
        """Until the commit of PENDING was tried."""
        def tried():
            status = self.clone.status()
            if status.mode != "rw":
                return True
            return self.commits() > self.commits_before
        self.t.until(tried, "a commit", 5)

    def commits(self):
        return self.clone.stats()["commits"]

    def _logged(self, text):
        self.lines += self.log.read()
        return any("clone" in line and text in line for line in self.lines)

    # The course of it

    def _begin(self):
        self.clone = self.rig.clone()
        self.log, self.lines = kmsg.Log(), []
        if self.stage.before == "nothing":
            return
        self.clone.activate()
        self.began = time.monotonic()           # and the clock does
        self.flushed_stamp = self.clone.put(*FLUSHED)
        self.clone.flush()
        if not self.stage.before:
            self.commits_before = self.commits()
        self.clone.put(*PENDING)
        if self.stage.before:
            self.clone.deactivate()
        else:
            self.event = self.clone.device.info().event_nr

    def _disk(self):
        return getattr(self.rig, self.device)

    def _is_pending(self):
        """PENDING is not committed yet, and the disk fails already."""
        return bool(self.stage.before) or self.commits() == self.commits_before

    def _clock_came_first(self):
        """A commit by the clock has failed, maybe before what was to be done."""
        return self.expected.mode != "rw" and self.stage.changes and \
            self.stage.name not in self.expected.fails and \
            time.monotonic() - self.began > COMMIT_PERIOD and \
            self.clone.mode() != "rw"

    def _get_there(self):
        """Up to what is done to the clone; again if a commit by the clock spoils it."""
        for _ in range(TRIES):
            self._begin()
            self._disk().ail(**self.moods)
            if self._is_pending():
                self.error = None
                self.stage.do(self)
                if not self._clock_came_first():
                    return
            self.rig.heal()
            self.clone.deactivate()
        raise Missed(f"{self.stage.name}: each time a commit by the clock came first")

    def run(self):
        self._get_there()
        self._judge_error()
        if self.clone.device:
            self._judge_failing()
        if self.device == "meta" and self.expected.lies:
            self.deactivate()
        self.rig.heal()
        self._come_back()
        self._live_on()
        self.clone.deactivate()

    def _judge_error(self):
        should = self.stage.name in self.expected.fails
        if should and not self.error:
            raise Failure("the user should get an error, but does not")
        if self.error and not should:
            raise Failure(f"the user gets an error: {self.error}")
        if self.error and self.stage.before and not self._logged("clone"):
            raise Failure("a table is refused, and the log says nothing about it")

    def _questions(self):
        device = self.clone.device
        for fn in (device.status, lambda: device.status(noflush=True), device.table,
                   device.info, lambda: self.clone.message("stats")):
            self.t.within(QUICK, fn, "a question")

    def _judge_failing(self):
        """Mode, event, log; and what can be read is right."""
        clone, expected = self.clone, self.expected
        self._questions()
        status = clone.status()
        if self.stage.commits and status.mode != expected.mode:
            raise Failure(f"expected mode {expected.mode}, found {status.mode}; "
                          f"status: {status.text}")
        if status.mode not in ("rw", expected.mode):
            raise Failure(f"mode: {status.text}")
        self._judge_report()

        slow = all(isinstance(m, int) for m in self.moods.values())
        if self.device == "meta" or slow or "read" not in self.moods:
            clone.check()
        elif self.device == "source" and self.stage.before != "nothing":
            clone.model.check(clone.block, FLUSHED[0], 8 * REGION)
        elif self.device == "dest" and self.stage.name != "background copy":
            clone.model.check(clone.block, 0, FLUSHED[0])
            clone.model.check(clone.block, 24 * REGION)

    def _event(self):
        return self.clone.device.info().event_nr != self.event

    def _judge_report(self):
        if self.stage.before:
            return
        event = self._event()                   # which comes before it is looked at
        status = self.clone.status()
        if status.mode != "rw":
            # The commit by the clock may just be saying so.
            self.t.until(self._event, "an event", QUICK)
            self.t.until(lambda: self._logged("switching to"), "a line in the log", QUICK)
        elif event and not status.done and self.clone.mode() == "rw":
            raise Failure("an event, but nothing has happened")

    def deactivate(self):
        """What could not be committed may read as the source next time."""
        may_lose = self.expected.mode != "rw" or \
            (self.expected.lies and self.device == "meta")
        self.clone.deactivate()
        if may_lose and self.stage.before != "nothing":
            for where in PENDING, PLACE:
                self.clone.model.maybe(*where, SOURCE)

    def _resume(self):
        """The log says what has come of it, and there is an event if it went well."""
        device = self.clone.device
        event = device.info().event_nr
        device.suspend_resume()
        back = self.clone.mode() == "rw"
        if not self._logged("back in write mode" if back else "deactivate and activate"):
            raise Failure("resumed, and the log does not say with which result")
        if back and device.info().event_nr == event:
            raise Failure("back in write mode without an event")

    def _come_back(self):
        clone = self.clone
        if not clone.device:
            clone.activate()
        clone.check()
        if clone.mode() != "rw" and self.expected.comes_back == "itself":
            raise Failure(f"it did not come back by itself: {clone.status().text}")
        if clone.mode() != "rw":
            self._resume()
            clone.check()
        if clone.mode() != "rw" and self.expected.comes_back == "activate":
            self.deactivate()
            clone.activate()
            clone.check()
        if clone.mode() != "rw":
            raise Failure(f"no way back: {clone.status().text}")

    def _live_on(self):
        """The disk is sound again: writes, flushes, another life, and to the end."""
        clone = self.clone
        clone.put(PLACE[0] - 3, 7)
        clone.flush()
        clone.check()
        clone.deactivate()
        clone.check_left_behind()
        clone.activate()
        clone.check()
        clone.hydrate(PATIENT)
        clone.check()
        clone.deactivate()
        clone.check_left_behind()

