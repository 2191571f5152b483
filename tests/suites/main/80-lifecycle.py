# SPDX-License-Identifier: GPL-2.0-only
"""Suspend, resume, reload, rename, remove: idle, under load, and at bad moments."""

import errno
import time

from lib import dm, metadata
from lib.blk import MIB, SOURCE, Block
from lib.errors import Failure, Missed
from lib.framework import test

STALE = "a table that was loaded before a write does not know of it"


def slowly_copying(t, delay=40, threshold=4, **args):
    """A clone that hydrates, for ten seconds: t.midway() to be sure that it still does."""
    args.setdefault("size", 4 * MIB)
    clone = t.clone(region=8, active=False, core={"hydration_threshold": threshold,
                                                  "hydration_batch_size": 1}, **args)
    clone.source.delay(delay)
    clone.activate()
    clone.until(lambda s: s.hydrated > 4, "some hydration")
    return clone


@test("a suspended clone copies nothing, a resumed one goes on")
def _(t):
    for noflush in False, True:
        clone = slowly_copying(t)
        t.within(10, lambda c=clone, n=noflush: c.device.suspend(noflush=n), "suspend")
        stopped = clone.status()
        t.midway(clone)
        if stopped.hydrating:
            raise Failure(f"copies in flight in a suspended device: {stopped.text}")
        with t.trace(clone.source, clone.dest) as trace:
            time.sleep(1)
        if trace.bios:
            raise Failure(f"{trace.bios[:3]}")
        if clone.status().hydrated != stopped.hydrated:
            raise Failure(f"was {stopped.text}, is {clone.status().text}")
        clone.device.resume()
        clone.source.heal()
        clone.until_hydrated()
        clone.check()


@test("a suspend commits")
def _(t):
    clone = t.idle_clone(region=8)
    clone.flush()
    clone.put(800, 8)
    clone.device.suspend()
    sb = metadata.read(clone.meta.block)
    bitmap = sb.bitmap(clone.meta.block, clone.regions)
    if not metadata.bit(bitmap, 100):
        raise Failure("the region is not hydrated on disk")
    clone.device.resume()


@test("status, table and messages do not wait for the resume of a suspended clone ({how})",
      how={"with flush": False, "without flush": True})
def _(t, how):
    clone = slowly_copying(t)
    clone.device.suspend(noflush=how)
    t.midway(clone)
    for noflush in False, True:
        t.within(10, lambda n=noflush: clone.device.status(noflush=n), "status")
    t.within(10, clone.device.table, "table")
    t.within(10, clone.disable_hydration, "a message")
    t.within(10, lambda: clone.message("hydration_threshold 3"), "a message")
    status = clone.status()
    if "no_hydration" not in status.features or status.core["hydration_threshold"] != 3:
        raise Failure(status.text)
    t.within(10, clone.enable_hydration, "a message")
    with t.trace(clone.source) as trace:
        time.sleep(0.5)
    if trace.bios:
        raise Failure("enable_hydration began to copy in a suspended device")
    clone.device.resume()
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("a suspend waits for what is in flight at a held source, then ends; "
      "without flush too")
def _(t):
    for noflush in False, True:
        clone = t.clone(region=8, size=MIB, active=False)
        clone.source.hold()
        clone.activate()
        clone.until(lambda s: s.hydrating, "a copy in flight")
        suspend = t.background(lambda c=clone, n=noflush: c.device.suspend(noflush=n))
        suspend.join(0.5)
        clone.source.release()
        suspend.wait(10, "suspend")
        t.within(10, clone.device.resume, "resume")
        clone.until_hydrated()
        clone.check()


@test("I/O sent to a suspended clone is done after resume")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 8)
    clone.device.suspend()
    jobs = [t.background(lambda: clone.put(64, 8)),
            t.background(lambda: clone.get(0, 8)),
            t.background(clone.flush)]
    for job in jobs:
        job.must_block(0.2, "I/O on a suspended device")
    clone.device.resume()
    for job in jobs:
        job.wait()
    clone.check()


@test("writes that wait for a copy are not lost by a suspend without flush")
def _(t):
    clone = t.idle_clone(region=128, size=MIB)
    clone.source.hold()
    jobs = [t.background(lambda i=i: clone.put(128 * i + 5, 7)) for i in range(6)]
    time.sleep(0.3)
    suspend = t.background(lambda: clone.device.suspend(noflush=True))
    suspend.join(0.5)
    clone.source.release()
    suspend.wait(10, "suspend")
    t.within(10, clone.device.resume, "resume")
    for job in jobs:
        job.wait()
    clone.check()


