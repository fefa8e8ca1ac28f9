"""Members with keys: snapshots between them, lost and damaged directories, changes of the data key."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from swarmpy.raft.aside import set_aside
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.journal import Journal
from swarmpy.raft.keyring import KeyRing
from swarmpy.raft.log import LogDamaged
from swarmpy.raft.replica import RaftNode

from tests.integration.raft_cluster import Cluster, wait_for

SECRET = b"canary in a command "
FEW = Limits(snapshot_entries=20, trailing_entries=5)


def sealed_cluster(directory: Path, limits: Limits | None = None) -> Cluster:
    return Cluster(directory, limits=limits, keys=lambda name: KeyRing(directory / name, "c1", name))


def search(directory: Path, needle: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def voters(node: RaftNode) -> set[str]:
    return {m.node_id for m in node.status().members if not m.learner}


async def write(cluster: Cluster, count: int, *, start: int = 0) -> list[bytes]:
    commands = [SECRET + b"%d" % number for number in range(start, start + count)]
    for command in commands:
        await cluster.propose(command)
    return commands


def test_a_snapshot_reaches_a_member_with_other_keys_and_nothing_is_readable(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = sealed_cluster(tmp_path, FEW)
        try:
            leader = await cluster.start("n1", bootstrap=True)
            await wait_for(lambda: bool(cluster.led))
            commands = await write(cluster, 70)
            await wait_for(lambda: len(list((tmp_path / "n1").glob("*.snapshot"))) > 1)
            await cluster.start("n2")
            await leader.add_member("n2", cluster.address("n2"))
            await wait_for(lambda: cluster.ledgers["n2"].commands == commands)
            assert list((tmp_path / "n2").glob("*.snapshot"))
            assert search(tmp_path, SECRET) == []
        finally:
            await cluster.stop_all()
        assert search(tmp_path, SECRET) == []

    asyncio.run(main())


@pytest.mark.parametrize("loss", ["emptied", "damaged"])
def test_a_member_that_lost_its_files_is_filled_again_by_the_others(tmp_path: Path, loss: str) -> None:
    async def main() -> None:
        cluster = sealed_cluster(tmp_path)
        try:
            leader = await cluster.of_three()
            commands = await write(cluster, 30)
            await wait_for(lambda: cluster.ledgers["n3"].commands == commands)
            await cluster.stop("n3")
            if loss == "emptied":
                shutil.rmtree(tmp_path / "n3")
            else:
                path = next((tmp_path / "n3").glob("*.wal"))
                data = bytearray(path.read_bytes())
                data[400] ^= 1
                path.write_bytes(data)
                with pytest.raises(LogDamaged):
                    await cluster.start("n3")
                aside = set_aside(tmp_path / "n3")
                assert (aside / path.name).read_bytes() == data
                assert (aside / "keys").exists()
            await cluster.start("n3")
            await wait_for(lambda: cluster.ledgers["n3"].commands == commands, 30)
            await wait_for(lambda: voters(leader) == {"n1", "n2", "n3"}, 30)
            await cluster.stop("n2")
            commands += await write(cluster, 3, start=100)
            await wait_for(lambda: cluster.ledgers["n3"].commands == commands)
            assert cluster.removed == []
            assert cluster.fatal == []
        finally:
            await cluster.stop_all()

    asyncio.run(main())


def test_a_member_that_lost_its_files_elects_nobody(tmp_path: Path) -> None:
    """Two of three remain, one of them without its memory: a majority only in name."""

    async def main() -> None:
        cluster = sealed_cluster(tmp_path)
        try:
            await cluster.of_three()
            commands = await write(cluster, 5)
            await wait_for(lambda: cluster.ledgers["n2"].commands == commands)
            await cluster.stop_all()
            shutil.rmtree(tmp_path / "n3")
            await cluster.start("n2")
            await cluster.start("n3")
            cluster.led.clear()
            await asyncio.sleep(3)
            assert cluster.led == []
            await cluster.start("n1")
            await wait_for(lambda: bool(cluster.led))
            await wait_for(lambda: cluster.ledgers["n3"].commands == commands, 30)
            node = await cluster.wait_leader()
            await wait_for(lambda: voters(node) == {"n1", "n2", "n3"}, 30)
        finally:
            await cluster.stop_all()

    asyncio.run(main())


def test_changing_the_data_key_leaves_no_file_with_the_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = sealed_cluster(tmp_path, FEW)
        try:
            node = await cluster.start("n1", bootstrap=True)
            await wait_for(lambda: bool(cluster.led))
            commands = await write(cluster, 50)
            keys = node.keys
            assert isinstance(keys, KeyRing)
            old = keys.keys[1]
            keys.begin_rotation(bytes(32))
            writing = asyncio.create_task(write(cluster, 20, start=50))
            keys.retire(await node.reseal())
            commands += await writing
            assert set(keys.keys) == {2}
            assert old not in keys.path.read_bytes()
            await cluster.stop_all()
            cluster.keys = lambda name: KeyRing(tmp_path / name, "c1", name, unlock_key=bytes(32))
            again = await cluster.start("n1")
            await wait_for(lambda: again.status().is_leader and cluster.ledgers["n1"].commands == commands)
        finally:
            await cluster.stop_all()

    asyncio.run(main())


ROTATE = """
import asyncio, os, signal, sys
from pathlib import Path
from swarmpy.raft.checkpoint import Checkpoints, Limits
from swarmpy.raft.core_log import Entry, COMMAND
from swarmpy.raft.keyring import KeyRing
from swarmpy.raft.replica import RaftNode
from tests.integration.raft_cluster import Cluster, wait_for

