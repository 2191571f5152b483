# SPDX-License-Identifier: GPL-2.0-only
"""Interchange with the kernel's own target: each goes on where the other stopped.

That target is a black box here, built by scripts/build-peer. Module and target
have the names ours have, so they are loaded in turn:

    peer  ours  peer  ours  ...     one clone, through all of its life
      |     |     |     |
      +-----+-----+-----+---------  data and metadata are checked after each turn

What the kernel's own target is known to do wrong is kept away from it: a
discard there may uncover what the destination held before.
"""

import errno

from lib import metadata
from lib.blk import MIB
from lib.errors import Failure
from lib.framework import test
from lib.large import Large
from lib.peer import interchange

KIB = 2

FIRST = {"the kernel's own": "peer", "this one": "ours"}

NO_DISCARDS = {"discard": 0}


def check_metadata(clone):
    """What the turn has left is good, and tells the truth. Returns the bitmap."""
    metadata.check(clone.meta.image())
    return clone.check_left_behind()


def turn(clone, who, until):
    """A life of a clone: hydration and random I/O, up to a part of its regions."""
    def some_io(ops):
        clone.random_io(ops=max(ops, 1), threads=2, max_sectors=min(256, 2 * clone.region),
                        weights=NO_DISCARDS if who == "peer" else {}).run()

    clone.activate()
    before = clone.status().hydrated
    clone.check()
    some_io(clone.regions // 16)
    clone.enable_hydration()
    if until == 1:
        clone.until_hydrated()
    else:
        clone.until(lambda s: s.hydrated >= until * s.regions, "some hydration")
    some_io(clone.regions // 32)
    clone.check()
    after = clone.status().hydrated
    clone.deactivate()
    bitmap = check_metadata(clone)
    if metadata.weight(bitmap, clone.regions) < after:
        raise Failure(f"{who}: {after} regions were hydrated, "
                      f"{metadata.weight(bitmap, clone.regions)} are so on disk")
    return before, after


@test("{size}: begun by {first}, continued in turns, each time half-way through hydration",
      limit=150, ours="it takes both",
      size={"4 KiB regions, the last one short": (8, 4 * MIB - 5),
            "64 KiB regions, the last one short": (64 * KIB, 16 * MIB - 17),
            "1 MiB regions, the last one a sector": (MIB, 24 * MIB + 1)},
      first=FIRST)
def _(t, size, first):
    region, sectors = size
    with interchange(t) as change:
        # A slow source and a low threshold: a turn ends in the middle of copies.
        source = t.source(sectors)
        source.delay(2)
        clone = t.clone(region, sectors, source=source, active=False,
                        features=["no_hydration"], core={"hydration_threshold": 1})
        turns = []
        for number, part in enumerate((.1, .25, .4, .55, .7, 1, 1)):
            who = ("peer", "ours")[(number + (first == "ours")) % 2]
            if part == 1:
                source.heal()
                clone.core = {}
            change(who)
            turns.append((who, *turn(clone, who, part)))
        t.note(", ".join(f"{who} {before}-{after}" for who, before, after in turns))


@test("the kernel's own target takes metadata that has grown with its device", limit=150,
      ours="it takes both")
def _(t):
    with interchange(t) as change:
        meta = t.metadata(70 * MIB)             # which takes two bitmaps
        meta.shrink_to(512)
        meta.sectors, full = 512, meta.sectors
        # What is done in the first turn needs no metadata any more.
        source = t.source(4 * MIB)
        source.delay(2)
        clone = t.idle_clone(meta=meta, source=source, active=False,
                             core={"hydration_threshold": 1})
        for number, who in enumerate(("peer", "ours", "peer", "ours", "peer")):
            change(who)
            if number == 4:
                source.heal()
                clone.core = {}
            if number == 1:
                meta.sectors = full
                meta.heal()
            turn(clone, who, (number + 1) / 5)
        sb = metadata.read(meta.block)
        if int.from_bytes(sb.space_map[:8], "little") != meta.sectors // 8:
            raise Failure("the metadata has not grown")


@test("a bitset with three levels of blocks is read and changed by both",
      limit=120, ours="it takes both")
def _(t):
    with interchange(t) as change:
        clone = Large(t, 254 * 509 * 64 + 7)
        for who in "peer", "ours", "peer", "ours":
            change(who)
            clone.use(t.name("clone"))
            clone.check()
        t.note(f"{clone.regions} regions, "
               f"{metadata.weight(clone.written, clone.regions)} written")


@test("a clone that {first} finished is finished for the other", ours="it takes both",
      first=FIRST)
def _(t, first):
    second = "ours" if first == "peer" else "peer"
    with interchange(t) as change:
        change(first)
        clone = t.clone(8, 4 * MIB - 1, active=False)
        clone.activate()
        clone.until_hydrated()
        clone.deactivate()
        check_metadata(clone)
        before = clone.meta.image()

        change(second)
        clone.activate()
        clone.expect(done=True, mode="rw")
        clone.check()
        clone.random_io(ops=100, threads=2).run()
        clone.check()
        clone.deactivate()
        check_metadata(clone)
        if clone.meta.image() != before:
            t.note(f"{second} has written the metadata again")


@test("a clone begun by {first} with other sizes is refused by the other", ours="it takes both",
      first=FIRST)
def _(t, first):
    second = "ours" if first == "peer" else "peer"
    with interchange(t) as change:
        change(first)
        clone = t.idle_clone(region=8, size=4 * MIB, active=False)
        clone.activate()
        clone.put(0, 8)
        clone.deactivate()
        before = clone.meta.image()

        change(second)
        for region, size in (16, 4 * MIB), (8, 4 * MIB - 1):
            other = t.clone(region, size, meta=clone.meta, dest=clone.dest, former=None,
                            source=clone.source, active=False)
            t.fails(other.activate, errno.EINVAL, what=f"{second}")
        if clone.meta.image() != before:
            raise Failure("the metadata has changed")
        clone.activate()
        clone.check()
        clone.deactivate()
