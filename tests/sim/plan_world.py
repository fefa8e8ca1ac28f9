"""A whole cluster in one thread and virtual time: real store, planners and LoopState, played agents.

Everything random comes from one seeded generator, so a seed is a history. Plans
are made at one moment and applied some milliseconds later, with the other
loops' commits in between, as in a real leader; a change of leader drops what is
in flight and every planner's memory. Each commit is checked against what must hold
always; `World.settle` ends the faults and checks what must hold in the end.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarmpy.node.manager.loop import LoopState, parts_of
from swarmpy.node.plan.base import (
    Planner,
    copy_of,
    desired_running,
    holds_resources,
    is_live,
    is_lost,
    is_terminal,
    room_of,
)
from swarmpy.node.plan.filters import eligible
from swarmpy.node.plan.planners import all_planners
from swarmpy.node.plan.resize import same_but_limits
from swarmpy.node.plan.revisions import NotNow, acted
from swarmpy.node.plan.slots import may_overlap
from swarmpy.node.plan.tasks import with_history
from swarmpy.node.plan.update import with_new_spec
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap

START_MS = 1_700_000_000_000
DETECT_MS = 4_000
RUNNING = types_pb2.TASK_RUNNING
STEPS = (
    types_pb2.TASK_ASSIGNED,
    types_pb2.TASK_ACCEPTED,
    types_pb2.TASK_PREPARING,
    types_pb2.TASK_READY,
    types_pb2.TASK_STARTING,
    types_pb2.TASK_RUNNING,
)


@dataclass
class Leader:
    """One planner's loop in one leadership."""

    planner: Planner
    state: LoopState
    epoch: int
    busy: bool = False
    disturbed: bool = False
    alarm_ms: int | None = None


@dataclass
class Agent:
    """What really happens on one node."""

    node_id: str
    alive: bool = True
    busy: set[str] = field(default_factory=set)  # tasks with a step under way


def _places(leader: Leader) -> bool:
    """Its plans take room on nodes: of these one at a time is under way."""
    return getattr(leader.planner, "places", False)


