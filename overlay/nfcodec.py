"""The nfnetlink wire format of what changes often: set elements, and connection tracking entries. Pure.

A set's content is a `dict` from key bytes to data. Keys are the kernel's registers: every field padded to
four bytes, addresses and ports in network order, numbers (`numgen`, marks) in host order. A key of an
interval set is its low end and its high end, joined. Data is bytes for a value, `str` for a verdict (the
name of the chain to go to), `None` for a plain set.

A transaction is one datagram: BEGIN, the messages, END; the kernel applies it whole or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from swarmpy.overlay import netlink
from swarmpy.overlay.netlink import Message

Data = bytes | str | None
Elements = dict[bytes, Data]

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
NFTABLES, CONNTRACK = 10 << 8, 1 << 8
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, NEWSETELEM, GETSETELEM, DELSETELEM = 3, 4, 5, 6, 7, 12, 13, 14
GOTO = -4
REPLY_SOURCE = 1  # CTA_FILTER_F_CTA_IP_SRC
COUNTING = {"counter", "limit", "quota", "last"}
ELEMENTS_PER_MESSAGE = 400
FIRST_REGISTER = 8  # NFT_REG32_00
OCTETS = {str(octet): octet for octet in range(256)}
HASH_SEED = 0x53575047  # the same on every node, so that a client meets the same backend through each
GEN = struct.Struct("=BBH")


@dataclass(frozen=True)
class Set:
    """Where a named set or map lives; `interval` keys have two ends."""

    name: str
    family: int
    table: str
    interval: bool = False


# Registers


@lru_cache(maxsize=1 << 14)
def address(value: str) -> bytes:
    """An address of either family; ValueError for anything else."""
    try:  # ipaddress takes ten times as long
        one, two, three, four = value.split(".")
        return bytes((OCTETS[one], OCTETS[two], OCTETS[three], OCTETS[four]))
    except (ValueError, KeyError):
        return ip_address(value).packed


def number(value: int) -> bytes:
    return netlink.U32.pack(value)


@lru_cache(maxsize=1024)
def numbers(count: int) -> tuple[bytes, ...]:
    """The first `count` numbers."""
    return tuple(map(number, range(count)))


def port(value: int) -> bytes:
    return struct.pack("!Hxx", value)


def protocol(name: str) -> bytes:
    return bytes((PROTOCOLS[name], 0, 0, 0))


def ether(mac: str) -> bytes:
    """A MAC as a field of a joined key; as a key of its own it is not padded."""
    return netlink.mac_bytes(mac) + b"\0\0"


def ends(prefix: str) -> tuple[bytes, bytes]:
    """The first and last address of a prefix."""
    network = ip_network(prefix)
    return network.network_address.packed, network.broadcast_address.packed


# Chains that draw a backend


def expression(name: str, *attributes: bytes) -> bytes:
    return netlink.nest(1, netlink.text(1, name), netlink.nest(2, *attributes))


def big(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, struct.pack("!I", value))


def balancing_chain(family: int, table: str, name: str) -> list[Message]:
    """Chain `v3`, `p3` or `b3`: draw a number below 3, look the backend up and go there.

    In nft's words `dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @bep`; a `v` chain
    has only the address, a `p` chain only protocol and port. In `vh3` the number is a hash of the source
    address. Made here because nft 1.0.6 compiles such a rule for TCP only, or not at all, depending on how the
    map's data is declared.
    """
    kind, hashed, count = name[0], name[1] == "h", int(name.strip("vpbh"))
    start, size = (24, 16) if family == NFPROTO_IPV6 else (16, 4)  # the destination in the network header
    words = size // 4
    first = register = FIRST_REGISTER  # the key fills 32-bit registers one by one, the result replaces it
    out = b""
    if kind in "vb":
        out += expression("payload", big(1, register), big(2, 1), big(3, start), big(4, size))
        register += words
    if kind in "pb":  # protocol, then destination port: 2 bytes at 2 of the transport header
        out += expression("meta", big(1, register), big(2, 16))
        out += expression("payload", big(1, register + 1), big(2, 2), big(3, 2), big(4, 2))
        register += 2
    if hashed:
        source = register + 1
        out += expression("payload", big(1, source), big(2, 1), big(3, start - size), big(4, size))
        out += expression(
            "hash",
            big(1, source),
            big(2, register),
            big(3, size),
            big(4, count),
            big(5, HASH_SEED),
            big(7, 0),
        )
    else:
        out += expression("numgen", big(1, register), big(2, count), big(3, 1))
    out += expression("lookup", netlink.text(1, kind + "ep"), big(2, first), big(3, first))
    target = [big(1, 1), big(2, family), big(3, first), big(4, first)]
    if kind in "pb":
        target += [big(5, first + words), big(6, first + words)]
    out += expression("nat", *target)
    chain = header(family) + netlink.text(1, table) + netlink.text(3, name)
    rule = header(family) + netlink.text(1, table) + netlink.text(2, name) + netlink.nest(4, out)
    what = f"make chain {table} {name}"
    return [
        Message(NFTABLES | NEWCHAIN, netlink.CREATE, chain, what),
        Message(NFTABLES | NEWRULE, netlink.CREATE | netlink.APPEND, rule, what),
    ]


# Set elements


def header(family: int, resource: int = 0) -> bytes:
    return GEN.pack(family, 0, struct.unpack("=H", struct.pack("!H", resource))[0])


def batch_begin() -> Message:
    return Message(BATCH_BEGIN, 0, header(0, 10), "begin the nftables transaction")


def batch_end() -> Message:
    return Message(BATCH_END, 0, header(0, 10), "commit the nftables transaction")


def element(key: bytes, data: Data, interval: bool) -> bytes:
    half = len(key) // 2 if interval else len(key)
    out = netlink.nest(1, netlink.attribute(1, key[:half]))
    if interval:
        out += netlink.nest(10, netlink.attribute(1, key[half:]))
    if isinstance(data, str):
        verdict = netlink.attribute(1, struct.pack("!i", GOTO)) + netlink.text(2, data)
        out += netlink.nest(2, netlink.nest(2, verdict))
    elif data is not None:
        out += netlink.nest(2, netlink.attribute(1, data))
    return netlink.nest(1, out)


def element_messages(kind: int, target: Set, elements: Iterable[tuple[bytes, Data]]) -> Iterator[Message]:
    """NEWSETELEM or DELSETELEM messages for all `elements`."""
    verb, flags = ("add to", netlink.CREATE) if kind == NEWSETELEM else ("delete from", 0)
    items = [element(key, data, target.interval) for key, data in elements]
    where = netlink.text(1, target.table) + netlink.text(2, target.name)
    for start in range(0, len(items), ELEMENTS_PER_MESSAGE):
        body = header(target.family) + where + netlink.nest(3, *items[start : start + ELEMENTS_PER_MESSAGE])
        yield Message(NFTABLES | kind, flags, body, f"{verb} set {target.table} {target.name}")


def transaction(
    sets: Mapping[str, Set], old: Mapping[str, Elements], new: Mapping[str, Elements]
) -> list[Message]:
    """The messages between BEGIN and END that turn `old` into `new`; empty when they agree."""
    messages: list[Message] = []
    for name, target in sets.items():
        before, after = old.get(name, {}), new.get(name, {})
        if before == after:
            continue
        gone = [(k, v) for k, v in before.items() if k not in after or after[k] != v]
        added = [(k, v) for k, v in after.items() if k not in before or before[k] != v]
        messages += element_messages(DELSETELEM, target, gone)
        messages += element_messages(NEWSETELEM, target, added)
    return messages


def elements_dump(target: Set) -> Message:
    body = header(target.family) + netlink.text(1, target.table) + netlink.text(2, target.name)
    return Message(NFTABLES | GETSETELEM, netlink.DUMP, body, f"list set {target.table} {target.name}")


def element_get(target: Set, key: bytes) -> Message:
    """Asks for one element; ENOENT when it is not there."""
    body = header(target.family) + netlink.text(1, target.table) + netlink.text(2, target.name)
    body += netlink.nest(3, element(key, None, target.interval))
    return Message(NFTABLES | GETSETELEM, 0, body, f"look into set {target.table} {target.name}")


def parse_elements(body: bytes) -> Iterator[tuple[bytes, Data]]:
    found = netlink.attributes(body, GEN.size)
    for _, item in netlink.attribute_list(found.get(3, b"")):
        fields = netlink.attributes(item)
        key = netlink.attributes(fields[1])[1]
        if 10 in fields:
            key += netlink.attributes(fields[10])[1]
        data: Data = None
        if 2 in fields:
            value = netlink.attributes(fields[2])
            data = value[1] if 1 in value else netlink.string(netlink.attributes(value[2])[2])
        yield key, data


def parse_counts(body: bytes) -> Iterator[tuple[bytes, int]]:
    """(key, packets) of elements that count; the counter is one of an element's expressions."""
    found = netlink.attributes(body, GEN.size)
    for _, item in netlink.attribute_list(found.get(3, b"")):
        fields = netlink.attributes(item)
        counters = [
            netlink.attributes(expression[2])
            for expression in map(netlink.attributes, expressions_of(fields))
            if netlink.string(expression.get(1, b"")) == "counter"
        ]
        if counters:
            yield netlink.attributes(fields[1])[1], int.from_bytes(counters[0][2], "big")


