"""Every kind of workload and rule of placement against random histories, in which everything goes wrong.

Beside what `plan_world` checks on every commit: no slot of a job runs again once it is done, nor more of
them than it may; a schedule's time has one run; nobody is pushed out of a service for less than a gap of
priority, or below its budget; the scheduler's kept picture is the one that a new leader would make. In the
end everything that should run runs, only where it may, and everything is at rest.

`SEEDS=5000:6000 pytest tests/sim/test_plan_workloads_sim.py` runs other seeds, `FAULTS_MS=120000`
longer histories; a failure names its seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest
from swarmpy.node.plan.base import copy_of, is_live, is_terminal
from swarmpy.node.plan.budgets import Budgets, is_available
from swarmpy.node.plan.filters import constraints_of, eligible, placement_problem, startable
from swarmpy.node.plan.groups import PREEMPTION_GAP, priority_of
from swarmpy.node.plan.inventory import Inventory, picture_of
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.taints import evicts
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.sim.plan_world import RUNNING, START_MS, Leader, World
from tests.sim.pool import blocks, check, workers

FAULTS_MS = int(os.environ.get("FAULTS_MS", "15000"))
COMPLETE = types_pb2.TASK_COMPLETE
IN_FLIGHT_MS = 10  # between a plan and its commit
KINDS = ("replicated", "replicated", "ordered", "job", "job", "global", "global_job", "cron")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers() as found:
        yield found


@pytest.mark.parametrize(("first", "last"), blocks("0:500"))
def test_histories(pool: ProcessPoolExecutor, first: int, last: int) -> None:
    check(pool, history, first, last)


class WorkloadWorld(World):
    """A world that also checks jobs, schedules, preemption and the scheduler's picture."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.bad_nodes: set[str] = set()
        super().__init__(seed, nodes)

    def _fails(self, task: objects_pb2.Task) -> bool:
        return (task.node_id in self.bad_nodes and self.random.random() < 0.7) or super()._fails(task)

    def _on_commit(self, commit: Commit) -> None:
        super()._on_commit(commit)
        for event in commit.events:
            if isinstance(event.new, objects_pb2.Task) and event.old is None:
                self._check_new_task(event.new)
            elif isinstance(event.new, objects_pb2.Service) and event.old is None:
                self._check_new_run(event.new)

    def _check_new_task(self, new: objects_pb2.Task) -> None:
        service = self.store.service(new.service_id)
        if service is None or not service.spec.HasField("replicated_job"):
            return
        same = [t for t in self.store.tasks_of_slot(new.service_id, new.slot) if t.meta.id != new.meta.id]
        done = [
            t for t in same if t.status.state == COMPLETE and t.spec.force_update == new.spec.force_update
        ]
        known = [t for t in done if t.status.since_ms < self.now_ms - IN_FLIGHT_MS]
        assert not known, f"{new.meta.name} is done again"
        limit = service.spec.replicated_job.max_concurrent
        live = [
            t
            for t in self.store.tasks_of_service(new.service_id)
            if is_live(t, self.store) and t.spec.force_update == new.spec.force_update
        ]
        assert not limit or len(live) <= limit, f"{service.meta.name}: {len(live)} at once, limit {limit}"

    def _check_new_run(self, new: objects_pb2.Service) -> None:
        if new.scheduled_ms % 60_000:
            return  # triggered by hand
        same = [
            s
            for s in self.store.services()
            if (s.owner_id, s.scheduled_ms) == (new.owner_id, new.scheduled_ms)
        ]
        assert not new.owner_id or not new.scheduled_ms or len(same) == 1, (
            f"{new.meta.name}: a time has two runs"
        )

    def _plan(self, leader: Leader, at_ms: int) -> None:
        if (
            leader.epoch == self.epoch
            and isinstance(leader.planner, SchedulerPlanner)
            and self.random.random() < 0.1
        ):
            check_picture(leader.planner._inventory, self)
        super()._plan(leader, at_ms)

    def _propose(self, leader: Leader, keys: list[str], parts: list[list[store_pb2.Change]]) -> None:
        if leader.planner.name == "preempt" and parts:
            self._check_preemption([change.put.task for part in parts for change in part])
        super()._propose(leader, keys, parts)

    def _check_preemption(self, victims: Sequence[objects_pb2.Task]) -> None:
        """At the moment of planning: enough remain of each, and somebody waits who may do this."""
        pending = [t for t in self.store.tasks_in_state(types_pb2.TASK_PENDING) if is_live(t, self.store)]
        asking = [self.store.service(task.service_id) for task in pending]
        best = max((priority_of(s) for s in asking if s is not None and s.spec.preempt), default=-1)
        budgets = Budgets(self.store)
        for victim in victims:
            before = self.store.task(victim.meta.id)
            assert before is not None
            low = priority_of(self.store.service(victim.service_id))
            assert low + PREEMPTION_GAP <= best, f"{victim.meta.name} of priority {low} for {best}"
            assert budgets.allows(before), f"{victim.meta.name} is pushed out below its budget"
            budgets.take(before)


