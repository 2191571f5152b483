# SPDX-License-Identifier: GPL-2.0-only
"""What things cost: bios at the devices, commits of the metadata."""

import mmap
import os
import re
import time

from lib import disks, kmsg, metadata
from lib.blk import MIB, SOURCE, Block
from lib.errors import Failure
from lib.framework import test

SPLIT = "it cuts every bio at every region"


def linear_over(t, disk):
    return t.mapped([(0, disk.sectors, "linear", f"{disk.number} 0")], "linear")


def linear_cost(t, disk, operation):
    """How many bios reach a disk through a linear device for an operation."""
    device = linear_over(t, disk)
    with Block(device.path) as block, t.trace(disk) as trace:
        operation(block)
    device.remove()
    return len(trace.of(disk.number))


def cost(t, disk, operation):
    with t.trace(disk) as trace:
        operation()
    return len(trace.of(disk.number))


def writes_of_1_mib(block):
    for i in range(16):
        block.put(i * MIB, MIB, 20)


def reads_of_1_mib(block):
    for i in range(16):
        block.read(i * MIB, MIB)


def compare(t, what, ours, linear, more=0):
    t.note(f"{ours} bios, linear {linear}")
    if ours > linear + more:
        raise Failure(f"{what}: {ours} bios, through a linear device {linear}")


@test("{what} of 1 MiB, 4 KiB regions: as many bios as through linear", defect=SPLIT,
      what={"hydrated, writes": (True, writes_of_1_mib), "hydrated, reads": (True, reads_of_1_mib),
            "unhydrated, reads": (False, reads_of_1_mib)})
def _(t, what):
    hydrated, operation = what
    clone = t.idle_clone(region=8, size=16 * MIB)
    if hydrated:
        clone.hydrate()
    disk = clone.dest if hydrated else clone.source
    ours = cost(t, disk, lambda: operation(clone.block))
    clone.deactivate()
    compare(t, "the I/O", ours, linear_cost(t, disk, operation))


@test("unhydrated, 4 KiB regions, writes of 1 MiB: as many bios as through linear, no copy",
      defect=SPLIT)
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB)
    with t.trace(clone.source, clone.dest) as trace:
        writes_of_1_mib(clone.block)
    if trace.of(clone.source.number):
        raise Failure(f"the source was read: {trace.of(clone.source.number)[:5]}")
    clone.deactivate()
    compare(t, "writes", len(trace.of(clone.dest.number)),
            linear_cost(t, clone.dest, writes_of_1_mib))


@test("unhydrated, 4 KiB regions, an unaligned write of 1 MiB: two regions copied, few bios",
      defect=SPLIT)
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    with t.trace(clone.source, clone.dest) as trace:
        clone.put(5, MIB)
    read = sum(b.nr for b in trace.of(clone.source.number, "R"))
    if read > 16:
        raise Failure(f"{read} sectors of the source were read")
    ours = len(trace.of(clone.dest.number))
    clone.check()
    clone.deactivate()
    compare(t, "the write", ours,
            linear_cost(t, clone.dest, lambda block: block.put(5, MIB, 20)), more=4)


@test("a bio is cut only where the state of regions changes", defect=SPLIT)
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.put(512, 512)                     # half of the first MiB: two cuts
    with t.trace(clone.source, clone.dest) as trace:
        clone.model.check(clone.block, 0, MIB)
    bios = len(trace.of(clone.source.number)) + len(trace.of(clone.dest.number))
    compare(t, "a read over three runs", bios, 1, more=5)
    clone.check()


@test("a discard of 8 MiB over 4 KiB regions sends few bios")
def _(t):
    clone = t.idle_clone(region=8, size=16 * MIB, kind="null")
    with t.trace(clone.dest) as trace:
        clone.discard(0, 8 * MIB)
    bios = len(trace.of(clone.dest.number, "D"))
    t.note(f"{bios} bios")
    if bios > 16:
        raise Failure(f"{bios} discards for one of 8 MiB")


