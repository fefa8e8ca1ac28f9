"""Gives pending tasks their nodes, all of them in one batch.

There is one key, "". Tasks are grouped by service and spec version; a group is
filtered once and ranked once (see `filters` and `score`), so a placement costs
microseconds. A task that fits nowhere stays PENDING with one sentence saying
why; it is looked at again whenever a node changes or a task ends. Tasks that come
with a node (global services) only have that node checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from swarmpy.node.plan.base import (
    DYNAMIC_PORT_MAX,
    DYNAMIC_PORT_MIN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    desired_running,
    is_terminal,
)
from swarmpy.node.plan.filters import (
    ConstraintError,
    Demand,
    HostPort,
    NodeInfo,
    availability_problem,
    constraints_of,
    demand_of,
    placement_problem,
    port_taken,
    sentence,
)
from swarmpy.node.plan.restart import faulty_nodes
from swarmpy.node.plan.score import Ranking
from swarmpy.node.plan.volumes import Places, differs_by_task
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

PLACEMENTS_PER_PLAN = 300
PENDING = types_pb2.TASK_PENDING
# A task uses its node's resources from its assignment to its end, whatever is wanted of it.
HOLDING_STATES = (
    types_pb2.TASK_ASSIGNED,
    types_pb2.TASK_ACCEPTED,
    types_pb2.TASK_PREPARING,
    types_pb2.TASK_READY,
    types_pb2.TASK_STARTING,
    types_pb2.TASK_RUNNING,
)


class SchedulerPlanner:
    """PENDING → ASSIGNED."""

    name = "scheduler"
    debounce_ms = 10

    def __init__(self) -> None:
        # Derived from immutable messages and checked by identity: a memo, not state.
        self._demands: dict[str, tuple[objects_pb2.Task, str, Demand]] = {}

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind in (store_pb2.KIND_NODE, store_pb2.KIND_VOLUME):
            return ("",)
        if event.kind == store_pb2.KIND_TASK and _task_event_matters(event):
            return ("",)
        if event.kind == store_pb2.KIND_SERVICE and _frees_a_port(event):
            return ("",)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return ("",)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        waiting = [task for task in view.tasks_in_state(PENDING) if desired_running(task)]
        if not waiting:
            return Plan()
        batch = _Batch(view, now_ms, self._nodes(view), Places(view, new_id))
        groups: dict[tuple[str, int, str], list[objects_pb2.Task]] = {}
        for task in waiting:
            if task.node_id:
                batch.place_on_its_node(task)
            else:
                alone = task.meta.id if differs_by_task(task.spec) else ""
                groups.setdefault((task.service_id, task.spec_version, alone), []).append(task)
        for group in sorted(groups.values(), key=lambda tasks: tasks[0].meta.created_ms):
            if len(batch.changes) >= PLACEMENTS_PER_PLAN:
                return Plan(batch.all_changes(), now_ms)
            batch.place_group(group)
        return Plan(batch.all_changes())

    def _nodes(self, view: View) -> dict[str, NodeInfo]:
        mesh = frozenset(
            (port.protocol, port.published, port.address)
            for service in view.services()
            for port in service.endpoint.ports
            if port.mode == types_pb2.PUBLISH_INGRESS and port.published
        )
        infos = {node.meta.id: _info_of(node, mesh) for node in view.nodes()}
        known, self._demands = self._demands, {}
        for task in chain.from_iterable(map(view.tasks_in_state, HOLDING_STATES)):
            memo = known.get(task.meta.id)
            if memo is None or memo[0] is not task:
                memo = (task, task.node_id, demand_of(task))
            self._demands[task.meta.id] = memo
            info = infos.get(memo[1])
            if info is not None:
                memo[2].take(info)
        return infos


def _info_of(node: objects_pb2.Node, mesh: frozenset[HostPort]) -> NodeInfo:
    has = node.description.resources
    return NodeInfo(node, node.meta.id, has.nano_cpus, has.memory_bytes, dict(has.generic), mesh_ports=mesh)


def _task_event_matters(event: ChangeEvent) -> bool:
    """A task came to wait for a node, or gave back what it held."""
    old, new = event.old, event.new
    if isinstance(new, objects_pb2.Task) and new.status.state == PENDING:
        return not isinstance(old, objects_pb2.Task) or old.status.state != PENDING
    if not isinstance(old, objects_pb2.Task) or is_terminal(old.status.state):
        return False
    return not isinstance(new, objects_pb2.Task) or is_terminal(new.status.state)


def _frees_a_port(event: ChangeEvent) -> bool:
    """A service gave back a published port that a host port may have waited for."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Service) or not old.endpoint.ports:
        return False
    return not isinstance(new, objects_pb2.Service) or old.endpoint.ports != new.endpoint.ports


