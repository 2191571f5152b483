# SPDX-License-Identifier: GPL-2.0-only
"""After all the other tests: what they left in memory, as kmemleak sees it."""

import os
import re
import time

from lib import faults
from lib.errors import Failure
from lib.framework import test

KMEMLEAK = "/sys/kernel/debug/kmemleak"


# What the kernel itself forgets where an allocation fails, whoever called it: the name
# of a slab cache that sysfs has no room for.
FORGOTTEN = "sysfs_slab_add"


def scan(t):
    """Objects that nothing refers to, each with its stack trace."""
    if not os.path.exists(KMEMLEAK):
        t.skip("this kernel has no kmemleak")
    # What was alive a moment ago may still have a pointer in a register.
    for _ in range(2):
        time.sleep(6)
        with open(KMEMLEAK, "w", encoding="ascii") as f:
            f.write("scan\n")
    with open(KMEMLEAK, encoding="ascii", errors="replace") as f:
        leaks = re.split(r"(?=^unreferenced object)", f.read(), flags=re.MULTILINE)[1:]
    return [leak for leak in leaks if FORGOTTEN not in leak]


def ours(leak):
    return "dm_clone" in leak or " clone_" in leak or "persistent" in leak or "dm_" in leak


@test("kmemleak finds nothing", limit=600)
def _(t):
    leaks = scan(t)
    t.note(f"{len(leaks)} objects of other parts of the kernel"
           if leaks else "not a single object")
    if any(map(ours, leaks)):
        raise Failure("\n".join(filter(ours, leaks))[:8000])
    if leaks:
        print("\n".join(leaks)[:4000])


@test("kmemleak finds nothing once the module is gone", limit=600)
def _(t):
    faults.module_file()
    t.run("rmmod", "dm_clone")
    leaks = scan(t)
    if leaks:
        raise Failure("\n".join(leaks)[:8000])
    t.run("modprobe", "dm_clone")
