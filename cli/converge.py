"""Whether a service is as its spec wants it: a pure judgement over what the watch has shown.

A slot (or, for a global service, a node) is good when a task of the current spec version runs there
and no older one is still wanted; a one-shot task that completed counts too. The service has
converged when every slot is good, none is too many, and no update is under way.
It will not converge when the update was rolled back or paused, when a task failed for good, or when
nothing runs and one slot keeps failing. It is stuck while every unfinished slot waits for a node
that fits, or for its ports: that may last for ever, so the caller decides how long to look at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmpy.proto import objects_pb2, types_pb2

FAILED_STATES = {types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED}
FAILURES_MAX = 3
JOB_MODES = {"replicated_job", "global_job"}
LIMITS_REFUSED = "LIMITS_REFUSED"  # a running task's node could not give it its new limits
UNDER_WAY = {objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED}
ROLLED_BACK = {objects_pb2.UPDATE_ROLLBACK_COMPLETED}
PAUSED = {objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_ROLLBACK_PAUSED}
PROBE_WORDS = {
    objects_pb2.PROBE_LIVENESS: "health check",
    objects_pb2.PROBE_READINESS: "readiness check",
    objects_pb2.PROBE_STARTUP: "startup check",
}
STATE_WORDS = {value: name.removeprefix("TASK_").lower() for name, value in types_pb2.TaskState.items()}


@dataclass(frozen=True)
class Slot:
    """One line of the progress display; `error` is the last reason why it does not run."""

    label: str
    state: str
    good: bool
    error: str = ""
    waiting: bool = False
    failures: int = 0
    final: bool = False


@dataclass(frozen=True)
class Progress:
    """`failure` = it will not converge, and why; `stuck` = only a change of the cluster helps."""

    done: bool
    total: int
    slots: tuple[Slot, ...]
    failure: str = ""
    stuck: bool = False
    note: str = ""
    monitored: bool = False

    @property
    def ready(self) -> int:
        """How many slots are good."""
        return sum(slot.good for slot in self.slots)


def assess(
    service: objects_pb2.Service,
    tasks: Iterable[objects_pb2.Task],
    before: objects_pb2.UpdateStatus,
    *,
    wanted_back: bool = False,
) -> Progress:
    """`before` is the update status at the time of the write: an old verdict is not ours.

    With `wanted_back` a rollback is what was asked for.
    """
    slots = slots_of(service, tasks)
    mode = service.spec.WhichOneof("mode")
    if mode in JOB_MODES:
        return assess_job(service, slots)
    is_global = mode == "global"
    total = len(slots) if is_global else wanted_of(service)
    fresh = service.update_status != before
    state = service.update_status.state
    updating = state in UNDER_WAY and not is_switched(service)
    good = sum(slot.good for slot in slots)
    done = not updating and good == len(slots) == total and (is_global or good == total)
    note = service.endpoint.error or service.waiting
    waiting = fresh and state == objects_pb2.UPDATE_WAITING
    if waiting:
        done, note = True, service.update_status.message
    if fresh and state == objects_pb2.UPDATE_ROLLBACK_STARTED:
        note = f"rolling back: {service.update_status.message or first_error(slots)}"
    as_asked = wanted_back and state in ROLLED_BACK
    unfinished = [slot for slot in slots if not slot.good]
    stuck = not done and (
        bool(service.endpoint.error) or (bool(unfinished) and all(slot.waiting for slot in unfinished))
    )
    return Progress(
        done=done,
        total=total,
        slots=tuple(slots) + missing(service, slots, total),
        failure="" if waiting else failure_of(service, slots, fresh and not as_asked, state),
        stuck=stuck and not updating,
        note=note,
        monitored=fresh and state in {objects_pb2.UPDATE_COMPLETED, objects_pb2.UPDATE_WAITING},
    )


def wanted_of(service: objects_pb2.Service) -> int:
    """How many slots there should be."""
    if service.spec.stopped:
        return 0
    ordered = service.spec.HasField("ordered")
    return int(service.spec.ordered.replicas if ordered else service.spec.replicated.replicas)


def assess_job(service: objects_pb2.Service, slots: list[Slot]) -> Progress:
    """A job converges when it is complete, and fails when it is given up."""
    job = service.job
    ours = bool(job.started_ms) and job.iteration == service.spec.task.force_update
    ended = ours and job.state != objects_pb2.JOB_RUNNING
    failed = ended and job.state == objects_pb2.JOB_FAILED
    unfinished = [slot for slot in slots if not slot.good]
    return Progress(
        done=(ended and not failed) or service.spec.stopped,
        total=int(service.spec.replicated_job.completions) or len(slots),
        slots=tuple(slots),
        failure=f"the job failed: {job.message}" if failed else "",
        stuck=not ended and bool(unfinished) and all(slot.waiting for slot in unfinished),
        note=service.waiting,
    )


def is_switched(service: objects_pb2.Service) -> bool:
    """Blue-green: the new tasks have the traffic, the old ones are kept for a while."""
    status = service.update_status
    return bool(status.promoted_ms and status.hidden_versions) and status.state == objects_pb2.UPDATE_UPDATING


def fits(service: objects_pb2.Service, task: objects_pb2.Task) -> bool:
    """Whether a task is what the service would make now; a rollback may find the old ones still running."""
    if task.spec_version == service.spec_version:
        return True
    back = {*ROLLED_BACK, objects_pb2.UPDATE_ROLLBACK_STARTED}
    return service.update_status.state in back and task.spec == service.spec.task


def failure_of(
    service: objects_pb2.Service, slots: list[Slot], fresh: bool, state: objects_pb2.UpdateState
) -> str:
    """Why it will not converge; empty while it may."""
    message = service.update_status.message
    if fresh and state in ROLLED_BACK:
        return f"the update was rolled back: {message or first_error(slots)}"
    if fresh and state in PAUSED:
        return f"the update is paused: {message or first_error(slots)}"
    for slot in slots:
        if slot.final:
            said = "keeps its old limits" if slot.state == "running" else "failed and is not restarted"
            return f"{slot.label} {said}: {slot.error}"
    worst = max(slots, key=lambda slot: slot.failures, default=None)
    rolling = state in UNDER_WAY
    if (
        worst is not None
        and worst.failures >= FAILURES_MAX
        and not rolling
        and not any(s.good for s in slots)
    ):
        return f"{worst.label} failed {worst.failures} times: {worst.error}"
    return ""


def first_error(slots: list[Slot]) -> str:
    """Any slot's reason."""
    return next((slot.error for slot in slots if slot.error), "no reason given")


