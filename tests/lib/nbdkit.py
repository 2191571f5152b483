# SPDX-License-Identifier: GPL-2.0-only
"""A server of block devices over NBD, on the machine that runs the virtual one."""

import socket
import subprocess


def serve(*words):
    """Start nbdkit with these words, read-only, on a free port of 127.0.0.1.

    Returns (process, port).
    """
    listener = socket.create_server(("127.0.0.1", 0))
    # nbdkit takes over a socket that already listens: no port to guess.
    script = f'LISTEN_PID=$$ LISTEN_FDS=1 exec nbdkit "$@" 3<&{listener.fileno()}'
    process = subprocess.Popen(
        ["bash", "-c", script, "nbdkit", "--foreground", "--exit-with-parent", "--readonly",
         "--threads=64", *words],
        pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    port = listener.getsockname()[1]
    listener.close()
    return process, port
