# SPDX-License-Identifier: GPL-2.0-only
"""Several jobs at once, in plain time: a part of tests/bench/io-guest.

Through a clone and through linear in turns, a moment each: what the host does
meanwhile meets both. Such a pair has a ratio, and the median of these counts.

    linear  clone  clone  linear  linear  clone  ...
    [   pair    ]  [   pair    ]  [   pair    ]
"""

import contextlib
import random
import statistics

import io_fio
import subjects
from lib import timing
from lib.blk import Block

PAIRS = 25
OPERATIONS = {4: 2048, 1024: 64}
FIO_PAIRS = 5
FIO_SECONDS = 1


class Threads:
    """System calls in a loop, nothing else: the next operation at once."""

    name = "threads"
    pairs = PAIRS

    def __init__(self, row, jobs):
        self._row = row
        self._jobs = jobs
        self._size = row["size_kib"] << 10
        self._nr = OPERATIONS[row["size_kib"]]
        nr = self._nr * (PAIRS + 1)
        every = range(subjects.places(row["state"], self._size))
        once = row["op"] == "write" and row["state"] not in (subjects.HYDRATED,
                                                             subjects.BUT_ONE)
        chosen = random.Random(3).sample(every, nr) if once else \
            random.Random(3).choices(every, k=nr)
        self._places = [i * self._size for i in chosen]

    def ns(self, block, number):
        """An operation; number is that of the pair."""
        places = self._places[number * self._nr:(number + 1) * self._nr]
        return timing.run(block, self._row["op"], self._size, places, False,
                          self._jobs) / len(places)


class Fio:
    """The same with fio, which takes much of the CPUs for itself."""

    name = "fio"
    pairs = FIO_PAIRS

    def __init__(self, row, jobs):
        self._row = row
        self._words = [f"--numjobs={jobs}", "--norandommap", "--randrepeat=0",
                       "--time_based", f"--runtime={FIO_SECONDS}"]

    def ns(self, block, _number):
        return io_fio.run(block.path, self._row["op"], self._row["size_kib"], *self._words)


LOADS = {load.name: load for load in (Threads, Fio)}


def pairs(load, linear, clone):
    """[ns through linear, ns through the clone], of each pair."""
    for block in (linear, clone):
        load.ns(block, load.pairs)      # the first time everything takes longer
    found = []
    for number in range(load.pairs):
        order = (linear, clone) if number % 2 else (clone, linear)
        ns = {block: load.ns(block, number) for block in order}
        found.append([ns[linear], ns[clone]])
    return found


def summary(found):
    ratios = [clone / linear for linear, clone in found]
    quarters = statistics.quantiles(ratios, n=4)
    return {"pairs": found, "linear": statistics.median(linear for linear, _ in found),
            "ns": statistics.median(clone for _, clone in found),
            "ratio": statistics.median(ratios), "from": quarters[0], "to": quarters[2]}


def measure(row, jobs, load, linear, all_clones):
    """Both over the same disks at the same time; nothing else uses them."""
    results = {}
    where = row["state"], row["region_kib"], row["op"]
    for clones in all_clones:
        with contextlib.ExitStack() as stack:
            blocks = [stack.enter_context(Block(stack.enter_context(subject.device(*where))))
                      for subject in (linear, clones)]
            results[clones.name] = summary(pairs(LOADS[load](row, jobs), *blocks))
    return dict(row, jobs=jobs, load=load, results=results)
