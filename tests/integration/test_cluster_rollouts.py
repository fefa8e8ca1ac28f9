"""Updates on a whole cluster under requests: blue-green, canary, a drain in turn, autoscaling by real connections."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2, store_pb2

from tests.images import build_busybox_image
from tests.integration.cluster import IMAGE, Cluster, Load, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]
QUICK = ("--stop-grace-period", "1s", "--update-monitor", "1s")
PORT = 8140


def create(cluster: Cluster, service: str, port: int, *flags: str) -> str:
    cluster.cli("service", "create", "-q", "--name", service, "-p", f"{port}:80", *QUICK, *flags, IMAGE)
    return f"http://{cluster.address('n5')}:{port}/cgi-bin/hostname"


def versions(cluster: Cluster, load: Load) -> tuple[set[int], int]:
    """Spec versions of the tasks that answered, and how many requests failed."""
    report = load.end()
    answered = set(report["answered"])
    tasks = cluster.listed(store_pb2.KIND_TASK)
    return {task.spec_version for task in tasks if task.meta.id[:12] in answered}, report["failures"]


def test_blue_green_moves_all_requests_at_once_and_back(cluster: Cluster, service: str) -> None:
    url = create(cluster, service, PORT, "--replicas", "3", "--strategy", "blue-green", "--keep-old", "5m")
    before = Load(cluster, "n5", url)
    cluster.cli("service", "update", "-q", "--env-add", "A=2", service, timeout_s=90)
    time.sleep(2)
    seen, failures = versions(cluster, before)
    assert (seen, failures) == ({1}, 0), "the new tasks run and get nothing"
    assert cluster.service(service).update_status.state == objects_pb2.UPDATE_WAITING
    switching = Load(cluster, "n5", url)
    time.sleep(1)
    cluster.cli("service", "promote", "-q", service, timeout_s=60)
    time.sleep(1)
    assert versions(cluster, switching) == ({1, 2}, 0)
    after = Load(cluster, "n5", url)
    time.sleep(2)
    assert versions(cluster, after) == ({2}, 0)
    back = Load(cluster, "n5", url)
    cluster.cli("service", "rollback", "-q", service, timeout_s=60)
    time.sleep(1)
    assert versions(cluster, back)[1] == 0
    last = Load(cluster, "n5", url)
    time.sleep(2)
    assert versions(cluster, last) == ({1}, 0), "the tasks from before, never restarted"


def test_a_canary_takes_its_share_and_is_promoted(cluster: Cluster, service: str) -> None:
    url = create(cluster, service, PORT + 1, "--replicas", "4", "--canary", "1")
    cluster.cli("service", "update", "-q", "--env-add", "A=2", service, timeout_s=90)
    load = Load(cluster, "n5", url)
    time.sleep(3)
    assert versions(cluster, load) == ({1, 2}, 0)
    planned = cluster.cli("service", "promote", "--plan", service, check=False)
    assert planned.returncode == 2
    assert "Tasks: 3 " in planned.stdout or "replace" in planned.stdout
    during = Load(cluster, "n5", url)
    cluster.cli("service", "promote", "-q", service, timeout_s=90)
    assert versions(cluster, during)[1] == 0
    assert {task.spec_version for task in cluster.running(service)} == {2}


def test_an_update_has_its_image_before_it_stops_anything(
    cluster: Cluster, service: str, tmp_path: Path
) -> None:
    create(
        cluster, service, PORT + 4, "--replicas", "2", "--constraint", "node.role==worker", "--prefetch",
        "--update-order", "stop-first",
    )  # fmt: skip
    workers = {node.meta.id for name, node in cluster.nodes().items() if name in ("n4", "n5")}
    good, bad = "localhost/prefetch:1", "localhost/prefetch:2"
    for image, seconds in ((good, "100001"), (bad, "100002")):  # not the same content as any other
        archive = build_busybox_image(
            tmp_path / seconds, reference=image, web=False, command=("sleep", seconds)
        )
        cluster.cli("image", "load", "-i", str(archive))
    cluster.cli("service", "update", "-q", "--image", good, service, timeout_s=120)
    tasks = cluster.listed(store_pb2.KIND_TASK)
    assert {t.spec.container.image for t in cluster.running(service)} == {good}
    (held,) = [image for image in cluster.listed(store_pb2.KIND_IMAGE) if image.meta.name == good]
    assert workers <= set(held.holders)
    assert not [t for t in tasks if t.spec.pull_only and t.status.error], "and nothing is left of the step"
    before = {task.meta.id for task in cluster.running(service)}
    (lost,) = [image.digest for image in cluster.listed(store_pb2.KIND_IMAGE) if image.meta.name == bad]
    for name in cluster.nodes():  # its holders have it no more
        (cluster.state(name) / "images" / "blobs" / "sha256" / lost.partition(":")[2]).unlink(missing_ok=True)
    failed = cluster.cli(
        "service", "update", "-q", "--image", bad, "--pull", "never", service, check=False, timeout_s=120
    )  # fmt: skip
    assert failed.returncode == 6, failed
    assert "its image could not be had before the update" in failed.stderr
    assert {task.meta.id for task in cluster.running(service)} == before


def test_a_drain_in_turn_loses_no_request(cluster: Cluster, service: str) -> None:
    url = create(cluster, service, PORT + 2, "--replicas", "5", "--constraint", "node.role==worker")
    load = Load(cluster, "n1", url)
    try:
        done = cluster.cli("node", "drain", "--parallelism", "1", "n4", timeout_s=90)
        assert "n4: 0 of" in done.stderr
        assert set(cluster.where(service)) == {"n5"}
        assert versions(cluster, load)[1] == 0
    finally:
        cluster.cli("node", "activate", "n4")
    moved = cluster.cli("rebalance", "--service", service, timeout_s=90)
    assert "n5 -> n4" in moved.stdout
    assert set(cluster.where(service)) == {"n4", "n5"}


def test_tasks_follow_real_connections(cluster: Cluster, service: str) -> None:
    url = create(cluster, service, PORT + 3, "--replicas", "1")
    cluster.cli("service", "autoscale", service, "--max", "4", "--rps", "15", "--stabilize-down", "10s")
    load = Load(cluster, "n5", url, rate=55)
    try:
        wait_for(lambda: len(cluster.running(service)) >= 3, 60, "it has grown with the load")
    finally:
        assert load.end()["failures"] == 0
    wait_for(lambda: cluster.service(service).spec.replicated.replicas == 1, 90, "it has shrunk again")
    shown = cluster.cli("service", "autoscale", "--show", service).stdout
    assert "rps is at" in shown
