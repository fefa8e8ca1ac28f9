"""Netlink sockets: send batches, read dumps. The format is in `netlink`.

A socket belongs to the network namespace it was opened in. A batch is sent in chunks of at most 32 KiB with
one acknowledgement each; the kernel reports a failed message even when it was not asked to, so an error
still names its message. Every read has a deadline.

    OverlayError                the network of this machine cannot be made as wanted
    └── KernelRefused           a netlink request was refused; has `errno`
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count
from types import TracebackType

from swarmpy.overlay import netlink
from swarmpy.overlay.errors import KernelRefused, OverlayError
from swarmpy.overlay.netlink import Message, Received

CHUNK_BYTES = 32 * 1024
RECEIVE_BYTES = 1 << 20
DEADLINE_S = 10.0
DUMP_TRIES = 5
NETLINK_ROUTE, NETLINK_XFRM, NETLINK_NETFILTER, NETLINK_GENERIC = 0, 6, 12, 16
SOL_NETLINK, CAP_ACK, GET_STRICT_CHECK = 270, 10, 12
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BUFFER_BYTES = 16 << 20


class Socket:
    """One netlink socket, for one thread."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = count(1)
        try:
            for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        except PermissionError:
            self._socket.close()
            raise OverlayError("the overlay network needs CAP_NET_ADMIN: run as root") from None
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        self._socket.settimeout(DEADLINE_S)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, messages: Iterable[Message], ignore: Collection[int] = ()) -> None:
        """Send all; the first error whose errno is not in `ignore` is raised after the chunk it is in."""
        chunk: list[Message] = []
        size = 0
        for message in messages:
            if chunk and size + len(message.body) + 24 > CHUNK_BYTES:
                self._exchange(chunk, ignore, [len(chunk) - 1])
                chunk, size = [], 0
            chunk.append(message)
            size += len(message.body) + 24
        if chunk:
            self._exchange(chunk, ignore, [len(chunk) - 1])

    def transact(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """One nfnetlink transaction in one datagram: all or nothing."""
        if messages:
            self._exchange([begin, *messages, end], (), [len(messages)])

    def _exchange(self, messages: Sequence[Message], ignore: Collection[int], acks: list[int]) -> None:
        numbered = {next(self._sequence): message for message in messages}
        sequences = list(numbered)
        awaited = sequences[acks[-1]]
        self._socket.send(
            b"".join(
                netlink.encode(message, number, netlink.ACK if number == awaited else 0)
                for number, message in numbered.items()
            )
        )
        failed: tuple[Message, int] | None = None
        for received in self._read():
            if received.type != netlink.NLMSG_ERROR or received.sequence not in numbered:
                continue
            error = netlink.error_of(received.body)
            if error and error not in ignore and failed is None:
                failed = (numbered[received.sequence], error)
            if received.sequence in (awaited, sequences[0]) and (error or received.sequence == awaited):
                break
        if failed is not None:
            raise KernelRefused(failed[0].what, failed[1])

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of a dump; asked again when the kernel says it changed meanwhile."""
        for _ in range(DUMP_TRIES):
            bodies, interrupted = self._dump_once(message)
            if not interrupted:
                return bodies
        raise KernelRefused(message.what, errno.EAGAIN)

    def _dump_once(self, message: Message) -> tuple[list[bytes], bool]:
        number = next(self._sequence)
        self._socket.send(netlink.encode(message, number))
        bodies: list[bytes] = []
        interrupted = False
        for received in self._read():
            if received.sequence != number:
                continue
            interrupted |= bool(received.flags & netlink.DUMP_INTERRUPTED)
            if received.type == netlink.NLMSG_DONE:
                break
            if received.type == netlink.NLMSG_ERROR:
                raise KernelRefused(message.what, netlink.error_of(received.body))
            bodies.append(received.body)
            if not received.flags & netlink.MULTI:
                break
        return bodies, interrupted

    def _read(self) -> Iterator[Received]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                break
            yield from netlink.decode(data)
        raise OverlayError(f"the kernel did not answer a netlink request within {DEADLINE_S:.0f} s")


def route_socket() -> Socket:
    return Socket(NETLINK_ROUTE)


def netfilter_socket() -> Socket:
    return Socket(NETLINK_NETFILTER)


def links(route: Socket) -> dict[str, netlink.Link]:
    """All links of the socket's namespace by name."""
    found = (netlink.parse_link(body) for body in route.dump(netlink.link_dump()))
    return {link.name: link for link in found}


def link_at(route: Socket, index: int) -> netlink.Link | None:
    """One link of the socket's namespace; reading all takes milliseconds where there are hundreds of pods."""
    if not index:
        return None
    try:
        return netlink.parse_link(route.dump(netlink.link_get(index))[0])
    except KernelRefused as error:
        if error.errno != errno.ENODEV:
            raise
        return None
