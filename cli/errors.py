"""What a command may end with, and the exit code of each.

    CliError (1)                    refused or failed
    ├── UsageRefused (2)            a flag that is known but not built, a value that cannot be
    ├── NoManager (3)               no manager reachable, or no leader elected in time
    │   └── Disconnected (3)        a stream broke off; another manager may continue it
    ├── NotFound (4)
    ├── Conflict (5)                name taken
    │   └── Changed (5)             the object changed between reading and writing
    ├── NotConverged (6)            the cluster did not reach the wanted state, or rolled back
    ├── Forbidden (7)
    └── OutcomeUnknown (8)          a change was sent and nobody could say what became of it

Click's own usage errors are 2, Ctrl-C is 130. Every message is a sentence: what, where, what to do.
"""

from __future__ import annotations

import click

INTERRUPTED = 130


class CliError(click.ClickException):
    """The command was refused or failed."""

    exit_code = 1


class UsageRefused(CliError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class NoManager(CliError):
    """No manager answered, or none leads."""

    exit_code = 3


class Disconnected(NoManager):
    """The manager went away during a stream."""


class NotFound(CliError):
    """The object named does not exist."""

    exit_code = 4


class Conflict(CliError):
    """The name is taken, or someone else changed the object."""

    exit_code = 5


class Changed(Conflict):
    """Someone else wrote the object since it was read."""


class NotConverged(CliError):
    """Accepted, but the tasks did not come up (or were rolled back)."""

    exit_code = 6


class Forbidden(CliError):
    """The caller may not do this."""

    exit_code = 7


class OutcomeUnknown(CliError):
    """A change may or may not have been made."""

    exit_code = 8
