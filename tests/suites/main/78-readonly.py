# SPDX-License-Identifier: GPL-2.0-only
"""Devices that are read-only, and tables that are."""

import errno
import fcntl
import struct
import time

from lib import kmsg
from lib.blk import MIB, Block
from lib.errors import Failure
from lib.framework import test

BLKROSET = 0x125d
SIZE = 2 * MIB


def set_readonly(disk, readonly):
    with open(disk.path, "rb", buffering=0) as f:
        fcntl.ioctl(f, BLKROSET, struct.pack("i", readonly))


def by_blockdev(disk):
    set_readonly(disk, True)


def by_its_table(disk):
    disk.device.load(disk._linear(), readonly=True)
    disk.device.suspend_resume()


@test("a {which} device that is read-only {how} is refused, the log names it, nothing is "
      "written",
      ours="it is written", which={"metadata": "meta", "destination": "dest"},
      how={"(blockdev --setro)": by_blockdev, "(a read-only mapped device)": by_its_table})
def _(t, which, how):
    clone = t.idle_clone(size=SIZE, active=False)
    disk = getattr(clone, which)
    how(disk)
    log = kmsg.Log()
    with t.trace(clone.meta, clone.dest) as trace:
        t.fails(clone.activate, errno.EROFS, what="the table")
    lines = log.read()
    if not any(f"dm-{disk.device.minor} is read-only" in line for line in lines):
        raise Failure(f"the log does not name dm-{disk.device.minor}: {lines}")
    if trace.writes(clone.meta.number) or trace.writes(clone.dest.number):
        raise Failure(f"{trace.bios}")
    disk.device.load(disk._linear())
    disk.device.suspend_resume()
    set_readonly(disk, False)
    clone.activate()
    clone.put(0, 11)
    clone.check()


def readonly_reload(clone):
    clone.close_block()
    clone.device.load(clone.table(), readonly=True)
    clone.device.suspend_resume()


def must_change_nothing(t, clone, read):
    """Reads are right, all else is refused, and time passes: nothing is written."""
    with t.trace(clone.meta, clone.dest) as trace:
        clone.expect(mode="ro")
        with Block(clone.path, readonly=True) as block:
            clone.model.check(block)
        t.fails(lambda: clone.message("skip 0 64"), errno.EROFS, what="skip")
        clone.enable_hydration()
        clone.message("hydrate 0 64")
        time.sleep(1.5)
        if not read:
            clone.device.suspend_resume()
    if trace.writes(clone.meta.number) or trace.writes(clone.dest.number):
        raise Failure(f"{trace.bios}")


@test("a read-only table over devices that are {devices}: reads are right, nothing is "
      "written",
      ours="it is written", devices={"read-only": True, "not": False})
def _(t, devices):
    clone = t.idle_clone(size=SIZE, active=False, core={"hydration_batch_size": 8})
    clone.source.hold_from(MIB)
    clone.activate()
    clone.put(MIB + 8, 40)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated > MIB // 8, "half of it")
    clone.disable_hydration()
    clone.source.heal()
    clone.deactivate()

    for disk in clone.meta, clone.dest:
        set_readonly(disk, devices)
    device = t.unready("clone")
    device.load(clone.table(), readonly=True)
    device.resume()
    clone.device = device
    must_change_nothing(t, clone, False)
    clone.deactivate()
    for disk in clone.meta, clone.dest:
        set_readonly(disk, False)
    clone.activate()
    clone.hydrate()
    clone.check()


@test("a read-only table over unformatted metadata is refused, and nothing is written",
      ours="it is written")
def _(t):
    clone = t.idle_clone(size=SIZE, active=False)
    device = t.unready("clone")
    with t.trace(clone.meta) as trace:
        t.fails(lambda: device.load(clone.table(), readonly=True), errno.EROFS, what="the table")
    if trace.writes(clone.meta.number):
        raise Failure(f"{trace.bios}")
    clone.activate()
    clone.check()


@test("a read-only table replaces a live one, and is replaced: {when}", ours="it is written",
      when={"hydration goes on": False, "all is hydrated": True})
def _(t, when):
    clone = t.idle_clone(size=SIZE)
    clone.put(0, 40)
    clone.flush()
    clone.put(512, 21)
    if when:
        clone.hydrate()
    fd = Block(clone.path)
    readonly_reload(clone)
    must_change_nothing(t, clone, True)
    with t.trace(clone.meta, clone.dest) as trace:
        for change in (lambda: fd.put(0, 8, 20), lambda: fd.put(1024, 8, 20),
                       lambda: fd.put(1030, 3, 20), lambda: fd.discard(0, 1024),
                       lambda: fd.zeroout(2048, 64)):
            t.fails(change, what="a change")
        fd.flush()
    fd.close()
    if trace.writes(clone.meta.number) or trace.writes(clone.dest.number):
        raise Failure(f"{trace.bios}")
    clone.reload()
    clone.expect(mode="rw")
    clone.put(1024, 13)
    clone.flush()
    clone.hydrate()
    clone.check()
    clone.reactivate()
    clone.check()


@test("a read-only table after one that could not commit: flushes fail until it is "
      "replaced",
      ours="it has other modes")
def _(t):
    clone = t.idle_clone(size=SIZE)
    clone.put(0, 40)
    clone.flush()
    clone.meta.fail_writes()
    clone.put(512, 21)
    fd = Block(clone.path)
    readonly_reload(clone)
    with Block(clone.path, readonly=True) as block:
        clone.model.check(block)
    t.fails(fd.flush, errno.EIO, what="a flush")
    fd.close()
    clone.meta.heal()
    clone.reload()
    clone.until_mode("rw")
    clone.flush()
    clone.check()
    clone.reactivate()
    clone.check()
