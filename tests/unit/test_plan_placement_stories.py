"""Where tasks go, as an operator sees it: spread, taints, affinity, devices, budgets, preemption. Virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.verdicts import judge
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import World

Change = Callable[[objects_pb2.ServiceSpec], object]
CPU = 1_000_000_000


def calm(nodes: int = 3) -> World:
    world = World(7, nodes=nodes)
    world.failure_rate = 0.0
    return world


def start(world: World, name: str, replicas: int = 1, *changes: Change) -> None:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = name
    service.spec.task.container.image = "good:1"
    service.spec.replicated.replicas = replicas
    for change in changes:
        change(service.spec)
    world.put(service)
    world.run(20_000)


def running(world: World, name: str) -> list[objects_pb2.Task]:
    return [
        task
        for task in world.store.tasks_of_service(name)
        if task.status.state == types_pb2.TASK_RUNNING and is_live(task, world.store)
    ]


def nodes_of(world: World, name: str) -> list[str]:
    return sorted(task.node_id for task in running(world, name))


def waiting(world: World, name: str) -> list[str]:
    return [
        task.status.message
        for task in world.store.tasks_of_service(name)
        if task.status.state == types_pb2.TASK_PENDING and is_live(task, world.store)
    ]


def reserve(cpus: float) -> Change:
    return lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", int(cpus * CPU))


def label(world: World, node_id: str, **labels: str) -> None:
    world.set_node(node_id, lambda node: node.meta.labels.update(labels))


def taint(world: World, node_id: str, key: str, effect: types_pb2.TaintEffect) -> None:
    world.set_node(node_id, lambda node: node.spec.taints.add(key=key, effect=effect) and None)


def affinity(service: str, *, anti: bool = False, topology: str = "", soft: int = 0) -> Change:
    return lambda spec: spec.task.placement.affinities.add(
        service=service, anti=anti, topology=topology, soft=soft
    )


def test_18_tasks_on_5_nodes_spread_4_4_4_3_3() -> None:
    world = calm(5)
    start(world, "web", 18)
    assert sorted(Counter(nodes_of(world, "web")).values()) == [3, 3, 4, 4, 4]


def test_weights_divide_tasks_by_percent() -> None:
    world = calm(4)  # zones a, b, a, b

    def weighted(spec: objects_pb2.ServiceSpec) -> None:
        preference = spec.task.placement.preferences.add(spread="node.labels.zone")
        preference.weights.add(value="a", percent=60)
        preference.weights.add(value="b", percent=40)

    start(world, "web", 10, weighted)
    assert Counter(nodes_of(world, "web")) == {"node0": 3, "node2": 3, "node1": 2, "node3": 2}


def test_hierarchical_spread_divides_zones_then_racks() -> None:
    world = calm(4)
    for node_id, zone, rack in (
        ("node0", "a", "1"),
        ("node1", "a", "1"),
        ("node2", "a", "2"),
        ("node3", "b", "3"),
    ):
        label(world, node_id, zone=zone, rack=rack)

    def spread(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.placement.preferences.add(spread="node.labels.zone")
        spec.task.placement.preferences.add(spread="node.labels.rack")

    start(world, "web", 8, spread)
    assert Counter(nodes_of(world, "web")) == {"node0": 1, "node1": 1, "node2": 2, "node3": 4}


def test_a_hard_max_skew_lets_tasks_wait_rather_than_pile_up() -> None:
    world = calm(3)  # zones a, b, a; 1.6 CPUs each

    def even(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.placement.preferences.add(spread="node.labels.zone", max_skew=1)

    start(world, "web", 6, even, reserve(0.8))  # zone b has room for two
    assert Counter(nodes_of(world, "web"))["node1"] == 2
    assert len(running(world, "web")) == 5
    assert waiting(world, "web") == [
        "no suitable node: 2 of 3 lack CPU (need 0.8); 1 would go beyond the max-skew of their group"
    ]
    world.add_node("node9", "b")
    world.run(20_000)
    assert len(running(world, "web")) == 6


def has_runtimes(world: World, node_id: str, *names: str) -> None:
    world.set_node(node_id, lambda node: node.description.runtimes.__setitem__(slice(None), names))


def use_runtime(name: str, *, sidecar: bool = False) -> Change:
    def change(spec: objects_pb2.ServiceSpec) -> None:
        task = spec.task
        (task.sidecars.add(name="side").container if sidecar else task.container).runtime = name

    return change


def test_tasks_go_where_their_runtime_is_and_wait_where_none_has_it() -> None:
    world = calm(3)
    for node_id in ("node0", "node1", "node2"):
        has_runtimes(world, node_id, "crun", "runc")
    start(world, "web", 3)  # equal in every other way: what was found for one must not be used for another
    start(world, "strong", 2, use_runtime("runsc"))
    assert nodes_of(world, "strong") == []
    assert waiting(world, "strong") == ["no suitable node: 3 of 3 do not have the OCI runtime runsc"] * 2
    task = world.store.tasks_of_service("strong")[0]
    told = judge(world.store, task, world.now_ms)
    assert [verdict.problems for verdict in told.verdicts] == [["do not have the OCI runtime runsc"]] * 3
    has_runtimes(world, "node1", "crun", "runsc")
    world.run(20_000)
    assert nodes_of(world, "strong") == ["node1", "node1"]
    has_runtimes(world, "node1", "crun")  # what runs goes on
    start(world, "pod", 1, use_runtime("runsc", sidecar=True))
    assert nodes_of(world, "strong") == ["node1", "node1"]
    assert waiting(world, "pod") == ["no suitable node: 3 of 3 do not have the OCI runtime runsc"]
    has_runtimes(world, "node2")  # a version that does not say: the node itself refuses what it has not
    world.run(20_000)
    assert nodes_of(world, "pod") == ["node2"]


def test_tasks_that_want_a_gpu_go_where_one_is() -> None:
    world = calm(3)
    for node_id in ("node0", "node1", "node2"):
        has_runtimes(world, node_id, "crun")
    start(world, "web", 3)
    start(world, "model", 2, lambda spec: setattr(spec.task.container, "gpus", "all"))
    assert waiting(world, "model") == ["no suitable node: 3 of 3 have no GPU"] * 2
    world.set_node("node2", lambda node: setattr(node.description, "gpus", True))
    world.run(20_000)
    assert nodes_of(world, "model") == ["node2", "node2"]
    start(world, "more", 3)
    assert len(set(nodes_of(world, "more"))) == 3


def test_a_global_service_runs_where_its_runtime_is() -> None:
    world = calm(3)
    for node_id, names in (("node0", ("crun",)), ("node1", ("crun", "runsc")), ("node2", ("crun",))):
        has_runtimes(world, node_id, *names)

    def everywhere(spec: objects_pb2.ServiceSpec) -> None:
        getattr(spec, "global").SetInParent()

    start(world, "watch", 0, everywhere, use_runtime("runsc"))
    assert nodes_of(world, "watch") == ["node1"]
    assert len(world.store.tasks_of_service("watch")) == 1  # none waits at the others
    has_runtimes(world, "node2", "crun", "runsc")
    world.run(20_000)
    assert nodes_of(world, "watch") == ["node1", "node2"]
    has_runtimes(world, "node1", "crun")
    world.run(20_000)
    assert nodes_of(world, "watch") == ["node1", "node2"]


def test_binpack_fills_one_node_before_the_next() -> None:
    world = calm(3)
    start(world, "web", 4, lambda spec: setattr(spec, "strategy", "binpack"), reserve(0.5))
    assert sorted(Counter(nodes_of(world, "web")).values()) == [1, 3]


def test_random_is_the_same_for_every_leader_and_uses_all_nodes() -> None:
    seen = []
    for _ in range(2):
        world = calm(4)
        start(world, "web", 40, lambda spec: setattr(spec, "strategy", "random"))
        seen.append(nodes_of(world, "web"))
    assert seen[0] == seen[1]
    assert len(Counter(seen[0])) == 4


def test_a_reserved_node_comes_last() -> None:
    world = calm(2)
    start(
        world, "big", 1, reserve(1.6), lambda spec: spec.task.placement.constraints.append("node.id==node1")
    )
    start(world, "idle", 3, lambda spec: spec.task.placement.constraints.append("node.id==node0"))
    start(world, "web", 1)
    assert nodes_of(world, "web") == ["node0"]


def test_a_node_that_has_the_image_goes_before_an_equal_one() -> None:
    world = calm(3)
    image = objects_pb2.Image(digest="sha256:1", holders=["node2"])
    image.meta.id = image.meta.name = "good:1"
    world.put(image)
    start(world, "web", 1, lambda spec: setattr(spec.task.container, "image_digest", "sha256:1"))
    assert nodes_of(world, "web") == ["node2"]


def note_image(world: World, name: str, *holders: str, digest: str = "sha256:1") -> None:
    image = objects_pb2.Image(digest=digest, holders=holders)
    image.meta.name, image.meta.id = name, "".join(filter(str.isalnum, name))
    if (known := world.store.image(image.meta.id)) is not None:
        image.meta.version = known.meta.version
    world.put(image)


def wants_image(text: str) -> Callable[[objects_pb2.ServiceSpec], None]:
    return lambda spec: spec.task.placement.constraints.append(text)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node.has(redis)", ["node1", "node2"]),
        ("node.has(docker.io/library/redis:latest) == true", ["node1", "node2"]),
        ("node.has(redis) != true", ["node0"]),
        ("node.has(redis)==false", ["node0"]),
        ("node.has(redis@sha256:2)", ["node0", "node2"]),
        ("node.has(redis:6)", ["node0", "node2"]),  # noted for a service, no tag of its own
        ("node.has(team/app)", []),
    ],
)
def test_a_constraint_on_the_images_that_a_node_has(text: str, nodes: list[str]) -> None:
    world = calm(3)
    note_image(world, "docker.io/library/redis:latest", "node1")
    note_image(world, "reg:5000/redis:7", "node2")
    note_image(world, "docker.io/library/redis:6@sha256:2", "node0", "node2", digest="sha256:2")
    start(world, "web", 4, wants_image(text))
    assert sorted(set(nodes_of(world, "web"))) == nodes


def test_a_task_waits_for_an_image_and_never_goes_because_of_one() -> None:
    world = calm(3)
    start(world, "web", 1, wants_image("node.has(redis)"))
    start(
        world, "agent", 0, lambda spec: getattr(spec, "global").SetInParent(), wants_image("node.has(redis)")
    )
    assert waiting(world, "web") == ["no suitable node: 3 of 3 do not meet constraint node.has(redis)"]
    note_image(world, "docker.io/library/redis:latest", "node1")
    world.run(20_000)
    assert (nodes_of(world, "web"), nodes_of(world, "agent")) == (["node1"], ["node1"])
    note_image(world, "docker.io/library/redis:latest", "node2", digest="sha256:new")
    world.set_node("node1", lambda node: node.meta.labels.update({"any": "change"}))
    world.run(20_000)
    assert nodes_of(world, "web") == ["node1"], "it is asked when a task is placed, not again"
    assert nodes_of(world, "agent") == ["node1", "node2"]


def test_taints_keep_tasks_away_and_tolerations_let_them_in() -> None:
    world = calm(3)
    taint(world, "node0", "gpu", types_pb2.TAINT_NO_SCHEDULE)
    taint(world, "node1", "old", types_pb2.TAINT_PREFER_NO_SCHEDULE)
    start(world, "web", 4)
    assert nodes_of(world, "web") == ["node2"] * 4, "PreferNoSchedule is the last choice"
    start(world, "train", 3, lambda spec: spec.task.placement.tolerations.add(key="gpu"))
    assert "node0" in nodes_of(world, "train")
    start(world, "pinned", 1, lambda spec: spec.task.placement.constraints.append("node.id==node0"))
    assert waiting(world, "pinned") == [
        "no suitable node: 2 of 3 do not meet constraint node.id==node0; 1 has the taint gpu:NoSchedule"
    ]


def test_no_execute_moves_what_runs_and_no_schedule_does_not() -> None:
    world = calm(3)
    start(world, "web", 3)
    taint(world, "node0", "full", types_pb2.TAINT_NO_SCHEDULE)
    taint(world, "node1", "broken", types_pb2.TAINT_NO_EXECUTE)
    world.run(20_000)
    assert nodes_of(world, "web") == ["node0", "node2", "node2"]
    moved = [task for task in world.store.tasks_of_node("node1") if task.stop_reason]
    assert [task.stop_reason for task in moved] == ["EVICTED"]


def test_a_global_service_respects_taints() -> None:
    world = calm(3)
    taint(world, "node0", "gpu", types_pb2.TAINT_NO_SCHEDULE)
    start(world, "agent", 0, lambda spec: getattr(spec, "global").SetInParent())
    assert nodes_of(world, "agent") == ["node1", "node2"]
    taint(world, "node2", "gpu", types_pb2.TAINT_NO_SCHEDULE)
    taint(world, "node1", "gpu", types_pb2.TAINT_NO_EXECUTE)
    world.run(20_000)
    assert nodes_of(world, "agent") == ["node2"]


@pytest.mark.parametrize(("enforce", "stays"), [("", 0), ("drain", 0), ("ignore", 2)])
def test_a_label_change_moves_tasks_as_enforce_says(enforce: str, stays: int) -> None:
    world = calm(4)  # zone a: node0, node2

    def zone_a(spec: objects_pb2.ServiceSpec) -> None:
        spec.task.placement.constraints.append("node.labels.zone==a")
        spec.enforce = enforce

    start(world, "web", 4, zone_a)
    label(world, "node0", zone="c")
    lowest = 4
    for _ in range(2000):
        world.run(10)
        lowest = min(lowest, len(running(world, "web")))
    assert lowest == {"": 2, "drain": 3, "ignore": 4}[enforce]
    assert Counter(nodes_of(world, "web"))["node0"] == stays
    assert len(running(world, "web")) == 4


def test_affinity_follows_a_service_and_waits_for_it() -> None:
    world = calm(3)
    start(world, "web", 3, affinity("cache"))
    assert waiting(world, "web") == ["no suitable node: 3 of 3 do not have service cache"] * 3
    start(world, "cache", 1, lambda spec: spec.task.placement.constraints.append("node.id==node1"))
    assert nodes_of(world, "web") == ["node1"] * 3


def test_anti_affinity_works_both_ways_and_by_rack() -> None:
    world = calm(3)
    for node_id, rack in (("node0", "1"), ("node1", "1"), ("node2", "2")):
        label(world, node_id, rack=rack)
    start(world, "db", 1, affinity("web", anti=True, topology="node.labels.rack"))
    taken = nodes_of(world, "db")[0]
    start(world, "web", 2)
    other = {"node0", "node1"} if taken == "node2" else {"node2"}
    assert set(nodes_of(world, "web")) <= other, "db wants web away, so web stays away from db"
    start(world, "lone", 3, affinity("lone", anti=True, topology="node.labels.rack"))
    assert len(running(world, "lone")) == 2
    assert waiting(world, "lone") == [
        "no suitable node: 3 of 3 have service lone in the same node.labels.rack"
    ]


def test_soft_affinity_is_a_wish() -> None:
    world = calm(3)
    start(world, "cache", 1)
    place = nodes_of(world, "cache")
    start(world, "web", 1, affinity("cache", soft=50))
    start(world, "away", 1, affinity("cache", anti=True, soft=50))
    assert nodes_of(world, "web") == place
    assert nodes_of(world, "away") != place
    start(world, "ghost", 1, affinity("nothing", soft=10))
    assert len(running(world, "ghost")) == 1


def test_named_resources_are_given_out_one_by_one() -> None:
    world = calm(2)

    def two_gpus(node: objects_pb2.Node) -> None:
        node.spec.generic["gpu"].names.extend(["/dev/gpu0", "/dev/gpu1"])

    world.set_node("node1", two_gpus)
    start(world, "train", 3, lambda spec: spec.task.resources.reservations.generic.update({"gpu": 1}))
    given = sorted(task.assigned_resources[0].names[0] for task in running(world, "train"))
    assert given == ["/dev/gpu0", "/dev/gpu1"]
    assert waiting(world, "train") == ["no suitable node: 2 of 2 lack gpu (need 1)"]
    world.set_service("train", lambda spec: setattr(spec.replicated, "replicas", 2))
    world.run(5_000)
    ended = copy_of(running(world, "train")[0])
    ended.status.state = types_pb2.TASK_FAILED
    world.put(ended)
    world.run(30_000)
    assert sorted(task.assigned_resources[0].names[0] for task in running(world, "train")) == given


def test_an_important_service_pushes_out_a_lesser_one_within_its_budget() -> None:
    world = calm(2)  # 3.2 CPUs

    def batch(spec: objects_pb2.ServiceSpec) -> None:
        spec.priority = 10
        spec.min_available = "2"

    start(world, "batch", 4, reserve(0.8), batch)
    assert len(running(world, "batch")) == 4

    def urgent(spec: objects_pb2.ServiceSpec) -> None:
        spec.priority, spec.preempt = 90, True

    start(world, "web", 3, reserve(0.8), urgent)
    assert len(running(world, "web")) == 2, "only two may be taken from batch"
    assert len(running(world, "batch")) == 2
    stopped = [task.stop_reason for task in world.store.tasks_of_service("batch") if task.stop_reason]
    assert stopped == ["PREEMPTED"] * 2
    assert len(waiting(world, "batch")) == 2
    world.set_service("batch", lambda spec: setattr(spec, "min_available", ""))
    world.run(30_000)
    assert (len(running(world, "web")), len(running(world, "batch"))) == (3, 1)


@pytest.mark.parametrize("priority", [45, 59])
def test_without_a_gap_of_ten_nobody_is_pushed_out(priority: int) -> None:
    world = calm(1)
    start(world, "batch", 2, reserve(0.8))

    def slightly(spec: objects_pb2.ServiceSpec) -> None:
        spec.priority, spec.preempt = priority, True

    start(world, "web", 1, reserve(0.8), slightly)
    assert len(running(world, "batch")) == 2
    assert waiting(world, "web") == ["no suitable node: 1 of 1 lacks CPU (need 0.8)"]


def test_scaling_down_keeps_zones_even_and_binpack_empties_nodes() -> None:
    world = calm(4)
    start(world, "web", 8, lambda spec: spec.task.placement.preferences.add(spread="node.labels.zone"))
    world.set_service("web", lambda spec: setattr(spec.replicated, "replicas", 4))
    world.run(30_000)
    assert Counter(nodes_of(world, "web")) == dict.fromkeys([f"node{n}" for n in range(4)], 1)
    start(world, "packed", 5, reserve(0.4), lambda spec: setattr(spec, "strategy", "binpack"))
    world.set_service("packed", lambda spec: setattr(spec.replicated, "replicas", 4))
    world.run(30_000)
    assert len(set(nodes_of(world, "packed"))) == 1


def test_a_verdict_names_every_filter_and_the_scheduler_agrees() -> None:
    world = calm(3)
    taint(world, "node0", "gpu", types_pb2.TAINT_NO_SCHEDULE)
    start(
        world,
        "web",
        3,
        reserve(1.0),
        lambda spec: spec.task.placement.constraints.append("node.labels.zone==a"),
    )
    task = next(t for t in world.store.tasks_of_service("web") if t.status.state == types_pb2.TASK_PENDING)
    judgement = judge(world.store, task, world.now_ms)
    assert judgement.sentence == task.status.message
    found = {verdict.node_id: dict(verdict.checks) for verdict in judgement.verdicts}
    assert found["node0"]["taint"] == "have the taint gpu:NoSchedule"
    assert found["node1"]["constraint"] == "do not meet constraint node.labels.zone==a"
    assert found["node2"]["resource"] == "lack CPU (need 1)"
    assert found["node2"]["constraint"] is None
    placed = running(world, "web")[0]
    again = judge(world.store, placed, world.now_ms)
    assert again.chosen is not None
    assert again.chosen.node_id == placed.node_id == "node2", "what it holds itself does not count against it"


def test_every_transition_is_kept_with_its_time() -> None:
    world = calm(1)
    start(world, "web", 1)
    task = running(world, "web")[0]
    states = [transition.state for transition in task.status.history]
    assert states == sorted(set(states))
    assert states[:3] == [types_pb2.TASK_NEW, types_pb2.TASK_PENDING, types_pb2.TASK_ASSIGNED]
    assert states[-1] == types_pb2.TASK_RUNNING
    times = [transition.at_ms for transition in task.status.history]
    assert times == sorted(times)


@pytest.mark.parametrize(("ports", "lowest"), [(False, 3), (True, 2)])
def test_a_drain_leaves_what_the_budget_keeps(ports: bool, lowest: int) -> None:
    world = calm(4)

    def budget(spec: objects_pb2.ServiceSpec) -> None:
        spec.min_available = str(lowest)
        if ports:
            spec.endpoint.ports.add(target=80, published=8080, mode=types_pb2.PUBLISH_HOST)

    start(world, "web", 3, budget)
    for node_id in nodes_of(world, "web")[:2]:
        world.set_node(node_id, lambda node: setattr(node.spec, "availability", types_pb2.AVAILABILITY_DRAIN))
    seen = 3
    for _ in range(3000):
        world.run(10)
        seen = min(seen, len(running(world, "web")))
    assert seen == lowest
    assert len(running(world, "web")) == (2 if ports else 3), "with host ports two nodes are left for three"
    assert not {"node0", "node1"} & set(nodes_of(world, "web"))
