# SPDX-License-Identifier: GPL-2.0-only
"""A clone with its three devices, as the tests use it."""

import re
import threading
import time

from lib import dm, metadata
from lib.blk import SOURCE, Block, Model, RandomIo
from lib.errors import Failure

FEATURES = ("no_hydration", "no_discard_passdown", "hydrate_on_read",
            "zeroed_destination")
CORE_ARGS = ("hydration_threshold", "hydration_batch_size")

STATUS = re.compile(
    r"(?P<block>\d+) (?P<used>\d+)/(?P<total>\d+) (?P<region_size>\d+) "
    r"(?P<hydrated>\d+)/(?P<regions>\d+) (?P<hydrating>\d+) "
    r"(?P<rest>.*) (?P<mode>rw|ro)")


class Status:
    """A strictly parsed status line.

    Less strict parsers are served as well; a stricter one would refuse what the
    kernel's own target prints.
    """

    def __init__(self, text):
        self.text = text
        self.mode = text
        if text in ("Fail", "Error"):
            return
        match = STATUS.fullmatch(text)
        if not match:
            raise Failure(f"not a status line: {text!r}")
        for key in ("block", "used", "total", "region_size", "hydrated",
                    "regions", "hydrating"):
            number = match[key]
            if number != str(int(number)):
                raise Failure(f"{key} is not a plain number: {text!r}")
            setattr(self, key, int(number))
        self.mode = match["mode"]
        self._parse_groups(match["rest"].split(" "))

    def _group(self, words):
        if not words or not words[0].isdigit() or len(words) <= int(words[0]):
            raise Failure(f"a group's count is wrong: {self.text!r}")
        count = int(words[0])
        return words[1:count + 1], words[count + 1:]

    def _parse_groups(self, words):
        self.features, words = self._group(words)
        core, words = self._group(words)
        if words or len(core) % 2:
            raise Failure(f"too many words: {self.text!r}")
        if set(self.features) - set(FEATURES):
            raise Failure(f"unknown features: {self.text!r}")
        self.core = dict(zip(core[::2], map(int, core[1::2])))
        if list(self.core)[:2] != list(CORE_ARGS):
            raise Failure(f"core arguments out of order: {self.text!r}")

    @property
    def failed(self):
        return self.mode in ("Fail", "Error")

    @property
    def done(self):
        return not self.failed and self.hydrated == self.regions


