"""A node's own identity: key, certificate and the cluster's root, in memory and on disk.

Files in `certs/`: `node.crt`, `node.key`, `ca.crt`, mode 0600 in a 0700
directory. Each is replaced by rename, but three renames are not one: while a
new certificate is being written `node.key` holds the new and the old key, and
`load` takes the one that fits the certificate. A crash at any point leaves a
usable identity. `node.crt` holds what goes with the certificate, too: while the
cluster's root is rotated, the cross-signed certificate.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from swarmpy.node.ca.authority import BACKDATE_MS, issuer_key_id, key_id, read_leaf
from swarmpy.node.ca.errors import BadCertificate, BadIdentity
from swarmpy.proto import types_pb2

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
_IDS = len(_ALPHABET) ** ID_LENGTH
_KEY_END = b"-----END PRIVATE KEY-----\n"
_SYSTEM_RANDOM = random.SystemRandom()


def new_node_id() -> str:
    """25 random characters of lowercase base 36 (129 bits)."""
    number = secrets.randbelow(_IDS)  # one call of the kernel: a leader makes thousands of ids a second
    text = ""
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return text


def new_cluster_id() -> str:
    return new_node_id()


def new_key_and_csr() -> tuple[bytes, bytes]:
    """A fresh ECDSA P-256 key (PEM) and a request signed with it (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarmpy")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem, csr.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Identity:
    """Who this node is. `issued_ms` and `expires_ms` bound the certificate's life."""

    node_id: str
    cluster_id: str
    role: types_pb2.Role
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    root_pem: bytes
    expires_ms: int
    issued_ms: int = 0
    issuer: bytes = b""  # key identifiers: of the root that the certificate is from,
    trusts: bytes = b""  # and of the root that is trusted

    @staticmethod
    def build(certificate_pem: bytes, key_pem: bytes, root_pem: bytes) -> Identity:
        """The identity of a certificate and its key. Raises BadIdentity if they do not fit.

        `key_pem` may hold several keys; the one of the certificate is taken.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            leaf = read_leaf(certificate)
            trusts = key_id(root_pem)
        except (ValueError, BadCertificate, x509.ExtensionNotFound) as error:
            raise BadIdentity(f"the node's certificate cannot be read: {error}") from error
        key = _matching_key(certificate, key_pem)
        return Identity(
            node_id=leaf.node_id,
            cluster_id=leaf.cluster_id,
            role=leaf.role,
            certificate_pem=certificate_pem,
            key_pem=key,
            root_pem=root_pem,
            expires_ms=leaf.expires_ms,
            issued_ms=leaf.issued_ms,
            issuer=issuer_key_id(certificate),
            trusts=trusts,
        )

    @staticmethod
    def load(certs_dir: Path) -> Identity:
        """Read the identity from disk. Raises BadIdentity."""
        for attempt in range(5):
            try:
                return Identity.build(
                    (certs_dir / "node.crt").read_bytes(),
                    (certs_dir / "node.key").read_bytes(),
                    (certs_dir / "ca.crt").read_bytes(),
                )
            except OSError as error:
                raise BadIdentity(
                    f"cannot read {error.filename}: {error.strerror}; run `swarmpy init` or `swarmpy join`"
                ) from error
            except BadIdentity as error:
                # Another process may be between two renames: read again.
                if attempt == 4:
                    raise BadIdentity(
                        f"{certs_dir}: {error}; remove the node from the cluster and join again"
                    ) from error
                time.sleep(0.01)
        raise AssertionError("unreachable")

    def save(self, certs_dir: Path) -> None:
        """Write the identity so that a crash at any point leaves the old or the new one."""
        certs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        certs_dir.chmod(0o700)
        old = b""
        with contextlib.suppress(OSError):
            old = (certs_dir / "node.key").read_bytes()
        _replace(certs_dir / "node.key", old if self.key_pem in old else self.key_pem + old)
        _replace(certs_dir / "ca.crt", self.root_pem)
        _replace(certs_dir / "node.crt", self.certificate_pem)
        _replace(certs_dir / "node.key", self.key_pem)

    def current(self) -> Identity:
        """Itself: an identity is its own, unchanging, source."""
        return self


class IdentitySource(Protocol):
    """Where servers get the identity to use for the next connection."""

    def current(self) -> Identity: ...


class IdentityFile:
    """The identity on disk, read again when a file changed. Safe from any thread.

    A replacement that cannot be used leaves the last good identity in place.
    """

    def __init__(self, certs_dir: Path) -> None:
        self._certs_dir = certs_dir
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._identity = Identity.load(certs_dir)

    def current(self) -> Identity:
        with self._lock:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                with contextlib.suppress(BadIdentity):
                    self._identity = Identity.load(self._certs_dir)
                    self._stamp = stamp
            return self._identity

    def _read_stamp(self) -> tuple[tuple[int, int, int], ...]:
        stamps = []
        for name in ("node.crt", "node.key", "ca.crt"):
            try:
                status = os.stat(self._certs_dir / name)
                stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)


def renewal_due_ms(identity: Identity) -> int:
    """When to renew, milliseconds since 1970: a random point in 50–80 % of the life."""
    start_ms = identity.issued_ms + BACKDATE_MS
    life_ms = max(identity.expires_ms - start_ms, 0)
    return start_ms + int(life_ms * _SYSTEM_RANDOM.uniform(0.5, 0.8))


def _matching_key(certificate: x509.Certificate, key_pem: bytes) -> bytes:
    wanted = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for block in key_pem.split(_KEY_END)[:-1]:
        one = block + _KEY_END
        try:
            key = load_pem_private_key(one, password=None)
        except (ValueError, TypeError) as error:
            raise BadIdentity(f"the node's key cannot be read: {error}") from error
        if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wanted:
            return one
    raise BadIdentity("the node's key does not belong to its certificate")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
