"""A cluster forced on without its majority, and one planted from a snapshot: real members over TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.log import LogDamaged, NotLeader, OutcomeUnknown
from swarmpy.raft.recover import Position, Seed
from swarmpy.raft.replica import RaftNode

from tests.integration.raft_cluster import Cluster, Ledger, common_name, context, wait_for


def run(directory: Path, scenario: Callable[[Cluster], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        cluster = Cluster(directory, **options)
        try:
            await scenario(cluster)
        finally:
            await cluster.stop_all()

    asyncio.run(main())


async def start(cluster: Cluster, name: str, **options: Any) -> RaftNode:
    """Like Cluster.start, with the options of beginning again."""
    if name not in cluster.ports:
        await cluster.start(name)
        await cluster.stop(name)
        for path in (cluster.directory / name).glob("*.wal"):
            path.unlink()
    ledger = cluster.ledgers[name] = Ledger()
    node = RaftNode(
        node_id=name, address=cluster.address(name), listen=("127.0.0.1", cluster.ports[name]),
        directory=cluster.directory / name, state_machine=ledger, bootstrap=options.pop("bootstrap", False),
        server_ssl=lambda: context(cluster.directory, name, server=True),
        client_ssl=lambda: context(cluster.directory, name, server=False),
        peer_id=common_name, on_fatal=lambda reason: cluster.fatal.append((name, reason)),
        on_removed=lambda: cluster.removed.append(name), limits=cluster.limits, **options,
    )  # fmt: skip
    node.on_leadership(lambda leads, term: cluster.led.append((name, leads, term)))
    await node.start()
    cluster.nodes[name] = node
    return node


def newest(positions: list[Position]) -> tuple[int, int, int]:
    return max((p.generation, p.last_term, p.last_index) for p in positions)


def test_survivor_goes_on_alone_with_everything_committed(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.of_three()
        for number in range(20):
            await cluster.propose(b"%d" % number)
        last = cluster.nodes["n3"]
        await wait_for(lambda: len(cluster.ledgers["n3"].commands) == 20)
        before = last.position()
        await cluster.stop_all()
        alone = await start(cluster, "n3", force_new_cluster=True)
        await wait_for(lambda: alone.status().is_leader)
        await cluster.propose(b"after")
        assert cluster.ledgers["n3"].commands == [*(b"%d" % n for n in range(20)), b"after"]
        after = alone.position()
        assert after.voters == ("n3",)
        assert after.generation == 1
        assert after.term > before.term
        await cluster.stop("n3")
        again = await start(cluster, "n3", force_new_cluster=True)
        await wait_for(lambda: again.status().is_leader)
        await again.read_barrier()
        assert again.position().generation == 1, "forcing again changes nothing"
        assert cluster.ledgers["n3"].commands[-1] == b"after"

    run(tmp_path, scenario)


def test_old_majority_that_comes_back_is_superseded_and_joins_again(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.of_three()
        for number in range(20):
            await cluster.propose(b"%d" % number)
        await wait_for(lambda: len(cluster.ledgers["n3"].commands) == 20)
        await cluster.stop("n3")
        for number in range(5):
            await cluster.propose(b"only on the majority %d" % number)
        await cluster.stop_all()

        alone = await start(cluster, "n3", force_new_cluster=True)
        await wait_for(lambda: alone.status().is_leader)
        await cluster.propose(b"recovered")
        term = alone.status().term
        await start(cluster, "n1", bootstrap=True)
        await start(cluster, "n2")
        await wait_for(lambda: {name for name, _ in cluster.fatal} == {"n1", "n2"})
        assert alone.status().is_leader
        assert alone.status().term == term, "they disturbed nobody"
        for name in ("n1", "n2"):
            await cluster.stop(name)

        # The founder must not found again.
        await start(cluster, "n1", bootstrap=True)
        await start(cluster, "n2")
        assert list((cluster.directory / "n1" / "superseded-1").glob("*.wal")), "the old log is kept"
        await asyncio.sleep(1.5)
        assert not cluster.nodes["n1"].status().is_leader
        assert cluster.nodes["n1"].status().members == ()
        for name in ("n1", "n2"):
            await alone.add_member(name, cluster.address(name))
        wanted = [*(b"%d" % n for n in range(20)), b"recovered"]
        await wait_for(lambda: all(cluster.ledgers[n].commands == wanted for n in ("n1", "n2", "n3")))
        assert len({n.position().generation for n in cluster.nodes.values()}) == 1

    run(tmp_path, scenario)


def test_emptied_member_neither_votes_for_the_old_ones_nor_lets_them_pass(tmp_path: Path) -> None:
    """n1 was superseded; n2 was not reached by the recovered manager, only by n1."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.of_three()
        await cluster.propose(b"one")
        await cluster.stop_all()
        await start(cluster, "n3", force_new_cluster=True)
        await start(cluster, "n1")
        await wait_for(lambda: [name for name, _ in cluster.fatal] == ["n1"])
        await cluster.stop_all()
        cluster.fatal.clear()
        cluster.led.clear()
        await start(cluster, "n1", bootstrap=True)
        await start(cluster, "n2")
        await wait_for(lambda: [name for name, _ in cluster.fatal] == ["n2"])
        assert not cluster.led, "n1 and n2 are a majority of the old cluster and must not lead it"

    run(tmp_path, scenario)