directory, fail = Path(sys.argv[1]), int(sys.argv[2])
old, new = bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])
step = 0
armed = False

def at(name):
    global step
    if armed:
        step += 1
        if step == fail:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    global armed
    cluster = Cluster(directory, limits=Limits(snapshot_entries=20, trailing_entries=5),
                      keys=lambda name: KeyRing(directory / name, "c1", name, unlock_key=old, at=at))
    node = await cluster.start("n1", bootstrap=True)
    await wait_for(lambda: node.status().is_leader and bool(cluster.led))
    for number in range(45):
        await cluster.propose(b"%d" % number)
    ring = node.keys
    armed = True
    ring.begin_rotation(new)
    in_use = await node._engine.snapshots.reseal(at)
    ring.retire(in_use)
    armed = False
    print(step, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def rotate(directory: Path, fail: int, old: bytes, new: bytes) -> str:
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ROTATE, str(directory), str(fail), old.hex(), new.hex()],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize(("old", "new"), [(b"", bytes(32)), (b"", b"")], ids=["to locked", "unlocked"])
def test_killed_at_any_step_of_a_change_it_opens_and_the_change_can_be_finished(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    steps = int(rotate(tmp_path / "all", 0, old, new))
    assert steps > 12
    points = range(1, steps + 1)
    for fail in points if (old, new) == (b"", bytes(32)) else points[::4]:
        directory = tmp_path / str(fail)
        assert rotate(directory, fail, old, new) == ""
        finish(directory, {old, new})


def finish(directory: Path, unlock_keys: set[bytes]) -> None:
    def usable(name: str) -> KeyRing:
        for unlock_key in sorted(unlock_keys):
            try:
                return KeyRing(directory / name, "c1", name, unlock_key=unlock_key)
            except Exception as error:
                last = error
        raise last

    async def main() -> None:
        cluster = Cluster(directory, limits=FEW, keys=usable)
        try:
            node = await cluster.start("n1", bootstrap=True)
            expected = [b"%d" % number for number in range(45)]
            await wait_for(lambda: node.status().is_leader and cluster.ledgers["n1"].commands == expected)
            keys = node.keys
            assert isinstance(keys, KeyRing)
            if keys.rotating:
                keys.retire(await node.reseal())
            assert len(keys.keys) == 1
        finally:
            await cluster.stop_all()
        journal = Journal(directory / "n1", "n1", keys=usable("n1"))
        assert journal.key_ids == {journal._keys.current}
        journal.close()

    asyncio.run(main())
    assert os.path.exists(directory / "n1" / "keys")
