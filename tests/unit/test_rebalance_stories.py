"""Rebalancing, drains that take their time, and explanations. Virtual time."""

from __future__ import annotations

from collections import Counter

import pytest
from swarmpy.node.manager.plans import rebalance_plan
from swarmpy.node.plan.base import copy_of, is_live
from swarmpy.node.plan.explain import WhatIfRefused, explain
from swarmpy.node.plan.rebalance import moves_for
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

from tests.sim.plan_world import World
from tests.unit.test_plan_stories import calm, lowest_running, running, service_of, start

DRAIN = types_pb2.AVAILABILITY_DRAIN


def rebalance(world: World, **more: object) -> control_pb2.RebalanceResponse:
    response, changes = rebalance_plan(world.store, control_pb2.RebalanceRequest(**more), world.now_ms)  # type: ignore[arg-type]
    assert not world.commit(changes, "user", world.epoch)
    return response


def on_nodes(world: World) -> dict[str, int]:
    return dict(Counter(task.node_id for task in running(world)))


def test_tasks_move_to_a_node_that_joined_and_no_replica_is_missing() -> None:
    world = calm(2)
    start(world, 9)
    world.add_node("node2", zone="a")
    world.run(5_000)
    assert on_nodes(world) == {"node0": 5, "node1": 4}
    moves = rebalance(world).moves
    assert {move.to_node for move in moves} == {"node2"}
    assert lowest_running(world, 60_000) == 9
    assert on_nodes(world) == {"node0": 3, "node1": 3, "node2": 3}
    assert not rebalance(world).moves, "what is even stays"


def test_as_many_at_once_as_an_update_replaces() -> None:
    world = calm(1)
    start(world, 8)
    world.add_node("node1", zone="a")
    world.run(1000)
    rebalance(world)
    most = 0
    for _ in range(2000):
        world.run(20)
        tasks = world.store.tasks_of_service("web")
        most = max(most, sum(is_live(t, world.store) for t in tasks) - 8)
    assert most == 1
    assert on_nodes(world) == {"node0": 4, "node1": 4}


def test_at_most_so_many_moves_and_only_the_service_asked_for() -> None:
    world = calm(1)
    start(world, 8)
    world.add_node("node1", zone="a")
    world.run(1000)
    assert len(rebalance(world, max_moves=2).moves) == 2
    world.run(60_000)
    assert on_nodes(world) == {"node0": 6, "node1": 2}


def test_many_small_services_are_spread_too() -> None:
    world = calm(1)
    for number in range(6):
        service = objects_pb2.Service(spec_version=1)
        service.meta.id = service.meta.name = f"s{number}"
        service.spec.task.container.image = "good:1"
        service.spec.replicated.replicas = 1
        world.put(service)
    world.run(20_000)
    world.add_node("node1", zone="a")
    world.run(1000)
    assert len(rebalance(world).moves) == 3
    world.run(60_000)
    places = Counter(t.node_id for t in world.store.tasks() if is_live(t, world.store))
    assert places == {"node0": 3, "node1": 3}


def test_a_move_that_makes_nothing_more_even_is_not_made() -> None:
    world = calm(2)
    world.set_node("node0", lambda node: setattr(node.spec, "availability", types_pb2.AVAILABILITY_PAUSE))
    start(world, 1)
    world.set_node("node0", lambda node: setattr(node.spec, "availability", types_pb2.AVAILABILITY_ACTIVE))
    assert on_nodes(world) == {"node1": 1}
    assert not rebalance(world).moves
    world.set_service("web", lambda spec: setattr(spec.replicated, "replicas", 3))
    world.run(20_000)
    assert not rebalance(world).moves, "two and one is as even as three can be"


def test_zones_are_evened_out_before_nodes() -> None:
    world = calm(1)  # zone a
    start(world, 6, lambda spec: spec.task.placement.preferences.add(spread="node.labels.zone") and None)
    world.add_node("node1", zone="a")
    world.add_node("node2", zone="b")
    world.run(1000)
    while rebalance(world).moves:
        world.run(120_000)
    assert on_nodes(world)["node2"] == 3


