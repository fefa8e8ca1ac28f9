"""What one node was sent, and what leads from there to what it must know now. Pure, but for what it remembers.

A set is the shared items (see assignments) and the node's own. The own ones go out at once. The shared ones go with
them only where the node's tasks need them; the rest waits for `everything`, because a change of a shared item goes to
all nodes, and gathering such changes is what lets a leader of a thousand nodes do anything else.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.node.ca import rotation
from swarmpy.node.items import MODULUS, Items, Move, as_digest, encode, messages, move, moves, total_of
from swarmpy.node.manager.assignments import SharedItems, image_item, is_given, node_items, task_item
from swarmpy.node.plan import pods
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.store import ChangeEvent, View


class Holders:
    """Which volumes each node may hold something of, kept current commit by commit."""

    def __init__(self, view: View) -> None:
        self._of: dict[str, set[str]] = {}
        for volume in view.volumes():
            self._add(volume)

    def feed(self, event: ChangeEvent) -> set[str]:
        """A change of a volume; the nodes it concerns."""
        old, new = event.old, event.new
        concerned: set[str] = set()
        if isinstance(old, objects_pb2.Volume):
            concerned.update(old.holders)
            for node_id in old.holders:
                self._of[node_id].discard(event.id)
                if not self._of[node_id]:
                    del self._of[node_id]
        if isinstance(new, objects_pb2.Volume):
            concerned.update(new.holders)
            self._add(new)
        return concerned

    def _add(self, volume: objects_pb2.Volume) -> None:
        for node_id in volume.holders:
            self._of.setdefault(node_id, set()).add(volume.meta.id)

    def of(self, node_id: str) -> Iterable[str]:
        return self._of.get(node_id, ())


class Outbox:
    """One node's set as it was sent; tell it what changed, then ask for messages."""

    def __init__(self, view: View, shared: SharedItems, holders: Holders, node_id: str) -> None:
        self._view, self._shared, self._holders, self._node_id = view, shared, holders, node_id
        self.own: Items = {}
        self._total = 0  # the sum of the whole set
        self._stale: set[str] = set()  # tasks; "" is everything else
        self._generation = -1  # of the shared items that were sent
        self.is_stale = True  # whether any own item may have changed

    @property
    def holds(self) -> bytes:
        """The digest of what was sent."""
        return as_digest(self._total)

    @property
    def is_first(self) -> bool:
        """Whether nothing was sent yet."""
        return self._generation < 0

    def touch(self, task_id: str = "") -> None:
        """One of the node's tasks may have changed, or with "" anything but its tasks."""
        self.is_stale = True
        self._stale.add(task_id)

    def needs_shared(self) -> bool:
        """Whether what was sent of the shared items is not enough for the node's own."""
        return self._generation < self._shared.urgent

    def first(self, holds: bytes) -> list[bytes]:
        """The complete set, as serialised Assignments; nothing if the node holds it already."""
        own = node_items(self._view, self._node_id, volume_ids=self._holders.of(self._node_id))
        self._remember(own, (self._shared.total + total_of(own)) % MODULUS)
        self._generation = self._shared.generation
        if holds and holds == self.holds:
            return []
        return list(messages([*self._shared.whole(), *moves({}, own)], 0, complete=True))

    def next(self, *, everything: bool) -> list[bytes]:
        """What leads from what was sent to the present; with `everything` the shared items as well."""
        shared = self._shared.since(self._generation) if everything else []
        if shared is None:
            return self.first(b"")
        start, own, moved = self._total, self.own, list[Move]()
        if self.is_stale and (came := self._came_alone()) is not None:
            moved = [move(key, own.get(key), data) for key, data in came.items() if own.get(key) != data]
            own.update(came)
        elif self.is_stale:
            own = node_items(
                self._view, self._node_id, self.own, self._stale, self._holders.of(self._node_id)
            )
            moved = list(moves(self.own, own))
        # What tasks need comes before them, what they leave behind after them.
        moved = [*shared, *moved]
        self._remember(own, (start + sum(move.shift for move in moved)) % MODULUS)
        if everything:
            self._generation = self._shared.generation
        return list(messages(moved, start, complete=False))

    def _came_alone(self) -> Items | None:
        """The stale items where tasks came or changed and nothing else; None: all of them are to be looked at."""
        if self._view.node(self._node_id) is None:
            return None
        came: Items = {}
        for task_id in sorted(self._stale):
            task = self._view.task(task_id) if task_id else None
            if task is None or task.node_id != self._node_id or not is_given(task) or task.volumes:
                return None
            came["task/" + task_id] = encode(task_item(task))
            for container in pods.containers(task.spec):
                key = "image/" + (container.image_digest or container.image)
                if key not in self.own and key not in came:
                    came[key] = encode(image_item(self._view, container.image_digest, container.image))
        return came

    def _remember(self, own: Items, total: int) -> None:
        self.own, self._total = own, total
        self._stale.clear()
        self.is_stale = False


def concerns_all(event: ChangeEvent, view: View) -> bool:
    """Whether an event may change the own items of every node: who the managers are, where images and volumes are."""
    old, new = event.old, event.new
    if event.kind == store_pb2.KIND_CLUSTER:
        return _cluster_facts(old) != _cluster_facts(new)
    if event.kind != store_pb2.KIND_NODE:
        return False
    if _manager_facts(old) != _manager_facts(new):
        return True
    is_source = bool(view.count(store_pb2.KIND_IMAGE) or view.count(store_pb2.KIND_VOLUME))
    return is_source and _source_facts(old) != _source_facts(new)


def _cluster_facts(cluster: object) -> object:
    if not isinstance(cluster, objects_pb2.Cluster):
        return None
    settings = cluster.spec.cluster_cidr, cluster.vxlan_port, cluster.mtu, cluster.spec.direct_routes
    return settings, rotation.wanted(cluster)


def _manager_facts(node: object) -> object:
    if not isinstance(node, objects_pb2.Node) or not node.manager.control_address:
        return None
    return node.role, node.manager.control_address, node.removed


def _source_facts(node: object) -> object:
    if not isinstance(node, objects_pb2.Node):
        return None
    description = node.description
    return node.status.state, description.address or node.status.address, description.agent_port
