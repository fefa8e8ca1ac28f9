"""N and N-1: what a version does not understand it does not apply, and nothing new is proposed before all can."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.manager import levels as gates
from swarmpy.node.manager.errors import Refused
from swarmpy.node.manager.leader import Leader
from swarmpy.node.manager.members import Members
from swarmpy.node.plan.base import Draft
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft import levels
from swarmpy.raft.guard import guarded
from swarmpy.raft.levels import BUILDS, LEVEL, StateTooNew
from swarmpy.raft.log import LogDamaged, OtherVersion
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.unit.test_chaos_leadership import LoneLog


def cluster(level: int) -> objects_pb2.Cluster:
    made = objects_pb2.Cluster(state_level=level)
    made.meta.id, made.meta.name = "c", "cluster"
    return made


def node(name: str, level: int, *, manager: bool = True) -> objects_pb2.Node:
    role = types_pb2.ROLE_MANAGER if manager else types_pb2.ROLE_WORKER
    made = objects_pb2.Node(role=role)
    made.meta.id = made.meta.name = name
    made.spec.role = role
    made.description.state_level, made.description.version = level, "0.0.9"
    return made


def store_of(*entities: Any) -> Store:
    store = Store()
    first = transaction([], epoch=1, now_ms=1, new_epoch=True)
    store.apply(1, first)
    for index, entity in enumerate(entities, 2):
        change = store_pb2.Change(put=wrap(entity))
        answer = store.apply(index, transaction([change], epoch=1, now_ms=1))
        assert not store_pb2.TransactionResult.FromString(answer).error_code
    return store


def test_a_state_of_a_higher_level_is_not_applied() -> None:
    store = store_of(cluster(LEVEL))
    before = store.state_hash()
    newer = cluster(LEVEL + 1)
    change = store_pb2.Change(put=wrap(newer), expected_version=2)
    with pytest.raises(StateTooNew, match=f"level {LEVEL + 1}.*start this manager with the version"):
        guarded(store, 3, transaction([change], epoch=1, now_ms=1))
    assert store.state_hash() == before


def test_nor_read_from_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "LEVEL", LEVEL + 1)
    newer = list(store_of(cluster(LEVEL + 1)).snapshot())
    monkeypatch.undo()
    store = store_of(cluster(LEVEL), node("n1", LEVEL))
    before = store.state_hash()
    with pytest.raises(StateTooNew):
        store.restore(newer)
    assert store.state_hash() == before
    store.restore(store_of(cluster(LEVEL)).snapshot())  # its own level is read


def test_a_snapshot_from_before_levels_is_read() -> None:
    store = Store()
    store.restore(store_of(cluster(0)).snapshot())
    assert store.cluster() is not None


@pytest.mark.parametrize(
    ("others", "in_force", "allowed"),
    [
        ((BUILDS, BUILDS), BUILDS, True),
        ((BUILDS, 0), 0, False),
        ((0, 0), 0, False),
        ((BUILDS, BUILDS), 0, False),
    ],
)
def test_what_is_new_waits_for_every_manager(others: tuple[int, int], in_force: int, allowed: bool) -> None:
    nodes = [node("n1", others[0]), node("n2", others[1]), node("n3", 0, manager=False)]
    store = store_of(cluster(in_force), *nodes)
    if allowed:
        gates.require(store, BUILDS, "this")
        return
    with pytest.raises(Refused, match="must be understood by every manager") as refused:
        gates.require(store, BUILDS, "this")
    assert ("n2 (0.0.9)" in str(refused.value)) is (others[1] == 0)
    assert "n3" not in str(refused.value)


def test_a_node_of_an_older_version_does_not_become_a_manager() -> None:
    store = store_of(cluster(BUILDS), node("n1", BUILDS), old := node("n2", 0, manager=False))
    gates.check_promotion(store, node("n4", BUILDS, manager=False))
    with pytest.raises(Refused, match="upgrade it before it becomes a manager"):
        gates.check_promotion(store, old)


@pytest.mark.parametrize(
    ("reported", "before", "after"),
    [((1, 1, 1), 0, 1), ((1, 0, 1), 0, 0), ((1, 0, 1), 1, 1), ((9, 9, 9), 0, LEVEL), ((), 0, 0)],
)
def test_the_leader_raises_the_level_to_what_all_managers_understand(
    reported: tuple[int, ...], before: int, after: int
) -> None:
    async def main() -> None:
        nodes = [node(f"n{number}", level) for number, level in enumerate(reported)]
        worker = node("w", 0, manager=False)
        store = Store()
        log: Any = LoneLog(store)
        leader = Leader(log, store)
        members = Members(leader, "n0")
        begun = asyncio.Event()

        async def job() -> None:
            begun.set()
            await asyncio.Event().wait()

        leader.jobs = [job]
        leading = asyncio.create_task(leader.run())
        log.announce(True, 1)
        await asyncio.wait_for(begun.wait(), 5)
        draft = Draft(store)
        for entity in (cluster(before), worker, *nodes):
            draft.put(entity)
        assert not (await leader.try_commit(draft.changes(), "test")).error_code
        await members._settings()
        found = store.cluster()
        assert found is not None
        assert found.state_level == after
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(main())


def test_files_of_another_format_are_not_taken_for_damaged(tmp_path: Path) -> None:
    """Damaged ones are set aside; these are whole."""
    import hashlib

    from swarmpy.proto import raft_pb2
    from swarmpy.raft import keyring
    from swarmpy.raft.keyring import FILE_NAME, MAGIC

    body = raft_pb2.KeyFile(format=keyring.FORMAT + 1).SerializeToString()
    path = tmp_path / FILE_NAME
    path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)
    with pytest.raises(OtherVersion, match="start this manager with the version") as refused:
        keyring.read_key_file(path)
    assert not isinstance(refused.value, LogDamaged)
