"""Users' writes of schedules, and of tasks: stopping one. Checked against the store."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.node.manager.errors import Invalid, NotFound, Refused, Taken
from swarmpy.node.manager.zones import ZoneError, read_zone
from swarmpy.node.plan import validate, workload_checks
from swarmpy.node.plan.base import desired_running, is_terminal
from swarmpy.node.plan.tasks import enter
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import name_problem


def created(
    store: Store, obj: objects_pb2.Schedule, new_id: Callable[[], str], now_ms: int
) -> objects_pb2.Schedule:
    """The schedule to store; its service's image and networks are still as the user wrote them."""
    if store.by_name(store_pb2.KIND_SCHEDULE, obj.meta.name, obj.meta.namespace) is not None:
        raise Taken(f"a schedule named {obj.meta.name!r} exists already: choose another name or update it")
    schedule = objects_pb2.Schedule()
    schedule.meta.id = new_id()
    schedule.meta.name, schedule.meta.namespace = obj.meta.name, obj.meta.namespace
    return _written(schedule, obj, now_ms)


def changed(store: Store, obj: objects_pb2.Schedule, now_ms: int) -> objects_pb2.Schedule:
    stored = store.schedule(obj.meta.id)
    if stored is None:
        raise NotFound(f"there is no schedule {obj.meta.name or obj.meta.id!r}")
    if stored.meta.name != obj.meta.name:
        raise Invalid("meta.name: a schedule cannot be renamed")
    schedule = objects_pb2.Schedule()
    schedule.CopyFrom(stored)
    return _written(schedule, obj, now_ms)


def _written(schedule: objects_pb2.Schedule, obj: objects_pb2.Schedule, now_ms: int) -> objects_pb2.Schedule:
    schedule.meta.labels.clear()
    schedule.meta.labels.update(obj.meta.labels)
    schedule.spec.CopyFrom(obj.spec)
    try:
        schedule.zone.CopyFrom(read_zone(obj.spec.time_zone, now_ms // 1000))
    except ZoneError as error:
        raise Invalid(f"spec.time_zone: {error}") from error
    problems = [*workload_checks.schedule(obj.spec, schedule.zone, now_ms)]
    if name := name_problem(store_pb2.KIND_SCHEDULE, obj.meta.name):
        problems.append(validate.Problem("meta.name", name))
    service = service_of(schedule)
    problems += [
        validate.Problem(p.field_path.replace("spec.", "spec.service.", 1), p.message)
        for p in validate.validate_service(service)
    ]
    if problems:
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
    return schedule


def service_of(schedule: objects_pb2.Schedule) -> objects_pb2.Service:
    """The service of a run, for the checks that every service goes through."""
    service = objects_pb2.Service(spec=schedule.spec.service)
    service.meta.name, service.meta.namespace = f"{schedule.meta.name}-1", schedule.meta.namespace
    service.meta.labels.update(schedule.spec.labels)
    return service


def stopped_task(task: objects_pb2.Task, force: bool, now_ms: int) -> objects_pb2.Task:
    """A task that a user stops; its orchestrator decides what follows. `force`: whatever its node says."""
    if is_terminal(task.status.state):
        raise Refused(f"task {task.meta.name} has ended already")
    if not desired_running(task) and not force:
        raise Refused(f"task {task.meta.name} is being stopped already: --force gives it up")
    changed = objects_pb2.Task()
    changed.CopyFrom(task)
    changed.desired_state = max(task.desired_state, types_pb2.TASK_SHUTDOWN)
    if not changed.stop_reason:
        changed.stop_reason, changed.stop_ms = "KILLED", now_ms
    if force:
        enter(changed, types_pb2.TASK_ORPHANED, now_ms, "given up by a user", "KILLED")
        changed.status.ready = False
    return changed
