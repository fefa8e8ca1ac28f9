"""Guarded servers on real sockets: who gets in, who is cut off, and when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from swarmpy.node.ca import authority, identity, tls
from swarmpy.node.ca.access import Caller
from swarmpy.node.ca.errors import ListenError
from swarmpy.node.ca.guard import GuardedServer, actor_metadata, current_caller
from swarmpy.proto import (
    agent_pb2,
    agent_pb2_grpc,
    ca_pb2,
    ca_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    objects_pb2,
    store_pb2,
    types_pb2,
)

CLUSTER = "c" * 25
ROOT = authority.new_root(CLUSTER, int(time.time() * 1000))
MANAGER, WORKER = types_pb2.ROLE_MANAGER, types_pb2.ROLE_WORKER


def make(letter: str, role: types_pb2.Role, *, root: authority.Root = ROOT, cluster: str = CLUSTER,
         lifetime_ms: int = 3_600_000) -> identity.Identity:  # fmt: skip
    key, csr = identity.new_key_and_csr()
    pem = authority.issue(
        root, csr, node_id=letter * 25, cluster_id=cluster, role=role, now_ms=int(time.time() * 1000),
        lifetime_ms=lifetime_ms,
    )  # fmt: skip
    return identity.Identity.build(pem, key, root.certificate_pem)


SERVER = make("s", MANAGER)


class Control(control_pb2_grpc.ControlServicer):
    async def Status(self, request, context):  # type: ignore[no-untyped-def]
        caller = current_caller()
        return control_pb2.StatusResponse(node_id=caller.node_id, leader_id=caller.kind, version=caller.actor)

    async def Watch(self, request, context):  # type: ignore[no-untyped-def]
        yield control_pb2.Event(index=1)
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "list again")

    async def List(self, request, context):  # type: ignore[no-untyped-def]
        found = store_pb2.Object(task=objects_pb2.Task(service_name="x" * (6 << 20)))
        return control_pb2.ListResponse(objects=[found])

    async def LoadImage(self, request_iterator, context):  # type: ignore[no-untyped-def]
        total = 0
        async for chunk in request_iterator:
            total += len(chunk.data)
        yield control_pb2.ImageProgress(done_bytes=total)


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    def __init__(self) -> None:
        self.ended: list[str] = []

    async def Attach(self, request_iterator, context):  # type: ignore[no-untyped-def]
        try:
            yield dispatcher_pb2.ManagerMessage(
                welcome=dispatcher_pb2.Welcome(session_id=current_caller().node_id)
            )
            async for message in request_iterator:
                yield dispatcher_pb2.ManagerMessage(heartbeat=message.heartbeat)
        finally:
            self.ended.append(current_caller().node_id)


class Blobs(agent_pb2_grpc.BlobsServicer):
    async def Read(self, request, context):  # type: ignore[no-untyped-def]
        await context.write(agent_pb2.BlobChunk(data=b"old style"))


class Site:
    """A guarded server with all kinds of handlers on all kinds of listeners."""

    def __init__(self, directory: Path) -> None:
        self.removed: set[str] = set()
        self.demoted: set[str] = set()
        self.dispatcher = Dispatcher()
        self.guarded = GuardedServer(
            CLUSTER, lambda node_id, serial: node_id not in self.removed,
            is_manager=lambda node_id: node_id not in self.demoted,
        )  # fmt: skip
        control_pb2_grpc.add_ControlServicer_to_server(Control(), self.guarded)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self.dispatcher, self.guarded)
        agent_pb2_grpc.add_BlobsServicer_to_server(Blobs(), self.guarded)
        ca_pb2_grpc.add_JoinServicer_to_server(JoinEcho(), self.guarded)
        self.port = self.guarded.listen("127.0.0.1:0", SERVER)
        self.join_port = self.guarded.listen_join("127.0.0.1:0", SERVER)
        self.socket_path = directory / "run" / "control.sock"
        self.guarded.listen_unix(self.socket_path)

    def channel(self, who: identity.Identity) -> grpc.aio.Channel:
        return tls.channel(f"127.0.0.1:{self.port}", SERVER.node_id, who)


class JoinEcho(ca_pb2_grpc.JoinServicer):
    async def Issue(self, request, context):  # type: ignore[no-untyped-def]
        return ca_pb2.IssueResponse(address=current_caller().kind)


def run(directory: Path, body: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        site = Site(directory)
        await site.guarded.start()
        try:
            await body(site)
        finally:
            await site.guarded.stop(0)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def denied(code: grpc.StatusCode, words: str) -> AsyncIterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() == code, caught.value.details()
    assert words in (caught.value.details() or "")


async def status(channel: grpc.aio.Channel, **options: object) -> control_pb2.StatusResponse:
    return await control_pb2_grpc.ControlStub(channel).Status(
        control_pb2.StatusRequest(), timeout=5, **options
    )


def test_callers_by_certificate_and_socket(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async with site.channel(make("m", MANAGER)) as channel:
            answer = await status(channel)
            assert (answer.leader_id, answer.node_id, answer.version) == (
                "manager",
                "m" * 25,
                "node:" + "m" * 25,
            )
            passed_on = Caller("user", "", CLUSTER, "root@local")
            assert (await status(channel, metadata=actor_metadata(passed_on))).version == "root@local"
        async with (
            site.channel(make("w", WORKER)) as channel,
            denied(grpc.StatusCode.PERMISSION_DENIED, "a worker may not call /swarmpy.v1.Control/Status"),
        ):
            await status(channel, metadata=((("swarmpy-actor", "root@local")),))
        async with grpc.aio.insecure_channel(f"unix:{site.socket_path}") as channel:
            answer = await status(channel)
            assert (answer.leader_id, answer.version) == ("user", "root@local")
            async with denied(grpc.StatusCode.PERMISSION_DENIED, "a user may not call"):
                await ca_pb2_grpc.JoinStub(channel).Issue(ca_pb2.IssueRequest(), timeout=5)
        assert site.socket_path.stat().st_mode & 0o777 == 0o600
        assert site.socket_path.parent.stat().st_mode & 0o777 == 0o700

    run(tmp_path, body)


def test_a_manager_takes_from_another_what_the_command_line_takes_from_it(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        address, request = f"127.0.0.1:{site.port}", control_pb2.ListRequest()
        async with tls.channel(address, SERVER.node_id, make("m", MANAGER), lists=True) as channel:
            answer = await control_pb2_grpc.ControlStub(channel).List(request, timeout=10)
            assert len(answer.objects[0].task.service_name) == 6 << 20
        async with (
            site.channel(make("m", MANAGER)) as channel,
            denied(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
        ):
            await control_pb2_grpc.ControlStub(channel).List(request, timeout=10)

    run(tmp_path, body)


def test_all_four_kinds_of_calls_work(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async with grpc.aio.insecure_channel(f"unix:{site.socket_path}") as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            watch = stub.Watch(control_pb2.WatchRequest(), timeout=5)
            assert (await watch.read()).index == 1
            async with denied(grpc.StatusCode.OUT_OF_RANGE, "list again"):
                await watch.read()
            chunks = [control_pb2.ImageChunk(data=b"x" * 1000) for _ in range(50)]
            assert [p.done_bytes async for p in stub.LoadImage(iter(chunks), timeout=5)] == [50_000]
        async with site.channel(make("w", WORKER)) as channel:
            read = agent_pb2_grpc.BlobsStub(channel).Read(agent_pb2.BlobReadRequest(), timeout=5)
            assert [chunk.data async for chunk in read] == [b"old style"]
            async with denied(grpc.StatusCode.UNIMPLEMENTED, ""):
                await agent_pb2_grpc.AgentStub(channel).Resolve(agent_pb2.ResolveRequest(), timeout=5)

    run(tmp_path, body)


def test_what_was_sent_on_a_stream_is_let_go(tmp_path: Path) -> None:
    """A stream that is quiet for hours does not keep its last message, of a thousand nodes each a megabyte."""

    class Message:
        pass

    alive: weakref.WeakSet[Message] = weakref.WeakSet()

    def made() -> Message:
        message = Message()
        alive.add(message)
        return message

    async def attach(requests, context):  # type: ignore[no-untyped-def]
        for _ in range(3):
            yield made()
        async for _ in requests:
            pass

    async def main() -> None:
        guarded = GuardedServer(CLUSTER, lambda node_id, serial: True)
        serialised = dispatcher_pb2.ManagerMessage().SerializeToString()
        method = grpc.stream_stream_rpc_method_handler(attach, response_serializer=lambda _: serialised)
        handler = grpc.method_handlers_generic_handler("swarmpy.v1.Dispatcher", {"Attach": method})
        guarded.add_generic_rpc_handlers((handler,))
        port = guarded.listen("127.0.0.1:0", SERVER)
        await guarded.start()
        try:
            async with tls.channel(f"127.0.0.1:{port}", SERVER.node_id, make("w", WORKER)) as channel:
                call = dispatcher_pb2_grpc.DispatcherStub(channel).Attach()
                for _ in range(3):
                    await call.read()
                async with asyncio.timeout(10):
                    while alive:
                        await asyncio.sleep(0.01)
                call.cancel()
        finally:
            await guarded.stop(0)

    asyncio.run(main())


def test_join_port_serves_only_joining(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        pin = authority.fingerprint(ROOT.certificate_pem)
        found = await asyncio.to_thread(tls.bootstrap, "127.0.0.1", site.join_port, pin, 5)
        assert found == tls.Bootstrap(ROOT.certificate_pem, SERVER.node_id)
        async with tls.join_channel(f"127.0.0.1:{site.join_port}", found) as channel:
            assert (
                await ca_pb2_grpc.JoinStub(channel).Issue(ca_pb2.IssueRequest(), timeout=5)
            ).address == "none"
            async with denied(grpc.StatusCode.PERMISSION_DENIED, "an unidentified caller may not call"):
                await status(channel)
        async with site.channel(make("m", MANAGER)) as channel:  # noqa: SIM117
            async with denied(grpc.StatusCode.PERMISSION_DENIED, "a manager may not call"):
                await ca_pb2_grpc.JoinStub(channel).Issue(ca_pb2.IssueRequest(), timeout=5)

    run(tmp_path, body)


def test_strangers_do_not_get_in(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        other = authority.new_root(CLUSTER, int(time.time() * 1000))
        for who in (make("m", MANAGER, root=other), None):
            credentials = grpc.ssl_channel_credentials(
                ROOT.certificate_pem, who.key_pem if who else None, who.certificate_pem if who else None
            )
            options = [("grpc.ssl_target_name_override", authority.server_name(SERVER.node_id))]
            target = f"127.0.0.1:{site.port}"
            async with grpc.aio.secure_channel(target, credentials, options=options) as channel:  # noqa: SIM117
                async with denied(grpc.StatusCode.UNAVAILABLE, ""):
                    await status(channel)
        # The right cluster, but not the node that was meant.
        wrong = tls.channel(f"127.0.0.1:{site.port}", "x" * 25, make("m", MANAGER))
        async with wrong as channel, denied(grpc.StatusCode.UNAVAILABLE, ""):
            await status(channel)

    run(tmp_path, body)


def test_same_root_but_another_cluster_name(tmp_path: Path) -> None:
    async def body(_site: Site) -> None:
        lonely = GuardedServer("d" * 25, lambda node_id, serial: True)
        control_pb2_grpc.add_ControlServicer_to_server(Control(), lonely)
        port = lonely.listen("127.0.0.1:0", SERVER)
        await lonely.start()
        try:
            target = f"127.0.0.1:{port}"
            async with tls.channel(target, SERVER.node_id, make("m", MANAGER)) as channel:  # noqa: SIM117
                async with denied(grpc.StatusCode.UNAUTHENTICATED, "belongs to cluster"):
                    await status(channel)
        finally:
            await lonely.stop(0)

    run(tmp_path, body)


def test_removal_and_demotion_count_on_the_next_call(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async with site.channel(make("m", MANAGER)) as channel:
            await status(channel)
            site.demoted.add("m" * 25)
            async with denied(grpc.StatusCode.PERMISSION_DENIED, "a worker may not"):
                await status(channel)
            site.removed.add("m" * 25)
            async with denied(grpc.StatusCode.UNAUTHENTICATED, "not a member"):
                await status(channel)

    run(tmp_path, body)


def test_expired_certificate_ends_call_and_stream_on_a_live_connection(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        who = make("m", MANAGER, lifetime_ms=3000)
        async with site.channel(who) as channel:
            await status(channel)
            stream = dispatcher_pb2_grpc.DispatcherStub(channel).Attach(timeout=20)
            assert (await stream.read()).welcome.session_id == "m" * 25
            async with denied(grpc.StatusCode.UNAUTHENTICATED, "expired"):
                await stream.read()
            assert time.time() * 1000 >= who.expires_ms
            async with denied(grpc.StatusCode.UNAUTHENTICATED, "expired"):
                await status(channel)
        assert site.dispatcher.ended == ["m" * 25]

    run(tmp_path, body)


def test_end_streams_ends_only_that_node(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async with site.channel(make("w", WORKER)) as bad, site.channel(make("v", WORKER)) as good:
            streams = [dispatcher_pb2_grpc.DispatcherStub(bad).Attach(timeout=20) for _ in range(3)]
            kept = dispatcher_pb2_grpc.DispatcherStub(good).Attach(timeout=20)
            for stream in (*streams, kept):
                await stream.read()
            assert site.guarded.end_streams("w" * 25) == 3
            for stream in streams:
                async with denied(grpc.StatusCode.UNAUTHENTICATED, "removed from the cluster"):
                    await asyncio.wait_for(stream.read(), 5)
            await kept.write(dispatcher_pb2.AgentMessage(heartbeat=dispatcher_pb2.Heartbeat(sequence=9)))
            assert (await kept.read()).heartbeat.sequence == 9
            assert site.dispatcher.ended == ["w" * 25] * 3
            await kept.done_writing()
            assert await kept.read() is grpc.aio.EOF
        assert site.guarded.end_streams("w" * 25) == 0
        assert site.guarded.end_streams("v" * 25) == 0

    run(tmp_path, body)


def test_client_that_goes_away_ends_the_handler(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async with site.channel(make("w", WORKER)) as channel:
            stream = dispatcher_pb2_grpc.DispatcherStub(channel).Attach(timeout=20)
            await stream.read()
            stream.cancel()
        async with asyncio.timeout(10):
            while not site.dispatcher.ended:
                await asyncio.sleep(0.01)

    run(tmp_path, body)


def h2_call(tls_version: ssl.TLSVersion, port: int, who: identity.Identity) -> bytes:
    """One unary call by hand, because gRPC's client cannot be told to use an old TLS."""
    context = tls.raft_client_context(who)
    context.minimum_version = context.maximum_version = tls_version
    context.set_alpn_protocols(["h2"])

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )

    def header(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        header(name, value)
        for name, value in [
            (b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/swarmpy.v1.Control/Status"),
            (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
        ]
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        name = authority.server_name(SERVER.node_id)
        with context.wrap_socket(plain, server_hostname=name) as secure:
            assert secure.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[tls_version.name]
            secure.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                + frame(4, 0, 0, b"")
                + frame(1, 4, 1, headers)
                + frame(0, 1, 1, b"\0\0\0\0\0")
            )
            answer = b""
            while b"grpc-status" not in answer and (more := secure.recv(4096)):
                answer += more
            return answer


def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        who = make("m", MANAGER)
        good = await asyncio.to_thread(h2_call, ssl.TLSVersion.TLSv1_3, site.port, who)
        assert b"node:mmmm" in good
        bad = await asyncio.to_thread(h2_call, ssl.TLSVersion.TLSv1_2, site.port, who)
        assert b"does not use TLS 1.3" in bad
        assert b"node:mmmm" not in bad

    run(tmp_path, body)


def test_server_follows_a_renewed_certificate(tmp_path: Path) -> None:
    async def body(_site: Site) -> None:
        certs = tmp_path / "certs"
        make("s", MANAGER).save(certs)
        source = identity.IdentityFile(certs)
        guarded = GuardedServer(CLUSTER, lambda node_id, serial: True)
        control_pb2_grpc.add_ControlServicer_to_server(Control(), guarded)
        port = guarded.listen("127.0.0.1:0", source)
        await guarded.start()

        def shown() -> bytes:
            context = tls.raft_client_context(make("m", MANAGER))
            context.set_alpn_protocols(["h2"])
            with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:  # noqa: SIM117
                with context.wrap_socket(plain, server_hostname="s" * 25 + ".node.swarmpy") as secure:
                    return secure.getpeercert(binary_form=True) or b""

        try:
            before = await asyncio.to_thread(shown)
            make("s", MANAGER).save(certs)
            after = await asyncio.to_thread(shown)
            assert before != after
            assert after == ssl.PEM_cert_to_DER_cert(source.current().certificate_pem.decode())
        finally:
            await guarded.stop(0)

    run(tmp_path, body)


def test_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        with pytest.raises(ListenError, match="port is in use"):
            GuardedServer(CLUSTER, lambda node_id, serial: True).listen(f"127.0.0.1:{site.port}", SERVER)
        with pytest.raises(ListenError, match="shorter --state-dir"):
            site.guarded.listen_unix(tmp_path / ("x" * 120))

    run(tmp_path, body)


def test_raft_contexts_know_their_peer() -> None:
    async def main() -> None:
        seen: list[object] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(tls.peer_identity(writer.get_extra_info("ssl_object")))
            writer.write(await reader.readexactly(4))
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls.raft_server_context(SERVER))
        port = server.sockets[0].getsockname()[1]

        async def dial(who: identity.Identity, peer_id: str) -> authority.PeerIdentity:
            context = tls.raft_client_context(who)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname=authority.server_name(peer_id)
            )
            try:
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
                return tls.peer_identity(writer.get_extra_info("ssl_object"))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        assert (await dial(make("m", MANAGER), SERVER.node_id)).node_id == SERVER.node_id
        assert [peer.node_id for peer in seen if isinstance(peer, authority.PeerIdentity)] == ["m" * 25]
        with pytest.raises(ssl.SSLError):
            await dial(make("m", MANAGER), "x" * 25)
        other = authority.new_root(CLUSTER, int(time.time() * 1000))
        with pytest.raises(OSError):
            await dial(make("m", MANAGER, root=other), SERVER.node_id)
        server.close()
        await server.wait_closed()

    asyncio.run(main())


