# SPDX-License-Identifier: GPL-2.0-only
"""I/O is charged to the cgroup that it came from, whoever submits it."""

import os

from lib.blk import ZERO
from lib.errors import Failure, Skip
from lib.framework import test

REGION = 128
PAGE = 8                        # sectors
NR = 16


class Cgroup:
    """A cgroup with the controller for I/O."""

    def __init__(self, t):
        self.root = t.mount("none", "cgroup2")
        try:
            with open(f"{self.root}/cgroup.subtree_control", "w", encoding="ascii") as f:
                f.write("+io")
        except OSError as error:
            raise Skip(f"no I/O controller: {error.strerror}") from None
        self.path = f"{self.root}/{t.name('group')}"
        if os.path.isdir(self.path):    # of a test that has failed
            os.rmdir(self.path)
        os.mkdir(self.path)

    def run(self, t, script):
        """A shell script in this group."""
        return t.run("sh", "-c", f"echo $$ > {self.path}/cgroup.procs; {script}")

    def charged(self, device, key):
        """What is charged for this device: rbytes, wbytes, rios or wios."""
        with open(f"{self.path}/io.stat", encoding="ascii") as f:
            for line in f:
                number, *words = line.split()
                if number == device.number:
                    return int(dict(word.split("=") for word in words)[key])
        return 0

    def close(self):
        os.rmdir(self.path)


def copy(*words):
    return "dd status=none bs=4k count=1 " + " ".join(words)


@test("writes that have waited for a claim are charged to their cgroup",
      ours="it has no cgroups in mind")
def _(t):
    group = Cgroup(t)
    clone = t.idle_clone(region=REGION)
    clone.source.hold()
    first = t.background(lambda: clone.put(0, 1))
    first.must_block(0.4, "a write whose region is not copied")
    writes = t.background(lambda: group.run(t, " ".join(
        copy(f"if=/dev/zero of={clone.path} seek={i} oflag=direct conv=notrunc &")
        for i in range(NR)) + " wait"))
    writes.must_block(2 * t.patience, "writes to a region that is claimed")
    clone.source.release()
    first.wait()
    writes.wait(40)
    charged = group.charged(clone.dest, "wbytes")
    if charged != NR * PAGE * 512:
        raise Failure(f"{charged} of {NR * PAGE * 512} bytes are charged")
    clone.model.set(0, NR * PAGE, ZERO)
    clone.check()
    group.close()


@test("a hydrating read through a stacked device is charged to its cgroup",
      ours="it has no hydrate_on_read")
def _(t):
    group = Cgroup(t)
    clone = t.clone(region=REGION, features=["no_hydration", "hydrate_on_read"])
    above = t.mapped([(0, clone.size, "linear", f"{clone.device.number} 0")])
    group.run(t, copy(f"if={above.path} of=/dev/null iflag=direct"))
    charged = group.charged(clone.source, "rbytes")
    if charged != PAGE * 512:
        raise Failure(f"{charged} of {PAGE * 512} bytes are charged: what was asked for")
    clone.check()
    above.remove()
    group.close()


@test("a read that has waited for a claim is charged to its cgroup",
      ours="it has no hydrate_on_read")
def _(t):
    group = Cgroup(t)
    clone = t.clone(region=8, features=["no_hydration", "hydrate_on_read"])
    clone.dest.hold()
    write = t.background(lambda: clone.block.put(0, 8, 50))
    write.must_block(0.4, "a write to a disk that is held")
    read = t.background(lambda: group.run(
        t, copy(f"if={clone.path} of=/dev/null iflag=direct")))
    read.must_block(2 * t.patience, "a read of a region that is claimed")
    clone.dest.fail()
    t.fails(write.wait, what="a write to a disk that fails")
    read.wait()
    charged = group.charged(clone.source, "rbytes")
    if charged != PAGE * 512:
        raise Failure(f"{charged} of {PAGE * 512} bytes are charged")
    group.close()
