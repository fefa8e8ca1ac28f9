"""A node that tries another build is waited for; one that is silent for no reason is not."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.node.manager import liveness as module
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.liveness import Liveness
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, wrap

from tests.unit.test_chaos_leadership import LoneLog

HEARTBEAT_MS = 20


def node(name: str, state: objects_pb2.BuildState, attempt: int, patience_ms: int) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = name
    made.status.state = types_pb2.NODE_READY
    made.spec.build.attempt, made.spec.build.patience_ms = 3, patience_ms
    made.description.build.state, made.description.build.attempt = state, attempt
    return made


def test_a_node_that_tries_a_build_stays_ready_for_its_patience_and_no_longer(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "TAKEOVER_GRACE_S", 0.0)
    monkeypatch.setattr(module, "BUILD_RETURN_S", 0.05)

    async def main() -> None:
        store = Store()
        log: Any = LoneLog(store)
        leader = Leader(log, store)
        statuses = StatusWriter(leader)
        liveness = Liveness(leader, statuses)
        begun = asyncio.Event()

        async def job() -> None:
            cluster = objects_pb2.Cluster()
            cluster.meta.id = "c"
            cluster.spec.heartbeat_ms = HEARTBEAT_MS
            trying, settled = objects_pb2.BUILD_TRYING, objects_pb2.BUILD_SETTLED
            entities: list[Entity] = [
                cluster, node("trying", trying, 3, 600_000), node("impatient", trying, 3, 100),
                node("earlier", trying, 2, 600_000), node("silent", settled, 3, 600_000),
            ]  # fmt: skip
            for entity in entities:
                assert not (await leader.try_commit([store_pb2.Change(put=wrap(entity))], "test")).error_code
            begun.set()
            await liveness.run()

        leader.jobs = [statuses.run, job]
        leading = asyncio.create_task(leader.run())
        log.announce(True, 1)
        await asyncio.wait_for(begun.wait(), 5)

        def down() -> set[str]:
            return {found.meta.id for found in store.nodes() if found.status.state == types_pb2.NODE_DOWN}

        async with asyncio.timeout(10):
            while down() != {"impatient", "earlier", "silent"}:
                await asyncio.sleep(0.01)
        liveness.beat("impatient")  # back again
        async with asyncio.timeout(10):
            while "impatient" in down():
                await asyncio.sleep(0.01)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(main())
