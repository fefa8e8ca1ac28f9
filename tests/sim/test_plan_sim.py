"""The whole leader against random histories: rescale, update, removal, failures, node death, new leaders.

`SEEDS=1000:1200 pytest tests/sim/test_plan_sim.py` runs other seeds, `FAULTS_MS=120000`
longer histories; a failure names its seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from swarmpy.node.plan.autoscale import AutoscalePlanner
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.rebalance import changes_of, moves_for
from swarmpy.node.plan.samples import External
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

from tests.sim.plan_world import START_MS, World
from tests.sim.pool import blocks, check, workers

FAULTS_MS = int(os.environ.get("FAULTS_MS", "30000"))


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers() as found:
        yield found


@pytest.mark.parametrize(("first", "last"), blocks("0:500"))
def test_histories(pool: ProcessPoolExecutor, first: int, last: int) -> None:
    check(pool, history, first, last)


def history(seed: int) -> World:
    """One random history from beginning to rest."""
    world = World(seed, nodes=3 + seed % 3)
    try:
        for number in range(1 + seed % 3):
            create(world, f"s{number}")
        end_ms = world.now_ms + FAULTS_MS
        while world.now_ms < end_ms:
            world.run(world.random.randint(1, 6000))
            act(world)
        world.settle()
    except AssertionError as error:
        raise AssertionError(f"seed {seed} at {world.now_ms - START_MS} ms: {error}") from error
    return world


def act(world: World) -> None:
    """Something happens."""
    roll = world.random.random()
    node_id = world.random.choice(sorted(world.agents))
    services = [s.meta.id for s in world.store.services() if not s.pending_delete]
    if roll < 0.15:
        world.elect()
    elif roll < 0.30:
        world.kill(node_id)
    elif roll < 0.45:
        world.revive(node_id)
    elif roll < 0.55:
        world.set_node(node_id, lambda node: choose_availability(world, node))
    elif roll < 0.60 or not services:
        if world.store.count(3) < 4:
            create(world, f"n{next(world.ids)}")
    elif roll < 0.65:
        service = copy_of(world.store.service(world.random.choice(services)))
        service.pending_delete = True
        world.put(service)
    elif roll < 0.75:
        world.set_service(world.random.choice(services), lambda spec: rescale(world, spec))
    elif roll < 0.78:
        moves = moves_for(world.store, world.now_ms, most=world.random.randint(1, 10)).moves
        world.commit(changes_of(moves, world.now_ms), "user", world.epoch)
    elif roll < 0.84:
        world.act(world.random.choice(services), world.random.choice(control_pb2.RolloutAction.values()))
    elif roll < 0.88:
        world.set_service(world.random.choice(services), lambda spec: new_limits(world, spec))
    else:
        world.set_service(world.random.choice(services), lambda spec: new_image(world, spec))


def choose_availability(world: World, node: objects_pb2.Node) -> None:
    """Active, paused, drained at once or in turn, with a deadline or none."""
    node.spec.availability = world.random.choice(list(types_pb2.Availability.values()))
    node.spec.drain_parallelism = world.random.choice((0, 1, 2))
    node.spec.drain_deadline_ms = world.random.choice((0, 5_000, 60_000))
    node.drain_ms = world.now_ms


def rescale(world: World, spec: objects_pb2.ServiceSpec) -> None:
    if spec.HasField("replicated"):
        most = len(world.agents) if spec.endpoint.ports else 7
        spec.replicated.replicas = world.random.randint(0, most)


def new_image(world: World, spec: objects_pb2.ServiceSpec) -> None:
    kind = "bad" if world.random.random() < 0.3 else "good"
    spec.task.container.image = f"{kind}:{next(world.ids)}"


def new_limits(world: World, spec: objects_pb2.ServiceSpec) -> None:
    resources = spec.task.resources
    resources.limits.memory_bytes = world.random.choice((0, 256 << 20, 512 << 20))
    resources.reservations.memory_bytes = world.random.choice((0, 64 << 20, 256 << 20))


def create(world: World, service_id: str) -> None:
    """A service with whatever options the generator likes."""
    random = world.random
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = service_id
    spec = service.spec
    spec.task.container.image = "good:1"
    spec.task.container.stop_grace_ms = 1000
    spec.task.resources.reservations.nano_cpus = random.choice((0, 100_000_000))
    spec.task.resources.reservations.memory_bytes = random.choice((0, 128 << 20))
    if random.random() < 0.3:
        spec.task.restart.delay_ms = random.choice((0, 1000, 20_000))
    if random.random() < 0.15:
        spec.task.restart.condition = types_pb2.RESTART_ON_FAILURE
    if random.random() < 0.3:
        spec.task.placement.constraints.append("node.labels.zone==a")
    elif random.random() < 0.4:
        spec.task.placement.preferences.add(spread="node.labels.zone")
    for config in (spec.update, spec.rollback):
        config.parallelism = random.choice((0, 1, 1, 2))
        config.delay_ms = random.choice((0, 0, 2000))
        config.order = random.choice(types_pb2.UpdateOrder.values())
        config.failure_action = random.choice(types_pb2.FailureAction.values())
        config.max_failure_ratio = random.choice((0.0, 0.0, 0.5))
    choose_gate(world, spec.update)
    if random.random() < 0.25:
        getattr(spec, "global").SetInParent()
    else:
        spec.replicated.replicas = random.randint(1, 6)
    if random.random() < 0.25 and not spec.task.placement.constraints:
        add_host_port(world, spec)
    world.put(service)
    if spec.HasField("replicated") and not spec.endpoint.ports and random.random() < 0.2:
        autoscale(world, service_id)


def autoscale(world: World, service_id: str) -> None:
    """Between bounds, by a number that changes now and then until the faults end; then nothing is known."""
    low = world.random.randint(1, 3)
    scaler = objects_pb2.Autoscaler(
        spec=objects_pb2.AutoscalerSpec(service_id=service_id, min=low, max=low + world.random.randint(0, 4))
    )
    scaler.meta.id = scaler.meta.name = f"a-{service_id}"
    scaler.spec.metrics.add(kind=objects_pb2.METRIC_PROMETHEUS, target=10, url="http://x/", query=service_id)
    world.put(scaler)
    end_ms = world.now_ms + FAULTS_MS

    def measure() -> None:
        planners = [
            leader.planner for leader in world.leaders if isinstance(leader.planner, AutoscalePlanner)
        ]
        total = world.random.choice((0, 15, 35, 80))
        planners[0].samples.record_external("http://x/", service_id, External(world.now_ms, total))
        if world.now_ms < end_ms:
            world.after(world.random.randint(2_000, 20_000), measure)

    measure()


def choose_gate(world: World, config: types_pb2.UpdateConfig) -> None:
    """Sometimes a canary or blue-green."""
    roll = world.random.random()
    config.auto_promote = world.random.random() < 0.5
    config.analysis.window_ms = 10_000
    if roll < 0.2:
        config.canary = world.random.choice(("1", "50%"))
    elif roll < 0.35 and config.order != types_pb2.ORDER_STOP_FIRST:
        config.strategy = types_pb2.STRATEGY_BLUE_GREEN
        config.keep_old_ms = world.random.choice((0, 5_000, 60_000))


def add_host_port(world: World, spec: objects_pb2.ServiceSpec) -> None:
    """A port on the node itself: at most one task of the service per node, and no overlap."""
    published = world.random.choice((0, 8000 + next(world.ids)))
    spec.endpoint.ports.add(target=80, published=published, mode=types_pb2.PUBLISH_HOST)
    for config in (spec.update, spec.rollback):
        config.order = types_pb2.ORDER_STOP_FIRST
    if spec.HasField("replicated"):
        spec.replicated.replicas = min(spec.replicated.replicas, len(world.agents))
