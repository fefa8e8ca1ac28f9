"""What the network of one machine should be, as plain values.

The agent builds one `Wanted` from its assignments; `plane.Overlay.apply` makes the kernel
agree with it. Addresses are dotted IPv4 strings, prefixes are `a.b.c.d/n`, ports are numbers,
`protocol` is `tcp`, `udp` or `sctp`. An `index` is the node's number in the cluster, from 1; the node's
overlay address, MAC, mark, routing table and nexthop are derived from it (see `ipam`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A member of the overlay; `underlay` is where its VXLAN packets go, `address` its control address."""

    id: str
    index: int
    underlay: str
    address: str
    down: bool = False


@dataclass(frozen=True)
class Network:
    """One isolated network; `blocks` says which part of the subnet lives on which node."""

    id: str
    name: str
    subnet: str
    internal: bool
    blocks: tuple[tuple[str, str], ...]
    default_deny: bool = False


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


@dataclass(frozen=True)
class Service:
    """Virtual addresses (network id, ip) and published ports in front of the ready tasks."""

    id: str
    vips: tuple[tuple[str, str], ...]
    ports: tuple[PortMap, ...]
    backends: tuple[Backend, ...]


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

    @property
    def this_node(self) -> Node:
        """The node this machine is; `KeyError` when it is not among `nodes`."""
        for node in self.nodes:
            if node.id == self.self_id:
                return node
        raise KeyError(self.self_id)
