# SPDX-License-Identifier: GPL-2.0-only
"""Every allocation of every call fails once: the call fails with "out of memory"
and nothing else happens, or it does not need it; the next one works.

/proc/self/fail-nth makes the nth allocation of a system call fail; n goes
up from 1 until the call makes fewer.
"""

import ctypes
import errno
import mmap
import os

from lib import dm, faults
from lib.blk import MIB, ZERO, lib
from lib.errors import Failure
from lib.framework import test

LONG = 1800
SYS = {"read": 0, "pread": 17, "pwrite": 18, "fsync": 74, "fallocate": 285,
       "finit_module": 313, "delete_module": 176}
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127f


class Sweep:
    """Runs calls with one fault each, and sees that they fail well."""

    def __init__(self, t, errors=faults.EXPECTED):
        self.t = t
        self.errors = errors
        self.nth = faults.Nth()

    def __enter__(self):
        faults.quiet_console(True)
        self._allocations = faults.Allocations(verbose=2).__enter__()
        return self

    def __exit__(self, kind, *_):
        self._allocations.__exit__()
        faults.quiet_console(False)
        if not kind:
            self.t.note(self.nth.result)

    def _judge(self, call):
        if call.error and call.error not in self.errors:
            raise Failure(f"a failed allocation ends in {os.strerror(call.error)}")

    def ioctls(self, fn):
        """fn() does one device-mapper ioctl. Yields what came of each."""
        for call in self.nth.each():
            with self.nth.in_ioctl(call):
                fn()
            self._judge(call)
            yield call

    def calls(self):
        """The caller does one system call with each."""
        for call in self.nth.each(every=True):
            yield call
            self._judge(call)


def prepared(t, **args):
    """A clone that is not active; its metadata is formatted and half used."""
    clone = t.idle_clone(**args)
    for sector in range(0, clone.size // 2, 4 * clone.region):
        clone.put(sector, clone.region)
    clone.put(clone.size // 2 + 3, 2)
    clone.deactivate()
    return clone


@test("loading a table: formatting new metadata", limit=LONG)
def _(t):
    clone = t.idle_clone(active=False, size=4 * MIB)
    device = t.unready()
    with Sweep(t) as sweep:
        for call in sweep.ioctls(lambda: device.load(clone.table())):
            if not call.error:
                device.clear()
            elif call._n % 8 == 0:              # what is there now is good enough
                device.load(clone.table())
                device.clear()
            clone.meta.block.fill(0, 0, 8)
    device.remove()
    clone.activate().finish()


@test("loading a table: opening metadata", limit=LONG)
def _(t):
    clone = prepared(t, size=4 * MIB)
    before = clone.meta.image()
    clone.features = ["no_hydration", "no_discard_passdown", "hydrate_on_read"]
    clone.core = {"hydration_threshold": 2, "hydration_batch_size": 4}
    device = t.unready()
    with Sweep(t) as sweep:
        for call in sweep.ioctls(lambda: device.load(clone.table())):
            if not call.error:
                device.clear()
            if clone.meta.image() != before:
                raise Failure("the metadata has changed")
    device.remove()
    clone.activate().finish()


@test("loading a table: a bitmap of many pages", limit=LONG)
def _(t):
    size = 512 * MIB
    dest = t.disk(size, kind="null", what="dest")
    source = t.disk(size, kind="null", what="source")
    clone = t.idle_clone(size=size, dest=dest, source=source, former=None,
                         meta=t.metadata(8 * MIB))
    clone.deactivate()
    device = t.unready()
    with Sweep(t) as sweep:
        for call in sweep.ioctls(lambda: device.load(clone.table())):
            if not call.error:
                device.clear()
    device.remove()


@test("loading a table: the clone is done already", limit=LONG)
def _(t):
    clone = t.clone(size=MIB)
    clone.until_hydrated()
    clone.deactivate()
    device = t.unready()
    with Sweep(t) as sweep:
        for call in sweep.ioctls(lambda: device.load(clone.table())):
            if not call.error:
                device.clear()
    device.remove()
    clone.activate().finish()


@test("loading another table for a clone that is live", limit=LONG)
def _(t):
    clone = t.idle_clone(size=4 * MIB)
    with Sweep(t) as sweep:
        for call in sweep.ioctls(lambda: clone.device.load(clone.table())):
            clone.put(call._n * 8 % (clone.size - 8), 8)
            if not call.error:
                clone.device.clear()
    clone.finish()


@test("resuming for the first time", limit=LONG)
def _(t):
    clone = prepared(t, size=MIB)
    with Sweep(t) as sweep:
        for call in sweep.nth.each():
            device = dm.Device(clone.name)
            try:
                device.load(clone.table())
                with sweep.nth.in_ioctl(call):
                    device.resume()
                sweep._judge(call)
                if call.error:
                    device.resume()
            finally:
                device.remove()
    clone.activate().finish()


@test("swapping tables of a live clone: {step}", limit=LONG,
      step=["suspend", "resume"])
def _(t, step):
    clone = t.clone(size=4 * MIB, core={"hydration_threshold": 1})
    device = clone.device
    with Sweep(t) as sweep:
        for call in sweep.nth.each():
            clone.put(call._n * 24 % (clone.size - 16), 12)
            device.load(clone.table())
            if step == "resume":
                device.suspend()
            with sweep.nth.in_ioctl(call):
                getattr(device, step)()
            sweep._judge(call)
            if call.error:
                getattr(device, step)()
            if step == "suspend":
                device.resume()
            if clone.mode() != "rw":
                raise Failure(f"the mode is {clone.mode()}")
    clone.finish()


@test("suspending and resuming", limit=LONG)
def _(t):
    clone = t.clone(size=4 * MIB, core={"hydration_threshold": 1})
    with Sweep(t) as sweep:
        for call in sweep.nth.each():
            clone.put(call._n * 24 % (clone.size - 16), 12)
            with sweep.nth.in_ioctl(call):
                clone.device.suspend()
            if call.error:
                clone.device.suspend()
            clone.device.resume()
    clone.finish()


@test("removing", limit=LONG)
def _(t):
    clone = prepared(t, size=MIB)
    with Sweep(t) as sweep:
        for call in sweep.nth.each():
            clone.activate()
            clone.put(call._n * 24 % (clone.size - 16), 12)
            clone.close_block()
            with sweep.nth.in_ioctl(call):
                clone.device.remove()
            if clone.device.exists():
                clone.device.remove()
            elif call.error:
                raise Failure("the device is gone, yet removing it failed")
            clone.device = None
            clone.check_left_behind()
    clone.activate().finish()


@test("the message {message}", limit=LONG, message=[
    "enable_hydration", "disable_hydration", "hydration_threshold 7",
    "hydration_batch_size 7", "hydrate 0 64", "skip 1 4 9 4", "nonsense"])
def _(t, message):
    errors = faults.EXPECTED
    if message == "nonsense":
        errors += (errno.EINVAL,)
    clone = t.idle_clone(size=4 * MIB)
    with Sweep(t, errors) as sweep:
        for _ in sweep.ioctls(lambda: clone.message(message)
                              if message != "nonsense" else nonsense(clone)):
            clone.status()
    clone.finish()


def nonsense(clone):
    try:
        clone.message("nonsense")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOMEM, errno.EFAULT):
            raise


@test("asking for {what}", limit=LONG, what=["status", "table"])
def _(t, what):
    clone = t.clone(size=4 * MIB)
    ask = clone.device.status if what == "status" else clone.device.table
    with Sweep(t) as sweep:
        for _ in sweep.ioctls(ask):
            pass
    clone.finish()


class Buffer:
    """Aligned memory that is there."""

    def __init__(self, sectors):
        self._map = mmap.mmap(-1, max(4096, sectors * 512))
        self._map.write(b"\0" * len(self._map))
        self._c = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._c)

    def stamp(self, sector, nr, stamp):
        lib.stamp_fill(self.address, sector, nr, stamp)


