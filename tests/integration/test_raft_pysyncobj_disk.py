"""What breaks PySyncObj's disk and wire, done to ours: real files, real TLS, processes that are killed.

The names of the tests are the defects found in its source (lines of 0.3.17); those of its
protocol are in tests/sim/test_raft_pysyncobj_protocol.py. Its lost writes after plain
kill -9: test_raft_processes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pickle
import signal
import ssl
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2, raft_pb2, store_pb2, types_pb2
from swarmpy.raft.checkpoint import Checkpoints, Limits
from swarmpy.raft.core_log import COMMAND, LAN, Entry
from swarmpy.raft.journal import Journal
from swarmpy.raft.log import ApplyFailed, DiskFull, LogDamaged, MembershipBusy, OutcomeUnknown
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap
from swarmpy.raft.transport import PROTOCOL

from tests.integration.raft_cluster import Cluster, Ledger, context, wait_for

ROOT = Path(__file__).resolve().parents[2]
SMALL = 64 * 1024
FEW = Limits(snapshot_entries=20, trailing_entries=5)


def run(
    directory: Path, scenario: Callable[[Cluster], Awaitable[None]], limits: Limits | None = None
) -> None:
    async def main() -> None:
        cluster = Cluster(directory, limits=limits)
        try:
            await scenario(cluster)
        finally:
            await cluster.stop_all()

    asyncio.run(main())


async def alone(cluster: Cluster, machine: Ledger | None = None) -> RaftNode:
    node = await cluster.start("n1", bootstrap=True, machine=machine)
    await wait_for(lambda: any(leads for _, leads, _ in cluster.led))
    return node


# -- tcp_connection 291: pickle.loads on whatever arrives


class Exploit:
    """Whoever unpickles this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


