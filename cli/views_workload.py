"""The rows of `job ls` and `cron ls`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from swarmpy.cli.output import Row, ago, short_id
from swarmpy.proto import objects_pb2, types_pb2

JOB_COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("COMPLETIONS", "Completions"),
    ("STATE", "State"),
    ("FAILURES", "Failures"),
    ("ENDED", "Ended"),
    ("IMAGE", "Image"),
)
SCHEDULE_COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("SCHEDULE", "Schedule"),
    ("TIME ZONE", "TimeZone"),
    ("NEXT (UTC)", "Next"),
    ("LAST (UTC)", "Last"),
    ("ACTIVE", "Active"),
    ("LAST RESULT", "Message"),
)
JOB_STATES = {
    objects_pb2.JOB_RUNNING: "Running",
    objects_pb2.JOB_COMPLETE: "Complete",
    objects_pb2.JOB_FAILED: "Failed",
}


HISTORY_COLUMNS = (("TIME (UTC)", "Time"), ("AFTER", "After"), ("STATE", "State"), ("REASON", "Reason"))


def history_rows(task: Any) -> list[Row]:
    """Its transitions, and where it was told to stop; the oldest first."""
    moments = [
        (step.at_ms, types_pb2.TaskState.Name(step.state).removeprefix("TASK_").lower(), step.reason)
        for step in task.status.history
    ]
    if task.stop_ms:
        moments.append((task.stop_ms, "told to stop", task.stop_reason))
        moments.sort(key=lambda moment: moment[0])
    first_ms = moments[0][0] if moments else 0
    return [
        {
            "Time": f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}",
            "After": f"{(at_ms - first_ms) / 1000:.3f}s",
            "State": state,
            "Reason": reason,
        }
        for at_ms, state, reason in moments
    ]


def job_rows(services: Iterable[Any], now_ms: int, *, whole: bool) -> list[Row]:
    """By name."""
    rows: list[Row] = []
    for service in sorted(services, key=lambda service: service.meta.name):
        job = service.job
        total = (
            str(service.spec.replicated_job.completions)
            if service.spec.HasField("replicated_job")
            else "nodes"
        )
        state = JOB_STATES[job.state]
        if job.state == objects_pb2.JOB_RUNNING and service.waiting:
            state = "Waiting"
        rows.append(
            {
                "ID": short_id(service.meta.id, whole=whole),
                "Name": service.meta.name,
                "Completions": f"{job.succeeded}/{total}",
                "State": "Removing" if service.pending_delete else state,
                "Failures": str(job.failures),
                "Ended": ago(job.completed_ms, now_ms) if job.completed_ms else "",
                "Image": service.spec.task.container.image,
                "Message": service.waiting or job.message,
                "Labels": dict(service.meta.labels),
            }
        )
    return rows


def schedule_rows(
    schedules: Iterable[Any], services: Iterable[Any], now_ms: int, *, whole: bool
) -> list[Row]:
    """By name."""
    active: dict[str, int] = {}
    for service in services:
        if service.scheduled_ms and service.job.state == objects_pb2.JOB_RUNNING:
            active[service.owner_id] = active.get(service.owner_id, 0) + 1
    return [
        {
            "ID": short_id(schedule.meta.id, whole=whole),
            "Name": schedule.meta.name,
            "Schedule": schedule.spec.cron,
            "TimeZone": schedule.spec.time_zone or "UTC",
            "Next": "suspended" if schedule.spec.suspended else moment(schedule.status.next_ms),
            "Last": moment(schedule.status.last_ms),
            "Active": str(active.get(schedule.meta.id, 0)),
            "Message": schedule.status.message,
            "Labels": dict(schedule.meta.labels),
        }
        for schedule in sorted(schedules, key=lambda schedule: schedule.meta.name)
    ]


def moment(time_ms: int) -> str:
    """`2026-11-30 12:15`, or nothing."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}" if time_ms else ""
