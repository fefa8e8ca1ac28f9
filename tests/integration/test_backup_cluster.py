"""Backups of a running cluster, restore on an emptied machine, recovery after the majority is gone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node import daemon_recover
from swarmpy.node.config import Paths
from swarmpy.node.manager.backup_file import Secret
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, Load, missing, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
CREATE = (
    "service", "create", "-q", "--stop-grace-period", "0s", "--drain-delay", "0s",
    "--constraint", "node.role==worker",
)  # fmt: skip


@contextlib.contextmanager
def running(name: str, directory: Path, nodes: int, managers: int) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    made = Cluster(f"swarmpy-{name}-{os.getpid()}")
    try:
        made.up(nodes, managers)
        made.load_image(directory, IMAGE)
        yield made
    finally:
        made.down()


@pytest.fixture
def five(tmp_path: Path) -> Iterator[Cluster]:
    with running("bk5", tmp_path, 5, 3) as cluster:
        yield cluster


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cluster]:
    with running("bk2", tmp_path, 2, 1) as cluster:
        yield cluster


def containers(cluster: Cluster, service: str) -> dict[str, list[int]]:
    """Pids of every running task."""
    return {task.meta.id: sorted(cluster.pids(task.meta.id)) for task in cluster.running(service)}


def same_containers(cluster: Cluster, service: str, before: dict[str, list[int]]) -> None:
    """The same tasks with the same processes (a web server under load has some more)."""
    now = containers(cluster, service)
    assert now.keys() == before.keys()
    assert all(set(pids) <= set(now[task]) for task, pids in before.items()), (before, now)


def kill_for_good(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.demo("kill", name)


def all_objects(store: Store) -> dict[tuple[int, str], Any]:
    kinds = [kind for kind in store_pb2.Kind.values() if kind]
    return {(kind, entity.meta.id): entity for kind in kinds for entity in store.all(kind)}  # type: ignore[arg-type]


def role_of(cluster: Cluster, name: str) -> int:
    return cluster.nodes()[name].role


def test_two_of_three_managers_lost_for_good(five: Cluster) -> None:
    cluster = five
    cluster.cli(*CREATE, "--name", "web", "--replicas", "4", "-p", "8080:80", IMAGE)
    before = containers(cluster, "web")
    assert len(before) == 4
    vip = cluster.service("web").endpoint.vips[0].address
    load = Load(cluster, "n4", f"http://{cluster.address('n4')}:8080/cgi-bin/hostname")
    try:
        refused = cluster.at("n3", "recover", "--yes", check=False)
        assert refused.returncode == 1
        assert "nothing to recover" in refused.stderr

        kill_for_good(cluster, "n1", "n2")
        time.sleep(2)
        began = time.monotonic()
        write = cluster.at("n3", "--timeout", "2s", "network", "create", "late", check=False)
        assert write.returncode == 3, write.stderr
        assert "majority" in write.stderr
        print(f"refused after {time.monotonic() - began:.1f} s")

        asked = cluster.at("n3", "recover", check=False)
        assert (asked.returncode, "say --yes" in asked.stderr) == (2, True)
        assert {line.split()[0] for line in asked.stdout.splitlines()} == {"MANAGER", "n1", "n2", "n3"}
        assert asked.stdout.count("does not answer") == 2

        # Its memory goes too: without a majority nothing of the log can be applied after a start.
        killed = cluster.kill("n3", "manager")
        wait_for(lambda: cluster.pid("n3", "manager") not in (0, killed), 10, "n3's manager starts again")
        began = time.monotonic()
        done = cluster.at("n3", "recover", "--yes")
        print(f"recovered in {time.monotonic() - began:.1f} s\n{done.stdout}")
        cluster.at("n3", "network", "create", "late")
        assert cluster.leader() == "n3"

        nodes = lambda: {name: node.status.state for name, node in cluster.nodes().items()}  # noqa: E731
        ready = types_pb2.NODE_READY
        wait_for(lambda: all(nodes()[name] == ready for name in ("n3", "n4", "n5")), 20, nodes)
        wait_for(lambda: nodes()["n1"] == nodes()["n2"] == types_pb2.NODE_DOWN, 30, nodes)
        same_containers(cluster, "web", before)
        assert cluster.service("web").endpoint.vips[0].address == vip
        report = load.end()
    finally:
        load.close()
    assert report["requests"] > 20
    assert report["failures"] == 0, report

    old_managers_come_back(cluster)
    same_containers(cluster, "web", before)


def old_managers_come_back(cluster: Cluster) -> None:
    """Both at once: they are a majority of the cluster as they knew it."""
    term = cluster.status().term
    cluster.demo("start", "n1")
    cluster.demo("start", "n2")
    ready = types_pb2.NODE_READY
    wait_for(
        lambda: all(cluster.nodes()[n].status.state == ready for n in ("n1", "n2")), 40, "n1 and n2 ready"
    )
    wait_for(
        lambda: not cluster.pid("n1", "manager") and not cluster.pid("n2", "manager"), 40, "they are workers"
    )
    assert {role_of(cluster, name) for name in ("n1", "n2")} == {types_pb2.ROLE_WORKER}
    assert (cluster.status().term, cluster.leader()) == (term, "n3"), "they disturbed nobody"
    cluster.cli("node", "promote", "n1")
    wait_for(lambda: sum(m.reachable for m in cluster.status().members) == 2, 40, "n1 is a manager again")
    cluster.cli("network", "create", "later")


@pytest.mark.slow
def test_scheduled_backups_survive_the_leader(five: Cluster, tmp_path: Path) -> None:
    cluster = five
    key = tmp_path / "key"
    key.write_text(cluster.cli("backup", "key", "-q").stdout)
    again = cluster.cli("backup", "key", check=False)
    assert (again.returncode, "shown once only" in again.stderr) == (1, True)
    cluster.cli("backup", "schedule", "--every", "2s", "--keep", "2")

    def made() -> dict[str, list[Path]]:
        return {
            name: sorted((cluster.state(name) / "backups").glob("*.backup")) for name in ("n1", "n2", "n3")
        }

    first = cluster.leader()
    wait_for(lambda: len(made()[first]) == 2, 30, made)
    cluster.kill(first, "manager")
    second = wait_for(lambda: (cluster.leader() != first) and cluster.leader(), 20, "another leader")
    wait_for(lambda: made()[second], 30, made)
    cluster.cli("backup", "schedule", "--off")
    rows = [json.loads(line) for line in cluster.cli("backup", "ls", "--format", "json").stdout.splitlines()]
    assert {row["Manager"] for row in rows if not row["Problem"]} >= {second}
    newest = made()[second][-1]
    assert newest.stat().st_mode & 0o777 == 0o600
    shown = json.loads(cluster.run("backup", "inspect", str(newest), "--key-file", str(key)).stdout)
    assert shown["verified"]
    assert shown["nodes"] == ["n1", "n2", "n3", "n4", "n5"]


def test_restore_on_an_emptied_machine(two: Cluster, tmp_path: Path) -> None:
    cluster = two
    cluster.cli("network", "create", "blue")
    cluster.cli(*CREATE, "--name", "web", "-p", "8081:80", "--network", "blue", IMAGE)
    pids = containers(cluster, "web")
    phrase, file = tmp_path / "phrase", tmp_path / "cluster.backup"
    phrase.write_text("correct horse battery staple\n")
    token = cluster.cli("token", "-q", "worker").stdout
    cluster.cli("backup", "create", str(file), "--passphrase-file", str(phrase))
    refused = cluster.cli("backup", "create", str(file), "--passphrase-file", str(phrase), check=False)
    assert (refused.returncode, "--force" in refused.stderr) == (5, True)
    before = all_objects(daemon_recover.load(file, Secret(passphrase=b"correct horse battery staple")).store)

    load = Load(cluster, "n2", f"http://{cluster.address('n2')}:8081/cgi-bin/hostname")
    try:
        kill_for_good(cluster, "n1")
        shutil.rmtree(cluster.state("n1"))
        cluster.state("n1").mkdir()
        began = time.monotonic()
        command = [*SWARMPY, "restore", "--no-start", str(file), "--passphrase-file", str(phrase)]
        command += ["--state-dir", str(cluster.state("n1")), "--advertise-addr", cluster.address("n1")]
        done = cluster.inside("n1", *command, "--hostname", "n1b")
        assert done.returncode == 0, done.stderr
        cluster.demo("start", "n1")
        wait_for(lambda: cluster.leader() == "n1b", 20, "the restored manager leads")
        print(f"restored in {time.monotonic() - began:.1f} s")
        assert not Paths(cluster.state("n1")).restore.exists(), "the root key does not stay in the clear"
        worker = wait_for(lambda: attached(cluster), 40, "the worker came back without a join")
        assert worker.meta.id in {key[1] for key in before}
        same_containers(cluster, "web", pids)
        report = load.end()
    finally:
        load.close()
    assert report["failures"] == 0, report
    assert cluster.cli("token", "-q", "worker").stdout == token

    again = tmp_path / "again.backup"
    cluster.cli("backup", "create", str(again), "--unencrypted")
    after = all_objects(daemon_recover.load(again, Secret()).store)
    check_same(before, after)
    cluster.cli("service", "scale", "-q", "web=2")


@pytest.mark.slow
def test_restore_at_another_address_and_reattach(two: Cluster, tmp_path: Path) -> None:
    cluster, address = two, "10.55.0.99"
    cluster.cli(*CREATE, "--name", "web", IMAGE)
    pids = containers(cluster, "web")
    key, file = tmp_path / "key", tmp_path / "cluster.backup"
    key.write_text(cluster.cli("backup", "key", "-q").stdout)
    cluster.cli("backup", "create", "-q", str(file))
    kill_for_good(cluster, "n1")
    shutil.rmtree(cluster.state("n1"))
    cluster.state("n1").mkdir()
    link = cluster.inside(
        "n1", "ip", "-o", "-4", "address", "show", "to", cluster.address("n1")
    ).stdout.split()[1]
    assert cluster.inside("n1", "ip", "address", "add", f"{address}/24", "dev", link).returncode == 0
    command = [
        *SWARMPY,
        "restore",
        "--no-start",
        "--key-file",
        str(key),
        "--state-dir",
        str(cluster.state("n1")),
    ]
    command += ["--advertise-addr", address, "--listen-addr", address, "--hostname", "n1b", str(file)]
    done = cluster.inside("n1", *command)
    assert done.returncode == 0, done.stderr
    cluster.demo("start", "n1")
    wait_for(lambda: cluster.leader() == "n1b", 30, "the restored manager leads")
    reattach = [*SWARMPY, "reattach", "--state-dir", str(cluster.state("n2"))]
    refused = cluster.inside("n2", *reattach, cluster.address("n2"))
    assert (refused.returncode, "no manager of this node's cluster" in refused.stderr) == (1, True)
    done = cluster.inside("n2", *reattach, address)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: attached(cluster), 40, "the worker is back")
    same_containers(cluster, "web", pids)


def attached(cluster: Cluster) -> objects_pb2.Node | None:
    """The worker, once its agent has told the new manager something: its session is there."""
    log = cluster.daemon_log("n1")
    node = cluster.nodes().get("n2")
    return node if node is not None and f"session started node={node.meta.id}" in log else None


def check_same(before: dict[tuple[int, str], Any], after: dict[tuple[int, str], Any]) -> None:
    """Everything that is not about nodes and their leader, byte by byte."""
    for kind in (store_pb2.KIND_SERVICE, store_pb2.KIND_TASK, store_pb2.KIND_NETWORK):
        old = {key: entity for key, entity in before.items() if key[0] == kind}
        assert old
        for key, entity in old.items():
            new = type(entity)()
            new.CopyFrom(after[key])
            if kind == store_pb2.KIND_NETWORK:
                # A new manager is a new node: it gets a block and counts as a write.
                blocks = {block.node_id: block.cidr for block in new.blocks}
                assert all(blocks[block.node_id] == block.cidr for block in entity.blocks)
                for name in ("blocks",):
                    new.ClearField(name)
                    entity.ClearField(name)
                new.meta.version = entity.meta.version
                new.meta.updated_ms = entity.meta.updated_ms
            assert new.SerializeToString(deterministic=True) == entity.SerializeToString(
                deterministic=True
            ), key
    cluster_before, cluster_after = (
        next(entity for key, entity in objects.items() if key[0] == store_pb2.KIND_CLUSTER)
        for objects in (before, after)
    )
    for name in ("root_certificate", "root_key", "worker_secret", "manager_secret", "spec"):
        assert getattr(cluster_before, name) == getattr(cluster_after, name), name


def test_aborted_download_leaves_no_file(two: Cluster, tmp_path: Path) -> None:
    """The manager dies under the transfer, or the disk is full: a sentence and no file."""
    cluster = two
    full = tmp_path / "full"
    full.mkdir()
    assert os.system(f"mount -t tmpfs -o size=4k,mode=700 none {full}") == 0
    try:
        (full / "x").write_bytes(bytes(4096))
        done = cluster.cli("backup", "create", str(full / "b"), "--unencrypted", check=False)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert [entry.name for entry in full.iterdir()] == ["x"]
    finally:
        os.system(f"umount {full}")
    leader = cluster.pid("n1", "manager")
    os.kill(leader, signal.SIGSTOP)
    try:
        done = cluster.cli(
            "--timeout", "2s", "backup", "create", str(tmp_path / "b"), "--unencrypted", check=False
        )
    finally:
        os.kill(leader, signal.SIGCONT)
    assert done.returncode == 3
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.strip(".").startswith("b")]