def test_what_may_not_overlap_moves_stop_first_and_within_its_budget() -> None:
    def single(spec: objects_pb2.ServiceSpec) -> None:
        spec.update.order = types_pb2.ORDER_STOP_FIRST
        spec.min_available = "100%"

    world = calm(1)
    start(world, 4, single)
    world.add_node("node1", zone="a")
    world.run(1000)
    response = rebalance(world)
    assert not response.moves
    assert response.skipped == ["web: its tasks may not overlap, and its min-available leaves none to spare"]
    world.set_service("web", lambda spec: setattr(spec, "min_available", "3"))
    assert rebalance(world).moves
    assert lowest_running(world, 60_000) == 3
    assert on_nodes(world) == {"node0": 2, "node1": 2}


def test_it_happens_by_itself_where_it_is_asked_for() -> None:
    world = calm(2)
    cluster = copy_of(world.store.cluster())  # type: ignore[type-var]
    cluster.spec.auto_rebalance = True
    world.put(cluster)
    start(world, 9)
    world.add_node("node2", zone="a")
    world.set_node("node2", lambda node: setattr(node.status, "since_ms", world.now_ms))
    world.run(10_000)
    assert "node2" not in on_nodes(world), "it is given time to settle"
    world.run(120_000)
    assert on_nodes(world) == {"node0": 3, "node1": 3, "node2": 3}


def drain(world: World, parallelism: int, deadline_ms: int = 0) -> None:
    def change(node: objects_pb2.Node) -> None:
        node.spec.availability, node.spec.drain_parallelism = DRAIN, parallelism
        node.spec.drain_deadline_ms, node.drain_ms = deadline_ms, world.now_ms

    world.set_node("node0", change)


def test_a_drain_in_turn_never_loses_a_replica() -> None:
    world = calm(3)
    start(world, 9)
    drain(world, 1)
    assert lowest_running(world, 60_000) == 9
    assert "node0" not in on_nodes(world)
    assert all(t.leaving_reason == "DRAIN" for t in world.store.tasks_of_node("node0"))


def test_a_job_runs_to_its_end_on_a_node_that_is_drained_in_turn() -> None:
    world = calm(2)
    job = objects_pb2.Service(spec_version=1)
    job.meta.id = job.meta.name = "job"
    job.spec.task.container.image = "good:1"
    job.spec.task.restart.condition = types_pb2.RESTART_NONE
    job.spec.replicated_job.completions = 4
    world.put(job)
    start(world, 4)
    here = [
        t for t in world.store.tasks_of_node("node0") if t.service_id == "job" and is_live(t, world.store)
    ]
    drain(world, 1)
    world.run(60_000)
    assert here
    assert all(is_live(world.store.task(t.meta.id), world.store) for t in here)  # type: ignore[arg-type]
    assert on_nodes(world) == {"node1": 4}, "they do not hold up the others"


def test_what_fits_nowhere_else_stays_until_the_drains_deadline() -> None:
    world = calm(2)
    start(world, 2, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 1_500_000_000))
    drain(world, 1, deadline_ms=300_000)
    world.run(290_000)
    assert on_nodes(world) == {"node0": 1, "node1": 1}
    world.run(30_000)
    assert on_nodes(world) == {"node1": 1}


@pytest.mark.parametrize("seed", range(20))
def test_moves_always_end(seed: int) -> None:
    world = World(seed, nodes=3)
    world.failure_rate = 0.0
    random = world.random
    for number in range(4):
        service = objects_pb2.Service(spec_version=1)
        service.meta.id = service.meta.name = f"s{number}"
        service.spec.task.container.image = "good:1"
        service.spec.replicated.replicas = random.randint(0, 8)
        service.spec.task.resources.reservations.nano_cpus = random.choice((0, 100_000_000))
        if random.random() < 0.5:
            service.spec.task.placement.preferences.add(spread="node.labels.zone")
        world.put(service)
    world.run(30_000)
    for number in range(random.randint(1, 3)):
        world.add_node(f"new{number}", zone=random.choice("abc"))
    rounds = 0
    while rebalance(world, max_moves=5).moves:
        world.run(120_000)
        rounds += 1
        assert rounds < 30, "it goes round in circles"
    assert not moves_for(world.store, world.now_ms).moves


