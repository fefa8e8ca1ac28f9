"""Writes that come close together go to the log together: one append, one fsync, one message a peer.

A round of the protocol costs several times what a write in it does. When writes come faster than
MANY in MANY_WITHIN_S, one waits up to GATHER_S for the next. Few clients on a quick machine write as often:
where fewer than FEW came together, nobody waits for the next REST_S.
"""

from __future__ import annotations

import asyncio
from collections import deque

MANY = 8
MANY_WITHIN_S = 0.01
GATHER_S = 0.004
FEW = 4
REST_S = 1.0


class Gather:
    """The gate in front of the log; belongs to one event loop."""

    def __init__(self, many_within_s: float = MANY_WITHIN_S) -> None:
        self._many_within_s = many_within_s
        self._times_s: deque[float] = deque(maxlen=MANY)
        self._opening: asyncio.Event | None = None
        self._waiting = 0
        self._rest_until_s = 0.0

    async def together(self) -> None:
        """Return at once, or with all who came meanwhile, in one turn of the loop."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        many = len(self._times_s) == MANY and now_s - self._times_s[0] < self._many_within_s
        self._times_s.append(now_s)
        if self._opening is None:
            if not many or now_s < self._rest_until_s:
                return
            self._opening, self._waiting = asyncio.Event(), 0
            loop.call_later(GATHER_S, self._open, loop)
        self._waiting += 1
        await self._opening.wait()

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting < FEW:
            self._rest_until_s = loop.time() + REST_S
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.set()
