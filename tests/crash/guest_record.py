#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Records what clones under load do to their devices.

    tests/vm/run --disk LOG --share DIR tests/crash/guest_record.py --log /dev/vda DIR ...

Runs as root in a virtual machine. Each scenario is a clone on a stack of its
own, so that one log has everything that reaches metadata and destination:

          clone                     random I/O, see workload.h
         /     \\         \\
     meta     dest      source      dest may be an NVMe device on top of it
        \\     /                     (it knows write-zeroes, which log-writes
       log-writes ---> log           does not)
           |
          base                      RAM; or with delays; or null_blk

DIR gets a directory for each scenario: "info", a line for each thing the replay
must know of it, and "trace", where the bios of the clone and of the log-writes
device and the operations of the workload are, in the order of things. The data
is in the log, which is the slice of LOG that "info" names.
"""

import argparse
import ctypes
import os
import random
import shutil
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(HERE))
sys.path.insert(0, HERE)

from lib import disks, dm, sweep, trace as tracing  # noqa: E402
from lib.blk import FORMER, JUNK, MIB, SOURCE, ZERO, Block  # noqa: E402
from lib.disks import modprobe  # noqa: E402
from lib.nvme import Nvme  # noqa: E402
from states import State, load_library  # noqa: E402

TRACEFS = "/sys/kernel/tracing"
LOG_SLICE = 128 * MIB            # in sectors; as in run
OPS = ("write", "fua", "discard", "zero", "punch", "flush", "read")
FIRST_NUMBER = 16
LATER_NUMBERS = 1 << 22
ROUND_LIMIT = 240
COMMIT_LIMIT = 20

SYNC = {
    "heavy": {"write": 40, "fua": 12, "discard": 4, "zero": 3, "punch": 3,
              "flush": 16, "read": 6},
    "mixed": {"write": 50, "fua": 3, "discard": 6, "zero": 4, "punch": 4,
              "flush": 5, "read": 8},
    "free": {"write": 60, "fua": 0, "discard": 8, "zero": 5, "punch": 5,
             "flush": 0, "read": 10},
}


# With a fault in the module: where each of them has much to spoil.
FIRST_FAULT = 9000
FIRST_AGAIN = 5000
FAULT_SCENARIO = {"sync": "heavy", "stack": "delay", "hydration": "off", "end": "nothing",
                  "threads": 4, "pause_us": 0, "suspends": 0, "rounds": 1, "region": 8,
                  "max_sectors": 64, "align": 8}
# Some faults need other settings: {fault: what is different}
FAULT_PLACES = {"HALF_WAY": {"region": 128, "align": 1, "source_ms": 20}}


# What doubts of the superblock are about: see _be_shaken().
SHAKEN = {"flush_failures": 2, "resets": 2}


class Workload(ctypes.Structure):
    _fields_ = [("device", ctypes.c_char_p), ("marker", ctypes.c_int),
                ("threads", ctypes.c_uint32), ("ops", ctypes.c_uint32),
                ("seed", ctypes.c_uint64), ("sectors", ctypes.c_uint64),
                ("region_size", ctypes.c_uint32), ("align", ctypes.c_uint32),
                ("max_sectors", ctypes.c_uint32), ("pause_us", ctypes.c_uint32),
                ("weight", ctypes.c_uint32 * len(OPS)),
                ("first_number", ctypes.c_uint32), ("stop", ctypes.c_uint32),
                ("failed", ctypes.c_uint32)]


class Scenario:
    """What to do, chosen by a seed; the main things take turns."""

    def __init__(self, seed, number, only=None):
        rng = random.Random(f"{seed} {number}")
        self.seed, self.number = seed, number
        n = number + random.Random(seed).randrange(360)
        self.region = (8, 128)[n % 2]
        self.sync = ("heavy", "mixed", "free")[n % 3]
        self.stack = ("delay", "nvme", "ram", "delay", "null")[n % 5]
        self.end = ("nothing", "suspend", "nothing", "remove")[n // 2 % 4]
        self.hydration = ("on", "off", "late")[n // 3 % 3]
        self.passdown = rng.random() < 0.7
        # The last region is a short one.
        self.size = (16384 if self.region == 8 else 49152) - rng.randrange(1, 8)
        self.meta = rng.choice((512, 1024, 2048))
        self.rounds = rng.choice((1, 1, 2))
        self.threads = rng.choice((2, 4, 6))
        # Commits that nobody asks for come once a second: time for some of
        # them.
        self.seconds = rng.uniform(2, 3.5) if self.sync == "free" else rng.uniform(1, 2)
        self.ops = {"heavy": 500, "mixed": 700, "free": 1000}[self.sync] // self.rounds
        self.pause_us = 10000 if self.sync == "free" else rng.choice((0, 0, 6000))
        self.max_sectors = rng.choice((16, 64)) if self.region == 8 else rng.choice((128, 512))
        self.align = rng.choice((1, 1, 8))
        self.core = rng.choice(({}, {"hydration_threshold": 2, "hydration_batch_size": 1},
                                {"hydration_threshold": 8, "hydration_batch_size": 4}))
        # Flushes of the metadata fail for a while; the machine is reset between
        # rounds.
        self.flush_failures = 0
        self.resets = 0
        self.suspends = rng.choice((0, 0, 1, 2))
        self.reloads = rng.choice((0, 0, 1))
        self.discards = 1
        # Arguments that the kernel's own target does not know.
        self.ours = 1
        self.rate = rng.choice((0, 0, 2000))
        self.reading = rng.random() < 0.4
        self.zeroed = rng.random() < 0.3
        self.source_ms = rng.choice((0, 0, 5))
        self.initial = None
        if n % 12 == 7:
            self._be_big(rng)
        for name, value in (only or {}).items():
            setattr(self, name, type(getattr(self, name))(value))
        self.is_shaken = bool(self.flush_failures or self.resets)
        if self.is_shaken:
            self._be_shaken(rng)
        self.rng = rng

    def _be_big(self, rng):
        """So many regions that the bitset has several blocks."""
        self.region, self.max_sectors, self.meta = 8, 256, 2048
        self.size = 540000 - rng.randrange(1, 8)
        self.hydration = "off"
        if self.stack == "null":
            self.stack = "delay"

    def _be_shaken(self, rng):
        """Commit after commit, on devices that take time, so that one is always under way;
        of several blocks, so that what is overwritten becomes something else."""
        self._be_big(rng)
        self.sync, self.stack, self.end = "heavy", "delay", "nothing"
        # What fails does so at once: not all of it may be used up by that.
        self.threads, self.pause_us, self.seconds, self.ops = 4, 2000, 3, 4000
        self.max_sectors = 64
        self.suspends = self.reloads = 0
        self.rounds = 1 + self.resets

    @property
    def former(self):
        """What the destination holds before."""
        return ZERO if self.ours and self.zeroed else FORMER

    def start_with(self, state):
        """The clone begins with what a power cut has left."""
        self.initial = state
        self.region, self.size, self.meta = state.region, state.size, state.meta_sectors
        self.max_sectors = 64 if self.region == 8 else 512

    def __str__(self):
        more = ", reading" * self.reading + ", zeroed" * self.zeroed + \
            ", flush failures" * bool(self.flush_failures) + ", resets" * bool(self.resets)
        return (f"{'again, ' if self.initial else ''}"
                f"{-(-self.size // self.region)} regions of {self.region // 2} KiB, "
                f"fsync-{self.sync}, hydration {self.hydration}, "
                f"{self.stack}, {self.threads} threads{more if self.ours else ''}, ends with {self.end}")


# The trace -------------------------------------------------------------------

class Trace:
    """An ftrace instance whose clock is a counter: all events have an order.

    Its events stay enabled, and are filtered: see prepare() in tests/lib/trace.py.
    """

    def __init__(self):
        self.path = f"{TRACEFS}/instances/dm-clone-crash"
        tracing.record_no_names()
        if not os.path.isdir(self.path):
            os.mkdir(self.path)
        self._put("trace_clock", "counter")
        self._put("buffer_size_kb", 16384)
        self._watch(tracing.NOTHING)
        for event in tracing.EVENTS:
            self._put(f"events/block/{event}/enable", 1)
        self.marker = os.open(f"{self.path}/trace_marker", os.O_WRONLY)

    def _put(self, name, text):
        with open(f"{self.path}/{name}", "w", encoding="ascii") as f:
            f.write(f"{text}\n")

    def _watch(self, what):
        for event in tracing.EVENTS:
            self._put(f"events/block/{event}/filter", what)

    def start(self, devices):
        wanted = " || ".join(f"dev == {d.major << 20 | d.minor}" for d in devices)
        self._put("trace", "")
        self._watch(f'({wanted}) && !(rwbs ~ "R*")')
        self._put("tracing_on", 1)

    def mark(self, text):
        os.write(self.marker, text.encode())

    def save(self, path):
        self._put("tracing_on", 0)
        self._watch(tracing.NOTHING)
        for cpu in range(os.cpu_count()):
            with open(f"{self.path}/per_cpu/cpu{cpu}/stats", encoding="ascii") as f:
                stats = dict(line.split(":") for line in f)
            if int(stats["overrun"]) or int(stats["dropped events"]):
                raise SystemExit("record: the trace buffer is too small")
        with open(f"{self.path}/trace", "rb") as f, open(path, "wb") as out:
            while data := f.read(1 << 20):
                out.write(data)


# The stack -------------------------------------------------------------------

def mapped(name, table):
    device = dm.Device(sweep.PREFIX + name)
    device.load(table)
    device.resume()
    return device


class Meta(disks.Cache):
    """The metadata device."""

    def __init__(self, sectors, backing):
        backing.sectors = sectors
        super().__init__(f"{sweep.PREFIX}meta", backing)

    def vanish(self):
        """From now on everything fails: flushes too, which an error target lets pass."""
        place = f"{self.backing.number} {self.backing.offset}"
        self._swap([(0, self.sectors, "flakey", f"{place} 0 1000 0")])

    def come_back(self):
        self.flushes.heal()
        self.hold_some()

    def remove(self):
        self.close()


class Dest(disks.Disk):
    """The destination."""

    def _linear(self, first=0, nr=None):
        # For the sake of flushes, see Stack._part().
        return self._delayed(first, self.sectors - first if nr is None else nr, 0)

    def remove(self):
        self.close()


class Stack:
    """The devices below a clone. None of it is there again after remove()."""

    def __init__(self, scenario, library, log, log_offset):
        s = self.scenario = scenario
        self.library = library
        self._made = []
        arena = disks.Arena()
        self.source = self._linear("source", s.size, arena.slice(s.size))
        with Block(self.source.path) as block:
            block.fill(SOURCE)
        if s.source_ms:
            self.source = self._add(mapped("slow", [
                (0, s.size, "delay", f"{self.source.number} 0 {s.source_ms}")]))

        total = s.meta + s.size
        backing = self._backing(arena, total)
        self._fill_base(backing, total)
        base = self._add(mapped("base", self._base_table(backing, total)))
        log_slice = self._linear("log", LOG_SLICE, disks.Backing(log, log_offset))
        self.log = self._add(mapped("logged", [(0, total, "log-writes",
                                                f"{base.path} {log_slice.path}")]))
        if s.is_shaken:
            self._add_moody_disks()
            return
        self.meta = self._part("meta", s.meta, disks.Backing(self.log.path))
        self.dest = self._part("dest", s.size, disks.Backing(self.log.path, s.meta))
        self.dest_path = self.dest.path
        if s.stack == "nvme":
            self.dest_path = self._add(Nvme(self.dest.path)).path

    def _add_moody_disks(self):
        """Metadata and destination, for flushes that fail and resets."""
        s = self.scenario
        self.meta = self._add(Meta(s.meta, disks.Backing(self.log.path)))
        self.dest = self._add(Dest(f"{sweep.PREFIX}dest", s.size,
                                   disks.Backing(self.log.path, s.meta)))
        self.dest_path = self.dest.path

    def _add(self, thing):
        self._made.append(thing)
        return thing

    def _linear(self, name, sectors, backing):
        return self._add(mapped(name, [(0, sectors, "linear",
                                        f"{backing.number} {backing.offset}")]))

    def _part(self, name, sectors, backing):
        """As a linear one. But newer kernels send flushes past that, and then they don't
        tell where they come from."""
        return self._add(mapped(name, [(0, sectors, "delay",
                                        f"{backing.number} {backing.offset} 0")]))

    def _backing(self, arena, sectors):
        if self.scenario.stack != "null":
            return arena.slice(sectors)
        modprobe("null_blk", "nr_devices=0")
        name = sweep.PREFIX + "null"
        path = f"{sweep.NULLB}/{name}"
        os.mkdir(path)
        for key, value in (("memory_backed", 1), ("blocksize", 512),
                           ("size", -(-sectors // MIB)), ("queue_mode", 2),
                           ("irqmode", 2), ("completion_nsec", 500000),
                           ("submit_queues", 2), ("power", 1)):
            with open(f"{path}/{key}", "w", encoding="ascii") as f:
                f.write(f"{value}\n")
        backing = disks.Backing(disks._null_blk_node(name, path),
                                end=lambda: os.rmdir(path))
        backing.remove = backing.close
        return self._add(backing)

    def _fill_base(self, backing, total):
        meta, state = self.scenario.meta, self.scenario.initial
        with Block(backing.path) as block:
            if state:
                block.write(backing.offset, state.meta)
                if self.library.stamps_write(block.fd, backing.offset + meta, state.dest,
                                             state.size):
                    raise SystemExit("record: the destination cannot be written")
                return
            block.fill(JUNK, backing.offset, meta, origin=backing.offset)
            block.fill(ZERO, backing.offset, 8)
            block.fill(self.scenario.former, backing.offset + meta, total - meta,
                       origin=backing.offset + meta)

    def _base_table(self, backing, total):
        """A linear table; or three pieces, each with delays of its own."""
        if self.scenario.stack != "delay":
            return [(0, total, "linear", f"{backing.number} {backing.offset}")]
        rng, meta = self.scenario.rng, self.scenario.meta
        half = (total - meta) // 2
        table = []
        for first, nr in (0, meta), (meta, half), (meta + half, total - meta - half):
            place = f"{backing.number} {backing.offset + first}"
            table.append((first, nr, "delay", f"{place} 0 {place} {rng.randrange(1, 5)} "
                          f"{place} {rng.randrange(1, 8)}"))
        return table

    def remove(self):
        for thing in reversed(self._made):
            thing.remove()


# The run ---------------------------------------------------------------------

class Run:
    """A clone under load, from its creation to its end."""

    def __init__(self, scenario, stack, trace, library):
        self.scenario, self.stack, self.trace, self.library = scenario, stack, trace, library
        self.devices = [dm.Device(f"{sweep.PREFIX}clone{n}")
                        for n in range(scenario.rounds)]
        # Operations of the run that a state is from had the lower numbers.
        self.number = FIRST_NUMBER + (LATER_NUMBERS if scenario.initial else 0)

    def _table(self):
        s = self.scenario
        words = [self.stack.meta.path, self.stack.dest_path, self.stack.source.path, s.region]
        features = [] if s.passdown else ["no_discard_passdown"]
        if s.hydration != "on":
            features.append("no_hydration")
        if s.ours and s.reading:
            features.append("hydrate_on_read")
        if s.ours and s.zeroed:
            features.append("zeroed_destination")
        core = dict(s.core)
        if s.ours and s.rate:
            core["hydration_rate"] = s.rate
        words += [len(features), *features, 2 * len(core)]
        words += [word for item in core.items() for word in item]
        return [(0, s.size, "clone", " ".join(map(str, words)))]

    def _workload(self, device):
        s = self.scenario
        load = Workload(device.path.encode(), self.trace.marker, s.threads,
                        s.ops,
                        s.rng.randrange(1 << 63), s.size, s.region, s.align,
                        s.max_sectors, s.pause_us)
        for i, op in enumerate(OPS):
            load.weight[i] = SYNC[s.sync][op] if op != "discard" or s.discards else 0
        load.first_number = self.number
        self.number += 1 << 20
        return load

    def _suspend(self, device):
        noflush = self.scenario.rng.random() < 0.3
        self.trace.mark("X suspend")
        device.suspend(noflush=noflush)
        self.trace.mark("X suspended")

    def _disturb(self, device, thread, seconds):
        """What happens while the load runs, for this long."""
        s = self.scenario
        acts = ["suspend"] * s.suspends + ["hydrate"] * (s.hydration == "late")
        acts += ["reload"] * s.reloads + ["fail"] * s.flush_failures + [""]
        s.rng.shuffle(acts)
        deadline = time.monotonic() + seconds
        for i, act in enumerate(acts):
            left = max(deadline - time.monotonic(), 0) / (len(acts) - i)
            thread.join(left * s.rng.uniform(0.5, 1))
            if not act:
                continue
            if act == "hydrate":
                device.message("enable_hydration")
            elif act == "fail":
                # After the first one room is looked for from the start: where
                # the superblock has its blocks that is durable when the second
                # one fails.
                self._fail_flushes(device)
                self._fail_flushes(device)
            else:
                if act == "reload":
                    device.load(self._table())
                self._suspend(device)
                time.sleep(0.02)
                device.resume()

    def _fail_flushes(self, device):
        """For a while, in which it is resumed in vain."""
        self._fail_flush(device)
        for healed in False, False, True:
            time.sleep(0.03)
            self.trace.mark("X flush failed")
            if healed:
                self.stack.meta.flushes.heal()
            device.suspend(noflush=True)
            device.resume()

    def _fail_flush(self, device):
        """After the next superblock's write, and from then on."""
        meta = self.stack.meta
        meta.hold_some(superblock=True)
        self._until(lambda: meta.waiting, "a superblock on its way")
        meta.flushes.fail_writes()
        meta.hold_some()
        self._until(lambda: device.status(noflush=True).split()[-1] != "rw", "a commit that fails")
        self.trace.mark("X flush failed")

    @staticmethod
    def _until(condition, what):
        deadline = time.monotonic() + COMMIT_LIMIT
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"record: {what} does not come")
            time.sleep(0.005)

    def _reset(self, device):
        """The machine stops, the disks keep what is in their caches."""
        if self.scenario.flush_failures:
            self._fail_flushes(device)          # see _disturb()
            self._fail_flush(device)
        self.stack.meta.vanish()
        self.stack.dest.fail_writes()
        self.trace.mark("X reset")

    def _finish(self, device):
        """The last round ends while the load runs."""
        if self.scenario.end == "nothing":
            self.trace.mark("X end")
        elif self.scenario.end == "suspend":
            self._suspend(device)
            self.trace.mark("X end")
            device.resume()

    def _remove(self, device):
        self.trace.mark("X suspend")
        device.remove()
        self.trace.mark("X suspended")

    def round(self, device, last):
        s = self.scenario
        device.load(self._table())
        device.resume()
        load = self._workload(device)
        thread = threading.Thread(target=self.library.workload_run,
                                  args=(ctypes.byref(load),))
        thread.start()
        self._disturb(device, thread, s.seconds)
        if last:
            self._finish(device)
        elif s.resets:
            self._reset(device)
        load.stop = 1
        thread.join(ROUND_LIMIT)
        if thread.is_alive():
            raise SystemExit(f"record: the load does not end\n{sweep.blocked_tasks(os.getpid())}")
        if load.failed and not s.is_shaken:
            raise SystemExit(f"record: {load.failed} operations failed")
        if s.resets and not last:
            device.remove()
            self.stack.meta.come_back()
            self.stack.dest.heal()
            return
        self._remove(device)
        if last and s.end == "remove":
            self.trace.mark("X end")

    def go(self):
        for i, device in enumerate(self.devices):
            self.round(device, i == len(self.devices) - 1)


