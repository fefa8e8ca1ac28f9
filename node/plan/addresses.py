"""How the cluster's prefix is divided, as arithmetic.

A prefix of /10 (10.64.0.0/10, the default) is 64 units of /16; a smaller one
has 64 smaller units:

    unit 0          nodes: base + index            10.64/16
    unit 1          virtual IPs                    10.65/16
    units 2 and 3   kept free
    units 4 to 7    the default network            10.68/14, a /24 block per node
    units 8 to 63   users' networks                /18 each from 10.72.0.0, /26 blocks

IPv6 is a /48 of unique local addresses that follows from the cluster's id, a /64 per network with IPv6, and a
/96 of it per node: those blocks need no lease.

A network's block is what one node gives pod addresses from, without asking. Its
first and last address are never given to a pod.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError

UNIT_BITS = 6
CLUSTER_PREFIX_MAX = 18
SUBNET_PREFIX_MAX = 28
USER_PREFIX = 18
USER_BLOCK_BITS = 26
DEFAULT_BLOCK_BITS = 24
BLOCK_BITS_MAX = 30


@dataclass(frozen=True)
class Pools:
    """The parts of the cluster's prefix."""

    cluster: IPv4Network
    nodes: IPv4Network
    vips: IPv4Network
    default: IPv4Network
    user_prefix: int

    @property
    def node_index_max(self) -> int:
        return self.nodes.num_addresses - 2

    @property
    def reserved(self) -> tuple[IPv4Network, ...]:
        """What no user's network may overlap."""
        return (self.nodes, self.vips, self.default)

    def user_networks(self) -> Iterator[IPv4Network]:
        """Every prefix a user's network can get, lowest first."""
        start = int(self.cluster.network_address) + 8 * self.nodes.num_addresses
        size = 1 << (32 - self.user_prefix)
        for base in range(start, int(self.cluster.broadcast_address) + 1, size):
            yield IPv4Network((base, self.user_prefix))

    def free_user_network(self, taken: Iterable[IPv4Network]) -> IPv4Network | None:
        """The lowest prefix for a user's network that shares no address with those taken."""
        spans = [(int(other.network_address), int(other.broadcast_address)) for other in taken]
        for network in self.user_networks():
            low, high = int(network.network_address), int(network.broadcast_address)
            if not any(first <= high and low <= last for first, last in spans):
                return network
        return None


@lru_cache(maxsize=4)
def pools(cluster_cidr: str) -> Pools:
    """ValueError, with a sentence, if the prefix cannot be divided."""
    cluster = parse(cluster_cidr)
    if cluster.prefixlen > CLUSTER_PREFIX_MAX:
        raise ValueError(
            f"cluster prefix {cluster} is too small: /{CLUSTER_PREFIX_MAX} or larger, e.g. 10.64.0.0/10"
        )
    unit = cluster.prefixlen + UNIT_BITS
    size = 1 << (32 - unit)
    base = int(cluster.network_address)
    return Pools(
        cluster=cluster,
        nodes=IPv4Network((base, unit)),
        vips=IPv4Network((base + size, unit)),
        default=IPv4Network((base + 4 * size, unit - 2)),
        user_prefix=max(USER_PREFIX, unit),
    )


def prefix6(cluster_id: str) -> IPv6Network:
    """The cluster's own /48 of unique local addresses, from its id."""
    digest = hashlib.sha256(f"swarmpy {cluster_id}".encode()).digest()
    return IPv6Network((bytes((0xFD,)) + digest[:5] + bytes(10), 48))


def free_subnet6(prefix: IPv6Network, taken: Iterable[str]) -> str | None:
    """The lowest /64 for a network; 0 is the nodes', 1 the virtual IPs'."""
    busy = set(taken)
    base = int(prefix.network_address)
    numbers = (IPv6Network((base + (number << 64), 64)) for number in range(2, 1 << 16))
    return next((str(subnet) for subnet in numbers if str(subnet) not in busy), None)


def vip6(address: str, prefix: IPv6Network) -> str:
    """The IPv6 form of a virtual IP."""
    return str(IPv6Address(int(prefix.network_address) + (1 << 64) + int(IPv4Address(address))))


def parse(cidr: str) -> IPv4Network:
    """An IPv4 prefix; ValueError with a sentence for people if it is none."""
    try:
        network = IPv4Network(cidr, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ValueError(f"{cidr!r} is not an IPv4 prefix such as 10.9.0.0/16") from error
    if "/" not in cidr:
        raise ValueError(f"{cidr!r} has no prefix length: write it like 10.9.0.0/16")
    address = cidr.partition("/")[0]
    if address != str(network.network_address):
        raise ValueError(f"{cidr!r} has host bits set: the prefix is {network}")
    return network


def block_bits(subnet: IPv4Network, *, default: bool = False) -> int:
    """Prefix length of one node's block: room for nodes and for pods on each, halved between them."""
    floor = DEFAULT_BLOCK_BITS if default else USER_BLOCK_BITS
    return min(BLOCK_BITS_MAX, max(floor, (subnet.prefixlen + 33) // 2))


def block_capacity(bits: int) -> int:
    """Pods that a block of this prefix length has addresses for."""
    return (1 << (32 - bits)) - 2


def blocks_needed(tasks: int, bits: int) -> int:
    """Blocks for a node with so many tasks, with an eighth to spare for tasks that come before others end."""
    capacity = block_capacity(bits)
    return -(-(tasks + capacity // 8) // capacity) if tasks else 0


def free_blocks(
    subnet: IPv4Network, bits: int, taken: Iterable[str], *, from_top: bool = False
) -> Iterator[str]:
    """Blocks of `subnet` that are not taken, lowest (or highest) first."""
    busy = {cidr.partition("/")[0] for cidr in taken}
    size = 1 << (32 - bits)
    bases = range(int(subnet.network_address), int(subnet.broadcast_address) + 1, size)
    for base in reversed(bases) if from_top else bases:
        address = inet_text(base)
        if address not in busy:
            yield f"{address}/{bits}"


def inet_text(address: int) -> str:
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def free_address(pool: IPv4Network, taken: Collection[str], salt: str) -> str | None:
    """A free address, starting at a place given by `salt`: a freed one is rarely given again at once."""
    room = pool.num_addresses - 2
    if room <= 0 or len(taken) >= room:
        return None
    start = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big") % room
    for step in range(room):
        address = str(pool.network_address + 1 + (start + step) % room)
        if address not in taken:
            return address
    return None


def overlap(subnet: IPv4Network, others: Iterable[tuple[str, IPv4Network]]) -> str:
    """The title of the first of `others` that shares addresses with `subnet`, or ""."""
    return next((title for title, other in others if subnet.overlaps(other)), "")
