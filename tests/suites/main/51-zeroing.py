# SPDX-License-Identifier: GPL-2.0-only
"""Zeroing: it costs what there is to zero, nobody waits for it, and it can be stopped."""

import os

from lib import disks, modules
from lib.blk import FORMER, MIB, SOURCE, ZERO
from lib.errors import Failure, Missed
from lib.framework import test
from lib.thin import BLOCK, thin_disk

OURS = "it never zeroes"
LONG = 64 * MIB                 # of a discard: much more than is done at once


def held_clone(t, **args):
    """A clone, a long discard of which cannot get further than its first half."""
    clone = t.idle_clone(region=128, size=2 * LONG, **args)
    clone.dest.hold_range(LONG // 2, 8)
    return clone


def discard_all(t, clone):
    t.within(10, clone.discard, "a long discard")
    clone.until(lambda s: s.hydrating, "zeroing")


@test("a long discard does not wait for the destination, and is done later: {kind} "
      "destination",
      ours=OURS, kind=["ram", "null", "loop"])
def _(t, kind):
    clone = t.idle_clone(region=128, size=LONG, kind=kind)
    clone.dest.hold()
    discard_all(t, clone)
    if clone.status().hydrated:
        raise Failure(f"zeroed on a destination that is held: {clone.status().text}")
    if t.within(10, lambda: clone.get(LONG - 128, 128), "a read") != [SOURCE] * 128:
        raise Failure("what the destination held before is shown")
    clone.dest.release()
    clone.until_hydrated()
    clone.model.set(0, LONG, ZERO)
    clone.check()
    clone.expect_stats(bytes_zeroed=LONG * 512, bytes_copied=0)
    clone.deactivate()
    clone.check_left_behind()


@test("writes into a long discard wait neither for its end nor for the source", ours=OURS)
def _(t):
    clone = held_clone(t)
    discard_all(t, clone)
    clone.source.hold()
    # The claim that is being worked on ends long before this.
    clone.model.set(LONG + LONG // 2, LONG // 2, ZERO)
    t.within(20, lambda: clone.put(2 * LONG - 1000, 8), "a write to part of a region")
    t.within(20, lambda: clone.put(2 * LONG - 1280, 128), "an overwrite")
    for sector in 2 * LONG - 1000, 2 * LONG - 1280:
        begin = sector // 128 * 128
        clone.model.check(clone.block, begin, 128)
    clone.source.release()
    clone.dest.heal()
    clone.until_hydrated()
    clone.model.set(0, 2 * LONG - 1280, ZERO)
    clone.model.set(2 * LONG - 1152, 24, ZERO)
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("a write into what is being zeroed waits for a step of it only", ours=OURS)
def _(t):
    clone = t.idle_clone(region=128, size=LONG)
    clone.dest.delay(50, 50)
    discard_all(t, clone)
    clone.put(LONG // 2 + 3, 8)
    if clone.status().done:
        raise Missed("all was zeroed by then")
    clone.dest.heal()
    clone.until_hydrated()
    stamp = clone.get(LONG // 2 + 3)[0]
    clone.model.set(0, LONG, ZERO)
    clone.model.set(LONG // 2 + 3, 8, stamp)
    clone.check()


@test("suspend stops a long discard, resume goes on with it", ours=OURS)
def _(t):
    clone = t.idle_clone(region=128, size=LONG)
    clone.dest.delay(50, 50)
    discard_all(t, clone)
    clone.device.suspend()
    stopped = clone.status()
    if stopped.hydrating:
        raise Failure(f"zeroing in a suspended clone: {stopped.text}")
    if stopped.done:
        raise Missed("all was zeroed by then")
    clone.dest.heal()
    clone.device.resume()
    clone.until_hydrated()
    clone.model.set(0, LONG, ZERO)
    clone.check()


@test("removal stops a long discard, a new table forgets it, and no harm is done", ours=OURS)
def _(t):
    clone = t.idle_clone(region=128, size=LONG)
    clone.model.maybe(0, LONG, ZERO)
    clone.dest.delay(50, 50)
    discard_all(t, clone)
    clone.reload(features=["no_hydration"])
    after = clone.status()
    if after.done:
        raise Missed("all was zeroed by then")
    clone.dest.heal()
    clone.check()
    if clone.status().hydrated != after.hydrated:
        raise Failure("the new table goes on with it")
    clone.dest.delay(50, 50)
    clone.model.maybe(0, LONG, ZERO)
    discard_all(t, clone)
    clone.deactivate()
    clone.dest.heal()
    clone.check_left_behind()
    clone.activate()
    clone.check()
    clone.reload(features=[])
    clone.until_hydrated()
    clone.check()


@test("hydration does not copy what is to be zeroed", ours=OURS)
def _(t):
    clone = held_clone(t)
    clone.put(2 * LONG - 128, 128)
    discard_all(t, clone)
    with t.trace(clone.source) as trace:
        clone.enable_hydration()
        clone.message(f"hydrate {LONG} {LONG}")
        clone.dest.heal()
        clone.until_hydrated()
    if trace.of(clone.source.number, "R"):
        raise Failure(f"{trace.bios[:8]}")
    clone.model.set(0, 2 * LONG - 128, ZERO)
    clone.model.maybe(2 * LONG - 128, 128, ZERO)
    clone.check()


@test("hydration that waits for zeroing beside user I/O goes on after it, {kind} "
      "destination",
      ours=OURS, kind=["ram", "loop"])
def _(t, kind):
    clone = t.idle_clone(region=128, size=8 * MIB, kind=kind)
    clone.dest.hold_range(0, 8)
    clone.discard(0, 4 * MIB)
    clone.until(lambda s: s.hydrating, "zeroing")
    # A piece of zeroing is all that is under way; beside it, and a user, there's no room.
    clone.source.hold_range(8 * MIB - 8, 8)
    read = t.background(lambda: clone.get(8 * MIB - 8, 8))
    read.must_block(0.1, "a read of sectors that are held")
    clone.enable_hydration()
    t.until(lambda: clone.stats()["state"] == "limited", "the engine, asking")
    clone.dest.heal()
    clone.until(lambda s: s.hydrated >= 4 * MIB // 128, "the end of zeroing")
    clone.source.heal()
    read.wait()
    clone.until_hydrated()
    clone.model.set(0, 4 * MIB, ZERO)
    clone.check()


@test("a region that zeroing has left to a write is copied when the write fails", ours=OURS)
def _(t):
    with modules.halting(t) as halts:
        clone = t.idle_clone(region=128, size=4 * MIB)
        clone.source.hold()
        write = t.background(lambda: clone.block.put(0, 8, t.stamp()))
        write.must_block(0.1, "a write whose copy is held")
        halts.at(halts.MARKED)
        t.within(10, clone.discard, "a long discard")
        halts.until_at(halts.MARKED)
        clone.enable_hydration()
        # Its end kicks the engine, which finds nothing but marks.
        clone.source.fail_range(64, 8)
        t.fails(write.wait, what="a write whose copy fails")
        t.until(lambda: not clone.status().hydrating, "the end of the copy")
        clone.source.heal()
        halts.at(0)
        clone.until_hydrated()
        clone.model.set(128, clone.size - 128, ZERO)
        clone.check()


@test("a waiting long discard is zeroed after all if the destination ceases to be zeroed",
      ours=OURS)
def _(t):
    clone = t.clone(region=128, size=8 * MIB, former=0,
                    features=["no_hydration", "zeroed_destination"])
    clone.source.hold()
    write = t.background(lambda: clone.block.put(0, 8, t.stamp()))
    write.must_block(0.1, "a write whose copy is held")
    discard = t.background(clone.discard)
    discard.must_block(0.2, "a discard of what is being written")
    clone.dest.hold_range(4 * MIB, 8)
    clone.source.fail_range(64, 8)
    t.fails(write.wait, what="a write whose copy fails")
    discard.wait(what="a long discard")
    if clone.status().done:
        raise Failure("zeroed on a destination that is held")
    clone.source.heal()
    clone.dest.heal()
    clone.until_hydrated()
    clone.model.set(0, clone.size, ZERO)
    clone.check()


@test("reads do not hydrate what is to be zeroed", ours=OURS)
def _(t):
    clone = held_clone(t)
    clone.reload(features=["no_hydration", "hydrate_on_read"])
    discard_all(t, clone)
    before = clone.status().hydrated
    for sector in range(LONG + LONG // 2, 2 * LONG, MIB):
        if clone.get(sector) != [SOURCE]:
            raise Failure("that is not the source's data")
    clone.expect_stats(bytes_read=0)
    if clone.status().hydrated > before + LONG // 128:
        raise Failure(f"expected {before + LONG // 128} hydrated regions at most, found "
                      f"{clone.status().text}")
    clone.dest.heal()
    clone.until_hydrated()
    clone.model.set(0, 2 * LONG, ZERO)
    clone.check()


@test("what cannot be zeroed is copied in the end", ours=OURS)
def _(t):
    clone = t.idle_clone(region=128, size=LONG)
    clone.dest.fail_range(LONG // 2, LONG // 2)
    t.within(10, clone.discard, "a long discard")
    t.until(lambda: clone.stats()["write_errors"], "the error")
    clone.until(lambda s: not s.hydrating, "the end of zeroing")
    clone.dest.heal()
    clone.model.maybe(0, LONG, ZERO)
    clone.finish()


@test("a long discard is zeroed with few commands where the destination has them", ours=OURS)
def _(t):
    size = 512 * MIB
    source = t.mapped([(0, size, "zero", "")], "zero")
    dest = t.disk(size, kind="loop", what="dest")
    clone = t.clone(region=8, size=size, source=source, dest=dest, former=None,
                    features=["no_hydration"])
    with t.trace(clone.dest) as trace:
        clone.discard()
        clone.until_hydrated()
    zeroes = trace.of(clone.dest.number, "N")
    t.note(f"{len(zeroes)} write-zeroes for {size // MIB} MiB")
    if sum(bio.nr for bio in zeroes) != size or len(zeroes) > 32:
        raise Failure(f"{len(zeroes)} write-zeroes: {zeroes[:8]}")
    others = [bio for bio in trace.of(clone.dest.number) if bio.kind in "RW" and bio.nr]
    if others:
        raise Failure(f"{others[:8]}")


@test("only what is not zero in the destination is written to zero it", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=LONG, former=0)
    clone.dest.block.fill(FORMER, 3 * MIB + 8, 8)
    clone.dest.block.fill(FORMER, 9 * MIB, 2048)
    with t.trace(clone.dest) as trace:
        clone.discard()
        clone.until_hydrated()
    written = sum(bio.nr for bio in trace.of(clone.dest.number, "W") if bio.nr)
    if written != 128 + 2048:
        raise Failure(f"{written} sectors: {trace.writes(clone.dest.number)}")
    clone.model.set(0, LONG, ZERO)
    clone.check()


def trimmed(t, dest):
    """A clone of an empty file system, mounted, and trimmed."""
    source = t.disk(dest.sectors, kind="null", what="source")
    t.run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
          source.path)
    clone = t.clone(region=8, size=dest.sectors, source=source, dest=dest, former=None,
                    features=["no_hydration"])
    where = t.mount(clone.path, "ext4")
    t.run("fstrim", where)
    clone.until(lambda s: s.hydrated > s.regions // 2 and not s.hydrating,
                "the end of zeroing", 60)
    return clone, where


@test("fstrim of more space than a thin pool has provisions nothing", ours=OURS)
def _(t):
    dest, pool = thin_disk(t, 1024 * MIB, 32 * MIB)
    clone, where = trimmed(t, dest)
    if pool.used > 64:                          # what mounting writes
        raise Failure(f"{pool.used} blocks of the pool are in use")
    clone.expect(mode="rw")
    with open(f"{where}/file", "wb") as f:
        f.write(bytes(1 << 20))
        os.fsync(f.fileno())
    t.umount(where)
    t.run("e2fsck", "-fn", clone.path)


@test("skip of a fresh thin volume provisions nothing", ours=OURS)
def _(t):
    dest, pool = thin_disk(t, 256 * MIB, 16 * MIB)
    source = t.mapped([(0, dest.sectors, "zero", "")], "zero")
    clone = t.clone(region=8, size=dest.sectors, source=source, dest=dest, former=None,
                    features=["no_hydration"])
    clone.message(f"skip 0 {clone.size}")
    clone.until_hydrated()
    if pool.used:
        raise Failure(f"{pool.used} blocks of the pool are in use")


def refusing_disk(t, sectors):
    """A loop device that offers write-zeroes, on a file system that can't punch holes."""
    disks.modprobe("vfat")
    for module in "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8":
        os.system(f"modprobe {module} 2>/dev/null")
    ground = t.disk(sectors + 16 * MIB, what="ground")
    t.run("mkfs.fat", ground.path)
    where = t.mount(ground.path, "vfat", keep=True)
    loop = disks.loop(f"{where}/image", sectors)

    def end():
        loop.close()
        disks.umount(where)

    backing = disks.Backing(loop.path, end=end)
    return t.add_disk(disks.Disk(t.name("dest"), sectors, backing)).fill(FORMER)


@test("a destination that offers write-zeroes and then refuses gets zeroes written",
      ours=OURS)
def _(t):
    dest = refusing_disk(t, 16 * MIB)
    clone = t.clone(region=128, size=dest.sectors, dest=dest, former=None,
                    features=["no_hydration"])
    with t.trace(clone.dest) as trace:
        clone.discard(0, 1024)
        clone.discard(4096, 1024)
        clone.message(f"skip {8 * MIB} {4 * MIB}")
        clone.until(lambda s: s.hydrated == (2048 + 4 * MIB) // 128, "the skip")
    refused = trace.of(clone.dest.number, "N")
    if len(refused) != 1:
        raise Failure(f"it was asked {len(refused)} times")
    for first, nr in (0, 1024), (4096, 1024), (8 * MIB, 4 * MIB):
        clone.model.set(first, nr, ZERO)
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("many discards at once, short and long ones among writes, never lose a write",
      ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB)
    clone.dest.delay(5, 5)
    weights = {"read": 10, "write": 20, "discard": 70, "zero": 0, "fua": 0, "flush": 0}
    clone.random_io(ops=600, threads=16, max_sectors=4096, align=8, weights=weights).run()
    clone.dest.heal()
    clone.hydrate()
    clone.check()


def sparse_source(t, sectors, data, pitch):
    """Zeroes, except for the first @data of each @pitch sectors."""
    source = t.disk(sectors, what="source", fill=0)
    for first in range(0, sectors, pitch):
        source.block.fill(SOURCE, first, data)
    return source


def clone_of_sparse(t, source, data, pitch, **args):
    clone = t.clone(size=source.sectors, source=source, features=["no_hydration"], **args)
    clone.model.set(0, clone.size, ZERO)
    for first in range(0, clone.size, pitch):
        clone.model.set(first, data, SOURCE)
    return clone


@test("a source with 5 % of data provisions 5 % of a thin destination, {region} regions",
      ours="it copies zeroes", region=[8, 128, 2048])
def _(t, region):
    dest, pool = thin_disk(t, LONG, LONG)
    pitch = 20 * BLOCK
    clone = clone_of_sparse(t, sparse_source(t, LONG, BLOCK, pitch), BLOCK, pitch,
                            region=region, dest=dest, former=None)
    clone.hydrate()
    blocks = -(-LONG // pitch)
    if pool.used != blocks:
        raise Failure(f"{pool.used} blocks of the pool are in use for {blocks} of data")
    clone.expect_stats(bytes_zero=(LONG - blocks * BLOCK) * 512)
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("zeroes of the source are zeroes in a destination that held other data, {region} "
      "regions, {kind} destination",
      ours="it copies zeroes",
      region=[8, 2048], kind=["ram", "null", "loop"])
def _(t, region, kind):
    pitch = 3 * 8 + 5
    clone = clone_of_sparse(t, sparse_source(t, 8 * MIB, 5, pitch * 40), 5, pitch * 40,
                            region=region, kind=kind)
    clone.put(4 * MIB + 1, 3)                   # has the rest of its region copied
    with t.trace(clone.dest) as trace:
        clone.hydrate()
    commands = trace.of(clone.dest.number, "N")
    if bool(commands) != (kind == "loop"):
        raise Failure(f"write-zeroes: {commands[:8]}")
    clone.check()
    clone.deactivate()
    clone.check_left_behind()


@test("zeroes of the source are neither read back nor written on a zeroed destination",
      ours="it copies zeroes")
def _(t):
    pitch = 20 * BLOCK
    clone = clone_of_sparse(t, sparse_source(t, 16 * MIB, BLOCK, pitch), BLOCK, pitch,
                            former=0)
    clone.reload(features=["no_hydration", "zeroed_destination"])
    with t.trace(clone.dest) as trace:
        clone.hydrate()
    sent = sum(bio.nr for bio in trace.of(clone.dest.number) if bio.nr)
    if sent != -(-16 * MIB // pitch) * BLOCK:
        raise Failure(f"{sent} sectors: {trace.bios[:8]}")
    clone.check()


@test("zeroes that cannot be written make the copy fail, and are tried again",
      ours="it copies zeroes")
def _(t):
    clone = clone_of_sparse(t, sparse_source(t, 4 * MIB, 8, MIB), 8, MIB)
    clone.dest.fail_writes()
    clone.enable_hydration()
    t.until(lambda: clone.stats()["write_errors"], "the error")
    clone.expect_stats(read_errors=0)
    clone.dest.heal()
    clone.until_hydrated()
    clone.check()


@test("random I/O above a source that is mostly empty", ours="it copies zeroes")
def _(t):
    pitch = 24 * 8
    clone = clone_of_sparse(t, sparse_source(t, 8 * MIB, 13, pitch), 13, pitch, region=128)
    clone.source.delay(2)
    load = t.load(clone, threads=6, max_sectors=300)
    clone.enable_hydration()
    t.let_run(load, 200)
    clone.source.heal()
    clone.until_hydrated()
    load.stop()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()
