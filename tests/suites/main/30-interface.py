# SPDX-License-Identifier: GPL-2.0-only
"""Status, messages, events, the module and its parameter; systemd's sequence."""

import errno
import os
import time

from lib import dm, modules
from lib.blk import MIB
from lib.errors import Failure
from lib.framework import test

PARAMETERS = "/sys/module/dm_clone/parameters"


@test("the target is called clone, its module dm_clone")
def _(t):
    if "clone" not in dm.target_versions():
        raise Failure(str(dm.target_versions()))
    if not os.path.isdir("/sys/module/dm_clone"):
        raise Failure("no /sys/module/dm_clone")


@test("the module has the parameter clone_hydration_throttle: 100 %, writable")
def _(t):
    path = f"{PARAMETERS}/clone_hydration_throttle"
    with open(path, "r+", encoding="ascii") as f:
        if f.read().strip() != "100":
            raise Failure("it is not 100 at first")
        f.seek(0)
        f.write("40\n")
    clone = t.clone()
    clone.until_hydrated()
    clone.check()
    with open(path, "r+", encoding="ascii") as f:
        if f.read().strip() != "40":
            raise Failure("it does not keep what was written")
        f.seek(0)
        f.write("100\n")


@test("systemd's sequence: a line with 8 1 no_hydration, then enable_hydration")
def _(t):
    clone = t.clone(region=8, features=["no_hydration"])
    if not clone.line().endswith(" 8 1 no_hydration"):
        raise Failure(clone.line())
    time.sleep(1.5)
    status = clone.status()
    if status.hydrated or status.hydrating or "no_hydration" not in status.features:
        raise Failure(f"hydration has begun: {status.text}")
    clone.message("enable_hydration")
    clone.until_hydrated()
    clone.expect(features=[])
    clone.check()


@test("the status line is as documented: {regions} regions of {region}",
      regions=[1, 2, 63, 64, 65, 1000], region=[8, 128])
def _(t, regions, region):
    clone = t.idle_clone(region=region, size=regions * region, kind="null")
    status = clone.expect(block=8, region_size=region, hydrated=0, regions=regions,
                          hydrating=0, mode="rw", total=clone.meta.sectors // 8,
                          features=["no_hydration"])
    if not 0 < status.used < status.total:
        raise Failure(f"used metadata blocks: {status.text}")
    if list(status.core) != ["hydration_threshold", "hydration_batch_size"] or \
       not all(status.core.values()):
        raise Failure(status.text)
    clone.put(0, region)
    clone.expect(hydrated=1)
    clone.enable_hydration()
    clone.until_hydrated()
    clone.expect(hydrated=regions, features=[])


@test("given caps show in the status as given")
def _(t):
    clone = t.clone(features=["no_hydration", "no_discard_passdown"],
                    core={"hydration_batch_size": 7, "hydration_threshold": 4294967295})
    clone.expect(features=["no_hydration", "no_discard_passdown"],
                 core={"hydration_threshold": 4294967295, "hydration_batch_size": 7})


@test("messages change what the status shows, in both directions")
def _(t):
    clone = t.idle_clone()
    clone.message("hydration_threshold 12")
    clone.message("hydration_batch_size 34")
    clone.expect(core={"hydration_threshold": 12, "hydration_batch_size": 34})
    clone.source.hold()                     # so that hydration does not end
    clone.enable_hydration()
    clone.expect(features=[])
    clone.disable_hydration()
    clone.disable_hydration()
    clone.expect(features=["no_hydration"])


@test("bad messages are refused and change nothing")
def _(t):
    clone = t.idle_clone()
    before = clone.status().text
    for text in ("nonsense", "enable", "hydration_threshold", "hydration_threshold x",
                 "hydration_threshold -1", "hydration_threshold 4294967296",
                 "hydration_threshold 1 2", "hydration_batch_size",
                 "hydration_batch_size 1x", "hydration_batch_size 99999999999999999999",
                 "no_hydration"):
        t.fails(lambda text=text: clone.message(text), errno.EINVAL, errno.ERANGE,
                what=f"the message {text!r}")
    for text in ("enable_hydration 1", "disable_hydration now") if not t.peer else ():
        t.fails(lambda text=text: clone.message(text), errno.EINVAL,
                what=f"the message {text!r}")
    if clone.status().text != before:
        raise Failure(f"{before} became {clone.status().text}")


@test("disable_hydration stops copying, enable_hydration resumes it")
def _(t):
    clone = t.clone(region=8, size=8 * MIB, active=False,
                    core={"hydration_threshold": 4, "hydration_batch_size": 1})
    clone.source.delay(40)
    clone.activate()
    clone.until(lambda s: s.hydrated > 8, "some hydration")
    clone.disable_hydration()
    clone.until(lambda s: s.hydrating == 0, "a standstill")
    stopped = clone.status().hydrated
    t.midway(clone)
    time.sleep(1.5)
    if clone.status().hydrated != stopped:
        raise Failure(f"it stood at {stopped}, now {clone.status().text}")
    clone.source.heal()
    clone.hydrate()
    clone.check()


@test("hydration_threshold caps the regions in copy")
def _(t):
    clone = t.clone(region=8, size=8 * MIB, active=False,
                    core={"hydration_threshold": 5, "hydration_batch_size": 2})
    clone.source.hold()
    clone.activate()
    clone.until(lambda s: s.hydrating, "a copy")
    time.sleep(1.2)
    if clone.status().hydrating > 5:
        raise Failure(clone.status().text)
    clone.message("hydration_threshold 9")
    clone.source.release()
    clone.until_hydrated()
    clone.check()


