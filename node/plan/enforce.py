"""Tasks on nodes that fit no longer: labels, taints, roles and platforms change under them.

    a NoExecute taint without a toleration      stopped at once
    constraints or platform not met any more    by `enforce` of the service: stopped at once (now, as
                                                Swarm does), as its budget allows and one by one (drain),
                                                or left alone (ignore)

The orchestrators put new tasks in the slots. Global services are the global planner's.

Keys: node ids. Writes Task.desired_state. Looks again when a budget of a service with `drain` may have room: one of
its tasks serves, or serves no more, its node answers again, or its measure changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import (
    CHANGES_PER_PLAN,
    ChangeEvent,
    NewId,
    Plan,
    View,
    desired_running,
    is_terminal,
)
from swarmpy.node.plan.budgets import Budgets
from swarmpy.node.plan.filters import Constraint, ConstraintError, constraints_of, placement_problem
from swarmpy.node.plan.taints import evicts
from swarmpy.node.plan.tasks import SHUTDOWN, Edits
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

EVICTED, MISPLACED = "EVICTED", "CONSTRAINT"


class EnforcePlanner:
    """See the module."""

    name = "enforce"
    keys_per_plan = 20

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_NODE:
            keys = {event.id} if _may_fit_no_more(event) else set()
            if _answers_again(event):  # its tasks are available again
                for task in view.tasks_of_node(event.id):
                    keys.update(_drained(view, task.service_id))
            return sorted(keys)
        if event.kind == store_pb2.KIND_SERVICE:
            old, new = event.old, event.new
            both = isinstance(old, objects_pb2.Service) and isinstance(new, objects_pb2.Service)
            if both and _measure(old) != _measure(new):  # type: ignore[arg-type]
                return _nodes_of(view, event.id)
            return ()
        if event.kind == store_pb2.KIND_TASK and isinstance(event.new, objects_pb2.Task):
            return self._of_task(event.new, event, view)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return [node.meta.id for node in view.nodes()]

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        edits = Edits(now_ms=now_ms)
        budgets = Budgets(view, unavailable_max=1)
        parsed: dict[tuple[str, int], tuple[Constraint, ...] | None] = {}
        for node_id in keys:
            node = view.node(node_id)
            if node is None or node.removed:
                continue
            for task in view.tasks_of_node(node_id):
                if len(edits) >= CHANGES_PER_PLAN:
                    return Plan(edits.changes, now_ms)
                if desired_running(task) and not is_terminal(task.status.state) and task.slot:
                    _judge(view, node, task, parsed, budgets, edits)
        return Plan(edits.changes)

    def _of_task(self, task: objects_pb2.Task, event: ChangeEvent, view: View) -> Iterable[str]:
        """A task came to a node that changed meanwhile, or made room in the budget of a drain."""
        old = event.old
        before = old.status.state if isinstance(old, objects_pb2.Task) else types_pb2.TASK_NEW
        if before < types_pb2.TASK_ASSIGNED <= task.status.state:
            return (task.node_id,) if _may_be_misplaced(task, view.node(task.node_id)) else ()
        if isinstance(old, objects_pb2.Task) and _serves(old) != _serves(task):
            return _drained(view, task.service_id)
        return ()


def _serves(task: objects_pb2.Task) -> bool:
    """Whether it counts as available where its node answers."""
    running = task.status.state == task.desired_state == types_pb2.TASK_RUNNING
    return running and task.status.ready


def _drained(view: View, service_id: str) -> list[str]:
    """Where the tasks of a service are that is moved as its budget allows; of others nothing waits for room."""
    service = view.service(service_id)
    return _nodes_of(view, service_id) if service is not None and service.spec.enforce == "drain" else []


def _measure(service: objects_pb2.Service) -> tuple[object, ...]:
    """What of a service says whether and how fast its tasks go."""
    spec = service.spec
    return spec.enforce, spec.min_available, spec.replicated.replicas, spec.ordered.replicas


def _answers_again(event: ChangeEvent) -> bool:
    old, new = event.old, event.new
    if not isinstance(old, objects_pb2.Node) or not isinstance(new, objects_pb2.Node):
        return False
    return old.status.state == types_pb2.NODE_DOWN != new.status.state


def _may_be_misplaced(task: objects_pb2.Task, node: objects_pb2.Node | None) -> bool:
    """Whether there is anything to judge: most tasks go where they like."""
    placement = task.spec.placement
    return bool(placement.constraints or placement.platforms or (node is not None and node.spec.taints))


def _nodes_of(view: View, service_id: str) -> list[str]:
    return sorted({task.node_id for task in view.tasks_of_service(service_id) if task.node_id})


def _may_fit_no_more(event: ChangeEvent) -> bool:
    old, new = event.old, event.new
    if not isinstance(new, objects_pb2.Node) or new.removed:
        return False
    if not isinstance(old, objects_pb2.Node):
        return True
    return (
        old.meta.labels != new.meta.labels
        or old.spec.taints != new.spec.taints
        or old.role != new.role
        or old.description != new.description
        or old.status.address != new.status.address
    )


def _judge(
    view: View,
    node: objects_pb2.Node,
    task: objects_pb2.Task,
    parsed: dict[tuple[str, int], tuple[Constraint, ...] | None],
    budgets: Budgets,
    edits: Edits,
) -> None:
    placement = task.spec.placement
    if node.spec.taints and evicts(node, placement.tolerations) is not None:
        budgets.take(task)
        edits.desire(task, SHUTDOWN, EVICTED)
        return
    if not placement.constraints and not placement.platforms:
        return
    key = (task.service_id, task.spec_version)
    if key not in parsed:
        try:
            parsed[key] = constraints_of(placement)
        except ConstraintError:
            parsed[key] = None
    constraints = parsed[key]
    if constraints is None or placement_problem(node, constraints, placement.platforms) is None:
        return
    service = view.service(task.service_id)
    enforce = service.spec.enforce if service is not None else ""
    if enforce == "ignore" or (enforce == "drain" and not budgets.allows(task)):
        return
    budgets.take(task)
    edits.desire(task, SHUTDOWN, MISPLACED)
