# SPDX-License-Identifier: GPL-2.0-only
"""dmclone with what lies on volumes: file systems, LVM, partitions; and a source that
fails."""

import hashlib
import os
import shutil
import signal
import subprocess

from lib.blk import FORMER, MIB, SOURCE
from lib.disks import ScsiDisk, modprobe
from lib.dmclone import STOPPED, Volume, run
from lib.errors import Failure
from lib.framework import test

SIZES = {"ext4": 64 * MIB, "xfs": 96 * MIB, "btrfs": 128 * MIB}
MKFS = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q", "-f"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"]}


class Tree:
    """Files below a directory, and what they are to be."""

    def __init__(self, t, where):
        self._t, self.where = t, where
        self._sums = {}

    def write(self, name, size):
        content = self._t.rng.randbytes(size)
        with open(f"{self.where}/{name}", "wb") as f:
            f.write(content)
            os.fsync(f.fileno())
        self._sums[name] = hashlib.sha256(content).hexdigest()

    def delete(self, name):
        os.unlink(f"{self.where}/{name}")
        del self._sums[name]

    def check(self):
        found = {}
        for name in os.listdir(self.where):
            if name != "lost+found":
                with open(f"{self.where}/{name}", "rb") as f:
                    found[name] = hashlib.sha256(f.read()).hexdigest()
        if found != self._sums:
            raise Failure(f"files differ: {sorted(found)} instead of {sorted(self._sums)}")


def fill(tree):
    for nr in range(12):
        tree.write(f"file{nr}", tree._t.rng.randrange(1, 1 << 20))


@test("a file system of {kind} is used from the first moment, while it hydrates, under finish, "
      "and from the destination: no file differs", limit=300, kind=["ext4", "xfs", "btrfs"])
def _(t, kind):
    if not shutil.which(MKFS[kind][0]):
        t.skip(f"there is no {MKFS[kind][0]}")
    size = SIZES[kind]
    source, dest = t.disk(size, what="source", fill=0), t.disk(size, what="dest", fill=FORMER)
    t.run(*MKFS[kind], source.path)
    modprobe(kind)
    where = t.mount(source.path, kind)
    tree = Tree(t, where)
    fill(tree)
    t.umount(where)

    vol = Volume(t, size, source, dest, t.metadata())
    vol.create("--no-hydration")
    tree.where = where = t.mount(vol.path, kind)
    tree.check()
    tree.write("file3", 300000)
    vol("rate", "20m")
    vol("resume")
    tree.write("new", 700000)
    tree.delete("file5")
    vol("finish")
    tree.write("last", 100000)
    tree.check()
    t.umount(where)
    vol("close")
    tree.where = where = t.mount(dest.path, kind)
    tree.check()
    t.umount(where)


class Lvm:
    """LVM, as it is without a udev daemon; it sees one device."""

    def __init__(self, t):
        self._t = t
        self.device = None

    def __call__(self, command, *words):
        config = (f'devices{{filter=["a|^{self.device}$|","r|.*|"] scan=["/dev"] '
                  'use_devicesfile=0 obtain_device_list_from_udev=0} '
                  'activation{udev_sync=0 udev_rules=0 verify_udev_operations=0}')
        return self._t.run("lvm", command, "--config", config, *words).stdout

    def volumes(self, config):
        """Numbers of the devices that are physical volumes by this configuration."""
        config = config.replace("devices {", 'devices { filter=["r|^/dev/ram|","a|.*|"] '
                                'scan=["/dev"] use_devicesfile=0 '
                                'obtain_device_list_from_udev=0', 1)
        names = self._t.run("lvm", "pvs", "--noheadings", "-o", "pv_name", "--config",
                            config).stdout.split()
        return [os.stat(name).st_rdev for name in names]

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        self._t.run("dmsetup", "remove", "--retry", "vgclone-lv", check=False)


@test("a volume group in use on a clone goes on under finish, and on the destination, and "
      "hydrate --file finds a file in it", limit=300)
