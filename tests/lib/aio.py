# SPDX-License-Identifier: GPL-2.0-only
"""One write by the kernel's asynchronous I/O, for a caller that must not sleep."""

import ctypes
import mmap
import os
import platform

# io_setup, io_submit, io_getevents, io_destroy: asm/unistd.h
CALLS = {
    "aarch64": (0, 2, 4, 1),
    "i686": (245, 248, 247, 246),
    "s390x": (243, 246, 245, 244),
    "x86_64": (206, 209, 208, 207),
}
IOCB_CMD_PWRITE = 1             # linux/aio_abi.h

_libc = ctypes.CDLL(None, use_errno=True)


class _Iocb(ctypes.Structure):
    """struct iocb on little-endian machines, up to what is zero here."""
    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint64),
                ("opcode", ctypes.c_uint16), ("reqprio", ctypes.c_int16),
                ("fd", ctypes.c_uint32), ("buf", ctypes.c_uint64),
                ("nbytes", ctypes.c_uint64), ("offset", ctypes.c_int64),
                ("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32),
                ("resfd", ctypes.c_uint32)]


class _Event(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint64), ("obj", ctypes.c_uint64),
                ("res", ctypes.c_int64), ("res2", ctypes.c_int64)]


def _call(number, *args):
    r = _libc.syscall(ctypes.c_long(number), *args)
    if r < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return r


class Write:
    """A direct write of @data at a byte @offset."""

    def __init__(self, path, data, offset):
        setup, self._submit, self._getevents, self._destroy = CALLS[platform.machine()]
        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._page = mmap.mmap(-1, len(data))
        self._page.write(data)
        where = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._iocb = _Iocb(opcode=IOCB_CMD_PWRITE, fd=self._fd, buf=where,
                           nbytes=len(data), offset=offset)
        self._context = ctypes.c_ulong(0)
        _call(setup, 1, ctypes.byref(self._context))

    def submit(self):
        one = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        _call(self._submit, self._context, ctypes.c_long(1), one)

    def has_ended(self):
        """Asks, and does not sleep. It raises OSError if the write has failed."""
        event = _Event()
        if not _call(self._getevents, self._context, ctypes.c_long(0), ctypes.c_long(1),
                     ctypes.byref(event), None):
            return False
        if event.res < 0:
            raise OSError(-event.res, os.strerror(-event.res))
        return True

    def close(self):
        """Waits until the write has ended."""
        _call(self._destroy, self._context)
        os.close(self._fd)