class Line:
    """Relays connections to a port; while `open` is not set nothing goes through, and nothing is lost."""

    def __init__(self, port: int) -> None:
        self.port, self.open = port, asyncio.Event()
        self.moved = 0  # octets, both ways
        self.open.set()
        self._copies: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.port)
        for source, target in ((reader, other_writer), (other_reader, writer)):
            self._copies.add(asyncio.ensure_future(self._copy(source, target)))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self.open.wait()
                self.moved += len(data)
                target.write(data)
        except OSError:
            pass
        finally:
            target.close()

    async def stop(self) -> None:
        self._server.close()
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)


def test_a_line_that_pauses_ends_a_lan_connection_and_no_wan_one(tmp_path: Path) -> None:
    async def attach(profile: str, directory: Path) -> tuple[Site, Line, grpc.aio.Channel]:
        tls.use_profile(profile)
        site = Site(directory)
        await site.guarded.start()
        line = Line(site.port)
        return site, line, tls.channel(f"127.0.0.1:{await line.start()}", SERVER.node_id, make("w", WORKER))

    async def main() -> None:
        lan = await attach("lan", tmp_path / "lan")
        wan = await attach("wan", tmp_path / "wan")
        streams = [dispatcher_pb2_grpc.DispatcherStub(channel).Attach() for _, _, channel in (lan, wan)]
        for stream in streams:
            assert (await stream.read()).HasField("welcome")
        for _, line, _ in (lan, wan):
            line.open.clear()
        async with asyncio.timeout(20), denied(grpc.StatusCode.UNAVAILABLE, ""):
            await streams[0].read()
        await asyncio.sleep(1.5)  # the other one began a little later, and its pings are a second apart
        for _, line, _ in (lan, wan):
            line.open.set()
        await streams[1].write(dispatcher_pb2.AgentMessage(heartbeat=dispatcher_pb2.Heartbeat()))
        async with asyncio.timeout(20):
            assert (await streams[1].read()).HasField("heartbeat")
        for site, line, channel in (lan, wan):
            await channel.close(None)
            await line.stop()
            await site.guarded.stop(0)

    try:
        asyncio.run(main())
    finally:
        tls.use_profile("lan")


