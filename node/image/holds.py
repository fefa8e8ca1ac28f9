"""What running work relies on: pins keep blobs and layers from the collector, locks make each once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator


class Holds:
    def __init__(self) -> None:
        self._pins: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    def pins(self, digest: str) -> int:
        return self._pins[digest]

    @contextlib.contextmanager
    def pinned(self, *digests: str) -> Iterator[None]:
        self._pins.update(digests)
        try:
            yield
        finally:
            self._pins.subtract(digests)
            self._pins = +self._pins

    @contextlib.asynccontextmanager
    async def locked(self, digest: str) -> AsyncIterator[None]:
        """One at a time for each blob or layer."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        self._users[digest] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest], self._locks[digest]
