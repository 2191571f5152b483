# SPDX-License-Identifier: GPL-2.0-only
"""How a test ends other than well."""


class Failure(Exception):
    """The thing tested did what it must not do."""


class Missed(Exception):
    """The situation that this test is about did not come about.

    For a precondition that cannot be made certain, and for nothing else: the test
    is run again. What the thing tested did in that situation is no reason.
    """


class Skip(Exception):
    """The test cannot run here; the reason says why."""