async def speak(port: int, data: bytes, tls: ssl.SSLContext | None) -> None:
    """Say it and wait until the other side ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(data)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(8):
            while await reader.read(65536):
                pass
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


def frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_a_pickle_on_the_wire_is_refused_and_never_executed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps(Exploit(marker))
    packed = zlib.compress(data, 3)
    theirs = struct.pack("i", len(packed)) + packed  # as PySyncObj frames it

    async def scenario(cluster: Cluster) -> None:
        node = await alone(cluster)
        cluster.authority.issue("n2")
        port = cluster.ports["n1"]
        for sent in (theirs, frame(data), data):
            await speak(port, sent, None)
        hello = raft_pb2.RaftFrame(hello=raft_pb2.RaftHello(node_id="n2", protocol=PROTOCOL))
        greeting = frame(hello.SerializeToString())
        for before in (b"", greeting):
            for sent in (theirs, frame(data), frame(packed)):
                tls = context(tmp_path, "n2", server=False)
                tls.check_hostname = False
                await speak(port, before + sent, tls)
        await node.propose(data)
        assert cluster.ledgers["n1"].commands == [data]
        assert cluster.fatal == []

    with caplog.at_level(logging.INFO):
        run(tmp_path, scenario)
    assert caplog.text.count("raft handshake failed") == 3
    assert caplog.text.count("raft connection refused") == 6
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the pickle does nothing: the test proves nothing"


def test_a_pickle_in_place_of_a_file_is_refused_and_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps(Exploit(marker))
    journal = Journal(tmp_path / "n1", "n1", segment_bytes=SMALL)
    journal.close()
    path = next((tmp_path / "n1").glob("*.wal"))
    path.write_bytes(data.ljust(SMALL, b"\0"))
    with pytest.raises(LogDamaged):
        Journal(tmp_path / "n1", "n1", segment_bytes=SMALL)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.path(1).write_bytes(data)
    with pytest.raises(LogDamaged):
        checkpoints.verify(checkpoints.path(1))
    assert not marker.exists()


# -- syncobj 1489-1495 and journal 252-256: killed around the end of a snapshot and the trim behind it

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from swarmpy.raft.checkpoint import Limits
from tests.integration.raft_cluster import Cluster, wait_for

event, name, left = sys.argv[2], sys.argv[3], int(sys.argv[4])

def hook(what, arguments):
    global left
    if what == event and any(isinstance(a, (str, Path)) and str(a).endswith(name) for a in arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    cluster = Cluster(Path(sys.argv[1]), limits=Limits(snapshot_entries=40, trailing_entries=5))
    node = await cluster.start("n1", bootstrap=True)
    await wait_for(lambda: bool(cluster.led))
    sys.addaudithook(hook)
    for number in range(400):
        await node.propose(b"%d " % number + bytes(500_000))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("event", "name", "times"),
    [
        ("os.rename", ".snapshot", 1),  # complete, without its name
        ("os.remove", ".wal", 1),  # it has its name, the log is not trimmed
        ("os.remove", ".wal", 2),  # the log is half trimmed
        ("os.rename", ".wal", 4),  # a new segment without its name
    ],
)
def test_killed_between_snapshot_rename_and_journal_trim_nothing_is_lost(
    tmp_path: Path, event: str, name: str, times: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), event, name, str(times)],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    said = int(done.stdout.split()[-1]) + 1
    assert said >= 20

    async def scenario(cluster: Cluster) -> None:
        node = await alone(cluster)
        await node.propose(b"again ")
        numbers = [command.split(b" ")[0] for command in cluster.ledgers["n1"].commands]
        assert numbers[:said] == [b"%d" % number for number in range(said)]
        assert numbers[said:] in ([b"again"], [b"%d" % said, b"again"])

    run(tmp_path, scenario, FEW)


def test_compaction_leaves_the_entries_it_keeps_untouched(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1", segment_bytes=SMALL)
    for index in range(1, 201):
        journal.write((1, ""), [Entry(index, 1, COMMAND, bytes(1000))])
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.wal")}
    journal.compact(150)
    after = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.wal")}
    journal.close()
    assert 0 < len(after) < len(before)
    assert after.items() <= before.items()


# -- no fsync anywhere, no CRC, mmap: flipped bits load, a zeroed page ends it, a full disk is SIGBUS


def test_without_a_successful_fsync_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        node = await alone(cluster)
        await node.propose(b"kept")
        synced: list[int] = []

        def refuse(fd: int) -> None:
            synced.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            with pytest.raises(OutcomeUnknown):
                await node.propose(b"never on disk")
            await wait_for(lambda: bool(cluster.fatal))
            await cluster.stop("n1")
        assert len(synced) == 1, "a failed fsync is not tried again"
        assert cluster.ledgers["n1"].commands == [b"kept"]

    run(tmp_path, scenario)


def abandon(journal: Journal) -> None:
    """As a kill leaves it: nothing is closed in."""
    os.close(journal._fd)
    os.close(journal._lock_fd)
    journal._fd = journal._lock_fd = -1


def test_a_flipped_bit_never_loads_silently(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1", segment_bytes=SMALL)
    journal.write((7, "n2"), [Entry(1, 7, COMMAND, b"precious")])
    journal.write((8, "n3"), [Entry(2, 8, COMMAND, b"more")])
    journal.close()
    (path,) = tmp_path.glob("*.wal")
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    refused = 0
    for position in [*range(0, 400, 3), *range(400, end, 61)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            again = Journal(tmp_path, "n1", segment_bytes=SMALL)
        except LogDamaged:
            refused += 1
            continue
        found = again.recovered
        assert (found.term, found.vote) == (8, "n3"), f"byte {position}: a damaged term or vote counts"
        assert [entry.data for entry in found.entries] == [b"precious", b"more"], f"byte {position}"
        abandon(again)
    assert refused > 100


def test_a_zeroed_tail_page_is_cut_and_it_starts_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "n1", segment_bytes=SMALL)
    entries = [Entry(index, 1, COMMAND, bytes([index]) * 5000) for index in range(1, 5)]
    for entry in entries:
        journal.write((1, ""), [entry])
    abandon(journal)
    (path,) = tmp_path.glob("*.wal")
    whole = path.read_bytes()
    page = len(whole.rstrip(b"\0")) // 4096 * 4096
    path.write_bytes(whole[:page] + bytes(SMALL - page))
    again = Journal(tmp_path, "n1", segment_bytes=SMALL)
    assert again.recovered.entries == entries[:-1]
    again.write(None, [Entry(4, 2, COMMAND, b"new")])
    again.close()
    last = Journal(tmp_path, "n1", segment_bytes=SMALL)
    assert last.recovered.entries == [*entries[:-1], Entry(4, 2, COMMAND, b"new")]
    last.close()


@contextlib.contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[None]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_an_error_and_ends_no_process(tmp_path: Path) -> None:
    """And no file grows beyond its segment: there is no cap of 4 GiB to reach."""
    with small_disk(tmp_path / "n1", 8 * SMALL):
        journal = Journal(tmp_path / "n1", "n1", segment_bytes=SMALL)
        written: list[Entry] = []
        with pytest.raises(DiskFull):
            for index in range(1, 1000):
                entry = Entry(index, 1, COMMAND, bytes(5000))
                journal.write(None, [entry])
                written.append(entry)
        journal.close()
        assert len(written) > 70
        assert {path.stat().st_size for path in (tmp_path / "n1").glob("*.wal")} == {SMALL}
        again = Journal(tmp_path / "n1", "n1", segment_bytes=SMALL)
        assert again.recovered.entries == written
        again.compact(written[-1].index)
        again.write(None, [Entry(len(written) + 1, 1, COMMAND, b"room again")])
        again.close()


# -- syncobj 640, 937, 1234: a damaged .meta is silently term 0


def test_a_member_without_its_term_and_vote_does_not_begin_at_term_0(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await alone(cluster)
        for number in range(50):
            await cluster.propose(b"%d" % number)
        await wait_for(lambda: bool(list((tmp_path / "n1").glob("*.snapshot"))))
        await cluster.stop_all()
        for path in (tmp_path / "n1").glob("*.wal"):
            path.unlink()
        with pytest.raises(LogDamaged, match="no journal"):
            await cluster.start("n1")

    run(tmp_path, scenario, FEW)


# -- syncobj 1510: an empty dump led with an empty state


def test_an_empty_snapshot_file_never_leads_with_an_empty_state(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await alone(cluster)
        for number in range(50):
            await cluster.propose(b"%d" % number)
        await wait_for(lambda: len(list((tmp_path / "n1").glob("*.snapshot"))) == 2)
        await cluster.stop_all()
        newest = max((tmp_path / "n1").glob("*.snapshot"))
        newest.write_bytes(b"")
        node = await cluster.start("n1")
        await wait_for(lambda: node.status().is_leader and len(cluster.ledgers["n1"].commands) == 50)
        await cluster.stop_all()
        journal = Journal(tmp_path / "n1", "n1")
        last = journal.recovered.entries[-1]
        journal.reset(last.index, last.term)
        journal.close()
        for path in (tmp_path / "n1").glob("*.snapshot"):
            path.write_bytes(b"")
        with pytest.raises(LogDamaged):
            await cluster.start("n1")

    run(tmp_path, scenario, FEW)


# -- serializer 93: fork, no fsync before the rename, a slow serializer changed the term


class Slow(Ledger):
    """Its snapshot takes until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def snapshot(self) -> Iterator[bytes]:
        def slowly(chunks: Iterator[bytes]) -> Iterator[bytes]:
            self.begun.set()
            assert self.go_on.wait(30)
            yield from chunks

        return slowly(super().snapshot())


