# SPDX-License-Identifier: GPL-2.0-only
"""How a test ends if it does not pass."""


class Failure(Exception):
    """What is tested did what it must not do."""


class Missed(Exception):
    """The situation that this test is about did not occur.

    For a precondition that cannot be made certain, and for nothing else: the test
    is run again. What is tested doing wrong in that situation is no reason.
    """


class Skip(Exception):
    """The test cannot run here; the reason says why."""
