# SPDX-License-Identifier: GPL-2.0-only
"""The tools for metadata, and the kernel: they agree.

What the tools do with files alone is tested by tools/tests/run.
"""

import errno
import itertools
import re
import signal
import struct
import threading
import time

from lib import dm, kmsg, metadata, tools
from lib.blk import MIB, ZERO
from lib.clone import Status
from lib.errors import Failure, Missed
from lib.framework import test
from lib.peer import interchange

KIB = 2

GEOMETRY = {"4 KiB": (8, 4 * MIB - 5), "64 KiB": (64 * KIB, 16 * MIB - 17),
            "1 MiB": (MIB, 24 * MIB + 1)}
SOME = {name: GEOMETRY[name] for name in ("4 KiB", "1 MiB")}
WHO = {"this module": "ours", "the kernel's own": "peer"}
ARRAY = 509 * 64                # regions


def some_io(clone, ops, **weights):
    clone.random_io(ops=ops, threads=2, max_sectors=min(256, 2 * clone.region),
                    weights=weights).run()


def check_content(t, clone):
    """Each sector is where the tools say it is. Returns what they say."""
    tools.check(t, clone.meta)
    told = tools.dump(t, clone.meta)
    if (told["region_size"], told["target_size"]) != (clone.region, clone.size):
        raise Failure(f"clone_dump speaks of {told['target_size']} sectors in regions of "
                      f"{told['region_size']}")
    clone.model.check_offline(clone.source.block, clone.dest.block, told["bitmap"],
                              clone.region)
    return told


@test("after random I/O clone_check and clone_dump say what status and content say, "
      "regions of {geometry}", geometry=GEOMETRY)
def _(t, geometry):
    tools.need(t)
    region, size = geometry
    clone = t.idle_clone(region=region, size=size)
    for ops in 3, 40, 300:
        some_io(clone, ops)
        clone.until(lambda s: not s.hydrating, "the end of zeroing")
        clone.device.suspend()
        clone.device.resume()
        hydrated = clone.status().hydrated
        live = tools.dump(t, clone.meta)
        if live["nr_hydrated"] != hydrated:
            raise Failure(f"live: {live['nr_hydrated']} regions, status: {hydrated}")
        clone.deactivate()
        told = check_content(t, clone)
        if told["nr_hydrated"] != hydrated:
            raise Failure(f"{told['nr_hydrated']} regions, status: {hydrated}")
        clone.activate()
    clone.finish()
    lines = tools.run(t, "clone_dump", "--missing", clone.meta.path).stdout
    if lines:
        raise Failure(f"a finished clone misses {lines}")


@test("live metadata of a clone that commits all the time is read, and is true")
def _(t):
    tools.need(t)
    clone = t.clone(region=8, size=16 * MIB, core={"hydration_rate": 2048})
    load = t.load(clone, threads=2, max_sectors=64, weights={"fua": 20, "flush": 20})
    said = 0
    for _ in range(6):
        before = clone.status().hydrated
        clone.flush()
        done = tools.run(t, "clone_check", clone.meta.path, good=None)
        if done.returncode and "changes faster" not in done.stderr:
            raise Failure(f"{done.stdout}{done.stderr}")
        if "live" not in done.stderr:
            raise Failure("it does not say that it reads live metadata")
        if not done.returncode:
            said += 1
            number = int(done.stdout.split(" of ")[0].split()[-1])
            if not before <= number <= clone.status().hydrated:
                raise Failure(f"{number} regions, but {before} were hydrated before it and "
                              f"{clone.status().hydrated} after it")
    load.stop()
    if not said:
        raise Missed("the metadata never stood still")
    clone.check()


@test("live metadata that never stands still is not called damaged, even if it is", limit=90)
def _(t):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB)
    clone.deactivate()
    meta = clone.meta
    sb = metadata.read(meta.block)
    tools.damage(meta, sb.root)
    t.mapped([(0, meta.sectors, "linear", f"{meta.number} 0")])
    meta.delay(100)                         # a superblock does not live that long
    ended = threading.Event()

    def commit():
        for number in itertools.count():
            sb.uuid = number.to_bytes(16, "little")
            meta.block.write(0, sb.pack())
            if ended.is_set():
                return

    job = t.background(commit)
    try:
        check = tools.check(t, meta, good=False)
        dump = tools.run(t, "clone_dump", "--summary", "--repair", meta.path, good=False)
    finally:
        ended.set()
    job.wait()
    for done in check, dump:
        if "changes faster" not in done.stderr:
            raise Missed("it stood still for a moment")
        if "wrong checksum" in done.stderr or done.stdout:
            raise Failure(f"{done.stdout}{done.stderr}")


