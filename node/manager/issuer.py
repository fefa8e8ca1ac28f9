"""Identities: the Join service (own port, token) and ClusterCA (renewal over mTLS).

Any manager serves both: the root is in the replicated store. A node's role and id come
from the store and the token, never from its request.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from swarmpy.node.ca import authority, rotation
from swarmpy.node.ca.errors import BadToken, InvalidRequest
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.ca.token import JoinToken, secret_sha256
from swarmpy.node.manager import levels, tokens
from swarmpy.node.manager.control import Control
from swarmpy.node.manager.errors import ManagerError
from swarmpy.proto import ca_pb2, ca_pb2_grpc, objects_pb2, types_pb2
from swarmpy.raft.levels import TOKENS
from swarmpy.raft.store import Store

log = logging.getLogger(__name__)
CERTIFICATE_LIFETIME_MS = 720 * 3600 * 1000
HOSTNAME_CHARACTERS_MAX = 63
WRONG_TOKENS_PER_MINUTE = 60


class Issuer(ca_pb2_grpc.JoinServicer, ca_pb2_grpc.ClusterCAServicer):
    """Signs certificates with the cluster's root."""

    def __init__(self, store: Store, control: Control, new_id: Callable[[], str]) -> None:
        self._store = store
        self._control = control
        self._new_id = new_id
        self._refused: list[float] = []

    async def Issue(
        self, request: ca_pb2.IssueRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ca_pb2.IssueResponse:
        cluster = self._store.cluster()
        if cluster is None:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "this manager is still starting: try again shortly"
            )
            raise AssertionError
        token, role = await self._permitted(request.token, cluster, context)
        try:
            authority.public_key_of_request(request.csr)
        except InvalidRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not request.request_id or not request.hostname or len(request.hostname) > HOSTNAME_CHARACTERS_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "hostname and request_id: both are needed, a host name of 1–63 characters",
            )
        seen_address = _peer_address(context.peer())
        node = self._new_node(request, role, seen_address)
        try:
            stored, index = await self._control.leader_create(node, request.request_id, token)
            # A copy that lags behind the node's creation may not know the root that signs now.
            await self._control.reach(index)
        except ManagerError as error:
            log.warning("join refused peer=%s reason=%s", context.peer(), error)
            await context.abort(error.code, str(error))
            raise AssertionError from error
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            log.warning("join refused peer=%s reason=%s", context.peer(), details)
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                details = f"the leader did not accept the node: {details}"
            await context.abort(error.code(), details)
            raise AssertionError from error
        assert isinstance(stored, objects_pb2.Node)
        role = stored.role if token else role
        log.info("node joined node=%s hostname=%s role=%s", stored.meta.id, request.hostname, role)
        certificate = self._sign(request.csr, self._store.cluster() or cluster, stored.meta.id, role)
        managers = _managers(self._store)
        return ca_pb2.IssueResponse(
            node_id=stored.meta.id, cluster_id=cluster.meta.id, role=role, certificate=certificate,
            root=cluster.root_certificate, address=stored.description.address,
            managers=[address for _, address in managers], manager_ids=[node_id for node_id, _ in managers],
            raft_profile=cluster.spec.raft_profile or "lan",
        )  # fmt: skip

    async def Renew(
        self, request: ca_pb2.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ca_pb2.RenewResponse:
        caller = current_caller()
        cluster = self._store.cluster()
        node = self._store.node(caller.node_id)
        if cluster is None or node is None or node.removed:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {caller.node_id} is not in the cluster"
            )
            raise AssertionError
        try:
            certificate = self._sign(request.csr, cluster, node.meta.id, node.role)
        except InvalidRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError from error
        return ca_pb2.RenewResponse(certificate=certificate, root=cluster.root_certificate, role=node.role)

    def _sign(self, csr: bytes, cluster: objects_pb2.Cluster, node_id: str, role: types_pb2.Role) -> bytes:
        issuing = rotation.issuing(cluster)
        lifetime_ms = cluster.spec.cert_expiry_ms or CERTIFICATE_LIFETIME_MS
        leaf = authority.issue(
            issuing.root, csr, node_id=node_id, cluster_id=cluster.meta.id, role=role,
            now_ms=time.time_ns() // 1_000_000, lifetime_ms=lifetime_ms,
        )  # fmt: skip
        return leaf + issuing.chain_pem

    async def _permitted(
        self, text: str, cluster: objects_pb2.Cluster, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tuple[bytes, types_pb2.Role]:
        """(b"", the role) of a permanent token; of what may be a temporary one, its hash: the leader judges it."""
        now = time.monotonic()
        self._refused = [moment for moment in self._refused if now - moment < 60]
        if len(self._refused) >= WRONG_TOKENS_PER_MINUTE:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many wrong join tokens in the last minute: try again later",
            )
        reason = "wrong token"
        try:
            token = JoinToken.parse(text)
            fits = token.root_sha256 == authority.fingerprint(cluster.root_certificate)
            is_manager = token.has_secret(cluster.manager_secret)
            is_worker = token.has_secret(cluster.worker_secret)
            if fits and (is_manager or is_worker):
                return b"", types_pb2.ROLE_MANAGER if is_manager else types_pb2.ROLE_WORKER
            # A leader of an older version would not look at the hash, and let everybody in.
            if fits and levels.in_force(self._store) >= TOKENS:
                secret = secret_sha256(token.secret)
                if tokens.of_secret(self._store, secret) is None:  # wrong, or this copy lags
                    self._refused.append(now)
                return secret, types_pb2.ROLE_MANAGER
        except BadToken as error:
            reason = str(error)
        self._refused.append(now)
        log.warning("join refused peer=%s reason=%s", context.peer(), reason)
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "the join token is wrong or was rotated",
        )
        raise AssertionError

    def _new_node(
        self, request: ca_pb2.IssueRequest, role: types_pb2.Role, seen_address: str
    ) -> objects_pb2.Node:
        node = objects_pb2.Node(description=request.description, role=role)
        node.meta.id = self._new_id()
        node.meta.name = request.hostname
        node.spec.role = role
        node.spec.availability = request.availability
        node.description.hostname = request.hostname
        node.description.address = request.address or seen_address
        node.status.address = node.description.address
        node.status.state = types_pb2.NODE_UNKNOWN
        if role == types_pb2.ROLE_MANAGER:
            node.manager.CopyFrom(with_host(request.manager, node.description.address))
        return node


def with_host(manager: objects_pb2.ManagerStatus, host: str) -> objects_pb2.ManagerStatus:
    """Addresses given as ":port" get the node's own address in front."""

    def full(address: str) -> str:
        return f"{host}{address}" if address.startswith(":") else address

    return objects_pb2.ManagerStatus(
        raft_address=full(manager.raft_address), control_address=full(manager.control_address),
        join_address=full(manager.join_address),
    )  # fmt: skip


def _managers(store: Store) -> list[tuple[str, str]]:
    return sorted(
        (node.meta.id, node.manager.control_address)
        for node in store.nodes()
        if node.role == types_pb2.ROLE_MANAGER and node.manager.control_address
    )


def _peer_address(peer: str) -> str:
    """The IP address in gRPC's "ipv4:1.2.3.4:5" or "ipv6:[::1]:5"; "" where there is none."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    if family not in ("ipv4", "ipv6"):
        return ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
