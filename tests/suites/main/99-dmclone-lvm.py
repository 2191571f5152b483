# SPDX-License-Identifier: GPL-2.0-only
"""dmclone lvm: clones that become logical volumes, beside LVM."""

from lib import dm, dmclone
from lib.blk import FORMER, MIB, Block
from lib.disks import modprobe
from lib.dmclone import BUSY, DEVICE, PARAMETER
from lib.errors import Failure
from lib.framework import test
from lib.lvm import GROUP, Group, Volume, group_of
from lib.udev import Udev

SIZE = 3 * MIB


def volume(t):
    return Volume(t, group_of(t), SIZE, t.source(SIZE))


@test("a clone becomes a {kind} volume under its user: LVM has it on the same device, with the "
      "same table", limit=300, kind=["linear", "thin"])
def _(t, kind):
    vol = volume(t)
    words = []
    if kind == "thin":
        modprobe("dm-thin-pool")
        vol.group("lvcreate", "-L8M", "-T", f"{vol.group.name}/pool")
        words = ["--thinpool", "pool"]
    vol.create("--no-hydration", *words)
    attr = vol.group.volumes()[f"{vol.lv}_dmclone"][0]
    if attr[0] != {"linear": "-", "thin": "V"}[kind] or attr[-1] != "k":
        raise Failure(f"the destination is '{attr}'")
    vol.put(5, 20)
    vol("resume")
    path = vol.path
    with Block(path) as user:
        vol("finish", says=f"/dev/{vol.whole} is a logical volume")
        vol.model.check(user)
        if vol.path != path:
            raise Failure(f"it was {path}, it is {vol.path} now")
        vol.check_end(opened=True)
        vol.group("vgchange", "-an", vol.group.name, fails=True)
        stamp = t.stamp()
        user.put(100, 8, stamp)
        user.flush()
        vol.model.set(100, 8, stamp)
    vol.check()
    vol.check_end(opened=False)
    vol.check()


@test("with udev, /dev/VG/LV leads to the clone, and to the volume that it becomes", limit=300)
def _(t):
    disk, source = t.disk(GROUP, what="pv"), t.source(SIZE)
    udev = t.add_disk(Udev(t))
    vol = Volume(t, t.add_disk(Group(t, [disk], udev=True)), SIZE, source)
    link = f"/dev/{vol.whole}"
    vol.create()
    udev.expect(link, vol.path)
    vol("finish")
    udev.expect(link, vol.path)
    vol.check_end(opened=False)
    udev.expect(link, vol.path)
    vol.check(link)


@test("LVM extends and moves the destination of a live clone, makes a snapshot of it, and refuses "
      "to take it away", limit=300)
def _(t):
    for module in "dm-mirror", "dm-snapshot":
        modprobe(module)
    vol = volume(t)
    vol.create("--no-hydration")
    vol.put(5, 20)
    group, name = vol.group, vol.group.name
    before = vol.table()
    group("vgchange", "-an", name, fails=True)
    group("vgexport", name, fails=True, says="active")
    group("lvremove", "-y", vol.destination, fails=True, says="used")
    group("lvextend", "-L+1M", vol.whole, fails=True, says="not found")
    group("lvchange", "--refresh", name)
    group("lvextend", "-L+2M", vol.destination)
    vol.check()
    group("pvmove", "-i1", "-n", f"{vol.lv}_dmclone", group.disks[0].path,
          group.disks[1].path)
    vol.put(40, 20)
    vol.check()
    group("lvcreate", "-s", "-L2M", "-n", "snap", vol.destination)
    if vol.table() != before:
        raise Failure(f"the clone's table was {before}, it is {vol.table()}")
    vol("resume")
    vol.until_hydrated()
    with Block(vol.path) as user:
        vol("finish", code=BUSY, says="no plain volume")
        vol.model.check(user)
        group("lvremove", "-y", f"{name}/snap")
        vol("finish")
        vol.model.check(user)
        vol.check_end(opened=True)
    size = group.volumes("lv_size")[vol.lv][0]
    if not size.startswith("5"):
        raise Failure(f"the volume has {size}, with what it was extended by it has 5 MiB")


@test("after a reboot neither volume of a clone is active until it is opened, and one that is done "
      "becomes the logical volume then", limit=300)
def _(t):
    vol = volume(t)
    vol.create("--no-hydration")
    vol.put(5, 20)
    vol.reboot()
    active = [name for name in dm.devices() if name.startswith(vol.group.mapped(""))]
    if active:
        raise Failure(f"LVM has activated {active}")
    vol("open")
    vol.check()
    vol("close")
    if [name for name in dm.devices() if name.startswith(vol.group.mapped(""))]:
        raise Failure("volumes of a clone that is closed are active")
    vol("open")
    vol("resume")
    vol.until_hydrated()
    vol("wait")
    vol.reboot()
    vol("open", says="logical volume")
    vol.check()
    vol.check_end(opened=False)


@test("dmclone lvm refuses what cannot be, and leaves nothing; abort removes both volumes",
      limit=240)
