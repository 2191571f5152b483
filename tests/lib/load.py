# SPDX-License-Identifier: GPL-2.0-only
"""Random reads and writes of 4 KiB in threads, and their latencies (lib/load.h)."""

import ctypes
import os
import threading

from lib import blk

BLOCK_SECTORS = 8
MAX_SAMPLES = 1 << 18


class _Load(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("threads", ctypes.c_uint32),
                ("pause_us", ctypes.c_uint32), ("seed", ctypes.c_uint32),
                ("sync", ctypes.c_uint32),
                ("first", ctypes.c_uint64 * 2), ("nr", ctypes.c_uint64 * 2),
                ("max_samples", ctypes.c_uint64),
                ("latency", ctypes.POINTER(ctypes.c_uint64) * 2),
                ("stop", ctypes.c_uint32), ("recording", ctypes.c_uint32),
                ("samples", ctypes.c_uint64 * 2)]


blk.lib.load_run.argtypes = [ctypes.POINTER(_Load)]


class Load:
    """start(), record(True), ..., record(False), stop(). Zones are (sector, sectors).
    With sync each write is followed by fdatasync()."""

    def __init__(self, block, threads, pause_us, reads, writes, seed, sync=False):
        self._latencies = [(ctypes.c_uint64 * MAX_SAMPLES)() for _ in range(2)]
        pointers = [ctypes.cast(samples, ctypes.POINTER(ctypes.c_uint64))
                    for samples in self._latencies]
        zones = (reads, writes)
        self._c = _Load(
            block.fd, threads, pause_us, seed, int(sync),
            (ctypes.c_uint64 * 2)(*(first // BLOCK_SECTORS for first, _ in zones)),
            (ctypes.c_uint64 * 2)(*(nr // BLOCK_SECTORS for _, nr in zones)),
            MAX_SAMPLES, (ctypes.POINTER(ctypes.c_uint64) * 2)(*pointers), 0, 0)
        self._result = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        self._result = blk.lib.load_run(ctypes.byref(self._c))

    def start(self):
        self._thread.start()
        return self

    def record(self, on):
        self._c.recording = int(on)

    def stop(self):
        self._c.stop = 1
        self._thread.join()
        if self._result:
            raise OSError(-self._result, os.strerror(-self._result), "the load")

    def _of(self, op):
        return self._latencies[op][:min(self._c.samples[op], MAX_SAMPLES)]

    @property
    def reads(self):
        """Latencies of the reads that were recorded, in ns."""
        return self._of(0)

    @property
    def writes(self):
        return self._of(1)