@test("hydration reads and writes each sector once")
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB)
    with t.trace(clone.source, clone.dest) as trace:
        clone.hydrate()
    read = sum(b.nr for b in trace.of(clone.source.number, "R"))
    written = sum(b.nr for b in trace.writes(clone.dest.number))
    if (read, written) != (clone.size, clone.size):
        raise Failure(f"{read} sectors read, {written} written, of {clone.size}")
    t.note(f"{len(trace.of(clone.source.number))} reads")


# Commits


def commits(t, clone, fn):
    with t.trace(clone.meta) as trace:
        fn()
    return len(trace.commits(clone.meta.number))


def on_disk(clone, region):
    """What is on the metadata device says that the region is hydrated."""
    return metadata.bit(metadata.live_bitmap(clone.meta.block, clone.regions), region)


def settle(clone):
    """Waits until nothing is left to commit."""
    clone.flush()
    time.sleep(1.3)


@test("a flush after a write commits, once")
def _(t):
    clone = t.idle_clone()
    settle(clone)

    def write_and_flush():
        clone.put(64, 8)
        clone.flush()

    n = commits(t, clone, write_and_flush)
    if n != 1:
        raise Failure(f"{n} commits")


@test("what a flush made durable is in the metadata before the flush returns")
def _(t):
    clone = t.idle_clone(region=8)
    for region in 3, 77, 500:
        clone.put(region * 8, 8)
        clone.flush()
        if not on_disk(clone, region):
            raise Failure(f"region {region} is not hydrated on disk")


@test("a write with FUA commits its region before it returns")
def _(t):
    clone = t.idle_clone(region=8)
    for region, nr in (3, 8), (77, 3), (500, 8):
        clone.put(region * 8, nr, fua=True)
        if not on_disk(clone, region):
            raise Failure(f"region {region} is not hydrated on disk")


@test("without a flush the metadata is committed within a second or so")
def _(t):
    clone = t.idle_clone()
    settle(clone)

    # A machine that stands still makes it late: one of these must be in time.
    latencies = []
    for region in range(8, 13):
        def write_and_wait():
            began = time.monotonic()
            clone.put(region * 8, 8)
            t.until(lambda: on_disk(clone, region), "the commit")
            latencies.append(time.monotonic() - began)
            time.sleep(1.3)

        n = commits(t, clone, write_and_wait)
        if n != 1:
            raise Failure(f"{n} commits for one write")
        if latencies[-1] < 2.5:
            break
    t.note(", ".join(f"{seconds:.1f} s" for seconds in latencies))
    if min(latencies) >= 2.5:
        raise Failure(f"committed after {latencies} s")


@test("a writer without flushes gets a commit a second, not more")
def _(t):
    clone = t.idle_clone(size=16 * MIB)
    settle(clone)
    regions = iter(range(clone.regions))

    def write_for_4_seconds():
        end = time.monotonic() + 4
        while time.monotonic() < end:
            clone.put(8 * next(regions), 8)
            time.sleep(0.02)

    # A machine that stands still makes them fewer: not each time.
    for _ in range(5):
        with t.trace(clone.meta) as trace:
            write_for_4_seconds()
        n = len(trace.commits(clone.meta.number))
        t.note(f"{n} commits in {trace.seconds:.1f} s")
        if n > trace.seconds + 2:
            raise Failure(f"{n} commits in {trace.seconds:.1f} s")
        if n >= 2:
            break
    else:
        raise Failure("too few commits")


@test("nothing is written to the metadata when nothing has changed")
def _(t):
    clone = t.idle_clone()
    clone.put(0, 64)
    settle(clone)
    with t.trace(clone.meta) as trace:
        time.sleep(2.5)
        for _ in range(5):
            clone.put(0, 64)                # hydrated and committed
            clone.flush()
            clone.put(8, 8, fua=True)
            clone.get(640, 64)
            clone.flush()
    if trace.writes(clone.meta.number):
        raise Failure(f"{trace.writes(clone.meta.number)[:5]}")


