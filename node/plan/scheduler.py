"""Gives pending tasks their nodes, all of them in one batch.

There is one key, "". Tasks are grouped by service and spec version; a group is
filtered once and ranked once (see `filters` and `score`), so a placement costs
microseconds. Groups come by priority, then by age. A task that fits nowhere stays
PENDING with one sentence saying why; it is looked at again whenever a node changes
or a task ends. Tasks that come with a node (global services) only have that node checked.

A plan is cut to what takes milliseconds: a number of placements, and of nodes looked
at. Groups that were looked at and did not fit are passed over until something changes
that could help them; that memory only saves work, and a new leader begins without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from swarmpy.node.plan.base import (
    DYNAMIC_PORT_MAX,
    DYNAMIC_PORT_MIN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    is_terminal,
)
from swarmpy.node.plan.filters import (
    ConstraintError,
    Demand,
    HostPort,
    NodeInfo,
    choose_names,
    port_taken,
    sentence,
)
from swarmpy.node.plan.groups import Wanted, priority_of, wanted_by
from swarmpy.node.plan.held import asks_for_images
from swarmpy.node.plan.inventory import GroupKey, Inventory, Suitable
from swarmpy.node.plan.load import is_usage_alone
from swarmpy.node.plan.score import Group, Least, Ranking
from swarmpy.node.plan.tasks import enter
from swarmpy.node.plan.volumes import Places, differs_by_task
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

PLACEMENTS_PER_PLAN = 200
NODES_PER_PLAN = 8_000  # looked at; the group that is begun is always finished
TASKS_PER_PLAN = 1_000  # booked at once where a new leader makes its picture of the cluster
FEW = 4  # tasks of a group for which no ranking of all nodes is made
NODES_PER_FEW = 15  # what such a group costs beside those
SUITABLE_MAX = 64  # placements whose suitable nodes are remembered
PENDING = types_pb2.TASK_PENDING


class SchedulerPlanner:
    """PENDING → ASSIGNED."""

    name = "scheduler"
    places = True
    debounce_ms = 10

    def __init__(self, inventory: Inventory | None = None) -> None:
        # What could be worked out from the view again: memos, not state.
        self._inventory = inventory if inventory is not None else Inventory()
        self._hopeless: set[GroupKey] = set()
        self._lonely: set[GroupKey] = set()  # of these, those that any placement may help
        self._for_images: set[GroupKey] = set()  # and those that an image's arrival on a node may help

    def attach(self, view: View) -> None:
        """Keep the picture of this store from now on."""
        self._inventory.attach(view)
        self._forget()

    def note(self, commit: Commit, view: View) -> None:
        """A commit of the attached store."""
        self._inventory.note(commit, view)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_TASK:
            new = event.new
            if isinstance(new, objects_pb2.Task) and new.status.state == PENDING:
                self._hopeless.discard((new.service_id, new.spec_version))
                return ("",) if _came_to_wait(event) else ()
            if _was_placed(event) and self._lonely:
                self._hopeless -= self._lonely
                self._lonely.clear()
                return ("",)
            if not _gave_back(event):
                return ()
        elif event.kind == store_pb2.KIND_IMAGE:
            if not self._for_images or not _is_held_elsewhere(event):
                return ()
        elif event.kind == store_pb2.KIND_SERVICE:
            if not _frees_a_port(event) and not _is_judged_anew(event):
                return ()
        elif event.kind not in (store_pb2.KIND_NODE, store_pb2.KIND_CLUSTER, store_pb2.KIND_VOLUME):
            return ()
        elif event.kind == store_pb2.KIND_NODE and is_usage_alone(event):
            return ()  # it changes who is first, not who fits
        self._forget()
        return ("",)

    def _forget(self) -> None:
        self._hopeless.clear()
        self._lonely.clear()
        self._for_images.clear()

    def all_keys(self, view: View) -> Iterable[str]:
        return ("",)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        if not self._inventory.advance(view, TASKS_PER_PLAN):
            return Plan(wake_ms=now_ms)
        self._inventory.current(view)
        waiting = self._inventory.waiting
        if not waiting and not self._inventory.bound:
            return Plan()
        attached = self._inventory.is_attached(view)
        batch = Batch.over(view, now_ms, self._inventory, new_id)
        try:
            for task in list(self._inventory.bound.values()):
                if batch.is_full:
                    return Plan(batch.all_changes(), now_ms)
                if batch.place_on_its_node(task):
                    self._for_images.add((task.service_id, task.spec_version))
            hopeless = self._hopeless if attached else set()
            for key in _in_order(view, [key for key in waiting if key not in hopeless]):
                if batch.is_full:
                    return Plan(batch.all_changes(), now_ms)
                if not batch.place_group(list(waiting[key].values())):
                    hopeless.add(key)
                    if batch.has_neighbours:
                        self._lonely.add(key)
                    if batch.asks_for_images:
                        self._for_images.add(key)
            return Plan(batch.all_changes(), now_ms if batch.is_full else None)
        finally:
            batch.undo()


def _in_order(view: View, keys: list[GroupKey]) -> list[GroupKey]:
    """Groups by priority, then by the age of their service."""

    def order(key: GroupKey) -> tuple[int, int, str, int]:
        service = view.service(key[0])
        created_ms = service.meta.created_ms if service is not None else 0
        return -priority_of(service), created_ms, *key

    return sorted(keys, key=order) if len(keys) > 1 else keys


def _came_to_wait(event: ChangeEvent) -> bool:
    return not isinstance(event.old, objects_pb2.Task) or event.old.status.state != PENDING


def _was_placed(event: ChangeEvent) -> bool:
    old, new = event.old, event.new
    before = old.status.state if isinstance(old, objects_pb2.Task) else types_pb2.TASK_NEW
    return isinstance(new, objects_pb2.Task) and before < types_pb2.TASK_ASSIGNED == new.status.state


def _gave_back(event: ChangeEvent) -> bool:
    """A task gave back what it held."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Task) or is_terminal(old.status.state):
        return False
    if not isinstance(new, objects_pb2.Task) or is_terminal(new.status.state):
        return True
    return old.spec.resources != new.spec.resources  # changed in place


