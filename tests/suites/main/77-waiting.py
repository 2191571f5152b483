# SPDX-License-Identifier: GPL-2.0-only
"""Devices that fail everything: hydration waits for them, and costs next to nothing."""

import errno
import math
import time

from lib import kmsg
from lib.blk import MIB
from lib.errors import Failure, Missed
from lib.framework import test

OURS = "it has nothing of the kind"
TRIES = 16                      # failures in a row after which it waits at first
LARGEST_WINDOW = 128            # copies that may be under way when it begins to wait
MAX_RANGES = 1024


def errors(clone):
    """Reads and writes of copies that have failed."""
    stats = clone.stats()
    return stats["read_errors"] + stats["write_errors"]


def until_waiting(t, clone):
    t.until(lambda: clone.stats()["state"] == "waiting", "state=waiting")
    clone.until(lambda s: not s.hydrating, "the end of what was under way")


def most_since(began):
    """Failures since it began to wait: 32, 64 ... after pauses of 1, 2 ... seconds."""
    pauses = int(math.log2(time.monotonic() - began + 1))
    return TRIES * (2 ** (pauses + 1) - 2)


def grow_pause(t, clone):
    """Until it waits for 8 s; returns a time when it surely does still."""
    for i in (1, 2, 3):
        before = errors(clone)
        t.until(lambda b=before, n=TRIES << i: errors(clone) >= b + n, "the next tries", 20)
    return time.monotonic() + 7


@test("{device} that fails everything is asked now and then, not all the time",
      ours=OURS, device={"a source": "source", "a destination": "dest"})
def _(t, device):
    clone = t.idle_clone(region=8, size=64 * MIB)
    disk = getattr(clone, device)
    if device == "source":
        disk.fail()
    else:
        disk.fail_writes()
    with t.trace(disk) as trace:
        clone.enable_hydration()
        began = time.monotonic()
        until_waiting(t, clone)
        first = errors(clone)
        time.sleep(6)
        tries, most = errors(clone) - first, most_since(began)
    bios = trace.of(disk.number, "R" if device == "source" else "W")
    t.note(f"{first} errors at once, {tries} more in 6 s, {len(bios)} bios")
    if first > LARGEST_WINDOW + TRIES:
        raise Failure(f"{first} errors before it waits")
    if tries > most or len(bios) > first + most:
        raise Failure(f"{tries} errors, {most} at most were expected; {len(bios)} bios")
    clone.expect_stats(state="waiting")
    disk.heal()
    clone.hydrate()
    clone.check()


@test("hydration that waits for the source goes on at once after {what}", ours=OURS,
      what={"a read of it": "read", "enable_hydration": "enable", "a new table": "table"})
def _(t, what):
    log = kmsg.Log()
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.source.fail()
    clone.enable_hydration()
    until_waiting(t, clone)
    over = grow_pause(t, clone)
    clone.source.heal()
    if what == "read":
        clone.get(clone.size - 8, 8)
    elif what == "enable":
        clone.enable_hydration()
    else:
        clone.reload(features=[])
    clone.until_hydrated()
    if time.monotonic() > over:
        raise Missed("the pause may have been over")
    lines = [line for line in log.read() if "hydration waits" in line]
    if len(lines) != 1:
        raise Failure(f"{len(lines)} lines say that it waits: {lines}")
    clone.check()


@test("reads that work elsewhere do not make hydration hammer what fails", ours=OURS)
def _(t):
    log = kmsg.Log()
    clone = t.idle_clone(region=8, size=64 * MIB)
    clone.source.fail_range(0, clone.size - 8)
    clone.enable_hydration()
    until_waiting(t, clone)
    before, began = errors(clone), time.monotonic()
    while time.monotonic() < began + 4:
        clone.get(clone.size - 8, 8)
    found = errors(clone) - before
    most = TRIES * (1 + int(time.monotonic() - began))
    t.note(f"{found} errors")
    if found > most:
        raise Failure(f"{found} errors, {most} at most were expected")
    clone.source.heal()
    clone.get(clone.size - 8, 8)
    clone.until_hydrated()
    t.until(lambda: any("hydration is complete" in line for line in log.read()),
            "the end")
    clone.check()


@test("a stretch that cannot be read is crossed, and the rest is copied", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB)
    clone.source.fail_range(5000, 8 * 24)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == clone.regions - 24, "the rest", 60)
    clone.source.heal()
    clone.hydrate()
    clone.check()


BAD = 64                        # regions of 4 KiB


def until_crossed(t, clone, bad, most):
    """Until all but the @bad regions is hydrated, at the price of @most errors."""
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == clone.regions - bad, "the rest", 90)
    found = errors(clone)
    t.note(f"{found} errors")
    if found > most:
        raise Failure(f"{found} errors, {most} at most were expected")
    clone.source.heal()
    clone.hydrate()
    clone.check()


