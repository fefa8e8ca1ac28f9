"""Replicated, global and ordered services through whatever happens: how many, how many at once, in which order."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.plan.base import Plan, Planner, is_lost, is_ready, is_terminal
from swarmpy.node.plan.filters import eligible
from swarmpy.node.plan.slots import is_outdated, may_overlap
from swarmpy.node.plan.tasks import is_up
from swarmpy.node.plan.update import PROGRESS_DEADLINE_MS
from swarmpy.proto import objects_pb2, types_pb2

from tests.property.plan_play import (
    RUNNING,
    Action,
    Play,
    actions,
    changed,
    created,
    examples,
    new_service,
    slot_of,
)

HAPPENS = (
    "step", "up", "all", "fail", "complete", "unready", "kill", "down", "back", "availability", "wait", "wait",
    "elect", "scale", "image", "force", "stop", "person", "drain",
)  # fmt: skip
configs = st.fixed_dictionaries(
    {
        "replicas": st.integers(0, 5),
        "parallelism": st.integers(1, 3),
        "order": st.sampled_from(types_pb2.UpdateOrder.values()),
        "action": st.sampled_from(types_pb2.FailureAction.values()),
        "delay_ms": st.sampled_from((0, 1000)),
        "condition": st.sampled_from(types_pb2.RestartCondition.values()),
        "restart_ms": st.sampled_from((0, 5000)),
        "min_available": st.sampled_from(("", "", "2", "60%")),
    }
)
Config = dict[str, Any]


def service_of(mode: str, config: Config) -> objects_pb2.Service:
    service = new_service(mode, config["replicas"])
    spec = service.spec
    spec.min_available = config["min_available"]
    for update in (spec.update, spec.rollback):
        update.parallelism, update.delay_ms = config["parallelism"], config["delay_ms"]
        update.order = config["order"]
        update.failure_action = config["action"]
    spec.task.restart.condition = config["condition"]
    spec.task.restart.delay_ms = config["restart_ms"]
    return service


def replaced(play: Play, plan: Plan) -> list[objects_pb2.Task]:
    """The new tasks of a plan that take the place of one that is live, stays where it is, and is of an older spec."""
    old = {slot_of(t) for t in play.live if is_outdated(t, play.service)}
    leaving = {slot_of(t) for t in play.live if t.leaving_ms}  # a drain has a measure of its own
    return [task for task in created(plan) if slot_of(task) in old - leaving]


def is_given_up(play: Play, task: objects_pb2.Task) -> bool:
    """It failed by its progress deadline, and whatever is to follow from that does."""
    due_ms = max(task.meta.created_ms, task.restart.start_after_ms) + PROGRESS_DEADLINE_MS
    return due_ms <= play.now_ms


def check_parallelism(play: Play, planner: Planner, plan: Plan) -> None:
    """An update replaces no more slots than may be under way; those that do not run yet are."""
    service = play.service
    stays = {t.meta.id for t in play.live} - {t.meta.id for t in changed(plan) if t.desired_state > RUNNING}
    new = [t for t in play.live if not is_outdated(t, service) and not is_up(t) and not is_given_up(play, t)]
    new = [t for t in new if t.meta.id in stays]
    begun = replaced(play, plan)
    if begun and planner.name == play.loops[0][0].name:
        most = service.spec.update.parallelism
        assert len(new) + len(begun) <= most, f"{len(begun)} begun while {len(new)} of {most} are under way"


def check_slots(play: Play) -> None:
    """One task for each slot, two only while one takes the other's place."""
    service, live = play.service, play.live
    assert not service.pending_delete
    for slot, count in Counter(map(slot_of, live)).items():
        here = [t for t in live if slot_of(t) == slot]
        assert count <= 2, f"slot {slot} has {count} tasks"
        versions = {t.spec_version for t in here}
        assert count == 1 or len(versions) == 2 or any(t.leaving_ms for t in here), f"slot {slot} twice"
        assert count == 1 or may_overlap(service), f"slot {slot} has two tasks that must not overlap"


