"""Tasks whose node is cut off from the managers: `--on-partition`. Pure.

    keep              the task runs on; its slot gets another task as soon as the node is DOWN (the default)
    stop-after=TIME   likewise, and the node stops the task by itself once it has had no manager for TIME
    fence[=TIME]      likewise, and the slot gets no other task before that has surely happened: no two
                      tasks of a slot run at once, whatever is cut off from whom

A fence is a lease. The node counts from when it *sent* the last heartbeat that a manager answered, the leader from
when it *got* the last one, which is later; both by clocks that nobody sets. What the leader counted is a fact about
the past (`NodeStatus.silent_ms`), so planners need no clock, and a new leader, which does not know when its
predecessor was heard last, begins anew. The node has the margin here to see that its time is over, also by an agent
that was restarted meanwhile, and to stop the task in order.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.proto import objects_pb2, types_pb2

STOP_GRACE_MS = 10_000
DRAIN_DELAY_MS = 2_000
STOP_SPARE_MS = 10_000
STOP_AFTER_MS_MIN, STOP_AFTER_MS_MAX = (
    10_000,
    3_600_000,
)  # a change of leaders takes up to 10 s; see ORPHAN_AFTER_MS
FENCE_SPARE_MS = 10_000  # until the node's agent looks, though it was just killed
CLOCKS_DIFFER = 100  # by one part of so many at most


def stop_limit_ms(spec: types_pb2.TaskSpec) -> int:
    """How long a node takes at most to stop a task."""
    container = spec.container
    grace = container.stop_grace_ms if container.HasField("stop_grace_ms") else STOP_GRACE_MS
    drain = container.drain_delay_ms if container.HasField("drain_delay_ms") else DRAIN_DELAY_MS
    for sidecar in spec.sidecars:  # they stop after it, one after the other
        own = sidecar.container
        grace += own.stop_grace_ms if own.HasField("stop_grace_ms") else STOP_GRACE_MS
    return grace + drain + STOP_SPARE_MS


def surely_stopped_ms(spec: types_pb2.TaskSpec) -> int:
    """How long its node must have been silent, so that a fenced task does not run there any more."""
    after = spec.stop_after_ms
    return after + after // CLOCKS_DIFFER + FENCE_SPARE_MS + stop_limit_ms(spec)


def awaited_ms(tasks: Iterable[objects_pb2.Task], known_ms: int) -> list[int]:
    """The lengths of silence that tasks of a node wait for, beyond what is known of it; shortest first."""
    return sorted(
        {
            needed_ms
            for task in tasks
            if task.spec.fenced
            and task.status.state < types_pb2.TASK_COMPLETE
            and (needed_ms := surely_stopped_ms(task.spec)) > known_ms
        }
    )
