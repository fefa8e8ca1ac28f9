"""What every node has, and what its tasks leave free: the scheduler's picture of the cluster.

`picture_of(view)` makes it from nothing. An `Inventory` that is attached to a store by a loop keeps it
from plan to plan, commit by commit, so that a plan costs the nodes it looks at and not all tasks of the
cluster. It is a memo, not state: for any other view it starts from nothing. Whoever books tasks while
planning takes them back afterwards (`Demand.give_back`).

A task uses its node's resources from its assignment to its end, whatever is wanted of it.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import cast

from swarmpy.node.plan.affinity import Repulsion, repulsions_in
from swarmpy.node.plan.base import ChangeEvent, View, desired_running, is_failure, room_of
from swarmpy.node.plan.filters import Demand, HostPort, NodeInfo, demand_of
from swarmpy.node.plan.load import LOAD_WEIGHT, is_usage_alone, part_in_use
from swarmpy.node.plan.samples import Samples
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

HOLDING_STATES = (
    types_pb2.TASK_ASSIGNED,
    types_pb2.TASK_ACCEPTED,
    types_pb2.TASK_PREPARING,
    types_pb2.TASK_READY,
    types_pb2.TASK_STARTING,
    types_pb2.TASK_RUNNING,
)
_FIRST, _LAST = HOLDING_STATES[0], HOLDING_STATES[-1]
_PENDING = types_pb2.TASK_PENDING
_FAILED = (types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED)
GroupKey = tuple[str, int]  # service and spec version: equal tasks
Suitable = tuple[list[NodeInfo], Counter[str]]  # what the static filters let through, and why not the others


def picture_of(view: View) -> Inventory:
    """The inventory of a view, from nothing."""
    inventory = Inventory()
    inventory.current(view)
    return inventory


def info_of(node: objects_pb2.Node, mesh: frozenset[HostPort]) -> NodeInfo:
    """An empty node. What its spec says of a generic resource goes before what its agent says."""
    generic, named = dict(node.description.resources.generic), {}
    nano_cpus, memory_bytes = room_of(node)
    for kind, resource in node.spec.generic.items():
        generic[kind] = len(resource.names) or resource.count
        if resource.names:
            named[kind] = tuple(resource.names)
    return NodeInfo(
        node, node.meta.id, nano_cpus, memory_bytes, generic, mesh_ports=mesh,
        nano_cpus=nano_cpus, memory_bytes=memory_bytes, named=named,
    )  # fmt: skip


def mesh_ports(view: View) -> frozenset[HostPort]:
    """The ports that are published on every node."""
    return frozenset(
        (port.protocol, port.published, port.address)
        for service in view.services()
        for port in service.endpoint.ports
        if port.mode == types_pb2.PUBLISH_INGRESS and port.published
    )


class Inventory:
    """The picture, kept current: `attach` to a store, then `note` every commit of it.

    Several planners may share one, and each hands it every commit: the first time counts.
    """

    def __init__(self) -> None:
        self.samples = Samples()  # what nodes measured lately, where somebody fills it
        self._attached: View | None = None
        self._fresh = False
        self._noted = 0
        self._unread: dict[str, None] = {}  # tasks that a picture in the making still lacks
        self._infos: dict[str, NodeInfo] = {}
        self._demands: dict[str, tuple[str, Demand]] = {}  # by task: where it is booked, and what
        self._repulsions: dict[str, list[Repulsion]] | None = None
        self.waiting: dict[GroupKey, dict[str, objects_pb2.Task]] = {}  # for a node
        self.bound: dict[str, objects_pb2.Task] = {}  # that come with a node
        self.leaving: dict[str, objects_pb2.Task] = {}  # on a node still, and told to stop
        self.failed: dict[str, dict[str, objects_pb2.Task]] = {}  # that ended so, by service
        self.suitable: dict[
            bytes, Suitable
        ] = {}  # by static key; the nodes decide, so it lasts until one changes

    def attach(self, view: View) -> None:
        """From here on `note` is told every commit of the view."""
        self._attached, self._fresh = view, False

    def is_attached(self, view: View) -> bool:
        return view is self._attached

    def advance(self, view: View, tasks: int) -> bool:
        """Go on with the picture by so many tasks; True when it is whole. For any other view it always is."""
        if view is not self._attached:
            return True
        if not self._fresh:
            self._begin(view)
            self._fresh = True
            return not self._unread  # the nodes are a piece of their own
        for task_id in list(islice(self._unread, tasks)):
            self._read(view, task_id)
        return not self._unread

    def is_whole(self, view: View) -> bool:
        """Whether the picture of this view is kept, and complete."""
        return self._fresh and view is self._attached and not self._unread

    def current(self, view: View) -> dict[str, NodeInfo]:
        """All nodes as of the view."""
        if not self._fresh or view is not self._attached:
            self._begin(view)
            self._fresh = view is self._attached
        while self._unread:
            self._read(view, next(iter(self._unread)))
        return self._infos

    def holds(self, task_id: str) -> bool:
        """Whether a task is booked on its node."""
        return task_id in self._demands or task_id in self._unread

    def repulsions(self, view: View) -> dict[str, list[Repulsion]]:
        """As of the view for which `current` was asked."""
        if self._repulsions is None:
            self._repulsions = repulsions_in(view)
        return self._repulsions

    def note(self, commit: Commit, view: View) -> None:
        """Take a commit that the view has applied just now."""
        if not self._fresh or commit.index <= self._noted:
            return
        assert view is self._attached, "attached to another store"
        self._noted = commit.index
        for event in commit.events:
            if event.kind == store_pb2.KIND_TASK:
                self._note_task(event)
            elif event.kind == store_pb2.KIND_NODE:
                self._note_node(event, view)
            elif event.kind == store_pb2.KIND_SERVICE:
                self._note_service(event, view)

    def _begin(self, view: View) -> None:
        """The nodes; tasks are read one after the other, those that wait in the order of their ids."""
        self._repulsions, self._noted = None, view.index
        mesh = mesh_ports(view)
        self._infos = {node.meta.id: info_of(node, mesh) for node in view.nodes()}
        self._demands, self.leaving, self.suitable = {}, {}, {}
        self.waiting, self.bound, self.failed = {}, {}, {}
        self._unread = dict.fromkeys(chain.from_iterable(map(view.task_ids_in_state, HOLDING_STATES)))
        self._unread.update(dict.fromkeys(sorted(view.task_ids_in_state(_PENDING))))
        self._unread.update(dict.fromkeys(chain.from_iterable(map(view.task_ids_in_state, _FAILED))))

    def _read(self, view: View, task_id: str) -> None:
        """Take a task as it is by now."""
        del self._unread[task_id]
        task = view.task(task_id)
        assert task is not None, "a task that went was noted"
        state = task.status.state
        if state == _PENDING:
            self._await(task)
        elif _FIRST <= state <= _LAST:
            self._book(task)
        elif is_failure(state):
            self.failed.setdefault(task.service_id, {})[task_id] = task

    def _await(self, task: objects_pb2.Task) -> None:
        if not desired_running(task):
            return
        if task.node_id:
            self.bound[task.meta.id] = task
        else:
            self.waiting.setdefault((task.service_id, task.spec_version), {})[task.meta.id] = task

    def _await_no_more(self, task: objects_pb2.Task) -> None:
        self.bound.pop(task.meta.id, None)
        key = (task.service_id, task.spec_version)
        group = self.waiting.get(key)
        if group is not None:
            group.pop(task.meta.id, None)
            if not group:
                del self.waiting[key]

    def _book(self, task: objects_pb2.Task) -> None:
        node_id = task.node_id
        demand = demand_of(task)
        self._demands[task.meta.id] = (node_id, demand)
        if not desired_running(task):
            self.leaving[task.meta.id] = task
        info = self._infos.get(node_id)
        if info is not None:
            demand.take(info)

    def _note_task(self, event: ChangeEvent) -> None:
        old, new = cast(objects_pb2.Task | None, event.old), cast(objects_pb2.Task | None, event.new)
        if event.id in self._unread:
            if new is None:
                del self._unread[event.id]
            return
        if old is not None and old.status.state == _PENDING:
            self._await_no_more(old)
        if new is not None and new.status.state == _PENDING:
            self._await(new)
        elif new is not None and is_failure(new.status.state):
            self.failed.setdefault(new.service_id, {})[event.id] = new
        elif new is None and old is not None and is_failure(old.status.state):
            self.failed.get(old.service_id, {}).pop(event.id, None)
            if not self.failed.get(old.service_id):
                self.failed.pop(old.service_id, None)
        held = old is not None and _FIRST <= old.status.state <= _LAST
        holds = new is not None and _FIRST <= new.status.state <= _LAST
        if held and holds:
            assert old is not None
            assert new is not None
            if not desired_running(new):
                self.leaving[event.id] = new
            if old.spec.resources != new.spec.resources:  # changed in place
                self._unbook(event.id)
                self._book(new)
            return  # the rest of a task's spec, its ports and its place do not change on a node
        if holds:
            assert new is not None
            self._book(new)
        if held == holds or holds:
            return
        self.leaving.pop(event.id, None)
        self._unbook(event.id)

    def _unbook(self, task_id: str) -> None:
        node_id, demand = self._demands.pop(task_id)
        info = self._infos.get(node_id)
        if info is not None:
            demand.give_back(info)

    def _note_node(self, event: ChangeEvent, view: View) -> None:
        new = cast(objects_pb2.Node | None, event.new)
        if new is not None and event.id in self._infos and is_usage_alone(event):
            info = self._infos[event.id]
            info.node, info.load = new, LOAD_WEIGHT * part_in_use(new)
            info.weigh()
            return
        self.suitable.clear()
        if new is None:
            self._infos.pop(event.id, None)
            return
        before = self._infos.get(event.id)
        info = info_of(new, before.mesh_ports if before is not None else mesh_ports(view))
        for task in view.tasks_of_node(event.id):
            booked = self._demands.get(task.meta.id)
            if booked is not None:
                booked[1].take(info)
        self._infos[event.id] = info

    def _note_service(self, event: ChangeEvent, view: View) -> None:
        old, new = cast(objects_pb2.Service | None, event.old), cast(objects_pb2.Service | None, event.new)
        if _ports(old) != _ports(new):
            mesh = mesh_ports(view)
            for info in self._infos.values():
                info.mesh_ports = mesh
        if _affinities(old) or _affinities(new) or old is None or new is None:
            self._repulsions = None


def _ports(service: objects_pb2.Service | None) -> list[tuple[int, int, str]]:
    if service is None:
        return []
    return [(p.protocol, p.published, p.address) for p in service.endpoint.ports]


def _affinities(service: objects_pb2.Service | None) -> bool:
    return service is not None and bool(service.spec.task.placement.affinities)
