"""Nodes come, go, change their role, and are cut off. Every test ends with the five nodes it began with."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import store_pb2, types_pb2

from tests.integration.cluster import IMAGE, SWARMPY, Cluster, Done, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")
EXIT_REMOVED = 70


def token(cluster: Cluster, role: str, *flags: str) -> str:
    return cluster.cli("token", "-q", *flags, role).stdout.strip()


def join(cluster: Cluster, join_token: str, hostname: str = "n5", address: str = "") -> Done:
    """Join the machine n5, in its own namespace, without starting anything."""
    return cluster.inside(
        "n5", *SWARMPY, "join", "--no-start", "--token", join_token, "--hostname", hostname, "--advertise-addr",
        cluster.address("n5"), "--state-dir", str(cluster.state("n5")), address or f"{cluster.address('n1')}:7376",
        timeout_s=40,
    )  # fmt: skip


def leave(cluster: Cluster, *flags: str) -> Done:
    return cluster.inside(
        "n5", *SWARMPY, "leave", *flags, "--state-dir", str(cluster.state("n5")), timeout_s=60
    )


def call(cluster: Cluster, certs: Path, what: str) -> str:
    """What a manager answers to the holder of these certificates, over the network."""
    manager = cluster.nodes()["n1"]
    script = Path(__file__).with_name("cluster_caller.py")
    argv = [sys.executable, str(script), str(certs), manager.manager.control_address, manager.meta.id, what]
    done = cluster.inside("n4", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def members(cluster: Cluster) -> list[str]:
    return sorted(member.hostname for member in cluster.status().members)


@contextlib.contextmanager
def n5_restored(cluster: Cluster) -> Iterator[None]:
    """Whatever became of n5: in the end it is a fresh worker again."""
    # By id, and before anything happens: a test may bring a second node of one of these names.
    keep = {cluster.nodes()[name].meta.id for name in ("n1", "n2", "n3", "n4")}
    try:
        yield
    finally:
        if cluster.state("n5").exists():
            leave(cluster, "--force")
        for node in cluster.listed(store_pb2.KIND_NODE):
            if node.meta.id not in keep and not node.removed:
                cluster.cli("node", "rm", "--force", node.meta.id)
        wait_for(lambda: members(cluster) == ["n1", "n2", "n3"], 20, "three members")
        done = join(cluster, token(cluster, "worker"))
        assert done.returncode == 0, done.stderr
        cluster.demo("start", "n5")
        cluster.settle()


def test_worker_is_promoted_and_demoted(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service",
        "create",
        "-q",
        "--name",
        service,
        "--constraint",
        "node.hostname==n4",
        *QUICK,
        IMAGE,
        *SLEEP,
    )
    task = cluster.running(service)[0].meta.id
    pids = cluster.pids(task)
    try:
        cluster.cli("node", "promote", "n4")
        wait_for(lambda: "n4" in members(cluster), 20, "n4 is in Raft")
        status = cluster.at("n4", "--timeout", "20s", "status", "--format", "json")
        assert status.returncode == 0
        assert cluster.pid("n4", "manager")

        def reachable() -> bool:
            return all(member.reachable for member in cluster.status().members)

        wait_for(reachable, 10, "all four reach each other")
        network = "made-through-n4"
        cluster.at("n4", "--timeout", "20s", "network", "create", network)
        cluster.cli("network", "rm", network)
    finally:
        cluster.cli("node", "demote", "n4")
    wait_for(lambda: members(cluster) == ["n1", "n2", "n3"], 20, "n4 is out of Raft")
    wait_for(lambda: not cluster.pid("n4", "manager"), 20, "its manager ended")
    assert cluster.nodes()["n4"].role == types_pb2.ROLE_WORKER
    cluster.settle()
    assert cluster.pids(task) == pids, "its containers noticed nothing"
    answer = call(cluster, Paths(cluster.state("n4")).certs, "control")
    assert answer.startswith("PERMISSION_DENIED"), answer


def test_worker_leaves_and_joins_again(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", *QUICK, IMAGE, *SLEEP)
    node = cluster.nodes()["n5"].meta.id
    task = next(task.meta.id for task in cluster.running(service) if task.node_id == node)
    assert cluster.pids(task)
    with n5_restored(cluster):
        done = leave(cluster)
        assert done.returncode == 0, done.stderr
        assert "left the cluster" in done.stdout
        assert not cluster.pids(task)
        assert not cluster.state("n5").exists()
        assert not cluster.pid("n5", "agent")
        assert not Paths(cluster.state("n5")).run.exists()
        links = cluster.inside("n5", "ip", "-o", "link").stdout
        assert "vxlan" not in cluster.inside("n5", "ip", "-d", "-o", "link").stdout, links
        assert cluster.inside("n5", "nft", "list", "tables").stdout == ""
        wait_for(lambda: cluster.nodes()["n5"].status.state == types_pb2.NODE_DOWN, 10, "n5 is down")
        assert "left the cluster" in cluster.nodes()["n5"].status.message, (
            "it said goodbye, nobody had to wait"
        )
        assert cluster.cli("node", "rm", "n5").returncode == 0
    fresh = cluster.nodes()["n5"].meta.id
    assert fresh != node, "a new identity"
    wait_for(lambda: len(cluster.running(service)) == 5, 15, "the global service runs on it")


def test_manager_token_is_rotated_a_manager_joins_and_leaves(cluster: Cluster) -> None:
    old = token(cluster, "manager")
    new = token(cluster, "manager", "--rotate")
    assert old != new
    with n5_restored(cluster):
        assert leave(cluster).returncode == 0
        cluster.cli("node", "rm", "--force", "n5")
        refused = join(cluster, old)
        assert refused.returncode == 1
        assert "rotated" in refused.stderr
        assert not cluster.state("n5").exists(), "a refused join leaves nothing"
        assert join(cluster, new).returncode == 0
        cluster.demo("start", "n5")
        wait_for(lambda: "n5" in members(cluster), 20, "n5 is in Raft")
        cluster.settle()
        done = leave(cluster)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: members(cluster) == ["n1", "n2", "n3"], 20, "n5 handed its membership back")
        assert not cluster.state("n5").exists()


def test_removed_live_node_is_cut_off(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--mode", "global", *QUICK, IMAGE, *SLEEP)
    node = cluster.nodes()["n5"].meta.id
    task = next(task.meta.id for task in cluster.running(service) if task.node_id == node)
    with n5_restored(cluster):
        refused = cluster.cli("node", "rm", "n5", check=False)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        agent = cluster.pid("n5", "agent")
        cluster.cli("node", "rm", "--force", "n5")
        wait_for(lambda: cluster.pid("n5", "agent") != agent, 25, "its agent ended")
        wait_for(lambda: not cluster.overview()["n5"]["daemon"], 25, "its supervisor ended too")
        assert re.search(r"node removed reason=", cluster.daemon_log("n5"))
        assert not cluster.pids(task), "and its containers"
        certs = Paths(cluster.state("n5")).certs
        for what in ("attach", "control"):
            answer = call(cluster, certs, what)
            assert answer.startswith("UNAUTHENTICATED"), answer
        again = cluster.inside("n5", *SWARMPY, "agent", "--state-dir", str(cluster.state("n5")), timeout_s=30)
        assert again.returncode == EXIT_REMOVED, again.stderr
        assert "n5" not in cluster.nodes()


def test_two_nodes_with_one_hostname_are_told_apart_by_id(cluster: Cluster) -> None:
    with n5_restored(cluster):
        assert leave(cluster).returncode == 0
        cluster.cli("node", "rm", "--force", "n5")
        assert join(cluster, token(cluster, "worker"), hostname="n4").returncode == 0
        cluster.demo("start", "n5")
        cluster.settle()
        ids = [
            node.meta.id for node in cluster.listed(store_pb2.KIND_NODE) if node.description.hostname == "n4"
        ]
        assert len(ids) == 2
        ambiguous = cluster.cli("node", "inspect", "n4", check=False)
        assert ambiguous.returncode != 0
        assert len(ambiguous.stderr.strip().splitlines()) == 1, ambiguous.stderr
        for node_id in ids:
            assert node_id in cluster.cli("node", "inspect", node_id).stdout


@pytest.mark.slow
def test_a_temporary_token_lets_one_node_in_through_any_manager(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower = next(name for name in ("n1", "n2", "n3") if name != leader)
    with n5_restored(cluster):
        assert leave(cluster).returncode == 0
        cluster.cli("node", "rm", "--force", "n5")
        made = cluster.at(follower, "token", "worker", "-q", "--ttl", "1h", "--labels", "zone=z9")
        once = made.stdout.strip()
        done = join(cluster, once, address=f"{cluster.address(follower)}:7376")
        assert done.returncode == 0, done.stderr
        assert dict(cluster.nodes()["n5"].meta.labels) == {"zone": "z9"}
        leave(cluster, "--force")
        for name in (leader, follower):
            refused = join(cluster, once, address=f"{cluster.address(name)}:7376")
            assert refused.returncode == 1
            assert "the join token is used up, it was for joining once" in refused.stderr
            assert not cluster.state("n5").exists(), "a refused join leaves nothing"
        assert (
            cluster.cli("token", "ls", "--format", "{{.Role}} {{.State}} {{.Uses}}").stdout
            == "worker used up 1/1\n"
        )