def check_picture(kept: Inventory, world: World) -> None:
    """What the scheduler keeps is what it would make from nothing."""
    if not kept._fresh:
        return
    fresh = picture_of(world.store)
    have, want = kept.current(world.store), fresh.current(world.store)
    assert have.keys() == want.keys()
    for node_id, info in want.items():
        mine = have[node_id]
        for field in ("free_nano_cpus", "free_memory_bytes", "tasks", "tasks_of", "ports", "nano_cpus"):
            assert getattr(mine, field) == getattr(info, field), f"{node_id}: {field} is out of date"
    assert {key: set(group) for key, group in kept.waiting.items()} == {
        k: set(g) for k, g in fresh.waiting.items()
    }
    assert set(kept.leaving) == set(fresh.leaving)
    assert {s: set(f) for s, f in kept.failed.items()} == {s: set(f) for s, f in fresh.failed.items()}


def history(seed: int) -> World:
    """One random history from beginning to rest."""
    world = WorkloadWorld(seed, nodes=3 + seed % 3)
    try:
        for number in range(2 + seed % 3):
            create(world, f"s{number}")
        end_ms = world.now_ms + FAULTS_MS
        while world.now_ms < end_ms:
            world.run(world.random.randint(1, 2000))
            act(world)
        settle(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed} at {world.now_ms - START_MS} ms: {error}") from error
    return world


def act(world: WorkloadWorld) -> None:
    """Something happens."""
    random = world.random
    node_id = random.choice(sorted(world.agents))
    services = [s.meta.id for s in world.store.services() if not s.pending_delete and not s.owner_id]
    roll = random.random()
    if roll < 0.12:
        world.elect()
    elif roll < 0.24:
        world.kill(node_id)
        if random.random() < 0.5:  # it flaps
            world.after(random.randint(100, 9_000), lambda: world.revive(node_id))
    elif roll < 0.36:
        world.revive(node_id)
    elif roll < 0.42:
        world.bad_nodes ^= {node_id}
    elif roll < 0.52:
        world.set_node(node_id, lambda node: retaint(random, node))
    elif roll < 0.60:
        world.set_node(node_id, lambda node: node.meta.labels.update({"zone": random.choice("abc")}))
    elif roll < 0.68 or not services:
        if world.store.count(store_pb2.KIND_SERVICE) < 7:
            create(world, f"n{next(world.ids)}")
    elif roll < 0.71:
        service = copy_of(world.store.service(random.choice(services)))  # type: ignore[type-var]
        service.pending_delete = True
        world.put(service)
    elif roll < 0.76:
        stop_a_task(world)
    else:
        world.set_service(random.choice(services), lambda spec: edit(world, spec))


def retaint(random: random.Random, node: objects_pb2.Node) -> None:
    del node.spec.taints[:]
    if random.random() < 0.6:
        node.spec.taints.add(key=random.choice("xy"), effect=random.choice(types_pb2.TaintEffect.values()))