@test("a device in use is not written: clone_restore, clone_repair and clone_copy refuse it")
def _(t):
    tools.need(t)
    clone = t.idle_clone()
    clone.put(0, 8, fua=True)
    tools.run(t, "clone_dump", "-o", "/run/dump", clone.meta.path)
    before = clone.meta.image()
    other = t.metadata()
    for command in (["clone_restore", "-i", "/run/dump", "-o", clone.meta.path, "--force"],
                    ["clone_repair", "-i", other.path, "-o", clone.meta.path, "--force",
                     "--region-size", 8, "--target-size", 800, "--lost=hydrated"],
                    ["clone_copy", "--metadata-device", clone.meta.path, "--source-device",
                     clone.source.path, "--dest-device", clone.dest.path]):
        done = tools.run(t, *command, good=False)
        if "in use" not in done.stderr:
            raise Failure(f"{command}: {done.stderr}")
    if clone.meta.image() != before:
        raise Failure("the metadata has changed")
    clone.finish()


@test("what clone_restore has written {who} takes, with the same regions, regions of {geometry}",
      ours="it takes both", who=WHO, geometry=SOME)
def _(t, who, geometry):
    tools.need(t)
    region, size = geometry
    with interchange(t) as change:
        change("ours")
        clone = t.idle_clone(region=region, size=size)
        some_io(clone, 100)
        clone.deactivate()
        hydrated = check_content(t, clone)["nr_hydrated"]
        tools.run(t, "clone_dump", "-o", "/run/dump", clone.meta.path)
        clone.meta = t.metadata()
        tools.run(t, "clone_restore", "-i", "/run/dump", "-o", clone.meta.path)
        change(who)
        clone.activate()
        clone.expect(hydrated=hydrated)
        clone.check()
        some_io(clone, 50, **({"discard": 0} if who == "peer" else {}))
        clone.deactivate()
        check_content(t, clone)
        clone.activate()
        clone.finish()


@test("{who} accepts the smallest size that clone_metadata_size tells for {regions} regions",
      ours="it takes both", who=WHO, regions=[1, ARRAY + 1, 300 * ARRAY])
def _(t, who, regions):
    tools.need(t)
    size = 8 * regions
    told = tools.run(t, "clone_metadata_size", "-b", 8, "-s", size, "-u", "s", "-n",
                     "--smallest").stdout
    ends = [t.mapped([(0, size, "zero", "")], "zero").number for _ in range(2)]

    def activate(sectors):
        meta = t.metadata(sectors)
        line = f"{meta.number} {' '.join(ends)} 8 1 no_hydration"
        device = dm.Device(t.name("clone"))
        try:
            device.load([(0, size, "clone", line)])
            device.resume()
            if Status(device.status()).regions != regions:
                raise Failure(device.status())
        finally:
            device.remove()
        tools.check(t, meta)

    with interchange(t) as change:
        change(who)
        activate(int(told))
        if who == "ours":
            t.fails(lambda: activate(int(told) - 8), errno.ENOSPC, errno.EINVAL,
                    what="a block less")


def copy_args(clone):
    return ("clone_copy", "--metadata-device", clone.meta.path, "--source-device",
            clone.source.path, "--dest-device", clone.dest.path)


