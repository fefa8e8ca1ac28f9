"""A disk that refuses, and a directory that is damaged: the member says so and acknowledges nothing more."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swarmpy.raft import disk as disk_module
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import LogClosed, LogDamaged, OutcomeUnknown

from tests.integration.raft_cluster import Cluster, Ledger, wait_for


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """The kernel refuses every write beyond this offset, as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("quick_writes", [0, disk_module.QUICK_WRITES])
def test_a_leader_that_cannot_write_stops_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_writes: int
) -> None:
    """Whether the loop writes itself or the thread does."""
    monkeypatch.setattr(disk_module, "QUICK_WRITES", quick_writes)

    async def main() -> None:
        cluster = Cluster(tmp_path)
        try:
            leader = await cluster.start("n1", bootstrap=True)
            await wait_for(lambda: bool(cluster.led))
            await leader.propose(b"kept")
            await wait_for(lambda: any(tmp_path.rglob("spare")))  # making it would fail, too, and first
            with files_up_to(64), pytest.raises(OutcomeUnknown):
                await leader.propose(b"refused")
            assert [name for name, _ in cluster.fatal] == ["n1"]
            assert "cannot write the log" in cluster.fatal[0][1]
            assert cluster.led[-1][1] is False
            with pytest.raises(LogClosed):
                await leader.propose(b"late")
            await cluster.stop("n1")
            again = await cluster.start("n1")
            await wait_for(lambda: again.status().is_leader)
            await again.propose(b"new")
            assert cluster.ledgers["n1"].commands == [b"kept", b"new"]
        finally:
            await cluster.stop_all()

    asyncio.run(main())


def test_a_damaged_snapshot_is_passed_over_when_the_log_reaches_back(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path, limits=Limits(snapshot_entries=20, trailing_entries=5))
        try:
            await cluster.start("n1", bootstrap=True)
            for number in range(50):
                await cluster.propose(b"%d" % number)
            await wait_for(lambda: bool(list((tmp_path / "n1").glob("*.snapshot"))))
            await cluster.stop_all()
            path = max((tmp_path / "n1").glob("*.snapshot"))
            whole = path.read_bytes()
            flipped = bytearray(whole)
            flipped[len(whole) // 2] ^= 0x10
            for damaged in (bytes(flipped), b"", whole[:7], whole[:-1]):
                path.write_bytes(damaged)
                again = await cluster.start("n1")
                await wait_for(lambda node=again: node.status().is_leader)
                await wait_for(lambda: cluster.ledgers["n1"].commands == [b"%d" % i for i in range(50)])
                await cluster.stop_all()
        finally:
            await cluster.stop_all()

    asyncio.run(main())


def test_without_any_whole_snapshot_it_refuses_with_advice(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path, limits=Limits(snapshot_entries=20, trailing_entries=5))
        try:
            await cluster.start("n1", bootstrap=True)
            for number in range(50):
                await cluster.propose(b"%d" % number)
            await wait_for(lambda: bool(list((tmp_path / "n1").glob("*.snapshot"))))
            await cluster.stop_all()
            journal = Journal(tmp_path / "n1", "n1")
            found = journal.recovered
            journal.reset(
                found.entries[-1].index, found.entries[-1].term
            )  # as after a snapshot from the leader
            journal.close()
            for path in (tmp_path / "n1").glob("*.snapshot"):
                path.write_bytes(path.read_bytes()[:-1])
            with pytest.raises(LogDamaged, match="join it again"):
                await cluster.start("n1")
        finally:
            await cluster.stop_all()

    asyncio.run(main())


def test_a_port_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        await cluster.start("n1", bootstrap=True)
        try:
            cluster.authority.issue("n2")
            cluster.ports["n2"] = cluster.ports["n1"]
            with pytest.raises(OSError, match="in use"):
                await cluster.start("n2")
            del cluster.ports["n2"]
            await cluster.start("n2")  # the journal's lock is free again
        finally:
            await cluster.stop_all()

    asyncio.run(main())


class Exhausted(Ledger):
    def apply(self, index: int, command: bytes) -> bytes:
        if command == b"too much":
            raise MemoryError
        return super().apply(index, command)


def test_what_is_only_this_members_fault_stops_this_member(tmp_path: Path) -> None:
    """Out of memory is no answer that others would give, too."""

    async def main() -> None:
        cluster = Cluster(tmp_path)
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        try:
            node = await cluster.start("n1", bootstrap=True, machine=Exhausted())
            await wait_for(lambda: bool(cluster.led))
            with pytest.raises(OutcomeUnknown):
                await node.propose(b"too much")
            assert cluster.fatal == [("n1", "MemoryError: ")]
            assert [type(error) for error in told] == [MemoryError]
        finally:
            await cluster.stop_all()

    asyncio.run(main())