@test("the same table loaded again and again changes nothing", defect=STALE)
def _(t):
    clone = slowly_copying(t)
    for _ in range(10):
        clone.put(t.rng.randrange(1000) * 8, 8)
        clone.reload()
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("a reload changes features and caps")
def _(t):
    clone = slowly_copying(t)
    clone.reload(features=["no_hydration"], core={"hydration_threshold": 9})
    status = clone.status()
    if "no_hydration" not in status.features or status.core["hydration_threshold"] != 9:
        raise Failure(status.text)
    clone.source.heal()
    clone.reload(features=[])
    clone.until_hydrated()
    clone.check()


@test("a table loaded early knows all that is written until it goes live",
      defect=STALE)
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.put(0, 8)
    clone.device.load(clone.table())
    clone.put(64, 64)
    clone.put(1003, 2)
    clone.flush()
    clone.put(2048, 8)
    clone.device.suspend_resume()
    clone.check()
    clone.reactivate()
    clone.check()


@test("a table loaded early and cleared leaves the live one alone")
def _(t):
    clone = t.idle_clone(region=8)
    clone.device.load(clone.table())
    clone.put(64, 64)
    clone.device.clear()
    clone.put(512, 3)
    clone.check()
    clone.reactivate()
    clone.check()


@test("a table loaded early knows what hydration has copied", defect=STALE)
def _(t):
    clone = slowly_copying(t)
    clone.device.load(clone.table())
    seen = clone.status().hydrated
    if seen + 20 >= clone.regions:
        raise Missed("hydration was over too early")
    clone.until(lambda s: s.hydrated > seen + 20, "more hydration")
    clone.put(0, 8)
    seen = clone.status().hydrated
    clone.device.suspend_resume()
    if clone.status().hydrated < seen:
        raise Failure(f"{seen} regions were hydrated, now {clone.status().text}")
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("a table loaded while another with the same metadata by another path is being resumed "
      "is not resumed after it", ours="it takes no notice")
def _(t):
    clone = t.idle_clone(active=False)
    alias = t.mapped([(0, clone.meta.sectors, "linear", f"{clone.meta.number} 0")])
    other = clone.line().replace(clone.meta.number, alias.number, 1)
    held = t.disk(clone.size, fill=0)
    clone.device = dm.Device(clone.name)
    clone.device.load([(0, clone.size, "linear", f"{held.number} 0")])
    clone.device.resume()
    held.hold_range(0, 8)
    read = t.background(lambda: clone.block.read(0, 8))
    t.until(lambda: held.waiting, "a read that suspend waits for")
    clone.device.load(clone.table())
    resumed = t.background(clone.device.resume)
    t.until(lambda: "dm_suspend" in resumed.stack, "the suspend before the swap")
    clone.device.load([(0, clone.size, "clone", other)])
    held.heal()
    read.wait()
    resumed.wait()
    clone.put(0, 8)
    t.fails(clone.device.resume, errno.EBUSY, what="the resume of the table with the alias")
    clone.reactivate()
    clone.check()


@test("a reload with another region size or target size is refused")
def _(t):
    clone = t.idle_clone(region=8)
    clone.put(0, 8)
    for start, length, region in (0, clone.size, 16), (0, clone.size - 8, 8):
        line = clone.line().replace(f"{clone.source.number} 8", f"{clone.source.number} {region}")
        t.fails(lambda row=(start, length, "clone", line): clone.device.load([row]))
    clone.check()


@test("a suspended clone can be given a linear table and back")
def _(t):
    clone = t.idle_clone(region=8, size=MIB)
    clone.put(0, 64)
    clone.device.reload([(0, clone.size, "linear", f"{clone.dest.number} 0")])
    clone.device.reload(clone.table())
    clone.check()


@test("swapped to linear when done: the same content, and the clone is gone")
def _(t):
    clone = t.clone(region=8, size=4 * MIB)
    load = t.load(clone, threads=4, weights={"discard": 0})
    clone.until_hydrated()
    t.let_run(load, 30)
    clone.swap_to_linear()
    t.let_run(load, 30)
    load.stop()
    clone.check()
    clone.source.fail()
    clone.meta.fail()
    clone.check()


@test("a renamed clone goes on, under its new name")
def _(t):
    clone = slowly_copying(t)
    clone.device.rename(t.name("renamed"))
    clone.put(0, 8)
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("an open clone cannot be removed, and the attempt does no harm")
def _(t):
    clone = slowly_copying(t, kind="null")
    load = t.load(clone, threads=4)
    for _ in range(5):
        t.fails(clone.device.remove, errno.EBUSY)
        t.let_run(load, 10)
    load.stop()
    clone.source.heal()
    clone.until_hydrated()
    clone.check()


