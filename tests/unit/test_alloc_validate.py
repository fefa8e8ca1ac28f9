"""What users may write: each fault is named by its field path, and good specs pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from swarmpy.node.plan.validate import (
    Problem,
    validate_cluster,
    validate_network,
    validate_node,
    validate_service,
)
from swarmpy.proto import objects_pb2, types_pb2

from tests.store_world import cluster, network, node, port, service


def good() -> objects_pb2.Service:
    made = service("s1", networks=["w1"], ports=[port(80, 8080), port(81)])
    made.meta.labels["owner"] = "anna"
    spec = made.spec.task
    spec.container.MergeFrom(
        types_pb2.ContainerSpec(
            image="registry.example:5000/team/web:1.2@sha256:" + "a" * 64,
            command=["/bin/sh", "-c"],
            args=["exit 0"],
            env=["A=1", "B=", "C=a=b"],
            dir="/srv",
            user="1000:www-data",
            hostname="web-1.local",
            stop_signal="SIGQUIT",
            mounts=[
                types_pb2.Mount(
                    type=types_pb2.MOUNT_BIND, source="/data", target="/data", propagation="rslave"
                ),
                types_pb2.Mount(type=types_pb2.MOUNT_VOLUME, source="v1", target="/var/lib"),
                types_pb2.Mount(type=types_pb2.MOUNT_TMPFS, target="/tmp", tmpfs_size_bytes=1 << 20),
            ],
            health=types_pb2.HealthConfig(test=["CMD-SHELL", "true"], interval_ms=1000, retries=3),
            hosts=[types_pb2.Host(name="db", address="10.1.2.3")],
            dns_servers=["9.9.9.9", "fd00::1"],
            sysctls={"net.core.somaxconn": "1024"},
            cap_add=["NET_ADMIN", "CAP_SYS_TIME"],
            ulimits=[types_pb2.Ulimit(name="nofile", soft=1024, hard=4096)],
            pull_policy="missing",
        )
    )
    spec.resources.limits.nano_cpus = 500_000_000
    spec.resources.limits.memory_bytes = 64 << 20
    spec.resources.reservations.memory_bytes = 32 << 20
    spec.placement.constraints.extend(["node.role==worker", "node.labels.zone != b"])
    spec.placement.preferences.add(spread="node.labels.dc")
    made.spec.update.parallelism = 2
    made.spec.update.max_failure_ratio = 0.5
    return made


def test_a_good_service_has_no_problem() -> None:
    assert validate_service(good()) == []
    assert validate_service(service("s1")) == []


Edit = Callable[[objects_pb2.Service], object]
BAD: list[tuple[str, Edit]] = [
    ("meta.name", lambda s: setattr(s.meta, "name", "bad name")),
    ("meta.name", lambda s: setattr(s.meta, "name", "")),
    ("meta.labels", lambda s: s.meta.labels.update({"a b": "c"})),
    ("meta.labels", lambda s: s.meta.labels.update({"a": "c" * 5000})),
    ("spec.mode", lambda s: s.spec.ClearField("replicated")),
    ("spec.replicated.replicas", lambda s: setattr(s.spec.replicated, "replicas", 100_001)),
    ("spec.task.container.image", lambda s: setattr(s.spec.task.container, "image", "")),
    ("spec.task.container.image", lambda s: setattr(s.spec.task.container, "image", "a b")),
    ("spec.task.container.image", lambda s: setattr(s.spec.task.container, "image", "-x")),
    ("spec.task.container.env[3]", lambda s: s.spec.task.container.env.append("NOVALUE")),
    ("spec.task.container.env[3]", lambda s: s.spec.task.container.env.append("=x")),
    ("spec.task.container.args", lambda s: s.spec.task.container.args.append("a\0b")),
    ("spec.task.container.dir", lambda s: setattr(s.spec.task.container, "dir", "srv")),
    ("spec.task.container.user", lambda s: setattr(s.spec.task.container, "user", "a:b:c")),
    ("spec.task.container.hostname", lambda s: setattr(s.spec.task.container, "hostname", "a_b")),
    ("spec.task.container.stop_signal", lambda s: setattr(s.spec.task.container, "stop_signal", "stop")),
    ("spec.task.container.stop_grace_ms", lambda s: setattr(s.spec.task.container, "stop_grace_ms", -1)),
    (
        "spec.task.container.drain_delay_ms",
        lambda s: setattr(s.spec.task.container, "drain_delay_ms", 1 << 60),
    ),
    ("spec.task.container.pull_policy", lambda s: setattr(s.spec.task.container, "pull_policy", "often")),
    (
        "spec.task.container.mounts[0].target",
        lambda s: setattr(s.spec.task.container.mounts[0], "target", "x"),
    ),
    (
        "spec.task.container.mounts[0].target",
        lambda s: setattr(s.spec.task.container.mounts[0], "target", "/"),
    ),
    (
        "spec.task.container.mounts[0].target",
        lambda s: setattr(s.spec.task.container.mounts[0], "target", "/a/../b"),
    ),
    (
        "spec.task.container.mounts[1].target",
        lambda s: setattr(s.spec.task.container.mounts[1], "target", "/data"),
    ),
    (
        "spec.task.container.mounts[0].source",
        lambda s: setattr(s.spec.task.container.mounts[0], "source", "data"),
    ),
    (
        "spec.task.container.mounts[2].source",
        lambda s: setattr(s.spec.task.container.mounts[2], "source", "x"),
    ),
    (
        "spec.task.container.mounts[0].propagation",
        lambda s: setattr(s.spec.task.container.mounts[0], "propagation", "x"),
    ),
    ("spec.task.container.health.test", lambda s: s.spec.task.container.health.test.__setitem__(0, "RUN")),
    ("spec.task.container.health.test", lambda s: s.spec.task.container.health.test.pop()),
    ("spec.task.container.health.retries", lambda s: setattr(s.spec.task.container.health, "retries", -1)),
    ("spec.task.container.health", lambda s: setattr(s.spec.task.container.health, "tcp", ":80")),
    ("spec.task.container.hosts[0]", lambda s: setattr(s.spec.task.container.hosts[0], "address", "x")),
    ("spec.task.container.dns_servers[0]", lambda s: s.spec.task.container.dns_servers.__setitem__(0, "x")),
    ("spec.task.container.sysctls", lambda s: s.spec.task.container.sysctls.update({"a b": "1"})),
    ("spec.task.container.cap_add", lambda s: s.spec.task.container.cap_add.append("NET ADMIN")),
    ("spec.task.container.ulimits[0]", lambda s: setattr(s.spec.task.container.ulimits[0], "soft", 9999)),
    ("spec.task.container.ulimits[0]", lambda s: setattr(s.spec.task.container.ulimits[0], "name", "files")),
    ("spec.task.container.oom_score_adj", lambda s: setattr(s.spec.task.container, "oom_score_adj", 2000)),
    ("spec.task.container.devices[0]", lambda s: s.spec.task.container.devices.append("/etc/passwd")),
    (
        "spec.task.resources.limits.nano_cpus",
        lambda s: setattr(s.spec.task.resources.limits, "nano_cpus", 999_999),
    ),
    (
        "spec.task.resources.limits.nano_cpus",
        lambda s: setattr(s.spec.task.resources.limits, "nano_cpus", -1),
    ),
    (
        "spec.task.resources.limits.memory_bytes",
        lambda s: setattr(s.spec.task.resources.limits, "memory_bytes", 4095),
    ),
    (
        "spec.task.resources.reservations.memory_bytes",
        lambda s: setattr(s.spec.task.resources.reservations, "memory_bytes", 1 << 40),
    ),
    ("spec.task.resources.pids_limit", lambda s: setattr(s.spec.task.resources, "pids_limit", -2)),
    ("spec.task.restart.delay_ms", lambda s: setattr(s.spec.task.restart, "delay_ms", -5)),
    ("spec.task.restart.max_attempts", lambda s: setattr(s.spec.task.restart, "max_attempts", -5)),
    ("spec.update.max_failure_ratio", lambda s: setattr(s.spec.update, "max_failure_ratio", 1.5)),
    ("spec.update.max_failure_ratio", lambda s: setattr(s.spec.update, "max_failure_ratio", float("nan"))),
    ("spec.rollback.parallelism", lambda s: setattr(s.spec.rollback, "parallelism", -1)),
    (
        "spec.task.placement.constraints[2]",
        lambda s: s.spec.task.placement.constraints.append("node.colour==red"),
    ),
    ("spec.task.placement.constraints[2]", lambda s: s.spec.task.placement.constraints.append("zone")),
    (
        "spec.task.placement.preferences[0].spread",
        lambda s: setattr(s.spec.task.placement.preferences[0], "spread", "dc"),
    ),
    ("spec.task.networks[1].target", lambda s: s.spec.task.networks.add(target="w1")),
    ("spec.task.networks[1].target", lambda s: s.spec.task.networks.add()),
    ("spec.task.networks[0].aliases", lambda s: s.spec.task.networks[0].aliases.append("a b")),
    ("spec.endpoint.ports[0].target", lambda s: setattr(s.spec.endpoint.ports[0], "target", 0)),
    ("spec.endpoint.ports[0].target", lambda s: setattr(s.spec.endpoint.ports[0], "target", 65536)),
    ("spec.endpoint.ports[0].published", lambda s: setattr(s.spec.endpoint.ports[0], "published", 70000)),
    ("spec.endpoint.ports[0].published", lambda s: setattr(s.spec.endpoint.ports[0], "published", 7377)),
    ("spec.endpoint.ports[1].published", lambda s: setattr(s.spec.endpoint.ports[1], "published", 8080)),
    ("spec.endpoint.ports[0].address", lambda s: setattr(s.spec.endpoint.ports[0], "address", "eth0")),
    ("spec.endpoint.ports[0].mode", lambda s: setattr(s.spec.endpoint, "mode", objects_pb2.ENDPOINT_DNSRR)),
    ("spec", lambda s: s.spec.task.container.env.append("A=" + "x" * 300_000)),
]


@pytest.mark.parametrize(("path", "edit"), BAD, ids=[f"{i}-{path}" for i, (path, _) in enumerate(BAD)])
def test_each_fault_is_named_by_its_path(path: str, edit: Edit) -> None:
    made = good()
    edit(made)
    problems = validate_service(made)
    assert path in {problem.field_path for problem in problems}, problems
    assert all(problem.message and len(problem.message) < 300 for problem in problems)


def test_all_faults_are_told_at_once() -> None:
    made = service("s1", ports=[port(0), port(80, 99999)])
    made.meta.name = "no good"
    made.spec.task.container.image = ""
    assert len(validate_service(made)) >= 4


def test_host_ports_are_allowed_with_dnsrr() -> None:
    made = service("s1", ports=[port(80, 80, mode=types_pb2.PUBLISH_HOST)], mode=objects_pb2.ENDPOINT_DNSRR)
    assert validate_service(made) == []


@pytest.mark.parametrize(
    "subnet",
    [
        "x",
        "10.0.0.0",
        "10.0.0.1/24",
        "10.0.0.0/29",
        "10.0.0.0/4",
        "127.0.0.0/24",
        "224.1.0.0/16",
        "fd00::/64",
    ],
)
def test_bad_subnets(subnet: str) -> None:
    assert {p.field_path for p in validate_network(network("w1", subnet))} == {"spec.subnet"}


def test_good_networks_and_nodes() -> None:
    assert validate_network(network("w1")) == []
    assert validate_network(network("w1", "10.200.0.0/16")) == []
    assert validate_node(node("host.example.com")) == []
    assert validate_cluster(cluster()) == []
    assert validate_cluster(cluster(cluster_cidr="172.16.0.0/12", raft_profile="wan", heartbeat_ms=500)) == []


def test_bad_clusters_and_nodes() -> None:
    bad = cluster(
        cluster_cidr="10.0.0.0/30", raft_profile="x", heartbeat_ms=1, cert_expiry_ms=5, task_history_limit=-1,
        direct_routes="on",
    )  # fmt: skip
    assert [p.field_path for p in validate_cluster(bad)] == [
        "spec.cluster_cidr",
        "spec.direct_routes",
        "spec.task_history_limit",
        "spec.heartbeat_ms",
        "spec.cert_expiry_ms",
        "spec.raft_profile",
    ]
    labelled = node("n1")
    labelled.meta.labels[""] = "x"
    assert validate_node(labelled) == [Problem("meta.labels", "'' is no label name: no spaces and not empty")]
