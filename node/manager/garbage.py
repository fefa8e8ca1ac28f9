"""Keeps the garbage collector from stopping the loop of a process that holds the whole state.

A collection of the oldest generation looks at every object that is not frozen: about 1 ms for a
thousand tasks, and as long as it lasts nothing else runs. Objects of the store hold no cycles, so
looking through them finds nothing. Therefore: what lives on is frozen, the oldest generation is not
collected when Python thinks it time but every PERIOD_S, and what that leaves is frozen, too. A cycle
that was alive when it was frozen and dies later stays: a few kilobytes a day.
"""

from __future__ import annotations

import asyncio
import gc

PERIOD_S = 600.0
NEVER = 1 << 30


async def run() -> None:
    """Until cancelled; puts Python's own thresholds back."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(before[0], before[1], NEVER)
    try:
        while True:
            await asyncio.sleep(PERIOD_S)
            gc.collect()
            gc.freeze()
    finally:
        gc.set_threshold(*before)
