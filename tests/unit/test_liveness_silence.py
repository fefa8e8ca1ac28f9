"""How long a node has surely heard no manager: told in the steps that its fenced tasks wait for."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.node.manager import liveness as module
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.liveness import Liveness
from swarmpy.node.manager.statuses import StatusWriter
from swarmpy.node.plan.base import is_lost
from swarmpy.node.plan.partition import surely_stopped_ms
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Entity, wrap

from tests.unit.test_chaos_leadership import LoneLog


class Clock:
    """Monotonic seconds that pass when the test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def node(state: types_pb2.NodeState) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = "n"
    made.status.state = state
    return made


def task(name: str, after_ms: int) -> objects_pb2.Task:
    made = objects_pb2.Task(node_id="n", desired_state=types_pb2.TASK_RUNNING)
    made.meta.id = made.meta.name = name
    made.status.state = types_pb2.TASK_RUNNING
    made.spec.stop_after_ms, made.spec.fenced = after_ms, after_ms > 0
    return made


def test_silence_is_counted_from_the_last_heartbeat_and_by_a_new_leader_anew(monkeypatch: Any) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    tasks = [task("a", 10_000), task("b", 20_000), task("c", 0)]
    needed_s = [surely_stopped_ms(known.spec) / 1000 for known in tasks[:2]]

    async def main() -> None:
        store = Store()
        log: Any = LoneLog(store)
        leader = Leader(log, store)
        statuses = StatusWriter(leader)
        liveness = Liveness(leader, statuses)

        async def put(entity: Entity) -> None:
            change = store_pb2.Change(put=wrap(entity))
            assert not (await leader.try_commit([change], "test")).error_code

        async def begin() -> None:
            if store.node("n") is None:
                for entity in (node(types_pb2.NODE_READY), *tasks):
                    await put(entity)
            await liveness.run()

        async def lost(expected: str) -> None:
            """Once the clock has moved."""
            async with asyncio.timeout(10):
                while "".join(t.meta.id for t in store.tasks() if is_lost(t, store)) != expected:
                    liveness._wake.set()
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            assert "".join(t.meta.id for t in store.tasks() if is_lost(t, store)) == expected

        leader.jobs = [statuses.run, begin]
        leading = asyncio.create_task(leader.run())
        log.announce(True, 1)
        async with asyncio.timeout(10):
            while not liveness._deadlines:
                await asyncio.sleep(0.005)
        liveness.beat("n")
        heard = clock.now
        await lost("")
        clock.now = heard + 4.1
        await lost("c")  # down: what is not fenced is replaced
        clock.now = heard + needed_s[0] - 0.1
        await lost("c")
        clock.now = heard + needed_s[0]
        await lost("ac")
        log.announce(False, 2)
        await asyncio.sleep(0.05)
        elected = clock.now = heard + needed_s[1] - 1
        log.announce(True, 3)
        async with asyncio.timeout(10):
            while leader.epoch != 2:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        clock.now = elected + needed_s[1] + 1.9  # the former leader may have answered until 2 s after
        await lost("ac")
        clock.now = elected + needed_s[1] + 2
        await lost("abc")
        liveness.beat("n")
        await lost("")
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(main())
