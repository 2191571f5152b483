# SPDX-License-Identifier: GPL-2.0-only
"""Disks for tests: something that stores, under a dm device that can misbehave.

                 Disk  (dm-linear; or held, failing, delayed)
                  |
     +------------+-----------+------------+
     |            |           |            |
    ram          null        loop         scsi
  a slice of   null_blk    a file in    scsi_debug,
  a RAM disk               tmpfs        up to 8 MiB

  no discard   discard     discard      discard
                           write zeroes write zeroes
  no cache     cache       cache        cache
"""

import ctypes
import fcntl
import glob
import os
import subprocess
import time

from lib import dm, sweep
from lib.blk import MIB, Block
from lib.errors import Failure, Skip

ARENA = "/dev/ram0"
ARENA_KIB = 1 << 20
LOOP_CONTROL = "/dev/loop-control"
LOOP_CTL_GET_FREE, LOOP_SET_FD, LOOP_CLR_FD = 0x4C82, 0x4C00, 0x4C01
LOOP_SET_DIRECT_IO = 0x4C08
FOREVER = 60 * 60 * 1000        # ms; nothing waits that long


def modprobe(*args):
    done = subprocess.run(["modprobe", *args], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise Skip(f"modprobe {' '.join(args)}: {done.stderr.strip()}")


def _put(path, value):
    with open(path, "w", encoding="ascii") as f:
        f.write(f"{value}\n")


def ram_disks(number, kib):
    """Loads the RAM disks. Those of newer kernels take discards, which is
    switched off: these are the disks without."""
    modprobe("brd", f"rd_nr={number}", "max_part=0", f"rd_size={kib}")
    for node in range(number):
        _put(f"/sys/block/ram{node}/queue/discard_max_bytes", 0)


class Backing:
    """Where a disk keeps its sectors: (device number, offset)."""

    healthy = False                     # what has no moods tells nothing of them

    def __init__(self, path, offset=0, end=None):
        self.path = path
        self.offset = offset
        self._end = end

    @property
    def number(self):
        rdev = os.stat(self.path).st_rdev
        return f"{os.major(rdev)}:{os.minor(rdev)}"

    def close(self):
        if self._end:
            self._end()


class Arena:
    """Hands out slices of the RAM disk; each test begins anew at its start."""

    def __init__(self):
        self._used = 0

    def slice(self, sectors):
        backing = Backing(ARENA, self._used)
        self._used += -(-sectors // MIB) * MIB
        if self._used > ARENA_KIB * 2:
            raise Failure("the RAM disk of the tests is too small for this one")
        return backing


def null_blk(name, sectors, discard=True, cache=True, block_size=512, busy_ms=0,
             queue=None):
    """A null_blk device with memory. Sparse, and gone when removed. With busy_ms it
    takes one request at a time, each of which takes this long, as a queue of hardware;
    queue sets other values of null_blk's queue."""
    modprobe("null_blk", "nr_devices=0")
    path = f"{sweep.NULLB}/{name}"
    os.mkdir(path)

    if busy_ms:
        queue = {"irqmode": 2, "completion_nsec": busy_ms * 1000000,
                 "submit_queues": 1, "hw_queue_depth": 1}
    for key, value in [*(queue or {}).items(), ("memory_backed", 1),
                       ("discard", int(discard)), ("blocksize", block_size),
                       ("queue_mode", 2 if queue else 0),
                       ("size", -(-sectors // MIB)),
                       ("cache_size", 64 if cache else 0), ("power", 1)]:
        _put(f"{path}/{key}", value)
    return Backing(_null_blk_node(name, path), end=lambda: os.rmdir(path))


def _null_blk_node(name, path):
    """Stable kernels came to name the disk after its folder."""
    if os.path.exists(f"/dev/{name}"):
        return f"/dev/{name}"
    with open(f"{path}/index", encoding="ascii") as f:
        return f"/dev/nullb{f.read().strip()}"


SCSI_MIB = 8


def set_scsi_debug(**parameters):
    """Sets what new disks say of themselves, and what all of them do."""
    for key, value in parameters.items():
        _put(f"/sys/module/scsi_debug/parameters/{key}", value)


def _load_scsi_debug(abilities):
    """What its disks can do, it is told when it is loaded."""
    wanted = {"atomic_wr": 0, "dif": 0, "dix": 0, **abilities}
    loaded = {}
    for key in wanted:
        try:
            with open(f"/sys/module/scsi_debug/parameters/{key}", encoding="ascii") as f:
                loaded[key] = int(f.read())
        except FileNotFoundError:
            pass
    if any(value != wanted[key] for key, value in loaded.items()):
        modprobe("-r", "scsi_debug")
    modprobe("scsi_debug", "add_host=0", "per_host_store=1", f"dev_size_mb={SCSI_MIB}",
             "delay=0", "lbpu=1", "lbpws=1", "lbprz=1",
             *(f"{key}={value}" for key, value in abilities.items()))


def scsi_debug(sectors, abilities=None, **parameters):
    """A disk of scsi_debug: both discard and write-zeroes. All have the same size and
    abilities (atomic_wr, dif, dix), and are removed last to first."""
    if sectors > SCSI_MIB * MIB:
        raise Failure(f"scsi_debug is told to make disks of {SCSI_MIB} MiB")
    modprobe("sd_mod")
    _load_scsi_debug(abilities or {})

    set_scsi_debug(**parameters)
    before = set(glob.glob("/sys/block/sd*"))
    _put(f"{sweep.SCSI_DEBUG}/add_host", 1)
    deadline = time.monotonic() + 60
    while not (node := _ready_node(set(glob.glob("/sys/block/sd*")) - before)):
        if time.monotonic() > deadline:
            raise Failure("scsi_debug has made no disk")
        time.sleep(0.05)
    return Backing(node, end=lambda: _put(f"{sweep.SCSI_DEBUG}/add_host", -1))


def _ready_node(found):
    """The node of what was found, if it can be opened: that takes a moment more."""
    for path in found:
        node = f"/dev/{os.path.basename(path)}"
        try:
            os.close(os.open(node, os.O_RDONLY))
        except OSError:
            continue
        return node
    return None


def _attach_loop(path, flags):
    """(node of a loop device over a file, descriptor of that device)"""
    modprobe("loop")
    file = os.open(path, flags, 0o600)
    with open(LOOP_CONTROL, "rb", buffering=0) as control:
        node = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
    device = os.open(node, os.O_RDWR)
    fcntl.ioctl(device, LOOP_SET_FD, file)
    os.close(file)
    return node, device


def loop(path, sectors):
    """A loop device over a sparse file in memory."""
    with open(path, "xb") as f:
        f.truncate(sectors * 512)
    node, device = _attach_loop(path, os.O_RDWR)

    def end():
        fcntl.ioctl(device, LOOP_CLR_FD, 0)
        os.close(device)
        os.unlink(path)

    return Backing(node, end=end)


def loop_over(path, depth=None):
    """A loop device over a disk, past the page cache: a volatile cache, but no FUA. With
    a depth it takes this many requests at a time, at least four, and makes others wait."""
    node, device = _attach_loop(path, os.O_RDWR | os.O_DIRECT)
    fcntl.ioctl(device, LOOP_SET_DIRECT_IO, 1)

    queue = f"/sys/block/{os.path.basename(node)}/queue"
    for key, value in (("scheduler", "none"), ("nr_requests", depth)) if depth else ():
        _put(f"{queue}/{key}", value)

    def end():
        fcntl.ioctl(device, LOOP_CLR_FD, 0)
        os.close(device)

    return Backing(node, end=end)


class ScsiDisk:
    """A disk of scsi_debug without a mapped device over it: it can have partitions. It
    is zeroed, as scsi_debug gives a new disk the memory of one that is gone."""

    REREAD_PARTITIONS = 0x125f

    def __init__(self, sectors):
        self._backing = scsi_debug(sectors)
        self.path = self._backing.path
        with Block(self.path) as block:
            block.fill(0)
            fcntl.ioctl(block.fd, self.REREAD_PARTITIONS)

    def partitions(self):
        name = os.path.basename(self.path)
        return sorted(entry for entry in os.listdir(f"/sys/block/{name}")
                      if entry.startswith(name))

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        self._backing.close()


class Disk:
    """A device that a test can hold, make fail, or slow down."""

    def __init__(self, name, sectors, backing, readonly=False):
        self.sectors = sectors
        self.backing = backing
        self.held = False
        self._healthy = True
        # What is on it was written by a clone, and nothing of it was dropped.
        self.sound_metadata = True
        self._block = None
        self.device = dm.Device(name)
        self.device.load(self._linear(), readonly)
        self.device.resume()

    path = property(lambda self: self.device.path)
    number = property(lambda self: self.device.number)

    @property
    def block(self):
        """The disk opened for direct I/O, past whatever else uses it."""
        if not self._block:
            self._block = Block(self.path, readonly=self._is_readonly())
        return self._block

    def _is_readonly(self):
        with open(f"{self.device.sysfs}/ro", encoding="ascii") as f:
            return f.read().strip() == "1"

    def _delayed(self, first, nr, read_ms, write_ms=0):
        place = f"{self.backing.number} {self.backing.offset + first}"
        return [(first, nr, "delay", f"{place} {read_ms} {place} {write_ms}")]

    def _linear(self, first=0, nr=None):
        nr = self.sectors - first if nr is None else nr
        return [(first, nr, "linear",
                 f"{self.backing.number} {self.backing.offset + first}")]

    def _swap(self, table):
        """Swaps tables without waiting for what is in flight."""
        self.device.load(table)
        self.device.suspend(noflush=True)
        self.device.resume(noflush=True)
        self.held = False
        self._healthy = False

    @property
    def sectors_read(self):
        """Read from it since it was made, without what was refused because it must not wait."""
        with open(f"{self.device.sysfs}/stat", encoding="ascii") as f:
            return int(f.read().split()[2])

    @property
    def healthy(self):
        return self._healthy and not self.held

    # Moods

    def hold(self):
        """From now on I/O waits here until release()."""
        self.device.suspend(noflush=True)
        self.held = True

    def release(self):
        self.device.resume(noflush=True)
        self.held = False

    def hold_from(self, first, delay=0):
        """I/O from this sector on waits until there is another mood; the rest is delayed."""
        self._swap(self._delayed(0, first, delay) +
                   self._delayed(first, self.sectors - first, FOREVER, FOREVER))

    def hold_range(self, first, nr):
        """I/O to these sectors waits until there is another mood."""
        after = first + nr
        table = self._linear(0, first) if first else []
        table += self._delayed(first, nr, FOREVER, FOREVER)
        if after < self.sectors:
            table += self._linear(after)
            table[-1] = (after, *table[-1][1:])
        self._swap(table)

    def hold_writes(self):
        """Writes and flushes wait until there is another mood; reads do not."""
        self._swap(self._delayed(0, self.sectors, 0, FOREVER))

    @property
    def waiting(self):
        """How many bios hold_writes() or hold_from() holds, or a delay."""
        return sum(int(word) for row in self.device.status_lines(noflush=True)
                   for word in row[3].split())

    def fail(self):
        """All I/O fails. (Flushes are not seen by an error table.)"""
        self._swap([(0, self.sectors, "error", "")])

    def fail_range(self, first, nr, delay=0):
        """I/O to these sectors fails, at once; the rest is delayed."""
        def piece(first, nr):
            return self._delayed(first, nr, delay) if delay else self._linear(first, nr)

        table = piece(0, first) if first else []
        table.append((first, nr, "error", ""))
        if first + nr < self.sectors:
            table += piece(first + nr, self.sectors - first - nr)
        self._swap(table)

    def fail_ranges(self, ranges):
        """I/O to these fails: (first, nr), in sectors, in their order."""
        table, at = [], 0
        for first, nr in ranges:
            if first > at:
                table += self._linear(at, first - at)
            table.append((first, nr, "error", ""))
            at = first + nr
        if at < self.sectors:
            table += self._linear(at, self.sectors - at)
        self._swap(table)

    def fail_writes(self):
        """Writes and flushes fail, reads work."""
        self._swap([(0, self.sectors, "flakey",
                     f"{self.backing.number} {self.backing.offset} "
                     "0 1000 1 error_writes")])

    def delay(self, read_ms, write_ms=0):
        self._swap(self._delayed(0, self.sectors, read_ms, write_ms))

    def shrink_to(self, sectors):
        """The disk ends here from now on."""
        self._swap(self._linear(0, sectors))

    def heal(self):
        if not self._healthy:
            self._swap(self._linear())
            self._healthy = True
        if self.held:
            self.release()

    # Content

    def fill(self, stamp):
        self.block.fill(stamp)
        return self

    def zero(self):
        return self.fill(0)

    def image(self):
        """All of it, as bytes."""
        return self.block.read(0, self.sectors)

    def close(self):
        if self._block:
            self._block.close()
        self.device.remove()
        self.backing.close()


class Cache(Disk):
    """A disk with a cache that a test controls: its flushes take a separate way, where
    they can fail; and they, or writes of the first block, can be held."""

    def __init__(self, name, base):
        super().__init__(name, base.sectors, Backing(base.path))
        self.flushes = Disk(f"{name}f", base.sectors, Backing(base.path))
        self.hold_some()

    def hold_some(self, superblock=False, flush=False):
        """Holds writes of the first block, or flushes; what was held before goes on."""
        def piece(first, nr):
            place = f"{self.backing.number} {self.backing.offset + first}"
            write = FOREVER if superblock and not first else 0
            return (first, nr, "delay", f"{place} 0 {place} {write} "
                    f"{self.flushes.number} {first} {FOREVER if flush else 0}")

        self._swap([piece(0, 8), piece(8, self.sectors - 8)])

    def heal(self):
        super().heal()
        self.flushes.heal()

    def close(self):
        super().close()
        self.flushes.close()


def umount(path):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(path.encode(), 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