def kill_half_way(t, clone, nr, how):
    """Runs clone_copy until its source stands still, and ends it there."""
    before = tools.dump(t, clone.meta)["nr_hydrated"]
    clone.source.hold_from(clone.size * nr // 5)
    process = tools.start(*copy_args(clone), "--commit-interval", 0, "--queue-depth", 2)
    t.until(lambda: clone.source.waiting, "a read that waits")
    if nr > 1:
        t.until(lambda: tools.dump(t, clone.meta)["nr_hydrated"] > before, "a commit")
    process.send_signal(how)
    if how == signal.SIGTERM:
        time.sleep(0.5)                 # until it looks for signals again
    clone.source.heal()
    status = process.wait()
    if how == signal.SIGTERM and not status:
        raise Missed("it has copied all that was left before it saw the signal")
    if status != (1 if how == signal.SIGTERM else -how):
        raise Failure(f"clone_copy has ended with {status}")


@test("clone_copy, killed again and again, in turns with the module: nothing is lost, "
      "regions of {geometry}", limit=150, ours="it is about both",
      geometry={"4 KiB": (8, 24 * MIB - 5), "64 KiB": (64 * KIB, 24 * MIB + 1)})
def _(t, geometry):
    tools.need(t)
    region, size = geometry
    clone = t.idle_clone(region=region, size=size)
    for nr in range(1, 5):
        some_io(clone, 10)
        clone.deactivate()
        kill_half_way(t, clone, nr, signal.SIGKILL if nr > 1 else signal.SIGTERM)
        check_content(t, clone)
        clone.activate()
        clone.check()
    clone.deactivate()
    tools.run(t, *copy_args(clone))
    told = check_content(t, clone)
    if told["nr_hydrated"] != clone.regions:
        raise Failure(f"{told['nr_hydrated']} regions are hydrated")
    clone.activate()
    clone.expect(hydrated=clone.regions)
    clone.finish()


@test("clone_copy clears the note that the destination is zeroed, and zeroes nothing twice",
      ours="it is about ours")
def _(t):
    tools.need(t)
    source = t.source(4 * MIB)
    clone = t.clone(source=source, size=4 * MIB, features=["no_hydration", "zeroed_destination"],
                    former=ZERO)
    clone.put(0, 8)
    clone.deactivate()
    if not t.peer and not tools.dump(t, clone.meta)["dest_zeroed"]:
        raise Failure("the module has not left the note")
    source.fail_range(2 * MIB, 8)
    tools.run(t, *copy_args(clone), "-q", good=False)
    source.heal()
    told = tools.dump(t, clone.meta)
    if told["dest_zeroed"]:
        raise Failure("the note is still there")
    if told["nr_hydrated"] != clone.regions - 1:
        raise Failure(f"{told['nr_hydrated']} regions are hydrated")
    clone.activate()
    clone.finish()


@test("clone_copy lists what it cannot copy, and copies the rest; {what}", ours="it is about both",
      what={"a source with bad sectors": "source", "a destination with bad sectors": "dest"})
def _(t, what):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB)
    clone.put(64, 8)
    clone.deactivate()
    bad = [(800, 8), (5000, 3)]
    getattr(clone, what).fail_ranges(bad)
    done = tools.run(t, *copy_args(clone), "--list-failed-blocks", good=False)
    if sorted(done.stdout.splitlines()) != ["5000 8", "800 8"]:
        raise Failure(f"listed: {done.stdout}{done.stderr}")
    getattr(clone, what).heal()
    lines = tools.run(t, "clone_dump", "--missing", clone.meta.path).stdout.splitlines()
    if lines != ["800 8", "5000 8"]:
        raise Failure(f"missing: {lines}")
    check_content(t, clone)
    tools.run(t, *copy_args(clone))
    clone.activate()
    clone.finish()


@test("a destination that cannot be flushed: clone_copy marks nothing as hydrated",
      ours="it is about both")
def _(t):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB, kind="null")
    clone.put(64, 8)
    clone.deactivate()
    before = clone.meta.image()
    clone.dest.fail_writes()
    done = tools.run(t, *copy_args(clone), good=False)
    if "cannot be" not in done.stderr:
        raise Failure(done.stderr)
    clone.dest.heal()
    if clone.meta.image()[metadata.BLOCK:] != before[metadata.BLOCK:]:
        check_content(t, clone)
    clone.activate()
    clone.finish()


# Hostile metadata: one damage, and what the kernel and the tools call it

ROOT, ARRAY_BLOCK, INDEX = "root", "array", "index"
KIND = {0: metadata.SUPERBLOCK_XOR, ROOT: metadata.BTREE_XOR, ARRAY_BLOCK: metadata.ARRAY_XOR,
        INDEX: 160478}

