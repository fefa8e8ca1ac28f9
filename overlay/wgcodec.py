"""The netlink wire format of WireGuard devices: generic netlink (uapi/linux/wireguard.h). Pure.

A device's peers are written in messages of at most `PEERS_PER_MESSAGE`, because a nested attribute holds 64 KiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from swarmpy.overlay import netlink
from swarmpy.overlay.netlink import Message

CONTROL, GETFAMILY = 16, 3
GET_DEVICE, SET_DEVICE = 0, 1
REPLACE_PEERS, REMOVE_PEER, REPLACE_ALLOWED = 1, 1, 2
PEERS_PER_MESSAGE = 200
KEY_BYTES = 32
GENL = struct.Struct("=BBxx")


@dataclass(frozen=True)
class Peer:
    """The other end of a tunnel: who it is, where it is, which addresses come from it."""

    public_key: bytes
    endpoint: tuple[str, int]
    allowed: tuple[str, ...]  # prefixes


@dataclass(frozen=True)
class Device:
    """A WireGuard device of ours, by name."""

    name: str
    private_key: bytes = field(repr=False)
    port: int = 0
    peers: frozenset[Peer] = frozenset()


def family_request(name: str = "wireguard") -> Message:
    """Asks for the number under which the kernel knows a generic netlink family."""
    body = GENL.pack(GETFAMILY, 1) + netlink.text(2, name)
    return Message(CONTROL, 0, body, f"find {name} in the kernel")


def parse_family(body: bytes) -> int:
    return int.from_bytes(netlink.attributes(body, GENL.size)[1][:2], "little")


def link(name: str, mtu: int, group: int) -> Message:
    body = netlink.IFINFO.pack(netlink.AF_UNSPEC, 0, 0, 0, 0) + netlink.text(3, name)
    body += netlink.u32(4, mtu) + netlink.u32(27, group)
    body += netlink.nest(18, netlink.text(1, "wireguard"))
    flags = netlink.CREATE | netlink.EXCLUSIVE
    return Message(netlink.NEWLINK, flags, body, f"create WireGuard device {name}")


def device_dump(family: int, name: str) -> Message:
    body = GENL.pack(GET_DEVICE, 1) + netlink.text(2, name)
    return Message(family, netlink.DUMP, body, f"read WireGuard device {name}")


def device_set(family: int, device: Device) -> Message:
    """Key and port; the peers stay."""
    body = GENL.pack(SET_DEVICE, 1) + netlink.text(2, device.name)
    body += netlink.attribute(3, device.private_key) + netlink.attribute(6, struct.pack("=H", device.port))
    return Message(family, 0, body, f"set key and port of WireGuard device {device.name}")


def peers_set(family: int, name: str, peers: Iterable[Peer]) -> Iterator[Message]:
    """Add these peers, or give them these endpoints and addresses."""
    return peer_messages(family, name, [peer_attributes(peer) for peer in peers], "set")


def peers_remove(family: int, name: str, keys: Iterable[bytes]) -> Iterator[Message]:
    items = [netlink.nest(0, netlink.attribute(1, key), netlink.u32(3, REMOVE_PEER)) for key in keys]
    return peer_messages(family, name, items, "remove")


def peer_messages(family: int, name: str, items: list[bytes], verb: str) -> Iterator[Message]:
    for start in range(0, len(items), PEERS_PER_MESSAGE):
        body = GENL.pack(SET_DEVICE, 1) + netlink.text(2, name)
        body += netlink.nest(8, *items[start : start + PEERS_PER_MESSAGE])
        yield Message(family, 0, body, f"{verb} peers of WireGuard device {name}")


def peer_attributes(peer: Peer) -> bytes:
    allowed = []
    for prefix in peer.allowed:
        network = ip_network(prefix)
        family = netlink.AF_INET if network.version == 4 else netlink.AF_INET6
        allowed.append(
            netlink.nest(
                0,
                netlink.attribute(1, struct.pack("=H", family)),
                netlink.attribute(2, network.network_address.packed),
                netlink.attribute(3, bytes((network.prefixlen,))),
            )
        )
    return netlink.nest(
        0,
        netlink.attribute(1, peer.public_key),
        netlink.u32(3, REPLACE_ALLOWED),
        netlink.attribute(4, sockaddr(*peer.endpoint)),
        netlink.nest(9, *allowed),
    )


def sockaddr(address: str, port: int) -> bytes:
    raw = ip_address(address).packed
    if len(raw) == 4:
        return struct.pack("=H", netlink.AF_INET) + struct.pack("!H", port) + raw + bytes(8)
    return struct.pack("=H", netlink.AF_INET6) + struct.pack("!HI", port, 0) + raw + bytes(4)


def parse_sockaddr(data: bytes) -> tuple[str, int]:
    (family,) = struct.unpack_from("=H", data)
    (port,) = struct.unpack_from("!H", data, 2)
    raw = data[4:8] if family == netlink.AF_INET else data[8:24]
    return netlink.unpacked(raw), port


def parse_device(bodies: Iterable[bytes], name: str) -> Device:
    """The device in the messages of a dump; a peer that spans two of them is put together."""
    private, port = bytes(KEY_BYTES), 0
    endpoints: dict[bytes, tuple[str, int]] = {}
    allowed: dict[bytes, list[str]] = {}
    for body in bodies:
        found = netlink.attributes(body, GENL.size)
        private = found.get(3, private)
        port = int.from_bytes(found[6], "little") if 6 in found else port
        for _, item in netlink.attribute_list(found.get(8, b"")):
            peer = netlink.attributes(item)
            key = peer[1]
            if 4 in peer:
                endpoints[key] = parse_sockaddr(peer[4])
            known = allowed.setdefault(key, [])
            for _, entry in netlink.attribute_list(peer.get(9, b"")):
                fields = netlink.attributes(entry)
                known.append(f"{netlink.unpacked(fields[2])}/{fields[3][0]}")
    peers = frozenset(
        Peer(key, endpoints.get(key, ("", 0)), tuple(sorted(prefixes))) for key, prefixes in allowed.items()
    )
    return Device(name, private, port, peers)
