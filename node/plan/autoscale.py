"""Autoscaling: keeps the number of a service's tasks where its metrics are at their targets.

The mathematics is `autoscale_math`'s, the numbers come from `samples` (the leader's memory of what nodes
measured), everything that must outlive a leader is in Autoscaler.status: recommendations for
stabilization, scale events for the rate policies, the last decisions with what they were made from. It is
written only when one of these changes.

Keys: autoscaler ids. It looks again every 5 s. It writes Autoscaler.status and Service.spec.replicated,
both in one plan, and removes the autoscaler of a service that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from swarmpy.node.plan import autoscale_math as maths
from swarmpy.node.plan import pods
from swarmpy.node.plan.base import ChangeEvent, NewId, Plan, View, copy_of, earliest, is_live
from swarmpy.node.plan.samples import Samples, Usage
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

SYNC_MS = 5_000
CPU_INIT_MS = 300_000  # CPU of a task that is not ready and younger says nothing
READY_DELAY_MS = 30_000  # a task that was never ready within so long counts as it is
DECISIONS_MAX = 20
EVENTS_MAX = 200
NAMES = {
    objects_pb2.METRIC_CPU: "cpu",
    objects_pb2.METRIC_MEMORY: "memory",
    objects_pb2.METRIC_CONNECTIONS: "connections",
    objects_pb2.METRIC_REQUESTS: "rps",
    objects_pb2.METRIC_PROMETHEUS: "prometheus",
}


class AutoscalePlanner:
    """See the module. `samples` may be filled by anybody; an empty one means that nothing is known."""

    name = "autoscale"
    heeds = (store_pb2.KIND_AUTOSCALER, store_pb2.KIND_SERVICE)

    def __init__(self, samples: Samples | None = None) -> None:
        self.samples = samples if samples is not None else Samples()

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_AUTOSCALER:
            return (event.id,)
        if event.kind == store_pb2.KIND_SERVICE and view.count(store_pb2.KIND_AUTOSCALER):
            return [scaler.meta.id for scaler in view.autoscalers() if scaler.spec.service_id == event.id]
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return [scaler.meta.id for scaler in view.autoscalers()]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        plan = Plan()
        for key in keys:
            scaler = view.autoscaler(key)
            if scaler is None:
                continue
            service = view.service(scaler.spec.service_id)
            if service is None or service.pending_delete:
                gone = store_pb2.ObjectKey(kind=store_pb2.KIND_AUTOSCALER, id=key)
                plan.changes.append(store_pb2.Change(delete=gone, expected_version=scaler.meta.version))
                continue
            plan.changes += _Round(view, scaler, service, self.samples, now_ms).changes()
            plan.wake_ms = earliest(plan.wake_ms, now_ms + SYNC_MS)
        return plan


@dataclass(slots=True)
class _Round:
    """One decision about one service."""

    view: View
    scaler: objects_pb2.Autoscaler
    service: objects_pb2.Service
    samples: Samples
    now_ms: int
    readings: list[objects_pb2.MetricReading] = field(default_factory=list)

    def changes(self) -> list[store_pb2.Change]:
        """The new status where it differs, and the service's new number."""
        spec, current = self.scaler.spec, int(self.service.spec.replicated.replicas)
        if not self.service.spec.HasField("replicated") or self.service.spec.stopped or not current:
            return self._written(current, None, current, "the service is stopped or scaled to 0: paused")
        known, reason = self._wanted(current)
        wanted = current if known is None else known
        past = self.scaler.status.recommendations
        calm = maths.stabilized(current, wanted, past, spec, self.now_ms)
        if calm != wanted:
            reason = f"{wanted} are proposed, held at {calm} by stabilization"
        result, cut = maths.bounded(current, calm, spec, self.scaler.status.events, self.now_ms)
        if cut:
            reason = f"{reason}; limited by {cut}"
        return self._written(current, known, result, reason)

    def _wanted(self, current: int) -> tuple[int | None, str]:
        """The largest proposal; None where too little is known to recommend anything."""
        tasks = [t for t in self.view.tasks_of_service(self.service.meta.id) if is_live(t, self.view)]
        for metric in self.scaler.spec.metrics:
            self.readings.append(self._reading(metric, tasks, current))
        said = [reading for reading in self.readings if not reading.problem]
        silent = [reading for reading in self.readings if reading.problem]
        if not said:
            return None, "no metric is known: nothing changes"
        best = max(said, key=lambda reading: reading.replicas)
        wanted = int(best.replicas)
        if wanted < current and silent:
            return None, f"{silent[0].name} is unknown: no scaling down"
        if wanted == current:
            return current, "metrics are at their targets"
        return wanted, f"{best.name} is at {best.value:g}, its target is {best.target:g}"

    def _reading(
        self, metric: objects_pb2.Metric, tasks: Sequence[objects_pb2.Task], current: int
    ) -> objects_pb2.MetricReading:
        reading = objects_pb2.MetricReading(name=NAMES[metric.kind], target=metric.target)
        if metric.kind == objects_pb2.METRIC_PROMETHEUS:
            return self._from_elsewhere(metric, reading, current)
        base = self._base(metric)
        if base <= 0:
            reading.problem = f"the service reserves and limits no {reading.name}: a percentage of nothing"
            return reading
        ratios: list[float] = []
        for task in tasks:
            usage = self.samples.usage(task.meta.id, self.now_ms)
            if self._is_unready(task, metric, usage):
                reading.unready += 1
            elif usage is None:
                reading.missing += 1
            else:
                ratios.append(_used(usage, metric.kind) / base * 100 / metric.target)
        use = maths.Use(
            tuple(ratios),
            reading.missing,
            reading.unready,
            max(1.0, 100 / metric.target) if _is_part(metric) else 1.0,
        )
        proposed = maths.proposal(use, current)
        reading.tasks = len(ratios)
        if proposed is None:
            reading.problem = "no task is ready and measured"
        else:
            reading.value = round(sum(ratios) / len(ratios) * metric.target, 2)
            reading.replicas = proposed
        return reading

    def _base(self, metric: objects_pb2.Metric) -> float:
        """What 100 % is; of plain numbers 100, so that they are taken as they are."""
        resources, reserved = self.service.spec.task.resources, pods.reservations(self.service.spec.task)
        if metric.kind == objects_pb2.METRIC_CPU:
            return reserved.nano_cpus or resources.limits.nano_cpus
        if metric.kind == objects_pb2.METRIC_MEMORY:
            return reserved.memory_bytes or resources.limits.memory_bytes
        return 100.0

    def _is_unready(self, task: objects_pb2.Task, metric: objects_pb2.Metric, usage: Usage | None) -> bool:
        """Not to be counted yet: it starts, or (CPU) warms up."""
        status = task.status
        if status.state < types_pb2.TASK_RUNNING or not status.started_ms:
            return True
        if metric.kind != objects_pb2.METRIC_CPU:
            return False
        ready_ms = task.meta.updated_ms  # it became RUNNING, or ready, with its last change
        if self.now_ms < ready_ms + CPU_INIT_MS:
            return not status.ready or (usage is not None and usage.since_ms < ready_ms)
        return not status.ready and self.now_ms < ready_ms + READY_DELAY_MS

    def _from_elsewhere(
        self, metric: objects_pb2.Metric, reading: objects_pb2.MetricReading, current: int
    ) -> objects_pb2.MetricReading:
        answer = self.samples.external(metric.url, metric.query, self.now_ms)
        if answer is None or answer.problem:
            reading.problem = answer.problem if answer is not None else "not asked yet"
            return reading
        reading.value, reading.tasks = round(answer.value / current, 3), current
        reading.replicas = maths.proposal_of_total(max(0.0, answer.value), metric.target, current)
        return reading

    def _written(self, current: int, wanted: int | None, result: int, reason: str) -> list[store_pb2.Change]:
        changes = []
        scaler = copy_of(self.scaler)
        status = scaler.status
        if wanted is not None:
            _recommend(status, wanted, self.now_ms, self.scaler.spec)
        moves = result != current and not self.scaler.spec.dry_run
        last = status.decisions[-1] if status.decisions else None
        kind = reason.partition(" is at ")[0] + reason.partition("; ")[2]
        said = last is not None and last.to == result and kind == _kind(last)
        if moves or not said:
            if self.scaler.spec.dry_run and result != current:
                reason = f"{reason} (dry run: nothing is changed)"
            status.decisions.add(at_ms=self.now_ms, to=result, reason=reason, readings=self.readings)
            setattr(status.decisions[-1], "from", current)
            del status.decisions[:-DECISIONS_MAX]
        if moves:
            status.events.add(at_ms=self.now_ms, change=result - current)
            del status.events[:-EVENTS_MAX]
        if status != self.scaler.status:
            change = store_pb2.Change(expected_version=scaler.meta.version)
            change.put.autoscaler.CopyFrom(scaler)
            changes.append(change)
        if moves:
            service = copy_of(self.service)
            service.spec.replicated.replicas = result
            change = store_pb2.Change(expected_version=service.meta.version)
            change.put.service.CopyFrom(service)
            changes.append(change)
        return changes


