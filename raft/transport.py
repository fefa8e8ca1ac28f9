"""Messages between managers: protobuf frames on mutual TLS 1.3, one stream each way.

Every member dials every peer it knows, and may answer on whichever connection there is:
a joining manager answers its leader before it knows any address. The first frame of both
sides is a hello; its node id must be the one bound to the certificate, and for a dialled
connection the one dialled. Contexts are asked for anew per connection, so renewed
certificates are used. Delivery is best effort and in order per connection; what does not
fit the write buffer is dropped, which the protocol above expects.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import struct
from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError
from swarmpy.proto import raft_pb2

log = logging.getLogger(__name__)

PROTOCOL = 1
LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 4 * 1024 * 1024
HELLO_BYTES_MAX = 1024
WRITE_BUFFER_BYTES_MAX = 8 * 1024 * 1024
CONNECTIONS_MAX = 128
CONNECT_TIMEOUT_S = 3.0
HANDSHAKE_TIMEOUT_S = 5.0
HELLO_TIMEOUT_S = 5.0
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 1.0

ContextSource = Callable[[], ssl.SSLContext]
PeerId = Callable[[ssl.SSLObject], str]


class Connection(asyncio.Protocol):
    """One TLS connection, dialled (`expected` set) or accepted."""

    def __init__(self, owner: Transport, expected: str = "") -> None:
        self._owner = owner
        self.expected = expected
        self.node_id = ""  # set once the hello is verified
        self.incarnation = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended_here = False
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._certificate_id = ""
        self._hello_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._owner.opened(self)
        tls = transport.get_extra_info("ssl_object")
        try:
            self._certificate_id = self._owner.certificate_id(tls)
        except (ValueError, LookupError, ssl.SSLError) as error:
            self.refuse(f"certificate without a usable node id: {error}")
            return
        self._hello_timer = asyncio.get_running_loop().call_later(
            HELLO_TIMEOUT_S, self.refuse, "no hello in time"
        )
        generation, fresh = self._owner.generation()
        hello = raft_pb2.RaftHello(
            node_id=self._owner.node_id,
            protocol=PROTOCOL,
            generation=generation,
            fresh=fresh,
            incarnation=self._owner.incarnation,
        )
        self.send(raft_pb2.RaftFrame(hello=hello).SerializeToString())

    def refuse(self, reason: str) -> None:
        log.warning(
            "raft connection refused peer=%s certificate=%s reason=%s",
            self.peer_name(), self._certificate_id, reason,
        )  # fmt: skip
        self.abort()

    def peer_name(self) -> str:
        return str(self._transport.get_extra_info("peername")) if self._transport else "?"

    def raw_socket(self) -> socket.socket | None:
        return self._transport.get_extra_info("socket") if self._transport else None

    def abort(self) -> None:
        self.ended_here = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Let what is buffered go out first."""
        self.ended_here = True
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.gone(self)

    def send(self, frame: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
            return False
        transport.write(LENGTH.pack(len(frame)) + frame)
        return True

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        offset = 0
        limit = FRAME_BYTES_MAX if self.node_id else HELLO_BYTES_MAX
        while len(buffer) - offset >= LENGTH.size and not self.ended_here:
            (length,) = LENGTH.unpack_from(buffer, offset)
            if length > limit:
                self.refuse(f"a frame of {length} bytes, the limit is {limit}")
                return
            begin = offset + LENGTH.size
            if len(buffer) < begin + length:
                break
            offset = begin + length
            self._frame(bytes(buffer[begin:offset]))
            limit = FRAME_BYTES_MAX if self.node_id else HELLO_BYTES_MAX
        if offset:
            del buffer[:offset]

    def _frame(self, data: bytes) -> None:
        try:
            frame = raft_pb2.RaftFrame.FromString(data)
        except DecodeError:
            self.refuse("a frame that is not a raft message")
            return
        if frame.WhichOneof("kind") == "message" and self.node_id:
            if frame.message.sender != self.node_id:
                self.refuse(f"a message in the name of {frame.message.sender}")
                return
            self._owner.received(frame.message)
        elif frame.WhichOneof("kind") == "hello" and not self.node_id:
            self._on_hello(frame.hello)
        else:
            self.refuse("a frame out of order")

    def _on_hello(self, hello: raft_pb2.RaftHello) -> None:
        if hello.protocol != PROTOCOL:
            self.refuse(f"speaks protocol {hello.protocol}, we speak {PROTOCOL}")
        elif hello.node_id != self._certificate_id:
            self.refuse(f"says it is {hello.node_id}")
        elif self.expected and hello.node_id != self.expected:
            self.refuse(f"dialled as {self.expected}: does its address belong to another node?")
        elif not self._owner.is_allowed(hello.node_id):
            self.refuse("not a manager of this cluster")
        elif not self._same_generation(hello):
            self.refuse(f"its log is of generation {hello.generation}: the cluster was recovered since")
        else:
            self.node_id, self.incarnation = hello.node_id, hello.incarnation
            if self._hello_timer is not None:
                self._hello_timer.cancel()
            self._owner.verified(self)

    def _same_generation(self, hello: raft_pb2.RaftHello) -> bool:
        """Whether our logs may meet; tells the owner when ours is the one that must not."""
        generation, fresh = self._owner.generation()
        if hello.generation > generation and not fresh:
            self._owner.on_superseded(hello.generation)
            return False
        return hello.generation >= generation or hello.fresh


class Transport:
    def __init__(
        self,
        node_id: str,
        listen: tuple[str, int],
        *,
        server_ssl: ContextSource,
        client_ssl: ContextSource,
        peer_id: PeerId,
        is_allowed: Callable[[str], bool],
        on_message: Callable[[raft_pb2.RaftMessage], None],
        on_connected: Callable[[str], None],
        on_lost: Callable[[str], None],
        generation: Callable[[], tuple[int, bool]] = lambda: (0, True),
        on_superseded: Callable[[int], None] = lambda generation: None,
        silence_ms: int = 3000,
    ) -> None:
        self.node_id, self.silence_ms = node_id, silence_ms
        self.incarnation = 0  # set before `start`
        self.generation, self.on_superseded = generation, on_superseded
        self.is_allowed = is_allowed
        self._listen = listen
        self._server_ssl, self._client_ssl, self._peer_id = server_ssl, client_ssl, peer_id
        self._on_message, self._on_connected, self._on_lost = on_message, on_connected, on_lost
        self._connections: set[Connection] = set()
        self._dialled: dict[str, Connection] = {}
        self._accepted: dict[str, Connection] = {}
        self._addresses: dict[str, str] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._stopping = False

    # -- for the shell

    async def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._listen[0] else socket.AF_INET
        self._socket = socket.create_server(self._listen, family=family, backlog=64)
        self._socket.setblocking(False)
        self._spawn(self._accept())

    @property
    def port(self) -> int:
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Dial these, and only these."""
        for node_id in self._addresses.keys() - addresses.keys():
            self._dialers.pop(node_id).cancel()
            if connection := self._dialled.get(node_id):
                connection.close()
        for node_id, address in addresses.items():
            if self._addresses.get(node_id) != address:
                if dialer := self._dialers.get(node_id):
                    dialer.cancel()
                self._dialers[node_id] = self._spawn(self._dial(node_id, address))
        self._addresses = dict(addresses)

    def incarnation_of(self, node_id: str) -> int:
        """What the peer said of itself; 0 when it is not connected."""
        connection = self._dialled.get(node_id) or self._accepted.get(node_id)
        return connection.incarnation if connection is not None else 0

    def is_connected(self, node_id: str) -> bool:
        return node_id in self._dialled or node_id in self._accepted

    def send(self, message: raft_pb2.RaftMessage) -> bool:
        connection = self._dialled.get(message.to) or self._accepted.get(message.to)
        if connection is None:
            return False
        return connection.send(raft_pb2.RaftFrame(message=message).SerializeToString())

    async def stop(self) -> None:
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        if self._connections:
            await asyncio.wait([c.closed for c in self._connections], timeout=0.5)
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            await asyncio.wait([c.closed for c in self._connections], timeout=1)
        if self._socket is not None:
            self._socket.close()

    def _spawn(self, coroutine: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- connections

    def certificate_id(self, tls: ssl.SSLObject) -> str:
        if tls.version() != "TLSv1.3":
            raise ValueError(f"{tls.version()} instead of TLSv1.3")
        return self._peer_id(tls)

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def received(self, message: raft_pb2.RaftMessage) -> None:
        if not self._stopping:
            self._on_message(message)

    def verified(self, connection: Connection) -> None:
        table = self._dialled if connection.expected else self._accepted
        node_id = connection.node_id
        if (old := table.get(node_id)) is not None:
            old.close()
        was_connected = self.is_connected(node_id)
        table[node_id] = connection
        if not was_connected and not self._stopping:
            log.info("raft peer connected peer=%s", node_id)
            self._on_connected(node_id)

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        table = self._dialled if connection.expected else self._accepted
        if table.get(connection.node_id) is connection:
            del table[connection.node_id]
            if not self._stopping and not connection.ended_here:
                log.info("raft connection lost peer=%s", connection.node_id)
                self._on_lost(connection.node_id)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        while True:
            try:
                peer, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("raft accept failed error=%s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._tasks) + len(self._connections) > CONNECTIONS_MAX:
                log.warning("raft connection refused reason=too many connections")
                peer.close()
                continue
            self._spawn(self._shake_hands(peer))

    async def _shake_hands(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            tune(peer, self.silence_ms)
            await loop.connect_accepted_socket(
                lambda: Connection(self), peer, ssl=self._server_ssl(),
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S, ssl_shutdown_timeout=0.5,
            )  # fmt: skip
        except (TimeoutError, OSError) as error:
            peer.close()
            log.info("raft handshake failed error=%s", error)
        except asyncio.CancelledError:
            peer.close()
            raise

    async def _dial(self, node_id: str, address: str) -> None:
        delay_s, told = RETRY_FIRST_S, False
        while True:
            try:
                connection = await self._connect(node_id, address)
            except (OSError, ValueError, TimeoutError) as error:
                if not told:
                    log.info("raft dial failed peer=%s address=%s error=%s", node_id, address, error)
                told = True
            else:
                await asyncio.wait([connection.closed])
                if connection.node_id:
                    delay_s, told = RETRY_FIRST_S, False
            await asyncio.sleep(delay_s * (0.75 + random.random() / 2))  # noqa: S311
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _connect(self, node_id: str, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(CONNECT_TIMEOUT_S + HANDSHAKE_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: Connection(self, node_id), host.strip("[]"), int(port), ssl=self._client_ssl(),
                server_hostname=f"{node_id}.node.swarmpy", ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=0.5,
            )  # fmt: skip
        if (raw := connection.raw_socket()) is not None:
            tune(raw, self.silence_ms)
        return connection


def tune(peer: socket.socket, silence_ms: int) -> None:
    """No delay, and a silent peer is given up after seconds, not hours."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silence_ms)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
