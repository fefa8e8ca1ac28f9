"""The netlink wire format, without any I/O: messages are built and read here, sockets are in `links`.

A request is a `Message` (type, flags, body and a sentence for errors); `encode` gives it a number and
bytes, `decode` splits what the kernel sends. Both address families are understood; the family follows
from the length of the packed address. Numbers are the kernel's (uapi/linux/rtnetlink.h, if_link.h,
neighbour.h, nexthop.h, fib_rules.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

REQUEST, MULTI, ACK, DUMP_INTERRUPTED, DUMP = 0x1, 0x2, 0x4, 0x10, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34
NEWNEXTHOP, DELNEXTHOP, GETNEXTHOP = 104, 105, 106
AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
NESTED = 0x8000
TYPE_MASK = 0x3FFF

PROTOCOL = 83  # marks our routes, nexthops and rules
TABLE_MAIN, TABLE_LOCAL = 254, 255
UNICAST, LOCAL = 1, 2
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
ONLINK = 4
IFF_UP = 1
NUD_PERMANENT, NTF_SELF, NTF_USE = 0x80, 0x02, 0x01
RULE_TO_TABLE, RULE_GOTO, RULE_NOP, RULE_INVERT = 1, 2, 3, 2

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxHiHBB")
NHMSG = struct.Struct("=BBBBI")
U32 = struct.Struct("=I")


@dataclass(frozen=True)
class Message:
    """One request; `what` completes the sentence "cannot …"."""

    type: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True)
class Received:
    """One message from the kernel."""

    type: int
    flags: int
    sequence: int
    body: bytes


def encode(message: Message, sequence: int, extra_flags: int = 0) -> bytes:
    flags = message.flags | REQUEST | extra_flags
    header = HEADER.pack(HEADER.size + len(message.body), message.type, flags, sequence, 0)
    return header + message.body + bytes(-len(message.body) % 4)


def decode(data: bytes) -> Iterator[Received]:
    """Split a datagram; ValueError when it is cut short."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise ValueError(f"netlink message of {length} bytes at {offset} of {len(data)}")
        yield Received(kind, flags, sequence, data[offset + HEADER.size : offset + length])
        offset += length + -length % 4


def error_of(body: bytes) -> int:
    """The errno inside an NLMSG_ERROR body; 0 is an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0])


def attribute(kind: int, payload: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, U32.pack(value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by number (flags of the number removed); a repeated one keeps its last value."""
    return dict(attribute_list(data, offset))


def attribute_list(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes at {offset} of {len(data)}")
        yield kind & TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + -length % 4


def string(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def packed(address: str) -> bytes:
    return ip_address(address).packed


def unpacked(payload: bytes) -> str:
    return str(ip_address(payload))


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def family_of(address: bytes) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


# Links


def vxlan(name: str, vni: int, local: str, port: int, mac: str, mtu: int, group: int) -> Message:
    """A VXLAN device without learning; all its entries are static."""
    data = u32(1, vni) + attribute(4 if ":" not in local else 17, packed(local))
    data += attribute(7, b"\0") + attribute(15, struct.pack("!H", port))
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, name) + attribute(1, mac_bytes(mac))
    body += u32(4, mtu) + u32(27, group)
    body += nest(18, text(1, "vxlan"), nest(2, data))
    return Message(NEWLINK, CREATE | EXCLUSIVE, body, f"create VXLAN device {name}")


def veth(name: str, mac: str, mtu: int, group: int, peer: tuple[str, str, int | None]) -> Message:
    """A veth pair; the peer is (name, mac, fd of its network namespace or None for this one)."""
    peer_name, peer_mac, namespace_fd = peer
    inside = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, peer_name)
    inside += attribute(1, mac_bytes(peer_mac)) + u32(4, mtu)
    if namespace_fd is not None:
        inside += u32(28, namespace_fd)
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, name) + attribute(1, mac_bytes(mac))
    body += u32(4, mtu) + u32(27, group)
    body += nest(18, text(1, "veth"), nest(2, nest(1, inside)))
    return Message(NEWLINK, CREATE | EXCLUSIVE, body, f"create veth {name}")


