"""A TCP connection from inside a container's network: also to what listens on its loopback only.

A socket belongs to the namespace it is made in, so a thread goes there for that one call.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket

from swarmpy.node.runtime import process
from swarmpy.node.runtime.errors import RuntimeFailure
from swarmpy.node.runtime.inside import Inside

CLONE_NEWNET = 0x4000_0000
CONNECT_TIMEOUT_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


async def connect(
    inside: Inside, port: int, addresses: tuple[str, ...] = ()
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the port on loopback, else on one of the container's own addresses. Raises RuntimeFailure."""
    said = ""
    for address in ("127.0.0.1", "::1", *addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            connection = await process.blocking(lambda family=family: socket_in(inside, family))  # type: ignore[misc]
        except OSError as error:
            said = said or f"{address}: {error.strerror}"
            continue
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
            return await asyncio.open_connection(sock=connection)
        except (OSError, TimeoutError) as error:
            connection.close()
            said = said or f"{address}: {getattr(error, 'strerror', None) or 'no answer'}"
    raise RuntimeFailure(f"nothing in container {inside.id} accepts connections on port {port} ({said})")


def socket_in(inside: Inside, family: int) -> socket.socket:
    """A socket made in the container's network. Blocks, changes the namespace of the calling thread for that long."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside.network() as there:
            _enter(there)
            try:
                made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            finally:
                _enter(own)
    finally:
        os.close(own)
    made.setblocking(False)
    return made


def _enter(namespace_fd: int) -> None:
    if _libc.setns(namespace_fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "enter a network namespace")
