"""Jobs, schedules, ordered services, steps, taints and devices on a whole cluster, by its own commands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from swarmpy.proto import objects_pb2

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")


def test_a_job_shows_its_output_and_ends_with_its_code(cluster: Cluster, service: str) -> None:
    script = "echo index $SWARMPY_JOB_INDEX of $SWARMPY_JOB_COMPLETIONS"
    done = cluster.cli("job", "run", "--name", service, "--completions", "3", IMAGE, "sh", "-c", script)
    assert sorted(done.stdout.splitlines()) == [f"index {index} of 3" for index in range(3)]
    listed = json.loads(cluster.cli("job", "ls", "-f", f"name={service}", "--format", "json").stdout)
    assert (listed["State"], listed["Completions"]) == ("Complete", "3/3")
    cluster.cli("job", "rm", service)
    failed = cluster.cli(
        *("job", "run", "--name", service, "--backoff-limit", "1", "--restart-delay", "0s"),
        *(IMAGE, "sh", "-c", "echo no >&2; exit 7"), check=False,
    )  # fmt: skip
    assert failed.returncode == 7, failed.stderr
    assert "2 attempts failed, the limit is 1" in failed.stderr


def test_an_ordered_service_has_names_that_last(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "--name", service, "--mode", "ordered", "--replicas", "2", *QUICK, IMAGE, *SLEEP
    )
    first, second = sorted(cluster.running(service), key=lambda task: task.slot)
    assert inside(cluster, first, "hostname") == f"{service}-1"
    answer = cluster.shell(first, "nslookup", f"2.{service}").stdout
    assert second.status.addresses[0].address in answer
    assert second.meta.created_ms >= first.status.started_ms
    cluster.cli("task", "restart", second.meta.id)
    again = max(cluster.running(service), key=lambda task: task.slot)
    assert again.meta.id != second.meta.id
    assert inside(cluster, again, "hostname") == f"{service}-2"
    shown = cluster.cli("task", "history", second.meta.id, "--format", "{{.State}} {{.Reason}}").stdout
    assert "told to stop KILLED" in shown
    assert shown.split()[:3] == ["new", "pending", "assigned"]


@contextlib.contextmanager
def schedule(cluster: Cluster, name: str, *flags: str) -> Iterator[None]:
    """A schedule whose runs succeed; afterwards all its runs are gone."""
    cluster.cli("cron", "create", "--name", name, "--schedule", "* * * * *", *flags, IMAGE, "true")
    try:
        yield
    finally:
        cluster.cli("cron", "rm", name)
    wait_for(lambda: not cluster.cli("job", "ls", "-q", "-f", f"name={name}").stdout, 20, "its runs are gone")


def test_a_suspended_schedule_runs_when_triggered(cluster: Cluster, service: str) -> None:
    with schedule(cluster, service, "--suspended"):
        cluster.cli("cron", "trigger", service)
        wait_for(lambda: completed(cluster, service) == 1, 20, "the triggered run is complete")


@pytest.mark.slow
def test_a_schedule_runs_at_its_time(cluster: Cluster, service: str) -> None:
    with schedule(cluster, service, "--tz", "Asia/Kolkata"):
        wait_for(lambda: completed(cluster, service) >= 2, 150, "two minutes' runs are complete")


def completed(cluster: Cluster, name: str) -> int:
    lines = cluster.cli("job", "ls", "-f", f"name={name}", "--format", "{{.State}}").stdout.split()
    return lines.count("Complete")


def test_a_step_runs_before_and_a_tainted_node_gives_its_device(cluster: Cluster, service: str) -> None:
    node = cluster.cli("node", "ls", "-f", "role=worker", "--format", "{{.Hostname}}").stdout.split()[0]
    cluster.cli("node", "taint", "add", node, "card:NoSchedule")
    cluster.cli("node", "update", "--generic-resource", "card=/dev/net/tun", node)
    try:
        cluster.cli(
            *("service", "create", "--name", service, "--generic-resource", "card=1", "--toleration", "card"),
            *("--pre-deploy", ". sh -c 'echo prepared'", *QUICK, IMAGE, *SLEEP),
        )
        (task,) = cluster.running(service)
        look = "test -c /dev/net/tun && echo $SWARMPY_RESOURCE_CARD"
        assert inside(cluster, task, "sh", "-c", look) == "/dev/net/tun"
        assert cluster.cli("logs", "--raw", f"{service}-pre-1").stdout == "prepared\n"
        cluster.cli("service", "update", "-d", "--toleration-rm", "card", service)
        tainted = wait_for(
            lambda: [m for m in map(message, cluster.tasks(service)) if "the taint card:NoSchedule" in m],
            20,
            "the new task says why it waits",
        )
        assert tainted[0].startswith("no suitable node: ")
    finally:
        cluster.cli("service", "rm", service)
        cluster.cli("node", "taint", "rm", node, "card")
        cluster.cli("node", "update", "--generic-resource-rm", "card", node)


def message(task: objects_pb2.Task) -> str:
    return task.status.message


def inside(cluster: Cluster, task: objects_pb2.Task, *command: str) -> str:
    """What a command says in the task's container."""
    return cluster.cli("exec", task.meta.id, *command).stdout.strip()