def children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def test_a_slow_snapshot_stalls_nothing_and_forks_nothing(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        slow = Slow()
        node = await alone(cluster, slow)
        for name in ("n2", "n3"):
            await cluster.start(name)
            await node.add_member(name, cluster.address(name))
        try:
            term, before = node.status().term, children()
            while not slow.begun.is_set():
                await node.propose(b"before")
            for _ in range(30):
                await node.propose(b"meanwhile")
                await asyncio.sleep(2 * LAN.election_max_ms / 1000 / 30)
            assert not list((tmp_path / "n1").glob("*.snapshot"))
            assert children() == before
        finally:
            slow.go_on.set()
        await wait_for(lambda: bool(list((tmp_path / "n1").glob("*.snapshot"))))
        assert (node.status().is_leader, node.status().term) == (True, term)

    run(tmp_path, scenario, FEW)


def test_a_snapshot_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        steps.append("sync " + Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def renamed(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        steps.append("rename " + Path(source).name)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    path = Checkpoints(tmp_path).write(raft_pb2.SnapshotMeta(index=5, term=1), iter([b"state"]))
    temporary = path.name + ".tmp"
    assert steps == [f"sync {temporary}", f"rename {temporary}", f"sync {tmp_path.name}"]


# -- syncobj 713-729: an exception in apply ended every tick, also after a full restart


def test_an_exception_in_apply_stops_nothing_also_after_a_full_restart(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await cluster.of_three()
        with pytest.raises(ApplyFailed, match="asked to"):
            await leader.propose(b"raise")
        await leader.propose(b"one")
        await cluster.stop_all()
        for name in ("n1", "n2", "n3"):
            await cluster.start(name)
        await cluster.propose(b"two")
        for name in ("n1", "n2", "n3"):
            await wait_for(lambda name=name: cluster.ledgers[name].commands == [b"one", b"two"])
        assert cluster.fatal == []

    run(tmp_path, scenario)


# -- syncobj 186, 1361-1367: two removals at once


def test_of_two_removals_at_once_one_is_refused(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = await cluster.of_three()
        outcomes = await asyncio.gather(
            leader.remove_member("n2"), leader.remove_member("n3"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), MembershipBusy]
        assert sorted(member.node_id for member in leader.status().members) == ["n1", "n3"]
        await cluster.stop("n3")
        with pytest.raises(OutcomeUnknown):
            await leader.propose(b"alone", timeout=1.5)

    run(tmp_path, scenario)


# -- no dedupe


def test_a_command_that_is_sent_again_changes_nothing_twice() -> None:
    store = Store()
    store.apply(1, transaction([], epoch=1, now_ms=1, new_epoch=True))
    network = objects_pb2.Network(meta=types_pb2.Meta(id="n1".ljust(25, "0"), name="back"))
    command = transaction([store_pb2.Change(put=wrap(network))], epoch=1, now_ms=2, request_id="r1")
    first = store_pb2.TransactionResult.FromString(store.apply(2, command))
    again = store_pb2.TransactionResult.FromString(store.apply(3, command))
    assert not first.error_code
    assert again.duplicate
    again.ClearField("duplicate")
    assert again == first
    made = store.get(store_pb2.KIND_NETWORK, "n1".ljust(25, "0"))
    assert made is not None
    assert made.meta.version == 2
