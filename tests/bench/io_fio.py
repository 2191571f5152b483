# SPDX-License-Identifier: GPL-2.0-only
"""I/O by fio: what the goals were set with, and what many know from elsewhere.

It takes some 4000 instructions of its own for each operation.
"""

import json
import subprocess

from subjects import SIZE_MIB

OPERATIONS = {4: 49152, 1024: 255}
FSYNCS = 2048
WORDS = ("fio", "--name=bench", "--direct=1", "--ioengine=libaio", "--thread",
         "--group_reporting", "--output-format=json")


def run(path, op, size_kib, *words, pattern="rand{op}"):
    """ns an operation; words are what else fio is told."""
    done = subprocess.run([*WORDS, f"--filename={path}", f"--rw={pattern.format(op=op)}",
                           f"--bs={size_kib}k", *words],
                          check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["jobs"][0][op]
    return found["runtime"] * 1e6 / found["total_ios"]


def cost(path, row):
    """ns an operation, each in regions of its own, but not in all of them."""
    size, region = row["size_kib"], row["region_kib"]
    nr = FSYNCS if row["fsync"] else OPERATIONS[size]
    nr = min(nr, (SIZE_MIB << 10) // max(size, region) - 1)
    # In larger regions random places would be hit twice.
    pattern = "rand{op}" if region <= size else f"{{op}}:{region - size}k"
    return run(path, row["op"], size, f"--number_ios={nr}",
               *["--fsync=1"] * row["fsync"], pattern=pattern)
