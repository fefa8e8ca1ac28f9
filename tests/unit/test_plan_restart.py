"""Restart policy: conditions, back-off, attempts, and nodes that fail too often."""

from __future__ import annotations

import pytest
from swarmpy.node.plan.restart import delay_ms, faulty_nodes, successor
from swarmpy.proto import objects_pb2, types_pb2

FAILED, COMPLETE = types_pb2.TASK_FAILED, types_pb2.TASK_COMPLETE


def ended(state: types_pb2.TaskState, ran_ms: int = 0, **policy: int) -> objects_pb2.Task:
    task = objects_pb2.Task(desired_state=types_pb2.TASK_RUNNING)
    task.spec.restart.CopyFrom(types_pb2.RestartPolicy(**policy))  # type: ignore[arg-type]
    task.status.state = state
    task.status.started_ms = 1_000
    task.status.since_ms = 1_000 + ran_ms
    return task


@pytest.mark.parametrize(
    ("condition", "state", "restarts"),
    [
        (types_pb2.RESTART_ANY, COMPLETE, True),
        (types_pb2.RESTART_ANY, FAILED, True),
        (types_pb2.RESTART_ON_FAILURE, COMPLETE, False),
        (types_pb2.RESTART_ON_FAILURE, FAILED, True),
        (types_pb2.RESTART_ON_FAILURE, types_pb2.TASK_REJECTED, True),
        (types_pb2.RESTART_NONE, FAILED, False),
    ],
)
def test_condition(condition: int, state: types_pb2.TaskState, restarts: bool) -> None:
    assert (successor(ended(state, condition=condition), 5) is not None) is restarts


def test_quick_failures_back_off_to_a_cap_and_a_long_run_forgives() -> None:
    task, now_ms, delays = ended(FAILED), 10_000, []
    for _ in range(9):
        carried = successor(task, now_ms)
        assert carried is not None
        delays.append(carried.start_after_ms - now_ms)
        task.restart.CopyFrom(carried)
    assert delays == [5000, 5000, 5000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]
    task.status.since_ms = task.status.started_ms + 60_000
    carried = successor(task, now_ms)
    assert carried is not None
    assert carried.start_after_ms - now_ms == 5000
    assert carried.count == 10


def test_delay_of_zero_stays_zero_only_for_the_first_failures() -> None:
    policy = types_pb2.RestartPolicy(delay_ms=0)
    assert [delay_ms(policy, n) for n in (1, 3, 4, 5, 30)] == [0, 0, 2000, 4000, 60_000]


def test_a_delay_above_the_cap_is_kept() -> None:
    assert delay_ms(types_pb2.RestartPolicy(delay_ms=90_000), 9) == 90_000


def test_attempts_count_within_the_window() -> None:
    task = ended(FAILED, max_attempts=2, window_ms=1000)
    for now_ms, allowed in ((10_000, True), (10_100, True), (10_200, False), (11_500, True)):
        carried = successor(task, now_ms)
        assert (carried is not None) is allowed, now_ms
        if carried is not None:
            task.restart.CopyFrom(carried)


def test_the_verdict_does_not_change_with_time_once_the_end_was_noticed() -> None:
    task = ended(FAILED, max_attempts=1, window_ms=1000)
    task.restart.window_start_ms, task.restart.window_count = 9_500, 1
    task.desired_state = types_pb2.TASK_SHUTDOWN
    task.meta.updated_ms = 10_000
    assert successor(task, 10_000) is None
    assert successor(task, 10_000_000) is None


def test_five_failures_in_five_minutes_make_a_node_the_last_choice() -> None:
    tasks = []
    for number in range(5):
        task = ended(FAILED)
        task.node_id, task.meta.updated_ms = "n1", 1_000_000 + number
        tasks.append(task)
    assert faulty_nodes(tasks[:4], 1_000_100) == set()
    assert faulty_nodes(tasks, 1_000_100) == {"n1"}
    assert faulty_nodes(tasks, 1_400_000) == set()


def test_a_constant_delay_does_not_grow() -> None:
    policy = types_pb2.RestartPolicy(delay_ms=2_000, constant_delay=True)
    assert [delay_ms(policy, n) for n in (1, 4, 30)] == [2_000] * 3
