"""From assignment items to what each part of the node needs. Pure.

`Picture` is the decoded set; `wanted_network` is the overlay's input, `dns_table` the DNS
process's table, `resolv_conf` a container's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from swarmpy.node.agent import policies
from swarmpy.node.agent.machine import Local
from swarmpy.node.items import Items
from swarmpy.overlay import nametable, wanted
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2

PROTOCOLS = {types_pb2.PROTOCOL_TCP: "tcp", types_pb2.PROTOCOL_UDP: "udp", types_pb2.PROTOCOL_SCTP: "sctp"}
DNS_ADDRESS = "169.254.1.53"
UPSTREAMS_MAX = 3
DNS_OPTIONS = "ndots:0 timeout:2 attempts:2"


ENDPOINTS = "endpoints/"


@dataclass(frozen=True)
class Surroundings:
    """Nodes and networks as the overlay and the DNS process want them: the same objects while nothing changed."""

    nodes: tuple[wanted.Node, ...]
    networks: tuple[wanted.Network, ...]
    weights: tuple[tuple[str, int], ...]
    named_nodes: tuple[nametable.NodeEntry, ...]
    named_networks: tuple[nametable.NetworkEntry, ...]


@dataclass
class Picture:
    """The decoded assignment set."""

    node: dispatcher_pb2.NodeConfig | None = None
    build: dispatcher_pb2.BuildAssignment | None = None
    tasks: dict[str, objects_pb2.Task] = field(default_factory=dict)
    peers: dict[str, dispatcher_pb2.PeerNode] = field(default_factory=dict)
    networks: dict[str, dispatcher_pb2.NetworkAssignment] = field(default_factory=dict)
    endpoints: dict[str, dispatcher_pb2.ServiceEndpoints] = field(default_factory=dict)
    raw_endpoints: dict[str, bytes] = field(default_factory=dict)
    images: dict[str, dispatcher_pb2.ImageSource] = field(default_factory=dict)
    volumes: dict[str, dispatcher_pb2.VolumeAssignment] = field(default_factory=dict)
    policies: dict[str, dispatcher_pb2.PolicyAssignment] = field(default_factory=dict)
    members: dict[str, dispatcher_pb2.ServiceMembers] = field(default_factory=dict)
    _around: Surroundings | None = field(default=None, compare=False, repr=False)
    _made: dict[str, wanted.Service] = field(default_factory=dict, compare=False, repr=False)

    @property
    def around(self) -> Surroundings:
        """Made once for all pictures that differ in endpoints only."""
        if self._around is None:
            self._around = _surroundings(self)
        return self._around

    @staticmethod
    def of(items: Items) -> Picture:
        picture = Picture()
        picture._take(items)
        return picture

    def follow(self, old: Items, new: Items) -> Picture:
        """The picture of `new`, this one being of `old`.

        What was made of endpoints that are still the same is taken over, and nothing is kept of others. A
        change of endpoints only leaves all the rest as it is.
        """
        changed = {
            key: data for key, data in new.items() if old.get(key) is not data and old.get(key) != data
        }
        gone = old.keys() - new.keys()
        around = self.around  # from here on made
        if all(key.startswith(ENDPOINTS) for key in (*changed, *gone)):
            picture = replace(self, endpoints=dict(self.endpoints), raw_endpoints=dict(self.raw_endpoints))
            picture._take(changed)
        else:
            picture = Picture(endpoints=dict(self.endpoints), raw_endpoints=dict(self.raw_endpoints))
            picture._take(
                {key: data for key, data in new.items() if key in changed or not key.startswith(ENDPOINTS)}
            )
        same_weights = picture.around.weights == around.weights
        picture._made = dict(self._made) if same_weights else {}
        for key in (*changed, *gone):
            picture._made.pop(key.removeprefix(ENDPOINTS), None)
        for key in gone:
            if key.startswith(ENDPOINTS):
                del picture.endpoints[key.removeprefix(ENDPOINTS)]
                del picture.raw_endpoints[key.removeprefix(ENDPOINTS)]
        return picture

    def service(self, service_id: str) -> wanted.Service:
        """A service as the overlay wants it; the same object for the same item, which makes changes cheap to find."""
        made = self._made.get(service_id)
        if made is None:
            made = self._made[service_id] = _service(self.endpoints[service_id], self.around.weights)
        return made

    def made_services(self) -> set[str]:
        """The services that `service` was asked for."""
        return set(self._made)

    def _take(self, items: Items) -> None:
        for data in items.values():
            item = dispatcher_pb2.Item.FromString(data)
            match item.WhichOneof("item"):
                case "task":
                    self.tasks[item.task.meta.id] = item.task
                case "peer":
                    self.peers[item.peer.id] = item.peer
                case "network":
                    self.networks[item.network.id] = item.network
                case "endpoints":
                    self.endpoints[item.endpoints.service_id] = item.endpoints
                    self.raw_endpoints[item.endpoints.service_id] = data
                case "image":
                    self.images[item.image.digest or item.image.reference] = item.image
                case "volume":
                    self.volumes[item.volume.id] = item.volume
                case "node":
                    self.node = item.node
                case "build":
                    self.build = item.build
                case "policy":
                    self.policies[item.policy.id] = item.policy
                case "members":
                    self.members[item.members.service_id] = item.members

    def networks_of(self, task: objects_pb2.Task) -> list[dispatcher_pb2.NetworkAssignment] | None:
        """The networks a task joins, the default one where it names none; None: not all known yet."""
        if task.spec.network_mode:
            return []
        targets = [reference.target for reference in task.spec.networks]
        if not targets:
            default = next((network for network in self.networks.values() if network.is_default), None)
            return None if default is None else [default]
        if any(target not in self.networks for target in targets):
            return None
        return [self.networks[target] for target in targets]

    def has_static(self, given: objects_pb2.TaskAddress, task_id: str, node_id: str) -> bool:
        """Whether a static address leads to this node, and to this task there."""
        network = self.networks.get(given.network_id)
        return network is not None and any(
            (entry.address, entry.task_id, entry.node_id) == (given.address, task_id, node_id)
            for entry in network.statics
        )

    def blocks(self, network_id: str, node_id: str) -> list[str]:
        network = self.networks.get(network_id)
        return [block.cidr for block in network.blocks if block.node_id == node_id] if network else []


def wanted_network(
    picture: Picture, self_id: str, tasks: Iterable[Local], seal_keys: tuple[tuple[int, bytes], ...] = ()
) -> wanted.Wanted | None:
    """The overlay's desired state, or None while the node has no number yet."""
    config = picture.node
    if config is None or not config.index or self_id not in picture.peers:
        return None
    around = picture.around
    services = tuple(map(picture.service, sorted(picture.endpoints)))
    return wanted.Wanted(
        self_id=self_id, cluster_cidr=config.cluster_cidr, vxlan_port=config.vxlan_port, mtu=config.mtu,
        nodes=around.nodes, networks=around.networks, services=services, host_ports=tuple(sorted(_host_ports(tasks))),
        policies=policies.wanted_policies(picture.policies, picture.members, picture.tasks),
        prefix6=config.prefix6,
        seal_keys=seal_keys, direct=not config.direct_off,
    )  # fmt: skip


