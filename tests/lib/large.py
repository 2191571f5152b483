# SPDX-License-Identifier: GPL-2.0-only
"""A clone of many regions, without content."""

from lib import dm, metadata
from lib.blk import FORMER, Block
from lib.clone import Status
from lib.errors import Failure


class Large:
    """A clone of devices without content: only its metadata counts."""

    def __init__(self, t, regions):
        self.regions, self.size = regions, regions * 8 - 3
        nothing = t.mapped([(0, self.size, "zero", "")], "source")
        sink = t.mapped([(0, self.size, "zero", "")], "dest")
        self.meta = t.metadata()
        self.line = f"{self.meta.number} {sink.number} {nothing.number} 8 1 no_hydration"
        self.written = bytearray(-(-regions // 8))
        self.rng = t.rng

    def write(self, block, region):
        first = region * 8
        block.put(first, min(8, self.size - first), FORMER)
        self.written[region // 8] |= 1 << region % 8

    def use(self, name):
        """Whole regions, here and there, and where blocks of the bitset meet."""
        device = dm.Device(name)
        try:
            device.load([(0, self.size, "clone", self.line)])
            device.resume()
            status = Status(device.status())
            if status.hydrated != metadata.weight(self.written, self.regions):
                raise Failure(f"finds {status.hydrated} regions hydrated")
            edges = list(range(509 * 64 - 1, self.regions - 1, 509 * 64))
            with Block(device.path) as block:
                for region in self.rng.sample(edges, min(20, len(edges))):
                    self.write(block, region)
                    self.write(block, region + 1)
                for region in self.rng.sample(range(self.regions), 60):
                    self.write(block, region)
                self.write(block, self.regions - 1)
        finally:
            device.remove()

    def check(self):
        metadata.check(self.meta.image())
        image = metadata.read(self.meta.block)
        if image.bitmap(self.meta.block, self.regions) != bytes(self.written):
            raise Failure("the regions written and those hydrated are not the same")