def no_link_local(index: int, name: str) -> Message:
    """The kernel shall not give the link an IPv6 address by itself: ours are all there are. Before it is up."""
    body = IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + nest(26, nest(AF_INET6, attribute(8, b"\1")))
    return Message(NEWLINK, 0, body, f"keep {name} without an address of its own")


def link_up(
    index: int, name: str, mtu: int | None = None, alias: str = "", group: int | None = None
) -> Message:
    """Set a link up; its alias too, which the kernel ignores when a link is made."""
    body = IFINFO.pack(AF_UNSPEC, 0, index, IFF_UP, IFF_UP)
    if mtu is not None:
        body += u32(4, mtu)
    if alias:
        body += text(20, alias)
    if group is not None:
        body += u32(27, group)
    return Message(NEWLINK, 0, body, f"set {name} up")


def link_group(index: int, name: str, group: int) -> Message:
    """Put a link into another group, by which rules know it."""
    return Message(
        NEWLINK, 0, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + u32(27, group), f"put {name} into group {group}"
    )


def link_delete(name: str) -> Message:
    return Message(DELLINK, 0, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, name), f"delete {name}")


def link_dump() -> Message:
    return Message(GETLINK, DUMP, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0), "list the links")


def link_get(index: int) -> Message:
    return Message(GETLINK, 0, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0), f"look at link {index}")


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    up: bool
    mtu: int
    mac: str
    group: int
    alias: str
    kind: str
    vxlan: tuple[int, str, int] | None  # vni, local address, port


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = attributes(body, IFINFO.size)
    info = attributes(found.get(18, b""))
    kind = string(info.get(1, b""))
    tunnel = None
    if kind == "vxlan":
        data = attributes(info.get(2, b""))
        local = data.get(4) or data.get(17)
        port = struct.unpack("!H", data[15])[0] if 15 in data else 0
        tunnel = (int_of(data.get(1)), unpacked(local) if local else "", port)
    return Link(
        index, string(found.get(3, b"")), bool(flags & IFF_UP), int_of(found.get(4)),
        found.get(1, b"").hex(":"), int_of(found.get(27)), string(found.get(20, b"")), kind, tunnel,
    )  # fmt: skip


def int_of(payload: bytes | None) -> int:
    return int.from_bytes(payload, "little") if payload else 0


# Addresses


def address_add(index: int, address: str, scope: int = SCOPE_UNIVERSE) -> Message:
    """A host address (/32 or /128) on link `index`; adding it twice is fine."""
    return address_message(NEWADDR, CREATE | REPLACE, index, address, scope)


def address_delete(index: int, address: str) -> Message:
    return address_message(DELADDR, 0, index, address, SCOPE_UNIVERSE)


def address_message(kind: int, flags: int, index: int, address: str, scope: int) -> Message:
    raw = packed(address)
    no_dad = 0x02 if len(raw) == 16 else 0
    body = (
        IFADDR.pack(family_of(raw), len(raw) * 8, no_dad, scope, index)
        + attribute(2, raw)
        + attribute(1, raw)
    )
    return Message(kind, flags, body, f"set address {address}")


def address_dump() -> Message:
    return Message(GETADDR, DUMP, IFADDR.pack(AF_INET, 0, 0, 0, 0), "list the addresses")


def parse_address(body: bytes) -> tuple[int, str]:
    """(link index, address)."""
    return parse_prefix(body)[:2]


def parse_prefix(body: bytes) -> tuple[int, str, int]:
    """(link index, address, prefix length)."""
    _, bits, _, _, index = IFADDR.unpack_from(body)
    found = attributes(body, IFADDR.size)
    return index, unpacked(found.get(2, found.get(1, bytes(4)))), bits


# Routes and nexthops


@dataclass(frozen=True)
class Route:
    """A route of ours. Exactly one of `nexthop` (an id) or `device` (a link index) leads somewhere.

    One in TABLE_LOCAL says that the address is this machine's for what comes in by `device`: each device has its own.
    """

    table: int
    destination: str  # "a.b.c.d/n"
    nexthop: int = 0
    device: int = 0
    gateway: str = ""
    source: str = ""

    @property
    def key(self) -> tuple[int, str]:
        return self.table, self.destination


