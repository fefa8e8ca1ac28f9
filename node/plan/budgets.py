"""Disruption budgets: how many tasks of a service may be stopped now for somebody else's reasons. Pure.

`--min-available 2` or `80%` (of what the service wants, rounded up) is what drains, preemption,
rebalancing and the slow enforcement of constraints leave running. Updates have their own parallelism, and
failures ask nobody. A task counts as available when it runs, is ready, is wanted, and its node answers; a
task that is not available may always be stopped, as nothing is lost by that.
"""

from __future__ import annotations

import math

from swarmpy.node.plan.base import View, is_away
from swarmpy.proto import objects_pb2, types_pb2

UNBOUNDED = 1 << 30


def wanted_replicas(service: objects_pb2.Service, tasks: list[objects_pb2.Task]) -> int:
    """How many tasks should run."""
    match service.spec.WhichOneof("mode"):
        case "replicated":
            return int(service.spec.replicated.replicas)
        case "ordered":
            return int(service.spec.ordered.replicas)
    return sum(task.desired_state <= types_pb2.TASK_RUNNING for task in tasks)


def needed(service: objects_pb2.Service, wanted: int) -> int | None:
    """How many must stay available; None: any number will do."""
    text = service.spec.min_available
    if not text:
        return None
    if text.endswith("%"):
        return math.ceil(wanted * int(text[:-1]) / 100)
    return int(text)


def is_available(task: objects_pb2.Task, view: View) -> bool:
    status = task.status
    return (
        status.state == types_pb2.TASK_RUNNING
        and status.ready
        and task.desired_state == types_pb2.TASK_RUNNING
        and not is_away(task, view)
    )


class Budgets:
    """The budgets of one plan: ask `allows`, then `take`. `unavailable_max` is for services that name none."""

    def __init__(self, view: View, unavailable_max: int = UNBOUNDED) -> None:
        self._view = view
        self._unavailable_max = unavailable_max
        self._left: dict[str, int] = {}

    def left(self, service_id: str) -> int:
        """How many more available tasks of the service may be stopped."""
        if service_id not in self._left:
            self._left[service_id] = self._count(service_id)
        return self._left[service_id]

    def allows(self, task: objects_pb2.Task) -> bool:
        return self.left(task.service_id) > 0 or not is_available(task, self._view)

    def take(self, task: objects_pb2.Task) -> None:
        """The task is being stopped."""
        if is_available(task, self._view):
            self._left[task.service_id] = self.left(task.service_id) - 1

    def _count(self, service_id: str) -> int:
        service = self._view.service(service_id)
        if service is None or service.pending_delete:
            return UNBOUNDED
        tasks = self._view.tasks_of_service(service_id)
        wanted = wanted_replicas(service, tasks)
        least = needed(service, wanted)
        if least is None:
            if self._unavailable_max == UNBOUNDED:
                return UNBOUNDED
            least = wanted - self._unavailable_max
        return sum(is_available(task, self._view) for task in tasks) - least
