"""Whether and when an ended task gets a successor, from what the task itself carries.

The history is data: `Task.restart` counts what happened in the slot and is
handed from each task to its successor, so a new leader continues where the old
one stopped. The delay is the policy's (default 5 s) for the first three quick
failures, then doubles up to the cap (default 60 s), unless the policy wants it constant; a task that ran for a
minute before it ended starts the count anew. `max_attempts` counts restarts,
within `window` if there is one. Times come from the leader's clock; a node's
clock is only ever subtracted from itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.node.plan.base import (
    FAULTY_NODE_FAILURES,
    FAULTY_NODE_WINDOW_MS,
    QUICK_FAILURES_BEFORE_BACKOFF,
    RESTART_DELAY_MS,
    RESTART_MAX_DELAY_MS,
    desired_running,
    is_failure,
)
from swarmpy.proto import objects_pb2, types_pb2

BACKOFF_FLOOR_MS = 1_000  # what a policy with delay 0 starts doubling from
QUICK_MS = 60_000  # a task that ran shorter than this failed quickly


def ran_ms(task: objects_pb2.Task) -> int:
    """How long an ended task was running, by its node's clock."""
    return max(0, task.status.since_ms - task.status.started_ms) if task.status.started_ms else 0


def delay_ms(policy: types_pb2.RestartPolicy, quick_failures: int) -> int:
    """The pause before the successor of a task that was the n-th quick failure in a row."""
    base = policy.delay_ms if policy.HasField("delay_ms") else RESTART_DELAY_MS
    doublings = min(quick_failures - QUICK_FAILURES_BEFORE_BACKOFF, 20)
    if doublings <= 0 or policy.constant_delay:
        return base
    cap = max(base, policy.max_delay_ms or RESTART_MAX_DELAY_MS)
    return int(min(max(base, BACKOFF_FLOOR_MS) << doublings, cap))


def successor(task: objects_pb2.Task, now_ms: int) -> objects_pb2.Restart | None:
    """What the successor of a task that ended by itself carries; None if the policy wants none."""
    policy = task.spec.restart
    if policy.condition == types_pb2.RESTART_NONE:
        return None
    if policy.condition == types_pb2.RESTART_ON_FAILURE and not is_failure(task.status.state):
        return None
    ended_ms = now_ms if desired_running(task) else task.meta.updated_ms
    carried = objects_pb2.Restart()
    carried.CopyFrom(task.restart)
    if not carried.window_start_ms or (
        policy.window_ms and ended_ms - carried.window_start_ms > policy.window_ms
    ):
        carried.window_start_ms, carried.window_count = ended_ms, 0
    if policy.max_attempts and carried.window_count >= policy.max_attempts:
        return None
    carried.count += 1
    carried.window_count += 1
    carried.quick_failures = carried.quick_failures + 1 if ran_ms(task) < QUICK_MS else 1
    carried.start_after_ms = ended_ms + delay_ms(policy, carried.quick_failures)
    return carried


def was_prepared(task: objects_pb2.Task) -> bool:
    """Whether a task that ended by itself ever came as far as being ready to start, for all that is known."""
    if task.status.state not in (types_pb2.TASK_COMPLETE, types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED):
        return True
    if task.status.started_ms or not task.status.history:
        return True
    return any(
        types_pb2.TASK_READY <= passed.state <= types_pb2.TASK_RUNNING for passed in task.status.history
    )


def faulty_nodes(tasks: Iterable[objects_pb2.Task], now_ms: int) -> set[str]:
    """Nodes on which a service failed so often lately that they are the last choice."""
    failures: dict[str, int] = {}
    for task in tasks:
        if is_failure(task.status.state) and now_ms - task.meta.updated_ms < FAULTY_NODE_WINDOW_MS:
            failures[task.node_id] = failures.get(task.node_id, 0) + 1
    return {node_id for node_id, count in failures.items() if count >= FAULTY_NODE_FAILURES}
