# SPDX-License-Identifier: GPL-2.0-only
"""What I/O is measured through: linear, a clone of either module, and two targets
that can do some of what a clone does. All of them right on top of RAM disks.

    linear       clone           thin                   snapshot
      |         /  |  \\         /  |  \\                 /      \\
    dest   source dest meta  source pool (dest, meta)  source   dest

A subject is asked for a device in a state; what it cannot do it refuses with
Unable. All regions are unhydrated, or hydrated, or some of them: see regions().
"""

import contextlib
import random

from lib import dm, timing
from lib.blk import MIB, Block
from lib.disks import Backing
from rig import Clone

SIZE_MIB = 256
RAM_MIB = SIZE_MIB + 64         # for a snapshot's metadata, or that of 2^31 regions
IMAGE_SECTORS = 8 * MIB         # metadata is in the first blocks of its device
RANDOM_PART = 0.3
THIN_BLOCK_KIB = 64             # the smallest it can
PREFIX = "bench-io"

UNHYDRATED, HYDRATED, EVERY_OTHER, RANDOM, BUT_ONE = (
    "unhydrated", "hydrated", "every other", "random 30 %", "all but one")


class Unable(Exception):
    """This is nothing that the subject can do."""


class Disks:
    """Those of a clone, at first the RAM disks."""

    def __init__(self, source=None, dest=None, meta=None):
        self.source = source or Backing("/dev/ram0")
        self.dest = dest or Backing("/dev/ram1")
        self.meta = meta or Backing("/dev/ram2")
        self.meta_block = Block(self.meta.path)

    def clear_metadata(self):
        self.meta_block.write(0, bytes(1 << 20))

    def close(self):
        self.meta_block.close()


def fill(path):
    """Has all of a disk's memory in place."""
    with Block(path) as block:
        timing.run(block, "write", 1 << 20, range(0, block.sectors * 512, 1 << 20))


def regions(state, nr):
    """Those that are hydrated, of nr."""
    if state == EVERY_OTHER:
        return range(0, nr, 2)
    if state == RANDOM:
        return sorted(random.Random(1).sample(range(nr), int(nr * RANDOM_PART)))
    if state == BUT_ONE:
        return range(nr - 1)
    return []


def places(state, size):
    """How many of this size there are. The region that is left must stay as it is."""
    return (SIZE_MIB << 20) // size - (state == BUT_ONE)


def hydrate(path, state, region_kib):
    """Brings a new device into a state, by writing whole regions."""
    with Block(path) as block:
        if state == HYDRATED:
            timing.run(block, "write", 1 << 20, [i << 20 for i in range(SIZE_MIB)])
        size = region_kib << 10
        chosen = regions(state, (SIZE_MIB << 20) // size)
        timing.run(block, "write", size, [i * size for i in chosen])
        block.flush()


@contextlib.contextmanager
def mapped(name, target, line, mib=SIZE_MIB):
    device = dm.Device(f"{PREFIX}-{name}")
    try:
        device.load([(0, mib * MIB, target, line)])
        device.resume()
        yield device
    finally:
        device.remove()


class Linear:
    """Over what a clone would read or write."""

    name = "linear"

    def __init__(self, disks):
        self._disks = disks

    @contextlib.contextmanager
    def device(self, state, _region_kib, op):
        from_source = op == "read" and state == UNHYDRATED
        disk = self._disks.source if from_source else self._disks.dest
        with mapped("linear", "linear", f"{disk.number} 0") as device:
            yield device.path


class States:
    """Metadata of clones in all states, made by one module for all of them."""

    def __init__(self, disks, module):
        self._disks = disks
        self._module = module
        self._images = {}

    def put(self, state, region_kib):
        """Makes the metadata device hold a clone in this state."""
        self._disks.clear_metadata()
        if state == UNHYDRATED:
            return
        key = (state, region_kib)
        if key not in self._images:
            self._images[key] = self._make(state, region_kib)
        self._disks.meta_block.write(0, self._images[key])

    def _make(self, state, region_kib):
        self._module.use()
        with Clone(self._disks, self._disks.source, self._disks.dest, SIZE_MIB, region_kib,
                   ()) as clone:
            hydrate(clone.path, state, region_kib)
        return self._disks.meta_block.read(0, IMAGE_SECTORS)


class Clones:
    """The clones of one module."""

    def __init__(self, disks, module, states):
        self.name = module.name
        self._disks = disks
        self._module = module
        self._states = states

    @contextlib.contextmanager
    def clone(self, state, region_kib, dest=None):
        """dest is another destination than the usual one."""
        self._states.put(state, region_kib)
        self._module.use()
        with Clone(self._disks, self._disks.source, dest or self._disks.dest, SIZE_MIB,
                   region_kib, ()) as clone:
            yield clone

    @contextlib.contextmanager
    def device(self, state, region_kib, _op):
        with self.clone(state, region_kib) as clone:
            yield clone.path


class Thin:
    """A thin volume with the source as its external origin."""

    name = "thin"

    def __init__(self, disks):
        self._disks = disks

    @contextlib.contextmanager
    def device(self, state, region_kib, _op):
        if region_kib != THIN_BLOCK_KIB or state not in (UNHYDRATED, HYDRATED):
            raise Unable
        self._disks.clear_metadata()
        with mapped("pool", "thin-pool", f"{self._disks.meta.number} {self._disks.dest.number} "
                    f"{THIN_BLOCK_KIB * 2} 0 1 skip_block_zeroing") as pool:
            pool.message("create_thin 0")
            with mapped("thin", "thin", f"{pool.number} 0 {self._disks.source.number}") as thin:
                hydrate(thin.path, state, region_kib)
                yield thin.path


class Snapshot:
    """A persistent snapshot of the source, its exceptions in the destination."""

    name = "snapshot"

    def __init__(self, disks):
        self._disks = disks

    @contextlib.contextmanager
    def device(self, state, region_kib, _op):
        with Block(self._disks.dest.path) as cow:
            cow.write(0, bytes(1 << 20))
        with mapped("snapshot", "snapshot", f"{self._disks.source.number} "
                    f"{self._disks.dest.number} P {region_kib * 2}") as snapshot:
            hydrate(snapshot.path, state, region_kib)
            yield snapshot.path

