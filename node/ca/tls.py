"""TLS for every port: 1.3 with both certificates, except the join port.

Nodes are dialled by id: the server must show a certificate for
`<id>.node.swarmpy` signed by the cluster's root. A joining node has no root
yet: `bootstrap` reads the certificates a server shows without trusting them,
picks the one whose SHA-256 is the token's pin, and sends nothing. gRPC cannot
refuse TLS 1.2 on a server; `guard` does, per call.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from swarmpy.node.ca.authority import (
    PeerIdentity,
    fingerprint_der,
    is_issued_under,
    read_leaf,
    server_name,
)
from swarmpy.node.ca.errors import BadCertificate, PinMismatch, Unreachable
from swarmpy.node.ca.identity import Identity, IdentitySource
from swarmpy.proto import types_pb2

Options = list[tuple[str, Any]]

PING_EVERY_MS, PING_TIMEOUT_MS = 1000, 1500
# A ping is sent where nothing was heard for so long. A session hears heartbeats, in large clusters every few seconds.
# A server's clients ping it, so that it need not: with a thousand nodes, pings both ways every second cost a leader
# about a tenth of a core, and a ping wakes both processes a dozen times: gRPC's threads look for more work after it,
# ever more slowly. So do the pings by which gRPC looks for a line's bandwidth: there is one window instead.
SESSION_PING_EVERY_MS, SERVER_PING_EVERY_MS = 2500, 10_000
WINDOW_BYTES = 1 << 20
WAN_FACTOR = 5  # a line that loses two packets in a row must not lose its connection, too
_FIXED_WINDOW: Options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WINDOW_BYTES)]
_SERVER_OPTIONS: Options = [
    *_FIXED_WINDOW,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.so_reuseport", 0),
]
CHAIN_MAX = 4  # a leaf, a cross-signed certificate, the root
LIST_BYTES_MAX = 64 * 1024 * 1024
_CHANNEL_OPTIONS: Options = [
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Its name misleads: it is how long one attempt, handshake included, may take. Attempts begin as often as before.
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


_factor = 1


def use_profile(profile: str) -> None:
    """How patient this process's connections are, "lan" or "wan"; for those made from now on."""
    global _factor
    _factor = WAN_FACTOR if profile == "wan" else 1


def _keepalive(every_ms: int) -> Options:
    return [
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", every_ms * _factor),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS * _factor),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS * _factor),
    ]


def server_options() -> Options:
    """Of every server, by the profile in use."""
    return [*_keepalive(SERVER_PING_EVERY_MS), *_SERVER_OPTIONS]


@dataclass(frozen=True)
class Bootstrap:
    """What an untrusted look at a join port gave: the pinned root and the manager's id."""

    root_pem: bytes
    node_id: str


def server_credentials(identity: IdentitySource) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate and follow renewals."""
    return _dynamic_credentials(identity, join=False)


def join_server_credentials(identity: IdentitySource) -> grpc.ServerCredentials:
    """Credentials of the join port: no client certificate; the chain includes the root to be pinned."""
    return _dynamic_credentials(identity, join=True)


def _dynamic_credentials(source: IdentitySource, *, join: bool) -> grpc.ServerCredentials:
    used = source.current()

    def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
        chain = identity.certificate_pem + (identity.root_pem if join else b"")
        return grpc.ssl_server_certificate_configuration(
            [(identity.key_pem, chain)], root_certificates=None if join else identity.root_pem
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        now = source.current()
        if now == used:
            return None
        used = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,  # type: ignore[arg-type]  # None, "no change", is missing from the stubs
        require_client_authentication=not join,
    )


def channel(
    address: str,
    peer_id: str,
    identity: Identity,
    *,
    lists: bool = False,
    beats: bool = False,
    seldom_used: bool = False,
) -> grpc.aio.Channel:
    """A channel to the node `peer_id` at `host:port`. Open a new one after a renewal.

    `lists`: a leader's answers come through it, which are as large as those the command line takes.
    `beats`: a node's session, which has heartbeats of its own. `seldom_used`: no pings while there is no call.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.root_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.certificate_pem,
    )
    options = [
        *([("grpc.keepalive_permit_without_calls", 0)] if seldom_used else []),  # the first one counts
        *_channel_options(peer_id, SESSION_PING_EVERY_MS if beats else PING_EVERY_MS),
        *([("grpc.max_receive_message_length", LIST_BYTES_MAX)] if lists else []),
        *(_FIXED_WINDOW if beats else []),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


def join_channel(address: str, found: Bootstrap) -> grpc.aio.Channel:
    """A channel to a join port that verifies the manager `bootstrap` saw."""
    credentials = grpc.ssl_channel_credentials(root_certificates=found.root_pem)
    return grpc.aio.secure_channel(address, credentials, options=_channel_options(found.node_id))


def _channel_options(peer_id: str, ping_every_ms: int = PING_EVERY_MS) -> Options:
    return [
        *_keepalive(ping_every_ms),
        *_CHANNEL_OPTIONS,
        ("grpc.ssl_target_name_override", server_name(peer_id)),
        ("grpc.default_authority", server_name(peer_id)),
    ]


def raft_server_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 for accepting managers. Check `peer_identity` after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _prepare(context, identity)
    return context


def raft_client_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 for dialling managers: pass `server_hostname=server_name(peer_id)`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, identity)
    context.check_hostname = True
    return context


