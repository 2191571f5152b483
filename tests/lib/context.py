# SPDX-License-Identifier: GPL-2.0-only
"""What a test gets as its `t`: devices that clean up after themselves."""

import ctypes
import os
import random
import subprocess
import threading
import time

from lib import disks, dm, speed, sweep
from lib.blk import FIRST_FREE, FORMER, MIB, SOURCE, check_stamp
from lib.clone import Clone
from lib.errors import Failure, Missed, Skip
from lib.trace import Trace

KIB = 2                         # in sectors


class Job:
    """A call in a thread of its own."""

    def __init__(self, context, fn):
        self._context = context
        self._fn = fn
        self._error = None
        self._value = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._value = self._fn()
        except BaseException as error:      # raised in wait()
            self._error = error

    @property
    def done(self):
        return not self._thread.is_alive()

    def join(self, timeout):
        self._thread.join(timeout)
        return self.done

    def wait(self, timeout=20, what="a call in the background"):
        """The call's value, or the error it raised."""
        if not self.join(timeout * self._context.patience):
            raise Failure(f"{what} has not ended after "
                          f"{timeout * self._context.patience:.0f} s")
        if self._error:
            raise self._error
        return self._value

    @property
    def stack(self):
        """The kernel stack of its thread; empty if it has ended, or is not in the kernel."""
        try:
            with open(f"/proc/self/task/{self._thread.native_id}/stack",
                      encoding="ascii") as f:
                return f.read()
        except OSError:
            return ""

    def must_block(self, seconds=0.4, what="the call"):
        """Fails if the call ends within this time."""
        if self.join(seconds):
            raise Failure(f"{what} ended, but it should wait" +
                          (f" ({self._error})" if self._error else ""))


