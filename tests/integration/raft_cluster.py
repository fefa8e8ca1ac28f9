"""Three (or so) real members over TLS on the loopback: certificates, a state machine, helpers."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.core_log import LAN, Profile
from swarmpy.raft.log import NotLeader, OutcomeUnknown
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.seal import Keys, NoKeys


class Authority:
    """A throw-away CA in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])
        self._root = self._sign(self._name, self._key.public_key(), ca=True)
        (directory / "ca.crt").write_bytes(self._root.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool, dns: str = ""
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if dns:
            usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
            builder = builder.add_extension(usages, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, node_id: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
        certificate = self._sign(subject, key.public_key(), ca=False, dns=f"{node_id}.node.swarmpy")
        (self.directory / f"{node_id}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.directory / f"{node_id}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def context(directory: Path, node_id: str, *, server: bool) -> ssl.SSLContext:
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    ctx.minimum_version = ssl.TLSVersion.TLSv1_3
    ctx.verify_mode = ssl.CERT_REQUIRED
    ctx.load_verify_locations(directory / "ca.crt")
    ctx.load_cert_chain(directory / f"{node_id}.crt", directory / f"{node_id}.key")
    return ctx


def common_name(tls: ssl.SSLObject) -> str:
    certificate = tls.getpeercert()
    if not certificate:
        raise ValueError("no certificate")
    return next(value for rdn in certificate["subject"] for name, value in rdn if name == "commonName")


class Ledger:
    """A state machine that remembers every command; its answer is how many there were."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, index: int, command: bytes) -> bytes:
        if command == b"raise":
            raise ValueError("asked to")
        self.commands.append(command)
        return str(len(self.commands)).encode()

    def snapshot(self) -> Iterator[bytes]:
        commands = list(self.commands)
        return (struct.pack(">I", len(c)) + c for c in commands)

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.commands = [chunk[4:] for chunk in chunks]


class Cluster:
    """Members by name; each has a directory and a port, so it can be stopped and started again."""

    def __init__(
        self,
        directory: Path,
        *,
        profile: Profile = LAN,
        limits: Limits | None = None,
        keys: Callable[[str], Keys] | None = None,
    ) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.profile, self.limits = profile, limits
        self.keys = keys or (lambda name: NoKeys())
        self.nodes: dict[str, RaftNode] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.ports: dict[str, int] = {}
        self.fatal: list[tuple[str, str]] = []
        self.removed: list[str] = []
        self.led: list[tuple[str, bool, int]] = []

    async def start(self, name: str, *, bootstrap: bool = False, machine: Ledger | None = None) -> RaftNode:
        if name not in self.ports:
            self.authority.issue(name)
            self.ports[name] = free_port()
        ledger = self.ledgers[name] = machine or Ledger()
        node = RaftNode(
            node_id=name,
            address=self.address(name),
            listen=("127.0.0.1", self.ports[name]),
            directory=self.directory / name,
            state_machine=ledger,
            bootstrap=bootstrap,
            server_ssl=lambda: context(self.directory, name, server=True),
            client_ssl=lambda: context(self.directory, name, server=False),
            peer_id=common_name,
            profile=self.profile,
            on_fatal=lambda reason: self.fatal.append((name, reason)),
            on_removed=lambda: self.removed.append(name),
            limits=self.limits,
            keys=self.keys(name),
        )
        node.on_leadership(lambda leads, term: self.led.append((name, leads, term)))
        await node.start()
        self.nodes[name] = node
        return node

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    async def stop(self, name: str, *, transfer: bool = False) -> None:
        await self.nodes.pop(name).stop(transfer=transfer)

    async def stop_all(self) -> None:
        for name in list(self.nodes):
            await self.stop(name)

    def leader(self) -> RaftNode | None:
        leading = [node for node in self.nodes.values() if node.status().is_leader]
        return max(leading, key=lambda node: node.status().term, default=None)

    async def wait_leader(self, *, but: str = "") -> RaftNode:
        await wait_for(lambda: (node := self.leader()) is not None and node.node_id != but)
        node = self.leader()
        assert node is not None
        return node

    async def of_three(self) -> RaftNode:
        first = await self.start("n1", bootstrap=True)
        await wait_for(lambda: ("n1", True, first.status().term) in self.led)
        for name in ("n2", "n3"):
            await self.start(name)
            await first.add_member(name, self.address(name))
        return first

    async def propose(self, command: bytes) -> int:
        """Through whoever leads, until it is certain."""
        for _ in range(200):
            node = self.leader()
            if node is not None:
                try:
                    return (await node.propose(command, timeout=2)).index
                except NotLeader:
                    pass
            await asyncio.sleep(0.02)
        raise AssertionError("nobody took the command")


async def wait_for(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


__all__ = [
    "Authority",
    "Cluster",
    "Ledger",
    "NotLeader",
    "OutcomeUnknown",
    "common_name",
    "context",
    "wait_for",
]
