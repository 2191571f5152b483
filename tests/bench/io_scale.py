# SPDX-License-Identifier: GPL-2.0-only
"""Commits, and devices of any size: a part of tests/bench/io-guest.

Source and destination are targets "zero": nothing is stored but metadata.
"""

import contextlib
import errno
import random
import statistics
import time

import subjects
from lib import dm, timing
from lib.blk import Block
from rig import Clone

COMMIT_WAIT = 60        # s
COMMIT_ATTEMPTS = 5
SETTLED = 0.02          # s, longer than a commit goes without writing anything
CLUSTERED = 1000        # regions of a commit that is measured on devices of any size
STATUS_CALLS = 5
FREED = 0.2             # s, what is freed late has been by then
CHUNKS = 4
CHUNK_OPERATIONS = 256
SIZE = 4096             # of small I/O


class Sparse:
    """What a clone of so many regions needs, and what tells of its metadata device."""

    def __init__(self, regions, region_kib, source, dest, meta):
        self.regions = regions
        self.region_kib = region_kib
        self.mib = regions * region_kib >> 10
        self.source = source
        self.dest = dest
        self.meta = meta

    def clone(self):
        return Clone(self, self.source, self.dest, self.mib, self.region_kib, ())

    def timed_clone(self):
        began = time.monotonic_ns()
        clone = self.clone()
        return clone, time.monotonic_ns() - began

    def blocks_written(self):
        with open(f"{self.meta.sysfs}/stat", encoding="ascii") as file:
            return int(file.read().split()[6]) // 8


@contextlib.contextmanager
def sparse(disks, module, regions, region_kib=4):
    """The metadata device is empty."""
    disks.clear_metadata()
    module.use()
    mib = regions * region_kib >> 10
    with subjects.mapped("zeroes", "zero", "", mib) as source, \
            subjects.mapped("nothing", "zero", "", mib) as dest, \
            subjects.mapped("meta", "linear", f"{disks.meta.number} 0",
                            subjects.RAM_MIB) as meta:
        yield Sparse(regions, region_kib, source, dest, meta)


# Commits ---------------------------------------------------------------------

def write_region(big, block, number):
    timing.run(block, "write", big.region_kib << 10, [number * big.region_kib << 10])


def await_commit(big, clone, number):
    """Dirties one region, has the timer commit it, and that done: then no commit comes
    for a while."""
    with Block(clone.path) as block:
        block.flush()
        before, deadline = big.blocks_written(), time.monotonic() + COMMIT_WAIT
        write_region(big, block, number)
    while big.blocks_written() == before:
        if time.monotonic() > deadline:
            raise OSError(errno.ETIME, "no commit", clone.path)
        time.sleep(0.002)
    while big.blocks_written() != before:
        before = big.blocks_written()
        time.sleep(SETTLED)


def make_dirty(big, block, first, nr, scattered):
    """Overwrites whole regions."""
    region = big.region_kib << 10
    if scattered:
        step = big.regions // nr * region
        timing.run(block, "write", region, [i * step for i in range(nr)])
        return
    begin, end = first * region, (first + nr) * region
    whole = (end - begin) >> 20
    timing.run(block, "write", 1 << 20, [begin + (i << 20) for i in range(whole)])
    timing.run(block, "write", region, range(begin + (whole << 20), end, region))


def timed_commit(big, clone, first, nr, scattered=False):
    """A commit of so many regions by fsync; None if the timer came first."""
    before = big.blocks_written()
    with Block(clone.path) as block:
        make_dirty(big, block, first, nr, scattered)
        if big.blocks_written() != before:
            return None
        began = time.monotonic_ns()
        block.flush()
        ns = time.monotonic_ns() - began
    return {"ns": ns, "blocks": big.blocks_written() - before}


def commit(disks, module, regions, nr, scattered):
    """On a new device each time."""
    for _ in range(COMMIT_ATTEMPTS):
        with sparse(disks, module, regions) as big, big.clone() as clone:
            await_commit(big, clone, regions - 1)
            found = timed_commit(big, clone, 0, nr, scattered)
            if found:
                return found
    return None


# Scale -----------------------------------------------------------------------

def allocated_kib():
    """By vmalloc(), and by kmalloc()."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file
                   if line.startswith(("VmallocUsed", "SUnreclaim")))


def status_ns(clone):
    """Of one call."""
    argument = dm.argument(clone.device.name, flags=dm.NOFLUSH)
    with open(dm.CONTROL, "rb") as control:
        return timing.ioctl(control.fileno(), dm.request(dm.TABLE_STATUS), argument.raw,
                            STATUS_CALLS) / STATUS_CALLS


def io_ns(path, op, places):
    nr = CHUNK_OPERATIONS
    with Block(path) as block:
        return statistics.median(
            timing.run(block, op, SIZE, places[i * nr:(i + 1) * nr]) / nr
            for i in range(CHUNKS))


def io_costs(big, path):
    """Small I/O to random places in the first half; only the first write hydrates."""
    places = [region * big.region_kib << 10 for region in random.Random(2).sample(
        range(big.regions // 2), CHUNKS * CHUNK_OPERATIONS)]
    found = {}
    for name, op in (("unhydrated read", "read"), ("hydrating write", "write"),
                     ("hydrated read", "read"), ("hydrated write", "write")):
        found[name] = io_ns(path, op, places)
    return found


def commit_costs(big, clone):
    """In the second half."""
    half = big.regions // 2
    found = {}
    for first, nr in ((half, 1), (half + CLUSTERED, CLUSTERED)):
        await_commit(big, clone, big.regions - nr)
        found[nr] = timed_commit(big, clone, first, nr)
    return found


def metadata_mib(clone):
    return int(clone.device.status(noflush=True).split()[1].split("/")[0]) / 256


def activated(big):
    """The first time, which formats the metadata device, and the second. The memory is that
    of the second, when the kernel has in store what it keeps anyway."""
    clone, format_ns = big.timed_clone()
    with clone:
        found = {"format_ns": format_ns, "metadata_mib": metadata_mib(clone)}
    time.sleep(FREED)
    before = allocated_kib()
    clone, found["activate_ns"] = big.timed_clone()
    found["memory_kib"] = allocated_kib() - before
    return clone, found


def scale(disks, module, regions, region_kib=4):
    """What a device of so many regions takes, and what I/O to it does."""
    with sparse(disks, module, regions, region_kib) as big:
        clone, found = activated(big)
        with clone:
            return dict(found, status_ns=status_ns(clone), io=io_costs(big, clone.path),
                        commit=commit_costs(big, clone))


def linear(regions):
    """I/O to what a clone of that size would be over."""
    mib = regions * 4 >> 10
    with subjects.mapped("zeroes", "zero", "", mib) as zeroes, \
            subjects.mapped("linear", "linear", f"{zeroes.number} 0", mib) as device:
        return {"io": io_costs(Sparse(regions, 4, None, None, None), device.path)}
