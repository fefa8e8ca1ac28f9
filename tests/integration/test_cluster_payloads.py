"""A secret on a whole cluster: its task reads it, and no disk, log, answer or bundle shows it.

`pytest tests/integration/test_cluster_payloads.py` runs the slow one, too.
"""

from __future__ import annotations

import base64
import os
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, store_pb2

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = (
    "--stop-grace-period",
    "0s",
    "--drain-delay",
    "0s",
    "--restart-delay",
    "0s",
    "--update-monitor",
    "500ms",
)


def given(cluster: Cluster, *arguments: str, content: str) -> None:
    """A command that reads standard input."""
    done = subprocess.run(
        [*SWARMPY, "--context", "demo", *arguments], input=content, text=True, capture_output=True, check=False,
        timeout=60, env=cluster.env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def files_with(cluster: Cluster, canary: bytes) -> list[str]:
    """Files on disk that hold it in clear: of every node, without what is mounted below (memory, /proc, …)."""
    found = []
    for node in sorted(cluster.root.iterdir()):
        device = node.stat().st_dev
        for directory, names, files in os.walk(node):
            names[:] = [name for name in names if os.lstat(os.path.join(directory, name)).st_dev == device]
            for name in files:
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and canary in path.read_bytes():
                    found.append(str(path))
    return found


def read(cluster: Cluster, task: objects_pb2.Task, path: str) -> str:
    return cluster.shell(task, "cat", path).stdout


def test_only_its_tasks_see_a_secret(cluster: Cluster, service: str, tmp_path: Path) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    secret, config = f"{service}.key", f"{service}.conf"
    given(cluster, "secret", "create", secret, "-", content=canary)
    given(
        cluster,
        "config",
        "create",
        "--template-driver",
        "golang",
        config,
        "-",
        content="slot {{.Task.Slot}}\n",
    )
    flags = (
        "--secret",
        f"source={secret},target=key,uid=7,mode=0400",
        "--config",
        f"source={config},target=/etc/conf",
    )
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", *flags, *QUICK, IMAGE, "sleep", "100000",
        timeout_s=90,
    )  # fmt: skip
    for task in cluster.running(service):
        assert read(cluster, task, "/run/secrets/key") == canary
        assert cluster.shell(task, "stat", "-c", "%u %a", "/run/secrets/key").stdout == "7 400\n"
        assert read(cluster, task, "/etc/conf") == f"slot {task.slot}\n"

    bundle = tmp_path / "bundle.tar.gz"
    cluster.cli("support-bundle", "--state-dir", str(cluster.state("n1")), str(bundle))
    with tarfile.open(bundle) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert "swarmpy-support/cluster/secret.json" in files
    answers = [
        cluster.cli(*command).stdout
        for command in (
            ("secret", "inspect", secret), ("secret", "inspect", "--pretty", secret), ("secret", "ls"),
            ("service", "inspect", service),
        )
    ]  # fmt: skip
    answers += [
        secret_.SerializeToString().decode("latin-1") for secret_ in cluster.listed(store_pb2.KIND_SECRET)
    ]
    for form in (canary.encode(), base64.b64encode(canary.encode())[:40]):
        assert not [name for name, data in files.items() if form in data]
        assert not [text for text in answers if form.decode() in text]
        assert files_with(cluster, form) == []

    backup = tmp_path / "backup"
    cluster.cli("backup", "create", str(backup))
    assert backup.stat().st_size
    assert canary.encode() not in backup.read_bytes(), "sealed, as all of it"

    refused = cluster.cli("secret", "rm", secret, check=False)
    assert (refused.returncode, f"used by service {service}" in refused.stderr) == (1, True), refused.stderr
    old = cluster.running(service)
    where = {node.meta.id: name for name, node in cluster.nodes().items()}[old[0].node_id]
    cluster.kill(where, "agent")
    cluster.settle()
    assert [t.meta.id for t in cluster.running(service)] == [t.meta.id for t in old], "adopted, not replaced"
    assert read(cluster, old[0], "/run/secrets/key") == canary
    cluster.cli(
        "service", "update", "-q", "--secret-rm", secret, "--config-rm", config, service, timeout_s=90
    )
    payloads = [Paths(cluster.state(name)).payloads for name in cluster.nodes()]
    wait_for(lambda: not any(list(top.iterdir()) for top in payloads), 20, "the tasks' files are gone")
    back = cluster.cli("secret", "rm", secret)
    assert back.stdout == f"{secret}\n"
    cluster.cli("config", "rm", config)
    refused = cluster.cli("service", "rollback", "-q", service, check=False)
    assert f"uses secret '{secret}', which was removed" in refused.stderr, refused.stderr


@pytest.mark.slow  # without a cluster: test_payload_files
def test_root_of_a_user_namespace_of_its_own_reads_it(cluster: Cluster, service: str) -> None:
    given(cluster, "secret", "create", service, "-", content="for nobody else")
    flags = ("--secret", f"source={service},target=key,mode=0400", "--userns", "auto", *QUICK)
    command = ("sh", "-c", "cat /run/secrets/key; echo; exec sleep 100000")
    cluster.cli("service", "create", "-q", "--name", service, *flags, IMAGE, *command, timeout_s=90)
    shown = wait_for(lambda: cluster.cli("service", "logs", "--raw", service).stdout, 20, "its output")
    assert "for nobody else" in shown
    cluster.cli("service", "rm", service)
    cluster.cli("secret", "rm", service)
