"""Services on a whole cluster: reached by name, virtual IP and port; scaled, updated, placed, removed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from swarmpy.proto import store_pb2, types_pb2

from tests.integration.cluster import IMAGE, IMAGE_2, Cluster, Load, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")
UDP_SERVER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("", 9000))
    while True:
        server.sendto(*server.recvfrom(100))
"""
UDP_CLIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
    print(client.recv(100))
"""


@contextlib.contextmanager
def network(cluster: Cluster, name: str, *flags: str) -> Iterator[str]:
    """A network, removed again once no task uses it."""
    cluster.cli("network", "create", *flags, name)
    try:
        yield name
    finally:
        wait_for(
            lambda: cluster.cli("network", "rm", name, check=False).returncode == 0, 15, f"{name} removed"
        )


def test_name_vip_and_port_lead_to_every_replica(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "--name", service, "--replicas", "3", "-p", "8101:80", *QUICK, IMAGE)
    tasks = cluster.running(service)
    assert sorted(task.slot for task in tasks) == [1, 2, 3]
    vip = cluster.service(service).endpoint.vips[0].address
    asker = tasks[0]
    for target in (service, vip):
        answers = {
            cluster.shell(asker, "wget", "-q", "-O-", f"http://{target}/cgi-bin/hostname").stdout.strip()
            for _ in range(24)
        }
        assert answers == {task.meta.id[:12] for task in tasks}, f"by {target}"
    for node in ("n1", "n2", "n3", "n4", "n5"):
        url = f"http://{cluster.address(node)}:8101/cgi-bin/hostname"
        assert cluster.get("n1", url) in {task.meta.id[:12] for task in tasks}, f"by the port of {node}"
    found = cluster.shell(asker, "nslookup", f"tasks.{service}").stdout
    assert all(task.status.addresses[0].address in found for task in tasks), found


def test_scale_up_and_down(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--replicas", "1", *QUICK, IMAGE, *SLEEP)
    cluster.cli("service", "scale", "-q", f"{service}=6")
    assert len(cluster.running(service)) == 6
    assert set(cluster.where(service)) == {"n1", "n2", "n3", "n4", "n5"}, "spread over all nodes"
    cluster.cli("service", "scale", "-q", f"{service}=1")
    wait_for(lambda: len(cluster.running(service)) == 1, 10, "one task left")
    gone = [task.meta.id for task in cluster.tasks(service) if task.desired_state > types_pb2.TASK_RUNNING]
    wait_for(lambda: not any(cluster.pids(task_id) for task_id in gone), 10, "the others' processes end")


def test_update_of_the_image_rolls_and_keeps_serving(cluster: Cluster, service: str, tmp_path: Path) -> None:
    cluster.load_image(tmp_path, IMAGE_2)
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "3", "-p", "8102:80", "--stop-grace-period", "0s",
        "--update-monitor", "500ms", IMAGE,
    )  # fmt: skip
    before = {task.meta.id for task in cluster.running(service)}
    load = Load(cluster, "n5", f"http://{cluster.address('n5')}:8102/cgi-bin/hostname")
    try:
        cluster.cli("service", "update", "-q", "--image", IMAGE_2, service, timeout_s=90)
        report = load.end()
    finally:
        load.close()
    after = cluster.running(service)
    assert len(after) == 3
    assert not before & {task.meta.id for task in after}
    assert {task.spec.container.image for task in after} == {IMAGE_2}
    assert report["requests"] > 20
    assert report["failures"] == 0, report


def test_global_service_runs_on_every_node(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", *QUICK, IMAGE, *SLEEP)
    assert cluster.where(service) == ["n1", "n2", "n3", "n4", "n5"]


def test_constraint_places_and_a_changed_label_moves_nothing_away(cluster: Cluster, service: str) -> None:
    cluster.cli("node", "update", "--label-add", "disk=fast", "n4")
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", "--constraint", "node.labels.disk==fast",
        "--constraint", "node.role==worker", *QUICK, IMAGE, *SLEEP,
    )  # fmt: skip
    assert cluster.where(service) == ["n4", "n4"]


def test_host_mode_port_is_the_nodes_own(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "1", "--constraint", "node.hostname==n3",
        "-p", "published=8103,target=80,mode=host", *QUICK, IMAGE,
    )  # fmt: skip
    task = cluster.running(service)[0]
    assert cluster.get("n1", f"http://{cluster.address('n3')}:8103/cgi-bin/hostname") == task.meta.id[:12]
    assert cluster.get("n1", f"http://{cluster.address('n2')}:8103/cgi-bin/hostname") == ""


def answers(cluster: Cluster, node: str) -> bool:
    ask = (sys.executable, "-c", UDP_CLIENT, cluster.address(node), "9001")
    return "hello" in cluster.inside("n1", *ask).stdout


def test_published_udp_port_answers(cluster: Cluster, service: str) -> None:
    """busybox has no UDP server: one of Python listens in the task's network namespace."""
    cluster.cli(
        "service", "create", "-q", "--name", service, "--constraint", "node.hostname==n4", "-p", "9001:9000/udp",
        *QUICK, IMAGE, *SLEEP,
    )  # fmt: skip
    pid = cluster.pids(cluster.running(service)[0].meta.id)[0]
    echo = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "--", sys.executable, "-c", UDP_SERVER])
    try:
        for node in ("n2", "n4"):
            wait_for(partial(answers, cluster, node), 10, f"an answer over UDP through {node}")
    finally:
        echo.kill()
        echo.wait()