def test_a_seldom_used_channel_is_silent_between_calls(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        async def moved(*, seldom_used: bool) -> int:
            line = Line(site.port)
            address = f"127.0.0.1:{await line.start()}"
            channel = tls.channel(address, SERVER.node_id, make("m", MANAGER), seldom_used=seldom_used)
            blobs, found = agent_pb2_grpc.BlobsStub(channel), []
            for pause_s in (2.2 * tls.PING_EVERY_MS / 1000, 0):
                chunks = [c.data async for c in blobs.Read(agent_pb2.BlobReadRequest(), timeout=20)]
                assert chunks == [b"old style"]
                await asyncio.sleep(0.3)
                before = line.moved
                await asyncio.sleep(pause_s)
                found.append(line.moved - before)
            await channel.close(None)
            await line.stop()
            return found[0]

        silent, pinged = await asyncio.gather(moved(seldom_used=True), moved(seldom_used=False))
        assert silent == 0
        assert pinged > 0

    run(tmp_path, body)


def test_what_a_handler_does_not_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(self, request_iterator, context):  # type: ignore[no-untyped-def]
        await asyncio.sleep(60)
        yield control_pb2.ImageProgress()

    monkeypatch.setattr(Control, "LoadImage", deaf)

    async def body(site: Site) -> None:
        channel = grpc.aio.insecure_channel(f"unix:{site.socket_path}")
        call = control_pb2_grpc.ControlStub(channel).LoadImage()
        chunk, sent = control_pb2.ImageChunk(data=bytes(16384)), 0
        with contextlib.suppress(TimeoutError):
            while sent < 16 * tls.WINDOW_BYTES:
                await asyncio.wait_for(call.write(chunk), 1)
                sent += len(chunk.data)
        assert tls.WINDOW_BYTES // 2 < sent < 2 * tls.WINDOW_BYTES
        call.cancel()
        await channel.close(None)

    run(tmp_path, body)


def test_silent_connections_keep_nobody_out(tmp_path: Path) -> None:
    """More of them than a small server would have threads or slots; half have begun a handshake."""

    async def body(site: Site) -> None:
        with contextlib.ExitStack() as open_ones:
            for number in range(300):
                silent = open_ones.enter_context(socket.create_connection(("127.0.0.1", site.port), 5))
                if number % 2:
                    silent.sendall(bytes.fromhex("160301020001"))  # the first bytes of a hello, and no more
            for _ in range(5):  # each with a connection of its own
                async with site.channel(make("m", MANAGER)) as channel:
                    assert (await status(channel)).node_id == "m" * 25

    run(tmp_path, body)
