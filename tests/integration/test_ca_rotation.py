"""Connections while the root is rotated, on real ports: gRPC with mutual TLS, the join port, and raft's TLS."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from pathlib import Path

import grpc
import pytest
from swarmpy.node.ca import authority, identity, join, rotation, tls
from swarmpy.node.ca.errors import JoinError, PinMismatch
from swarmpy.node.ca.guard import GuardedServer
from swarmpy.node.ca.identity import Identity, IdentityFile
from swarmpy.node.ca.token import JoinToken
from swarmpy.node.plan import roots
from swarmpy.proto import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc, objects_pb2, types_pb2

CLUSTER = "c" * 25
SERVER, CLIENT = "s" * 25, "m" * 25
SECRET = "x" * 25


def clusters() -> dict[str, objects_pb2.Cluster]:
    """The cluster as it is before, in both phases, in the first of them anew, and after."""
    now_ms = int(time.time() * 1000)
    root = authority.new_root(CLUSTER, now_ms)
    before = objects_pb2.Cluster(root_certificate=root.certificate_pem, root_key=root.key_pem)
    before.meta.id, before.worker_secret = CLUSTER, SECRET
    found = {"before": before}
    for name in ("first", "issuing"):
        found[name] = objects_pb2.Cluster()
        found[name].CopyFrom(before)
        found[name].root_rotation.CopyFrom(rotation.begin(before, now_ms, SECRET, SECRET))
    found["trusting"] = roots.after(found["issuing"], now_ms)
    found["over"] = roots.after(found["trusting"], now_ms)
    return found


def certified(node_id: str, signed: objects_pb2.Cluster, trusts: objects_pb2.Cluster) -> Identity:
    key, csr = identity.new_key_and_csr()
    return Identity.build(sign(csr, node_id, signed), key, trusts.root_certificate)


def sign(csr: bytes, node_id: str, cluster: objects_pb2.Cluster) -> bytes:
    issuing = rotation.issuing(cluster)
    leaf = authority.issue(
        issuing.root, csr, node_id=node_id, cluster_id=CLUSTER, role=types_pb2.ROLE_MANAGER,
        now_ms=int(time.time() * 1000), lifetime_ms=3_600_000,
    )  # fmt: skip
    return leaf + issuing.chain_pem


def met(found: dict[str, objects_pb2.Cluster]) -> list[tuple[Identity, Identity]]:
    """Who may meet: nodes of one phase, some of which are already where the phase leads to."""
    before, first, issuing, trusting = (found[name] for name in ("before", "first", "issuing", "trusting"))
    at_first = [(before, before), (first, before), (issuing, before)]
    then = [(issuing, before), (trusting, before), (trusting, trusting)]
    last = [(trusting, trusting), (found["over"], found["over"])]
    pairs: list[tuple[Identity, Identity]] = []
    for phase in (at_first, then, last):
        for server, client in itertools.product(phase, phase):
            pairs.append((certified(SERVER, *server), certified(CLIENT, *client)))
    return pairs


class Control(control_pb2_grpc.ControlServicer):
    async def Status(self, request, context):  # type: ignore[no-untyped-def]
        return control_pb2.StatusResponse(version="here")


class Server:
    """Two gRPC ports and one of raft's, of a node whose identity is in files."""

    def __init__(self, certs: Path, join_servicer: ca_pb2_grpc.JoinServicer | None = None) -> None:
        self.identity = IdentityFile(certs)
        self.guarded = GuardedServer(CLUSTER, lambda node_id, serial: True)
        control_pb2_grpc.add_ControlServicer_to_server(Control(), self.guarded)
        if join_servicer is not None:
            ca_pb2_grpc.add_JoinServicer_to_server(join_servicer, self.guarded)
        self.port = self.guarded.listen("127.0.0.1:0", self.identity)
        self.join_port = self.guarded.listen_join("127.0.0.1:0", self.identity)

    async def __aenter__(self) -> Server:
        await self.guarded.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.guarded.stop(0)

    def channel(self, client: Identity) -> grpc.aio.Channel:
        return tls.channel(f"127.0.0.1:{self.port}", SERVER, client)

    async def raft(self, client: Identity) -> bytes:
        async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"here")
            writer.close()

        context = tls.raft_server_context(self.identity.current())
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.sockets[0].getsockname()[1], ssl=tls.raft_client_context(client),
                server_hostname=authority.server_name(SERVER),
            )  # fmt: skip
            try:
                return await reader.read()
            finally:
                writer.close()
        finally:
            server.close()


async def asked(channel: grpc.aio.Channel) -> str:
    answer = await control_pb2_grpc.ControlStub(channel).Status(control_pb2.StatusRequest(), timeout=5)
    return str(answer.version)


