"""Snapshots: the same state again, at one point in time, and no damage goes unseen."""

from __future__ import annotations

import pytest
from swarmpy.proto import store_pb2
from swarmpy.raft import snapshot
from swarmpy.raft.snapshot import SnapshotDamaged
from swarmpy.raft.store import Store
from swarmpy.raft.tables import wrap

from tests.store_world import World, cluster, network, node, service, task


def filled() -> World:
    world = World()
    owner = service("s1")
    world.put(cluster(), node("n1"), owner, network("w1"))
    world.send([store_pb2.Change(put=wrap(task("t1", owner)))], request_id="r1")
    world.send((), request_id="r2")
    return world


def test_a_restored_store_is_the_same() -> None:
    world = filled()
    copy = Store()
    restored: list[int] = []
    copy.restore_listeners.append(lambda: restored.append(copy.index))
    copy.restore(world.store.snapshot())
    assert restored == [world.index]
    assert copy.state_hash() == world.store.state_hash()
    assert (copy.index, copy.epoch) == (world.store.index, world.store.epoch)
    assert copy.cluster() == world.store.cluster()
    assert [t.meta.id for t in copy.tasks_of_service("s1")] == ["t1"]
    original, world.store = world.store, copy
    assert world.send((), request_id="r1").duplicate
    assert b"".join(copy.snapshot())[-100:]  # can be taken again
    copy.restore(original.snapshot())
    assert copy.state_hash() == original.state_hash()


def test_the_snapshot_is_of_the_moment_it_was_asked_for() -> None:
    world = filled()
    before = world.store.state_hash()
    chunks = world.store.snapshot()
    world.put(service("s2"), service("s1", replicas=5))
    world.delete(store_pb2.KIND_NETWORK, "w1")
    world.send((), request_id="r3")
    copy = Store()
    copy.restore(chunks)
    assert copy.state_hash() == before != world.store.state_hash()


def test_chunks_are_small_and_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    world = filled()
    whole = b"".join(world.store.snapshot())
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 7)
    chunks = list(world.store.snapshot())
    assert max(map(len, chunks)) == 7
    assert b"".join(chunks) == whole
    for size in (1, 3, 64, len(whole)):
        copy = Store()
        copy.restore(whole[i : i + size] for i in range(0, len(whole), size))
        assert copy.state_hash() == world.store.state_hash()


def test_a_large_snapshot_has_chunks_of_a_mebibyte() -> None:
    world = World()
    for number in range(40):
        big = service(f"s{number}")
        big.spec.task.container.env.append("A=" + "x" * 100_000)
        world.put(big)
    chunks = list(world.store.snapshot())
    assert [len(c) for c in chunks[:-1]] == [1 << 20] * (len(chunks) - 1)
    copy = Store()
    copy.restore(chunks)
    assert copy.state_hash() == world.store.state_hash()


def test_every_cut_and_every_flipped_bit_is_seen() -> None:
    whole = b"".join(filled().store.snapshot())
    keeper = filled().store
    before = keeper.state_hash()
    for length in range(len(whole)):
        with pytest.raises(SnapshotDamaged):
            keeper.restore([whole[:length]])
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            with pytest.raises(SnapshotDamaged):
                keeper.restore([bytes(damaged)])
    for more in (b"\0", b"x", whole):
        with pytest.raises(SnapshotDamaged):
            keeper.restore([whole + more])
    assert keeper.state_hash() == before


def test_an_unknown_format_is_refused() -> None:
    header = store_pb2.SnapshotHeader(index=1)
    chunks = list(snapshot.write(header, [], {}))
    newer = bytearray(chunks[0])
    newer[newer.index(b"\x08\x01") + 1] = 9
    with pytest.raises(SnapshotDamaged, match="format 9"):
        snapshot.read([bytes(newer)])
