"""ICMP echo over IPv4: round trips, loss, and the largest packet that arrives whole.

A raw socket gets every echo reply of its namespace; replies are matched by an identifier of their own and the
peer's address. All waiting has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from dataclasses import dataclass

ECHO_REQUEST, ECHO_REPLY = 8, 0
HEADER = struct.Struct("!BBHHH")
IP_HEADER_BYTES = 20
IP_MTU_DISCOVER, PMTUDISC_PROBE = 10, 3  # don't fragment, and do not believe what is cached
MTU_LEAST = 576
TRIES = 2
TIMEOUT_S = 1.0
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Trips:
    """What became of `sent` echo requests; times are milliseconds."""

    sent: int
    times_ms: tuple[float, ...]

    @property
    def loss(self) -> float:
        return 1 - len(self.times_ms) / self.sent if self.sent else 0.0


def checksum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, sequence: int, size: int) -> bytes:
    """An IPv4 packet's payload so that the whole packet has `size` bytes."""
    padding = bytes(max(0, size - IP_HEADER_BYTES - HEADER.size))
    blank = HEADER.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + padding
    return HEADER.pack(ECHO_REQUEST, 0, checksum(blank), identifier, sequence) + padding


def echo_reply(packet: bytes) -> tuple[int, int] | None:
    """(identifier, sequence) of an echo reply, else None; `packet` begins with the IP header."""
    offset = (packet[0] & 0xF) * 4 if packet else 0
    if len(packet) < offset + HEADER.size:
        return None
    kind, _, _, identifier, sequence = HEADER.unpack_from(packet, offset)
    return (identifier, sequence) if kind == ECHO_REPLY else None


class Pinger:
    """Echo requests from one address of this machine to another one. OSError where none can be sent."""

    def __init__(self, source: str, target: str) -> None:
        self._target = target
        self._identifier = _RANDOM.randrange(1, 1 << 16)
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
            self._socket.bind((source, 0))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    async def trips(self, count: int, pause_s: float, size: int = 64) -> Trips:
        """`count` requests, one every `pause_s`."""
        times = [ms for _ in range(count) if (ms := await self._once(size, pause_s)) is not None]
        return Trips(count, tuple(times))

    async def path_mtu(self, most: int) -> int:
        """The largest packet up to `most` bytes that is answered; 0 when not even a small one is."""
        if not await self._arrives(MTU_LEAST):
            return 0
        low, high = MTU_LEAST, most
        if await self._arrives(high):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            if await self._arrives(middle):
                low = middle
            else:
                high = middle
        return low

    async def _arrives(self, size: int) -> bool:
        for _ in range(TRIES):
            if await self._once(size, 0.0) is not None:
                return True
        return False

    async def _once(self, size: int, at_least_s: float) -> float | None:
        """Milliseconds until the answer, None without one within a second; takes `at_least_s`."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        found = None
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(TIMEOUT_S):
                await loop.sock_sendto(
                    self._socket, echo_request(self._identifier, self._sequence, size), (self._target, 0)
                )
                while found is None:
                    packet, peer = await loop.sock_recvfrom(self._socket, 65535)
                    if peer[0] == self._target and echo_reply(packet) == (self._identifier, self._sequence):
                        found = (time.perf_counter() - began) * 1000
        await asyncio.sleep(max(0.0, at_least_s - (time.perf_counter() - began)))
        return found
