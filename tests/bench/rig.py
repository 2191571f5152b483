# SPDX-License-Identifier: GPL-2.0-only
"""What measurements run on: modules of one name, RAM disks, clones of them.

                    clone
                      |
        +-------------+------------+
        |             |            |
      source     destination   metadata
     (slowed)         |            |
        |             |            |
      ram0           ram1         ram2
"""

import ctypes
import os
import subprocess
import time

from lib import disks, dm
from lib.blk import MIB, Block
from lib.disks import Backing, Disk, null_blk

RAM_MIB = 1024
NAME = "bench-clone"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result, what):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


class Module:
    """One of the modules to compare; use() sees to it that it is the one loaded."""

    loaded = None

    def __init__(self, name, path):
        self.name = name
        self.path = path

    def use(self):
        if Module.loaded is self:
            return
        if Module.loaded:
            _check(_libc.delete_module(b"dm_clone", os.O_NONBLOCK), "unload dm_clone")
        # Not by insmod: to start a process takes longer than some measurements.
        with open(self.path, "rb") as file:
            image = file.read()
        _check(_libc.init_module(image, ctypes.c_ulong(len(image)), b""), self.path)
        Module.loaded = self


def prepare(ram_disks=3, mib=RAM_MIB, modules=("dm_delay", "nbd")):
    """Once a machine: the modules that everything needs."""
    subprocess.run(["modprobe", "-a", "dm_mod", "dm_persistent_data", *modules], check=True)
    disks.ram_disks(ram_disks, mib << 10)
    # null_blk is told there what it is to be like.
    subprocess.run(["modprobe", "configfs"], check=True)
    if not os.path.ismount("/sys/kernel/config"):
        subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=True)


class Nbd:
    """A remote source."""

    def __init__(self, path, host, port):
        subprocess.run(["nbd-client", host, str(port), path, "-readonly"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.number = Backing(path).number


class Queue:
    """A source and a destination with a queue of hardware each: so many requests at a
    time, of 64 KiB at most, each of which takes this long; or a bandwidth; or both."""

    def __init__(self, name, mib, depth, ms, mbps=0, scheduler="mq-deadline"):
        self.source, self.dest = (self._disk(f"{name}-{what}", mib, {
            "irqmode": 2, "completion_nsec": int(ms * 1000000), "submit_queues": 1,
            "hw_queue_depth": depth, "max_sectors": 128, "mbps": mbps},
            scheduler) for what in ("source", "dest"))
        self.source.fill(1)
        self.dest.fill(2)

    @staticmethod
    def _disk(name, mib, queue, scheduler):
        backing = null_blk(name, mib * MIB, discard=False, queue=queue)
        path = f"/sys/block/{os.path.basename(backing.path)}/queue/scheduler"
        with open(path, "w", encoding="ascii") as file:
            file.write(scheduler)
        return Disk(f"bench-{name}", mib * MIB, backing)

    def close(self):
        self.source.close()
        self.dest.close()


class Rig:
    """The disks. All of their memory is there before anything is measured."""

    def __init__(self):
        self.source, self.dest, self.meta = (
            Disk(f"bench-{what}", sectors, Backing(f"/dev/ram{number}"))
            for number, (what, sectors) in enumerate(
                [("source", RAM_MIB * MIB), ("dest", RAM_MIB * MIB), ("meta", 64 * MIB)]))
        self.source.fill(1)
        self.dest.fill(2)

    def slow_source(self, delay_ms):
        """The source, each read of which takes this long."""
        if delay_ms:
            self.source.delay(delay_ms)
        else:
            self.source.heal()
        return self.source

    def clone(self, source, mib, region_kib, features=(), dest=None):
        """A new clone that copies nothing yet."""
        self.meta.block.fill(0, 0, 8)
        return Clone(self, source, dest or self.dest, mib, region_kib, features)


class Clone:
    """To be used as a context. Features are further ones: it begins with no_hydration."""

    def __init__(self, rig, source, dest, mib, region_kib, features):
        self.mib = mib
        self.region_kib = region_kib
        words = ["no_hydration", *features]
        line = (f"{rig.meta.number} {dest.number} {source.number} {region_kib * 2} "
                f"{len(words)} {' '.join(words)}")
        self.device = dm.Device(NAME)
        try:
            self.device.load([(0, mib * MIB, "clone", line)])
            self.device.resume()
        except OSError:
            self.device.remove()
            raise
        self.path = self.device.path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.device.remove()

    def message(self, text):
        return self.device.message(text)

    def _regions(self):
        """(hydrated, all)"""
        return map(int, self.device.status(noflush=True).split()[3].split("/"))

    @property
    def hydrated_mib(self):
        hydrated, regions = self._regions()
        return hydrated * self.mib / regions

    @property
    def hydrating(self):
        return int(self.device.status(noflush=True).split()[4])

    def hydrate_every_other(self):
        """Overwrites every other region: what is left is in small pieces."""
        region = self.region_kib * 2
        data = bytes(region * 512)
        with Block(self.path) as block:
            for sector in range(0, self.mib * MIB, 2 * region):
                block.write(sector, data)

    def hydrate(self, limit):
        """Copies until all is done, or the time is up: (seconds, MiB copied)."""
        first, began = self.hydrated_mib, time.monotonic()
        self.message("enable_hydration")
        while True:
            now, seconds = self.hydrated_mib, time.monotonic() - began
            if now == self.mib or seconds > limit:
                return seconds, now - first
            time.sleep(0.004)

    def pause(self):
        """Stops copying, and waits for what is under way."""
        self.message("disable_hydration")
        while self.hydrating:
            time.sleep(0.004)
