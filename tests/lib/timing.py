# SPDX-License-Identifier: GPL-2.0-only
"""Operations in sequence, and how long they take, in ns (lib/timing.h)."""

import array
import ctypes
import os

from lib import blk

READ, WRITE = 0, 1
OPS = {"read": READ, "write": WRITE}


class _Timing(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("op", ctypes.c_uint32),
                ("fsync", ctypes.c_uint32), ("threads", ctypes.c_uint32),
                ("size", ctypes.c_uint64), ("nr", ctypes.c_uint64),
                ("offsets", ctypes.POINTER(ctypes.c_uint64)),
                ("ns", ctypes.c_uint64)]


_u64, _ns = ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)
blk.lib.timing_run.argtypes = [ctypes.POINTER(_Timing)]
blk.lib.timing_copy.argtypes = [ctypes.c_int, ctypes.c_int, _u64, _u64, _ns]
blk.lib.timing_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, _u64, _u64, _ns]
blk.lib.timing_until_written.argtypes = [ctypes.c_int, _u64, _u64, _u64]


def _check(r, what):
    if r:
        raise OSError(-r, os.strerror(-r), what)


def run(block, op, size, offsets, fsync=False, threads=1):
    """Reads or writes at all of these offsets. Bytes everywhere."""
    values = array.array("Q", offsets)
    pointer = (ctypes.c_uint64 * len(values)).from_buffer(values)
    timing = _Timing(block.fd, OPS[op], int(fsync), threads, size, len(values),
                     ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64)), 0)
    _check(blk.lib.timing_run(ctypes.byref(timing)), f"{op} {block.path}")
    return timing.ns


def copy(source, dest, size, nr):
    """Copies nr times size bytes, as dd does."""
    ns = ctypes.c_uint64()
    _check(blk.lib.timing_copy(source.fd, dest.fd, size, nr, ctypes.byref(ns)),
           f"copy {source.path} to {dest.path}")
    return ns.value


def ioctl(fd, request, argument, nr):
    """The same ioctl again and again."""
    ns = ctypes.c_uint64()
    _check(blk.lib.timing_ioctl(fd, request, argument, len(argument), nr, ctypes.byref(ns)),
           "ioctl")
    return ns.value


def until_written(stat_fd, sectors, step_ns, limit_ns):
    """Waits until this much has been written to a device, by its open stat file."""
    _check(blk.lib.timing_until_written(stat_fd, sectors, step_ns, limit_ns),
           "wait for a device")