@dataclass(slots=True)
class _Batch:
    """One run over all waiting tasks; nodes fill up as it goes."""

    view: View
    now_ms: int
    infos: dict[str, NodeInfo]
    volumes: Places
    changes: list[store_pb2.Change] = field(default_factory=list)
    suitable: dict[bytes, tuple[list[NodeInfo], Counter[str]]] = field(default_factory=dict)

    def place_on_its_node(self, task: objects_pb2.Task) -> None:
        info = self.infos.get(task.node_id)
        if info is None:
            self._explain(task, f"node {task.node_id} does not exist any more")
            return
        demand = demand_of(task)
        try:
            _, reasons = self._candidates(task.spec.placement, [info])
        except ConstraintError as error:
            self._explain(task, f"no suitable node: {error}")
            return
        problem = next(iter(reasons), None) or self.volumes.problem(task, info.node) or demand.problem(info)
        if problem is not None:
            self._explain(task, sentence([(problem, 1)], 1))
            return
        demand.take(info)
        self._assign(task, info)

    def all_changes(self) -> list[store_pb2.Change]:
        """Volumes before the tasks that are placed with them."""
        return [*self.volumes.changes(), *self.changes]

    def place_group(self, tasks: list[objects_pb2.Task]) -> None:
        """A task that decides where its volume is goes first, the others then follow it."""
        if len(tasks) > 1 and self.volumes.is_undecided(tasks[0]):
            self._place(tasks[:1])
            tasks = tasks[1:]
        self._place(tasks)

    def _place(self, tasks: list[objects_pb2.Task]) -> None:
        first = tasks[0]
        placement = first.spec.placement
        key = placement.SerializeToString(deterministic=True)
        try:
            if key not in self.suitable:
                self.suitable[key] = self._candidates(placement, self.infos.values())
        except ConstraintError as error:
            for task in tasks:
                self._explain(task, f"no suitable node: {error}")
            return
        candidates, reasons = self.volumes.narrow(first, *self.suitable[key])
        demand = demand_of(first)
        spread = [preference.spread for preference in placement.preferences]
        faulty = faulty_nodes(self.view.tasks_of_service(first.service_id), self.now_ms)
        ranking = Ranking(candidates, demand, spread, faulty)
        why = ""
        for task in tasks:
            if len(self.changes) >= PLACEMENTS_PER_PLAN:
                return
            info = None if why else ranking.place()
            if info is not None:
                self._assign(task, info)
                continue
            why = why or self._why(candidates, reasons, demand)
            self._explain(task, why)

    def _candidates(
        self, placement: types_pb2.Placement, infos: Iterable[NodeInfo]
    ) -> tuple[list[NodeInfo], Counter[str]]:
        constraints = constraints_of(placement)
        candidates: list[NodeInfo] = []
        reasons: Counter[str] = Counter()
        for info in infos:
            reason = availability_problem(info.node) or placement_problem(
                info.node, constraints, placement.platforms
            )
            if reason is None:
                candidates.append(info)
            else:
                reasons[reason] += 1
        return candidates, reasons

    def _why(self, candidates: list[NodeInfo], reasons: Counter[str], demand: Demand) -> str:
        counted = reasons + Counter(demand.problem(info) or "are full" for info in candidates)
        return sentence(counted.items(), len(self.infos))

    def _assign(self, task: objects_pb2.Task, info: NodeInfo) -> None:
        change = store_pb2.Change(expected_version=task.meta.version)
        placed = change.put.task
        placed.CopyFrom(task)
        self.volumes.take(placed, info.node, is_global=bool(task.node_id))
        placed.node_id = info.node_id
        placed.assigned_ms = self.now_ms
        status = placed.status
        status.state = types_pb2.TASK_ASSIGNED
        status.since_ms = self.now_ms
        status.message = "assigned to a node"
        for port in placed.host_ports:
            if not port.published:
                port.published = _free_port(port.protocol, info)
        self.changes.append(change)

    def _explain(self, task: objects_pb2.Task, message: str) -> None:
        if task.status.message == message:
            return
        change = store_pb2.Change(expected_version=task.meta.version)
        change.put.task.CopyFrom(task)
        change.put.task.status.message = message
        self.changes.append(change)


def _free_port(protocol: int, info: NodeInfo) -> int:
    """The lowest free dynamic port of the node, booked; `Demand.problem` made sure there is one."""
    for number in range(DYNAMIC_PORT_MIN, DYNAMIC_PORT_MAX + 1):
        port = (protocol, number, "")
        if not port_taken(info.ports, port) and not port_taken(info.mesh_ports, port):
            info.ports.add(port)
            return number
    raise AssertionError("the node was checked to have a free port")
