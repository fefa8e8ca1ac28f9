"""Schedules: a job made at the times of a cron expression, in the schedule's time zone.

Each run is a service of its own, named SCHEDULE-NUMBER, with the schedule as its owner. The next time is in
the status, so a new leader goes on where the last one was; a time is served or left out exactly once,
because the run and the status are one transaction. Rules:

- several times that are due at once (no leader, a manager that was down) become one run, for the last of
  them; a time that is later than the starting deadline (1 h) is left out;
- while a run is under way, `forbid` leaves the next time out, `replace` removes the run first, `allow`
  lets both run;
- suspended schedules run only when triggered; what was due meanwhile is not made up for;
- of the runs that ended the newest 3 that succeeded and 1 that failed are kept, as the schedule says;
- a schedule that is removed takes its runs with it.

Keys: schedule ids. Writes Schedule.status, creates services and marks them for deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import ChangeEvent, Draft, NewId, Plan, View, copy_of, earliest, is_full, limited
from swarmpy.node.plan.calendar import CalendarError, next_ms
from swarmpy.proto import objects_pb2, store_pb2

STARTING_DEADLINE_MS = 3_600_000
DEADLINE_MS_MAX = 24 * 3_600_000
KEEP_SUCCEEDED, KEEP_FAILED = 3, 1


class CronPlanner:
    """See the module."""

    name = "cron"
    heeds = (store_pb2.KIND_SCHEDULE, store_pb2.KIND_SERVICE)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_SCHEDULE:
            return (event.id,)
        if event.kind == store_pb2.KIND_SERVICE:
            found = event.new or event.old
            if isinstance(found, objects_pb2.Service) and found.owner_id and found.scheduled_ms:
                return (found.owner_id,)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        owners = {service.owner_id for service in view.services() if service.scheduled_ms}
        return sorted(owners | {schedule.meta.id for schedule in view.schedules()})

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft = Draft(view)
        wake_ms: int | None = None
        for key in keys:
            if is_full(draft):
                break
            runs = [s for s in view.services() if s.owner_id == key and s.scheduled_ms]
            schedule = view.schedule(key)
            if schedule is None:
                for run in runs:
                    _remove(draft, run)
            else:
                wake_ms = earliest(wake_ms, _plan_schedule(draft, schedule, runs, now_ms, new_id))
        return limited(draft, now_ms, wake_ms)


def _plan_schedule(
    draft: Draft, schedule: objects_pb2.Schedule, runs: list[objects_pb2.Service], now_ms: int, new_id: NewId
) -> int | None:
    changed = copy_of(schedule)
    status = changed.status
    planned_for = f"{schedule.spec.cron} {schedule.spec.time_zone}"
    if schedule.spec.suspended:
        status.next_ms = 0
    elif not status.next_ms or status.planned_for != planned_for:
        status.next_ms = _next(schedule, now_ms)
    status.planned_for = planned_for
    active = [run for run in runs if run.job.state == objects_pb2.JOB_RUNNING and not run.pending_delete]
    if status.triggered < schedule.spec.triggers:
        status.triggered = schedule.spec.triggers
        _run(draft, changed, now_ms, now_ms, new_id)
    elif status.next_ms and status.next_ms <= now_ms:
        _serve(draft, changed, active, now_ms, new_id)
    _forget_old(draft, schedule, runs)
    draft.put(changed)
    return status.next_ms or None


def _next(schedule: objects_pb2.Schedule, after_ms: int) -> int:
    try:
        return next_ms(schedule.spec.cron, schedule.zone, after_ms) or 0
    except CalendarError:
        return 0  # Control refuses such an expression; an older version may have known more


def _serve(
    draft: Draft,
    schedule: objects_pb2.Schedule,
    active: list[objects_pb2.Service],
    now_ms: int,
    new_id: NewId,
) -> None:
    """The time has come, perhaps more than once."""
    status, spec = schedule.status, schedule.spec
    limit_ms = min(spec.starting_deadline_ms or STARTING_DEADLINE_MS, DEADLINE_MS_MAX)
    due_ms, missed = status.next_ms, 0
    following_ms = _next(schedule, max(due_ms, now_ms - limit_ms - 1))
    while following_ms and following_ms <= now_ms:
        due_ms, missed = following_ms, missed + 1
        following_ms = _next(schedule, due_ms)
    status.last_ms, status.next_ms = due_ms, following_ms
    if now_ms - due_ms > limit_ms:
        status.missed += missed + 1
        status.message = f"left out: {(now_ms - due_ms) // 1000} s late, the limit is {limit_ms // 1000} s"
        return
    status.missed += missed
    if active and spec.overlap == objects_pb2.OVERLAP_FORBID:
        status.missed += 1
        status.message = f"left out: {active[0].meta.name} is still running"
        return
    if spec.overlap == objects_pb2.OVERLAP_REPLACE:
        for run in active:
            _remove(draft, run)
    _run(draft, schedule, due_ms, now_ms, new_id)


def _run(draft: Draft, schedule: objects_pb2.Schedule, due_ms: int, now_ms: int, new_id: NewId) -> None:
    status = schedule.status
    while True:
        status.runs += 1
        name = f"{schedule.meta.name}-{status.runs}"
        if draft.by_name(store_pb2.KIND_SERVICE, name, schedule.meta.namespace) is None:
            break
    service = objects_pb2.Service(
        spec=schedule.spec.service, spec_version=1, owner_id=schedule.meta.id, scheduled_ms=due_ms
    )
    service.meta.id, service.meta.name = new_id(), name
    service.meta.namespace = schedule.meta.namespace
    service.meta.created_ms = now_ms
    service.meta.labels.update(schedule.spec.labels)
    draft.put(service)
    status.message = f"started {name}"


def _forget_old(draft: Draft, schedule: objects_pb2.Schedule, runs: list[objects_pb2.Service]) -> None:
    spec = schedule.spec
    for state, kept in (
        (
            objects_pb2.JOB_COMPLETE,
            spec.keep_succeeded if spec.HasField("keep_succeeded") else KEEP_SUCCEEDED,
        ),
        (objects_pb2.JOB_FAILED, spec.keep_failed if spec.HasField("keep_failed") else KEEP_FAILED),
    ):
        ended = [run for run in runs if run.job.state == state and not run.pending_delete]
        ended.sort(key=lambda run: (-run.scheduled_ms, -run.meta.created_ms, run.meta.id))
        for run in ended[kept:]:
            _remove(draft, run)


def _remove(draft: Draft, run: objects_pb2.Service) -> None:
    marked = copy_of(run)
    marked.pending_delete = True
    draft.put(marked)
