# SPDX-License-Identifier: GPL-2.0-only
"""Makes the kernel's allocations and I/O fail, one after the other.

Needs a kernel with fault injection: see Documentation/fault-injection in its
source, and tests/debug/kasan.config.
"""

import ctypes
import errno
import os
import re
import subprocess

from lib import blk, dm
from lib.errors import Failure, Skip

DEBUGFS = "/sys/kernel/debug"
ALLOCATORS = ("failslab", "fail_page_alloc")
SYS_IOCTL = 16

# This many chances to fail in one call mean an endless loop.
MOST = 20000


def _put(path, value):
    with open(path, "w", encoding="ascii") as f:
        f.write(f"{value}\n")


def _get(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def _library():
    lib = ctypes.CDLL(blk.LIBRARY)
    lib.faults_syscall.restype = ctypes.c_long
    lib.faults_syscall.argtypes = [
        ctypes.c_int, ctypes.c_uint32, ctypes.c_long,
        ctypes.POINTER(ctypes.c_long), ctypes.POINTER(ctypes.c_uint32)]
    return lib


def need():
    """Skips the test when the kernel has no fault injection."""
    if not os.path.isdir(f"{DEBUGFS}/failslab"):
        raise Skip("this kernel has no fault injection")


class Allocations:
    """Which allocations may fail, and how often; nothing fails by itself.

    Without this only those that must not sleep would: the kernel assumes that
    others never fail, which nothing promises. With only_marked it is only the
    former, of marked tasks.
    """

    def __init__(self, probability=0, only_marked=False, verbose=0):
        need()
        self.probability = probability
        self.settings = {
            "interval": 1, "times": -1, "space": 0, "verbose": verbose,
            "task-filter": "NY"[only_marked], "ignore-gfp-wait": "NY"[only_marked]}

    def __enter__(self):
        for name in ALLOCATORS:
            for key, value in self.settings.items():
                _put(f"{DEBUGFS}/{name}/{key}", value)
        _put(f"{DEBUGFS}/fail_page_alloc/ignore-gfp-highmem", "N")
        _put(f"{DEBUGFS}/fail_page_alloc/min-order", 0)
        # Last: before the filter is set this would hit everybody, and us.
        for name in ALLOCATORS:
            _put(f"{DEBUGFS}/{name}/probability", self.probability)
        return self

    def __exit__(self, *_):
        for name in ALLOCATORS:
            _put(f"{DEBUGFS}/{name}/probability", 0)


def mark_kernel_threads(yes=True):
    """Marks those that are and those that will be: kthreadd is their parent."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if not os.readlink(f"/proc/{pid}/exe"):
                continue
        except FileNotFoundError:           # no program: a kernel thread
            try:
                _put(f"/proc/{pid}/make-it-fail", int(yes))
            except OSError:
                pass                        # it has ended
        except OSError:
            pass


class Call:
    """The result of one system call with a fault in it."""

    def __init__(self, fail_nth, n, lib):
        self._fail_nth, self._n, self._lib = fail_nth, n, lib
        self.injected = False
        self.error = 0

    def syscall(self, number, *args):
        words = (ctypes.c_long * 6)(*args)
        left = ctypes.c_uint32()
        r = self._lib.faults_syscall(self._fail_nth, self._n, number, words,
                                     ctypes.byref(left))
        self.injected = left.value == 0
        self.error = -r if r < 0 else 0
        return r


class _FaultyLibc:
    """Stands in for the C library in lib.dm: one ioctl, with a fault."""

    def __init__(self, call):
        self._call = call

    def ioctl(self, fd, request, buf):
        r = self._call.syscall(SYS_IOCTL, fd, request, ctypes.addressof(buf))
        ctypes.set_errno(self._call.error)
        return min(r, 0)


class Nth:
    """Makes the nth chance of a call fail, n = 1, 2, 3... to the last.

        nth = Nth()
        for call in nth.each():
            with nth.in_ioctl(call):
                device.load(table)

    Where the same places in the code have many chances (a loop that gets pages),
    some of them do; $EVERY_FAULT=yes takes all. The loop ends after the first call
    with no fault in it. Each thread has its own.
    """

    def __init__(self):
        need()
        self._fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)
        self._lib = _library()
        self._every = bool(os.environ.get("EVERY_FAULT"))
        self.places = Places()
        self.injected = self.refused = self.chances = 0

    def each(self, every=False):
        last, step = 0, 1
        stride = 1 if every or self._every else 32
        back = False            # for what the last stride has passed over
        while True:
            call = Call(self._fd, last + step, self._lib)
            yield call
            self.injected += call.injected
            self.refused += bool(call.error)
            if call.injected and not self.places.is_new(note=step == 1):
                last += step
                step = max(step // 2, 1) if back else min(2 * step, stride)
                back = back and step > 1
            elif step > 1:
                step, back = step // 2, True
            elif call.injected:
                last, back = last + 1, False
            else:
                self.chances += last
                return
            if last > MOST:
                raise Failure(f"after {MOST} faults there are still more")

    def none(self):
        """A call without a fault."""
        return Call(self._fd, 0, self._lib)

    def in_ioctl(self, call):
        return _InIoctl(call)

    @property
    def result(self):
        text = (f"{self.chances} chances, {self.injected} faults, "
                f"{self.refused} of them seen by the caller")
        if self.places.all:
            text += f"; {len(self.places.all)} places"
        if self.places.ours:
            names = sorted({frame.split("+")[0] for frame in self.places.ours})
            text += (f", called from {len(self.places.ours)} in the module: " +
                     ", ".join(names))
        return text


class _InIoctl:
    """The device-mapper ioctl in this block has the fault; it may fail."""

    def __init__(self, call):
        self._call = call

    def __enter__(self):
        self._libc, dm._libc = dm._libc, _FaultyLibc(self._call)
        return self._call

    def __exit__(self, kind, error, _):
        dm._libc = self._libc
        return self._call.injected and isinstance(error, OSError)


class Bios:
    """Makes bios to one disk fail: the kth from now on, or each kth.

    The kernel counts the bios, and cannot be told where to start; so bios to a
    disk of our own are made to fail until the counter is known.
    """

    DIR = f"{DEBUGFS}/fail_make_request"

    def __init__(self, t):
        need()
        self._dummy = t.disk(8, fill=0, what="dummy")
        self._disk = None
        self._set(probability=0, space=0, verbose=0, task_filter="N")

    def _set(self, **settings):
        for key, value in settings.items():
            _put(f"{self.DIR}/{key.replace('_', '-')}", value)

    @staticmethod
    def _mark(disk, yes):
        _put(f"{disk.device.sysfs}/make-it-fail", int(yes))

    def _synchronize(self, k):
        """The counter becomes a multiple of k."""
        self._set(probability=100, interval=k, times=1)
        self._mark(self._dummy, True)
        for _ in range(k + 1):
            try:
                self._dummy.block.read(0, 1)
            except OSError:
                break
        else:
            raise Failure("no bio fails")
        self._mark(self._dummy, False)

    def arm(self, disk, k, each=False):
        self._synchronize(k)
        self._set(times=-1 if each else 1)
        self._disk = disk
        self._mark(disk, True)

    @property
    def fired(self):
        """The one bio has failed."""
        return _get(f"{self.DIR}/times") == "0"

    def disarm(self):
        """Returns whether the one bio has failed."""
        fired = self.fired
        if self._disk:
            self._mark(self._disk, False)
            self._disk = None
        self._set(probability=0)
        return fired


def quiet_console(yes):
    """Keeps warnings off the slow console; the log has them anyway."""
    _put("/proc/sys/kernel/printk", "4 4 1 7" if yes else "7 4 1 7")


_FRAME = re.compile(r"^ (\w\S*\+0x[0-9a-f]+)/0x[0-9a-f]+( \[dm_clone\])?")
_DEBUGGING = re.compile(r"kmemleak_alloc|_*create_object|_*debug_object|stack_depot|"
                        r"kasan_")
_OUTER = re.compile(r"dump_stack|_*should_fail|x64_sys_call|do_syscall_64|"
                    r"entry_SYSCALL")


class Places:
    """Where faults have hit: from the stack traces that come with verbose=2."""

    def __init__(self):
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self.all = set()
        self.ours = set()       # the innermost functions of the module in them

    def _lines(self):
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue
            yield record.partition(";")[2].splitlines()[0]

    def _last(self):
        """The stack trace of the last fault since the last time."""
        trace, ours, reading = (), None, False
        for line in self._lines():
            if "FAULT_INJECTION" in line:
                trace, ours, reading = (), None, "name fail_usercopy" not in line
            elif "</TASK>" in line:
                reading = False
            elif reading:
                frame = _FRAME.match(line)
                if frame and not _OUTER.match(frame[1]):
                    trace += (frame[1],)
                    if frame[2] and not ours:
                        ours = frame[1]
        return trace, ours

    def is_new(self, note):
        """Whether the last fault was in a place that has not been noted before.

        What the kernel's own checks allocate, or copying to the caller, is none.
        """
        trace, ours = self._last()
        if ours:
            self.ours.add(ours)
        if not trace or any(map(_DEBUGGING.match, trace)):
            return False
        new = trace not in self.all
        if note:
            self.all.add(trace)
        return new


def module_file():
    """The module's file, as modprobe would load it."""
    done = subprocess.run(["modinfo", "-n", "dm_clone"], capture_output=True,
                          text=True, check=False)
    path = done.stdout.strip()
    if done.returncode or not path.endswith(".ko"):
        raise Skip("the target is built in, or its module cannot be found")
    return path


EXPECTED = (errno.ENOMEM, errno.EFAULT)
