# SPDX-License-Identifier: GPL-2.0-only
"""What the administrator's guide says to do, done as it says."""

from lib import dm
from lib.blk import MIB, check_stamp
from lib.disks import modprobe
from lib.errors import Failure
from lib.framework import test

SIZE = 4 * MIB
POOL_BLOCK = 128                # sectors
TAIL = 7                        # a stamp


class ThinVolumes:
    """Metadata and destination in one thin pool."""

    def __init__(self, t):
        modprobe("dm_thin_pool")
        self.t = t
        meta, data = t.disk(4 * MIB, fill=0, what="poolmeta"), t.disk(6 * SIZE, what="pooldata")
        self.pool = t.mapped([(0, data.sectors, "thin-pool", f"{meta.number} {data.number} "
                               f"{POOL_BLOCK} 0")], "pool")
        self.devices = [self._volume(f"create_thin {i}", i) for i in range(2)]

    def _volume(self, message, number):
        self.pool.message(message)
        return self.t.mapped([(0, SIZE, "thin", f"{self.pool.number} {number}")], "thin")

    def snapshots(self):
        for i, origin in enumerate(self.devices):
            origin.suspend()
            self.pool.message(f"create_snap {10 + i} {i}")
            origin.resume()
        return [self.t.mapped([(0, SIZE, "thin", f"{self.pool.number} {10 + i}")], "snap")
                for i in range(2)]


class PlainVolumes:
    """Metadata and destination as logical volumes that are not thin are snapshot."""

    def __init__(self, t):
        modprobe("dm_snapshot")
        self.t = t
        self.real = [t.disk(SIZE, fill=0, what="real") for _ in range(2)]
        self.devices = [t.mapped([(0, SIZE, "linear", f"{real.number} 0")], "origin")
                        for real in self.real]

    def snapshots(self):
        out = []
        for real, origin in zip(self.real, self.devices):
            cow = self.t.disk(2 * SIZE, fill=0, what="cow")
            origin.load([(0, SIZE, "snapshot-origin", real.number)])
            origin.suspend()
            out.append(self.t.mapped([(0, SIZE, "snapshot",
                                       f"{real.number} {cow.number} P 8")], "snap"))
            origin.resume()
        return out


@test("snapshots of metadata and destination, taken while a hydrating clone is suspended, "
      "are a clone of what it held then ({volumes})", limit=120,
      volumes={"thin": ThinVolumes, "plain": PlainVolumes})
def _(t, volumes):
    volumes = volumes(t)
    meta, dest = volumes.devices
    clone = t.clone(meta=meta, dest=dest, size=SIZE, former=None, active=False,
                    core={"hydration_threshold": 4, "hydration_batch_size": 1})
    clone.source.delay(40)
    clone.activate()
    for _ in range(20):
        clone.put(t.rng.randrange(SIZE - 20), t.rng.randrange(1, 20))
    clone.until(lambda s: s.hydrated > 40, "some hydration")

    clone.device.suspend()
    t.midway(clone)
    then = clone.status().hydrated
    meta, dest = volumes.snapshots()
    clone.device.resume()
    copy = t.clone(meta=meta, dest=dest, source=clone.source, size=SIZE, former=None,
                   features=["no_hydration"], active=False)
    copy.model = clone.model.copy()

    # What becomes of the clone is nothing to the snapshots.
    clone.source.heal()
    clone.put(0, SIZE // 2)
    clone.until_hydrated()
    clone.check()

    copy.activate()
    if copy.status().hydrated != then:
        raise Failure(f"{then} regions were hydrated, of the snapshot: {copy.status().text}")
    copy.check()
    copy.hydrate()
    copy.check()
    copy.swap_to_linear()
    copy.check()
    clone.check()


def tailed(t, **args):
    """A clone, and the rest of a larger destination after it."""
    source = args.pop("source", None) or t.source(SIZE)
    size = source.sectors
    dest = t.disk(2 * size, what="dest")
    dest.fill(TAIL)
    clone = t.clone(source=source, size=size, dest=dest, active=False, former=None, **args)
    clone.device = dm.Device(clone.name)
    clone.device.load([*clone.table(), (size, size, "linear", f"{dest.number} {size}")])
    clone.device.resume()
    return clone


def untail(clone):
    clone.device.reload([(0, clone.dest.sectors, "linear", f"{clone.dest.number} 0")])


@test("a linear tail makes the rest of a larger destination usable at once")
def _(t):
    clone = tailed(t, features=["no_hydration"])
    check_stamp(clone.block, SIZE, SIZE, TAIL, "the tail")
    clone.check()
    stamp = t.stamp()
    clone.block.put(SIZE - 4, 8, stamp)             # across the boundary
    clone.model.set(SIZE - 4, 4, stamp)
    clone.hydrate()
    for _ in range(2):
        clone.check()
        check_stamp(clone.block, SIZE - 4, 8, stamp, "what was written across the boundary")
        check_stamp(clone.block, SIZE + 4, SIZE - 4, TAIL, "the rest of the tail")
        untail(clone)


@test("a mounted file system grows into a linear tail while it hydrates", limit=180)
def _(t):
    source = t.disk(16 * MIB, fill=0, what="source")
    t.run("mkfs.ext4", "-q", source.path)
    clone = tailed(t, source=source, core={"hydration_threshold": 1,
                                           "hydration_batch_size": 1})
    source.delay(60)                                # one region at a time: for minutes
    where = t.mount(clone.path, "ext4")
    t.midway(clone)
    t.run("resize2fs", clone.path)
    content = t.rng.randbytes(16 << 20)             # more than there was room for
    with open(f"{where}/large", "wb") as f:
        f.write(content)
    t.midway(clone)
    source.heal()
    clone.message("hydration_threshold 4096")
    clone.message("hydration_batch_size 256")
    clone.until_hydrated(60)
    untail(clone)
    with open(f"{where}/large", "rb") as f:
        if f.read() != content:
            raise Failure("the file has changed")
    t.umount(where)
    t.run("e2fsck", "-fn", clone.path)
