"""The Log port, held against a single member and a group of three over TLS on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.log import (
    COMMAND_BYTES_MAX,
    ApplyFailed,
    LogClosed,
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    TooLarge,
    TransferFailed,
)
from swarmpy.raft.replica import RaftNode

from tests.integration.raft_cluster import Cluster, wait_for

Scenario = Callable[[Cluster, RaftNode], Awaitable[None]]


def run(directory: Path, scenario: Scenario, *, members: int, limits: Limits | None = None) -> Cluster:
    async def main() -> Cluster:
        cluster = Cluster(directory, limits=limits)
        try:
            if members == 3:
                leader = await cluster.of_three()
            else:
                leader = await cluster.start("n1", bootstrap=True)
                await wait_for(lambda: bool(cluster.led))
            await scenario(cluster, leader)
        finally:
            await cluster.stop_all()
        return cluster

    cluster = asyncio.run(main())
    assert cluster.fatal == []
    return cluster


both = pytest.mark.parametrize("members", [1, 3])


@both
def test_commands_are_applied_in_order_and_answered(tmp_path: Path, members: int) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        answers = await asyncio.gather(*(leader.propose(b"%d" % i) for i in range(300)))
        assert [a.result for a in answers] == [b"%d" % (i + 1) for i in range(300)]
        assert [a.index for a in answers] == list(range(answers[0].index, answers[0].index + 300))
        for name in cluster.nodes:
            await wait_for(lambda name=name: len(cluster.ledgers[name].commands) == 300)
            assert cluster.ledgers[name].commands == [b"%d" % i for i in range(300)]

    run(tmp_path, scenario, members=members)


@both
def test_an_error_in_the_state_machine_is_an_answer(tmp_path: Path, members: int) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        with pytest.raises(ApplyFailed, match="asked to"):
            await leader.propose(b"raise")
        assert (await leader.propose(b"next")).result == b"1"

    run(tmp_path, scenario, members=members)


@both
def test_limits_and_ends(tmp_path: Path, members: int) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        with pytest.raises(TooLarge):
            await leader.propose(b"x" * (COMMAND_BYTES_MAX + 1))
        assert (await leader.propose(b"x" * COMMAND_BYTES_MAX)).result == b"1"
        await cluster.stop("n1")
        with pytest.raises(LogClosed):
            await leader.propose(b"late")
        with pytest.raises(LogClosed):
            leader.status()

    run(tmp_path, scenario, members=members)


@both
def test_a_barrier_follows_what_was_acknowledged(tmp_path: Path, members: int) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        for _ in range(20):
            index = (await leader.propose(b"w")).index
            assert await leader.read_barrier() >= index
            assert leader.status().applied_index >= index

    run(tmp_path, scenario, members=members)


@both
def test_state_survives_a_full_restart(tmp_path: Path, members: int) -> None:
    """With snapshots made on the way, and a configuration that is only in one of them."""

    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        for number in range(130):
            await cluster.propose(b"%d" % number)
        names = sorted(cluster.nodes)
        await cluster.stop_all()
        for name in names:
            await cluster.start(name)
        again = await cluster.wait_leader()
        assert (await again.propose(b"more", timeout=5)).result == b"131"
        await again.read_barrier()
        assert cluster.ledgers[again.node_id].commands == [*(b"%d" % i for i in range(130)), b"more"]
        assert sorted(m.node_id for m in again.status().members) == names

    run(tmp_path, scenario, members=members, limits=Limits(snapshot_entries=40, trailing_entries=10))


def test_a_single_member_refuses_what_it_cannot(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        with pytest.raises(MembershipRefused, match="last manager"):
            await leader.remove_member("n1")
        with pytest.raises(MembershipRefused, match="not a manager"):
            await leader.remove_member("nobody")
        with pytest.raises(TransferFailed):
            await leader.transfer_leadership()

    run(tmp_path, scenario, members=1)


def test_followers_name_the_leader(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        follower = cluster.nodes["n2"]
        for attempt in (follower.propose(b"x"), follower.read_barrier(), follower.remove_member("n3")):
            with pytest.raises(NotLeader) as error:
                await attempt
            assert error.value.leader_id == "n1"

    run(tmp_path, scenario, members=3)


def test_hand_over_moves_the_lead_and_tells_the_listeners(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        assert await leader.transfer_leadership("n3") == "n3"
        await wait_for(lambda: any(name == "n3" and leads for name, leads, _ in cluster.led))
        first = cluster.led[0][2]
        assert cluster.led == [("n1", True, first), ("n1", False, first), ("n3", True, first + 1)]
        await cluster.nodes["n3"].propose(b"x")
        with pytest.raises(TransferFailed, match="not a manager"):
            await cluster.nodes["n3"].transfer_leadership("nobody")

    run(tmp_path, scenario, members=3)


def test_removed_and_added_again(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        await leader.propose(b"one")
        await leader.remove_member("n3")
        await wait_for(lambda: cluster.removed == ["n3"])
        assert sorted(m.node_id for m in leader.status().members) == ["n1", "n2"]
        await leader.propose(b"two")
        await cluster.stop("n3")
        for path in (tmp_path / "n3").iterdir():
            path.unlink()
        await cluster.start("n3")
        await leader.add_member("n3", cluster.address("n3"))
        await leader.propose(b"three")
        await wait_for(lambda: cluster.ledgers["n3"].commands == [b"one", b"two", b"three"])
        assert cluster.removed == ["n3"]

    run(tmp_path, scenario, members=3)


def test_removed_while_away_learns_it_on_return(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        await cluster.stop("n3")
        await leader.remove_member("n3")
        await leader.propose(b"x")
        await cluster.start("n3")
        await wait_for(lambda: cluster.removed == ["n3"])
        assert leader.status().is_leader

    run(tmp_path, scenario, members=3)


def test_a_leader_can_remove_itself(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        await leader.propose(b"one")
        await leader.remove_member("n1")
        assert cluster.removed == ["n1"]
        await cluster.stop("n1")
        await cluster.propose(b"two")
        new = await cluster.wait_leader()
        assert sorted(m.node_id for m in new.status().members) == ["n2", "n3"]

    run(tmp_path, scenario, members=3)


def test_a_member_that_was_away_gets_a_snapshot(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        await cluster.stop("n3")
        blob = b"b" * 100_000
        for number in range(60):
            await leader.propose(b"%d" % number + blob)
        await cluster.start("n3")
        await wait_for(lambda: len(cluster.ledgers["n3"].commands) == 60, 30)
        await leader.propose(b"after")
        await wait_for(lambda: cluster.ledgers["n3"].commands[-1] == b"after")
        assert cluster.ledgers["n3"].commands == cluster.ledgers["n1"].commands
        await cluster.stop("n3")
        await cluster.start("n3")
        await leader.propose(b"again")
        await wait_for(lambda: cluster.ledgers["n3"].commands == cluster.ledgers["n1"].commands)

    run(tmp_path, scenario, members=3, limits=Limits(snapshot_entries=20, trailing_entries=5))


def test_without_a_majority_nothing_is_acknowledged(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, leader: RaftNode) -> None:
        await leader.propose(b"before")
        await cluster.stop("n2")
        await cluster.stop("n3")
        with pytest.raises(OutcomeUnknown):
            await leader.propose(b"lost?", timeout=2)
        await wait_for(lambda: not leader.status().is_leader)
        with pytest.raises(NotLeader):
            await leader.read_barrier()
        await cluster.start("n2")
        await cluster.propose(b"after")
        new = await cluster.wait_leader()
        assert cluster.ledgers[new.node_id].commands[-1] == b"after"

    run(tmp_path, scenario, members=3)
