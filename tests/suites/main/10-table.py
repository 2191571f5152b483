# SPDX-License-Identifier: GPL-2.0-only
"""Table lines: what is accepted, what is refused, and what is printed again."""

import errno
import itertools

from lib import kmsg
from lib.blk import MIB, check_stamp
from lib.errors import Failure
from lib.framework import test
from lib.thin import BLOCK, thin_disk

KIB = 2
INVALID = (errno.EINVAL, errno.ERANGE)


class Lines:
    """Tries table lines on a set of devices, with fresh metadata each time."""

    def __init__(self, t, size=4 * MIB, **disks):
        self.t, self.size = t, size
        self.meta = disks.get("meta") or t.metadata()
        self.dest = disks.get("dest") or t.disk(size, what="dest")
        self.source = disks.get("source") or t.source(size)
        self.device = t.unready()
        self.log = kmsg.Log()

    def line(self, rest, **other):
        devices = {"meta": self.meta.number, "dest": self.dest.number,
                   "source": self.source.number, **other}
        return " ".join([devices["meta"], devices["dest"], devices["source"], rest])

    def load(self, line, length=None):
        self.device.load([(0, length or self.size, "clone", line)])

    def fresh(self):
        self.meta.block.fill(0, 0, 8)

    def accepts(self, rest, length=None, **other):
        self.fresh()
        self.load(self.line(rest, **other), length)
        self.device.clear()

    def refuses(self, rest, naming, numbers=INVALID, length=None, **other):
        """Refused, and the log tells why in words that name the problem."""
        self.log.read()
        self.fresh()
        line = self.line(rest, **other)
        error = self.t.fails(lambda: self.load(line, length), *numbers,
                             what=f"the line {line!r}")
        said = [text.split("clone: ", 1)[1] for text in self.log.read()
                if "device-mapper: table: " in text and ": clone: " in text]
        if not said:
            raise Failure(f"{rest!r} is refused without a word")
        if self.t.peer:                 # says it in its own words
            return
        if not any(word in said[-1].lower() for word in naming.split("|")):
            raise Failure(f"{rest!r} is refused because of {said[-1]!r}, "
                          f"which does not name the {naming}")
        if not said[-1][0].isupper() or said[-1].split(" (")[0].endswith("."):
            raise Failure(f"{said[-1]!r}: capitalised, no period, please")
        if error.errno == errno.ENOMEM:
            raise Failure(f"{rest!r} is refused for want of memory")


@test("region sizes from 8 to 2097152 sectors are accepted, smaller and larger ones refused")
def _(t):
    lines = Lines(t)
    for size in 4, 0, 7, 4194304, 2097153, 4294967296, 1 << 64:
        lines.refuses(f"{size}", "region size")
    for size in [1 << bit for bit in range(3, 22)]:
        lines.accepts(f"{size}")


@test("numbers that overflow are refused, not truncated",
      defect="it cuts numbers to 32 bits")
def _(t):
    lines = Lines(t)
    lines.refuses(f"{(1 << 64) + 8}", "region size")
    lines.refuses(f"{(1 << 32) + 8}", "region size")
    lines.refuses(f"8 {(1 << 32) + 1} no_hydration", "argument")
    lines.refuses(f"8 0 {(1 << 32) + 2} hydration_threshold 1", "argument")
    lines.refuses(f"8 0 2 hydration_threshold {(1 << 32) + 1}", "hydration_threshold")


@test("region sizes must be powers of two, written as plain numbers")
def _(t):
    lines = Lines(t)
    for size in "9", "12", "24", "1000", "2097144", "-8", "8k", "0x", "x", "8.0", "8,":
        lines.refuses(size, "region size")


@test("lines of too few or too many words are refused")
def _(t):
    lines = Lines(t)
    for line in ("", lines.meta.number, f"{lines.meta.number} {lines.dest.number}",
                 f"{lines.meta.number} {lines.dest.number} {lines.source.number}"):
        t.fails(lambda line=line: lines.load(line), *INVALID, what=repr(line))


@test("words after the last group are refused",
      defect="it does not look at them")
def _(t):
    lines = Lines(t)
    lines.refuses("8 0 0 0", "argument")
    lines.refuses("8 0 0 extra", "argument")
    lines.refuses("8 1 no_hydration 2 hydration_threshold 1 more", "argument")


