"""The DNS process on real sockets: views, UDP and TCP, reloads, upstreams and abuse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from swarmpy.overlay import dns, dnswire
from swarmpy.overlay.dns import DnsError, DnsServer
from swarmpy.overlay.nametable import NetworkEntry, ServiceEntry, Table, TaskEntry

POD, OTHER_POD, STRANGER, THIRD_POD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
TABLE = Table(
    networks=(NetworkEntry("n1", "net", "10.1.0.0/16"), NetworkEntry("n2", "private", "10.2.0.0/16")),
    services=(
        ServiceEntry(
            "web", ("n1",), {"n1": "10.1.0.2"},
            tasks=tuple(TaskEntry(i, f"web.{i}.x", {"n1": f"10.1.1.{i}"}) for i in range(1, 61)),
        ),
        ServiceEntry("db", ("n2",), {"n2": "10.2.0.2"}),
    ),
    pods={POD: ("n1",), OTHER_POD: ("n2",)},
)  # fmt: skip


def write(path: Path, text: str) -> None:
    """As the agent does it: beside, then rename."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)


def query(name: str, kind: int = dnswire.A, *, ident: int = 7, size: int = 0) -> bytes:
    opt = b"\0" + struct.pack(">HHIH", dnswire.OPT, size, 0, 0) if size else b""
    head = struct.pack(">HHHHHH", ident, dnswire.RD, 1, 0, 0, 1 if opt else 0)
    return head + dnswire.encode_name(name) + struct.pack(">HH", kind, 1) + opt


