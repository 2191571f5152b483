# SPDX-License-Identifier: GPL-2.0-only
"""A device that takes no more requests blocks whoever submits to it. That must not be a
worker that is needed by those that can do without this device.
"""

import contextlib
import glob
import os
import time

from lib import aio
from lib.blk import MIB, SOURCE, ZERO, Block, stamped
from lib.errors import Failure, Missed
from lib.framework import test

REGION = 128
DEPTH = 4                       # requests that the source takes at a time


def is_worker_blocked():
    """Does a worker wait until a device takes a request?"""
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(path, encoding="ascii") as f:
                if not f.read().startswith("kworker"):
                    continue
            with open(path.replace("comm", "stack"), encoding="ascii") as f:
                if "blk_mq_get_tag" in f.read():
                    return True
        except OSError:
            pass                # it has ended
    return False


def write_part(t, clone, region):
    """A write whose region is otherwise copied."""
    return t.background(lambda: clone.put(region * REGION, 8))


@test("what has been read is written while the source takes no more reads",
      ours="it submits both from one worker")
def _(t):
    disk = t.source(64 * REGION)
    clone = t.idle_clone(region=REGION, size=disk.sectors,
                         source=t.narrow(disk, DEPTH))
    disk.hold_from(32 * REGION, 3000)
    others = [write_part(t, clone, 40 + i) for i in range(DEPTH - 1)]
    t.until(lambda: disk.waiting == DEPTH - 1, "reads that hang")
    write = write_part(t, clone, 0)
    t.until(lambda: disk.waiting == DEPTH or write.done, "a read that takes its time")
    # When it has ended one of these takes its place, and the other one blocks again.
    others += [write_part(t, clone, 50 + i) for i in range(2)]
    t.until(lambda: is_worker_blocked() or write.done, "a worker that is blocked")
    if write.done:
        raise Missed("the read was over too early")
    write.wait(what="a write whose copy has been read")
    if any(other.done for other in others):
        raise Failure("a write whose copy has not been read has ended")
    disk.heal()
    for other in others:
        other.wait()
    clone.check()


@test("an overwrite that has waited goes on while the source takes no more reads",
      ours="it has no hydrate_on_read")
def _(t):
    disk = t.source(64 * REGION)
    clone = t.clone(region=REGION, size=disk.sectors, source=t.narrow(disk, DEPTH),
                    features=["no_hydration", "hydrate_on_read"])
    clone.dest.hold()
    # Reads of region 1 wait for a claim, and will need the source; its copy is made.
    failing = write_part(t, clone, 1)
    t.until(lambda: disk.sectors_read >= REGION - 8, "the copy of the rest")
    disk.hold()
    reads = [t.background(lambda: clone.get(REGION, REGION)) for _ in range(DEPTH + 2)]
    reads[0].must_block(0.4, "a read of a region that is claimed")
    first = t.background(lambda: clone.block.put(2 * REGION, REGION, 50))
    first.must_block(0.4, "a write to a disk that is held")
    second = t.background(lambda: clone.put(2 * REGION, REGION))
    second.must_block(0.4, "a write to a region that is claimed")
    clone.dest.fail_range(REGION, REGION)
    t.fails(failing.wait, what="a write to sectors that fail")
    t.until(is_worker_blocked, "a worker that is blocked")
    second.wait(what="an overwrite")
    first.wait()
    if any(read.done for read in reads):
        raise Failure("a read of the held source has ended")
    disk.release()
    for read in reads:
        if read.wait() != [SOURCE] * REGION:
            raise Failure("a read of an unhydrated region shows something else")
    clone.dest.heal()
    clone.model.set(REGION, 8, SOURCE)
    clone.check()


@test("discards that hang, however many, hold up no write elsewhere",
      ours="it never zeroes")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    nr = 300                    # more than a workqueue works on at a time by default
    clone.dest.hold_range(0, 8 * nr)
    # What cuts one discard: of several ioctls one would wait for the other.
    above = t.mapped([(first, 8, "linear", f"{clone.device.number} {first}")
                      for first in range(0, 8 * nr, 8)])
    block = Block(above.path)
    discard = t.background(block.discard)
    clone.until(lambda s: s.hydrating == nr, "the discards")
    t.within(10, lambda: clone.put(2 * MIB + 3, 2), "a write to a part of a region")
    if discard.done:
        raise Failure("a discard has ended on a disk that is held")
    clone.dest.heal()
    discard.wait()
    block.close()
    above.remove()
    clone.model.set(0, 8 * nr, ZERO)
    clone.check()


RT_RUNTIME = "/proc/sys/kernel/sched_rt_runtime_us"


@contextlib.contextmanager
def alone_on_cpu_0():
    """The calling thread has CPU 0, and gives it to no thread without its priority."""
    cpus = os.sched_getaffinity(0)
    with open(RT_RUNTIME, "r+", encoding="ascii") as f:
        before = f.read()
        f.seek(0)               # writes elsewhere come to nothing
        f.write("-1")
        f.flush()
        os.sched_setaffinity(0, {0})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            os.sched_setaffinity(0, cpus)
            f.seek(0)
            f.write(before)


@test("a real-time thread that keeps its CPU busy sees its partial write end",
      ours="its worker is bound to the CPU")
def _(t):
    if len(os.sched_getaffinity(0)) < 2:
        t.skip("this machine has one CPU")
    clone = t.idle_clone(region=REGION)
    write = aio.Write(clone.path, stamped(8, 8, 50), 8 * 512)
    with alone_on_cpu_0():
        write.submit()
        deadline = time.monotonic() + 5
        while not (ended := write.has_ended()) and time.monotonic() < deadline:
            pass
    write.close()
    if not ended:
        raise Failure("the write has not ended within 5 s")
    clone.model.set(8, 8, 50)
    clone.check()


@test("copies that somebody waits for are synchronous, those in the background are not",
      ours="it leaves that to kcopyd")
def _(t):
    clone = t.idle_clone(region=REGION, size=64 * REGION)
    devices = clone.source, clone.dest
    with t.trace(*devices) as trace:
        clone.put(3, 2)
    for disk in devices:
        for bio in trace.of(disk.number):
            if "S" not in bio.rwbs:
                raise Failure(f"a copy that a write waits for: {bio}")
    with t.trace(*devices) as trace:
        clone.enable_hydration()
        clone.until_hydrated()
    for disk in devices:
        bios = [bio for bio in trace.of(disk.number) if bio.nr]
        if not bios:
            raise Failure("the trace shows no copies")
        for bio in bios:
            if "S" in bio.rwbs:
                raise Failure(f"a copy in the background: {bio}")
    clone.check()
