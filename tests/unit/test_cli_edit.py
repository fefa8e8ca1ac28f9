"""Flags -> ServiceSpec, through click: create, and update's -add/-rm pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from swarmpy.cli import edit
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.flags import service_flags
from swarmpy.proto import objects_pb2, types_pb2


def flags(*arguments: str, update: bool = False) -> dict[str, Any]:
    """What click makes of the arguments."""
    got: dict[str, Any] = {}

    @click.command()
    @service_flags(update=update)
    def command(**values: Any) -> None:
        got.update(values)

    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return got


def created(*arguments: str, mode: str = "replicated") -> objects_pb2.Service:
    return edit.new_service("web", "nginx", ["serve"], mode, flags(*arguments))


def updated(service: objects_pb2.Service, *arguments: str) -> objects_pb2.ServiceSpec:
    edit.apply(service, flags(*arguments, update=True), lambda name: {"back": "id-of-back"}.get(name, name))
    return service.spec


def test_a_plain_service_holds_nothing_but_what_was_said() -> None:
    service = created()
    expected = objects_pb2.Service()
    expected.meta.name = "web"
    expected.spec.task.container.image = "nginx"
    expected.spec.task.container.args.append("serve")
    expected.spec.replicated.replicas = 1
    assert service == expected


def test_process_flags() -> None:
    container = created(
        "-e",
        "A=1",
        "-e",
        "A=2",
        "-w",
        "/srv",
        "-u",
        "www:www",
        "--group",
        "g1",
        "--group",
        "g2",
        "-t",
        "--init",
        "--read-only",
        "--stop-signal",
        "INT",
        "--stop-grace-period",
        "0s",
        "--hostname",
        "h",
        "--shm-size",
        "1g",
        "--pull",
        "never",
        "--cap-add",
        "net_admin",
        "--cap-drop",
        "ALL",
        "--ulimit",
        "nofile=1:2",
        "--sysctl",
        "a.b=1",
        "--device",
        "/dev/fuse",
        "--security-opt",
        "no-new-privileges=false",
        "--security-opt",
        "seccomp=unconfined",
        "--privileged",
        "--drain-delay",
        "0",
        "--entrypoint",
        "sh -c",
        "--container-label",
        "x=y",
        "--host",
        "db:10.0.0.1",
        "--dns",
        "1.1.1.1",
        "--dns-search",
        "corp",
        "--dns-option",
        "ndots:1",
        "--tmpfs",
        "/run",
        "--mount",
        "type=bind,src=/a,dst=/b,ro",
        "--oom-score-adj",
        "-5",
    ).spec.task.container
    assert list(container.env) == ["A=2"]
    assert (container.dir, container.user, list(container.groups)) == ("/srv", "www:www", ["g1", "g2"])
    assert container.tty
    assert container.init
    assert not container.no_init
    assert container.read_only
    assert container.privileged
    assert container.stop_signal == "SIGINT"
    assert container.HasField("stop_grace_ms")
    assert container.stop_grace_ms == 0
    assert container.HasField("drain_delay_ms")
    assert container.hostname == "h"
    assert container.shm_size_bytes == 1 << 30
    assert container.pull_policy == "never"
    assert (list(container.cap_add), list(container.cap_drop)) == (["CAP_NET_ADMIN"], ["ALL"])
    assert container.ulimits[0] == types_pb2.Ulimit(name="nofile", soft=1, hard=2)
    assert dict(container.sysctls) == {"a.b": "1"}
    assert list(container.devices) == ["/dev/fuse"]
    assert container.allow_new_privileges
    assert container.seccomp == "unconfined"
    assert list(container.command) == ["sh", "-c"]
    assert dict(container.labels) == {"x": "y"}
    assert container.hosts[0] == types_pb2.Host(name="db", address="10.0.0.1")
    assert list(container.dns_servers) == ["1.1.1.1"]
    assert list(container.dns_search) == ["corp"]
    assert list(container.dns_options) == ["ndots:1"]
    assert [(m.type, m.source, m.target, m.read_only) for m in container.mounts] == [
        (types_pb2.MOUNT_BIND, "/a", "/b", True),
        (types_pb2.MOUNT_TMPFS, "", "/run", False),
    ]
    assert container.oom_score_adj == -5


def test_task_flags() -> None:
    spec = created(
        "--replicas",
        "4",
        "--limit-cpu",
        "0.5",
        "--limit-memory",
        "64m",
        "--limit-pids",
        "-1",
        "--reserve-cpu",
        "1",
        "--reserve-memory",
        "1g",
        "--restart-condition",
        "on-failure",
        "--restart-delay",
        "0s",
        "--restart-max-attempts",
        "3",
        "--restart-window",
        "1m",
        "--restart-max-delay",
        "2m",
        "--replicas-max-per-node",
        "2",
        "--constraint",
        "node.role==worker",
        "--placement-pref",
        "spread=node.labels.zone",
        "--update-parallelism",
        "0",
        "--update-delay",
        "1s",
        "--update-order",
        "start-first",
        "--update-failure-action",
        "continue",
        "--update-monitor",
        "0s",
        "--update-max-failure-ratio",
        "0.5",
        "--rollback-parallelism",
        "2",
        "--rollback-failure-action",
        "pause",
        "--rollback-order",
        "stop-first",
        "--network",
        "name=back,alias=w",
        "-p",
        "8080:80",
        "-p",
        "published=53,target=53,protocol=udp,mode=host",
        "--endpoint-mode",
        "dnsrr",
        "-l",
        "a=b",
    ).spec
    assert spec.replicated.replicas == 4
    resources = spec.task.resources
    assert (resources.limits.nano_cpus, resources.limits.memory_bytes) == (500_000_000, 64 << 20)
    assert (resources.reservations.nano_cpus, resources.reservations.memory_bytes) == (10**9, 1 << 30)
    assert resources.pids_limit == -1
    restart = spec.task.restart
    assert restart.condition == types_pb2.RESTART_ON_FAILURE
    assert restart.HasField("delay_ms")
    assert (restart.delay_ms, restart.max_attempts, restart.window_ms, restart.max_delay_ms) == (
        0,
        3,
        60_000,
        120_000,
    )
    placement = spec.task.placement
    assert list(placement.constraints) == ["node.role==worker"]
    assert placement.preferences[0].spread == "node.labels.zone"
    assert placement.max_replicas_per_node == 2
    assert spec.update.HasField("parallelism")
    assert spec.update.HasField("monitor_ms")
    assert (spec.update.delay_ms, spec.update.order) == (1000, types_pb2.ORDER_START_FIRST)
    assert (spec.update.failure_action, spec.update.max_failure_ratio) == (types_pb2.FAILURE_CONTINUE, 0.5)
    assert (spec.rollback.parallelism, spec.rollback.failure_action) == (2, types_pb2.FAILURE_PAUSE)
    assert spec.task.networks[0] == types_pb2.NetworkReference(target="back", aliases=["w"])
    assert spec.endpoint.mode == objects_pb2.ENDPOINT_DNSRR
    assert [(p.published, p.target, p.protocol, p.mode) for p in spec.endpoint.ports] == [
        (8080, 80, types_pb2.PROTOCOL_TCP, types_pb2.PUBLISH_INGRESS),
        (53, 53, types_pb2.PROTOCOL_UDP, types_pb2.PUBLISH_HOST),
    ]


def test_health() -> None:
    health = created(
        "--health-cmd", "curl -f /", "--health-interval", "5s", "--health-retries", "2"
    ).spec.task.container.health
    assert list(health.test) == ["CMD-SHELL", "curl -f /"]
    assert (health.interval_ms, health.retries) == (5000, 2)
    assert list(created("--no-healthcheck").spec.task.container.health.test) == ["NONE"]
    with pytest.raises(UsageRefused):
        created("--no-healthcheck", "--health-cmd", "x")


def test_env_file(tmp_path: Path) -> None:
    file = tmp_path / "x.env"
    file.write_text("# note\nA=file\nB=2\n")
    assert list(created("--env-file", str(file), "-e", "A=flag").spec.task.container.env) == ["A=flag", "B=2"]
    file.write_text("a b=1\n")
    with pytest.raises(UsageRefused, match="line 1"):
        created("--env-file", str(file))


def test_global() -> None:
    assert created(mode="global").spec.WhichOneof("mode") == "global"
    with pytest.raises(UsageRefused):
        created("--replicas", "2", mode="global")
    with pytest.raises(UsageRefused):
        updated(created(mode="global"), "--replicas", "2")


def test_an_update_without_flags_changes_nothing() -> None:
    for arguments in (
        [],
        ["--no-healthcheck", "-p", "80:80", "--limit-cpu", "1", "--constraint", "node.id==x", "-e", "A=1"],
    ):
        service = created(*arguments)
        before = objects_pb2.Service()
        before.CopyFrom(service)
        updated(service)
        assert service == before
        assert service.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_added_entries_replace_those_with_the_same_key() -> None:
    service = created(
        "-e",
        "A=1",
        "-e",
        "B=1",
        "--mount",
        "type=bind,src=/1,dst=/m",
        "--ulimit",
        "core=1",
        "-l",
        "x=1",
        "--host",
        "db:10.0.0.1",
        "--network",
        "front",
        "--constraint",
        "node.id == a",
    )
    service.spec.task.networks.add(target="id-of-back")
    spec = updated(
        service,
        "--env-add",
        "A=2",
        "--env-rm",
        "B",
        "--mount-add",
        "type=tmpfs,dst=/m",
        "--ulimit-add",
        "core=2",
        "--label-add",
        "x=2",
        "--host-add",
        "db:10.0.0.2",
        "--host-rm",
        "db:10.0.0.1",
        "--network-rm",
        "back",
        "--constraint-rm",
        "node.id==a",
        "--constraint-add",
        "node.id!=b",
    )
    container = spec.task.container
    assert list(container.env) == ["A=2"]
    assert [(m.type, m.target) for m in container.mounts] == [(types_pb2.MOUNT_TMPFS, "/m")]
    assert [(u.name, u.soft) for u in container.ulimits] == [("core", 2)]
    assert dict(service.meta.labels) == {"x": "2"}
    assert [h.address for h in container.hosts] == ["10.0.0.2"]
    assert [n.target for n in spec.task.networks] == ["front"]
    assert list(spec.task.placement.constraints) == ["node.id!=b"]


def test_adding_a_network_that_is_there_by_id_does_not_double_it() -> None:
    service = created()
    service.spec.task.networks.add(target="id-of-back")
    assert [n.target for n in updated(service, "--network-add", "back").task.networks] == ["back"]


def test_ports_are_removed_by_target_and_replaced_by_published() -> None:
    service = created("-p", "8080:80", "-p", "8443:443", "-p", "53:53/udp")
    spec = updated(service, "--publish-rm", "443", "--publish-add", "8080:81", "--publish-rm", "53/udp")
    assert [(p.published, p.target) for p in spec.endpoint.ports] == [(8080, 81)]
    assert not updated(service, "--publish-rm", "8080:81").HasField("endpoint")


def test_capabilities_cancel_each_other() -> None:
    service = created("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN")
    container = updated(service, "--cap-add", "chown", "--cap-drop", "NET_ADMIN").task.container
    assert (list(container.cap_add), list(container.cap_drop)) == (["CAP_CHOWN"], ["CAP_NET_ADMIN"])
    with pytest.raises(UsageRefused):
        created("--cap-add", "CHOWN", "--cap-drop", "chown")


def test_a_new_image_loses_the_old_digest_and_force_counts() -> None:
    service = created()
    service.spec.task.container.image_digest = "sha256:1"
    values = {**flags(update=True), "image": "nginx:2", "force": True, "args": ["a"]}
    edit.apply(service, values, lambda name: name)
    container = service.spec.task.container
    assert (container.image, container.image_digest, list(container.args)) == ("nginx:2", "", ["a"])
    assert service.spec.task.force_update == 1


def test_health_flags_end_no_healthcheck() -> None:
    service = created("--no-healthcheck")
    assert list(updated(service, "--health-cmd", "true").task.container.health.test) == ["CMD-SHELL", "true"]
