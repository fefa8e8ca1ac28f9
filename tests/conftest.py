"""What all tests share."""

from __future__ import annotations

import os
import signal

import hypothesis


def pytest_configure() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and its children inherit that: not here.

    Properties have no limit of time: how long an example takes says how busy the machine is. They try the same
    examples every time, so that what is green stays green; with DEEP others at every run.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.register_profile("swarmpy", deadline=None, derandomize="DEEP" not in os.environ)
    hypothesis.settings.load_profile("swarmpy")
