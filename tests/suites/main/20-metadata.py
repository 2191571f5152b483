# SPDX-License-Identifier: GPL-2.0-only
"""The metadata device: formatted, loaded, refused; and what is written on it."""

import errno
import random
import struct

from lib import kmsg, metadata
from lib.blk import JUNK, MIB, Block, crc32c
from lib.errors import Failure
from lib.framework import test
from lib.metadata import Superblock

KIB = 2


def good_metadata(t, region=8, size=4 * MIB):
    """A clone that was used and deactivated: its devices hold good metadata."""
    clone = t.idle_clone(region=region, size=size)
    clone.put(0, 4 * region)
    clone.put(10 * region, region)
    clone.deactivate()
    return clone


NO_CLONE, DAMAGED = errno.EINVAL, errno.EUCLEAN


def must_refuse(t, clone, naming=(), what="this metadata", error=NO_CLONE):
    """Activation fails, says why, and has not written a byte."""
    before = clone.meta.image()
    log = kmsg.Log()
    with t.trace(clone.meta) as trace:
        t.fails(clone.activate, *([] if t.peer else [error]), what=what)
    if trace.writes(clone.meta.number):
        raise Failure(f"{what}: refused, but written to: {trace.writes(clone.meta.number)}")
    if clone.meta.image() != before:
        raise Failure(f"{what}: refused, but not left as it was")
    said = "\n".join(log.read())
    for word in naming if not t.peer else ():
        if str(word).lower() not in said.lower():
            raise Failure(f"{what}: the log does not speak of {word}:\n{said}")


def change_superblock(clone, fix_csum=True, **fields):
    sb = Superblock(clone.meta.block.read(0, 8))
    for name, value in fields.items():
        setattr(sb, name, value)
    block = sb.pack(None if fix_csum else sb.csum)
    clone.meta.block.write(0, block)


@test("a device of zeroes is formatted: the superblock is as documented")
def _(t):
    clone = t.idle_clone(region=128)
    clone.flush()
    clone.deactivate()
    sb = metadata.read(clone.meta.block)
    if (sb.region_size, sb.target_size) != (128, clone.size):
        raise Failure(f"region size {sb.region_size}, target size {sb.target_size}")
    if sb.flags or sb.uuid.strip(b"\0") or sb.rest.strip(b"\0"):
        raise Failure("flags, uuid and the rest of the superblock should be zero")
    if not 0 < sb.root < clone.meta.sectors // 8:
        raise Failure(f"the bitset's root is block {sb.root}")
    if not sb.space_map.strip(b"\0"):
        raise Failure("there is no space map")
    bitmap = sb.bitmap(clone.meta.block, clone.regions)
    if any(bitmap):
        raise Failure("a fresh clone has hydrated regions")


@test("only a superblock of zeroes is formatted, whatever else the device holds")
def _(t):
    meta = t.disk(4 * MIB, fill=JUNK, what="meta")
    meta.block.fill(0, 0, 8)
    clone = t.idle_clone(meta=meta)
    clone.put(64, 8)
    clone.reactivate()
    clone.check()

    meta.sound_metadata = False
    for offset in 0, 1, 4, 31, 200, 511, 512, 4095:
        meta.zero()
        data = bytearray(4096)
        data[offset] = 1
        meta.block.write(0, bytes(data))
        clone.deactivate()
        must_refuse(t, clone, what=f"one byte set at {offset}")


@test("bits on disk are the regions that were written, no more and no fewer")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    hydrated = set(t.rng.sample(range(clone.regions), 200)) | {0, clone.regions - 1}
    for region in hydrated:
        clone.put(region * 8, 8)
    clone.deactivate()
    bitmap = clone.check_left_behind()
    on_disk = {r for r in range(clone.regions) if metadata.bit(bitmap, r)}
    if on_disk != hydrated:
        raise Failure(f"missing {sorted(hydrated - on_disk)}, "
                      f"too many {sorted(on_disk - hydrated)}")


