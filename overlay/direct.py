"""Nodes on one segment: reached by the network below, without VXLAN. Pure: values, and the probe's bytes.

Rules
  - A node listens first: what a neighbour sends by its own MAC from its own blocks is let in as soon as the
    neighbour's MAC is known. It sends directly only what it has tried: a packet as large as any, with overlay
    addresses at both ends, went that way and was answered (`Near.proven`). Networks that drop addresses they did
    not give out therefore see the probes and nothing else.
  - The routes by VXLAN stay. A direct route is two halves of the block: more specific, so it wins; if the
    kernel takes it away because the link went down, the packets go by VXLAN at once.
  - What nodes themselves send and receive goes by VXLAN one way at least, so `doctor` still sees whether UDP is
    blocked, and a probe's answer needs no direct way back.
  - A MAC that several nodes or a router have is nobody's: some clouds answer every question for a MAC with that of
    their router, which could then send from every block.
  - Encrypted networks never go directly, and nothing from or for them is let in that came so.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from swarmpy.overlay import ipam, nfcodec
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.ping import checksum, echo_request
from swarmpy.overlay.wanted import Wanted

NEXTHOPS = 0x56000000  # the numbers of direct nexthops: this and the node's index
ETHERTYPE_IPV4 = 0x0800
IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
DONT_FRAGMENT, TTL, ICMP = 0x4000, 64, 1


@dataclass(frozen=True)
class Near:
    """A node on one of this node's segments: the link that leads there and its MAC, which its packets come with.

    `proven`: a packet with addresses of the overlay went there without VXLAN and was answered.
    """

    device: int
    mac: str
    proven: bool = False


@dataclass(frozen=True)
class Target:
    """Whom to send a probe: by which link, from and to which MAC and overlay address."""

    node_id: str
    link: str
    own_mac: str
    mac: str
    source: str
    address: str


def candidates(wanted: Wanted, addresses: Iterable[tuple[int, str, int]]) -> dict[str, int]:
    """By node: the link whose subnet both this node's and its underlay address are in.

    `addresses` are this machine's: (link index, address, prefix length).
    """
    own = wanted.this_node.underlay
    subnets = [
        (device, IPv4Network(f"{address}/{bits}", strict=False))
        for device, address, bits in addresses
        if address == own
    ]
    found = {}
    for node in wanted.nodes:
        if node.id != wanted.self_id and ":" not in node.underlay:
            for device, subnet in subnets:
                if IPv4Address(node.underlay) in subnet:
                    found[node.id] = device
    return found


def own_macs(found: Mapping[str, str], routers: Collection[str]) -> dict[str, str]:
    """Of nodes' MACs those that one node alone has, and no router."""
    times = Counter(found.values())
    return {node_id: mac for node_id, mac in found.items() if times[mac] == 1 and mac not in routers}


def halves(prefix: str) -> Iterator[str]:
    """The two halves of a prefix; of a single address itself."""
    network = IPv4Network(prefix)
    yield from map(str, network.subnets() if network.prefixlen < 32 else (network,))


def adopted(wanted: Wanted, nexthops: Mapping[int, tuple[int, str]], sources: Elements) -> dict[str, Near]:
    """What the kernel shows that an earlier process knew: whom it sent to directly, and whom it let in."""
    macs = {}
    for key in sources:
        low, high = key[: len(key) // 2], key[len(key) // 2 :]
        if low == high:  # a single address: a node's own
            macs[low[8:12]] = low[:6].hex(":")
    found = {}
    for node in wanted.nodes:
        mac = macs.get(nfcodec.address(ipam.node_address(node.index, wanted.cluster_cidr)))
        if mac is not None and node.id != wanted.self_id:
            device, gateway = nexthops.get(NEXTHOPS + node.index, (0, ""))
            found[node.id] = Near(device, mac, gateway == node.underlay)
    return found


def frame(target: Target, identifier: int, sequence: int, size: int) -> bytes:
    """An echo request as an Ethernet frame whose IPv4 packet has `size` bytes."""
    payload = echo_request(identifier, sequence, size)
    ends = IPv4Address(target.source).packed, IPv4Address(target.address).packed
    fields = (0x45, 0, IP_HEADER.size + len(payload), sequence, DONT_FRAGMENT, TTL, ICMP)
    head = IP_HEADER.pack(*fields, checksum(IP_HEADER.pack(*fields, 0, *ends)), *ends)
    macs = bytes.fromhex((target.mac + target.own_mac).replace(":", ""))
    return macs + ETHERTYPE_IPV4.to_bytes(2, "big") + head + payload
