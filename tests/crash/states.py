# SPDX-License-Identifier: GPL-2.0-only
"""States that the replay has written to files, and the library for them."""

import array
import ctypes
import os
import sys

SECTOR = 512


def load_library(path):
    """libcrash.so, with its functions declared."""
    library = ctypes.CDLL(path)
    u64, pointer = ctypes.c_uint64, ctypes.c_void_p
    library.stamps_write.argtypes = [ctypes.c_int, u64, pointer, u64]
    library.stamps_compare.argtypes = [ctypes.c_int, pointer, u64,
                                       ctypes.POINTER(ctypes.c_uint32)]
    library.stamps_compare.restype = ctypes.c_int64
    return library


class State:
    """A state's sizes; load() gets the rest."""

    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        with open(path, "rb") as f:
            self.meta_sectors, self.size, self.region = map(int, f.readline().split())

    def load(self):
        with open(self.path, "rb") as f:
            f.readline()
            self.meta = f.read(self.meta_sectors * SECTOR)
            self.dest = self._stamps(f)
            self.view = self._stamps(f)
        return self

    def _stamps(self, f):
        stamps = array.array("I")
        stamps.fromfile(f, self.size)
        if sys.byteorder == "big":
            stamps.byteswap()
        return (ctypes.c_uint32 * self.size).from_buffer(stamps)


def find(folder):
    """The states in a folder, in order."""
    entries = sorted(os.scandir(folder), key=lambda e: e.name)
    return [State(entry.path) for entry in entries if entry.is_file()]
