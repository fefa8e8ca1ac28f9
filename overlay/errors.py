"""What can go wrong with the network of a machine.

OverlayError                the network of this machine cannot be made as wanted
└── KernelRefused           a netlink request was refused; has `errno`
"""

from __future__ import annotations

import os


class OverlayError(RuntimeError):
    """The network of this machine cannot be made as wanted; the message says what and what to do."""


class KernelRefused(OverlayError):
    """The kernel refused a request; `what` completes "cannot …"."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"cannot {what}: {os.strerror(number)}")
        self.errno = number