@test("{requests} of what is committed cost no commit while hydration runs",
      defect="each flush commits what hydration has changed",
      requests={"flushes": False, "FUA writes": True})
def _(t, requests):
    clone = t.idle_clone(region=8, size=8 * MIB,
                         core={"hydration_threshold": 2, "hydration_batch_size": 1})
    clone.put(0, 512)
    settle(clone)
    clone.source.delay(40)
    clone.enable_hydration()
    clone.until(lambda s: s.hydrated > 70, "some hydration")
    with t.trace(clone.meta) as trace:
        for i in range(20):
            clone.put(8 * (i % 60), 8, fua=requests)
            clone.flush()
            time.sleep(0.1)
    t.midway(clone)
    n = len(trace.commits(clone.meta.number))
    t.note(f"{n} commits for 20 in {trace.seconds:.1f} s")
    if n > trace.seconds + 1.5:
        raise Failure(f"{n} commits for 20 in {trace.seconds:.1f} s")


@test("a flush during hydration commits what the user wrote to unhydrated regions")
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB,
                         core={"hydration_threshold": 2, "hydration_batch_size": 1})
    clone.source.delay(10)
    clone.enable_hydration()
    for i in range(10):
        region = 2000 - 10 * i
        clone.put(region * 8 + 2, 3)
        clone.flush()
        if not on_disk(clone, region):
            raise Failure(f"region {region} is not hydrated on disk")


@test("a write to a region that hydration has just copied is durable after a flush")
def _(t):
    clone = t.clone(region=8, size=256)
    clone.until_hydrated()                  # most likely not committed yet
    clone.put(0, 8)
    clone.put(77, 3)
    clone.flush()
    bitmap = metadata.live_bitmap(clone.meta.block, clone.regions)
    for region in 0, 9:
        if not metadata.bit(bitmap, region):
            raise Failure(f"region {region} is not hydrated on disk")


@test("a write to a region that was copied a moment ago is durable after a flush",
      limit=180)
def _(t):
    clone = t.idle_clone(region=8, size=8 * MIB,
                         core={"hydration_threshold": 1, "hydration_batch_size": 1})
    clone.source.delay(30)
    clone.enable_hydration()
    region = 0
    for _ in range(20):
        t.midway(clone)
        status = clone.until(lambda s, r=region: s.hydrated > r, "the next region")
        region = status.hydrated - 1        # copied in order, not yet committed
        clone.put(region * 8 + t.rng.randrange(8), 1)
        clone.flush()
        if not on_disk(clone, region):
            raise Failure(f"region {region} is not hydrated on disk")


def meet_commit(t, what, call, region):
    """A call that meets the timer's commit waits, and then this region is on disk."""
    clone = t.idle_clone(region=8)
    settle(clone)
    clone.meta.hold_writes()
    clone.put(64, 8)
    t.until(lambda: clone.meta.waiting, "the timer's commit")
    job = t.background(lambda: call(clone))
    job.must_block(0.5, f"{what} that meets a commit")
    clone.meta.heal()
    job.wait()
    if not on_disk(clone, region):
        raise Failure("the region is not hydrated on disk")


@test("a flush that meets a commit under way waits for it")
def _(t):
    meet_commit(t, "a flush", lambda clone: clone.flush(), 8)


@test("the last regions, written while a commit is under way, are committed too")
def _(t):
    clone = t.idle_clone(region=8, size=4 * MIB)
    clone.put(0, MIB)
    clone.meta.hold()
    first = t.background(clone.flush)
    first.must_block()
    clone.put(MIB, 3 * MIB)
    second = t.background(clone.flush)
    second.must_block()
    clone.meta.release()
    first.wait()
    second.wait()
    clone.until_hydrated()
    clone.check()
    clone.reactivate()
    clone.expect(done=True)
    clone.check()


@test("a write with FUA that meets a commit under way waits for the next one")
def _(t):
    meet_commit(t, "a write with FUA", lambda clone: clone.put(800, 8, fua=True), 100)


