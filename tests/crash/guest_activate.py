#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Has the kernel activate states of the crash replay.

    tests/vm/run --share DIR tests/crash/guest_activate.py DIR

For each state in DIR (see export_state() in replay.c) metadata and destination
are set up as a power cut left them, and a clone is made of them. All of it must
read as the oracle says. Then, unless it is a large one, it is hydrated to the
end, and the destination alone must read so once the clone is gone. The metadata
that is left then goes to DIR/after for the host to check.
"""

import argparse
import ctypes
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(HERE))
sys.path.insert(0, HERE)

from lib import disks, dm, sweep  # noqa: E402
from lib.blk import SOURCE, Block  # noqa: E402
from guest_record import load_modules, mapped  # noqa: E402
from states import find, load_library  # noqa: E402

HYDRATION_LIMIT = 240
LARGE = 200000                  # sectors


class Wrong(Exception):
    """The kernel reads something else."""


class Activation:
    def __init__(self, library, state, source_size):
        self.library, self.state = library, state
        arena = disks.Arena()
        self.made = []
        self.source = self._disk("source", source_size, arena)
        self.meta = self._disk("meta", state.meta_sectors, arena)
        self.dest = self._disk("dest", state.size, arena)
        self.clone = None

    def _disk(self, name, sectors, arena):
        backing = arena.slice(sectors)
        device = mapped(name, [(0, sectors, "linear", f"{backing.number} {backing.offset}")])
        self.made.append(device)
        return device

    def _compare(self, device, what):
        found = ctypes.c_uint32()
        view = self.state.view
        with Block(device.path, readonly=True) as block:
            sector = self.library.stamps_compare(block.fd, view, len(view),
                                                 ctypes.byref(found))
        if sector < 0:
            raise Wrong(f"{what}: {os.strerror(-sector)}")
        if sector < len(view):
            raise Wrong(f"{what}: sector {sector} reads as stamp {found.value}, "
                        f"should be {view[sector]}")

    def _set_up(self):
        with Block(self.meta.path) as block:
            block.write(0, self.state.meta)
        with Block(self.dest.path) as block:
            if self.library.stamps_write(block.fd, 0, self.state.dest, self.state.size):
                raise Wrong("the destination cannot be written")

    def _hydrate(self):
        self.clone.message("enable_hydration")
        deadline = time.monotonic() + HYDRATION_LIMIT
        while True:
            hydrated, regions = self.clone.status(noflush=True).split()[3].split("/")
            if hydrated == regions:
                return
            if time.monotonic() > deadline:
                raise Wrong(f"hydration stays at {hydrated}/{regions}")
            time.sleep(0.01)

    def go(self, after):
        self._set_up()
        table = (f"{self.meta.path} {self.dest.path} {self.source.path} "
                 f"{self.state.region} 1 no_hydration")
        self.clone = dm.Device(sweep.PREFIX + "clone")
        try:
            self.clone.load([(0, self.state.size, "clone", table)])
            self.clone.resume()
        except OSError as error:
            raise Wrong(f"it cannot be activated: {error.strerror}") from error
        self._compare(self.clone, "after the power cut")
        if self.state.size > LARGE:
            return
        self._hydrate()
        self.clone.remove()
        self.clone = None
        self._compare(self.dest, "the destination")
        with Block(self.meta.path, readonly=True) as block, open(after, "wb") as f:
            f.write(block.read(0, self.state.meta_sectors))

    def close(self):
        if self.clone:
            self.clone.remove()
        for device in self.made:
            device.remove()


def make_source(states):
    """The same source serves all clones; returns its size."""
    size = max(state.size for state in states)
    with Block(disks.Arena().slice(size).path) as block:
        block.fill(SOURCE, 0, size)
    return size


def main():
    parser = argparse.ArgumentParser(description="Has the kernel activate crash states.")
    add = parser.add_argument
    add("folder", help="where the states are; must be writable")
    add("--module", default=os.path.join(HERE, "../../dm-clone.ko"))
    add("--library", default=os.path.join(HERE, "../../build/crash/libcrash.so"))
    args = parser.parse_args()

    load_modules(args.module)
    library = load_library(args.library)
    after = os.path.join(args.folder, "after")
    os.makedirs(after, exist_ok=True)

    states = find(args.folder)
    if not states:
        sys.exit("activate: there are no states")
    source_size = make_source(states)
    good = bad = 0
    for state in states:
        activation = Activation(library, state.load(), source_size)
        try:
            activation.go(os.path.join(after, state.name))
            good += 1
        except Wrong as wrong:
            bad += 1
            print(f"state {state.name}: {wrong}", flush=True)
        activation.close()
    print(f"activated {good + bad} states, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
