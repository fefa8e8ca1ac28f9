"""What an operator sees: scaling, updates, rollback, node loss, drain, global services. Virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.update import task_template_changed
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import World

RUNNING = types_pb2.TASK_RUNNING
Change = Callable[[objects_pb2.ServiceSpec], None]


def calm(nodes: int = 3) -> World:
    world = World(7, nodes=nodes)
    world.failure_rate = 0.0
    return world


def start(world: World, replicas: int = 3, change: Change = lambda spec: None) -> str:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = "web"
    service.spec.task.container.image = "good:1"
    service.spec.replicated.replicas = replicas
    change(service.spec)
    world.put(service)
    world.run(20_000)
    return "web"


def running(world: World, image: str = "") -> list[objects_pb2.Task]:
    return [
        task
        for task in world.store.tasks_of_service("web")
        if task.status.state == RUNNING
        and is_live(task, world.store)
        and task.spec.container.image.startswith(image)
    ]


def image(name: str) -> Change:
    return lambda spec: setattr(spec.task.container, "image", name)


def replicas(count: int) -> Change:
    return lambda spec: setattr(spec.replicated, "replicas", count)


def service_of(world: World) -> objects_pb2.Service:
    service = world.store.service("web")
    assert service is not None
    return service


def lowest_running(world: World, duration_ms: int, step_ms: int = 20) -> int:
    """The smallest number of running tasks seen on the way."""
    least = len(running(world))
    for _ in range(duration_ms // step_ms):
        world.run(step_ms)
        least = min(least, len(running(world)))
    return least


def test_replicas_are_spread_and_named() -> None:
    world = calm()
    start(world, 6)
    assert sorted(task.node_id for task in running(world)) == sorted([f"node{n}" for n in range(3)] * 2)
    task = running(world)[0]
    assert task.meta.name == f"web.{task.slot}.{task.meta.id}"
    assert sorted(task.slot for task in running(world)) == [1, 2, 3, 4, 5, 6]


def test_spread_preference_balances_zones_before_nodes() -> None:
    world = calm(3)  # zones a, b, a
    start(world, 4, lambda spec: spec.task.placement.preferences.add(spread="node.labels.zone") and None)
    assert sum(task.node_id == "node1" for task in running(world)) == 2


def test_scaling_down_takes_from_the_fullest_node_and_leaves_nothing() -> None:
    world = calm()
    start(world, 7)
    world.set_service("web", replicas(3))
    world.run(60_000)
    assert sorted(task.node_id for task in running(world)) == ["node0", "node1", "node2"]
    assert len(world.store.tasks_of_service("web")) == 3


def test_a_large_service_starts_whole() -> None:
    world = calm(5)
    start(world, 450)
    assert len(running(world)) == 450
    world.set_service("web", replicas(0))
    world.run(60_000)
    assert not world.store.tasks_of_service("web")


def test_start_first_update_never_loses_a_replica() -> None:
    world = calm()
    start(world, 3)
    world.set_service("web", image("good:2"))
    assert lowest_running(world, 60_000) == 3
    assert len(running(world, "good:2")) == 3
    assert service_of(world).update_status.state == objects_pb2.UPDATE_COMPLETED


def test_stop_first_update_goes_one_by_one() -> None:
    world = calm()
    start(world, 3, lambda spec: setattr(spec.update, "order", types_pb2.ORDER_STOP_FIRST))
    world.set_service("web", image("good:2"))
    assert lowest_running(world, 60_000) == 2
    assert len(running(world, "good:2")) == 3


def test_a_bad_image_is_rolled_back_without_losing_a_replica() -> None:
    world = calm()
    start(world, 3)
    before = {task.meta.id for task in running(world)}
    world.set_service("web", image("bad:2"))
    assert lowest_running(world, 60_000) == 3
    service = service_of(world)
    assert service.update_status.state == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert "played failure" in service.update_status.message, "the cause is lost once the rollback is done"
    assert service.spec.task.container.image == "good:1"
    assert len(running(world, "good:1")) == 3
    assert len(before & {task.meta.id for task in running(world)}) >= 2


def test_a_bad_image_pauses_the_update_where_asked() -> None:
    world = calm()
    start(world, 3, lambda spec: setattr(spec.update, "failure_action", types_pb2.FAILURE_PAUSE))
    world.set_service("web", image("bad:2"))
    world.run(60_000)
    status = service_of(world).update_status
    assert status.state == objects_pb2.UPDATE_PAUSED
    assert "played failure" in status.message
    world.set_service("web", image("good:3"))
    world.run(60_000)
    assert len(running(world, "good:3")) == 3
    assert service_of(world).update_status.state == objects_pb2.UPDATE_COMPLETED


def test_an_update_that_fits_nowhere_is_rolled_back_after_the_deadline() -> None:
    world = calm()
    start(world, 2)
    world.set_service("web", lambda spec: spec.task.placement.constraints.append("node.labels.zone==mars"))
    world.run(60_000)
    pending = [t for t in world.store.tasks_of_service("web") if t.status.state == types_pb2.TASK_PENDING]
    assert [task.status.message for task in pending] == [
        "no suitable node: 3 of 3 do not meet constraint node.labels.zone==mars"
    ]
    assert len(running(world)) == 2
    world.run(600_000)
    assert service_of(world).update_status.state == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert len(running(world)) == 2


def test_changes_that_need_no_restart_restart_nothing() -> None:
    old = objects_pb2.ServiceSpec()
    old.task.container.image = "a"
    old.replicated.replicas = 1
    new = copy_of(old)
    new.replicated.replicas = 9
    new.update.parallelism = 4
    new.endpoint.ports.add(target=80, published=80, mode=types_pb2.PUBLISH_INGRESS)
    assert not task_template_changed(old, new)
    new.endpoint.ports.add(target=81, published=81, mode=types_pb2.PUBLISH_HOST)
    assert task_template_changed(old, new)
    forced = copy_of(old)
    forced.task.force_update += 1
    assert task_template_changed(old, forced)


def test_a_dead_node_is_replaced_at_once_and_its_return_stops_the_old_tasks() -> None:
    world = calm()
    start(world, 6)
    world.kill("node1")
    world.run(4_000 + 3_000)  # detection, then everything else
    assert len(running(world)) == 6
    assert not any(task.node_id == "node1" for task in running(world))
    world.revive("node1")
    world.run(30_000)
    assert len(running(world)) == 6
    assert not any(t.status.state == RUNNING for t in world.store.tasks_of_node("node1"))


def test_drain_moves_everything_and_pause_keeps_it() -> None:
    world = calm()
    start(world, 6)
    world.set_node("node0", lambda n: setattr(n.spec, "availability", types_pb2.AVAILABILITY_DRAIN))
    world.set_node("node1", lambda n: setattr(n.spec, "availability", types_pb2.AVAILABILITY_PAUSE))
    world.run(30_000)
    assert sorted(task.node_id for task in running(world)) == ["node1"] * 2 + ["node2"] * 4


def test_a_failed_task_waits_in_ready_for_its_delay() -> None:
    world = calm()
    start(world, 1)
    task = copy_of(running(world)[0])
    task.status.state, task.status.since_ms = types_pb2.TASK_FAILED, world.now_ms
    world.put(task)
    world.run(4_500)
    waiting = [t for t in world.store.tasks_of_service("web") if t.desired_state == types_pb2.TASK_READY]
    assert [t.status.state for t in waiting] == [types_pb2.TASK_READY]
    world.elect()
    world.run(3_000)
    assert [t.restart.count for t in running(world)] == [1]


def test_a_one_shot_service_ends_and_stays_ended() -> None:
    world = calm()
    start(world, 1, lambda spec: setattr(spec.task.restart, "condition", types_pb2.RESTART_ON_FAILURE))
    task = copy_of(running(world)[0])
    task.status.state = types_pb2.TASK_COMPLETE
    world.put(task)
    world.run(120_000)
    world.kill(task.node_id)
    world.run(120_000)
    assert [t.meta.id for t in world.store.tasks_of_service("web")] == [task.meta.id]


def test_a_global_service_follows_nodes_and_labels() -> None:
    world = calm(3)

    def everywhere(spec: objects_pb2.ServiceSpec) -> None:
        getattr(spec, "global").SetInParent()
        spec.task.placement.constraints.append("node.labels.zone==a")

    start(world, 0, everywhere)
    assert sorted(task.node_id for task in running(world)) == ["node0", "node2"]
    world.add_node("node9", "a")
    world.set_node("node0", lambda node: node.meta.labels.update({"zone": "b"}))
    world.run(20_000)
    assert sorted(task.node_id for task in running(world)) == ["node2", "node9"]
    assert not world.store.tasks_of_node("node0")
    world.kill("node9")
    world.run(20_000)
    assert [task.node_id for task in running(world)] == ["node2"]
    world.revive("node9")
    world.run(20_000)
    assert sorted(task.node_id for task in running(world)) == ["node2", "node9"]


@pytest.mark.parametrize("published", [8080, 0])
def test_host_ports_limit_a_service_to_one_task_per_node(published: int) -> None:
    world = calm(3)

    def host_port(spec: objects_pb2.ServiceSpec) -> None:
        spec.endpoint.ports.add(target=80, published=published, mode=types_pb2.PUBLISH_HOST)

    start(world, 4, host_port)
    assert len(running(world)) == (3 if published else 4)
    assert all(port.published for task in running(world) for port in task.host_ports)
    waiting = [t for t in world.store.tasks_of_service("web") if t.status.state == types_pb2.TASK_PENDING]
    assert [t.status.message for t in waiting] == (
        ["no suitable node: 3 of 3 have host port 8080/tcp in use"] if published else []
    )
    world.set_service("web", replicas(3))
    world.set_service("web", image("good:2"))
    world.run(60_000)
    assert len(running(world, "good:2")) == 3


def test_removal_leaves_nothing() -> None:
    world = calm()
    start(world, 5)
    service = copy_of(service_of(world))
    service.pending_delete = True
    world.put(service)
    world.kill("node0")
    world.run(60_000)
    world.revive("node0")
    world.run(60_000)
    assert world.store.service("web") is None
    assert not list(world.store.tasks())


def test_a_faulty_node_is_the_last_choice() -> None:
    world = calm(2)
    start(world, 1)
    seen = []
    for _ in range(7):
        task = copy_of(running(world)[0])
        seen.append(task.node_id)
        world.set_node("node1", lambda n: setattr(n.spec, "availability", types_pb2.AVAILABILITY_PAUSE))
        task.status.state, task.status.since_ms = types_pb2.TASK_FAILED, world.now_ms
        world.put(task)
        if len(seen) == 5:
            world.set_node("node1", lambda n: setattr(n.spec, "availability", types_pb2.AVAILABILITY_ACTIVE))
            break
        world.run(50_000)
        assert running(world)
    world.run(70_000)
    assert [task.node_id for task in running(world)] == ["node1"]


def test_what_does_not_fit_waits_with_a_reason_until_there_is_room() -> None:
    world = calm(3)  # 1.6 CPUs each

    def half_a_cpu(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.resources.reservations.nano_cpus = 500_000_000

    start(world, 11, half_a_cpu)
    assert sorted(task.node_id for task in running(world)) == sorted(["node0", "node1", "node2"] * 3)
    waiting = [t for t in world.store.tasks_of_service("web") if t.status.state == types_pb2.TASK_PENDING]
    assert [t.status.message for t in waiting] == ["no suitable node: 3 of 3 lack CPU (need 0.5)"] * 2
    world.add_node("node9", "a")
    world.run(5_000)
    assert sorted(task.node_id for task in running(world))[-2:] == ["node9", "node9"]
    world.set_service("web", replicas(12))
    world.run(5_000)
    assert len(running(world)) == 12


def memory(limit_mib: int, reserved_mib: int = 0) -> Change:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.resources.limits.memory_bytes = limit_mib << 20
        spec.task.resources.reservations.memory_bytes = reserved_mib << 20

    return change


def test_new_limits_replace_no_task() -> None:
    world = calm()
    start(world, 3, memory(64))
    before = {task.meta.id for task in running(world)}
    world.set_service("web", memory(128, 32))
    world.run(20_000)
    assert {task.meta.id for task in running(world)} == before
    service = service_of(world)
    assert all(task.spec == service.spec.task for task in running(world))
    assert {task.spec_version for task in running(world)} == {service.spec_version}
    assert service.previous_specs[0].task.resources.limits.memory_bytes == 64 << 20

    def sets_and_weights(spec: objects_pb2.ServiceSpec) -> None:
        wanted = spec.task.resources
        wanted.cpuset_cpus, wanted.cpuset_mems, wanted.io_weight, wanted.swappiness = "0-1", "0", 300, 10
        wanted.no_oom_kill = True

    world.set_service("web", sets_and_weights)
    world.run(20_000)
    assert {task.meta.id for task in running(world)} == before
    assert all(task.spec.resources.io_weight == 300 for task in running(world))
    world.set_service("web", lambda spec: spec.task.container.env.append("A=1"))
    world.run(60_000)
    assert not before & {task.meta.id for task in running(world)}


def test_new_limits_of_a_sidecar_replace_no_task() -> None:
    world = calm()

    def with_sidecar(spec: objects_pb2.ServiceSpec) -> None:
        memory(64)(spec)
        spec.task.sidecars.add(name="log").container.image = "log:1"

    def limited(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.sidecars[0].resources.limits.memory_bytes = 32 << 20

    start(world, 3, with_sidecar)
    before = {task.meta.id for task in running(world)}
    world.set_service("web", limited)
    world.run(20_000)
    assert {task.meta.id for task in running(world)} == before
    assert all(task.spec.sidecars[0].resources.limits.memory_bytes == 32 << 20 for task in running(world))
    world.set_service("web", lambda spec: spec.task.sidecars[0].container.env.append("A=1"))
    world.run(60_000)
    assert not before & {task.meta.id for task in running(world)}


def test_a_reservation_that_does_not_fit_its_node_replaces_the_task() -> None:
    world = calm(nodes=2)
    start(world, 2, memory(0, 16))
    before = {task.meta.id for task in running(world)}
    node = next(iter(world.store.nodes()))
    room = node.description.resources.memory_bytes >> 20
    world.set_service("web", memory(0, room * 2 // 3))
    world.run(20_000)
    assert {task.meta.id for task in running(world)} == before
    world.set_service("web", memory(0, room * 2))
    world.run(20_000)
    assert service_of(world).update_status.state != objects_pb2.UPDATE_NONE


def test_reservations_that_grow_side_by_side_do_not_promise_a_node_twice() -> None:
    world = calm(nodes=2)
    start(world, 4, memory(0, 16))
    room = next(iter(world.store.nodes())).description.resources.memory_bytes >> 20
    world.set_service("web", memory(0, room * 2 // 3))
    for _ in range(12):
        world.run(10_000)
        for node in world.store.nodes():
            tasks = [t for t in world.store.tasks_of_node(node.meta.id) if t.status.state <= RUNNING]
            held = sum(task.spec.resources.reservations.memory_bytes for task in tasks)
            assert held <= node.description.resources.memory_bytes
    assert len(running(world)) == 4


def test_new_limits_and_a_new_image_at_once_replace_the_tasks() -> None:
    world = calm()
    start(world, 3, memory(64))
    before = {task.meta.id for task in running(world)}

    def both(spec: objects_pb2.ServiceSpec) -> None:
        memory(128)(spec)
        image("good:2")(spec)

    world.set_service("web", both)
    world.run(60_000)
    assert not before & {task.meta.id for task in running(world, "good:2")}
    assert len(running(world, "good:2")) == 3
