"""Volumes through random histories: no write is ever lost, nothing starts where its data is not, nothing is left.

`SEEDS=1000:1200 pytest tests/sim/test_volume_sim.py` runs other seeds; a failure names its seed.
"""

from __future__ import annotations

import os

import pytest
from swarmpy.node.plan import volumes
from swarmpy.proto import objects_pb2, types_pb2

from tests.sim.plan_world import START_MS
from tests.sim.volume_world import VolumeWorld

FIRST, LAST = (int(part) for part in os.environ.get("SEEDS", "0:24").split(":"))
FAULTS_MS = 90_000
SOURCES = ("data", "data-{{.Task.Slot}}", "both", "both")


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_history(seed: int) -> None:
    history(seed)


def history(seed: int) -> VolumeWorld:
    world = VolumeWorld(seed, nodes=3 + seed % 2)
    world.copy_failures = 0.1 if seed % 2 else 0.0
    try:
        for number in range(1 + seed % 3):
            create(world, f"s{number}", SOURCES[(seed + number) % len(SOURCES)])
        end_ms = world.now_ms + FAULTS_MS
        while world.now_ms < end_ms:
            world.run(world.random.randint(1, 5000))
            act(world)
        world.settle()
    except AssertionError as error:
        raise AssertionError(f"seed {seed} at {world.now_ms - START_MS} ms: {error}") from error
    return world


def create(world: VolumeWorld, service_id: str, source: str) -> None:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = service_id
    service.spec.task.container.image = "good:1"
    mount = service.spec.task.container.mounts.add(source=source, target="/data")
    mount.type = types_pb2.MOUNT_VOLUME
    service.spec.replicated.replicas = world.random.randint(1, 4)
    world.put(service)


def act(world: VolumeWorld) -> None:
    """Something happens."""
    roll = world.random.random()
    node_id = world.random.choice(sorted(world.agents))
    homed = [v for v in world.store.volumes() if v.node_id and not v.pending_delete]
    if roll < 0.12:
        world.elect()
    elif roll < 0.22:
        world.kill(node_id)
    elif roll < 0.42:
        world.revive(node_id)
    elif roll < 0.5:
        drained = world.random.random() < 0.4
        world.set_node(
            node_id,
            lambda node: setattr(
                node.spec,
                "availability",
                types_pb2.AVAILABILITY_DRAIN if drained else types_pb2.AVAILABILITY_ACTIVE,
            ),
        )
    elif roll < 0.75 and homed:
        world.move(world.random.choice(homed).meta.id, node_id)
    elif roll < 0.85:
        service = world.random.choice(list(world.store.services()))
        world.set_service(
            service.meta.id,
            lambda spec: setattr(spec.replicated, "replicas", world.random.randint(0, 4)),
        )
    elif homed:
        volume = world.random.choice(homed)
        if not volumes.users_of(world.store, volume.meta.id):
            world.change_volume(volume.meta.id, lambda v: setattr(v, "pending_delete", True))
            world.truth.pop(volume.meta.id, None)


def test_the_histories_move_volumes() -> None:
    """The test above would hold of a planner that moves nothing."""
    assert sum(history(seed).moved for seed in range(4)) > 3
