"""Proposals that come close together enter the log together: one append, one fsync, one message a peer.

One that comes alone enters at once. While others wait for their commit, new ones gather until they
are as many as those, or until the first of them has waited GATHER_S: a round of the protocol costs
about the same for one entry as for fifty, and with so many at work none is kept for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmpy.raft.log import LogError
from swarmpy.raft.shell import Waiter

GATHER_S = 0.002
Proposal = tuple[bytes, Waiter]


class Gathered:
    """Proposals that are not in the log yet; whoever lets them in bounds their number."""

    def __init__(self, loop: asyncio.AbstractEventLoop, enter: Callable[[list[Proposal]], None]) -> None:
        self._loop, self._enter = loop, enter
        self._line: list[Proposal] = []
        self._timer: asyncio.TimerHandle | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._line)

    def put(self, command: bytes, waiter: Waiter, under_way: int) -> None:
        """`under_way` = how many are in the log and not committed."""
        self._line.append((command, waiter))
        self.bytes += len(command)
        if len(self._line) >= under_way:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self._flush)

    def fail(self, error: LogError) -> None:
        """They never were in the log."""
        for _, waiter in self._take():
            waiter.resolve(error)

    def _flush(self) -> None:
        self._enter(self._take())

    def _take(self) -> list[Proposal]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        line, self._line, self.bytes = self._line, [], 0
        return line