class World:
    def __init__(self, seed: int, nodes: int = 4) -> None:
        self.random = random.Random(seed)
        self.now_ms = START_MS
        self.store = Store()
        self.store.listeners.append(self._on_commit)
        self.index = 0
        self.epoch = 0
        self.ids = itertools.count(1)
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.leaders: list[Leader] = []
        self.agents: dict[str, Agent] = {}
        self.failure_rate = 0.2
        self.ever_down: set[str] = set()
        self.commits: Counter[str] = Counter()
        self.trace: list[str] = []
        self.overlaps: dict[str, tuple[int, bool]] = {}
        self.elect()
        cluster = objects_pb2.Cluster()
        cluster.meta.id = "cluster"
        self.put(cluster)
        for number in range(nodes):
            self.add_node(f"node{number}", zone="ab"[number % 2])

    # time

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now_ms + delay_ms, next(self.order), action))

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self.queue and self.queue[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self.queue)
            action()
        self.now_ms = end_ms

    # the log

    def commit(
        self, changes: Iterable[store_pb2.Change], actor: str, epoch: int, *, first: bool = False
    ) -> str:
        self.index += 1
        command = transaction(changes, epoch=epoch, now_ms=self.now_ms, actor=actor, new_epoch=first)
        self.commits[actor] += 1
        return result_of(self.store.apply(self.index, command)).error_code

    def put(self, *entities: Entity) -> None:
        """Write as Control or the dispatcher do: from the present version."""
        changes = [store_pb2.Change(put=wrap(e), expected_version=e.meta.version) for e in entities]
        code = self.commit(changes, "user", self.epoch)
        assert not code, f"the world's own write was refused: {code}"

    def _on_commit(self, commit: Commit) -> None:
        for event in commit.events:
            if isinstance(event.new, objects_pb2.Task):
                self._check_task(event.old, event.new)
                agent = self.agents.get(event.new.node_id)
                if agent is not None:
                    self._wake_agent(agent, event.new.meta.id)
        for leader in self.leaders:
            if leader.state.feed(commit, self.store):
                leader.disturbed |= commit.actor != leader.planner.name
                self._kick(leader)
        self._check_slots(commit)

    # leadership

    def elect(self) -> None:
        """A new leader: a new epoch, and nothing remembered."""
        self.epoch += 1
        self.leaders = []
        assert not self.commit((), "leader", self.epoch, first=True)
        for planner in all_planners():
            leader = Leader(planner, LoopState(planner), self.epoch)
            leader.state.restart(self.store)
            self.leaders.append(leader)
            self._kick(leader)

    def _kick(self, leader: Leader) -> None:
        wait_ms = leader.state.wait_ms(self.now_ms)
        if leader.busy or wait_ms is None or leader.epoch != self.epoch:
            return
        at_ms = self.now_ms + wait_ms + self.random.randint(0, 12)
        if leader.alarm_ms is not None and self.now_ms <= leader.alarm_ms <= at_ms:
            return
        leader.alarm_ms = at_ms
        self.after(at_ms - self.now_ms, lambda: self._plan(leader, at_ms))

    def _plan(self, leader: Leader, at_ms: int) -> None:
        if leader.epoch != self.epoch or leader.busy or leader.alarm_ms != at_ms:
            return
        leader.alarm_ms = None
        if _places(leader) and any(other.busy and _places(other) for other in self.leaders):
            self._kick(leader)
            return
        keys = leader.state.take(self.now_ms)
        if keys:
            leader.busy, leader.disturbed = True, False
            plan = leader.planner.plan(self.store, keys, self.now_ms, lambda: f"t{next(self.ids):06d}")
            leader.state.look_again(keys, plan.wake_ms)
            leader.state.mark(plan.unseen)
            self._propose(leader, keys, list(parts_of(plan.changes)))
        else:
            self._kick(leader)

    def _propose(self, leader: Leader, keys: list[str], parts: list[list[store_pb2.Change]]) -> None:
        if not parts:
            leader.busy = False
            self._kick(leader)
            return

        def apply() -> None:
            code = self.commit(parts[0], leader.planner.name, leader.epoch)
            if leader.epoch != self.epoch:
                assert code == "STALE_EPOCH", code
                return
            assert code in ("", "CONFLICT", "NOT_FOUND", "EXISTS"), f"{leader.planner.name}: {code}"
            if code or (leader.disturbed and len(parts) > 1):
                leader.state.mark(keys)
                self._propose(leader, keys, [])
            else:
                self._propose(leader, keys, parts[1:])

        self.after(self.random.randint(1, 8), apply)

    # nodes and agents

    def add_node(self, node_id: str, zone: str) -> None:
        node = objects_pb2.Node()
        node.meta.id = node.meta.name = node.description.hostname = node_id
        node.meta.labels["zone"] = zone
        node.description.resources.nano_cpus = 1_600_000_000
        node.description.resources.memory_bytes = 8 << 30
        node.description.platform.os = "linux"
        node.description.platform.architecture = "amd64"
        node.status.state = types_pb2.NODE_READY
        self.agents[node_id] = Agent(node_id)
        self.put(node)

    def set_node(self, node_id: str, change: Callable[[objects_pb2.Node], None]) -> None:
        present = self.store.node(node_id)
        assert present is not None
        node = copy_of(present)
        change(node)
        self.put(node)

    def kill(self, node_id: str) -> None:
        """The node falls silent; the liveness monitor says so later."""
        agent = self.agents[node_id]
        if not agent.alive:
            return
        agent.alive = False

        def down(node: objects_pb2.Node) -> None:
            node.status.state = types_pb2.NODE_DOWN
            node.status.since_ms = self.now_ms

        def detect() -> None:
            if not agent.alive:
                self.ever_down.add(node_id)
                self.set_node(node_id, down)

        self.after(DETECT_MS, detect)

    def revive(self, node_id: str) -> None:
        agent = self.agents[node_id]
        if agent.alive:
            return
        agent.alive = True
        agent.busy.clear()

        def up(node: objects_pb2.Node) -> None:
            node.status.state = types_pb2.NODE_READY
            node.status.since_ms = self.now_ms

        self.set_node(node_id, up)
        for task in self.store.tasks_of_node(node_id):
            self._wake_agent(agent, task.meta.id)
            if task.status.state == RUNNING and task.spec.container.image.startswith("once"):
                self._end_later(agent, task.meta.id)

    def _end_later(self, agent: Agent, task_id: str) -> None:
        """A task that completes by itself does so soon."""
        self.after(self.random.randint(50, 3_000), lambda: self._end(agent, task_id, good=True))

    def _wake_agent(self, agent: Agent, task_id: str) -> None:
        if agent.alive and task_id not in agent.busy:
            agent.busy.add(task_id)
            self.after(self.random.choice((3, 10, 40, 300)), lambda: self._step(agent, task_id))

    def _step(self, agent: Agent, task_id: str) -> None:
        """One step of one task, as the agent's machine takes it."""
        if not agent.alive:
            return
        agent.busy.discard(task_id)
        task = self.store.task(task_id)
        if task is None or task.status.state < types_pb2.TASK_ASSIGNED or is_terminal(task.status.state):
            return
        new = copy_of(task)
        status = new.status
        if task.desired_state > RUNNING:
            status.state = types_pb2.TASK_SHUTDOWN
        elif task.status.state == RUNNING or task.desired_state <= task.status.state:
            return
        elif self._fails(task):
            rejected = task.status.state < types_pb2.TASK_READY
            status.state = types_pb2.TASK_REJECTED if rejected else types_pb2.TASK_FAILED
            status.error = "played failure"
        elif task.spec.pull_only and task.status.state == types_pb2.TASK_PREPARING:
            status.state = types_pb2.TASK_COMPLETE
        else:
            status.state = STEPS[STEPS.index(task.status.state) + 1]
            if status.state == RUNNING:
                status.started_ms = self.now_ms
                if not task.spec.container.image.startswith("unready"):
                    status.ready, status.ready_ms = True, self.now_ms
                if task.spec.container.image.startswith("once"):
                    self._end_later(agent, task_id)
                elif self.random.random() < self.failure_rate:
                    self.after(self.random.randint(10, 60_000), lambda: self._end(agent, task_id))
        self._report(task, new)

    def _report(self, old: objects_pb2.Task, new: objects_pb2.Task) -> None:
        """The dispatcher writes what the node says."""
        new.status.since_ms = self.now_ms
        new.status.CopyFrom(with_history(old, new.status, self.now_ms))
        self.put(new)

    def _fails(self, task: objects_pb2.Task) -> bool:
        """Images are named for their fate: good, bad (now and then), never, unready, once (it completes)."""
        image = task.spec.container.image
        if image.startswith("never"):
            return True
        return self.random.random() < (0.5 if image.startswith("bad") else self.failure_rate / 20)

    def _end(self, agent: Agent, task_id: str, *, good: bool = False) -> None:
        """A running task ends by itself."""
        task = self.store.task(task_id)
        if not agent.alive or task is None or task.status.state != RUNNING or not (good or self.failure_rate):
            return
        new = copy_of(task)
        good = good or self.random.random() < 0.2
        new.status.state = types_pb2.TASK_COMPLETE if good else types_pb2.TASK_FAILED
        new.status.ready = False
        self._report(task, new)

    # services

    def set_service(self, service_id: str, change: Callable[[objects_pb2.ServiceSpec], None]) -> None:
        present = self.store.service(service_id)
        assert present is not None
        spec = copy_of(present.spec)
        change(spec)
        self.put(with_new_spec(present, spec))

    def act(self, service_id: str, action: control_pb2.RolloutAction) -> None:
        """What a person does with an update, where it can be done now."""
        service = self.store.service(service_id)
        assert service is not None
        request = control_pb2.RolloutRequest(service=service_id, action=action)
        try:
            changed = acted(self.store, service, request, self.now_ms, "user")
        except NotNow:
            return
        self.put(changed)

    # what always holds

    def _check_task(self, old: Entity | None, new: objects_pb2.Task) -> None:
        assigned = new.status.state == types_pb2.TASK_ASSIGNED
        if isinstance(old, objects_pb2.Task):
            assert new.status.state >= old.status.state, f"{new.meta.name} went back: {old} -> {new}"
            assert new.desired_state >= old.desired_state, f"{new.meta.name} is wanted again: {old} -> {new}"
            assert old.node_id in ("", new.node_id), f"{new.meta.name} moved"
            assert same_but_limits(old.spec, new.spec), f"{new.meta.name} changed its spec"
            assigned = assigned and old.status.state < types_pb2.TASK_ASSIGNED
        if assigned:
            self._check_node(new.node_id)

    def _check_node(self, node_id: str) -> None:
        node = self.store.node(node_id)
        assert node is not None, f"assigned to {node_id}, which is gone"
        held = [
            task
            for task in self.store.tasks_of_node(node_id)
            if holds_resources(task) and task.status.state >= types_pb2.TASK_ASSIGNED
        ]
        wanted = [task.spec.resources.reservations for task in held]
        nano_cpus, memory_bytes = room_of(node)
        assert sum(w.nano_cpus for w in wanted) <= nano_cpus, f"{node_id} has too little CPU for its tasks"
        assert sum(w.memory_bytes for w in wanted) <= memory_bytes, f"{node_id} has too little memory"
        ports = Counter((p.protocol, p.published) for task in held for p in task.host_ports)
        assert all(count == 1 for count in ports.values()), f"{node_id} has a host port twice: {ports}"
        assert not any(number == 0 for _, number in ports), f"{node_id} has a host port without a number"
        limits = {t.service_id: t.spec.placement.max_replicas_per_node for t in held}
        for service_id, count in Counter(task.service_id for task in held).items():
            limit = limits[service_id]
            assert not limit or count <= limit, f"{node_id} has {count} of {service_id}, limit {limit}"

    def _check_slots(self, commit: Commit) -> None:
        touched = set()
        for event in commit.events:
            if isinstance(event.new, objects_pb2.Task):
                touched.add(
                    (event.new.service_id, event.new.slot, "" if event.new.slot else event.new.node_id)
                )
        for service_id, slot, node_id in touched:
            service = self.store.service(service_id)
            tasks = self.store.tasks_of_slot(service_id, slot)
            if node_id:
                tasks = [task for task in tasks if task.node_id == node_id]
            live = [task for task in tasks if is_live(task, self.store)]
            name = f"{service_id}/{slot or node_id}"
            assert len(live) <= 2, f"{name} has {len(live)} live tasks: {[t.meta.id for t in live]}"
            if len(live) == 2 and not any(task.leaving_ms for task in live):
                assert len({task.spec_version for task in live}) == 2, f"{name} has two tasks of one version"
            if service is not None and self._never_overlaps(service):
                self._check_no_overlap(name, tasks)

    def _never_overlaps(self, service: objects_pb2.Service) -> bool:
        """Worked out once for every version of a service."""
        version, known = self.overlaps.get(service.meta.id, (0, False))
        if version != service.meta.version:
            known = never_overlaps(service)
            self.overlaps[service.meta.id] = service.meta.version, known
        return known

    def _check_no_overlap(self, name: str, tasks: list[objects_pb2.Task]) -> None:
        running = [
            task
            for task in tasks
            if types_pb2.TASK_STARTING <= task.status.state <= RUNNING and task.node_id not in self.ever_down
        ]
        assert len(running) <= 1, f"{name} runs twice though it must not: {[t.meta.id for t in running]}"

    # what holds in the end

    def settle(self, limit_ms: int = 3_000_000) -> None:
        """End all faults, give the cluster time, and check that it came to rest in the right state."""
        self.failure_rate = 0.0
        for node_id, agent in self.agents.items():
            self.revive(node_id)
            assert agent.alive
            self.set_node(node_id, _activate)
        for service in list(self.store.services()):
            if service.spec.task.container.image.startswith("bad") and not service.pending_delete:
                self.set_service(service.meta.id, _repair)
        self.run(limit_ms)
        for service in list(self.store.services()):
            if service.update_status.state == objects_pb2.UPDATE_WAITING:
                self.act(service.meta.id, control_pb2.ROLLOUT_PROMOTE)
        self.run(limit_ms)
        before = sum(self.commits.values())
        self.run(600_000)
        assert sum(self.commits.values()) == before, f"the cluster does not come to rest: {self.commits}"
        for service in self.store.services():
            self._check_converged(service)
        known = {service.meta.id for service in self.store.services()}
        left = [task.meta.name for task in self.store.tasks() if task.service_id not in known]
        assert not left, f"tasks of removed services are left: {left}"
        scalers = [
            scaler.meta.name for scaler in self.store.autoscalers() if scaler.spec.service_id not in known
        ]
        assert not scalers, f"autoscalers of removed services are left: {scalers}"

    def _check_converged(self, service: objects_pb2.Service) -> None:
        assert not service.pending_delete, f"{service.meta.id} was removed and is still there"
        tasks = self.store.tasks_of_service(service.meta.id)
        running = [t for t in tasks if t.status.state == RUNNING and t.desired_state == RUNNING]
        assert not any(is_lost(task, self.store) for task in running)
        if service.spec.HasField("global"):
            wanted = sum(eligible(node, service.spec.task) for node in self.store.nodes())
        else:
            wanted = service.spec.replicated.replicas
        name = f"{service.meta.id} (update {service.update_status})"
        if service.spec.task.restart.condition == types_pb2.RESTART_ANY:
            waiting = [(t.meta.name, t.status.message) for t in tasks if desired_running(t)]
            both = bool(service.update_status.hidden_versions)  # blue-green that was paused half-way
            most = 2 * wanted if both else wanted
            assert wanted <= len(running) <= most, f"{name}: {len(running)} of {wanted} run; {waiting}"
        others = [t for t in tasks if desired_running(t) and t.status.state != RUNNING]
        assert not others, f"{name}: not at rest: {[(t.meta.name, t.status.message) for t in others]}"
        stopping = [t.meta.name for t in tasks if not desired_running(t) and not is_terminal(t.status.state)]
        assert not stopping, f"{name}: still stopping {stopping}"
        if service.update_status.state not in (objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED):
            old = [t.meta.name for t in running if t.spec != service.spec.task]
            assert not old, f"{name}: {old} still run an old spec"
            assert service.update_status.state not in (
                objects_pb2.UPDATE_UPDATING,
                objects_pb2.UPDATE_ROLLBACK_STARTED,
            ), f"{name} never ends"


def never_overlaps(service: objects_pb2.Service) -> bool:
    """Whether neither an update nor a rollback of the service starts first."""
    back = copy_of(service)
    back.spec.update.CopyFrom(service.spec.rollback)
    back.spec.rollback.CopyFrom(service.spec.update)
    return not may_overlap(service) and not may_overlap(back)


def _activate(node: objects_pb2.Node) -> None:
    node.spec.availability = types_pb2.AVAILABILITY_ACTIVE


def _repair(spec: objects_pb2.ServiceSpec) -> None:
    spec.task.container.image = "good:9"
