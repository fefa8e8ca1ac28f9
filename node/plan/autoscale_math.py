"""How many tasks a service should have: the mathematics of Kubernetes' HorizontalPodAutoscaler.

    ratio    = mean use of a task / target
    proposed = ceil(ratio × tasks), and no change while |ratio - 1| ≤ 0.1

Tasks without numbers are taken for the harmless side: as using what they should (at least 100 %) where the
number would go down, nothing where it would go up; tasks that are not ready yet as using nothing where it would
go up. If that turns the direction round, or brings it within the tolerance, nothing changes.

Several metrics: the largest proposal counts; one that says nothing forbids going down. Then, in this order:
stabilization (up: the lowest recommendation of its window, down: the highest; 0 s and 300 s), rate policies
(up: the larger of 4 tasks and 100 % in 15 s; down: 100 % in 15 s), minimum and maximum.

A recommendation is kept where it differs from the one before and holds until the next one: a window looks at
everything that held within it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarmpy.proto import objects_pb2

TOLERANCE = 0.1 + 1e-9  # 1.1 is within, whatever floating point makes of it
PROPOSED_MAX = 1e9
STABILIZE_DOWN_MS = 300_000
PERIOD_MS = 15_000
UP_POLICIES = (
    objects_pb2.ScalePolicy(tasks=4, period_ms=PERIOD_MS),
    objects_pb2.ScalePolicy(percent=100, period_ms=PERIOD_MS),
)
DOWN_POLICIES = (objects_pb2.ScalePolicy(percent=100, period_ms=PERIOD_MS),)


@dataclass(frozen=True, slots=True)
class Use:
    """What the tasks of a service use of one thing, in parts of the target (1.0 = just the target)."""

    ratios: tuple[float, ...]  # of the ready tasks with numbers
    missing: int = 0  # run, and nobody knows what they use
    unready: int = 0  # start, or are not ready yet
    missing_ratio: float = 1.0  # what a missing one is taken for where the number would go down


def proposal(use: Use, current: int) -> int | None:
    """How many tasks the metric asks for; None if nothing is known."""
    if not use.ratios:
        return None
    ratio = sum(use.ratios) / len(use.ratios)
    goes_up = ratio > 1.0
    if not use.missing and not (use.unready and goes_up):
        if abs(ratio - 1.0) <= TOLERANCE:
            return current
        return _up(ratio * len(use.ratios))
    total, count = sum(use.ratios), len(use.ratios) + use.missing
    if ratio < 1.0:
        total += use.missing * use.missing_ratio
    if goes_up:
        count += use.unready
    careful = total / count
    if abs(careful - 1.0) <= TOLERANCE or (careful > 1.0) != goes_up:
        return current
    proposed = _up(careful * count)
    if (goes_up and proposed < current) or (not goes_up and proposed > current):
        return current
    return proposed


def _up(tasks: float) -> int:
    """Rounded up, whatever floating point makes of it; a number beyond all bounds is a large one."""
    return math.ceil(round(min(tasks, PROPOSED_MAX), 9))


def proposal_of_total(total: float, target: float, current: int) -> int:
    """For a number from elsewhere that the tasks share: total / target of them."""
    if current and abs(total / (target * current) - 1.0) <= TOLERANCE:
        return current
    return _up(total / target)


def stabilized(
    current: int, proposed: int, past: Sequence[objects_pb2.Recommendation], spec: objects_pb2.AutoscalerSpec,
    now_ms: int,
) -> int:  # fmt: skip
    """No higher than the lowest, no lower than the highest of what held within the windows."""
    up_ms, down_ms = window_ms(spec.up, 0), window_ms(spec.down, STABILIZE_DOWN_MS)
    lowest = highest = proposed
    for position, entry in enumerate(past):
        until_ms = past[position + 1].at_ms if position + 1 < len(past) else now_ms
        if until_ms > now_ms - up_ms:
            lowest = min(lowest, entry.replicas)
        if until_ms > now_ms - down_ms:
            highest = max(highest, entry.replicas)
    result = current
    if result < lowest:
        result = lowest
    if result > highest:
        result = highest
    return result


def window_ms(rules: objects_pb2.ScaleRules, default_ms: int) -> int:
    """A stabilization window."""
    return rules.stabilization_ms if rules.HasField("stabilization_ms") else default_ms


def most(
    current: int, spec: objects_pb2.AutoscalerSpec, events: Sequence[objects_pb2.ScaleEvent], now_ms: int
) -> int:
    """How many tasks the policies let it have now at most."""
    if spec.up.select == "disabled":
        return current
    limits = []
    for policy in spec.up.policies or UP_POLICIES:
        start = current - _changed(events, now_ms - policy.period_ms)
        if policy.percent:
            limits.append(math.ceil(start * (100 + policy.percent) / 100))
        else:
            limits.append(start + policy.tasks)
    return max(current, min(limits) if spec.up.select == "min" else max(limits))


def fewest(
    current: int, spec: objects_pb2.AutoscalerSpec, events: Sequence[objects_pb2.ScaleEvent], now_ms: int
) -> int:
    """How many tasks the policies leave it at least."""
    if spec.down.select == "disabled":
        return current
    limits = []
    for policy in spec.down.policies or DOWN_POLICIES:
        start = current - _changed(events, now_ms - policy.period_ms)
        if policy.percent:
            limits.append(start * (100 - policy.percent) // 100)
        else:
            limits.append(start - policy.tasks)
    limit = max(limits) if spec.down.select == "min" else min(limits)
    return max(0, min(current, limit))


def _changed(events: Sequence[objects_pb2.ScaleEvent], after_ms: int) -> int:
    """Tasks added, less those removed, since then."""
    return sum(event.change for event in events if event.at_ms > after_ms)


def bounded(
    current: int, wanted: int, spec: objects_pb2.AutoscalerSpec, events: Sequence[objects_pb2.ScaleEvent],
    now_ms: int,
) -> tuple[int, str]:  # fmt: skip
    """Within the policies and within minimum and maximum; and what cut it off, "" = nothing."""
    low, high = int(spec.min), int(spec.max)
    if current > high:
        return high, "above the maximum"
    if current < low:
        return low, "below the minimum"
    if wanted > current:
        ceiling = most(current, spec, events, now_ms)
        result = min(wanted, ceiling, high)
        return result, "" if result == wanted else (
            "the maximum" if result == high else "the rate of scaling up"
        )
    floor = fewest(current, spec, events, now_ms)
    result = max(wanted, floor, low)
    return result, "" if result == wanted else (
        "the minimum" if result == low else "the rate of scaling down"
    )
