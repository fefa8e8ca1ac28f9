"""Feeds the leader's Samples: what autoscaled tasks use, read from their nodes, and answers from elsewhere.

One stream of numbers per node that has such tasks (manager/stats does that), an HTTP request per query and
round, in a thread, with a deadline and a bound on what is read. Nothing is written to the log. When nothing
is autoscaled nothing runs.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from swarmpy.node.manager.errors import ManagerError
from swarmpy.node.manager.history import History
from swarmpy.node.manager.nodes import NodeChannels
from swarmpy.node.manager.stats import StatsStreams
from swarmpy.node.plan.samples import External, Sample, Samples
from swarmpy.proto import objects_pb2, tasks_pb2
from swarmpy.raft.store import Store

log = logging.getLogger(__name__)
INTERVAL_MS = 5_000
REQUEST_TIMEOUT_S = 3.0
ANSWER_BYTES_MAX, READ_BYTES = 4 * 1024 * 1024, 64 * 1024
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?\s+(\S+)")
Targets = tuple[str, ...]


class QueryFailed(ValueError):
    """What was asked elsewhere gave no number; the message says why."""


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
            async with asyncio.timeout(3 * REQUEST_TIMEOUT_S):
                value = await asyncio.to_thread(ask, url, query)
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


def ask(url: str, query: str) -> float:
    """A number from a Prometheus server (…/api/v1/query) or from a page of metrics. Raises QueryFailed."""
    is_server = urllib.parse.urlsplit(url).path.rstrip("/").endswith("/api/v1/query")
    address = f"{url}?{urllib.parse.urlencode({'query': query})}" if is_server else url
    try:
        with _opener().open(address, timeout=REQUEST_TIMEOUT_S) as answer:
            data, deadline_s = b"", time.monotonic() + REQUEST_TIMEOUT_S
            while len(data) <= ANSWER_BYTES_MAX and (more := answer.read1(READ_BYTES)):
                data += more
                if time.monotonic() > deadline_s:  # each read has its time, all together have it, too
                    raise QueryFailed(f"{url} answers too slowly")
    except QueryFailed:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise QueryFailed(f"{url} does not answer: {error}") from error
    if len(data) > ANSWER_BYTES_MAX:
        raise QueryFailed(f"{url} answers with more than {ANSWER_BYTES_MAX >> 20} MiB")
    text = data.decode("utf-8", "replace")
    return from_server(text) if is_server else from_page(text, query)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS and nothing else: no redirects, no proxies, no other schemes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def from_server(text: str) -> float:
    """The sum of an instant vector, or a scalar."""
    try:
        document = json.loads(text)
        if document["status"] != "success":
            raise QueryFailed(f"the query was refused: {str(document.get('error', ''))[:200]}")
        result = document["data"]["result"]
        if document["data"]["resultType"] == "scalar":
            return finite("the query", float(result[1]))
        if not result:
            raise QueryFailed("the query gives nothing")
        return finite("the query", sum(float(entry["value"][1]) for entry in result))
    except QueryFailed:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise QueryFailed("the answer is not that of a Prometheus query") from error


def finite(what: str, value: float) -> float:
    """Prometheus answers 0/0 with NaN: that is no number to scale by, and least of all a small one."""
    if not math.isfinite(value):
        raise QueryFailed(f"{what} gives {value}, which is no number")
    return value


def from_page(text: str, wanted: str) -> float:
    """The sum of a metric's lines in the text format; labels given must all be there."""
    match = _LINE.fullmatch(f"{wanted.strip()} 0")
    if match is None:
        raise QueryFailed(f'{wanted!r} is no metric such as http_requests_in_flight{{path="/"}}')
    name, labels = match[1], _labels(match[2])
    values = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is not None and found[1] == name and labels <= _labels(found[2]):
            try:
                values.append(float(found[3]))
            except ValueError as error:
                raise QueryFailed(f"{name} has the value {found[3]!r}") from error
    if not values:
        raise QueryFailed(f"the page has no metric {wanted}")
    return finite(name, sum(values))


def _labels(text: str | None) -> set[str]:
    return {part.strip() for part in (text or "").split(",") if part.strip()}
