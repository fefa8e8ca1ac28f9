"""Writes that come close together go to the log together: one append, one fsync, one message a peer.

A round of the protocol costs several times what a write in it does. When writes come faster than
MANY in MANY_WITHIN_S, one waits up to GATHER_S for the next; a few clients never do, and never wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

MANY = 8
MANY_WITHIN_S = 0.01
GATHER_S = 0.004


class Gather:
    """The gate in front of the log; belongs to one event loop."""

    def __init__(self, many_within_s: float = MANY_WITHIN_S) -> None:
        self._many_within_s = many_within_s
        self._times_s: deque[float] = deque(maxlen=MANY)
        self._opening: asyncio.Event | None = None

    async def together(self) -> None:
        """Return at once, or with all who came meanwhile, in one turn of the loop."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        many = len(self._times_s) == MANY and now_s - self._times_s[0] < self._many_within_s
        self._times_s.append(now_s)
        if self._opening is None:
            if not many:
                return
            self._opening = asyncio.Event()
            loop.call_later(GATHER_S, self._open)
        await self._opening.wait()

    def _open(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.set()
