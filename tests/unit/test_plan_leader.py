"""All planners in their loops, as a leader runs them: one TaskGroup, asyncio in virtual time."""

from __future__ import annotations

import asyncio
import itertools

from swarmpy.node.manager.loop import Loop
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.planners import all_planners
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap

from tests import virtual

RUNNING = types_pb2.TASK_RUNNING


class Leader:
    """A store whose log is a short sleep, all loops, and agents that obey."""

    def __init__(self) -> None:
        self.store = Store()
        self.index = 0
        self.epoch = 0
        self.ids = itertools.count(1)
        self.touched: asyncio.Queue[str] = asyncio.Queue(100_000)
        self.store.listeners.append(self._note)

    def _note(self, commit: Commit) -> None:
        for event in commit.events:
            if isinstance(event.new, objects_pb2.Task) and event.new.node_id:
                self.touched.put_nowait(event.id)

    def write(self, *entities: Entity) -> None:
        self._apply(
            [store_pb2.Change(put=wrap(e), expected_version=e.meta.version) for e in entities], "user"
        )

    def _apply(
        self, changes: list[store_pb2.Change], actor: str, *, first: bool = False
    ) -> store_pb2.TransactionResult:
        self.index += 1
        command = transaction(
            changes, epoch=self.epoch, now_ms=virtual.now_ms(), actor=actor, new_epoch=first
        )
        return result_of(self.store.apply(self.index, command))

    async def propose(self, changes: list[store_pb2.Change], actor: str) -> store_pb2.TransactionResult:
        await asyncio.sleep(0.003)
        return self._apply(changes, actor)

    async def agents(self) -> None:
        while True:
            task = self.store.task(await self.touched.get())
            if task is None or task.status.state < types_pb2.TASK_ASSIGNED or task.status.state > RUNNING:
                continue
            await asyncio.sleep(0.001)
            new = copy_of(self.store.task(task.meta.id) or task)
            if new.desired_state > RUNNING:
                new.status.state = types_pb2.TASK_SHUTDOWN
            elif new.status.state < new.desired_state:
                new.status.state = new.desired_state
            else:
                continue
            self.write(new)

    async def lead(self) -> None:
        """Every planner's loop until cancelled."""
        self.epoch += 1
        self._apply([], "leader", first=True)
        async with asyncio.TaskGroup() as group:
            for planner in all_planners():
                loop = Loop(
                    planner, self.store, self.propose, virtual.now_ms, lambda: f"t{next(self.ids):05d}"
                )
                group.create_task(loop.run())

    def running(self) -> int:
        return sum(t.status.state == RUNNING and t.desired_state == RUNNING for t in self.store.tasks())


def node(number: int) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = f"node{number}"
    made.status.state = types_pb2.NODE_READY
    return made


def test_a_service_runs_survives_a_new_leader_and_goes() -> None:
    async def main() -> None:
        leader = Leader()
        agents = asyncio.create_task(leader.agents())
        leading = asyncio.create_task(leader.lead())
        await asyncio.sleep(0.1)
        cluster = objects_pb2.Cluster()
        cluster.meta.id = "cluster"
        leader.write(cluster, *(node(number) for number in range(3)))
        service = objects_pb2.Service(spec_version=1)
        service.meta.id = service.meta.name = "web"
        service.spec.replicated.replicas = 250
        leader.write(service)
        await asyncio.sleep(0.02)  # in the middle of things
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert leader.running() < 250
        leading = asyncio.create_task(leader.lead())
        await asyncio.sleep(20)
        assert leader.running() == 250
        stored = leader.store.service("web")
        assert stored is not None
        going = copy_of(stored)
        going.pending_delete = True
        leader.write(going)
        await asyncio.sleep(20)
        assert leader.store.service("web") is None
        assert not list(leader.store.tasks())
        for task in (leading, agents):
            task.cancel()
        await asyncio.gather(leading, agents, return_exceptions=True)
        assert len(leader.store.listeners) == 1

    virtual.run(main())
