"""What nodes have measured of tasks lately: the leader's memory, outside of the log.

A ring of samples per task, and the last number of every query elsewhere. A new leader begins with
nothing and knows again after two rounds; whoever decides on these numbers must be content with "unknown".
Time comes in with the samples; nothing here looks at a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

SAMPLES_MAX = 12
WINDOW_MS = 15_000  # rates are over so long, where samples reach back so far
FRESH_MS = 30_000  # older than that says nothing of now


@dataclass(frozen=True, slots=True)
class Sample:
    """One task at one moment, by the leader's clock; counters only grow."""

    at_ms: int
    cpu_ns: int = 0
    memory_bytes: int = 0
    connections: int = 0
    accepted: int = 0
    probe_ms: int = -1  # of the last health check, -1 = unknown


@dataclass(frozen=True, slots=True)
class Usage:
    """Rates and levels of one task. `since_ms` is when the rates' first sample was taken."""

    since_ms: int
    nano_cpus: float
    memory_bytes: int
    connections: int
    requests_per_s: float
    probe_ms: int | None


@dataclass(frozen=True, slots=True)
class External:
    """The answer to one query; `problem` where there is none."""

    at_ms: int
    value: float = 0.0
    problem: str = ""


class Samples:
    """See the module."""

    def __init__(self) -> None:
        self._tasks: dict[str, deque[Sample]] = {}
        self._external: dict[tuple[str, str], External] = {}

    def record(self, task_id: str, sample: Sample) -> None:
        """One more; a counter that went back is a new container: begin again."""
        ring = self._tasks.setdefault(task_id, deque(maxlen=SAMPLES_MAX))
        if ring and (sample.cpu_ns < ring[-1].cpu_ns or sample.accepted < ring[-1].accepted):
            ring.clear()
        ring.append(sample)

    def record_external(self, url: str, query: str, answer: External) -> None:
        """The last answer to a query."""
        self._external[url, query] = answer

    def keep(self, task_ids: Iterable[str], queries: Iterable[tuple[str, str]]) -> None:
        """Forget all others."""
        tasks, wanted = set(task_ids), set(queries)
        self._tasks = {task_id: ring for task_id, ring in self._tasks.items() if task_id in tasks}
        self._external = {key: answer for key, answer in self._external.items() if key in wanted}

    def clear(self) -> None:
        """Know nothing: the lead was lost, others measure meanwhile."""
        self._tasks.clear()
        self._external.clear()

    def usage(self, task_id: str, now_ms: int) -> Usage | None:
        """What a task uses; None if there are not two samples that say something of now."""
        ring = self._tasks.get(task_id)
        if not ring or len(ring) < 2 or now_ms - ring[-1].at_ms > FRESH_MS:
            return None
        last = ring[-1]
        first = next((s for s in ring if last.at_ms - s.at_ms <= WINDOW_MS and s is not last), ring[-2])
        span_ms = last.at_ms - first.at_ms
        if span_ms <= 0:
            return None
        probe = last.probe_ms if last.probe_ms >= 0 else None
        return Usage(
            since_ms=first.at_ms,
            nano_cpus=(last.cpu_ns - first.cpu_ns) * 1000 / span_ms,
            memory_bytes=last.memory_bytes,
            connections=last.connections,
            requests_per_s=(last.accepted - first.accepted) * 1000 / span_ms,
            probe_ms=probe,
        )

    def probe_ms(self, task_id: str, now_ms: int) -> int | None:
        """The mean time of a task's last health checks, None where none was measured."""
        times = [
            s.probe_ms for s in self._tasks.get(task_id, ()) if s.probe_ms >= 0 and now_ms - s.at_ms <= 60_000
        ]
        return round(sum(times) / len(times)) if times else None

    def external(self, url: str, query: str, now_ms: int) -> External | None:
        """The last answer, if it says something of now."""
        answer = self._external.get((url, query))
        return answer if answer is not None and now_ms - answer.at_ms <= FRESH_MS else None
