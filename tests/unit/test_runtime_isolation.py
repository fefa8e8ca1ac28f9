"""How a container is isolated: its flags, what is refused and where, and what the OCI runtime is told."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarmpy.cli import parse_runtime
from swarmpy.cli.errors import UsageRefused
from swarmpy.node import templates
from swarmpy.node.plan import limits_runtime, resize, validate
from swarmpy.node.runtime import StartRejected, bpf, cgroups, oci, spec_limits, spec_seccomp
from swarmpy.node.runtime.spec import HostFacts, IdRange
from swarmpy.proto import objects_pb2, types_pb2

from tests.unit.test_cli_edit import created, updated
from tests.unit.test_runtime_spec import FACTS, config

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "plain"},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["futex"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.1"}},
        {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
    ],
}


def problems(service: objects_pb2.Service) -> dict[str, str]:
    return {problem.field_path: problem.message for problem in validate.validate_service(service)}


def test_flags_of_isolation_are_in_the_specification_and_update_takes_them_back(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE, indent=4))
    service = created(
        *(
            "--pid",
            "host",
            "--ipc=host",
            "--cgroup-parent",
            "/apps",
            "--runtime",
            "runc",
            "--domainname",
            "lan",
        ),
        *(
            "--annotation",
            "a=b",
            "--log-driver",
            "local",
            "--log-opt",
            "max-size=1m",
            "--log-opt",
            "max-file=5",
        ),
        *(
            "--limit-memory",
            "64m",
            "--memory-swap",
            "-1",
            "--memory-swappiness",
            "10",
            "--cpuset-cpus",
            "0-1",
            "--blkio-weight",
            "300",
        ),
        *("--security-opt", f"seccomp={file}", "--gpus", "device=/dev/null", "--oom-kill-disable"),
        *("--mount", "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly", "--network", "host"),
    )
    task = service.spec.task
    container, resources = task.container, task.resources
    assert problems(service) == {}
    assert (container.pid_mode, container.ipc_mode, container.runtime) == ("host", "host", "runc")
    assert (container.cgroup_parent, container.domainname, dict(container.annotations)) == (
        "/apps", "lan", {"a": "b"},
    )  # fmt: skip
    assert container.log == types_pb2.LogConfig(driver="local", max_size_bytes=1 << 20, max_files=5)
    assert (resources.swap_bytes, resources.swappiness, resources.cpuset_cpus) == (-1, 10, "0-1")
    assert resources.io_weight == 300
    assert resources.no_oom_kill
    assert container.seccomp == "profile"
    assert "comment" not in container.seccomp_profile
    assert list(container.devices) == ["/dev/null"]
    assert container.mounts[0].recursive == "readonly"
    assert task.network_mode == "host"
    assert not task.networks
    spec = updated(
        service,
        *(
            "--pid=private",
            "--ipc=private",
            "--runtime=",
            "--cgroup-parent=",
            "--domainname=",
            "--cpuset-cpus=",
            "--blkio-weight=0",
        ),
        *("--annotation-rm", "a", "--log-driver", "json-file", "--memory-swappiness=-1", "--memory-swap=0"),
        *("--security-opt", "seccomp=default", "--network-rm", "host", "--no-oom-kill-disable"),
        *("--device-rm", "/dev/null", "--mount-rm", "/b"),
    )
    assert spec.task.network_mode == ""
    left = types_pb2.ContainerSpec(image="nginx", args=["serve"])
    left.log.CopyFrom(types_pb2.LogConfig(driver="json-file", max_size_bytes=1 << 20, max_files=5))
    assert spec.task.container == left
    assert spec.task.resources == types_pb2.ResourceRequirements(
        limits=types_pb2.Resources(memory_bytes=64 << 20)
    )


def test_a_file_that_is_no_profile_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"defaultAction":\n nonsense}')
    with pytest.raises(UsageRefused, match="line 2"):
        created("--security-opt", f"seccomp={tmp_path}/bad.json")
    with pytest.raises(UsageRefused, match="No such file"):
        created("--security-opt", f"seccomp={tmp_path}/missing.json")


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("container.annotations", ("--annotation", "run.oci.seccomp.receiver=/x")),
        ("container.annotations", ("--annotation", "org.systemd.property.ExecStart=1")),
        ("container.cgroup_parent", ("--cgroup-parent", "/a/../b")),
        ("container.cgroup_parent", ("--cgroup-parent", "apps")),
        ("container.runtime", ("--runtime", "/tmp/evil")),
        ("container.userns", ("--userns", "auto", "--privileged")),
        ("container.userns", ("--userns", "auto", "--network", "host")),
        ("container.userns", ("--userns", "auto", "--pid", "host")),
        ("networks", ("--network", "host", "--network", "back")),
        ("resources.swap_bytes", ("--memory-swap", "1g")),
        ("container.hostname", ("--hostname", "{{.Task.Slott}}")),
        ("container.env[0]", ("--env", "A={{.Node.Hostname")),
        ("container.mounts[0].source", ("--mount", "type=bind,dst=/a,src=/x/{{.Service.Labels.a}}")),
        ("container.mounts[0].recursive", ("--mount", "type=bind,dst=/a,src=/x,bind-recursive=readonly")),
        ("container.log", ("--log-driver", "none", "--log-opt", "max-file=2")),
    ],
)
def test_what_cannot_work_is_refused_with_its_field(field: str, arguments: tuple[str, ...]) -> None:
    assert f"spec.task.{field}" in problems(created(*arguments))


@pytest.mark.parametrize(("soft", "hard"), [(-1, 10), (11, 10), (-2, -1)])
def test_ulimits_that_contradict_themselves(soft: int, hard: int) -> None:
    service = created()
    service.spec.task.container.ulimits.add(name="nofile", soft=soft, hard=hard)
    assert "spec.task.container.ulimits[0]" in problems(service)


def test_on_the_hosts_network_ports_are_the_programs_own() -> None:
    mapped = problems(created("--network", "host", "-p", "8080:80"))
    assert "published=80,target=80,mode=host" in mapped["spec.endpoint.ports[0]"]
    assert problems(created("--network", "host", "-p", "published=80,target=80,mode=host")) == {}
    assert "spec.endpoint.ports[0]" in problems(created("--network", "none", "-p", "80:80"))


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("[]", "defaultAction"),
        ('{"defaultAction": "ALLOW"}', "defaultAction"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}', "listener"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"]}]}', r"syscalls\[0\]"),
        ('{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"action": "SCMP_ACT_NOTIFY", "names": ["x"]}]}', "NOTIFY"),
        ("x" * 40_000, "at most"),
    ],
)  # fmt: skip
def test_profiles_are_checked(profile: str, said: str) -> None:
    service = created()
    service.spec.task.container.seccomp, service.spec.task.container.seccomp_profile = "profile", profile
    text = " ".join(problems(service).values())
    assert re.search(said, text), text


def test_a_profile_is_decided_for_this_container() -> None:
    def names(made: dict[str, Any]) -> set[str]:
        return {name for rule in made["syscalls"] for name in rule["names"]}

    text = json.dumps(PROFILE)
    made = spec_seccomp.custom(text, "x86_64", frozenset({"CAP_CHOWN"}), (5, 10))
    assert names(made) == {"read", "write", "ptrace"}
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert made["defaultErrnoRet"] == 38
    admin = spec_seccomp.custom(text, "aarch64", frozenset({"CAP_SYS_ADMIN"}), (9, 2))
    assert names(admin) == {"read", "write", "ptrace", "mount", "futex", "arm", "chroot"}
    assert admin["architectures"] == ["SCMP_ARCH_AARCH64"]
    with pytest.raises(StartRejected, match="seccomp_profile"):
        spec_seccomp.custom("{}", "x86_64", frozenset(), (5, 10))


def test_namespaces_of_the_host_are_not_made() -> None:
    def kinds(made: dict[str, Any]) -> set[str]:
        return {entry["type"] for entry in made["linux"]["namespaces"]}

    assert kinds(config(pid_mode="host")) == {"ipc", "uts", "mount", "cgroup", "network"}
    shared = config(ipc_mode="host")
    assert "ipc" not in kinds(shared)
    assert next(m for m in shared["mounts"] if m["destination"] == "/dev/shm")["source"] == "/dev/shm"
    with pytest.raises(StartRejected, match="whole node"):
        config(ipc_mode="host", sysctls={"kernel.shmmax": "1"})
    assert "network" not in kinds(config(netns=None))
    mapped = config(replace(FACTS, ids=IdRange(700_000, 65_536), userns_path="/run/u"))
    assert {"type": "user", "path": "/run/u"} in mapped["linux"]["namespaces"]
    assert mapped["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 700_000, "size": 65_536}]


def test_read_only_binds_are_so_below_where_the_kernel_can() -> None:
    def options(facts: HostFacts, recursive: str) -> list[str]:
        entry = types_pb2.Mount(source="/host/a", target="/a", read_only=True, recursive=recursive)
        made = config(facts, mounts=[entry])["mounts"]
        found: list[str] = next(m for m in made if m["destination"] == "/a")["options"]
        return found

    able = replace(FACTS, recursive_read_only=True)
    assert {"rbind", "ro", "rro"} <= set(options(able, ""))
    assert "rro" not in options(FACTS, "")
    assert "rro" not in options(able, "writable")
    assert "rbind" not in options(able, "disabled")
    with pytest.raises(StartRejected, match=r"mounts\[0\].recursive"):
        options(FACTS, "readonly")


def test_cgroup_v2_refuses_what_only_v1_can() -> None:
    wanted = types_pb2.ResourceRequirements(limits=types_pb2.Resources(memory_bytes=1 << 25), swappiness=0)
    assert spec_limits.section(wanted, spec_limits.Abilities())["memory"]["swappiness"] == 0  # type: ignore[index]
    with pytest.raises(StartRejected, match="swappiness: this node has cgroup v2"):
        spec_limits.section(wanted, spec_limits.Abilities(pure_v2=True))
    wanted = types_pb2.ResourceRequirements(no_oom_kill=True)
    with pytest.raises(StartRejected, match="no_oom_kill"):
        spec_limits.section(wanted, spec_limits.Abilities(pure_v2=True))


def test_a_weight_of_block_io_has_a_range() -> None:
    service = created("--blkio-weight", "5")
    assert [(p.field_path, "from 10 to 1000" in p.message) for p in validate.validate_service(service)] == [
        ("spec.task.resources.io_weight", True)
    ]


def test_limits_of_single_disks_are_flags_of_each_kind() -> None:
    service = created(
        *("--device-read-bps", "/dev/sdb:10mb", "--device-write-bps", "/dev/sda:1k"),
        *("--device-write-iops", "/dev/sda:50", "--device-read-iops", "/dev/sda:60"),
    )
    assert validate.validate_service(service) == []
    entries = [
        types_pb2.DeviceLimits(device="/dev/sda", write_bps=1024, read_iops=60, write_iops=50),
        types_pb2.DeviceLimits(device="/dev/sdb", read_bps=10 << 20),
    ]
    assert list(service.spec.task.resources.io_devices) == entries
    before = types_pb2.TaskSpec()
    before.CopyFrom(service.spec.task)
    spec = updated(
        service,
        *("--device-read-bps-rm", "/dev/sdb", "--device-write-bps-add", "/dev/sda:2k"),
        *("--device-read-iops-rm", "/dev/sda"),
    )
    entries[0].write_bps, entries[0].read_iops = 2048, 0
    assert list(spec.task.resources.io_devices) == entries[:1]
    assert before != spec.task
    assert resize.same_but_limits(before, spec.task)
    for wrong in ("sda:1m", "/dev/sda", "/dev/sda:fast"):
        with pytest.raises(ValueError, match=r"sda|fast"):
            parse_runtime.device_bytes(wrong)
    for device, iops in (("/etc/sda", 1), ("/dev/../sda", 1), ("/dev/sda", 1 << 40)):
        entry = types_pb2.DeviceLimits(device=device, read_iops=iops)
        wrong_one = types_pb2.ResourceRequirements(io_devices=[entry])
        assert len(list(limits_runtime.resources(wrong_one, "r"))) == 1
    twice = types_pb2.ResourceRequirements(io_devices=[entries[0], entries[0]])
    assert [problem.field_path for problem in limits_runtime.resources(twice, "r")] == [
        "r.io_devices[1].device"
    ]


def test_runtimes_are_known_or_configured(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    layout = cgroups.Layout(None, {})
    choice = oci.Choice("auto", {"fast": str(program)}, tmp_path, layout)
    assert choice.named("fast").program == str(program)
    with pytest.raises(StartRejected, match=r"'sh' is not on this node, which has .*fast"):
        choice.named("sh")
    assert oci.Choice(str(program), {}, tmp_path, layout).named("mine").program == str(program)


def test_a_node_says_exactly_the_runtimes_that_it_takes(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    layout = cgroups.Layout(None, {})
    choices = [
        oci.Choice("auto", {"fast": str(program), "runsc": "/does/not/exist"}, tmp_path, layout),
        oci.Choice(str(program), {}, tmp_path, layout),
    ]
    for expected in (False, True, False):  # installed while the node runs, and removed
        if expected:
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        else:
            program.unlink(missing_ok=True)
        assert ["fast" in choices[0].names(), "mine" in choices[1].names()] == [expected] * 2
        for choice in choices:
            for name in {*oci.KNOWN, "fast", "mine", "auto"}:
                with contextlib.nullcontext() if name in choice.names() else pytest.raises(StartRejected):
                    choice.named(name)


def test_placeholders_are_filled_in_from_the_task() -> None:
    task = objects_pb2.Task(service_id="s", service_name="web", slot=3)
    task.meta.id, task.meta.name = "t", "web.3.t"
    values = templates.values_of(task, node_id="n", hostname="box", platform=("linux", "amd64"))
    assert set(values) == set(templates.FIELDS)
    spec = types_pb2.ContainerSpec(
        hostname="{{.Service.Name}}-{{ .Task.Slot }}", env=["N={{.Node.Hostname}}", "A=1"]
    )
    spec.mounts.add(source="data-{{.Task.Slot}}", target="/{{.Task.Name}}", subpath="{{.Node.Platform.OS}}")
    made = templates.expanded(spec, values)
    assert (made.hostname, list(made.env)) == ("web-3", ["N=box", "A=1"])
    assert (made.mounts[0].source, made.mounts[0].target, made.mounts[0].subpath) == (
        "data-3",
        "/web.3.t",
        "linux",
    )
    assert spec.hostname == "{{.Service.Name}}-{{ .Task.Slot }}"
    plain = types_pb2.ContainerSpec(hostname="a")
    assert templates.expanded(plain, values) is plain


def test_filters_are_compiled_once_and_odd_ones_left_to_the_runtime() -> None:
    rules = config()["linux"]["seccomp"]
    made = bpf.annotation(rules)
    if not made:
        pytest.skip("needs libseccomp.so.2: it comes with crun")
    compiled = base64.b64decode(made[bpf.ANNOTATION])
    assert len(compiled) % 8 == 0
    assert len(compiled) > 1000
    assert bpf.annotation(rules) == made
    assert bpf.annotation(config(cap_add=["SYS_ADMIN"])["linux"]["seccomp"]) != made
    for odd in (
        {"defaultAction": "SCMP_ACT_NOTIFY", "syscalls": []},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], "architectures": ["SCMP_ARCH_NONE"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_WHAT"}]},
    ):
        assert bpf.annotation(odd) == {}