def test_in_every_phase_everybody_accepts_everybody(tmp_path: Path) -> None:
    async def main() -> None:
        pairs = met(clusters())
        pairs[0][0].save(tmp_path)
        async with Server(tmp_path) as server:
            for mine, theirs in pairs:
                mine.save(tmp_path)
                async with server.channel(theirs) as channel:
                    assert await asked(channel) == "here"
                assert await server.raft(theirs) == b"here"

    asyncio.run(main())


def test_afterwards_the_old_root_opens_nothing_and_open_connections_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        found = clusters()
        before, over = found["before"], found["over"]
        certified(SERVER, before, before).save(tmp_path)
        # A certificate of the old root whose holder has learnt the new one by other ways.
        old, thief = certified(CLIENT, before, before), certified(CLIENT, before, over)
        async with Server(tmp_path) as server, server.channel(old) as opened:
            assert await asked(opened) == "here"
            for cluster in (found["issuing"], found["trusting"], over):
                certified(SERVER, cluster, cluster).save(tmp_path)
                assert await asked(opened) == "here"
            async with server.channel(certified(CLIENT, over, over)) as channel:
                assert await asked(channel) == "here"
            for refused in (old, thief):
                async with server.channel(refused) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await asked(channel)
                    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
                try:
                    answer = await server.raft(refused)
                except (ssl.SSLError, OSError):
                    answer = b""
                assert answer == b""

    asyncio.run(main())


class Joins(ca_pb2_grpc.JoinServicer):
    """What a manager would answer, without a store."""

    def __init__(self) -> None:
        self.cluster = objects_pb2.Cluster()

    async def Issue(self, request, context):  # type: ignore[no-untyped-def]
        return ca_pb2.IssueResponse(
            node_id=CLIENT, cluster_id=CLUSTER, role=types_pb2.ROLE_MANAGER, root=self.cluster.root_certificate,
            certificate=sign(request.csr, CLIENT, self.cluster),
        )  # fmt: skip


def test_joining_in_every_phase_by_the_token_of_that_phase(tmp_path: Path) -> None:
    async def main() -> None:
        found, joins = clusters(), Joins()
        tokens = {
            name: str(JoinToken(authority.fingerprint(c.root_certificate), SECRET))
            for name, c in found.items()
        }
        assert len(set(tokens.values())) == 2
        assert tokens["issuing"] == tokens["before"] != tokens["trusting"] == tokens["over"]
        certified(SERVER, found["before"], found["before"]).save(tmp_path)
        async with Server(tmp_path, joins) as server:
            address = [f"127.0.0.1:{server.join_port}"]
            for name, cluster in found.items():
                joins.cluster = cluster
                certified(SERVER, cluster, cluster).save(tmp_path)
                key, csr = identity.new_key_and_csr()
                answer = await join.join(address, ca_pb2.IssueRequest(csr=csr), tokens[name], 10)
                mine = Identity.build(answer.certificate, key, answer.root)
                roots_now = rotation.wanted(cluster)
                assert (mine.issuer, mine.trusts) == (roots_now.issuer, roots_now.trusts)
                async with server.channel(mine) as channel:
                    assert await asked(channel) == "here"
            with pytest.raises(PinMismatch, match="root certificate was rotated since the token was made"):
                await join.join(address, ca_pb2.IssueRequest(csr=csr), tokens["before"], 10)

    asyncio.run(main())


def test_a_nodes_certificate_vouches_for_nobody(tmp_path: Path) -> None:
    """A worker that signs a manager's certificate with its own key, and shows its own as the one between."""

    async def main() -> None:
        found = clusters()
        worker = certified("w" * 25, found["before"], found["before"])
        forged = authority.Root(worker.certificate_pem, worker.key_pem)
        key, csr = identity.new_key_and_csr()
        leaf = authority.issue(
            forged, csr, node_id=SERVER, cluster_id=CLUSTER, role=types_pb2.ROLE_MANAGER,
            now_ms=int(time.time() * 1000), lifetime_ms=3_600_000,
        )  # fmt: skip
        Identity.build(leaf + worker.certificate_pem, key, found["before"].root_certificate).save(tmp_path)
        token = str(JoinToken(authority.fingerprint(found["before"].root_certificate), SECRET))
        async with Server(tmp_path, Joins()) as server:
            with pytest.raises(JoinError, match="is no manager of the token's cluster; nothing was sent"):
                request = ca_pb2.IssueRequest(csr=csr)
                await join.join([f"127.0.0.1:{server.join_port}"], request, token, 10)

    asyncio.run(main())
