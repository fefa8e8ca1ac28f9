"""The reaper: deletes what has ended and is no longer of interest.

- a task that is wanted no more (desired SHUTDOWN or REMOVE) and was never given
  to a node's agent: at once;
- a task with desired REMOVE: once it ended;
- ended tasks of a slot (a number, or a node for global services) beyond the
  newest `task_history_limit`; the newest is always kept, because it carries the
  slot's restart counters, and of a job what is done, because it is not to be done again;
- tasks whose service is gone: desired REMOVE, then as above;
- a service with pending_delete: when its last task is gone;
- a network with pending_delete: when no service names it and no task uses it.

Keys: "service/ID" (its tasks and itself), "network/ID".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from swarmpy.node.plan.base import (
    TASK_HISTORY_LIMIT,
    ChangeEvent,
    Draft,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    is_full,
    is_terminal,
    limited,
)
from swarmpy.node.plan.gate import JOB_MODES
from swarmpy.node.plan.statics import network_ids
from swarmpy.node.plan.tasks import age_order
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

TASKS_PER_PLAN = 4_000  # looked at; the service that is begun is always finished


class Reaper:
    """See the module."""

    name = "reaper"

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        match event.kind:
            case store_pb2.KIND_TASK:
                return _task_keys(event, view)
            case store_pb2.KIND_SERVICE:
                return _service_keys(event, view)
            case store_pb2.KIND_NETWORK:
                new = event.new
                pending = isinstance(new, objects_pb2.Network) and new.pending_delete
                return (f"network/{event.id}",) if pending else ()
            case store_pb2.KIND_CLUSTER:
                return _history_keys(event, view)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        services = {service.meta.id for service in view.services()}
        services.update(view.services_with_tasks())
        yield from (f"service/{identity}" for identity in sorted(services))
        yield from (f"network/{network.meta.id}" for network in view.networks() if network.pending_delete)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft, looked_at = Draft(view), 0
        in_order = sorted(keys, reverse=True)  # services before networks
        for position, key in enumerate(in_order):
            if is_full(draft):
                break
            if looked_at >= TASKS_PER_PLAN:
                plan = limited(draft, now_ms)
                plan.unseen = in_order[position:]
                return plan
            kind, _, identity = key.partition("/")
            if kind == "service":
                looked_at += _reap_service(draft, identity)
            else:
                _reap_network(draft, identity)
        return limited(draft, now_ms)


def _reap_service(draft: Draft, service_id: str) -> int:
    """Delete what of a service is over; how many tasks it has."""
    service = draft.service(service_id)
    ended: dict[tuple[int, str], list[objects_pb2.Task]] = {}
    present = draft.tasks_of_service(service_id)
    for task in present:
        if is_full(draft):
            return len(present)
        if _is_over(task):
            draft.delete(store_pb2.KIND_TASK, task.meta.id)
        elif service is None:
            _mark_removed(draft, task)
        elif is_terminal(task.status.state) and not desired_running(task):
            ended.setdefault((task.slot, "" if task.slot else task.node_id), []).append(task)
    limit = _history_limit(draft)
    is_job = service is not None and service.spec.WhichOneof("mode") in JOB_MODES
    for tasks in ended.values():
        tasks.sort(key=age_order)
        for task in tasks[:-limit]:
            if not (is_job and task.status.state == types_pb2.TASK_COMPLETE):
                draft.delete(store_pb2.KIND_TASK, task.meta.id)
    if service is not None and service.pending_delete and not draft.tasks_of_service(service_id):
        draft.delete(store_pb2.KIND_SERVICE, service_id)
    return len(present)


def _mark_removed(draft: Draft, task: objects_pb2.Task) -> None:
    marked = copy_of(task)
    marked.desired_state = types_pb2.TASK_REMOVE
    draft.put(marked)


def _is_over(task: objects_pb2.Task) -> bool:
    """Nothing runs and nobody wants to see it any more."""
    if desired_running(task):
        return False
    never_given = task.status.state < types_pb2.TASK_ASSIGNED
    removed = task.desired_state == types_pb2.TASK_REMOVE and is_terminal(task.status.state)
    return never_given or removed


def _history_limit(view: View) -> int:
    cluster = view.cluster()
    return max(1, (cluster.spec.task_history_limit if cluster is not None else 0) or TASK_HISTORY_LIMIT)


def _reap_network(draft: Draft, network_id: str) -> None:
    network = draft.network(network_id)
    if network is None or not network.pending_delete:
        return
    if any(network_id in network_ids(service.spec.task) for service in draft.services()):
        return
    if any(
        not is_terminal(task.status.state) and network_id in network_ids(task.spec) for task in draft.tasks()
    ):
        return
    draft.delete(store_pb2.KIND_NETWORK, network_id)


def _task_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    if isinstance(new, objects_pb2.Task):
        if not desired_running(new):
            yield f"service/{new.service_id}"
        if not is_terminal(new.status.state):
            return
        task = new
    else:
        assert isinstance(old, objects_pb2.Task)
        task = old
        service = view.service(task.service_id)
        if service is not None and service.pending_delete:
            yield f"service/{task.service_id}"
    yield from _pending_networks(task.spec, view)


def _service_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    if not isinstance(new, objects_pb2.Service) or new.pending_delete:
        yield f"service/{event.id}"
    if isinstance(old, objects_pb2.Service):
        yield from _pending_networks(old.spec.task, view)


def _pending_networks(spec: types_pb2.TaskSpec, view: View) -> Iterator[str]:
    for network_id in network_ids(spec):
        network = view.network(network_id)
        if network is not None and network.pending_delete:
            yield f"network/{network_id}"


def _history_keys(event: ChangeEvent, view: View) -> Iterator[str]:
    old, new = event.old, event.new
    limits = {c.spec.task_history_limit for c in (old, new) if isinstance(c, objects_pb2.Cluster)}
    if len(limits) > 1:
        yield from (f"service/{service.meta.id}" for service in view.services())
