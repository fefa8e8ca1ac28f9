"""Tries again and again which nodes on this node's own segments are reached without VXLAN.

A round takes at most 1.2 s. What stops answering goes by VXLAN from the end of the round on, so a way that
breaks is left after `MOST_S` and a round at the latest; a link that goes down leaves it at once (see `direct`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.plane import Overlay

log = logging.getLogger(__name__)
FIRST_S, MOST_S = 1.0, 10.0


class NearNodes:
    """`nodes` are those that this node's tasks reach without VXLAN now, by id."""

    def __init__(self, overlay: Overlay, is_ready: Callable[[], bool]) -> None:
        self._overlay = overlay
        self._is_ready = is_ready  # once there is a network to look at
        self.nodes: frozenset[str] = frozenset()

    async def run(self) -> None:
        pause_s = FIRST_S
        problem = ""
        known: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()
        while True:
            await asyncio.sleep(pause_s)
            if not self._is_ready():
                continue
            try:
                seen, answered = await self._overlay.probe_near()
            except OverlayError as error:
                if problem != str(error):
                    problem = str(error)
                    log.warning("neighbours not probed error=%s", problem)
                continue
            problem = ""
            # Something is new: it may not know us yet, so soon again.
            pause_s = min(pause_s * 2, MOST_S) if (seen, answered) == known else FIRST_S
            known = seen, answered
            self.nodes = answered
