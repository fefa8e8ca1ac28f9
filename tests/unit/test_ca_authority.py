"""The authority signs what it decides, not what a request asks for."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from swarmpy.node.ca import authority, identity
from swarmpy.node.ca.errors import BadCertificate, InvalidRequest
from swarmpy.proto import types_pb2

NOW_MS = 1_800_000_000_000
CLUSTER = "c" * 25
NODE = "n" * 25
ROOT = authority.new_root(CLUSTER, NOW_MS)


def leaf_of(csr: bytes, **changes: object) -> x509.Certificate:
    settings: dict[str, object] = {
        "node_id": NODE, "cluster_id": CLUSTER, "role": types_pb2.ROLE_WORKER, "now_ms": NOW_MS,
        "lifetime_ms": 3_600_000,
    }  # fmt: skip
    pem = authority.issue(ROOT, csr, **(settings | changes))  # type: ignore[arg-type]
    return x509.load_pem_x509_certificate(pem)


def csr_with(key: object, *, ca: bool = False) -> bytes:
    names = [
        x509.NameAttribute(NameOID.COMMON_NAME, "swarmpy-manager"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarmpy-manager"),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("evil.example")]), critical=False
    )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def test_request_cannot_choose_its_names() -> None:
    leaf = leaf_of(csr_with(ec.generate_private_key(ec.SECP256R1()), ca=True))
    peer = authority.read_leaf(leaf)
    assert (peer.node_id, peer.cluster_id, peer.role) == (NODE, CLUSTER, types_pb2.ROLE_WORKER)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "evil" not in str(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def test_leaf_passes_a_strict_verifier() -> None:
    _, csr = identity.new_key_and_csr()
    leaf = leaf_of(csr, addresses=["10.1.2.3", "fd00::1"])
    root = x509.load_pem_x509_certificate(ROOT.certificate_pem)
    when = datetime.datetime.fromtimestamp(NOW_MS / 1000, tz=datetime.UTC)
    builder = PolicyBuilder().store(Store([root])).time(when)
    builder.build_client_verifier().verify(leaf, [])
    builder.build_server_verifier(x509.DNSName(authority.server_name(NODE))).verify(leaf, [])
    assert authority.is_signed_by(leaf, root)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length is None


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)]
)
def test_allowed_keys(key: object) -> None:
    assert authority.read_leaf(leaf_of(csr_with(key))).node_id == NODE


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP192R1()),
        ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate(),
    ],
)  # fmt: skip
def test_refused_keys(key: object) -> None:
    with pytest.raises(InvalidRequest, match="not allowed"):
        leaf_of(csr_with(key))


def test_request_without_proof_of_possession() -> None:
    csr = bytearray(csr_with(ec.generate_private_key(ec.SECP256R1())))
    csr[-3] ^= 1
    with pytest.raises(InvalidRequest, match=r"signed by its own key|cannot be read"):
        leaf_of(bytes(csr))


@pytest.mark.parametrize("csr", [b"", b"x" * 50, b"0" * 20_000])
def test_garbage_request(csr: bytes) -> None:
    with pytest.raises(InvalidRequest):
        leaf_of(csr)


@pytest.mark.parametrize("node_id", ["swarmpy-manager", "", "N" * 25, "n" * 24, "n" * 24 + "\n", "n" * 26])
def test_role_names_and_malformed_ids_are_never_issued(node_id: str) -> None:
    _, csr = identity.new_key_and_csr()
    with pytest.raises(InvalidRequest, match="node id"):
        leaf_of(csr, node_id=node_id)


def test_addresses_are_numbers_only() -> None:
    _, csr = identity.new_key_and_csr()
    with pytest.raises(InvalidRequest, match="not an IP address"):
        leaf_of(csr, addresses=["m" * 25 + ".node.swarmpy"])


def test_another_clusters_root_signs_nothing() -> None:
    _, csr = identity.new_key_and_csr()
    with pytest.raises(InvalidRequest, match="not the one of cluster"):
        leaf_of(csr, cluster_id="d" * 25)


def test_backdated_and_never_longer_than_the_root() -> None:
    _, csr = identity.new_key_and_csr()
    peer = authority.read_leaf(leaf_of(csr, lifetime_ms=10**12))
    root = x509.load_pem_x509_certificate(ROOT.certificate_pem)
    assert peer.issued_ms == NOW_MS - 3_600_000
    assert peer.expires_ms == int(root.not_valid_after_utc.timestamp() * 1000)


def forged(subject: list[tuple[x509.ObjectIdentifier, str]], san: str) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(when).not_valid_after(when + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip


CN, OU, ORG = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME


@pytest.mark.parametrize(
    "subject",
    [
        [],
        [(CN, NODE), (OU, "swarmpy-worker")],
        [(CN, NODE), (OU, "swarmpy-worker"), (OU, "swarmpy-manager"), (ORG, CLUSTER)],
        [(CN, NODE), (OU, "swarmpy-worker"), (OU, "swarmpy-manager")],
        [(CN, NODE), (OU, "swarmpy-mаnager"), (ORG, CLUSTER)],  # Cyrillic а
        [(CN, "swarmpy-manager"), (OU, "swarmpy-manager"), (ORG, CLUSTER)],
        [(CN, NODE), (OU, "x"), (ORG, CLUSTER)],
    ],
)
def test_odd_subjects_are_refused(subject: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    with pytest.raises(BadCertificate):
        authority.read_leaf(forged(subject, authority.server_name(NODE)))


def test_alternative_name_of_another_node_is_refused() -> None:
    good = [(CN, NODE), (OU, "swarmpy-manager"), (ORG, CLUSTER)]
    assert authority.read_leaf(forged(good, authority.server_name(NODE))).role == types_pb2.ROLE_MANAGER
    with pytest.raises(BadCertificate, match="another alternative name"):
        authority.read_leaf(forged(good, authority.server_name("m" * 25)))
