"""Nodes that are cut off and go on: no two tasks of a fenced slot ever run at once, as a bystander would see it.

The managers see no more than in reality: a node that is silent, and how long they have counted. The bystander knows
that its tasks run on until the node has seen that its time is over and has taken as long to stop them as it may.

`SEEDS=1000:1200 pytest tests/sim/test_partition_sim.py` runs other seeds; a failure names its seed.
"""

from __future__ import annotations

import os

import pytest
from swarmpy.node.plan.base import copy_of, desired_running, is_terminal
from swarmpy.node.plan.partition import FENCE_SPARE_MS, awaited_ms, stop_limit_ms
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.sim.plan_world import DETECT_MS, RUNNING, START_MS, Agent, World

FIRST, LAST = (int(part) for part in os.environ.get("SEEDS", "0:16").split(":"))
FAULTS_MS = 240_000
STEP_DOWN_MS = 2_000  # until a leader that nobody hears has surely stopped answering
LOOK_MS = 4_000


class CutWorld(World):
    """Agents that are cut off, and a leader that counts their silence."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.cut_ms: dict[str, int] = {}  # since when a node has had no manager
        self.counted_ms: dict[str, int] = {}  # from when the present leader counts
        self.ends_ms: dict[str, int] = {}  # when a task that its node gave up really ends
        self.replaced = 0  # fenced tasks that were replaced while nobody heard of their node
        super().__init__(seed, nodes)

    def elect(self) -> None:
        super().elect()
        for node_id in self.cut_ms:
            self.counted_ms[node_id] = self.now_ms + STEP_DOWN_MS

    def kill(self, node_id: str) -> None:
        if self.agents[node_id].alive:
            self.cut_ms[node_id] = self.counted_ms[node_id] = self.now_ms
            self.after(DETECT_MS + 1, lambda: self.count(node_id))
        super().kill(node_id)

    def count(self, node_id: str) -> None:
        """As manager/liveness does it."""
        node = self.store.node(node_id)
        if node is None or node.status.state != types_pb2.NODE_DOWN:
            return
        waits_ms = awaited_ms(self.store.tasks_of_node(node_id), node.status.silent_ms)
        passed_ms = [wait_ms for wait_ms in waits_ms if self.counted_ms[node_id] + wait_ms <= self.now_ms]
        if passed_ms:
            self.set_node(node_id, lambda changed: _silent(changed, passed_ms[-1]))
        self.after(LOOK_MS, lambda: self.count(node_id))

    def revive(self, node_id: str) -> None:
        if self.agents[node_id].alive:
            return
        cut_ms = self.cut_ms.pop(node_id)
        for task in self.store.tasks_of_node(node_id):
            after_ms = task.spec.stop_after_ms
            if after_ms and self.now_ms - cut_ms >= after_ms and not is_terminal(task.status.state):
                end_ms = cut_ms + latest_end_ms(task)
                self.ends_ms[task.meta.id] = end_ms
                self.after(max(0, end_ms - self.now_ms), lambda task_id=task.meta.id: self._given_up(task_id))
        super().revive(node_id)
        self.set_node(node_id, lambda changed: _silent(changed, 0))  # as manager/statuses does with READY

    def _given_up(self, task_id: str) -> None:
        task = self.store.task(task_id)
        if task is not None and not is_terminal(task.status.state) and self.agents[task.node_id].alive:
            new = copy_of(task)
            new.status.state, new.status.reason, new.status.ready = types_pb2.TASK_SHUTDOWN, "CUT_OFF", False
            self._report(task, new)

    def _step(self, agent: Agent, task_id: str) -> None:
        if task_id not in self.ends_ms:
            super()._step(agent, task_id)
        elif self.now_ms >= self.ends_ms[task_id]:
            self._given_up(task_id)

    def runs(self, task: objects_pb2.Task) -> bool:
        """What a bystander sees."""
        if is_terminal(task.status.state) or task.status.state < types_pb2.TASK_ASSIGNED:
            return False
        started = task.status.state >= types_pb2.TASK_STARTING
        if task.meta.id in self.ends_ms:
            return started and self.now_ms < self.ends_ms[task.meta.id]
        cut_ms = self.cut_ms.get(task.node_id)
        if cut_ms is None:
            return started
        told = task.assigned_ms < cut_ms and task.desired_state == RUNNING  # it may start what it was told of
        return (started or told) and self.now_ms < cut_ms + latest_end_ms(task)

    def _on_commit(self, commit: Commit) -> None:
        super()._on_commit(commit)
        for event in commit.events:
            task = event.new
            if not isinstance(task, objects_pb2.Task) or not task.spec.fenced:
                continue
            slot = self.store.tasks_of_slot(task.service_id, task.slot)
            running = [other for other in slot if self.runs(other)]
            assert len(running) <= 1, (
                f"two of a fenced slot run: {[(t.meta.name, t.node_id) for t in running]}"
            )
            away = [
                other
                for other in slot
                if other.node_id in self.cut_ms and not is_terminal(other.status.state)
            ]
            if away and event.old is None and desired_running(task):
                self.replaced += 1


def latest_end_ms(task: objects_pb2.Task) -> int:
    """When the node has certainly ended it, after its last contact."""
    return task.spec.stop_after_ms + FENCE_SPARE_MS + stop_limit_ms(task.spec)


def _silent(node: objects_pb2.Node, silent_ms: int) -> None:
    node.status.silent_ms = silent_ms


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_history(seed: int) -> None:
    history(seed)


def test_what_is_fenced_is_replaced_while_its_node_is_away() -> None:
    """Else the histories would prove nothing."""
    assert sum(history(seed).replaced for seed in range(2)) > 5


def history(seed: int) -> CutWorld:
    world = CutWorld(seed, nodes=3 + seed % 3)
    try:
        for number in range(2):
            create(world, f"s{number}")
        end_ms = world.now_ms + FAULTS_MS
        while world.now_ms < end_ms:
            world.run(world.random.randint(1, 20_000))
            act(world)
        world.settle()
    except AssertionError as error:
        raise AssertionError(f"seed {seed} at {world.now_ms - START_MS} ms: {error}") from error
    return world


def create(world: CutWorld, service_id: str) -> None:
    random = world.random
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = service_id
    task = service.spec.task
    task.container.image = "good:1"
    task.container.stop_grace_ms = random.choice((0, 1_000, 10_000))
    task.stop_after_ms, task.fenced = random.choice((10_000, 20_000)), True
    service.spec.replicated.replicas = random.randint(1, 5)
    world.put(service)


def act(world: CutWorld) -> None:
    """Something happens."""
    roll = world.random.random()
    node_id = world.random.choice(sorted(world.agents))
    service_id = world.random.choice(("s0", "s1"))
    if roll < 0.15:
        world.elect()
    elif roll < 0.40:
        world.kill(node_id)
        if world.random.random() < 0.3:
            world.after(world.random.randint(100, 90_000), lambda: world.revive(node_id))
    elif roll < 0.55:
        world.revive(node_id)
    elif roll < 0.70:
        world.set_service(service_id, lambda spec: _rescale(world, spec))
    elif roll < 0.85:
        image = f"good:{next(world.ids)}"
        world.set_service(service_id, lambda spec: setattr(spec.task.container, "image", image))
    else:
        world.set_node(node_id, lambda node: _drain_or_not(world, node))


def _rescale(world: CutWorld, spec: objects_pb2.ServiceSpec) -> None:
    spec.replicated.replicas = world.random.randint(0, 5)


def _drain_or_not(world: CutWorld, node: objects_pb2.Node) -> None:
    node.spec.availability = world.random.choice(
        (types_pb2.AVAILABILITY_ACTIVE, types_pb2.AVAILABILITY_DRAIN)
    )
    node.spec.drain_parallelism = world.random.choice((0, 1))
    node.drain_ms = world.now_ms
