"""Replicated services: as many slots as `replicas`, each with one task to run.

Keys are service ids. Scaling down removes slots without a running task first,
then from the node that the scheduler's scorer likes least (`score.worst_first`),
highest slot first; scaling up fills the lowest free numbers, and new tasks get their nodes at once where nothing
holds them back (`newcomers`). Everything else about a slot is `slots`', and
what an update does is `update`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from swarmpy.node.plan.allocator import awaits_endpoint
from swarmpy.node.plan.base import (
    CHANGES_PER_PLAN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    earliest,
    holds_resources,
    is_away,
    is_live,
)
from swarmpy.node.plan.filters import Demand
from swarmpy.node.plan.gate import Dependents, keeps_before, obstacle, put_waiting
from swarmpy.node.plan.groups import strategy_of
from swarmpy.node.plan.inventory import Inventory
from swarmpy.node.plan.newcomers import Newcomers
from swarmpy.node.plan.score import Group, worst_first
from swarmpy.node.plan.slots import Phase, ServicePlanner, Slot
from swarmpy.node.plan.steady import Steady
from swarmpy.node.plan.tasks import REMOVE, RUNNING, Edits, remove_all
from swarmpy.node.plan.update import advance
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.store import Commit

TASKS_PER_PLAN = 600  # of services that are not steady; each costs about 20 µs
NEW_PER_PLAN = 80  # of one service; to make one and to place it costs about 0.1 ms
STEADY_TASKS = 10  # so many steady ones cost as much


def task_event_matters(event: ChangeEvent) -> bool:
    """Whether a task's change can change what its slot needs."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Task) or not isinstance(new, objects_pb2.Task):
        return True
    if old.desired_state != new.desired_state or old.leaving_ms != new.leaving_ms:
        return True
    if bool(old.status.ready_ms) != bool(new.status.ready_ms) or old.status.ready != new.status.ready:
        return True  # also where it was ready before: a disruption budget may have room again
    return old.status.state != new.status.state and new.status.state >= RUNNING


def services_on_node(event: ChangeEvent, view: View) -> list[str]:
    """The services with a task on a node whose fate changed."""
    old, new = event.old, event.new
    if isinstance(old, objects_pb2.Node) and isinstance(new, objects_pb2.Node):
        same = old.status.state == new.status.state and old.removed == new.removed
        same = same and old.status.silent_ms == new.status.silent_ms
        if same and old.spec.availability == new.spec.availability:
            return []
    return sorted({task.service_id for task in view.tasks_of_node(event.id)})


class ReplicatedPlanner:
    """Keeps each replicated service at its number of tasks."""

    name = "replicated"
    places = True
    keys_per_plan = 20  # a service costs about 5 ms per 1,000 tasks

    def __init__(self, inventory: Inventory | None = None) -> None:
        self._inventory = inventory if inventory is not None else Inventory()
        self._dependents = Dependents()

    def attach(self, view: View) -> None:
        self._inventory.attach(view)

    def note(self, commit: Commit, view: View) -> None:
        self._inventory.note(commit, view)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        keys: list[str] = []
        if event.kind == store_pb2.KIND_SERVICE:
            keys = [event.id]
        elif event.kind == store_pb2.KIND_TASK and task_event_matters(event):
            task = event.new or event.old
            if isinstance(task, objects_pb2.Task) and not _is_others(view.service(task.service_id)):
                keys = [task.service_id]
        elif event.kind == store_pb2.KIND_NODE:
            keys = services_on_node(event, view)
        return [*keys, *self._dependents.of(event, view)]

    def all_keys(self, view: View) -> Iterable[str]:
        self._dependents.forget()
        known = {service.meta.id for service in view.services()}
        return sorted(known | view.services_with_tasks())

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        with Newcomers(view, self._inventory, now_ms, new_id) as newcomers:
            return self._plan(view, keys, now_ms, new_id, newcomers)

    def _plan(
        self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId, newcomers: Newcomers
    ) -> Plan:
        plan = Plan()
        steady, looked_at = Steady(view), 0
        for position, key in enumerate(keys):
            if len(plan.changes) >= CHANGES_PER_PLAN or looked_at + newcomers.cost >= TASKS_PER_PLAN:
                plan.unseen = keys[position:]
                break
            tasks = [task for task in view.tasks_of_service(key) if task.service_id]
            service = view.service(key)
            if service is not None and _is_steady(service, tasks, steady):
                looked_at += len(tasks) // STEADY_TASKS
                continue
            looked_at += len(tasks)
            edits, wake_ms = _plan_service(view, key, tasks, now_ms, new_id, self._inventory, steady)
            plan.changes += edits.changes if service is None else newcomers.placed(service, edits.changes)
            plan.wake_ms = earliest(plan.wake_ms, wake_ms)
        return plan


