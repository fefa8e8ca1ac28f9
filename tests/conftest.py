"""What all tests share."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and its children inherit that: not here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