def check_replicas(play: Play) -> None:
    check_slots(play)
    spec = play.service.spec
    wanted = 0 if spec.stopped else spec.replicated.replicas
    slots = {t.slot for t in play.live}
    assert len(slots) <= wanted
    surge = sum(count - 1 for count in Counter(t.slot for t in play.live).values())
    assert surge <= 2 * spec.update.parallelism, "more at once than an update and a drain may make"
    if spec.task.restart.condition == types_pb2.RESTART_ANY and play.service.update_status.state == 0:
        waits = play.loops[0][1].wait_ms(play.now_ms) is not None
        assert len(slots) == wanted or waits, f"{len(slots)} of {wanted}, and nothing will ever happen"


@given(configs, actions(HAPPENS))
@examples(20)
def test_a_replicated_service_has_its_number_and_an_update_replaces_no_more_at_once(
    config: Config, happens: list[Action]
) -> None:
    play = Play(service_of("replicated", config), before=check_parallelism, rested=check_replicas)
    for action in happens:
        play.act(action)


def check_global(play: Play) -> None:
    """Exactly one on every node that may have it, none elsewhere."""
    check_slots(play)
    service = play.service
    count = Counter(t.node_id for t in play.live)
    for node in play.store.nodes():
        drained = node.spec.availability == types_pb2.AVAILABILITY_DRAIN
        may = not service.spec.stopped and not drained and eligible(node, service.spec.task)
        assert may or not count[node.meta.id], f"{node.meta.id} has one and may not"


def check_paused(play: Play, planner: Planner, plan: Plan) -> None:
    """A node that takes no tasks gets none, and keeps the one that it has."""
    check_parallelism(play, planner, plan)
    for task in created(plan):
        assert is_ready(play.store.node(task.node_id)), f"{task.node_id} takes nothing"


@given(configs, actions(HAPPENS))
@examples(14)
def test_a_global_service_is_on_every_node_that_may_have_it(config: Config, happens: list[Action]) -> None:
    play = Play(service_of("global", config), before=check_paused, rested=check_global)
    for action in happens:
        play.act(action)


def check_order(play: Play, planner: Planner, plan: Plan) -> None:
    """Nothing comes up in a slot while a lower one is down; one slot at a time is taken down or replaced."""
    check_parallelism(play, planner, plan)
    if planner.name != "ordered":
        return
    up = {t.slot for t in play.live if t.status.state == RUNNING and t.status.ready}
    finished = {t.slot for t in play.tasks if is_terminal(t.status.state)}
    for task in created(plan):
        below = [n for n in range(1, task.slot) if n not in up | finished]
        assert not below, f"slot {task.slot} gets a task while {below} are down"


def check_ordered(play: Play) -> None:
    check_slots(play)
    running: Counter[int] = Counter()
    for task in play.tasks:
        if types_pb2.TASK_STARTING <= task.status.state <= RUNNING and not is_lost(task, play.store):
            running[task.slot] += 1
    assert all(count == 1 for count in running.values()), f"a slot runs twice: {running}"


@given(configs, actions(HAPPENS))
@examples(20)
def test_an_ordered_service_comes_up_goes_down_and_is_replaced_one_by_one(
    config: Config, happens: list[Action]
) -> None:
    play = Play(service_of("ordered", {**config, "parallelism": 1}), before=check_order, rested=check_ordered)
    for action in happens:
        play.act(action)


@given(configs, st.permutations(("drain", "unready", "unready")), st.integers(0, 11), st.integers(0, 2))
@examples(14)
def test_a_drain_goes_on_when_a_budget_has_room_again(
    config: Config, happens: list[str], number: int, which: int
) -> None:
    """Whatever makes the room: of the plans at rest a new leader would make none."""
    service = service_of("replicated", {**config, "replicas": 3, "min_available": "2"})
    service.spec.update.order = types_pb2.ORDER_STOP_FIRST
    play = Play(service, before=check_parallelism, rested=check_replicas)
    play.act(("all", 0))
    for name in happens:
        play.act((name, number if name == "drain" else which))
