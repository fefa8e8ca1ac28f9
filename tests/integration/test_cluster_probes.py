"""Readiness on a whole cluster: a task that is not ready gets no traffic, keeps running, and comes back."""

from __future__ import annotations

import json

import pytest
from swarmpy.proto import objects_pb2, types_pb2

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
READY = (
    "--readiness-http", ":80/ready", "--readiness-interval", "200ms", "--readiness-retries", "2",
    "--readiness-start-interval", "200ms",
)  # fmt: skip


def names_in_dns(cluster: Cluster, asker: objects_pb2.Task, name: str) -> str:
    return cluster.shell(asker, "nslookup", f"tasks.{name}").stdout


def by_vip(cluster: Cluster, asker: objects_pb2.Task, name: str) -> set[str]:
    url = f"http://{name}/cgi-bin/hostname"
    return {cluster.shell(asker, "wget", "-q", "-O-", url).stdout.strip() for _ in range(12)} - {""}


def test_readiness_takes_a_task_out_of_vip_and_dns_and_back_without_a_restart(
    cluster: Cluster, service: str
) -> None:
    cluster.cli("service", "create", "-d", "--name", service, "--replicas", "2", *QUICK, *READY, IMAGE)
    wait_for(lambda: len(cluster.running(service)) == 2, 20, "two tasks run")
    first, second = sorted(cluster.running(service), key=lambda task: task.slot)
    assert not first.status.ready
    assert not by_vip(cluster, first, service), "an unready task got traffic"

    for task in (first, second):
        cluster.cli("exec", task.meta.id, "touch", "/www/ready")
    cluster.cli("service", "scale", f"{service}=2")  # waits until both are ready
    both = {first.meta.id[:12], second.meta.id[:12]}
    wait_for(lambda: by_vip(cluster, first, service) == both, 15, "both get traffic")

    cluster.cli("exec", second.meta.id, "rm", "/www/ready")
    wait_for(lambda: by_vip(cluster, first, service) == {first.meta.id[:12]}, 15, "the unready one is out")
    addresses = {task.meta.id: task.status.addresses[0].address for task in (first, second)}
    found = names_in_dns(cluster, first, service)
    assert addresses[first.meta.id] in found
    assert addresses[second.meta.id] not in found
    shown = cluster.cli("service", "ps", "--no-trunc", service).stdout
    assert "readiness check: HTTP answer 404 Not Found" in shown
    inspected = json.loads(cluster.cli("task", "inspect", second.meta.id).stdout)[0]
    assert inspected["status"]["containers"][0]["probes"][0]["verdict"] == "failing"

    cluster.cli("exec", second.meta.id, "touch", "/www/ready")
    wait_for(lambda: by_vip(cluster, first, service) == both, 15, "the ready one is back")
    assert addresses[second.meta.id] in names_in_dns(cluster, first, service)
    again = {task.meta.id: task.status.started_ms for task in cluster.running(service)}
    assert again == {task.meta.id: task.status.started_ms for task in (first, second)}, "one was restarted"
    assert {task.status.state for task in cluster.tasks(service)} == {types_pb2.TASK_RUNNING}