@test("a bitmap of many array blocks is written and read back", limit=120)
def _(t):
    size = 512 * MIB                        # 131072 regions, 5 array blocks
    zero = t.mapped([(0, size, "zero", "")])
    dest = t.mapped([(0, size, "zero", "")])
    meta = t.metadata()
    line = f"{meta.number} {dest.number} {zero.number} 8 1 no_hydration"
    device = t.mapped([(0, size, "clone", line)])
    regions = set(t.rng.sample(range(size // 8), 300)) | {32575, 32576, 65151, 65152}
    with Block(device.path) as block:
        for region in regions:
            block.put(region * 8, 8, t.stamp())
    device.remove()
    sb = metadata.read(meta.block)
    bitmap = sb.bitmap(meta.block, size // 8)
    if metadata.weight(bitmap, size // 8) != len(regions) or \
       not all(metadata.bit(bitmap, r) for r in regions):
        raise Failure("the bits on disk are not the regions written")
    device = t.mapped([(0, size, "clone", line)])
    if f" {len(regions)}/{size // 8} " not in device.status(noflush=True):
        raise Failure(device.status())


@test("random bytes are refused and left alone")
def _(t):
    clone = t.idle_clone(active=False)
    clone.meta.block.write(0, random.Random(t.seed).randbytes(64 * 1024))
    must_refuse(t, clone, ["superblock"])


@test("a file system is refused and left alone")
def _(t):
    clone = t.idle_clone(active=False, meta=t.disk(16 * MIB, fill=0))
    t.run("mkfs.ext4", "-q", clone.meta.path)
    # ext4 leaves the first KiB alone, the superblock is after it.
    must_refuse(t, clone, ["superblock"])


@test("the metadata of another target is refused: same layout, other magic")
def _(t):
    clone = good_metadata(t)
    for magic in 27022010, 2126579579, 6142003, 0, 0x8af27f65:
        change_superblock(clone, magic=magic)
        must_refuse(t, clone, ["superblock", "magic"], f"magic {magic}")
    change_superblock(clone, magic=metadata.MAGIC)
    clone.activate()
    clone.check()


@test("a checksum that is wrong is refused, wherever the flipped bit is", limit=120)
def _(t):
    clone = good_metadata(t)
    good = clone.meta.block.read(0, 8)
    for offset in (0, 3, 4, 8, 16, 31, 32, 40, 44, 100, 172, 180, 188, 195, 196,
                   512, 2000, 4095):
        bad = bytearray(good)
        bad[offset] ^= 1 << t.rng.randrange(8)
        clone.meta.block.write(0, bytes(bad))
        must_refuse(t, clone, ["superblock"], f"a bit flipped in byte {offset}",
                    NO_CLONE if offset in range(32, 40) else DAMAGED)
    clone.meta.block.write(0, good)
    clone.activate()
    clone.check()


@test("versions other than 1 are refused")
def _(t):
    clone = good_metadata(t)
    for version in 0, 2, 0xffffffff:
        change_superblock(clone, version=version)
        must_refuse(t, clone, ["version"], f"version {version}")
    change_superblock(clone, version=1)
    clone.activate()


@test("a superblock that says it is another block is refused")
def _(t):
    clone = good_metadata(t)
    change_superblock(clone, blocknr=1)
    must_refuse(t, clone, ["superblock"], error=DAMAGED)


@test("a region size other than the recorded one is refused, and both are named")
def _(t):
    clone = good_metadata(t, region=16)
    for region in 8, 32, 2048:
        clone.region = region
        must_refuse(t, clone, [16, region], f"region size {region}")
    clone.region = 16
    clone.activate()
    clone.check()


@test("a target size other than the recorded one is refused, and both are named")
def _(t):
    clone = good_metadata(t)
    right = clone.size
    for size in right - 8, right - 1, right // 2, 8:
        clone.size = size
        must_refuse(t, clone, [right, size], f"target size {size}")
    clone.size = right
    clone.activate()
    clone.check()


@test("a damaged bitset is refused, and accepted when it is mended")
def _(t):
    clone = good_metadata(t)
    sb = metadata.read(clone.meta.block)
    good = clone.meta.block.read(sb.root * 8, 8)
    bad = bytearray(good)
    bad[100] ^= 1
    clone.meta.block.write(sb.root * 8, bytes(bad))
    must_refuse(t, clone, [], "a damaged bitset", DAMAGED)
    clone.meta.block.write(sb.root * 8, good)
    clone.activate()
    clone.check()


@test("a bitset's root outside the device is refused")
def _(t):
    clone = good_metadata(t)
    right = metadata.read(clone.meta.block).root
    for root in clone.meta.sectors // 8, 1 << 40, 0:
        change_superblock(clone, root=root)
        must_refuse(t, clone, [], f"root {root}", DAMAGED)
    change_superblock(clone, root=right)
    clone.activate()
    clone.check()


def set_count(clone, number, count):
    """Changes what the space map counts of a block that it has in use."""
    index, bitmaps = int.from_bytes(metadata.read(clone.meta.block).space_map[16:24], "little"), 16
    bitmap = int.from_bytes(clone.meta.block.read(index * 8, 8)[bitmaps:bitmaps + 8], "little")
    data = bytearray(clone.meta.block.read(bitmap * 8, 8))
    shift = 2 * (number % 4)                    # of the two bits the higher comes first
    data[16 + number // 4] &= ~(3 << shift) & 0xff
    data[16 + number // 4] |= (count >> 1 | (count & 1) << 1) << shift
    data[:4] = (crc32c(bytes(data[4:])) ^ 240779).to_bytes(4, "little")
    clone.meta.block.write(bitmap * 8, bytes(data))


@test("blocks that the space map counts too often are lost, which is said once; "
      "counts that are too low are refused", ours="it does not look")
def _(t):
    clone = good_metadata(t)
    sb = metadata.read(clone.meta.block)
    index = int.from_bytes(sb.space_map[16:24], "little")
    clone.meta.sound_metadata = False           # blocks are lost
    for number in 0, index, sb.root:
        set_count(clone, number, 2)
    log = kmsg.Log()
    clone.activate()
    said = [line for line in log.read() if "too many references" in line]
    if len(said) != 1 or " 3 blocks" not in said[0]:
        raise Failure(f"it said: {said}")
    for region in range(20, 60):
        clone.put(8 * region, 8)
        if not region % 4:
            clone.flush()
    clone.expect(mode="rw")
    clone.reactivate()
    clone.check()
    clone.deactivate()
    clone.check_left_behind()

    for number, count in (metadata.read(clone.meta.block).root, 0), (0, 3):
        set_count(clone, number, count)         # the latter without an entry in the tree
        must_refuse(t, clone, [], f"a count of {count}", DAMAGED)
        set_count(clone, number, 1)
    clone.activate()
    clone.check()


@test("the flags, uuid and unused bytes of the superblock do not matter", ours="unknown")
def _(t):
    clone = good_metadata(t)
    sb = Superblock(clone.meta.block.read(0, 8))
    sb.rest = b"extension" + sb.rest[9:]
    sb.uuid = b"0123456789abcdef"
    clone.meta.block.write(0, sb.pack())
    clone.activate()
    clone.check()
    clone.put(512, 8)
    clone.reactivate()
    clone.check()


@test("a metadata device in use by another clone is refused",
      ours="both would write to it")
def _(t):
    clone = t.idle_clone()
    clone.put(8, 8)
    other = t.idle_clone(meta=clone.meta, active=False)
    t.fails(other.activate, errno.EBUSY, errno.EINVAL)
    clone.put(64, 8)
    clone.reactivate()
    clone.check()


@test("the metadata cannot be read: activation fails, and works later")
def _(t):
    clone = good_metadata(t)
    root = metadata.read(clone.meta.block).root
    clone.meta.fail()
    t.fails(clone.activate, errno.EIO)
    clone.meta.fail_range(root * 8, 8)
    t.fails(clone.activate, errno.EIO, what="a part that cannot be read")
    clone.meta.heal()
    clone.activate()
    clone.check()


@test("the metadata cannot be formatted: activation fails, and works later")
def _(t):
    clone = t.idle_clone(active=False)
    clone.meta.fail_writes()
    t.fails(clone.activate)
    clone.meta.heal()
    clone.meta.zero()
    clone.activate()
    clone.check()


@test("hydration goes on where it was, in ten lives of a clone", limit=120)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB)
    for _ in range(10):
        region = t.rng.randrange(clone.regions)
        clone.put(region * 8, 8)
        before = clone.status().hydrated
        clone.reactivate()
        if clone.status().hydrated != before:
            raise Failure(f"{before} regions were hydrated, now {clone.status().text}")
    clone.check()
    clone.features = []
    clone.reactivate()
    clone.until_hydrated()
    clone.reactivate()
    clone.expect(done=True)
    clone.check()
    clone.deactivate()
    bitmap = clone.check_left_behind()
    if metadata.weight(bitmap, clone.regions) != clone.regions:
        raise Failure("not all bits are set on disk")


@test("the metadata blocks in use are counted, and do not leak", limit=120)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB)
    used = set()
    for _ in range(20):
        clone.put(t.rng.randrange(clone.regions) * 8, 8)
        clone.flush()
        used.add(clone.status().used)
    status = clone.expect(block=8, total=clone.meta.sectors // 8)
    if max(used) > min(used) + 8 or max(used) > status.total // 8:
        raise Failure(f"blocks in use over twenty commits: {sorted(used)}")
    for _ in range(5):
        clone.reactivate()
    if clone.status().used > max(used):
        raise Failure(f"was {sorted(used)}, now {clone.status().text}")


@test("a metadata device of 64 KiB holds a clone of 1024 regions through many commits")
def _(t):
    meta = t.disk(64 * KIB, fill=0)
    clone = t.idle_clone(meta=meta)
    for region in range(0, clone.regions, 7):
        clone.put(region * 8, 8)
        if not region % 70:
            clone.flush()
    clone.reactivate()
    clone.check()
    clone.expect(mode="rw")


@test("a metadata device that has grown is used in its new size after the next activation",
      ours="it stays as it is")
def _(t):
    meta = t.metadata(4 * MIB)
    meta.shrink_to(512)
    clone = t.idle_clone(meta=meta)
    clone.put(0, 64)
    clone.deactivate()
    for sectors in 1024, 6000, 4 * MIB:       # the last ones need more bitmaps
        if sectors < meta.sectors:
            meta.shrink_to(sectors)
        else:
            meta.heal()
        clone.activate()
        clone.put(8 * t.rng.randrange(clone.regions), 8)
        clone.flush()
        clone.expect(total=sectors // 8)
        clone.put(8 * t.rng.randrange(clone.regions), 8)
        clone.reactivate()
        clone.check()
        clone.deactivate()
        metadata.check(meta.block.read(0, sectors))
        clone.check_left_behind()


@test("a metadata device over 16 GiB is used, with a warning")
def _(t):
    size = 17 * 1024 * MIB
    clone = t.idle_clone(active=False, meta=t.disk(size, kind="null", what="meta"))
    log = kmsg.Log()
    clone.activate()
    said = "\n".join(line for line in log.read() if "metadata" in line.lower())
    if not said:
        raise Failure("there is no warning")
    if clone.status().total > 16 * 1024 * MIB // 8:
        raise Failure(clone.status().text)
    clone.put(8, 8)
    clone.reactivate()
    clone.check()


@test("our own reader's checksum finds what the kernel's finds")
def _(t):
    clone = good_metadata(t)
    block = clone.meta.block.read(0, 8)
    if struct.unpack_from("<I", block)[0] != crc32c(block[4:]) ^ metadata.SUPERBLOCK_XOR:
        raise Failure("it does not")
