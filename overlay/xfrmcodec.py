"""The netlink wire format of IPsec: security associations and policies (uapi/linux/xfrm.h). Pure.

Only what the overlay needs: ESP in transport mode between two nodes, AES-GCM (RFC 4106) with 64-bit sequence
numbers, for UDP packets to one port that carry a mark.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from swarmpy.overlay import netlink
from swarmpy.overlay.netlink import Message

NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, GETPOLICY, UPDPOLICY = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x19
ESP, UDP = 50, 17
TRANSPORT, OUT, ALLOW = 0, 1, 0
FLAG_ESN = 128
ALG_AEAD, TEMPLATE, MARK, REPLAY_ESN, SET_MARK, SET_MARK_MASK = 18, 5, 21, 23, 29, 30
REQUEST_ID = 0x53575059
INTEGRITY_BITS = 128
KEY_BYTES = 36  # AES-256 and four bytes of salt
REPLAY_WINDOW = 128
PRIORITY = 1000
ALGORITHM = b"rfc4106(gcm(aes))"

SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
IDENTITY = struct.Struct("=16s4sB3x")
LIMITS = struct.pack("=8Q", *(4 * [0xFFFFFFFFFFFFFFFF] + 4 * [0]))
COUNTERS, STATISTICS = bytes(32), bytes(12)
ASSOCIATION = struct.Struct("=IIHBBB7x")
POLICY_TAIL = struct.Struct("=IIBBBB4x")
TEMPLATE_TAIL = struct.Struct("=H2x16sIBBBxIII")


@dataclass(frozen=True)
class Association:
    """One direction of a pair of nodes: packets from `source` to `destination` with this SPI."""

    source: str
    destination: str
    spi: int
    key: bytes = field(repr=False)
    mark: int = 0  # what a received packet is marked with, 0 = nothing
    mask: int = 0

    @property
    def id(self) -> tuple[str, int]:
        return self.destination, self.spi


@dataclass(frozen=True)
class Policy:
    """What leaves for `destination`, UDP to `port` with this mark, must go by the association `spi`."""

    source: str
    destination: str
    port: int
    mark: int
    mask: int
    spi: int


def padded(address: str) -> bytes:
    return netlink.packed(address).ljust(16, b"\0")


def selector(source: str, destination: str, port: int) -> bytes:
    raw = netlink.packed(destination)
    number, mask = struct.pack("!H", port), b"\xff\xff" if port else b"\0\0"
    bits = len(raw) * 8
    return SELECTOR.pack(
        padded(destination), padded(source), number, mask, b"\0\0", b"\0\0",
        netlink.family_of(raw), bits, bits, UDP if port else 0, 0, 0,
    )  # fmt: skip


def empty_selector(family: int) -> bytes:
    return SELECTOR.pack(bytes(16), bytes(16), b"\0\0", b"\0\0", b"\0\0", b"\0\0", family, 0, 0, 0, 0, 0)


def identity(destination: str, spi: int) -> bytes:
    return IDENTITY.pack(padded(destination), struct.pack("!I", spi), ESP)


def association_add(entry: Association) -> Message:
    family = netlink.family_of(netlink.packed(entry.destination))
    body = empty_selector(family) + identity(entry.destination, entry.spi) + padded(entry.source)
    body += LIMITS + COUNTERS + STATISTICS
    body += ASSOCIATION.pack(0, REQUEST_ID, family, TRANSPORT, 0, FLAG_ESN)
    algorithm = ALGORITHM.ljust(64, b"\0") + struct.pack("=II", len(entry.key) * 8, INTEGRITY_BITS)
    body += netlink.attribute(ALG_AEAD, algorithm + entry.key)
    words = REPLAY_WINDOW // 32
    body += netlink.attribute(
        REPLAY_ESN, struct.pack("=6I", words, 0, 0, 0, 0, REPLAY_WINDOW) + bytes(4 * words)
    )
    if entry.mask:
        body += netlink.u32(SET_MARK, entry.mark) + netlink.u32(SET_MARK_MASK, entry.mask)
    return Message(
        NEWSA, netlink.CREATE | netlink.EXCLUSIVE, body, f"add the ESP association with {entry.source}"
    )


def association_delete(destination: str, spi: int) -> Message:
    raw = netlink.packed(destination)
    body = padded(destination) + struct.pack("!I", spi) + struct.pack("=HBx", netlink.family_of(raw), ESP)
    return Message(DELSA, 0, body, f"delete an ESP association of {destination}")


def association_dump() -> Message:
    return Message(GETSA, netlink.DUMP, b"", "list the ESP associations")


def parse_association(body: bytes) -> Association | None:
    """One of ours, else None."""
    offset = SELECTOR.size
    destination, spi, protocol = IDENTITY.unpack_from(body, offset)
    offset += IDENTITY.size
    source = body[offset : offset + 16]
    offset += 16 + len(LIMITS) + len(COUNTERS) + len(STATISTICS)
    _, request, family, _, _, _ = ASSOCIATION.unpack_from(body, offset)
    if request != REQUEST_ID or protocol != ESP:
        return None
    found = netlink.attributes(body, offset + ASSOCIATION.size)
    size = 4 if family == netlink.AF_INET else 16
    key = found.get(ALG_AEAD, b"")[72:]
    return Association(
        netlink.unpacked(source[:size]), netlink.unpacked(destination[:size]), int.from_bytes(spi, "big"), key,
        netlink.int_of(found.get(SET_MARK)), netlink.int_of(found.get(SET_MARK_MASK)),
    )  # fmt: skip


def policy_set(entry: Policy) -> Message:
    """Adds the policy, or changes where it leads: the moment a new key takes over."""
    family = netlink.family_of(netlink.packed(entry.destination))
    body = selector(entry.source, entry.destination, entry.port) + LIMITS + COUNTERS
    body += POLICY_TAIL.pack(PRIORITY, 0, OUT, ALLOW, 0, 0)
    template = identity(entry.destination, entry.spi) + TEMPLATE_TAIL.pack(
        family, padded(entry.source), REQUEST_ID, TRANSPORT, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    )
    body += netlink.attribute(TEMPLATE, template)
    body += netlink.attribute(MARK, struct.pack("=II", entry.mark, entry.mask))
    return Message(UPDPOLICY, netlink.CREATE, body, f"set the ESP policy for {entry.destination}")


def policy_delete(entry: Policy) -> Message:
    body = selector(entry.source, entry.destination, entry.port) + struct.pack("=IBxxx", 0, OUT)
    body += netlink.attribute(MARK, struct.pack("=II", entry.mark, entry.mask))
    return Message(DELPOLICY, 0, body, f"delete the ESP policy for {entry.destination}")


def policy_dump() -> Message:
    return Message(GETPOLICY, netlink.DUMP, b"", "list the ESP policies")


def parse_policy(body: bytes) -> Policy | None:
    """One of ours, else None."""
    destination, source, port, _, _, _, family, _, _, _, _, _ = SELECTOR.unpack_from(body)
    found = netlink.attributes(body, SELECTOR.size + len(LIMITS) + len(COUNTERS) + POLICY_TAIL.size)
    template, mark = found.get(TEMPLATE, b""), found.get(MARK, b"")
    if len(template) < IDENTITY.size + TEMPLATE_TAIL.size or len(mark) < 8:
        return None
    request = TEMPLATE_TAIL.unpack_from(template, IDENTITY.size)[2]
    if request != REQUEST_ID:
        return None
    size = 4 if family == netlink.AF_INET else 16
    spi = IDENTITY.unpack_from(template)[1]
    value, mask = struct.unpack_from("=II", mark)
    return Policy(
        netlink.unpacked(source[:size]), netlink.unpacked(destination[:size]), struct.unpack("!H", port)[0],
        value, mask, int.from_bytes(spi, "big"),
    )  # fmt: skip
