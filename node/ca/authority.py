"""The cluster's certificate authority: a root and the leaves it signs. Pure.

A node's identity is its certificate: CN = node id, OU = role, O = cluster id,
and one SAN, `<node id>.node.swarmpy`, which is the name others dial. A signing
request contributes its public key and the proof that the requester holds the
private one; every name in it is ignored. Role names are not node ids (an id is
25 lowercase base-36 characters), so nobody can be issued the name of a role.
The root has no path length limit, which keeps cross-signing possible.

Roots are told apart by their key identifier: a leaf names its issuer's, so that
one comparison says which root a certificate is from. While the root is rotated a
leaf is followed by a cross-signed certificate (`cross_sign`): the new root's name
and key, signed by the old root. Who trusts the new root needs only the leaf, who
trusts the old one follows the chain.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from swarmpy.node.ca.errors import BadCertificate, InvalidRequest
from swarmpy.proto import types_pb2

NODE_DOMAIN = "node.swarmpy"
OU_OF_ROLE = {types_pb2.ROLE_MANAGER: "swarmpy-manager", types_pb2.ROLE_WORKER: "swarmpy-worker"}
ROLE_OF_OU = {unit: role for role, unit in OU_OF_ROLE.items()}
ROOT_LIFETIME_MS = 20 * 365 * 24 * 3600 * 1000
BACKDATE_MS = 3600 * 1000
LEAF_LIFETIME_MIN_MS = 1000
CSR_BYTES_MAX = 16 * 1024
RSA_BITS_MIN = 3072

_ID = re.compile(r"[0-9a-z]{25}")
_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Root:
    """The authority: its certificate and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True)
class PeerIdentity:
    """What a node's certificate says about it."""

    node_id: str
    cluster_id: str
    role: types_pb2.Role
    serial: int
    issued_ms: int
    expires_ms: int


def is_id(text: str) -> bool:
    """Whether `text` has the form of a node or cluster id."""
    return _ID.fullmatch(text) is not None


def server_name(node_id: str) -> str:
    """The name to verify when dialling the node."""
    return f"{node_id}.{NODE_DOMAIN}"


def new_root(cluster_id: str, now_ms: int) -> Root:
    """A fresh self-signed ECDSA P-256 root for the cluster."""
    if not is_id(cluster_id):
        raise InvalidRequest(f"cluster id {cluster_id!r} is not 25 lowercase letters and digits")
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"swarmpy-root-{identifier.digest.hex()[:8]}", "swarmpy-root", cluster_id)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ms - BACKDATE_MS))
        .not_valid_after(_time(now_ms + ROOT_LIFETIME_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True, enciphers_keys=False), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Root(
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def cross_sign(old: Root, new_certificate_pem: bytes, now_ms: int) -> bytes:
    """The new root's name and key in a certificate (PEM) signed by the old root, as long as that is valid."""
    issuer = x509.load_pem_x509_certificate(old.certificate_pem)
    subject = x509.load_pem_x509_certificate(new_certificate_pem)
    if issuer.subject == subject.subject:
        raise InvalidRequest("the new root has the name of the old one")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.subject)
        .issuer_name(issuer.subject)
        .public_key(subject.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ms - BACKDATE_MS))
        .not_valid_after(min(issuer.not_valid_after_utc, subject.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True, enciphers_keys=False), critical=True)
        .add_extension(_own_identifier(subject), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_own_identifier(issuer)),
            critical=False,
        )
    )
    return builder.sign(_signing_key(old), hashes.SHA256()).public_bytes(Encoding.PEM)


