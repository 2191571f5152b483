# SPDX-License-Identifier: GPL-2.0-only
"""The tools for metadata, and the kernel: they agree.

What the tools do with files alone is tested by tools/tests/run.
"""

import errno
import re
import signal
import struct
import time

from lib import dm, metadata, tools
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


# When metadata is damaged: the steps of the guide

def spoil(disk, what):
    """Damage the metadata of a small clone: a bitset of a leaf and an array."""
    sb = metadata.read(disk.block)
    index = struct.unpack_from("<Q", sb.space_map, 16)[0]
    node = disk.block.read(sb.root * 8, 8)
    array = struct.unpack_from("<Q", node, 32 + 8 * 252)[0]
    tools.damage(disk, {"superblock": 0, "root": sb.root, "array": array,
                        "space map": index}[what])


DAMAGES = {
    "the space map is damaged": ("space map", [], None),
    "the superblock is damaged": ("superblock", ["sizes"], None),
    "all of the bitset is damaged, and hydration was done": ("array", [], "hydrated"),
    "the root is damaged, and hydration was done": ("root", [], "hydrated"),
    "all of the bitset is damaged, and nothing was written": ("array", [], "unhydrated"),
}


@test("{damage}: the steps of the guide bring the clone back", ours="it is about both",
      damage=DAMAGES)
def _(t, damage):
    tools.need(t)
    what, options, lost = damage
    clone = t.idle_clone(size=4 * MIB)
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
