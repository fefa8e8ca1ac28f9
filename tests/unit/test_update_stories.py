"""Updates as an operator sees them: steps, pauses, revisions, canary, blue-green. Virtual time."""

from __future__ import annotations

from collections import Counter

import pytest
from swarmpy.node.manager.assignments import endpoints_item
from swarmpy.node.plan import limits, validate, workload_checks
from swarmpy.node.plan.autoscale import AutoscalePlanner
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.revisions import NotNow, acted, revisions, rolled_back, share, with_new_spec
from swarmpy.node.plan.samples import Sample
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

from tests.sim.plan_world import World
from tests.unit.test_plan_stories import Change, calm, image, lowest_running, running, service_of, start

KEEP_MS = 60_000


def act(world: World, action: control_pb2.RolloutAction, **more: object) -> None:
    request = control_pb2.RolloutRequest(service="web", action=action, **more)  # type: ignore[arg-type]
    world.put(acted(world.store, service_of(world), request, world.now_ms, "me"))


def update(change: Change) -> Change:
    return change


def config(**fields: object) -> Change:
    def set_them(spec: objects_pb2.ServiceSpec) -> None:
        for name, value in fields.items():
            setattr(spec.update, name, value)

    return set_them


def traffic(world: World) -> list[str]:
    """The images behind the VIP. Played agents do not say `ready`, so say it for them."""
    service = service_of(world)
    for task in world.store.tasks_of_service("web"):
        if task.status.state == types_pb2.TASK_RUNNING and not task.status.ready:
            ready = copy_of(task)
            ready.status.ready = True
            world.put(ready)
    ids = {backend.task_id for backend in endpoints_item(world.store, service).endpoints.backends}
    return sorted(t.spec.container.image for t in world.store.tasks() if t.meta.id in ids)


def state(world: World) -> int:
    return service_of(world).update_status.state


