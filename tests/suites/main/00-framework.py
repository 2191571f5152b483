# SPDX-License-Identifier: GPL-2.0-only
"""The tests' own tools, on plain devices: what cannot fail proves nothing."""

import os
import time

from lib import blk, dm, framework, kmsg, metadata
from lib.blk import MIB, Model, RandomIo
from lib.context import Context
from lib.errors import Failure, Missed
from lib.framework import test


def noticed(fn):
    try:
        fn()
    except Failure as failure:
        return str(failure)
    raise Failure("it was not noticed")


@test("a model notices one wrong sector, and tells what it holds")
def _(t):
    disk = t.disk(MIB, fill=20)
    model = Model(MIB, 20)
    model.check(disk.block)

    disk.block.put(77, 1, 21)
    report = noticed(lambda: model.check(disk.block))
    if "sector 77: expected stamp 20, found stamp 21" not in report:
        raise Failure(report)

    disk.block.put(77, 1, 20, origin=1)
    report = noticed(lambda: model.check(disk.block))
    if "found stamp 20 of sector 76" not in report:
        raise Failure(report)

    disk.block.put(77, 1, 20)
    disk.fail_range(100, 8)
    report = noticed(lambda: model.check(disk.block))
    if "a read error" not in report:
        raise Failure(report)


@test("a model settles on what it saw first")
def _(t):
    disk = t.disk(MIB, fill=20)
    model = Model(MIB, 20)
    model.maybe(8, 8, blk.ZERO)
    disk.block.put(8, 8, blk.ZERO)
    model.check(disk.block)
    disk.block.put(8, 8, 20)
    noticed(lambda: model.check(disk.block))


@test("random I/O agrees with a plain linear device", limit=120)
def _(t):
    disk = t.disk(16 * MIB, kind="null", fill=20)
    model = Model(disk.sectors, 20)
    io = RandomIo(disk.block, model, t.seed, region_size=128, ops=2000,
                  weights={"zero": 6}).run()
    model.check(disk.block)
    t.note(f"{io.done} operations")


@test("random I/O notices a disk that forgets a write")
def _(t):
    disk = t.disk(4 * MIB, fill=20)
    model = Model(disk.sectors, 20)
    load = RandomIo(disk.block, model, t.seed, region_size=8, max_sectors=64,
                    weights={"discard": 0}).start()
    t.let_run(load, 50)
    disk.block.put(0, 2 * MIB, 21)
    noticed(lambda: (time.sleep(0.5), load.stop(), model.check(disk.block)))


@test("held disks hold, failing disks fail, healed disks work")
def _(t):
    disk = t.disk(MIB, fill=20)
    disk.hold()
    job = t.background(lambda: disk.block.read(0, 8))
    job.must_block()
    disk.release()
    job.wait()

    disk.fail()
    t.fails(lambda: disk.block.read(0, 8))
    disk.fail_writes()
    disk.block.read(0, 8)
    t.fails(lambda: disk.block.put(0, 8, 21))
    disk.heal()
    blk.check_stamp(disk.block, 0, MIB, 20)


@test("flushes of a disk with a write cache can be made to fail")
def _(t):
    disk = t.disk(MIB, kind="null")
    disk.block.flush()
    disk.fail_writes()
    t.fails(disk.block.flush)


@test("bios are counted at the device, not at the caller")
def _(t):
    disk = t.disk(4 * MIB, kind="null", fill=20)
    with t.trace(disk, complete=True) as trace:
        for i in range(3):
            disk.block.put(i * MIB, MIB, 21)
        disk.block.put(0, 8, 22, fua=True)
        disk.block.flush()
        disk.block.read(0, 8)
        disk.block.discard(0, 8)
    writes = trace.writes(disk.number)
    data = [b for b in writes if b.kind == "W"]
    if sum(b.nr for b in data) != 3 * MIB + 8:
        raise Failure(f"{trace.bios}")
    if len(trace.of(disk.number, "R")) != 1 or len(trace.of(disk.number, "D")) != 1:
        raise Failure(f"{trace.bios}")
    if not trace.flushes(disk.number) or not any(b.fua for b in writes):
        raise Failure(f"{trace.bios}")
    t.note(f"{len(data)} writes")


