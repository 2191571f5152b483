# SPDX-License-Identifier: GPL-2.0-only
"""The limits a clone shows, beside those of a linear device over its destination."""

import os

from lib import disks
from lib.blk import MIB, SOURCE
from lib.errors import Failure
from lib.framework import test
from lib.thin import Pool

SIZE = 4 * MIB
OURS = "its limits are its own choice"
KINDS = ("ram", "null", "loop", "scsi", "thin")
# What disks can do that others cannot, and a limit of linear's that shows it
ABILITIES = {"atomic writes": ({"atomic_wr": 1}, "atomic_write_unit_max_bytes", "0"),
             "protection information": ({"dif": 1, "dix": 1}, "integrity/format", "none")}
COARSE = 0x10000                # blocks that one write-zeroes of a SCSI disk may have
FINE = 0x400

# What a clone differs in, and why. All else is as the devices below have it: dm-table
# sees to the destination's, and the target adds what the source needs to be read.
EXPLAINED = {
    "discard_granularity": "regions are discarded as a whole",
    "discard_max_bytes": "a discard may be of any length, and is cut where it is passed on",
    "discard_max_hw_bytes": "as discard_max_bytes",
    "write_cache": "there is one: what has been written to is in memory until a commit",
    "read_ahead_kb": "the kernel raises it for the source's sake, and never lowers it",
    "fua": "a write with FUA waits for a commit, the destination's own FUA does not count",
}
# Protection information is made and checked by the disk's own queue, for copies and for all
# else: a region that is copied or zeroed has none from above. What is copied is read and
# written without a key of inline encryption.
BELOW = ("integrity/", "crypto/")
# None of these can be promised, whatever the destination can do.
REFUSED = {
    "atomic_write_": "a write may be cut between regions, and is no longer one then",
    "io_poll": "polled requests may be such as must not wait",
}


def limits(device):
    """All that /sys/block/*/queue says, and what beside it tells of integrity."""
    found = {}
    for folder, prefix in (("queue", ""), ("queue/crypto", "crypto/"),
                           ("integrity", "integrity/")):
        path = f"{device.sysfs}/{folder}"
        for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
            if os.path.isfile(f"{path}/{name}"):
                found[prefix + name] = content(f"{path}/{name}")
    return found


def content(path):
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except OSError as error:
        return error.strerror


def thin(t, what):
    pool = t.add_disk(Pool(t.name(f"{what}pool"), t.disk(8192), t.disk(2 * SIZE)))
    return t.add_disk(disks.Disk(t.name(what), SIZE, pool.volume(t.name(f"{what}thin"), SIZE)))


def disk_of(t, kind, what):
    if kind == "thin":
        return thin(t, what)
    return t.disk(SIZE, kind, what=what)


def linear_limits(t, disk):
    return limits(t.mapped([(0, SIZE, "linear", f"{disk.number} 0")]))


def is_explained(name, ours):
    return name in EXPLAINED or name.startswith(BELOW) or any(
        name.startswith(prefix) and ours == "0" for prefix in REFUSED)


def must_be_same(clone, expected):
    ours = limits(clone.device)
    wrong = [f"{name} is {ours.get(name)} instead of {expected.get(name)}"
             for name in sorted(expected.keys() | ours.keys())
             if ours.get(name) != expected.get(name) and not is_explained(name, ours.get(name))]
    if wrong:
        raise Failure("\n".join(wrong))


@test("the limits are those of the destination, but for discards and the cache: {kind}",
      ours=OURS, kind=KINDS)
def _(t, kind):
    dest, source = disk_of(t, kind, "dest"), disk_of(t, kind, "source")
    clone = t.idle_clone(region=128, size=SIZE, dest=dest, source=source, former=None)
    must_be_same(clone, linear_limits(t, dest))


@test("of its source a clone that is done needs nothing: {kind}", ours=OURS, kind=KINDS)
def _(t, kind):
    dest, source = disk_of(t, kind, "dest"), t.disk(SIZE, "scsi", what="source")
    clone = t.clone(region=128, size=SIZE, dest=dest, source=source, former=None)
    clone.until_hydrated()
    clone.reload()
    must_be_same(clone, linear_limits(t, dest))


@test("write-zeroes is as long as the destination's, {source} for the source",
      ours=OURS, source={"shorter": FINE, "longer": COARSE})
def _(t, source):
    dest = t.disk(SIZE, "scsi", what="dest",
                  write_same_length=COARSE if source == FINE else FINE)
    source = t.disk(SIZE, "scsi", what="source", write_same_length=source)
    # It is for all disks what they go by, however long they said they take.
    disks.set_scsi_debug(write_same_length=COARSE)
    theirs = linear_limits(t, dest)
    if theirs["write_zeroes_max_bytes"] == linear_limits(t, source)["write_zeroes_max_bytes"]:
        raise Failure("both disks have the same limit")
    clone = t.idle_clone(region=8, size=SIZE, dest=dest, source=source.fill(SOURCE),
                         former=None)
    must_be_same(clone, theirs)
    clone.enable_hydration()
    clone.until_hydrated()
    clone.check()


@test("over disks with {ability} a clone shows the same limits, without that, and works",
      ours=OURS, ability=ABILITIES)
def _(t, ability):
    abilities, limit, without = ability
    dest = t.disk(SIZE, "scsi", what="dest", abilities=abilities)
    source = t.disk(SIZE, "scsi", what="source", abilities=abilities)
    theirs = linear_limits(t, dest)
    if theirs.get(limit, without) == without:
        t.skip(f"this kernel's scsi_debug and linear have no {limit}")
    clone = t.idle_clone(region=128, size=SIZE, dest=dest, source=source.fill(SOURCE))
    must_be_same(clone, theirs)
    if limits(clone.device)[limit] != without:
        raise Failure(f"the clone shows {limit} too")
    # WRITE SAME leaves the protection information of scsi_debug's blocks as it was.
    weights = {"zero": 0, "discard": 0} if "dif" in abilities else {}
    clone.random_io(ops=200, weights=weights).run()
    clone.hydrate()
    clone.check()
    clone.reload()
    must_be_same(clone, theirs)
    clone.random_io(ops=100, weights=weights).run()
    clone.deactivate()
    clone.check_left_behind()
