# SPDX-License-Identifier: GPL-2.0-only
"""The program dmclone: a clone's life in commands."""

import os
import signal
import subprocess
import time

from lib import dm, dmclone
from lib.blk import FORMER, MIB, SOURCE, Block, check_stamp
from lib.disks import modprobe
from lib.dmclone import BUSY, DEVICE, PARAMETER, STOPPED, Volume
from lib.errors import Failure
from lib.framework import test
from lib.thin import thin_disk

SIZE = 2 * MIB
HOLE = MIB                      # from here on an image file has nothing


def volume(t, meta=True, size=SIZE, **args):
    source = args.pop("source", None) or t.source(size)
    dest = args.pop("dest", None) or t.disk(size, what="dest", fill=FORMER)
    return Volume(t, size, source, dest, t.metadata() if meta else None, **args)


def image_file(t, size=SIZE):
    """An image that is stamped up to HOLE, and empty from there on."""
    path = f"{t.folder()}/image"
    with open(path, "wb") as f:
        f.truncate(size * 512)
    disk = t.disk(HOLE, fill=SOURCE)
    with open(path, "r+b") as f:
        f.write(disk.image())
    return path


def no_loop_over(path):
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as f:
                if f.read().strip() == path:
                    return False
        except OSError:
            pass
    return True


@test("a clone of an image file: created, used, closed, opened, finished under its user",
      limit=240)
def _(t):
    path = image_file(t)
    vol = volume(t, meta=False, source=path)
    vol.model.set(HOLE, SIZE - HOLE, 0)
    vol.create("--no-hydration", says=("region size 4.00 KiB", vol.metadata_file,
                                       "known to be zero"))
    vol.check()
    vol.put(5, 20)
    vol("close")
    t.until(lambda: no_loop_over(path) and no_loop_over(vol.metadata_file),
            "the loop devices go with the clone")
    vol("open")
    vol.check()
    status = vol.status()
    if status["state"] != "paused" or status["source"] != path:
        raise Failure(f"status: {status}")
    vol("pause")
    vol("wait", code=STOPPED, says="dmclone resume")
    vol("finish", code=STOPPED, says="paused")
    vol("rate", "100m")
    vol("resume")
    if vol.described_state()["rate"] != "102400":
        raise Failure(f"the rate is not described: {vol.described_state()}")
    with Block(vol.path) as user:
        vol("close", code=BUSY, says="in use")
        vol("finish", says="not needed any more")
        vol.model.check(user)
    if vol.described or os.path.exists(vol.metadata_file) or vol.target() != "linear":
        raise Failure("the clone is finished, but not all of it is gone")
    t.until(lambda: no_loop_over(path), "the loop device goes with the clone")
    vol("close")
    vol.check(vol.dest.path)
    os.unlink(path)


