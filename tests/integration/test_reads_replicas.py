"""Reads over three real replicas: never stale unless asked for, and then marked; replicas that differ."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from swarmpy.node.manager.checks import set_snapshots_aside
from swarmpy.node.manager.errors import NotLeading
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.checkpoint import Limits

from tests.integration.manager_replicas import NAMES, Manager, Managers
from tests.integration.raft_cluster import wait_for


async def make_network(manager: Manager, name: str) -> int:
    made = objects_pb2.Network(meta=types_pb2.Meta(name=name))
    _, index = await manager.writer.create(made, "test", f"request-{name}", by_manager=False)
    return index


def test_a_read_shows_what_was_acknowledged_and_many_share_a_barrier(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            leader = await managers.of_three()
            barriers = 0
            plain = leader.raft.read_barrier

            async def counted(timeout: float = 2) -> int:
                nonlocal barriers
                barriers += 1
                return await plain(timeout)

            leader.raft.read_barrier = counted  # type: ignore[method-assign]
            index = await make_network(leader, "a")
            await asyncio.gather(*(leader.reads.barrier() for _ in range(200)))
            assert barriers <= 2
            assert leader.store.index >= index
            with pytest.raises(NotLeading):
                await managers.all["n2"].reads.barrier()
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_a_leader_without_a_majority_answers_nothing(tmp_path: Path) -> None:
    """The moment after the cut, while it still believes that it leads."""

    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            leader = await managers.of_three()
            await make_network(leader, "a")
            for name in ("n2", "n3"):
                await managers.kill(name)
            assert leader.leader.leading
            with pytest.raises(NotLeading, match="cannot confirm"):
                await leader.reads.barrier()
            await wait_for(lambda: not leader.leader.leading)
            await leader.reads.own_copy(0)
            age_ms = leader.reads.staleness().age_ms
            await asyncio.sleep(0.2)
            assert leader.reads.staleness().age_ms >= age_ms + 150
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_a_copy_shows_the_clients_own_writes_or_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            leader = await managers.of_three()
            for number in range(20):
                index = await make_network(leader, f"x{number}")
                for name in NAMES:
                    copy = managers.all[name]
                    await copy.reads.own_copy(index)
                    assert copy.store.by_name(store_pb2.KIND_NETWORK, f"x{number}") is not None
            with pytest.raises(NotLeading, match="has not reached"):
                await managers.all["n2"].reads.own_copy(index + 100)
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_who_passes_calls_on_hears_of_a_new_leader(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            await managers.of_three()
            other = managers.all["n2"].leader
            await wait_for(lambda: other.known_leader == "n1")
            waiting = asyncio.ensure_future(other.until_moved("n1"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await managers.kill("n1")
            await asyncio.wait_for(waiting, 5)
            assert other.known_leader != "n1"
        finally:
            await managers.stop_all()

    asyncio.run(main())


@pytest.mark.parametrize("damaged", ["n1", "n3"])
def test_a_replica_that_differs_is_found_and_heals_from_a_good_snapshot(tmp_path: Path, damaged: str) -> None:
    """n1 leads: two of three decide, so a damaged leader does not win."""

    async def main() -> None:
        managers = Managers(tmp_path, limits=Limits(snapshot_entries=20, trailing_entries=60))
        try:
            leader = await managers.of_three()
            for number in range(30):
                await make_network(leader, f"x{number}")
            await leader.checks.check()
            assert managers.diverged == []
            bad = managers.all[damaged]
            verified = bad.checks.verified_index
            assert verified == leader.store.index
            odd = objects_pb2.Network()
            odd.CopyFrom(next(iter(bad.store.networks())))
            odd.meta.labels["damaged"] = "yes"
            bad.store._tables.put(odd)
            for number in range(30, 60):
                await make_network(leader, f"x{number}")
            await leader.checks.check()
            assert [name for name, _ in managers.diverged] == [damaged]
            assert "not what the other managers have" in managers.diverged[0][1]

            await managers.kill(damaged)
            set_snapshots_aside(tmp_path / damaged, verified)
            healed = await managers.start(damaged)
            leader = await managers.wait_leading()
            everyone = managers.all.values()
            await wait_for(
                lambda: len({m.store.index for m in everyone}) == 1 and healed.store.index > verified
            )
            assert len({m.store.state_hash() for m in managers.all.values()}) == 1
            await leader.checks.check()
            assert len(managers.diverged) == 1
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_an_object_changed_in_place_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            leader = await managers.start("n1", bootstrap=True)
            await wait_for(lambda: leader.leader.leading)
            for number in range(7):
                await make_network(leader, f"x{number}")
            assert [leader.store.scrub(3) for _ in range(6)] == [None] * 6
            touched = next(iter(leader.store.networks()))
            touched.meta.labels["changed"] = "in place"
            assert {leader.store.scrub(3) for _ in range(6)} == {
                None,
                (store_pb2.KIND_NETWORK, touched.meta.id),
            }
        finally:
            await managers.stop_all()

    asyncio.run(main())
