# SPDX-License-Identifier: GPL-2.0-only
"""Whether the documents are right about the metadata: its format and its size."""

import os
import re

from lib import kmsg
from lib.blk import MIB, crc32c
from lib.errors import Failure
from lib.framework import test


def equal(found, expected, what):
    if found != expected:
        raise Failure(f"{what}: expected {expected}, found {found}")


def document(name):
    root = os.path.dirname(os.path.abspath(__file__))
    while not os.path.isdir(os.path.join(root, "Documentation")):
        root = os.path.dirname(root)
    with open(os.path.join(root, "Documentation", name), encoding="utf-8") as f:
        return f.read()


# The format

def table(after):
    """The rows of the first simple table after this text of metadata-format.rst."""
    text = document("metadata-format.rst").split(after, 1)[1]
    lines = text[re.search(r"(?m)^===+  ", text).start():].splitlines()
    columns = [match.span() for match in re.finditer("=+", lines[0])]
    columns[-1] = (columns[-1][0], None)
    rows = lines[3:lines.index(lines[0], 3)]
    return [[row[begin:end].strip() for begin, end in columns] for row in rows]


def field_size(kind):
    array = re.match(r"u8\[(\d+)\]$", kind)
    return int(array[1]) if array else {"le32": 4, "le64": 8}[kind]


def fields(block, after):
    """{name: number} of those of a fixed size; they must follow each other without a gap."""
    found, end = {}, 0
    for offset, kind, name, _ in table(after):
        if not re.match(r"(le32|le64|u8\[\d+\])$", kind):
            equal(int(offset), end, f"{after.strip()}: the offset of {name or 'the rest'}")
            break
        equal(int(offset), end, f"{after.strip()}: the offset of {name}")
        end += field_size(kind)
        found[name] = int.from_bytes(block[int(offset):end], "little")
    return found, end


TITLE = "\n{}\n" + "-" * 3


class Format:
    """Blocks of a metadata device, read as the document says and no other way."""

    def __init__(self, block):
        self.block = block
        self.constants = dict(table("what kind of block it is."))

    def read(self, number, title, kind, **expected):
        data = self.block.read(8 * number, 8)
        found, end = fields(data, TITLE.format(title) if number else "\nThe superblock\n===")
        expected |= {"csum": crc32c(data[4:]) ^ int(self.constants[kind]), "blocknr": number}
        for name, value in expected.items():
            equal(found[name], value, f"{title}, block {number}: {name}")
        return data, found, end

    def superblock(self, **expected):
        return self.read(0, "The superblock", "superblock", **expected)

    def leaf(self, number, size, most):
        """(keys, values) of a tree that is a single leaf."""
        data, found, keys = self.read(number, "Node of a tree", "node of a tree", flags=2,
                                      max_entries=most, value_size=size, padding=0)
        values = keys + 8 * most
        return [tuple(int.from_bytes(data[begin + i * length:][:length], "little")
                      for begin, length in ((keys, 8), (values, size)))
                for i in range(found["nr_entries"])]


@test("the superblock is that of metadata-format.rst, byte for byte", ours="it has no note")
def _(t):
    clone = t.clone(region=128, features=["no_hydration", "zeroed_destination"], former=0)
    clone.put(0, 128)
    clone.flush()
    layout = Format(clone.meta.block)
    for note in b"\0" * 8, b"destzero":        # while it is active, and after that
        data, _, end = layout.superblock(**{
            "flags": 0, "uuid": 0, "magic": 0x8af27f64, "version": 1, "region size": 128,
            "target size": clone.size, "dest_zeroed": int.from_bytes(note, "little"),
            "reserved": 0})
        equal(end, len(data), "the end of the last field")
        clone.deactivate()


