"""The nodes planner and the reaper, by what is left in the store."""

from __future__ import annotations

import pytest
from swarmpy.node.plan.base import ORPHAN_AFTER_MS
from swarmpy.node.plan.nodes import NodesPlanner
from swarmpy.node.plan.reaper import Reaper
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.store_world import START_MS, World, cluster, network, node, service, task

RUNNING, SHUTDOWN, REMOVE = types_pb2.TASK_RUNNING, types_pb2.TASK_SHUTDOWN, types_pb2.TASK_REMOVE
FAILED, ORPHANED = types_pb2.TASK_FAILED, types_pb2.TASK_ORPHANED
NODE = store_pb2.KIND_NODE


def world_with_tasks(*planners: NodesPlanner | Reaper) -> World:
    world = World(*planners)
    owner = service("s1", replicas=3)
    world.put(cluster(), node("n1"), node("n2"), owner)
    world.put(
        task("t1", owner, slot=1, node_id="n1", state=RUNNING),
        task("t2", owner, slot=2, node_id="n2", state=RUNNING),
        task("t3", owner, slot=3, node_id="n1", state=FAILED),
    )
    world.settle()
    return world


def change_node(world: World, identity: str, **fields: object) -> None:
    found = world.store.node(identity)
    assert found is not None
    changed = objects_pb2.Node()
    changed.CopyFrom(found)
    for name, value in fields.items():
        if name == "state":
            changed.status.state = value  # type: ignore[assignment]
            changed.status.since_ms = world.now_ms
        elif name == "availability":
            changed.spec.availability = value  # type: ignore[assignment]
        else:
            setattr(changed, name, value)
    world.put(changed)


def states(world: World) -> dict[str, tuple[int, int]]:
    return {t.meta.id: (t.desired_state, t.status.state) for t in world.store.tasks()}


def test_a_healthy_node_keeps_its_tasks() -> None:
    world = world_with_tasks(NodesPlanner())
    assert {desired for desired, _ in states(world).values()} == {RUNNING}
    assert world.plans == 0 or world.wakes == {"nodes": None}


def test_tasks_of_a_node_that_is_down_are_not_wanted_there_and_orphaned_after_a_day() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n1", state=types_pb2.NODE_DOWN)
    world.settle()
    assert states(world) == {"t1": (SHUTDOWN, RUNNING), "t2": (RUNNING, RUNNING), "t3": (RUNNING, FAILED)}
    assert world.wakes["nodes"] == START_MS + ORPHAN_AFTER_MS
    world.now_ms = START_MS + ORPHAN_AFTER_MS - 1
    world.restart()
    world.settle()
    assert states(world)["t1"] == (SHUTDOWN, RUNNING)
    world.now_ms += 1
    world.settle()
    assert states(world)["t1"] == (SHUTDOWN, ORPHANED)
    orphan = world.store.task("t1")
    assert orphan is not None
    assert orphan.status.reason == "NODE_LOST"
    assert "24 hours" in orphan.status.message
    assert world.wakes["nodes"] is None


def test_a_node_that_comes_back_is_not_orphaned() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n1", state=types_pb2.NODE_DOWN)
    world.settle()
    change_node(world, "n1", state=types_pb2.NODE_READY)
    world.now_ms += 2 * ORPHAN_AFTER_MS
    world.settle()
    assert states(world)["t1"] == (SHUTDOWN, RUNNING)


def test_draining_moves_tasks_away_and_pausing_does_not() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n1", availability=types_pb2.AVAILABILITY_PAUSE)
    change_node(world, "n2", availability=types_pb2.AVAILABILITY_DRAIN)
    world.settle()
    assert states(world) == {"t1": (RUNNING, RUNNING), "t2": (SHUTDOWN, RUNNING), "t3": (RUNNING, FAILED)}
    assert world.wakes["nodes"] is None


def test_a_task_that_reaches_a_drained_node_is_stopped_too() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n2", availability=types_pb2.AVAILABILITY_DRAIN)
    world.settle()
    late = task("t9", service("s1"), slot=9, node_id="n2", state=types_pb2.TASK_ASSIGNED)
    world.put(late)
    world.settle()
    assert states(world)["t9"] == (SHUTDOWN, types_pb2.TASK_ASSIGNED)


def test_a_removed_node_goes_and_its_tasks_are_orphaned() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n1", removed=True)
    world.settle()
    assert world.store.node("n1") is None
    assert states(world)["t1"] == (SHUTDOWN, ORPHANED)
    assert states(world)["t3"] == (RUNNING, FAILED), "what ended by itself is the orchestrator's"


def test_a_removed_manager_stays_until_it_is_no_manager_any_more() -> None:
    world = world_with_tasks(NodesPlanner())
    change_node(world, "n1", removed=True, role=types_pb2.ROLE_MANAGER)
    world.settle()
    assert world.store.node("n1") is not None
    change_node(world, "n1", role=types_pb2.ROLE_WORKER)
    world.settle()
    assert world.store.node("n1") is None


def test_tasks_of_a_node_that_vanished_are_orphaned() -> None:
    world = world_with_tasks(NodesPlanner())
    world.delete(NODE, "n1")
    world.restart()
    world.settle()
    assert states(world)["t1"] == (SHUTDOWN, ORPHANED)