def _kind(decision: objects_pb2.ScaleDecision) -> str:
    """A reason without its numbers: the same one again is not written down again."""
    reason = decision.reason.removesuffix(" (dry run: nothing is changed)")
    return reason.partition(" is at ")[0] + reason.partition("; ")[2]


def _recommend(
    status: objects_pb2.AutoscalerStatus, wanted: int, now_ms: int, spec: objects_pb2.AutoscalerSpec
) -> None:
    """Note a recommendation that differs from the last; forget what no window and no policy looks at."""
    past = list(status.recommendations)
    if not past or past[-1].replicas != wanted:
        past.append(objects_pb2.Recommendation(at_ms=now_ms, replicas=wanted))
        keep_ms = max(maths.window_ms(spec.up, 0), maths.window_ms(spec.down, maths.STABILIZE_DOWN_MS))
        while len(past) > 1 and past[1].at_ms <= now_ms - keep_ms:
            del past[0]
        del status.recommendations[:]
        status.recommendations.extend(past[-200:])
        policies = (*spec.up.policies, *spec.down.policies)
        period_ms = max((policy.period_ms for policy in policies), default=maths.PERIOD_MS)
        events = [event for event in status.events if event.at_ms > now_ms - max(period_ms, maths.PERIOD_MS)]
        del status.events[:]
        status.events.extend(events[-EVENTS_MAX:])


def _used(usage: Usage, kind: int) -> float:
    match kind:
        case objects_pb2.METRIC_CPU:
            return usage.nano_cpus
        case objects_pb2.METRIC_MEMORY:
            return usage.memory_bytes
        case objects_pb2.METRIC_CONNECTIONS:
            return usage.connections
    return usage.requests_per_s


def _is_part(metric: objects_pb2.Metric) -> bool:
    """A percentage of what is reserved, not a plain number."""
    return metric.kind in (objects_pb2.METRIC_CPU, objects_pb2.METRIC_MEMORY)
