"""What the network of one machine should be, as plain values.

The agent builds one `Wanted` from its assignments; `plane.Overlay.apply` makes the kernel
agree with it. Addresses are strings of either family, prefixes end with `/n`, ports are numbers; a pod or
service with both families on a network has two entries with that network's id;
`protocol` is `tcp`, `udp` or `sctp`. An `index` is the node's number in the cluster, from 1; the node's
overlay address, MAC, mark, routing table and nexthop are derived from it (see `ipam`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Node:
    """A member of the overlay; `underlay` is where its VXLAN packets go, `address` its control address."""

    id: str
    index: int
    underlay: str
    address: str
    down: bool = False
    seal_keys: tuple[tuple[int, bytes], ...] = ()  # (generation, public key)
    seal_ready: int = 0  # newest generation by which it receives from everybody


@dataclass(frozen=True)
class Network:
    """One isolated network; `blocks` says which part of the subnet lives on which node.

    A block of one address (of either family) is a task's static one, a block of no node ("") is kept for those.
    """

    id: str
    name: str
    subnet: str
    internal: bool
    blocks: tuple[tuple[str, str], ...]
    default_deny: bool = False
    subnet6: str = ""
    seal: str = ""  # how traffic between nodes is encrypted: "wireguard", "esp", or not at all


@dataclass(frozen=True)
class Policy:
    """What pods of this node may receive (`ingress`) or open (`egress`).

    `peers` are addresses, `blocks` prefixes with what is excluded from each, `ports` (protocol, first, last);
    no ports = all of them and every protocol. `network_id` "" = all of a pod's addresses.
    """

    id: str
    direction: str
    network_id: str
    pods: tuple[str, ...]
    peers: tuple[str, ...] = ()
    blocks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class PortMap:
    """A published port; `mode` is `ingress` (every node) or `host`; `address` "" means every address."""

    protocol: str
    published: int
    target: int
    mode: str
    address: str = ""


@dataclass(frozen=True)
class Backend:
    """One task that may receive traffic; addresses are (network id, ip)."""

    task_id: str
    node_id: str
    addresses: tuple[tuple[str, str], ...]
    weight: int = 1


@dataclass(frozen=True)
class Service:
    """Virtual addresses (network id, ip) and published ports in front of the ready tasks.

    `affinity`: a client's address always leads to the same task while that lives. `prefer_local`: tasks of this
    node take all traffic of this node while there are any.
    """

    id: str
    vips: tuple[tuple[str, str], ...]
    ports: tuple[PortMap, ...]
    backends: tuple[Backend, ...]
    affinity: bool = False
    prefer_local: bool = False


@dataclass(frozen=True)
class Wanted:
    """Everything; `host_ports` are (protocol, published, pod ip, target, bind address)."""

    self_id: str
    cluster_cidr: str
    vxlan_port: int
    mtu: int
    nodes: tuple[Node, ...]
    networks: tuple[Network, ...] = ()
    services: tuple[Service, ...] = ()
    host_ports: tuple[tuple[str, int, str, int, str], ...] = ()
    policies: tuple[Policy, ...] = ()
    prefix6: str = ""  # the cluster's /48; "" = no IPv6
    seal_keys: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)  # (generation, private key)
    direct: bool = True  # whether nodes on one segment may be reached without VXLAN

    @property
    def this_node(self) -> Node:
        """The node this machine is; `KeyError` when it is not among `nodes`."""
        for node in self.nodes:
            if node.id == self.self_id:
                return node
        raise KeyError(self.self_id)


def device_settings(wanted: Wanted) -> tuple[object, ...]:
    """What swx0 and the static rules are made from."""
    node = wanted.this_node
    return node.index, node.underlay, wanted.cluster_cidr, wanted.vxlan_port, wanted.mtu, wanted.prefix6


def without_ipv6(wanted: Wanted) -> Wanted:
    """The same for a kernel that has no IPv6."""

    def v4(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in pairs if ":" not in pair[1])

    services = tuple(
        replace(
            service, vips=v4(service.vips),
            backends=tuple(replace(backend, addresses=v4(backend.addresses)) for backend in service.backends),
        )
        for service in wanted.services
    )  # fmt: skip
    return replace(
        wanted, prefix6="", networks=tuple(replace(network, subnet6="") for network in wanted.networks),
        services=services, host_ports=tuple(port for port in wanted.host_ports if ":" not in port[2]),
    )  # fmt: skip
