"""Volumes on a whole cluster: data stays with its node, and with it the tasks that need it.

`pytest tests/integration/test_cluster_volumes.py` runs the slow ones, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2, store_pb2

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s", "--restart-delay", "0s")
SLEEP = ("sleep", "100000")


@pytest.fixture
def name(cluster: Cluster, service: str) -> Iterator[str]:
    """A volume's name; the volume goes after the test, and nothing of it stays on any disk."""
    volume = f"v-{service}"[:60]
    yield volume
    cluster.cli("service", "rm", service, check=False)
    wait_for(lambda: not cluster.tasks(service), 20, "the service's tasks are gone")
    remove(cluster, volume)


def remove(cluster: Cluster, volume: str) -> None:
    found = find(cluster, volume)
    cluster.cli("volume", "rm", "-f", volume)
    wait_for(lambda: find(cluster, volume) is None, 20, f"{volume} removed")
    left = [
        path for path in cluster.root.glob("*/volumes/*") if found is not None and found.meta.id in path.name
    ]
    assert not left, "what was removed leaves nothing"


def find(cluster: Cluster, volume: str) -> objects_pb2.Volume | None:
    return next((v for v in listed(cluster) if v.meta.name == volume), None)


def listed(cluster: Cluster) -> list[objects_pb2.Volume]:
    return cluster.listed(store_pb2.KIND_VOLUME)


def create(cluster: Cluster, service: str, volume: str, *flags: str, mount: str = "") -> None:
    source = mount or f"type=volume,src={volume},dst=/data"
    cluster.cli(
        "service", "create", "-q", "--name", service, "--mount", source, *QUICK, *flags, IMAGE, *SLEEP
    )


def home(cluster: Cluster, volume: str) -> str:
    found = find(cluster, volume)
    assert found is not None
    names = {node.meta.id: name for name, node in cluster.nodes().items()}
    return names.get(found.node_id, "")


def content(cluster: Cluster, volume: str, node: str = "") -> Path:
    found = find(cluster, volume)
    assert found is not None
    return cluster.state(node or home(cluster, volume)) / "volumes" / found.meta.id / "fs/data"


def write(cluster: Cluster, service: str, text: str, path: str = "/data/note") -> None:
    task = cluster.running(service)[0]
    done = cluster.shell(task, "sh", "-c", f"echo {text} >{path}")
    assert done.returncode == 0, done.stderr


def read(cluster: Cluster, service: str, path: str = "/data/note") -> str:
    return cluster.shell(cluster.running(service)[0], "cat", path).stdout.strip()


def reasons(cluster: Cluster, service: str) -> str:
    return cluster.cli("service", "ps", "--no-trunc", service).stdout


@contextlib.contextmanager
def drained(cluster: Cluster, node: str) -> Iterator[None]:
    cluster.cli("node", "update", "--availability", "drain", node)
    try:
        yield
    finally:
        cluster.cli("node", "update", "--availability", "active", node)


def test_data_outlives_updates_and_tasks_follow_it(cluster: Cluster, service: str, name: str) -> None:
    create(cluster, service, name, "--replicas", "1")
    where = home(cluster, name)
    assert cluster.where(service) == [where]
    write(cluster, service, "kept")
    cluster.cli("service", "update", "-q", "--env-add", "A=1", service)
    assert read(cluster, service) == "kept"
    cluster.cli("service", "scale", "-q", f"{service}=3")
    assert cluster.where(service) == [where] * 3, "all replicas of a volume are where it is"
    rows = cluster.cli("volume", "ls", "--format", "{{.Name}} {{.Node}} {{.Status}}").stdout
    assert f"{name} {where} in use" in rows
    done = cluster.cli("volume", "rm", name, check=False)
    assert done.returncode == 1
    assert f"used by service {service}" in done.stderr


