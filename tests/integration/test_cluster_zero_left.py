"""The last test of the whole: once the cluster is taken down, the machine is as it was before."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, leftovers, machine_network, missing, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "ready"),
    pytest.mark.timeout(180),
]


def network_namespaces() -> dict[int, str]:
    """Every network namespace that a process or a mount keeps alive."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[os.stat(f"/proc/{entry}/ns/net").st_ino] = f"process {entry}"
            except OSError:
                continue
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[3].startswith("net:["):
            found[int(fields[3][5:-1])] = f"mount {fields[4]}"
    return found


def test_down_leaves_nothing_of_a_busy_cluster(
    cluster: Cluster, network_before: dict[str, list[str]]
) -> None:
    """Running tasks, a cut link, a dead node, a leader just killed: `down` has to cope with all of it."""
    cluster.cli("network", "create", "last")
    cluster.cli(
        "service",
        "create",
        "-q",
        "--name",
        "last",
        "--mode",
        "global",
        "--network",
        "last",
        "-p",
        "8999:80",
        IMAGE,
    )
    ours = {os.stat(cluster.namespace(node)).st_ino for node in ("n1", "n2", "n3", "n4", "n5", "switch")}
    ours |= {
        os.stat(f"/proc/{cluster.pids(task.meta.id)[0]}/ns/net").st_ino for task in cluster.running("last")
    }
    assert leftovers(cluster.root), "the search finds what is there"
    cluster.demo("kill", "n5")
    cluster.demo("partition", "n4|n1,n2,n3")
    cluster.kill(cluster.leader(), "manager")
    cluster.down()
    assert leftovers(cluster.root) == []
    assert not ours & network_namespaces().keys()
    after = machine_network()
    for what, before in network_before.items():
        new = [
            line for line in after[what] if line not in before and "docker" not in line and "veth" not in line
        ]
        assert not new, f"new {what} on the machine: {new}"


@pytest.mark.parametrize("after_s", [0.4, 1.2, 2.5, 4.0])
def test_killed_demo_up_leaves_nothing_after_down(after_s: float, request: pytest.FixtureRequest) -> None:
    """SIGKILL of `demo up` at several points: `down` finds everything, also what was starting."""
    cluster = Cluster(f"swarmpy-killed-{os.getpid()}")
    request.addfinalizer(lambda: cluster.run("demo", "down", check=False))
    killed_up(cluster, after_s)
    cluster.down()
    wait_for(lambda: not leftovers(cluster.root), 5, lambda: leftovers(cluster.root))
    time.sleep(1)
    assert leftovers(cluster.root) == [], "nothing came back either"


def test_next_up_removes_what_a_killed_one_left(request: pytest.FixtureRequest) -> None:
    cluster = Cluster(f"swarmpy-killed-{os.getpid()}")
    request.addfinalizer(lambda: cluster.run("demo", "down", check=False))
    killed_up(cluster, 2.0)
    old = processes(cluster)
    cluster.up(2, 1)
    assert not old & processes(cluster), "no process of the killed one lives"
    assert sorted(cluster.nodes()) == ["n1", "n2"]
    cluster.down()
    assert leftovers(cluster.root) == []


def test_interrupted_demo_up_tells_what_to_do(request: pytest.FixtureRequest) -> None:
    """Ctrl-C."""
    cluster = Cluster(f"swarmpy-killed-{os.getpid()}")
    request.addfinalizer(lambda: cluster.run("demo", "down", check=False))
    process = subprocess.Popen(
        [*SWARMPY, "demo", "up"], env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    cluster.down()
    wait_for(lambda: not leftovers(cluster.root), 5, lambda: leftovers(cluster.root))


def killed_up(cluster: Cluster, after_s: float) -> None:
    process = subprocess.Popen(
        [*SWARMPY, "demo", "up"], env=cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)
    process.kill()
    process.wait()


def processes(cluster: Cluster) -> set[int]:
    return {
        int(line.split()[1].rstrip(":")) for line in leftovers(cluster.root) if line.startswith("process")
    }
