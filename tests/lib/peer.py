# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own target, to be loaded in turn with the module under test."""

import contextlib
import os

from lib import modules

PEER = os.path.join(modules.BUILD, "peer/dm-clone.ko")


@contextlib.contextmanager
def interchange(t):
    """Gives a function that changes modules; in the end it is ours again."""
    with modules.replaced(t, PEER, "scripts/build-peer") as load:
        yield lambda who: load(PEER if who == "peer" else None)
