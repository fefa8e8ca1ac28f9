"""Health checks of one task, run from the node.

CMD and CMD-SHELL run inside the container; http and tcp connect to its address from the
node. `first_healthy` decides when a task counts as running, `until_unhealthy` when it has
failed: `retries` failures in a row, not counting those in the start period.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarmpy.node.runtime.errors import ContainerError
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import types_pb2

log = logging.getLogger(__name__)
INTERVAL_MS, TIMEOUT_MS, RETRIES, START_INTERVAL_MS = 10_000, 3_000, 3, 1_000
OUTPUT_BYTES = 300


@dataclass(frozen=True)
class Checker:
    """The check of one task with its timings, in milliseconds."""

    runtime: Runtime
    task_id: str
    argv: tuple[str, ...]
    http: str
    tcp: str
    address: str
    interval_ms: int
    timeout_ms: int
    retries: int
    start_period_ms: int
    start_interval_ms: int

    async def first_healthy(self) -> str:
        """ "" once the first probe succeeds, else why the task is given up."""
        began = time.monotonic()
        failures = 0
        while True:
            failure = await self.probe()
            if not failure:
                return ""
            in_start_period = (time.monotonic() - began) * 1000 < self.start_period_ms
            failures += not in_start_period
            if failures >= self.retries:
                return failure
            await asyncio.sleep((self.start_interval_ms if in_start_period else self.interval_ms) / 1000)

    async def until_unhealthy(self) -> str:
        """Returns why, after `retries` failures in a row."""
        failures = 0
        while True:
            await asyncio.sleep(self.interval_ms / 1000)
            failure = await self.probe()
            failures = failures + 1 if failure else 0
            if failures:
                log.info("health check failed task=%s failures=%d reason=%s", self.task_id, failures, failure)
            if failures >= self.retries:
                return failure

    async def probe(self) -> str:
        """One probe: "" or what was wrong."""
        try:
            if self.argv:
                return await self._exec()
            async with asyncio.timeout(self.timeout_ms / 1000):
                return await (self._get() if self.http else self._connect(self.tcp))
        except TimeoutError:
            return f"no answer within {self.timeout_ms} ms"
        except (OSError, ContainerError) as error:
            return str(error)

    async def _exec(self) -> str:
        result = await self.runtime.exec(self.task_id, list(self.argv), timeout_s=self.timeout_ms / 1000)
        if result.code == 0:
            return ""
        said = result.output[-OUTPUT_BYTES:].decode(errors="replace").strip()
        if result.code is None:
            return f"the check did not end within {self.timeout_ms} ms"
        return f"the check exited with {result.code}" + (f": {said}" if said else "")

    async def _connect(self, target: str) -> str:
        _, writer = await asyncio.open_connection(self.address, int(target.rpartition(":")[2]))
        writer.close()
        return ""

    async def _get(self) -> str:
        port, _, path = self.http.rpartition(":")[2].partition("/")
        reader, writer = await asyncio.open_connection(self.address, int(port))
        try:
            writer.write(
                f"GET /{path} HTTP/1.0\r\nHost: {self.address}\r\nUser-Agent: swarmpy\r\n\r\n".encode()
            )
            await writer.drain()
            status = (await reader.readline()).decode(errors="replace").split()
        finally:
            writer.close()
        if len(status) >= 2 and status[1].isdigit() and 200 <= int(status[1]) < 400:
            return ""
        return f"HTTP answer {' '.join(status[1:3]) or 'unreadable'} on port {port}"


def checker_for(
    spec: types_pb2.HealthConfig,
    image: Mapping[str, Any] | None,
    runtime: Runtime,
    task_id: str,
    address: str,
) -> Checker | None:
    """The check the service asks for, else the image's, else None."""
    image = image or {}
    test = list(spec.test) or ([] if spec.http or spec.tcp else list(image.get("Test") or []))
    if test[:1] == ["NONE"]:
        return None
    argv: tuple[str, ...] = ()
    if test[:1] == ["CMD"]:
        argv = tuple(test[1:])
    elif test[:1] == ["CMD-SHELL"]:
        argv = ("/bin/sh", "-c", *test[1:2])
    if not argv and not spec.http and not spec.tcp:
        return None

    def timing(own_ms: int, key: str, default_ms: int) -> int:
        return own_ms or int(image.get(key) or 0) // 1_000_000 or default_ms

    return Checker(
        runtime=runtime, task_id=task_id, argv=argv, http=spec.http, tcp=spec.tcp, address=address,
        interval_ms=timing(spec.interval_ms, "Interval", INTERVAL_MS),
        timeout_ms=timing(spec.timeout_ms, "Timeout", TIMEOUT_MS),
        retries=spec.retries or int(image.get("Retries") or 0) or RETRIES,
        start_period_ms=timing(spec.start_period_ms, "StartPeriod", 0),
        start_interval_ms=timing(spec.start_interval_ms, "StartInterval", START_INTERVAL_MS),
    )  # fmt: skip
