"""What chaos found about leading: a manager that breaks down while it leads must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from swarmpy.node.manager.leader import Leader
from swarmpy.raft.core_log import LAN
from swarmpy.raft.log import Applied
from swarmpy.raft.store import Store


class LoneLog:
    """A log of one member that leads from the start."""

    node_id, profile = "lone", LAN

    def __init__(self, store: Store) -> None:
        self._store, self._index = store, 0
        self.announce: Callable[[bool, int], None] = lambda leading, term: None

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        self.announce = callback

    async def propose(self, command: bytes, *, timeout: float = 5) -> Applied:
        await asyncio.sleep(0)
        self._index += 1
        return Applied(self._index, self._store.apply(self._index, command))

    async def read_barrier(self, timeout: float = 2) -> int:
        return self._index


def test_losing_the_lead_and_being_cancelled_at_once_ends() -> None:
    async def main() -> None:
        store = Store()
        log: Any = LoneLog(store)
        leader = Leader(log, store)
        begun = asyncio.Event()

        async def job() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # a job may need a moment to end

        leader.jobs = [job]
        leading = asyncio.create_task(leader.run())
        log.announce(True, 1)
        await asyncio.wait_for(begun.wait(), 5)
        log.announce(False, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leading.cancel()
        done, _ = await asyncio.wait({leading}, timeout=5)
        assert done, "the cancellation was lost"
        assert leading.cancelled()

    asyncio.run(main())