class Clone:
    """Made by Context.clone(); see there for the arguments."""

    def __init__(self, context, name, meta, dest, source, size, region, features,
                 core, offset, before, origin_stamp=SOURCE):
        self.context = context
        self.name = name
        self.meta, self.dest, self.source = meta, dest, source
        self.size, self.region = size, region
        self.features, self.core = list(features), dict(core)
        self.offset, self.before = offset, before
        self.regions = -(-size // region)
        self.model = Model(size, origin_stamp, first=offset, origin=offset)
        self.device = None
        self._block = None
        self._opening = threading.Lock()

    # Tables

    def line(self, features=None, core=None):
        features = self.features if features is None else features
        core = self.core if core is None else core
        words = [self.meta.number, self.dest.number, self.source.number,
                 self.region]
        if features or core:
            words += [len(features), *features]
        if core:
            words += [2 * len(core), *(w for kv in core.items() for w in kv)]
        return " ".join(map(str, words))

    def table(self, **changed):
        mine = (self.offset, self.size, "clone", self.line(**changed))
        return self.before + [mine]

    # Life

    def activate(self):
        self.device = dm.Device(self.name)
        try:
            self.device.load(self.table())
            self.device.resume()
        except OSError:
            self.device.remove()
            self.device = None
            raise
        return self

    def deactivate(self):
        self.close_block()
        if self.device:
            self.device.remove()
            self.device = None
            self.check_metadata()

    def check_metadata(self):
        """What clone_check says, by the same code, of what is left on the device.

        Not while the device fails, nor after it has lied or a test has changed it. Only
        blocks that are in use are read: that takes no time.
        """
        sound = all(getattr(self.meta, name, True) for name in ("healthy", "sound_metadata"))
        if sound and not self.context.peer:
            metadata.check_device(self.meta.path)

    def reactivate(self):
        self.deactivate()
        return self.activate()

    def reload(self, noflush=False, **changed):
        """Replaces the live table by one with other features or arguments."""
        self.features = list(changed.get("features", self.features))
        self.core = dict(changed.get("core", self.core))
        self.device.reload(self.table(), noflush)

    def swap_to_linear(self, lockfs=False):
        mine = (self.offset, self.size, "linear", f"{self.dest.number} 0")
        self.device.reload(self.before + [mine], lockfs=lockfs)

    @property
    def path(self):
        return self.device.path

    @property
    def block(self):
        with self._opening:
            if not self._block:
                self._block = Block(self.path)
            return self._block

    def close_block(self):
        if self._block:
            self._block.close()
            self._block = None

    # I/O that the model knows of

    def put(self, sector, nr, stamp=None, fua=False):
        """Writes sectors (of the target) and notes it in the model."""
        stamp = stamp or self.context.stamp()
        self.block.put(self.offset + sector, nr, stamp, fua, self.offset)
        self.model.set(self.offset + sector, nr, stamp)
        return stamp

    def get(self, sector, nr=1):
        return self.block.get(self.offset + sector, nr, self.offset)

    def discard(self, sector=0, nr=None):
        """Discards; the model is up to the caller."""
        nr = self.size - sector if nr is None else nr
        self.block.discard(self.offset + sector, nr)

    def flush(self):
        self.block.flush()

    def random_io(self, **args):
        args.setdefault("seed", self.context.rng.randrange(1 << 32))
        return RandomIo(self.block, self.model, region_size=self.region, **args)

    # What it is, and what it should be

    def status(self, noflush=True):
        return Status(self.device.status(noflush, index=len(self.before)))

    def mode(self):
        return self.status().mode

    def expect(self, **expected):
        """The status has these values, by the names of Status; returns it."""
        status = self.status()
        for name, value in expected.items():
            found = getattr(status, name, None)
            if found != value:
                raise Failure(f"{name}: expected {value}, found {found}; "
                              f"status: {status.text}")
        return status

    def check(self):
        """The whole device reads as the model says."""
        self.model.check(self.block)

    def check_left_behind(self):
        """After deactivation: the metadata says truly where all data is."""
        image = metadata.read(self.meta.block)
        if image.region_size != self.region or image.target_size != self.size:
            raise Failure(f"the metadata is for {image.target_size} sectors in "
                          f"regions of {image.region_size}")
        bitmap = metadata.live_bitmap(self.meta.block, self.regions)
        self.model.check_offline(self.source.block, self.dest.block, bitmap,
                                 self.region)
        return bitmap

    def finish(self):
        """On sound disks it holds what it should, before hydration and after it; and so
        does what it leaves behind."""
        self.source.heal()
        self.dest.heal()
        self.check()
        self.hydrate()
        self.until(lambda s: not s.hydrating, "the end of all copies")
        self.check()
        self.deactivate()
        self.check_left_behind()

    def until(self, condition, what, timeout=30):
        """Waits for a status that meets a condition."""
        deadline = time.monotonic() + timeout * self.context.patience
        while True:
            status = self.status()
            if condition(status):
                return status
            if time.monotonic() > deadline:
                raise Failure(f"waited in vain for {what}; status: {status.text}")
            time.sleep(0.02)

    def until_hydrated(self, timeout=40):
        return self.until(lambda s: s.done, "the end of hydration", timeout)

    def hydrate(self, timeout=40):
        """Enables hydration, and waits for its end."""
        self.enable_hydration()
        return self.until_hydrated(timeout)

    def until_mode(self, mode, timeout=10):
        return self.until(lambda s: s.mode in mode.split("|"), f"mode {mode}",
                          timeout)

    def message(self, text):
        return self.device.message(text, sector=self.offset)

    def stats(self):
        """The words of the reply, as a dict; numbers as numbers."""
        words = (word.split("=") for word in self.message("stats").split())
        return {key: int(value) if value.lstrip("-").isdigit() else value
                for key, value in words}

    def expect_stats(self, **expected):
        """The words of stats have these values; returns them all."""
        stats = self.stats()
        for key, value in expected.items():
            if stats[key] != value:
                raise Failure(f"{key}: expected {value}, found {stats[key]}; stats: {stats}")
        return stats

    def enable_hydration(self):
        self.message("enable_hydration")

    def disable_hydration(self):
        self.message("disable_hydration")
