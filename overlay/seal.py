"""Encryption between nodes: which tunnels the kernel should have for a `Wanted`. Pure.

Theory
  Encrypted networks share the VXLAN device with the others. What leaves on it from or to an encrypted network
  gets the mark SEAL, which the outer packet keeps; that mark selects an ESP policy, or a routing table that
  leads into a WireGuard device. What arrives through either has the mark again, and without it a packet of an
  encrypted network is dropped. A marked packet for a node there is no tunnel to is dropped before it leaves.
  Everything else (isolation, virtual addresses, published ports with the client's address) stays as it is.

Keys
  Every node makes an X25519 pair per generation (12 hours); private parts stay on it, public ones come by Raft.
  WireGuard uses the pair as it is, each generation on a device and port of its own. For ESP the secret of
  two pairs gives one AES-GCM key per direction (HKDF-SHA256). Generations overlap: a node receives by all that
  both ends have, and sends by the newest that the other end says it is `ready` for, so that no packet meets a
  node without its key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from swarmpy.overlay import wgcodec, xfrmcodec
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.wanted import Node, Wanted
from swarmpy.overlay.wgcodec import Device, Peer
from swarmpy.overlay.xfrmcodec import Association, Policy

WIREGUARD, ESP = "wireguard", "esp"
METHODS = (WIREGUARD, ESP)  # best first
MODULES = {WIREGUARD: "wireguard", ESP: "esp4 and xfrm_user"}
MARK, MASK = 0x55000000, 0xFF000000
TABLE = MARK
DEVICES = ("swwg0", "swwg1")  # by generation, even and odd
# Bytes that protection adds to a VXLAN packet.
OVERHEAD = {(WIREGUARD, 4): 60, (WIREGUARD, 6): 80, (ESP, 4): 40, (ESP, 6): 40}
VXLAN_OVERHEAD = {4: 50, 6: 70}
SPI_GENERATIONS = 127


@dataclass(frozen=True)
class SealState:
    """What the kernel should have. `routes` are (address of a node, WireGuard device)."""

    devices: dict[str, Device] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    associations: dict[tuple[str, int], Association] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)

    @property
    def reachable(self) -> frozenset[str]:
        """Addresses of the nodes to which marked packets may leave."""
        return frozenset((*self.routes, *self.policies))


def method_of(wanted: Wanted) -> str:
    """How encrypted networks are protected, "" where there are none."""
    return next((network.seal for network in wanted.networks if network.seal), "")


def overhead(wanted: Wanted, method: str) -> int:
    return OVERHEAD[method, 6 if ":" in wanted.this_node.underlay else 4] if method else 0


def tunnel_mtu(wanted: Wanted) -> int:
    """A WireGuard device's: a whole VXLAN packet, less what WireGuard adds."""
    vxlan = VXLAN_OVERHEAD[6 if ":" in wanted.this_node.underlay else 4]
    return wanted.mtu + vxlan - overhead(wanted, method_of(wanted))


def pod_mtu(wanted: Wanted, networks: Collection[str], methods: Collection[str]) -> int:
    """Of a pod on these networks; OverlayError where one is encrypted in a way this kernel cannot."""
    for network in wanted.networks:
        if network.id in networks and network.seal:
            if network.seal not in methods:
                raise OverlayError(
                    f"network {network.name} is encrypted by {network.seal}, which this node's kernel has not: "
                    f"load its module ({MODULES[network.seal]}) or keep the service off this node"
                )
            return wanted.mtu - overhead(wanted, network.seal)
    return wanted.mtu


def common(wanted: Wanted, node: Node) -> list[int]:
    """Generations of which both ends have keys, oldest first."""
    own = {generation for generation, _ in wanted.seal_keys}
    return sorted(own & {generation for generation, _ in node.seal_keys})


def outgoing(wanted: Wanted, node: Node) -> int | None:
    """The generation to send by."""
    generations = common(wanted, node)
    ready = [generation for generation in generations if generation <= node.seal_ready]
    return max(ready) if ready else next(iter(generations), None)


def ready(wanted: Wanted) -> int:
    """The newest generation by which this node, once `desired` is in its kernel, receives from everybody."""
    own = {generation for generation, _ in wanted.seal_keys}
    for node in others(wanted):
        if not node.down and node.seal_keys:
            own &= {generation for generation, _ in node.seal_keys}
    return max(own, default=0)


def others(wanted: Wanted) -> list[Node]:
    return [node for node in wanted.nodes if node.id != wanted.self_id and node.underlay]


def desired(wanted: Wanted) -> SealState:
    match method_of(wanted):
        case "wireguard":
            return _wireguard(wanted)
        case "esp":
            return _esp(wanted)
    return SealState()


def device_port(wanted: Wanted, generation: int) -> int:
    return wanted.vxlan_port + 1 + generation % 2


