# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own target, to be loaded in turn with the module under test."""

import contextlib
import ctypes
import errno
import os

PEER = os.path.join(os.path.dirname(__file__), "../../build/peer/dm-clone.ko")
LOADED = "/sys/module/dm_clone"
FINIT_MODULE, DELETE_MODULE = {"x86_64": (313, 176)}.get(os.uname().machine, (273, 106))

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what, *args):
    if _libc.syscall(*args):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def path_of(who):
    return PEER if who == "peer" else os.environ["DM_CLONE_MODULE"]


def load(who):
    """Replaces the module that is loaded."""
    if os.path.isdir(LOADED):
        _call("rmmod", DELETE_MODULE, b"dm_clone", os.O_NONBLOCK)
    file = os.open(path_of(who), os.O_RDONLY)
    try:
        _call("insmod", FINIT_MODULE, file, b"", 0)
    finally:
        os.close(file)


@contextlib.contextmanager
def interchange(t):
    """Gives a function that changes modules; in the end it is ours again."""
    if t.peer or path_of("ours") == "loaded":
        t.skip("only where the module under test comes from a file")
    if not os.path.exists(PEER):
        t.skip("there is no build/peer/dm-clone.ko: scripts/build-peer makes it")
    try:
        load("peer")
    except OSError as error:
        load("ours")
        if error.errno in (errno.ENOEXEC, errno.ENOKEY):
            t.skip(f"build/peer/dm-clone.ko is not for this kernel: {error.strerror}")
        raise
    try:
        yield load
    finally:
        t.deactivate_clones()
        load("ours")
