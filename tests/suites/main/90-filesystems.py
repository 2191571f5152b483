# SPDX-License-Identifier: GPL-2.0-only
"""File systems: cloned, mounted, trimmed, hydrated, swapped, checked."""

import errno
import fcntl
import hashlib
import mmap
import os
import random
import struct

from lib.blk import MIB
from lib.errors import Failure
from lib.framework import test

SYSTEMS = {
    "ext4": (("mkfs.ext4", "-q"), ("e2fsck", "-fn"), 96 * MIB),
    # mkfs.xfs refuses small sizes except to its own test suite.
    "xfs": (("mkfs.xfs", "-q", "-f"), ("xfs_repair", "-n"), 96 * MIB),
}


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def write_files(folder, rng, prefix, number, most=1 << 19):
    """Files of random sizes and content; {name: digest}"""
    out = {}
    for i in range(number):
        data = rng.randbytes(rng.randrange(1, most))
        name = f"{prefix}{i}"
        with open(f"{folder}/{name}", "wb") as f:
            f.write(data)
        out[name] = hashlib.sha256(data).hexdigest()
    return out


def check_files(folder, digests):
    for name, right in digests.items():
        if digest(f"{folder}/{name}") != right:
            raise Failure(f"{name} has changed")


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("1\n")


def filled_source(t, system):
    """A source with a file system full of files, and what is in them."""
    mkfs, _, size = SYSTEMS[system]
    source = t.disk(size, kind="null", what="source")
    t.run(*mkfs, source.path)
    where = t.mount(source.path, system)
    files = write_files(where, random.Random(t.seed), "old", 60)
    t.umount(where)
    return source, size, files


@test("{system}: mounted at once, used, trimmed, hydrated, swapped to linear, checked",
      limit=240, system=list(SYSTEMS))
def _(t, system):
    _, fsck, _ = SYSTEMS[system]
    source, size, files = filled_source(t, system)
    before = hashlib.sha256(source.image()).hexdigest()

    clone = t.clone(region=8, size=size, source=source, kind="null",
                    features=["no_hydration"], former=None,
                    core={"hydration_threshold": 64})
    where = t.mount(clone.path, system)
    check_files(where, files)

    rng = random.Random(t.seed + 1)
    files.update(write_files(where, rng, "new", 20))
    for i in range(0, 60, 3):
        os.unlink(f"{where}/old{i}")
        del files[f"old{i}"]
    os.sync()
    t.run("fstrim", "-v", where)
    # Of long extents in the background.
    trimmed = clone.until(lambda s: s.hydrated >= s.regions // 4 and not s.hydrating,
                          "that fstrim spares a quarter the copying").hydrated

    clone.enable_hydration()
    files.update(write_files(where, rng, "during", 20))
    drop_caches()
    check_files(where, files)
    clone.until_hydrated(60)

    clone.swap_to_linear(lockfs=True)
    files.update(write_files(where, rng, "after", 10))
    drop_caches()
    check_files(where, files)
    t.umount(where)

    clone.source.fail()
    t.run(*fsck, clone.path)
    where = t.mount(clone.path, system)
    check_files(where, files)
    t.umount(where)
    clone.source.heal()
    if hashlib.sha256(source.image()).hexdigest() != before:
        raise Failure("the source has changed")
    t.note(f"{trimmed} of {clone.regions} regions were trimmed")


@test("{system}: the clone is deactivated half-way, and goes on in the next life",
      limit=120, system=list(SYSTEMS))
def _(t, system):
    _, fsck, _ = SYSTEMS[system]
    source, size, files = filled_source(t, system)
    clone = t.clone(region=128, size=size, source=source, kind="ram", former=None,
                    features=["no_hydration"])
    for life in range(3):
        where = t.mount(clone.path, system)
        check_files(where, files)
        files.update(write_files(where, random.Random(t.seed + life), f"life{life}-", 10))
        t.umount(where)
        clone.reactivate()
    clone.hydrate(60)
    where = t.mount(clone.path, system)
    check_files(where, files)
    t.umount(where)
    t.run(*fsck, clone.path)


@test("a mounted file system does not notice a suspend with a freeze, a reload and a resume",
      limit=90)
def _(t):
    source, size, files = filled_source(t, "ext4")
    clone = t.clone(region=8, size=size, source=source, kind="null", former=None)
    where = t.mount(clone.path, "ext4")
    for i in range(4):
        clone.device.suspend(lockfs=True)
        job = t.background(lambda i=i: write_files(where, random.Random(i), f"s{i}-", 3))
        job.must_block(0.3, "writing files on a suspended device")
        if i % 2:
            clone.device.load(clone.table())
        clone.device.resume(lockfs=True)
        files.update(job.wait(30))
    drop_caches()
    check_files(where, files)
    t.umount(where)
    t.run("e2fsck", "-fn", clone.path)
    clone.until_hydrated(60)
    t.run("e2fsck", "-fn", clone.path)


FIEMAP = 0xC020660B
FIEMAP_SYNC = 1


def extents(fd):
    """Where the file is on its device: [(first sector, sectors)]"""
    most = 8
    head, extent = struct.Struct("=QQIIII"), struct.Struct("=QQQ16xI12x")
    buf = bytearray(head.pack(0, 1 << 62, FIEMAP_SYNC, 0, most, 0) +
                    bytes(most * extent.size))
    fcntl.ioctl(fd, FIEMAP, buf)
    nr = head.unpack_from(buf)[3]
    return [(physical >> 9, length >> 9) for _, physical, length, _ in
            (extent.unpack_from(buf, head.size + i * extent.size) for i in range(nr))]


@test("ext4: fsync fails while the metadata device does, even with the journal's regions "
      "committed",
      defect="device-mapper sends the data of a flush that has failed")
def _(t):
    mkfs, _, size = SYSTEMS["ext4"]
    source = t.disk(size, kind="null", what="source")
    t.run(*mkfs, "-b", "4096", source.path)   # a block is a region
    where = t.mount(source.path, "ext4")
    with open(f"{where}/file", "wb") as f:
        f.write(bytes(4096))
        f.flush()
        (first, nr), = extents(f.fileno())
    t.umount(where)

    # All but the file, one region, is hydrated and committed.
    clone = t.clone(region=8, size=size, source=source, kind="null",
                    features=["no_hydration"], former=None)
    source.fail_range(first, nr)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == s.regions - nr // 8, "all but the file")
    clone.disable_hydration()
    source.heal()

    where = t.mount(clone.path, "ext4")
    fd = os.open(f"{where}/file", os.O_RDWR | os.O_DIRECT)
    try:
        clone.flush()
        clone.meta.fail_writes()
        with mmap.mmap(-1, 4096) as data:       # aligned
            os.pwrite(fd, data, 0)
        t.fails(lambda: os.fsync(fd), errno.EIO, what="fsync")
    finally:
        os.close(fd)
        clone.meta.heal()
