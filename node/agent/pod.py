"""The containers of one task, as values. Pure.

A task has one main container. A pod has init containers before it, which run one after the other and
have to end with 0, and sidecars beside it, which are restarted in place when they end. They share the
network, IPC, `pod` volumes and, if asked for, the process namespace. The main container's end is the
task's; the sidecars stop after it, the last started first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarmpy.node.agent import probes
from swarmpy.node.agent.probes import PASSING, Checks, Probe
from swarmpy.proto import objects_pb2, types_pb2

MAIN = "main"
INIT_ROLE, MAIN_ROLE, SIDECAR_ROLE = (
    objects_pb2.CONTAINER_INIT, objects_pb2.CONTAINER_MAIN, objects_pb2.CONTAINER_SIDECAR,
)  # fmt: skip
WAITING, RUNNING, EXITED = (
    objects_pb2.CONTAINER_WAITING, objects_pb2.CONTAINER_RUNNING, objects_pb2.CONTAINER_EXITED,
)  # fmt: skip
RESTART_DELAY_MS, RESTART_DELAY_MS_MAX, STABLE_MS = 1_000, 60_000, 60_000


@dataclass(frozen=True)
class Part:
    """One container of a task as it is wanted."""

    name: str
    role: objects_pb2.ContainerRole
    container: types_pb2.ContainerSpec
    resources: types_pb2.ResourceRequirements


def parts(spec: types_pb2.TaskSpec) -> tuple[Part, ...]:
    """All containers, in the order they are started."""

    def made(entry: types_pb2.PodContainer, role: objects_pb2.ContainerRole) -> Part:
        return Part(entry.name, role, entry.container, entry.resources)

    return (
        *(made(entry, INIT_ROLE) for entry in spec.init_containers),
        *(made(entry, SIDECAR_ROLE) for entry in spec.sidecars),
        Part(MAIN, MAIN_ROLE, spec.container, spec.resources),
    )


def is_pod(spec: types_pb2.TaskSpec) -> bool:
    """Whether the task needs more than its main container."""
    return bool(spec.init_containers or spec.sidecars)


def container_id(task_id: str, name: str) -> str:
    """The main container has the task's id."""
    return task_id if name in ("", MAIN) else f"{task_id}.{name}"


def name_of(container_id_: str) -> str:
    return container_id_.partition(".")[2] or MAIN


def ids_of(task_id: str, known: Iterable[str]) -> list[str]:
    """The known containers of a task, in the order they stop: the main one first, the others after it."""
    others = sorted(known_id for known_id in known if known_id.startswith(task_id + "."))
    return [*([task_id] if task_id in known else []), *others]


def stop_order(task_id: str, order: Sequence[Part], known: Iterable[str]) -> list[str]:
    """Main, then sidecars from the last started to the first, then whatever else there is."""
    present = set(known)
    backwards = [container_id(task_id, part.name) for part in reversed(order)]
    wanted = [found for found in backwards if found in present]
    return [*wanted, *(found for found in ids_of(task_id, sorted(present)) if found not in wanted)]


def restart_delay_ms(quick_ends: int) -> int:
    """How long a sidecar rests before it is started again: doubling while it ends quickly."""
    return min(RESTART_DELAY_MS << min(max(quick_ends - 1, 0), 16), RESTART_DELAY_MS_MAX)


def quick_ends_after(quick_ends: int, ran_ms: int) -> int:
    """The count after one more end; a container that ran for a minute begins anew."""
    return 1 if ran_ms >= STABLE_MS else quick_ends + 1


