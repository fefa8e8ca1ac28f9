"""`node update --overcommit`: how much of a node may be reserved."""

from __future__ import annotations

import pytest
from swarmpy.node.plan.base import room_of
from swarmpy.node.plan.validate import validate_node
from swarmpy.proto import objects_pb2

from tests.unit.test_plan_placement_stories import calm, nodes_of, reserve, running, start, waiting


@pytest.mark.parametrize(("percent", "fit"), [(0, 2), (150, 3), (200, 4), (90, 1), (40, 0)])
def test_so_many_tasks_of_half_a_node_fit(percent: int, fit: int) -> None:
    world = calm(1)
    world.set_node("node0", lambda node: setattr(node.spec, "room_percent", percent))
    start(world, "web", 5, reserve(0.8))  # a node has 1.6
    assert len(running(world, "web")) == fit
    assert "lacks CPU (need 0.8)" in waiting(world, "web")[0]


def test_what_waits_is_placed_when_there_is_more_room_and_stays_when_there_is_less() -> None:
    world = calm(1)
    start(world, "web", 3, reserve(0.8))
    assert len(running(world, "web")) == 2
    world.set_node("node0", lambda node: setattr(node.spec, "room_percent", 150))
    world.run(20_000)
    assert nodes_of(world, "web") == ["node0"] * 3
    world.set_node("node0", lambda node: setattr(node.spec, "room_percent", 0))
    world.run(20_000)
    assert nodes_of(world, "web") == ["node0"] * 3
    world.set_service("web", reserve(0.4))  # less fits; in place
    world.run(20_000)
    assert nodes_of(world, "web") == ["node0"] * 3


@pytest.mark.parametrize(("percent", "problems"), [(0, 0), (10, 0), (1000, 0), (9, 1), (1001, 1)])
def test_bounds(percent: int, problems: int) -> None:
    node = objects_pb2.Node()
    node.meta.id, node.meta.name, node.spec.room_percent = "n", "n", percent
    assert len(validate_node(node)) == problems
    node.description.resources.nano_cpus, node.description.resources.memory_bytes = 3_000_000_001, 1 << 30
    assert room_of(node)[0] == 3_000_000_001 * (percent or 100) // 100