@test("each kind of disk stores, and offers what the tests expect of it")
def _(t):
    expected = {"ram": (False, False), "null": (True, True), "loop": (True, True)}
    for kind, (discard, cache) in expected.items():
        disk = t.disk(MIB, kind=kind, fill=20)
        blk.check_stamp(disk.block, 0, MIB, 20)

        def limit(name):
            with open(f"{disk.device.sysfs}/queue/{name}", encoding="ascii") as f:
                return f.read().strip()

        if (limit("discard_max_bytes") != "0") != discard:
            raise Failure(f"{kind}: discard_max_bytes {limit('discard_max_bytes')}")
        if (limit("write_cache") == "write back") != cache:
            raise Failure(f"{kind}: {limit('write_cache')}")
        if (limit("write_zeroes_max_bytes") != "0") != (kind == "loop"):
            raise Failure(f"{kind}: {limit('write_zeroes_max_bytes')}")


@test("crc32c is the checksum that persistent-data uses")
def _(t):
    # The check value of CRC-32C is for the inverted result.
    if metadata.crc32c(b"123456789") ^ 0xffffffff != 0xe3069283:
        raise Failure("it is not")


def outcome_of(t, fn, peer=False):
    """How a test ends that does this, and how often it was run."""
    log = kmsg.Log()
    runs = f"/tmp/runs-{os.getpid()}"

    def body(inner):
        with open(runs, "a", encoding="ascii") as f:
            f.write("x")
        with open(runs, encoding="ascii") as f:
            fn(inner, len(f.read()))

    def make_context(inner):
        return Context(inner, t.seed, t.patience, peer)

    inner = framework.Test("00-framework", "a test in a test", body, {}, 60, "a defect", None)
    # It sweeps up all there is: the outer test must have no devices.
    result = framework.run_test(inner, make_context, log, peer, t.patience)
    with open(runs, encoding="ascii") as f:
        nr = len(f.read())
    os.unlink(runs)
    return result, nr


def must_end(found, outcome, runs, *words):
    result, nr = found
    said = result.text + "; ".join(result.notes)
    if (result.outcome, nr) != (outcome, runs) or not all(word in said for word in words):
        raise Failure(f"{result.outcome} after {nr} runs: {said}")


@test("a test that misses its situation is run again, and says so")
def _(t):
    def third_time_lucky(_, run):
        if run < 3:
            raise Missed("too quick")

    must_end(outcome_of(t, third_time_lucky), "pass", 3, "missed", "2 times")
    must_end(outcome_of(t, lambda inner, run: None), "pass", 1)


@test("a test that never gets into its situation fails")
def _(t):
    def never(_, run):
        raise Missed(f"run {run}: too quick")

    must_end(outcome_of(t, never), "fail", framework.TRIES, "missed",
             *(f"run {run + 1}: too quick" for run in range(framework.TRIES)))
    # And it does not show the known defect of another target.
    must_end(outcome_of(t, never, peer=True), "fail", framework.TRIES)


@test("a test that fails is not run again, whatever it missed before")
def _(t):
    def fails(_, run):
        raise Failure("wrong data")

    def misses_then_fails(_, run):
        if run == 1:
            raise Missed("too quick")
        raise Failure("wrong data")

    def misses_and_changes_its_source(inner, _):
        inner.source(MIB).block.put(8, 8, 77)
        raise Missed("too quick")

    def misses_and_leaves_a_mess(inner, _):
        dm.Device(inner.name("mess"))
        raise Missed("too quick")

    must_end(outcome_of(t, fails), "fail", 1, "wrong data")
    must_end(outcome_of(t, misses_then_fails), "fail", 2, "wrong data", "missed")
    must_end(outcome_of(t, misses_and_changes_its_source), "fail", 1, "the source has changed")
    must_end(outcome_of(t, misses_and_leaves_a_mess), "fail", 1, "left behind")