@test("a bad stretch of 256 KiB costs at most three tries for each of its regions", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=12 * MIB)
    clone.source.fail_range(8 * 1234, 8 * BAD)
    until_crossed(t, clone, BAD, 3 * BAD)


@test("a bad stretch in a range that was asked for is crossed", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=12 * MIB)
    clone.source.fail_range(8 * 1234, 8 * BAD)
    clone.message(f"hydrate {8 * 1230} {8 * 800}")
    until_crossed(t, clone, BAD, 3 * BAD)


@test("what is good between bad stretches is copied in the end", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB)
    bad = [(500, 20), (521, 30), (553, 10), (1900, 40)]
    clone.source.fail_ranges([(8 * first, 8 * nr) for first, nr in bad])
    log = kmsg.Log()
    until_crossed(t, clone, sum(nr for _, nr in bad), 1000)
    lines = [line for line in log.read() if "hydration waits" in line]
    if len(lines) > 2:
        raise Failure(f"{len(lines)} lines say that it waits, 2 at most were expected")


@test("good regions among many bad ones cost few tries: {what}", ours=OURS,
      what={"20 of 100": (20, 100, 4, 1), "1 of 10": (1, 10, 2, 3)})
def _(t, what):
    good, period, size, most = what
    clone = t.idle_clone(region=8, size=size * MIB)
    bad = [(i + good, min(period - good, clone.regions - i - good))
           for i in range(0, clone.regions, period) if i + good < clone.regions]
    clone.source.fail_ranges([(8 * first, 8 * nr) for first, nr in bad])
    nr_bad = sum(nr for _, nr in bad)
    until_crossed(t, clone, nr_bad, most * nr_bad)


@test("the log says once that hydration waits for one bad region, whatever is asked meanwhile",
      ours=OURS)
def _(t):
    log = kmsg.Log()
    clone = t.idle_clone(region=8, size=32 * MIB)
    clone.source.fail_range(0, 8)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == clone.regions - 1, "the rest")
    until_waiting(t, clone)
    for _ in range(30):
        clone.message("hydration_threshold 4096")
    time.sleep(3)
    lines = log.read()
    waits = [line for line in lines if "hydration waits" in line]
    goes_on = [line for line in lines if "hydration goes on" in line]
    if len(waits) != 1 or goes_on:
        raise Failure(f"one line was expected: {waits} {goes_on}")
    clone.source.heal()
    clone.hydrate()


@test("messages about failed regions do not have them tried again and again", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.source.fail_range(4096, 8 * 4)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated == clone.regions - 4, "all the rest")
    until_waiting(t, clone)
    before, began, sent = errors(clone), time.monotonic(), 0
    while time.monotonic() < began + 5:
        for first, nr in ((4096, 8), (4110, 9), (4096, 32)):
            clone.message(f"hydrate {first} {nr}")
            sent += 1
    found = errors(clone) - before
    t.note(f"{found} errors, {sent} messages")
    if found > TRIES + most_since(began):
        raise Failure(f"{found} errors in {time.monotonic() - began:.1f} s")
    clone.source.heal()
    clone.hydrate()
    clone.check()


@test("asking again takes no room, asking for too many ranges is refused", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB)

    def ask(first, nr):
        clone.message(f"hydrate {first * 8} {nr * 8}")

    for i in range(MAX_RANGES):
        ask(2 * i, 1)                       # none touches another
    t.fails(lambda: ask(2 * MAX_RANGES, 1), errno.EAGAIN, what="one more")
    for i in range(MAX_RANGES):
        ask(2 * i, 1)
    ask(1, 1)                               # joins the first two
    ask(2 * MAX_RANGES, 1)
    t.fails(lambda: ask(2 * MAX_RANGES + 2, 1), errno.EAGAIN, what="one more")
    ask(0, 2 * MAX_RANGES + 3)
    for i in range(MAX_RANGES - 1):
        ask(2 * MAX_RANGES + 5 + 2 * i if i < 900 else i, 1)
    clone.hydrate()
    clone.check()


@test("ranges that touch are one, in the place of the first", ours=OURS)
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB, core={"hydration_threshold": 16})
    for first, nr in ((8 * MIB, MIB // 2), (4 * MIB, MIB // 2), (8 * MIB + 512, MIB),
                      (12 * MIB, 8), (8 * MIB + 8, 16)):
        clone.message(f"hydrate {first} {nr}")
    order = [(8 * MIB, MIB + 512), (4 * MIB, MIB // 2), (12 * MIB, 8), (0, clone.size)]
    with t.trace(clone.source) as trace:
        clone.hydrate()
    reads = sorted(trace.of(clone.source.number, "R"), key=lambda b: b.time)
    found = [next(i for i, (first, nr) in enumerate(order)
                  if first <= bio.sector < first + nr) for bio in reads]
    if found != sorted(found) or set(found) != {0, 1, 2, 3}:
        raise Failure(f"the order of the reads: {found[:60]}")
    clone.check()