def io_step(call, clone, what, sector, buf):
    """One system call to an unhydrated place; what the model must know of it."""
    fd, region = clone.block.fd, clone.region
    stamp = clone.context.stamp()
    begin, nr = {"write in a region": (sector + 3, 2),
                 "write of regions": (sector, 2 * region),
                 "write over regions": (sector + 3, 2 * region)}.get(
                     what, (sector, region))
    if what == "read":
        call.syscall(SYS["pread"], fd, buf.address, nr * 512, begin * 512)
        return
    if what == "flush":
        clone.put(begin, nr)
        call.syscall(SYS["fsync"], fd)
        return

    if "write" in what:
        buf.stamp(begin, nr, stamp)
        call.syscall(SYS["pwrite"], fd, buf.address, nr * 512, begin * 512)
    else:
        stamp = ZERO
        arg = (ctypes.c_uint64 * 2)(begin * 512, nr * 512)
        call.syscall(faults.SYS_IOCTL, fd, BLKDISCARD if what == "discard" else
                     BLKZEROOUT, ctypes.addressof(arg))
    # A discard of what has been hydrated meanwhile is dropped: a RAM disk takes none.
    if call.error or what == "discard" and "no_hydration" not in clone.features:
        clone.model.maybe(begin, nr, stamp)
    else:
        clone.model.set(begin, nr, stamp)


@test("I/O, {hydration}: {what}", limit=LONG,
      hydration={"nothing is copied": ["no_hydration"], "hydration running": [],
                 "reads hydrate": ["no_hydration", "hydrate_on_read"]},
      what=["read", "write in a region", "write of regions", "write over regions",
            "discard", "zeroes", "flush"])
def _(t, hydration, what):
    clone = t.clone(size=8 * MIB, features=hydration,
                    core=None if hydration else {"hydration_threshold": 1})
    buf = Buffer(4 * clone.region)
    with Sweep(t, faults.EXPECTED + (errno.EIO, errno.EAGAIN)) as sweep:
        for call in sweep.calls():
            io_step(call, clone, what,
                    call._n * 4 * clone.region % (clone.size - 4 * clone.region),
                    buf)
            if clone.mode() != "rw":
                raise Failure(f"the mode is {clone.mode()}")
    clone.finish()


@test("loading the module", limit=LONG)
def _(t):
    path = faults.module_file()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    empty = ctypes.create_string_buffer(b"")
    name = ctypes.create_string_buffer(b"dm_clone")

    def unload():
        call = sweep.nth.none()
        call.syscall(SYS["delete_module"], ctypes.addressof(name), os.O_NONBLOCK)
        if call.error:
            raise OSError(call.error, os.strerror(call.error), "delete_module")

    with Sweep(t) as sweep:
        unload()
        for call in sweep.calls():
            call.syscall(SYS["finit_module"], fd, ctypes.addressof(empty), 0)
            if not call.error:
                unload()
        call = sweep.nth.none()
        call.syscall(SYS["finit_module"], fd, ctypes.addressof(empty), 0)
    os.close(fd)
    if "clone" not in dm.target_versions():
        raise Failure("the target is not there")
