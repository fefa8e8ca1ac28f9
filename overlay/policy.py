"""Network policies as nftables elements. Pure.

Theory
  Pods of this node with the same policies form a group with a number. `policy_in` and `policy_out` lead from
  a pod's address to its group for what comes in and goes out; `policy_any` holds (group, address) pairs that
  may use every port, `policy_port` (group, address, protocol, port). The rules are fixed: they put the group
  into the packet's mark, look the other end up, and put the mark back to 0. A task that comes or goes
  changes elements only. A group's number is a hash of its policies, so that it stays the same.
  The kernel's interval sets take no two elements that overlap: what several policies allow is cut into
  boxes of addresses and ports that do not.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from swarmpy.overlay import ipam, nfcodec
from swarmpy.overlay.nfcodec import PROTOCOLS, Elements, Set
from swarmpy.overlay.wanted import Policy, Wanted

PodAddresses = Mapping[str, tuple[tuple[str, str, str], ...]]
Range = tuple[int, int]
GROUP_BITS = 31
PORT_MAX = 65_535
V4_MAX = (1 << 32) - 1


def sets(family: int, table: str, six: str) -> dict[str, Set]:
    """Those of IPv4, or with `six` = "6" those of IPv6."""
    names = (
        "policy_in", "policy_out", "selected_in", "selected_out", "policy_any", "policy_port", "policy_self",
        "overlay_nodes",
    )  # fmt: skip
    intervals = {"policy_any", "policy_port"}
    return {name + six: Set(name + six, family, table, interval=name in intervals) for name in names}


def is_selected(wanted: Wanted, pod_id: str, addresses: Iterable[tuple[str, str, str]]) -> bool:
    """Whether any rule restricts this pod."""
    denied = {network.id for network in wanted.networks if network.default_deny}
    return any(network_id in denied for network_id, _, _ in addresses) or any(
        pod_id in policy.pods for policy in wanted.policies
    )


def build(wanted: Wanted, pods: PodAddresses) -> dict[str, Elements]:
    """The content of all policy sets for the pods of this node."""
    out: dict[str, Elements] = {name: {} for six in ("", "6") for name in sets(0, "", six)}
    for node in wanted.nodes:
        out["overlay_nodes"][nfcodec.address(ipam.node_address(node.index, wanted.cluster_cidr))] = None
        if wanted.prefix6:
            own = nfcodec.address(ipam.node_address6(node.index, wanted.prefix6))
            out["overlay_nodes6"][own] = None
    policies = {policy.id: policy for policy in wanted.policies}
    members = dict(_members(wanted, pods))
    numbers = group_numbers(members.values())
    for (name, address), group in members.items():
        out[name][nfcodec.address(address)] = nfcodec.number(numbers[group])
        # Linux before 6.6 does not look up in a map as in a set.
        out[name.replace("policy", "selected")][nfcodec.address(address)] = None
    selected = {address for _, address in members}
    for addresses in pods.values():
        own_addresses = [address for _, address, _ in addresses]
        if not selected.isdisjoint(own_addresses):
            for one, two in itertools.product(own_addresses, repeat=2):
                if suffix(one) == suffix(two):
                    out["policy_self" + suffix(one)][nfcodec.address(one) + nfcodec.address(two)] = None
    for group, number in numbers.items():
        for six in ("", "6") if wanted.prefix6 else ("",):
            # nft turns a mark into network order before it looks in an interval set.
            add_group(out, number.to_bytes(4, "big"), [policies[identity] for identity in group[1]], six)
    return out


Group = tuple[str, tuple[str, ...]]  # direction, ids of its policies


def _members(wanted: Wanted, pods: PodAddresses) -> Iterator[tuple[tuple[str, str], Group]]:
    """((set, address), group) of every pod that something selects."""
    denied = {network.id for network in wanted.networks if network.default_deny}
    by_pod: dict[str, list[Policy]] = {}
    for policy in wanted.policies:
        for pod_id in policy.pods:
            by_pod.setdefault(pod_id, []).append(policy)
    for pod_id, addresses in pods.items():
        mine = by_pod.get(pod_id, [])
        out = tuple(sorted(policy.id for policy in mine if policy.direction == "egress"))
        for network_id, address, _ in addresses:
            into = tuple(
                sorted(
                    policy.id
                    for policy in mine
                    if policy.direction == "ingress" and policy.network_id in {"", network_id}
                )
            )
            if into or network_id in denied:
                yield ("policy_in" + suffix(address), address), ("ingress", into)
            if out:
                yield ("policy_out" + suffix(address), address), ("egress", out)


def suffix(address: str) -> str:
    """Which family's sets an address or prefix is in."""
    return "6" if ":" in address else ""


