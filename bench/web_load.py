"""The client of `bench.zero_failed`: so many requests a second, half on kept connections, half each on a new one.

`python -m bench.web_load HOST PORT SECONDS RATE [CONNECTIONS]`, until then or SIGTERM; prints one line of JSON. A
request that meets a kept connection which the server has closed meanwhile is sent once more on a new one, as every
HTTP client does (RFC 9110, 9.2.2); that is counted apart. All else that is not a whole answer is a failure.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

TIMEOUT_S = 5.0
IN_FLIGHT = 200


@dataclass
class Tally:
    requests: int = 0
    failures: int = 0
    reopened: int = 0
    longest_s: float = 0.0
    first_failure: str = ""
    failed_how: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)


class Stale(Exception):
    """A kept connection was closed before it gave any answer."""


class Connection:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, *, keep: bool) -> str:
        fresh = self.streams is None
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        word = b"keep-alive" if keep else b"close"
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: %s\r\n\r\n" % word)
            await writer.drain()
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                partial = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
                if not fresh and not partial:
                    raise Stale from error
                raise
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(head[:60].decode(errors="replace"))
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        except BaseException:
            self.close()
            raise
        if not keep or b"connection: close" in head.lower():
            self.close()
        return body.decode(errors="replace")

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def one(connection: Connection, tally: Tally, *, keep: bool) -> None:
    tally.requests += 1
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                answer = await connection.get(keep=keep)
            except Stale:
                tally.reopened += 1
                answer = await connection.get(keep=keep)
        tally.answered[answer] += 1
        tally.longest_s = max(tally.longest_s, time.monotonic() - began)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        connection.close()
        tally.failures += 1
        tally.failed_how[type(error).__name__] += 1
        tally.first_failure = tally.first_failure or f"{type(error).__name__}: {error} (keep={keep})"


async def kept(host: str, port: int, rate: float, end: float, stop: asyncio.Event, tally: Tally) -> None:
    """One kept connection, one request after the other."""
    connection = Connection(host, port)
    due = time.monotonic()
    while time.monotonic() < end and not stop.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / rate, time.monotonic() - 1)
        await one(connection, tally, keep=True)
    connection.close()


async def fresh(host: str, port: int, rate: float, end: float, stop: asyncio.Event, tally: Tally) -> None:
    """A connection for every request, none waiting for another one."""
    room = asyncio.Semaphore(IN_FLIGHT)
    due = time.monotonic()

    async def go() -> None:
        async with room:
            await one(Connection(host, port), tally, keep=False)

    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end and not stop.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / rate, time.monotonic() - 1)
            group.create_task(go())


async def main(host: str, port: int, seconds: float, rate: float, connections: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tallies = {"keep-alive": Tally(), "new connections": Tally()}
    end = time.monotonic() + seconds
    each = rate / 2 / connections
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(kept(host, port, each, end, stop, tallies["keep-alive"]))
        group.create_task(fresh(host, port, rate / 2, end, stop, tallies["new connections"]))
    print(json.dumps({name: vars(tally) for name, tally in tallies.items()}), flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(
        main(arguments[0], int(arguments[1]), float(arguments[2]), float(arguments[3]),
             int(arguments[4]) if len(arguments) > 4 else 8)
    )  # fmt: skip
