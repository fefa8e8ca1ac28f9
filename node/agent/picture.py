"""From assignment items to what each part of the node needs. Pure.

`Picture` is the decoded set; `wanted_network` is the overlay's input, `dns_table` the DNS
process's table, `resolv_conf` a container's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from swarmpy.node.agent import policies
from swarmpy.node.agent.machine import Local
from swarmpy.node.items import Items
from swarmpy.overlay import names, wanted
from swarmpy.proto import dispatcher_pb2, objects_pb2, types_pb2

PROTOCOLS = {types_pb2.PROTOCOL_TCP: "tcp", types_pb2.PROTOCOL_UDP: "udp", types_pb2.PROTOCOL_SCTP: "sctp"}
DNS_ADDRESS = "169.254.1.53"
UPSTREAMS_MAX = 3
DNS_OPTIONS = "ndots:0 timeout:2 attempts:2"


SERVICES_KEPT = 8192


@lru_cache(maxsize=SERVICES_KEPT)
def endpoints_of(data: bytes) -> dispatcher_pb2.Item:
    """The decoded item, once for many pictures: nobody writes into it."""
    return dispatcher_pb2.Item.FromString(data)


@dataclass
class Picture:
    """The decoded assignment set."""

    node: dispatcher_pb2.NodeConfig | None = None
    tasks: dict[str, objects_pb2.Task] = field(default_factory=dict)
    peers: dict[str, dispatcher_pb2.PeerNode] = field(default_factory=dict)
    networks: dict[str, dispatcher_pb2.NetworkAssignment] = field(default_factory=dict)
    endpoints: dict[str, dispatcher_pb2.ServiceEndpoints] = field(default_factory=dict)
    raw_endpoints: dict[str, bytes] = field(default_factory=dict)
    images: dict[str, dispatcher_pb2.ImageSource] = field(default_factory=dict)
    volumes: dict[str, dispatcher_pb2.VolumeAssignment] = field(default_factory=dict)
    policies: dict[str, dispatcher_pb2.PolicyAssignment] = field(default_factory=dict)
    members: dict[str, dispatcher_pb2.ServiceMembers] = field(default_factory=dict)

    @staticmethod
    def of(items: Items) -> Picture:
        picture = Picture()
        for key, data in items.items():
            endpoints = key.startswith("endpoints/")
            item = endpoints_of(data) if endpoints else dispatcher_pb2.Item.FromString(data)
            match item.WhichOneof("item"):
                case "task":
                    picture.tasks[item.task.meta.id] = item.task
                case "peer":
                    picture.peers[item.peer.id] = item.peer
                case "network":
                    picture.networks[item.network.id] = item.network
                case "endpoints":
                    picture.endpoints[item.endpoints.service_id] = item.endpoints
                    picture.raw_endpoints[item.endpoints.service_id] = data
                case "image":
                    picture.images[item.image.digest or item.image.reference] = item.image
                case "volume":
                    picture.volumes[item.volume.id] = item.volume
                case "node":
                    picture.node = item.node
                case "policy":
                    picture.policies[item.policy.id] = item.policy
                case "members":
                    picture.members[item.members.service_id] = item.members
        return picture

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
        for peer in sorted(picture.peers.values(), key=lambda peer: peer.id)
        if peer.index and peer.data_path_address
    )
    networks = tuple(
        wanted.Network(
            id=network.id, name=network.name, subnet=network.subnet, internal=network.internal,
            blocks=tuple((block.node_id, block.cidr) for block in network.blocks),
            default_deny=network.default_deny, subnet6=network.subnet6 if config.prefix6 else "",
            seal=network.seal,
        )
        for network in sorted(picture.networks.values(), key=lambda network: network.id)
        if network.subnet
    )  # fmt: skip
    weights = tuple(sorted((peer.id, peer.weight) for peer in picture.peers.values() if peer.weight))
    services = tuple(_service(data, weights) for _, data in sorted(picture.raw_endpoints.items()))
    return wanted.Wanted(
        self_id=self_id, cluster_cidr=config.cluster_cidr, vxlan_port=config.vxlan_port, mtu=config.mtu,
        nodes=nodes, networks=networks, services=services, host_ports=tuple(sorted(_host_ports(tasks))),
        policies=policies.wanted_policies(picture.policies, picture.members, picture.tasks),
        prefix6=config.prefix6,
        seal_keys=seal_keys,
    )  # fmt: skip


def pairs(
    addresses: Iterable[objects_pb2.TaskAddress] | Iterable[objects_pb2.VirtualIp],
) -> tuple[tuple[str, str], ...]:
    """(network id, address) of both families."""
    return tuple(
        (given.network_id, ip) for given in addresses for ip in (given.address, given.address6) if ip
    )


@lru_cache(maxsize=SERVICES_KEPT)
def _service(data: bytes, heavier: tuple[tuple[str, int], ...]) -> wanted.Service:
    """A service as the overlay wants it; the same object for the same item, which makes changes cheap to find."""
    entry = endpoints_of(data).endpoints
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
) -> names.Table:
    """What the node's DNS process answers from."""
    tasks = list(tasks)
    services = [_dns_service(picture, entry) for _, entry in sorted(picture.endpoints.items())]
    pods = {
        address.address: tuple(other.network_id for other in local.status.addresses)
        for local in tasks
        if local.container
        for address in local.status.addresses
    }
    return names.Table(
        node_id=self_id,
        networks=tuple(
            names.NetworkEntry(
                id=network.id,
                name=network.name,
                subnet=network.subnet,
                internal=network.internal,
                subnet6=network.subnet6,
            )
            for network in sorted(picture.networks.values(), key=lambda network: network.id)
            if network.subnet
        ),
        services=tuple(services),
        nodes=tuple(
            names.NodeEntry(hostname=peer.hostname, address=peer.address)
            for peer in sorted(picture.peers.values(), key=lambda peer: peer.id)
            if peer.address
        ),
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


def _dns_service(picture: Picture, entry: dispatcher_pb2.ServiceEndpoints) -> names.ServiceEntry:
    defaults = [network.id for network in picture.networks.values() if network.is_default]
    attached = [reference.target for reference in entry.networks] or defaults
    hostnames = {peer.id: peer.hostname for peer in picture.peers.values()}
    return names.ServiceEntry(
        name=entry.service_name,
        network_ids=tuple(attached),
        vips={vip.network_id: vip.address for vip in entry.vips},
        vips6={vip.network_id: vip.address6 for vip in entry.vips if vip.address6},
        mode="dnsrr" if entry.mode == objects_pb2.ENDPOINT_DNSRR else "vip",
        aliases={reference.target: tuple(reference.aliases) for reference in entry.networks if reference.aliases},
        ports=tuple(
            names.PortEntry(name=port.name, protocol=PROTOCOLS[port.protocol], target=port.target)
            for port in entry.ports
        ),
        tasks=tuple(
            names.TaskEntry(
                slot=backend.slot, name=backend.task_name, node=hostnames.get(backend.node_id, ""),
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
