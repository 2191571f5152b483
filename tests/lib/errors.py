# SPDX-License-Identifier: GPL-2.0-only
"""How a test ends other than well."""


class Failure(Exception):
    """The thing tested did what it must not do."""


class Skip(Exception):
    """The test cannot run here; the reason says why."""