def stop_a_task(world: World) -> None:
    tasks = [t for t in world.store.tasks() if t.desired_state <= RUNNING and not is_terminal(t.status.state)]
    if tasks:
        task = copy_of(world.random.choice(tasks))
        task.desired_state = types_pb2.TASK_SHUTDOWN
        world.put(task)


def edit(world: World, spec: objects_pb2.ServiceSpec) -> None:
    """A rescale, a new image, a stop, another priority, or a job once more."""
    random = world.random
    roll = random.random()
    mode = spec.WhichOneof("mode")
    if mode in {"replicated_job", "global_job"}:
        spec.task.force_update += roll < 0.5
    elif roll < 0.3 and mode == "replicated":
        spec.replicated.replicas = random.randint(0, 6)
    elif roll < 0.5 and mode == "ordered":
        spec.ordered.replicas = random.randint(0, 4)
    elif roll < 0.65:
        spec.stopped = not spec.stopped
    elif roll < 0.8:
        spec.priority = random.choice((0, 50, 90))
    else:
        spec.task.container.image = f"{random.choice(('good', 'good', 'bad', 'never'))}:{next(world.ids)}"


def create(world: World, service_id: str) -> None:
    random = world.random
    kind = random.choice(KINDS)
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = service_id
    service.meta.created_ms = world.now_ms
    fill(world, service.spec, kind)
    others = [s.meta.name for s in world.store.services() if not s.owner_id]
    if others and random.random() < 0.15:
        service.spec.depends_on.add(service=random.choice(others), condition=objects_pb2.DEPENDENCY_STARTED)
    if kind == "cron":
        schedule = objects_pb2.Schedule()
        schedule.meta.id = schedule.meta.name = f"c{service_id}"
        schedule.spec.cron = "* * * * *"
        schedule.spec.overlap = random.choice(objects_pb2.Overlap.values())
        schedule.spec.service.CopyFrom(service.spec)
        world.put(schedule)
    else:
        world.put(service)


def fill(world: World, spec: objects_pb2.ServiceSpec, kind: str) -> None:
    """Whatever options the generator likes."""
    random = world.random
    spec.task.container.image = "once:1" if kind in {"job", "global_job", "cron"} else "good:1"
    spec.task.container.stop_grace_ms = 1000
    spec.task.resources.reservations.nano_cpus = random.choice((0, 100_000_000, 400_000_000))
    spec.task.restart.delay_ms = random.choice((0, 1000))
    placement = spec.task.placement
    if random.random() < 0.2:
        placement.constraints.append("node.labels.zone!=c")
    if random.random() < 0.4:
        placement.tolerations.add(key=random.choice("xy"))
    if random.random() < 0.3:
        placement.preferences.add(spread="node.labels.zone")
    spec.enforce = random.choice(("", "drain", "ignore"))
    spec.strategy = random.choice(("", "", "binpack", "random"))
    match kind:
        case "replicated":
            spec.replicated.replicas = random.randint(1, 5)
            spec.priority = random.choice((10, 50, 90))
            spec.preempt = random.random() < 0.5
            spec.min_available = random.choice(("", "1", "50%"))
            spec.update.prefetch = random.random() < 0.3
            if random.random() < 0.1:
                spec.pre_deploy.image = "once:2"
        case "ordered":
            spec.ordered.replicas = random.randint(1, 3)
        case "global":
            getattr(spec, "global").SetInParent()
        case "global_job":
            spec.global_job.policy.backoff_limit = 1000
        case _:
            spec.task.restart.condition = types_pb2.RESTART_ON_FAILURE
            spec.replicated_job.completions = random.randint(1, 4)
            spec.replicated_job.max_concurrent = random.randint(0, 2)
            spec.replicated_job.policy.backoff_limit = random.choice((2, 1000))


