"""Which tasks a user means: SERVICE, SERVICE.SLOT, SERVICE.NODE, a task, or a stack."""

from __future__ import annotations

from swarmpy.node.manager.errors import Invalid, NotFound, Refused
from swarmpy.node.plan import pods
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import Ambiguous
from swarmpy.raft.tables import NotFound as Missing

STACK_LABEL = "com.docker.stack.namespace"


def find(store: Store, target: str, *, stacks: bool = False) -> list[objects_pb2.Task]:
    """All tasks of a target, whatever their state, by slot and age. NotFound for no such target."""
    if not target:
        raise Invalid("target: name a service, a slot of one (web.1) or a task")
    services = _services(store, target) or (_stack(store, target) if stacks else [])
    if services:
        tasks = [task for service in services for task in store.tasks_of_service(service.meta.id)]
    else:
        tasks = _of_slot(store, target) or [_task(store, target)]
    return sorted(tasks, key=lambda task: (task.service_name, task.slot, task.meta.created_ms))


def running(store: Store, target: str) -> list[objects_pb2.Task]:
    """Those that run; Refused, saying how they are, when none does."""
    found = find(store, target)
    alive = [task for task in found if task.node_id and task.status.state == types_pb2.TASK_RUNNING]
    # A task that still waits for its first healthy probe has a container too.
    alive = alive or [task for task in found if task.node_id and task.status.state == types_pb2.TASK_STARTING]
    if alive:
        return alive
    states = [types_pb2.TaskState.Name(task.status.state).removeprefix("TASK_").lower() for task in found]
    state = f"its newest task is {states[-1]}" if states else "it has no tasks"
    raise Refused(f"no task of {target} runs: {state}; see `swarmpy service ps`")


def previous(tasks: list[objects_pb2.Task]) -> list[objects_pb2.Task]:
    """Of each slot the last task before the newest that ever ran."""
    slots: dict[tuple[str, int, str], list[objects_pb2.Task]] = {}
    for task in sorted(tasks, key=lambda task: task.meta.created_ms):
        slots.setdefault(_place_of(task), []).append(task)
    ran = [[task for task in known[:-1] if has_run(task)] for known in slots.values()]
    return [before[-1] for before in ran if before]


def has_run(task: objects_pb2.Task) -> bool:
    """Whether its program was ever started, as far as is known."""
    status = task.status
    now = types_pb2.TASK_STARTING <= status.state <= types_pb2.TASK_RUNNING
    began = any(one.state != objects_pb2.CONTAINER_WAITING for one in status.containers)
    return bool(task.node_id) and (now or status.started_ms > 0 or status.exited or began)


def container(task: objects_pb2.Task, name: str) -> str:
    """The name of one of a task's containers as its node knows it, "" = the main one. NotFound for no such."""
    known = pods.names(task.spec)
    if name and name not in known:
        raise NotFound(f"task {task.meta.name} has no container {name!r}: it has {', '.join(known)}")
    return "" if name == known[0] else name


def _place_of(task: objects_pb2.Task) -> tuple[str, int, str]:
    return (task.service_id, task.slot, "" if task.slot else task.node_id)


def _services(store: Store, target: str) -> list[objects_pb2.Service]:
    found = store.by_name(store_pb2.KIND_SERVICE, target) or store.get(store_pb2.KIND_SERVICE, target)
    return [found] if isinstance(found, objects_pb2.Service) else []


def _stack(store: Store, target: str) -> list[objects_pb2.Service]:
    return [service for service in store.services() if service.meta.labels.get(STACK_LABEL) == target]


def _of_slot(store: Store, target: str) -> list[objects_pb2.Task]:
    """web.1 and, for a global service, web.NODE."""
    name, _, place = target.partition(".")
    for service in _services(store, name):
        if place.isdecimal() and len(place) <= 18 and int(place):
            return store.tasks_of_slot(service.meta.id, int(place))
        nodes = {node.meta.id for node in store.nodes() if place and place in (node.meta.name, node.meta.id)}
        return [task for task in store.tasks_of_service(service.meta.id) if task.node_id in nodes]
    return []


def _task(store: Store, target: str) -> objects_pb2.Task:
    """By id, whole name, or unique beginning of the id; `web.1.ID` may have its id cut short."""
    try:
        found = store.find(store_pb2.KIND_TASK, target)
    except Ambiguous as error:
        raise Invalid(str(error)) from error
    except Missing:
        found = _by_short_name(store, target)
    assert isinstance(found, objects_pb2.Task)
    return found


def _by_short_name(store: Store, target: str) -> objects_pb2.Task:
    start, _, short = target.rpartition(".")
    alike = [task for task in store.tasks() if start and short and task.meta.name.startswith(target)]
    if len(alike) == 1:
        return alike[0]
    raise NotFound(f"there is no service or task {target!r}")