class Reply:
    """A response taken apart."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.id, flags, questions, answers, _, _ = dnswire.HEADER.unpack_from(message)
        self.rcode, self.truncated = flags & 0xF, bool(flags & dnswire.TC)
        self.authoritative = bool(flags & dnswire.AA)
        offset = 12
        for _ in range(questions):
            offset = dnswire.read_name(message, offset)[1] + 4
        self.values: list[str] = []
        self.ttls: list[int] = []
        for _ in range(answers):
            _, offset = dnswire.read_name(message, offset)
            kind, _, ttl, length = struct.unpack_from(">HHIH", message, offset)
            offset += 10
            data = message[offset : offset + length]
            self.ttls.append(ttl)
            if kind == dnswire.A:
                self.values.append(".".join(map(str, data)))
            elif kind in (dnswire.CNAME, dnswire.PTR):
                self.values.append(dnswire.read_name(message, offset)[0])
            else:
                self.values.append(data[1:].decode("latin-1"))
            offset += length


async def exchange(port: int, data: bytes, source: str = POD, timeout_s: float = 10) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.bind((source, 0))
        udp.connect(("127.0.0.1", port))
        await loop.sock_sendall(udp, data)
        return await asyncio.wait_for(loop.sock_recv(udp, 65535), timeout_s)


async def ask(port: int, name: str, kind: int = dnswire.A, source: str = POD, **options: int) -> Reply:
    return Reply(await exchange(port, query(name, kind, **options), source))


async def ask_tcp(port: int, *messages: bytes, source: str = POD) -> list[Reply]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        for message in messages:
            writer.write(struct.pack(">H", len(message)) + message)
        replies = []
        for _ in messages:
            (length,) = struct.unpack(">H", await asyncio.wait_for(reader.readexactly(2), 10))
            replies.append(Reply(await reader.readexactly(length)))
        return replies
    finally:
        writer.close()
        await writer.wait_closed()


def run(path: Path, table: Table | str | None, body: Callable[[DnsServer], Awaitable[None]]) -> None:
    if table is not None:
        write(path / "table.json", table if isinstance(table, str) else table.to_json())

    async def main() -> None:
        server = DnsServer(path / "table.json", "127.0.0.1", 0)
        try:
            await server.start()
            await body(server)
        finally:
            await server.stop()

    asyncio.run(main())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.005)


def test_each_source_has_its_view(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        assert (await ask(server.port, "web")).values == ["10.1.0.2"]
        assert (await ask(server.port, "db")).rcode == dnswire.NXDOMAIN
        assert (await ask(server.port, "db", source=OTHER_POD)).values == ["10.2.0.2"]
        assert (await ask(server.port, "web", source=OTHER_POD)).rcode == dnswire.NXDOMAIN
        for name in ("web", "db"):
            assert len((await ask(server.port, name, source="127.0.0.1")).values) == 1
        for _ in range(2):  # the second time from the kept octets
            reply = await ask(server.port, "WeB", ident=4711)
            assert (reply.id, reply.values, reply.ttls, reply.authoritative) == (
                4711,
                ["10.1.0.2"],
                [5],
                True,
            )
            assert b"\3WeB\0" in reply.message
        assert (await ask(server.port, "web", dnswire.AAAA)).rcode == dnswire.NOERROR
        assert (await ask(server.port, "example.com")).rcode == dnswire.REFUSED

    run(tmp_path, TABLE, body)


def test_many_tasks_are_mixed_and_truncated_and_whole_by_tcp(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        everything = {f"10.1.1.{i}" for i in range(1, 61)}
        firsts = set()
        for ident in range(60):
            reply = await ask(server.port, "tasks.web", ident=ident)
            assert reply.truncated
            assert len(reply.message) <= 512
            assert set(reply.values) < everything
            firsts.add(reply.values[0])
        assert len(firsts) > 5
        reply = await ask(server.port, "tasks.web", size=4096)
        assert not reply.truncated
        assert set(reply.values) == everything
        by_tcp = await ask_tcp(server.port, query("tasks.web"), query("web"), query("nothing"))
        assert set(by_tcp[0].values) == everything
        assert by_tcp[1].values == ["10.1.0.2"]
        assert by_tcp[2].rcode == dnswire.NXDOMAIN

    run(tmp_path, TABLE, body)


def test_questions_are_counted_by_where_their_answer_came_from(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        for _ in range(3):  # the second one is from the answers that are kept
            await ask(server.port, "web")
        await ask_tcp(server.port, query("web"))
        await exchange(server.port, query("web")[:-1])
        assert vars(server.counts) == {"local": 4, "forwarded": 0, "refused": 0, "malformed": 1}

    run(tmp_path, TABLE, body)


def test_table_changes_count_and_damage_does_not(tmp_path: Path) -> None:
    path = tmp_path / "table.json"

    async def body(server: DnsServer) -> None:
        assert (await ask(server.port, "web")).rcode == dnswire.NXDOMAIN  # no table yet
        write(path, TABLE.to_json())
        await until(lambda: answers(server, ["10.1.0.2"]))
        for number in range(3, 40):
            service = replace(TABLE.services[0], vips={"n1": f"10.1.0.{number}"})
            write(path, replace(TABLE, services=(service,)).to_json())
            await until(lambda number=number: answers(server, [f"10.1.0.{number}"]))
        for damage in ("", "{", '{"services": 1}', "\xff"):
            write(path, damage)
            await asyncio.sleep(0.02)
            assert (await ask(server.port, "web")).values == ["10.1.0.39"]
        path.unlink()
        await asyncio.sleep(0.02)
        assert (await ask(server.port, "web")).values == ["10.1.0.39"]
        path.write_text(TABLE.to_json())  # not even by rename
        await until(lambda: answers(server, ["10.1.0.2"]))

    async def answers(server: DnsServer, expected: list[str]) -> bool:
        return (await ask(server.port, "web")).values == expected

    run(tmp_path, None, body)


class Upstream:
    """A resolver of the test: answers by name, UDP and TCP on one port."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self.port = 0
        self.mute = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._tcp, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: UpstreamProtocol(self), local_addr=("127.0.0.1", self.port)
        )
        try:
            yield f"127.0.0.1:{self.port}"
        finally:
            transport.close()
            server.close()
            await server.wait_closed()

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack(">H", await reader.readexactly(2))
                for reply in self.answer(await reader.readexactly(length), "tcp"):
                    writer.write(struct.pack(">H", len(reply)) + reply)
        writer.close()

    def answer(self, data: bytes, by: str) -> list[bytes]:
        parsed = dnswire.parse_query(data)
        self.asked.append((parsed.name, parsed.type, by))
        if self.mute:
            return []
        record = dnswire.Record
        soa = record("example.com", dnswire.SOA, 60, ("ns.example.com", "root.example.com", 1, 60))
        answers = {
            "one.example.com": dnswire.Answer(
                records=(
                    record("one.example.com", dnswire.CNAME, 60, "two.example.com"),
                    record("two.example.com", dnswire.A, 60, "192.0.2.7"),
                )
            ),
            "text.example.com": dnswire.Answer(records=(record(parsed.name, dnswire.TXT, 60, "x" * 200),)),
            "long.example.com": dnswire.Answer(
                records=dnswire.records_of(dnswire.A, parsed.name, 60, [f"192.0.2.{i}" for i in range(200)])
            ),
            "longtext.example.com": dnswire.Answer(
                records=dnswire.records_of(
                    dnswire.TXT, parsed.name, 60, ["y" * 200 + str(i) for i in range(20)]
                )
            ),
            "7.2.0.192.in-addr.arpa": dnswire.Answer(
                records=(record(parsed.name, dnswire.PTR, 60, "two.example.com"),)
            ),
            "broken.example.com": dnswire.Answer(rcode=dnswire.SERVFAIL),
            "six.example.com": dnswire.Answer(authority=(soa,)),
        }
        no = dnswire.Answer(rcode=dnswire.NXDOMAIN, authority=(soa,))
        answer = answers.get(parsed.name, no)
        real = dnswire.build(parsed, answer, dnswire.TCP_MAX if by == "tcp" else parsed.size_max)
        if parsed.name == "text.example.com":
            # Before the truth, two forgeries: a wrong id and a wrong question.
            wrong_id = bytes([real[0] ^ 1]) + real[1:]
            other = dnswire.parse_query(real[:2] + query("evil.example.com", parsed.type)[2:])
            return [wrong_id, dnswire.build(other, answer, 512), real]
        return [real]


