# SPDX-License-Identifier: GPL-2.0-only
"""Nothing on the way of I/O needs memory that it might not get.

The kernel's own threads (workers that copy, commit, complete) get no memory, or
hardly any, unless they can wait for it; I/O goes on without an error, hydration ends,
flushes commit.
"""

import time

from lib import faults
from lib.blk import MIB
from lib.errors import Failure
from lib.framework import test

LONG = 900


def starve(t, clone, percent, seconds):
    """Random I/O with that many of the allocations of kernel threads failing."""
    faults.mark_kernel_threads()
    faults.quiet_console(True)
    try:
        load = t.load(clone, threads=4, max_sectors=256)
        with faults.Allocations(probability=percent, only_marked=True):
            done = load.done
            end = time.monotonic() + seconds
            while time.monotonic() < end and load.running:
                time.sleep(0.2)
            done = load.done - done
        load.stop()
    finally:
        faults.quiet_console(False)
    return done


@test("kernel threads get {what}: {region} regions", limit=LONG,
      what={"no memory": 100, "every second allocation": 50,
            "nine allocations of ten": 10},
      region={"4 KiB": 8, "64 KiB": 128})
def _(t, what, region):
    clone = t.clone(region=region, size=16 * MIB, active=False,
                    core={"hydration_threshold": 1, "hydration_batch_size": 1})
    # What stores must not be short of memory: all its pages are there by now.
    clone.meta.zero()
    clone.activate()
    done = starve(t, clone, what, 10)
    if clone.mode() != "rw":
        raise Failure(f"the mode is {clone.mode()}")
    if not done:
        raise Failure("no I/O has been done")
    t.note(f"{done} operations")
    clone.flush()
    clone.check()
    clone.until_hydrated(100)
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("hydration ends although kernel threads get no memory: {region} regions",
      limit=LONG, region={"4 KiB": 8, "1 MiB": 2048})
def _(t, region):
    clone = t.clone(region=region, size=32 * MIB, active=False)
    clone.meta.zero()
    clone.features = ["no_hydration"]
    clone.activate()
    faults.mark_kernel_threads()
    faults.quiet_console(True)
    try:
        with faults.Allocations(probability=100, only_marked=True):
            clone.hydrate(200)
    finally:
        faults.quiet_console(False)
    clone.until(lambda s: not s.hydrating, "the end of all copies")
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