def test_networks_are_isolated_from_each_other(cluster: Cluster) -> None:
    names = ["iso-a", "iso-b", "iso-c"]
    with network(cluster, "red"), network(cluster, "blue"):
        try:
            for name, net, node in (("iso-a", "red", "n4"), ("iso-b", "red", "n5"), ("iso-c", "blue", "n4")):
                cluster.cli(
                    "service", "create", "-q", "--name", name, "--network", net,
                    "--constraint", f"node.hostname=={node}", *QUICK, IMAGE,
                )  # fmt: skip
            a, c = cluster.running("iso-a")[0], cluster.running("iso-c")[0]
            b = cluster.running("iso-b")[0].status.addresses[0].address
            get = ("wget", "-q", "-O-")
            assert cluster.shell(a, *get, "http://iso-b/").returncode == 0, "same network, other node"
            assert cluster.shell(a, *get, f"http://{b}/").returncode == 0
            assert cluster.shell(c, *get, f"http://{b}/").returncode != 0, "other network, by address"
            vip = cluster.service("iso-b").endpoint.vips[0].address
            assert cluster.shell(c, *get, f"http://{vip}/").returncode != 0, "other network, by virtual IP"
            assert cluster.shell(c, "nslookup", "iso-b").returncode != 0, "other network, by name"
            refused = cluster.cli("network", "rm", "red", check=False)
            assert refused.returncode == 1
            assert "used by service" in refused.stderr
        finally:
            cluster.cli("service", "rm", *names, check=False)


def test_every_node_gets_a_loaded_image_from_its_peers(cluster: Cluster, service: str) -> None:
    """The cluster has no registry and no way out: what runs everywhere came from one load."""
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", *QUICK, IMAGE, *SLEEP)
    digest = cluster.running(service)[0].spec.container.image_digest
    everyone = {node.meta.id for node in cluster.nodes().values()}

    def holders() -> set[str]:
        images = cluster.listed(store_pb2.KIND_IMAGE)
        return {holder for image in images if image.digest == digest for holder in image.holders}

    wait_for(lambda: holders() == everyone, 10, "every node holds the image")


def test_removed_service_leaves_no_container(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--replicas", "3", *QUICK, IMAGE, *SLEEP)
    tasks = [task.meta.id for task in cluster.running(service)]
    assert all(cluster.pids(task_id) for task_id in tasks)
    cluster.cli("service", "rm", service)
    wait_for(lambda: not any(cluster.pids(task_id) for task_id in tasks), 10, "no process left")
    assert cluster.cli("service", "inspect", service, check=False).returncode == 4
    groups = [path for path in Path("/sys/fs/cgroup").glob("**/swarmpy-*/*") if path.name in tasks]
    wait_for(lambda: not any(path.exists() for path in groups), 10, "no control group left")


def test_logs_of_all_tasks(cluster: Cluster, service: str) -> None:
    script = "echo out-$HOSTNAME; echo err-$HOSTNAME >&2; sleep 100000"
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", *QUICK, IMAGE, "sh", "-c", script
    )
    done = cluster.cli("service", "logs", "--raw", service)
    both = done.stdout + done.stderr
    for task in cluster.running(service):
        assert f"out-{task.meta.id[:12]}" in both
        assert f"err-{task.meta.id[:12]}" in both


def test_drain_moves_tasks_and_active_takes_new_ones(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--replicas", "5", *QUICK, IMAGE, *SLEEP)
    assert "n5" in cluster.where(service)
    try:
        cluster.cli("node", "update", "--availability", "drain", "n5")
        wait_for(
            lambda: len(cluster.running(service)) == 5 and "n5" not in cluster.where(service), 20, "n5 empty"
        )
    finally:
        cluster.cli("node", "update", "--availability", "active", "n5")
    cluster.cli("service", "scale", "-q", f"{service}=6")
    assert "n5" in cluster.where(service), "the emptiest node takes the next task"


def test_lists_are_machine_readable(cluster: Cluster) -> None:
    rows = [json.loads(line) for line in cluster.cli("node", "ls", "--format", "json").stdout.splitlines()]
    assert {row["Hostname"] for row in rows} >= {"n1", "n2", "n3", "n4", "n5"}
