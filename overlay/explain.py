"""Which way a packet takes through what the kernel holds, in words. Pure: a `State` in, steps out.

It reads the kernel's own state, not what is wanted: a missing entry is seen as the packet would see it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from swarmpy.overlay import ingress, nfcodec, rules
from swarmpy.overlay.netlink import Route
from swarmpy.overlay.nfcodec import Elements
from swarmpy.overlay.rules import State
from swarmpy.overlay.wanted import Wanted


@dataclass(frozen=True)
class Step:
    """One thing that happens to the packet; `failed` = here it ends."""

    what: str
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Way:
    """Where a destination leads: `backends` are (address, port); none with a failed step at the end."""

    steps: tuple[Step, ...]
    backends: tuple[tuple[str, int], ...] = ()
    translated: bool = False


def way(state: State, wanted: Wanted, destination: str, port: int, protocol: str) -> Way:
    """What becomes of a new connection to `destination`:`port` before it is routed."""
    found = verdict_of(state, wanted, destination, port, protocol)
    if found is None:
        if is_inside(wanted, destination):
            return Way(
                (Step("destination", f"{destination} is a task's own address"),), ((destination, port),)
            )
        if destination in node_addresses(wanted):
            text = f"{destination} is a node, and port {port}/{protocol} is not published there"
            return Way((Step("destination", text, failed=True),))
        return Way((Step("destination", f"{destination} is outside the cluster"),), ((destination, port),))
    title, verdict, backends, chain_there = found
    if verdict == ingress.REFUSE:
        return Way(
            (Step(title, f"{at(destination, port)}/{protocol} has no ready task: refused", failed=True),),
            (), True,
        )  # fmt: skip
    if not chain_there:
        return Way((Step(title, f"leads to chain {verdict}, which is not there", failed=True),), (), True)
    expected, distinct = int(verdict[1:].lstrip("h")), tuple(dict.fromkeys(backends))
    shown = ", ".join(at(*backend) for backend in distinct)
    if len(backends) != expected:
        text = f"chain {verdict} draws among {expected}, but the map has {len(backends)}: {shown or 'none'}"
        return Way((Step(title, text, failed=True),), distinct, True)
    how = "by the client's address" if "h" in verdict else "at random"
    return Way((Step(title, f"{at(destination, port)} is balanced {how} over {shown}"),), distinct, True)


def verdict_of(
    state: State, wanted: Wanted, destination: str, port: int, protocol: str
) -> tuple[str, str, list[tuple[str, int]], bool] | None:
    """(which map, its verdict, backends, whether the chain exists), None: nothing is changed."""
    target = nfcodec.address(destination)
    six = ingress.suffix_of(destination)
    family = rules.IPV6 if six else rules.IPV4
    keys = {"vip": target}
    if ip_address(destination).is_loopback or destination in node_addresses(wanted):
        number = nfcodec.protocol(protocol) + nfcodec.port(port)
        keys = {"bound": target + number, "port": number}
    for title, key in keys.items():
        verdicts, name = next((v, b) for v, b, _ in ingress.MAPS if v == title + six)
        verdict = state.sets.get(verdicts, {}).get(key)
        if isinstance(verdict, str):
            backends = list(backends_of(state.sets.get(name, {}), key, port))
            there = verdict == ingress.REFUSE or (family, verdict) in state.chains
            return ("published port" if title != "vip" else "vip"), verdict, backends, there
    return None


def backends_of(elements: Elements, key: bytes, port: int) -> Iterator[tuple[str, int]]:
    for found, data in sorted(elements.items()):
        if found[:-4] == key and isinstance(data, bytes):
            size = 16 if len(data) >= 16 else 4
            number = int.from_bytes(data[size : size + 2], "big") if len(data) > size else port
            yield str(ip_address(data[:size])), number


def at(address: str, port: int) -> str:
    """As people write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_inside(wanted: Wanted, address: str) -> bool:
    """Whether it is an address of a pod, or could be."""
    parsed = ip_address(address)
    subnets = (
        subnet for network in wanted.networks for subnet in (network.subnet, network.subnet6) if subnet
    )
    return any(parsed in ip_network(subnet) for subnet in subnets)


def node_addresses(wanted: Wanted) -> set[str]:
    return {address for node in wanted.nodes for address in (node.underlay, node.address)}


def allowed(state: State, source: str, destination: str, translated: bool) -> Step:
    """What the rules between networks say of a pod's packet to `destination`."""
    pair = nfcodec.address(source) + nfcodec.address(destination)
    six = ingress.suffix_of(destination)
    if len(pair) in (8, 32) and any_interval(state.sets.get("net_pair" + six, {}), pair):
        return Step("isolation", f"{source} and {destination} are on one network")
    if any_interval(state.sets.get("internal" + six, {}), pair):
        return Step("isolation", f"the network of {source} is internal: no way out", failed=True)
    if translated:
        return Step("isolation", "allowed for published ports only", failed=False)
    return Step("isolation", f"{source} and {destination} are on different networks: refused", failed=True)


