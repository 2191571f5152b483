# SPDX-License-Identifier: GPL-2.0-only
"""The daemon dmeventd, and a system log that remembers what it is told."""

import os
import shutil
import socket
import subprocess
import threading

from lib.errors import Failure

DAEMON = "/sbin/dmeventd"
PIPES = "/run/dmeventd-server", "/run/dmeventd-client"
LOG = "/dev/log"


class Syslog:
    """Give it to Context.add_disk()."""

    def __init__(self, t):
        self.t = t
        self.lines = []
        if os.path.lexists(LOG):
            os.unlink(LOG)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(LOG)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while True:
            line = self._socket.recv(8192)
            if line == b"end":
                return
            self.lines.append(line.decode(errors="replace").rstrip("\n\0"))

    def count(self, *words):
        """How many lines have all of these words."""
        return sum(all(word in line for word in words) for line in self.lines)

    def until(self, *words, timeout=30):
        try:
            self.t.until(lambda: self.count(*words), f"{words} in the system log", timeout)
        except Failure as e:
            raise Failure(f"{e}; the log says: {self.lines}") from e

    def heal(self):
        pass

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"end", LOG)
        self._thread.join()
        self._socket.close()
        os.unlink(LOG)


class Dmeventd:
    """Give it to Context.add_disk() before the clones that it is to watch."""

    def __init__(self, t):
        self.t = t
        if not shutil.which(DAEMON):
            t.skip("there is no dmeventd here")
        self._daemon = None
        self._start()

    def _start(self, *options):
        env = dict(os.environ, DM_DISABLE_UDEV="1", LC_ALL="C")
        self._daemon = subprocess.Popen([DAEMON, "-f", *options], env=env,
                                        stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.t.until(lambda: all(os.path.exists(pipe) for pipe in PIPES), "dmeventd's start")

    def restart(self):
        """A new one takes over what the old one watches."""
        old = self._daemon
        self._start("-R")
        old.wait(30 * self.t.patience)

    def kill(self):
        self._daemon.kill()
        self._daemon.wait()
        for pipe in PIPES:
            if os.path.exists(pipe):
                os.unlink(pipe)

    @property
    def children(self):
        """Processes that it has started and not waited for."""
        with open(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children",
                  encoding="ascii") as f:
            return f.read().split()

    def heal(self):
        pass

    def close(self):
        self.kill()
