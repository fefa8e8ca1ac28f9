"""Asking a container how it is, from the node, inside the container's own network.

A command runs in the container; http, tcp and grpc connect from a socket that one thread makes in the
container's network namespace, and go on with it on the event loop: no program in the image is needed,
and what the task's network lets no one else reach can be asked all the same. Without an address of its
own (the check names none, the task has none) it is asked on loopback: on the host's network, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from swarmpy.node.agent import grpc_health
from swarmpy.node.agent.probes import Check
from swarmpy.node.runtime import forward
from swarmpy.node.runtime.errors import ContainerError
from swarmpy.node.runtime.runtime import Runtime

OUTPUT_BYTES = 300
READ_BYTES, LINE_BYTES = 16 * 1024, 200
LOOPBACK = "127.0.0.1"
TIMES_MAX = 4096


class Prober:
    """Probes of all containers of a node."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.times_ms: dict[str, int] = {}  # of each container's last probe
        # One thread is enough: making a socket in another namespace takes microseconds.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._programs = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def ask(self, container_id: str, check: Check, address: str) -> str:
        """One probe: "" or what was wrong. `address` = the task's own, "" where it has none."""
        began_s = time.monotonic()
        try:
            return await self._answer(container_id, check, address)
        finally:
            self.times_ms.pop(container_id, None)
            self.times_ms[container_id] = round((time.monotonic() - began_s) * 1000)
            if len(self.times_ms) > TIMES_MAX:
                del self.times_ms[next(iter(self.times_ms))]

    async def _answer(self, container_id: str, check: Check, address: str) -> str:
        try:
            if check.argv:
                async with self._programs:
                    return await self._run(container_id, check)
            async with asyncio.timeout(check.timeout_ms / 1000):
                return await self._connect(container_id, check, address)
        except TimeoutError:
            return f"{target_of(check)}: no answer within {check.timeout_ms} ms"
        except ContainerError as error:
            return str(error)
        except OSError as error:  # asyncio puts words of its own in place of the system's
            return f"{target_of(check)}: {os.strerror(error.errno) if error.errno else error}"
        except grpc_health.Broken as error:
            return f"{target_of(check)}: {error}"

    async def _run(self, container_id: str, check: Check) -> str:
        result = await self._runtime.exec(container_id, list(check.argv), timeout_s=check.timeout_ms / 1000)
        if result.code == 0:
            return ""
        said = " ".join(result.output[-OUTPUT_BYTES:].decode(errors="replace").split())
        if result.code is None:
            return f"the check did not end within {check.timeout_ms} ms"
        return f"the check exited with {result.code}" + (f": {said}" if said else "")

    async def _connect(self, container_id: str, check: Check, address: str) -> str:
        named, port, path = split(check.http or check.tcp or check.grpc)
        host = named or address or LOOPBACK
        async with self._connection(container_id, host, port) as (reader, writer):
            if check.http:
                return await ask_http(reader, writer, f"{host}:{port}", path)
            if check.grpc:
                return await ask_grpc(reader, writer, f"{host}:{port}", path.removeprefix("/"))
            return ""

    @contextlib.asynccontextmanager
    async def _connection(
        self, container_id: str, host: str, port: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        inside = self._runtime.inside(container_id)
        make: Callable[[], socket.socket] = lambda: forward.socket_in(inside, family)  # noqa: E731
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._thread, make)
        writer: asyncio.StreamWriter | None = None
        try:
            await loop.sock_connect(made, (host, port))
            reader, writer = await asyncio.open_connection(sock=made)
            yield reader, writer
        finally:
            if writer is not None:
                writer.transport.abort()  # nothing of it is awaited: a reset is fine
            else:
                made.close()


async def ask_http(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, path: str
) -> str:
    writer.write(
        f"GET {path or '/'} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: swarmpy\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n".encode()
    )
    await writer.drain()
    line = b""
    while b"\n" not in line and len(line) < LINE_BYTES and (data := await reader.read(LINE_BYTES)):
        line += data
    status = line.partition(b"\n")[0][:LINE_BYTES].decode(errors="replace").split()
    if len(status) >= 2 and status[0].startswith("HTTP/") and status[1].isdigit():
        if 200 <= int(status[1]) < 400:
            return ""
        return f"HTTP answer {' '.join(status[1:])} on {authority}{path}"
    return f"{authority} " + ("does not speak HTTP" if line else "ended the connection without an answer")


async def ask_grpc(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str
) -> str:
    writer.write(grpc_health.request(authority, service))
    answer = grpc_health.Answer()
    while answer.failure is None:
        data = await reader.read(READ_BYTES)
        if not data:
            raise grpc_health.Broken("the server ended the connection")
        writer.write(answer.feed(data))
    return answer.failure and f"{service or 'the server'} on {authority}: {answer.failure}"


def target_of(check: Check) -> str:
    """What is asked, for messages."""
    for kind in ("http", "tcp", "grpc"):
        if target := getattr(check, kind):
            return f"{kind} {target}"
    return "the check"


def split(target: str) -> tuple[str, int, str]:
    """`[ADDRESS]:PORT[/PATH]` -> address without brackets, port, path with its slash."""
    authority, slash, path = target.partition("/")
    host, _, port = authority.rpartition(":")
    return host.strip("[]"), int(port), slash + path
