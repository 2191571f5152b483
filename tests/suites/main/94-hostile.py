# SPDX-License-Identifier: GPL-2.0-only
"""Hostile table lines, messages and metadata: the short form of make check-fuzz.

Each run takes other cases. A failure names the seed and the case, which this
repeats:  make check-fuzz SEED=17 FUZZ="--peer none --only random:42"
"""

import os
import re
import subprocess

from lib.errors import Failure
from lib.framework import test

FUZZER = os.path.join(os.path.dirname(__file__), "../../../build/tests/fuzz/hostile")
LIMIT = 25                      # seconds: what is not tried then is left out

# What is taken of each section.
PARTS = {
    "lines and messages": ("lines,messages", ["--lines", 400, "--messages", 600]),
    "metadata images": ("plain,crafted,random,blocks,superblock",
                        ["--part", 24, "--images", 150]),
}

# The same choices each time, so that the suite doesn't fail by chance:
# make check-fuzz is for new ones.
SEED = 206413


@test("{what}: a clear error or correct service", limit=120,
      ours="it believes what is on a disk", what=PARTS)
def _(t, what):
    if not os.path.exists(FUZZER):
        t.skip("build/tests/fuzz/hostile is missing: make -C tests/fuzz")
    sections, options = what
    command = [FUZZER, "--module", "loaded", "--seed", SEED,
               "--only", sections, "--seconds", int(LIMIT * t.patience), *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                          check=False, errors="replace")
    summary = re.search(r"^(\d+) passed, (\d+) failed$", done.stdout, re.MULTILINE)
    if done.returncode or not summary or summary[2] != "0":
        raise Failure(f"status {done.returncode}\n{done.stdout}{done.stderr}")
    t.note(f"seed {SEED}, {summary[1]} tried")