def _is_held_elsewhere(event: ChangeEvent) -> bool:
    """An image came, went, changed, or is on other nodes than before."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Image) or not isinstance(new, objects_pb2.Image):
        return True
    return old.digest != new.digest or old.holders != new.holders


def _frees_a_port(event: ChangeEvent) -> bool:
    """A service gave back a published port that a host port may have waited for."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Service) or not old.endpoint.ports:
        return False
    return not isinstance(new, objects_pb2.Service) or old.endpoint.ports != new.endpoint.ports


def _is_judged_anew(event: ChangeEvent) -> bool:
    """A service came or went, or has another strategy or other rules about its neighbours."""
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Service) or not isinstance(new, objects_pb2.Service):
        return True
    if old.spec.strategy != new.spec.strategy:
        return True
    return old.spec.task.placement.affinities != new.spec.task.placement.affinities


@dataclass(slots=True)
class Batch:
    """One run over waiting tasks; nodes fill up as it goes, and are as before after `undo`."""

    view: View
    now_ms: int
    inventory: Inventory
    infos: dict[str, NodeInfo]
    volumes: Places
    changes: list[store_pb2.Change] = field(default_factory=list)
    looked_at: int = 0
    has_neighbours: bool = False  # of the group placed last
    asks_for_images: bool = False  # likewise
    least: dict[bytes, Least] = field(default_factory=dict)  # by placement
    booked: list[tuple[Demand, NodeInfo]] = field(default_factory=list)
    ports: list[tuple[NodeInfo, HostPort]] = field(default_factory=list)
    names: list[tuple[NodeInfo, str, list[str]]] = field(default_factory=list)

    @classmethod
    def over(cls, view: View, now_ms: int, inventory: Inventory, new_id: NewId) -> Batch:
        return cls(view, now_ms, inventory, inventory.current(view), Places(view, new_id))

    @property
    def is_full(self) -> bool:
        return len(self.changes) >= PLACEMENTS_PER_PLAN or self.looked_at >= NODES_PER_PLAN

    def undo(self) -> None:
        for demand, info in self.booked:
            demand.give_back(info)
        for info, port in self.ports:
            info.ports.discard(port)
        for info, kind, names in self.names:
            info.taken_names[kind].difference_update(names)

    def place_on_its_node(self, task: objects_pb2.Task) -> bool:
        """True if it waits, and an image may be what it waits for."""
        info = self.infos.get(task.node_id)
        if info is None:
            self._explain(task, f"node {task.node_id} does not exist any more")
            return False
        try:
            wanted = wanted_by(self.view, task, self.inventory, self.infos, self.now_ms)
        except ConstraintError as error:
            self._explain(task, f"no suitable node: {error}")
            return False
        problem = self.volumes.problem(task, info.node) or wanted.problem(info)
        if problem is not None:
            self._explain(task, sentence([(problem, 1)], 1))
            return asks_for_images(wanted.constraints)
        wanted.group.demand.take(info)
        self._assign(task, info, wanted.group.demand)
        return False

    def all_changes(self) -> list[store_pb2.Change]:
        """Volumes before the tasks that are placed with them."""
        return [*self.volumes.changes(), *self.changes]

    def place_group(self, tasks: list[objects_pb2.Task]) -> bool:
        """Place the tasks of a group; False if the rest fits nowhere."""
        if differs_by_task(tasks[0].spec):
            placed = [self._place([task]) for task in tasks if len(self.changes) < PLACEMENTS_PER_PLAN]
            return len(placed) < len(tasks) or all(placed)
        if len(tasks) > 1 and self.volumes.is_undecided(tasks[0]):
            # A task that decides where its volume is goes first, the others then follow it.
            first = self._place(tasks[:1])
            return self._place(tasks[1:]) and first
        return self._place(tasks)

    def _place(self, tasks: list[objects_pb2.Task]) -> bool:
        try:
            wanted = wanted_by(self.view, tasks[0], self.inventory, self.infos, self.now_ms)
        except ConstraintError as error:
            for task in tasks:
                if len(self.changes) >= PLACEMENTS_PER_PLAN:
                    return True
                self._explain(task, f"no suitable node: {error}")
            return False
        key = wanted.static_key
        suitable = self._suitable(key, wanted)
        candidates, reasons = self.volumes.narrow(tasks[0], *suitable)
        group = wanted.group
        self.has_neighbours = bool(group.neighbours.hard)
        self.asks_for_images = asks_for_images(wanted.constraints)
        least: Least | None = None
        if len(tasks) <= FEW and group.is_plain and not group.preferences and candidates is suitable[0]:
            least = self._least(key, candidates)
        ranking: Ranking | None = None
        why = ""
        for task in tasks:
            if len(self.changes) >= PLACEMENTS_PER_PLAN:
                return True
            info = least.place(group) if least is not None and not why else None
            if info is None and not why:
                ranking = ranking or self._ranking(candidates, group)
                least, info = None, ranking.place()
            if info is not None:
                self._assign(task, info, group.demand)
                continue
            why = why or self._why(candidates, reasons, wanted)
            self._explain(task, why)
        return not why

    def _ranking(self, candidates: list[NodeInfo], group: Group) -> Ranking:
        self.looked_at += len(candidates) // 3
        return Ranking(candidates, group, self.infos.values() if group.preferences else ())

    def _least(self, key: bytes, candidates: list[NodeInfo]) -> Least | None:
        """The candidates by fullness, for all small groups of this plan; None where taints decide, too."""
        self.looked_at += NODES_PER_FEW
        least = self.least.get(key)
        if least is None:
            self.looked_at += len(candidates) // 3
            least = self.least[key] = Least(candidates)
        return least if least.is_plain else None

    def _suitable(self, key: bytes, wanted: Wanted) -> Suitable:
        # What images are where changes without a change of the nodes.
        remembered = {} if asks_for_images(wanted.constraints) else self.inventory.suitable
        known = remembered.get(key)
        if known is not None:
            return known
        candidates: list[NodeInfo] = []
        reasons: Counter[str] = Counter()
        self.looked_at += len(self.infos)
        for info in self.infos.values():
            reason = wanted.static_problem(info)
            if reason is None:
                candidates.append(info)
            else:
                reasons[reason] += 1
        if len(remembered) >= SUITABLE_MAX:
            remembered.clear()
        remembered[key] = candidates, reasons
        return candidates, reasons

    def _why(self, candidates: list[NodeInfo], reasons: Counter[str], wanted: Wanted) -> str:
        self.looked_at += len(candidates)
        skewed = "would go beyond the max-skew of their group"
        counted = reasons + Counter(wanted.group.problem(info) or skewed for info in candidates)
        return sentence(counted.items(), len(self.infos))

    def _assign(self, task: objects_pb2.Task, info: NodeInfo, demand: Demand) -> None:
        self.booked.append((demand, info))
        change = store_pb2.Change(expected_version=task.meta.version)
        placed = change.put.task
        placed.CopyFrom(task)
        self.volumes.take(placed, info.node, is_global=bool(task.node_id))
        placed.node_id = info.node_id
        placed.assigned_ms = self.now_ms
        enter(placed, types_pb2.TASK_ASSIGNED, self.now_ms, "assigned to a node")
        for port in placed.host_ports:
            if not port.published:
                taken = _free_port(port.protocol, info)
                port.published = taken[1]
                self.ports.append((info, taken))
        for kind, count in demand.generic:
            names = choose_names(info, kind, count)
            self.names.append((info, kind, names))
            placed.assigned_resources.add(kind=kind, count=count, names=names)
        self.changes.append(change)

    def _explain(self, task: objects_pb2.Task, message: str) -> None:
        if task.status.message == message:
            return
        change = store_pb2.Change(expected_version=task.meta.version)
        change.put.task.CopyFrom(task)
        change.put.task.status.message = message
        self.changes.append(change)


def _free_port(protocol: int, info: NodeInfo) -> HostPort:
    """The lowest free dynamic port of the node, booked; `Demand.problem` made sure there is one."""
    for number in range(DYNAMIC_PORT_MIN, DYNAMIC_PORT_MAX + 1):
        port = (protocol, number, "")
        if not port_taken(info.ports, port) and not port_taken(info.mesh_ports, port):
            info.ports.add(port)
            return port
    raise AssertionError("the node was checked to have a free port")
