"""Why a task is where it is, or nowhere; and the smallest change that would place it.

The answers come from the scheduler's own filters and scorer (`groups`), asked for every node and every
filter, so an explanation cannot disagree with what the scheduler does. What-if questions are the
same questions put to a copy of the cluster. Advice is for nodes at which exactly one filter says no: then
removing that one reason is enough; where no such node is, the nearest node and its reasons are named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmpy.node.plan import pods
from swarmpy.node.plan.base import Draft, View, copy_of, desired_running
from swarmpy.node.plan.filters import ConstraintError, NodeInfo, format_bytes, parse_constraint
from swarmpy.node.plan.groups import Wanted, wanted_by
from swarmpy.node.plan.inventory import HOLDING_STATES, picture_of
from swarmpy.node.plan.tasks import new_task
from swarmpy.node.plan.volumes import Places
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

EVENTS_MAX = 20
ADVICE_MAX = 5
NODES_MAX = 1_000


class WhatIfRefused(ValueError):
    """A what-if names a node that does not exist."""


def explain(
    view: View, service: objects_pb2.Service, task: objects_pb2.Task | None, request: control_pb2.ExplainRequest,
    now_ms: int,
) -> control_pb2.ExplainResponse:  # fmt: skip
    """The explanation for a task, or (None) for the service's waiting or next one."""
    draft = Draft(view)
    _what_if(draft, request)
    judged = copy_of(task or _task_of(draft, service, now_ms))
    if request.reserve:
        wanted = judged.spec.resources.reservations
        wanted.nano_cpus = request.reservations.nano_cpus or wanted.nano_cpus
        wanted.memory_bytes = request.reservations.memory_bytes or wanted.memory_bytes
    response = control_pb2.ExplainResponse(service=service.meta.name, task=judged.meta.name, index=view.index)
    response.state = types_pb2.TaskState.Name(judged.status.state).removeprefix("TASK_").lower()
    response.message = judged.status.error or judged.status.message
    response.events.extend(_events(view, service, judged))
    try:
        judge = _judge(draft, judged, now_ms)
    except ConstraintError as error:
        response.advice.append(f"correct the constraint: {error}")
        return response
    response.strategy = judge.wanted.group.strategy
    response.nodes.extend(judge.nodes())
    if not any(node.rank for node in response.nodes):
        response.advice.extend(_advice(judge, response.nodes))
    return response


def _what_if(draft: Draft, request: control_pb2.ExplainRequest) -> None:
    for where, value in request.labels.items():
        name, _, key = where.partition(":")
        node = next((n for n in draft.nodes() if name in (n.meta.id, n.meta.name)), None)
        if node is None:
            raise WhatIfRefused(f"there is no node {name!r} to label")
        changed = copy_of(node)
        changed.meta.labels[key] = value
        draft.put(changed)


def _task_of(view: View, service: objects_pb2.Service, now_ms: int) -> objects_pb2.Task:
    """The task that waits, else one like those the service would make next."""
    tasks = [task for task in view.tasks_of_service(service.meta.id) if desired_running(task)]
    waiting = [task for task in tasks if task.status.state <= types_pb2.TASK_PENDING and not task.node_id]
    if waiting:
        return min(waiting, key=lambda task: (task.slot, task.meta.id))
    slot = 0 if service.spec.HasField("global") else max((task.slot for task in tasks), default=0) + 1
    made = new_task(service, lambda: "next", now_ms, slot=slot)
    made.status.message = "would be the next task"
    return made


@dataclass(slots=True)
class _Judge:
    """One task before all nodes, itself not counted."""

    view: View
    task: objects_pb2.Task
    wanted: Wanted
    infos: dict[str, NodeInfo]
    places: Places

    def checks(self, info: NodeInfo) -> list[tuple[str, str | None]]:
        found = list(self.wanted.checks(info))
        if any(pods.mounts(self.task.spec)):
            found.append(("volume", self.places.problem(self.task, info.node)))
        return found

    def nodes(self) -> list[control_pb2.ExplainedNode]:
        """Suitable nodes by rank, then the others by how many filters say no."""
        group = self.wanted.group
        rows = [(info, self.checks(info)) for info in self.infos.values()]
        good = sorted(
            (row for row in rows if not any(problem for _, problem in row[1])),
            key=lambda row: (group.key(row[0]), row[0].node_id),
        )
        ranks = {info.node_id: rank for rank, (info, _) in enumerate(good, 1)}
        bad = sorted(
            (row for row in rows if row[0].node_id not in ranks),
            key=lambda row: (sum(bool(problem) for _, problem in row[1]), row[0].node.meta.name),
        )
        return [
            self._row(info, checks, ranks.get(info.node_id, 0)) for info, checks in [*good, *bad][:NODES_MAX]
        ]

    def _row(
        self, info: NodeInfo, checks: Iterable[tuple[str, str | None]], rank: int
    ) -> control_pb2.ExplainedNode:
        faulty, second, wish, _, score = self.wanted.group.parts(info)
        return control_pb2.ExplainedNode(
            node=info.node.meta.name or info.node_id,
            filters=[control_pb2.ExplainedFilter(name=name, problem=problem or "") for name, problem in checks],
            rank=rank, service_tasks=info.tasks_of.get(self.task.service_id, 0), tasks=info.tasks, score=score,
            faulty=faulty, second_choice=second, affinity=wish,
            cpu_percent=info.node.usage.cpu_percent, memory_percent=info.node.usage.memory_percent,
            free_nano_cpus=info.free_nano_cpus, free_memory_bytes=info.free_memory_bytes,
            here=bool(self.task.node_id) and info.node_id == self.task.node_id,
        )  # fmt: skip


