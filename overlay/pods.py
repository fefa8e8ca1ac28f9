"""Attaching pods: a pinned namespace, a veth pair, /32 routes, permanent neighbours. No bridge.

Every step can be repeated: attaching again adopts what is there and completes what is missing. The host
side is `swv<8 hex of the pod id's hash>` with the pod id in its alias, so that pods are found again after a
crash. The default route leads to 169.254.1.1, which exists only as a neighbour entry.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from swarmpy.overlay import ipam, namespaces, netlink, rules
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.links import Socket, link_at, links
from swarmpy.overlay.netlink import Message, Route
from swarmpy.overlay.wanted import Wanted

ALIAS = "swarmpy:"
POD_INTERFACE = "eth0"
IPV6 = Path("/proc/sys/net/ipv6")  # of the thread's namespace
Addresses = tuple[tuple[str, str, str], ...]  # (network id, ip, subnet)


@dataclass(frozen=True)
class Pod:
    """An attached pod; `interface` is its host side, addresses are plain IPs."""

    netns_path: Path
    interface: str
    addresses: tuple[str, ...]


def interface_of(pod_id: str) -> str:
    return rules.VETH_PREFIX + hashlib.sha256(pod_id.encode()).hexdigest()[:8]


def index_of(name: str) -> int:
    """A link's index in the thread's namespace; 0 when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def check_id(pod_id: str) -> None:
    if not pod_id or "/" in pod_id or pod_id.startswith("."):
        raise OverlayError(f"pod id {pod_id!r} cannot be a file name")


def attach(
    route: Socket, pin: Path, pod_id: str, addresses: Addresses, mtu: int, sources: tuple[str, str],
    internal: set[str],
) -> Pod:  # fmt: skip
    """Make or complete the pod's network; `sources` are the node's own overlay addresses, IPv4 and IPv6."""
    if not addresses:
        raise OverlayError(f"pod {pod_id} has no address: allocate one from the node's block first")
    name = interface_of(pod_id)
    if not namespaces.is_pinned(pin):
        pin.unlink(missing_ok=True)
        namespaces.pin(pin)
    handle = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mac = ipam.pod_mac(addresses[0][1])
        if index_of(name):
            check_owner(route, name, pod_id)
        else:
            peer = (POD_INTERFACE, mac, handle)
            route.send([netlink.veth(name, rules.GATEWAY_MAC, mtu, rules.PODS_GROUP, peer)])
        with namespaces.inside(handle) as inner:
            inner.send(pod_side(index_of(POD_INTERFACE), addresses, internal))
        if addresses_of_ipv6(addresses):
            route.send([netlink.no_link_local(index_of(name), name)])
        route.send(host_side(index_of(name), name, pod_id, addresses, sources))
    finally:
        os.close(handle)
    return Pod(pin, name, tuple(ip for _, ip, _ in addresses))


def addresses_of_ipv6(addresses: Addresses) -> list[str]:
    return [ip for _, ip, _ in addresses if ":" in ip]


def check_owner(route: Socket, name: str, pod_id: str) -> None:
    """A link of our group without alias is one whose making was interrupted."""
    link = link_at(route, index_of(name))
    if link is not None and (link.group != rules.PODS_GROUP or link.alias not in {"", ALIAS + pod_id}):
        raise OverlayError(f"link {name} belongs to {link.alias or 'somebody else'}, not to pod {pod_id}")


def pod_side(device: int, addresses: Addresses, internal: set[str]) -> Iterable[Message]:
    if not device:
        raise OverlayError(
            f"a pod's namespace has lost its {POD_INTERFACE}: detach the pod and attach it again"
        )
    yield netlink.link_up(namespaces.LOOPBACK_INDEX, "lo")
    for _, ip, _ in addresses:
        yield netlink.address_add(device, ip)
    yield netlink.link_up(device, POD_INTERFACE)
    table = netlink.TABLE_MAIN
    for everything, gateway in (("0.0.0.0/0", rules.GATEWAY_ADDRESS), ("::/0", rules.GATEWAY_ADDRESS6)):
        mine = [entry for entry in addresses if (":" in entry[1]) == (":" in gateway)]
        if not mine:
            continue
        yield netlink.neighbour_add(device, gateway, rules.GATEWAY_MAC)
        outer = next((ip for network_id, ip, _ in mine if network_id not in internal), mine[0][1])
        yield netlink.route_add(Route(table, everything, device=device, gateway=gateway, source=outer))
        for _, ip, subnet in mine if len(mine) > 1 else ():
            yield netlink.route_add(Route(table, subnet, device=device, gateway=gateway, source=ip))