@test("bitset, trees and space map are those of metadata-format.rst")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    for region in 0, 3, 70:
        clone.put(8 * region, 8)
    clone.deactivate()
    layout = Format(clone.meta.block)
    data, superblock, _ = layout.superblock()

    [(key, number)] = layout.leaf(superblock["bitset root"], 8, 252)
    equal(key, 0, "the number of the array block")
    words = clone.regions // 64
    data, _, begin = layout.read(number, "Array block", "array block: a part of the bitset",
                                 max_entries=509, nr_entries=words, value_size=8)
    equal(int.from_bytes(data[begin:begin + 8 * words], "little"), 1 | 1 << 3 | 1 << 70,
          "the bits of the regions")

    root = superblock["space map root"].to_bytes(128, "little")
    space_map, end = fields(root, "\nThe space map\n===")
    equal(root[end:], bytes(128 - end), "the rest of the space map's root")
    equal(space_map["nr_blocks"], clone.meta.sectors // 8, "nr_blocks")
    equal(layout.leaf(space_map["ref count root"], 4, 336), [], "counts above 2")
    data, _, begin = layout.read(space_map["bitmap root"], "Index", "index of the space map",
                                 padding=0)
    entry, size = fields(data[begin:], "\nAn entry:\n")
    equal(size, 16, "the size of an entry")

    data, _, begin = layout.read(entry["blocknr"], "Bitmap", "bitmap of the space map",
                                 unused=0)
    bits = int.from_bytes(data[begin - 4080:], "little")
    counts = [2 * (bits >> 2 * n & 1) + (bits >> 2 * n + 1 & 1) for n in range(16320)]
    used = [n for n, count in enumerate(counts) if count]
    equal(set(counts), {0, 1}, "reference counts")
    equal(len(used), space_map["nr_allocated"], "blocks in use")
    equal(16320 - len(used), entry["nr_free"], "nr_free")
    equal(used, sorted({0, superblock["bitset root"], number, space_map["bitmap root"],
                        space_map["ref count root"], entry["blocknr"]}), "blocks in use")
    if entry["none_free_before"] > counts.index(0):
        raise Failure(f"{entry}, {used}")


# Sizes

def divide(a, b):
    return -(-a // b)


def blocks_for_one_transaction(regions, nr_blocks):
    """Blocks with which no commit is split: the bitset twice, its tree and the space map."""
    arrays = divide(divide(regions, 64), 509)
    levels, nodes = 1, arrays
    while nodes > 252:
        nodes = divide(nodes, 84)
        levels += 1
    bitset = arrays + arrays // 84 + levels
    bitmaps = divide(nr_blocks, 16320)
    path = 1 + levels
    return 2 * (3 + bitset + bitmaps) - 2 + path + 1 + min(bitmaps, 2 * path + 1)


UNITS = {"KiB": 2, "MiB": MIB, "GiB": 1024 * MIB, "TiB": 1024 * 1024 * MIB}


def documented_sizes():
    """(regions, sectors of metadata, bytes of memory) of the guide's table."""
    rows = re.findall(r"(?m)^(\d+) (.iB) +(\d+) (.iB) +(\d+) (MiB) +\d+ MiB +([0-9.]+) MiB$",
                      document("dm-clone.rst"))
    for size, unit, region, region_unit, meta, meta_unit, memory in rows:
        yield (int(size) * UNITS[unit] // (int(region) * UNITS[region_unit]),
               int(meta) * UNITS[meta_unit], float(memory) * (1 << 20))


@test("the guide's sizes of metadata and memory follow from its formulas, and suffice")
def _(_):
    rows = list(documented_sizes())
    if len(rows) < 4:
        raise Failure(f"expected a table, found {rows}")
    for regions, sectors, memory in rows:
        blocks = sectors // 8
        if 512 * sectors > (4 << 20) + 26 * regions // 100:
            raise Failure(f"metadata of {regions} regions: the bound in the text is less")
        if blocks_for_one_transaction(regions, blocks) > blocks:
            raise Failure(f"{blocks} blocks are too few for {regions} regions")
        less = blocks - MIB // 8
        if blocks_for_one_transaction(regions, less) <= less:
            raise Failure(f"{less} blocks are enough for {regions} regions")
        bits = regions * 65 / 64 / 8
        if not bits <= memory * 1.01 or memory > 1.03 * bits:
            raise Failure(f"memory of {regions} regions: expected {bits}, found {memory}")


@test("with the metadata size of the guide no commit of {regions} regions is split, and "
      "with a block less than the module needs the log says so", ours="it says nothing",
      regions=[1000, 200000, 26214400])
def _(t, regions):
    blocks = ((4 << 20) + 26 * regions // 100) // 4096
    enough = next(n for n in range(8, blocks) if blocks_for_one_transaction(regions, n) <= n)
    ends = [t.mapped([(0, 8 * regions, "zero", "")], "zero").number for _ in range(2)]
    for nr in blocks, enough, enough - 1:
        meta = t.metadata(8 * nr)
        log = kmsg.Log()
        t.mapped([(0, 8 * regions, "clone", f"{meta.number} {' '.join(ends)} 8 1 no_hydration")],
                 "large").remove()
        said = [line for line in log.read() if "is split" in line]
        if nr >= enough:
            equal(said, [], f"what the log says of {nr} blocks")
        elif len(said) != 1 or f"with {enough} no commit" not in said[0]:
            raise Failure(f"{nr} blocks: expected a line with {enough}, found {said}")
