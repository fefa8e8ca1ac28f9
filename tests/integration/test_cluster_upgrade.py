"""`swarmpy upgrade` on real clusters: other builds of this code, containers and requests untouched."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.levels import LEVEL

from tests import builds
from tests.integration.cluster import Cluster, Load, missing, wait_for
from tests.integration.conftest import keep_logs

ROLES_EXIT = "import sys\nsys.exit(3)\n"
ROLES_HANG = "import time\ntime.sleep(3600)\n"
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def pids(cluster: Cluster, service: str) -> dict[str, list[int]]:
    return {task.meta.id: cluster.pids(task.meta.id) for task in cluster.running(service)}


def build_of(cluster: Cluster, node: str) -> objects_pb2.BuildStatus:
    return cluster.nodes()[node].description.build


def test_a_build_that_does_not_run_stops_the_upgrade_and_the_node_goes_back(
    cluster: Cluster, service: str, tmp_path: Path
) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", "cluster-test/web:1")
    before = pids(cluster, service)
    assert len(before) == 5
    broken = builds.program(tmp_path, "0.2.0", node__daemon_roles=ROLES_EXIT)
    done = cluster.cli("upgrade", "--to", str(broken), "--format", "json", check=False, timeout_s=120)
    assert done.returncode == 6, done.stderr
    answer = json.loads(done.stdout)
    first = answer["nodes"][0]["node"]
    assert [(entry["action"], entry["role"]) for entry in answer["nodes"]] == [("failed", "worker")]
    assert f"Node {first} did not take 0.2.0" in answer["problem"]
    assert "its processes ended 3 times" in answer["problem"]
    cluster.settle()
    status = build_of(cluster, first)
    assert (status.state, status.digest) == (objects_pb2.BUILD_FAILED, "")
    assert pids(cluster, service) == before


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A cluster of the test's own, which it starts."""
    made = Cluster(f"swarmpy-killed-{os.getpid()}")
    try:
        yield made
    finally:
        with contextlib.suppress(AssertionError, OSError):
            keep_logs(made)
        made.down()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_node_gets_a_newer_build_under_traffic(own: Cluster, tmp_path: Path) -> None:
    own.up(nodes=4, managers=3).load_image(tmp_path)
    newer = builds.program(tmp_path, "0.2.0")
    own.cli(
        "service", "create", "-q", "--name", "web", "--replicas", "4", "-p", "8080:80", "cluster-test/web:1"
    )
    before = pids(own, "web")
    assert len(before) == 4
    load = Load(own, "n4", "http://10.55.0.4:8080/")
    try:
        own.cli("upgrade", "--to", str(newer), timeout_s=400)
        report = load.end()
    finally:
        load.close()
    print(report)
    assert report["failures"] == 0
    assert report["requests"] > 500
    assert pids(own, "web") == before
    nodes = own.nodes()
    assert {node.description.version for node in nodes.values()} == {"0.2.0"}
    assert {node.description.build.state for node in nodes.values()} == {objects_pb2.BUILD_SETTLED}
    found = own.cli("upgrade", "--to", str(newer)).stdout
    assert "0 nodes upgraded to 0.2.0, 4 ran it already" in found

    hanging = builds.program(tmp_path, "0.2.1", node__daemon_roles=ROLES_HANG)
    done = own.cli("upgrade", "--to", str(hanging), "--patience", "8s", check=False, timeout_s=120)
    assert done.returncode == 6
    assert "was not healthy within 8 s" in done.stderr
    own.settle(4)
    assert pids(own, "web") == before  # nobody took the silent node's tasks for lost


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_once_the_state_has_a_higher_level_an_older_build_is_refused(own: Cluster, tmp_path: Path) -> None:
    own.up(nodes=1, managers=1)
    text = (builds.TOP / "raft" / "levels.py").read_text()
    levels, count = re.subn(r"^LEVEL = (\w+)", r"LEVEL = \1 + 1", text, flags=re.MULTILINE)
    assert count == 1
    newer = builds.program(tmp_path, "0.2.0", raft__levels=levels)
    wait_for(lambda: state_level(own) == LEVEL, 20, "the level of the version that founded the cluster")
    own.cli("upgrade", "--to", str(newer), timeout_s=200)
    wait_for(lambda: state_level(own) == LEVEL + 1, 20, "the level that every manager understands now")

    older = builds.wheel(tmp_path, "0.1.9")
    done = own.cli("upgrade", "--to", str(older), check=False, timeout_s=200)
    assert done.returncode == 6, done.stderr
    assert "Node n1 did not take 0.1.9 and runs 0.2.0 as before" in done.stderr
    said = own.daemon_log("n1")
    assert f"has level {LEVEL + 1} and this version of swarmpy understands levels up to {LEVEL}" in said
    own.settle(1)
    assert state_level(own) == LEVEL + 1


def state_level(cluster: Cluster) -> int:
    return int(cluster.listed(store_pb2.KIND_CLUSTER)[0].state_level)
