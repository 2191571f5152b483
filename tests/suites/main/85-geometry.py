# SPDX-License-Identifier: GPL-2.0-only
"""Offsets, short last regions, sizes from one sector to 2^24 regions and beyond."""

import time

from lib import metadata
from lib.blk import FORMER, MIB, SOURCE, ZERO, Block, Model, RandomIo, check_stamp
from lib.errors import Failure
from lib.framework import test

GIB = 1024 * MIB


@test("a clone that is second in its table, at sector {offset}, works like one at sector 0",
      offset=[8, 2048, 12345])
def _(t, offset):
    clone = t.idle_clone(region=16, size=4 * MIB, offset=offset, kind="null")
    clone.check()
    clone.put(3, 30)
    clone.random_io(ops=300, threads=4).run()
    clone.check()
    status = clone.status()
    clone.message("hydration_threshold 5")
    clone.enable_hydration()
    clone.random_io(ops=300, threads=4).run()
    clone.until_hydrated()
    clone.check()
    if status.regions != clone.size // 16:
        raise Failure(status.text)
    clone.reactivate()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("I/O across the border between a linear target and a clone after it")
def _(t):
    offset, size = 1000, 2 * MIB
    clone = t.idle_clone(region=8, size=size, offset=offset)
    model = Model(offset + size, ZERO, origin=offset)
    model.set(offset, size, SOURCE)
    stamp = t.stamp()
    clone.block.put(offset - 20, 40, stamp, origin=offset)
    model.set(offset - 20, 40, stamp)
    model.check(clone.block)
    RandomIo(clone.block, model, t.seed, 8, ops=500, threads=4, max_sectors=512,
             weights={"discard": 0}).run()
    model.check(clone.block)
    clone.hydrate()
    model.check(clone.block)


@test("two clones in one table are two clones")
def _(t):
    size = 2 * MIB
    parts = [t.clone(region=region, size=size, active=False,
                     features=["no_hydration"]) for region in (8, 128)]
    table = [(0, size, "clone", parts[0].line()), (size, size, "clone", parts[1].line())]
    device = t.mapped(table)
    with Block(device.path) as block:
        check_stamp(block, 0, size, SOURCE)
        block.put(100, 50, 20)
        block.put(size + 100, 50, 21, origin=size)
        block.put(size - 10, 20, 22, origin=size - 10)
        block.flush()
        if block.get(120)[0] != 20 or block.get(size + 120, origin=size)[0] != 21:
            raise Failure("wrong content")
        device.message("enable_hydration", sector=size)
        t.until(lambda: f"{size // 128}/{size // 128}" in
                device.status(noflush=True, index=1), "the second to hydrate")
        if f" {size // 8}/{size // 8} " in device.status(noflush=True, index=0):
            raise Failure("the first was hydrated too")
    device.remove()


@test("a last region of {short} sectors after ten of 128, all through a clone's life",
      short=[1, 7, 8, 127])
def _(t, short):
    region, size = 128, 10 * 128 + short
    clone = t.idle_clone(region=region, size=size, kind="null")
    clone.expect(regions=11)
    clone.check()
    clone.put(10 * region, short)
    clone.random_io(ops=300, threads=4).run()
    clone.hydrate()
    clone.random_io(ops=200, threads=4).run()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
    beyond = clone.dest.sectors - size
    if beyond:
        check_stamp(clone.dest.block, size, beyond, FORMER)


@test("a short last region is hydrated alone, by copy and by partial write")
def _(t):
    region, size = 2048, 2 * 2048 + 9
    clone = t.idle_clone(region=region, size=size)
    clone.put(2 * region + 4, 2)
    clone.expect(hydrated=1)
    clone.check()
    clone.reactivate()
    clone.hydrate()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("copies and overwrites of {size} sectors never write beyond the target's end",
      size=[1027, 8 * 100 + 3])
def _(t, size):
    dest = t.disk(4 * MIB, fill=FORMER, what="dest")
    source = t.source(4 * MIB)
    clone = t.clone(region=128, size=size, dest=dest, source=source, former=None)
    clone.until_hydrated()
    clone.put(size - 3, 3)
    clone.deactivate()
    check_stamp(dest.block, size, dest.sectors - size, FORMER, "beyond the end")


@test("a target of {size} sectors", size=[1, 7, 8, 9, 63 * 8, 64 * 8, 65 * 8])
def _(t, size):
    clone = t.idle_clone(region=8, size=size)
    clone.check()
    clone.put(0, 1)
    clone.put(size - 1, 1)
    clone.finish()


@test("one region larger than the target")
def _(t):
    clone = t.idle_clone(region=2097152, size=4 * MIB)
    clone.expect(regions=1)
    clone.put(100, 3)
    clone.check()
    clone.expect(done=True)
    clone.reactivate()
    clone.check()


def sparse_clone(t, size, region, features="1 no_hydration", meta=None, dest=None):
    """Gigabytes without memory: zeroes for a source, null_blk for a destination."""
    source = t.mapped([(0, size, "zero", "")], "zero")
    dest = dest or t.disk(size, kind="null", what="dest")
    meta = meta or t.metadata(64 * MIB)
    line = f"{meta.number} {dest.number} {source.number} {region} {features}"
    device = t.mapped([(0, size, "clone", line)], "big")
    device.parts = (meta, dest, source, line)
    return device


