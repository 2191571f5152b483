# SPDX-License-Identifier: GPL-2.0-only
"""Everything at once, minute after minute: see Documentation/testing-races.rst.

A minute has several clones, each with random I/O that is checked against a
model, and with somebody who disturbs it: phases of trouble under load, each of
which ends with a look at all data. Then the clone goes on, is deactivated and
activated, or is hydrated to the end and begins anew with fresh metadata.

The seed decides what each clone is like, what is done to it and in which order;
how that meets the I/O is up to the machine.
"""

import collections
import errno
import os
import random
import time

from lib.blk import ANY, FORMER, MIB, NONE, SOURCE, ZERO, Model
from lib.clone import CORE_ARGS, FEATURES
from lib.errors import Failure
from lib.framework import test

MINUTES = int(os.environ.get("MINUTES", 1))
SECONDS = int(os.environ.get("SECONDS_A_MINUTE", 60))
REGIONS = (8, 16, 64, 128, 512, 2048)
PATIENCE = 30


class Soak:
    """One clone of a minute, and who disturbs it."""

    def __init__(self, t, number, region):
        self.t = t
        self.number = number
        self.rng = rng = random.Random(f"{t.seed} {number}")
        self.count = collections.Counter()
        self.linear = False
        size = rng.randrange(2 * MIB, 8 * MIB) + region
        self.kind = kind = rng.choice(["ram", "null"])
        # Once it has held a clone, the destination isn't what it's said to be.
        self.zeroed = rng.random() < 0.5
        # Without passdown a discard shows what the destination held, which the load's
        # model does not know: a clone may have that feature, or discards.
        self.discards = rng.random() < 0.7
        self.clone = t.clone(region=region, size=size, kind=kind, active=False,
                             former=0 if self.zeroed else FORMER,
                             offset=rng.choice([0, 0, 4 * MIB]), features=self._features(),
                             core=self._core())
        self.what = f"clone {number}: {size} sectors in regions of {region}, {kind}"

    def _features(self):
        return [f for f in FEATURES if self.rng.random() < 0.3 and
                (not self.discards or f != "no_discard_passdown") and
                (self.zeroed or f != "zeroed_destination")]

    def _core(self):
        rng = self.rng
        core = {key: 1 << rng.randrange(8) for key in CORE_ARGS if rng.random() < 0.5}
        core["hydration_rate"] = rng.choice([16, 64, 64, 256, 256, 0])   # KiB/s
        return core

    # Load: bursts, one after the other, so that it does not hydrate all at once

    def begin_load(self, errors_ok=False, discards=True):
        rng = self.rng
        self.load_args = {"errors_ok": errors_ok, "threads": rng.randrange(1, 6),
                          "max_sectors": rng.choice([4, 16, 16, 64, 64, 512])}
        self.weights = {"flush": rng.choice([1, 3, 20]),
                        "discard": rng.choice([8, 20]) if discards and self.discards else 0}
        self.stamps = []
        self.begin_burst()

    def begin_burst(self):
        rng = self.rng
        self.burst = self.clone.random_io(ops=rng.choice([8, 16, 64, 128]),
                                          weights=self.weights, **self.load_args,
                                          seed=rng.randrange(1 << 32))
        self.first_stamp = self.burst._c.next_stamp
        self.load = self.t.background(self.burst.run)

    def end_load(self):
        self.load.wait(PATIENCE, "random I/O")
        self.stamps.append((self.first_stamp, self.burst._c.next_stamp))
        self.count["operations"] += self.burst.done
        self.count["errors"] += self.burst.errors()

    def go_on(self, seconds=0.2):
        if not self.linear:
            status = self.clone.status()
            self.count["looks"] += 1
            self.count["unhydrated"] += not status.failed and not status.done
        time.sleep(self.rng.random() * seconds)
        if self.load.done:
            self.end_load()
            self.begin_burst()

    # What may happen at any time, under load, and may not harm

    def suspend(self):
        noflush = self.rng.random() < 0.5
        self.clone.device.suspend(noflush=noflush)
        if self.clone.status().hydrating:
            raise Failure(f"copies while suspended: {self.clone.status().text}")
        time.sleep(self.rng.random() * 0.05)
        self.clone.device.resume(noflush=noflush)

    def reload(self):
        self.clone.reload(self.rng.random() < 0.5, features=self._features(),
                          core=self._core())

    def load_and_forget(self):
        self.clone.device.load(self.clone.table())
        time.sleep(self.rng.random() * 0.05)
        self.clone.device.clear()

    def message(self):
        rng = self.rng
        self.clone.message(rng.choice([
            "enable_hydration", "enable_hydration", "disable_hydration",
            f"hydration_threshold {1 << rng.randrange(10)}",
            f"hydration_batch_size {1 << rng.randrange(10)}",
            f"hydration_rate {rng.choice([16, 64, 256])}",
            f"hydration_floor {rng.choice([0, 64, 4096])}",
            f"hydrate {rng.randrange(self.clone.size - 600)} {rng.randrange(1, 600)}"]))

    def questions(self):
        clone = self.clone
        for noflush in True, False:
            clone.status(noflush)
        clone.device.table()
        clone.message("stats")

    def refuse_to_remove(self):
        self.t.fails(self.clone.device.remove, errno.EBUSY, what="removal of a busy clone")

    def _disks(self):
        return self.clone.source, self.clone.dest, self.clone.meta

    def hold(self):
        """One of the devices takes a nap, and nobody hears of it."""
        disk = self.rng.choice(self._disks())
        disk.hold()
        if self.rng.random() < 0.5:
            self.questions()
        time.sleep(self.rng.random() * 0.3)
        disk.release()

    def slow_source(self):
        self.clone.source.delay(self.rng.choice([1, 5, 30]))

    def healthy_source(self):
        self.clone.source.heal()

    HARMLESS = (suspend, reload, load_and_forget, message, message, questions,
                refuse_to_remove, hold, hold, slow_source, healthy_source)

    # Phases

    def quiet(self):
        self.begin_load()
        for _ in range(self.rng.randrange(3, 10)):
            event = self.rng.choice(self.HARMLESS)
            event(self)
            self.count[event.__name__] += 1
            self.go_on()
        self.end_load()
        self.healthy_source()

    def failing_source(self):
        self.begin_load(errors_ok=True)
        for _ in range(self.rng.randrange(1, 4)):
            self.go_on()
            if self.rng.random() < 0.5:
                self.clone.source.fail()
            else:
                first = self.rng.randrange(self.clone.source.sectors)
                self.clone.source.fail_range(first, 1)
            self.go_on()
            self.clone.source.heal()
        self.end_load()
        self.clone.enable_hydration()

    def failing_metadata(self):
        """All stays readable; and all is kept when the device is back."""
        clone = self.clone
        self.begin_load(errors_ok=True)
        self.go_on()
        self.rng.choice([clone.meta.fail_writes, clone.meta.fail])()
        self.go_on(2)
        self.end_load()
        clone.check()
        clone.meta.heal()
        clone.device.suspend_resume()
        clone.until_mode("rw")

    def failing_destination(self):
        """All that was acknowledged stays readable; a commit may be lost."""
        clone = self.clone
        clone.flush()
        flushed = list(clone.model._now), list(clone.model._alt)
        self.begin_load(errors_ok=True)
        self.go_on()
        clone.dest.fail_writes()
        self.go_on(2)
        self.end_load()
        clone.dest.heal()
        clone.check()
        if clone.mode() != "rw":
            clone.reactivate()
            self.take_as_it_is(*flushed)
        clone.enable_hydration()

    def take_as_it_is(self, now, alt):
        """What was flushed is there, or something later."""
        model = self.clone.model
        step = 2048
        for first in range(0, model.sectors, step):
            found = self.clone.get(first, min(step, model.sectors - first))
            for sector, stamp in enumerate(found, first):
                self.judge(sector, stamp, (now[sector], alt[sector]))
                model.set(self.clone.offset + sector, 1, stamp)

    def judge(self, sector, stamp, flushed):
        if stamp in flushed or stamp == ZERO:
            return
        if any(first <= stamp < last for first, last in self.stamps):
            return
        if ANY in flushed and stamp != FORMER and stamp < ANY - 1:
            return
        raise Failure(f"sector {sector} holds stamp {stamp}, flushed were "
                      f"{[s for s in flushed if s != NONE]}, written since "
                      f"{self.stamps}")

    PHASES = (quiet, quiet, quiet, failing_source, failing_metadata,
              failing_destination)

    # What follows a phase

    def nothing(self):
        self.clone.check()

    def off_and_on(self):
        clone = self.clone
        if self.rng.random() < 0.3:
            clone.check()
        if self.rng.random() < 0.3:
            self.remove_deferred()
        clone.deactivate()
        clone.check_left_behind()
        clone.activate()
        if self.rng.random() < 0.5:
            clone.check()

    def remove_deferred(self):
        clone = self.clone
        clone.block.read(clone.offset, 8)
        sysfs = clone.device.sysfs
        clone.device.remove(deferred=True)
        clone.close_block()
        self.t.until(lambda: not os.path.exists(sysfs), "deferred removal", PATIENCE)
        clone.device = None

    def to_the_end(self):
        """Under load; then fresh metadata, on a destination full of old data."""
        clone = self.clone
        linear = self.rng.random() < 0.5    # which can discard if the disk can
        self.begin_load(discards=self.kind == "null" or not linear)
        clone.message("hydration_rate 0")
        clone.hydrate(PATIENCE)
        self.go_on()
        if linear:
            clone.swap_to_linear()
            self.linear = True
            self.go_on()
        self.end_load()
        clone.check()
        clone.deactivate()
        self.linear = False
        clone.check_left_behind()
        self.count["hydrated to the end"] += 1
        self.afresh()

    def afresh(self):
        clone = self.clone
        clone.dest.fill(FORMER)
        self.zeroed = False
        clone.meta.block.fill(ZERO, 0, 8)
        clone.model = Model(clone.size, SOURCE, first=clone.offset, origin=clone.offset)
        clone.features, clone.core = self._features(), self._core()
        clone.activate()

    ENDS = (nothing, off_and_on, off_and_on, to_the_end)

    # The whole of it

    def run(self, until):
        trail = []
        try:
            self.clone.activate()
            while time.monotonic() < until:
                if self.clone.status().done and self.rng.random() < 0.8:
                    trail.append("afresh")
                    self.clone.deactivate()
                    self.clone.check_left_behind()
                    self.afresh()
                for step in self.rng.choice(self.PHASES), self.rng.choice(self.ENDS):
                    trail.append(step.__name__)
                    step(self)
                    self.count[step.__name__] += 1
            trail.append("the end")
            self.clone.check()
            self.to_the_end()
        except (OSError, Failure) as error:
            raise Failure(f"{self.what}; {', '.join(trail[-6:])}: {error}") from error


