"""Ordered services: slots 1 to N with a lasting name each, started, updated and stopped one at a time.

A slot keeps its number, its host name (SERVICE-N), its DNS name (N.SERVICE) and, with a mount of
`source=data-{{.Task.Slot}}`, its volume, whichever node it is on. Rules:

- slot n gets a task only while all lower slots run and are ready, so they start 1, 2, 3 …;
- two tasks of a slot never run beside each other;
- scaling down stops the highest slot, waits for its end, then the next; nothing starts meanwhile;
- an update replaces one slot at a time: a lower one that is down before those above it, then the highest first
  (`update` does it, told so by the mode).

A slot that cannot come up therefore holds up those above it: that is what the order is for.

Keys: service ids. Writes Task.desired_state and Service.waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import (
    CHANGES_PER_PLAN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    earliest,
    may_run,
)
from swarmpy.node.plan.gate import Dependents, keeps_before, obstacle, put_waiting
from swarmpy.node.plan.replicated import services_on_node, task_event_matters
from swarmpy.node.plan.slots import Phase, ServicePlanner, Slot, serves
from swarmpy.node.plan.tasks import REMOVE, Edits, remove_all
from swarmpy.node.plan.update import advance
from swarmpy.proto import objects_pb2, store_pb2


class OrderedPlanner:
    """See the module."""

    name = "ordered"
    keys_per_plan = 20

    def __init__(self) -> None:
        self._dependents = Dependents()

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        keys: list[str] = []
        if event.kind == store_pb2.KIND_SERVICE:
            keys = [event.id]
        elif event.kind == store_pb2.KIND_TASK and task_event_matters(event):
            task = event.new or event.old
            keys = [task.service_id] if isinstance(task, objects_pb2.Task) else []
        elif event.kind == store_pb2.KIND_NODE:
            keys = services_on_node(event, view)
        found = [*keys, *self._dependents.of(event, view)]
        return [key for key in found if is_ordered(view.service(key))]

    def all_keys(self, view: View) -> Iterable[str]:
        self._dependents.forget()
        return [service.meta.id for service in view.services() if is_ordered(service)]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        plan = Plan()
        for key in keys:
            service = view.service(key)
            if service is None or service.pending_delete or not is_ordered(service):
                continue  # a service on its way out is the replicated planner's, whatever its mode
            if len(plan.changes) >= CHANGES_PER_PLAN:
                plan.wake_ms = now_ms
                break
            edits, wake_ms = _plan_service(view, service, now_ms, new_id)
            plan.changes += edits.changes
            plan.wake_ms = earliest(plan.wake_ms, wake_ms)
        return plan


def is_ordered(service: object) -> bool:
    return isinstance(service, objects_pb2.Service) and service.spec.HasField("ordered")


def _plan_service(
    view: View, service: objects_pb2.Service, now_ms: int, new_id: NewId
) -> tuple[Edits, int | None]:
    planner = ServicePlanner(view, service, now_ms, new_id)
    tasks = view.tasks_of_service(service.meta.id)
    slots = _slots(tasks)
    replicas = 0 if service.spec.stopped else service.spec.ordered.replicas
    waiting = obstacle(view, service, tasks) if replicas else ""
    changed = put_waiting(service, waiting)
    if changed is not None:
        planner.edits.put_service(changed)
        return planner.edits, now_ms
    shrinking = _stop_highest(planner, slots, replicas)
    may_start, kept = not shrinking, []
    as_before = keeps_before(service, waiting)
    for number in range(1, replicas + 1):
        slot = slots.get(number) or Slot(number)
        kept.append(slot)
        planner.settle(slot, may_start=may_start and not waiting, as_before=may_start and as_before)
        may_start = may_start and _is_up(slot, view)
    if not waiting and not shrinking:
        advance(planner, kept)
    return planner.edits, planner.wake_ms


def _slots(tasks: Iterable[objects_pb2.Task]) -> dict[int, Slot]:
    slots: dict[int, Slot] = {}
    for task in tasks:
        slot = slots.setdefault(task.slot, Slot(task.slot))
        (slot.leaving if task.desired_state == REMOVE else slot.tasks).append(task)
    return slots


def _stop_highest(planner: ServicePlanner, slots: dict[int, Slot], replicas: int) -> bool:
    """Take away the highest slot that is too many; True while one is still there."""
    for number in sorted((n for n in slots if n > replicas), reverse=True):
        slot = slots[number]
        remove_all(slot.tasks, planner.edits, "SCALED_DOWN")
        if any(may_run(task, planner.view) for task in (*slot.tasks, *slot.leaving)):
            return True
    return False


def _is_up(slot: Slot, view: View) -> bool:
    """Whether the slots above may start: a task of it runs and is ready, or its work is done."""
    return slot.phase is Phase.FINISHED or serves(slot, view)
