# SPDX-License-Identifier: GPL-2.0-only
"""Block devices: plain I/O, stamps and models (see lib/stamp.h)."""

import ctypes
import errno
import mmap
import os
import random
import struct
import threading

from lib.errors import Failure

SECTOR = 512
MIB = 2048                      # in sectors

ZERO = 0                        # stamps with a meaning of their own
ANY = 0xfffffffe
NONE = 0xffffffff

SOURCE = 1                      # what the source holds
FORMER = 2                      # what the destination held before
JUNK = 3                        # what a metadata device held before
FIRST_FREE = 16                 # up to 65535 for tests, above for random I/O

BLKDISCARD, BLKZEROOUT, BLKSECDISCARD, BLKFLSBUF = 0x1277, 0x127f, 0x127d, 0x1261
PUNCH_HOLE_KEEP_SIZE, ZERO_RANGE = 3, 16

LIBRARY = os.path.join(os.path.dirname(__file__), "../../build/tests/libtests.so")
OPS = ("read", "write", "fua", "discard", "zero", "flush")


class _Model(ctypes.Structure):
    _fields_ = [("first", ctypes.c_uint64), ("sectors", ctypes.c_uint64),
                ("origin", ctypes.c_uint64),
                ("now", ctypes.POINTER(ctypes.c_uint32)),
                ("alt", ctypes.POINTER(ctypes.c_uint32))]


class _IoModel(ctypes.Structure):
    _fields_ = [("model", ctypes.POINTER(_Model)), ("fd", ctypes.c_int),
                ("threads", ctypes.c_uint32), ("seed", ctypes.c_uint64),
                ("ops", ctypes.c_uint32), ("max_sectors", ctypes.c_uint32),
                ("align", ctypes.c_uint32), ("region_size", ctypes.c_uint32),
                ("weight", ctypes.c_uint32 * 6), ("errors_ok", ctypes.c_uint32),
                ("next_stamp", ctypes.c_uint32), ("stop", ctypes.c_uint32),
                ("done", ctypes.c_uint32 * 6), ("errors", ctypes.c_uint32 * 6),
                ("report", ctypes.c_char * 2048)]


def _load_library():
    u64, u32, ptr = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
    model, text, size = ctypes.POINTER(_Model), ctypes.c_char_p, ctypes.c_size_t
    lib = ctypes.CDLL(LIBRARY, use_errno=True)
    lib.stamp_fill.argtypes = [ptr, u64, u64, u32]
    lib.stamp_fill.restype = None
    lib.stamp_of.argtypes = [ptr, u64]
    lib.stamp_of.restype = u32
    lib.stamp_write_device.argtypes = [ctypes.c_int, u64, u64, u32, u64]
    lib.model_check_buf.argtypes = [model, ptr, u64, u64, text, size]
    lib.model_check_buf.restype = u64
    lib.model_check_device.argtypes = [model, ctypes.c_int, u64, u64, text, size]
    lib.model_check_device.restype = u64
    lib.model_check_offline.argtypes = [model, ctypes.c_int, ctypes.c_int,
                                        ctypes.c_char_p, u64, text, size]
    lib.model_check_offline.restype = u64
    for name in "model_set", "model_maybe":
        getattr(lib, name).argtypes = [model, u64, u64, u32]
        getattr(lib, name).restype = None
    lib.crc32c.argtypes = [u32, ctypes.c_char_p, size]
    lib.crc32c.restype = u32
    lib.iomodel_run.argtypes = [ctypes.POINTER(_IoModel)]
    lib.libc_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
    lib.libc_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ptr]
    return lib


lib = _load_library()


def stamped(sector, nr, stamp):
    """@nr sectors from this one on, as bytes."""
    buf = ctypes.create_string_buffer(nr * SECTOR)
    lib.stamp_fill(buf, sector, nr, stamp)
    return buf.raw


