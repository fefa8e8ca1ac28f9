"""Which tasks would be better off elsewhere: the scheduler's own scorer, asked again.

A task is taken out of the picture and its place is chosen anew. It moves when the new place is another
node and better by a whole task: fewer tasks of its service in the value of the first spread preference
(or, without one, on the node), or as many of these and at least two tasks fewer on the node altogether.
Every accepted move is booked before the next is judged, and every move makes the cluster strictly more even,
so there is an end. What the scheduler places by other rules (binpack, random), what is bound to a node
(global services, volumes that live there) and what is on its way already stays.

A move is a mark on the task (`leaving_ms`): its slot gets a successor first where tasks may overlap. A
service whose tasks may not overlap is only moved as far as its `min_available` lets it.

`RebalancePlanner` does the same by itself, where the cluster's `auto_rebalance` asks for it, in the ten minutes
after a node came up, service by service. Its keys are service ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from swarmpy.node.plan import pods
from swarmpy.node.plan.base import (
    ChangeEvent,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    is_away,
    is_live,
    is_ready,
    is_terminal,
)
from swarmpy.node.plan.filters import ConstraintError, Demand, NodeInfo, node_value
from swarmpy.node.plan.groups import Wanted, wanted_by
from swarmpy.node.plan.inventory import Inventory, picture_of
from swarmpy.node.plan.revisions import share
from swarmpy.node.plan.score import SPREAD, Ranking
from swarmpy.node.plan.slots import may_overlap
from swarmpy.node.plan.volumes import Places
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

MOVES = 10
NODES_TRIED = 3  # the fullest nodes of a service are asked; where these are right, so are the others
AGAIN_MS = 5_000
SETTLE_MS = 20_000  # a node that came up is given so long to be all there
YOUNG_MS = 600_000
REASON = "REBALANCE"
_UNDER_WAY = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED, objects_pb2.UPDATE_WAITING)


@dataclass(frozen=True, slots=True)
class Move:
    """One task that should change its node."""

    task: objects_pb2.Task
    to_node_id: str
    demand: Demand


@dataclass(frozen=True, slots=True)
class Moves:
    """What to move, and which services are left as they are, with the reason."""

    moves: tuple[Move, ...]
    skipped: tuple[str, ...]


def moves_for(
    view: View, now_ms: int, *, service_id: str = "", most: int = MOVES, inventory: Inventory | None = None
) -> Moves:
    """The moves that make the cluster most even, at most `most`; an inventory that is given stays as it is.

    A service for which no move is found is not looked at again.
    """
    inventory = inventory if inventory is not None else picture_of(view)
    infos = inventory.current(view)
    chosen: list[Move] = []
    skipped: list[str] = []
    services = [s for s in view.services() if not service_id or s.meta.id == service_id]
    movable: list[tuple[objects_pb2.Service, list[objects_pb2.Task]]] = []
    for service in sorted(services, key=lambda service: service.meta.id):
        if reason := _stays(view, service):
            skipped.append(f"{service.meta.name}: {reason}")
        else:
            movable.append((service, _running(view, service)))
    while movable and len(chosen) < most:
        left = []
        for service, tasks in movable:
            move = None if len(chosen) >= most else _best_move(view, service, tasks, inventory, infos, now_ms)
            if move is not None:
                chosen.append(move)
                tasks.remove(move.task)
                left.append((service, tasks))
        movable = left
    for move in reversed(chosen):
        move.demand.give_back(infos[move.to_node_id])
        move.demand.take(infos[move.task.node_id])
    return Moves(tuple(chosen), tuple(skipped))


def _stays(view: View, service: objects_pb2.Service) -> str:
    """Why a whole service is left alone; "" if it is not."""
    if service.pending_delete or not service.spec.HasField("replicated"):
        return "only replicated services are moved"
    if service.update_status.state in _UNDER_WAY:
        return "an update is under way"
    cluster = view.cluster()
    strategy = service.spec.strategy or (cluster.spec.strategy if cluster is not None else "") or SPREAD
    if strategy != SPREAD:
        return f"its strategy is {strategy}"
    if not may_overlap(service) and not _spare(view, service):
        return "its tasks may not overlap, and its min-available leaves none to spare"
    return ""


def _spare(view: View, service: objects_pb2.Service) -> bool:
    """Whether one task may be away for a moment."""
    total = int(service.spec.replicated.replicas)
    text = service.spec.min_available
    if not text:
        return total > 1
    number = share(text, total)
    if text.endswith("%"):
        number = -(-total * int(text[:-1] or 0) // 100)
    return len(_running(view, service)) > number


def _running(view: View, service: objects_pb2.Service) -> list[objects_pb2.Task]:
    """Its tasks that run, none of them on its way; none at all where one is."""
    live = [task for task in view.tasks_of_service(service.meta.id) if is_live(task, view)]
    if any(t.leaving_ms or t.status.state != types_pb2.TASK_RUNNING or is_away(t, view) for t in live):
        return []
    return live


def _best_move(
    view: View, service: objects_pb2.Service, tasks: Sequence[objects_pb2.Task], inventory: Inventory,
    infos: dict[str, NodeInfo], now_ms: int,
) -> Move | None:  # fmt: skip
    """The move of one of the tasks on the fullest node, booked; None if none is worth it."""
    by_node: dict[str, objects_pb2.Task] = {}
    for task in tasks:
        if task.node_id in infos:
            by_node.setdefault(task.node_id, task)
    ordered = sorted(
        by_node.values(),
        key=lambda task: (
            -infos[task.node_id].tasks_of.get(service.meta.id, 0),
            -infos[task.node_id].tasks,
            task.slot,
        ),
    )
    for task in ordered:
        here = infos[task.node_id]
        try:
            wanted = wanted_by(view, task, inventory, infos, now_ms)
        except ConstraintError:
            return None
        demand = wanted.group.demand
        demand.give_back(here)
        there = _place(view, task, wanted, infos)
        if there is not None and there is not here and _is_better(view, wanted, here, there, infos):
            return Move(task, there.node_id, demand)  # `Ranking.place` has booked it there
        if there is not None:
            demand.give_back(there)
        demand.take(here)
    return None


def _place(view: View, task: objects_pb2.Task, wanted: Wanted, infos: dict[str, NodeInfo]) -> NodeInfo | None:
    volumes = Places(view, lambda: "rebalance") if any(pods.mounts(task.spec)) else None
    fits = [
        info
        for info in infos.values()
        if wanted.static_problem(info) is None
        and (volumes is None or volumes.problem(task, info.node) is None)
    ]
    ranking = Ranking(fits, wanted.group, infos.values() if wanted.group.preferences else ())
    return ranking.place()


def _is_better(
    view: View, wanted: Wanted, here: NodeInfo, there: NodeInfo, infos: dict[str, NodeInfo]
) -> bool:
    """Better by a whole task. The task is booked `there` and not `here`."""
    service_id = wanted.group.demand.service_id
    if wanted.problem(here) is not None:
        return here.node.spec.availability == types_pb2.AVAILABILITY_ACTIVE  # it would not come here again
    before, after = wanted.group.parts(here)[:3], wanted.group.parts(there)[:3]
    if before != after:
        return (after[0], after[1], -after[2]) < (before[0], before[1], -before[2])
    if wanted.group.preferences:
        key = wanted.group.preferences[0].spread
        old, new = node_value(here.node, key) or "", node_value(there.node, key) or ""
        if old != new:
            if wanted.group.preferences[0].weights:
                return False
            return _in_value(infos, key, old, service_id) >= _in_value(infos, key, new, service_id)
    mine, all_here = _staying(view, here, service_id)
    theirs, all_there = _staying(view, there, service_id)
    if theirs != mine + 1:
        return theirs <= mine
    return all_there <= all_here


def _staying(view: View, info: NodeInfo, service_id: str) -> tuple[int, int]:
    """Tasks of the service and all tasks there, without those about to stop: they make room by themselves."""
    going = [
        task
        for task in view.tasks_of_node(info.node_id)
        if not desired_running(task) and not is_terminal(task.status.state)
    ]
    own = sum(task.service_id == service_id for task in going)
    return info.tasks_of.get(service_id, 0) - own, info.tasks - len(going)


def _in_value(infos: dict[str, NodeInfo], key: str, value: str, service_id: str) -> int:
    return sum(
        info.tasks_of.get(service_id, 0)
        for info in infos.values()
        if (node_value(info.node, key) or "") == value
    )


def marked(task: objects_pb2.Task, now_ms: int) -> objects_pb2.Task:
    """A copy of the task that is to leave its node."""
    changed = copy_of(task)
    changed.leaving_ms, changed.leaving_reason = now_ms, REASON
    return changed


def changes_of(moves: Iterable[Move], now_ms: int) -> Iterator[store_pb2.Change]:
    """The marks, as changes."""
    for move in moves:
        change = store_pb2.Change(expected_version=move.task.meta.version)
        change.put.task.CopyFrom(marked(move.task, now_ms))
        yield change


class RebalancePlanner:
    """See the module."""

    name = "rebalance"
    debounce_ms = 500
    keys_per_plan = 1  # a service costs milliseconds at a thousand nodes

    def __init__(self, inventory: Inventory | None = None) -> None:
        self._inventory = inventory if inventory is not None else Inventory()

    def attach(self, view: View) -> None:
        """Keep the picture of this store from now on."""
        self._inventory.attach(view)

    def note(self, commit: Commit, view: View) -> None:
        """A commit of the attached store."""
        self._inventory.note(commit, view)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_TASK:
            old, new = event.old, event.new
            left = isinstance(old, objects_pb2.Task) and bool(old.leaving_ms) and desired_running(old)
            if not left or (isinstance(new, objects_pb2.Task) and desired_running(new)):
                return ()
            assert isinstance(old, objects_pb2.Task)
            return (old.service_id,) if _is_asked_for(view) else ()
        if event.kind == store_pb2.KIND_NODE and _came_up(event):
            return self.all_keys(view)
        return self.all_keys(view) if event.kind == store_pb2.KIND_CLUSTER else ()

    def all_keys(self, view: View) -> Iterable[str]:
        if not _is_asked_for(view):
            return ()
        return [service.meta.id for service in view.services() if service.spec.HasField("replicated")]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        if not _is_asked_for(view):
            return Plan()
        since = [node.status.since_ms for node in view.nodes() if is_ready(node)]
        young = [since_ms for since_ms in since if now_ms - since_ms < YOUNG_MS]
        if not young:
            return Plan()
        due_ms = max(young) + SETTLE_MS
        if now_ms < due_ms:
            return Plan(wake_ms=due_ms)
        if sum(bool(task.leaving_ms) and desired_running(task) for task in view.tasks()) >= MOVES:
            return Plan(wake_ms=now_ms + AGAIN_MS)
        plan = Plan()
        for key in keys:
            found = moves_for(view, now_ms, service_id=key, inventory=self._inventory)
            plan.changes += changes_of(found.moves, now_ms)
        return plan


def _came_up(event: ChangeEvent) -> bool:
    """A node takes tasks that did not before."""
    old, new = event.old, event.new
    now = isinstance(new, objects_pb2.Node) and is_ready(new)
    return now and not (isinstance(old, objects_pb2.Node) and is_ready(old))


def _is_asked_for(view: View) -> bool:
    cluster = view.cluster()
    return cluster is not None and cluster.spec.auto_rebalance