def record(scenario, args, trace, library, place):
    began = time.monotonic()
    stack = Stack(scenario, library, args.log, place * LOG_SLICE)
    run = Run(scenario, stack, trace, library)
    folder = os.path.join(args.folder, f"{scenario.number:04}")
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/info", "w", encoding="ascii") as f:
        for key, value in (
                ("scenario", scenario), ("seed", scenario.seed), ("number", scenario.number),
                ("log_offset", place * LOG_SLICE), ("meta_sectors", scenario.meta),
                ("target_size", scenario.size), ("region_size", scenario.region),
                ("keeps", int(not scenario.passdown)), ("logged", stack.log.number),
                ("clones", " ".join(d.number for d in run.devices)),
                ("source_stamp", SOURCE), ("former_stamp", scenario.former), ("junk_stamp", JUNK)):
            f.write(f"{key} {value}\n")
        if scenario.initial:
            f.write("initial yes\n")
            shutil.copy(scenario.initial.path, f"{folder}/initial")

    trace.start([stack.log, *run.devices])
    run.go()
    stack.remove()      # the log is complete now
    trace.save(f"{folder}/trace")
    print(f"recorded {scenario.number}: {scenario}, {time.monotonic() - began:.1f} s",
          flush=True)


def load_modules(module):
    os.environ["DM_DISABLE_UDEV"] = "1"
    modprobe("-a", "dm_mod", "dm_persistent_data", "dm_delay", "dm_flakey", "dm_log_writes", "configfs")
    if not os.path.ismount("/sys/kernel/config"):
        os.makedirs("/sys/kernel/config", exist_ok=True)
        if os.system("mount -t configfs configfs /sys/kernel/config"):
            raise SystemExit("record: no configfs")
    if not os.path.exists(disks.ARENA):
        disks.ram_disks(1, disks.ARENA_KIB)
    if os.path.isdir("/sys/module/dm_clone") and os.system("rmmod dm_clone"):
        raise SystemExit("record: the module cannot be removed")
    if os.system(f"insmod {module}"):
        raise SystemExit("record: no module")


