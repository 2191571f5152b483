# SPDX-License-Identifier: GPL-2.0-only
"""Each device failing in each way, at each stage of a clone's life.

What all of them have in common is checked by lib/failing.py: no hang; errors
only where they are expected; mode, event and log; what is read is what was
acknowledged; the way back; and what was flushed is there in another life. Here
is the table of what is expected.
"""

import errno

from lib import disks, failing
from lib.blk import FORMER, MIB, SOURCE, ZERO, Block
from lib.errors import Failure, Missed
from lib.failing import (Ailing, DROP, ERROR, FLUSHED, PATIENT, PENDING, PLACE, REGION,
                         SIZE, Case, Expected, Rig, Stage)
from lib.framework import test

KINDS = {
    "read errors": {"read": ERROR},
    "write errors": {"write": ERROR},
    "flush errors": {"flush": ERROR},
    "dropped writes": {"write": DROP, "flush": DROP},
    "delays": {"read": 30, "write": 30, "flush": 30},
    "nothing but errors": {"read": ERROR, "write": ERROR, "flush": ERROR},
}


# The stages

def read_unhydrated(case):
    case.attempt(lambda: case.clone.block.read(0, REGION))


def read_hydrated(case):
    case.attempt(lambda: case.clone.block.read(*FLUSHED))


def write_hydrated(case):
    case.write((FLUSHED[0] + 11, 3), untouched=case.flushed_stamp)


def copy_on_demand(case):
    case.write((PLACE[0] + 3, 2))
    case.nothing_arrived((PLACE[0], REGION))


def overwrite(case):
    case.write(PLACE)


def write_with_fua(case):
    case.write(PLACE, fua=True)


def discard(case):
    case.discard(PLACE)


def background_copy(case):
    clone, copies = case.clone, case.expected.copies
    clone.enable_hydration()

    def over():
        status = clone.status()
        return status.mode != "rw" or status.done or \
            (not copies and case.clone.stats()["regions_failed"])

    case.t.until(over, "an end, or a failure, of the copy", PATIENT)
    status = clone.status()         # once: it may fail any moment
    if status.mode == "rw" and status.done != copies:
        raise Failure(f"done is {status.done}, {copies} was expected: {status.text}")
    if not copies and status.mode == "rw":
        errors = "read_errors" if case.device == "source" else "write_errors"
        if not case.clone.stats()[errors] or not case.clone.stats()["last_error"]:
            raise Failure(f"{errors} are not counted: {clone.message('stats')}")
    case.nothing_arrived((0, FLUSHED[0]))
    case.nothing_arrived((PENDING[0] + PENDING[1], clone.size - 12 * REGION))


def flush(case):
    case.attempt(case.clone.flush)


def commit_by_the_clock(case):
    case.t.within(PATIENT, case.until_committed, "a commit")


def suspend(case):
    device = case.clone.device
    for noflush in False, True:
        case.t.within(PATIENT, lambda n=noflush: device.suspend(noflush=n), "suspend")
        case.t.within(failing.QUICK, case.clone.status, "status")
        case.t.within(PATIENT, device.resume, "resume")


def reload(case):
    case.t.within(PATIENT, case.clone.reload, "a new table")


def remove(case):
    case.t.within(PATIENT, case.deactivate, "removal")


def activate(case):
    case.attempt(case.clone.activate)


STAGES = [
    Stage("create", activate, before="nothing"),
    Stage("load", activate, before="a clone"),
    Stage("read of what is not copied", read_unhydrated),
    Stage("read of what is copied", read_hydrated),
    Stage("write to what is copied", write_hydrated, changes=True),
    Stage("copy on demand", copy_on_demand, changes=True),
    Stage("background copy", background_copy),
    Stage("overwrite", overwrite, changes=True),
    Stage("write with FUA", write_with_fua, changes=True),
    Stage("discard", discard, changes=True),
    Stage("flush", flush, commits=True),
    Stage("commit by the clock", commit_by_the_clock, commits=True),
    Stage("suspend", suspend, commits=True),
    Stage("reload", reload, commits=True),
    Stage("remove", remove),
]

CHANGES = ("write to what is copied", "copy on demand", "overwrite", "write with FUA",
           "discard")
FLUSHES = "write with FUA", "flush"


# What is expected

