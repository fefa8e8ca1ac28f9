"""Names that are not the cluster's: asked of the upstream resolvers, answers kept for a while.

Plain lookups of A, AAAA and PTR go through aiodns (c-ares: server failover,
adaptive timeouts, TCP after truncation). Whatever needs its flags or odd types
to survive (DNSSEC, CD, MX, SRV, TXT, …) passes through raw: own random id and
source port per question, the question checked in the answer, the next upstream
asked when one is slow, the first good answer taken. Equal questions in flight
are asked once; everything is bounded; failures are kept for a second so that a
dead upstream is not hammered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import socket
import struct
import time
from dataclasses import dataclass

import aiodns
import pycares
from swarmpy.overlay import dnswire
from swarmpy.overlay.dnswire import Answer, BadMessage, Lifetime, Query, Record

log = logging.getLogger(__name__)

UPSTREAMS_MAX = 3
TIMEOUT_S = 4.0
NEXT_UPSTREAM_AFTER_S = 1.0
IN_FLIGHT_MAX = 1024
CACHE_ENTRIES_MAX = 4096
KEEP_S_MAX = 300
KEEP_NEGATIVE_S_MAX = 30
KEEP_NEGATIVE_S_UNKNOWN = 2
KEEP_FAILURE_S = 1

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PARSED = {dnswire.A: "A", dnswire.AAAA: "AAAA", dnswire.PTR: "PTR"}
_RANDOM = random.SystemRandom()
_ARES_NODATA, _ARES_NOTFOUND, _ARES_REFUSED = 1, 4, 6


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
        self._resolver: aiodns.DNSResolver | None = None
        self._kept: dict[bytes, _Kept] = {}
        self._in_flight: dict[bytes, asyncio.Task[bytes]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def set_upstreams(self, upstreams: tuple[str, ...]) -> None:
        """Use these (`ip` or `ip:port`), at most three, from now on; call inside the loop."""
        upstreams = upstreams[:UPSTREAMS_MAX]
        if upstreams == self.upstreams:
            return
        self.upstreams = upstreams
        self._kept.clear()
        old, self._resolver = self._resolver, None
        if old is not None:
            task = asyncio.ensure_future(old.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if upstreams:
            self._resolver = aiodns.DNSResolver(
                nameservers=upstreams, timeout=NEXT_UPSTREAM_AFTER_S, tries=2, lookups="b", ndots=0
            )

    async def close(self) -> None:
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.set_upstreams(())
        if self._closing:
            await asyncio.wait(self._closing)

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
        simple = (
            query.type in _PARSED
            and query.dns_class == dnswire.CLASS_IN
            and query.flags & (dnswire.RD | dnswire.CD) == dnswire.RD
            and not query.dnssec_ok
            and _HOST_NAME.fullmatch(query.name) is not None
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await (self._parsed(query, tcp) if simple else _raw(upstreams, query, data, tcp))
            kept = dnswire.lifetime(response)
        except (OSError, TimeoutError, BadMessage, aiodns.error.DNSError) as error:
            log.warning("lookup failed name=%s upstreams=%s error=%r", query.name, upstreams, error)
            response, kept = _failure(query), Lifetime(0, True, ())
        if upstreams == self.upstreams:
            self._keep(key, response, kept)
        return response

    async def _parsed(self, query: Query, tcp: bool) -> bytes:
        """By aiodns, from parsed records."""
        if self._resolver is None:
            return _failure(query)
        rcode, records = dnswire.NOERROR, []
        try:
            result = await self._resolver.query_dns(query.name, _PARSED[query.type])
            records = [record for item in result.answer if (record := _record(item)) is not None]
        except aiodns.error.DNSError as error:
            code = error.args[0] if error.args else 0
            if code == _ARES_NOTFOUND:
                rcode = dnswire.NXDOMAIN
            elif code == _ARES_REFUSED:
                rcode = dnswire.REFUSED
            elif code != _ARES_NODATA:
                raise
        answer = Answer(rcode=rcode, records=tuple(records), authoritative=False)
        return dnswire.build(query, answer, dnswire.TCP_MAX if tcp else query.size_max)

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


def _record(item: pycares.DNSRecord) -> Record | None:
    name, ttl, data = item.name.lower().rstrip("."), max(item.ttl, 0), item.data
    if isinstance(data, pycares.ARecordData | pycares.AAAARecordData):
        return Record(name, item.type, ttl, data.addr)
    if isinstance(data, pycares.CNAMERecordData):
        return Record(name, item.type, ttl, data.cname.rstrip("."))
    if isinstance(data, pycares.PTRRecordData):
        return Record(name, item.type, ttl, data.dname.rstrip("."))
    return None


async def _raw(upstreams: tuple[str, ...], query: Query, data: bytes, tcp: bool) -> bytes:
    """Pass the query through; the next upstream joins when the one before is slow or fails."""
    pending: set[asyncio.Task[bytes]] = set()
    waiting = list(upstreams)
    failure: OSError | BadMessage = OSError("no upstream resolver answered")
    try:
        while waiting or pending:
            if waiting:
                host, port = _split(waiting.pop(0))
                ask = _raw_tcp if tcp else _raw_udp
                pending.add(asyncio.ensure_future(ask(host, port, query, data)))
            done, pending = await asyncio.wait(
                pending,
                timeout=NEXT_UPSTREAM_AFTER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    response = task.result()
                except (OSError, BadMessage) as error:
                    failure = error
                    continue
                if response[3] & 0xF not in (dnswire.SERVFAIL, dnswire.REFUSED) or not (waiting or pending):
                    return response
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    raise failure


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
