"""--sidecar, --init-container, --pre-start, --pod and the probes: from the command line to the specification."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from swarmpy.cli import edit, parse_pods, yaml_tree
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.service import service
from swarmpy.node.plan import resize, validate
from swarmpy.proto import objects_pb2, types_pb2

from tests.unit.test_cli_edit import created, flags, updated

POD = """
share-pid: true
init-containers:
  - name: migrate
    image: app:1
    cmd: [migrate, --to, "010"]
    mount: "type=pod,source=run,target=/run/app"
sidecars:
  - name: proxy
    image: envoy:1
    cmd: envoy -c /etc/envoy.yaml
    env: {LEVEL: info, PORT: 0080}
    mount:
      - type=pod,source=run,target=/run/app,tmpfs-size=1m
    readiness-http: ":9901/ready"
    readiness-interval: 2s
    limit-memory: 64m
    read-only: true
    user: "1000"
"""


def test_a_sidecar_in_short_takes_the_flags_of_one_container() -> None:
    spec = created(
        "--sidecar", 'name=proxy,image=envoy:1,cmd=envoy -c "/a b",env=A=1,env=B=2,limit-memory=64m,'
        'read-only,health-tcp=:80,"mount=type=pod,source=run,target=/run"',
    ).spec.task  # fmt: skip
    assert not spec.init_containers
    proxy = spec.sidecars[0]
    assert proxy.name == "proxy"
    assert list(proxy.container.args) == ["envoy", "-c", "/a b"]
    assert list(proxy.container.env) == ["A=1", "B=2"]
    assert proxy.container.read_only
    assert proxy.container.health.tcp == ":80"
    assert proxy.resources.limits.memory_bytes == 64 << 20
    mount = proxy.container.mounts[0]
    assert (mount.type, mount.source, mount.target) == (types_pb2.MOUNT_POD, "run", "/run")


def test_all_containers_have_limits_together() -> None:
    sidecar = ("--sidecar", "name=log,image=log:1")
    service = created(
        *sidecar, "--pod-limit-cpu", "1.5", "--pod-limit-memory", "1g", "--pod-limit-pids", "100"
    )
    limits = types_pb2.Resources(nano_cpus=1_500_000_000, memory_bytes=1 << 30)
    assert service.spec.task.pod_resources == types_pb2.ResourceRequirements(limits=limits, pids_limit=100)
    assert validate.validate_service(service) == []
    before = types_pb2.TaskSpec()
    before.CopyFrom(service.spec.task)
    assert resize.same_but_limits(before, updated(service, "--pod-limit-memory", "2g").task)
    assert not resize.same_but_limits(before, updated(service, "--env-add", "A=1").task)
    none = updated(service, "--pod-limit-cpu=0", "--pod-limit-memory=0", "--pod-limit-pids=0")
    assert not none.task.HasField("pod_resources")

    def wrong(service: objects_pb2.Service) -> list[str]:
        return [problem.field_path for problem in validate.validate_service(service)]

    assert wrong(created("--pod-limit-cpu", "1")) == ["spec.task.pod_resources"]
    service.spec.task.pod_resources.reservations.nano_cpus = 1_000_000_000
    assert wrong(service) == ["spec.task.pod_resources"]
    service.spec.task.pod_resources.ClearField("reservations")
    service.spec.task.pod_resources.limits.memory_bytes = 1
    assert wrong(service) == ["spec.task.pod_resources.limits.memory_bytes"]


def test_pre_start_is_a_numbered_init_container_before_the_named_ones() -> None:
    spec = created(
        "--pre-start",
        "app:1 migrate --all",
        "--pre-start",
        "app:1 'warm up'",
        "--init-container",
        "name=x,image=y",
    ).spec.task
    assert [(one.name, list(one.container.args)) for one in spec.init_containers] == [
        ("x", []), ("pre-start-1", ["migrate", "--all"]), ("pre-start-2", ["warm up"]),
    ]  # fmt: skip


def test_a_pod_file_describes_everything_and_keeps_texts_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    spec = created("--pod", str(file)).spec.task
    assert spec.share_pid
    assert list(spec.init_containers[0].container.args) == ["migrate", "--to", "010"]
    proxy = spec.sidecars[0].container
    assert list(proxy.args) == ["envoy", "-c", "/etc/envoy.yaml"]
    assert list(proxy.env) == ["LEVEL=info", "PORT=0080"]
    assert (proxy.readiness.http, proxy.readiness.interval_ms) == (":9901/ready", 2000)
    assert proxy.mounts[0].tmpfs_size_bytes == 1 << 20
    assert proxy.user == "1000"


def test_update_changes_and_removes_single_containers() -> None:
    service = created("--sidecar", "name=a,image=x:1", "--sidecar", "name=b,image=y:1", "--share-pid")
    task = updated(service, "--sidecar-add", "name=b,image=y:2", "--sidecar-add", "name=c,image=z:1").task
    assert [(one.name, one.container.image) for one in task.sidecars] == [
        ("a", "x:1"),
        ("b", "y:2"),
        ("c", "z:1"),
    ]
    assert task.share_pid
    task = updated(service, "--sidecar-rm", "a", "--sidecar-rm", "b", "--sidecar-rm", "c").task
    assert not task.sidecars
    assert not task.share_pid
    with pytest.raises(UsageRefused, match=r"--sidecar-rm a: the service has no such container"):
        updated(service, "--sidecar-rm", "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "sidecars:\n  - name: a\n    image: x\n    colour: red\n",
            r"line 2: 'colour' is not a key of a container",
        ),
        ("side-cars: []\n", r"line 1: 'side-cars' is not a key here"),
        ("sidecars:\n  - image: x\n", r"line 2 needs one name"),
        ("sidecars:\n  - name: a\n", r"line 2 names no image"),
        ("sidecars:\n  - name: a\n    name: b\n    image: x\n", r"line 3: 'name' is there twice"),
        ("sidecars: {a: b}\n", r"line 1: a list is wanted"),
        ("sidecars:\n  - name: a\n    image: x\n    limit-memory: lots\n", r"limit-memory: .*is not a size"),
        ("sidecars:\n  - name: a\n    image: x\n    user: [a, b]\n", r"user is there 2 times"),
        ("share-pid: maybe\n", r"line 1: share-pid is true or false"),
        ("sidecars: [\n", r"line 2: "),
        ("sidecars:\n  - name: a\n    image: x\n    <<: {user: b}\n", r"a key must be a plain text"),
        ("sidecars:\n  - !!python/object:os.system x\n", r"the tag .* is not known"),
        ("", r"it is empty"),
    ],
)
def test_what_is_wrong_in_a_pod_file_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    with pytest.raises(UsageRefused, match=said):
        created("--pod", str(file))


def test_a_small_file_cannot_become_a_large_tree() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for here, before in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f"{here}: &{here} [{', '.join([f'*{before}'] * 9)}]\n"
    for text, said in (
        (bomb, "more than 10000 entries"),
        ("a: &a x\nb: [" + "*a, " * 65 + "]\n", "aliases"),
        ("[" * 40 + "]" * 40, "nested deeper"),
        ("a: &a [*a]\n", "contains itself"),
        ("# " + "x" * 300_000, "larger than"),
    ):
        with pytest.raises(yaml_tree.YamlRefused, match=said):
            yaml_tree.load(text, "bomb.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image=x", "needs one name"),
        ("name=a", "names no image"),
        ('name=a,image=x,"cmd=x', "open quote"),
        ("name=a,image=x,cmd=it's", "quotation"),
    ],
)
def test_a_short_form_that_is_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_pods.container(text)


def test_a_usage_error_of_a_sidecar_is_one_sentence() -> None:
    result = CliRunner().invoke(service, ["create", "--sidecar", "image=x", "nginx"])
    assert result.exit_code == 2
    assert "needs one name: add name=NAME" in result.output
    with pytest.raises(UsageRefused, match="'publish' is not a key of a container"):
        created("--sidecar", "name=a,image=x,publish=80")


def test_each_probe_has_its_own_flags_and_a_new_way_of_asking_replaces_the_old() -> None:
    service = created(
        "--health-grpc", ":9000/app.Service", "--readiness-cmd", "ls /ready", "--readiness-retries", "1",
        "--startup-tcp", "127.0.0.1:80", "--startup-interval", "500ms",
    )  # fmt: skip
    container = service.spec.task.container
    assert container.health.grpc == ":9000/app.Service"
    assert list(container.readiness.test) == ["CMD-SHELL", "ls /ready"]
    assert container.readiness.retries == 1
    assert (container.startup.tcp, container.startup.interval_ms) == ("127.0.0.1:80", 500)
    changed = updated(
        service, "--readiness-http", "[::1]:8080/", "--no-startup", "--health-retries", "5"
    ).task.container
    assert (list(changed.readiness.test), changed.readiness.http, changed.readiness.retries) == (
        [],
        "[::1]:8080/",
        1,
    )
    assert not changed.HasField("startup")
    assert (changed.health.grpc, changed.health.retries) == (":9000/app.Service", 5)
    assert not updated(service, "--no-readiness").task.container.HasField("readiness")
    with pytest.raises(UsageRefused, match="--no-readiness excludes"):
        updated(service, "--no-readiness", "--readiness-tcp", ":1")


@pytest.mark.parametrize("wrong", ["80", ":0", ":70000", ":80x", "web:80", ":80/a"])
def test_a_target_that_cannot_be_asked_is_refused(wrong: str) -> None:
    result = CliRunner().invoke(service, ["create", "--readiness-tcp", wrong, "nginx"])
    assert result.exit_code == 2, result.output


def test_a_service_without_pods_and_probes_says_nothing_of_them() -> None:
    plain = created().spec
    assert plain == objects_pb2.ServiceSpec.FromString(plain.SerializeToString())
    assert {field.name for field, _ in plain.task.ListFields()} == {"container"}
    assert {field.name for field, _ in plain.task.container.ListFields()} == {"image", "args"}
    assert flags()["share_pid"] is None
    assert edit.apply
