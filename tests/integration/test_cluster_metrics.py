"""What Prometheus and load balancers are told by the nodes of a real cluster."""

from __future__ import annotations

import re

import pytest

from tests.integration.cluster import IMAGE, Cluster, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
URL = "http://127.0.0.1:7380"


def series(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, f"{name} twice"
            found[name] = float(value)
    return found


def test_every_node_shows_its_numbers_and_one_manager_leads(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--replicas", "2", IMAGE, "sleep", "100000")
    sessions = "swarmpy_manager_sessions"
    wait_for(
        lambda: series(cluster.get(cluster.leader(), f"{URL}/metrics"))[sessions] == 5,
        10,
        "a session for each node, and none of one that is gone",
    )
    numbers = {node: series(cluster.get(node, f"{URL}/metrics")) for node in ("n1", "n2", "n3", "n4", "n5")}
    leading = [node for node, found in numbers.items() if found.get("swarmpy_manager_leader") == 1]
    assert leading == [cluster.leader()]
    on_leader = numbers[leading[0]]
    assert on_leader['swarmpy_manager_nodes{state="ready"}'] == 5
    assert on_leader['swarmpy_manager_tasks_total{state="running"}'] >= 2
    assert on_leader[sessions] == 5
    assert on_leader["swarmpy_dispatcher_scheduling_delay_seconds_count"] >= 2
    assert on_leader["swarmpy_raft_members_reachable"] == 3
    assert on_leader["swarmpy_raft_transaction_latency_seconds_count"] > 5
    assert not [name for name in numbers["n5"] if name.startswith("swarmpy_manager")], (
        "a worker is no manager"
    )
    for found in numbers.values():
        assert found["swarmpy_dns_services"] >= 1
        assert found["swarmpy_network_change_seconds_count"] >= 1
        assert found["swarmpy_network_connections"] >= 0
        assert found["swarmpy_network_forgotten_total"] >= 0
        assert found["swarmpy_image_p2p_bytes_total"] >= 0
    met = f'swarmpy_vip_requests_total{{service="{service}"}}'
    wait_for(
        lambda: series(cluster.get("n5", f"{URL}/metrics")).get(met) == 0,
        10,
        "n5 knows the service, and counts",
    )
    vip = cluster.service(service).endpoint.vips[0].address
    for _ in range(3):
        assert cluster.inside("n5", "bash", "-c", f"exec 3<>/dev/tcp/{vip}/80").returncode != 0, (
            "nobody listens there"
        )
    assert series(cluster.get("n5", f"{URL}/metrics"))[met] == 3
    before = numbers["n5"]['swarmpy_dns_queries_total{result="local"}']
    cluster.cli("network", "verify", "n5")
    after = series(cluster.get("n5", f"{URL}/metrics"))['swarmpy_dns_queries_total{result="local"}']
    assert after > before, "verify asks the resolver"
    shown = [
        name for found in numbers.values() for name in found if name.startswith("swarmpy_task_memory_bytes")
    ]
    own = [name for name in shown if f'service="{service}"' in name]
    assert len(own) == 2
    assert all(re.search(rf'task="{service}\.\d\.\w+"', name) for name in own)


def test_ready_is_about_the_session_and_the_manager(cluster: Cluster) -> None:
    assert cluster.get("n1", f"{URL}/readyz") == "ok"
    assert cluster.get("n5", f"{URL}/healthz") == "ok"
    cluster.demo("partition", "n5|n1,n2,n3,n4")
    try:
        wait_for(lambda: cluster.get("n5", f"{URL}/readyz") == "", 20, "a node that is cut off is not ready")
        assert cluster.get("n5", f"{URL}/healthz") == "ok", "but well"
    finally:
        cluster.demo("heal")
        cluster.settle()
    wait_for(lambda: cluster.get("n5", f"{URL}/readyz") == "ok", 20, "ready again")
