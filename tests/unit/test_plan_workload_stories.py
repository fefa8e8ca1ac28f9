"""How services run, as an operator sees it: jobs, ordered services, schedules, dependencies, steps. Virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.plan.base import Draft, copy_of, is_live
from swarmpy.node.plan.gate import obstacle
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store

from tests.sim.plan_world import START_MS, World

Change = Callable[[objects_pb2.ServiceSpec], object]
RUNNING, COMPLETE = types_pb2.TASK_RUNNING, types_pb2.TASK_COMPLETE
MINUTE_MS = 60_000


def calm(nodes: int = 3) -> World:
    world = World(7, nodes=nodes)
    world.failure_rate = 0.0
    return world


def make(world: World, name: str, *changes: Change, run_ms: int = 20_000) -> objects_pb2.Service:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = name
    service.meta.created_ms = world.now_ms
    service.spec.task.container.image = "good:1"
    for change in changes:
        change(service.spec)
    if service.spec.WhichOneof("mode") is None:
        service.spec.replicated.replicas = 1
    world.put(service)
    world.run(run_ms)
    return service


def job(completions: int, concurrent: int = 0, limit: int | None = None, image: str = "once:1") -> Change:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.image = image
        spec.task.restart.condition = types_pb2.RESTART_ON_FAILURE
        spec.task.restart.delay_ms = 1000
        spec.replicated_job.completions = completions
        spec.replicated_job.max_concurrent = concurrent
        if limit is not None:
            spec.replicated_job.policy.backoff_limit = limit

    return change


def replicas(count: int) -> Change:
    return lambda spec: setattr(spec.replicated, "replicas", count)


def ordered(count: int) -> Change:
    return lambda spec: setattr(spec.ordered, "replicas", count)


def depends(name: str, condition: objects_pb2.DependencyCondition) -> Change:
    return lambda spec: spec.depends_on.add(service=name, condition=condition)


def service_of(world: World, name: str) -> objects_pb2.Service:
    service = world.store.service(name)
    assert service is not None
    return service


def running(world: World, name: str) -> list[objects_pb2.Task]:
    tasks = world.store.tasks_of_service(name)
    return [t for t in tasks if t.status.state == RUNNING and is_live(t, world.store)]


def slots(world: World, name: str) -> list[int]:
    return sorted(task.slot for task in running(world, name))


def services(world: World) -> list[str]:
    return sorted(service.meta.name for service in world.store.services())


def end(world: World, task: objects_pb2.Task, state: types_pb2.TaskState) -> None:
    ended = copy_of(task)
    ended.status.state, ended.status.since_ms = state, world.now_ms
    world.put(ended)


# --- jobs ---------------------------------------------------------------------------------------


def test_a_job_runs_every_index_once_and_at_most_so_many_at_a_time() -> None:
    world = calm()
    make(world, "batch", job(6, concurrent=2), run_ms=0)
    most = 0
    for _ in range(400):
        world.run(100)
        most = max(most, sum(is_live(t, world.store) for t in world.store.tasks_of_service("batch")))
    assert most == 2
    status = service_of(world, "batch").job
    assert (status.state, status.succeeded, status.failures) == (objects_pb2.JOB_COMPLETE, 6, 0)
    tasks = world.store.tasks_of_service("batch")
    assert sorted(task.slot for task in tasks) == [1, 2, 3, 4, 5, 6]
    assert sorted(env for t in tasks for env in t.env if env.startswith("SWARMPY_JOB_INDEX")) == [
        f"SWARMPY_JOB_INDEX={index}" for index in range(6)
    ]
    assert all(task.status.state == COMPLETE for task in tasks)


def test_a_complete_job_stays_complete_until_it_is_forced() -> None:
    world = calm()
    make(world, "batch", job(2))
    world.set_service("batch", lambda spec: setattr(spec.task.container, "image", "once:2"))
    world.kill("node0")
    world.run(120_000)
    assert service_of(world, "batch").job.state == objects_pb2.JOB_COMPLETE
    assert {t.spec.container.image for t in world.store.tasks_of_service("batch")} == {"once:1"}
    world.set_service("batch", lambda spec: setattr(spec.task, "force_update", 1))
    world.run(30_000)
    status = service_of(world, "batch").job
    assert (status.state, status.iteration, status.succeeded) == (objects_pb2.JOB_COMPLETE, 1, 2)
    assert {t.spec.container.image for t in world.store.tasks_of_service("batch")} == {"once:2"}


def test_a_job_with_a_failing_image_is_given_up_at_its_limit() -> None:
    world = calm()
    make(world, "batch", job(3, limit=4, image="never:1"), run_ms=600_000)
    service = service_of(world, "batch")
    assert service.job.state == objects_pb2.JOB_FAILED
    assert service.job.failures > 4
    assert service.job.message == f"{service.job.failures} attempts failed, the limit is 4"
    assert not running(world, "batch")
    world.elect()
    world.run(600_000)
    assert service_of(world, "batch").job == service.job, "a new leader counts the same"


def test_failures_are_counted_across_leaders_and_lost_nodes_do_not_count() -> None:
    world = calm()
    make(world, "batch", job(1, limit=1, image="good:1"))
    end(world, running(world, "batch")[0], types_pb2.TASK_FAILED)
    world.elect()
    world.run(30_000)
    world.kill(running(world, "batch")[0].node_id)
    world.run(30_000)
    assert len(running(world, "batch")) == 1
    assert service_of(world, "batch").job.failures == 1
    end(world, running(world, "batch")[0], types_pb2.TASK_FAILED)
    world.run(10_000)
    assert service_of(world, "batch").job.state == objects_pb2.JOB_FAILED


def test_a_job_past_its_deadline_is_stopped_and_one_past_its_ttl_removed() -> None:
    world = calm()

    def late(spec: objects_pb2.ServiceSpec) -> None:
        spec.replicated_job.policy.deadline_ms = 60_000
        spec.replicated_job.policy.ttl_ms = 300_000

    make(world, "slow", job(2, image="good:1"), late, run_ms=30_000)
    assert len(running(world, "slow")) == 2
    world.run(60_000)
    assert service_of(world, "slow").job.message == "it took longer than 60 s"
    assert not running(world, "slow")
    world.run(300_000)
    assert world.store.service("slow") is None
    assert not list(world.store.tasks())


def test_a_global_job_runs_once_on_every_node_also_on_new_ones() -> None:
    world = calm(3)
    world.set_node("node2", lambda n: setattr(n.spec, "availability", types_pb2.AVAILABILITY_DRAIN))

    def everywhere(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.image = "once:1"
        spec.global_job.SetInParent()

    make(world, "clean", everywhere)
    done = [t.node_id for t in world.store.tasks_of_service("clean") if t.status.state == COMPLETE]
    assert sorted(done) == ["node0", "node1"]
    assert service_of(world, "clean").job.state == objects_pb2.JOB_COMPLETE
    world.add_node("node9", "a")
    world.kill("node0")
    world.run(60_000)
    world.revive("node0")
    world.run(60_000)
    tasks = world.store.tasks_of_service("clean")
    assert sorted(t.node_id for t in tasks) == ["node0", "node1", "node9"], "node0 has done its part"


# --- ordered ------------------------------------------------------------------------------------


def test_an_ordered_service_starts_in_order_with_lasting_names() -> None:
    world = calm()
    make(world, "db", ordered(3), run_ms=0)
    seen: list[list[int]] = []
    for _ in range(3000):
        world.run(10)
        if not seen or slots(world, "db") != seen[-1]:
            seen.append(slots(world, "db"))
    assert [found for found in seen if found] == [[1], [1, 2], [1, 2, 3]]
    assert sorted(task.hostname for task in running(world, "db")) == ["db-1", "db-2", "db-3"]


def test_an_ordered_service_shrinks_from_the_top_one_at_a_time() -> None:
    world = calm()
    make(world, "db", ordered(4))
    world.set_service("db", ordered(1))
    seen = [slots(world, "db")]
    for _ in range(3000):
        world.run(10)
        if slots(world, "db") != seen[-1]:
            seen.append(slots(world, "db"))
    assert seen == [[1, 2, 3, 4], [1, 2, 3], [1, 2], [1]]
    assert len(world.store.tasks_of_service("db")) == 1


def test_an_ordered_update_goes_from_the_highest_down_and_never_runs_a_slot_twice() -> None:
    world = calm()
    make(world, "db", ordered(3))
    world.set_service("db", lambda spec: setattr(spec.task.container, "image", "good:2"))
    order: list[int] = []
    for _ in range(8000):
        world.run(10)
        live = running(world, "db")
        assert len(live) >= 2, "more than one is down"
        for task in live:
            if task.spec.container.image == "good:2" and task.slot not in order:
                order.append(task.slot)
    assert order == [3, 2, 1]


def test_a_lost_ordered_slot_comes_back_with_its_name() -> None:
    world = calm()
    make(world, "db", ordered(2))
    lost = running(world, "db")[0]
    world.kill(lost.node_id)
    world.run(40_000)
    again = next(task for task in running(world, "db") if task.slot == lost.slot)
    assert (again.hostname, again.node_id != lost.node_id) == (lost.hostname, True)


# --- stop, dependencies, steps ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["replicated", "ordered", "global"])
def test_stop_remembers_how_many_there_were(mode: str) -> None:
    world = calm()
    change = {
        "replicated": replicas(3),
        "ordered": ordered(3),
        "global": lambda spec: getattr(spec, "global").SetInParent(),
    }[mode]
    make(world, "web", change)
    world.set_service("web", lambda spec: setattr(spec, "stopped", True))
    world.run(60_000)
    assert not world.store.tasks_of_service("web")
    world.set_service("web", lambda spec: setattr(spec, "stopped", False))
    world.run(60_000)
    assert len(running(world, "web")) == 3


def test_a_service_waits_for_a_healthy_one_and_says_so() -> None:
    world = calm()
    make(world, "web", replicas(2), depends("db", objects_pb2.DEPENDENCY_HEALTHY))
    assert service_of(world, "web").waiting == "waits for service db, which does not exist"
    make(
        world,
        "db",
        replicas(2),
        lambda spec: spec.task.placement.constraints.append("node.labels.zone==mars"),
    )
    assert service_of(world, "web").waiting == "waits for service db: 0 of 2 are healthy"
    assert not world.store.tasks_of_service("web")
    world.set_node("node0", lambda node: node.meta.labels.update({"zone": "mars"}))
    world.run(20_000)
    assert len(running(world, "web")) == 2
    assert not service_of(world, "web").waiting
    world.set_service("db", replicas(0))
    end(world, running(world, "web")[0], types_pb2.TASK_FAILED)
    world.run(60_000)
    assert len(running(world, "web")) == 2, "a running service does not go down with its dependency"


def test_a_service_waits_for_a_job_to_complete() -> None:
    world = calm()
    make(world, "migrate", job(1, image="good:1"))
    make(world, "web", depends("migrate", objects_pb2.DEPENDENCY_COMPLETED))
    assert service_of(world, "web").waiting == "waits for service migrate to complete"
    end(world, running(world, "migrate")[0], COMPLETE)
    world.run(20_000)
    assert len(running(world, "web")) == 1


def test_a_circle_of_dependencies_is_named() -> None:
    world = calm()
    make(world, "a", depends("b", objects_pb2.DEPENDENCY_STARTED))
    make(world, "b", depends("a", objects_pb2.DEPENDENCY_STARTED))
    assert service_of(world, "b").waiting == "waits for itself: b → a → b"


def test_a_chain_of_dependencies_of_any_length_is_followed_as_far_as_it_matters() -> None:
    draft = Draft(Store())
    for number in range(2_000):
        service = objects_pb2.Service()
        service.meta.id = service.meta.name = f"s{number}"
        service.spec.depends_on.add(service=f"s{number + 1}", condition=objects_pb2.DEPENDENCY_STARTED)
        draft.put(service)
    first = draft.service("s0")
    assert first is not None
    assert obstacle(draft, first, ()) == "waits for service s1 to start"


def pre_deploy(image: str) -> Change:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        spec.pre_deploy.image = image
        spec.pre_deploy.args[:] = ["migrate"]
        spec.update.failure_action = types_pb2.FAILURE_ROLLBACK

    return change


def test_a_pre_deploy_step_runs_once_before_each_revision() -> None:
    world = calm()

    def probed(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.startup.tcp = ":80"
        spec.task.container.mounts.add(type=types_pb2.MOUNT_POD, source="run", target="/run/app")
        spec.task.resources.reservations.nano_cpus = 800_000_000  # two fill a node; the step fits beside

    make(world, "web", replicas(2), pre_deploy("once:1"), probed)
    assert len(running(world, "web")) == 2
    assert services(world) == ["web", "web-pre-1"]
    step = world.store.by_name(store_pb2.KIND_SERVICE, "web-pre-1")
    assert isinstance(step, objects_pb2.Service)
    tasks = world.store.tasks_of_service(step.meta.id)
    assert not step.spec.task.container.HasField("startup"), "nothing listens there"
    mount = step.spec.task.container.mounts[0]
    assert (mount.type, mount.source) == (types_pb2.MOUNT_VOLUME, ""), "there is no pod to share it"
    assert [list(task.spec.container.args) for task in tasks] == [["migrate"]]
    assert not tasks[0].spec.resources.reservations.nano_cpus
    ended_ms = tasks[0].status.since_ms
    assert all(task.meta.created_ms >= ended_ms for task in running(world, "web"))
    world.set_service("web", replicas(3))
    world.run(30_000)
    assert services(world) == ["web", "web-pre-1"], "a rescale is no revision"
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    world.run(90_000)
    assert {task.spec.container.image for task in running(world, "web")} == {"good:2"}
    assert services(world) == ["web", "web-pre-2"]


def test_a_failed_step_rolls_back_and_the_old_tasks_run_on() -> None:
    world = calm()
    make(world, "web", replicas(2), pre_deploy("once:1"))
    before = {task.meta.id for task in running(world, "web")}

    def broken(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.image = "good:2"
        spec.pre_deploy.image = "never:1"

    world.set_service("web", broken)
    world.run(120_000)
    service = service_of(world, "web")
    assert service.spec.task.container.image == "good:1"
    assert service.update_status.state == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert "pre-deploy step web-pre-2 failed" in service.update_status.message
    assert {task.meta.id for task in running(world, "web")} == before
    removed = copy_of(service)
    removed.pending_delete = True
    world.put(removed)
    world.run(60_000)
    assert services(world) == []


def test_a_first_step_that_fails_holds_the_service_back() -> None:
    world = calm()
    make(world, "web", pre_deploy("never:1"))
    service = service_of(world, "web")
    assert service.update_status.state == objects_pb2.UPDATE_PAUSED
    assert "pre-deploy step" in service.update_status.message
    assert not world.store.tasks_of_service("web")
    world.set_service("web", lambda spec: setattr(spec.pre_deploy, "image", "once:1"))
    world.set_service("web", lambda spec: setattr(spec.task.container, "image", "good:2"))
    world.run(30_000)
    assert len(running(world, "web")) == 1


# --- schedules ----------------------------------------------------------------------------------


def schedule(world: World, cron: str = "* * * * *", image: str = "once:1", **spec: object) -> None:
    made = objects_pb2.Schedule()
    made.meta.id = made.meta.name = "tick"
    made.spec.cron = cron
    job(1, image=image)(made.spec.service)
    for field, value in spec.items():
        setattr(made.spec, field, value)
    world.put(made)


def edit(world: World, change: Callable[[objects_pb2.ScheduleSpec], object]) -> None:
    stored = world.store.schedule("tick")
    assert stored is not None
    changed = copy_of(stored)
    change(changed.spec)
    world.put(changed)


def status(world: World) -> objects_pb2.ScheduleStatus:
    stored = world.store.schedule("tick")
    assert stored is not None
    return stored.status


def test_a_schedule_runs_every_minute_and_keeps_its_history_short() -> None:
    world = calm()
    schedule(world)
    for _ in range(10):
        world.run(MINUTE_MS)
        world.elect()
    world.run(20_000)
    assert status(world).runs == 10
    assert status(world).missed == 0
    assert services(world) == ["tick-10", "tick-8", "tick-9"]
    made = [service.scheduled_ms % MINUTE_MS for service in world.store.services()]
    assert made == [0, 0, 0]


@pytest.mark.parametrize(
    ("overlap", "active", "missed"),
    [
        (objects_pb2.OVERLAP_ALLOW, 5, 0),
        (objects_pb2.OVERLAP_FORBID, 1, 4),
        (objects_pb2.OVERLAP_REPLACE, 1, 0),
    ],
)
def test_overlap(overlap: objects_pb2.Overlap, active: int, missed: int) -> None:
    world = calm()
    schedule(world, image="good:1", overlap=overlap)
    world.run(5 * MINUTE_MS)
    under_way = [
        s for s in world.store.services() if s.job.state == objects_pb2.JOB_RUNNING and not s.pending_delete
    ]
    assert (len(under_way), status(world).missed) == (active, missed)
    assert under_way[-1].meta.name == ("tick-1" if overlap == objects_pb2.OVERLAP_FORBID else "tick-5")


def test_what_was_missed_without_a_leader_becomes_one_run_or_none() -> None:
    world = calm()
    schedule(world, cron="*/10 * * * *", starting_deadline_ms=5 * MINUTE_MS)
    world.run(15 * MINUTE_MS)
    runs = status(world).runs
    world.leaders = []  # nobody leads
    world.now_ms = (world.now_ms // (60 * MINUTE_MS) + 2) * 60 * MINUTE_MS + 2 * MINUTE_MS
    world.queue.clear()
    world.elect()
    world.run(MINUTE_MS)
    assert status(world).runs == runs + 1, "the last of those that were due, two minutes late"
    world.leaders = []
    world.now_ms = (world.now_ms // (60 * MINUTE_MS) + 2) * 60 * MINUTE_MS + 7 * MINUTE_MS
    world.queue.clear()
    world.elect()
    world.run(MINUTE_MS)
    assert status(world).runs == runs + 1
    assert "late, the limit is 300 s" in status(world).message


def test_suspend_resume_trigger_and_remove() -> None:
    world = calm()
    schedule(world, suspended=True)
    world.run(5 * MINUTE_MS)
    assert status(world).runs == 0
    edit(world, lambda spec: setattr(spec, "triggers", 1))
    world.run(20_000)
    assert services(world) == ["tick-1"]
    edit(world, lambda spec: setattr(spec, "suspended", False))
    world.run(2 * MINUTE_MS)
    assert status(world).runs == 3, "what was due while it was suspended is not made up for"
    change = store_pb2.Change(delete=store_pb2.ObjectKey(kind=store_pb2.KIND_SCHEDULE, id="tick"))
    assert not world.commit([change], "user", world.epoch)
    world.run(30_000)
    assert services(world) == []
    assert not list(world.store.tasks())


def test_a_run_follows_the_zone_of_the_schedule() -> None:
    world = calm()
    made = objects_pb2.Schedule()
    made.meta.id = made.meta.name = "tick"
    made.spec.cron, made.spec.time_zone = "30 6 * * *", "Asia/Kolkata"
    made.zone.rule = "IST-5:30"
    job(1)(made.spec.service)
    world.put(made)
    world.run(25 * 3_600_000)
    runs = [service.scheduled_ms for service in world.store.services()]
    assert len(runs) == 1
    assert (runs[0] - START_MS) // 1000 % 60 == (-START_MS // 1000) % 60
    assert runs[0] // MINUTE_MS % 1440 == 60, "06:30 in India is 01:00 UTC"
