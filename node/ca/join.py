"""The joining side: check the cluster by the token's pin, then ask for a certificate.

Order matters: the root is read without trust and compared with the pin, the
server must then prove to be a manager under that root, and only on that
verified connection is the token sent. What comes back is checked too: our key,
signed by the pinned root. `renew` is the same for a node that is a member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from swarmpy.node.ca.authority import fingerprint_der, is_issued_under, public_key_of_request, read_leaf
from swarmpy.node.ca.errors import BadCertificate, JoinError, Refused, Unreachable, WrongToken
from swarmpy.node.ca.identity import Identity, new_key_and_csr
from swarmpy.node.ca.tls import bootstrap, join_channel
from swarmpy.node.ca.token import JoinToken
from swarmpy.proto import ca_pb2, ca_pb2_grpc

log = logging.getLogger(__name__)

DEFAULT_JOIN_PORT = 7376
CONNECT_TIMEOUT_S = 5.0
ATTEMPTS = 4
PAUSE_S = 0.7


async def join(
    addresses: Sequence[str], request: ca_pb2.IssueRequest, token: str, timeout_s: float = 30.0
) -> ca_pb2.IssueResponse:
    """Ask the managers at `addresses` (`host[:port]`), in order, to issue an identity.

    `request` needs csr and request_id; its token is set here. Raises BadToken,
    and once no address is left WrongToken, PinMismatch, Refused or Unreachable.
    """
    parsed = JoinToken.parse(token)
    filled = ca_pb2.IssueRequest()
    filled.CopyFrom(request)
    filled.token = str(parsed)
    deadline = asyncio.get_running_loop().time() + timeout_s
    failures: list[JoinError] = []
    for address in addresses:
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            failures.append(Unreachable(address, f"not tried within {timeout_s:g} s"))
            break
        try:
            return await _join_one(address, filled, parsed, left_s)
        except WrongToken:
            raise
        except JoinError as error:
            log.warning("join failed address=%s error=%s", address, error)
            failures.append(error)
    if not failures:
        raise Unreachable("(none)", "no address was given")
    # What an answering server said tells more than that another one was silent.
    failures.sort(key=lambda failure: isinstance(failure, Unreachable))
    raise failures[0]


async def renew(channel: grpc.aio.Channel, identity: Identity, timeout_s: float = 10.0) -> Identity:
    """A fresh identity from a manager: new key, same id. Raises AioRpcError, BadIdentity, Refused."""
    key_pem, csr_der = new_key_and_csr()
    response = await ca_pb2_grpc.ClusterCAStub(channel).Renew(
        ca_pb2.RenewRequest(csr=csr_der), timeout=timeout_s
    )
    fresh = Identity.build(response.certificate, key_pem, response.root or identity.root_pem)
    if (fresh.node_id, fresh.cluster_id) != (identity.node_id, identity.cluster_id):
        raise Refused(f"the manager renewed another identity: {fresh.node_id} instead of {identity.node_id}")
    return fresh


def split_address(address: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]:port` → (host, port). Raises Unreachable."""
    host, separator, port = address.rpartition(":")
    if not separator or (":" in host and not host.endswith("]")):
        host, port = address, str(DEFAULT_JOIN_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Unreachable(address, "this is not HOST or HOST:PORT")
    return host, int(port)


async def _join_one(
    address: str, request: ca_pb2.IssueRequest, token: JoinToken, timeout_s: float
) -> ca_pb2.IssueResponse:
    host, port = split_address(address)
    connect_s = min(timeout_s, CONNECT_TIMEOUT_S)
    found = await asyncio.to_thread(bootstrap, host, port, token.root_sha256, connect_s)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    for attempt in range(ATTEMPTS):
        async with join_channel(target, found) as channel:
            try:
                response = await ca_pb2_grpc.JoinStub(channel).Issue(request, timeout=timeout_s)
                break
            except grpc.aio.AioRpcError as error:
                # An election, or a busy machine: the request id makes the repetition harmless.
                if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == ATTEMPTS - 1:
                    raise _failure(address, error) from error
        await asyncio.sleep(PAUSE_S)
    _check(address, response, request, token)
    return response  # type: ignore[no-any-return]


def _failure(address: str, error: grpc.aio.AioRpcError) -> JoinError:
    details = error.details() or error.code().name
    if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return WrongToken(
            f"the manager at {address} refuses the join token: {details}; "
            "print the current one with `swarmpy token worker` or `swarmpy token manager`"
        )
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unreachable(address, details)
    return Refused(f"the manager at {address} refuses the node: {details}")


def _check(
    address: str, response: ca_pb2.IssueResponse, request: ca_pb2.IssueRequest, token: JoinToken
) -> None:
    """The answer must be for our key and signed by the root we were told to trust."""
    try:
        leaf, *between = x509.load_pem_x509_certificates(response.certificate)
        roots = x509.load_pem_x509_certificates(response.root)
        peer = read_leaf(leaf)
    except (ValueError, BadCertificate) as error:
        raise Refused(f"the manager at {address} sent an unusable certificate: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wanted = public_key_of_request(request.csr).public_bytes(*form)
    pinned = [r for r in roots if fingerprint_der(r.public_bytes(Encoding.DER)) == token.root_sha256]
    if (
        leaf.public_key().public_bytes(*form) != wanted
        or (peer.node_id, peer.cluster_id) != (response.node_id, response.cluster_id)
        or peer.role != response.role
        or not any(is_issued_under(leaf, between, root) for root in pinned)
    ):
        raise Refused(f"the manager at {address} sent a certificate that is not for this node and cluster")