@test("flushes that come together share a commit")
def _(t):
    clone = t.idle_clone(region=8)
    settle(clone)
    clone.meta.hold()
    clone.put(64, 8)
    jobs = [t.background(clone.flush) for _ in range(32)]
    for job in jobs:
        job.join(0.01)
    time.sleep(0.5)
    with t.trace(clone.meta) as trace:
        clone.meta.release()
        for job in jobs:
            job.wait()
    n = len(trace.commits(clone.meta.number))
    t.note(f"{n} commits for {len(jobs)} flushes")
    if n > 4:
        raise Failure(f"{n} commits")


@test("the destination is flushed before each commit, and after the data it covers")
def _(t):
    size = 4 * MIB
    meta = t.metadata(kind="null")
    clone = t.idle_clone(region=8, size=size, kind="null", meta=meta)
    settle(clone)
    with t.trace(meta, clone.dest, complete=True) as trace:
        for i in range(5):
            clone.put(800 + 8 * i, 8)
            clone.flush()
    superblocks = trace.commits(meta.number)
    if len(superblocks) != 5:
        raise Failure(f"{len(superblocks)} commits for five writes with flush")
    data = [b for b in trace.of(clone.dest.number, "W", "complete") if b.nr]
    began = trace.flushes(clone.dest.number)
    ended = trace.flushes(clone.dest.number, "complete")
    for write, superblock in zip(data, superblocks):
        # A flush that began after the data was there, and ended before the commit.
        if not any(write.time < b.time < e.time < superblock.time
                   for b, e in zip(began, ended)):
            raise Failure(f"data at {write.time}, superblock at {superblock.time}, "
                          f"flushes {[(b.time, e.time) for b, e in zip(began, ended)]}")


@test("the metadata device is flushed around its superblock")
def _(t):
    meta = t.metadata(kind="null")
    clone = t.idle_clone(meta=meta)
    settle(clone)
    with t.trace(meta) as trace:
        clone.put(64, 8)
        clone.flush()
    bios = [b for b in trace.of(meta.number) if b.writes or b.flush]
    at = next(i for i, b in enumerate(bios) if b.writes and b.sector == 0)
    if not any(b.flush for b in bios[:at + 1]):
        raise Failure(f"no flush before the superblock: {bios}")
    if not (bios[at].fua or any(b.flush for b in bios[at + 1:])):
        raise Failure(f"no flush after the superblock: {bios}")


@test("a flush reaches the destination's cache even if nothing needs a commit")
def _(t):
    clone = t.idle_clone(kind="null")
    clone.put(0, 8)
    settle(clone)
    with t.trace(clone.dest) as trace:
        clone.put(0, 8)
        clone.flush()
    if not trace.flushes(clone.dest.number):
        raise Failure(f"{trace.bios}")


@test("a flush does not reach the source")
def _(t):
    source = t.source(4 * MIB, kind="null")
    clone = t.idle_clone(source=source)
    with t.trace(source) as trace:
        clone.put(0, 8)
        clone.flush()
        clone.put(64, 8, fua=True)
    if trace.flushes(source.number) or trace.writes(source.number):
        raise Failure(f"{trace.bios}")


@test("FUA writes {to}: the destination is flushed as often as through linear",
      ours="it flushes twice", to={"to committed regions": (0, 8),
                                   "to regions that are not committed": (128, 8),
                                   "of whole regions": (256, 8), "of parts of regions": (389, 3)})
def _(t, to):
    # User space sends a flush after each of them.
    base = t.disk(4 * MIB, "null")
    dest = t.add_disk(disks.Disk(t.name("dest"), 4 * MIB, disks.loop_over(base.path)))
    linear = linear_over(t, dest)
    with Block(linear.path) as block, t.trace(base) as trace:
        block.put(*to, 20, fua=True)
    linear.remove()
    wanted = len(trace.flushes(base.number))

    clone = t.idle_clone(region=8, dest=dest)
    clone.put(0, 64)
    settle(clone)
    for _ in range(5):
        clone.put(128, 64)
        with t.trace(base, clone.meta) as trace:
            clone.put(*to, fua=True)
        found = len(trace.flushes(base.number))
        if len(trace.commits(clone.meta.number)) <= (to[0] > 0):
            break
        settle(clone)                           # else the clock came in between
    t.note(f"{found} flushes, through linear {wanted}")
    if found != wanted:
        raise Failure(f"{found} flushes, through linear {wanted}")