def settle(world: WorkloadWorld) -> None:
    """End all faults, take away what may block, and look at the world at rest."""
    world.failure_rate, world.bad_nodes = 0.0, set()
    for schedule in list(world.store.schedules()):
        changed = copy_of(schedule)
        changed.spec.suspended = True
        world.put(changed)
    for node_id in world.agents:
        world.revive(node_id)
        world.set_node(node_id, heal)
    for service in list(world.store.services()):
        if not service.pending_delete:
            world.set_service(service.meta.id, unblock)
    world.run(2_000_000)
    before = sum(world.commits.values())
    world.run(600_000)
    assert sum(world.commits.values()) == before, f"the cluster does not come to rest: {world.commits}"
    for service in world.store.services():
        check_at_rest(world, service)
    known = {service.meta.id for service in world.store.services()}
    left = [task.meta.name for task in world.store.tasks() if task.service_id not in known]
    assert not left, f"tasks of removed services are left: {left}"


def heal(node: objects_pb2.Node) -> None:
    """Room for everything, and no taint but those that tell nodes apart."""
    node.description.resources.nano_cpus = 100_000_000_000
    del node.spec.taints[1:]
    if node.spec.taints and node.meta.id == "node0":
        del node.spec.taints[:]


def unblock(spec: objects_pb2.ServiceSpec) -> None:
    del spec.depends_on[:]
    spec.ClearField("pre_deploy")
    if spec.task.container.image.split(":")[0] in {"bad", "never"}:
        spec.task.container.image = "good:99"
    if "node.labels.zone!=c" in spec.task.placement.constraints:
        spec.task.placement.constraints[:] = ["node.labels.zone!=nowhere"]


def check_at_rest(world: World, service: objects_pb2.Service) -> None:
    name = f"{service.meta.name} ({service.spec.WhichOneof('mode')}, {service.update_status}{service.job})"
    assert not service.pending_delete, f"{name} was removed and is still there"
    tasks = world.store.tasks_of_service(service.meta.id)
    running = [t for t in tasks if t.status.state == RUNNING and t.desired_state == RUNNING]
    moving = [t.meta.name for t in tasks if t.desired_state > RUNNING and not is_terminal(t.status.state)]
    assert not moving, f"{name}: still stopping {moving}"
    for task in running:
        check_place(world, service, task)
    spec = service.spec
    mode = spec.WhichOneof("mode")
    if mode in {"replicated_job", "global_job"}:
        assert service.job.state != objects_pb2.JOB_RUNNING or spec.stopped, f"{name} does not end"
        if service.job.state == objects_pb2.JOB_COMPLETE and mode == "replicated_job":
            done = {
                t.slot
                for t in tasks
                if t.status.state == COMPLETE and t.spec.force_update == service.job.iteration
            }
            assert done == set(range(1, spec.replicated_job.completions + 1)), f"{name}: only {done} are done"
        return
    if service.update_status.state in (objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED):
        return
    if mode == "global":
        must = sum(eligible(n, spec.task) and startable(n, spec.task) for n in world.store.nodes())
        may = sum(eligible(n, spec.task) for n in world.store.nodes())
    else:
        must = may = spec.ordered.replicas if mode == "ordered" else spec.replicated.replicas
    if spec.stopped:
        must = may = 0
    waiting = [(t.meta.name, t.status.state, t.status.message) for t in tasks if t.desired_state <= RUNNING]
    assert must <= len(running) <= may, f"{name}: {len(running)} of {must} run; {waiting}"
    if mode != "global":
        slots = Counter(task.slot for task in running)
        assert set(slots) == set(range(1, must + 1)) or mode == "replicated", f"{name}: slots {slots}"
        assert all(count == 1 for count in slots.values()), f"{name}: a slot runs twice: {slots}"


def check_place(world: World, service: objects_pb2.Service, task: objects_pb2.Task) -> None:
    node = world.store.node(task.node_id)
    assert node is not None
    placement = task.spec.placement
    assert evicts(node, placement.tolerations) is None, f"{task.meta.name} stays on a node that evicts it"
    problem = placement_problem(node, constraints_of(placement), placement.platforms)
    assert problem is None or service.spec.enforce == "ignore", (
        f"{task.meta.name} is on {node.meta.id}: {problem}"
    )
    assert is_available(task, world.store), f"{task.meta.name} runs and is not ready"
