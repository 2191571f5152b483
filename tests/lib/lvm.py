# SPDX-License-Identifier: GPL-2.0-only
"""A volume group on disks of a test, and LVM with a configuration of its own."""

import os
import shutil

from lib import dm, dmclone
from lib.blk import MIB
from lib.errors import Failure

GROUP = 32 * MIB

CONFIGURATION = """
devices {{ obtain_device_list_from_udev=0 use_devicesfile=0 filter=[ {accepted}, "r|.*|" ] }}
activation {{ monitoring=0 udev_sync={udev} udev_rules={udev} }}
global {{ use_lvmpolld=0 thin_check_executable="" }}
backup {{ backup=0 archive=0 }}
"""


class Group:
    """Give it to Context.add_disk(). Extents have 1 MiB. dmclone, and whatever else the
    test starts, find the same configuration."""

    def __init__(self, t, disks, udev=False):
        if not os.path.exists("/sbin/lvm"):
            t.skip("there is no lvm2 here")
        self.t = t
        self.udev = udev
        self.name = t.name("vg")
        self.disks = disks
        self._folder = t.folder()
        with open(f"{self._folder}/lvm.conf", "w", encoding="utf-8") as f:
            accepted = ", ".join(f'"a|^{disk.path}$|"' for disk in disks)
            f.write(CONFIGURATION.format(accepted=accepted, udev=int(udev)))
        os.environ["LVM_SYSTEM_DIR"] = self._folder
        os.environ["LVM_SUPPRESS_FD_WARNINGS"] = "1"
        self("vgcreate", "-s", "1m", self.name, *(disk.path for disk in disks))

    def __call__(self, command, *words, fails=False, says=""):
        """An lvm command; it must fail, if that is said, and say that."""
        done = self.t.run("env", *(["-u", "DM_DISABLE_UDEV"] if self.udev else []), "lvm",
                          command, *words, check=not fails, timeout=120)
        output = done.stdout + done.stderr
        if fails and not done.returncode:
            raise Failure(f"lvm {command} {' '.join(words)} should fail: {output}")
        if says not in output:
            raise Failure(f"lvm {command} should say '{says}': {output}")
        return done.stdout

    def volumes(self, fields="lv_attr"):
        """{name: [fields]} of the volumes that are no part of others"""
        lines = self("lvs", "--noheadings", "--separator", "|", "-o", f"lv_name,{fields}",
                     self.name).splitlines()
        return {words[0]: words[1:] for words in (line.strip().split("|") for line in lines)}

    def mapped(self, lv):
        """The name that device mapper has for it."""
        return f"{self.name.replace('-', '--')}-{lv.replace('-', '--')}"

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        try:
            self("vgchange", "-an", self.name)
            self("vgremove", "-f", self.name)
        finally:
            del os.environ["LVM_SYSTEM_DIR"]
            for path in self._folder, f"/dev/{self.name}":
                shutil.rmtree(path, ignore_errors=True)


class Volume(dmclone.Volume):
    """A clone that becomes a logical volume of a group, and has a dash in its name."""

    def __init__(self, t, group, sectors, source):
        super().__init__(t, sectors, source)
        self.group = group
        self.lv = "new-lv"
        self.name = group.mapped(self.lv)
        self.whole = f"{group.name}/{self.lv}"
        self.destination = f"{self.whole}_dmclone"

    def __call__(self, action, *words, **args):
        return dmclone.run(self.t, action, self.whole, *words, udev=self.group.udev, **args)

    def create(self, *words, **args):
        return self("lvm", "--from", self.source.path, "-q", *words, **args)

    def table(self):
        """What the kernel has."""
        return dm.ioctl(dm.TABLE_STATUS, self.name, flags=dm.STATUS_TABLE | dm.NOFLUSH).payload

    def reboot(self):
        """What comes up by itself is active, as it is when LVM has found its disks."""
        super().reboot()
        self.group("vgchange", "-an", self.group.name)
        self.group("vgchange", "-aay", self.group.name)

    def check_end(self, opened):
        """It is a plain volume of LVM's, and nothing is left of the clone. opened: somebody
        has it open."""
        if dmclone.descriptions():
            raise Failure(f"descriptions are left: {list(dmclone.descriptions())}")
        found = self.group.volumes("lv_attr,lv_tags,lv_kernel_minor")
        attr, tags, minor = found.pop(self.lv, ["", "", ""])
        others = [name for name in found if "dmclone" in name]
        if others or tags or attr[4:6] != ("ao" if opened else "a-") or attr[-1] == "k":
            raise Failure(f"{self.lv} is '{attr}', with tags '{tags}'; left: {others}")
        if int(minor) != dm.devices()[self.name]:
            raise Failure(f"LVM has {self.lv} on dm-{minor}, it is {self.path}")
        left = [name for name in dm.devices() if "dmclone" in name]
        if left:
            raise Failure(f"mapped devices are left: {left}")
        before = self.table()
        self.group("lvchange", "--refresh", self.whole)
        if self.table() != before:
            raise Failure(f"LVM loads {self.table()}, there was {before}")
        if not opened:
            self.group("lvchange", "-an", self.whole)
            self.group("lvchange", "-ay", self.whole)
            if self.table() != before:
                raise Failure(f"LVM makes {self.table()}, there was {before}")


def group_of(t):
    return t.add_disk(Group(t, [t.disk(GROUP, what="pv") for _ in range(2)]))
