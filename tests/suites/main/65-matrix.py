# SPDX-License-Identifier: GPL-2.0-only
"""All pairs: one operation is held in flight, each other one is driven into it.

What is checked of each pair, and with what devices: see lib/matrix.py.

Regions of the clones are used like this:

    0   1   2   3   4   5   6   7   8   9  10  11
            <---- held --->                             whole regions
            ***                                         part of region 2
                    ###                                 written before, hydrated
    <--------- copied by itself ------>
                                        <- free -->
"""

import errno
import time

from lib import matrix
from lib.errors import Failure
from lib.framework import test
from lib.matrix import Driven, Hold

# Parts of regions: (region, plus sectors).
PART = (2, 3), (2, 6)


def hold_io(what, begin, end):
    return lambda p: p.start(p.io(what, begin, end))


def hold_flush(p):
    p.start(p.io("flush"))


def hold_copies(p):
    p.clone.enable_hydration()


HOLDS = [
    Hold("a background copy at the source", "source", hold_copies, own=True),
    Hold("a background copy at the destination", "dest", hold_copies, own=True),
    Hold("a copy on demand at the source", "source", hold_io("write", *PART)),
    Hold("a copy on demand at the destination", "dest", hold_io("write", *PART)),
    Hold("an overwrite of whole regions", "dest", hold_io("write", 2, 6)),
    Hold("an overwrite with FUA", "dest", hold_io("fua", 2, 6),
         kind="null"),
    Hold("a write across regions", "dest", hold_io("write", (2, 3), (6, 2))),
    Hold("a write to a part of a hydrated region", "dest",
         hold_io("write", (4, 2), (4, 5))),
    Hold("a discard", "dest", hold_io("discard", 2, 6), kind="null"),
    Hold("a write of zeroes", "dest", hold_io("zero", 2, 6)),
    Hold("a commit at the metadata's blocks", "meta", hold_flush),
    Hold("a commit at the superblock", "superblock", hold_flush),
    Hold("a commit at the flush of the destination", "flush", hold_flush,
         kind="null"),
]


# Driven in: I/O

def drive_io(what, begin=0, end=0):
    return lambda p: p.drive(p.io(what, begin, end))


def copies(hold):
    """Nothing but the source is held."""
    return hold.on == "source"


def commits(hold):
    return hold.on in ("meta", "superblock", "flush")


def not_the_destination(hold):
    return copies(hold) or commits(hold)


IO = [
    Driven("a read", drive_io("read", (1, 5), (7, 2)),
           passes=commits),
    Driven("a read of what was copied by nobody", drive_io("read", 9, 11),
           passes=lambda h: h.on != "source"),
    Driven("a write to the same part", drive_io("write", (2, 4), (2, 7))),
    Driven("a write to another part", drive_io("write", (2, 1), (2, 2))),
    Driven("a write across a boundary", drive_io("write", (3, 5), (4, 2))),
    Driven("an overwrite of the same", drive_io("write", 2, 6)),
    Driven("an overwrite of one region of it", drive_io("write", 3, 4)),
    Driven("an overwrite of the half, and more", drive_io("write", 4, 8)),
    Driven("an overwrite of all around", drive_io("write", 1, 9)),
    Driven("a write of all around, across regions", drive_io("write", (1, 3), (8, 5))),
    Driven("an overwrite elsewhere", drive_io("write", 9, 12),
           passes=not_the_destination),
    Driven("a discard of the same", drive_io("discard", 2, 6)),
    Driven("a discard of all around", drive_io("discard", 1, 12)),
    Driven("a discard elsewhere", drive_io("discard", 9, 11),
           passes=not_the_destination),
    Driven("zeroes over the same", drive_io("zero", 2, 6)),
    Driven("zeroes across regions", drive_io("zero", (1, 5), (6, 1))),
    Driven("a flush", drive_io("flush"), passes=copies),
    Driven("a write to a part, with FUA", drive_io("fua", (2, 5), (2, 8))),
    Driven("an overwrite with FUA", drive_io("fua", 2, 6)),
    Driven("an overwrite with FUA elsewhere", drive_io("fua", 9, 10), passes=copies),
]


# Driven in: what administrators do

def suspend(noflush):
    def begin(p):
        p.in_background(lambda: p.clone.device.suspend(noflush=noflush))

    def end(p):
        if p.clone.status().hydrating:
            raise Failure(f"copies in a suspended clone: {p.clone.status().text}")
        p.t.within(matrix.PATIENT, lambda: p.clone.device.resume(noflush=noflush),
                   "resume")
    return begin, end


