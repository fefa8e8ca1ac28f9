"""Updates end as their policy says, whatever is drawn; and no plan depends on how it is carried out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.plan.base import Plan, Planner, desired_running, is_terminal
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.property.plan_play import (
    RUNNING,
    SERVICE,
    Action,
    Play,
    actions,
    deleted,
    examples,
    new_service,
    slot_of,
)
from tests.property.test_plan_slots import HAPPENS, Config, configs, service_of

ROLLED_BACK = (objects_pb2.UPDATE_ROLLBACK_COMPLETED,)
policies = st.fixed_dictionaries(
    {
        "replicas": st.integers(1, 5),
        "parallelism": st.integers(0, 3),
        "order": st.sampled_from(types_pb2.UpdateOrder.values()),
        "action": st.sampled_from((types_pb2.FAILURE_ROLLBACK, types_pb2.FAILURE_PAUSE)),
        "ratio": st.sampled_from((0.0, 0.0, 0.3, 0.5)),
        "restart_ms": st.sampled_from((0, 5000)),
        "condition": st.sampled_from(types_pb2.RestartCondition.values()),
        "attempts": st.sampled_from((0, 2)),
    }
)
modes = st.sampled_from(("replicated", "global", "ordered", "replicated_job"))
fates = st.sampled_from(("rejected", "failed", "hangs", "unready", "complete"))


def updated(mode: str, policy: dict[str, Any], fate: str) -> Play:
    """All tasks run; then an image comes whose tasks never do well, until nothing happens any more."""
    service = new_service(mode, policy["replicas"])
    spec = service.spec
    spec.task.restart.condition, spec.task.restart.delay_ms = policy["condition"], policy["restart_ms"]
    spec.task.restart.max_attempts = policy["attempts"]
    if fate == "unready":
        spec.task.container.readiness.tcp = "1"
    spec.update.parallelism, spec.update.order = policy["parallelism"], policy["order"]
    spec.update.failure_action, spec.update.max_failure_ratio = policy["action"], policy["ratio"]
    play = Play(service)
    for _ in range(7):
        play.act(("all", 0))
    assert all(task.status.state == RUNNING and task.status.ready for task in play.live)
    play.act(("image", 9))
    for _ in range(200):
        if play.service.update_status.state == objects_pb2.UPDATE_PAUSED or not go_on(play, fate):
            return play
    raise AssertionError(f"it never ends: {play.service.update_status}")


def go_on(play: Play, fate: str) -> bool:
    """One thing happens: a task does as it is fated, or time passes; False if nothing is left to happen."""
    for task in play.tasks:
        if play._pick([task], 0) is None:
            continue
        new = task.spec.container.image == "image:9"
        if task.desired_state > RUNNING or not new:
            if task.desired_state > RUNNING or task.status.state < min(task.desired_state, RUNNING):
                play.step(task)
                play.rest()
                return True
        elif fate == "rejected" or (fate == "failed" and task.status.state == types_pb2.TASK_STARTING):
            play.report(task, types_pb2.TASK_REJECTED if fate == "rejected" else types_pb2.TASK_FAILED)
            play.rest()
            return True
        elif fate == "complete" and task.status.state == RUNNING:
            play.report(task, types_pb2.TASK_COMPLETE)
            play.rest()
            return True
        elif task.status.state < types_pb2.TASK_STARTING or (
            fate == "complete" and task.desired_state == RUNNING
        ):
            if task.status.state < min(task.desired_state, RUNNING):
                play.step(task)
                play.rest()
                return True
        elif fate == "unready" and task.status.state == types_pb2.TASK_STARTING:
            play.report(task, RUNNING)
            play.rest()
            return True
    waits = [wait for _, state in play.loops if (wait := state.wait_ms(play.now_ms)) is not None]
    play.now_ms += min(waits, default=0)
    play.rest()
    return bool(waits)


@given(policies, fates)
@examples(14)
def test_an_image_that_never_does_well_ends_as_the_policy_says(policy: dict[str, Any], fate: str) -> None:
    play = updated("replicated", policy, fate)
    state, action = play.service.update_status.state, policy["action"]
    new = {t.slot for t in play.tasks if t.spec.container.image == "image:9"}
    well = fate == "complete" and policy["condition"] != types_pb2.RESTART_ANY  # it is meant to end
    if well or (policy["ratio"] and len(new) <= policy["ratio"] * policy["replicas"]):
        return
    if action == types_pb2.FAILURE_PAUSE:
        assert state == objects_pb2.UPDATE_PAUSED, play.service.update_status
        touched = policy["parallelism"] + int(policy["ratio"] * policy["replicas"])
        bounded = policy["parallelism"] and fate != "complete"  # one that comes up makes room for the next
        assert not bounded or len(new) <= touched, f"{len(new)} slots were touched"
    else:
        assert state == objects_pb2.UPDATE_ROLLBACK_COMPLETED, play.service.update_status
        images = [task.spec.container.image for task in play.live]
        assert images == ["image:0"] * policy["replicas"], images
        assert all(task.status.state == RUNNING for task in play.live)


@given(modes, configs, actions(HAPPENS, 15))
@examples(14)
def test_a_plan_cut_into_pieces_ends_in_the_same_state(
    mode: str, config: Config, happens: list[Action]
) -> None:
    whole, pieces = Play(service_of(mode, config)), Play(service_of(mode, config), cut=1)
    for action in happens:
        whole.act(action)
        pieces.act(action)
        assert picture(pieces) == picture(whole)


def picture(play: Play) -> tuple[object, ...]:
    """All that matters of a service and its tasks, but for ids and what happened in between."""
    service = play.service
    return service.update_status.state, service.job.state, [
        (t.slot, t.node_id, t.spec_version, t.desired_state, t.status.state, t.restart.count, bool(t.leaving_ms))
        for t in play.tasks
    ]  # fmt: skip


def check_reaper(play: Play, planner: Planner, plan: Plan) -> None:
    """What is deleted has ended, or was never given to a node; the newest of a slot that is wanted stays."""
    if planner.name != "reaper":
        return
    for task_id in deleted(plan, store_pb2.KIND_TASK):
        task = play.store.task(task_id)
        assert task is not None
        assert not desired_running(task), f"{task_id} is wanted"
        given_out = task.status.state >= types_pb2.TASK_ASSIGNED
        assert is_terminal(task.status.state) or not given_out, f"{task_id} may still run"
        ended = [t for t in play.tasks if slot_of(t) == slot_of(task) and is_terminal(t.status.state)]
        last = bool(ended) and ended[-1].meta.id == task_id
        assert not last or task.desired_state == types_pb2.TASK_REMOVE, f"{task_id} has its slot's counters"


def check_history(play: Play) -> None:
    cluster = play.store.cluster()
    assert cluster is not None
    ended = Counter(slot_of(t) for t in play.tasks if is_terminal(t.status.state) and not desired_running(t))
    done = Counter(slot_of(t) for t in play.tasks if t.status.state == types_pb2.TASK_COMPLETE)
    is_job = play.service.spec.HasField("replicated_job")
    for slot, count in ended.items():
        assert count <= cluster.spec.task_history_limit + is_job * done[slot], f"slot {slot} keeps {count}"


@given(
    st.sampled_from(("replicated", "global", "ordered", "replicated_job")),
    st.integers(1, 3),
    configs,
    actions(HAPPENS),
)
@examples(14)
def test_a_history_of_so_many_is_kept_and_nothing_alive_is_deleted(
    mode: str, limit: int, config: Config, happens: list[Action]
) -> None:
    play = Play(service_of(mode, config), history_limit=limit, before=check_reaper, rested=check_history)
    for action in happens:
        play.act(action)
    removed = play.service
    gone = objects_pb2.Service()
    gone.CopyFrom(removed)
    gone.pending_delete = True
    play.put(gone)
    play.settle()
    for task in play.tasks:
        if play._pick([task], 0) is not None:
            play.step(task)
    play.settle()
    held = [t for t in play.tasks if not is_terminal(t.status.state)]
    assert held or play.store.service(SERVICE) is None, "it is never deleted"