class UpstreamProtocol(asyncio.DatagramProtocol):
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        for reply in self.upstream.answer(data, "udp"):
            self.transport.sendto(reply, address)  # type: ignore[attr-defined]


def with_upstream(
    path: Path, body: Callable[[DnsServer, Upstream], Awaitable[None]], *, before: tuple[str, ...] = ()
) -> None:
    async def main() -> None:
        upstream = Upstream()
        async with upstream.serving() as address:
            write(path / "table.json", replace(TABLE, upstreams=(*before, address)).to_json())
            server = DnsServer(path / "table.json", "127.0.0.1", 0)
            try:
                await server.start()
                await body(server, upstream)
            finally:
                await server.stop()

    asyncio.run(main())


def test_forwarding_and_what_is_kept(tmp_path: Path) -> None:
    async def body(server: DnsServer, upstream: Upstream) -> None:
        for ident in (1, 2):
            reply = await ask(server.port, "one.example.com", ident=ident)
            assert (reply.id, reply.values) == (ident, ["two.example.com", "192.0.2.7"])
            assert not reply.authoritative
            assert all(0 < ttl <= 60 for ttl in reply.ttls)
        assert (await ask(server.port, "7.2.0.192.in-addr.arpa", dnswire.PTR)).values == ["two.example.com"]
        assert (await ask(server.port, "six.example.com", dnswire.AAAA)).rcode == dnswire.NOERROR
        for _ in range(3):
            assert (await ask(server.port, "no.example.com")).rcode == dnswire.NXDOMAIN
            assert (await ask(server.port, "no.example.com", dnswire.TXT)).rcode == dnswire.NXDOMAIN
        asked = [(name, kind) for name, kind, _ in upstream.asked]
        assert asked.count(("one.example.com", dnswire.A)) == 1
        assert asked.count(("no.example.com", dnswire.A)) == 1
        assert asked.count(("no.example.com", dnswire.TXT)) == 1
        assert (await ask(server.port, "broken.example.com", dnswire.TXT)).rcode == dnswire.SERVFAIL
        assert (await ask(server.port, "broken.example.com")).rcode == dnswire.SERVFAIL

    with_upstream(tmp_path, body)


