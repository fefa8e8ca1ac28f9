"""What services wait for, when something goes wrong meanwhile. Virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from swarmpy.node.plan.base import copy_of
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import World
from tests.unit.test_plan_workload_stories import (
    Change,
    calm,
    depends,
    end,
    job,
    make,
    ordered,
    replicas,
    running,
    service_of,
    services,
)


def everywhere(spec: objects_pb2.ServiceSpec) -> None:
    getattr(spec, "global").SetInParent()


def slow_step(spec: objects_pb2.ServiceSpec) -> None:
    spec.pre_deploy.image = "good:step"  # runs until it is ended
    spec.pre_deploy.timeout_ms = 3_600_000


@pytest.mark.parametrize("mode", [replicas(3), ordered(3), everywhere])
def test_what_dies_while_a_step_runs_is_replaced_by_its_like(mode: Change) -> None:
    world = calm()
    make(world, "web", mode)
    assert len(running(world, "web")) == 3

    def changed(spec: objects_pb2.ServiceSpec) -> None:
        slow_step(spec)
        spec.task.container.image = "good:2"

    world.set_service("web", changed)
    world.run(20_000)
    assert service_of(world, "web").waiting.startswith("waits for its pre-deploy step")
    for task in running(world, "web")[:2]:
        end(world, task, types_pb2.TASK_FAILED)
    world.run(60_000)
    now = running(world, "web")
    assert sorted(task.spec.container.image for task in now) == ["good:1"] * 3
    assert {task.spec_version for task in now} == {1}
    step = next(s for s in world.store.services() if s.owner_version)
    end(world, running(world, step.meta.id)[0], types_pb2.TASK_COMPLETE)
    world.run(300_000)
    assert sorted(task.spec.container.image for task in running(world, "web")) == ["good:2"] * 3
    assert service_of(world, "web").update_status.state == objects_pb2.UPDATE_COMPLETED


@pytest.mark.parametrize("mode", [replicas, ordered])
def test_a_rescale_while_a_step_runs_is_made_at_once_of_what_runs(mode: Callable[[int], Change]) -> None:
    world = calm()
    make(world, "web", mode(2))

    def changed(spec: objects_pb2.ServiceSpec) -> None:
        slow_step(spec)
        spec.task.container.image = "good:2"

    world.set_service("web", changed)
    world.run(20_000)
    world.set_service("web", mode(4))
    world.run(60_000)
    assert [task.spec.container.image for task in running(world, "web")] == ["good:1"] * 4
    assert service_of(world, "web").waiting.startswith("waits for its pre-deploy step")
    world.set_service("web", mode(3))
    world.run(60_000)
    assert len(running(world, "web")) == 3
    step = next(s for s in world.store.services() if s.owner_version)
    end(world, running(world, step.meta.id)[0], types_pb2.TASK_COMPLETE)
    world.run(300_000)
    assert [task.spec.container.image for task in running(world, "web")] == ["good:2"] * 3


def test_a_node_that_joins_while_a_step_runs_gets_the_revision_before() -> None:
    world = calm()
    make(world, "web", everywhere)
    before = len(running(world, "web"))

    def changed(spec: objects_pb2.ServiceSpec) -> None:
        slow_step(spec)
        spec.task.container.image = "good:2"

    world.set_service("web", changed)
    world.run(20_000)
    world.add_node("late", zone="a")
    world.run(60_000)
    assert [task.spec.container.image for task in running(world, "web")] == ["good:1"] * (before + 1)


def test_what_never_ran_waits_for_its_step_however_it_is_rescaled() -> None:
    world = calm()
    make(world, "web", replicas(1), slow_step)
    world.set_service("web", replicas(3))
    world.run(60_000)
    assert not world.store.tasks_of_service("web")


def test_a_job_that_is_waited_for_outlives_its_ttl() -> None:
    def short(spec: objects_pb2.ServiceSpec) -> None:
        job(1)(spec)
        spec.replicated_job.policy.ttl_ms = 30_000

    world = calm()
    make(world, "web", depends("migrate", objects_pb2.DEPENDENCY_COMPLETED))
    make(world, "migrate", short)
    world.run(120_000)
    assert len(running(world, "web")) == 1
    assert services(world) == ["migrate", "web"]
    world.set_service("web", replicas(0))
    world.run(60_000)
    world.set_service("web", replicas(1))
    world.run(60_000)
    assert len(running(world, "web")) == 1, "it starts again, too"
    gone = copy_of(service_of(world, "web"))
    gone.pending_delete = True
    world.put(gone)
    world.run(60_000)
    assert services(world) == [], "nobody waits for it any more"


def told_again(world: World, change: Callable[[objects_pb2.TaskStatus], object]) -> None:
    """Every node says something of its running tasks that decides nothing."""
    for task in running(world, "web"):
        again = copy_of(task)
        change(again.status)
        world.put(again)


def test_reports_during_an_update_do_not_prolong_its_watch() -> None:
    world = calm()
    make(world, "web", replicas(2))
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    for second in range(60):
        world.run(1_000)
        told_again(world, lambda status, second=second: setattr(status, "message", f"probe {second}"))
    assert service_of(world, "web").update_status.state == objects_pb2.UPDATE_COMPLETED


@pytest.mark.parametrize("mode", [replicas(1), ordered(1), everywhere, job(1)])
@pytest.mark.parametrize("policy", ["", "continue"])
def test_what_cannot_even_be_prepared_is_tried_again_at_its_time_and_not_at_once(
    mode: Change, policy: str
) -> None:
    """A missing directory, an unknown user: the node says so before the task was ever ready to start."""

    def patient(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.restart.delay_ms = 5_000
        if policy:
            spec.update.failure_action = types_pb2.FAILURE_CONTINUE
        for kind in ("replicated_job", "global_job"):
            if spec.HasField(kind):  # type: ignore[arg-type]
                getattr(spec, kind).policy.backoff_limit = 100

    made: list[int] = []
    world = calm(1)
    world.store.listeners.append(
        lambda commit: made.extend(
            world.now_ms
            for event in commit.events
            if event.old is None and isinstance(event.new, objects_pb2.Task)
        )
    )
    if policy:
        make(world, "web", mode, patient)
        made.clear()
        world.set_service("web", lambda spec: setattr(spec.task.container, "image", "never:1"))
        world.set_service("web", lambda spec: setattr(spec.task, "force_update", 1))
    else:
        make(world, "web", mode, patient, lambda spec: setattr(spec.task.container, "image", "never:1"))
    world.run(300_000)
    assert 8 <= len(made) <= 14, made
    assert all(after - before >= 4_900 for before, after in itertools.pairwise(made))


def prefetch(spec: objects_pb2.ServiceSpec) -> None:
    spec.update.prefetch = True
    spec.update.failure_action = types_pb2.FAILURE_ROLLBACK


@pytest.mark.parametrize("mode", [replicas(3), ordered(2), everywhere])
def test_images_are_there_before_the_first_task_is_stopped(mode: Change) -> None:
    world = calm()
    make(world, "web", mode, prefetch, host_port)
    assert services(world) == ["web"], "there is nothing to stop yet"
    before = running(world, "web")
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    while not (pulls := [t for t in world.store.tasks() if t.spec.pull_only]):
        world.run(5)
    assert service_of(world, "web").waiting == "waits for its image on the nodes that run it: web-pull-2"
    where = {node.meta.id for node in world.store.nodes()}  # more than half of them run it
    while any(t.status.state != types_pb2.TASK_COMPLETE for t in pulls) or not pulls:
        assert {task.meta.id for task in running(world, "web")} == {task.meta.id for task in before}
        world.run(5)
        pulls = [t for t in world.store.tasks() if t.spec.pull_only]
    assert sorted(task.node_id for task in pulls) == sorted(where), "where it runs or may go, once each"
    world.run(300_000)
    assert {task.spec.container.image for task in running(world, "web")} == {"good:2"}
    assert services(world) == ["web"], "the step has nothing to tell"
    world.set_service("web", replicas(2) if mode is not everywhere else lambda spec: None)
    world.run(30_000)
    assert not [t for t in world.store.tasks() if t.spec.pull_only], "a rescale is no revision"


def host_port(spec: objects_pb2.ServiceSpec) -> None:
    spec.endpoint.ports.add(target=80, published=8080, mode=types_pb2.PUBLISH_HOST)


def test_an_image_that_cannot_be_had_fails_the_update_before_anything_is_stopped() -> None:
    world = calm()
    make(world, "web", replicas(3), prefetch, host_port)
    before = {task.meta.id for task in running(world, "web")}
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "never:2"))
    world.run(120_000)
    service = service_of(world, "web")
    assert service.spec.task.container.image == "good:1"
    assert service.update_status.state == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert "its image could not be had before the update: played failure" in service.update_status.message
    assert {task.meta.id for task in running(world, "web")} == before
    assert services(world) == ["web"]


def test_a_node_that_is_lost_or_paused_meanwhile_is_not_waited_for() -> None:
    world = calm()
    make(world, "web", replicas(3), prefetch)
    nodes = sorted({task.node_id for task in running(world, "web")})
    world.kill(nodes[0])
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    world.run(20)
    world.set_node(nodes[1], lambda node: setattr(node.spec, "availability", types_pb2.AVAILABILITY_PAUSE))
    world.run(120_000)
    assert {task.spec.container.image for task in running(world, "web")} == {"good:2"}


def test_images_come_before_the_pre_deploy_step() -> None:
    world = calm()
    make(world, "web", replicas(2), prefetch)

    def changed(spec: objects_pb2.ServiceSpec) -> None:
        slow_step(spec)
        spec.task.container.image = "good:2"

    world.set_service("web", changed)
    world.run(20_000)
    assert services(world) == ["web", "web-pre-2"]
    assert service_of(world, "web").prefetched == 2
    step = next(s for s in world.store.services() if s.owner_version)
    end(world, running(world, step.meta.id)[0], types_pb2.TASK_COMPLETE)
    world.run(120_000)
    assert {task.spec.container.image for task in running(world, "web")} == {"good:2"}
