# SPDX-License-Identifier: GPL-2.0-only
"""Destinations in a thin pool, which may run out of space and be extended."""

import errno
import time

from lib import kmsg
from lib.blk import MIB, SOURCE, Block
from lib.disks import modprobe
from lib.errors import Failure
from lib.framework import test

BLOCK = 128                     # of a pool, in sectors
SIZE = 4 * MIB
TIMEOUT = "/sys/module/dm_thin_pool/parameters/no_space_timeout"


class Pool:
    """Blocks of a disk, handed out to thin volumes as they are written to."""

    def __init__(self, t, blocks, features=()):
        modprobe("dm_thin_pool")
        self.t = t
        self.meta = t.disk(4 * MIB, fill=0, what="poolmeta")
        self.data = t.disk(4 * SIZE, what="pooldata")
        self.features = " ".join(map(str, [len(features) + 1, "skip_block_zeroing", *features]))
        self.volumes = 0
        self.device = t.mapped(self._table(blocks), "pool")

    def _table(self, blocks):
        return [(0, blocks * BLOCK, "thin-pool", f"{self.meta.number} {self.data.number} "
                 f"{BLOCK} 0 {self.features}")]

    def volume(self, sectors):
        self.device.message(f"create_thin {self.volumes}")
        self.volumes += 1
        return self.t.mapped([(0, sectors, "thin", f"{self.device.number} {self.volumes - 1}")],
                             "thin")

    def extend(self, blocks):
        self.device.reload(self._table(blocks))


def full_pool(t, features):
    """A clone with a change to be committed, on a pool that has just run full."""
    pool = Pool(t, 2, features)
    dest, other = pool.volume(SIZE), pool.volume(SIZE)
    clone = t.idle_clone(size=SIZE, dest=dest, former=None)
    clone.put(MIB, 8)                           # not block 0: a flush has no place to go
    with Block(other.path) as block:
        block.put(0, 8, 20)
        t.fails(lambda: block.put(BLOCK, 8, 20), errno.ENOSPC, what="one block too many")
    clone.put(MIB + 16, 8)                      # hydrated, in a block that is there
    return pool, clone


def no_space(t, clone):
    """Whoever asks for durability hears why there is none, and nothing else happens."""
    t.fails(clone.flush, errno.ENOSPC, what="a flush")
    t.fails(lambda: clone.block.put(MIB + 16, 8, 21, fua=True), errno.ENOSPC, what="FUA")
    clone.model.maybe(MIB + 16, 8, 21)
    clone.expect(mode="rw")


def goes_on(t, clone):
    clone.put(2 * MIB, 24)
    clone.flush()
    clone.check()
    clone.hydrate(60)
    clone.reactivate()
    clone.check()


PLENTY = 2 * SIZE // BLOCK


@test("a full pool: flushes fail with ENOSPC, and the clone goes on {how} when it is extended",
      ours="it has another answer", how=["by itself", "with the next flush", "at resume"])
def _(t, how):
    pool, clone = full_pool(t, ["error_if_no_space"])
    no_space(t, clone)
    if how == "at resume":
        clone.device.suspend()
        clone.expect(mode="rw")
    commits = clone.stats()["commits"]
    pool.extend(PLENTY)
    if how == "at resume":
        clone.device.resume()
    if how == "with the next flush":
        clone.flush()
    else:
        t.until(lambda: clone.stats()["commits"] > commits, "a commit")
    if clone.mode() != "rw" or clone.stats()["commits"] == commits:
        raise Failure(f"{clone.status().text}, {clone.message('stats')}")
    goes_on(t, clone)


@test("a pool that is full for a while: the log says so once", ours="it has another answer")
def _(t):
    log = kmsg.Log()
    _, clone = full_pool(t, ["error_if_no_space"])
    no_space(t, clone)
    time.sleep(3)                               # the clone tries again meanwhile
    lines = [line for line in log.read() if "no space to flush" in line]
    if len(lines) != 1:
        raise Failure(f"{lines}")


@test("a full pool that waits for space: flushes wait, then fail, and then it is extended",
      ours="it has another answer", limit=60)
def _(t):
    with open(TIMEOUT, encoding="ascii") as f:
        before = f.read()

    def set_timeout(seconds):
        with open(TIMEOUT, "w", encoding="ascii") as f:
            f.write(str(seconds))

    set_timeout(2)
    try:
        pool, clone = full_pool(t, [])
        no_space(t, clone)
    finally:
        set_timeout(before)
    pool.extend(PLENTY)
    goes_on(t, clone)


@test("a full pool, and the clone is removed: what was not committed reads as the source")
def _(t):
    pool, clone = full_pool(t, ["error_if_no_space"])
    no_space(t, clone)
    clone.reactivate()
    pool.extend(PLENTY)
    for sector in MIB, MIB + 16:
        clone.model.maybe(sector, 8, SOURCE)
    clone.check()
    goes_on(t, clone)
