"""The whole container specification on a whole cluster: from the flag to what the kernel says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from swarmpy.proto import objects_pb2, types_pb2

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")
MEBIBYTE = 1 << 20


def name_of(cluster: Cluster, task: objects_pb2.Task) -> str:
    return next(name for name, node in cluster.nodes().items() if node.meta.id == task.node_id)


def test_ids_of_its_own_with_network_name_and_files(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", "--userns", "auto",
        "--hostname", "{{.Service.Name}}-{{.Task.Slot}}", "--env", "WHERE={{.Node.Hostname}}",
        "--sidecar", f"name=beside,image={IMAGE},cmd=sleep 100001",
        "--mount", "type=volume,target=/data", *QUICK, IMAGE,
    )  # fmt: skip
    tasks = cluster.running(service)
    for task in tasks:
        script = "hostname; echo $WHERE; id -u; touch /data/a && echo written; cat /proc/self/uid_map"
        said = cluster.cli("exec", f"{service}.{task.slot}", "sh", "-c", script).stdout.split()
        assert said[:4] == [f"{service}-{task.slot}", name_of(cluster, task), "0", "written"]
        first = int(said[5])
        assert first > 65_536
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in cluster.pids(task.meta.id)}
        assert owners == {first}
        said = cluster.cli("exec", "--container", "beside", task.meta.id, "cat", "/proc/self/uid_map").stdout
        assert int(said.split()[1]) == first
    url = f"http://{service}/cgi-bin/hostname"
    assert cluster.shell(tasks[0], "wget", "-q", "-O-", url).stdout.strip().startswith(service)
    found = json.loads(cluster.cli("service", "inspect", service).stdout)[0]
    assert found["spec"]["task"]["container"]["userns"] == "auto"


def test_limits_change_in_place(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--limit-memory", "64m", *QUICK, IMAGE, *SLEEP)
    (task,) = cluster.running(service)
    cluster.cli("service", "update", "-q", "--limit-memory", "96m", "--limit-cpu", "0.5", service)
    (after,) = cluster.running(service)
    assert after.meta.id == task.meta.id
    assert after.spec.resources.limits.memory_bytes == 96 * MEBIBYTE

    said = json.loads(cluster.cli("stats", "--no-stream", "--format", "json", service).stdout)
    assert said["MemUsage"].endswith(" / 101MB")
    cluster.cli("exec", service, "dd", "if=/dev/zero", "of=/dev/shm/a", "bs=1M", "count=40")
    done = cluster.cli("service", "update", "-q", "--limit-memory", "8m", service, check=False)
    assert done.returncode == 6, done.stderr
    assert "memory limit of 8 MiB is below" in done.stderr
    assert "memory limit of 8 MiB is below" in cluster.cli("service", "ps", service).stdout
    assert [task.meta.id for task in cluster.running(service)] == [task.meta.id]
    cluster.cli("exec", service, "rm", "/dev/shm/a")
    wait_for(
        lambda: not cluster.running(service)[0].status.error, 25, "the limit is taken once there is room"
    )


def test_the_hosts_network_and_what_a_node_cannot_do(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--network", "host", "--pid", "host", "--ipc", "host",
        "-p", "published=8140,target=8140,mode=host", "--runtime", "runc", *QUICK, IMAGE, *SLEEP,
    )  # fmt: skip
    (task,) = cluster.running(service)
    assert not task.status.addresses
    assert not cluster.service(service).endpoint.vips
    node = name_of(cluster, task)
    own = cluster.shell(task, "ip", "-o", "-4", "addr").stdout
    assert cluster.address(node) in own
    assert int(cluster.shell(task, "sh", "-c", "ls /proc | grep -c '^[0-9]'").stdout) > 20
    refused = cluster.cli("service", "update", "-q", "--publish-add", "8141:80", service, check=False)
    assert refused.returncode == 1
    assert "cannot be mapped" in refused.stderr
    cluster.cli("service", "update", "-q", "-d", "--cgroup-parent", "/nowhere", service)
    wait_for(
        lambda: any(
            task.status.state == types_pb2.TASK_REJECTED and "/nowhere" in task.status.error
            for task in cluster.tasks(service)
        ),
        30,
        "a task is REJECTED with the control group's name",
    )


def test_a_runtime_that_no_node_has_is_waited_for(cluster: Cluster, service: str) -> None:
    argv = ("service", "create", "-q", "-d", "--name", service, "--runtime", "kata-runtime")
    cluster.cli(*argv, *QUICK, IMAGE, *SLEEP)
    wait_for(
        lambda: any(
            task.status.state == types_pb2.TASK_PENDING
            and "do not have the OCI runtime kata-runtime" in task.status.message
            for task in cluster.tasks(service)
        ),
        30,
        "a task says that it waits for the runtime",
    )
    told = cluster.cli("explain", cluster.tasks(service)[0].meta.name).stdout
    assert "do not have the OCI runtime kata-runtime" in told
    cluster.cli("service", "update", "-q", "--runtime", "runc", service)
    assert cluster.running(service)