def test_a_pod_has_its_own_resolvers_and_an_internal_one_none(tmp_path: Path) -> None:
    async def main() -> None:
        nodes, own = Upstream(), Upstream()
        async with nodes.serving() as first, own.serving() as second:
            internal = replace(TABLE.networks[1], internal=True)
            table = replace(
                TABLE,
                networks=(TABLE.networks[0], internal),
                upstreams=(first,),
                pods={POD: ("n1",), THIRD_POD: ("n1",), OTHER_POD: ("n2",)},
                pod_upstreams={THIRD_POD: (second,)},
            )
            write(tmp_path / "table.json", table.to_json())
            server = DnsServer(tmp_path / "table.json", "127.0.0.1", 0)
            try:
                await server.start()
                assert (await ask(server.port, "one.example.com", source=POD)).rcode == dnswire.NOERROR
                assert (len(nodes.asked), len(own.asked)) == (1, 0)
                assert (await ask(server.port, "one.example.com", source=THIRD_POD)).rcode == dnswire.NOERROR
                assert (len(nodes.asked), len(own.asked)) == (1, 1), "one pod's cache is not another's"
                assert (await ask(server.port, "one.example.com", source=OTHER_POD)).rcode == dnswire.REFUSED
                assert (len(nodes.asked), len(own.asked)) == (1, 1)
                write(tmp_path / "table.json", replace(table, pod_upstreams={}).to_json())
                server.reload()
                assert (await ask(server.port, "one.example.com", source=THIRD_POD)).rcode == dnswire.NOERROR
                assert (len(nodes.asked), len(own.asked)) == (1, 1), "the node's cache outlives the table"
            finally:
                await server.stop()

    asyncio.run(main())


def test_questions_a_second_are_limited_for_each_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "LOOKUPS_BURST", 3)
    monkeypatch.setattr(dns, "LOOKUPS_PER_SOURCE_S", 0)

    async def body(server: DnsServer, upstream: Upstream) -> None:
        names = [f"n{number}.example.com" for number in range(4)]
        codes = [(await ask(server.port, name)).rcode for name in names]
        assert codes == [dnswire.NXDOMAIN] * 3 + [dnswire.SERVFAIL]
        assert (await ask(server.port, names[0])).rcode == dnswire.NXDOMAIN, "what is kept costs nobody"
        assert (await ask(server.port, "web")).rcode == dnswire.NOERROR
        assert (await ask(server.port, names[3], source=OTHER_POD)).rcode == dnswire.NXDOMAIN
        (reply,) = await ask_tcp(server.port, query("n9.example.com"))
        assert reply.rcode == dnswire.SERVFAIL

    with_upstream(tmp_path, body)


def test_own_names_never_leave(tmp_path: Path) -> None:
    async def body(server: DnsServer, upstream: Upstream) -> None:
        for name in ("web", "nothing", "db", "tasks.nothing", "x.swarm.internal", "5.0.1.10.in-addr.arpa"):
            for kind in (dnswire.A, dnswire.AAAA, dnswire.TXT, dnswire.PTR):
                reply = await ask(server.port, name, kind)
                assert reply.rcode in (dnswire.NOERROR, dnswire.NXDOMAIN)
        assert upstream.asked == []

    with_upstream(tmp_path, body)


def test_forged_answers_are_ignored(tmp_path: Path) -> None:
    async def body(server: DnsServer, _upstream: Upstream) -> None:
        assert (await ask(server.port, "text.example.com", dnswire.TXT)).values == ["x" * 200]

    with_upstream(tmp_path, body)


def test_long_answers(tmp_path: Path) -> None:
    async def body(server: DnsServer, upstream: Upstream) -> None:
        reply = await ask(server.port, "long.example.com")
        assert reply.truncated
        assert len(reply.message) <= 512
        (reply,) = await ask_tcp(server.port, query("long.example.com"))
        assert len(reply.values) == 200
        assert (await ask(server.port, "longtext.example.com", dnswire.TXT)).truncated
        (reply,) = await ask_tcp(server.port, query("longtext.example.com", dnswire.TXT))
        assert len(reply.values) == 20
        assert ("longtext.example.com", dnswire.TXT, "tcp") in upstream.asked

    with_upstream(tmp_path, body)


