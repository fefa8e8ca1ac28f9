"""Global services: one task on every node that may run it.

Keys are service ids; a node is a slot. A node is wanted when it is up, active and
meets constraints and platform. A paused node keeps what it has and gets nothing
new, by an update neither. On a node that is down or drained the task is shut down (and comes back with
the node); on one that no longer fits, or is gone, it is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import CHANGES_PER_PLAN, ChangeEvent, NewId, Plan, View, earliest, is_ready
from swarmpy.node.plan.filters import eligible, startable
from swarmpy.node.plan.gate import Dependents, keeps_before, obstacle, put_waiting
from swarmpy.node.plan.replicated import services_on_node, task_event_matters
from swarmpy.node.plan.slots import Phase, ServicePlanner, Slot
from swarmpy.node.plan.tasks import REMOVE, SHUTDOWN, Edits, remove_all
from swarmpy.node.plan.update import advance
from swarmpy.proto import objects_pb2, store_pb2, types_pb2


class GlobalPlanner:
    """Keeps each global service on all its nodes."""

    name = "global"
    keys_per_plan = 20  # a service costs about 5 ms per 1,000 tasks

    def __init__(self) -> None:
        self._dependents = Dependents()

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        keys: list[str] = []
        if event.kind == store_pb2.KIND_SERVICE:
            keys = [event.id] if _is_global(event.new or event.old) else []
        elif event.kind == store_pb2.KIND_TASK and task_event_matters(event):
            task = event.new or event.old
            keys = [task.service_id] if isinstance(task, objects_pb2.Task) and not task.slot else []
        elif event.kind == store_pb2.KIND_NODE and _node_event_matters(event):
            keys = [*services_on_node(event, view), *self.all_keys(view)]
        return [*keys, *self._dependents.of(event, view)]

    def all_keys(self, view: View) -> Iterable[str]:
        return [service.meta.id for service in view.services() if _is_global(service)]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        plan = Plan()
        for key in keys:
            service = view.service(key)
            if service is None or service.pending_delete or not _is_global(service):
                continue  # a service on its way out is the replicated planner's, whatever its mode
            if len(plan.changes) >= CHANGES_PER_PLAN:
                plan.wake_ms = now_ms
                break
            edits, wake_ms = _plan_service(view, service, now_ms, new_id)
            plan.changes += edits.changes
            plan.wake_ms = earliest(plan.wake_ms, wake_ms)
        return plan


def _is_global(service: object) -> bool:
    return isinstance(service, objects_pb2.Service) and service.spec.HasField("global")


def _node_event_matters(event: ChangeEvent) -> bool:
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Node) or not isinstance(new, objects_pb2.Node):
        return True
    return (
        old.status.state != new.status.state
        or old.status.address != new.status.address
        or old.spec.availability != new.spec.availability
        or old.spec.taints != new.spec.taints
        or old.removed != new.removed
        or old.role != new.role
        or old.meta.labels != new.meta.labels
        or old.description != new.description
    )


def _plan_service(
    view: View, service: objects_pb2.Service, now_ms: int, new_id: NewId
) -> tuple[Edits, int | None]:
    planner = ServicePlanner(view, service, now_ms, new_id)
    slots: dict[str, Slot] = {}
    for task in view.tasks_of_service(service.meta.id):
        slot = slots.setdefault(task.node_id, Slot(node_id=task.node_id))
        (slot.leaving if task.desired_state == REMOVE else slot.tasks).append(task)
    kept: list[Slot] = []
    tasks = [task for slot in slots.values() for task in slot.tasks]
    waiting = "" if service.spec.stopped else obstacle(view, service, tasks)
    changed = put_waiting(service, waiting)
    if changed is not None:
        planner.edits.put_service(changed)
        return planner.edits, now_ms
    for node in view.nodes():
        slot = slots.pop(node.meta.id, Slot(node_id=node.meta.id))
        if service.spec.stopped or not eligible(node, service.spec.task) or node.removed:
            remove_all(slot.tasks, planner.edits, "STOPPED" if service.spec.stopped else "CONSTRAINT")
        elif _is_off(node):
            for task in slot.tasks:
                planner.edits.desire(task, SHUTDOWN, "NODE_OFF")
        else:
            fits = is_ready(node) and startable(node, service.spec.task)
            as_before = fits and keeps_before(service, waiting)
            planner.settle(slot, may_start=fits and not waiting, as_before=as_before)
            if fits or slot.phase is not Phase.OUTDATED:
                kept.append(slot)  # to the others the update comes when they take tasks again
        if len(planner.edits) >= CHANGES_PER_PLAN:
            return planner.edits, now_ms
    for slot in slots.values():
        remove_all(slot.tasks, planner.edits)
    if not waiting:
        advance(planner, kept)
    return planner.edits, planner.wake_ms


def _is_off(node: objects_pb2.Node) -> bool:
    down = node.status.state == types_pb2.NODE_DOWN
    return down or node.spec.availability == types_pb2.AVAILABILITY_DRAIN
