"""Names that are not the cluster's: asked of the upstream resolvers, answers kept for a while.

A question passes through as it came (flags, odd types and authority survive), with a random id and source port
of its own, and the question checked in the answer. The upstreams race: the next one is asked when the one
before is slow or fails, and the first good answer is taken; one that kept others waiting is asked last for a
while. A truncated answer goes to the client, who asks again by TCP and is answered by TCP. Equal questions in
flight are asked once; everything is bounded; "no" is kept as long as the SOA in it says, and failures for a
second, so that a dead upstream is not hammered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, BadMessage, Lifetime, Query

log = logging.getLogger(__name__)

UPSTREAMS_MAX = 3
TIMEOUT_S = 4.0
NEXT_UPSTREAM_AFTER_S = 0.5
SUSPECT_S = 10.0
IN_FLIGHT_MAX = 1024
CACHE_ENTRIES_MAX = 4096
KEEP_S_MAX = 300
KEEP_NEGATIVE_S_MAX = 30
KEEP_NEGATIVE_S_UNKNOWN = 2
KEEP_FAILURE_S = 1

_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class _Kept:
    response: bytes
    lifetime: Lifetime
    since_s: float
    until_s: float


class Forwarder:
    """Answers questions from outside. `close` it."""

    def __init__(self) -> None:
        self.upstreams: tuple[str, ...] = ()
        self._suspect_until_s: dict[str, float] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._in_flight: dict[bytes, asyncio.Task[bytes]] = {}

    def set_upstreams(self, upstreams: tuple[str, ...]) -> None:
        """Use these (`ip` or `ip:port`), at most three, from now on."""
        upstreams = upstreams[:UPSTREAMS_MAX]
        if upstreams != self.upstreams:
            self.upstreams = upstreams
            self._kept.clear()
            self._suspect_until_s.clear()

    async def close(self) -> None:
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.set_upstreams(())

    def kept(self, data: bytes, *, tcp: bool = False) -> bytes | None:
        """The response to the query `data` if one is at hand."""
        entry = self._kept.get(_key(data, tcp))
        if entry is None:
            return None
        now_s = time.monotonic()
        if now_s >= entry.until_s:
            return None
        return data[:2] + dnswire.aged(entry.response, entry.lifetime, int(now_s - entry.since_s))[2:]

    async def answer(self, query: Query, data: bytes, *, tcp: bool) -> bytes:
        """The response to `query` (`data` on the wire). Never raises; SERVFAIL at worst."""
        if (kept := self.kept(data, tcp=tcp)) is not None:
            return kept
        key = _key(data, tcp)
        task = self._in_flight.get(key)
        if task is None:
            if len(self._in_flight) >= IN_FLIGHT_MAX:
                log.warning("too many lookups in flight limit=%d", IN_FLIGHT_MAX)
                return _failure(query)
            task = asyncio.ensure_future(self._ask(query, data, tcp, key))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return data[:2] + (await asyncio.shield(task))[2:]

    async def _ask(self, query: Query, data: bytes, tcp: bool, key: bytes) -> bytes:
        upstreams = self.upstreams
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = _second_hand(await self._race(query, data, tcp))
            kept = dnswire.lifetime(response)
        except (OSError, TimeoutError, BadMessage) as error:
            log.warning("lookup failed name=%s upstreams=%s error=%r", query.name, upstreams, error)
            response, kept = _failure(query), Lifetime(0, True, ())
        if upstreams == self.upstreams:
            self._keep(key, response, kept)
        return response

    async def _race(self, query: Query, data: bytes, tcp: bool) -> bytes:
        """The first good answer; the next upstream joins when the one before is slow or fails."""
        now_s = time.monotonic()
        waiting = sorted(self.upstreams, key=lambda upstream: self._suspect_until_s.get(upstream, 0) > now_s)
        ask = _raw_tcp if tcp else _raw_udp
        pending: dict[asyncio.Task[bytes], str] = {}
        failure: OSError | BadMessage = OSError("no upstream resolver answered")
        try:
            while waiting or pending:
                if waiting:
                    upstream = waiting.pop(0)
                    host, port = _split(upstream)
                    pending[asyncio.ensure_future(ask(host, port, query, data))] = upstream
                done, _ = await asyncio.wait(
                    pending,
                    timeout=NEXT_UPSTREAM_AFTER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    upstream = pending.pop(task)
                    try:
                        response = task.result()
                    except (OSError, BadMessage) as error:
                        failure = error
                        self._suspect_until_s[upstream] = time.monotonic() + SUSPECT_S
                        continue
                    refused = response[3] & 0xF in (dnswire.SERVFAIL, dnswire.REFUSED)
                    if not refused or not (waiting or pending):
                        self._answered(upstream, pending.values())
                        return response
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        raise failure

    def _answered(self, upstream: str, slower: Iterable[str]) -> None:
        """Those that were asked before and are still silent come last for a while."""
        self._suspect_until_s.pop(upstream, None)
        until_s = time.monotonic() + SUSPECT_S
        self._suspect_until_s.update(dict.fromkeys(slower, until_s))

    def _keep(self, key: bytes, response: bytes, lifetime: Lifetime) -> None:
        rcode, now_s = response[3] & 0xF, time.monotonic()
        if rcode not in (dnswire.NOERROR, dnswire.NXDOMAIN):
            seconds = KEEP_FAILURE_S
        elif response[2] & (dnswire.TC >> 8):
            return
        elif lifetime.negative:
            has_soa = struct.unpack_from(">H", response, 8)[0] > 0
            seconds = min(lifetime.seconds, KEEP_NEGATIVE_S_MAX) if has_soa else KEEP_NEGATIVE_S_UNKNOWN
        else:
            seconds = min(lifetime.seconds, KEEP_S_MAX)
        self._kept.pop(key, None)
        if seconds > 0:
            if len(self._kept) >= CACHE_ENTRIES_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = _Kept(response, lifetime, now_s, now_s + seconds)


def _key(data: bytes, tcp: bool) -> bytes:
    return (b"\1" if tcp else b"\0") + data[2:]


def _failure(query: Query) -> bytes:
    return dnswire.build(query, Answer(rcode=dnswire.SERVFAIL, authoritative=False), query.size_max)


def _second_hand(response: bytes) -> bytes:
    """Whoever answered, it is not with authority that this is passed on."""
    return response[:2] + bytes((response[2] & ~(dnswire.AA >> 8),)) + response[3:]


async def _raw_udp(host: str, port: int, query: Query, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    ident = _RANDOM.getrandbits(16).to_bytes(2, "big")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as udp:
        udp.connect((host, port))
        await loop.sock_sendall(udp, ident + data[2:])
        while True:
            response = await loop.sock_recv(udp, dnswire.TCP_MAX)
            if response[:2] == ident and dnswire.response_fits(query, response):
                break
    if len(response) > query.size_max:
        cut = bytearray(dnswire.build(query, Answer(authoritative=False), query.size_max))
        cut[2] |= dnswire.TC >> 8
        return bytes(cut)
    return response


async def _raw_tcp(host: str, port: int, query: Query, data: bytes) -> bytes:
    ident = _RANDOM.getrandbits(16).to_bytes(2, "big")
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(struct.pack(">H", len(data)) + ident + data[2:])
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        response = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise OSError(f"{host} closed the connection") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if response[:2] != ident or not dnswire.response_fits(query, response):
        raise BadMessage(f"{host} answered another question")
    return response


def _split(upstream: str) -> tuple[str, int]:
    """(host, port) of `ip`, `ip:port`, `[v6]:port`."""
    host, separator, port = upstream.rpartition(":")
    if separator and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return upstream.strip("[]"), 53
