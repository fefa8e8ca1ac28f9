"""What each node must know, as a set of items (see node/items.py). Pure.

Most items are the same for every node (peers, networks, endpoints): SharedItems keeps
those up to date from the store's commits, so that a commit costs the items it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

from swarmpy.node.ca import rotation
from swarmpy.node.items import MODULUS, Items, Move, change_of, encode, moves, weight
from swarmpy.node.manager.policies import PolicyItems
from swarmpy.node.plan import addresses, pods, volumes
from swarmpy.proto import dispatcher_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import ChangeEvent, View
from swarmpy.raft.tables import Entity

BUILD_IMAGE = "swarmpy-build"
DEFAULT_CIDR = "10.64.0.0/10"
LOG_MAX = 20_000  # changes of shared items that are remembered
WEIGHT_LABEL, WEIGHT_MAX = "swarmpy.weight", 16


class SharedItems:
    """The items every node gets, kept current commit by commit.

    Endpoints are worked out when somebody asks for them (`refresh`): many commits touch the same service.
    Every change of an item moves `generation` on by one, and a log of these lets somebody who has the set of an
    older generation learn what leads from it to the present one (`since`).
    """

    def __init__(self, view: View, *, at_once: bool = True) -> None:
        """With `at_once` False the endpoints are left to `refresh`, which may be asked for a few at a time."""
        self.items: Items = {}
        self.total = 0  # the sum behind the set's digest
        self.generation = 0
        self.urgent = 0  # the generation of the last change that tasks on a node cannot start without
        self._log: list[tuple[str, int]] = []
        self._floor = 0  # the generation before the first one in the log
        self._since: dict[int, list[Move]] = {}
        self._stale: dict[str, None] = {}  # services
        self._view = view
        self._build()
        if at_once:
            self.refresh()

    def _build(self) -> None:
        for node in self._view.nodes():
            self._put("peer/" + node.meta.id, peer_item(node))
        for network in self._view.networks():
            self._put("network/" + network.meta.id, network_item(network))
        self._stale = dict.fromkeys(service.meta.id for service in self._view.services())
        self._policies = PolicyItems(self._view, self._set)
        self.generation += 1
        self._log, self._floor = [], self.generation
        self._since.clear()

    @property
    def is_current(self) -> bool:
        """Whether every commit that was fed is in the items."""
        return not self._stale

    def feed(self, events: Sequence[ChangeEvent]) -> bool:
        """Take a commit's events; says whether any shared item changed, or may have (`refresh` tells)."""
        services: dict[str, None] = {}
        changed = False
        for event in events:
            match event.kind:
                case store_pb2.KIND_NODE:
                    changed |= self._made("peer/" + event.id, event.new, peer_item)
                    if _takes_tasks(event.old) != _takes_tasks(event.new):
                        here = self._view.tasks_of_node(event.id)
                        services.update(dict.fromkeys(task.service_id for task in here))
                case store_pb2.KIND_NETWORK:
                    changed |= self._made("network/" + event.id, event.new, network_item)
                case store_pb2.KIND_SERVICE:
                    if not event.is_relabelled:
                        services[event.id] = None
                case store_pb2.KIND_TASK:
                    services.update(dict.fromkeys(_owners_of_traffic(event)))
        changed |= self._policies.feed(events)
        self._stale.update(services)
        return changed or bool(services)

    def refresh(self, limit: int = 1 << 30) -> bool:
        """Work out the endpoints of at most `limit` services; says whether any differ from before."""
        changed = False
        for service_id in list(islice(self._stale, limit)):
            del self._stale[service_id]
            service = self._view.service(service_id)
            key = "endpoints/" + service_id
            if service is None:
                changed |= self._set(key, None)
            else:
                changed |= self._put(key, endpoints_item(self._view, service))
        return changed

    def whole(self) -> list[Move]:
        """What leads from nothing to this set."""
        known = self._since.get(-1)
        if known is None:
            known = self._since[-1] = list(moves({}, self.items))
        return known

    def since(self, generation: int) -> list[Move] | None:
        """What leads from the set of that generation to this one; None: too long ago, start from nothing."""
        if generation < self._floor:
            return None
        known = self._since.get(generation)
        if known is None:
            shifts: dict[str, int] = {}
            for key, shift in self._log[generation - self._floor :]:
                shifts[key] = shifts.get(key, 0) + shift
            known = [
                Move(change_of(key, self.items.get(key)), shift) for key, shift in shifts.items() if shift
            ]
            self._since[generation] = known
        return known

    def _made(self, key: str, new: object, make: Callable[[Any], dispatcher_pb2.Item]) -> bool:
        return self._set(key, None) if new is None else self._put(key, make(new))

    def _put(self, key: str, item: dispatcher_pb2.Item) -> bool:
        return self._set(key, encode(item))

    def _set(self, key: str, data: bytes | None) -> bool:
        """Store an item, or drop it; whether that changed anything."""
        before = self.items.get(key)
        if before == data:
            return False
        shift = 0 if before is None else -weight(key, before)
        if data is None:
            del self.items[key]
        else:
            self.items[key] = data
            shift += weight(key, data)
        self.total = (self.total + shift) % MODULUS
        self.generation += 1
        if not key.startswith(("endpoints/", "members/", "peer/")):
            self.urgent = self.generation
        self._log.append((key, shift))
        self._since.clear()
        if len(self._log) > LOG_MAX:
            del self._log[: LOG_MAX // 2]
            self._floor += LOG_MAX // 2
        return True


def _takes_tasks(node: Entity | None) -> bool:
    """Whether the tasks of a node may be backends."""
    return (
        isinstance(node, objects_pb2.Node) and node.status.state != types_pb2.NODE_DOWN and not node.removed
    )


def _owners_of_traffic(event: ChangeEvent) -> Iterator[str]:
    """The services whose endpoints a task's change may touch."""
    for task in (event.old, event.new):
        if isinstance(task, objects_pb2.Task) and task.status.state == types_pb2.TASK_RUNNING:
            yield task.service_id


def peer_item(node: objects_pb2.Node) -> dispatcher_pb2.Item:
    description = node.description
    address = description.address or node.status.address
    return dispatcher_pb2.Item(
        peer=dispatcher_pb2.PeerNode(
            id=node.meta.id, hostname=description.hostname, index=node.index, address=address,
            data_path_address=description.data_path_address or address, agent_port=description.agent_port,
            down=node.status.state == types_pb2.NODE_DOWN, weight=weight_of(node),
            seal_keys=description.seal_keys,
            seal_ready=description.seal_ready,
        )
    )  # fmt: skip


def weight_of(node: objects_pb2.Node) -> int:
    """How much of a service's traffic the node's tasks get: its label, 0 = as usual."""
    text = node.meta.labels.get(WEIGHT_LABEL, "")
    return int(text) if text.isdecimal() and 1 < int(text) <= WEIGHT_MAX else 0


def network_item(network: objects_pb2.Network) -> dispatcher_pb2.Item:
    return dispatcher_pb2.Item(
        network=dispatcher_pb2.NetworkAssignment(
            id=network.meta.id, name=network.meta.name, subnet=network.subnet, internal=network.spec.internal,
            is_default=network.is_default, blocks=network.blocks, default_deny=network.spec.default_deny,
            subnet6=network.subnet6,
            seal=network.seal, statics=(entry for entry in network.statics if entry.node_id),
        )
    )  # fmt: skip


def endpoints_item(view: View, service: objects_pb2.Service) -> dispatcher_pb2.Item:
    tasks = [task for task in view.tasks_of_service(service.meta.id) if takes_traffic(view, task)]
    hidden = service.update_status.hidden_versions  # the half of a blue-green update that gets no traffic
    if hidden:  # unless nothing else is left
        tasks = [task for task in tasks if task.spec_version not in hidden] or tasks
    backends = [
        dispatcher_pb2.Backend(
            task_id=task.meta.id, slot=task.slot, node_id=task.node_id, addresses=task.status.addresses,
            task_name=task.meta.name,
        )
        for task in sorted(tasks, key=lambda task: (task.slot, task.meta.id))
    ]  # fmt: skip
    networks = service.spec.task.networks
    return dispatcher_pb2.Item(
        endpoints=dispatcher_pb2.ServiceEndpoints(
            service_id=service.meta.id, service_name=service.meta.name, mode=service.spec.endpoint.mode,
            vips=service.endpoint.vips, ports=service.endpoint.ports, backends=backends, networks=networks,
            affinity=service.spec.endpoint.affinity, prefer_local=service.spec.endpoint.prefer_local,
        )
    )  # fmt: skip


def takes_traffic(view: View, task: objects_pb2.Task) -> bool:
    """Running, ready, meant to run, on a node that answers, and not about to be drained."""
    if task.status.state != types_pb2.TASK_RUNNING or not task.status.ready:
        return False
    if task.desired_state != types_pb2.TASK_RUNNING:
        return False
    node = view.node(task.node_id)
    return node is not None and node.status.state != types_pb2.NODE_DOWN and not node.removed


def node_items(
    view: View,
    node_id: str,
    known: Mapping[str, bytes] | None = None,
    stale: Set[str] = frozenset(),
    volume_ids: Iterable[str] | None = None,
) -> Items:
    """The items that only `node_id` gets: its tasks, their images, its own settings.

    `known` are those of before, where only the tasks in `stale` can have changed since, and with "" among them
    anything else; `volume_ids` the volumes that the node may hold something of, where somebody keeps count of them.
    """
    node = view.node(node_id)
    if node is None:
        return {}
    settings = None if known is None or "" in stale else known.get("node/self")
    items: Items = {"node/self": encode(node_config_item(view, node)) if settings is None else settings}
    if node.spec.build.attempt:
        items["build"] = encode(build_item(view, node))
    digests: set[tuple[str, str]] = set()
    used = (
        {volume.meta.id for volume in view.volumes() if node_id in volume.holders}
        if volume_ids is None
        else set(volume_ids)
    )
    for task in view.tasks_of_node(node_id):
        if not is_given(task):
            continue
        key = "task/" + task.meta.id
        data = None if known is None or task.meta.id in stale else known.get(key)
        items[key] = encode(task_item(task)) if data is None else data
        used.update(use.volume_id for use in task.volumes)
        for container in pods.containers(task.spec):
            digests.add((container.image_digest, container.image))
    for volume_id in sorted(used):
        volume = view.volume(volume_id)
        if volume is not None:
            items["volume/" + volume_id] = encode(volume_item(view, volume, node_id))
    for image_digest, reference in sorted(digests):
        items["image/" + (image_digest or reference)] = encode(image_item(view, image_digest, reference))
    return items


def is_given(task: objects_pb2.Task) -> bool:
    """Whether the task's node is told of it."""
    return types_pb2.TASK_ASSIGNED <= task.status.state <= types_pb2.TASK_RUNNING


def task_item(task: objects_pb2.Task) -> dispatcher_pb2.Item:
    """The task without what the node itself reports, so that its reports echo nothing."""
    item = dispatcher_pb2.Item(task=task)
    item.task.ClearField("status")
    item.task.meta.ClearField("version")
    item.task.meta.ClearField("updated_ms")
    return item


def image_item(view: View, image_digest: str, reference: str) -> dispatcher_pb2.Item:
    holders: list[dispatcher_pb2.ImageHolder] = []
    chunks = ""
    for image in view.images():
        if not image_digest or image.digest != image_digest:
            continue
        chunks = chunks or image.chunks
        for holder in image.holders:
            node = view.node(holder)
            if node is None or node.status.state == types_pb2.NODE_DOWN or not node.description.agent_port:
                continue
            address = node.description.address or node.status.address
            holders.append(
                dispatcher_pb2.ImageHolder(node_id=holder, address=f"{address}:{node.description.agent_port}")
            )
    return dispatcher_pb2.Item(
        image=dispatcher_pb2.ImageSource(
            digest=image_digest, reference=reference, holders=holders, chunks=chunks
        )
    )


def build_item(view: View, node: objects_pb2.Node) -> dispatcher_pb2.Item:
    wish, status = node.spec.build, node.description.build
    heard = status.attempt == wish.attempt
    fetching = not heard or status.state == objects_pb2.BUILD_FETCHING
    source = dispatcher_pb2.ImageSource(digest=wish.digest)
    if wish.digest and fetching:
        source = image_item(view, wish.digest, f"{BUILD_IMAGE}:{wish.version}").image
    return dispatcher_pb2.Item(
        build=dispatcher_pb2.BuildAssignment(
            source=source, version=wish.version, attempt=wish.attempt, patience_ms=wish.patience_ms,
            go=heard and status.state == objects_pb2.BUILD_TRYING,
        )
    )  # fmt: skip


def volume_item(view: View, volume: objects_pb2.Volume, node_id: str) -> dispatcher_pb2.Item:
    move, part = volume.move, volumes.part_of(volume, node_id)
    item = dispatcher_pb2.Item(
        volume=dispatcher_pb2.VolumeAssignment(
            id=volume.meta.id, name=volume.meta.name, part=part, driver=volume.spec.driver,
            options=volume.spec.options, labels=volume.meta.labels, move=move.number,
            exists=volumes.exists_on(volume, node_id),
        )
    )  # fmt: skip
    if part == dispatcher_pb2.VOLUME_RECEIVE:
        source = view.node(move.from_id)
        item.volume.from_id = move.from_id
        item.volume.final = move.state == objects_pb2.VOLUME_MOVE_FINAL
        if source is not None:
            address = source.description.address or source.status.address
            item.volume.from_address = f"{address}:{source.description.agent_port}"
    elif move.from_id == node_id and move.state in volumes.MOVES_UNDER_WAY:
        item.volume.to_id = move.to_id
    return item


def node_config_item(view: View, node: objects_pb2.Node) -> dispatcher_pb2.Item:
    cluster = view.cluster()
    managers = sorted(
        (other.meta.id, other.manager.control_address)
        for other in view.nodes()
        if other.role == types_pb2.ROLE_MANAGER and other.manager.control_address and not other.removed
    )
    config = dispatcher_pb2.NodeConfig(
        role=node.role, index=node.index, removed=node.removed,
        managers=[address for _, address in managers], manager_ids=[node_id for node_id, _ in managers],
    )  # fmt: skip
    if cluster is not None:
        config.cluster_id = cluster.meta.id
        config.cluster_cidr = cluster.spec.cluster_cidr or DEFAULT_CIDR
        config.vxlan_port = cluster.vxlan_port
        config.mtu = cluster.mtu
        config.direct_off = cluster.spec.direct_routes == "off"
        config.prefix6 = str(addresses.prefix6(cluster.meta.id))
        roots = rotation.wanted(cluster)
        config.issuer, config.trusts = roots.issuer, roots.trusts
    return dispatcher_pb2.Item(node=config)
