"""On a whole cluster: policies between services, their answers beforehand, encryption refused, and doctor."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")


@contextlib.contextmanager
def removed(cluster: Cluster, *command: str) -> Iterator[None]:
    try:
        yield
    finally:
        wait_for(lambda: cluster.cli(*command, check=False).returncode == 0, 20, " ".join(command))


def reaches(cluster: Cluster, source: str, target: str) -> bool:
    """Whether a task of one service gets the page of another, by name."""
    task = cluster.running(source)[0]
    return cluster.shell(task, "wget", "-q", "-O-", f"http://{target}/cgi-bin/hostname").returncode == 0


def answers(cluster: Cluster, source: str, target: str) -> tuple[int, str]:
    done = cluster.cli("network", "policy", "test", source, f"{target}:80", check=False)
    return done.returncode, done.stdout


def test_policies_decide_who_reaches_whom(cluster: Cluster) -> None:
    labels = {"pol-web": "app=web", "pol-job": "app=job", "pol-db": "app=db"}
    with contextlib.ExitStack() as stack:
        cluster.cli("network", "create", "--default-policy", "deny", "pol-net")
        stack.enter_context(removed(cluster, "network", "rm", "pol-net"))
        stack.callback(cluster.cli, "service", "rm", *labels, check=False)
        for name, label in labels.items():
            cluster.cli(
                "service", "create", "--name", name, "--label", label, "--network", "pol-net", *QUICK, IMAGE
            )
        assert not reaches(cluster, "pol-web", "pol-db")
        code, text = answers(cluster, "pol-web", "pol-db")
        assert code == 1
        assert "network pol-net denies by default" in text
        rule = (
            "network",
            "policy",
            "create",
            "pol-rule",
            "--from",
            "app=web",
            "--to",
            "app=db",
            "--port",
            "80",
        )
        cluster.cli(*rule)
        stack.callback(cluster.cli, "network", "policy", "rm", "pol-rule", check=False)
        wait_for(lambda: reaches(cluster, "pol-web", "pol-db"), 10, "the policy reaches the node")
        assert answers(cluster, "pol-web", "pol-db")[0] == 0
        assert not reaches(cluster, "pol-job", "pol-db")
        assert answers(cluster, "pol-job", "pol-db")[0] == 1
        refused = cluster.cli("network", "rm", "pol-net", check=False)
        assert refused.returncode == 1
        cluster.cli("service", "update", "--label-add", "app=web", "pol-job")
        wait_for(lambda: reaches(cluster, "pol-job", "pol-db"), 10, "a label selects the service")
        cluster.cli("network", "policy", "rm", "pol-rule")
        cluster.cli("network", "policy", "default", "pol-net", "allow")
        wait_for(lambda: reaches(cluster, "pol-db", "pol-web"), 10, "the network allows again")
        assert cluster.cli("network", "verify").returncode == 0


def test_encryption_is_refused_where_the_kernel_has_none(cluster: Cluster) -> None:
    able = [node for node in cluster.nodes().values() if node.description.seal_methods]
    if able:
        pytest.skip("this kernel has WireGuard or ESP")
    done = cluster.cli("network", "create", "--opt", "encrypted", "secret", check=False)
    assert done.returncode == 1
    assert "has neither WireGuard nor ESP" in done.stderr
    assert "without --opt encrypted" in done.stderr
    unknown = cluster.cli("network", "create", "--opt", "com.docker.network.mtu=1400", "x", check=False)
    assert "is not a known option" in unknown.stderr


def examined(cluster: Cluster) -> tuple[int, dict[str, Any]]:
    done = cluster.cli("doctor", "--packets", "3", "--format", "json", check=False, timeout_s=120)
    return done.returncode, json.loads(done.stdout)


def pairs(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(node["name"], pair["name"]): pair for node in found["nodes"] for pair in node["probe"]["pairs"]}


def test_doctor_finds_blocked_udp(cluster: Cluster) -> None:
    _, found = examined(cluster)
    names = {node["name"] for node in found["nodes"]}
    assert len(names) == 5
    healthy = pairs(found)
    assert set(healthy) == {(one, other) for one in names for other in names if one != other}
    for key, pair in healthy.items():
        assert pair["reachable"], key
        assert not pair["udp_blocked"], key
        assert pair["loss"] < 1, key
        assert pair["path_mtu"] >= 1500, key
        assert abs(pair["clock_offset_ms"]) < 500, "all nodes have this machine's clock"
        assert all(port["open"] for port in pair["ports"]), key
    for command in (
        "add table ip block",
        "add chain ip block in { type filter hook prerouting priority -400; }",
        "add rule ip block in udp dport 4790 drop",
    ):
        assert cluster.inside("n5", "nft", command).returncode == 0
    try:
        code, found = examined(cluster)
    finally:
        cluster.inside("n5", "nft", "delete", "table", "ip", "block")
    assert code == 1
    assert not found["healthy"]
    blocked = {key for key, pair in pairs(found).items() if pair["udp_blocked"]}
    assert blocked == {key for key in healthy if "n5" in key}
