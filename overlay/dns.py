"""The DNS process of a node: one UDP and one TCP socket for all its pods.

Each query is answered on the spot from the table, or handed to the forwarder.
The socket is drained up to 64 datagrams per wake, and answers are kept as
octets per view, keyed by the query without its id. The source address, which
the node's anti-spoofing rules guarantee, selects the view. The table file is
read on whenever it changes (inotify, a stat every second, SIGHUP); a damaged
one leaves the old in use, so this process answers while the agent is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.overlay import dnswire
from swarmpy.overlay.dnsforward import Forwarder
from swarmpy.overlay.dnswire import Answer, BadMessage, Query
from swarmpy.overlay.names import Zone, resolve
from swarmpy.overlay.nametable import Changes, ServiceEntry, Table
from swarmpy.overlay.tablefile import TableFile

log = logging.getLogger(__name__)

LISTEN_ADDRESS = "169.254.1.53"
PORT = 53
DATAGRAMS_PER_WAKE = 64
UDP_BUFFER_BYTES = 1 << 20
VIEW_SOURCES_MAX = 8192
VIEW_ANSWERS_MAX = 8192
LOOKUPS_PER_SOURCE_MAX = 256
LOOKUPS_PER_SOURCE_S = 500  # questions to upstream resolvers a second, for one source
LOOKUPS_BURST = 1000
FORWARDERS_MAX = 64
TCP_CONNECTIONS_MAX = 256
TCP_CONNECTIONS_PER_SOURCE_MAX = 32
TCP_IDLE_S = 10.0
FREEZE_SERVICES = 64
STAT_S = 1.0
STAT_S_WITHOUT_INOTIFY = 0.05

_IP_FREEBIND = 15
_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80
_INOTIFY_EVENT_BYTES = 16
_RANDOM = random.Random(os.urandom(16))  # noqa: S311  # spreads load, guards nothing
_randrange = _RANDOM.randrange


class DnsError(Exception):
    """The server cannot start."""


@dataclass
class _View:
    """What one set of sources sees, and the answers already made for it."""

    networks: tuple[str, ...] | None
    upstreams: tuple[str, ...] = ()
    answers: dict[bytes, tuple[bytes, int, int, int]] = field(default_factory=dict)


class Allowance:
    """How many questions a source may still have passed on: a token bucket."""

    def __init__(self, now_s: float) -> None:
        self._left, self._at_s = float(LOOKUPS_BURST), now_s

    def take(self, now_s: float) -> bool:
        self._left = min(LOOKUPS_BURST, self._left + (now_s - self._at_s) * LOOKUPS_PER_SOURCE_S)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass
class Counts:
    """Questions since the start, by where the answer came from."""

    local: int = 0  # the table
    forwarded: int = 0  # upstream resolvers, or what is kept of theirs
    refused: int = 0  # a source, or a node, asked more than it may
    malformed: int = 0


class DnsServer:
    """Serves until `stop`. `port` 0 takes a free one, the same for UDP and TCP."""

    def __init__(self, table_path: Path, listen: str = LISTEN_ADDRESS, port: int = PORT) -> None:
        self._table_path = table_path
        self._listen = listen
        self.port = port
        self.counts = Counts()
        self._zone = Zone(Table())
        self._file = TableFile(table_path)
        self._views_by_source: dict[str, _View] = {}
        self._views: dict[tuple[tuple[str, ...] | None, tuple[str, ...]], _View] = {}
        self._forwarders: dict[tuple[str, ...], Forwarder] = {}
        self._allowances: dict[str, Allowance] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._lookups_by_source: Counter[str] = Counter()
        self._connections: dict[asyncio.Task[None], str] = {}
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Server | None = None
        self._inotify = -1
        self._watch: asyncio.Task[None] | None = None

    @property
    def table(self) -> Table:
        """The table in use, but for its services."""
        return self._zone.table

    @property
    def services(self) -> Mapping[str, ServiceEntry]:
        """The services in use, by key."""
        return self._zone.services

    async def start(self) -> None:
        """Load the table and listen. Raises DnsError."""
        tcp = self._bind(socket.SOCK_STREAM)
        self.port = tcp.getsockname()[1]
        try:
            self._open_inotify()
            self.reload()
            self._udp = self._bind(socket.SOCK_DGRAM)
            self._tcp = await asyncio.start_server(self._serve_connection, sock=tcp, limit=dnswire.TCP_MAX)
        except (DnsError, OSError):
            tcp.close()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._drain)
        if self._inotify >= 0:
            loop.add_reader(self._inotify, self._on_inotify)
        self._watch = asyncio.ensure_future(self._watch_table())
        log.info("dns listening address=%s port=%d", self._listen, self.port)

    async def stop(self) -> None:
        """Close every socket and end every lookup."""
        loop = asyncio.get_running_loop()
        if self._udp is not None:
            loop.remove_reader(self._udp)
            self._udp.close()
        if self._inotify >= 0:
            loop.remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
        if self._tcp is not None:
            self._tcp.close()
        tasks: list[asyncio.Task[None]] = [*self._lookups, *self._connections]
        if self._watch is not None:
            tasks.append(self._watch)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._tcp is not None:
            await self._tcp.wait_closed()
        await self._keep_forwarders(set())

    def reload(self, *, changed: bool = False) -> bool:
        """Read what is new in the table's file; whether there was anything. Keeps the old on damage."""
        changes = self._file.read(changed=changed)
        return changes is not None and self._take(changes)

    def _take(self, changes: Changes) -> bool:
        zone = self._zone
        zone.sum = changes.sum
        if changes.head is None and not changes.put and not changes.drop:
            return False
        for key in changes.drop:
            zone.drop(key)
        for service in changes.put:
            zone.put(service)
        if len(changes.put) >= FREEZE_SERVICES:
            gc.freeze()  # a look for garbage would go through all of them each time, with everybody waiting
        for view in self._views.values():
            view.answers.clear()
        if changes.head is not None:
            zone.set_head(changes.head)
            self._views.clear()
            self._views_by_source.clear()
            used = {zone.table.upstreams, *zone.table.pod_upstreams.values()}
            self._spawn(self._keep_forwarders({self._not_own(upstreams) for upstreams in used}))
        everything = changes.head is not None and len(changes.put) == len(zone.services)
        log.log(
            logging.INFO if everything else logging.DEBUG,
            "dns table loaded services=%d changed=%d gone=%d pods=%d",
            len(zone.services),
            len(changes.put),
            len(changes.drop),
            len(zone.table.pods),
        )
        return True

    def _not_own(self, upstreams: tuple[str, ...]) -> tuple[str, ...]:
        own = {self._listen, f"{self._listen}:{self.port}"}
        return tuple(upstream for upstream in upstreams if upstream not in own)

    def _forwarder(self, upstreams: tuple[str, ...]) -> Forwarder:
        """The one for these resolvers, with its own cache; what is asked there need not hold elsewhere."""
        found = self._forwarders.get(upstreams)
        if found is None:
            if len(self._forwarders) >= FORWARDERS_MAX:
                self._spawn(self._forwarders.pop(next(iter(self._forwarders))).close())
            found = self._forwarders[upstreams] = Forwarder()
            found.set_upstreams(upstreams)
        return found

    async def _keep_forwarders(self, used: set[tuple[str, ...]]) -> None:
        for upstreams in [known for known in self._forwarders if known not in used]:
            await self._forwarders.pop(upstreams).close()

    def _bind(self, kind: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # The address may be put on the interface after this process starts.
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
            listener.bind((self._listen, self.port))
        except OSError as error:
            listener.close()
            raise DnsError(
                f"cannot listen on {self._listen}:{self.port}: {error.strerror}; "
                "is another resolver running there?"
            ) from error
        return listener

    def _drain(self) -> None:
        udp = self._udp
        assert udp is not None
        for _ in range(DATAGRAMS_PER_WAKE):
            try:
                data, source = udp.recvfrom(dnswire.QUERY_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("dns receive failed error=%s", error)
                return
            view = self._views_by_source.get(source[0])
            hit = view.answers.get(data[2:]) if view is not None else None
            if hit is not None:
                self.counts.local += 1
                body, start, count, size = hit
                if count:
                    body = dnswire.rotated(body, start, count, size, _randrange(count))
                self._send(data[:2] + body[2:], source)
            else:
                self._answer_datagram(data, source)

    def _answer_datagram(self, data: bytes, source: tuple[str, int]) -> None:
        response, query = self._answer(data, source[0], tcp=False)
        if response is not None:
            self._send(response, source)
        elif query is not None:
            if self._lookups_by_source[source[0]] >= LOOKUPS_PER_SOURCE_MAX:
                log.warning("too many lookups source=%s limit=%d", source[0], LOOKUPS_PER_SOURCE_MAX)
                self.counts.refused += 1
                self._send(_build(query, Answer(rcode=dnswire.SERVFAIL), tcp=False), source)
            elif not self._may_ask(source[0]):
                self._send(_build(query, Answer(rcode=dnswire.SERVFAIL), tcp=False), source)
            else:
                self._spawn(self._forward_datagram(query, data, source))

    def _may_ask(self, source: str) -> bool:
        """Whether the source has a question to upstream resolvers left, now."""
        now_s = time.monotonic()
        allowance = self._allowances.get(source)
        if allowance is None:
            if len(self._allowances) >= VIEW_SOURCES_MAX:
                self._allowances.clear()
            allowance = self._allowances[source] = Allowance(now_s)
        if allowance.take(now_s):
            return True
        self.counts.refused += 1
        log.debug("too many lookups a second source=%s limit=%d", source, LOOKUPS_PER_SOURCE_S)
        return False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _forward_datagram(self, query: Query, data: bytes, source: tuple[str, int]) -> None:
        self._lookups_by_source[source[0]] += 1
        self.counts.forwarded += 1
        try:
            forwarder = self._forwarder(self._view(source[0]).upstreams)
            self._send(await forwarder.answer(query, data, tcp=False), source)
        finally:
            self._lookups_by_source[source[0]] -= 1
            if not self._lookups_by_source[source[0]]:
                del self._lookups_by_source[source[0]]

    def _send(self, response: bytes, source: tuple[str, int]) -> None:
        assert self._udp is not None
        try:
            self._udp.sendto(response, source)
        except BlockingIOError:
            pass  # a full send buffer loses the answer; the client asks again
        except OSError as error:
            log.debug("dns answer not sent source=%s error=%s", source[0], error)

    def _answer(self, data: bytes, source: str, *, tcp: bool) -> tuple[bytes | None, Query | None]:
        """(response, None), (None, query to forward) or (None, None): stay silent."""
        try:
            query = dnswire.parse_query(data)
        except BadMessage as bad:
            self.counts.malformed += 1
            return (None if bad.rcode is None else dnswire.error_response(data, bad.rcode)), None
        view = self._view(source)
        if query.edns_version > 0:
            self.counts.malformed += 1
            return _build(query, Answer(rcode=dnswire.BADVERS, authoritative=False), tcp=tcp), None
        if view.networks is None:
            self.counts.refused += 1
            return _build(query, Answer(rcode=dnswire.REFUSED, authoritative=False), tcp=tcp), None
        try:
            answer = resolve(self._zone, view.networks, query, _RANDOM.shuffle)
            if answer is None:
                if view.upstreams:
                    kept = self._forwarder(view.upstreams).kept(data, tcp=tcp)
                    self.counts.forwarded += kept is not None
                    return kept, query
                answer = Answer(rcode=dnswire.REFUSED, authoritative=False)
            self.counts.local += 1
            response = _build(query, answer, tcp=tcp)
        except BadMessage as bad:
            log.error("a name of the table cannot be encoded query=%s error=%s", query.name, bad)
            return _build(query, Answer(rcode=dnswire.SERVFAIL), tcp=tcp), None
        if not tcp:
            if len(view.answers) >= VIEW_ANSWERS_MAX:
                view.answers.clear()
            view.answers[data[2:]] = (response, *dnswire.rotatable(response, query))
        return response, None

    def _view(self, source: str) -> _View:
        view = self._views_by_source.get(source)
        if view is None:
            networks = self._zone.view(source, self._listen)
            upstreams = self._not_own(self._zone.upstreams(source, networks or ()))
            view = self._views.setdefault((networks, upstreams), _View(networks, upstreams))
            if len(self._views_by_source) >= VIEW_SOURCES_MAX:
                self._views_by_source.clear()
            self._views_by_source[source] = view
        return view

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername", ("",))[0]
        task = asyncio.current_task()
        assert task is not None
        try:
            same = sum(1 for other in self._connections.values() if other == source)
            if len(self._connections) < TCP_CONNECTIONS_MAX and same < TCP_CONNECTIONS_PER_SOURCE_MAX:
                self._connections[task] = source
                while await self._serve_message(reader, writer, source):
                    pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client went away or fell silent
        finally:
            self._connections.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve_message(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> bool:
        async with asyncio.timeout(TCP_IDLE_S):
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            if length > dnswire.QUERY_BYTES_MAX:
                return False
            data = await reader.readexactly(length)
            response, query = self._answer(data, source, tcp=True)
            if response is None and query is not None:
                if self._may_ask(source):
                    self.counts.forwarded += 1
                    forwarder = self._forwarder(self._view(source).upstreams)
                    response = await forwarder.answer(query, data, tcp=True)
                else:
                    response = _build(query, Answer(rcode=dnswire.SERVFAIL), tcp=True)
            if response is None:
                return False
            writer.write(struct.pack(">H", len(response)) + response)
            await writer.drain()
        return True

    def _open_inotify(self) -> None:
        """Watch the table's directory; without inotify the file is looked at more often."""
        self._table_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        directory = os.fsencode(self._table_path.parent)
        if self._inotify >= 0:
            watch = libc.inotify_add_watch(self._inotify, directory, _IN_CLOSE_WRITE | _IN_MOVED_TO)
            if watch >= 0:
                return
        reason = os.strerror(ctypes.get_errno())
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1
        log.warning("no inotify, looking at the table instead error=%s", reason)

    def _on_inotify(self) -> None:
        changed = False
        with contextlib.suppress(BlockingIOError):
            events = os.read(self._inotify, 65536)
            name = os.fsencode(self._table_path.name)
            changed = name in events or len(events) == _INOTIFY_EVENT_BYTES  # an event without name: overflow
        self.reload(changed=changed)

    async def _watch_table(self) -> None:
        while True:
            await asyncio.sleep(STAT_S if self._inotify >= 0 else STAT_S_WITHOUT_INOTIFY)
            self.reload()


def _build(query: Query, answer: Answer, *, tcp: bool) -> bytes:
    return dnswire.build(query, answer, dnswire.TCP_MAX if tcp else query.size_max)


async def serve(server: DnsServer, ready: Callable[[], None] | None = None) -> None:
    """Serve until cancelled; `ready` is called once both sockets listen. Raises DnsError."""
    try:
        await server.start()
        if ready is not None:
            ready()
        await asyncio.get_running_loop().create_future()
    finally:
        await server.stop()


def run(arguments: Sequence[str]) -> int:
    """The process: `--table PATH [--listen ADDRESS] [--port PORT] [--ready-fd FD]`; the exit code.

    SIGTERM and SIGINT end it, SIGHUP reads the table. One line is written to the
    ready descriptor when it serves.
    """
    import argparse

    parser = argparse.ArgumentParser(prog="swarmpy dns")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--listen", default=LISTEN_ADDRESS)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--ready-fd", type=int, default=-1)
    options = parser.parse_args(arguments)

    def ready() -> None:
        if options.ready_fd >= 0:
            os.write(options.ready_fd, b"ready\n")
            os.close(options.ready_fd)

    try:
        asyncio.run(_until_signalled(DnsServer(options.table, options.listen, options.port), ready))
    except DnsError as error:
        log.error("dns cannot start error=%s", error)
        return 1
    return 0


async def _until_signalled(server: DnsServer, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serve(server, ready))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    loop.add_signal_handler(signal.SIGHUP, functools.partial(_reread, server))
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _reread(server: DnsServer) -> None:
    server.reload()