@test("removal during hydration does not wait for the rest of it")
def _(t):
    clone = slowly_copying(t, delay=200)        # for a minute
    t.midway(clone)
    t.within(10, clone.deactivate, "removal")
    clone.source.heal()
    bitmap = clone.check_left_behind()
    if metadata.weight(bitmap, clone.regions) == clone.regions:
        raise Failure("expected regions not hydrated, found none: removal has waited for all")
    clone.activate()
    clone.until_hydrated()
    clone.check()


@test("removal of a suspended clone works")
def _(t):
    for noflush in False, True:
        clone = slowly_copying(t)
        clone.put(0, 8)
        clone.flush()
        clone.close_block()
        clone.device.suspend(noflush=noflush)
        t.within(10, clone.deactivate, "removal")
        clone.source.heal()
        clone.check_left_behind()


@test("a deferred removal under load happens when the last user closes")
def _(t):
    clone = slowly_copying(t, kind="null")
    load = t.load(clone, threads=4)
    t.let_run(load, 20)
    clone.device.remove(deferred=True)
    t.let_run(load, 20)
    if not clone.device.exists():
        raise Failure("the device went away under its user")
    load.stop()
    clone.close_block()
    t.until(lambda: not clone.device.exists(), "the removal")
    clone.device = None
    clone.source.heal()
    clone.check_left_behind()
    clone.activate()
    clone.check()


@test("dmsetup remove --force under load: users get errors, nothing hangs, nothing is lost")
def _(t):
    clone = slowly_copying(t, kind="null")
    load = t.load(clone, threads=4, errors_ok=True, weights={"discard": 0})
    t.let_run(load, 20)
    # It puts an error table in place, then fails to remove the open device.
    t.run("dmsetup", "remove", "--force", clone.name, check=False)
    t.let_run(load, 20)
    load.stop()
    clone.close_block()
    clone.device.remove()
    clone.source.heal()
    clone.activate()
    clone.check()
    clone.until_hydrated()
    clone.check()


@test("a clone loaded read-only reads, and is not written", ours="it lets them through")
def _(t):
    clone = t.idle_clone()
    clone.put(8, 24)                        # some regions are read from the destination
    clone.deactivate()
    clone.features = []                     # were it not read-only it would hydrate
    below = clone.meta, clone.dest, clone.source
    device = t.unready()
    with t.trace(*below) as trace:
        device.load(clone.table(), readonly=True)
        device.resume()
        with Block(device.path, readonly=True) as block:
            clone.model.check(block)
        with Block(device.path) as block:
            t.fails(lambda: block.put(0, 8, t.stamp()), errno.EPERM, what="a write")
        device.remove()
    written = [bio for disk in below for bio in trace.writes(disk.number)]
    if written:
        raise Failure(f"expected no write, found {len(written)}: {written[:3]}")
    clone.activate()
    clone.until_hydrated()
    clone.check()


@test("a clone is created and removed forty times, at any moment", limit=120)
def _(t):
    clone = t.clone(region=8, size=MIB, active=False)
    for i in range(40):
        clone.activate()
        if i % 3 == 0:
            clone.put(t.rng.randrange(200) * 8, 8)
        if i % 5 == 0:
            time.sleep(0.01)
        clone.deactivate()
    clone.check_left_behind()
    clone.activate()
    clone.until_hydrated()
    clone.check()


@test("a clone that is loaded, never live, and removed leaves nothing and copies nothing")
def _(t):
    clone = t.clone(region=8, active=False)
    for _ in range(5):
        device = t.unready()
        with t.trace(clone.source, clone.dest) as trace:
            device.load(clone.table())
            time.sleep(0.1)
            device.remove()
        # Making the table live sizes the device; loading it must not touch data.
        if trace.of(clone.dest.number) or trace.of(clone.source.number):
            raise Failure(f"{trace.bios[:3]}")
    clone.activate()
    clone.until_hydrated()
    clone.check()


@test("everything at once: load, suspend, reload, messages, status, for a while",
      limit=120, defect=STALE)
def _(t):
    clone = slowly_copying(t, delay=5, size=8 * MIB, kind="null")
    load = t.load(clone, threads=6)
    end = time.monotonic() + 10
    steps = 0
    while time.monotonic() < end and load.running:
        t.rng.choice([
            lambda: (clone.device.suspend(noflush=t.rng.random() < 0.5),
                     clone.device.resume()),
            lambda: clone.reload(noflush=t.rng.random() < 0.5),
            lambda: (clone.device.load(clone.table()), t.let_run(load, 5)),
            clone.device.clear,
            clone.enable_hydration, clone.disable_hydration,
            lambda: clone.message(f"hydration_threshold {t.rng.randrange(1, 300)}"),
            lambda: clone.message(f"hydration_batch_size {t.rng.randrange(1, 90)}"),
            clone.status, lambda: clone.status(noflush=False), clone.device.table,
            lambda: clone.source.delay(t.rng.randrange(1, 10)),
        ])()
        steps += 1
    clone.source.heal()
    load.stop()
    clone.device.clear()
    clone.hydrate(60)
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
    t.note(f"{steps} steps, {load.done} operations")


