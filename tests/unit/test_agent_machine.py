"""The task machine: every state against every wish and every outcome; states never fall."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.agent import machine
from swarmpy.node.agent.machine import Action, Local, Outcome
from swarmpy.proto import objects_pb2, types_pb2

ALIVE = [
    types_pb2.TASK_ASSIGNED, types_pb2.TASK_ACCEPTED, types_pb2.TASK_PREPARING, types_pb2.TASK_READY,
    types_pb2.TASK_STARTING, types_pb2.TASK_RUNNING,
]  # fmt: skip
ENDED = [types_pb2.TASK_COMPLETE, types_pb2.TASK_SHUTDOWN, types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED]
DESIRED = [types_pb2.TASK_READY, types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN, types_pb2.TASK_REMOVE, None]
NEXT = {
    types_pb2.TASK_ASSIGNED: Action.ACCEPT,
    types_pb2.TASK_ACCEPTED: Action.PREPARE,
    types_pb2.TASK_PREPARING: Action.PREPARE,
    types_pb2.TASK_READY: Action.START,
    types_pb2.TASK_STARTING: Action.CHECK,
    types_pb2.TASK_RUNNING: Action.WATCH,
}


def local(
    state: types_pb2.TaskState, desired: types_pb2.TaskState | None, *, container: bool = False
) -> Local:
    wanted = None if desired is None else objects_pb2.Task(desired_state=desired)
    return Local("t", wanted, objects_pb2.TaskStatus(state=state), container=container)


def outcomes(action: Action) -> list[Outcome]:
    """Every kind of end a step may have."""
    good = Outcome(action, 7)
    if action is Action.WATCH:
        good = Outcome(action, 7, exited=True, exit_code=0)
    bad = Outcome(action, 7, failure="broken", reason="BROKEN")
    never = Outcome(action, 7, failure="cannot", reason="CANNOT", permanent=True)
    crash = Outcome(Action.WATCH, 7, exited=True, exit_code=3)
    match action:
        case Action.ACCEPT | Action.CLEAN | Action.FORGET:
            return [good]
        case Action.STOP:
            return [good, Outcome(action, 7, exited=True, exit_code=143), bad]
        case Action.CHECK | Action.WATCH:
            return [good, bad, crash]
    return [good, bad, never]


@pytest.mark.parametrize(("state", "desired"), list(itertools.product(ALIVE, DESIRED)))
def test_next_step_of_a_task_that_has_not_ended(
    state: types_pb2.TaskState, desired: types_pb2.TaskState | None
) -> None:
    action = machine.next_action(local(state, desired))
    if desired is None or desired > types_pb2.TASK_RUNNING:
        assert action is Action.STOP
    elif state == types_pb2.TASK_READY and desired == types_pb2.TASK_READY:
        assert action is None
    else:
        assert action is NEXT[state]


@pytest.mark.parametrize(("state", "desired"), list(itertools.product(ENDED, DESIRED)))
def test_next_step_of_a_task_that_has_ended(
    state: types_pb2.TaskState, desired: types_pb2.TaskState | None
) -> None:
    assert machine.next_action(local(state, desired, container=True)) is Action.CLEAN
    assert machine.next_action(local(state, desired)) is (Action.FORGET if desired is None else None)


@given(
    state=st.sampled_from(ALIVE + ENDED),
    choices=st.lists(st.tuples(st.sampled_from(DESIRED), st.integers(0, 10), st.booleans()), max_size=30),
)
def test_any_history_only_climbs_and_cleans_up_in_the_end(
    state: types_pb2.TaskState, choices: list[tuple[types_pb2.TaskState | None, int, bool]]
) -> None:
    now = local(state, types_pb2.TASK_RUNNING, container=state > types_pb2.TASK_ACCEPTED)
    for desired, pick, interrupted in choices:
        now = Local("t", local(state, desired).wanted, now.status, now.container)
        action = machine.next_action(now)
        if action in (None, Action.FORGET):
            continue
        before = now.status.SerializeToString()
        started = machine.begun(now, action, 5)
        assert now.status.SerializeToString() == before, "a record is a value"
        assert started.state >= now.state
        if action is Action.PREPARE:
            assert started.container, "what may exist is noted before it does"
        possible = outcomes(action)
        ended = started if interrupted else machine.after(started, possible[pick % len(possible)])
        assert ended.state >= started.state
        assert not (ended.finished and ended.status.ready)
        now = ended
    now = Local("t", None, now.status, now.container)
    for _ in range(4):
        action = machine.next_action(now)
        assert action in (Action.STOP, Action.CLEAN, Action.FORGET)
        if action is Action.FORGET:
            break
        now = machine.after(machine.begun(now, action, 9), Outcome(action, 9))
    assert machine.next_action(now) is Action.FORGET
    assert not now.container


def test_exit_codes() -> None:
    running = local(types_pb2.TASK_RUNNING, types_pb2.TASK_RUNNING, container=True)
    done = machine.after(running, Outcome(Action.WATCH, 7, exited=True, exit_code=0))
    assert (done.state, done.status.exit_code, done.status.error) == (types_pb2.TASK_COMPLETE, 0, "")
    failed = machine.after(running, Outcome(Action.WATCH, 7, exited=True, exit_code=3))
    assert (failed.state, failed.status.exit_code, failed.status.error) == (
        types_pb2.TASK_FAILED,
        3,
        "exit code 3",
    )


def test_out_of_service_before_the_signal() -> None:
    status = objects_pb2.TaskStatus(state=types_pb2.TASK_RUNNING, ready=True)
    running = Local("t", objects_pb2.Task(desired_state=types_pb2.TASK_SHUTDOWN), status, container=True)
    stopping = machine.begun(running, Action.STOP, 5)
    assert not stopping.status.ready
    assert stopping.state == types_pb2.TASK_RUNNING
    assert running.status.ready, "the former record is untouched"


def test_what_could_not_be_stopped_has_not_ended() -> None:
    running = local(types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN, container=True)
    failed = machine.after(running, Outcome(Action.STOP, 7, failure="pid 9 does not end after SIGKILL"))
    assert failed.state == types_pb2.TASK_RUNNING
    assert "pid 9 does not end" in failed.status.message
    assert machine.next_action(failed) is Action.STOP, "it is tried again"
    stopped = machine.after(failed, Outcome(Action.STOP, 8, exited=True, exit_code=137))
    assert (stopped.state, stopped.status.message) == (types_pb2.TASK_SHUTDOWN, "stopped")


@pytest.mark.parametrize("state", ALIVE)
def test_lost_container(state: types_pb2.TaskState) -> None:
    """Started ones have failed; those before are made again."""
    after = machine.lost(local(state, types_pb2.TASK_RUNNING, container=True), 9)
    if state >= types_pb2.TASK_STARTING:
        assert after.state == types_pb2.TASK_FAILED
        assert after.status.reason == "CONTAINER_LOST"
    else:
        assert not after.finished
        assert machine.next_action(after) in (Action.ACCEPT, Action.PREPARE)


def test_a_task_that_only_gets_its_images_is_complete_once_it_has_them() -> None:
    asked = local(types_pb2.TASK_PREPARING, types_pb2.TASK_RUNNING)
    assert asked.wanted is not None
    asked.wanted.spec.pull_only = True
    done = machine.after(asked, Outcome(Action.PREPARE, 7))
    assert (done.state, done.status.error) == (types_pb2.TASK_COMPLETE, "")
    never = machine.after(asked, Outcome(Action.PREPARE, 7, failure="no such image", permanent=True))
    assert (never.state, never.status.error) == (types_pb2.TASK_REJECTED, "no such image")
