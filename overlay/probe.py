"""Real questions and connections, asked from inside a pod's namespace or the node's own.

A socket belongs to the namespace it is made in: a thread goes there for that one call. Everything has a
deadline; nothing here raises, what went wrong is the answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from pathlib import Path

from swarmpy.overlay import dnswire, namespaces
from swarmpy.overlay.errors import OverlayError

DNS_SERVER = ("169.254.1.53", 53)
DNS_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 3.0
KINDS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, 132)}


def socket_in(pin: Path | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A non-blocking socket of the namespace at `pin`, or of the calling thread's."""

    def make() -> socket.socket:
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        made.setblocking(False)
        return made

    if pin is None:
        return make()
    with pin.open("rb") as handle, namespaces.own_namespace_restored():
        namespaces.call(
            "enter a network namespace", namespaces.libc.setns(handle.fileno(), namespaces.CLONE_NEWNET)
        )
        return make()


async def ask(
    pin: Path | None, name: str, kind: int, server: tuple[str, int] = DNS_SERVER
) -> tuple[str, list[str]]:
    """(what went wrong or "", the addresses or texts answered) of one question to the node's resolver."""
    loop = asyncio.get_running_loop()
    try:
        opened = await asyncio.to_thread(socket_in, pin, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, OverlayError) as error:
        return str(error), []
    with opened:
        ident = int.from_bytes(os.urandom(2), "big")
        question = dnswire.encode_name(name.lower()) + struct.pack(">HH", kind, dnswire.CLASS_IN)
        head = struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 1)
        query = head + question + b"\0" + struct.pack(">HHIH", 41, 4096, 0, 0)
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                await loop.sock_connect(opened, server)
                await loop.sock_sendall(opened, query)
                while True:
                    data = await loop.sock_recv(opened, 65535)
                    if data[:2] == query[:2]:
                        return read(data, kind)
        except TimeoutError:
            return f"no answer within {DNS_TIMEOUT_S:g} s", []
        except OSError as error:
            return error.strerror or str(error), []


def read(data: bytes, kind: int) -> tuple[str, list[str]]:
    """The addresses or texts in a response, or why there are none."""
    try:
        _, flags, questions, answers, _, _ = struct.unpack_from(">HHHHHH", data)
        offset = 12
        for _ in range(questions):
            _, offset = dnswire.read_name(data, offset)
            offset += 4
        found = []
        for _ in range(answers):
            _, offset = dnswire.read_name(data, offset)
            record, _, _, length = struct.unpack_from(">HHIH", data, offset)
            value = data[offset + 10 : offset + 10 + length]
            offset += 10 + length
            if record == kind == dnswire.TXT:
                found.append(value[1:].decode("latin-1"))
            elif record == kind and length in (4, 16):
                found.append(socket.inet_ntop(socket.AF_INET if length == 4 else socket.AF_INET6, value))
    except (struct.error, dnswire.BadMessage) as error:
        return f"the answer cannot be read: {error}", []
    if flags & 0xF:
        names = {2: "SERVFAIL", 3: "no such name (NXDOMAIN)", 5: "refused"}
        return names.get(flags & 0xF, f"code {flags & 0xF}"), []
    return ("" if found else "the name has no such address"), found


async def connect(pin: Path | None, address: str, port: int, protocol: str) -> tuple[bool, str]:
    """Whether `address` answers, and how, in words. Of udp only a refusal can be seen."""
    loop = asyncio.get_running_loop()
    kind, number = KINDS[protocol]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    began = time.monotonic()
    try:
        opened = await asyncio.to_thread(socket_in, pin, family, kind, number)
    except (OSError, OverlayError) as error:
        return False, str(error)
    with opened:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S if protocol != "udp" else 0.5):
                await loop.sock_connect(opened, (address, port))
                if protocol == "udp":
                    await loop.sock_sendall(opened, b"")
                    await loop.sock_recv(opened, 1)
        except TimeoutError:
            if protocol == "udp":
                return True, "sent, nobody refused it (udp does not say more)"
            return False, f"no answer within {CONNECT_TIMEOUT_S:g} s"
        except OSError as error:
            return False, error.strerror or str(error)
        return True, f"accepted after {(time.monotonic() - began) * 1000:.1f} ms"
