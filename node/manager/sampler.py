"""Feeds the leader's Samples: what autoscaled tasks use, read from their nodes, and answers from elsewhere.

One stream of numbers per node that has such tasks (manager/stats does that), an HTTP request per query and
round, in a thread, with a deadline and a bound on what is read. Nothing is written to the log. When nothing
is autoscaled nothing runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from swarmpy.node.manager.errors import ManagerError, QueryFailed
from swarmpy.node.manager.history import History
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.stats import StatsStreams
from swarmpy.node.plan.samples import External, Sample, Samples
from swarmpy.proto import objects_pb2, tasks_pb2
from swarmpy.raft.store import Store

log = logging.getLogger(__name__)
INTERVAL_MS = 5_000
ASK_TIMEOUT_S = 9.0
SETTLE_S = 0.5
Targets = tuple[str, ...]


class Sampler:
    """`run` belongs to the leader's TaskGroup."""

    def __init__(
        self, store: Store, history: History, channels: NodeChannels, now_ms: Callable[[], int]
    ) -> None:
        self._store, self._history, self._now_ms = store, history, now_ms
        self._stats = StatsStreams(store, history, channels)
        self.samples = Samples()

    async def run(self) -> None:
        """Until cancelled."""
        self.samples.clear()
        streams: asyncio.Task[None] | None = None
        targets: Targets = ()
        try:
            while True:
                changed = self._history.changed
                wanted = self._targets()
                if wanted != targets or (streams is not None and streams.done()):
                    if streams is not None:
                        streams.cancel()
                        await asyncio.gather(streams, return_exceptions=True)
                    targets = wanted
                    streams = asyncio.create_task(self._follow(targets)) if targets else None
                queries = self._queries()
                if not targets and not queries:
                    await changed.wait()
                    await asyncio.sleep(SETTLE_S)  # not a look at every service for every write
                    continue
                await asyncio.gather(*(self._ask(url, query) for url, query in queries))
                self._forget(queries)
                await asyncio.sleep(INTERVAL_MS / 1000)
        finally:
            if streams is not None:
                streams.cancel()
                await asyncio.gather(streams, return_exceptions=True)

    def _targets(self) -> Targets:
        """Services whose tasks are measured: autoscaled ones, and those whose update asks for probe times."""
        ids = {
            scaler.spec.service_id
            for scaler in self._store.autoscalers()
            if any(metric.kind != objects_pb2.METRIC_PROMETHEUS for metric in scaler.spec.metrics)
        }
        ids |= {
            service.meta.id
            for service in self._store.services()
            if service.update_status.state == objects_pb2.UPDATE_WAITING
            and service.spec.update.analysis.max_probe_ms
        }
        return tuple(sorted(identity for identity in ids if self._store.service(identity) is not None))

    def _queries(self) -> list[tuple[str, str]]:
        found = {
            (metric.url, metric.query): None
            for scaler in self._store.autoscalers()
            for metric in scaler.spec.metrics
            if metric.kind == objects_pb2.METRIC_PROMETHEUS
        }
        return list(found)

    def _forget(self, queries: list[tuple[str, str]]) -> None:
        ids = [task.meta.id for target in self._targets() for task in self._store.tasks_of_service(target)]
        self.samples.keep(ids, queries)

    async def _follow(self, targets: Targets) -> None:
        request = tasks_pb2.StatsRequest(targets=targets, interval_ms=INTERVAL_MS)
        try:
            async for answer in self._stats.read(request):
                for stats in answer.tasks:
                    self.samples.record(stats.task_id, sample_of(stats, self._now_ms()))
        except ManagerError as error:  # a service that is gone by now: the next round asks anew
            log.info("measuring ended reason=%s", error)

    async def _ask(self, url: str, query: str) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                value = await asyncio.to_thread(_number, url, query)
            answer = External(self._now_ms(), value)
        except TimeoutError:
            answer = External(self._now_ms(), problem=f"{url} does not answer in time")
        except QueryFailed as error:
            answer = External(self._now_ms(), problem=str(error))
        self.samples.record_external(url, query, answer)


def sample_of(stats: tasks_pb2.TaskStats, now_ms: int) -> Sample:
    """By the leader's clock: a node's may be off, and the interval is what counts."""
    return Sample(
        at_ms=now_ms, cpu_ns=stats.cpu_ns, memory_bytes=stats.memory_bytes, connections=stats.connections,
        accepted=stats.accepted, probe_ms=stats.probe_ms if stats.HasField("probe_ms") else -1,
    )  # fmt: skip


def _number(url: str, query: str) -> float:
    from swarmpy.node.manager import elsewhere

    return elsewhere.ask(url, query)