def _wireguard(wanted: Wanted) -> SealState:
    devices: dict[str, Device] = {}
    for generation, private in wanted.seal_keys:
        name = DEVICES[generation % 2]
        port = device_port(wanted, generation)
        peers = frozenset(
            Peer(public, (node.underlay, port), (prefix_of(node.underlay),))
            for node in others(wanted)
            for theirs, public in node.seal_keys
            if theirs == generation and len(public) == wgcodec.KEY_BYTES
        )
        # Two generations of a parity are 24 hours apart: the older one is gone by then.
        devices[name] = Device(name, clamped(private), port, peers)
    routes = {
        node.underlay: DEVICES[chosen % 2]
        for node in others(wanted)
        if (chosen := outgoing(wanted, node)) is not None
    }
    return SealState(devices=devices, routes=routes)


def clamped(private: bytes) -> bytes:
    """As the kernel keeps it (RFC 7748): the same key, or a difference would be found every time."""
    return bytes((private[0] & 248, *private[1:31], private[31] & 127 | 64))


def prefix_of(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _esp(wanted: Wanted) -> SealState:
    associations: dict[tuple[str, int], Association] = {}
    policies: dict[str, Policy] = {}
    me = wanted.this_node
    for node in others(wanted):
        usable = set()
        for generation in common(wanted, node):
            for entry in pair(wanted, node, generation):
                associations[entry.id] = entry
                usable.add(generation)
        chosen = outgoing(wanted, node)
        if chosen in usable:
            assert chosen is not None
            policies[node.underlay] = Policy(
                me.underlay, node.underlay, wanted.vxlan_port, MARK, MASK, spi_of(chosen, me.index)
            )
    return SealState(associations=associations, policies=policies)


def pair(wanted: Wanted, node: Node, generation: int) -> Iterator[Association]:
    """Both directions of a pair of nodes; nothing for a public key that is none."""
    me = wanted.this_node
    private = X25519PrivateKey.from_private_bytes(dict(wanted.seal_keys)[generation])
    own, theirs = public_of(private), dict(node.seal_keys)[generation]
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except (ValueError, InvalidKey):
        return
    yield Association(
        me.underlay,
        node.underlay,
        spi_of(generation, me.index),
        direction_key(secret, generation, own, theirs),
    )
    yield Association(
        node.underlay, me.underlay, spi_of(generation, node.index),
        direction_key(secret, generation, theirs, own), MARK, MASK,
    )  # fmt: skip


def spi_of(generation: int, sender_index: int) -> int:
    """Unique for a receiver: the sender's number below the generation's."""
    return (generation % SPI_GENERATIONS + 1) << 24 | sender_index & 0xFFFFFF


def direction_key(secret: bytes, generation: int, sender: bytes, receiver: bytes) -> bytes:
    info = b"swarmpy esp 1 %d " % generation + sender + receiver
    return HKDF(hashes.SHA256(), xfrmcodec.KEY_BYTES, None, info).derive(secret)


def public_of(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# Generations


@dataclass(frozen=True)
class Schedule:
    """When keys are made and dropped: a new generation every `rotate_ms`, made `lead_ms` before it is due."""

    rotate_ms: int = 12 * 3_600_000
    lead_ms: int = 3_600_000

    def generations(self, now_ms: int) -> list[int]:
        """Those a node should have keys of now, oldest first."""
        current, since_ms = divmod(now_ms, self.rotate_ms)
        found = [current]
        if since_ms < self.lead_ms:
            found.insert(0, current - 1)
        if since_ms >= self.rotate_ms - self.lead_ms:
            found.append(current + 1)
        return found


def differences(found: SealState, wanted: SealState) -> Iterator[str]:
    """What is missing, surplus or different, in words; never a key."""
    for name in found.devices.keys() | wanted.devices.keys():
        have, want = found.devices.get(name), wanted.devices.get(name)
        if have is None or want is None:
            yield f"encryption: WireGuard device {name} {'is not wanted' if want is None else 'is missing'}"
        elif (have.private_key, have.port) != (want.private_key, want.port):
            yield f"encryption: WireGuard device {name} has another key or port"
        elif have.peers != want.peers:
            yield f"encryption: WireGuard device {name} has other peers"
    yield from _changes("route", found.routes, wanted.routes)
    yield from _changes("ESP association", found.associations, wanted.associations)
    yield from _changes("ESP policy", found.policies, wanted.policies)


def _changes(what: str, found: Mapping[Any, object], wanted: Mapping[Any, object]) -> Iterator[str]:
    for key in found.keys() | wanted.keys():
        if key not in found:
            yield f"encryption: {what} {key} is missing"
        elif key not in wanted:
            yield f"encryption: {what} {key} is not wanted"
        elif found[key] != wanted[key]:
            yield f"encryption: {what} {key} differs"
