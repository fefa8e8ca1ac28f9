"""Earlier states from snapshots and log: exactly what the store was then, or a sentence how far back it goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, raft_pb2, store_pb2, types_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.core_log import COMMAND, NOOP, Entry, Log
from swarmpy.raft.past import Forgotten, material, state_at
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.unit.test_manager_process import Running, paths, run, service
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]

START_MS = 1_700_000_000_000


def history(
    directory: Path, *, entries: int, snapshots: tuple[int, ...] = (), keep_from: int = 0
) -> tuple[Log, Checkpoints, dict[int, bytes]]:
    """A log of writes, one a second, its snapshots, and the hash of the state after each."""
    store, log, checkpoints = Store(), Log(), Checkpoints(directory)
    hashes: dict[int, bytes] = {}
    for index in range(1, entries + 1):
        now_ms = START_MS + index * 1000
        if index == 1:
            entry = Entry(1, 1, COMMAND, transaction((), epoch=1, now_ms=now_ms, new_epoch=True))
        elif index % 7 == 0:
            entry = Entry(index, 1, NOOP, b"")
        else:
            network = objects_pb2.Network(meta=types_pb2.Meta(id=f"n{index}", name=f"n{index}"))
            changes = [store_pb2.Change(put=wrap(network))]
            entry = Entry(index, 1, COMMAND, transaction(changes, epoch=1, now_ms=now_ms))
        log.append(entry)
        if entry.kind == COMMAND:
            store.apply(index, entry.data)
        hashes[index] = store.state_hash()
        if index in snapshots:
            checkpoints.write(raft_pb2.SnapshotMeta(index=index, term=1), store.snapshot())
    if keep_from:
        log.compact(keep_from)
    return log, checkpoints, hashes


@pytest.mark.parametrize(("snapshots", "keep_from"), [((), 0), ((20, 40), 0), ((20, 40), 20), ((20, 40), 40)])
def test_every_state_that_is_kept_comes_back(
    tmp_path: Path, snapshots: tuple[int, ...], keep_from: int
) -> None:
    log, checkpoints, hashes = history(tmp_path, entries=60, snapshots=snapshots, keep_from=keep_from)
    known = material(log, 55, checkpoints)
    for index in range(max(1, keep_from), 56):
        assert state_at(known, index=index).state_hash() == hashes[index], index
    if keep_from:
        with pytest.raises(Forgotten, match=f"the oldest state that is kept is that of index {keep_from}"):
            state_at(known, index=keep_from - 1)
    with pytest.raises(Forgotten, match="in the future"):
        state_at(known, index=56)


def test_a_time_is_the_state_after_the_last_write_before_it(tmp_path: Path) -> None:
    log, checkpoints, hashes = history(tmp_path, entries=60, snapshots=(20, 40), keep_from=20)
    known = material(log, 60, checkpoints)
    for index in (24, 40, 41, 55):
        assert state_at(known, time_ms=START_MS + index * 1000 + 500).state_hash() == hashes[index]
    assert state_at(known, time_ms=START_MS * 2).state_hash() == hashes[60]
    with pytest.raises(Forgotten):
        state_at(known, time_ms=START_MS + 5000)


def test_the_cluster_as_it_was_from_the_command_line(paths: Paths) -> None:
    async def story(m: Running) -> None:
        await m.control.Create(service("web", 1))
        await cli(m, "service", "update", "web", "--label-add", "a=1", "-d")
        then = m.store.index
        await asyncio.sleep(0.02)
        await cli(m, "service", "scale", "web=4", "-d")
        await cli(m, "service", "rm", "web", "-d")
        await m.until(lambda: not list(m.store.services()), "it is gone")
        assert (await cli(m, "service", "inspect", "web")).exit_code == 4
        old = await cli(
            m, "--at", str(then), "service", "inspect", "web", "--format", "{{.Spec.Replicated.Replicas}}"
        )
        assert old.output == "1\n"
        listed = await cli(m, "--at", str(then), "service", "ls", "--format", "{{.Name}}")
        assert listed.output == "web\n"
        before = await cli(m, "--at", "2000-01-01T00:00:00Z", "service", "ls", "-q")
        assert (before.exit_code, before.output) == (0, ""), "nothing was there yet"
        future = await cli(m, "--at", "999999", "service", "ls")
        assert (future.exit_code, "in the future" in future.output) == (1, True)
        refused = await cli(m, "--at", str(then), "service", "scale", "web=2")
        assert (refused.exit_code, "--at is for reading" in refused.output) == (2, True)
        assert (await cli(m, "--at", "soon", "service", "ls")).exit_code == 2

    run(paths, story)
