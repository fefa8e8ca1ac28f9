"""The recent past of the store: what a watch reads, and waiting for an index.

Every manager keeps it, fed by its own replica's commits; because replicas apply the same
transactions, a watch continues by index on whichever manager leads next. It is bounded in
events and bytes: who asks for more, or reads too slowly, gets Gone and lists again. Watches
hold a Cursor into it and no queue of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarmpy.node.manager.errors import Gone, NotLeading
from swarmpy.raft.store import Commit, Store

EVENTS_MAX = 20_000
BYTES_MAX = 32 * 1024 * 1024
EVENT_OVERHEAD_BYTES = 200
REACH_TIMEOUT_S = 2.0


class History:
    """Commits after `floor`, oldest first."""

    def __init__(self, store: Store, *, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.floor = store.index
        self._store = store
        self._events_max, self._bytes_max = events_max, bytes_max
        self._commits: list[Commit] = []
        self._sizes: list[int] = []
        self._first = 0  # the place in `_commits` of the oldest one that is kept
        self._dropped = 0  # how many commits are gone from the list itself
        self._events = self._bytes = 0
        self._restores = 0
        self._changed = asyncio.Event()
        store.listeners.append(self._on_commit)
        store.restore_listeners.append(self._on_restore)

    def __len__(self) -> int:
        """How many events it holds."""
        return self._events

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next commit. Take it before looking, wait for it afterwards."""
        return self._changed

    def cursor(self, after_index: int) -> Cursor:
        """Reads every commit above `after_index`; raises Gone when some of them are not here."""
        if after_index < self.floor:
            raise Gone(
                f"changes after index {after_index} are no longer known, only after {self.floor}: list again"
            )
        if after_index > self._store.index:
            raise Gone(
                f"index {after_index} is in the future of this cluster, which is at {self._store.index}: "
                "list again"
            )
        low, high = self._first, len(self._commits)
        while low < high:
            middle = (low + high) // 2
            if self._commits[middle].index <= after_index:
                low = middle + 1
            else:
                high = middle
        return Cursor(self, self._dropped + low, self._restores)

    async def reached(self, index: int, timeout_s: float = REACH_TIMEOUT_S) -> None:
        """Wait until the store has applied `index`; NotLeading when it does not get there."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._store.index < index:
                    await self._changed.wait()
        except TimeoutError:
            raise NotLeading(
                f"this manager's copy is at index {self._store.index} and has not reached {index}: "
                "ask another manager"
            ) from None

    def take(self, position: int, restores: int, events_max: int) -> Sequence[Commit]:
        """Commits from a position on, with about `events_max` events, at least one commit if there is one."""
        start = position - self._dropped
        if restores != self._restores or start < self._first:
            raise Gone("the watch fell behind, and what it has not seen is no longer kept: list again")
        end, events = start, 0
        while end < len(self._commits) and (events < events_max):
            events += len(self._commits[end].events)
            end += 1
        return self._commits[start:end]

    def _on_commit(self, commit: Commit) -> None:
        size = sum(
            EVENT_OVERHEAD_BYTES + (event.new.ByteSize() if event.new is not None else 0)
            for event in commit.events
        )
        self._commits.append(commit)
        self._sizes.append(size)
        self._events += len(commit.events)
        self._bytes += size
        while self._events > self._events_max or self._bytes > self._bytes_max:
            self._drop_oldest()
        if self._first > 1024 and self._first * 2 > len(self._commits):
            del self._commits[: self._first], self._sizes[: self._first]
            self._dropped += self._first
            self._first = 0
        self._wake()

    def _drop_oldest(self) -> None:
        oldest = self._commits[self._first]
        self.floor = oldest.index
        self._events -= len(oldest.events)
        self._bytes -= self._sizes[self._first]
        self._commits[self._first] = Commit(oldest.index, oldest.now_ms, (), "")
        self._first += 1

    def _on_restore(self) -> None:
        self._dropped += len(self._commits)
        self._commits, self._sizes = [], []
        self._first = self._events = self._bytes = 0
        self._restores += 1
        self.floor = self._store.index
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Cursor:
    """A reader's place in a History."""

    def __init__(self, history: History, position: int, restores: int) -> None:
        self._history = history
        self._position = position
        self._restores = restores

    def take(self, events_max: int) -> Sequence[Commit]:
        """The next commits, none when it is up to date; raises Gone when it fell behind."""
        commits = self._history.take(self._position, self._restores, events_max)
        self._position += len(commits)
        return commits
