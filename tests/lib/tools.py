# SPDX-License-Identifier: GPL-2.0-only
"""The tools for users, run as they run them: build/tools/clone_tools."""

import json
import os
import subprocess

from lib import metadata
from lib.errors import Failure

PROGRAM = os.path.join(os.path.dirname(__file__), "../../build/tools/clone_tools")


def need(t):
    if not os.path.exists(PROGRAM):
        t.skip("build/tools/clone_tools is missing: make tools")


def run(t, name, *args, good=True):
    """What a tool says; it must end well, or must not. None: either."""
    done = subprocess.run([PROGRAM, name, *map(str, args)], capture_output=True,
                          text=True, check=False, timeout=60 * t.patience)
    if done.returncode not in (0, 1) or good not in (None, not done.returncode):
        raise Failure(f"{name} {' '.join(map(str, args))}: status {done.returncode}\n"
                      f"{done.stdout}{done.stderr}")
    return done


def start(name, *args):
    return subprocess.Popen([PROGRAM, name, *map(str, args)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def dump(t, disk):
    """What clone_dump says, and the bitmap that follows from it."""
    told = json.loads(run(t, "clone_dump", "-f", "json", disk.path).stdout)
    bits = 0
    for first, nr in told["hydrated"]:
        bits |= ((1 << nr) - 1) << first
    told["nr_hydrated"] = sum(nr for _, nr in told["hydrated"])
    told["bitmap"] = bits.to_bytes(-(-told["nr_regions"] // 8), "little")
    return told


def check(t, disk, good=True):
    return run(t, "clone_check", disk.path, good=good)


def damage(disk, block, offset=100):
    """Flip a bit of a block."""
    data = bytearray(disk.block.read(block * metadata.SECTORS, metadata.SECTORS))
    data[offset] ^= 0x10
    disk.block.write(block * metadata.SECTORS, bytes(data))
    disk.sound_metadata = False
