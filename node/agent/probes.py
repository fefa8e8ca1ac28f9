"""When a container is asked how it is, and what its answers mean, as values. Pure.

Three probes, each with its own schedule: *startup* (the other two wait for its first success),
*liveness* (a task counts as running after its first success, and has failed when it fails) and
*readiness* (takes a task out of DNS and virtual IPs while it fails, never restarts it).

Until its first success a probe is asked every `start_interval`, so that a container that is up is
noticed at once; its failures count once per `interval`, and not at all in the start period. So it is
given up after start period + `retries` intervals, as Swarm does, however often it was asked.
After the first success it is asked every `interval`; `retries` failures in a row mean failing, one
success means passing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from swarmpy.proto import objects_pb2, types_pb2

INTERVAL_MS, TIMEOUT_MS, RETRIES, START_INTERVAL_MS = 10_000, 3_000, 3, 1_000
WAITING, PASSING, FAILING = (
    objects_pb2.VERDICT_WAITING, objects_pb2.VERDICT_PASSING, objects_pb2.VERDICT_FAILING,
)  # fmt: skip
FAILURE_CHARS_MAX = 400
WORDS = {
    objects_pb2.PROBE_LIVENESS: "health check",
    objects_pb2.PROBE_READINESS: "readiness check",
    objects_pb2.PROBE_STARTUP: "startup check",
}
IMAGE_MS_MIN, IMAGE_MS_MAX, IMAGE_RETRIES_MAX = 50, 365 * 24 * 3_600_000, 1000


@dataclass(frozen=True)
class Check:
    """What is asked: one of a command, http, tcp and grpc (as `[ADDRESS]:PORT…`), and how often."""

    argv: tuple[str, ...] = ()
    http: str = ""
    tcp: str = ""
    grpc: str = ""
    interval_ms: int = INTERVAL_MS
    timeout_ms: int = TIMEOUT_MS
    retries: int = RETRIES
    start_period_ms: int = 0
    start_interval_ms: int = START_INTERVAL_MS


@dataclass(frozen=True)
class Probe:
    """One probe of one container. `counted_ms`: from when the next counted failure is measured."""

    kind: objects_pb2.ProbeKind
    check: Check
    next_ms: int
    since_ms: int
    counted_ms: int
    verdict: objects_pb2.ProbeVerdict = WAITING
    failures: int = 0
    failure: str = ""
    failure_ms: int = 0

    @property
    def status(self) -> objects_pb2.ProbeStatus:
        return objects_pb2.ProbeStatus(
            kind=self.kind, verdict=self.verdict, since_ms=self.since_ms, failure=self.failure,
            failure_ms=self.failure_ms,
        )  # fmt: skip

    @property
    def decided(self) -> bool:
        """Nothing more is asked: startup after its verdict, liveness once it failed."""
        if self.kind == objects_pb2.PROBE_STARTUP:
            return self.verdict != WAITING
        return self.kind == objects_pb2.PROBE_LIVENESS and self.verdict == FAILING


def begun(kind: objects_pb2.ProbeKind, check: Check, now_ms: int) -> Probe:
    """A probe of a container that has just been started: asked at once."""
    return Probe(kind, check, next_ms=now_ms, since_ms=now_ms, counted_ms=now_ms + check.start_period_ms)


def resumed(
    kind: objects_pb2.ProbeKind, check: Check, now_ms: int, known: objects_pb2.ProbeStatus, name: str
) -> Probe:
    """A probe that an earlier process had asked; `name` spreads many of them over the interval."""
    if known.verdict == WAITING:
        return begun(kind, check, now_ms)
    offset_ms = check.interval_ms * (zlib.crc32(name.encode()) % 1000) // 1000
    failures = check.retries if known.verdict == FAILING else 0
    return Probe(
        kind, check, next_ms=now_ms + offset_ms, since_ms=known.since_ms, counted_ms=now_ms,
        verdict=known.verdict, failures=failures, failure=known.failure, failure_ms=known.failure_ms,
    )  # fmt: skip


def answered(probe: Probe, failure: str, now_ms: int) -> Probe:
    """The probe after an answer at `now_ms`: "" = well, else what was wrong."""
    check = probe.check
    if not failure:
        since_ms = probe.since_ms if probe.verdict == PASSING else now_ms
        return replace(
            probe, verdict=PASSING, failures=0, since_ms=since_ms, next_ms=now_ms + check.interval_ms
        )
    waiting = probe.verdict == WAITING
    if waiting:
        counts = now_ms - probe.counted_ms >= check.interval_ms
        pause_ms = min(check.start_interval_ms, check.interval_ms)
    else:
        counts, pause_ms = True, check.interval_ms
    failures = min(probe.failures + counts, check.retries)
    failing = failures >= check.retries
    turned = failing and probe.verdict != FAILING
    said = turned or not probe.failure or (probe.verdict == PASSING and failures == 1)
    return replace(
        probe,
        failures=failures,
        counted_ms=now_ms if counts else probe.counted_ms,
        verdict=FAILING if failing else probe.verdict,
        since_ms=now_ms if turned else probe.since_ms,
        failure=failure[:FAILURE_CHARS_MAX] if said else probe.failure,
        failure_ms=now_ms if said else probe.failure_ms,
        next_ms=now_ms + pause_ms,
    )


@dataclass(frozen=True)
class Checks:
    """What one container is asked; None = it is not."""

    liveness: Check | None = None
    readiness: Check | None = None
    startup: Check | None = None

    def __bool__(self) -> bool:
        return any((self.liveness, self.readiness, self.startup))


def checks_of(container: types_pb2.ContainerSpec, image: Mapping[str, Any] | None) -> Checks:
    """The checks of a container; liveness is the image's own where the service names none."""
    return Checks(
        check_of(container.health, image),
        check_of(container.readiness, None),
        check_of(container.startup, None),
    )


