"""nginx, redis, postgres and a Python web application, unmodified, with the secure defaults, as users run them.

From Debian's docker-registry in the network of a node, with volumes, health checks, limits; and built upon.
Slow: `make test-images`; the images are made once (tests/real_images.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import real_images
from tests.integration.cluster import Cluster, missing, wait_for
from tests.integration.conftest import keep_logs

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
NAMES = ("nginx", "redis", "postgres", "webapp")
QUICK = ("--drain-delay", "0s", "--stop-grace-period", "15s")
HEALTHY = ("--health-interval", "2s", "--health-start-period", "60s", "--health-timeout", "5s")
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "{address}"}}
log: {{level: warn}}
"""


@contextlib.contextmanager
def registry(address: str, *prefix: str) -> Iterator[None]:
    """Debian's docker-registry at an address, on the storage that is kept."""
    storage = real_images.KEPT / "registry"
    storage.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as config:
        config.write(CONFIG.format(storage=storage, address=address))
        config.flush()
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen([*prefix, "docker-registry", "serve", config.name], stdout=log, stderr=log)
        try:
            time.sleep(0.5)
            assert process.poll() is None
            yield
        finally:
            process.terminate()
            process.wait(timeout=10)
            log.close()


@pytest.fixture(scope="module")
def images() -> None:
    """Every image is in the registry's storage."""
    if reason := real_images.missing() or missing():
        pytest.skip(reason)
    absent = []
    for name in NAMES:
        version = real_images.archive(name).stem
        mark = real_images.KEPT / "registry" / f"pushed-{version}"
        if not mark.exists():
            absent.append((name, mark))
    if not absent:
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        registry(address),
        tempfile.TemporaryDirectory(prefix="swarmpy-images-", dir="/var/tmp") as directory,
    ):
        tool = ["buildah", "--root", f"{directory}/storage", "--runroot", f"{directory}/run"]
        for name, mark in absent:
            real_images.run(*tool, "pull", "-q", f"docker-archive:{real_images.archive(name)}")
            target = f"docker://{address}/{name}:1"
            real_images.run(*tool, "push", "-q", "--tls-verify=false", f"{name}:test", target)
            mark.touch()


@pytest.fixture(scope="module")
def cluster(images: None) -> Iterator[Cluster]:
    made = Cluster(f"swarmpy-test-{os.getpid()}-real")
    try:
        made.up(nodes=3, managers=1)
        address = f"{made.address('n1')}:5000"
        with registry(address, "nsenter", f"--net={made.namespace('n1')}", "--"):
            made.cli("registry", "trust", address, "--insecure")
            yield made
    finally:
        with contextlib.suppress(AssertionError):
            keep_logs(made)
        made.demo("down", timeout_s=240)


def image(cluster: Cluster, name: str) -> str:
    return f"{cluster.address('n1')}:5000/{name}:1"


def create(cluster: Cluster, name: str, *flags: str) -> None:
    command = ("service", "create", "-q", "--name", name, *QUICK, *flags, image(cluster, name))
    done = cluster.cli(*command, check=False, timeout_s=300)
    if done.returncode:
        told = cluster.cli("service", "ps", "--no-trunc", name, check=False).stdout
        logs = cluster.cli("logs", "-n", "40", name, check=False, timeout_s=20)
        pytest.fail(f"{done.stderr}\n{told}\n{logs.stdout}{logs.stderr}")


def get(cluster: Cluster, node: str, port: int, path: str = "/") -> str:
    return cluster.get(node, f"http://{cluster.address(node)}:{port}{path}")


def again(cluster: Cluster, name: str) -> None:
    """A new task in the old one's place."""
    before = {task.meta.id for task in cluster.running(name)}
    cluster.cli("service", "update", "-q", "--force", name, timeout_s=120)
    assert not before & {task.meta.id for task in cluster.running(name)}


def test_nginx_behind_a_port_and_built_upon(cluster: Cluster, tmp_path: Path) -> None:
    create(
        cluster, "nginx", "--replicas", "2", "-p", "8201:80", "--health-http", ":80/", *HEALTHY,
        "--limit-memory", "64m", "--limit-cpu", "0.5", "--limit-pids", "32",
    )  # fmt: skip
    assert "Welcome to nginx" in wait_for(lambda: get(cluster, "n3", 8201), 10, "an answer")
    assert "GET /" in cluster.cli("logs", "nginx").stdout
    # One pull made it the cluster's: built upon without the registry.
    cluster.cli("image", "pull", "-q", image(cluster, "nginx"), timeout_s=120)
    (tmp_path / "Containerfile").write_text(
        f"FROM {image(cluster, 'nginx')}\nARG WORD\nRUN echo $WORD > /var/www/html/index.html\n"
    )
    cluster.cli(
        "image", "build", "-q", "-t", "site:1", "--build-arg", "WORD=built", str(tmp_path), timeout_s=300
    )
    cluster.cli("service", "update", "-q", "--image", "site:1", "nginx", timeout_s=120)
    assert wait_for(lambda: get(cluster, "n2", 8201), 10, "an answer") == "built"
    cluster.cli("service", "rm", "nginx")


def test_a_web_application_and_redis_with_a_volume(cluster: Cluster) -> None:
    create(
        cluster, "redis", "--mount", "type=volume,source=visits,target=/data", "--limit-memory", "128m",
        "--health-cmd", "redis-cli ping | grep PONG", *HEALTHY, "--constraint", "node.hostname==n2",
    )  # fmt: skip
    create(
        cluster, "webapp", "--replicas", "2", "-p", "8202:8000", "-e", "REDIS_HOST=redis", "--read-only",
        "--mount", "type=tmpfs,target=/tmp", "--health-http", ":8000/health", *HEALTHY, "--limit-memory", "256m",
    )  # fmt: skip
    answers = [get(cluster, "n3", 8202).split() for _ in range(6)]
    assert [int(count) for count, _ in answers] == [1, 2, 3, 4, 5, 6]
    assert {host for _, host in answers} == {task.meta.id[:12] for task in cluster.running("webapp")}
    again(cluster, "redis")
    count = wait_for(lambda: get(cluster, "n3", 8202), 20, "an answer after redis began anew").split()[0]
    assert int(count) == 7, "the volume was not there any more"
    status = cluster.cli("exec", "webapp", "--", "cat", "/proc/1/status").stdout
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    cluster.cli("service", "rm", "webapp", "redis")


def test_postgres_keeps_its_data(cluster: Cluster) -> None:
    create(
        cluster, "postgres", "-e", "POSTGRES_PASSWORD=secret", "--limit-memory", "512m",
        "--mount", "type=volume,source=database,target=/var/lib/postgresql/data",
        "--health-cmd", "pg_isready -h /tmp", *HEALTHY, "--constraint", "node.hostname==n3",
    )  # fmt: skip

    def sql(text: str) -> str:
        command = ("env", "PGPASSWORD=secret", "psql", "-h", "127.0.0.1", "-U", "postgres", "-At", "-c", text)
        return cluster.cli("exec", "postgres", "--", *command).stdout.strip()

    sql("create table t (n int); insert into t select generate_series(1, 1000)")
    again(cluster, "postgres")
    assert sql("select count(*), sum(n) from t") == "1000|500500"
    look = 'for p in /proc/[0-9]*; do [ "$(cat $p/comm)" = postgres ] && grep Uid $p/status; done; true'
    users = cluster.cli("exec", "postgres", "--", "sh", "-c", look).stdout
    assert "Uid:" in users
    assert "Uid:\t0\t" not in users, "the server does not run as root"
    cluster.cli("service", "rm", "postgres")
