"""Raft under seeded faults in virtual time. A failure names its seed; run that one alone to see it again."""

from __future__ import annotations

import os

import pytest

from tests.sim.raft_world import World

SEEDS = int(os.environ.get("RAFT_SEEDS", "240"))
CHUNK = 24


def run(seed: int, *, seconds: int = 12, changes: bool = True) -> World:
    world = World(seed)
    chance = world.random
    for _ in range(seconds * 10):
        world.run_until(world.now + chance.randint(20, 180))
        for _ in range(chance.randint(0, 4)):
            world.propose()
        if chance.random() < 0.3:
            world.read()
        if chance.random() < 0.15:
            world.fault()
        if changes and chance.random() < 0.1:
            world.change()
    world.heal()
    world.check_end()
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_faults(first: int) -> None:
    acked = reads = installed = changes = 0
    for seed in range(first, first + CHUNK):
        try:
            world = run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acked += len(world.acked)
        reads += world.reads_done
        installed += world.snapshots_installed
        changes += world.changes
    assert acked > 50 * CHUNK, "the faults leave no room to work: the test proves nothing"
    assert reads > CHUNK
    assert installed > 0
    assert changes > CHUNK


def test_the_same_seed_is_the_same_history() -> None:
    one, two = run(7), run(7)
    assert one.committed == two.committed
    assert one.leaders == two.leaders
