"""Volumes on a whole cluster: data stays with its node, and with it the tasks that need it."""

from __future__ import annotations

import contextlib
import json
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