def _prepare(context: ssl.SSLContext, identity: Identity) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.root_pem.decode())
    # The stdlib takes keys only from a file; this one has no name on any disk.
    descriptor = os.memfd_create("swarmpy-key", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(identity.key_pem + identity.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def peer_identity(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> PeerIdentity:
    """The verified peer of a finished handshake. Raises BadCertificate."""
    der = ssl_object.getpeercert(binary_form=True)
    if not der:
        raise BadCertificate("the peer showed no certificate")
    return read_leaf(x509.load_der_x509_certificate(der))


def fetch_root(host: str, port: int, pin: bytes, timeout_s: float) -> bytes:
    """The root certificate (PEM) with SHA-256 `pin` that a join port shows.

    Raises PinMismatch, Unreachable. Blocks: call it in a thread.
    """
    return bootstrap(host, port, pin, timeout_s).root_pem


def bootstrap(host: str, port: int, pin: bytes, timeout_s: float) -> Bootstrap:
    """Like fetch_root, and whose certificate the pinned root signed: a manager's, or PinMismatch."""
    address = f"{host}:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain) as tls,
        ):
            chain = _peer_chain(tls)
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise Unreachable(
            address, f"it does not speak TLS 1.3 there ({reason}); is it the join port?"
        ) from error
    except OSError as error:
        raise Unreachable(address, error.strerror or str(error)) from error
    roots = [der for der in chain if fingerprint_der(der) == pin]
    if not roots:
        raise PinMismatch(
            f"the server at {address} belongs to another cluster than the join token, or the cluster's root "
            "certificate was rotated since the token was made, or this is not the join port (7376 by default), or "
            "somebody is in between; nothing was sent to it; check the address and take a new token from a manager"
        )
    root = x509.load_der_x509_certificate(roots[0])
    try:
        leaf, *between = (x509.load_der_x509_certificate(der) for der in chain[:CHAIN_MAX])
        peer = read_leaf(leaf)
    except (ValueError, BadCertificate) as error:
        raise PinMismatch(f"the server at {address} shows no manager's certificate: {error}") from error
    if peer.role != types_pb2.ROLE_MANAGER or not is_issued_under(leaf, between, root):
        raise PinMismatch(
            f"the server at {address} is no manager of the token's cluster; nothing was sent to it"
        )
    return Bootstrap(root.public_bytes(Encoding.PEM), peer.node_id)


def identify(host: str, port: int, identity: Identity, timeout_s: float) -> PeerIdentity:
    """Who serves at a manager port, if the cluster's root vouches for it: a manager, whatever its id.

    Raises Unreachable, BadCertificate. Blocks: call it in a thread.
    """
    address = f"{host}:{port}"
    context = raft_client_context(identity)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain) as tls,
        ):
            peer = peer_identity(tls)
    except ssl.SSLCertVerificationError as error:
        raise BadCertificate(f"{address} is not of this node's cluster ({error.verify_message})") from error
    except OSError as error:
        raise Unreachable(address, error.strerror or str(error)) from error
    if peer.role != types_pb2.ROLE_MANAGER or peer.cluster_id != identity.cluster_id:
        raise BadCertificate(f"{peer.node_id} at {address} is not a manager of this node's cluster")
    return peer


def _peer_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """The DER certificates the server sent, leaf first (public only since Python 3.13)."""
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(item.public_bytes()) for item in inner.get_unverified_chain() or ()]
