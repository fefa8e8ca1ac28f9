"""The nodes planner: what a node's condition means for its tasks.

It acts on what is stored: liveness (in the manager) writes Node.status, users
write availability and removal. It writes Task.desired_state, the final state
ORPHANED, and deletes removed nodes. Orchestrators make the replacements; they
do not count tasks on lost nodes.

    node               its tasks
    DOWN               desired SHUTDOWN, fenced ones once it has surely stopped them; ORPHANED after 24 h of it
    DRAIN              desired SHUTDOWN; with a drain parallelism they are marked as leaving, so many
                       at once, and stop when their successors run, or at the drain's deadline
    removed            desired SHUTDOWN, ORPHANED at once; then the node is deleted,
                       once it is no manager any more
    gone               as removed

ORPHANED means that nobody can tell whether the task still runs, and that its
resources no longer count. A node that returns before that stops what is no
longer wanted, because its new assignments do not hold it.

Keys: node ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import (
    ORPHAN_AFTER_MS,
    ChangeEvent,
    Draft,
    NewId,
    Plan,
    View,
    copy_of,
    desired_running,
    earliest,
    is_away,
    is_full,
    is_lost,
    is_terminal,
    limited,
)
from swarmpy.node.plan.budgets import Budgets
from swarmpy.node.plan.tasks import enter
from swarmpy.proto import objects_pb2, store_pb2, types_pb2


class NodesPlanner:
    """See the module."""

    name = "nodes"
    keys_per_plan = 20  # a node that is lost costs about half a millisecond with 30 tasks

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        if event.kind == store_pb2.KIND_NODE:
            old, new = event.old, event.new
            if isinstance(old, objects_pb2.Node) and isinstance(new, objects_pb2.Node):
                return () if _condition(old) == _condition(new) else (event.id,)
            return (event.id,)
        task = event.new if event.new is not None else event.old
        if isinstance(task, objects_pb2.Task) and task.node_id and _is_troubled(view.node(task.node_id)):
            return (task.node_id,)
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        troubled = {node.meta.id for node in view.nodes() if _is_troubled(node)}
        lost = {node_id for node_id in view.nodes_with_tasks() if node_id and view.node(node_id) is None}
        return sorted(troubled | lost)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        draft, shared = Draft(view), Budgets(view)
        wake_ms: int | None = None
        for node_id in keys:
            if is_full(draft):
                break
            node = view.node(node_id)
            if node is not None and (until_ms := _leaves_in_turn_until_ms(node)) > now_ms:
                _let_leave(draft, node, now_ms)
                wake_ms = earliest(wake_ms, until_ms if until_ms < _NEVER_MS else None)
            elif _is_troubled(node):
                orphan_ms = _orphan_ms(node)
                asked_until_ms = _asks_until_ms(node)
                budgets = shared if now_ms < asked_until_ms else None
                _stop_tasks(draft, node_id, node, now_ms, orphan=now_ms >= orphan_ms, budgets=budgets)
                if budgets is not None and asked_until_ms < _NEVER_MS:
                    wake_ms = earliest(wake_ms, asked_until_ms)
                if now_ms < orphan_ms < _NEVER_MS and not _all_ended(draft, node_id):
                    wake_ms = earliest(wake_ms, orphan_ms)
            leaving = node is not None and node.removed and node.role != types_pb2.ROLE_MANAGER
            if leaving and _all_ended(draft, node_id):
                draft.delete(store_pb2.KIND_NODE, node_id)
        return limited(draft, now_ms, wake_ms)


_NEVER_MS = 1 << 62


def _condition(node: objects_pb2.Node) -> tuple[int, ...]:
    spec = node.spec
    drain = (spec.drain_parallelism, spec.drain_deadline_ms)
    return (node.status.state, node.status.silent_ms, spec.availability, node.removed, node.role, *drain)


def _is_troubled(node: objects_pb2.Node | None) -> bool:
    return (
        node is None
        or node.removed
        or node.status.state == types_pb2.NODE_DOWN
        or node.spec.availability == types_pb2.AVAILABILITY_DRAIN
    )


def _leaves_in_turn_until_ms(node: objects_pb2.Node) -> int:
    """Until when a drained node's tasks leave one after the other; 0 where they stop at once."""
    drained = node.spec.availability == types_pb2.AVAILABILITY_DRAIN and not node.removed
    if not drained or node.status.state == types_pb2.NODE_DOWN or not node.spec.drain_parallelism:
        return 0
    return node.drain_ms + node.spec.drain_deadline_ms if node.spec.drain_deadline_ms else _NEVER_MS