@test("a removed clone does not hold its devices")
def _(t):
    clone = t.clone(region=8)
    clone.until_hydrated()
    clone.deactivate()
    for disk in clone.meta, clone.dest, clone.source:
        count = dm.ioctl(dm.DEV_STATUS, disk.device.name).open_count
        if disk._block:
            count -= 1                      # the test's own
        if count:
            raise Failure(f"{disk.device.name} is still open {count} times")
    if clone.source.block.get(0) != [SOURCE]:
        raise Failure("the source has changed")


@test("a metadata device hangs while a table opens it: other clones come and go, and a "
      "table that names the same device waits", ours="it has other rules")
def _(t):
    other = t.idle_clone(size=MIB)
    hung = t.idle_clone(size=MIB, active=False)
    hung.meta.hold()
    first = t.background(hung.activate)
    first.must_block()

    third = t.idle_clone(size=MIB, active=False)
    for what, fn in (("a clone's creation", third.activate),
                     ("a clone's new table", other.reload),
                     ("a clone's swap to linear", other.swap_to_linear),
                     ("a clone's removal", third.deactivate),
                     ("the removal of what was a clone", other.deactivate)):
        t.within(10, fn, what)

    rival = t.unready("clone")
    second = t.background(lambda: rival.load(hung.table()))
    second.must_block()
    if first.done:
        raise Failure("the table is there, though its metadata device hangs")
    hung.meta.release()
    first.wait()
    t.fails(second.wait, errno.EBUSY, what="the other table with this device")
    hung.put(0, 11)
    hung.check()


@test("a metadata device hangs and then fails while two tables open it: both are refused, "
      "and it works later", ours="it has other rules")
def _(t):
    clone = t.idle_clone(size=MIB, active=False)
    # Not delay(): what that holds is carried out, well, before the next table is there.
    clone.meta.hold()
    jobs = [t.background(lambda d=t.unready("clone"): d.load(clone.table())) for _ in range(2)]
    for job in jobs:
        job.must_block()
    clone.meta.fail()
    for job in jobs:
        t.fails(job.wait, errno.EIO, what="the table")
    clone.meta.heal()
    clone.activate()
    clone.put(0, 11)
    clone.check()


def finished(t):
    """A clone that is done, and what would be no source of another."""
    clone = t.clone(size=2 * MIB, region=64)
    clone.put(100, 50)
    clone.until_hydrated()
    t.until(lambda: clone.stats()["state"] == "done", "the end")
    strange = {
        "an error target": t.mapped([(0, 8, "error", "")]),
        "a smaller device": t.disk(MIB, fill=0),
        "a disk of other blocks": t.disk(2 * MIB, "null", block_size=4096),
        "the destination": clone.dest,
        "the metadata device": clone.meta,
    }
    return clone, strange


@test("a finished clone accepts any device as its source: {how}", ours="it looks at the source",
      how={"when it is activated again": False, "in a new table": True})
def _(t, how):
    clone, strange = finished(t)
    for name, device in strange.items():
        clone.source = device
        clone.reload() if how else clone.reactivate()
        with t.trace(device) as trace:
            clone.check()
        if device is not clone.dest and trace.bios:
            raise Failure(f"{name} is read: {trace.bios[:5]}")
        clone.expect_stats(state="done")
        clone.expect(mode="rw")
        clone.put(1000, 31)
        clone.flush()
    clone.check()


@test("a finished clone gives its source back with a new table")
def _(t):
    clone, strange = finished(t)
    old = clone.source
    clone.source = strange["the destination"]
    clone.reload()
    if dm.ioctl(dm.DEV_STATUS, old.device.name).open_count > bool(old._block):
        raise Failure("the source is still open")
    clone.check()


@test("a bad source is refused while a region is missing, and nothing is written")
def _(t):
    for formatted in False, True:
        clone = t.idle_clone(size=2 * MIB, region=8, active=formatted)
        if formatted:
            clone.put(0, clone.size - 8)
            clone.deactivate()
        small = t.disk(MIB, fill=0)
        good = clone.source
        for source in small, clone.dest, clone.meta:
            clone.source = source
            with t.trace(clone.meta, clone.dest) as trace:
                t.fails(clone.activate, errno.EINVAL, what="the table")
            if trace.writes(clone.meta.number) or trace.writes(clone.dest.number):
                raise Failure(f"{trace.bios}")
        clone.source = good
        clone.activate()
        clone.check()