def _surroundings(picture: Picture) -> Surroundings:
    config = picture.node or dispatcher_pb2.NodeConfig()
    peers = sorted(picture.peers.values(), key=lambda peer: peer.id)
    known = sorted((n for n in picture.networks.values() if n.subnet), key=lambda network: network.id)
    nodes = tuple(
        wanted.Node(
            id=peer.id,
            index=peer.index,
            underlay=peer.data_path_address,
            address=peer.address,
            down=peer.down,
            seal_keys=tuple((key.generation, key.public_key) for key in peer.seal_keys),
            seal_ready=peer.seal_ready,
        )
        for peer in peers
        if peer.index and peer.data_path_address
    )
    networks = tuple(
        wanted.Network(
            id=network.id, name=network.name, subnet=network.subnet, internal=network.internal,
            blocks=tuple(_blocks(network)),
            default_deny=network.default_deny, subnet6=network.subnet6 if config.prefix6 else "",
            seal=network.seal,
        )
        for network in known
    )  # fmt: skip
    return Surroundings(
        nodes,
        networks,
        weights=tuple((peer.id, peer.weight) for peer in peers if peer.weight),
        named_nodes=tuple(
            nametable.NodeEntry(hostname=peer.hostname, address=peer.address)
            for peer in peers
            if peer.address
        ),
        named_networks=tuple(
            nametable.NetworkEntry(
                network.id, network.name, network.subnet, network.subnet6, network.internal
            )
            for network in known
        ),
    )


def _blocks(network: dispatcher_pb2.NetworkAssignment) -> Iterable[tuple[str, str]]:
    """Who has which part: nodes' blocks, what nobody gives away, and the static addresses of tasks one by one."""
    yield from ((block.node_id, block.cidr) for block in network.blocks)
    for entry in network.statics:
        yield entry.node_id, f"{entry.address}/32"
        if entry.address6:
            yield entry.node_id, f"{entry.address6}/128"


def pairs(
    addresses: Iterable[objects_pb2.TaskAddress] | Iterable[objects_pb2.VirtualIp],
) -> tuple[tuple[str, str], ...]:
    """(network id, address) of both families."""
    return tuple(
        (given.network_id, ip) for given in addresses for ip in (given.address, given.address6) if ip
    )


