"""How a read is made safe.

A linearizable read waits for a barrier: a majority confirms, after the read arrived, that this
manager still leads, and its store shows everything committed before. Reads that arrive while
one barrier is under way share the next. A stale read takes the local copy, once that has seen
the client's own writes, and says how old it may be.
"""

from __future__ import annotations

import asyncio

from swarmpy.node.manager.errors import NotLeading
from swarmpy.node.manager.history import History
from swarmpy.proto import control_pb2
from swarmpy.raft import log as raft_log
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store

BARRIER_TIMEOUT_S = 2.0
NOT_CONFIRMED = (
    "this manager cannot confirm that it leads the cluster: a majority of the managers does not answer "
    "(--stale shows this manager's own copy)"
)


class Reads:
    """The reads of one manager."""

    def __init__(self, raft: RaftNode, store: Store, history: History) -> None:
        self._raft, self._store, self._history = raft, store, history
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def barrier(self) -> None:
        """Return once the store shows all that was acknowledged before the call; NotLeading if it cannot."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._current))
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._current, self._next = self._next, None
        try:
            await self._raft.read_barrier(BARRIER_TIMEOUT_S)
        except raft_log.LogClosed as error:
            raise NotLeading("this manager is shutting down") from error
        except raft_log.LogError as error:
            raise NotLeading(NOT_CONFIRMED) from error

    async def own_copy(self, min_index: int) -> None:
        """Return once the local copy shows the client's own writes; NotLeading if it does not get there."""
        await self._history.reached(min_index)

    def staleness(self) -> control_pb2.Staleness:
        """How old the local copy may be."""
        return control_pb2.Staleness(
            index=self._store.index, age_ms=self._raft.silent_ms(), node_id=self._raft.node_id
        )


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever waited has seen the error; if nobody waits any more, nobody needs to."""
    if not task.cancelled():
        task.exception()