def _(t):
    vol = volume(t)
    group = vol.group
    group("lvcreate", "-L1M", "-n", vol.lv, group.name)
    vol.create(code=BUSY, says="already")
    group("lvremove", "-y", vol.whole)
    vol.create("--thinpool", "none", code=DEVICE, says="lvm says")
    vol.create("--region-size", "5k", code=PARAMETER, says="power of two")
    vol("lvm", code=PARAMETER, says="--from")
    dmclone.run(t, "lvm", "nothing", "--from", vol.source.path, code=PARAMETER, says="VG/NAME")
    dmclone.run(t, "lvm", "no-such-group/x", "--from", vol.source.path, code=DEVICE)
    if group.volumes() or dmclone.descriptions():
        raise Failure(f"left: {group.volumes()} {list(dmclone.descriptions())}")
    vol.create("--no-hydration")
    vol("close")
    vol("abort", "-q")
    if group.volumes() or dmclone.descriptions() or vol.is_open:
        raise Failure(f"abort has left {group.volumes()} {list(dmclone.descriptions())}")


@test("a source that is a physical volume is refused, and why is said", limit=120)
def _(t):
    vol = volume(t)
    other = t.disk(SIZE, what="source", fill=0)
    t.run("lvm", "pvcreate", "--config", 'devices { filter=[ "a|.*|" ] }', other.path)
    dmclone.run(t, "lvm", vol.whole, "--from", other.path, "-q", code=PARAMETER,
                says="physical volume")
    if vol.group.volumes():
        raise Failure(f"left: {vol.group.volumes()}")


@test("finish of a clone that becomes a logical volume, killed at every third step, is completed "
      "by a second run or after a reboot", limit=900)
def _(t):
    vol = volume(t)
    step = 1 + t.rng.randrange(3)
    reboot = t.rng.randrange(2) == 1
    while True:
        vol.create()
        vol.put(3, 40)
        vol.until_hydrated()
        with Block(vol.path) as user:
            code = vol("finish", code=None, steps=step)
            if not reboot and vol.described:
                vol("finish")
            if not reboot:
                vol.model.check(user)
                vol.check_end(opened=True)
        if reboot:
            vol.reboot()
            if vol.described:
                vol("open")
            vol.check()
            vol.check_end(opened=False)
        vol.group("lvremove", "-y", vol.whole)
        if code == 0:
            break
        if code != dmclone.KILLED:
            raise Failure(f"killed before step {step} it ends with status {code}")
        step += 3
        reboot = not reboot
    t.note(f"about {step} steps")
    if step < 12:
        raise Failure("it has hardly any steps: are they seen?")


@test("a finish that was killed between suspend and resume begins anew, with the extents that the "
      "volume has by then", limit=240)
def _(t):
    vol = volume(t)
    vol.create()
    vol.put(3, 40)
    vol.until_hydrated()
    other = t.disk(SIZE, what="other", fill=FORMER)
    with Block(vol.path) as user:
        with open(vol.conf, encoding="utf-8") as f:
            text = f.read()
        with open(vol.conf, "w", encoding="utf-8") as f:
            f.write(text.replace("state = live", "state = done"))
        dm.ioctl(dm.TABLE_LOAD, vol.name,
                 dm.pack_table([(0, SIZE, "linear", f"{other.number} 0")]), targets=1)
        dm.ioctl(dm.DEV_SUSPEND, vol.name, flags=dm.SUSPENDED)
        vol("finish")
        vol.model.check(user)
        vol.check_end(opened=True)


@test("under the name of a logical volume a clone does not last: LVM replaces it, and lvconvert "
      "has nothing to convert", limit=180)
def _(t):
    group = group_of(t)
    source, dest, meta = t.source(SIZE), t.disk(SIZE, what="dest"), t.metadata()
    group("lvcreate", "-L3M", "-n", "lv", group.name)
    volume, name = f"{group.name}/lv", group.mapped("lv")
    line = f"{meta.number} {dest.number} {source.number} 8 1 no_hydration"

    def kind():
        payload = dm.ioctl(dm.TABLE_STATUS, name, flags=dm.NOFLUSH).payload
        return dm.TARGET.unpack_from(payload)[4].split(b"\0")[0].decode()

    def make_clone():
        meta.block.fill(0, 0, 8)
        dm.ioctl(dm.TABLE_LOAD, name, dm.pack_table([(0, SIZE, "clone", line)]), targets=1)
        dm.ioctl(dm.DEV_SUSPEND, name, flags=dm.SUSPENDED)
        dm.ioctl(dm.DEV_SUSPEND, name)

    make_clone()
    group("lvconvert", "-y", "--type", "linear", volume)
    if kind() != "clone" or "X" not in group.volumes()["lv"][0]:
        raise Failure(f"lvconvert has made it {kind()}; LVM shows {group.volumes()}")
    for command in (["lvchange", "--refresh", volume], ["lvchange", "-pr", volume],
                    ["lvchange", "-prw", volume], ["lvextend", "-L+1M", volume],
                    ["vgchange", "--refresh", group.name], ["lvrename", volume, f"{volume}2"]):
        make_clone()
        group(*command)
        if command[0] == "lvrename":
            name = group.mapped("lv2")
        if kind() != "linear":
            raise Failure(f"it is {kind()} after {' '.join(command)}: the documents say otherwise")
