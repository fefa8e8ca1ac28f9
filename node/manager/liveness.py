"""Which nodes answer: one deadline per node, on the monotonic clock of the leader.

A heartbeat moves the deadline; a passed one makes the node DOWN. A broken stream alone
does not: an agent that restarts is back before its deadline. After a takeover every node
gets a grace period on top, because its first heartbeat to the new leader takes a while. A node that said
that it restarts with another build gets, once, the time that it may need to try it and to come
back: its containers run meanwhile, and would be replaced for nothing.

Heartbeats come every second, and in clusters of more than 200 nodes less often, so that the leader has at most 200
to answer in a second. A session keeps the time it began with.

Of a node that is down and has fenced tasks (plan/partition) it also says for how long it has surely not heard a
manager: counted from its last heartbeat here, or from when the former leader cannot have answered one any more.
"""

from __future__ import annotations

import asyncio
import time

from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.node.plan.partition import awaited_ms
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

DEFAULT_HEARTBEAT_MS = 1000
HEARTBEATS_PER_S_MAX = 200
MISSED_HEARTBEATS = 4
TAKEOVER_GRACE_S = 5.0  # an attempt to connect to who is gone takes 3 s, the pause after it up to 1
BUILD_PATIENCE_MS, BUILD_RETURN_S = 60_000, 20.0  # without a wish of its own; the way back


def interval_ms(nodes: int) -> int:
    """How often each of so many nodes sends a heartbeat."""
    return max(DEFAULT_HEARTBEAT_MS, -(-nodes * 1000 // HEARTBEATS_PER_S_MAX))


class Liveness:
    """Deadlines of the nodes; `run` belongs to the leader's TaskGroup."""

    def __init__(self, leader: Leader, statuses: StatusWriter) -> None:
        self._leader = leader
        self._statuses = statuses
        self._deadlines: dict[str, float] = {}
        self._restarting: set[str] = set()  # silent, while they try another build
        self._intervals_ms: dict[str, int] = {}  # what each node was told
        self._heard: dict[str, float] = {}  # the last time that a node can have heard a manager
        self._told_ms: dict[str, int] = {}  # what was said of a silence that lasts
        self._wake = asyncio.Event()

    @property
    def heartbeat_ms(self) -> int:
        """What a session that begins now is told."""
        cluster = self._leader.store.cluster()
        asked_ms = cluster.spec.heartbeat_ms if cluster else 0
        return asked_ms or interval_ms(self._leader.store.count(store_pb2.KIND_NODE))

    def begin(self, node_id: str, address: str) -> int:
        """A session begins; how often the node is to send a heartbeat."""
        told_ms = self._intervals_ms[node_id] = self.heartbeat_ms
        self.beat(node_id, address)
        return told_ms

    def beat(self, node_id: str, address: str = "") -> None:
        """A sign of life of the node's own loop."""
        if node_id not in self._deadlines:
            self._wake.set()
        self._restarting.discard(node_id)
        self._heard[node_id] = now = time.monotonic()
        self._told_ms.pop(node_id, None)
        self._deadlines[node_id] = now + self._silence_s(node_id)
        node = self._leader.store.node(node_id)
        if node is not None and node.status.state != types_pb2.NODE_READY:
            self._statuses.node(node_id, types_pb2.NODE_READY, "", address)

    def _silence_s(self, node_id: str) -> float:
        """How long a node may say nothing."""
        return (self._intervals_ms.get(node_id) or self.heartbeat_ms) * MISSED_HEARTBEATS / 1000

    def gone(self, node_id: str, reason: str) -> None:
        """An explicit goodbye: no need to wait for the deadline."""
        self._deadlines.pop(node_id, None)
        self._statuses.node(node_id, types_pb2.NODE_DOWN, reason)
        self._wake.set()

    async def run(self) -> None:
        self._restarting.clear()
        began = time.monotonic()
        grace = began + self.heartbeat_ms * MISSED_HEARTBEATS / 1000 + TAKEOVER_GRACE_S
        self._intervals_ms, self._heard, self._told_ms = {}, {}, {}
        # A leader that no majority hears steps down within an election timeout; until then it answers nodes.
        answered = began + 2 * self._leader.raft.profile.election_max_ms / 1000
        self._deadlines = {
            node.meta.id: grace
            for node in self._leader.store.nodes()
            if node.status.state == types_pb2.NODE_READY
        }
        while True:
            now = time.monotonic()
            for node_id in [node_id for node_id, deadline in self._deadlines.items() if deadline <= now]:
                if (patience_s := self._build_patience_s(node_id)) > 0:
                    self._deadlines[node_id] = now + patience_s
                    continue
                del self._deadlines[node_id]
                if self._leader.store.node(node_id) is not None:
                    seconds = self._silence_s(node_id)
                    self._statuses.node(node_id, types_pb2.NODE_DOWN, f"no heartbeat for {seconds:g} s")
                self._intervals_ms.pop(node_id, None)
            self._wake.clear()
            next_deadline = min(self._deadlines.values(), default=now + 60)
            next_deadline = min(next_deadline, self._tell_silences(now, answered))
            try:
                async with asyncio.timeout(max(0.01, next_deadline - now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _tell_silences(self, now: float, answered: float) -> float:
        """Say of nodes that are down what their fenced tasks wait for; when there will be more to say."""
        again = now + 60
        for node in self._leader.store.nodes():
            if node.status.state != types_pb2.NODE_DOWN or node.meta.id in self._deadlines:
                continue
            node_id, heard = node.meta.id, self._heard.setdefault(node.meta.id, answered)
            known_ms = max(node.status.silent_ms, self._told_ms.get(node_id, 0))
            for needed_ms in awaited_ms(self._leader.store.tasks_of_node(node_id), known_ms):
                if (due := heard + needed_ms / 1000) > now:
                    again = min(again, due)
                    break
                self._told_ms[node_id] = needed_ms
                self._statuses.silent(node_id, needed_ms)
        return again

    def _build_patience_s(self, node_id: str) -> float:
        """How much longer a silent node is waited for because it tries another build; 0 = no longer."""
        node = self._leader.store.node(node_id)
        if node is None or node_id in self._restarting:
            return 0.0
        wish, status = node.spec.build, node.description.build
        if status.state != objects_pb2.BUILD_TRYING or status.attempt != wish.attempt:
            return 0.0
        self._restarting.add(node_id)
        return (wish.patience_ms or BUILD_PATIENCE_MS) / 1000 + BUILD_RETURN_S