@test("what the source says to be zero is not read, and not what was there", limit=120)
def _(t):
    path = image_file(t)
    vol = volume(t, source=path)
    vol.create("--no-hydration")
    t.until(lambda: vol.hydrated() >= (SIZE - HOLE) // 8, "the holes' regions are hydrated")
    reply = dm.ioctl(dm.TARGET_MSG, vol.name, b"\0" * 8 + b"stats\0").payload
    stats = dict(word.split("=") for word in reply.split(b"\0")[0].decode().split())
    if int(stats["bytes_zeroed"]) != (SIZE - HOLE) * 512:
        raise Failure(f"skipped {stats['bytes_zeroed']} bytes")
    vol("resume")
    vol.until_hydrated()
    vol.model.set(HOLE, SIZE - HOLE, 0)
    vol.check()
    vol("remove")
    vol.check(vol.dest.path)
    os.unlink(path)


def serve(socket, image):
    server = subprocess.Popen(["nbdkit", "--foreground", "--exit-with-parent", "--readonly",
                               "-U", socket, "--filter=delay", "file", image,
                               "rdelay=10ms"], stdin=subprocess.DEVNULL)
    while not os.path.exists(socket):
        time.sleep(0.05)
    return server


@test("an NBD server that is killed and comes back costs nobody an error", limit=240)
def _(t):
    modprobe("nbd")
    image, socket = image_file(t), f"{t.folder()}/socket"
    server = serve(socket, image)
    try:
        vol = volume(t, source=f"nbd+unix:///?socket={socket}")
        vol.model.set(HOLE, SIZE - HOLE, 0)
        vol.create("--no-hydration", "--region-size", "64k")
        with Block(vol.path, readonly=True) as block:
            check_stamp(block, 0, 8, SOURCE)
        server.kill()
        server.wait()
        os.unlink(socket)
        with Block(vol.path, readonly=True) as block:
            read = t.background(lambda: block.get(1024))
            read.must_block(1)
            server = serve(socket, image)
            if read.wait(30) != [SOURCE]:
                raise Failure("what was read while the server was away is wrong")
        vol("resume")
        vol("finish", "--quiet")
        vol.check()
        t.until(lambda: not os.path.exists("/sys/block/nbd0/pid"), "disconnected", 30)
        vol.forget()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    for path in image, socket:
        if os.path.exists(path):
            os.unlink(path)


# What is refused -------------------------------------------------------------

class Unchanged:
    """Nothing that was there before has changed after it."""

    def __init__(self, *disks):
        self._disks = disks

    def __enter__(self):
        self._before = self._look()

    def _look(self):
        return dmclone.devices(), dmclone.descriptions(), [d.image() for d in self._disks]

    def __exit__(self, kind, *_):
        if kind:
            return
        for what, before, after in zip(("mapped devices", "descriptions", "disks"),
                                       self._before, self._look()):
            if before != after:
                raise Failure(f"{what} have changed")


def over(t, disk):
    """Another device holds the disk while it is there."""
    return t.mapped([(0, disk.sectors, "linear", f"{disk.number} 0")], "user")


def readonly(disk, value):
    disk.device.load(disk._linear(), value)
    disk.device.suspend()
    disk.device.resume()


def mount_points(t, disk):
    t.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", disk.path, "512")
    where = t.mount(disk.path, "ext4")
    os.sync()
    return where


@test("create refuses a {role} that is missing, no device, too small, in use, mounted, "
      "read-only or not empty, says what to do, and changes nothing", limit=240,
      role=["destination", "metadata"])
def _(t, role):
    source, dest, meta = t.source(SIZE), t.disk(SIZE, what="dest"), t.metadata()
    dest.zero()
    vol = Volume(t, SIZE, source, dest, meta)
    disk, word = (dest, "destination") if role == "destination" else (meta, "metadata device")
    small = t.disk(16, what="small", fill=0)

    def refused(code, *says, place=disk):
        args = [source.path, dest.path, meta.path]
        args[1 if role == "destination" else 2] = getattr(place, "path", place)
        with Unchanged(dest, meta):
            vol("create", *args, "-q", code=code, says=(word, *says))

    refused(DEVICE, "No such file", place="/dev/nothing")
    refused(PARAMETER, "no block device", place="/etc/passwd")
    refused(DEVICE, "extend it", place=small)
    refused(PARAMETER, "the same disk", place=source)
    user = over(t, disk)
    refused(BUSY, user.name)
    user.remove()
    readonly(disk, True)
    refused(DEVICE, "blockdev --setrw")
    readonly(disk, False)
    where = mount_points(t, disk)
    refused(BUSY, where, "unmount")
    t.umount(where)
    refused(DEVICE, "ext4", "wipefs -a")
    disk.zero()
    vol.create()


@test("create refuses names, sizes, sources and rates that are wrong, and changes nothing",
      limit=240)
def _(t):
    source, dest, meta = t.disk(SIZE, fill=0), t.disk(SIZE, what="dest", fill=0), t.metadata()
    vol = Volume(t, SIZE, source, dest, meta, stamp=0)
    places = [source.path, dest.path, meta.path]

    def refused(code, says, *words):
        with Unchanged(source, dest, meta):
            dmclone.run(t, "create", *words, code=code, says=says)

    refused(PARAMETER, "name of a clone", "a/b", *places, "-q")
    refused(PARAMETER, "say -q", vol.name, *places)
    refused(PARAMETER, "power of two", vol.name, *places, "-q", "--region-size", "5k")
    refused(PARAMETER, "no rate", vol.name, *places, "-q", "--rate", "fast")
    refused(PARAMETER, "no option --json", vol.name, *places, "-q", "--json")
    refused(DEVICE, "source", vol.name, "/dev/nothing", *places[1:], "-q")
    refused(DEVICE, "nbd+unix", vol.name, "nbd+unix:///?socket=/nowhere", *places[1:], "-q")
    # A file system on the source may change under the clone.
    where = mount_points(t, source)
    refused(BUSY, where, vol.name, *places, "-q")
    t.umount(where)
    user = over(t, source)
    refused(BUSY, user.name, vol.name, *places, "-q")
    user.remove()
    source.zero()
    vol.create("--no-hydration")
    refused(PARAMETER, "already", vol.name, *places, "-q")
    # It holds the source too, and only reads it.
    second = volume(t, source=source, stamp=0)
    second.create()
    second.check()


@test("open refuses devices that are not those of the clone, and changes nothing", limit=240)
def _(t):
    source, dest, meta = t.disk(SIZE, fill=SOURCE), t.disk(SIZE, what="dest"), t.metadata()
    vol = Volume(t, SIZE, source, dest, meta)
    vol.create("--no-hydration")
    vol.put(10, 30)
    vol("close")

    def refused(code, *says, small=None):
        with Unchanged(*(disk for disk in (source, dest, meta) if disk is not small)):
            vol("open", code=code, says=says)

    for disk, code in (dest, BUSY), (meta, BUSY), (source, BUSY):
        user = over(t, disk)
        refused(code, user.name)
        user.remove()
    for disk in dest, meta:
        readonly(disk, True)
        refused(DEVICE, "read-only")
        readonly(disk, False)
    source.block.put(3, 1, 77)
    refused(DEVICE, "samples of its content differ", "--force")
    source.fill(SOURCE)
    content = meta.image()
    meta.zero()
    refused(DEVICE, "there is no metadata")
    meta.fill(3)
    refused(DEVICE, "does not hold the metadata")
    meta.block.write(0, content)
    for disk in dest, source, meta:
        disk.shrink_to(SIZE // 2 if disk is not meta else 64)
        refused(DEVICE, small=disk)
        disk.heal()
    vol("open")
    vol.check()


@test("a clone that is done is opened as a linear device, without source and metadata",
      limit=120)
def _(t):
    vol = volume(t)
    vol.create()
    vol.put(1, 9)
    vol.until_hydrated()
    vol("close")
    vol.source.fail()
    vol("open")
    vol("close")
    if vol.described_state()["state"] != "done":
        raise Failure(f"the description says {vol.described_state()}")
    vol.meta.fail()
    vol("open", says="finish")
    vol.check()
    vol.meta.heal()
    vol("finish")
    if vol.meta.block.get(0, 8) != [0] * 8:
        raise Failure("the metadata is still there")
    vol.check()
    vol.source.heal()


@test("wait and finish fail when hydration has stopped, or cannot go on", limit=120)
def _(t):
    vol = volume(t)
    vol.create("--no-hydration")
    vol.message("hydration_max_errors 1")
    vol.source.fail()
    vol.message("enable_hydration")
    t.until(lambda: "no_hydration" in vol.status_words(), "hydration stops")
    vol("wait", code=STOPPED, says=("has stopped", "dmclone resume"))
    vol.source.heal()
    vol.meta.fail_writes()
    with Block(vol.path) as block:
        block.put(0, 8, t.stamp())
        t.fails(block.flush)
    vol("finish", code=DEVICE, says="mode ro")
    vol("remove", code=STOPPED, says="not done")
    vol.meta.heal()


@test("wait returns when the clone is done, and says meanwhile how far it is", limit=120)
def _(t):
    vol = volume(t)
    vol.source.delay(5)
    vol.create("--rate", "1m")
    waiting = t.background(lambda: vol("wait", "--progress-json"))
    waiting.must_block(1)
    vol("rate", "none")
    lines = waiting.wait(60).splitlines()
    if '"device_size":' not in lines[0] or f'"device_bytes":{SIZE * 512}' not in lines[-1]:
        raise Failure(f"it said {lines}")
    if vol.status()["state"] != "done":
        raise Failure(f"it is not done: {vol.status()}")
    vol("abort", code=PARAMETER, says="--force")
    vol("remove")


@test("abort gives up what was written only when told to", limit=120)
def _(t):
    vol = volume(t, meta=False)
    vol.create("--no-hydration")
    vol.put(0, 64)
    with Unchanged(vol.dest):
        vol("abort", "-q", code=PARAMETER, says=("32.0 KiB", "--force"))
    vol("close")
    with Unchanged(vol.dest):
        vol("abort", "-q", code=PARAMETER, says=("32.0 KiB", "--force"))
    vol("abort", "-q", "--force", says="wipefs")
    if vol.described or vol.is_open or os.path.exists(vol.metadata_file):
        raise Failure("not all of it is gone")


@test("a thin volume is taken for zeroes only if it is new and its pool zeroes blocks",
      limit=120)
def _(t):
    dest, _ = thin_disk(t, SIZE, 2 * SIZE)
    path = dest.backing.path
    vol = Volume(t, SIZE, t.source(SIZE), dest, t.metadata())

    def create():
        dest.device.load([(0, 8, "error", "")])     # it holds the volume
        dest.device.suspend()
        dest.device.resume()
        vol("create", vol.source.path, path, vol.meta.path, "-q", "--no-hydration")
        zeroed = vol.described_state()["zeroed-destination"]
        vol("abort", "-q", "--force")
        return zeroed

    if create() != "yes":
        raise Failure("a new thin volume is not taken for one")
    with Block(path) as block:
        block.put(128, 8, 0)
    if create() != "no":
        raise Failure("a volume that has been written is taken for a new one")
    dest.heal()


# More of a clone's life ----------------------------------------------------------

@test("grow makes the rest of a larger destination usable at once, and for good", limit=240)
def _(t):
    tail = MIB + 8
    dest = t.disk(SIZE + tail, what="dest", fill=FORMER)
    vol = volume(t, dest=dest)
    vol.create("--no-hydration")
    vol("grow", "--zero-tail", says="resize2fs")
    vol("grow", code=DEVICE, says="extend")
    stamp = t.stamp()

    def check():
        with Block(vol.path) as block:
            if block.sectors != SIZE + tail:
                raise Failure(f"it has {block.sectors} sectors")
            vol.model.check(block)
            check_stamp(block, SIZE, 8, stamp, "the beginning of the tail")
            check_stamp(block, SIZE + 8, tail - 8, 0, "the rest of the tail")

    with Block(vol.path) as block:
        block.put(SIZE - 8, 16, stamp)
    vol.model.set(SIZE - 8, 8, stamp)
    check()
    vol("close")
    vol("open")
    check()
    vol("resume")
    vol("finish")
    check()


@test("hydrate --file, map and metrics tell what of a clone is hydrated", limit=240)
def _(t):
    source = t.disk(24 * MIB, what="source", fill=0)
    t.run("mkfs.ext4", "-q", "-b", "4096", source.path)
    where = t.mount(source.path, "ext4")
    # What is read ahead is in the middle.
    for name, size in ("read", 1 << 20), ("between", 9 << 20), ("unread", 1 << 20):
        with open(f"{where}/{name}", "wb") as f:
            f.write(t.rng.randbytes(size))
            os.fsync(f)
    t.umount(where)
    vol = volume(t, source=source, size=24 * MIB)
    vol.create("--no-hydration", "--hydrate-on-read")
    vol("map", says="[....")
    where = t.mount(vol.path, "ext4")
    with open(f"{where}/read", "rb") as f:
        f.read()

    def missing(name):
        return vol("hydrate", "--file", f"{where}/{name}").strip()

    t.until(lambda: missing("read") == "0 bytes of it are missing", "what was read is hydrated")
    if missing("unread") != "1.00 MiB of it are missing":
        raise Failure(f"of a file that nobody has read: {missing('unread')}")
    vol("hydrate", "--file", "/etc/passwd", code=PARAMETER, says="--range")
    vol("hydrate", "--range", "1t+1m", code=DEVICE, says="in the clone")
    with open(f"{where}/read", "rb") as f:
        os.fsync(f)
    if "#" not in vol("map"):
        raise Failure("map shows nothing that is hydrated")
    text = dmclone.run(t, "metrics")
    line = f'dmclone_hydrated_bytes{{name="{vol.name}"}} {vol.hydrated() * 4096}\n'
    if line not in text or not text.endswith("# EOF\n"):
        raise Failure(f"expected {line!r} in {text}")
    t.umount(where)
    vol("abort", "-q", "--force")


# Killed at each step -------------------------------------------------------------

def until_it_lives(t, action, before, after, odd=None):
    """Kill the action before each of its steps; after() sees that all is well then. Chance
    decides whether the machine reboots at odd steps or at even ones."""
    odd = t.rng.randrange(2) if odd is None else odd
    step = 1
    while True:
        before()
        code = action(step)
        if code == 0:
            break
        if code != dmclone.KILLED:
            raise Failure(f"killed before step {step} it ends with status {code}")
        after(step, step % 2 == odd)
        step += 1
    t.note(f"{step - 1} steps")
    if step < 4:
        raise Failure("it has hardly any steps: are they seen?")


def copy_of(vol):
    with open(vol.conf, "rb") as f:
        return f.read(), vol.meta.image(), vol.dest.image()


def restore(vol, copy):
    with open(vol.conf, "wb") as f:
        f.write(copy[0])
    vol.meta.block.write(0, copy[1])
    vol.dest.block.write(0, copy[2])


SMALL = MIB // 4


def small_volume(t):
    source = t.source(SMALL)
    dest = t.disk(SMALL, what="dest", fill=FORMER)
    return Volume(t, SMALL, source, dest, t.metadata(MIB // 8))


@test("create, killed at any step, is completed by a second run, after a reboot or without",
      limit=600)
def _(t):
    vol = small_volume(t)

    def after(step, reboot):
        if reboot:
            vol.reboot()
        if not vol.described or vol.described_state()["state"] == "creating":
            vol.create("--no-hydration")
        else:
            vol("open")
        vol.check()
        if vol.described_state()["state"] != "live":
            raise Failure(f"killed before step {step}: {vol.described_state()}")
        vol.forget()
        vol.meta.zero()

    until_it_lives(t, lambda step: vol.create("--no-hydration", code=None, steps=step),
                   lambda: None, after)
    vol.check()


@test("finish, killed at any step, is completed by a second run, and nothing is lost "
      "({which} steps after a reboot)", limit=600, which={"even": 0, "odd": 1})
def _(t, which):
    vol = small_volume(t)
    vol.create()
    vol.put(3, 40)
    vol.until_hydrated()
    vol("close")
    copy = copy_of(vol)
    table = f"{vol.meta.number} {vol.dest.number} {vol.source.number} 8"
    uuid = vol.described_state()["uuid"]

    def before():
        vol.forget()
        restore(vol, copy)
        dm.submit(dm.DEV_CREATE, dm.argument(vol.name, uuid=uuid), vol.name)
        dm.ioctl(dm.TABLE_LOAD, vol.name, dm.pack_table([(0, SMALL, "clone", table)]),
                 targets=1)
        dm.ioctl(dm.DEV_SUSPEND, vol.name)

    def after(step, reboot):
        if reboot:
            vol.reboot()
        if vol.described:
            if reboot:
                vol("open")
                vol.check()
            vol("finish")
        if vol.described or vol.meta.block.get(0, 8) != [0] * 8:
            raise Failure(f"killed before step {step}, and not completed")
        if vol.is_open:
            vol.check()
        vol.check(vol.dest.path)

    until_it_lives(t, lambda step: vol("finish", code=None, steps=step), before, after,
                   which)


@test("open, killed at any step, is completed by a second run", limit=300)
def _(t):
    vol = small_volume(t)
    vol.create("--no-hydration")
    vol.put(3, 40)
    vol("close")

    def after(_, reboot):
        if reboot:
            vol.reboot()
        vol("open")
        vol.check()
        vol.reboot()

    until_it_lives(t, lambda step: vol("open", code=None, steps=step), lambda: None, after)
    vol.check()


@test("grow, killed at any step, is completed by a second run, and the clone can be used before",
      limit=300)
def _(t):
    tail = MIB // 8
    dest = t.disk(SMALL + tail, what="dest", fill=FORMER)
    vol = Volume(t, SMALL, t.source(SMALL), dest, t.metadata(MIB // 8))
    vol.create("--no-hydration")
    vol.put(3, 40)
    vol("close")
    copy = copy_of(vol)

    def before():
        vol.forget()
        restore(vol, copy)
        vol("open")

    def check_size(sizes):
        with Block(vol.path, readonly=True) as block:
            if block.sectors not in sizes:
                raise Failure(f"it has {block.sectors} sectors, not one of {sizes}")
            vol.model.check(block)

    def after(_, reboot):
        if reboot:
            vol.reboot()
        vol("open")
        check_size([SMALL, SMALL + tail])
        vol("grow", code=None)
        check_size([SMALL + tail])
        vol.reboot()
        vol("open")
        check_size([SMALL + tail])

    until_it_lives(t, lambda step: vol("grow", "--zero-tail", code=None, steps=step),
                   before, after)


class Filesystem:
    """The directory with the descriptions, on a disk of its own: what a power cut leaves
    of it is what has reached the disk."""

    def __init__(self, t, disk):
        self._t, self.disk = t, disk
        t.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", disk.path)
        os.makedirs(dmclone.CONF_DIR, exist_ok=True)
        self.mount()

    def mount(self):
        self._t.run("mount", "-t", "ext4", self.disk.path, dmclone.CONF_DIR)

    def umount(self):
        self._t.run("umount", dmclone.CONF_DIR)

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        if os.path.ismount(dmclone.CONF_DIR):
            self.umount()


@test("finish, with the power cut at any step, is completed by a second run, and nothing is lost",
      limit=600)
def _(t):
    etc = t.add_disk(Filesystem(t, t.disk(16 * MIB, what="etc", fill=0)))
    vol = small_volume(t)
    disks = etc.disk, vol.meta, vol.dest
    vol.create()
    vol.put(3, 40)
    vol.until_hydrated()
    vol("close")
    etc.umount()
    start = [disk.image() for disk in disks]

    def begin(images):
        for disk, image in zip(disks, images):
            disk.block.write(0, image)
        etc.mount()

    def before():
        begin(start)
        table = f"{vol.meta.number} {vol.dest.number} {vol.source.number} 8"
        uuid = vol.described_state()["uuid"]
        dm.submit(dm.DEV_CREATE, dm.argument(vol.name, uuid=uuid), vol.name)
        dm.ioctl(dm.TABLE_LOAD, vol.name, dm.pack_table([(0, SMALL, "clone", table)]),
                 targets=1)
        dm.ioctl(dm.DEV_SUSPEND, vol.name)

    def after(step, _):
        # Whatever has not been written yet is lost.
        left = [disk.image() for disk in disks]
        vol.reboot()
        etc.umount()
        begin(left)
        if vol.described:
            vol("open")
            vol.check()
            vol("finish")
        if vol.described or vol.meta.block.get(0, 8) != [0] * 8:
            raise Failure(f"power cut before step {step}, and not completed")
        if vol.is_open:
            vol.check()
        vol.check(vol.dest.path)
        vol.reboot()
        etc.umount()

    until_it_lives(t, lambda step: vol("finish", code=None, steps=step), before, after)
    vol.reboot()


# A clone of systemd's --------------------------------------------------------------

CLONETAB = "/etc/clonetab"
OTHERS = "# what systemd opens\nother /dev/sdx /dev/sdy /dev/sdz\n\n"


@test("adopt, killed at any step, takes a clone over from systemd under its user, and leaves "
      "other lines of clonetab alone", limit=300)
def _(t):
    vol = small_volume(t)
    disks = vol.meta, vol.dest
    start = [disk.image() for disk in disks]
    line = f"{vol.name} {' '.join(vol.places)} region-size=4K\n"
    table = f"{vol.meta.number} {vol.dest.number} {vol.source.number} 8"

    def before():
        vol.forget()
        for disk, image in zip(disks, start):
            disk.block.write(0, image)
        with open(CLONETAB, "w", encoding="utf-8") as f:
            f.write(OTHERS + line)
        vol.model = type(vol.model)(SMALL, SOURCE)
        # As systemd-clonesetup does it
        dm.ioctl(dm.DEV_CREATE, vol.name)
        dm.ioctl(dm.TABLE_LOAD, vol.name,
                 dm.pack_table([(0, SMALL, "clone", table + " 1 no_hydration")]), targets=1)
        dm.ioctl(dm.DEV_SUSPEND, vol.name)
        vol.message("enable_hydration")
        vol.put(3, 40)

    def adopt(step):
        with Block(vol.path) as user:
            code = vol("adopt", code=None, steps=step)
            if code == 0:
                vol.model.check(user)
        return code

    def clonetab():
        with open(CLONETAB, encoding="utf-8") as f:
            return f.read()

    def after(step, _):
        if line in clonetab() and vol.meta.block.get(0, 8) == [0] * 8:
            raise Failure(f"killed before step {step}: systemd would clone again")
        # Nothing else is to be done before the second run, which may have nothing to do.
        if line in clonetab() or vol.described:
            vol("adopt")
        finished()

    def finished():
        if clonetab() != OTHERS:
            raise Failure(f"{CLONETAB} is {clonetab()!r}")
        if vol.described or vol.target() != "linear" or vol.meta.block.get(0, 8) != [0] * 8:
            raise Failure("not all of the clone is gone")
        vol.check()
        vol.check(vol.dest.path)

    try:
        before()
        vol("finish", code=PARAMETER, says="dmclone adopt")
        until_it_lives(t, adopt, before, after)
        finished()
        vol("adopt", code=PARAMETER, says=CLONETAB)
    finally:
        os.unlink(CLONETAB)