def _raise(number, what):
    raise OSError(number, os.strerror(number), what)


class Block:
    """A block device opened O_DIRECT. Sectors everywhere; data is bytes.

    Threads may share it. Nothing is cached: what is read was just read.
    """

    def __init__(self, path, readonly=False):
        self.path = path
        self.fd = os.open(path, os.O_DIRECT | os.O_CLOEXEC |
                          (os.O_RDONLY if readonly else os.O_RDWR))
        self.sectors = os.lseek(self.fd, 0, os.SEEK_END) // SECTOR

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Bytes

    def read(self, sector, nr):
        with mmap.mmap(-1, max(nr * SECTOR, 4096)) as buf:
            view = memoryview(buf)[:nr * SECTOR]
            try:
                if os.preadv(self.fd, [view], sector * SECTOR) != len(view):
                    _raise(errno.EIO, self.path)
                return bytes(view)
            finally:
                view.release()

    def write(self, sector, data, fua=False):
        with mmap.mmap(-1, max(len(data), 4096)) as buf:
            view = memoryview(buf)[:len(data)]
            try:
                view[:] = data
                flags = os.RWF_DSYNC if fua else 0
                n = os.pwritev(self.fd, [view], sector * SECTOR, flags)
                if n != len(data):
                    _raise(errno.EIO, self.path)
            finally:
                view.release()

    # Stamps

    def put(self, sector, nr, stamp, fua=False, origin=0):
        """Writes stamped sectors."""
        self.write(sector, stamped(sector - origin, nr, stamp), fua)

    def fill(self, stamp, sector=0, nr=None, origin=0):
        r = lib.stamp_write_device(self.fd, sector,
                                   self.sectors - sector if nr is None else nr,
                                   stamp, origin)
        if r:
            _raise(-r, self.path)

    def get(self, sector, nr=1, origin=0):
        """The stamps of some sectors, a list."""
        data = self.read(sector, nr)
        return [lib.stamp_of(data[i * SECTOR:(i + 1) * SECTOR],
                             sector + i - origin) for i in range(nr)]

    # The rest

    def _range_ioctl(self, request, sector, nr):
        arg = (ctypes.c_uint64 * 2)(sector * SECTOR, nr * SECTOR)
        if lib.libc_ioctl(self.fd, request, arg):
            _raise(ctypes.get_errno(), self.path)

    def discard(self, sector=0, nr=None):
        self._range_ioctl(BLKDISCARD, sector,
                          self.sectors - sector if nr is None else nr)

    def secure_discard(self, sector, nr):
        self._range_ioctl(BLKSECDISCARD, sector, nr)

    def zeroout(self, sector, nr):
        """Zeroes on the medium: write-zeroes without unmap, or writes."""
        self._range_ioctl(BLKZEROOUT, sector, nr)

    def punch(self, sector, nr):
        """Write-zeroes with leave to unmap; EOPNOTSUPP if not offered."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int,
                                   ctypes.c_int64, ctypes.c_int64]
        if libc.fallocate(self.fd, PUNCH_HOLE_KEEP_SIZE, sector * SECTOR,
                          nr * SECTOR):
            _raise(ctypes.get_errno(), self.path)

    def flush(self):
        os.fsync(self.fd)


class Model:
    """What a device should hold, a stamp a sector.

    `origin` is the sector of the device at which the stamps' own numbering
    begins: 0 unless the target is not the first in its table.
    """

    def __init__(self, sectors, stamp=SOURCE, first=0, origin=0):
        self.sectors = sectors
        self._now = (ctypes.c_uint32 * sectors)()
        self._alt = (ctypes.c_uint32 * sectors)()
        self._c = _Model(first, sectors, origin, self._now, self._alt)
        self.set(first, sectors, stamp)

    @property
    def origin(self):
        return self._c.origin

    def copy(self):
        """A copy, for a device that changes separately from now on."""
        out = Model(self.sectors, first=self._c.first, origin=self.origin)
        ctypes.memmove(out._now, self._now, ctypes.sizeof(self._now))
        ctypes.memmove(out._alt, self._alt, ctypes.sizeof(self._alt))
        return out

    def pack(self):
        """Its stamps as bytes, for another machine; no alternative must be left."""
        if any(alt != NONE for alt in self._alt):
            raise Failure("the model is not sure of all sectors")
        return struct.pack(f"<{self.sectors}I", *self._now)

    def unpack(self, packed):
        """Expects what a model of the same size was packed with."""
        self._now[:] = struct.unpack(f"<{self.sectors}I", packed)

    def set(self, sector, nr, stamp):
        lib.model_set(self._c, sector, nr, stamp)

    def maybe(self, sector, nr, stamp):
        """The range holds what it held, or the stamp."""
        lib.model_maybe(self._c, sector, nr, stamp)

    def check(self, block, sector=None, nr=None, what="the device"):
        """Reads the device and fails if it is not what the model says."""
        sector = self._c.first if sector is None else sector
        nr = self._c.first + self.sectors - sector if nr is None else nr
        report = ctypes.create_string_buffer(2048)
        if lib.model_check_device(self._c, block.fd, sector, nr, report, 2048):
            raise Failure(f"{what}: {report.value.decode()}")

    def check_data(self, data, sector, nr, what="what was read"):
        """Fails if data that was read there is not what the model says."""
        report = ctypes.create_string_buffer(2048)
        if lib.model_check_buf(self._c, data, sector, nr, report, 2048):
            raise Failure(f"{what}: {report.value.decode()}")

    def check_offline(self, source, dest, bitmap, region_size):
        report = ctypes.create_string_buffer(2048)
        if lib.model_check_offline(self._c, source.fd, dest.fd, bitmap,
                                   region_size, report, 2048):
            raise Failure(f"the images left behind: {report.value.decode()}")


def check_stamp(block, sector, nr, stamp, what="the device"):
    """Fails unless these sectors all hold this stamp."""
    Model(nr, stamp, first=sector).check(block, what=what)


class RandomIo:
    """Random I/O against a model, in threads of the C library.

    run() to the end, or start() ... stop() for load in the background.
    """

    DEFAULT = {"read": 30, "write": 40, "fua": 3, "discard": 8, "zero": 6,
               "flush": 3}

    def __init__(self, block, model, seed, region_size, ops=1000, threads=4,
                 max_sectors=MIB, align=1, weights=None, errors_ok=False):
        weights = dict(self.DEFAULT, **(weights or {}))
        self.model = model
        self._c = _IoModel(
            ctypes.pointer(model._c), block.fd, threads, seed, ops,
            min(max_sectors, model.sectors), align, region_size,
            (ctypes.c_uint32 * 6)(*(weights[op] for op in OPS)),
            errors_ok, random.Random(seed).randrange(1 << 16, 1 << 22))
        self._thread = None
        self._result = None

    def _run(self):
        self._result = lib.iomodel_run(ctypes.byref(self._c))

    def _judge(self):
        if self._result:
            raise Failure(f"random I/O: {self._c.report.decode()}")
        return self

    def run(self):
        self._run()
        return self._judge()

    def start(self):
        self._c.ops = 0xffffffff
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self):
        self._c.stop = 1
        self._thread.join()
        return self._judge()

    @property
    def running(self):
        return self._thread is not None and self._thread.is_alive()

    @property
    def done(self):
        return sum(self._c.done)

    @property
    def tried(self):
        return sum(self._c.done) + sum(self._c.errors)

    def count(self, op):
        return self._c.done[OPS.index(op)]

    def errors(self, op=None):
        return self._c.errors[OPS.index(op)] if op else sum(self._c.errors)


def crc32c(data, crc=0xffffffff):
    return lib.crc32c(crc, bytes(data), len(data))