def route_add(route: Route) -> Message:
    return route_message(NEWROUTE, CREATE | REPLACE, route, "set")


def route_delete(route: Route) -> Message:
    return route_message(DELROUTE, 0, route, "delete")


def route_message(kind: int, flags: int, route: Route, verb: str) -> Message:
    network = ip_network(route.destination)
    raw = network.network_address.packed
    scope = SCOPE_LINK if route.device and not route.gateway else SCOPE_UNIVERSE
    form = UNICAST
    if route.table == TABLE_LOCAL:
        scope, form = SCOPE_HOST, LOCAL
    table = route.table if route.table < 256 else 0
    onlink = ONLINK if route.gateway else 0
    body = RTMSG.pack(family_of(raw), network.prefixlen, 0, 0, table, PROTOCOL, scope, form, onlink)
    body += attribute(1, raw) if network.prefixlen else b""
    body += u32(15, route.table)
    if form == LOCAL:
        body += u32(6, route.device)  # its metric: without one of its own it would replace another device's
    if route.nexthop:
        body += u32(30, route.nexthop)
    if route.device:
        body += u32(4, route.device)
    if route.gateway:
        body += attribute(5, packed(route.gateway))
    if route.source:
        body += attribute(7, packed(route.source))
    return Message(kind, flags, body, f"{verb} route {route.destination} in table {route.table}")