@test("hydration_batch_size caps the regions of one copy: {batch}", batch=[1, 2, 16])
def _(t, batch):
    clone = t.clone(region=8, size=2 * MIB, active=False,
                    core={"hydration_threshold": 64, "hydration_batch_size": batch})
    with t.trace(clone.source) as trace:
        clone.activate()
        clone.until_hydrated()
    longest = max(b.nr for b in trace.of(clone.source.number, "R"))
    if longest > 8 * batch:
        raise Failure(f"a copy of {longest} sectors for batches of {batch} regions")
    clone.check()


@test("an event is raised when hydration has finished")
def _(t):
    clone = t.idle_clone()
    before = clone.device.info().event_nr
    waiting = t.background(lambda: clone.device.wait(before))
    waiting.must_block(0.3, "waiting for an event")
    clone.hydrate()
    waiting.wait(5, "waiting for the event")
    time.sleep(0.5)
    if clone.device.info().event_nr != before + 1:
        raise Failure(f"{clone.device.info().event_nr - before} events, not one")


@test("an event is raised when writes have hydrated the last region")
def _(t):
    clone = t.idle_clone(size=MIB)
    before = clone.device.info().event_nr
    waiting = t.background(lambda: clone.device.wait(before))
    clone.put(0, MIB)
    clone.flush()
    waiting.wait(5, "waiting for the event")


@test("an event is raised when the metadata fails, and again when it is back")
def _(t):
    clone = t.idle_clone()
    before = clone.device.info().event_nr
    waiting = t.background(lambda: clone.device.wait(before))
    clone.meta.fail_writes()
    clone.put(0, 8)
    waiting.wait(10, "waiting for the event")
    clone.until_mode("ro|Fail")
    if t.peer:
        return
    before = clone.device.info().event_nr
    waiting = t.background(lambda: clone.device.wait(before))
    clone.meta.heal()
    clone.device.suspend_resume()
    clone.until_mode("rw")
    waiting.wait(5, "waiting for the event")


def stacks_of(command):
    """What the processes of that name do in the kernel."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                ours = f.read().strip() == command
            if ours:
                with open(f"/proc/{pid}/stack", encoding="ascii") as f:
                    yield f.read()
        except OSError:
            pass                                # it has ended


@test("dmsetup wait and dmsetup message work")
def _(t):
    clone = t.idle_clone()
    waiting = t.background(lambda: t.run("dmsetup", "wait", clone.name))
    # Before that it does not know yet what it waits for.
    t.until(lambda: any("dm_wait_event" in stack for stack in stacks_of("dmsetup")),
            "dmsetup wait in the kernel")
    waiting.must_block(1.0, "dmsetup wait")
    t.run("dmsetup", "message", clone.name, "0", "enable_hydration")
    waiting.wait(20, "dmsetup wait")
    clone.until_hydrated()


@test("a thousand status lines ask nothing of the devices", limit=60)
def _(t):
    clone = t.idle_clone(size=32 * MIB)
    with t.trace(clone.meta, clone.dest, clone.source) as trace:
        began = time.monotonic()
        for _ in range(1000):
            clone.device.status(noflush=True)
        seconds = time.monotonic() - began
    if trace.bios:
        raise Failure(f"expected no bio, found {len(trace.bios)}: {trace.bios[:3]}")
    t.note(f"{seconds * 1000:.0f} us each")


@test("status counts the regions in copy")
def _(t):
    clone = t.clone(active=False, core={"hydration_threshold": 3,
                                        "hydration_batch_size": 1})
    clone.source.hold()
    clone.activate()
    clone.until(lambda s: 0 < s.hydrating <= 3, "one to three regions in copy")
    clone.source.release()
    clone.until_hydrated()
    clone.until(lambda s: not s.hydrating, "none in copy")
    clone.expect(hydrated=clone.regions)


@test("two clones do not know of each other")
def _(t):
    a = t.idle_clone(core={"hydration_threshold": 3})
    b = t.idle_clone(region=64, core={"hydration_threshold": 5})
    a.put(0, 8)
    a.message("hydration_batch_size 8")
    b.hydrate()
    if a.status().hydrated != 1 or a.status().core["hydration_threshold"] != 3:
        raise Failure(a.status().text)
    if b.status().core["hydration_threshold"] != 5:
        raise Failure(b.status().text)
    a.check()
    b.check()


@test("the module cannot be removed while a clone exists, and can be afterwards")
def _(t):
    modules.need_file(t)
    with open("/proc/modules", encoding="ascii") as f:
        uses = {line.split()[0]: int(line.split()[2]) for line in f}
    if uses["dm_clone"]:
        raise Failure(f"no clone is there, but the module is in use "
                      f"{uses['dm_clone']} times")
    clone = t.idle_clone()
    t.fails(modules.unload, errno.EWOULDBLOCK, what="removing the module under a clone")
    clone.put(0, 8)
    clone.check()
    clone.deactivate()
    modules.unload()
    try:
        if "clone" in dm.target_versions():
            raise Failure("the module is removed, its target should be, too")
    finally:
        modules.load()
    clone.activate()
    clone.check()