# ---- explain


def explained(world: World, task_id: str = "", **what_if: object) -> control_pb2.ExplainResponse:
    request = control_pb2.ExplainRequest(target="web", **what_if)  # type: ignore[arg-type]
    task = world.store.task(task_id) if task_id else None
    return explain(world.store, service_of(world), task, request, world.now_ms)


def problems(answer: control_pb2.ExplainResponse) -> dict[str, list[str]]:
    return {n.node: [f"{c.name}: {c.problem}" for c in n.filters if c.problem] for n in answer.nodes}


def test_every_node_every_filter_and_the_command_that_helps() -> None:
    world = calm(3)  # zones a, b, a
    start(world, 2, lambda spec: spec.task.placement.constraints.append("node.labels.disk==ssd"))
    answer = explained(world)
    assert answer.state == "pending"
    assert set(problems(answer)) == {"node0", "node1", "node2"}
    assert problems(answer)["node0"] == ["constraint: do not meet constraint node.labels.disk==ssd"]
    assert answer.advice[0] == "label node0: swarmpy node update --label-add disk=ssd node0"
    tried = explained(world, labels={"node1:disk": "ssd"})
    assert [node.node for node in tried.nodes if node.rank] == ["node1"]
    assert not tried.advice
    assert world.store.node("node1").meta.labels.get("disk") is None  # type: ignore[union-attr]
    with pytest.raises(WhatIfRefused, match="no node 'nobody'"):
        explained(world, labels={"nobody:disk": "ssd"})


def test_the_advice_places_the_task_when_it_is_followed() -> None:
    world = calm(2)
    start(world, 3, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 1_000_000_000))
    answer = explained(world)
    assert answer.advice == [
        "free 0.4 CPU on node0, or reserve less: swarmpy service update --reserve-cpu 0.6 web",
        "free 0.4 CPU on node1, or reserve less: swarmpy service update --reserve-cpu 0.6 web",
    ]
    less = types_pb2.Resources(nano_cpus=600_000_000)
    assert [n.rank for n in explained(world, reserve=True, reservations=less).nodes] == [1, 2]
    world.set_service("web", lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 600_000_000))
    world.run(120_000)
    assert len(running(world)) == 3


def test_nodes_that_need_more_than_one_change_are_named_as_such() -> None:
    world = calm(1)
    start(world, 1, lambda spec: spec.task.placement.constraints.append("node.labels.disk==ssd"))
    world.set_node("node0", lambda node: setattr(node.spec, "availability", DRAIN))
    (advice,) = explained(world).advice
    assert advice == (
        "no single change is enough; nearest is node0, which fails "
        "ready: are drained; constraint: do not meet constraint node.labels.disk==ssd"
    )


def test_a_running_task_does_not_stand_in_its_own_way() -> None:
    world = calm(2)
    start(world, 2, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", 1_500_000_000))
    task = running(world)[0]
    answer = explained(world, task.meta.id)
    (here,) = [node for node in answer.nodes if node.here]
    assert here.rank == 1
    assert [event.what.rpartition(": ")[2] for event in answer.events][:2] == [
        "pending",
        "assigned",
    ] or answer.events


def test_the_first_rank_is_where_the_scheduler_puts_the_next_task() -> None:
    world = calm(3)
    start(world, 4)
    best = next(node.node for node in explained(world).nodes if node.rank == 1)
    before = {task.meta.id for task in running(world)}
    world.set_service("web", lambda spec: setattr(spec.replicated, "replicas", 5))
    world.run(20_000)
    (new,) = [task for task in running(world) if task.meta.id not in before]
    assert new.node_id == best