def group_numbers(groups: Collection[Group]) -> dict[Group, int]:
    """A number for each, from its content; two that collide get the next free ones."""
    numbers: dict[Group, int] = {}
    taken: set[int] = set()
    for group in sorted(set(groups)):
        digest = hashlib.sha256("\0".join((group[0], *group[1])).encode()).digest()
        number = int.from_bytes(digest[:4], "big") % ((1 << GROUP_BITS) - 1) + 1
        while number in taken:
            number += 1
        taken.add(number)
        numbers[group] = number
    return numbers


def add_group(out: dict[str, Elements], group: bytes, policies: Iterable[Policy], six: str) -> None:
    anything: list[Range] = []
    ports: dict[int, list[tuple[Range, list[Range]]]] = {}
    for policy in policies:
        ranges = peer_ranges(policy, six)
        if not policy.ports:
            anything += ranges
        for protocol, first, last in policy.ports:
            ports.setdefault(PROTOCOLS[protocol], []).append(((first, last), ranges))
    for low, high in merged(anything):
        out["policy_any" + six][group + packed(low, six) + group + packed(high, six)] = None
    for number, boxes in ports.items():
        kind = bytes((number, 0, 0, 0))
        for (first, last), ranges in cut(boxes):
            for low, high in ranges:
                start = group + packed(low, six) + kind + nfcodec.port(first)
                out["policy_port" + six][start + group + packed(high, six) + kind + nfcodec.port(last)] = None


def packed(value: int, six: str) -> bytes:
    return value.to_bytes(16 if six else 4, "big")


def peer_ranges(policy: Policy, six: str = "") -> list[Range]:
    """The addresses at the other end that a policy allows, in order."""
    hosts = [int(ip_address(address)) for address in policy.peers if suffix(address) == six]
    found = [(host, host) for host in hosts]
    for block, excluded in policy.blocks:
        if suffix(block) == six:
            found += without(ends(block), [ends(cidr) for cidr in excluded if suffix(cidr) == six])
    return merged(found)


def ends(prefix: str) -> Range:
    network = ip_network(prefix)
    return int(network.network_address), int(network.broadcast_address)


def without(whole: Range, holes: Iterable[Range]) -> list[Range]:
    """What is left of a range."""
    low, high = whole
    left = []
    for first, last in merged(holes):
        if first > low:
            left.append((low, min(first - 1, high)))
        low = max(low, last + 1)
    if low <= high:
        left.append((low, high))
    return [(first, last) for first, last in left if first <= last]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers as few ranges that neither overlap nor touch."""
    out: list[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def cut(boxes: Iterable[tuple[Range, list[Range]]]) -> list[tuple[Range, list[Range]]]:
    """Boxes of ports and addresses that cover the same and do not overlap."""
    known = list(boxes)
    edges = sorted({edge for (first, last), _ in known for edge in (first, last + 1)})
    out: list[tuple[Range, list[Range]]] = []
    for start, end in itertools.pairwise(edges):
        here = merged(r for (first, last), ranges in known if first <= start <= last for r in ranges)
        if not here:
            continue
        if out and out[-1][1] == here and out[-1][0][1] == start - 1:
            out[-1] = ((out[-1][0][0], end - 1), here)
        else:
            out.append(((start, end - 1), here))
    return out