EXPECTED = {
    ("source", "read errors"):
        Expected(fails=("read of what is not copied", "copy on demand"), copies=False),
    ("source", "write errors"): Expected(),
    ("source", "flush errors"): Expected(),
    ("source", "dropped writes"): Expected(),
    ("source", "delays"): Expected(),
    ("source", "nothing but errors"):
        Expected(fails=("read of what is not copied", "copy on demand"), copies=False),

    ("dest", "read errors"): Expected(fails=("read of what is copied",)),
    ("dest", "write errors"): Expected(fails=CHANGES, copies=False),
    ("dest", "flush errors"):
        Expected(fails=FLUSHES, mode="ro", comes_back="activate"),
    ("dest", "dropped writes"): Expected(lies=True),
    ("dest", "delays"): Expected(),
    ("dest", "nothing but errors"):
        Expected(fails=("read of what is copied", *CHANGES, "flush"), mode="ro",
                 copies=False, comes_back="activate"),

    ("meta", "read errors"): Expected(fails=("create", "load")),
    ("meta", "write errors"):
        Expected(fails=("create", *FLUSHES), mode="ro", comes_back="resume"),
    ("meta", "flush errors"):
        Expected(fails=("create", *FLUSHES), mode="ro", comes_back="resume"),
    ("meta", "dropped writes"): Expected(fails=("create",), lies=True),
    ("meta", "delays"): Expected(),
    ("meta", "nothing but errors"):
        Expected(fails=("create", "load", *FLUSHES), mode="Fail", comes_back="resume"),
}

DEVICES = {"the source": "source", "the destination": "dest",
           "the metadata device": "meta"}


def one(rig, device, kind, stage):
    """What went wrong, or None."""
    case = Case(rig, device, KINDS[kind], stage, EXPECTED[device, kind])
    try:
        case.run()
    except (OSError, Failure) as error:
        rig.heal()
        case.clone.deactivate()
        return f"{stage.name}: {error}"
    return None


@test("{device}, {kind}: every stage of a clone's life", limit=120,
      ours="it has other modes", device=DEVICES, kind=list(KINDS))
def _(t, device, kind):
    rig = Rig(t)
    wrong = [error for error in (one(rig, device, kind, s) for s in STAGES) if error]
    if wrong:
        raise Failure(f"{len(wrong)} of {len(STAGES)} stages:\n" + "\n".join(wrong))
    t.note(f"{len(STAGES)} stages")


# What the table has no room for


@test("a flush fails at the destination, nothing is uncommitted: later flushes fail too",
      ours="it goes on as if nothing had happened")
def _(t):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.flush()
    clone.put(FLUSHED[0] + 2, 9)                # hydrated and committed
    rig.dest.ail(flush=ERROR)
    t.fails(clone.flush, errno.EIO, what="the flush")
    clone.until_mode("ro")
    rig.heal()
    t.fails(clone.flush, errno.EIO, what="the next flush")
    t.fails(clone.flush, errno.EIO, what="the one after that")
    clone.check()
    clone.reactivate()
    clone.check()
    clone.put(*FLUSHED)
    clone.flush()


def lose_copies(t, rig, clone, how):
    """Copies are in the destination's cache, and the flush that is to get them out of
    it fails: that of how(), which is not the clock's."""
    clone.put(*FLUSHED)
    clone.flush()
    clone.message("hydration_batch_size 4")
    rig.source.hold_from(PLACE[0])              # when all is there it is committed at once
    rig.dest.ail(write=DROP, flush=ERROR)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == PLACE[0] // REGION, "copies")
    if clone.mode() != "rw" or clone.stats()["commits"] != 1:
        raise Missed(f"the clock's flush came first: {clone.status().text}")
    how()
    rig.dest.heal()                             # the last commit is to find it sound
    rig.heal()


@test("copies are lost with {flush}: ro, flushes fail, and no lost copy is ever shown",
      ours="it goes on as if nothing had happened",
      flush={"a flush": False, "the flush after a FUA write to what is hydrated": True})
def _(t, flush):
    rig = Rig(t)
    clone = rig.clone()
    clone.dest = t.add_disk(disks.Disk(t.name("dest"), SIZE, disks.loop_over(rig.dest.path)))
    clone.activate()

    def fua():
        t.fails(lambda: clone.block.put(*FLUSHED, 20, fua=True), errno.EIO, what="FUA")
        clone.model.maybe(*FLUSHED, 20)

    lose_copies(t, rig, clone, fua if flush else
                lambda: t.fails(clone.flush, errno.EIO, what="the flush"))
    clone.until_mode("ro")
    t.fails(clone.flush, errno.EIO, what="the next flush")
    t.fails(lambda: clone.block.put(*FLUSHED, 21, fua=True), errno.EIO, what="a FUA write")
    clone.model.maybe(*FLUSHED, 21)
    clone.reactivate()
    clone.check()
    clone.hydrate()
    clone.check()


