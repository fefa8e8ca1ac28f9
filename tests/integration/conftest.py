"""Shared by the tests of the whole: one cluster for all tests that do it no lasting harm."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import IMAGE, Cluster, machine_network, missing


@pytest.fixture(scope="session")
def network_before() -> dict[str, list[str]]:
    """The machine's own network before the first cluster."""
    return machine_network()


@pytest.fixture(scope="session")
def cluster(
    network_before: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Three managers and two workers with an image loaded. Ended by the last test or at the end."""
    if reason := missing():
        pytest.skip(reason)
    remove_abandoned()
    made = Cluster(f"swarmpy-test-{os.getpid()}")
    try:
        made.up()
        made.load_image(tmp_path_factory.mktemp("images"), IMAGE)
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            keep_logs(made)
        if made.root.exists() or made.run_root.exists():
            made.down()


def remove_abandoned() -> None:
    """Take down the clusters of test runs that were killed: their names end with the pid of the run."""
    for kind in ("test", "killed"):
        for path in [*Path("/var/lib").glob(f"swarmpy-{kind}-*"), *Path("/run").glob(f"swarmpy-{kind}-*")]:
            pid = path.name.rpartition("-")[2]
            if pid.isdigit() and not Path("/proc", pid).exists() and path.exists():
                Cluster(path.name).down()


def keep_logs(cluster: Cluster) -> None:
    """Copy the nodes' logs where SWARMPY_TEST_LOGS says, for a failure's sake."""
    target = os.environ.get("SWARMPY_TEST_LOGS")
    if target:
        for log in cluster.root.glob("*/daemon.log"):
            (Path(target) / f"{log.parent.name}.log").write_bytes(log.read_bytes())


@pytest.fixture
def service(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a service that is removed after the test."""
    name = request.node.name.removeprefix("test_").replace("_", "-").split("[")[0][:40].strip("-")
    yield name
    done = cluster.cli("service", "rm", name, check=False)
    assert done.returncode == 0 or "no service" in done.stderr, done.stderr