@pytest.mark.slow
def test_volume_waits_for_its_node(cluster: Cluster, service: str, name: str) -> None:
    create(cluster, service, name, "--constraint", "node.role==worker")
    where = home(cluster, name)
    write(cluster, service, "kept")
    with drained(cluster, where):
        expected = f"not {where}, the home of volume {name}"
        wait_for(lambda: expected in reasons(cluster, service), 20, lambda: reasons(cluster, service))
        assert "drained" in reasons(cluster, service)
        assert not cluster.running(service), "it starts nowhere else"
    wait_for(lambda: cluster.where(service) == [where], 20, "back where its data is")
    assert read(cluster, service) == "kept"


def test_every_slot_has_its_own(cluster: Cluster, service: str, name: str) -> None:
    template = f"type=volume,src={name}-{{{{.Task.Slot}}}},dst=/data,volume-label=tier=db"
    create(cluster, service, name, "--replicas", "3", mount=template)
    volumes = {v.meta.name: v for v in listed(cluster) if v.meta.name.startswith(f"{name}-")}
    assert sorted(volumes) == [f"{name}-{slot}" for slot in (1, 2, 3)]
    assert all(dict(v.meta.labels) == {"tier": "db"} for v in volumes.values())
    for task in cluster.running(service):
        volume = volumes[f"{name}-{task.slot}"]
        assert volume.node_id == task.node_id
        cluster.shell(task, "sh", "-c", f"echo {task.slot} >/data/slot")
    cluster.cli("service", "update", "-q", "--env-add", "A=1", service)
    tasks = cluster.running(service)
    assert {task.slot for task in tasks} == {1, 2, 3}
    for task in tasks:
        assert cluster.shell(task, "cat", "/data/slot").stdout.strip() == str(task.slot)
    cluster.cli("service", "rm", service)
    wait_for(lambda: not cluster.tasks(service), 20, "the tasks are gone")
    done = cluster.cli("volume", "prune", "-a", "--plan", "--filter", "label=tier=db", check=False)
    assert done.returncode == 2
    assert done.stdout.split() == [word for v in sorted(volumes) for word in ("-", "volume", v)]
    assert len([v for v in listed(cluster) if v.meta.name in volumes]) == 3, "a plan removes nothing"
    cluster.cli("volume", "prune", "-a", "-f", "--filter", "label=tier=db")
    wait_for(lambda: not any(v.meta.name in volumes for v in listed(cluster)), 20, "pruned")
    assert not [p for v in volumes.values() for p in cluster.root.glob(f"*/volumes/*{v.meta.id}*")]


@pytest.mark.slow
def test_global_service_has_one_on_every_node(cluster: Cluster, service: str, name: str) -> None:
    create(cluster, service, name, "--mode", "global")
    found = find(cluster, name)
    assert found is not None
    assert found.spec.per_node
    assert len(found.holders) == 5
    for task in cluster.running(service):
        cluster.shell(task, "sh", "-c", f"echo {task.node_id} >/data/node")
    for node_name, node in cluster.nodes().items():
        assert (content(cluster, name, node_name) / "node").read_text().strip() == node.meta.id


@pytest.mark.slow
def test_lost_contents_are_not_replaced_by_nothing(cluster: Cluster, service: str, name: str) -> None:
    create(cluster, service, name, "--restart-max-attempts", "1")
    place = content(cluster, name).parent.parent
    write(cluster, service, "precious")
    cluster.cli("service", "scale", "-q", f"{service}=0")
    wait_for(lambda: not cluster.running(service), 20, "stopped")
    hidden = place.with_name("hidden")
    node = home(cluster, name)
    cluster.kill(node, "agent")
    place.rename(hidden)
    cluster.cli("service", "scale", "-d", f"{service}=1")
    wait_for(
        lambda: "is gone from this node" in reasons(cluster, service), 30, lambda: reasons(cluster, service)
    )
    assert not place.exists()
    cluster.kill(node, "agent")
    hidden.rename(place)
    cluster.cli("service", "update", "-q", "--force", service)
    assert read(cluster, service) == "precious"


