"""Plans: what a write would come to, worked out on a copy; the real planners then do exactly that."""

from __future__ import annotations

from collections import Counter

import pytest
from swarmpy.node.manager.plans import foretell
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.outcome import field_changes
from swarmpy.node.plan.update import with_new_spec
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import Entity, wrap

from tests.sim.plan_world import World
from tests.unit.test_plan_stories import calm, image, replicas, running, service_of, start

ACTIONS = {
    control_pb2.PLAN_START: "start", control_pb2.PLAN_STOP: "stop", control_pb2.PLAN_REPLACE: "replace",
    control_pb2.PLAN_MOVE: "move", control_pb2.PLAN_WAIT: "wait",
}  # fmt: skip


def plan_of(world: World, *entities: Entity) -> control_pb2.PlanResponse:
    changes = [store_pb2.Change(put=wrap(e), expected_version=e.meta.version) for e in entities]
    response = control_pb2.PlanResponse()
    store = world.store
    foretell(store.copy_rows(), store.index, store.epoch, changes, world.now_ms, response)
    assert not store.mutated()
    return response


def counted(response: control_pb2.PlanResponse) -> dict[str, int]:
    return dict(Counter(ACTIONS[task.action] for task in response.tasks))


def changed(world: World, *edits: object) -> objects_pb2.Service:
    service = service_of(world)
    spec = copy_of(service.spec)
    for edit in edits:
        edit(spec)  # type: ignore[operator]
    return with_new_spec(service, spec)


def test_a_new_service_is_planned_on_the_nodes_where_it_then_starts() -> None:
    world = calm(3)
    service = objects_pb2.Service(spec_version=1)
    service.meta.name = "web"
    service.spec.task.container.image = "good:1"
    service.spec.replicated.replicas = 4
    plan = plan_of(world, service)
    assert counted(plan) == {"start": 4}
    start(world, 4)
    assert Counter(t.to_node for t in plan.tasks) == Counter(t.node_id for t in running(world))


def test_scaling_names_the_slots_and_nodes_that_the_cluster_then_chooses() -> None:
    world = calm(3)
    start(world, 5)
    up = plan_of(world, changed(world, replicas(7)))
    assert (counted(up), up.staying) == ({"start": 2}, 5)
    down = plan_of(world, changed(world, replicas(2)))
    assert (counted(down), down.staying) == ({"stop": 3}, 2)
    world.set_service("web", replicas(2))
    world.run(60_000)
    left = {str(task.slot) for task in running(world)}
    assert left == {str(n) for n in range(1, 6)} - {task.slot for task in down.tasks}


def test_an_update_replaces_every_slot_and_labels_replace_none() -> None:
    world = calm(3)
    start(world, 3)
    plan = plan_of(world, changed(world, image("good:2")))
    assert sum(counted(plan).values()) == 3
    assert set(counted(plan)) <= {"replace", "move"}
    relabelled = service_of(world)
    relabelled = copy_of(relabelled)
    relabelled.meta.labels["a"] = "b"
    assert (counted(plan_of(world, relabelled)), plan_of(world, relabelled).staying) == ({}, 3)


def test_a_drained_node_loses_its_tasks_to_the_others() -> None:
    world = calm(3)
    start(world, 6)
    present = world.store.node("node0")
    assert present is not None
    node = copy_of(present)
    node.spec.availability = types_pb2.AVAILABILITY_DRAIN
    plan = plan_of(world, node)
    assert counted(plan) == {"move": 2}
    assert {task.from_node for task in plan.tasks} == {"node0"}
    assert {task.to_node for task in plan.tasks} == {"node1", "node2"}


def test_what_fits_nowhere_waits_with_the_schedulers_own_reason() -> None:
    world = calm(2)
    start(world, 1, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 1_500_000_000))
    plan = plan_of(world, changed(world, replicas(3)))
    assert counted(plan) == {"start": 1, "wait": 1}
    (waiting,) = [task for task in plan.tasks if task.action == control_pb2.PLAN_WAIT]
    assert waiting.reason == "no suitable node: 2 of 2 lack CPU (need 1.5)"


def test_a_plan_changes_nothing_and_a_removed_service_stops_everywhere() -> None:
    world = calm(3)
    start(world, 4)
    index, state = world.store.index, world.store.state_hash()
    service = copy_of(service_of(world))
    service.pending_delete = True
    assert counted(plan_of(world, service)) == {"stop": 4}
    assert (world.store.index, world.store.state_hash()) == (index, state)


@pytest.mark.parametrize("delay_ms", [0, 600_000])
def test_delays_pass_in_virtual_time(delay_ms: int) -> None:
    world = calm(3)
    start(world, 3, lambda spec: setattr(spec.update, "delay_ms", delay_ms))
    plan = plan_of(world, changed(world, image("good:2")))
    assert sum(counted(plan).values()) == 3
    assert not plan.cut
    assert (plan.took_ms > 1_000_000) == bool(delay_ms)


def test_fields_are_named_as_in_the_proto() -> None:
    old, new = objects_pb2.ServiceSpec(), objects_pb2.ServiceSpec()
    old.task.container.env[:] = ["A=1"]
    new.task.container.env[:] = ["A=2"]
    new.task.container.labels["x"] = "y"
    new.task.container.mounts.add(target="/data", read_only=True)
    new.update.parallelism = 0
    new.update.order = types_pb2.ORDER_STOP_FIRST
    found = {change.path: (change.old, change.new) for change in field_changes(old, new, "spec")}
    assert found == {
        "spec.task.container.env": ("A=1", "A=2"),
        "spec.task.container.labels.x": ("", "y"),
        "spec.task.container.mounts[0].target": ("", "/data"),
        "spec.task.container.mounts[0].read_only": ("", "true"),
        "spec.update.parallelism": ("", "0"),
        "spec.update.order": ("", "order_stop_first"),
    }


def test_secret_values_are_not_shown() -> None:
    old, new = objects_pb2.Cluster(), objects_pb2.Cluster(unlock_key=b"secret")
    (change,) = field_changes(old, new)
    assert (change.path, change.old, change.new) == ("unlock_key", "", "(hidden)")
