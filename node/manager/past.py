"""Reads of the cluster as it was: an earlier state, worked out in a thread and kept for a while.

One at a time; the last one stays in memory for half a minute, so that the reads of one command share it.
"""

from __future__ import annotations

import asyncio

from swarmpy.node.manager.errors import Gone, NotLeading
from swarmpy.raft import log as raft_log
from swarmpy.raft import past
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store

KEPT_S = 30.0
DEADLINE_S = 20.0


class Past:
    """Of one manager, from its own copy of the log."""

    def __init__(self, raft: RaftNode) -> None:
        self._raft = raft
        self._one_at_a_time = asyncio.Lock()
        self._kept: tuple[tuple[int, int], Store] | None = None
        self._forget: asyncio.TimerHandle | None = None

    async def at(self, index: int, time_ms: int) -> Store:
        """The state after an index, or at a time (ms since 1970). Raises Gone where it is not known."""
        async with self._one_at_a_time:
            if self._kept is not None and self._kept[0] == (index, time_ms):
                return self._kept[1]
            try:
                known = self._raft.past()
            except raft_log.LogClosed as error:
                raise NotLeading("this manager is shutting down") from error
            try:
                async with asyncio.timeout(DEADLINE_S):
                    store = await asyncio.to_thread(past.state_at, known, index=index, time_ms=time_ms)
            except past.Forgotten as error:
                raise Gone(str(error)) from error
            except TimeoutError as error:
                raise Gone(f"the state could not be worked out within {DEADLINE_S:g} s") from error
            except (FileNotFoundError, raft_log.LogDamaged) as error:
                raise Gone(f"a snapshot went away while it was read ({error}): ask again") from error
            self._keep((index, time_ms), store)
            return store

    def _keep(self, key: tuple[int, int], store: Store) -> None:
        if self._forget is not None:
            self._forget.cancel()
        self._kept = key, store
        self._forget = asyncio.get_running_loop().call_later(KEPT_S, self._drop)

    def _drop(self) -> None:
        self._kept = self._forget = None