def test_create_like_docker(cluster: Cluster) -> None:
    try:
        done = cluster.cli("volume", "create", "--label", "a=b", "--node", "n4", "like-docker")
        assert done.stdout == "like-docker\n"
        assert cluster.cli("volume", "create", "like-docker").stdout == "like-docker\n", "again is no error"
        done = cluster.cli("volume", "create", "--opt", "size=10m", "like-docker", check=False)
        assert done.returncode == 5
        document = json.loads(cluster.cli("volume", "inspect", "like-docker").stdout)[0]
        assert document["meta"]["labels"] == {"a": "b"}
        for wrong in (
            ("--driver", "flocker"),
            ("--opt", "type=nfs"),
            ("--opt", "speed=9"),
            ("--scope", "multi"),
        ):
            done = cluster.cli("volume", "create", *wrong, "other", check=False)
            assert done.returncode in (1, 2), wrong
            assert len(done.stderr.strip().splitlines()) == 1, "one sentence"
    finally:
        remove(cluster, "like-docker")
    assert cluster.cli("volume", "rm", "like-docker", check=False).returncode == 4


FILL = """
cd /data && mkdir -p a/b && echo deep >a/b/file && ln a/b/file linked && ln -s a/b/file soft && mkfifo pipe
dd if=/dev/urandom of=big bs=1M count=24 2>/dev/null && dd if=/dev/zero of=sparse bs=1 count=1 seek=64M 2>/dev/null
chown 1000:1001 a/b/file && chmod 4750 a/b && touch -d '2020-01-02 03:04:05' soft a/b/file; sha256sum big
"""
DESCRIBE = """
cd /data && sha256sum big a/b/file && stat -c '%n %a %u %g %s %h %Y' a/b/file a/b linked sparse &&
readlink soft && test -p pipe && du -k sparse | cut -f1
"""


def describe(cluster: Cluster, service: str) -> list[str]:
    done = cluster.shell(cluster.running(service)[0], "sh", "-c", DESCRIBE)
    assert done.returncode == 0, done.stderr
    *lines, kib = done.stdout.splitlines()
    assert int(kib) < 1024, "holes stay holes"
    return lines


def test_move_takes_everything_along_while_the_task_runs(cluster: Cluster, service: str, name: str) -> None:
    create(cluster, service, name)
    where = home(cluster, name)
    assert cluster.shell(cluster.running(service)[0], "sh", "-c", FILL).returncode == 0
    before = describe(cluster, service)
    to = next(node for node in ("n4", "n5") if node != where)
    plan = cluster.cli("volume", "mv", "--plan", name, to, check=False)
    assert plan.returncode == 2
    assert f"{where} -> {to}" in plan.stdout
    assert f"~ task {service}.1" in plan.stdout
    assert home(cluster, name) == where, "a plan moves nothing"
    old = content(cluster, name).parent.parent
    done = cluster.cli("volume", "mv", name, to)
    assert "copying while its tasks run" in done.stderr
    assert home(cluster, name) == to
    wait_for(lambda: cluster.where(service) == [to], 30, "its task runs where it is now")
    assert describe(cluster, service) == before
    wait_for(lambda: not old.exists(), 20, "the old node has nothing of it any more")
    moved = find(cluster, name)
    assert moved is not None
    wait_for(lambda: len(find(cluster, name).holders) == 1, 10, "one holder")  # type: ignore[union-attr]
    assert [path.name for path in content(cluster, name).parent.iterdir()] == ["data"]


def test_backup_and_restore(cluster: Cluster, service: str, name: str, tmp_path: Path) -> None:
    create(cluster, service, name)
    assert cluster.shell(cluster.running(service)[0], "sh", "-c", FILL).returncode == 0
    before = describe(cluster, service)
    archive = tmp_path / "data.tar.gz"
    done = cluster.cli("volume", "backup", name, str(archive))
    assert "in use by 1 container" in done.stderr
    cluster.shell(cluster.running(service)[0], "sh", "-c", "rm -r /data/a /data/big; echo new >/data/new")
    done = cluster.cli("volume", "restore", name, str(archive), check=False)
    assert done.returncode == 5
    assert "--force" in done.stderr
    cluster.cli("volume", "restore", "--force", name, str(archive))
    assert describe(cluster, service) == before, "also in the container that has it mounted"
    assert cluster.shell(cluster.running(service)[0], "ls", "/data/new").returncode != 0
    assert [path.name for path in content(cluster, name).parent.iterdir()] == ["data"]
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive at all" * 1000)
    done = cluster.cli("volume", "restore", "--force", name, str(broken), check=False)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert describe(cluster, service) == before
    try:
        cluster.cli("volume", "restore", "--node", "n5", "another", str(archive))
        assert home(cluster, "another") == "n5"
        assert (content(cluster, "another") / "a/b/file").read_text() == "deep\n"
    finally:
        remove(cluster, "another")


