# SPDX-License-Identifier: GPL-2.0-only
"""Hydration without tuning, beside user I/O, with a rate, with errors; stats."""

import errno
import time

from lib import modules
from lib.blk import FORMER, MIB
from lib.errors import Failure, Missed
from lib.framework import test

KEYS = ["state", "bytes_copied", "bytes_overwritten", "bytes_zeroed",
        "bytes_zero", "bytes_kept", "bytes_read", "regions_failed", "read_errors", "write_errors",
        "last_error",
        "last_error_sector", "rate", "average_rate", "seconds_left",
        "memory_kib", "regions_in_flight", "source_reads", "commits"]


def stats(clone):
    found = clone.stats()
    if list(found) != KEYS:
        raise Failure(f"the keys of stats: {found}")
    return found


@test("stats replies with the documented words, and they add up",
      ours="it has nothing of the kind")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.expect_stats(state="paused")
    clone.put(0, 64)
    clone.put(1000, 1)
    clone.discard(2000, 80)
    clone.model.set(2000, 80, 0)
    clone.get(4000, 8)
    clone.flush()
    clone.hydrate()
    t.until(lambda: stats(clone)["state"] == "done", "the state")
    found = clone.expect_stats(
        bytes_overwritten=65 * 512, bytes_zeroed=80 * 512,
        bytes_copied=(clone.size - 145) * 512, seconds_left=0, regions_in_flight=0,
        source_reads=1, read_errors=0)
    if found["commits"] < 2:
        raise Failure(f"expected 2 commits at least, found {found}")
    clone.check()


@test("every core argument can be set by table and by message, and is shown",
      ours="it has nothing of the kind")
def _(t):
    core = {"hydration_rate": 100000, "hydration_floor": 5, "hydration_max_errors": 7}
    clone = t.clone(features=["no_hydration"], core=core)
    shown = clone.status().core
    if any(shown[key] != value for key, value in core.items()):
        raise Failure(clone.status().text)
    for key in core:
        clone.message(f"{key} 0")
        if clone.status().core[key] != 0:
            raise Failure(clone.status().text)
        for bad in ("-1", "4294967296", "x", ""):
            t.fails(lambda k=key, b=bad: clone.message(f"{k} {b}"), errno.EINVAL,
                    what=f"{key} {bad}")
    for key in ("hydration_threshold", "hydration_batch_size"):
        t.fails(lambda k=key: clone.message(f"{k} 0"), errno.EINVAL, what=f"{key} 0")
    clone.hydrate()
    clone.check()


@test("an idle device hydrates quickly from a source with 20 ms of delay, without tuning",
      defect="it copies one region at a time")
def _(t):
    clone = t.clone(region=8, size=32 * MIB, active=False)
    began = time.monotonic()
    clone.activate()
    clone.until_hydrated(120)
    without = time.monotonic() - began
    clone.deactivate()
    clone.meta.zero()
    clone.dest.fill(FORMER)

    clone.source.delay(20)
    began = time.monotonic()
    clone.activate()
    clone.until_hydrated(120)
    took = time.monotonic() - began
    t.note(f"{took:.1f} s, without the delay {without:.1f} s")
    # One region after the other would take 160 s more.
    if took > 16 + 3 * without:
        raise Failure(f"it took {took:.1f} s, without the delay {without:.1f} s")
    clone.source.heal()
    clone.check()


def must_go_on(t, clone, found, least):
    """Fails unless this many KiB/s were copied; misses if it copies no faster at all."""
    if found >= least:
        return
    clone.message("hydration_rate 0")
    unlimited = t.rate(lambda: clone.source.sectors_read / 2, 0.5)
    t.midway(clone)
    if unlimited < 2 * least:
        raise Missed(f"this machine copies {unlimited:.0f} KiB/s at most")
    raise Failure(f"{found:.0f} KiB/s, without a limit {unlimited:.0f} KiB/s")


@test("hydration_rate is kept within a tenth: {rate} KiB/s, regions of {region}",
      rate=[1024, 4096], region=[8, 4096], ours="it has nothing of the kind")
def _(t, rate, region):
    clone = t.clone(region=region, size=64 * MIB, active=False,
                    core={"hydration_rate": rate})
    clone.activate()
    clone.until(lambda s: s.hydrating or s.hydrated, "the beginning")
    # Of the source, since a region counts when it is copied as a whole.
    found = t.rate(lambda: clone.source.sectors_read / 2, limit=14)
    read = clone.source.sectors_read / 2
    copied = stats(clone)["bytes_copied"] / 1024
    t.midway(clone)
    t.note(f"{found:.0f} KiB/s")
    if found > rate * 1.1:
        raise Failure(f"{found:.0f} KiB/s")
    if copied < read - rate / 5 - region:
        raise Failure(f"{read:.0f} KiB were read of the source, {copied:.0f} KiB copied")
    clone.expect_stats(state="limited")
    must_go_on(t, clone, found, rate * 0.9)
    clone.message("hydration_rate 0")
    clone.until_hydrated()
    clone.check()