@test("feature groups: right counts are accepted, wrong ones refused")
def _(t):
    lines = Lines(t)
    for rest in ("8", "8 0", "8 1 no_hydration", "8 1 no_discard_passdown",
                 "8 2 no_hydration no_discard_passdown",
                 "8 2 no_discard_passdown no_hydration", "8 0 0"):
        lines.accepts(rest)
    for rest in ("8 1", "8 2 no_hydration", "8 -1", "8 x", "8 no_hydration",
                 "8 0 no_hydration", "8 1 no_hydration no_discard_passdown",
                 "8 3 no_hydration no_discard_passdown"):
        lines.refuses(rest, "argument")


@test("unknown features are refused")
def _(t):
    lines = Lines(t)
    for rest in ("8 1 hydration", "8 1 no_hydrations", "8 1 no_hydratio",
                 "8 2 no_hydration nodiscard", "8 1 hydration_threshold"):
        lines.refuses(rest, "feature")


@test("core argument groups: pairs are accepted, odd and wrong counts refused")
def _(t):
    lines = Lines(t)
    for rest in ("8 0 2 hydration_threshold 1", "8 0 2 hydration_batch_size 1",
                 "8 0 4 hydration_threshold 2 hydration_batch_size 3",
                 "8 0 4 hydration_batch_size 3 hydration_threshold 2",
                 "8 1 no_hydration 2 hydration_threshold 7"):
        lines.accepts(rest)
    for rest in ("8 0 1 hydration_threshold", "8 0 2 hydration_threshold",
                 "8 0 3 hydration_threshold 1 hydration_batch_size",
                 "8 0 -2 hydration_threshold 1", "8 0 x",
                 "8 0 hydration_threshold 1"):
        lines.refuses(rest, "argument|core")


@test("unknown core arguments are refused")
def _(t):
    lines = Lines(t)
    for rest in ("8 0 2 threshold 1", "8 0 2 hydration_thresholds 1",
                 "8 0 2 no_hydration 1", "8 0 2 1 hydration_threshold"):
        lines.refuses(rest, "core|argument")


@test("{key}: 1 to 4294967295 are accepted, others refused",
      key=["hydration_threshold", "hydration_batch_size"])
def _(t, key):
    lines = Lines(t)
    for value in "1", "2", "4294967295":
        lines.accepts(f"8 0 2 {key} {value}")
    for value in "4294967296", "4294967297", "18446744073709551617", "-1", "x", "1x":
        lines.refuses(f"8 0 2 {key} {value}", key)


@test("a cap of 0 is refused, in tables and in messages",
      ours="it takes 0 for a number like others")
def _(t):
    lines = Lines(t)
    clone = t.idle_clone()
    for key in "hydration_threshold", "hydration_batch_size":
        lines.refuses(f"8 0 2 {key} 0", key)
        t.fails(lambda key=key: clone.message(f"{key} 0"), errno.EINVAL)


@test("keywords may be in upper or lower case")
def _(t):
    clone = t.clone(features=["NO_Hydration", "No_Discard_PassDown"],
                    core={"HYDRATION_threshold": 3, "Hydration_Batch_Size": 5})
    clone.expect(features=["no_hydration", "no_discard_passdown"],
                 core={"hydration_threshold": 3, "hydration_batch_size": 5})
    clone.message("HYDRATION_THRESHOLD 4")
    clone.message("Enable_Hydration")
    if clone.status().core["hydration_threshold"] != 4:
        raise Failure(clone.status().text)


@test("{which}: the size of the target is enough, a sector less is refused",
      which={"the destination": "dest", "the source": "source"})
def _(t, which):
    size = 4 * MIB
    disks = {which: t.disk(size, what=which)}
    lines = Lines(t, size, **disks)
    lines.accepts("8")
    disks[which].shrink_to(size - 1)
    lines.refuses("8", {"dest": "destination", "source": "source"}[which] + "|small")
    disks[which].heal()
    lines.accepts("8")


@test("devices may be larger than the target")
def _(t):
    lines = Lines(t, 4 * MIB, dest=t.disk(5 * MIB), source=t.source(6 * MIB))
    lines.accepts("8", length=4 * MIB)
    lines.accepts("8", length=4 * MIB - 8)
    lines.accepts("128", length=5 * MIB)
    lines.refuses("8", "destination|small", length=5 * MIB + 8)


