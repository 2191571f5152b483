# SPDX-License-Identifier: GPL-2.0-only
"""Reads metadata from a device that nobody uses, by its description.

That is Documentation/metadata-format.rst: a superblock in block 0, and the
regions' bits in an array of persistent-data, a btree of array blocks.
"""

import ctypes
import struct

from lib.blk import crc32c, lib
from lib.errors import Failure

BLOCK = 4096
SECTORS = BLOCK // 512

MAGIC = 0x8af27f64
VERSION = 1

SUPERBLOCK_XOR = 257649492
ARRAY_XOR = 595846735
BTREE_XOR = 121107

SUPERBLOCK = struct.Struct("<IIQ16sQI128sQQQ")
BTREE_NODE = struct.Struct("<IIQIIII")
ARRAY_BLOCK = struct.Struct("<IIIIQ")
INTERNAL, LEAF = 1, 2


def checksum(block, xor):
    return crc32c(block[4:]) ^ xor


class Superblock:
    def __init__(self, block):
        (self.csum, self.flags, self.blocknr, self.uuid, self.magic,
         self.version, self.space_map, self.region_size, self.target_size,
         self.root) = SUPERBLOCK.unpack_from(block)
        self.rest = block[SUPERBLOCK.size:]
        self.expected_csum = checksum(block, SUPERBLOCK_XOR)

    def pack(self, csum=None):
        """The block again, with a checksum that fits unless one is given."""
        body = SUPERBLOCK.pack(0, self.flags, self.blocknr, self.uuid,
                               self.magic, self.version, self.space_map,
                               self.region_size, self.target_size,
                               self.root) + self.rest
        if csum is None:
            csum = checksum(body, SUPERBLOCK_XOR)
        return struct.pack("<I", csum) + body[4:]

    def bitmap(self, block, bits):
        return _Bitset(block).read(self.root, bits)

    def bitmap_blocks(self, block):
        """The numbers of the blocks that the bitmap is in."""
        return {number for _, number in _Bitset(block).leaves(self.root)}


def read(block):
    """The superblock of a device; fails unless it is a good one."""
    sb = Superblock(block.read(0, SECTORS))
    if sb.magic != MAGIC or sb.version != VERSION or sb.blocknr:
        raise Failure(f"superblock: magic {sb.magic:#x}, version {sb.version}, "
                      f"block number {sb.blocknr}")
    if sb.csum != sb.expected_csum:
        raise Failure(f"superblock: checksum {sb.csum:#x}, "
                      f"should be {sb.expected_csum:#x}")
    return sb


def check(image):
    """Fails if the reader of the tools finds errors in these bytes."""
    report = ctypes.create_string_buffer(2000)
    if lib.metadata_check(bytes(image), ctypes.c_uint64(len(image) // BLOCK),
                          report, ctypes.c_size_t(len(report))):
        raise Failure(f"the metadata: {report.value.decode()}")


def check_device(path):
    """The same of a device, unless it was never formatted or is in use again."""
    report = ctypes.create_string_buffer(2000)
    if lib.metadata_check_device(path.encode(), report, ctypes.c_size_t(len(report))):
        raise Failure(f"the metadata that was left: {report.value.decode()}")


class _Bitset:
    def __init__(self, block):
        self.block = block

    def _read(self, number, xor, number_at, what):
        data = self.block.read(number * SECTORS, SECTORS)
        if struct.unpack_from("<I", data)[0] != checksum(data, xor):
            raise Failure(f"{what} {number}: wrong checksum")
        if struct.unpack_from("<Q", data, number_at)[0] != number:
            raise Failure(f"{what} {number}: holds another block's number")
        return data

    def leaves(self, number):
        """(key, array block) in order."""
        data = self._read(number, BTREE_XOR, 8, "btree node")
        _, flags, _, nr, most, value_size, _ = BTREE_NODE.unpack_from(data)
        if value_size != 8 or nr > most or most > 252 or flags not in (INTERNAL, LEAF):
            raise Failure(f"btree node {number}: makes no sense")
        keys = struct.unpack_from(f"<{nr}Q", data, BTREE_NODE.size)
        values = struct.unpack_from(f"<{nr}Q", data, BTREE_NODE.size + 8 * most)
        for key, value in zip(keys, values):
            if flags == LEAF:
                yield key, value
            else:
                yield from self.leaves(value)

    def read(self, root, bits):
        out, bytes_needed = [], -(-bits // 8)
        for want, (key, number) in enumerate(self.leaves(root)):
            if key != want:
                raise Failure(f"array block {want} is missing")
            data = self._read(number, ARRAY_XOR, 16, "array block")
            _, most, nr, value_size, _ = ARRAY_BLOCK.unpack_from(data)
            if value_size != 8 or nr > most or most != (BLOCK - ARRAY_BLOCK.size) // 8:
                raise Failure(f"array block {number}: makes no sense")
            out.append(data[ARRAY_BLOCK.size:ARRAY_BLOCK.size + 8 * nr])
        bitmap = b"".join(out)
        if len(bitmap) != -(-bits // 64) * 8:
            raise Failure(f"the bitset has {len(bitmap)} bytes for {bits} bits")
        return bitmap[:bytes_needed]


def live_bitmap(block, regions):
    """The bitmap on the device of a clone that may be committing meanwhile."""
    for _ in range(50):
        before = block.read(0, 8)
        error = bitmap = None
        try:
            bitmap = read(block).bitmap(block, regions)
        except Failure as failure:
            error = failure
        # What the superblock refers to is there until the second commit after it.
        if block.read(0, 8) == before:
            if error:
                raise error
            return bitmap
    raise Failure("the metadata does not stop changing")


def bit(bitmap, number):
    return bitmap[number // 8] >> number % 8 & 1


def weight(bitmap, bits):
    """How many of the first bits are set."""
    number = int.from_bytes(bitmap, "little") & ((1 << bits) - 1)
    return bin(number).count("1")