def route_dump(family: int = AF_INET) -> Message:
    return Message(GETROUTE, DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list the routes")


def parse_route(body: bytes) -> Route | None:
    """A route of our protocol, or None for anybody else's."""
    family, bits, _, _, table, protocol, _, _, _ = RTMSG.unpack_from(body)
    if protocol != PROTOCOL:
        return None
    found = attributes(body, RTMSG.size)
    raw = found.get(1, bytes(4 if family == AF_INET else 16))
    nexthop = int_of(found.get(30))
    return Route(
        int_of(found.get(15)) or table,
        f"{unpacked(raw)}/{bits}",
        nexthop,
        0 if nexthop else int_of(found.get(4)),
        "" if nexthop or 5 not in found else unpacked(found[5]),
        unpacked(found[7]) if 7 in found else "",
    )


def parse_foreign_route(body: bytes) -> tuple[int, str] | None:
    """(link index, gateway) of a route that is not ours and leads through a gateway."""
    protocol = RTMSG.unpack_from(body)[5]
    found = attributes(body, RTMSG.size)
    return None if protocol == PROTOCOL or 5 not in found else (int_of(found.get(4)), unpacked(found[5]))


def nexthop_add(number: int, device: int, gateway: str) -> Message:
    raw = packed(gateway)
    body = NHMSG.pack(family_of(raw), 0, PROTOCOL, 0, ONLINK) + u32(1, number) + u32(5, device)
    return Message(
        NEWNEXTHOP, CREATE | REPLACE, body + attribute(6, raw), f"set nexthop {number} via {gateway}"
    )


def nexthop_delete(number: int) -> Message:
    return Message(DELNEXTHOP, 0, NHMSG.pack(0, 0, 0, 0, 0) + u32(1, number), f"delete nexthop {number}")


def nexthop_dump() -> Message:
    return Message(GETNEXTHOP, DUMP, NHMSG.pack(0, 0, 0, 0, 0), "list the nexthops")


def parse_nexthop(body: bytes) -> tuple[int, int, str] | None:
    """(id, link index, gateway) of one of ours, else None."""
    _, _, protocol, _, _ = NHMSG.unpack_from(body)
    found = attributes(body, NHMSG.size)
    if protocol != PROTOCOL or 6 not in found:
        return None
    return int_of(found.get(1)), int_of(found.get(5)), unpacked(found[6])


# Neighbours and forwarding entries


def neighbour_add(device: int, address: str, mac: str) -> Message:
    raw = packed(address)
    body = NDMSG.pack(family_of(raw), 0, device, NUD_PERMANENT, 0, 1) + attribute(1, raw)
    return Message(
        NEWNEIGH, CREATE | REPLACE, body + attribute(2, mac_bytes(mac)), f"set neighbour {address}"
    )


def neighbour_use(device: int, address: str) -> Message:
    """Have the kernel find out the neighbour's MAC, as if a packet went there."""
    raw = packed(address)
    body = NDMSG.pack(family_of(raw), 0, device, 0, NTF_USE, 1) + attribute(1, raw)
    return Message(NEWNEIGH, CREATE, body, f"ask for neighbour {address}")


def neighbour_delete(device: int, address: str) -> Message:
    raw = packed(address)
    body = NDMSG.pack(family_of(raw), 0, device, 0, 0, 0) + attribute(1, raw)
    return Message(DELNEIGH, 0, body, f"delete neighbour {address}")


def fdb_add(device: int, mac: str, remote: str) -> Message:
    """Frames for `mac` go to the VXLAN endpoint `remote`."""
    body = NDMSG.pack(AF_BRIDGE, 0, device, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(2, mac_bytes(mac)) + attribute(1, packed(remote))
    return Message(NEWNEIGH, CREATE | REPLACE, body, f"set forwarding entry {mac} to {remote}")


def fdb_delete(device: int, mac: str) -> Message:
    body = NDMSG.pack(AF_BRIDGE, 0, device, 0, NTF_SELF, 0) + attribute(2, mac_bytes(mac))
    return Message(DELNEIGH, 0, body, f"delete forwarding entry {mac}")


def neighbour_dump(family: int) -> Message:
    """AF_INET lists neighbours, AF_BRIDGE forwarding entries."""
    return Message(GETNEIGH, DUMP, NDMSG.pack(family, 0, 0, 0, 0, 0), "list the neighbours")


def parse_neighbour(body: bytes) -> tuple[int, bool, str, str]:
    """(link index, permanent, address, mac); for a forwarding entry the address is the remote endpoint."""
    _, _, device, state, _, _ = NDMSG.unpack_from(body)
    found = attributes(body, NDMSG.size)
    address = unpacked(found[1]) if 1 in found else ""
    return device, bool(state & NUD_PERMANENT), address, found.get(2, b"").hex(":")


# Rules


@dataclass(frozen=True)
class Rule:
    """A routing rule of ours. `target` is a table, or the priority to go to; a NOP has neither."""

    priority: int
    action: int
    target: int = 0
    mark: int = 0
    mask: int = 0
    invert: bool = False
    family: int = AF_INET


def rule_message(kind: int, rule: Rule) -> Message:
    flags = RULE_INVERT if rule.invert else 0
    body = RTMSG.pack(rule.family, 0, 0, 0, 0, 0, 0, rule.action, flags) + u32(6, rule.priority)
    body += attribute(21, bytes((PROTOCOL,)))
    if rule.mask:
        body += u32(10, rule.mark) + u32(16, rule.mask)
    if rule.action == RULE_TO_TABLE:
        body += u32(15, rule.target)
    elif rule.action == RULE_GOTO:
        body += u32(4, rule.target)
    verb, more = ("add", CREATE | EXCLUSIVE) if kind == NEWRULE else ("delete", 0)
    return Message(kind, more, body, f"{verb} rule {rule.priority}")


def rule_dump(family: int = AF_INET) -> Message:
    return Message(GETRULE, DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list the rules")


def parse_rule(body: bytes) -> Rule | None:
    """A rule of our protocol, else None."""
    family, *_, action, flags = RTMSG.unpack_from(body)
    found = attributes(body, RTMSG.size)
    if int_of(found.get(21)) != PROTOCOL:
        return None
    target = int_of(found.get(15 if action == RULE_TO_TABLE else 4)) if action != RULE_NOP else 0
    mark, mask = int_of(found.get(10)), int_of(found.get(16))
    return Rule(int_of(found.get(6)), action, target, mark, mask, bool(flags & RULE_INVERT), family)
