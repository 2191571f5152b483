# SPDX-License-Identifier: GPL-2.0-only
"""Device-mapper by ioctl.

A process start is slow in an emulated machine, and dmsetup hides what a test of
a target has to say (suspend without flush, status without flush, the event
number). The tests speak the ioctl interface themselves; one or two of them use
dmsetup, to see that people can.
"""

import ctypes
import errno
import os
import struct

CONTROL = "/dev/mapper/control"

HEADER = struct.Struct("=3I3IiIIIQ128s129s7x")
TARGET = struct.Struct("=QQiI16s")
assert HEADER.size == 312 and TARGET.size == 40

(REMOVE_ALL, LIST_DEVICES, DEV_CREATE, DEV_REMOVE, DEV_RENAME, DEV_SUSPEND,
 DEV_STATUS, DEV_WAIT, TABLE_LOAD, TABLE_CLEAR, TABLE_DEPS, TABLE_STATUS,
 LIST_VERSIONS, TARGET_MSG) = range(1, 15)

READONLY = 1 << 0
SUSPENDED = 1 << 1
STATUS_TABLE = 1 << 4
BUFFER_FULL = 1 << 8
SKIP_LOCKFS = 1 << 10
NOFLUSH = 1 << 11
QUERY_INACTIVE = 1 << 12
DATA_OUT = 1 << 16
DEFERRED_REMOVE = 1 << 17

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


def request(command):
    return 3 << 30 | HEADER.size << 16 | 0xfd << 8 | command


class Reply:
    """What came back: the fields of struct dm_ioctl, and the payload."""

    def __init__(self, buf):
        (_, _, _, self.data_size, self.data_start, self.target_count,
         self.open_count, self.flags, self.event_nr, _, self.dev, name,
         uuid) = HEADER.unpack_from(buf)
        self.name = name.split(b"\0")[0].decode()
        self.uuid = uuid.split(b"\0")[0].decode()
        self.payload = bytes(buf[self.data_start:self.data_size])

    @property
    def minor(self):
        return self.dev & 0xff | self.dev >> 12 & 0xfff00

    @property
    def major(self):
        return self.dev >> 8 & 0xfff

    @property
    def suspended(self):
        return bool(self.flags & SUSPENDED)


def argument(name="", payload=b"", flags=0, targets=0, event_nr=0, room=1 << 16,
             uuid=""):
    """The buffer that an ioctl is given, with room for its reply."""
    size = HEADER.size + len(payload) + room
    buf = ctypes.create_string_buffer(size)
    HEADER.pack_into(buf, 0, 4, 0, 0, size, HEADER.size, targets, 0, flags,
                     event_nr, 0, 0, name.encode(), uuid.encode())
    buf[HEADER.size:HEADER.size + len(payload)] = payload
    return buf


def ioctl(command, name="", payload=b"", flags=0, targets=0, event_nr=0,
          room=1 << 16):
    """One device-mapper ioctl. Raises OSError with the kernel's errno.

    The interpreter's own ioctl() keeps the global lock for large buffers, and
    many of these calls may wait long; ctypes lets the other threads run.
    """
    return submit(command, argument(name, payload, flags, targets, event_nr, room), name)


def submit(command, buf, name=""):
    """The same with a buffer that was made before."""
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        if _libc.ioctl(fd, request(command), buf):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
    finally:
        os.close(fd)

    reply = Reply(memoryview(buf))
    if reply.flags & BUFFER_FULL:
        raise OSError(errno.ENOBUFS, "reply too large", name)
    return reply


def devices():
    """Names of all mapped devices and their minors."""
    payload = ioctl(LIST_DEVICES).payload
    found, at = {}, 0
    while len(payload) >= at + 12:
        dev, step = struct.unpack_from("=QI", payload, at)
        name = payload[at + 12:].split(b"\0")[0].decode()
        if dev:
            found[name] = dev & 0xff | dev >> 12 & 0xfff00
        if not step:
            break
        at += step
    return found