# (block, offset, bytes, whether the checksum is made right, the kernel, the tools)
REASONS = [
    (0, 100, b"x", False, "checksum", "wrong checksum"),
    (0, 32, b"x", True, "magic number", "magic number"),
    (0, 8, b"\1", True, "claims to be block 1", "belongs elsewhere"),
    (0, 40, b"\2", True, "version 2", "another version"),
    (0, 172, b"\11", True, "region size of 9 sectors", "region size is not a possible one"),
    (0, 180, bytes(8), True, "target of 0 sectors", "the size is zero"),
    (0, 188, b"\xff" * 3, True, "reference beyond the end", "referred to, but there are only"),
    (0, 44, b"\xff" * 8, True, "space map claims", "space map is for"),
    (0, 52, b"\xff", True, "blocks are in use", "blocks in use, not"),
    (ROOT, 100, b"x", False, "wrong checksum", "wrong checksum"),
    (ROOT, 4, b"\7", True, "unknown kind", "unknown kind"),
    (ROOT, 8, b"\xff", True, "address of another", "address of block"),
    (ROOT, 16, b"\xff\xff", True, "wrong number of entries", "too many entries"),
    (ROOT, 24, b"\4", True, "values of a wrong size", "values of a wrong size"),
    (ROOT, 32, b"\5", True, "keys out of order", "keys out of order"),
    (ROOT, 16, b"\0", True, "shorter than the device", "lacks words"),
    (ROOT, 32 + 8 * 252, ROOT, True, "more than one reference", "more than one reference"),
    (ROOT, 32 + 8 * 252, INDEX, True, "more than one reference", "more than one reference"),
    (ARRAY_BLOCK, 100, b"x", False, "wrong checksum", "wrong checksum"),
    (ARRAY_BLOCK, 16, b"\xff", True, "address of another", "address of block"),
    (ARRAY_BLOCK, 4, b"\1", True, "wrong layout", "wrong layout"),
    (ARRAY_BLOCK, 8, b"\1", True, "wrong length", "words instead of"),
    (INDEX, 100, b"x", False, "wrong checksum", "wrong checksum"),
    (INDEX, 8, b"\xff", True, "address of another", "address of block"),
    (INDEX, 24, b"\xff", True, "wrong number of free blocks", "free blocks here, not"),
]


def parts(disk):
    """The blocks of the metadata of a small clone."""
    sb = metadata.read(disk.block)
    node = disk.block.read(sb.root * 8, 8)
    return {0: 0, ROOT: sb.root, INDEX: struct.unpack_from("<Q", sb.space_map, 16)[0],
            ARRAY_BLOCK: struct.unpack_from("<Q", node, 32 + 8 * 252)[0]}


def spoil_so(disk, blocks, where, offset, change, seal):
    data = bytearray(disk.block.read(blocks[where] * 8, 8))
    if isinstance(change, str):
        change = struct.pack("<Q", blocks[change])
    data[offset:offset + len(change)] = change
    if seal:
        data[:4] = struct.pack("<I", metadata.checksum(bytes(data), KIND[where]))
    disk.block.write(blocks[where] * 8, bytes(data))


@test("hostile metadata is refused by the module and the tools for the same reasons", limit=120,
      ours="it says something else")
def _(t):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB)
    clone.put(0, 8)
    clone.deactivate()
    meta = clone.meta
    meta.sound_metadata = False
    blocks, good = parts(meta), meta.image()
    for where, offset, change, seal, kernel, told in REASONS:
        what = f"{change} at {offset} of {where}"
        spoil_so(meta, blocks, where, offset, change, seal)
        log = kmsg.Log()
        t.fails(clone.activate, errno.EUCLEAN, errno.EINVAL, what=what)
        said = "\n".join(log.read())
        if kernel not in said:
            raise Failure(f"{what}: not {kernel!r}, but {said}")
        done = tools.check(t, meta, good=False)
        if told not in done.stderr:
            raise Failure(f"{what}: not {told!r}, but {done.stderr}")
        block = re.search(r"metadata block (\d+): ", said)
        if block and f"block {block[1]}, " not in done.stderr:
            raise Failure(f"{what}: the kernel says {said}, clone_check {done.stderr}")
        meta.block.write(0, good)
    clone.activate()
    clone.finish()


@test("metadata on a device that has become smaller is refused by the module and the tools",
      ours="it does not look")