def host_side(
    device: int, name: str, pod_id: str, addresses: Addresses, sources: tuple[str, str]
) -> Iterable[Message]:
    mac = ipam.pod_mac(addresses[0][1])
    yield netlink.link_up(device, name, alias=ALIAS + pod_id)
    for _, ip, _ in addresses:
        six = ":" in ip
        yield netlink.neighbour_add(device, ip, mac)
        prefix, source = f"{ip}/{128 if six else 32}", sources[six]
        yield netlink.route_add(Route(netlink.TABLE_MAIN, prefix, device=device, source=source))
    if addresses_of_ipv6(addresses):
        yield netlink.route_add(rules.loopback_answers(device))


def detach(route: Socket, pin: Path, pod_id: str) -> None:
    """Remove the pod's link and let go of its namespace; repeating it is fine."""
    check_id(pod_id)
    if index_of(interface_of(pod_id)):
        check_owner(route, interface_of(pod_id), pod_id)
        route.send([netlink.link_delete(interface_of(pod_id))], ignore=(errno.ENODEV,))
    namespaces.unpin(pin)


def found(route: Socket, directory: Path) -> dict[str, Pod]:
    """Pods that left a link or a pin, whole or not."""
    addresses: dict[int, list[str]] = {}
    families = (netlink.AF_INET, netlink.AF_INET6) if IPV6.is_dir() else (netlink.AF_INET,)
    dumps = [netlink.route_dump(family) for family in families]
    for body in [body for dump in dumps for body in route.dump(dump)]:
        entry = netlink.parse_route(body)
        if entry is None or entry.nexthop or entry.table != netlink.TABLE_MAIN:
            continue
        address, _, bits = entry.destination.partition("/")
        if bits == ("128" if ":" in address else "32"):
            addresses.setdefault(entry.device, []).append(address)
    pods = {
        link.alias.removeprefix(ALIAS): Pod(
            directory / link.alias.removeprefix(ALIAS), name, tuple(addresses.get(link.index, ()))
        )
        for name, link in links(route).items()
        if link.group == rules.PODS_GROUP and link.kind == "veth" and link.alias.startswith(ALIAS)
    }
    for path in directory.iterdir() if directory.is_dir() else ():
        pods.setdefault(path.name, Pod(path, "", ()))
    return pods


def adopted(found: Mapping[str, Pod], wanted: Wanted) -> Iterator[tuple[str, Addresses]]:
    """What pods there are and on which networks, from what was found in the kernel."""
    subnets = [
        (network.id, subnet, ip_network(subnet))
        for network in wanted.networks
        for subnet in (network.subnet, network.subnet6)
        if subnet
    ]
    for pod_id, pod in found.items():
        addresses = tuple(
            (network_id, ip, text)
            for ip in pod.addresses
            for network_id, text, subnet in subnets
            if ip_address(ip) in subnet
        )
        if addresses:
            yield pod_id, addresses


def problems(found: Mapping[str, Pod], wanted: Mapping[str, Addresses]) -> Iterator[str]:
    """What attached pods have lost, in words."""
    for pod_id, addresses in wanted.items():
        pod = found.get(pod_id)
        if pod is None or not pod.interface:
            yield f"pod {pod_id} has no link"
        elif not namespaces.is_pinned(pod.netns_path):
            yield f"pod {pod_id} has no namespace"
        elif missing := {ip for _, ip, _ in addresses} - set(pod.addresses):
            yield f"pod {pod_id} has no route for {', '.join(sorted(missing))}"
