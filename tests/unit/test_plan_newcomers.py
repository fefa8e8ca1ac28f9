"""New tasks get their nodes in the write that makes them, where nothing holds them back. Virtual time."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.node.plan.base import copy_of
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit

from tests.sim.plan_world import World

NEW, PENDING, ASSIGNED = types_pb2.TASK_NEW, types_pb2.TASK_PENDING, types_pb2.TASK_ASSIGNED
Change = Callable[[objects_pb2.ServiceSpec], None]


def calm(nodes: int = 3) -> tuple[World, dict[str, int]]:
    """A world without failures, and the state in which each task was first stored."""
    world, first = World(3, nodes), dict[str, int]()
    world.failure_rate = 0.0
    world.run(1_000)

    def note(commit: Commit) -> None:
        for event in commit.events:
            if event.kind == store_pb2.KIND_TASK and event.old is None:
                assert isinstance(event.new, objects_pb2.Task)
                first[event.new.meta.name.rpartition(".")[0]] = event.new.status.state

    world.store.listeners.append(note)
    return world, first


def put(world: World, name: str, replicas: int, change: Change = lambda spec: None) -> None:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = name
    service.spec.task.container.image = "good:1"
    service.spec.replicated.replicas = replicas
    change(service.spec)
    world.put(service)


def test_a_task_is_made_with_its_node() -> None:
    world, first = calm()
    put(world, "web", 6)
    world.run(20_000)
    assert set(first.values()) == {ASSIGNED}
    assert len(first) == 6
    tasks = world.store.tasks_of_service("web")
    assert sorted(task.node_id for task in tasks) == sorted(["node0", "node1", "node2"] * 2)
    for task in tasks:
        assert [moved.state for moved in task.status.history][:3] == [NEW, PENDING, ASSIGNED]
        assert task.status.state == types_pb2.TASK_RUNNING
    assert world.commits["scheduler"] == 0
    service = world.store.service("web")
    assert service is not None
    assert service.endpoint.vips, "the allocator came first"


def test_what_does_not_fit_waits_and_says_why() -> None:
    world, first = calm(1)  # 1.6 CPUs
    put(world, "web", 3, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 10**9))
    world.run(2_000)
    assert sorted(first.values()) == [PENDING, PENDING, ASSIGNED]
    waiting = world.store.tasks_in_state(PENDING)
    assert all("no suitable node" in task.status.message for task in waiting)


def test_who_waits_already_comes_first() -> None:
    world, first = calm(1)
    put(world, "old", 2, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 10**9))
    world.run(2_000)
    put(world, "new", 1)
    world.run(2_000)
    assert first["new.1"] == PENDING
    assert [task.status.state for task in world.store.tasks_of_service("new")] == [types_pb2.TASK_RUNNING]


def test_the_scheduler_decides_where_volumes_are() -> None:
    def mount(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.mounts.add(type=types_pb2.MOUNT_VOLUME, source="data", target="/data")

    world, first = calm()
    put(world, "db", 1, mount)
    world.run(5_000)
    assert first["db.1"] == PENDING
    (task,) = world.store.tasks_of_service("db")
    volume = next(iter(world.store.volumes()))
    assert (task.node_id, task.volumes[0].volume_id) == (volume.node_id, volume.meta.id)


def test_a_task_whose_network_has_no_addresses_stays_new() -> None:
    world, first = calm()
    network = objects_pb2.Network()
    network.meta.id = network.meta.name = "mine"
    network.spec.subnet = "10.64.0.0/10"  # the cluster's own
    world.put(network)
    world.run(1_000)
    put(world, "web", 2, lambda spec: spec.task.networks.add(target="mine") and None)
    world.run(1_000)
    assert set(first.values()) == {NEW}
    assert all(
        "network mine has no addresses" in task.status.message for task in world.store.tasks_in_state(NEW)
    )


def test_two_services_made_at_once_share_a_node_s_room() -> None:
    """What one plan books, the next one sees, whoever makes it."""
    world, _ = calm(2)
    for number in range(4):
        put(
            world, f"s{number}", 1,
            lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 10**9),
        )  # fmt: skip
    world.run(3_000)
    placed = [task.node_id for task in world.store.tasks() if task.node_id]
    assert sorted(placed) == ["node0", "node1"]
    first = copy_of(world.store.tasks_of_node("node0")[0])
    assert first.status.state == types_pb2.TASK_RUNNING
