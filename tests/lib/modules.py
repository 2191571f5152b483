# SPDX-License-Identifier: GPL-2.0-only
"""Other modules than the one under test, loaded in its place for a while."""

import contextlib
import ctypes
import errno
import os

BUILD = os.path.join(os.path.dirname(__file__), "../../build")
LOADED = "/sys/module/dm_clone"
# asm/unistd.h; the last are those of arm64, and of architectures that came after it.
FINIT_MODULE, DELETE_MODULE = {
    "i686": (350, 129),
    "s390x": (344, 129),
    "x86_64": (313, 176),
}.get(os.uname().machine, (273, 106))

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what, *args):
    if _libc.syscall(*args):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unload():
    """Removes the module; EWOULDBLOCK while it is in use."""
    _call("rmmod", DELETE_MODULE, b"dm_clone", os.O_NONBLOCK)


def load(path=None):
    """Replaces the module that is loaded; by the one under test if no other is named."""
    if os.path.isdir(LOADED):
        unload()
    file = os.open(path or os.environ["DM_CLONE_MODULE"], os.O_RDONLY)
    try:
        _call("insmod", FINIT_MODULE, file, b"", 0)
    finally:
        os.close(file)


def need_file(t):
    """For tests that unload the module under test: load() must find it again."""
    if os.environ["DM_CLONE_MODULE"] == "loaded":
        t.skip("only where the module under test comes from a file")


@contextlib.contextmanager
def replaced(t, path, made_by):
    """Another module; in the end it is the one under test again."""
    if t.peer:
        t.skip("another module than the one under test would be loaded")
    need_file(t)
    if not os.path.exists(path):
        t.skip(f"there is no {os.path.relpath(path, BUILD)} in build: {made_by} makes it")
    try:
        load(path)
    except OSError as error:
        load()
        if error.errno in (errno.ENOEXEC, errno.ENOKEY):
            t.skip(f"{os.path.basename(path)} is not for this kernel: {error.strerror}")
        raise
    try:
        yield load
    finally:
        t.deactivate_clones()
        load()


class Halts:
    """A module that can be stopped at places of its code, see crash/faults/HALTS.patch."""

    READER, READER_CLAIMED, BATCH, RETRY, MARKED = 1, 2, 3, 4, 5

    def __init__(self, t):
        self._t = t

    def at(self, place):
        """From now on code stops at this place; 0: it goes on."""
        with open(f"{LOADED}/parameters/halt", "w", encoding="ascii") as f:
            f.write(f"{place}\n")

    def until_at(self, place):
        def halted():
            with open(f"{LOADED}/parameters/halted", encoding="ascii") as f:
                return int(f.read()) == place

        self._t.until(halted, f"a halt at place {place}")


@contextlib.contextmanager
def halting(t):
    """The module under test, built so that it can be stopped."""
    path = f"{BUILD}/crash/fault-HALTS/dm-clone.ko"
    with replaced(t, path, "make -C tests halts"):
        halts = Halts(t)
        try:
            yield halts
        finally:
            halts.at(0)
