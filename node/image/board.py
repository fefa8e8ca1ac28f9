"""What a node tells others of an image that it holds or fetches: which chunks, and who else fetches it.

A board exists while the image is being fetched here, or while somebody listens. Whoever
listens is a node that fetches the image itself: the others hear of it, so that they can get
chunks from it. Each listener gets the whole state first, then what changed since.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

PEERS_TOLD_MAX = 32


@dataclass(frozen=True)
class Update:
    complete: bool = False
    have: bytes = b""  # only in the first one; bit n = chunk n
    got: tuple[int, ...] = ()
    claimed: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()


class Board:
    """Of one image on this node."""

    def __init__(self, have: Iterable[int] = (), *, complete: bool = False) -> None:
        self.complete = complete
        self.have = set(have)
        # Chunk, and who will have it: "" = it is here. What is asked for twice is told once, so it is bounded.
        self._log: list[tuple[int, str]] = []
        self._promised: set[int] = set()
        self._listeners: set[asyncio.Event] = set()
        self._members: Counter[str] = Counter()
        self._membership = 0

    @property
    def idle(self) -> bool:
        return not self._listeners

    def got(self, chunk: int) -> None:
        self.have.add(chunk)
        self._tell(chunk, "")

    def claimed(self, chunk: int, by: str) -> None:
        """The node `by` asked a complete holder for it: it can soon be had from there."""
        if chunk not in self._promised:
            self._promised.add(chunk)
            self._tell(chunk, by)

    def completed(self) -> None:
        self.complete = True
        self._wake()

    def _tell(self, chunk: int, by: str) -> None:
        self._log.append((chunk, by))
        self._wake()

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()

    async def updates(self, member: str) -> AsyncIterator[Update]:
        """For the node `member`, until it hangs up."""
        event = asyncio.Event()
        self._listeners.add(event)
        self._members[member] += 1
        self._membership += 1
        self._wake()
        try:
            heard, told_complete, known = len(self._log), self.complete, -1
            have = b"" if self.complete else bits_of(self.have)
            first = True
            while True:
                event.clear()
                news, heard = self._log[heard:], len(self._log)
                peers: tuple[str, ...] = ()
                if known != self._membership:
                    known = self._membership
                    peers = self._others(member)
                if first or news or peers or told_complete != self.complete:
                    told_complete = self.complete
                    yield Update(
                        self.complete,
                        have,
                        tuple(chunk for chunk, by in news if not by),
                        tuple(chunk for chunk, by in news if by not in {"", member}),
                        peers,
                    )
                have, first = b"", False
                await event.wait()
        finally:
            self._listeners.discard(event)
            self._members[member] -= 1
            self._members = +self._members
            self._membership += 1
            self._wake()

    def _others(self, member: str) -> tuple[str, ...]:
        """The newest ones: they still have most of the way before them."""
        return tuple(reversed([other for other in self._members if other != member]))[:PEERS_TOLD_MAX]


def bits_of(chunks: Iterable[int]) -> bytes:
    """Bit n is set for chunk n, the lowest first."""
    bits = bytearray()
    for chunk in chunks:
        byte = chunk >> 3
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << (chunk & 7)
    return bytes(bits)


def chunks_in(bits: bytes, count: int) -> set[int]:
    """The reverse; what lies beyond `count` is not believed."""
    return {chunk for chunk in range(min(count, len(bits) * 8)) if bits[chunk >> 3] >> (chunk & 7) & 1}
