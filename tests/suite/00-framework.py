# SPDX-License-Identifier: GPL-2.0-only
"""The tests' own tools, on plain devices: what cannot fail proves nothing."""

import time

from lib import blk, metadata
from lib.blk import MIB, Model, RandomIo
from lib.errors import Failure
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
