# SPDX-License-Identifier: GPL-2.0-only
"""A thin pool, and how much of it is provisioned."""

from lib import disks, dm

BLOCK = 128             # sectors


class Pool:
    """Made on two disks; give it to Context.add_disk(), and its volumes after it."""

    def __init__(self, name, meta, data, block=BLOCK):
        meta.block.fill(0, 0, 8)
        self.block = block
        self.data = data
        self._volumes = []
        self._pool = dm.Device(name)
        self._pool.load([(0, data.sectors, "thin-pool",
                          f"{meta.number} {data.number} {block} 0")])
        self._pool.resume()

    def volume(self, name, sectors):
        """A fresh thin volume, however small the pool: a backing for disks."""
        number = len(self._volumes)
        self._pool.message(f"create_thin {number}")
        device = dm.Device(name)
        device.load([(0, sectors, "thin", f"{self._pool.number} {number}")])
        device.resume()
        self._volumes.append(device)
        return disks.Backing(device.path)

    @property
    def used(self):
        """Blocks of the pool that are in use."""
        return int(self._pool.status(noflush=True).split()[2].split("/")[0])

    def heal(self):
        pass

    def close(self):
        for device in reversed(self._volumes):
            device.remove()
        self._pool.remove()


def thin_disk(t, sectors, pool_sectors):
    """A disk on a fresh thin volume; and its pool."""
    meta = t.disk(8192, what="tmeta")
    data = t.disk(pool_sectors, what="tdata")
    pool = t.add_disk(Pool(t.name("pool"), meta, data))
    volume = pool.volume(t.name("thin"), sectors)
    return t.add_disk(disks.Disk(t.name("dest"), sectors, volume)), pool
