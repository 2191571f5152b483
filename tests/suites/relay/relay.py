# SPDX-License-Identifier: GPL-2.0-only
"""Clones that go from machine to machine: make check-arch.

Each machine leaves some half-way through hydration in a folder that all of
them see, and goes on with those that it finds there. So what one has written
is read by others, of the other word size and the other endianness.

The folder is $RELAY. A clone is NAME.json, NAME.meta and NAME.dest there, and
NAME.model for what it should read as; NAME.dump is what clone_dump says of it.
"""

import json
import os
import subprocess

from lib import metadata
from lib.blk import MIB
from lib.errors import Failure
from lib.framework import test
from lib.large import Large

FOLDER = os.environ["RELAY"]
TOOLS = os.path.join(os.path.dirname(__file__), "../../../build/tools")
HERE = os.uname().machine

KIB = 2
SHAPES = {"4 KiB regions, the last one short": (8, 2 * MIB - 5),
          "64 KiB regions, the last one short": (64 * KIB, 8 * MIB - 17),
          "1 MiB regions, the last one a sector": (MIB, 12 * MIB + 1)}
REGIONS = 3 * 509 * 64 + 7


def path(name, kind):
    return os.path.join(FOLDER, f"{name}.{kind}")


def get(name, kind):
    with open(path(name, kind), "rb") as file:
        return file.read()


def put(name, kind, content):
    with open(path(name, kind), "wb") as file:
        file.write(content)


def tool(name, *args):
    done = subprocess.run([os.path.join(TOOLS, name), *args], capture_output=True, check=False)
    if done.returncode:
        raise Failure(f"{name}: {(done.stdout + done.stderr).decode()}")
    return done.stdout


def check_metadata(name, meta):
    """The image is what the tools of both machines take for good, and for the same."""
    metadata.check(meta.image())
    tool("clone_check", meta.path)
    dump = tool("clone_dump", meta.path)
    if os.path.exists(path(name, "dump")) and get(name, "dump") != dump:
        raise Failure("clone_dump says something else than on the machine before")
    return dump


def hand_on(name, story, meta, bitmap):
    """What the next machine needs, but for the data."""
    if os.path.exists(path(name, "dump")):
        os.unlink(path(name, "dump"))
    put(name, "dump", check_metadata(name, meta))
    put(name, "meta", meta.image())
    story["hydrated"] = metadata.weight(bitmap, story["regions"])
    story["journey"].append(HERE)
    put(name, "json", json.dumps(story).encode())


def run(clone, name, story, part):
    """Goes on with a clone, to this part of hydration, and hands it on."""
    clone.activate()
    clone.expect(hydrated=story["hydrated"], regions=story["regions"])
    clone.check()
    # Shorter discards are done at once, and leave nothing open. A part of the regions is
    # left for those after this one.
    def some_io(ops):
        clone.random_io(ops=ops, threads=2, max_sectors=min(256, 2 * clone.region)).run()

    some_io(max(clone.regions // 8, 2))
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated >= part * s.regions, "some hydration")
    some_io(max(clone.regions // 16, 2))
    clone.check()
    if part == 1:
        clone.until_hydrated()
        clone.expect(done=True)
    clone.deactivate()
    bitmap = clone.check_left_behind()
    put(name, "dest", clone.dest.image())
    put(name, "model", clone.model.pack())
    hand_on(name, story, clone.meta, bitmap)


def make(t, story):
    """The devices of such a clone. The source is slow, so that it ends half-way."""
    region, sectors = story["shape"]
    source = t.source(sectors)
    return t.idle_clone(region=region, size=sectors, source=source, active=False,
                        core={"hydration_threshold": 1})


def found(kind):
    """The clones that others had last: (name, story)."""
    for file in sorted(os.listdir(FOLDER)):
        if file.endswith(".json"):
            name = file[:-len(".json")]
            story = json.loads(get(name, "json"))
            if story["kind"] == kind and story["journey"][-1] != HERE:
                yield name, story


@test("a clone that another machine left goes on here, with its data and its counts", limit=300)
def _(t):
    for name, story in found("clone"):
        clone = make(t, story)
        clone.meta.block.write(0, get(name, "meta"))
        clone.dest.block.write(0, get(name, "dest"))
        clone.model.unpack(get(name, "model"))
        check_metadata(name, clone.meta)
        at_home = HERE in story["journey"]
        if not at_home:
            clone.source.delay(2)
        before = story["hydrated"]
        left = story["regions"] - before
        run(clone, name, story, 1 if at_home else (before + left // 3) / story["regions"])
        t.note(f"{name}: {' '.join(story['journey'])}: {before}-{story['hydrated']}")
    if not t.notes:
        t.skip("no other machine has left one")


@test("a bitset of many blocks that another machine left is read and changed here")
def _(t):
    for name, story in found("large"):
        clone = Large(t, story["regions"])
        clone.meta.block.write(0, get(name, "meta"))
        clone.written = bytearray(get(name, "model"))
        check_metadata(name, clone.meta)
        clone.use(t.name("clone"))
        clone.check()
        put(name, "model", bytes(clone.written))
        before = story["hydrated"]
        hand_on(name, story, clone.meta, clone.written)
        t.note(f"{name}: {' '.join(story['journey'])}: {before}-{story['hydrated']}")
    if not t.notes:
        t.skip("no other machine has left one")


@test("a clone with {shape} is left half-way", shape=SHAPES)
def _(t, shape):
    region, sectors = shape
    regions = -(-sectors // region)
    story = {"kind": "clone", "shape": shape, "regions": regions, "hydrated": 0, "journey": []}
    clone = make(t, story)
    clone.source.delay(2)
    run(clone, f"{HERE}-{region // KIB}", story, 0.2)


@test("a clone with a bitset of many blocks is left")
def _(t):
    story = {"kind": "large", "regions": REGIONS, "hydrated": 0, "journey": []}
    clone = Large(t, REGIONS)
    clone.use(t.name("clone"))
    clone.check()
    put(f"{HERE}-large", "model", bytes(clone.written))
    hand_on(f"{HERE}-large", story, clone.meta, clone.written)
