"""Which nodes answer: one deadline per node, on the monotonic clock of the leader.

A heartbeat moves the deadline; a passed one makes the node DOWN. A broken stream alone
does not: an agent that restarts is back before its deadline. After a takeover every node
gets a grace period on top, because its first heartbeat to the new leader takes a while.
"""

from __future__ import annotations

import asyncio
import time

from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.proto import types_pb2

DEFAULT_HEARTBEAT_MS = 1000
MISSED_HEARTBEATS = 4
TAKEOVER_GRACE_S = 3.0


class Liveness:
    """Deadlines of the nodes; `run` belongs to the leader's TaskGroup."""

    def __init__(self, leader: Leader, statuses: StatusWriter) -> None:
        self._leader = leader
        self._statuses = statuses
        self._deadlines: dict[str, float] = {}
        self._wake = asyncio.Event()

    @property
    def heartbeat_ms(self) -> int:
        cluster = self._leader.store.cluster()
        return (cluster.spec.heartbeat_ms if cluster else 0) or DEFAULT_HEARTBEAT_MS

    def beat(self, node_id: str, address: str = "") -> None:
        """A sign of life of the node's own loop."""
        if node_id not in self._deadlines:
            self._wake.set()
        self._deadlines[node_id] = time.monotonic() + self.heartbeat_ms * MISSED_HEARTBEATS / 1000
        node = self._leader.store.node(node_id)
        if node is not None and node.status.state != types_pb2.NODE_READY:
            self._statuses.node(node_id, types_pb2.NODE_READY, "", address)

    def gone(self, node_id: str, reason: str) -> None:
        """An explicit goodbye: no need to wait for the deadline."""
        self._deadlines.pop(node_id, None)
        self._statuses.node(node_id, types_pb2.NODE_DOWN, reason)

    async def run(self) -> None:
        grace = time.monotonic() + self.heartbeat_ms * MISSED_HEARTBEATS / 1000 + TAKEOVER_GRACE_S
        self._deadlines = {
            node.meta.id: grace
            for node in self._leader.store.nodes()
            if node.status.state == types_pb2.NODE_READY
        }
        while True:
            now = time.monotonic()
            for node_id in [node_id for node_id, deadline in self._deadlines.items() if deadline <= now]:
                del self._deadlines[node_id]
                if self._leader.store.node(node_id) is not None:
                    seconds = self.heartbeat_ms * MISSED_HEARTBEATS / 1000
                    self._statuses.node(node_id, types_pb2.NODE_DOWN, f"no heartbeat for {seconds:g} s")
            self._wake.clear()
            next_deadline = min(self._deadlines.values(), default=now + 60)
            try:
                async with asyncio.timeout(max(0.01, next_deadline - now)):
                    await self._wake.wait()
            except TimeoutError:
                continue