def main():
    parser = argparse.ArgumentParser(description="Records what clones under load do.")
    add = parser.add_argument
    add("folder", help="a writable directory for the recordings")
    add("--log", required=True, help="a block device for the logs, 128 MiB each")
    add("--module", default=os.path.join(HERE, "../../dm-clone.ko"))
    add("--library", default=os.path.join(HERE, "../../build/crash/libcrash.so"))
    add("--seed", type=int, default=1)
    add("--first", type=int, default=0, help="number of the first scenario")
    add("--count", type=int, default=0)
    add("--initial", action="append", default=[], metavar="STATE",
        help="then record a scenario that begins with a state of the replay")
    add("--fault", action="append", default=[], metavar="MODULE",
        help="then record a scenario with a module that has a fault")
    add("--set", action="append", default=[], metavar="NAME=VALUE",
        help="something that is to be the same in all scenarios")
    add("--shaken", type=int, default=0, metavar="NUMBER",
        help="in the last ones of --count, metadata flushes fail and the machine is reset")
    args = parser.parse_args()

    load_modules(args.module)
    library = load_library(args.library)
    trace = Trace()
    only = dict(item.split("=") for item in args.set)
    for place in range(args.count):
        shaken = SHAKEN if place >= args.count - args.shaken else {}
        scenario = Scenario(args.seed, args.first + place, {**shaken, **only})
        record(scenario, args, trace, library, place)
    place = args.count
    for i, path in enumerate(args.initial):
        scenario = Scenario(args.seed, FIRST_AGAIN + i, only)
        scenario.start_with(State(path).load())
        record(scenario, args, trace, library, place)
        place += 1
    for i, module in enumerate(args.fault):
        load_modules(module)
        fault = os.path.basename(os.path.dirname(module)).removeprefix("fault-")
        scenario = Scenario(args.seed, FIRST_FAULT + i,
                            {**FAULT_SCENARIO, **FAULT_PLACES.get(fault, {})})
        record(scenario, args, trace, library, place)
        place += 1


if __name__ == "__main__":
    main()
