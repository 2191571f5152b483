# SPDX-License-Identifier: GPL-2.0-only
"""A udev daemon, with dmclone's rule, for as long as a test needs it."""

import os
import signal
import subprocess

from lib import dmclone
from lib.errors import Failure

DAEMON = "/lib/systemd/systemd-udevd"
CONTROL = "/run/udev/control"
RULES = "/run/udev/rules.d"
RULE = os.path.join(dmclone.HERE, "../../tools/dmclone/data/61-dmclone.rules")


class Udev:
    """Give it to Context.add_disk() after the disks that it is to watch: the rules of
    libdevmapper ignore mapped devices that they see being made without a cookie."""

    def __init__(self, t, rule=True):
        self.t = t
        if not os.path.exists(DAEMON):
            t.skip("there is no udev here")
        os.makedirs(RULES, exist_ok=True)
        if rule:
            with open(RULE, encoding="utf-8") as f:
                text = f.read().replace("@SBINDIR@", os.path.dirname(dmclone.PROGRAM))
            with open(f"{RULES}/61-dmclone.rules", "w", encoding="utf-8") as f:
                f.write(text)
        # One that has ended leaves it.
        if os.path.exists(CONTROL):
            os.unlink(CONTROL)
        self._daemon = subprocess.Popen([DAEMON], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        t.until(lambda: os.path.exists(CONTROL), "udev's start")
        # It hears of devices only when it answers.
        t.run("udevadm", "control", "--ping", timeout=61)

    def settle(self):
        self.t.run("udevadm", "settle", f"--timeout={60 * self.t.patience:.0f}",
                   timeout=61)

    def look_again(self, *disks):
        self.t.run("udevadm", "trigger", "--action=change", *(d.path for d in disks))
        self.settle()

    def properties(self, path):
        lines = self.t.run("udevadm", "info", "-q", "property", path).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def links(self, disk):
        return self.properties(disk.path).get("DEVLINKS", "").split()

    @staticmethod
    def leads_to(link):
        return os.path.realpath(link) if os.path.exists(link) else None

    def expect(self, link, path):
        self.settle()
        found = self.leads_to(link)
        if found != path:
            raise Failure(f"{link} leads to {found}, not to {path}")

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait()
        for name in os.listdir(RULES):
            os.unlink(f"{RULES}/{name}")