def fail_last_commit(t, rig, kind):
    """A clone that has all in the destination, and cannot say so on the disk."""
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.flush()
    rig.meta.ail(**KINDS[kind])
    event = clone.device.info().event_nr
    wait = t.background(lambda: clone.device.wait(event))
    if clone.stats()["seconds_left"] == 0:
        raise Failure("done before it has begun")
    clone.enable_hydration()
    clone.until_mode("ro|Fail")
    found = clone.stats()
    if int(found["bytes_copied"]) < (SIZE - FLUSHED[1]) * 512:
        raise Missed(f"a commit by the clock came before the last copy: {found}")
    if wait.wait(PATIENT, "dmsetup wait") == event or clone.stats()["seconds_left"] != 0:
        raise Failure(f"{clone.status().text}, {clone.message('stats')}")
    clone.put(*PLACE)
    return clone


@test("the metadata fails in the last commit of all, {kind}: done when it is back",
      ours="it has other modes", kind=["write errors", "nothing but errors"])
def _(t, kind):
    rig = Rig(t)
    clone = fail_last_commit(t, rig, kind)
    event = clone.device.info().event_nr
    rig.heal()
    clone.device.suspend_resume()
    clone.until_mode("rw")
    t.until(lambda: clone.stats()["state"] == "done", "the end")
    if clone.device.info().event_nr - event < 2:
        raise Failure("no events of the mode, and of the end")
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("the metadata fails in the last commit of all, {kind} for good: a linear table will do",
      ours="it has other modes", kind=["write errors", "nothing but errors"])
def _(t, kind):
    rig = Rig(t)
    clone = fail_last_commit(t, rig, kind)
    clone.check()
    t.within(PATIENT, clone.swap_to_linear, "the new table")
    clone.check()
    clone.put(*FLUSHED)
    clone.flush()
    clone.check()


@test("a clone that is done passes flushes on: a failed one has no consequences",
      ours="it has other modes")
def _(t):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.hydrate()
    t.until(lambda: clone.stats()["state"] == "done", "the end")
    clone.put(*PLACE)
    rig.dest.ail(flush=ERROR)
    t.fails(clone.flush, errno.EIO, what="the flush")
    rig.heal()
    clone.flush()
    clone.expect(mode="rw")
    rig.meta.ail(**KINDS["nothing but errors"])
    clone.put(*PLACE)
    clone.flush()
    clone.check()
    clone.expect(mode="rw")
    t.within(PATIENT, clone.deactivate, "removal")
    rig.heal()
    clone.activate()
    clone.check()


@test("the metadata device drops writes for a while: reads are right while the clone "
      "lives, and what an earlier life committed is there in the next", ours="unknown")
def _(t):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.reactivate()
    rig.meta.ail(write=DROP, flush=DROP)
    clone.put(*PENDING)
    clone.flush()
    rig.heal()
    clone.put(*PLACE)
    clone.flush()
    clone.check()
    clone.deactivate()
    try:
        clone.activate()
    except OSError as error:
        t.note(f"refused: {error.strerror}")
        return
    for where in PENDING, PLACE:
        clone.model.maybe(*where, SOURCE)
    clone.check()
    t.note(f"{clone.status().hydrated} regions hydrated")


@test("the metadata device goes and comes back again and again, under load and hydration: "
      "suspend and resume are all it takes", ours="it stays as it is")
def _(t):
    base = t.metadata(1024, kind="null")        # with a cache: others hear of no flush
    meta = t.add_disk(Ailing(t, base.sectors, disks.Backing(base.path), "meta"))
    clone = t.clone(meta=meta, size=8 * MIB, core={"hydration_rate": 64})
    load = t.load(clone, threads=2, errors_ok=True, max_sectors=8,
                  weights={"read": 100, "write": 30, "discard": 1, "zero": 1})
    for mood in ({"write": ERROR}, {"flush": ERROR}, KINDS["nothing but errors"]):
        t.let_run(load, 40)
        meta.ail(**mood)
        clone.until_mode("ro|Fail")
        t.let_run(load, 40)
        meta.heal()
        clone.device.suspend_resume()
        clone.until_mode("rw")
    t.midway(clone)
    load.stop()
    clone.flush()
    clone.check()
    clone.reactivate()
    clone.check()
    t.note(f"{load.done} operations, {load.errors()} errors")


def another(rig, device):
    """The same sectors as another device, as when it has been connected anew."""
    base = {"source": rig.bases[0], "dest": rig.bases[1], "meta": rig.bases[2]}[device]
    return rig.over(base, f"new{device}")


@test("{device} is gone and comes back as another device: {how}",
      ours="a new table reads the metadata anew",
      device={"the source": "source", "the destination": "dest"},
      how={"a new table": "table", "activated again": "activate"})