def check_of(spec: types_pb2.HealthConfig, image: Mapping[str, Any] | None) -> Check | None:
    """The check the service asks for, else the image's `Healthcheck`, else None."""
    image = (
        image if isinstance(image, Mapping) else {}
    )  # written by strangers: whatever is there may be wrong
    own = bool(spec.http or spec.tcp or spec.grpc)
    test = list(spec.test) or ([] if own else _texts(image.get("Test")))
    argv: tuple[str, ...] = ()
    if test[:1] == ["CMD"]:
        argv = tuple(test[1:])
    elif test[:1] == ["CMD-SHELL"]:
        argv = ("/bin/sh", "-c", *test[1:2])
    if test[:1] == ["NONE"] or not (argv or own):
        return None

    def timing(own_ms: int, key: str, default_ms: int) -> int:
        image_ms = _number(image.get(key)) // 1_000_000
        return own_ms or (min(max(image_ms, IMAGE_MS_MIN), IMAGE_MS_MAX) if image_ms else default_ms)

    return Check(
        argv=argv, http=spec.http, tcp=spec.tcp, grpc=spec.grpc,
        interval_ms=timing(spec.interval_ms, "Interval", INTERVAL_MS),
        timeout_ms=timing(spec.timeout_ms, "Timeout", TIMEOUT_MS),
        retries=spec.retries or min(_number(image.get("Retries")), IMAGE_RETRIES_MAX) or RETRIES,
        start_period_ms=timing(spec.start_period_ms, "StartPeriod", 0),
        start_interval_ms=timing(spec.start_interval_ms, "StartInterval", START_INTERVAL_MS),
    )  # fmt: skip


def _texts(value: object) -> list[str]:
    """A list of texts, or nothing."""
    if not isinstance(value, list) or not all(isinstance(text, str) and "\0" not in text for text in value):
        return []
    return value


def _number(value: object) -> int:
    """A number above 0, or 0."""
    return value if isinstance(value, int) and value > 0 else 0