def test_a_node_with_many_tasks_is_emptied_in_several_transactions() -> None:
    world = World(NodesPlanner())
    owner = service("s1")
    world.put(cluster(), node("n1"), owner)
    for start in range(0, 450, 150):
        world.put(
            *(task(f"t{n}", owner, slot=n, node_id="n1", state=RUNNING) for n in range(start, start + 150))
        )
    change_node(world, "n1", removed=True)
    world.settle()
    assert len(world.store.tasks_in_state(ORPHANED)) == 450
    assert world.store.node("n1") is None


def test_the_newest_five_ended_tasks_of_a_slot_are_kept() -> None:
    world = World(Reaper())
    owner = service("s1")
    world.put(cluster(), owner)
    for number in range(9):
        world.now_ms += 1000
        world.put(
            task(f"a{9 - number}", owner, slot=1, node_id="n1", state=FAILED, desired=SHUTDOWN),
            task(f"b{number}", owner, slot=0, node_id=f"n{number % 2}", state=FAILED, desired=SHUTDOWN),
        )
    world.put(task("live", owner, slot=1, node_id="n1", state=RUNNING))
    world.put(task("unseen", owner, slot=1, node_id="n1", state=FAILED))
    world.settle()
    kept = set(states(world))
    assert {i for i in kept if i[0] == "a"} == {"a1", "a2", "a3", "a4", "a5"}
    assert {i for i in kept if i[0] == "b"} == {f"b{n}" for n in range(9)}, "five of n0, four of n1"
    assert {"live", "unseen"} <= kept


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (2, 2), (-3, 1)])
def test_the_history_limit_can_be_changed(limit: int, kept: int) -> None:
    world = World(Reaper())
    owner = service("s1")
    world.put(cluster(), owner)
    for number in range(4):
        world.put(task(f"t{number}", owner, node_id="n1", state=FAILED, desired=SHUTDOWN))
    world.settle()
    assert world.store.count(store_pb2.KIND_TASK) == 4
    world.put(cluster(task_history_limit=limit))
    world.settle()
    assert len(states(world)) == kept


@pytest.mark.parametrize(
    ("state", "desired", "node_id", "gone"),
    [
        (types_pb2.TASK_NEW, REMOVE, "", True),
        (types_pb2.TASK_PENDING, REMOVE, "", True),
        (types_pb2.TASK_PENDING, SHUTDOWN, "", True),
        (types_pb2.TASK_PENDING, SHUTDOWN, "n1", True),
        (types_pb2.TASK_PENDING, RUNNING, "", False),
        (types_pb2.TASK_ASSIGNED, REMOVE, "n1", False),
        (RUNNING, REMOVE, "n1", False),
        (types_pb2.TASK_SHUTDOWN, REMOVE, "n1", True),
        (ORPHANED, REMOVE, "n1", True),
        (FAILED, SHUTDOWN, "n1", False),
        (FAILED, RUNNING, "n1", False),
    ],
)
def test_which_tasks_are_deleted(
    state: types_pb2.TaskState, desired: types_pb2.TaskState, node_id: str, gone: bool
) -> None:
    world = World(Reaper())
    owner = service("s1")
    world.put(cluster(), owner)
    world.put(task("t1", owner, node_id=node_id, state=state, desired=desired))
    world.settle()
    assert ("t1" not in states(world)) == gone


def test_a_service_goes_with_its_last_task() -> None:
    world = World(Reaper())
    owner = service("s1")
    owner.pending_delete = True
    world.put(cluster(), owner)
    world.put(task("t1", owner, node_id="n1", state=RUNNING, desired=REMOVE))
    world.settle()
    assert world.store.service("s1") is not None
    world.put(task("t1", owner, node_id="n1", state=types_pb2.TASK_SHUTDOWN, desired=REMOVE))
    world.settle()
    assert world.store.service("s1") is None
    assert not states(world)


def test_a_service_without_tasks_goes_at_once_and_one_that_stays_does_not() -> None:
    world = World(Reaper())
    leaving = service("s1")
    leaving.pending_delete = True
    world.put(leaving, service("s2"))
    world.settle()
    assert [s.meta.id for s in world.store.services()] == ["s2"]


def test_tasks_of_a_service_that_vanished_are_removed() -> None:
    world = World(Reaper())
    owner = service("gone")
    world.put(task("t1", owner, node_id="n1", state=RUNNING), task("t2", owner))
    world.restart()
    world.settle()
    assert states(world) == {"t1": (REMOVE, RUNNING)}


def test_a_network_goes_when_nothing_uses_it() -> None:
    world = World(Reaper())
    owner = service("s1", networks=["w1"])
    leaving = network("w1")
    leaving.pending_delete = True
    world.put(leaving, owner, network("w2"))
    world.put(task("t1", owner, node_id="n1", state=RUNNING))
    world.settle()
    assert world.store.network("w1") is not None
    moved = service("s1", networks=["w2"])
    world.put(moved)
    world.settle()
    assert world.store.network("w1") is not None, "its task is still there"
    world.put(task("t1", owner, node_id="n1", state=FAILED, desired=SHUTDOWN))
    world.settle()
    assert [n.meta.id for n in world.store.networks()] == ["w2"]


def test_hundreds_of_tasks_are_reaped_and_then_the_service() -> None:
    world = World(Reaper())
    owner = service("s1")
    owner.pending_delete = True
    world.put(owner)
    for start in range(0, 450, 150):
        tasks = (task(f"t{n}", owner, slot=n, desired=REMOVE) for n in range(start, start + 150))
        world.put(*tasks)
    world.settle()
    assert not states(world)
    assert world.store.service("s1") is None