# "N of M not hydrated": what a clone that has all its data goes through says little.
def progress(minute, soaks, seconds):
    total = sum((s.count for s in soaks), collections.Counter())
    operations, errors = total.pop("operations", 0), total.pop("errors", 0)
    looks, unhydrated = total.pop("looks", 0), total.pop("unhydrated", 0)
    print(f"    minute {minute}, {seconds:3.0f} s: {operations} operations, {errors} "
          f"errors, {sum(total.values())} events, {unhydrated} of {looks} not "
          "hydrated", flush=True)


@test("minute {minute}", limit=SECONDS * 2 + 120, minute=range(1, MINUTES + 1))
def _(t, minute):
    rng = random.Random(t.seed)
    soaks = [Soak(t, number, region)
             for number, region in enumerate(rng.sample(REGIONS, 3))]
    began = time.monotonic()
    jobs = [t.background(lambda s=s: s.run(began + SECONDS)) for s in soaks]

    told = 0
    while not all(job.done for job in jobs):
        time.sleep(0.2)
        for job in jobs:
            if job.done:
                job.wait()                  # raises what ended it
        seconds = time.monotonic() - began
        if seconds - told > 20:
            told = seconds
            progress(minute, soaks, seconds)
    for job in jobs:
        job.wait()
    for soak in soaks:
        t.note(f"region {soak.clone.region}: {soak.count['operations']} operations, "
               f"{soak.count['hydrated to the end']} times to the end")
