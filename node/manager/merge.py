"""Several streams of log lines as one, by time.

The earliest line is passed on once every stream has shown its next one. A stream that has shown nothing for
`patience_s` is idle (or has caught up with the present) and is not waited for until it speaks again. Memory
is bounded: a stream that is ahead waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from swarmpy.proto import control_pb2

AHEAD_MAX = 500
Line = control_pb2.LogLine


class _Source:
    def __init__(self, now_s: float) -> None:
        self.lines: deque[Line] = deque()
        self.silent_since_s = now_s
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.task is not None and self.task.done()


class Merge:
    """Add streams at any time; iterate `lines` until all have ended and `finish` was called."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._sources: set[_Source] = set()
        self._changed = asyncio.Event()
        self._finished = False

    def add(self, stream: AsyncIterator[Line]) -> None:
        source = _Source(self._loop.time())
        self._sources.add(source)
        source.task = asyncio.create_task(self._pump(source, stream))
        source.task.add_done_callback(lambda _: self._changed.set())

    def finish(self) -> None:
        """No more streams come."""
        self._finished = True
        self._changed.set()

    async def close(self) -> None:
        tasks = [source.task for source in self._sources if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, source: _Source, stream: AsyncIterator[Line]) -> None:
        async for line in stream:
            while len(source.lines) >= AHEAD_MAX:
                source.room.clear()
                await source.room.wait()
            source.lines.append(line)
            self._changed.set()

    async def lines(self) -> AsyncIterator[Line]:
        """Raises what a stream raised, after what came before."""
        while True:
            self._changed.clear()
            wait_s = self._patience_left_s()
            if wait_s <= 0 and (source := self._earliest()) is not None:
                line = source.lines.popleft()
                source.silent_since_s = self._loop.time()
                source.room.set()
                yield line
                continue
            for source in [s for s in self._sources if s.ended and not s.lines]:
                self._sources.discard(source)
                assert source.task is not None
                source.task.result()
            if self._finished and not self._sources:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s if wait_s > 0 else None)
            except TimeoutError:
                continue

    def _patience_left_s(self) -> float:
        """How long to wait yet for silent streams while others have lines."""
        silent = [s.silent_since_s for s in self._sources if not s.lines and not s.ended]
        if not silent or not any(s.lines for s in self._sources):
            return 0.0
        return max(silent) + self._patience_s - self._loop.time()

    def _earliest(self) -> _Source | None:
        waiting = [source for source in self._sources if source.lines]
        return min(waiting, key=lambda source: source.lines[0].time_ns) if waiting else None