@test("under user I/O without pauses hydration goes on at the floor or faster",
      defect="it copies only while there is no user I/O")
def _(t):
    clone = t.clone(region=8, size=64 * MIB, features=["no_hydration"])
    clone.source.delay(20)
    io = t.load(clone, threads=8, max_sectors=8,
                weights={"read": 100, "write": 0, "fua": 0, "discard": 0, "zero": 0,
                         "flush": 0})
    clone.enable_hydration()
    clone.until(lambda s: s.hydrating or s.hydrated, "the beginning")
    found = t.rate(lambda: clone.status().hydrated * 4, limit=20)
    done = clone.status().done
    io.stop()
    t.note(f"{found:.0f} KiB/s")
    if not done:
        must_go_on(t, clone, found, 0.8 * 1024)
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("hydration stops after hydration_max_errors failed regions, says so, and starts afresh",
      ours="it has nothing of the kind")
def _(t):
    clone = t.clone(region=8, size=4 * MIB, features=["no_hydration"],
                    core={"hydration_max_errors": 5, "hydration_batch_size": 4})
    clone.source.fail_range(4096, 512)
    event = clone.device.info().event_nr
    clone.enable_hydration()
    clone.until(lambda s: "no_hydration" in s.features, "the end of trying")
    s = clone.expect_stats(state="stopped", last_error=-errno.EIO)
    if s["regions_failed"] < 5 or not s["read_errors"] or \
            not 4096 <= s["last_error_sector"] < 4608:
        raise Failure(f"expected 5 failed regions, at sectors 4096 to 4607, found {s}")
    t.until(lambda: clone.device.info().event_nr != event, "an event")
    clone.source.heal()
    clone.hydrate()
    clone.check()


@test("one bad sector costs one region, and a write that covers it mends it")
def _(t):
    clone = t.clone(region=8, size=8 * MIB, features=["no_hydration"])
    clone.source.fail_range(8000, 1)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == clone.regions - 1, "all but one region")
    clone.put(8000, 8)
    clone.until_hydrated()
    clone.source.heal()
    clone.check()


@test("a write that waits for a paced copy does not wait for the pace",
      ours="it has nothing of the kind")
def _(t):
    clone = t.clone(region=8192, size=32 * MIB, active=False,
                    core={"hydration_rate": 16})
    clone.activate()
    clone.until(lambda s: s.hydrating, "a copy")
    began = time.monotonic()
    clone.put(8, 1)                         # the region of 4 MiB being copied
    took = time.monotonic() - began
    if took > 40:                           # at its pace: 256 s
        raise Failure(f"it waited {took:.1f} s")
    clone.message("hydration_rate 0")
    clone.until_hydrated()
    clone.check()


@test("suspend does not wait for a large region that is copied slowly",
      ours="it has nothing of the kind")
def _(t):
    clone = t.clone(region=32768, size=32 * MIB, active=False,
                    core={"hydration_rate": 64})
    clone.activate()
    clone.until(lambda s: s.hydrating, "a copy")
    began = time.monotonic()
    clone.device.suspend()
    took = time.monotonic() - began
    clone.device.resume()
    if took > 32:                           # the region takes 256 s
        raise Failure(f"it took {took:.1f} s")
    clone.message("hydration_rate 0")
    clone.until_hydrated()
    clone.check()


@test("suspend does not wait for a slowly copied region that is {what} when it comes",
      what={"about to be copied": "BATCH", "about to be tried again": "RETRY"},
      ours="it has nothing of the kind")
def _(t, what):
    region = 1024                               # two of them go into a batch
    with modules.halting(t) as halts:
        place = getattr(halts, what)
        clone = t.clone(region=region, size=2 * region, active=False,
                        core={"hydration_threshold": 2, "hydration_batch_size": 2})
        if what == "RETRY":
            clone.source.fail_range(region - 8, 8)
        halts.at(place)
        clone.activate()
        halts.until_at(place)
        clone.source.heal()
        clone.message("hydration_rate 16")      # at which a region takes 32 s
        before = clone.source.sectors_read
        suspend = t.background(clone.device.suspend)
        t.until(lambda: stats(clone)["state"] == "paused", "the stop")
        halts.at(0)
        suspend.wait(60, "suspend")
        read = clone.source.sectors_read - before
        clone.device.resume()
        if read > region // 2:
            raise Failure(f"{read} sectors were read before suspend was over")
        clone.message("hydration_rate 0")
        clone.until_hydrated()
        clone.check()