class Context:
    def __init__(self, test, seed, patience, peer):
        self.test = test
        self.seed = test.seed(seed)
        self.rng = random.Random(self.seed)
        self.patience = patience
        self.peer = peer
        self.notes = []
        self._arena = disks.Arena()
        self._disks, self._clones, self._devices = [], [], []
        self._jobs, self._loads, self._mounts = [], [], []
        self._sources = []
        self._next_stamp = FIRST_FREE
        self._names = 0

    # Small things

    def note(self, text):
        """Shown beside the test's result."""
        self.notes.append(text)

    def skip(self, reason):
        raise Skip(reason)

    def midway(self, *clones):
        """For tests of clones whose hydration is under way: Missed if it is over."""
        for clone in clones:
            if clone.status().done:
                raise Missed(f"hydration was over too early: {clone.status().text}")

    def rate(self, progress, seconds=3, limit=30):
        """How much further progress() gets in a second, see lib/speed.py."""
        return speed.rate(progress, seconds, limit)

    def stamp(self):
        self._next_stamp += 1
        return self._next_stamp

    def name(self, what):
        self._names += 1
        return f"{sweep.PREFIX}{what}{self._names}"

    def folder(self):
        path = f"{sweep.MOUNTS}/{self.name('dir')}"
        os.makedirs(path)
        return path

    def background(self, fn):
        job = Job(self, fn)
        self._jobs.append(job)
        return job

    def until(self, condition, what, timeout=10):
        deadline = time.monotonic() + timeout * self.patience
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not within {timeout * self.patience:.0f} s")
            time.sleep(0.02)

    def within(self, seconds, fn, what):
        """Runs a call that must not wait forever. It is no measure of its time."""
        return self.background(fn).wait(seconds, what)

    def fails(self, fn, *numbers, what="this"):
        """Fails unless the call fails with one of these errnos."""
        try:
            fn()
        except OSError as error:
            if numbers and error.errno not in numbers:
                raise Failure(f"{what} failed with {error.strerror}, not with " +
                              " or ".join(map(os.strerror, numbers))) from None
            return error
        raise Failure(f"{what} should fail, but does not")

    def run(self, *command, check=True, timeout=60):
        done = subprocess.run(command, capture_output=True, text=True,
                              check=False, timeout=timeout * self.patience,
                              env=dict(os.environ, DM_DISABLE_UDEV="1",
                                       TEST_DIR="1", TEST_DEV="1",
                                       QA_CHECK_FS="1"))
        if check and done.returncode:
            raise Failure(f"{' '.join(command)}: status {done.returncode}: "
                          f"{(done.stderr or done.stdout).strip()}")
        return done

    def trace(self, *devices, complete=False):
        """Watches the bios of disks and mapped devices."""
        return Trace(*(d.number for d in devices), complete=complete)

    # Devices

    def disk(self, sectors, kind="ram", fill=None, what="disk", readonly=False,
             **options):
        """A disk; kind is ram, null, loop or scsi (see lib/disks.py)."""
        name = self.name(what)
        if kind == "ram":
            backing = self._arena.slice(sectors)
        elif kind == "null":
            backing = disks.null_blk(name, sectors, **options)
        elif kind == "loop":
            backing = disks.loop(f"{self.folder()}/image", sectors)
        elif kind == "scsi":
            backing = disks.scsi_debug(sectors, **options)
        else:
            raise ValueError(kind)
        disk = disks.Disk(name, sectors, backing, readonly)
        self._disks.append(disk)
        if fill is not None:
            disk.fill(fill)
        return disk

    def add_disk(self, disk):
        """Another kind of disk, to be healed and closed in the end."""
        self._disks.append(disk)
        return disk

    def source(self, sectors, kind="ram", **options):
        """A disk whose content must never change."""
        disk = self.disk(sectors, kind, fill=SOURCE, what="source", **options)
        self._sources.append(disk)
        return disk

    def narrow(self, disk, depth=4):
        """A disk over this one that takes @depth requests at a time."""
        return self.add_disk(disks.Disk(self.name("narrow"), disk.sectors,
                                        disks.loop_over(disk.path, depth)))

    def metadata(self, sectors=4 * MIB, kind="ram", **options):
        disk = self.disk(sectors, kind, what="meta", **options)
        disk.block.fill(0, 0, 8)
        return disk

    def mapped(self, table, what="map"):
        """A mapped device with a table of the test's own."""
        device = dm.Device(self.name(what))
        self._devices.append(device)
        device.load(table)
        device.resume()
        return device

    def unready(self, what="map"):
        """A mapped device without a table."""
        device = dm.Device(self.name(what))
        self._devices.append(device)
        return device

    def clone(self, region=8, size=4 * MIB, features=(), core=None, meta=None,
              dest=None, source=None, kind="ram", offset=0, active=True,
              former=FORMER):
        """A clone, active unless told otherwise; missing devices are made.

        The source is stamped SOURCE, the destination holds the stamp FORMER,
        so that none of it can ever show unnoticed. kind is that of the
        destination. With an offset the clone comes second in its table, after a linear target.
        """
        source = source or self.source(size)
        if not dest:
            dest = self.disk(size, kind, what="dest")
            if former is not None:
                dest.fill(former)
        meta = meta or self.metadata()
        before = []
        if offset:
            # A table offers discards only if all of its targets do.
            first = self.disk(offset, "null", fill=0, what="first")
            before = [(0, offset, "linear", f"{first.number} 0")]
        clone = Clone(self, self.name("clone"), meta, dest, source, size, region,
                      features, core or {}, offset, before)
        self._clones.append(clone)
        return clone.activate() if active else clone

    def idle_clone(self, **args):
        """A clone that copies nothing on its own."""
        return self.clone(features=["no_hydration"], **args)

    def deactivate_clones(self):
        """For tests that unload the module."""
        for clone in reversed(self._clones):
            clone.deactivate()

    def load(self, clone, **args):
        """Random I/O in the background; stop() raises what went wrong."""
        load = clone.random_io(**args).start()
        self._loads.append(load)
        return load

    def let_run(self, load, operations, timeout=30):
        """Waits until a load has done this many more operations."""
        goal = load.tried + operations
        self.until(lambda: load.tried > goal or not load.running,
                   f"{operations} operations under load", timeout)
        if not load.running:
            load.stop()                     # raises what ended it

    # File systems

    def mount(self, device, kind, options="", keep=False):
        """Mounts it, and returns where; with keep somebody else unmounts it."""
        where = self.folder()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(device.encode(), where.encode(), kind.encode(), 0,
                      options.encode() or None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"mount {device}")
        if not keep:
            self._mounts.append(where)
        return where

    def umount(self, where):
        disks.umount(where)
        self._mounts.remove(where)

    # The end

    def close(self, failed):
        """Takes everything down; errors of this do not fail a test that has failed."""
        errors = []

        def attempt(fn):
            try:
                fn()
            except (OSError, Failure) as error:
                errors.append(error)

        for disk in self._disks:
            attempt(disk.heal)
        for load in self._loads:
            if load.running:
                attempt(load.stop)
        for job in self._jobs:
            job.join(10 * self.patience)
        for where in reversed(self._mounts):
            attempt(lambda where=where: disks.umount(where))
        for clone in reversed(self._clones):
            attempt(clone.deactivate)
        for device in reversed(self._devices):
            if device.exists():
                attempt(device.remove)
        for source in self._sources:
            attempt(lambda source=source: check_stamp(
                source.block, 0, source.sectors, SOURCE, "the source has changed"))
        for disk in reversed(self._disks):
            attempt(disk.close)
        self._remove_folders()

        if errors and not failed:
            raise errors[0]

    @staticmethod
    def _remove_folders():
        if os.path.isdir(sweep.MOUNTS):
            for name in os.listdir(sweep.MOUNTS):
                try:
                    os.rmdir(f"{sweep.MOUNTS}/{name}")
                except OSError:
                    pass
