"""Whether an autoscaler can be carried out: every problem, with its field path."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from swarmpy.node.plan import statics
from swarmpy.node.plan.limits import Problem
from swarmpy.proto import objects_pb2

REPLICAS_MAX = 100_000
METRICS_MAX = 10
PERIOD_MS_MAX = 1_800_000
STABILIZATION_MS_MAX = 3_600_000
TEXT_MAX = 2_000


def problems(spec: objects_pb2.AutoscalerSpec, service: objects_pb2.Service) -> Iterator[Problem]:
    """What is wrong with it, for this service."""
    if not service.spec.HasField("replicated"):
        yield Problem(
            "spec.service_id", f"service {service.meta.name} is not replicated: it cannot be scaled"
        )
    if not 1 <= spec.min <= spec.max <= REPLICAS_MAX:
        yield Problem("spec.min", f"is {spec.min} and max {spec.max}: 1 ≤ min ≤ max ≤ {REPLICAS_MAX}")
    for network_id in statics.networks_of(service.spec.task):
        count = len(statics.named(service.spec.task, network_id))
        if spec.max > count:
            yield Problem(
                "spec.max", f"is {spec.max}, but service {service.meta.name} names {count} static addresses"
            )
    if not 1 <= len(spec.metrics) <= METRICS_MAX:
        yield Problem(
            "spec.metrics", f"has {len(spec.metrics)} entries: 1 to {METRICS_MAX}, for example --cpu 60%"
        )
    for position, metric in enumerate(spec.metrics):
        yield from _metric(metric, service, f"spec.metrics[{position}]")
    for name, rules in (("up", spec.up), ("down", spec.down)):
        yield from _rules(rules, f"spec.{name}")


def _metric(metric: objects_pb2.Metric, service: objects_pb2.Service, path: str) -> Iterator[Problem]:
    if not 0 < metric.target < 1e15:
        yield Problem(path + ".target", f"is {metric.target:g}: it must be above 0")
    resources = service.spec.task.resources
    wanted = {
        objects_pb2.METRIC_CPU: ("cpu", resources.reservations.nano_cpus or resources.limits.nano_cpus),
        objects_pb2.METRIC_MEMORY: (
            "memory",
            resources.reservations.memory_bytes or resources.limits.memory_bytes,
        ),
    }
    if metric.kind in wanted and not wanted[metric.kind][1]:
        name = wanted[metric.kind][0]
        yield Problem(
            path,
            f"is a percentage of the {name} that a task reserves, and service {service.meta.name} reserves and "
            f"limits none: swarmpy service update --reserve-{name} … {service.meta.name}",
        )
    if metric.kind == objects_pb2.METRIC_PROMETHEUS:
        parts = urlsplit(metric.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or len(metric.url) > TEXT_MAX:
            yield Problem(path + ".url", f"{metric.url[:80]!r} is no http:// or https:// address")
        if not metric.query or len(metric.query) > TEXT_MAX:
            yield Problem(path + ".query", "is not set: write a query, or the name of a metric on the page")
    elif metric.url or metric.query:
        yield Problem(path + ".url", "is only for prometheus")


def _rules(rules: objects_pb2.ScaleRules, path: str) -> Iterator[Problem]:
    if rules.select not in ("", "max", "min", "disabled"):
        yield Problem(path + ".select", f"is {rules.select!r}: write max, min or disabled")
    if not 0 <= rules.stabilization_ms <= STABILIZATION_MS_MAX:
        yield Problem(path + ".stabilization_ms", f"is {rules.stabilization_ms}: from 0 to one hour")
    if len(rules.policies) > METRICS_MAX:
        yield Problem(path + ".policies", f"has {len(rules.policies)} entries, at most {METRICS_MAX}")
    for position, policy in enumerate(rules.policies):
        where = f"{path}.policies[{position}]"
        if (policy.tasks > 0) == (policy.percent > 0) or policy.tasks < 0 or policy.percent < 0:
            yield Problem(where, "must have either tasks or percent, above 0")
        if not 1000 <= policy.period_ms <= PERIOD_MS_MAX:
            yield Problem(where + ".period_ms", f"is {policy.period_ms}: from one second to 30 minutes")