def issue(
    root: Root,
    csr_der: bytes,
    *,
    node_id: str,
    cluster_id: str,
    role: types_pb2.Role,
    now_ms: int,
    lifetime_ms: int,
    addresses: Sequence[str] = (),
) -> bytes:
    """Sign a leaf (PEM) for the public key in `csr_der`; every name comes from the arguments.

    `addresses` are IP literals to add to the SAN. Raises InvalidRequest.
    """
    if not is_id(node_id):
        raise InvalidRequest(f"node id {node_id!r} is not 25 lowercase letters and digits")
    if role not in OU_OF_ROLE:
        raise InvalidRequest(f"role {role} is neither worker nor manager")
    if lifetime_ms < LEAF_LIFETIME_MIN_MS:
        raise InvalidRequest(f"certificate lifetime {lifetime_ms} ms is below {LEAF_LIFETIME_MIN_MS} ms")
    public_key = public_key_of_request(csr_der)
    issuer = x509.load_pem_x509_certificate(root.certificate_pem)
    if _single(issuer.subject, NameOID.ORGANIZATION_NAME) != cluster_id:
        raise InvalidRequest(f"the root is not the one of cluster {cluster_id!r}")
    names: list[x509.GeneralName] = [x509.DNSName(server_name(node_id))]
    names += [x509.IPAddress(_address(text)) for text in addresses]
    expires = min(_time(now_ms + lifetime_ms), issuer.not_valid_after_utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(node_id, OU_OF_ROLE[role], cluster_id))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ms - BACKDATE_MS))
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            _key_usage(signs_certificates=False, enciphers_keys=isinstance(public_key, rsa.RSAPublicKey)),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_own_identifier(issuer)),
            critical=False,
        )
        .sign(_signing_key(root), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def public_key_of_request(csr_der: bytes) -> _PublicKey:
    """The request's public key, once possession of the private key is proven. Raises InvalidRequest."""
    if len(csr_der) > CSR_BYTES_MAX:
        raise InvalidRequest(f"certificate request of {len(csr_der)} bytes, the limit is {CSR_BYTES_MAX}")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidRequest(f"certificate request cannot be read: {error}") from error
    if isinstance(key, ec.EllipticCurvePublicKey):
        allowed = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    else:
        allowed = isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN
    if not allowed:
        raise InvalidRequest(
            "certificate request uses a key that is not allowed; "
            f"use ECDSA P-256, ECDSA P-384 or RSA of at least {RSA_BITS_MIN} bits"
        )
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    if not valid:
        raise InvalidRequest("certificate request is not signed by its own key")
    return key


def read_leaf(certificate: x509.Certificate) -> PeerIdentity:
    """The identity in a node certificate whose chain TLS has verified. Raises BadCertificate.

    Exactly one CN, OU and O and nothing else in the subject, and the SAN must
    carry the same id: a certificate that says two things says nothing.
    """
    subject = certificate.subject
    if len(list(subject)) != 3:
        raise BadCertificate("certificate subject has not exactly one CN, one OU and one O")
    node_id = _single(subject, NameOID.COMMON_NAME)
    unit = _single(subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    cluster_id = _single(subject, NameOID.ORGANIZATION_NAME)
    if not is_id(node_id) or not is_id(cluster_id):
        raise BadCertificate("certificate subject holds no node id and cluster id")
    if unit not in ROLE_OF_OU:
        raise BadCertificate(f"certificate of {node_id} has the unknown role {unit!r}")
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise BadCertificate(f"certificate of {node_id} has no usable alternative name") from error
    if san.get_values_for_type(x509.DNSName) != [server_name(node_id)]:
        raise BadCertificate(f"certificate of {node_id} carries another alternative name")
    return PeerIdentity(
        node_id=node_id,
        cluster_id=cluster_id,
        role=ROLE_OF_OU[unit],
        serial=certificate.serial_number,
        issued_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        expires_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
    )


def fingerprint(certificate_pem: bytes) -> bytes:
    """SHA-256 of a certificate's DER form: the pin in a join token."""
    return fingerprint_der(x509.load_pem_x509_certificate(certificate_pem).public_bytes(Encoding.DER))


def fingerprint_der(certificate_der: bytes) -> bytes:
    return hashlib.sha256(certificate_der).digest()


@functools.lru_cache(maxsize=16)
def key_id(root_pem: bytes) -> bytes:
    """The key identifier of a root (PEM); empty for none."""
    return _own_identifier(x509.load_pem_x509_certificate(root_pem)).digest if root_pem else b""


def issuer_key_id(leaf: x509.Certificate) -> bytes:
    """The key identifier of the root that signed a leaf, as the leaf says; empty if it does not."""
    try:
        extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return b""
    return extension.value.key_identifier or b""


def is_issued_under(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], root: x509.Certificate
) -> bool:
    """Whether `root` signed `leaf`, directly or by one of the cross-signed certificates `between`."""
    return is_signed_by(leaf, root) or any(
        _is_authority(one) and is_signed_by(one, root) and is_signed_by(leaf, one) for one in between
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    """A node's certificate signs nothing: only what its issuer made an authority counts."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return constraints.ca and usage.key_cert_sign


def is_signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether `root` signed `certificate` directly."""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _own_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _signing_key(root: Root) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(root.key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _name(common: str, unit: str, organization: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _single(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise BadCertificate("certificate subject has not exactly one CN, one OU and one O")
    return values[0].value


def _time(time_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time_ms // 1000, tz=datetime.UTC)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"address {text!r} of the certificate is not an IP address") from error


def _key_usage(*, signs_certificates: bool, enciphers_keys: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=enciphers_keys,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
