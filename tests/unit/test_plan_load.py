"""The measured use of a machine: when it is stored, and what it decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from swarmpy.node.agent.load import Meter
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.inventory import Inventory, picture_of
from swarmpy.node.plan.load import is_usage_alone, to_store
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.verdicts import judge
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.store_world import World

Usage = objects_pb2.MachineUse


@pytest.mark.parametrize(
    ("stored", "measured", "expected"),
    [
        ((0, 0), (9, 9), None),
        ((0, 0), (10, 3), (10, 0)),
        ((30, 50), (36, 41), None),
        ((30, 50), (20, 50), (20, 50)),
        ((30, 50), (34, 66), (30, 70)),
        ((90, 0), (100, 4), (100, 0)),
    ],
)
def test_only_what_moved_by_a_step_is_stored(
    stored: tuple[int, int], measured: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    found = to_store(Usage(cpu_percent=stored[0], memory_percent=stored[1]),
                     Usage(cpu_percent=measured[0], memory_percent=measured[1]))  # fmt: skip
    assert (found and (found.cpu_percent, found.memory_percent)) == expected
    if found is not None:
        assert to_store(found, Usage(cpu_percent=measured[0], memory_percent=measured[1])) is None, "at rest"


def node(name: str, cpu: int = 0, memory: int = 0) -> objects_pb2.Node:
    made = objects_pb2.Node()
    made.meta.id = made.meta.name = name
    made.status.state = types_pb2.NODE_READY
    if cpu or memory:
        made.usage.cpu_percent, made.usage.memory_percent = cpu, memory
    return made


def task(name: str, service: str) -> objects_pb2.Task:
    made = objects_pb2.Task(service_id=service, slot=1, desired_state=types_pb2.TASK_RUNNING)
    made.meta.id = name
    made.status.state = types_pb2.TASK_PENDING
    return made


def test_a_task_goes_where_less_is_in_use_and_the_answer_says_so() -> None:
    world = World()
    world.put(node("n1", cpu=70), node("n2", memory=40), node("n3", cpu=20, memory=30))
    world.put(task("t1", "s1"))
    plan = SchedulerPlanner().plan(world.store, [""], 10, lambda: "unused")
    assert [change.put.task.node_id for change in plan.changes] == ["n3"]
    stored = world.store.task("t1")
    assert stored is not None
    verdicts = judge(world.store, stored, 10).verdicts
    numbers = {verdict.node_id: dict(verdict.score)["number"] for verdict in verdicts}
    assert numbers == {"n1": pytest.approx(3.5), "n2": pytest.approx(2.0), "n3": pytest.approx(1.5)}


def test_a_service_stays_even_whatever_is_in_use() -> None:
    world = World()
    world.put(node("n1", cpu=100), node("n2"))
    world.put(*(task(f"t{number}", "s1") for number in range(6)))
    plan = SchedulerPlanner().plan(world.store, [""], 10, lambda: "unused")
    assert sorted(change.put.task.node_id for change in plan.changes) == ["n1"] * 3 + ["n2"] * 3


def test_a_picture_that_is_kept_follows_the_use() -> None:
    world = World()
    kept = Inventory()
    kept.attach(world.store)
    commits: list[Commit] = []
    world.put(node("n1"), node("n2"))
    kept.current(world.store)
    world.store.listeners += [lambda commit: kept.note(commit, world.store), commits.append]
    stored = world.store.node("n1")
    assert stored is not None
    changed = copy_of(stored)
    changed.usage.cpu_percent = 80
    world.put(changed)
    assert is_usage_alone(commits[-1].events[0])
    fresh = picture_of(world.store).current(world.store)
    assert {i: info.fullness for i, info in kept.current(world.store).items()} == {
        i: info.fullness for i, info in fresh.items()
    }
    assert kept.current(world.store)["n1"].fullness == pytest.approx(4.0)
    again = copy_of(changed)
    again.usage.cpu_percent = 10
    again.spec.availability = types_pb2.AVAILABILITY_DRAIN
    world.put(again)
    assert not is_usage_alone(commits[-1].events[0])


def test_the_meter_smooths_and_reads_seldom(tmp_path: Path) -> None:
    def machine(busy: int, idle: int, available: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2\nintr 5\n")
        (tmp_path / "meminfo").write_text(f"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")

    meter = Meter(tmp_path)
    machine(0, 0, 250)
    assert meter.usage(100.0) is None, "one reading says nothing of a rate"
    machine(80, 20, 250)
    assert meter.usage(101.0) is None
    found = meter.usage(106.0)
    assert found == Usage(cpu_percent=80, memory_percent=75)
    machine(80, 120, 500)
    assert meter.usage(108.0) == found
    assert meter.usage(112.0) == Usage(cpu_percent=60, memory_percent=50)
    (tmp_path / "meminfo").write_text("nothing")
    assert meter.usage(120.0) is None
    assert Meter().usage(1.0) is None
