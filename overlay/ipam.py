"""Addresses by arithmetic: a node's own numbers from its index, a pod's address from the node's blocks.

Rules
  - The first /16 of the cluster prefix (or all of a smaller one) holds the nodes: address = base + index.
  - The first and last address of a block are never given to a pod: tools treat them as network and broadcast.
  - IPv6 addresses follow from IPv4 ones, so nothing of them is leased: the cluster has a /48 (subnet 0 nodes,
    1 virtual IPs, then one /64 per network), a node has a /96 of each network, and a pod's last 32 bits are its
    IPv4 address.
  - `allocate` goes round the blocks behind `after`, so that an address just freed is reused last; a
    connection to its former owner then meets nobody instead of a stranger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

INDEX_MAX = 0xFFFFFF


def node_address(index: int, cluster_cidr: str) -> str:
    """The overlay address of node `index`; ValueError when the prefix has no room for it."""
    cluster = IPv4Network(cluster_cidr)
    room = min(cluster.num_addresses, 1 << 16)
    if not 0 < index < room - 1:
        raise ValueError(f"node index {index} has no address in {cluster_cidr}: it holds 1 to {room - 2}")
    return str(cluster.network_address + index)


def node_address6(index: int, prefix: str) -> str:
    """The overlay's IPv6 address of node `index`; `prefix` is the cluster's /48."""
    return str(IPv6Address(int(IPv6Network(prefix).network_address) + index))


def vips(cluster_cidr: str) -> str:
    """The prefix of virtual IPs: the second of the cluster's 64 parts."""
    cluster = IPv4Network(cluster_cidr)
    bits = min(cluster.prefixlen + 6, 32)
    return str(IPv4Network((int(cluster.network_address) + (1 << (32 - bits)), bits)))


def vips6(cluster_cidr: str, prefix: str) -> str:
    """The same of their IPv6 forms."""
    part = IPv4Network(vips(cluster_cidr))
    return str(IPv6Network((vip6(str(part.network_address), prefix), 96 + part.prefixlen)))


def vip6(address: str, prefix: str) -> str:
    """The IPv6 form of a virtual IP: subnet 1 of the cluster's /48, and the IPv4 address in its last bits."""
    return str(IPv6Address(int(IPv6Network(prefix).network_address) + (1 << 64) + int(IPv4Address(address))))


def address6(address: str, subnet: str, index: int) -> str:
    """The IPv6 form of a pod's address: its network's /64, its node's number, its IPv4 address."""
    return str(
        IPv6Address(int(IPv6Network(node_block6(subnet, index)).network_address) + int(IPv4Address(address)))
    )


def node_block6(subnet: str, index: int) -> str:
    """The /96 of a network's /64 in which node `index` has its pods."""
    return str(IPv6Network((int(IPv6Network(subnet).network_address) + (index << 32), 96)))


def node_mac(index: int) -> str:
    """The MAC of node `index`'s VXLAN endpoint: `0a:53:57:` and the index."""
    if not 0 < index <= INDEX_MAX:
        raise ValueError(f"node index {index} is outside 1 to {INDEX_MAX}")
    return "0a:53:57:" + index.to_bytes(3, "big").hex(":")


def pod_mac(address: str) -> str:
    """A pod's MAC, from its first address."""
    return "0a:58:" + IPv4Address(address).packed.hex(":")


def allocate(blocks: Iterable[str], used: Collection[str], after: str | None = None) -> str | None:
    """A free address of `blocks`, the next one behind `after` if given; None when all are taken."""
    taken = {int(IPv4Address(address)) for address in used}
    start = int(IPv4Address(after)) if after is not None else -1
    first: int | None = None
    for network in sorted({IPv4Network(block) for block in blocks}):
        low, high = usable(network)
        candidate = free_from(max(low, start + 1), high, taken)
        if candidate is not None:
            return str(IPv4Address(candidate))
        if first is None:
            first = free_from(low, high, taken)
    return None if first is None else str(IPv4Address(first))


def usable(network: IPv4Network) -> tuple[int, int]:
    low, high = int(network.network_address), int(network.broadcast_address)
    return (low + 1, high - 1) if network.prefixlen < 31 else (low, high)


def free_from(low: int, high: int, taken: Collection[int]) -> int | None:
    while low <= high:
        if low not in taken:
            return low
        low += 1
    return None