def _(t):
    if not shutil.which("lvm"):
        t.skip("there is no LVM")
    size = 48 * MIB
    source, dest = t.disk(size, what="source", fill=0), t.disk(size, what="dest", fill=FORMER)
    vol = Volume(t, size, source, dest, t.metadata())
    lvm = t.add_disk(Lvm(t))
    lvm.device = source.path
    lvm("pvcreate", "-q", source.path)
    lvm("vgcreate", "-q", "vgclone", source.path)
    lvm("lvcreate", "-q", "-y", "-n", "lv", "-l", "100%FREE", "vgclone")
    volume = "/dev/mapper/vgclone-lv"
    t.run("mkfs.ext4", "-q", volume)
    where = t.mount(volume, "ext4")
    tree = Tree(t, where)
    fill(tree)
    t.umount(where)
    lvm("vgchange", "-q", "-an", "vgclone")

    vol.create("--no-hydration")
    lvm.device = f"/dev/mapper/{vol.name}"
    # A device may have the node of one that is gone, too: names do not tell.
    clone = [os.stat(vol.path).st_rdev]
    found = lvm.volumes(run(t, "status", "--lvm-filter"))
    if found != clone:
        raise Failure(f"with dmclone's filter LVM finds {found}, and not {clone}")
    lvm("vgchange", "-q", "-ay", "vgclone")
    tree.where = where = t.mount(volume, "ext4")
    vol("hydrate", "--file", f"{where}/file4", says="of it are missing")
    vol("resume")
    tree.write("new", 700000)
    tree.check()
    vol("finish")
    tree.write("last", 100000)
    t.umount(where)
    lvm("vgchange", "-q", "-an", "vgclone")
    vol("close")

    lvm.device = dest.path
    lvm("vgchange", "-q", "-ay", "vgclone")
    tree.where = where = t.mount(volume, "ext4")
    tree.check()
    t.umount(where)
    lvm("vgchange", "-q", "-an", "vgclone")


@test("a disk with partitions is cloned as a whole, and once the clone is gone the kernel "
      "knows those of the destination")
def _(t):
    if not shutil.which("sfdisk"):
        t.skip("there is no sfdisk")
    source, dest = t.add_disk(ScsiDisk(8 * MIB)), t.add_disk(ScsiDisk(8 * MIB))
    subprocess.run(["sfdisk", "-q", source.path], input="label: gpt\n,2M\n,2M\n", text=True,
                   check=True, capture_output=True)
    t.until(lambda: len(source.partitions()) == 2, "the kernel knows the source's partitions")
    where = t.folder()
    first = f"/dev/{source.partitions()[0]}"
    t.run("mkfs.ext4", "-q", first)
    vol = Volume(t, 8 * MIB, source, dest, t.metadata())

    # One that is in use may change.
    t.run("mount", first, where)
    vol.create(code=5, says=where)
    t.run("umount", where)

    vol.create()
    vol.until_hydrated()
    vol("remove")
    t.until(lambda: len(dest.partitions()) == 2, "the kernel knows the destination's partitions")
    t.run("mount", f"/dev/{dest.partitions()[0]}", where)
    t.run("umount", where)
    os.rmdir(where)


@test("a source that cannot be read stops hydration, which tells where, and goes on when it is "
      "read again", limit=240)
def _(t):
    modprobe("nbd")
    size, folder = 4 * MIB, t.folder()
    image, socket, broken = (f"{folder}/{name}" for name in ("image", "socket", "broken"))
    disk = t.disk(size, fill=SOURCE)
    with open(image, "wb") as f:
        f.write(disk.image())
    server = subprocess.Popen(["nbdkit", "--foreground", "--exit-with-parent", "--readonly",
                               "-U", socket, "--filter=error", "file", image,
                               "error-pread=EIO", "error-pread-rate=1",
                               f"error-pread-file={broken}"], stdin=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        t.until(lambda: os.path.exists(socket), "the server is there")
        vol = Volume(t, size, f"nbd+unix:///?socket={socket}", t.disk(size, fill=FORMER),
                     t.metadata())
        vol.create("--no-hydration", "--region-size", "64k")
        vol.message("hydration_max_errors 1")
        with open(broken, "wb"):
            pass
        vol("resume")
        vol("finish", code=STOPPED, says="dmclone resume")
        status = vol.status()
        if status["state"] != "stopped" or not status["read_errors"] or \
           not status["last_error"]:
            raise Failure(f"status: {status}")
        os.unlink(broken)
        vol("resume")
        vol("finish")
        vol.check()
        t.until(lambda: not os.path.exists("/sys/block/nbd0/pid"), "disconnected", 30)
        vol.forget()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        for path in image, socket, broken:
            if os.path.exists(path):
                os.unlink(path)