def slots_of(service: objects_pb2.Service, tasks: Iterable[objects_pb2.Task]) -> list[Slot]:
    """The slots that have a task which is wanted or ended by itself, in order."""
    groups: dict[tuple[int, str], list[objects_pb2.Task]] = {}
    for task in tasks:
        key = (task.slot, "") if task.slot else (0, task.node_id or task.meta.id)
        groups.setdefault(key, []).append(task)
    found = (slot_of(service, group) for _, group in sorted(groups.items()))
    return [slot for slot in found if slot is not None]


def slot_of(service: objects_pb2.Service, tasks: list[objects_pb2.Task]) -> Slot | None:
    """The state of one slot; None when nothing is wanted there."""
    tasks = sorted(tasks, key=lambda task: (task.meta.created_ms, task.spec_version, task.meta.version))
    wanted = [task for task in tasks if is_live(task)]
    current = [task for task in tasks if fits(service, task)]
    kept = set(service.update_status.hidden_versions) if is_switched(service) else set()
    newest = (current or tasks)[-1]
    label = label_of(newest)
    condition = service.spec.task.restart.condition
    failed = [task for task in current if task.status.state in FAILED_STATES]
    last_error = reason(failed[-1]) if failed else ""
    if not wanted:
        if newest.desired_state == types_pb2.TASK_REMOVE:
            return None
        if newest.status.state == types_pb2.TASK_COMPLETE and condition != types_pb2.RESTART_ANY:
            return Slot(label, "complete", good=True)
        if newest.status.state in FAILED_STATES:
            final = condition == types_pb2.RESTART_NONE
            return Slot(
                label, STATE_WORDS[newest.status.state], False, last_error, failures=len(failed), final=final
            )
        return None
    newest_wanted = wanted[-1]
    state = newest_wanted.status.state
    unready = (
        state == types_pb2.TASK_RUNNING
        and not newest_wanted.status.ready_ms
        and awaits_readiness(newest_wanted.spec)
    )
    good = (
        state == types_pb2.TASK_RUNNING
        and not unready
        and all(fits(service, task) or task.spec_version in kept for task in wanted)
    )
    if good and newest_wanted.status.reason == LIMITS_REFUSED:
        return Slot(label, "running", good=False, error=newest_wanted.status.error, final=True)
    waiting = state <= types_pb2.TASK_PENDING and bool(newest_wanted.status.message)
    error = (
        ""
        if good
        else (newest_wanted.status.error or (newest_wanted.status.message if waiting else last_error))
    )
    if not good and not error:
        error = trouble(newest_wanted.status)
    word = "running, not ready" if unready else STATE_WORDS.get(state, str(state))
    return Slot(label, word, good, error, waiting, len(failed))


def awaits_readiness(spec: types_pb2.TaskSpec) -> bool:
    """Whether a task of it has to become ready, too."""
    containers = [spec.container, *(sidecar.container for sidecar in spec.sidecars)]
    return any(container.HasField("readiness") for container in containers)


def trouble(status: objects_pb2.TaskStatus) -> str:
    """What keeps a task's containers from being well: a check that does not pass, a container that ended."""
    for one in status.containers:
        if text := trouble_of(one):
            return (f"{one.name}: " if len(status.containers) > 1 else "") + text
    return ""


def trouble_of(one: objects_pb2.ContainerStatus) -> str:
    """The same of one container."""
    if one.state == objects_pb2.CONTAINER_EXITED and one.error:
        return one.error + (f" (restarted {one.restarts} times)" if one.restarts else "")
    for probe in one.probes:
        if probe.verdict != objects_pb2.VERDICT_PASSING and probe.failure:
            return f"{PROBE_WORDS[probe.kind]}: {probe.failure}"
    return ""


def is_live(task: objects_pb2.Task) -> bool:
    """Wanted, and not ended."""
    return task.desired_state <= types_pb2.TASK_RUNNING and task.status.state <= types_pb2.TASK_RUNNING


def label_of(task: objects_pb2.Task) -> str:
    """`web.3`, or `web.NODE` for a global service."""
    return f"{task.service_name}.{task.slot or task.node_id[:12] or '?'}"


def reason(task: objects_pb2.Task) -> str:
    """Why a task ended, in full."""
    status = task.status
    text = status.error or status.message or STATE_WORDS.get(status.state, "ended")
    if status.exited and str(status.exit_code) not in text:
        text += f" (exit code {status.exit_code})"
    return text


def missing(service: objects_pb2.Service, slots: list[Slot], total: int) -> tuple[Slot, ...]:
    """Lines for tasks that do not exist yet."""
    count = max(0, total - len(slots))
    return tuple(Slot(f"{service.meta.name}.…", "new", good=False) for _ in range(min(count, 1000)))
