"""Pods and readiness for the managers: what is valid, what is reserved, what an update waits for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.manager import targets
from swarmpy.node.manager.errors import NotFound
from swarmpy.node.plan import pods
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.filters import demand_of
from swarmpy.node.plan.slots import may_overlap, stop_limit_ms
from swarmpy.node.plan.validate import validate_service
from swarmpy.node.plan.volumes import mounts_of
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import World
from tests.unit.test_plan_stories import calm, image, running, service_of, start

MIB = 1 << 20
POD = types_pb2.Mount(type=types_pb2.MOUNT_POD, source="run", target="/run/app")


def part(name: str, memory: int = 0, cpus: int = 0, **more: object) -> types_pb2.PodContainer:
    made = types_pb2.PodContainer(name=name, container=types_pb2.ContainerSpec(image="x:1", **more))  # type: ignore[arg-type]
    if memory or cpus:
        made.resources.reservations.memory_bytes, made.resources.reservations.nano_cpus = memory, cpus
    return made


def service() -> objects_pb2.Service:
    made = objects_pb2.Service()
    made.meta.name = "web"
    made.spec.replicated.replicas = 1
    task = made.spec.task
    task.container.image = "web:1"
    task.container.mounts.append(POD)
    task.init_containers.append(part("migrate", mounts=[POD]))
    task.sidecars.append(part("proxy", readiness=types_pb2.HealthConfig(tcp=":80")))
    return made


Change = Callable[[types_pb2.TaskSpec], object]
WRONG: list[tuple[str, Change]] = [
    ("sidecars[0].name", lambda t: setattr(t.sidecars[0], "name", "Proxy")),
    ("sidecars[0].name", lambda t: setattr(t.sidecars[0], "name", "main")),
    ("sidecars[0].name", lambda t: setattr(t.sidecars[0], "name", "migrate")),
    ("sidecars[0].container.image", lambda t: setattr(t.sidecars[0].container, "image", "")),
    ("sidecars[0].container.hostname", lambda t: setattr(t.sidecars[0].container, "hostname", "h")),
    ("sidecars[0].container.pid_mode", lambda t: setattr(t.sidecars[0].container, "pid_mode", "host")),
    ("sidecars[0].resources.limits.memory_bytes",
     lambda t: setattr(t.sidecars[0].resources.limits, "memory_bytes", 1)),
    ("sidecars[0].container.readiness.tcp", lambda t: setattr(t.sidecars[0].container.readiness, "tcp", "web:80")),
    ("sidecars[0].container.readiness", lambda t: setattr(t.sidecars[0].container.readiness, "tcp", "")),
    ("sidecars[0].container.readiness.interval_ms",
     lambda t: setattr(t.sidecars[0].container.readiness, "interval_ms", 1)),
    ("sidecars[0].container.userns", lambda t: setattr(t.sidecars[0].container, "userns", "auto")),
    ("sidecars[0].container.privileged",
     lambda t: (setattr(t.container, "userns", "auto"), setattr(t.sidecars[0].container, "privileged", True))),
    ("sidecars[0].container.init",
     lambda t: (setattr(t.container, "pid_mode", "host"), setattr(t.sidecars[0].container, "init", True))),
    ("share_pid", lambda t: (setattr(t.container, "pid_mode", "host"), setattr(t, "share_pid", True))),
    ("container.cgroup_parent", lambda t: setattr(t.container, "cgroup_parent", "/apps")),
    ("container.health", lambda t: t.container.health.MergeFrom(types_pb2.HealthConfig(tcp=":1", grpc=":2"))),
    ("init_containers[0].container.health", lambda t: setattr(t.init_containers[0].container.health, "tcp", ":80")),
    ("init_containers[0].container.mounts[0].source",
     lambda t: setattr(t.init_containers[0].container.mounts[0], "source", "../etc")),
    ("init_containers", lambda t: t.init_containers.extend(part(f"i{n}") for n in range(20))),
    ("container.mounts[0].type", lambda t: (t.ClearField("sidecars"), t.ClearField("init_containers"))),
    ("share_pid", lambda t: (t.ClearField("sidecars"), setattr(t, "share_pid", True))),
]  # fmt: skip


def test_a_good_pod_has_no_problem() -> None:
    assert validate_service(service()) == []


@pytest.mark.parametrize("name", ["pid_mode", "ipc_mode", "userns"])
def test_the_main_container_says_for_all_what_is_the_nodes_or_their_own(name: str) -> None:
    good = service()
    setattr(good.spec.task.container, name, "auto" if name == "userns" else "host")
    assert validate_service(good) == []
    good.spec.task.network_mode = "none"
    assert validate_service(good) == []


@pytest.mark.parametrize(("path", "change"), WRONG, ids=[path for path, _ in WRONG])
def test_what_is_wrong_with_a_pod_is_said_with_its_path(path: str, change: Change) -> None:
    wrong = service()
    change(wrong.spec.task)
    assert [problem.field_path for problem in validate_service(wrong)] == [f"spec.task.{path}"]


def test_a_node_keeps_what_all_containers_need_at_one_time() -> None:
    task = objects_pb2.Task()
    task.spec.resources.reservations.memory_bytes = 100 * MIB
    task.spec.sidecars.extend([part("a", 50 * MIB, 10), part("b", 25 * MIB)])
    demand = demand_of(task)
    assert (demand.memory_bytes, demand.nano_cpus) == (175 * MIB, 10)
    task.spec.init_containers.extend([part("small", 170 * MIB), part("large", 200 * MIB, 5)])
    demand = demand_of(task)
    assert (demand.memory_bytes, demand.nano_cpus) == (200 * MIB, 10)
    assert task.spec.resources.reservations.memory_bytes == 100 * MIB, "the specification itself was changed"


def test_volumes_and_stops_of_all_containers_count() -> None:
    plain = service()
    assert may_overlap(plain)
    volume = types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, source="data", target="/d")
    plain.spec.task.sidecars[0].container.mounts.append(volume)
    assert not may_overlap(plain)
    assert [mount.source for mount in mounts_of(plain.spec.task)] == ["data"]
    before = stop_limit_ms(plain.spec.task)
    plain.spec.task.sidecars.append(part("slow", stop_grace_ms=60_000))
    assert stop_limit_ms(plain.spec.task) == before + 60_000


def test_only_a_container_with_another_image_is_pinned_anew() -> None:
    before = service().spec.task
    for container in pods.containers(before):
        container.image_digest = "sha256:old"
    after = copy_of(before)
    after.sidecars[0].container.image = "x:2"
    after.sidecars.append(part("new", image_digest="sha256:claimed"))
    pods.forget_digests(after, before)
    assert [one.image_digest for one in pods.containers(after)] == ["sha256:old", "sha256:old", "", ""]


def test_a_container_is_addressed_by_name_and_an_unknown_one_is_said() -> None:
    task = objects_pb2.Task(spec=service().spec.task)
    task.meta.name = "web.1.abc"
    assert [targets.container(task, name) for name in ("", "main", "proxy", "migrate")] == [
        "",
        "",
        "proxy",
        "migrate",
    ]
    with pytest.raises(NotFound, match=r"task web.1.abc has no container 'db': it has main, proxy, migrate"):
        targets.container(task, "db")


def ready(world: World, wanted: str) -> None:
    """The nodes say that the tasks of this image are ready."""
    for task in world.store.tasks_of_service("web"):
        if task.status.state == types_pb2.TASK_RUNNING and task.spec.container.image == wanted:
            changed = copy_of(task)
            changed.status.ready, changed.status.ready_ms = True, world.now_ms
            world.put(changed)


def test_a_start_first_update_waits_until_the_new_task_was_ready() -> None:
    world = calm()
    start(world, 2, lambda spec: spec.task.container.readiness.MergeFrom(types_pb2.HealthConfig(tcp=":80")))
    ready(world, "good:1")
    world.set_service("web", image("unready:2"))
    world.run(120_000)
    assert len(running(world, "good:1")) == 2, "an old task went before its successor was ready"
    assert len(running(world, "unready:2")) == 1
    for _ in range(10):
        ready(world, "unready:2")
        world.run(20_000)
    assert (len(running(world, "good:1")), len(running(world, "unready:2"))) == (0, 2)
    assert service_of(world).update_status.state == objects_pb2.UPDATE_COMPLETED


def test_an_update_whose_tasks_never_become_ready_is_rolled_back() -> None:
    world = calm()
    start(world, 2, lambda spec: spec.task.container.readiness.MergeFrom(types_pb2.HealthConfig(tcp=":80")))
    ready(world, "good:1")
    world.set_service("web", image("unready:2"))
    world.run(1_000_000)
    assert len(running(world, "good:1")) == 2
    assert service_of(world).update_status.state in (
        objects_pb2.UPDATE_ROLLBACK_STARTED, objects_pb2.UPDATE_ROLLBACK_COMPLETED,
    )  # fmt: skip


def test_a_task_that_leaves_its_node_stays_until_its_successor_was_ready() -> None:
    def checked(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.image = "unready:1"  # until the test says so
        spec.task.container.readiness.MergeFrom(types_pb2.HealthConfig(tcp=":80"))

    world = calm()
    start(world, 1, checked)
    ready(world, "unready:1")
    (old,) = running(world)
    leaving = copy_of(old)
    leaving.leaving_ms = world.now_ms
    world.put(leaving)
    world.run(60_000)
    assert len(running(world)) == 2, "the old task went before its successor was ready"
    ready(world, "unready:1")
    world.run(60_000)
    assert [task.meta.id == old.meta.id for task in running(world)] == [False]