def reload(noflush, **changed):
    def begin(p):
        p.in_background(lambda: p.clone.reload(noflush, **changed))
    return begin


def load_and_forget(p):
    def go():
        p.clone.device.load(p.clone.table())
        p.clone.device.clear()
    p.in_background(go)


def remove(p):
    """Who has the device open sees that it stays."""
    device = p.clone.device
    if p.hold.own:
        p.in_background(device.remove)
    else:
        p.t.within(matrix.QUICK, lambda: p.t.fails(device.remove, errno.EBUSY),
                   "the refusal to remove")


def end_remove(p):
    if p.hold.own:
        p.clone.device = None


def remove_deferred(p):
    p.in_background(lambda: p.clone.device.remove(deferred=True))


def end_remove_deferred(p):
    if p.held_job:
        p.held_job.wait(matrix.PATIENT, "what was held")
    p.clone.close_block()
    matrix.wait_until_gone(p)


def message(*texts):
    def begin(p):
        def go():
            for text in texts:
                p.clone.message(text)
        p.t.within(matrix.QUICK, go, f"message {texts[0]}")
        time.sleep(0.01)
    return begin


def questions(p):
    def go():
        for noflush in True, False:
            p.clone.status(noflush)
        p.clone.device.table()
        p.clone.device.info()
        p.clone.message("stats")
    p.t.within(matrix.QUICK, go, "status, table and stats")


ADMINISTRATION = [
    Driven("suspend", *suspend(False)),
    Driven("suspend without flush", *suspend(True)),
    Driven("reload", reload(False)),
    Driven("reload with hydration, without flush", reload(True, features=[])),
    Driven("a table loaded and forgotten", load_and_forget),
    Driven("remove", remove, end_remove),
    Driven("deferred remove", remove_deferred, end_remove_deferred),
    Driven("enable_hydration", message("enable_hydration")),
    Driven("disable_hydration", message("disable_hydration")),
    Driven("new limits", message("hydration_threshold 1", "hydration_batch_size 2",
                                 "enable_hydration", "hydration_threshold 20")),
    Driven("questions", questions),
]


# Driven in: failures

def fail_what_holds(how):
    def begin(p):
        p.errors_ok = True
        p.must_be_rw = p.hold.on != "flush"
        getattr(p.hold.base(p.rig), how)()
    return begin


def fail_metadata(p):
    p.errors_ok = True
    p.rig.meta_base.fail_writes()


def fail_destination(p):
    p.errors_ok = True
    p.must_be_rw = False
    p.rig.dest_base.fail_writes()


def fail_source(p):
    p.errors_ok = True
    p.rig.source_base.fail()


FAILURES = [
    Driven("its device turns into errors", fail_what_holds("fail")),
    Driven("its device fails to write", fail_what_holds("fail_writes")),
    Driven("the metadata device fails", fail_metadata),
    Driven("the destination fails", fail_destination),
    Driven("the source fails", fail_source),
]

ALL = IO + ADMINISTRATION + FAILURES


def one_pair(rig, hold, driven, region, number):
    """Whether the second waited; and what went wrong, or None."""
    pair = matrix.Pair(rig, hold, driven, region, flush=number % 2 == 0,
                       hydrate=number % 3 == 0)
    try:
        return pair.run(), None
    except (OSError, Failure) as error:
        rig.heal()
        # What is wrong may keep it open.
        try:
            pair.clone.deactivate()
        except OSError as busy:
            raise Failure(f"{driven.name} (regions of {region}): {error}; "
                          f"afterwards: {busy}") from None
        return False, f"{driven.name} (regions of {region}): {error}"


@test("held: {hold}; every other operation is driven in", limit=120,
      ours="its known races would hide everything else",
      hold={h.name: h for h in HOLDS})
def _(t, hold):
    rig = matrix.Rig(t, hold.kind)
    waited, wrong = 0, []
    for number, driven in enumerate(ALL):
        region = t.rng.choice([8, 8, 8, 16, 16, 32])
        second_waited, error = one_pair(rig, hold, driven, region, number)
        waited += second_waited
        if error:
            wrong.append(error)
    if wrong:
        raise Failure(f"{len(wrong)} of {len(ALL)} pairs:\n" + "\n".join(wrong))
    t.note(f"{len(ALL)} pairs, in {waited} the second waited")