def _(t):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB)
    clone.deactivate()
    clone.meta.shrink_to(clone.meta.sectors // 2)
    log = kmsg.Log()
    t.fails(clone.activate, errno.EUCLEAN, errno.EINVAL)
    said = "\n".join(log.read())
    done = tools.check(t, clone.meta, good=False)
    if "the device has" not in said or "there are" not in done.stderr:
        raise Failure(f"{said}\n{done.stderr}")
    clone.meta.heal()
    clone.activate()
    clone.finish()


# When metadata is damaged: the steps of the guide

def spoil(disk, what):
    """Damage the metadata of a small clone: a bitset of a leaf and an array."""
    tools.damage(disk, parts(disk)[what])


DAMAGES = {
    "the space map is damaged": (INDEX, [], None),
    "the superblock is damaged": (0, ["sizes"], None),
    "all of the bitset is damaged, and hydration was done": (ARRAY_BLOCK, [], "hydrated"),
    "the root is damaged, and hydration was done": (ROOT, [], "hydrated"),
    "all of the bitset is damaged, and nothing was written": (ARRAY_BLOCK, [], "unhydrated"),
}


@test("{damage}: the steps of the guide bring the clone back", ours="it is about both",
      damage=DAMAGES)
def _(t, damage):
    tools.need(t)
    what, options, lost = damage
    # Trees of an earlier clone would be found too, if the superblock is lost.
    clone = t.idle_clone(size=4 * MIB, meta=t.disk(4 * MIB, fill=ZERO, what="meta"))
    if lost == "hydrated":
        some_io(clone, 100)
        clone.enable_hydration()
        clone.until_hydrated()
    elif not lost:
        some_io(clone, 100)
    clone.deactivate()
    old = clone.meta
    spoil(old, what)
    damaged = old.image()
    t.fails(clone.activate, errno.EUCLEAN, errno.EINVAL, what="a table")
    tools.check(t, old, good=False)

    clone.meta = t.metadata()
    command = ["clone_repair", "-i", old.path, "-o", clone.meta.path]
    if options:
        tools.run(t, *command, good=False)
        command += ["--region-size", clone.region, "--target-size", clone.size]
        trees = re.findall(r"--tree (\d+) .*: (\d+) regions", tools.run(
            t, *command, good=None).stderr)
        command += ["--tree", max(trees, key=lambda tree: int(tree[1]))[0], "--force"]
    done = tools.run(t, *command, good=not lost)
    if lost:
        if done.stdout != f"0 {clone.size}\n":
            raise Failure(f"lost: {done.stdout}{done.stderr}")
        tools.run(t, *command, f"--lost={lost}")
    if old.image() != damaged:
        raise Failure("the damaged metadata has changed")

    tools.check(t, clone.meta)
    attempt = dm.Device(t.name("try"))
    attempt.load(clone.table(), readonly=True)
    attempt.resume()
    attempt.remove()
    check_content(t, clone)
    clone.activate()
    clone.check()
    clone.finish()


@test("metadata that was moved to a larger device goes on there", ours="it is about both")
def _(t):
    tools.need(t)
    clone = t.idle_clone(size=4 * MIB)
    some_io(clone, 100)
    clone.deactivate()
    tools.run(t, "clone_dump", "-o", "/run/dump", clone.meta.path)
    clone.meta = t.metadata(8 * MIB)
    tools.run(t, "clone_restore", "-i", "/run/dump", "-o", clone.meta.path)
    done = tools.run(t, "clone_restore", "-i", "/run/dump", "-o", clone.meta.path, good=False)
    if "--force" not in done.stderr:
        raise Failure(done.stderr)
    clone.activate()
    clone.finish()


@test("clone_restore and clone_check know what a foreign device holds", ours="it is about both")
def _(t):
    tools.need(t)
    clone = t.idle_clone()
    clone.deactivate()
    tools.run(t, "clone_dump", "-o", "/run/dump", clone.meta.path)
    disk = t.disk(8 * MIB)
    disk.block.fill(ZERO)
    t.run("mkfs.ext4", "-q", disk.path)
    for command in (["clone_check", disk.path],
                    ["clone_restore", "-i", "/run/dump", "-o", disk.path]):
        done = tools.run(t, *command, good=False)
        if "ext4" not in done.stderr:
            raise Failure(done.stderr)
    t.run("fsck.ext4", "-n", "-f", disk.path)
