"""How a client of chaos asks: as the command line does, at one manager at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
from swarmpy.node.manager import pipeline
from swarmpy.proto import control_pb2_grpc

ATTEMPT_S = 2.0
LIMIT_S = 8.0
PAUSE_S, PAUSE_MAX_S = 0.02, 0.3
AMBIGUOUS = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL,
}  # fmt: skip
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),  # for one attempt to connect, handshake included
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 64 << 20),
]


class OutcomeUnknown(Exception):
    """No manager gave a certain answer in time."""


class Refused(Exception):
    """A certain no. `doubtful`: an earlier try broke off."""

    def __init__(self, code: grpc.StatusCode, text: str, doubtful: bool) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code, self.doubtful = code, doubtful


class Line:
    """A connection to one manager; closed when its last call has ended after it was left."""

    def __init__(self, host: str, *, stream: bool) -> None:
        self.channel = grpc.aio.insecure_channel(host, options=OPTIONS)
        self.stub: Any = control_pb2_grpc.ControlStub(self.channel)
        self.open = 0
        self.left = False
        self._writes = pipeline.Writes(self.channel) if stream else None

    async def send(self, method: str, request: Any, timeout_s: float) -> Any:
        self.open += 1
        try:
            if self._writes is not None and method in pipeline.FIELDS:
                return await self._writes.call(method, request, timeout_s)
            return await getattr(self.stub, method)(request, timeout=timeout_s)
        finally:
            self.open -= 1
            await self.close_if_left()

    async def close_if_left(self) -> None:
        if self.left and not self.open:
            if self._writes is not None:
                await self._writes.close()
            await self.channel.close()


class Caller:
    """One client's connection: one manager at a time, the next one when it fails. Many may call at once."""

    def __init__(self, hosts: list[str], first: int, errors: Counter[str], *, stream: bool = False) -> None:
        self._hosts, self._position, self._errors = hosts, first % len(hosts), errors
        self._stream = stream
        self._line: Line | None = None

    def line(self) -> Line:
        if self._line is None:
            self._line = Line(self._hosts[self._position], stream=self._stream)
        return self._line

    async def next_host(self, failed: Line | None = None) -> None:
        """Leave the manager; whoever fails later on the same connection leaves nothing more."""
        if failed is None or failed is self._line:
            await self.close()
            self._position = (self._position + 1) % len(self._hosts)

    async def close(self) -> None:
        if self._line is not None:
            line, self._line = self._line, None
            line.left = True
            await line.close_if_left()

    async def call(self, method: str, request: Any, limit_s: float = LIMIT_S) -> Any:
        until = time.monotonic() + limit_s
        pause, doubtful = PAUSE_S, False
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise OutcomeUnknown
            line = self.line()
            try:
                return await line.send(method, request, min(left, ATTEMPT_S))
            except grpc.aio.AioRpcError as error:
                self._errors[f"{method} {error.code().name}"] += 1
                if error.code() is grpc.StatusCode.UNKNOWN or error.code() is grpc.StatusCode.INTERNAL:
                    self._errors[f"text: {(error.details() or '')[:120]}"] += 1
                if error.code() not in AMBIGUOUS:
                    raise Refused(error.code(), error.details() or "", doubtful) from None
            doubtful = True
            await self.next_host(line)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)