def _judge(view: View, task: objects_pb2.Task, now_ms: int) -> _Judge:
    inventory = picture_of(view)
    infos = inventory.current(view)
    wanted = wanted_by(view, task, inventory, infos, now_ms)
    stored = view.task(task.meta.id)
    own = infos.get(task.node_id)
    if stored is not None and own is not None and stored.status.state in HOLDING_STATES:
        held = wanted_by(view, stored, inventory, infos, now_ms).group.demand
        held.give_back(own)
    return _Judge(view, task, wanted, infos, Places(view, lambda: "what-if"))


def _events(
    view: View, service: objects_pb2.Service, task: objects_pb2.Task
) -> list[control_pb2.ExplainedEvent]:
    """What was decided lately about the task's slot and its service, oldest first."""
    found: list[tuple[int, str]] = []
    tasks = view.tasks_of_slot(service.meta.id, task.slot)
    if not task.slot:
        tasks = [one for one in tasks if one.node_id == task.node_id]
    for one in tasks:
        node = view.node(one.node_id)
        place = f" on {node.meta.name or one.node_id}" if node is not None else ""
        for step in one.status.history:
            state = types_pb2.TaskState.Name(step.state).removeprefix("TASK_").lower()
            found.append(
                (step.at_ms, f"{one.meta.name}{place}: {state}{f' ({step.reason})' if step.reason else ''}")
            )
        if one.status.error:
            found.append((one.status.since_ms, f"{one.meta.name}{place}: {one.status.error}"))
        if one.stop_ms:
            found.append(
                (one.stop_ms, f"{one.meta.name}{place}: to stop ({one.stop_reason or 'no reason given'})")
            )
    status = service.update_status
    if status.started_ms:
        state = objects_pb2.UpdateState.Name(status.state).removeprefix("UPDATE_").lower()
        found.append((status.completed_ms or status.started_ms, f"update {state}: {status.message}"))
    if service.waiting:
        found.append((service.meta.updated_ms, service.waiting))
    ordered = sorted(found)[-EVENTS_MAX:]
    return [control_pb2.ExplainedEvent(at_ms=at_ms, what=what) for at_ms, what in ordered]


def _advice(judge: _Judge, nodes: Iterable[control_pb2.ExplainedNode]) -> list[str]:
    """One sentence for each smallest change, the same one once."""
    rows = list(nodes)
    if not rows:
        return ["join a node: the cluster has none"]
    single = [row for row in rows if sum(bool(check.problem) for check in row.filters) == 1]
    if not single:
        row = rows[0]
        problems = "; ".join(f"{check.name}: {check.problem}" for check in row.filters if check.problem)
        return [f"no single change is enough; nearest is {row.node}, which fails {problems}"]
    found: dict[str, None] = {}
    closest = sorted(single, key=lambda row: (-row.free_memory_bytes, row.tasks, row.node))
    for row in closest:
        check = next(check for check in row.filters if check.problem)
        found.setdefault(_remedy(judge, row, check), None)
    return list(found)[:ADVICE_MAX]


def _remedy(judge: _Judge, row: control_pb2.ExplainedNode, check: control_pb2.ExplainedFilter) -> str:
    """What would make one filter of one node say yes."""
    node, placement = row.node, judge.task.spec.placement
    service = judge.task.service_name
    match check.name:
        case "resource":
            return _room(judge, row)
        case "ready":
            if "drained" in check.problem or "paused" in check.problem:
                return f"let {node} take tasks: swarmpy node activate {node}"
            return f"bring {node} back: it is the only thing that keeps the task away from it"
        case "constraint":
            return _label(node, check.problem.partition("constraint ")[2])
        case "taint":
            return f"tolerate what keeps tasks off {node} ({check.problem}): --toleration-add, or remove the taint"
        case "host port" if check.problem.startswith("have host port "):
            port = check.problem.removeprefix("have ").removesuffix(" in use")
            return f"free {port} on {node}, or publish another one"
        case "max per node":
            more = placement.max_replicas_per_node + 1
            return f"allow more on one node: swarmpy service update --replicas-max-per-node {more} {service}"
    return f"at {node} only the filter {check.name} says no: nodes like it {check.problem}"


def _label(node: str, constraint: str) -> str:
    try:
        parsed = parse_constraint(constraint)
    except ConstraintError:
        parsed = None
    if parsed is not None and parsed.key.startswith("node.labels.") and parsed.operator in ("==", "in"):
        key = parsed.key.removeprefix("node.labels.")
        return f"label {node}: swarmpy node update --label-add {key}={parsed.values[0]} {node}"
    return f"drop the constraint {constraint}, or change {node} so that it meets it"


def _room(judge: _Judge, row: control_pb2.ExplainedNode) -> str:
    demand = judge.wanted.group.demand
    service = judge.task.service_name
    parts, flags = [], []
    if demand.memory_bytes > row.free_memory_bytes:
        parts.append(f"{format_bytes(demand.memory_bytes - row.free_memory_bytes)} of memory")
        if row.free_memory_bytes >= 4 << 20:
            flags.append(f"--reserve-memory {row.free_memory_bytes >> 20}m")
    if demand.nano_cpus > row.free_nano_cpus:
        parts.append(f"{(demand.nano_cpus - row.free_nano_cpus) / 1e9:g} CPU")
        if row.free_nano_cpus >= 1_000_000:
            flags.append(f"--reserve-cpu {row.free_nano_cpus / 1e9:g}")
    if not parts:
        return f"free what {row.node} lacks of generic resources"
    alternative = f", or reserve less: swarmpy service update {' '.join(flags)} {service}" if flags else ""
    return f"free {' and '.join(parts)} on {row.node}{alternative}"
