"""The OCI configuration as a function of the request: defaults, overrides, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.runtime import ContainerRequest, StartRejected
from swarmpy.node.runtime.bundle import seccomp_data
from swarmpy.node.runtime.process import signal_number
from swarmpy.node.runtime.spec import DEFAULT_CAPABILITIES, Device, HostFacts, User, build
from swarmpy.proto import types_pb2

FACTS = HostFacts(
    machine="x86_64",
    cgroup_path="/swarmpy-x/a",
    rootfs="/r",
    user=User(1000, 1000, (5,), "/home/web"),
    files={"/etc/hosts": "/s/hosts"},
    mount_sources=("/host/a", "/host/b"),
    seccomp=seccomp_data(),
    capabilities=DEFAULT_CAPABILITIES | {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
    hard_limits={"RLIMIT_NOFILE": 20_000, "RLIMIT_CORE": -1},
    init="/usr/bin/tini-static",
    init_separator=("--",),
)


def config(
    facts: HostFacts = FACTS,
    resources: types_pb2.ResourceRequirements | None = None,
    netns: Path | None = Path("/run/netns/a"),
    image: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    spec = types_pb2.ContainerSpec(**{"command": ["/bin/true"], **more})
    request = ContainerRequest(
        id="a", spec=spec, resources=resources or types_pb2.ResourceRequirements(), image_config=image or {},
        layers=(), netns=netns, hostname="host",
    )  # fmt: skip
    return build(request, facts)


def test_defaults_are_secure() -> None:
    made = config()
    assert json.loads(json.dumps(made)) == made
    process, linux = made["process"], made["linux"]
    assert set(process["capabilities"]["bounding"]) == DEFAULT_CAPABILITIES
    assert not {"CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE"} & DEFAULT_CAPABILITIES
    assert process["noNewPrivileges"] is True
    assert "inheritable" not in process["capabilities"]
    assert {n["type"] for n in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "cgroup", "network"}
    assert linux["resources"]["pids"] == {"limit": 4096}
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


def seccomp_calls(made: dict[str, Any], *, conditional: bool = False) -> set[str]:
    rules = made["linux"]["seccomp"]["syscalls"]
    allowed = [r for r in rules if r["action"] == "SCMP_ACT_ALLOW" and bool(r.get("args")) == conditional]
    return {name for rule in allowed for name in rule["names"]}


def test_seccomp_follows_the_capabilities() -> None:
    plain, admin = config(), config(cap_add=["SYS_ADMIN"])
    dangerous = {
        "mount",
        "bpf",
        "unshare",
        "setns",
        "clone3",
        "init_module",
        "reboot",
        "keyctl",
        "io_uring_setup",
    }
    assert not dangerous & seccomp_calls(plain)
    assert {"read", "execve", "openat", "futex", "rseq", "arch_prctl"} <= seccomp_calls(plain)
    assert {"clone", "socket", "personality"} <= seccomp_calls(plain, conditional=True)
    assert {"mount", "clone", "clone3"} <= seccomp_calls(admin)
    refused = next(r for r in plain["linux"]["seccomp"]["syscalls"] if r["names"] == ["clone3"])
    assert (refused["action"], refused["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert "seccomp" not in config(seccomp="unconfined")["linux"]
    assert "seccomp" not in config(privileged=True)["linux"]


def test_no_system_call_is_listed_twice() -> None:
    data = seccomp_data()
    assert len(set(data["allow"])) == len(data["allow"])
    assert not set(data["allow"]) & {name for calls in data["allow_with"].values() for name in calls}


@pytest.mark.parametrize(
    ("spec", "image", "argv"),
    [
        ({}, {"Entrypoint": ["a"], "Cmd": ["b"]}, ["a", "b"]),
        ({"args": ["c"]}, {"Entrypoint": ["a"], "Cmd": ["b"]}, ["a", "c"]),
        ({"command": ["x"]}, {"Entrypoint": ["a"], "Cmd": ["b"]}, ["x"]),
        ({"command": ["x"], "args": ["y"]}, {"Entrypoint": None, "Cmd": None}, ["x", "y"]),
        ({}, {"Cmd": ["b"]}, ["b"]),
    ],
)
def test_command(spec: dict[str, Any], image: dict[str, Any], argv: list[str]) -> None:
    made = config(image=image, **{"command": [], "no_init": True, **spec})
    assert made["process"]["args"] == argv


def test_init_is_first_unless_refused_or_absent() -> None:
    assert config()["process"]["args"] == ["/dev/init", "--", "/bin/true"]
    assert any(m["destination"] == "/dev/init" for m in config()["mounts"])
    assert config(no_init=True)["process"]["args"] == ["/bin/true"]
    without = replace(FACTS, init="")
    assert config(without)["process"]["args"] == ["/bin/true"]
    with pytest.raises(StartRejected, match="apt-get install tini"):
        config(without, init=True)


def test_environment_order_and_removal() -> None:
    image = {"Env": ["A=image", "B=image", "PATH=/image", "C=1"]}
    env = dict(e.split("=", 1) for e in config(image=image, env=["B=spec", "X=a=b", "C"])["process"]["env"])
    assert env == {
        "A": "image",
        "B": "spec",
        "PATH": "/image",
        "X": "a=b",
        "HOME": "/home/web",
        "HOSTNAME": "host",
    }


def test_resources() -> None:
    wanted = types_pb2.ResourceRequirements(
        limits=types_pb2.Resources(nano_cpus=1_500_000_000, memory_bytes=100),
        reservations=types_pb2.Resources(nano_cpus=250_000_000, memory_bytes=50),
        pids_limit=-1,
    )
    made = config(resources=wanted)["linux"]["resources"]
    assert made["cpu"] == {"period": 100_000, "quota": 150_000, "shares": 256}
    assert made["memory"] == {"limit": 100, "swap": 100, "reservation": 50}
    assert "pids" not in made
    wanted.swap_bytes = 11
    assert config(resources=wanted)["linux"]["resources"]["memory"]["swap"] == 111
    without = replace(FACTS, swap_limits=False)
    with pytest.raises(StartRejected, match="swapaccount"):
        config(without, resources=wanted)
    wanted.swap_bytes = -1
    assert "swap" not in config(without, resources=wanted)["linux"]["resources"]["memory"]


def test_rlimits_are_clamped_to_the_host() -> None:
    limits = {
        r["type"]: r
        for r in config(ulimits=[types_pb2.Ulimit(name="core", soft=-1, hard=-1)])["process"]["rlimits"]
    }
    assert (limits["RLIMIT_NOFILE"]["soft"], limits["RLIMIT_NOFILE"]["hard"]) == (1024, 20_000)
    assert limits["RLIMIT_CORE"]["hard"] == 2**64 - 1
    above = [types_pb2.Ulimit(name="nofile", soft=90_000, hard=90_000)]
    limits = {r["type"]: r for r in config(ulimits=above)["process"]["rlimits"]}
    assert (limits["RLIMIT_NOFILE"]["soft"], limits["RLIMIT_NOFILE"]["hard"]) == (20_000, 20_000)


def test_host_network_gets_no_network_sysctls() -> None:
    made = config(netns=None)["linux"]
    assert made["sysctl"] == {}
    assert "network" not in {n["type"] for n in made["namespaces"]}
    with pytest.raises(StartRejected, match=r"net\.core\.somaxconn"):
        config(netns=None, sysctls={"net.core.somaxconn": "1"})
    assert config(sysctls={"net.core.somaxconn": "1"})["linux"]["sysctl"]["net.core.somaxconn"] == "1"


def test_mounts_deepest_last_and_user_beats_ours() -> None:
    entries = [
        types_pb2.Mount(target="/a/b", read_only=True),
        types_pb2.Mount(target="/etc/hosts"),
    ]
    made = {m["destination"]: m for m in config(mounts=entries)["mounts"]}
    assert made["/a/b"]["source"] == "/host/a"
    assert "ro" in made["/a/b"]["options"]
    assert made["/etc/hosts"]["source"] == "/host/b"
    nested = [types_pb2.Mount(target="/x/y/z"), types_pb2.Mount(target="/x")]
    order = [m["destination"] for m in config(mounts=nested)["mounts"]]
    assert order.index("/x") < order.index("/x/y/z")


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("container.command", {"command": []}),
        ("container.env", {"env": ["=x"]}),
        ("container.cap_add", {"cap_add": ["NONSENSE"]}),
        ("container.ulimits", {"ulimits": [types_pb2.Ulimit(name="x")]}),
        ("container.seccomp", {"seccomp": "mine"}),
        ("container.sysctls", {"sysctls": {"vm.swappiness": "1"}}),
        (r"container.mounts\[0\].target", {"mounts": [types_pb2.Mount(target="rel")]}),
        (r"container.mounts\[0\].target", {"mounts": [types_pb2.Mount(target="/a/../..")]}),
        (r"container.mounts\[0\].propagation", {"mounts": [types_pb2.Mount(target="/a", propagation="x")]}),
    ],
)
def test_refusals_name_the_field(field: str, more: dict[str, Any]) -> None:
    with pytest.raises(StartRejected, match=field):
        config(**more)


def test_devices_and_privileged() -> None:
    device = Device("/dev/x", "c", 1, 3, 0o666, access="r")
    made = config(replace(FACTS, devices=(device,)))["linux"]
    assert made["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "r",
    }
    assert made["devices"][0]["path"] == "/dev/x"
    privileged = config(privileged=True)
    assert set(privileged["process"]["capabilities"]["bounding"]) == FACTS.capabilities
    assert "maskedPaths" not in privileged["linux"]
    assert privileged["process"]["noNewPrivileges"] is False


def test_capabilities_drop_all_then_add() -> None:
    made = config(cap_drop=["ALL"], cap_add=["net_bind_service"])
    assert made["process"]["capabilities"]["bounding"] == ["CAP_NET_BIND_SERVICE"]


def test_signals() -> None:
    assert [signal_number(name) for name in ("", "TERM", "sigint", "9", "SIGRTMIN+3")] == [15, 15, 2, 9, 37]
    with pytest.raises(StartRejected):
        signal_number("SIGNONSENSE")