def most_in_flight(world: World, duration_ms: int) -> int:
    most = 0
    for _ in range(duration_ms // 20):
        world.run(20)
        new = [t for t in world.store.tasks_of_service("web") if t.spec.container.image == "good:2"]
        most = max(
            most, sum(t.status.state < types_pb2.TASK_RUNNING and is_live(t, world.store) for t in new)
        )
    return most


def test_parallelism_as_a_part_of_the_slots() -> None:
    world = calm(5)
    start(world, 8, config(parallelism_percent=25))
    world.set_service("web", image("good:2"))
    assert most_in_flight(world, 30_000) == 2
    assert len(running(world, "good:2")) == 8


def test_a_new_task_that_does_not_start_in_time_fails_the_update() -> None:
    world = calm(3)
    start(world, 3, config(progress_deadline_ms=20_000))

    def too_large(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.container.image = "good:2"
        spec.task.resources.reservations.nano_cpus = 64_000_000_000

    world.set_service("web", too_large)
    world.run(15_000)
    assert state(world) == objects_pb2.UPDATE_UPDATING
    world.run(30_000)
    assert state(world) == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert len(running(world, "good:1")) == 3


def test_pause_stops_where_it_is_and_resume_goes_on() -> None:
    world = calm(3)
    start(world, 4, config(delay_ms=10_000))
    world.set_service("web", image("good:2"))
    world.run(5_000)
    act(world, control_pb2.ROLLOUT_PAUSE)
    have = len(running(world, "good:2"))
    world.run(120_000)
    assert 0 < len(running(world, "good:2")) == have < 4
    with pytest.raises(NotNow, match="the update is paused"):
        act(world, control_pb2.ROLLOUT_PAUSE)
    act(world, control_pb2.ROLLOUT_RESUME)
    world.run(120_000)
    assert len(running(world, "good:2")) == 4
    assert state(world) == objects_pb2.UPDATE_COMPLETED
    with pytest.raises(NotNow, match="the last update is complete"):
        act(world, control_pb2.ROLLOUT_RESUME)


def test_ten_revisions_are_kept_and_any_of_them_comes_back() -> None:
    world = calm(3)
    start(world, 2)
    for number in range(2, 15):
        world.set_service("web", image(f"good:{number}"))
        world.run(60_000)
    kept = revisions(service_of(world))
    assert [entry.revision for entry in kept] == list(range(13, 3, -1))
    world.set_service("web", lambda spec: setattr(spec.replicated, "replicas", 3))
    act(world, control_pb2.ROLLOUT_ROLLBACK, revision=7)
    world.run(60_000)
    assert len(running(world, "good:7")) == 3, "a rollback leaves the scale alone"
    assert service_of(world).spec_version == 15
    assert 7 not in [entry.revision for entry in revisions(service_of(world))]
    assert revisions(service_of(world))[0].revision == 14
    with pytest.raises(NotNow, match="no revision 99 any more"):
        act(world, control_pb2.ROLLOUT_ROLLBACK, revision=99)
    act(world, control_pb2.ROLLOUT_ROLLBACK)
    world.run(60_000)
    assert len(running(world, "good:14")) == 3


def test_how_many_revisions_are_kept_is_the_services_to_say() -> None:
    def templated(number: int, limit: int) -> objects_pb2.ServiceSpec:
        spec = objects_pb2.ServiceSpec(history_limit=limit)
        spec.task.container.image = f"good:{number}"
        return spec

    service = objects_pb2.Service(spec=templated(1, 12), spec_version=1)
    for number in range(2, 20):
        service = with_new_spec(service, templated(number, 12), number)
    assert [entry.revision for entry in service.previous] == list(range(18, 6, -1))
    fewer = with_new_spec(service, templated(19, 3), 20)
    assert (fewer.spec_version, [entry.revision for entry in fewer.previous]) == (19, [18, 17, 16])
    assert [spec.task.container.image for spec in fewer.previous_specs] == ["good:18", "good:17", "good:16"]
    usual = with_new_spec(service, templated(20, 0), 21)
    assert len(usual.previous_specs) == len(usual.previous) == 10
    fields = [problem.field_path for problem in workload_checks.service(templated(1, 51))]
    assert fields == ["spec.history_limit"]


def test_a_revision_that_failed_is_remembered_and_not_gone_back_to() -> None:
    world = calm(3)
    start(world, 2)
    world.set_service("web", image("good:2"))
    world.run(60_000)
    world.set_service("web", image("bad:3"))
    world.run(60_000)
    found = revisions(service_of(world))
    assert "slots failed" in found[0].problem
    assert service_of(world).previous_specs[0].task.container.image == "bad:3"
    act(world, control_pb2.ROLLOUT_ROLLBACK)
    world.run(60_000)
    assert len(running(world, "good:1")) == 2


def test_restart_replaces_all_and_makes_no_revision() -> None:
    world = calm(3)
    start(world, 4)
    before = {task.meta.id for task in running(world)}
    act(world, control_pb2.ROLLOUT_RESTART, batch="50%")
    assert lowest_running(world, 40_000) == 4
    assert not before & {task.meta.id for task in running(world)}
    assert state(world) == objects_pb2.UPDATE_COMPLETED
    assert not service_of(world).previous_specs


@pytest.mark.parametrize(("canary", "count"), [("1", 1), ("10%", 1), ("50%", 3)])
def test_a_canary_waits_for_promotion(canary: str, count: int) -> None:
    world = calm(3)
    start(world, 6, config(canary=canary))
    world.set_service("web", image("good:2"))
    assert lowest_running(world, 120_000) == 6
    assert (len(running(world, "good:2")), state(world)) == (count, objects_pb2.UPDATE_WAITING)
    assert Counter(traffic(world)) == {"good:1": 6 - count, "good:2": count}
    act(world, control_pb2.ROLLOUT_PROMOTE)
    world.run(200_000)
    assert (len(running(world, "good:2")), state(world)) == (6, objects_pb2.UPDATE_COMPLETED)


def test_an_aborted_canary_is_rolled_back() -> None:
    world = calm(3)
    start(world, 4, config(canary="1"))
    world.set_service("web", image("good:2"))
    world.run(60_000)
    act(world, control_pb2.ROLLOUT_ABORT)
    assert lowest_running(world, 60_000) == 4
    assert len(running(world, "good:1")) == 4
    assert revisions(service_of(world))[0].problem == "aborted by me"


def test_a_canary_that_fails_is_rolled_back_by_itself() -> None:
    world = calm(3)
    start(world, 4, config(canary="1"))
    world.set_service("web", image("bad:2"))
    assert lowest_running(world, 120_000) == 4
    assert state(world) == objects_pb2.UPDATE_ROLLBACK_COMPLETED
    assert Counter(t.spec.container.image for t in world.store.tasks())["bad:2"] <= 4, "one slot tried it"


def test_the_analysis_promotes_after_its_window() -> None:
    world = calm(3)

    def rules(spec: objects_pb2.ServiceSpec) -> None:
        spec.update.canary, spec.update.auto_promote = "1", True
        spec.update.analysis.window_ms = 90_000

    start(world, 4, rules)
    world.set_service("web", image("good:2"))
    world.run(80_000)
    assert len(running(world, "good:2")) == 1
    world.run(120_000)
    assert (len(running(world, "good:2")), state(world)) == (4, objects_pb2.UPDATE_COMPLETED)


def test_the_analysis_waits_while_it_knows_no_probe_times() -> None:
    world = calm(3)

    def rules(spec: objects_pb2.ServiceSpec) -> None:
        spec.update.canary, spec.update.auto_promote = "1", True
        spec.update.analysis.max_probe_ms = 100

    start(world, 3, rules)
    world.set_service("web", image("good:2"))
    world.run(600_000)
    assert (len(running(world, "good:2")), state(world)) == (1, objects_pb2.UPDATE_WAITING)


@pytest.mark.parametrize(
    ("probe_ms", "expected"),
    [(40, objects_pb2.UPDATE_COMPLETED), (400, objects_pb2.UPDATE_ROLLBACK_COMPLETED)],
)
def test_the_analysis_judges_by_the_time_of_health_checks(probe_ms: int, expected: int) -> None:
    world = calm(3)

    def rules(spec: objects_pb2.ServiceSpec) -> None:
        spec.update.canary, spec.update.auto_promote = "1", True
        spec.update.analysis.max_probe_ms, spec.update.analysis.window_ms = 100, 30_000

    start(world, 3, rules)
    world.set_service("web", image("good:2"))
    planners = [leader.planner for leader in world.leaders]
    (samples,) = [p.samples for p in planners if isinstance(p, AutoscalePlanner)]
    for _ in range(30):
        world.run(5000)
        for task in running(world):
            samples.record(task.meta.id, Sample(world.now_ms, probe_ms=probe_ms))
    assert state(world) == expected


@pytest.mark.parametrize("leader_changes", [False, True])
def test_blue_green_switches_all_traffic_at_once_and_keeps_the_old(leader_changes: bool) -> None:
    world = calm(3)
    start(world, 4, config(strategy=types_pb2.STRATEGY_BLUE_GREEN, keep_old_ms=KEEP_MS))
    world.set_service("web", image("good:2"))
    for _ in range(60):
        world.run(1000)
        assert set(traffic(world)) == {"good:1"}, "nothing new before the promotion"
    assert (len(running(world)), state(world)) == (8, objects_pb2.UPDATE_WAITING)
    if leader_changes:
        world.elect()
    act(world, control_pb2.ROLLOUT_PROMOTE)
    assert traffic(world) == ["good:2"] * 4
    world.run(KEEP_MS - 1000)
    assert (len(running(world)), traffic(world)) == (8, ["good:2"] * 4)
    for _ in range(100):
        world.run(100)
        assert set(traffic(world)) == {"good:2"}, "the old ones never come back"
    assert (len(running(world)), state(world)) == (4, objects_pb2.UPDATE_COMPLETED)
    assert not service_of(world).update_status.hidden_versions


def test_blue_green_goes_back_at_once_while_the_old_is_kept() -> None:
    world = calm(3)
    start(world, 3, config(strategy=types_pb2.STRATEGY_BLUE_GREEN, keep_old_ms=KEEP_MS))
    old = {task.meta.id for task in running(world)}
    world.set_service("web", image("good:2"))
    world.run(60_000)
    act(world, control_pb2.ROLLOUT_PROMOTE)
    world.run(20_000)
    act(world, control_pb2.ROLLOUT_ROLLBACK)
    assert traffic(world) == ["good:1"] * 3
    for _ in range(100):
        world.run(100)
        assert traffic(world) == ["good:1"] * 3
    world.run(120_000)
    assert {task.meta.id for task in running(world)} == old, "the same tasks, never restarted"
    assert state(world) == objects_pb2.UPDATE_ROLLBACK_COMPLETED


def test_blue_green_aborted_before_the_switch_never_shows_the_new() -> None:
    world = calm(3)
    start(world, 3, config(strategy=types_pb2.STRATEGY_BLUE_GREEN))
    world.set_service("web", image("good:2"))
    world.run(60_000)
    act(world, control_pb2.ROLLOUT_ABORT)
    for _ in range(200):
        assert traffic(world) == ["good:1"] * 3
        world.run(100)
    assert len(running(world)) == 3


def test_a_further_update_during_blue_green_shows_nothing_half_done() -> None:
    world = calm(3)
    start(world, 3, config(strategy=types_pb2.STRATEGY_BLUE_GREEN, keep_old_ms=KEEP_MS))
    world.set_service("web", image("good:2"))
    world.run(60_000)
    world.set_service("web", image("good:3"))
    for _ in range(600):
        world.run(100)
        assert set(traffic(world)) == {"good:1"}
    act(world, control_pb2.ROLLOUT_PROMOTE)
    world.run(1000)
    assert traffic(world) == ["good:3"] * 3


def test_labels_replicas_and_policies_replace_nothing() -> None:
    world = calm(3)
    start(world, 3)
    before = {task.meta.id for task in running(world)}

    def harmless(spec: objects_pb2.ServiceSpec) -> None:
        spec.replicated.replicas = 4
        spec.update.delay_ms, spec.update.canary, spec.rollback.parallelism = 5000, "1", 3
        spec.endpoint.ports.add(target=80, published=8080)

    world.set_service("web", harmless)
    world.run(60_000)
    assert before < {task.meta.id for task in running(world)}
    assert service_of(world).spec_version == 1


def test_shares() -> None:
    assert [share(text, 40) for text in ("3", "25%", "1%", "100%")] == [3, 10, 1, 40]
    assert [share(text, 40) for text in ("", "x", "0%", "101%", "5%%", "-1", "½")] == [-1] * 7


def test_what_cannot_be_is_refused_with_its_path() -> None:
    def paths(change: Change) -> list[str]:
        service = objects_pb2.Service()
        service.meta.name = "web"
        service.spec.task.container.image = "x"
        service.spec.replicated.replicas = 1
        change(service.spec)
        return [problem.field_path for problem in validate.validate_service(service)]

    def blue_green_with_host_port(spec: objects_pb2.ServiceSpec) -> None:
        spec.update.strategy = types_pb2.STRATEGY_BLUE_GREEN
        spec.endpoint.ports.add(target=80, published=81, mode=types_pb2.PUBLISH_HOST)

    assert paths(blue_green_with_host_port) == ["spec.update.strategy"]
    assert paths(config(canary="x")) == ["spec.update.canary"]
    assert paths(config(canary="1", strategy=types_pb2.STRATEGY_BLUE_GREEN)) == ["spec.update.canary"]
    assert paths(lambda spec: setattr(spec.rollback, "canary", "1")) == ["spec.rollback"]
    assert paths(config(parallelism_percent=101)) == ["spec.update.parallelism_percent"]
    assert [p.field_path for p in limits.update(types_pb2.UpdateConfig(progress_deadline_ms=5), "u")] == [
        "u.progress_deadline_ms"
    ]


def test_a_service_with_a_large_spec_is_updated_again_and_again() -> None:
    service = objects_pb2.Service(spec_version=1)
    service.meta.name = "web"
    service.spec.replicated.replicas = 1
    service.spec.task.container.image = "good:1"
    service.spec.task.container.env.append("LARGE=" + "x" * 150_000)
    for number in range(30):
        spec = copy_of(service.spec)
        spec.task.container.labels["n"] = str(number)
        service = with_new_spec(service, spec, number)
        assert validate.validate_service(service) == [], "what is kept of earlier ones does not count"
        assert service.ByteSize() < 1_000_000, "it is written in one transaction"
        assert len(revisions(service)) == len(service.previous_specs)
    back = rolled_back(service, 100, "back")
    assert back is not None
    assert back.spec.task.container.labels["n"] == "28"
    service.spec.task.container.env.append("MORE=" + "x" * 60_000)
    assert [problem.field_path for problem in validate.validate_service(service)] == ["spec"]