@test("a metadata device that is too small is refused, one that is large enough works")
def _(t):
    size = 4 * MIB
    for blocks in 0, 1, 2, 4:
        lines = Lines(t, size, meta=t.disk(max(8 * blocks, 1), fill=0))
        lines.fresh = lambda meta=lines.meta: meta.zero()
        lines.refuses("8", "metadata", (errno.EINVAL, errno.ENOSPC, errno.EIO))
    Lines(t, size, meta=t.disk(64 * KIB, fill=0)).accepts("8")


@test("devices that do not exist are refused, one after the other")
def _(t):
    lines = Lines(t)
    for which, name in ("meta", "metadata"), ("dest", "destination"), ("source", "source"):
        for path in "/dev/no-such-device", "259:1048575", "nonsense", "8:x":
            lines.refuses("8", name, (errno.ENOENT, errno.ENODEV, errno.ENXIO,
                                      errno.EINVAL), **{which: path})


@test("devices can be named by path")
def _(t):
    lines = Lines(t)
    lines.accepts("8", meta=lines.meta.path, dest=lines.dest.path,
                  source=lines.source.path)


@test("one device in two roles is refused",
      ours="it does not look")
def _(t):
    lines = Lines(t)
    for a, b in itertools.permutations(("meta", "dest", "source"), 2):
        lines.refuses("8", "different", **{a: getattr(lines, b).number})


@test("a read-only source is accepted")
def _(t):
    closed = t.disk(4 * MIB, readonly=True)
    Lines(t, 4 * MIB, source=closed).accepts("8")


def groups():
    """All combinations of what a table line can hold, in canonical form."""
    features = [[], ["no_hydration"], ["no_discard_passdown"],
                ["no_hydration", "no_discard_passdown"]]
    core = [{}, {"hydration_threshold": 17}, {"hydration_batch_size": 5},
            {"hydration_threshold": 3, "hydration_batch_size": 4294967295}]
    return itertools.product((8, 128, 2097152), features, core)


@test("every table line that is printed loads again and prints the same, byte for byte",
      limit=120)
def _(t):
    source, dest, meta = t.source(4 * MIB), t.disk(4 * MIB), t.metadata()
    for region, features, core in groups():
        meta.block.fill(0, 0, 8)
        clone = t.clone(region, features=features, core=core, source=source,
                        dest=dest, meta=meta, former=None)
        printed = clone.device.table()
        words = printed[0][3].split(" ")
        if words[:4] != [meta.number, dest.number, source.number, str(region)]:
            raise Failure(f"{clone.line()!r} is printed as {printed[0][3]!r}")
        if not t.peer and printed[0][3] != clone.line():
            raise Failure(f"{clone.line()!r} is printed as {printed[0][3]!r}")
        clone.device.reload(printed)
        again = clone.device.table()
        if again != printed:
            raise Failure(f"{printed} came back as {again}")
        clone.deactivate()


@test("the printed table is the line that was loaded, whatever messages have changed: {rest}",
      ours="it knows other words",
      rest=["", "0", "0 0", "2 no_hydration no_discard_passdown",
            "2 no_discard_passdown no_hydration", "1 NO_hydration",
            "1 no_hydration 4 hydration_batch_size 7 hydration_threshold 03",
            "0 4 hydration_rate 0 Hydration_Rate 9"])
def _(t, rest):
    clone = t.idle_clone()
    line = f"{clone.line([])} {rest}".strip()
    clone.device.reload([(0, clone.size, "clone", line)])
    for message in ("disable_hydration", "enable_hydration", "hydration_threshold 9",
                    "hydration_batch_size 11", "hydration_floor 12"):
        clone.message(message)
    table = clone.device.table()
    if table[0][3] != line:
        raise Failure(f"{line!r} is printed as {table[0][3]!r}")
    status = clone.status()
    if "no_hydration" in status.features or status.core["hydration_threshold"] != 9 or \
            status.core["hydration_batch_size"] != 11 or status.core["hydration_floor"] != 12:
        raise Failure(status.text)
    clone.device.reload(table)
    if clone.device.table() != table:
        raise Failure(f"{table} came back as {clone.device.table()}")