def big(cluster: Cluster, volume: str, mib: int = 48) -> str:
    """Something that takes a while to copy, as its task might write it; its checksum."""
    data = os.urandom(mib << 20)
    (content(cluster, volume) / "big").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def checksum(cluster: Cluster, volume: str) -> str:
    return hashlib.sha256((content(cluster, volume) / "big").read_bytes()).hexdigest()


def move_state(cluster: Cluster, volume: str) -> int:
    found = find(cluster, volume)
    return 0 if found is None else int(found.move.state)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["source", "target"])
def test_move_survives_the_death_of_an_agent(cluster: Cluster, service: str, name: str, victim: str) -> None:
    create(cluster, service, name, "--constraint", "node.role==worker")
    where = home(cluster, name)
    to = "n5" if where == "n4" else "n4"
    expected = big(cluster, name)
    cluster.cli("volume", "mv", "-d", name, to)
    wait_for(lambda: move_state(cluster, name), 10, "the move began")
    cluster.kill(where if victim == "source" else to, "agent")
    wait_for(lambda: home(cluster, name) == to, 60, lambda: str(find(cluster, name)))
    wait_for(lambda: cluster.where(service) == [to], 30, "its task runs there")
    assert checksum(cluster, name) == expected
    found = find(cluster, name)
    assert found is not None
    wait_for(
        lambda: not list(cluster.state(where).glob(f"volumes/*{found.meta.id}*")), 20, "the old copy is gone"
    )


@pytest.mark.slow
def test_full_disk_on_the_target_leaves_everything_as_it_was(
    cluster: Cluster, service: str, name: str
) -> None:
    create(cluster, service, name, "--constraint", "node.role==worker")
    where = home(cluster, name)
    to = "n5" if where == "n4" else "n4"
    expected = big(cluster, name, 24)
    started = cluster.running(service)[0].meta.id
    small = cluster.state(to) / "volumes"
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        done = cluster.cli("volume", "mv", name, to, check=False)
        assert done.returncode == 6, done.stderr
        assert "no space is left" in done.stderr
        assert "everything is as it was" in done.stderr
        wait_for(lambda: not list(small.iterdir()), 20, lambda: f"{list(small.iterdir())} cleared")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert home(cluster, name) == where
    assert cluster.running(service)[0].meta.id == started, "its task was not even stopped"
    assert checksum(cluster, name) == expected


@pytest.mark.slow
def test_size_limits_what_a_task_may_write(cluster: Cluster, service: str, name: str) -> None:
    mount = f"type=volume,src={name},dst=/data,volume-opt=size=12m"
    create(cluster, service, name, mount=mount)
    done = cluster.shell(
        cluster.running(service)[0], "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=32"
    )
    assert "No space left" in done.stderr
    assert cluster.running(service), "that is the container's own problem"
    cluster.cli("service", "update", "-q", "--env-add", "A=1", service)
    assert cluster.shell(cluster.running(service)[0], "ls", "/data/big").returncode == 0
    to = next(node for node in ("n4", "n5") if node != home(cluster, name))
    cluster.cli("volume", "mv", name, to)
    wait_for(lambda: cluster.where(service) == [to], 30, "moved with its limit")
    done = cluster.shell(
        cluster.running(service)[0], "dd", "if=/dev/zero", "of=/data/more", "bs=1M", "count=32"
    )
    assert "No space left" in done.stderr
