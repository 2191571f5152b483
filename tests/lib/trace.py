# SPDX-License-Identifier: GPL-2.0-only
"""Counts the bios that reach a device, by the kernel's own tracepoints."""

import ctypes
import os
import re
import time

from lib.errors import Failure

TRACEFS = "/sys/kernel/tracing"
INSTANCE = f"{TRACEFS}/instances/dm-clone-tests"
EVENTS = ("block_bio_queue", "block_bio_complete")
NOTHING = "nr_sector == 0 && nr_sector == 1"

MARK = re.compile(r": tracing_mark_write: (?P<text>.*)$")
LINE = re.compile(r"^.* (?P<time>\d+\.\d+): block_bio_(?P<event>\w+): "
                  r"(?P<major>\d+),(?P<minor>\d+) (?P<rwbs>\w+) "
                  r"(?P<sector>\d+) \+ (?P<nr>\d+)")


class Bio:
    """One bio: kind is R, W, D (discard), N (write zeroes), F (only a flush)."""

    def __init__(self, match, mark):
        self.mark = mark                            # the last one before it
        self.time = float(match["time"])
        self.event = match["event"]                 # queue or complete
        self.dev = f"{match['major']}:{match['minor']}"
        # Newer kernels call write-zeroes WZ.
        self.rwbs = re.sub("^(F?)WZ", r"\1N", match["rwbs"])
        self.sector = int(match["sector"])
        self.nr = int(match["nr"])

    def __repr__(self):
        return f"{self.event} {self.dev} {self.rwbs} {self.sector}+{self.nr}"

    @property
    def flush(self):
        """It asks for a flush before its data."""
        return self.rwbs.startswith("F")

    @property
    def kind(self):
        return self.rwbs.lstrip("F")[:1] or "F"

    @property
    def fua(self):
        return "F" in self.rwbs.lstrip("F")

    @property
    def writes(self):
        """It changes what the device holds."""
        return self.nr > 0 and self.kind in "WDN"


def _put(name, text):
    with open(f"{INSTANCE}/{name}", "w", encoding="ascii") as f:
        f.write(f"{text}\n")


def record_no_names():
    """Trace instances do not record the names of tasks from now on."""
    with open(f"{TRACEFS}/options/record-cmd", "w", encoding="ascii") as f:
        f.write("0\n")


def prepare():
    """Once a run: a trace buffer of our own.

    The events are enabled here, for good, and filtered. To enable an event the
    kernel changes its own code, which QEMU's emulation of several CPUs does not
    always survive: it may loop forever in a breakpoint that is gone. The scheduler,
    from where the names of tasks are recorded, is the worst place for that.
    """
    if not os.path.isdir(f"{TRACEFS}/instances"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mount(b"tracefs", TRACEFS.encode(), b"tracefs", 0, None)
    record_no_names()
    if not os.path.isdir(INSTANCE):
        os.mkdir(INSTANCE)
    _put("tracing_on", 0)
    _put("buffer_size_kb", 4096)
    for event in EVENTS:
        _put(f"events/block/{event}/filter", NOTHING)
        _put(f"events/block/{event}/enable", 1)


def disable():
    """The opposite, for machines of one CPU: events cost nothing then."""
    for event in EVENTS:
        _put(f"events/block/{event}/enable", 0)


class Trace:
    """Watches devices ("major:minor") while its block runs.

        with Trace(disk.number) as trace:
            ...
        trace.bios          all of them, in order
    """

    def __init__(self, *devices, complete=False):
        self.devices = devices
        self.events = EVENTS if complete else EVENTS[:1]
        self.bios = []

    def __enter__(self):
        def number(device):
            major, minor = map(int, device.split(":"))
            return major << 20 | minor

        wanted = " || ".join(f"dev == {number(d)}" for d in self.devices)
        _put("tracing_on", 0)
        _put("trace", "")
        for event in self.events:
            _put(f"events/block/{event}/filter", wanted)
        # Nothing is counted outside of the block.
        self.started = time.monotonic()
        _put("tracing_on", 1)
        return self

    def __exit__(self, *_):
        _put("tracing_on", 0)
        self.seconds = time.monotonic() - self.started
        for event in self.events:
            _put(f"events/block/{event}/filter", NOTHING)
        mark = None
        with open(f"{INSTANCE}/trace", encoding="ascii", errors="replace") as f:
            for line in f:
                if "LOST" in line:
                    raise Failure("the trace buffer is too small for this test")
                match = LINE.match(line)
                if match:
                    self.bios.append(Bio(match, mark))
                elif found := MARK.search(line):
                    mark = found["text"]
        _put("trace", "")

    @staticmethod
    def mark(text):
        """What comes from now on has this mark."""
        _put("trace_marker", text)

    def of(self, device, kind=None, event="queue"):
        """The bios of one device, of one kind if given."""
        return [b for b in self.bios if b.dev == device and b.event == event and
                (kind is None or b.kind == kind)]

    def writes(self, device):
        return [b for b in self.of(device) if b.writes]

    def flushes(self, device, event="queue"):
        return [b for b in self.of(device, event=event) if b.flush]

    def commits(self, device):
        """Writes of a metadata device's superblock: one a commit."""
        return [b for b in self.writes(device) if b.sector == 0]