@test("dmsetup loads the lines that dmsetup prints")
def _(t):
    lines = Lines(t, dest=t.disk(4 * MIB, kind="null"))
    name = lines.device.name
    rest = "8 1 no_hydration 2 hydration_threshold 4"
    lines.fresh()
    line = f"0 {lines.size} clone {lines.line(rest)}"
    t.run("dmsetup", "load", name, "--table", line)
    t.run("dmsetup", "resume", name)
    printed = t.run("dmsetup", "table", name).stdout.strip()
    t.run("dmsetup", "load", name, "--table", printed)
    t.run("dmsetup", "resume", name)
    if t.run("dmsetup", "table", name).stdout.strip() != printed:
        raise Failure(printed)
    status = t.run("dmsetup", "status", name).stdout
    if " 1 no_hydration 4 hydration_threshold 4 " not in status:
        raise Failure(status)


@test("a refused table line leaves the live table alone")
def _(t):
    clone = t.idle_clone()
    clone.put(8, 8)
    for line in clone.line().replace("no_hydration", "no_such"), "", "x y z 8":
        t.fails(lambda line=line: clone.device.load([(0, clone.size, "clone", line)]))
    clone.check()
    clone.expect(mode="rw")


@test("the target tells its device dependencies")
def _(t):
    clone = t.idle_clone()
    if sorted(clone.device.deps()) != sorted(
            d.number for d in (clone.meta, clone.dest, clone.source)):
        raise Failure(str(clone.device.deps()))


@test("devices of 4096-byte blocks work, with their block size")
def _(t):
    size = 4 * MIB
    dest = t.disk(size, kind="null", block_size=4096, what="dest")
    source = t.source(size)
    clone = t.clone(source=source, dest=dest)
    with open(f"{clone.device.sysfs}/queue/logical_block_size", encoding="ascii") as f:
        if f.read().strip() != "4096":
            raise Failure("the logical block size is not that of the destination")
    clone.random_io(ops=300, align=8, max_sectors=256).run()
    clone.until_hydrated()
    clone.check()
    check_stamp(source.block, 0, size, 1)


@test("the queue offers discards by regions, a write cache, and no write-zeroes if the "
      "destination has none")
def _(t):
    clone = t.idle_clone(region=128, kind="null")

    def limit(name):
        with open(f"{clone.device.sysfs}/queue/{name}", encoding="ascii") as f:
            return f.read().strip()

    if not t.peer and limit("discard_granularity") != str(128 * 512):
        raise Failure(f"discard_granularity {limit('discard_granularity')}")
    if int(limit("discard_max_bytes")) < 128 * 512:
        raise Failure(f"discard_max_bytes {limit('discard_max_bytes')}")
    if limit("write_cache") != "write back":
        raise Failure(f"write_cache {limit('write_cache')}")
    if limit("write_zeroes_max_bytes") != "0":
        raise Failure("write zeroes offered, but the destination cannot do it")
    with open(f"{clone.device.sysfs}/ro", encoding="ascii") as f:
        if f.read().strip() != "0":
            raise Failure("the clone is read-only")


@test("the discard granularity is the destination's, if that is coarser and discards are "
      "passed on",
      ours="it offers regions")
def _(t):
    dest, _ = thin_disk(t, 64 * MIB, 16 * MIB)
    clone = t.clone(region=8, size=dest.sectors, dest=dest, former=None,
                    features=["no_hydration"])

    def limit(name, of=clone):
        with open(f"{of.device.sysfs}/queue/{name}", encoding="ascii") as f:
            return int(f.read())

    coarse = limit("discard_granularity", dest)
    if coarse != BLOCK * 512:
        raise Failure(f"the destination's discard_granularity is {coarse}")
    if limit("discard_granularity") != coarse or limit("discard_max_bytes") % coarse:
        raise Failure(f"{limit('discard_granularity')}, {limit('discard_max_bytes')}")
    clone.reload(features=["no_hydration", "no_discard_passdown"])
    if limit("discard_granularity") != 8 * 512:
        raise Failure(f"not passed on: {limit('discard_granularity')}")


@test("write-zeroes is offered if the destination has it",
      ours="it offers none")
def _(t):
    clone = t.idle_clone(kind="loop")
    with open(f"{clone.device.sysfs}/queue/write_zeroes_max_bytes", encoding="ascii") as f:
        if f.read().strip() == "0":
            raise Failure("it is not")
