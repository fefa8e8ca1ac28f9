"""Checks of how a service runs: jobs, ordered services, dependencies, pre-deploy steps, schedules.

Used by validate; each function yields the problems of one part, with field paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swarmpy.node.plan.base import SPEC_HISTORY_MAX
from swarmpy.node.plan.calendar import CalendarError, next_ms, parse_cron
from swarmpy.node.plan.cron import DEADLINE_MS_MAX
from swarmpy.node.plan.gate import JOB_MODES
from swarmpy.node.plan.limits import DURATION_MS_MAX, Problem
from swarmpy.proto import objects_pb2, types_pb2

COMPLETIONS_MAX = 10_000
ORDERED_MAX = 1_000
DEPENDENCIES_MAX = 32
KEPT_MAX = 100
_NAME = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,511}")


def service(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    mode = spec.WhichOneof("mode")
    if mode == "replicated_job":
        yield from _job(spec.replicated_job)
        yield from _policy(spec.replicated_job.policy, "spec.replicated_job.policy")
    elif mode == "global_job":
        yield from _policy(spec.global_job.policy, "spec.global_job.policy")
    elif mode == "ordered" and spec.ordered.replicas > ORDERED_MAX:
        yield Problem("spec.ordered.replicas", f"is {spec.ordered.replicas}, at most {ORDERED_MAX}")
    if mode in JOB_MODES:
        yield from _no_updates(spec)
    if mode == "ordered" and types_pb2.ORDER_START_FIRST in (spec.update.order, spec.rollback.order):
        yield Problem(
            "spec.update.order", "is start-first: an ordered service always stops the old task first"
        )
    if spec.rollback.prefetch:
        yield Problem("spec.rollback.prefetch", "a rollback goes back at once: it gets no image first")
    if spec.HasField("pre_deploy"):
        yield from _pre_deploy(spec.pre_deploy, mode)
    if spec.history_limit > SPEC_HISTORY_MAX:
        yield Problem(
            "spec.history_limit", f"is {spec.history_limit}: 1 to {SPEC_HISTORY_MAX} revisions are kept"
        )
    if len(spec.depends_on) > DEPENDENCIES_MAX:
        yield Problem("spec.depends_on", f"has {len(spec.depends_on)} entries, at most {DEPENDENCIES_MAX}")
    for position, dependency in enumerate(spec.depends_on):
        if len(dependency.service) > 63 or not _NAME.fullmatch(dependency.service):
            yield Problem(
                f"spec.depends_on[{position}].service", f"{dependency.service!r} is no service's name"
            )


def _job(job: objects_pb2.ReplicatedJob) -> Iterator[Problem]:
    if not 1 <= job.completions <= COMPLETIONS_MAX:
        yield Problem("spec.replicated_job.completions", f"is {job.completions}, from 1 to {COMPLETIONS_MAX}")
    if job.max_concurrent > COMPLETIONS_MAX:
        yield Problem(
            "spec.replicated_job.max_concurrent", f"is {job.max_concurrent}, at most {COMPLETIONS_MAX}"
        )


def _policy(policy: objects_pb2.JobPolicy, path: str) -> Iterator[Problem]:
    if policy.backoff_limit < 0:
        yield Problem(path + ".backoff_limit", "must be 0 (the first failure ends the job) or more")
    for field in ("ttl_ms", "deadline_ms"):
        if not 0 <= getattr(policy, field) <= DURATION_MS_MAX:
            yield Problem(f"{path}.{field}", "must be from 0 (none) to 365 days")


def _no_updates(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    for field in ("update", "rollback"):
        if spec.HasField(field) and getattr(spec, field).ByteSize():
            yield Problem(
                f"spec.{field}", "a job is not updated step by step: leave it out, run it with --force"
            )
    if spec.min_available:
        yield Problem("spec.min_available", "a job has no number of tasks to keep available")
    if any(port.mode == types_pb2.PUBLISH_INGRESS for port in spec.endpoint.ports):
        yield Problem("spec.endpoint.ports", "a job publishes no ports on the mesh: use mode=host")
    if spec.HasField("pre_deploy"):
        yield Problem("spec.pre_deploy", "a job has no pre-deploy step: let it depend on another job")


def _pre_deploy(step: objects_pb2.PreDeploy, mode: str | None) -> Iterator[Problem]:
    if step.image and not _IMAGE.fullmatch(step.image):
        yield Problem(
            "spec.pre_deploy.image", f"{step.image[:80]!r} is no image such as registry:5000/name:tag"
        )
    if not step.args and not step.image and mode not in JOB_MODES:
        yield Problem("spec.pre_deploy", "names neither an image nor a command")
    if any("\0" in text for text in step.args):
        yield Problem("spec.pre_deploy.args", "may not hold a NUL character")
    if not 0 <= step.timeout_ms <= DURATION_MS_MAX:
        yield Problem("spec.pre_deploy.timeout_ms", "must be from 0 (5 minutes) to 365 days")


def schedule(spec: objects_pb2.ScheduleSpec, zone: objects_pb2.Zone, now_ms: int) -> Iterator[Problem]:
    """Of a schedule without its service, which is checked as every service is."""
    try:
        parse_cron(spec.cron)
        if next_ms(spec.cron, zone, now_ms) is None:
            yield Problem("spec.cron", f"{spec.cron!r} fits no day of the next nine years")
    except CalendarError as error:
        yield Problem("spec.cron", str(error))
    if not 0 <= spec.starting_deadline_ms <= DEADLINE_MS_MAX:
        yield Problem("spec.starting_deadline_ms", "must be from 0 (one hour) to 24 h")
    for field in ("keep_succeeded", "keep_failed"):
        if not 0 <= getattr(spec, field) <= KEPT_MAX:
            yield Problem(f"spec.{field}", f"must be from 0 to {KEPT_MAX}")
    if spec.service.WhichOneof("mode") not in JOB_MODES:
        yield Problem("spec.service.mode", "a schedule runs jobs: choose replicated-job or global-job")