@dataclass(frozen=True)
class Seen:
    """One container as the node sees it."""

    name: str
    role: objects_pb2.ContainerRole
    checks: Checks = field(default_factory=Checks)
    state: objects_pb2.ContainerState = WAITING
    since_ms: int = 0
    exit_code: int | None = None
    restarts: int = 0
    error: str = ""
    probes: dict[int, Probe] = field(default_factory=dict)

    @property
    def status(self) -> objects_pb2.ContainerStatus:
        return objects_pb2.ContainerStatus(
            name=self.name, role=self.role, state=self.state, since_ms=self.since_ms,
            exit_code=self.exit_code or 0, exited=self.exit_code is not None, restarts=self.restarts,
            error=self.error, probes=[self.probes[kind].status for kind in sorted(self.probes)],
        )  # fmt: skip

    @property
    def up(self) -> bool:
        """Runs, and has passed its startup check: what waits for it may start."""
        return self.state == RUNNING and (
            self.checks.startup is None or self._passes(objects_pb2.PROBE_STARTUP)
        )

    @property
    def healthy(self) -> bool:
        """Up, and has passed its health check."""
        return self.up and (self.checks.liveness is None or self._passes(objects_pb2.PROBE_LIVENESS))

    @property
    def ready(self) -> bool:
        """May get traffic; a sidecar counts only when it has a readiness check."""
        if self.checks.readiness is None:
            return self.role != MAIN_ROLE or self.healthy
        return self.up and self._passes(objects_pb2.PROBE_READINESS)

    def _passes(self, kind: objects_pb2.ProbeKind) -> bool:
        return kind in self.probes and self.probes[kind].verdict == PASSING

    def probed(self, probe: Probe) -> Seen:
        return replace(self, probes={**self.probes, probe.kind: probe})

    def started(self, now_ms: int) -> Seen:
        return replace(self, state=RUNNING, since_ms=now_ms, error="", probes={})

    def ended(self, code: int | None, error: str, now_ms: int) -> Seen:
        return replace(self, state=EXITED, since_ms=now_ms, exit_code=code, error=error, probes={})


def resumed(
    task_id: str,
    parts: Sequence[Part],
    checks: Mapping[str, Checks],
    status: objects_pb2.TaskStatus,
    now_ms: int,
) -> dict[str, Seen]:
    """What an earlier process had seen, by name: a new one must not take a task out of service by not knowing."""
    kept = {one.name: one for one in status.containers}
    if not kept and status.state >= types_pb2.TASK_RUNNING:
        kept[MAIN] = _running_main(status)
    return {
        part.name: _resumed(task_id, part, checks[part.name], kept.get(part.name), now_ms) for part in parts
    }


def _running_main(status: objects_pb2.TaskStatus) -> objects_pb2.ContainerStatus:
    """A task that runs without more being kept of its container: it had passed what there was to pass."""
    found = objects_pb2.ContainerStatus(name=MAIN, role=MAIN_ROLE, state=RUNNING, since_ms=status.started_ms)
    for kind in (objects_pb2.PROBE_STARTUP, objects_pb2.PROBE_LIVENESS):
        found.probes.add(kind=kind, verdict=PASSING, since_ms=status.started_ms)
    if status.ready:
        found.probes.add(kind=objects_pb2.PROBE_READINESS, verdict=PASSING, since_ms=status.started_ms)
    return found


def _resumed(
    task_id: str, part: Part, checks: Checks, known: objects_pb2.ContainerStatus | None, now_ms: int
) -> Seen:
    if known is None:
        return Seen(part.name, part.role, checks)
    name = container_id(task_id, part.name)
    asked = {
        objects_pb2.PROBE_STARTUP: checks.startup,
        objects_pb2.PROBE_LIVENESS: checks.liveness,
        objects_pb2.PROBE_READINESS: checks.readiness,
    }
    return Seen(
        part.name, part.role, checks, known.state, known.since_ms,
        known.exit_code if known.exited else None, known.restarts, known.error,
        {one.kind: probes.resumed(one.kind, check, now_ms, one, name)
         for one in known.probes if (check := asked.get(one.kind)) is not None},
    )  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """What the managers are told of a task's containers; empty for a task that is just one program."""

    ready: bool = True
    containers: tuple[objects_pb2.ContainerStatus, ...] = ()


def progress_of(seen: Iterable[Seen]) -> Progress:
    found = list(seen)
    simple = len(found) == 1 and not found[0].checks
    ready = all(one.ready for one in found if one.role != INIT_ROLE)
    return Progress(ready, () if simple else tuple(one.status for one in found))


def waits_for_main(status: objects_pb2.TaskStatus) -> bool:
    """Whether a kept record says that the main container was not started yet."""
    return any(one.role == MAIN_ROLE and one.state == WAITING for one in status.containers)