def target_versions():
    """{target name: (major, minor, patch)}"""
    payload = ioctl(LIST_VERSIONS).payload
    found, at = {}, 0
    while True:
        step, *version = struct.unpack_from("=I3I", payload, at)
        found[payload[at + 16:].split(b"\0")[0].decode()] = tuple(version)
        if not step:
            return found
        at += step


def pack_table(table):
    out = b""
    for start, length, target, params in table:
        text = params.encode() + b"\0"
        text += b"\0" * (-len(text) % 8)
        out += TARGET.pack(start, length, 0, TARGET.size + len(text),
                           target.encode())
        out += text
    return out


def _unpack_table(reply):
    found, at = [], 0
    for _ in range(reply.target_count):
        start, length, _, step, target = TARGET.unpack_from(reply.payload, at)
        params = reply.payload[at + TARGET.size:].split(b"\0")[0].decode()
        found.append((start, length, target.split(b"\0")[0].decode(), params))
        at = step
    return found


class Device:
    """A mapped device. A table is a list of (start, length, target, params)."""

    def __init__(self, name):
        self.name = name
        reply = ioctl(DEV_CREATE, name)
        self.minor, self.major = reply.minor, reply.major

    @property
    def path(self):
        return f"/dev/dm-{self.minor}"

    @property
    def number(self):
        return f"{self.major}:{self.minor}"

    @property
    def sysfs(self):
        return f"/sys/block/dm-{self.minor}"

    def load(self, table, readonly=False):
        ioctl(TABLE_LOAD, self.name, pack_table(table),
              READONLY if readonly else 0, len(table))

    def clear(self):
        ioctl(TABLE_CLEAR, self.name)

    def suspend(self, noflush=False, lockfs=False):
        ioctl(DEV_SUSPEND, self.name,
              flags=SUSPENDED | (NOFLUSH if noflush else 0) |
              (0 if lockfs else SKIP_LOCKFS))

    def resume(self, noflush=False, lockfs=False):
        """Makes an inactive table live, if there is one."""
        ioctl(DEV_SUSPEND, self.name, flags=(NOFLUSH if noflush else 0) |
              (0 if lockfs else SKIP_LOCKFS))

    def suspend_resume(self):
        self.suspend()
        self.resume()

    def reload(self, table, noflush=False, lockfs=False):
        """Swaps tables under whoever uses the device."""
        self.load(table)
        self.suspend(noflush, lockfs)
        self.resume(noflush, lockfs)

    def info(self):
        return ioctl(DEV_STATUS, self.name)

    def status_lines(self, noflush=False):
        return _unpack_table(ioctl(TABLE_STATUS, self.name,
                                   flags=NOFLUSH if noflush else 0))

    def status(self, noflush=False, index=0):
        """The status text of one target."""
        return self.status_lines(noflush)[index][3]

    def table(self, inactive=False):
        return _unpack_table(ioctl(TABLE_STATUS, self.name,
                                   flags=STATUS_TABLE | NOFLUSH |
                                   (QUERY_INACTIVE if inactive else 0)))

    def message(self, text, sector=0):
        """Sends a message; returns the reply, None if there was none."""
        reply = ioctl(TARGET_MSG, self.name,
                      struct.pack("=Q", sector) + text.encode() + b"\0")
        if not reply.flags & DATA_OUT:
            return None
        return reply.payload.split(b"\0")[0].decode()

    def wait(self, event_nr):
        """Waits until the event number is no longer event_nr."""
        return ioctl(DEV_WAIT, self.name, event_nr=event_nr).event_nr

    def rename(self, name):
        ioctl(DEV_RENAME, self.name, name.encode() + b"\0")
        self.name = name

    def deps(self):
        payload = ioctl(TABLE_DEPS, self.name).payload
        count = struct.unpack_from("=I", payload)[0]
        return [f"{d >> 8 & 0xfff}:{d & 0xff | d >> 12 & 0xfff00}"
                for d in struct.unpack_from(f"={count}Q", payload, 8)]

    def remove(self, deferred=False):
        ioctl(DEV_REMOVE, self.name, flags=DEFERRED_REMOVE if deferred else 0)

    def exists(self):
        return self.name in devices()
