# SPDX-License-Identifier: GPL-2.0-only
"""The program dmclone, run as people run it."""

import json
import os
import subprocess
import time

from lib import dm
from lib.blk import SOURCE, Block, Model
from lib.errors import Failure

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "../../build/tools/dmclone")
STEPS = os.path.join(HERE, "../../build/tests/libsteps.so")
CONF_DIR, METADATA_DIR = "/etc/dmclone", "/var/lib/dmclone"

PARAMETER, PERMISSION, MEMORY, DEVICE, BUSY, STOPPED = range(1, 7)
KILLED = -9


def run(t, *words, code=0, says=(), steps=None, udev=False):
    """Run it, and hear what it says. It must end with this code (None for any), and
    say all of these. steps: kill it before its step of this number. udev: there is
    a daemon."""
    if not os.path.exists(PROGRAM):
        t.skip("make tools builds dmclone")
    env = dict(os.environ, DM_DISABLE_UDEV="1", LC_ALL="C")
    if udev:
        del env["DM_DISABLE_UDEV"]
    if steps:
        env.update(LD_PRELOAD=STEPS, KILL_AT=str(steps))
    command = [PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env,
                          stdin=subprocess.DEVNULL, timeout=60 * t.patience)
    output = done.stdout + done.stderr
    text = f"dmclone {' '.join(command[1:])}: status {done.returncode}: {output.strip()}"
    if code is not None and done.returncode != code:
        raise Failure(f"expected status {code}; {text}")
    for word in [says] if isinstance(says, str) else says:
        if word not in output:
            raise Failure(f"expected to read '{word}'; {text}")
    if steps:
        return done.returncode
    return output


def descriptions():
    """{file: content} of all that dmclone keeps, and the sizes of metadata files."""
    found = {}
    for folder in CONF_DIR, METADATA_DIR:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = f"{folder}/{name}"
            with open(path, "rb") as f:
                found[path] = f.read()
    return found


def devices():
    """{mapped device: its table}"""
    return {name: dm.ioctl(dm.TABLE_STATUS, name, flags=dm.STATUS_TABLE | dm.NOFLUSH).payload
            for name in dm.devices()}


class Volume:
    """A clone that dmclone is to make, and the model of its content."""

    def __init__(self, t, sectors, source=None, dest=None, meta=None, stamp=SOURCE):
        self.t = t
        self.name = t.name("vol")
        self.source, self.dest, self.meta = source, dest, meta
        self.model = Model(sectors, stamp)
        t.add_disk(self)

    def __call__(self, action, *words, **args):
        """dmclone ACTION NAME ..."""
        return run(self.t, action, self.name, *words, **args)

    @property
    def places(self):
        """Source, destination and metadata for create."""
        return [getattr(place, "path", place) for place in
                (self.source, self.dest, self.meta) if place]

    def create(self, *words, **args):
        return self("create", *self.places, "-q", *words, **args)

    @property
    def conf(self):
        return f"{CONF_DIR}/{self.name}.conf"

    @property
    def described(self):
        return os.path.exists(self.conf)

    @property
    def metadata_file(self):
        return f"{METADATA_DIR}/{self.name}.metadata"

    def described_state(self):
        with open(self.conf, encoding="utf-8") as f:
            return dict(line.split(" = ", 1) for line in f.read().splitlines()
                        if " = " in line)

    @property
    def path(self):
        return f"/dev/dm-{dm.devices()[self.name]}"

    @property
    def is_open(self):
        return self.name in dm.devices()

    def target(self):
        """What kind of target it has now."""
        payload = dm.ioctl(dm.TABLE_STATUS, self.name, flags=dm.NOFLUSH).payload
        return dm.TARGET.unpack_from(payload)[4].split(b"\0")[0].decode() if payload else None

    def status_words(self):
        payload = dm.ioctl(dm.TABLE_STATUS, self.name, flags=dm.NOFLUSH).payload
        return payload[dm.TARGET.size:].split(b"\0")[0].decode().split()

    def hydrated(self):
        """regions"""
        return int(self.status_words()[3].split("/")[0])

    def message(self, text):
        dm.ioctl(dm.TARGET_MSG, self.name, b"\0" * 8 + text.encode() + b"\0")

    def status(self):
        return json.loads(self("status", "--json"))

    def until_hydrated(self):
        self.t.until(lambda: self.hydrated() == int(self.status_words()[3].split("/")[1]),
                     "the end of hydration", 60)

    def put(self, sector, nr):
        stamp = self.t.stamp()
        with Block(self.path) as block:
            block.put(sector, nr, stamp)
            block.flush()
        self.model.set(sector, nr, stamp)

    def check(self, where=None):
        """It reads as it should, or another device does."""
        with Block(where or self.path, readonly=True) as block:
            self.model.check(block)

    def reboot(self):
        """No mapped device of it is there any more."""
        if self.is_open:
            self._remove()

    def _remove(self):
        for _ in range(100):
            try:
                dm.ioctl(dm.DEV_REMOVE, self.name)
                return
            except OSError:
                time.sleep(0.05)
        dm.ioctl(dm.DEV_REMOVE, self.name)

    def forget(self):
        """Nothing is left of it; devices keep what they hold."""
        if self.is_open:
            self._remove()
        node = f"/dev/mapper/{self.name}"
        for path in (self.conf, f"{self.conf}.new", self.metadata_file, node):
            if os.path.lexists(path):
                os.unlink(path)

    # As a disk of the context

    def heal(self):
        pass

    def close(self):
        self.forget()