def expressions_of(element: dict[int, bytes]) -> list[bytes]:
    """One stands for itself, several in a list."""
    alone = [element[7]] if 7 in element else []
    return alone + [item for _, item in netlink.attribute_list(element.get(11, b""))]


def chains_dump(family: int) -> Message:
    return Message(NFTABLES | GETCHAIN, netlink.DUMP, header(family), "list the nftables chains")


def parse_chain(body: bytes) -> tuple[str, str]:
    """(table, chain)."""
    found = netlink.attributes(body, GEN.size)
    return netlink.string(found[1]), netlink.string(found[3])


def rules_dump(family: int) -> Message:
    return Message(NFTABLES | GETRULE, netlink.DUMP, header(family), "list the nftables rules")


def parse_rule(body: bytes) -> tuple[str, str, bytes]:
    """(table, chain, what the rule does); expressions that count are left out, they change by themselves."""
    found = netlink.attributes(body, GEN.size)
    does = b""
    for _, item in netlink.attribute_list(found.get(4, b"")):
        fields = netlink.attributes(item)
        name = netlink.string(fields.get(1, b""))
        if name not in COUNTING:
            does += name.encode() + b"\0" + fields.get(2, b"")
    return netlink.string(found[1]), netlink.string(found[2]), does


def chain_delete(family: int, table: str, name: str) -> Message:
    """With the rules in it; refused while a verdict leads there."""
    body = header(family) + netlink.text(1, table) + netlink.text(3, name)
    return Message(NFTABLES | DELCHAIN, 0, body, f"delete chain {table} {name}")


