"""Raft under seeded faults in virtual time. A failure names its seed.

`SEEDS=417:418 pytest tests/sim/test_raft_simulation.py` runs that one again (or others);
`SECONDS=60` makes each history that long in virtual time.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.raft_world import World

FIRST, LAST = (int(part) for part in os.environ.get("SEEDS", "0:1000").split(":"))
SECONDS = int(os.environ.get("SECONDS", "8"))
CHUNK = 50


def run(seed: int, *, seconds: int = SECONDS, changes: bool = True) -> World:
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


@pytest.mark.parametrize("first", range(FIRST, LAST, CHUNK))
def test_faults(first: int) -> None:
    seeds = range(first, min(first + CHUNK, LAST))
    acked = reads = installed = changes = failed_syncs = 0
    for seed in seeds:
        try:
            world = run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acked += len(world.acked)
        reads += world.reads_done
        installed += world.snapshots_installed
        changes += world.changes
        failed_syncs += world.failed_syncs
    if len(seeds) < CHUNK:
        return  # too few to say that enough happened
    assert acked > 3 * SECONDS * CHUNK, "the faults leave no room to work: the test proves nothing"
    assert reads > CHUNK
    assert installed > 0
    assert changes > CHUNK
    assert failed_syncs > 0


def test_the_same_seed_is_the_same_history() -> None:
    one, two = run(7), run(7)
    assert one.committed == two.committed
    assert one.leaders == two.leaders