def _service(entry: dispatcher_pb2.ServiceEndpoints, heavier: tuple[tuple[str, int], ...]) -> wanted.Service:
    weights = dict(heavier)
    ports = tuple(
        wanted.PortMap(
            protocol=PROTOCOLS[port.protocol], published=port.published, target=port.target, mode="ingress",
            address=port.address,
        )
        for port in entry.ports
        if port.mode == types_pb2.PUBLISH_INGRESS and port.published
    )  # fmt: skip
    backends = tuple(
        wanted.Backend(
            task_id=backend.task_id, node_id=backend.node_id,
            addresses=pairs(backend.addresses), weight=weights.get(backend.node_id, 1),
        )
        for backend in entry.backends
    )  # fmt: skip
    return wanted.Service(
        id=entry.service_id, vips=pairs(entry.vips), ports=ports, backends=backends,
        affinity=bool(entry.affinity), prefer_local=entry.prefer_local,
    )  # fmt: skip


def _host_ports(tasks: Iterable[Local]) -> Iterable[tuple[str, int, str, int, str]]:
    for local in tasks:
        if local.wanted is None or local.finished or not local.status.addresses:
            continue
        for port in local.wanted.host_ports:
            first = local.status.addresses[0]
            for address in filter(None, (first.address, first.address6)):
                yield PROTOCOLS[port.protocol], port.published, address, port.target, port.address


def dns_table(
    picture: Picture, self_id: str, tasks: Iterable[Local], upstreams: Iterable[str]
) -> nametable.Table:
    """What the node's DNS process answers from."""
    services = tuple(dns_service(picture, service_id) for service_id in sorted(picture.endpoints))
    return replace(dns_head(picture, self_id, tasks, upstreams), services=services)


def dns_head(
    picture: Picture, self_id: str, tasks: Iterable[Local], upstreams: Iterable[str]
) -> nametable.Table:
    """The same but for the services."""
    tasks = list(tasks)
    pods = {
        address.address: tuple(other.network_id for other in local.status.addresses)
        for local in tasks
        if local.container
        for address in local.status.addresses
    }
    return nametable.Table(
        node_id=self_id,
        networks=picture.around.named_networks,
        nodes=picture.around.named_nodes,
        pods=pods,
        upstreams=tuple(upstreams),
        pod_upstreams=dict(_pod_upstreams(tasks)),
    )


def _pod_upstreams(tasks: Iterable[Local]) -> Iterable[tuple[str, tuple[str, ...]]]:
    for local in tasks:
        if local.container and local.wanted is not None and local.wanted.spec.container.dns_servers:
            servers = tuple(local.wanted.spec.container.dns_servers[:UPSTREAMS_MAX])
            for address in local.status.addresses:
                yield address.address, servers


def default_networks(picture: Picture) -> tuple[str, ...]:
    """Where services are that name no network."""
    return tuple(network.id for network in picture.networks.values() if network.is_default)


def dns_service(picture: Picture, service_id: str) -> nametable.ServiceEntry:
    entry = picture.endpoints[service_id]
    attached = [reference.target for reference in entry.networks] or default_networks(picture)
    return nametable.ServiceEntry(
        id=service_id,
        name=entry.service_name,
        network_ids=tuple(attached),
        vips={vip.network_id: vip.address for vip in entry.vips},
        vips6={vip.network_id: vip.address6 for vip in entry.vips if vip.address6},
        mode="dnsrr" if entry.mode == objects_pb2.ENDPOINT_DNSRR else "vip",
        aliases={reference.target: tuple(reference.aliases) for reference in entry.networks if reference.aliases},
        ports=tuple(
            nametable.PortEntry(name=port.name, protocol=PROTOCOLS[port.protocol], target=port.target)
            for port in entry.ports
        ),
        tasks=tuple(
            nametable.TaskEntry(
                slot=backend.slot, name=backend.task_name,
                addresses={address.network_id: address.address for address in backend.addresses},
                addresses6={a.network_id: a.address6 for a in backend.addresses if a.address6},
            )
            for backend in entry.backends
        ),
    )  # fmt: skip


def resolv_conf(container: types_pb2.ContainerSpec) -> str:
    """The container's resolver file: the node's DNS alone, which asks the service's own servers."""
    lines = [f"nameserver {DNS_ADDRESS}"]
    if container.dns_search:
        lines.append("search " + " ".join(container.dns_search))
    lines.append("options " + " ".join([DNS_OPTIONS, *container.dns_options]))
    return "\n".join(lines) + "\n"


def subnets(
    picture: Picture, addresses: Iterable[objects_pb2.TaskAddress]
) -> tuple[tuple[str, str, str], ...]:
    """(network id, address, subnet) of a task's addresses, for the overlay."""
    known = picture.networks
    return tuple(
        (network_id, ip, known[network_id].subnet6 if ":" in ip else known[network_id].subnet)
        for network_id, ip in pairs(addresses)
        if network_id in known
    )


def in_use(tasks: Mapping[str, Local], network_id: str) -> set[str]:
    """The addresses of a network that tasks on this node hold."""
    return {
        address.address
        for local in tasks.values()
        if local.container
        for address in local.status.addresses
        if address.network_id == network_id
    }