def test_equal_questions_in_flight_are_asked_once(tmp_path: Path) -> None:
    async def body(server: DnsServer, upstream: Upstream) -> None:
        replies = await asyncio.gather(
            *(ask(server.port, "text.example.com", dnswire.TXT, ident=i) for i in range(50))
        )
        assert [reply.id for reply in replies] == list(range(50))
        assert len(upstream.asked) == 1

    with_upstream(tmp_path, body)


@pytest.mark.parametrize("kind", [dnswire.A, dnswire.TXT])
def test_a_dead_first_upstream_is_survived(tmp_path: Path, kind: int) -> None:
    name = "one.example.com" if kind == dnswire.A else "text.example.com"

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))  # takes questions, never answers

        async def body(server: DnsServer, upstream: Upstream) -> None:
            assert (await ask(server.port, name, kind)).rcode == dnswire.NOERROR
            for number in range(3):
                await ask(server.port, f"n{number}.example.com", kind)
            assert len(upstream.asked) == 4
            mute.setblocking(False)
            assert mute.recv(512)
            with pytest.raises(BlockingIOError):
                mute.recv(512)  # who kept others waiting once is not asked first again

        with_upstream(tmp_path, body, before=(f"127.0.0.1:{mute.getsockname()[1]}",))


@pytest.mark.parametrize("kind", [dnswire.A, dnswire.TXT])
def test_silent_upstreams_end_in_servfail_and_local_names_go_on(tmp_path: Path, kind: int) -> None:
    async def body(server: DnsServer, upstream: Upstream) -> None:
        upstream.mute = True
        waiting = asyncio.ensure_future(ask(server.port, "one.example.com", kind))
        assert (await ask(server.port, "web")).values == ["10.1.0.2"]
        assert (await waiting).rcode == dnswire.SERVFAIL

    with_upstream(tmp_path, body)


def test_garbage_does_not_stop_it(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect(("127.0.0.1", server.port))
            for size in (0, 1, 11, 12, 13, 100, 5000):
                await loop.sock_sendall(udp, os.urandom(size))
        response = await exchange(server.port, query("web")[:-1])
        assert Reply(response[:12]).rcode == dnswire.FORMERR
        bad_version = bytearray(query("web", size=512))
        bad_version[-5] = 1
        assert Reply(await exchange(server.port, bytes(bad_version))).message[-6] == dnswire.BADVERS >> 4
        for junk in (b"\0", b"\xff\xff", b"\0\5abc", b"\0\x0c" + b"\xff" * 12):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(junk)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await writer.wait_closed()
        assert (await ask(server.port, "web")).values == ["10.1.0.2"]

    run(tmp_path, TABLE, body)


def test_connections_per_source_are_limited(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        held = [
            await asyncio.open_connection("127.0.0.1", server.port, local_addr=(POD, 0)) for _ in range(40)
        ]
        try:
            ended = await asyncio.wait_for(held[-1][0].read(), 10)
            assert ended == b""
            (reply,) = await ask_tcp(server.port, query("db"), source=OTHER_POD)
            assert reply.values == ["10.2.0.2"]
        finally:
            for _, writer in held:
                writer.close()
            for _, writer in held:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    run(tmp_path, TABLE, body)


def test_port_in_use(tmp_path: Path) -> None:
    async def body(server: DnsServer) -> None:
        second = DnsServer(tmp_path / "table.json", "127.0.0.1", server.port)
        with pytest.raises(DnsError, match="another resolver"):
            await second.start()
        await second.stop()

    run(tmp_path, TABLE, body)


def test_the_process_reports_ready_rereads_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "dns" / "table.json"
    path.parent.mkdir()
    write(path, TABLE.to_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reading, writing = os.pipe()
    code = "import sys; from swarmpy.overlay.dns import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, "--table", str(path), "--listen", "127.0.0.1",
         "--port", str(port), "--ready-fd", str(writing)],
        pass_fds=[writing], stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            assert ready.read() == b"ready\n"
        assert asyncio.run(ask(port, "web")).values == ["10.1.0.2"]
        process.send_signal(signal.SIGHUP)
        assert asyncio.run(ask(port, "web")).values == ["10.1.0.2"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.communicate()
