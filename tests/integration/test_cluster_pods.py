"""A pod on a whole cluster, as a user has it: from a file, by its containers' names, past a dead sidecar."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2

from tests.integration.cluster import IMAGE, Cluster, command_lines, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
POD = f"""
init-containers:
  - name: migrate
    image: {IMAGE}
    cmd: [sh, -c, "echo migrated; echo from-init > /data/note"]
    mount: type=pod,source=data,target=/data
sidecars:
  - name: beside
    image: {IMAGE}
    cmd: [sh, -c, "echo beside-up; exec sleep 100001"]
    mount: type=pod,source=data,target=/data
    limit-memory: 32m
"""


def beside(task: objects_pb2.Task) -> objects_pb2.ContainerStatus:
    return next(one for one in task.status.containers if one.name == "beside")


def left_of(cluster: Cluster, task_id: str) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{task_id}" in line]
    found = cluster.state("n4").glob(f"*/{task_id}*")
    return mounts + [str(path) for path in found if path.parent.name != "logs"]


def sleeper() -> list[int]:
    return [pid for pid, line in command_lines() if line == b"sleep\x00100001\x00"]


def test_a_pod_from_a_file_outlives_its_sidecar_and_leaves_nothing(
    cluster: Cluster, service: str, tmp_path: Path
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    cluster.cli(
        "service", "create", "--name", service, "--pod", str(file), "--constraint", "node.hostname==n4",
        "--mount", "type=pod,source=data,target=/www/data", "--stop-grace-period", "1s", "--drain-delay", "0s",
        "--health-http", ":80/data/note", IMAGE,
    )  # fmt: skip
    (task,) = cluster.running(service)
    lines = cluster.cli("logs", task.meta.id).stdout
    assert "/migrate@n4    | migrated" in lines
    assert "/beside@n4    | beside-up" in lines
    assert (
        cluster.cli("exec", "--container", "beside", task.meta.id, "cat", "/data/note").stdout
        == "from-init\n"
    )
    refused = cluster.cli("exec", "--container", "nope", task.meta.id, "true", check=False)
    assert refused.returncode == 4
    assert "has no container 'nope': it has main, beside, migrate" in refused.stderr
    rows = cluster.cli("stats", "--no-stream", "--containers", "--format", "json", task.meta.id).stdout
    assert {json.loads(row)["Container"] for row in rows.splitlines()} == {"", "main", "beside"}

    main = cluster.pids(task.meta.id)
    (process,) = sleeper()
    os.kill(process, signal.SIGKILL)
    wait_for(
        lambda: beside(cluster.running(service)[0]).restarts == 1 and sleeper(), 30, "the sidecar is back"
    )
    (same,) = cluster.running(service)
    assert same.meta.id == task.meta.id
    assert set(cluster.pids(task.meta.id)) & set(main), "the main container was restarted"
    shown = cluster.cli("service", "ps", service).stdout
    assert f"{service}.1/beside" in shown
    assert "restarted 1 times" in shown

    bad = cluster.cli(
        "service", "update", "--sidecar-add", "name=x,image=localhost:1/no:1", service, check=False
    )
    assert bad.returncode == 4
    assert "'localhost:1/no:1' is not in the cluster and cannot be found" in bad.stderr
    cluster.cli("service", "update", "-q", "--sidecar-rm", "beside", service)
    (after,) = cluster.running(service)
    assert [one.name for one in after.status.containers] == ["migrate", "main"]
    wait_for(lambda: not sleeper() and not cluster.pids(task.meta.id), 15, "the old pod is gone")
    wait_for(lambda: not left_of(cluster, task.meta.id), 15, lambda: left_of(cluster, task.meta.id))
