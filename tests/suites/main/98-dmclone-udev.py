# SPDX-License-Identifier: GPL-2.0-only
"""dmclone beside udev, that is which of three devices with one UUID is found, and
systemd."""

import os
import shutil
import uuid

from lib import dmclone
from lib.blk import MIB
from lib.disks import ScsiDisk
from lib.errors import Failure
from lib.framework import test
from lib.udev import Udev

SIZE = 4 * MIB


class Reader:
    """Has a disk open all the time, and so keeps in the page cache what it has read."""

    def __init__(self, path):
        self._file = open(path, "rb")
        self._file.read(4096)

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        self._file.close()


@test("only the clone is found by the UUID and the label of the file system that it shares with "
      "source and destination, a {kind}, from its creation until it is finished", limit=240,
      kind=["mapped device", "SCSI disk"])
def _(t, kind):
    number = str(uuid.UUID(int=t.rng.getrandbits(128), version=4))
    source, meta = t.disk(SIZE, what="source", fill=0), t.metadata()
    if kind == "SCSI disk":
        dest = t.add_disk(ScsiDisk(SIZE))
    else:
        dest = t.disk(SIZE, what="dest", fill=0)
    udev = t.add_disk(Udev(t))
    t.run("mkfs.ext4", "-q", "-U", number, "-L", "dmclone-test", source.path)
    links = [f"/dev/disk/by-uuid/{number}", "/dev/disk/by-label/dmclone-test"]
    vol = dmclone.Volume(t, SIZE, source, dest, meta)

    def lead_to(path):
        for link in links:
            udev.expect(link, path)

    udev.look_again(source, dest)
    lead_to(os.path.realpath(source.path))
    t.add_disk(Reader(dest.path))
    others = {disk: set(udev.links(disk)) - set(links) for disk in (source, dest)}

    vol.create(udev=True)
    lead_to(vol.path)
    vol.until_hydrated()
    udev.look_again(source, dest, meta)
    lead_to(vol.path)
    for disk in source, dest:
        found = udev.properties(disk.path)
        if "ID_FS_UUID" in found or found.get("SYSTEMD_READY") != "0" or \
           found.get("UDISKS_IGNORE") != "1":
            raise Failure(f"udev says of {disk.path}: {found}")
        if set(udev.links(disk)) != others[disk]:
            raise Failure(f"the links of {disk.path} are {udev.links(disk)}, "
                          f"and not {others[disk]}")

    # Not open: better nothing than one that has holes.
    vol("close", udev=True)
    udev.look_again(source, dest)
    lead_to(None)

    vol("open", udev=True)
    lead_to(vol.path)
    where = t.folder()
    t.run("mount", f"UUID={number}", where)
    with open(f"{where}/file", "w", encoding="utf-8") as f:
        f.write("written to the clone")
    vol("finish", udev=True)
    lead_to(vol.path)
    t.run("umount", where)
    source.zero()
    vol("close", udev=True)
    lead_to(os.path.realpath(dest.path))
    t.run("mount", f"UUID={number}", where)
    with open(f"{where}/file", encoding="utf-8") as f:
        if f.read() != "written to the clone":
            raise Failure("what was written is not in the destination")
    t.run("umount", where)


UNITS = "/units"
GENERATOR = os.path.join(dmclone.HERE, "../../tools/dmclone/data/dmclone-generator")


def files_below(folder):
    """{path: content, or where a link leads to}"""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.islink(path):
                found[os.path.relpath(path, folder)] = os.readlink(path)
                continue
            with open(path, encoding="utf-8") as f:
                found[os.path.relpath(path, folder)] = f.read()
    return found


@test("systemd opens each clone that is live or done before what mounts it, one of an NBD "
      "export once there is a network")
def _(t):
    if not shutil.which("systemd-escape"):
        t.skip("there is no systemd here")
    out = t.folder()
    with open(GENERATOR, encoding="utf-8") as f:
        script = f.read().replace("@UNITDIR@", UNITS)
    os.makedirs(dmclone.CONF_DIR, exist_ok=True)
    clones = {"t-disk": ("live", "/dev/sdb"), "t-net": ("live", "nbd://host/export"),
              "t-done": ("done", "nbd://host/export"), "t-half": ("creating", "/dev/sdc")}
    try:
        for name, (state, source) in clones.items():
            with open(f"{dmclone.CONF_DIR}/{name}.conf", "w", encoding="utf-8") as f:
                f.write(f"# a comment\nstate = {state}\nsource = {source}\n")
        t.run("sh", "-c", script, "dmclone-generator", out, out, out)
        found = files_below(out)
    finally:
        for name in clones:
            os.unlink(f"{dmclone.CONF_DIR}/{name}.conf")
        shutil.rmtree(out)

    expected = {}
    service = f"{UNITS}/dmclone@.service"
    for name, target in (("disk", "local-fs"), ("net", "remote-fs"), ("done", "local-fs")):
        unit = f"dmclone@t\\x2d{name}.service"
        expected[f"{target}.target.wants/{unit}"] = service
        expected[f"dev-mapper-t\\x2d{name}.device.wants/{unit}"] = service
        order = f"Before={target}-pre.target\n"
        if name == "net":
            order = ("Wants=network-online.target\nAfter=network-online.target\n" + order)
        expected[f"{unit}.d/order.conf"] = "[Unit]\n" + order
    if found != expected:
        raise Failure(f"expected {expected}, found {found}")
