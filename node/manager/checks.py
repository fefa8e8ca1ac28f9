"""Do all managers hold the same state, and is what this one holds what was stored?

The leader has a check committed: every replica notes its state's hash at that index. The leader
collects the notes and tells everyone what most of them say (it wins a tie). A replica that
differs is `diverged`: its state cannot be trusted, whatever the reason, so the manager stops,
says so, and starts again from a snapshot that is known to be good, or from another manager's.
Meanwhile every manager hashes its objects anew, a few at a time: one that is not what was
stored has been damaged in memory or changed in place, and that is a divergence too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from swarmpy.node.manager.errors import ManagerError
from swarmpy.node.manager.history import History
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.proto import control_pb2, control_pb2_grpc
from swarmpy.raft.tables import noun

log = logging.getLogger(__name__)
CHECK_PERIOD_S = 10.0
ANSWER_TIMEOUT_S = 5.0
SCRUB_PERIOD_S = 1.0
SCRUB_OBJECTS = 100


Ask = Callable[[str, control_pb2.DigestRequest], Awaitable[control_pb2.DigestResponse]]


def asking(channels: NodeChannels) -> Ask:
    """The question as a call to the other manager; raises AioRpcError or ManagerError."""

    async def ask(node_id: str, request: control_pb2.DigestRequest) -> control_pb2.DigestResponse:
        stub = control_pb2_grpc.ControlStub(channels.manager(node_id))
        answer: control_pb2.DigestResponse = await stub.Digest(request, timeout=ANSWER_TIMEOUT_S)
        return answer

    return ask


def set_snapshots_aside(directory: Path, verified_index: int) -> None:
    """Snapshots made since all was well may hold the damage: they do not count at the next start."""
    for path in directory.glob("*.snapshot"):
        if int(path.stem, 16) > verified_index:
            path.rename(path.with_suffix(".diverged"))


class Checks:
    """`on_diverged(reason)` is called once, on the loop; `verified_index` is where all was well last."""

    def __init__(
        self, leader: Leader, history: History, ask: Ask, on_diverged: Callable[[str], None]
    ) -> None:
        self._leader, self._store = leader, leader.store
        self._history, self._ask_manager, self._on_diverged = history, ask, on_diverged
        self.verified_index = 0
        self._diverged = False

    async def run(self) -> None:
        """Belongs to the leader's TaskGroup."""
        checked = 0
        while True:
            await asyncio.sleep(CHECK_PERIOD_S)
            if self._store.index == checked:
                continue
            try:
                checked = await self.check()
            except ManagerError as error:
                log.info("state check put off reason=%s", error)

    async def check(self) -> int:
        """Compare all replicas once; the index at which they were compared."""
        index = await self._leader.check()
        own = self._store.check_at(index)
        assert own is not None, "a check was committed and not noted"
        others = [
            m.node_id for m in self._leader.raft.status().members if m.node_id != self._leader.raft.node_id
        ]
        asked = await asyncio.gather(*(self._ask(node_id, index, b"") for node_id in others))
        found = {node_id: digest for node_id, digest in zip(others, asked, strict=True) if digest}
        votes = Counter([own, *found.values()])
        agreed = max(votes, key=lambda digest: (votes[digest], digest == own))
        if len(votes) > 1:
            different = sorted(n for n, d in {**found, self._leader.raft.node_id: own}.items() if d != agreed)
            log.error("managers hold different states index=%d different=%s", index, ",".join(different))
        await asyncio.gather(*(self._ask(node_id, index, agreed) for node_id in found))
        self._compare(index, agreed)
        return index

    async def _ask(self, node_id: str, index: int, agreed: bytes) -> bytes:
        """A manager's hash, b"" when it does not answer or was not there."""
        request = control_pb2.DigestRequest(index=index, agreed=agreed)
        try:
            return bytes((await self._ask_manager(node_id, request)).digest)
        except (grpc.aio.AioRpcError, ManagerError) as error:
            log.debug("no state hash node=%s error=%s", node_id, error)
            return b""

    async def digest(self, request: control_pb2.DigestRequest) -> control_pb2.DigestResponse:
        """What the leader asks of every manager."""
        try:
            await self._history.reached(request.index)
        except ManagerError:
            return control_pb2.DigestResponse(index=request.index)
        if request.agreed:
            self._compare(request.index, request.agreed)
        return control_pb2.DigestResponse(
            index=request.index, digest=self._store.check_at(request.index) or b""
        )

    def _compare(self, index: int, agreed: bytes) -> None:
        own = self._store.check_at(index)
        if own == agreed:
            self.verified_index = max(self.verified_index, index)
        elif own is not None:
            self._stop(f"this manager's state at index {index} is not what the other managers have")

    async def scrub(self) -> None:
        """Runs on every manager until cancelled."""
        while True:
            await asyncio.sleep(SCRUB_PERIOD_S)
            key = self._store.scrub(SCRUB_OBJECTS)
            if key is not None:
                self._stop(f"{noun(key[0])} {key[1]} is not what was stored: it was changed in memory")

    def _stop(self, reason: str) -> None:
        if not self._diverged:
            self._diverged = True
            log.critical("state diverged reason=%s", reason)
            self._on_diverged(reason)
