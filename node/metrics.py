"""Numbers for Prometheus: text format 0.0.4, and the small HTTP server that shows it.

A role keeps a `Registry`: histograms that are fed as things happen, and collectors that are asked when
somebody looks, so that a number nobody reads costs nothing. The manager shows its numbers on a unix
socket in the node's state directory; the agent shows the node's at a TCP address (`--metrics-addr`,
127.0.0.1:7380 by default) together with those of the manager.

The server answers GET only, one request a connection, at most CONNECTIONS_MAX at once, with a deadline
on each step: what cannot write to it cannot hold it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONNECTIONS_MAX = 16
HEAD_BYTES_MAX = 8192
STEP_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 16 << 20
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Sample:
    """One number; `labels` in the order in which they are shown."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """All samples of one name. `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, help_text: str, value: float) -> Family:
    return Family(name, "gauge", help_text, (Sample(value),))


def counter(name: str, help_text: str, value: float) -> Family:
    return Family(name, "counter", help_text, (Sample(value),))


def by_label(name: str, kind: str, help_text: str, label: str, values: Mapping[str, float]) -> Family:
    """One sample a value of `label`."""
    return Family(name, kind, help_text, tuple(Sample(v, ((label, k),)) for k, v in sorted(values.items())))


class Histogram:
    """Counts of observations by upper bound, in seconds."""

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...] = SECONDS) -> None:
        self._name, self._help, self._bounds = name, help_text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def family(self) -> Family:
        samples = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            samples.append(
                Sample(total, (("le", "+Inf" if bound == float("inf") else f"{bound:g}"),), "_bucket")
            )
        samples += [Sample(self._sum, (), "_sum"), Sample(total, (), "_count")]
        return Family(self._name, "histogram", self._help, tuple(samples))


Collector = Callable[[], Iterable[Family]]


class Registry:
    """What one role shows."""

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def collect(self, collector: Collector) -> None:
        self._collectors.append(collector)

    def histogram(self, name: str, help_text: str, bounds: tuple[float, ...] = SECONDS) -> Histogram:
        made = Histogram(name, help_text, bounds)
        self.collect(lambda: [made.family()])
        return made

    def text(self) -> str:
        return text(family for collector in self._collectors for family in collector())


def text(families: Iterable[Family]) -> str:
    """The exposition format."""
    lines = []
    for family in families:
        lines.append(
            f"# HELP {family.name} {family.help.replace(chr(92), chr(92) * 2).replace(chr(10), ' ')}"
        )
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels)
            shown = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{shown} {_number(sample.value)}")
    return "".join(line + "\n" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))


# ---- HTTP


@dataclass(frozen=True)
class Page:
    """An answer."""

    body: str
    status: str = "200 OK"
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[], Awaitable[Page]]


class Server:
    """Answers GET of the given paths; `start` on a TCP address or a unix socket."""

    def __init__(self, pages: Mapping[str, Handler]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open = 0
        self.address = ""

    async def start_tcp(self, address: str) -> None:
        """Raises OSError. `address` is HOST:PORT."""
        host, _, port = address.rpartition(":")
        self._server = await asyncio.start_server(
            self._serve, host.strip("[]"), int(port), limit=HEAD_BYTES_MAX
        )
        self.address = address

    async def start_unix(self, path: Path) -> None:
        """Raises OSError. The socket is root's only."""
        _make_room(path)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=HEAD_BYTES_MAX)
        os.chmod(path, 0o600)
        self.address = str(path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            if self.address.startswith("/"):
                _make_room(Path(self.address))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(STEP_TIMEOUT_S):
                    page = await self._answer(await reader.readuntil(b"\r\n\r\n"))
                    body = page.body.encode()
                    head = (
                        f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\n"
                        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    )
                    writer.write(head.encode() + body)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics request dropped error=%r", error)
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> Page:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return Page("only GET is answered here\n", "405 Method Not Allowed")
        handler = self._pages.get(path)
        if handler is None:
            return Page(f"nothing here; there are {', '.join(sorted(self._pages))}\n", "404 Not Found")
        return await handler()


def _make_room(path: Path) -> None:
    """No socket of before, or of ours once it is closed, in a directory of root's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


async def read_unix(path: Path) -> str | None:
    """The body of /metrics of another role of this node; None where it does not answer."""
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S / 2):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                answer = await reader.read(ANSWER_BYTES_MAX)
                while chunk := await reader.read(ANSWER_BYTES_MAX):
                    answer += chunk
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode(errors="replace") if b" 200 " in head.split(b"\r\n")[0] else None
