# SPDX-License-Identifier: GPL-2.0-only
"""A block device as an NVMe device: over TCP, to this machine itself."""

import os
import time

from lib.disks import modprobe
from lib.errors import Failure

NVMET = "/sys/kernel/config/nvmet"


class Nvme:
    """An NVMe device that ends in a block device of this machine."""

    NQN = "dm-clone-tests"
    ADDRESS = {"trtype": "tcp", "adrfam": "ipv4", "traddr": "127.0.0.1", "trsvcid": 4420}

    def __init__(self, path):
        modprobe("-a", "nvmet-tcp", "nvme-tcp")
        self.subsystem = f"{NVMET}/subsystems/{self.NQN}"
        self.namespace = f"{self.subsystem}/namespaces/1"
        self.port = f"{NVMET}/ports/1"
        self.link = f"{self.port}/subsystems/{self.NQN}"
        os.mkdir(self.subsystem)
        self._put(f"{self.subsystem}/attr_allow_any_host", 1)
        os.mkdir(self.namespace)
        self._put(f"{self.namespace}/device_path", path)
        self._put(f"{self.namespace}/enable", 1)
        os.mkdir(self.port)
        for key, value in self.ADDRESS.items():
            self._put(f"{self.port}/addr_{key}", value)
        os.symlink(self.subsystem, self.link)
        with open("/dev/nvme-fabrics", "r+b", buffering=0) as f:
            f.write(f"transport=tcp,traddr={self.ADDRESS['traddr']},"
                    f"trsvcid={self.ADDRESS['trsvcid']},nqn={self.NQN}".encode())
            answer = dict(word.split("=") for word in f.read(4096).decode().strip().split(","))
        self.controller = f"/sys/class/nvme/nvme{answer['instance']}"
        self.path = f"/dev/nvme{answer['instance']}n1"
        deadline = time.monotonic() + 60
        while not (os.path.exists(self.path) and self._sectors()):
            if time.monotonic() > deadline:
                raise Failure("no NVMe device appeared")
            time.sleep(0.02)

    def _sectors(self):
        with open(f"/sys/class/block/{os.path.basename(self.path)}/size",
                  encoding="ascii") as f:
            return int(f.read())

    @staticmethod
    def _put(path, text):
        with open(path, "w", encoding="ascii") as f:
            f.write(f"{text}\n")

    def remove(self):
        self._put(f"{self.controller}/delete_controller", 1)
        os.unlink(self.link)
        os.rmdir(self.port)
        self._put(f"{self.namespace}/enable", 0)
        os.rmdir(self.namespace)
        os.rmdir(self.subsystem)