def overwrite_with_fua(path, times):
    """Direct writes to blocks that exist, O_DSYNC: FUA, and no flush."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    with mmap.mmap(-1, 4096) as page:
        page[:] = b"y" * 4096
        for i in range(times):
            os.pwritev(fd, [page], i * 65536)
    os.close(fd)


@test("FUA without a flush, as ext4 sends it, commits the regions it wrote")
def _(t):
    source = t.disk(32 * MIB, fill=0, what="source")
    t.run("mkfs.ext4", "-q", source.path)
    where = t.mount(source.path, "ext4")
    with open(f"{where}/file", "wb") as f:
        f.write(b"x" * (1 << 20))
        os.fsync(f.fileno())
    t.umount(where)

    clone = t.idle_clone(region=8, size=32 * MIB, kind="null", source=source)
    where = t.mount(clone.path, "ext4")
    with t.trace(clone.device, clone.meta) as trace:
        overwrite_with_fua(f"{where}/file", 8)
        time.sleep(0.05)
        bitmap = metadata.live_bitmap(clone.meta.block, clone.regions)
    t.umount(where)

    fua = [b for b in trace.of(clone.device.number, "W") if b.fua and not b.flush]
    if len(fua) < 8:
        t.skip(f"this kernel sends something else: {trace.bios[:8]}")
    for bio in fua:
        if not metadata.bit(bitmap, bio.sector // 8):
            raise Failure(f"{bio}: its region is not hydrated on disk")
    t.note(f"{len(trace.commits(clone.meta.number))} commits for {len(fua)} writes")


@test("an activation writes one block of metadata and flushes once, {what}; a new table "
      "writes none",
      ours="it does not write it",
      what={"hydration goes on": False, "all is hydrated": True})
def _(t, what):
    clone = t.idle_clone(region=8, meta=t.metadata(kind="null"))
    clone.put(0, clone.size if what else 64)
    clone.deactivate()
    with t.trace(clone.meta) as trace:
        clone.activate()
    changes = [b for b in trace.of(clone.meta.number) if b.writes or b.flush]
    if [(b.sector, b.nr, b.flush) for b in changes] != [(0, 8, False), (0, 0, True)]:
        raise Failure(f"{changes}")
    with t.trace(clone.meta) as trace:
        clone.reload()
    if trace.bios:
        raise Failure(f"a new table: {trace.bios}")
    clone.check()


@test("an idle, finished clone does nothing at all")
def _(t):
    clone = t.clone(region=8)
    clone.until_hydrated()
    if not t.peer:
        t.until(lambda: clone.stats()["state"] == "done", "the end")
    settle(clone)
    time.sleep(1.0)
    with t.trace(clone.meta, clone.dest, clone.source) as trace:
        time.sleep(2.5)
    if trace.bios:
        raise Failure(f"{trace.bios[:5]}")
    if clone.get(0) != [SOURCE]:
        raise Failure("it does not even work")


# Bitsets of many blocks


ARRAY = 32576                               # regions whose bits are in one block


class Large:
    """A clone of several array blocks, over devices without content."""

    def __init__(self, t, arrays):
        self.t, self.arrays = t, arrays
        self.size = arrays * ARRAY * 8
        self.zero = t.mapped([(0, self.size, "zero", "")])
        self.dest = t.mapped([(0, self.size, "zero", "")])

    def _table(self, meta):
        return [(0, self.size, "clone",
                 f"{meta.number} {self.dest.number} {self.zero.number} 8 1 no_hydration")]

    def activate(self, meta):
        self.meta = meta
        self.device = self.t.mapped(self._table(meta))
        return self

    def least_blocks(self):
        """What is needed at least, as a refusal tells."""
        device, log = self.t.unready(), kmsg.Log()
        meta = self.t.metadata(64)
        self.t.fails(lambda: device.load(self._table(meta)), what="a small device")
        return int(re.search(r"(\d+) are needed", "".join(log.read()))[1])

    def put(self, block, array, region=0):
        block.put((array * ARRAY + region) * 8, 8, 20)

    def commits(self, trace):
        return len(trace.commits(self.meta.number))


@test("the least metadata that is accepted, low words made dirty in each transaction: a "
      "flush takes no more of them than there are blocks to write", limit=120,
      ours="it runs out of room")
def _(t):
    arrays = 40
    large = Large(t, arrays)
    meta = t.add_disk(disks.Cache(t.name("cache"), t.metadata(large.least_blocks() * 8)))
    large.activate(meta)
    commits = 0
    with Block(large.device.path) as block:
        for array in range(arrays):
            large.put(block, array)
        meta.hold_some(superblock=True)
        flush = t.background(block.flush)
        while True:
            t.until(lambda: meta.waiting or flush.done, "a superblock on its way")
            if flush.done:
                break
            commits += 1
            if commits > arrays:
                meta.hold_some()
                raise Failure(f"{commits} commits, and the flush still waits")
            for array in range(arrays // 2):
                large.put(block, array, commits)
            meta.hold_some(superblock=True)     # this one goes on, the next does not
        meta.hold_some()
        flush.wait(10, "a flush")
    t.note(f"{commits} commits")


@test("the recommended metadata: a commit of everything is one transaction", limit=120,
      ours="its size is another")
def _(t):
    arrays = 40
    regions = arrays * ARRAY
    large = Large(t, arrays)
    log = kmsg.Log()
    large.activate(t.metadata(large.least_blocks() * 8))
    enough = int(re.search(r"with (\d+) no commit", "".join(log.read()))[1])
    if enough * 4096 > regions * 0.26 + (4 << 20):
        raise Failure(f"{enough} blocks are needed, the guide says less")
    large.device.remove()

    large.activate(t.metadata(enough * 8))
    if "no commit is" in "".join(log.read()):
        raise Failure(f"{enough} blocks are too few now")
    with Block(large.device.path) as block:
        for region in range(3):
            for array in range(arrays):
                large.put(block, array, region)
            with t.trace(large.meta) as trace:
                block.flush()
            # The clock may have come first, or come in between.
            if large.commits(trace) > 2:
                raise Failure(f"{large.commits(trace)} commits for a flush")


@test("a commit of changes all over the bitset reads no part of the bitset", limit=120,
      ours="it reads what it changes")
def _(t):
    arrays = 100
    cache = "/sys/module/dm_bufio/parameters/max_cache_size_bytes"
    large = Large(t, arrays)
    with open(cache, encoding="ascii") as f:
        before = f.read()
    try:
        with open(cache, "w", encoding="ascii") as f:
            f.write("65536")
        large.activate(t.metadata())
        with Block(large.device.path) as block:
            for region in range(3):
                for array in range(arrays):
                    large.put(block, array, region)
                parts = metadata.read(large.meta.block).bitmap_blocks(large.meta.block)
                with t.trace(large.meta) as trace:
                    block.flush()
                # What is not kept of the trees above may be read again.
                reads = trace.of(large.meta.number, "R")
                writes = len(trace.writes(large.meta.number))
                of_parts = [bio for bio in reads if bio.sector // 8 in parts]
                t.note(f"{len(reads)} reads, {writes} writes")
                if of_parts:
                    raise Failure(f"{of_parts[:8]} of {len(parts)} parts were read")
    finally:
        with open(cache, "w", encoding="ascii") as f:
            f.write(before)
    large.device.remove()
    bits = metadata.read(large.meta.block).bitmap(large.meta.block, arrays * ARRAY)
    if metadata.weight(bits, arrays * ARRAY) != 3 * arrays:
        raise Failure("the bits on disk are not the regions written")
    metadata.check(large.meta.image())
