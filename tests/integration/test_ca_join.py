"""Joining against real join ports: the right cluster, wrong secrets, and people in between."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from swarmpy.node.ca import authority, identity, join, tls
from swarmpy.node.ca.errors import BadToken, JoinError, PinMismatch, Refused, Unreachable, WrongToken
from swarmpy.node.ca.guard import GuardedServer, current_caller
from swarmpy.node.ca.token import JoinToken, new_secret
from swarmpy.proto import ca_pb2, ca_pb2_grpc, types_pb2

MANAGER, WORKER = types_pb2.ROLE_MANAGER, types_pb2.ROLE_WORKER


def now_ms() -> int:
    return int(time.time() * 1000)


class Cluster(ca_pb2_grpc.JoinServicer, ca_pb2_grpc.ClusterCAServicer):
    """A cluster's issuing side without a store."""

    def __init__(self) -> None:
        self.id = identity.new_cluster_id()
        self.root = authority.new_root(self.id, now_ms())
        self.token = JoinToken(
            authority.fingerprint(self.root.certificate_pem), new_secret(secrets.token_bytes(16))
        )
        self.requests: list[ca_pb2.IssueRequest] = []
        self.answer_for_another_key = False

    def member(self, role: types_pb2.Role) -> identity.Identity:
        key, csr = identity.new_key_and_csr()
        pem = self.sign(csr, identity.new_node_id(), role)
        return identity.Identity.build(pem, key, self.root.certificate_pem)

    def sign(self, csr: bytes, node_id: str, role: types_pb2.Role) -> bytes:
        return authority.issue(
            self.root,
            csr,
            node_id=node_id,
            cluster_id=self.id,
            role=role,
            now_ms=now_ms(),
            lifetime_ms=3_600_000,
        )

    async def Issue(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        if not JoinToken.parse(request.token).has_secret(self.token.secret):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the secret is not known here")
        csr = identity.new_key_and_csr()[1] if self.answer_for_another_key else request.csr
        try:
            node_id = identity.new_node_id()
            pem = self.sign(csr, node_id, WORKER)
        except authority.InvalidRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return ca_pb2.IssueResponse(
            node_id=node_id, cluster_id=self.id, role=WORKER, certificate=pem, root=self.root.certificate_pem
        )

    async def Renew(self, request, context):  # type: ignore[no-untyped-def]
        caller = current_caller()
        role = MANAGER if caller.kind == "manager" else WORKER
        return ca_pb2.RenewResponse(
            certificate=self.sign(request.csr, caller.node_id, role),
            root=self.root.certificate_pem,
            role=role,
        )

    @contextlib.asynccontextmanager
    async def serving(self, who: identity.Identity | None = None) -> AsyncIterator[str]:
        who = who or self.member(MANAGER)
        guarded = GuardedServer(self.id, lambda node_id, serial: True)
        ca_pb2_grpc.add_JoinServicer_to_server(self, guarded)
        port = guarded.listen_join("127.0.0.1:0", who)
        await guarded.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await guarded.stop(0)


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_join_then_renew() -> None:
    async def main() -> None:
        cluster = Cluster()
        key, csr = identity.new_key_and_csr()
        request = ca_pb2.IssueRequest(csr=csr, hostname="worker1")
        async with cluster.serving() as address:
            response = await join.join([closed_port(), address], request, str(cluster.token), 20)
        assert request.token == ""
        assert cluster.requests[0].hostname == "worker1"
        mine = identity.Identity.build(response.certificate, key, response.root)
        assert (mine.node_id, mine.role) == (response.node_id, WORKER)

        server_identity = cluster.member(MANAGER)
        guarded = GuardedServer(cluster.id, lambda node_id, serial: True)
        ca_pb2_grpc.add_ClusterCAServicer_to_server(cluster, guarded)
        port = guarded.listen("127.0.0.1:0", server_identity)
        await guarded.start()
        try:
            async with tls.channel(f"127.0.0.1:{port}", server_identity.node_id, mine) as channel:
                fresh = await join.renew(channel, mine)
        finally:
            await guarded.stop(0)
        assert fresh.node_id == mine.node_id
        assert fresh.key_pem != mine.key_pem

    asyncio.run(main())


@contextlib.asynccontextmanager
async def slow_link(address: str, delay_s: float) -> AsyncIterator[str]:
    """A relay that holds everything back for a while, both ways, as a long line or a busy machine does."""

    running: set[asyncio.Task[None] | None] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        host, _, port = address.rpartition(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait([task for task in running if task is not None], timeout=10)


def test_a_handshake_may_take_its_time() -> None:
    async def main() -> None:
        cluster = Cluster()
        request = ca_pb2.IssueRequest(csr=identity.new_key_and_csr()[1])
        async with cluster.serving() as address, slow_link(address, 0.3) as far:
            response = await join.join([far], request, str(cluster.token), 20)
        assert response.cluster_id == cluster.id

    asyncio.run(main())


async def failure(cluster: Cluster, addresses: list[str], token: str, csr: bytes = b"") -> JoinError:
    csr = csr or identity.new_key_and_csr()[1]
    with pytest.raises(JoinError) as caught:
        await join.join(addresses, ca_pb2.IssueRequest(csr=csr), token, 10)
    return caught.value


def test_wrong_secret() -> None:
    async def main() -> None:
        cluster = Cluster()
        wrong = JoinToken(cluster.token.root_sha256, new_secret(bytes(16)))
        async with cluster.serving() as address:
            error = await failure(cluster, [address], str(wrong))
        assert isinstance(error, WrongToken)
        assert address in str(error)
        assert "swarmpy token" in str(error)

    asyncio.run(main())


def test_another_cluster_gets_no_token() -> None:
    async def main() -> None:
        ours, theirs = Cluster(), Cluster()
        async with theirs.serving() as address:
            error = await failure(ours, [closed_port(), address], str(ours.token))
        assert isinstance(error, PinMismatch)
        assert theirs.requests == []

    asyncio.run(main())


def test_a_worker_cannot_pose_as_a_manager() -> None:
    async def main() -> None:
        cluster = Cluster()
        async with cluster.serving(cluster.member(WORKER)) as address:
            error = await failure(cluster, [address], str(cluster.token))
        assert isinstance(error, PinMismatch)
        assert cluster.requests == []

    asyncio.run(main())


def test_a_foreign_leaf_beside_the_real_root_is_refused() -> None:
    async def main() -> None:
        ours, theirs = Cluster(), Cluster()
        theirs.id = ours.id
        theirs.root = authority.new_root(ours.id, now_ms())
        stolen = theirs.member(MANAGER)
        bundle = identity.Identity.build(stolen.certificate_pem, stolen.key_pem, ours.root.certificate_pem)
        async with theirs.serving(bundle) as address:
            error = await failure(ours, [address], str(ours.token))
        assert isinstance(error, PinMismatch)
        assert theirs.requests == []

    asyncio.run(main())


def test_answer_for_another_key_is_refused() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.answer_for_another_key = True
        async with cluster.serving() as address:
            error = await failure(cluster, [address], str(cluster.token))
        assert isinstance(error, Refused)
        assert "not for this node" in str(error)

    asyncio.run(main())


def test_bad_request_is_refused_with_the_managers_words() -> None:
    async def main() -> None:
        cluster = Cluster()
        async with cluster.serving() as address:
            error = await failure(cluster, [address], str(cluster.token), csr=b"junk")
        assert isinstance(error, Refused)
        assert "cannot be read" in str(error)

    asyncio.run(main())


def test_nobody_there_and_not_tls() -> None:
    async def main() -> None:
        cluster = Cluster()

        async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 no\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        noisy = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        silent = closed_port()
        error = await failure(cluster, [silent], str(cluster.token))
        assert isinstance(error, Unreachable)
        assert silent in str(error)
        error = await failure(cluster, [noisy], str(cluster.token))
        assert isinstance(error, Unreachable)
        assert "TLS" in str(error)
        assert isinstance(await failure(cluster, [], str(cluster.token)), Unreachable)
        with pytest.raises(BadToken):
            await join.join([silent], ca_pb2.IssueRequest(), "nonsense", 1)
        server.close()
        await server.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("m1", ("m1", 7376)), ("10.0.0.1:80", ("10.0.0.1", 80)), ("[fd00::1]:9", ("fd00::1", 9)),
        ("fd00::1", ("fd00::1", 7376)), ("[fd00::1]", ("fd00::1", 7376)),
    ],
)  # fmt: skip
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert join.split_address(address) == expected


@pytest.mark.parametrize("address", ["", "m1:", "m1:x", "m1:0", "m1:99999", ":5"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(Unreachable, match="HOST"):
        join.split_address(address)
