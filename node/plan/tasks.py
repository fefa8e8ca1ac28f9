"""Tasks as the orchestrators see them: made from a service, grouped in slots, told what is wanted.

A task is one attempt and never changes its place; a *slot* is what outlives it
(a number for replicated services, a node for global ones). Orchestrators write
nothing but the desired state, and new tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from swarmpy.node.plan.base import NewId, is_terminal
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

RUNNING = types_pb2.TASK_RUNNING
READY = types_pb2.TASK_READY
SHUTDOWN = types_pb2.TASK_SHUTDOWN
REMOVE = types_pb2.TASK_REMOVE
FAILED_STATES = (types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED)
OWN_END_STATES = (types_pb2.TASK_COMPLETE, *FAILED_STATES)


def enter(
    task: objects_pb2.Task, state: types_pb2.TaskState, now_ms: int, message: str, reason: str = ""
) -> None:
    """Move a task on to an observed state, and note when and why; the state only ever grows."""
    status = task.status
    status.state, status.since_ms, status.message, status.reason = state, now_ms, message, reason
    status.history.add(state=state, at_ms=now_ms, reason=reason)


def with_history(
    task: objects_pb2.Task, reported: objects_pb2.TaskStatus, now_ms: int
) -> objects_pb2.TaskStatus:
    """What a node reported, with the transitions that were known before: each state once, in order.

    `now_ms` is the managers' clock: what is watched for a while is watched by it, whatever a node's clock says.
    """
    known, merged = task.status, objects_pb2.TaskStatus()
    merged.CopyFrom(reported)
    passed: dict[int, objects_pb2.Transition] = {}
    for transition in (*known.history, *reported.history):
        passed.setdefault(transition.state, transition)
    if reported.state not in passed:
        passed[reported.state] = objects_pb2.Transition(
            state=reported.state, at_ms=reported.since_ms, reason=reported.reason
        )
    del merged.history[:]
    merged.history.extend(passed[state] for state in sorted(passed))
    up = merged.state == RUNNING and (merged.ready_ms or not awaits_readiness(task.spec))
    merged.up_ms = known.up_ms or (now_ms if up else 0)
    return merged


def age_order(task: objects_pb2.Task) -> tuple[int, int, str]:
    """Sort key: older tasks of a slot first."""
    return task.meta.created_ms, task.restart.count, task.meta.id


def host_ports_of(spec: objects_pb2.ServiceSpec) -> list[types_pb2.Port]:
    """The ports of a service that each task takes on its own node."""
    return [port for port in spec.endpoint.ports if port.mode == types_pb2.PUBLISH_HOST]


def awaits_readiness(spec: types_pb2.TaskSpec) -> bool:
    """Whether a task that runs is up only once its readiness checks have passed."""
    containers = [spec.container, *(sidecar.container for sidecar in spec.sidecars)]
    return any(container.HasField("readiness") for container in containers)


def is_up(task: objects_pb2.Task) -> bool:
    """Whether it runs, and has once been ready; or has ended."""
    if task.status.state != RUNNING:
        return task.status.state > RUNNING
    return bool(task.status.ready_ms) or not awaits_readiness(task.spec)


def new_task(
    service: objects_pb2.Service,
    new_id: NewId,
    now_ms: int,
    *,
    slot: int = 0,
    node_id: str = "",
    desired: types_pb2.TaskState = RUNNING,
    restart: objects_pb2.Restart | None = None,
) -> objects_pb2.Task:
    """A task of the service's present spec, for a slot or (global) for a node."""
    task_id = new_id()
    task = objects_pb2.Task(
        spec=service.spec.task,
        service_id=service.meta.id,
        service_name=service.meta.name,
        slot=slot,
        node_id=node_id,
        desired_state=desired,
        spec_version=service.spec_version,
        restart=restart,
        host_ports=host_ports_of(service.spec),
    )
    enter(task, types_pb2.TASK_NEW, now_ms, "created")
    task.meta.id = task_id
    task.meta.name = f"{service.meta.name}.{slot or node_id}.{task_id}"
    task.meta.namespace = service.meta.namespace
    task.meta.created_ms = now_ms
    if service.spec.HasField("ordered"):
        task.hostname = f"{service.meta.name[:55]}-{slot}"
    return task


@dataclass(slots=True)
class Edits:
    """The changes of one plan, at most one per object; every prefix of them is consistent."""

    by_id: dict[str, store_pb2.Change] = field(default_factory=dict)
    now_ms: int = 0

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def changes(self) -> list[store_pb2.Change]:
        """The changes in the order in which they were made."""
        return list(self.by_id.values())

    def wanted(self, task: objects_pb2.Task) -> int:
        """The desired state of a task after this plan."""
        change = self.by_id.get(task.meta.id)
        return change.put.task.desired_state if change else task.desired_state

    def desire(self, task: objects_pb2.Task, state: types_pb2.TaskState, reason: str = "") -> None:
        """Set a task's desired state, which only grows; the first reason for a stop is kept."""
        if self.wanted(task) >= state:
            return
        change = self.by_id.get(task.meta.id)
        if change is None:
            change = self.by_id[task.meta.id] = store_pb2.Change(expected_version=task.meta.version)
            change.put.task.CopyFrom(task)
        wanted = change.put.task
        wanted.desired_state = state
        if state > RUNNING and not wanted.stop_reason and not is_terminal(wanted.status.state):
            wanted.stop_reason, wanted.stop_ms = reason, self.now_ms

    def change_limits(self, task: objects_pb2.Task, service: objects_pb2.Service) -> None:
        """Give a task, which differs in nothing else, the limits of its service's present spec."""
        change = self.by_id.get(task.meta.id)
        if change is None:
            change = self.by_id[task.meta.id] = store_pb2.Change(expected_version=task.meta.version)
            change.put.task.CopyFrom(task)
        change.put.task.spec.CopyFrom(service.spec.task)
        change.put.task.spec_version = service.spec_version

    def create(self, task: objects_pb2.Task) -> None:
        """Add a new task."""
        change = self.by_id[task.meta.id] = store_pb2.Change()
        change.put.task.CopyFrom(task)

    def put_service(self, service: objects_pb2.Service) -> None:
        """Replace a service (its update status, or its spec in a rollback)."""
        change = self.by_id[service.meta.id] = store_pb2.Change(expected_version=service.meta.version)
        change.put.service.CopyFrom(service)


def remove_all(tasks: Iterable[objects_pb2.Task], edits: Edits, reason: str = "") -> None:
    """Want tasks gone for good; the reaper deletes them once they have stopped."""
    for task in tasks:
        edits.desire(task, REMOVE, reason)