def marker_chain(family: int, table: str, name: str) -> Message:
    """An empty chain whose name says something about its table."""
    body = header(family) + netlink.text(1, table) + netlink.text(3, name)
    return Message(NFTABLES | NEWCHAIN, netlink.CREATE, body, f"make chain {table} {name}")


# Connection tracking


@dataclass(frozen=True)
class Connection:
    """One tracked connection; `raw` are the attributes by which it is deleted."""

    protocol: int
    original: tuple[str, str]  # source, destination
    reply: tuple[str, str]
    raw: bytes
    family: int = NFPROTO_IPV4

    @property
    def is_led(self) -> bool:
        """Whether its destination was changed."""
        return bool(self.reply[0]) and self.reply[0] != self.original[1]

    @property
    def is_led_udp(self) -> bool:
        return self.protocol == PROTOCOLS["udp"] and self.is_led


def all_connections_dump(family: int) -> Message:
    return Message(CONNTRACK | 1, netlink.DUMP, header(family), "list the tracked connections")


def connections_dump(backend: str) -> Message:
    """Only those that `backend` answers: the kernel leaves the others out."""
    six = ":" in backend
    source = netlink.attribute(3 if six else 1, address(backend))
    body = header(NFPROTO_IPV6 if six else NFPROTO_IPV4) + netlink.nest(2, netlink.nest(1, source))
    body += netlink.nest(25, netlink.u32(1, 0), netlink.u32(2, REPLY_SOURCE))
    return Message(CONNTRACK | 1, netlink.DUMP, body, f"list the connections to {backend}")


def parse_connection(body: bytes) -> Connection | None:
    if body[0] not in (NFPROTO_IPV4, NFPROTO_IPV6):
        return None
    found = netlink.attributes(body, GEN.size)
    original, reply = netlink.attributes(found[1]), netlink.attributes(found[2])
    kind = netlink.attributes(original.get(2, b"")).get(1, b"\0")[0]
    raw = netlink.attribute(1 | netlink.NESTED, found[1])
    raw += b"".join(netlink.attribute(n, found[n]) for n in (12, 18) if n in found)
    return Connection(kind, ends_of(original), ends_of(reply), raw, body[0])


def ends_of(tuple_fields: dict[int, bytes]) -> tuple[str, str]:
    addresses = netlink.attributes(tuple_fields.get(1, b""))
    source, destination = addresses.get(1) or addresses.get(3), addresses.get(2) or addresses.get(4)
    return (netlink.unpacked(source) if source else "", netlink.unpacked(destination) if destination else "")


def connection_delete(connection: Connection) -> Message:
    body = header(connection.family) + connection.raw
    return Message(CONNTRACK | 2, 0, body, f"delete a tracked connection to {connection.reply[0]}")