def policies(state: State, direction: str, pod: str, other: str, port: int, protocol: str) -> Step | None:
    """What network policies say: `direction` is in or out of `pod`. None where none selects it."""
    six = ingress.suffix_of(pod)
    data = state.sets.get(f"policy_{direction}{six}", {}).get(nfcodec.address(pod))
    if not isinstance(data, bytes):
        return None
    if nfcodec.address(pod) + nfcodec.address(other) in state.sets.get("policy_self" + six, {}):
        return None
    words = f"{'to' if direction == 'in' else 'from'} {pod}"
    if direction == "in" and nfcodec.address(other) in state.sets.get("overlay_nodes" + six, {}):
        return Step("policy", f"nodes may always connect {words}")
    # nft turns a mark into network order before it looks in an interval set.
    group = int.from_bytes(data, sys.byteorder).to_bytes(4, "big")
    fields = (group, nfcodec.address(other))
    numbers = (nfcodec.protocol(protocol), nfcodec.port(port))
    for name, value in (("policy_any", fields), ("policy_port", fields + numbers)):
        if any(within(key, value) for key in state.sets.get(name + six, {})):
            return Step("policy", f"allowed {words}: {at(other, port)}/{protocol}")
    return Step("policy", f"no policy allows {other} and {port}/{protocol} {words}: refused", failed=True)


def within(key: bytes, value: tuple[bytes, ...]) -> bool:
    """Whether every field lies between the key's low and high end of it."""
    low, high = key[: len(key) // 2], key[len(key) // 2 :]
    if len(low) != sum(map(len, value)):
        return False
    offset = 0
    for part in value:
        end = offset + len(part)
        if not low[offset:end] <= part <= high[offset:end]:
            return False
        offset = end
    return True


def any_interval(elements: Elements, value: bytes) -> bool:
    """Whether an interval of joined addresses (low ends, high ends) holds `value`, field by field."""
    half = len(value) // 2
    for key in elements:
        low, high = key[: len(key) // 2], key[len(key) // 2 :]
        if len(low) == len(value) and all(
            low[part] <= value[part] <= high[part] for part in (slice(0, half), slice(half, None))
        ):
            return True
    return False


def hop(state: State, wanted: Wanted, destination: str) -> Iterator[Step]:
    """From this node to the one that has `destination`."""
    if ":" in destination and nfcodec.address(destination)[:12] + bytes(4) in state.sets.get(
        "own_block6", {}
    ):
        yield Step("route", f"{destination} is in this node's own block")
        return
    route = longest(state.routes.values(), destination)
    if route is None or (route.device and route.device != rules.LOOPBACK_INDEX and not route.gateway):
        inside = is_inside(wanted, destination)
        yield Step("route", f"no node has a block with {destination}", failed=inside)
        return
    if route.device == rules.LOOPBACK_INDEX:
        yield Step("route", f"{destination} is in this node's own block {route.destination}")
        return
    if route.nexthop in state.direct:
        _, gateway = state.direct[route.nexthop]
        yield Step("route", f"{route.destination} via {gateway} directly, without VXLAN")
        return
    gateway = state.nexthops.get(route.nexthop, "")
    mac = state.neighbours.get(gateway, "")
    remote = state.forwarding.get(mac, "")
    owner = next((node for node in wanted.nodes if node.underlay == remote), None)
    if not gateway:
        yield Step("route", f"{route.destination} uses nexthop {route.nexthop}, which is not there", True)
    elif not mac:
        yield Step("route", f"{route.destination} via {gateway}, which has no neighbour entry", True)
    elif not remote:
        yield Step("route", f"{route.destination} via {gateway}, whose MAC {mac} has no endpoint", True)
    else:
        down = owner is not None and owner.down
        text = f"{route.destination} via {gateway} ({mac}) to {remote}" + (
            ", a node that is down" if down else ""
        )
        yield Step("route", text, failed=down)


def longest(routes: Iterable[Route], destination: str) -> Route | None:
    address = ip_address(destination)
    fitting = [
        route for route in routes
        if route.table == 254 and (net := ip_network(route.destination)).version == address.version and address in net
    ]  # fmt: skip
    return max(fitting, key=lambda route: ip_network(route.destination).prefixlen, default=None)


def trusted(state: State, source: str, mac: str) -> bool:
    """Whether this node takes packets from `source` when they come from the endpoint with this MAC."""
    ether = nfcodec.ether(mac)
    value = ether + nfcodec.address(source)
    for key in state.sets.get("vtep_source" + ingress.suffix_of(source), {}):
        low, high = key[: len(key) // 2], key[len(key) // 2 :]
        if len(low) == len(value) and low[:8] == ether and low[8:] <= value[8:] <= high[8:]:
            return True
    return False
