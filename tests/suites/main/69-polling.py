# SPDX-License-Identifier: GPL-2.0-only
"""Polling is not offered: the kernel would have each polled request fail."""

import ctypes
import os

from lib.blk import FORMER
from lib.errors import Failure
from lib.framework import test

RWF_HIPRI = 1
SIZE = 16 * 2048
POLLED = {"queue": {"submit_queues": 1, "poll_queues": 1}, "cache": False}


def offers_polling(device):
    with open(f"{device.sysfs}/queue/io_poll", encoding="ascii") as f:
        return f.read().strip() == "1"


def read_polled(path, nr=8):
    """The first sectors, by preadv2()."""
    page = ctypes.create_string_buffer(nr * 512 + 4096)
    at = ctypes.addressof(page) + -ctypes.addressof(page) % 4096
    data = (ctypes.c_char * (nr * 512)).from_address(at)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        if os.preadv(fd, [memoryview(data).cast("B")], 0, RWF_HIPRI) != nr * 512:
            raise Failure("a short read")
    finally:
        os.close(fd)
    return bytes(data)


@test("polling is not offered before the swap to linear, whatever the destination can do")
def _(t):
    dest = t.disk(SIZE, "null", fill=FORMER, what="dest", **POLLED)
    if not offers_polling(dest.device):
        t.skip("null_blk does not poll here")
    clone = t.clone(region=8, size=SIZE, dest=dest, features=["no_hydration"])
    for what in "a new clone", "one that is done", "one that is done, reloaded":
        if offers_polling(clone.device):
            raise Failure(f"{what} offers polling")
        if read_polled(clone.path) != clone.source.block.read(0, 8):
            raise Failure(f"{what}: a polled read returns something else")
        clone.hydrate()
        if "reloaded" not in what and "done" in what:
            clone.reload()
    clone.check()
    clone.close_block()
    clone.swap_to_linear()
    if not offers_polling(clone.device):
        raise Failure("the linear device does not offer polling")
