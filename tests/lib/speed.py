# SPDX-License-Identifier: GPL-2.0-only
"""How slow this machine is, and rates on one that stands still at times."""

import threading
import time

from lib import dm
from lib.errors import Missed

ROUNDS = 40
USUAL = 0.3                     # seconds for that in an otherwise idle emulated machine
MOST = 4                        # no machine is taken for slower than this

STANDSTILL = 0.1                # seconds: 10 ms have taken this long
PRECISE = 0.01                  # seconds: a look that takes longer does not say when it was
LEAST = 0.4                     # seconds in a row that are of use
STEP = 0.5                      # seconds from one step to the next are long
SETTLE = 0.2                    # seconds after a standstill in which backlogs are worked off


def slowness():
    """How many times slower than usual; 1 if it is not slower."""
    began = time.monotonic()
    for _ in range(ROUNDS):
        thread = threading.Thread(target=lambda: sum(range(2000)))
        thread.start()
        thread.join()
        dm.devices()
    return min(max((time.monotonic() - began) / USUAL, 1), MOST)


class _Stretch:
    """Looks at something, one soon after the other.

    Progress comes in steps. So what counts is the time from one step to another,
    unless there is none for long.
    """

    def __init__(self):
        self._from = self._value = None
        self._first = self._last = None         # looks (when, value)
        self._first_step = self._last_step = None

    def add(self, when, value, precise):
        if self._from is None:
            self._from = when + SETTLE
        stepped, self._value = value != self._value, value
        if not precise or when < self._from:
            return
        look = when, value
        self._first = self._first or look
        self._last = look
        if stepped:
            self._first_step = self._first_step or look
            self._last_step = look

    def result(self):
        """(seconds, how far it has come)"""
        if not self._first:
            return 0, 0
        begin, end = self._first, self._last
        if self._first_step and self._first_step[0] - begin[0] < STEP:
            begin = self._first_step
        if self._last_step and end[0] - self._last_step[0] < STEP:
            end = self._last_step
        if end[0] - begin[0] < LEAST:
            return 0, 0
        return end[0] - begin[0], end[1] - begin[1]


def rate(progress, seconds, limit):
    """Progress in a second, while the machine runs smoothly.

    Measures @seconds of smooth running; Missed if there are fewer within @limit.
    """
    found, stretch = [], _Stretch()
    began = last = time.monotonic()
    while True:
        before = time.monotonic()
        value = progress()
        after = time.monotonic()
        if after - last > STANDSTILL:
            found.append(stretch.result())
            stretch = _Stretch()
        last = after
        stretch.add((before + after) / 2, value, after - before < PRECISE)
        took, far = map(sum, zip(*found, stretch.result()))
        if took >= seconds:
            return far / took
        if after - began > limit:
            raise Missed(f"this machine ran smoothly for {took:.1f} s of {limit:.0f} s")
        time.sleep(0.01)