def _is_others(service: objects_pb2.Service | None) -> bool:
    """Whether another planner looks after the service. One that is gone, or on its way, is this one's."""
    return service is not None and not service.pending_delete and not service.spec.HasField("replicated")


def _is_steady(service: objects_pb2.Service, tasks: list[objects_pb2.Task], steady: Steady) -> bool:
    if service.pending_delete or not service.spec.HasField("replicated"):
        return False
    return steady.service(service, tasks, 0 if service.spec.stopped else service.spec.replicated.replicas)


def _plan_service(
    view: View,
    service_id: str,
    tasks: list[objects_pb2.Task],
    now_ms: int,
    new_id: NewId,
    inventory: Inventory,
    steady: Steady,
) -> tuple[Edits, int | None]:
    service = view.service(service_id)
    if service is None or service.pending_delete:
        edits = Edits(now_ms=now_ms)
        remove_all(tasks, edits, "SERVICE_REMOVED")
        return edits, None
    if not service.spec.HasField("replicated"):
        return Edits(), None
    if not tasks and inventory.is_whole(view) and awaits_endpoint(view, service):
        return Edits(), None  # what it lacks comes at once, and its tasks then go to their nodes in one write
    planner = ServicePlanner(view, service, now_ms, new_id)
    planner.probe_ms = partial(inventory.samples.probe_ms, now_ms=now_ms)
    slots: dict[int, Slot] = {}
    leaving: dict[int, list[objects_pb2.Task]] = {}
    for task in tasks:
        if task.desired_state == REMOVE:
            leaving.setdefault(task.slot, []).append(task)
        else:
            slots.setdefault(task.slot, Slot(task.slot)).tasks.append(task)
    replicas = 0 if service.spec.stopped else service.spec.replicated.replicas
    waiting = obstacle(view, service, tasks) if replicas else ""
    changed = put_waiting(service, waiting)
    if changed is not None:
        planner.edits.put_service(changed)
        return planner.edits, now_ms
    _resize(planner, slots, replicas, inventory)
    for number, slot in slots.items():
        slot.leaving = leaving.get(number, [])
    ordered = [slots[number] for number in sorted(slots)]
    for slot in ordered:
        if len(slot.tasks) == 1 and steady.keeps(slot.tasks[0], service.spec_version):
            slot.phase, slot.current = Phase.CURRENT, slot.tasks[0]
            continue
        planner.settle(slot, may_start=not waiting, as_before=keeps_before(service, waiting))
        if len(planner.edits) >= CHANGES_PER_PLAN:
            return planner.edits, now_ms
    if not waiting:
        advance(planner, ordered)
    return planner.edits, planner.wake_ms


def _resize(planner: ServicePlanner, slots: dict[int, Slot], replicas: int, inventory: Inventory) -> None:
    surplus = len(slots) - replicas
    if surplus > 0:
        for number in _chosen_to_go(planner.view, planner.service, inventory, slots, surplus):
            remove_all(slots.pop(number).tasks, planner.edits, "SCALED_DOWN")
        return
    number = 0
    for _ in range(min(-surplus, NEW_PER_PLAN)):
        number += 1
        while number in slots:
            number += 1
        slots[number] = Slot(number)


def _chosen_to_go(
    view: View, service: objects_pb2.Service, inventory: Inventory, slots: dict[int, Slot], count: int
) -> list[int]:
    """The slots to remove: those that do not run, then as the scorer says, the highest of a node first."""
    by_node: dict[str, list[int]] = {}
    idle: list[int] = []
    for number in sorted(slots):
        running = next(
            (
                task
                for task in slots[number].tasks
                if task.status.state == RUNNING and is_live(task, view) and not is_away(task, view)
            ),
            None,
        )
        if running is None:
            idle.append(number)
        else:
            by_node.setdefault(running.node_id, []).append(number)
    chosen = idle[::-1][:count]
    if len(chosen) == count:
        return chosen
    infos = inventory.current(view)
    service_id = service.meta.id
    places = [
        replace(infos[node_id], tasks_of={service_id: len(numbers)}, free_generic={})
        for node_id, numbers in by_node.items()
    ]
    placement = service.spec.task.placement
    demand = Demand(0, 0, (), (), 0, service_id, 0)
    strategy = strategy_of(view, service)
    group = Group(demand, placement.preferences, tolerations=placement.tolerations, strategy=strategy)
    tasks = view.tasks_of_service(service_id)
    going = Counter(t.node_id for t in tasks if t.desired_state == REMOVE and holds_resources(t))
    for (
        info
    ) in places:  # as if they were gone: the next part of a plan that was cut chooses as the whole would
        info.tasks_of[service_id] += going[info.node_id]
        for _ in range(going[info.node_id]):
            demand.give_back(info)
    for node_id in islice(worst_first(places, group), count - len(chosen)):
        chosen.append(by_node[node_id].pop())
    return chosen
