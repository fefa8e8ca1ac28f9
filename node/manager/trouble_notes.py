"""Keeps what planners fail for in the Cluster object, so that `events` and `--at` show it.

Only what people should know is worth a transaction: which planners, for how many keys, why the first one. How
often they tried is in the leader's memory (`status`, metrics). A new leader finds the notes of the one before
and has its own planners' word within seconds.
"""

from __future__ import annotations

import asyncio
import logging

from swarmpy.node.manager.attempt import Troubles
from swarmpy.node.manager.loop import Propose
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import store_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

log = logging.getLogger(__name__)
SETTLE_S = 2.0  # a planner that fails once and then goes on is not worth telling
PAUSE_S = 10.0  # between two notes


class TroubleNotes:
    """Belongs to the leader's TaskGroup."""

    def __init__(self, store: Store, propose: Propose, troubles: Troubles) -> None:
        self._store, self._propose, self._troubles = store, propose, troubles

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_S)
            self._troubles.changed.clear()
            if await self._note():
                await asyncio.sleep(PAUSE_S)
            await self._troubles.changed.wait()

    async def _note(self) -> bool:
        """Whether something was to be written."""
        cluster, noted = self._store.cluster(), self._troubles.noted()
        if cluster is None or list(cluster.planner_troubles) == noted:
            return False
        changed = copy_of(cluster)
        del changed.planner_troubles[:]
        changed.planner_troubles.extend(noted)
        change = store_pb2.Change(put=wrap(changed), expected_version=cluster.meta.version)
        result = await self._propose([change], "troubles")
        log.info("planners noted failing=%d refused=%s", len(noted), result.error_code)
        if result.error_code:  # somebody else wrote the cluster
            self._troubles.changed.set()
        return True
