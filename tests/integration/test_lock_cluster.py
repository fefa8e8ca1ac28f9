"""What lies on a manager's disk, its lock, and a damaged directory: on a real cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.raft.keyring import read_key_file

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, missing, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
CANARY = "canary-0f3b9c5d7e"
WRITTEN = 200  # a place in a segment behind its header, in its first batch
MANAGERS = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    made = Cluster(f"swarmpy-lock-{os.getpid()}")
    try:
        made.up(4, 3)
        made.load_image(tmp_path_factory.mktemp("images"), IMAGE)
        yield made
    finally:
        if made.root.exists() or made.run_root.exists():
            made.down()


def status(cluster: Cluster, node: str) -> dict[str, Any]:
    done = cluster.at(node, "status", "--format", "json", check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def unlock(cluster: Cluster, node: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SWARMPY, "--host", f"unix://{cluster.socket(node)}", "unlock"], input=key + "\n", text=True,
        capture_output=True, timeout=30, check=False, env=cluster.env,
    )  # fmt: skip


def holding(directory: Path, needle: bytes) -> list[str]:
    """Files below `directory` with `needle` in them; it is a living tree, what vanishes meanwhile is not there."""
    found = []
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place) / name
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and needle in path.read_bytes():
                    found.append(str(path.relative_to(directory)))
    return found


def all_reachable(cluster: Cluster) -> bool:
    """Three voters that answer, as the leader sees it."""
    members = status(cluster, "n1").get("members", [])
    return len(members) == 3 and all(member.get("reachable") for member in members)


def test_no_secret_lies_on_a_managers_disk(locked: Cluster) -> None:
    locked.cli("service", "create", "-d", "--name", "canary", "--env", f"KEY={CANARY}",
               "--constraint", "node.role==worker", IMAGE)  # fmt: skip
    wait_for(lambda: holding(locked.state("n4"), CANARY.encode()), 30, "the worker has the task")
    secrets = [
        locked.cli("token", role, "-q").stdout.strip().rpartition("-")[2] for role in ("worker", "manager")
    ]
    for node in MANAGERS:
        for needle in (CANARY, *secrets):
            assert holding(locked.state(node), needle.encode()) == []
        assert not (locked.state(node) / "bootstrap.pb").exists()
        for name in ("raft/keys", "certs/node.key"):
            assert (locked.state(node) / name).stat().st_mode & 0o777 == 0o600


def test_a_manager_stays_locked_until_it_is_given_the_key(locked: Cluster) -> None:
    said = locked.cli("swarm", "update", "--autolock=true").stdout
    key = locked.cli("unlock-key", "-q").stdout.strip()
    assert key in said
    for node in MANAGERS:
        keys = locked.state(node) / "raft" / "keys"
        wait_for(lambda keys=keys: read_key_file(keys).locked, 15, "keys are wrapped")
        assert holding(locked.state(node), key.removeprefix("SWMKEY-1-").encode()) == []
    locked.kill("n2", "manager")
    wait_for(lambda: status(locked, "n2").get("locked"), 30, lambda: locked.daemon_log("n2")[-800:])
    refused = locked.at("n2", "service", "ls", check=False)
    assert refused.returncode == 1
    assert "is locked: run `swarmpy unlock`" in refused.stderr
    wrong = unlock(locked, "n2", key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1])
    assert wrong.returncode != 0
    assert locked.cli("service", "ls").returncode == 0, "the others go on"
    new = locked.cli("unlock-key", "--rotate", "-q").stdout.strip()
    assert new != key
    late = unlock(locked, "n2", new)
    assert late.returncode == 7
    assert "enter the one from before" in late.stderr
    assert unlock(locked, "n2", key).returncode == 0
    wait_for(lambda: all_reachable(locked), 30, lambda: locked.daemon_log("n2")[-800:])
    paths = [locked.state(node) / "raft" / "keys" for node in MANAGERS]
    wait_for(lambda: len({read_key_file(path).lock_id for path in paths}) == 1, 15, "all have the new key")
    shown = locked.cli("swarm", "inspect", "--format", "json", check=False).stdout
    assert new.removeprefix("SWMKEY-1-") not in shown
    locked.cli("swarm", "update", "--autolock=false")
    wait_for(lambda: not any(read_key_file(path).locked for path in paths), 15, "the lock is off")


def test_a_damaged_directory_is_set_aside_and_filled_by_the_others(locked: Cluster) -> None:
    raft = locked.state("n3") / "raft"
    wait_for(lambda: all_reachable(locked), 30, "all managers are there")
    # Damage in the very last batch could be a torn write: here more was written after it.
    for number in range(5):
        locked.cli("node", "update", "--label-add", f"written={number}", "n4")
    segment = max(
        path for path in raft.glob("*.wal") if path.read_bytes()[WRITTEN : WRITTEN + 64].strip(b"\0")
    )
    with segment.open("r+b") as file:
        file.seek(WRITTEN)
        byte = file.read(1)
        file.seek(WRITTEN)
        file.write(bytes([byte[0] ^ 0xFF]))
    locked.kill("n3", "manager")
    wait_for(lambda: list(raft.glob("damaged-*/*.wal")), 30, lambda: locked.daemon_log("n3")[-800:])
    wait_for(lambda: "taking it out and in again" in logs(locked), 30, "the leader replaces the member")
    wait_for(lambda: all_reachable(locked), 40, lambda: locked.daemon_log("n3")[-1500:])
    index = locked.cli("service", "inspect", "canary").returncode
    assert index == 0
    wait_for(lambda: status(locked, "n3").get("has_quorum"), 20, "n3 answers")


def logs(cluster: Cluster) -> str:
    return "".join(cluster.daemon_log(node) for node in MANAGERS)