def _(t, device, how):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.flush()
    clone.put(*PENDING)
    getattr(rig, device).ail(**KINDS["nothing but errors"])
    setattr(clone, device, another(rig, device))
    if how == "table":
        t.within(PATIENT, lambda: clone.reload(noflush=True), "a new table")
    else:
        t.within(PATIENT, clone.deactivate, "removal")
        clone.activate()
    if clone.mode() != "rw":
        # The old destination was asked to flush.
        clone.deactivate()
        clone.model.maybe(*PENDING, SOURCE)
        clone.activate()
    elif device == "dest":
        clone.model.maybe(*PENDING, SOURCE)
    clone.check()
    clone.put(*PLACE)
    clone.flush()
    clone.reactivate()
    clone.check()
    clone.hydrate()
    clone.check()


@test("{device} is unplugged for good, under load: errors, no hang, and removal works",
      ours="it has other modes", device=DEVICES)
def _(t, device):
    plugged = disks.null_blk(t.name(device), MIB)
    with Block(plugged.path) as block:
        block.fill({"source": SOURCE, "dest": FORMER, "meta": ZERO}[device])
    clone = t.clone(size=MIB, core={"hydration_rate": 16}, **{device: plugged})
    clone.put(*FLUSHED)
    clone.flush()
    load = t.load(clone, threads=4, errors_ok=True, max_sectors=8,
                  weights={"write": 10, "discard": 1, "zero": 1})
    t.let_run(load, 20)
    plugged.close()
    t.let_run(load, 200)
    t.within(PATIENT, load.stop, "I/O")
    t.within(failing.QUICK, clone.device.status, "status")
    if device != "dest":
        clone.put(*FLUSHED)
        clone.model.check(clone.block, *FLUSHED)
    if device == "source":
        clone.flush()
    else:
        clone.until_mode("ro" if device == "dest" else "Fail")
        t.fails(clone.flush, errno.EIO, what="a flush")
    if device == "meta":
        clone.check()                           # so it can be copied elsewhere
    t.within(PATIENT, clone.device.suspend, "suspend")
    t.within(PATIENT, clone.device.resume, "resume")
    t.within(PATIENT, clone.deactivate, "removal")
    t.fails(clone.activate, what="activation without it")


@test("the metadata device of a live clone cannot be exchanged, not even for the same disk",
      ours="what was written since is lost")
def _(t):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.flush()
    old, clone.meta = clone.meta, another(rig, "meta")
    for stop in False, True:
        if stop:
            clone.device.suspend()
        t.fails(lambda: clone.device.load(clone.table()), errno.EBUSY, what="the table")
    clone.device.resume()
    clone.meta = old
    clone.reload()
    clone.put(*PENDING)
    clone.check()
    clone.deactivate()
    clone.meta = another(rig, "meta")
    clone.activate()
    clone.check()


@test("a table that was loaded but never live may be followed by any other")
def _(t):
    rig = Rig(t)
    clone = rig.clone()
    clone.device = t.unready("clone")
    first = t.metadata()
    good, clone.meta = clone.meta, first
    clone.device.load(clone.table())
    clone.meta = good
    clone.device.load(clone.table())
    clone.device.resume()
    clone.put(*PENDING)
    clone.check()


@test("a metadata device that is accepted is never full", limit=60,
      ours="it takes the kernel down with it")
def _(t):
    size = MIB
    source, dest = t.source(size), t.disk(size)
    for blocks in range(4, 40):
        dest.fill(FORMER)
        clone = t.idle_clone(meta=t.disk(blocks * 8, fill=0), source=source, dest=dest,
                             size=size, former=None, active=False)
        try:
            clone.activate()
            break
        except OSError:
            continue
    for region in t.rng.sample(range(clone.regions), 100):
        clone.put(region * 8, 8)
        clone.flush()
    clone.hydrate()
    clone.expect(mode="rw")
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
    t.note(f"{blocks} blocks")


@test("a metadata device loses its end and gets it back: ro, then rw after suspend and resume",
      ours="it takes the kernel down with it")
def _(t):
    rig = Rig(t)
    clone = rig.clone().activate()
    clone.put(*FLUSHED)
    clone.flush()
    rig.meta.shrink_to(8)
    clone.put(*PENDING)
    t.fails(clone.flush, errno.EIO, what="the flush")
    clone.until_mode("ro|Fail")
    clone.check()
    t.note(clone.mode())
    rig.heal()
    clone.device.suspend_resume()
    clone.until_mode("rw")
    clone.flush()
    clone.deactivate()
    rig.meta.shrink_to(512)
    t.fails(clone.activate, what="the activation")
    rig.heal()
    clone.activate()
    clone.check()