def test_new_member_joins_a_recovered_cluster_by_snapshot(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.of_three()
        for number in range(30):
            await cluster.propose(b"%d" % number)
        await wait_for(lambda: len(cluster.ledgers["n2"].commands) == 30)
        await cluster.stop_all()
        alone = await start(cluster, "n2", force_new_cluster=True)
        await wait_for(lambda: alone.status().is_leader)
        for number in range(30):
            await cluster.propose(b"more %d" % number)
        await cluster.start("n9")
        await alone.add_member("n9", cluster.address("n9"))
        await wait_for(lambda: len(cluster.ledgers["n9"].commands) == 60)
        assert cluster.nodes["n9"].position().generation == 1

    run(tmp_path, scenario, limits=Limits(snapshot_entries=10, trailing_entries=2))


def test_who_is_not_a_member_cannot_force(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("n1")
        await cluster.stop("n1")
        with pytest.raises(LogDamaged, match="not in the newest configuration"):
            await start(cluster, "n1", force_new_cluster=True)

    run(tmp_path, scenario)


def test_seed_is_the_first_state_once(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        old = Ledger()
        old.commands = [b"a", b"b"]
        return old.snapshot()

    async def scenario(cluster: Cluster) -> None:
        seed = Seed(index=500, term=7, generation=3, chunks=chunks)
        node = await start(cluster, "n1", seed=seed)
        await wait_for(lambda: node.status().is_leader)
        assert await cluster.propose(b"c") > 500
        assert node.status().term > 7
        assert node.position().generation == 3
        await cluster.stop("n1")
        node = await start(cluster, "n1", seed=seed)
        await wait_for(lambda: node.status().is_leader)
        await node.read_barrier()
        assert cluster.ledgers["n1"].commands == [b"a", b"b", b"c"]
        await cluster.start("n2")
        await node.add_member("n2", cluster.address("n2"))
        await wait_for(lambda: cluster.ledgers["n2"].commands == [b"a", b"b", b"c"])

    run(tmp_path, scenario)


def test_write_under_way_when_the_majority_is_lost_is_answered_soon(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await cluster.of_three()
        await cluster.propose(b"one")
        for name in ("n2", "n3"):
            await cluster.stop(name)
        async with asyncio.timeout(15):
            with pytest.raises(OutcomeUnknown, match="lead was lost"):
                await leader.propose(b"two", timeout=60)
            with pytest.raises(NotLeader):
                await leader.propose(b"three", timeout=60)

    run(tmp_path, scenario)


def test_newest_is_by_generation_then_term_then_index() -> None:
    def at(generation: int, term: int, index: int) -> Position:
        return Position(term, index, term, index, index, generation, "", ())

    assert newest([at(0, 9, 900), at(1, 3, 10), at(1, 3, 9), at(1, 2, 99)]) == (1, 3, 10)
