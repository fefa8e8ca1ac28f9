"""Unpacking the layers of an image side by side.

Each layer has a child of its own, which waits for the layers below only if it has to look at
them (see unpack). When one fails the others end, and what lies above a missing layer goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swarmpy.node.image.holds import Holds
from swarmpy.node.image.layers import LayerDirectory, Turn
from swarmpy.node.image.transfer import all_or_first_error


@dataclass(frozen=True)
class Step:
    """One layer: its blob, and what comes of it."""

    blob: Path
    diff_id: str
    chain: str
    what: str
    tell: Callable[[], None]


class Stack:
    def __init__(
        self, layers: LayerDirectory, holds: Holds, made: Callable[[str], None],
        in_disk: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:  # fmt: skip
        """`made` is told each new layer, while its lock is held."""
        self._layers, self._holds, self._made, self._in_disk = layers, holds, made, in_disk

    async def unpack(self, steps: Sequence[Step]) -> None:
        """Lowest first. The caller has pinned the layers once."""
        chains = [step.chain for step in steps]
        absent = {chain for chain in chains if not self._layers.has(chain)}
        turns: list[Turn] = []
        for _ in steps:
            turns.append(Turn(turns[-1] if turns else None))

        async def one(number: int, step: Step) -> None:
            turn = turns[number]
            await turn.may_start()
            async with self._holds.locked(step.chain):
                if not self._layers.has(step.chain):
                    step.tell()
                    below = chains[:number]
                    await self._layers.unpack(step.blob, below, step.diff_id, step.chain, step.what, turn)
                    self._made(step.chain)
            turn.finished()

        try:
            await all_or_first_error([one(number, step) for number, step in enumerate(steps)])
        finally:
            await asyncio.shield(self._drop(chains, absent))

    async def _drop(self, chains: Sequence[str], fresh: set[str]) -> None:
        """What was made above a layer that could not be made."""
        present = [self._layers.has(chain) for chain in chains]
        if all(present):
            return
        for chain in chains[present.index(False) :]:
            if chain in fresh:
                async with self._holds.locked(chain):
                    if self._layers.has(chain) and self._holds.pins(chain) <= 1:
                        await self._in_disk(partial(self._layers.remove, chain))