def _can_move(view: View, task: objects_pb2.Task) -> bool:
    """Its slot may have a successor elsewhere; the task of a job runs to its end, or to the deadline."""
    service = view.service(task.service_id)
    return service is not None and (service.spec.HasField("replicated") or service.spec.HasField("ordered"))


def _let_leave(draft: Draft, node: objects_pb2.Node, now_ms: int) -> None:
    """Mark tasks as leaving, so many at once as the drain allows; their slots get successors elsewhere."""
    here = [
        task
        for task in draft.tasks_of_node(node.meta.id)
        if desired_running(task) and not is_terminal(task.status.state) and _can_move(draft, task)
    ]
    free = node.spec.drain_parallelism - sum(bool(task.leaving_ms) for task in here)
    for task in [task for task in here if not task.leaving_ms][: max(0, free)]:
        _mark_leaving(draft, task, now_ms)


def _mark_leaving(draft: Draft, task: objects_pb2.Task, now_ms: int) -> None:
    if not task.leaving_ms:
        changed = copy_of(task)
        changed.leaving_ms, changed.leaving_reason = now_ms, "DRAIN"
        draft.put(changed)


def _asks_until_ms(node: objects_pb2.Node | None) -> int:
    """Until when a drain leaves what disruption budgets keep: those tasks get successors first."""
    if node is None or node.removed or node.status.state == types_pb2.NODE_DOWN:
        return 0
    return node.drain_ms + node.spec.drain_deadline_ms if node.spec.drain_deadline_ms else _NEVER_MS


def _orphan_ms(node: objects_pb2.Node | None) -> int:
    """From when on the node's tasks count as lost for good."""
    if node is None or node.removed:
        return 0
    if node.status.state == types_pb2.NODE_DOWN:
        return node.status.since_ms + ORPHAN_AFTER_MS
    return _NEVER_MS


def _stop_tasks(
    draft: Draft,
    node_id: str,
    node: objects_pb2.Node | None,
    now_ms: int,
    *,
    orphan: bool,
    budgets: Budgets | None,
) -> None:
    for task in draft.tasks_of_node(node_id):
        if is_full(draft):
            return
        if is_terminal(task.status.state) and not desired_running(task):
            continue
        if not desired_running(task) and not orphan:
            continue  # told to stop already
        if not orphan and is_away(task, draft) and not is_lost(task, draft):
            continue  # its slot is not to look empty yet
        changed = copy_of(task)
        if desired_running(task):
            if is_terminal(task.status.state):
                continue  # ended by itself: the orchestrator decides what follows
            if budgets is not None and _can_move(draft, task):
                if not budgets.allows(task):
                    _mark_leaving(draft, task, now_ms)
                    continue
                budgets.take(task)
            changed.desired_state = types_pb2.TASK_SHUTDOWN
            changed.stop_reason, changed.stop_ms = _stop_reason(node), now_ms
        if orphan:
            enter(changed, types_pb2.TASK_ORPHANED, now_ms, _why(node_id, node), "NODE_LOST")
            changed.status.ready = False
        draft.put(changed)


def _stop_reason(node: objects_pb2.Node | None) -> str:
    if node is None or node.removed:
        return "NODE_REMOVED"
    return "NODE_DOWN" if node.status.state == types_pb2.NODE_DOWN else "DRAINED"


def _why(node_id: str, node: objects_pb2.Node | None) -> str:
    if node is None or node.removed:
        return f"node {node_id} was removed from the cluster"
    return f"node {node.meta.name or node_id} has been down for {ORPHAN_AFTER_MS // 3_600_000} hours"


def _all_ended(view: View, node_id: str) -> bool:
    return all(is_terminal(task.status.state) for task in view.tasks_of_node(node_id))
