"""What a node shows to Prometheus, and whether it is well: /metrics, /healthz, /readyz.

The agent answers for the whole node: its own numbers, what its tasks use, those of the DNS process and, on a
manager, of the manager, which it reads from these processes' sockets at each look. `/healthz` is 200 as long as the
agent's loop turns; `/readyz` is 200 while the node has a session with the leader and, on a manager, the manager
process answers.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

from swarmpy.node import config as node_config
from swarmpy.node.agent.machine import Local
from swarmpy.node.metrics import (
    CONTENT_TYPE,
    Family,
    Page,
    Registry,
    Sample,
    Server,
    by_label,
    counter,
    gauge,
    read_unix,
)
from swarmpy.node.metrics import text as page_text
from swarmpy.node.runtime import meters
from swarmpy.node.runtime.errors import ContainerError
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.overlay.lost import tracked_connections
from swarmpy.proto import types_pb2

NETWORK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
log = logging.getLogger(__name__)
PER_TASK = (
    ("cpu_seconds_total", "counter", "CPU time a task has used.", "cpu_ns", 1e-9),
    ("memory_bytes", "gauge", "Memory a task uses now.", "memory_bytes", 1),
    ("pids", "gauge", "Processes and threads of a task.", "pids", 1),
    ("network_received_bytes_total", "counter", "Bytes received by a task.", "received_bytes", 1),
    ("network_sent_bytes_total", "counter", "Bytes sent by a task.", "sent_bytes", 1),
    ("read_bytes_total", "counter", "Bytes a task read from block devices.", "read_bytes", 1),
    ("written_bytes_total", "counter", "Bytes a task wrote to block devices.", "written_bytes", 1),
)


class Numbers:
    """The node's registry and its server."""

    def __init__(
        self, runtime: Runtime, tasks: Mapping[str, Local], connected: Callable[[], bool],
        expires_ms: Callable[[], int], manager_socket: Callable[[], Path | None], dns_socket: Path,
        vip_requests: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:  # fmt: skip
        self._runtime, self._tasks, self._connected, self._expires_ms = runtime, tasks, connected, expires_ms
        self._manager_socket, self._dns_socket = manager_socket, dns_socket
        self._vip_requests = vip_requests
        self._kept = meters.Meters()
        self.registry = Registry()
        self._network_changes = self.registry.histogram(
            "swarmpy_network_change_seconds",
            "What it took to make the kernel agree with a new wish.",
            NETWORK_S,
        )
        self._forgotten = 0
        self.registry.collect(self._node)
        self.registry.collect(self._of_tasks)
        self._server = Server({"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz})

    async def start(self, address: str) -> None:
        """An address that cannot be had costs the node its numbers, nothing else."""
        if not address:
            return
        try:
            await self._server.start_tcp(address)
        except (OSError, ValueError) as error:
            log.error("no metrics address=%s error=%s", address, error)

    async def stop(self) -> None:
        await self._server.stop()
        self._kept.close()

    async def _metrics(self) -> Page:
        led = by_label(
            "swarmpy_vip_requests_total", "counter",
            "Connections and UDP flows that this node and its pods opened to a service's virtual address.",
            "service", await self._vip_requests(),
        )  # fmt: skip
        text = self.registry.text() + page_text([led]) + (await read_unix(self._dns_socket) or "")
        if (path := self._manager_socket()) is not None:
            text += await read_unix(path) or ""
        return Page(text, content_type=CONTENT_TYPE)

    async def _healthz(self) -> Page:
        return Page("ok\n")

    async def problems(self) -> list[str]:
        """Why the node is not ready."""
        problems = [] if self._connected() else ["no session with a leader"]
        if (path := self._manager_socket()) is not None and await read_unix(path) is None:
            problems.append("the manager process does not answer")
        return problems

    async def _readyz(self) -> Page:
        if problems := await self.problems():
            return Page("; ".join(problems) + "\n", "503 Service Unavailable")
        return Page("ok\n")

    def network_changed(self, seconds: float, forgotten: int) -> None:
        self._network_changes.observe(seconds)
        self._forgotten += forgotten

    def _node(self) -> Iterator[Family]:
        machine = meters.machine()
        release = Sample(1, (("version", node_config.release()), ("runtime", self._runtime.description)))
        yield Family("swarmpy_build_info", "gauge", "The version of swarmpy that runs here.", (release,))
        yield gauge(
            "swarmpy_node_connected", "1 while there is a session with the leader.", self._connected()
        )
        yield gauge(
            "swarmpy_node_certificate_expires_seconds", "When this node's certificate ends, seconds since 1970.",
            self._expires_ms() // 1000,
        )  # fmt: skip
        yield Family(
            "swarmpy_node_cpu_seconds_total", "counter", "CPU time of the whole machine that was not idle.",
            (Sample(machine.busy_ns / 1e9),),
        )  # fmt: skip
        yield gauge("swarmpy_node_cpus", "CPUs of the machine.", machine.cpus)
        yield gauge("swarmpy_node_memory_bytes", "Memory in use on the machine.", machine.memory_bytes)
        yield gauge("swarmpy_node_memory_total_bytes", "Memory of the machine.", machine.memory_total_bytes)
        yield gauge("swarmpy_node_load1", "Load average of a minute.", machine.load)
        yield gauge("swarmpy_network_connections", "Connections the kernel tracks.", tracked_connections())
        yield counter(
            "swarmpy_network_forgotten_total", "Connections forgotten as their backend left.", self._forgotten
        )
        states = Counter(
            types_pb2.TaskState.Name(local.status.state).removeprefix("TASK_").lower()
            for local in self._tasks.values()
        )
        yield by_label("swarmpy_node_tasks", "gauge", "Tasks on this node by state.", "state", states)

    def _of_tasks(self) -> Iterator[Family]:
        samples: dict[tuple[tuple[str, str], ...], meters.Sample] = {}
        restarts: list[Sample] = []
        for task_id, local in list(self._tasks.items()):
            if local.wanted is None or local.status.state != types_pb2.TASK_RUNNING:
                continue
            labels = (("service", local.wanted.service_name), ("task", local.wanted.meta.name))
            restarts.append(Sample(local.wanted.restart.count, labels))
            with contextlib.suppress(ContainerError):  # it has just ended
                samples[labels] = self._kept.sample(self._runtime.inside(task_id))
        for name, kind, help_text, field, factor in PER_TASK:
            found = tuple(Sample(getattr(sample, field) * factor, key) for key, sample in samples.items())
            yield Family(f"swarmpy_task_{name}", kind, help_text, found)
        yield Family("swarmpy_task_restarts_total", "counter", "Restarts of a task's slot.", tuple(restarts))
        self._kept.keep(set(self._tasks))