@test("regions of 1 GiB: three and a part of one, sparse", limit=120)
def _(t):
    size = 3 * GIB + 5 * MIB
    device = sparse_clone(t, size, 2097152)
    with Block(device.path) as block:
        block.put(3 * GIB, 5 * MIB, 21)         # the last one, short, as a whole
        check_stamp(block, 3 * GIB, 5 * MIB, 21)
        check_stamp(block, 3 * GIB - MIB, MIB, ZERO)
    if " 2097152 1/4 " not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))


@test("2^24 regions: activation, I/O, status, reactivation", limit=180)
def _(t):
    size = (1 << 24) * 8
    began = time.monotonic()
    device = sparse_clone(t, size, 8)
    created = time.monotonic() - began
    meta, _, _, line = device.parts

    places = [t.rng.randrange(size // 8) * 8 for _ in range(60)] + [0, size - 8]
    stamps = {}
    with Block(device.path) as block:
        for sector in places:
            block.put(sector, 8, 100 + len(stamps))
            stamps[sector] = 100 + len(stamps)
        block.flush()
        for sector, stamp in stamps.items():
            check_stamp(block, sector, 8, stamp)
        check_stamp(block, 8, 8, stamps.get(8, ZERO))
    if f" {len(stamps)}/{1 << 24} " not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))
    began = time.monotonic()
    for _ in range(100):
        device.status(noflush=True)
    status_time = (time.monotonic() - began) / 100
    device.remove()

    sb = metadata.read(meta.block)
    bitmap = sb.bitmap(meta.block, 1 << 24)
    if metadata.weight(bitmap, 1 << 24) != len(stamps):
        raise Failure(f"{metadata.weight(bitmap, 1 << 24)} bits on disk")

    began = time.monotonic()
    device = t.mapped([(0, size, "clone", line)], "big")
    loaded = time.monotonic() - began
    with Block(device.path) as block:
        for sector, stamp in stamps.items():
            check_stamp(block, sector, 8, stamp)
    if f" {len(stamps)}/{1 << 24} " not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))
    t.note(f"formatted in {created:.2f} s, loaded in {loaded:.2f} s, "
           f"status in {status_time * 1e6:.0f} us")


@test("2^24 regions: one discard of all of them, and the next life", limit=180)
def _(t):
    size = (1 << 24) * 8
    dest = t.mapped([(0, size, "zero", "")], "zero")
    device = sparse_clone(t, size, 8, "2 no_hydration no_discard_passdown", dest=dest)
    meta, _, _, line = device.parts
    with Block(device.path) as block:
        block.discard(0, 1 << 26)
        block.flush()
    want = f" {1 << 23}/{1 << 24} "
    if want not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))
    device.remove()
    bitmap = metadata.read(meta.block).bitmap(meta.block, 1 << 24)
    if metadata.weight(bitmap, 1 << 24) != 1 << 23:
        raise Failure("the bits on disk are others")
    device = t.mapped([(0, size, "clone", line)], "big")
    if want not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))


def vmalloc_used():
    """In KiB: large bitmaps are found there, and little else that changes."""
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmallocUsed"))


@test("the memory of 2^27 bits is freed when all is hydrated, and not taken again",
      limit=240, ours="it has no message for that")
def _(t):
    size = (1 << 27) * 8
    dest = t.mapped([(0, size, "zero", "")], "zero")
    before = vmalloc_used()
    device = sparse_clone(t, size, 8, "2 no_hydration zeroed_destination", dest=dest)
    line = device.parts[3]
    active = vmalloc_used() - before
    device.message(f"skip 0 {size}")
    t.until(lambda: "state=done" in device.message("stats"), "the end", timeout=120)
    # It is given back by a worker.
    t.until(lambda: vmalloc_used() - before <= 512, "its memory")
    done = vmalloc_used() - before
    device.remove()
    device = t.mapped([(0, size, "clone", line)], "big")
    again = vmalloc_used() - before
    t.note(f"{active} KiB while active, {done} KiB when done, {again} KiB in a second life")
    if not 16384 <= active <= 17408 or done > 512 or again > 512:
        raise Failure("that is not what it should be")
    if f" {1 << 27}/{1 << 27} " not in device.status(noflush=True):
        raise Failure(device.status(noflush=True))


@test("a source and a destination of 4 TiB", limit=120)
def _(t):
    size = 4096 * GIB
    device = sparse_clone(t, size, 2048, dest=t.mapped([(0, size, "zero", "")], "zero"))
    with Block(device.path) as block:
        for sector in 0, (1 << 32) - 8, 1 << 32, size - 2048:
            block.put(sector, 2048 if not sector % 2048 else 8, 20)
            block.read(sector, 8)
        block.flush()
    status = device.status(noflush=True)
    if f"/{size // 2048} " not in status:
        raise Failure(status)
    device.remove()
