"""Docker's value syntax: what each form means, and that every wrong one is a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from swarmpy.cli import parse, parse_mounts, parse_runtime
from swarmpy.cli.parse import NetworkValue, PortValue, UlimitValue
from swarmpy.cli.parse_mounts import MountValue


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("1.5h", 5_400_000),
        ("500ms", 500),
        ("1us", 1),
        ("1ns", 1),
        ("0s", 0),
        ("2h45m", 9_900_000),
        (".5s", 500),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert parse.duration_ms(text) == ms


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("64m", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("64kb", 65536),
        ("7B", 7),
        ("2T", 2 << 40),
        ("10", 10),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse.size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [PortValue(80)]),
        ("8080:80", [PortValue(80, 8080)]),
        ("8080:80/udp", [PortValue(80, 8080, "udp")]),
        ("8080-8081:80-81/TCP", [PortValue(80, 8080), PortValue(81, 8081)]),
        ("127.0.0.1:8080:80", [PortValue(80, 8080, address="127.0.0.1")]),
        ("[::1]:8080:80", [PortValue(80, 8080, address="::1")]),
        ("127.0.0.1::80", [PortValue(80, 0, address="127.0.0.1")]),
        ("target=80", [PortValue(80)]),
        (
            "published=8080,target=80,protocol=udp,mode=host,ip=10.0.0.1,name=web",
            [PortValue(80, 8080, "udp", "host", "10.0.0.1", "web")],
        ),
    ],
)
def test_published_ports(text: str, ports: list[PortValue]) -> None:
    assert parse.publish(text) == ports


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,src=/a,dst=/b,readonly", MountValue("bind", "/b", "/a", read_only=True)),
        ("source=data,target=/d", MountValue("volume", "/d", "data")),
        (
            "type=tmpfs,destination=/t,tmpfs-size=64m,tmpfs-mode=1777",
            MountValue("tmpfs", "/t", tmpfs_size_bytes=64 << 20, tmpfs_mode=0o1777),
        ),
        (
            'type=bind,"src=/a,b",dst=/c,ro=false,bind-propagation=rshared,bind-create-src=true',
            MountValue("bind", "/c", "/a,b", propagation="rshared", create_source=True),
        ),
    ],
)
def test_mounts(text: str, mount: MountValue) -> None:
    assert parse_mounts.mount(text) == mount


def test_smaller_forms() -> None:
    assert parse_mounts.tmpfs("/run:size=1m,mode=755,ro") == MountValue(
        "tmpfs", "/run", read_only=True, tmpfs_size_bytes=1 << 20, tmpfs_mode=0o755
    )
    assert parse.network("back") == NetworkValue("back")
    assert parse.network("name=back,alias=db,alias=sql") == NetworkValue("back", ("db", "sql"))
    assert parse.network("name=back,ip=172.20.0.10,ip=172.20.0.11,ip6=FD00::10") == NetworkValue(
        "back", (), ("172.20.0.10", "172.20.0.11"), ("fd00::10",)
    )
    for wrong in ("name=back,ip=fd00::1", "name=back,ip6=10.0.0.1", "name=back,ip=x"):
        with pytest.raises(ValueError, match=r"is not an IPv[46] address"):
            parse.network(wrong)
    assert parse.ulimit("nofile=1024:2048") == UlimitValue("nofile", 1024, 2048)
    assert parse.ulimit("core=-1") == UlimitValue("core", -1, -1)
    assert parse.host("db:10.0.0.1") == parse.host("db=10.0.0.1") == ("db", "10.0.0.1")
    assert parse.host("db:fd00::1") == ("db", "fd00::1")
    assert parse.host_rm("db") == ("db", "")
    assert parse.nano_cpus("0.5") == 500_000_000
    assert parse.capability("net_admin") == parse.capability("CAP_NET_ADMIN") == "CAP_NET_ADMIN"
    assert parse.capability("all") == "ALL"
    assert parse_runtime.security_option("no-new-privileges") == ("no-new-privileges", "true")
    assert parse_runtime.security_option("seccomp=unconfined") == ("seccomp", "unconfined")
    assert parse.stop_signal("int") == "SIGINT"
    assert parse.stop_signal("9") == "9"
    assert parse.scale("web=+2") == ("web", 2, "+")
    assert parse.timeout_ms("90") == parse.timeout_ms("1m30s") == 90_000
    assert parse.moment_ms("10s", 60_000) == 50_000
    assert parse.moment_ms("1970-01-01T00:01:00Z", 0) == 60_000
    assert parse.publish_rm("8080:80/udp") == PortValue(80, 8080, "udp")
    assert parse.words("sh -c 'a b'") == ["sh", "-c", "a b"]


def test_environment() -> None:
    assert parse.environment(["A=1", "HOME", "MISSING", "B="], {"HOME": "/root"}) == [
        "A=1",
        "HOME=/root",
        "B=",
    ]
    assert parse.env_file_lines("# note\n\nA=1 # kept\n  B\n", "x.env") == ["A=1 # kept", "B"]
    with pytest.raises(ValueError, match=r"x\.env, line 2"):
        parse.env_file_lines("A=1\na b=2\n", "x.env")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (parse.duration_ms, "10"),
        (parse.duration_ms, "-1s"),
        (parse.duration_ms, "1s2"),
        (parse.duration_ms, ""),
        (parse.size_bytes, "64q"),
        (parse.size_bytes, "-1"),
        (parse.size_bytes, "9999999999t"),
        (parse.nano_cpus, "x"),
        (parse.nano_cpus, "-1"),
        (parse.nano_cpus, "nan"),
        (parse.nano_cpus, "1e-12"),
        (parse.publish, ""),
        (parse.publish, "0:80"),
        (parse.publish, "70000:80"),
        (parse.publish, "80/icmp"),
        (parse.publish, "1-2:1-3"),
        (parse.publish, "2-1"),
        (parse.publish, "x:y"),
        (parse.publish, "300.1.1.1:1:1"),
        (parse.publish, "published=1"),
        (parse.publish, "target=1,mode=dns"),
        (parse.publish, "target=1,colour=red"),
        (parse_mounts.mount, "type=bind,src=a,dst=/b"),
        (parse_mounts.mount, "dst=b"),
        (parse_mounts.mount, "type=npipe,dst=/b"),
        (parse_mounts.mount, "src=a,dst=/b,volume-driver=x"),
        (parse_mounts.mount, "dst=/b,x=1"),
        (parse_mounts.mount, '"dst=/b'),
        (parse_mounts.mount, "type=tmpfs,src=/a,dst=/b"),
        (parse_mounts.mount, "dst=/b,ro=perhaps"),
        (parse_mounts.tmpfs, "run"),
        (parse_mounts.tmpfs, "/run:speed=9"),
        (parse.network, "alias=x"),
        (parse.network, ""),
        (parse.ulimit, "nofile"),
        (parse.ulimit, "nofile=2:1"),
        (parse.ulimit, "files=1"),
        (parse.ulimit, "core=-1:5"),
        (parse.host, "db"),
        (parse.host, "db:x"),
        (parse.constraint, "node.id"),
        (parse.device, "sda"),
        (parse.device, "/dev/a:/dev/b:xyz"),
        (parse.stop_signal, "SIGNOPE"),
        (parse.stop_signal, "65"),
        (parse.ratio, "1.1"),
        (parse.scale, "web"),
        (parse.scale, "web=x"),
        (parse_runtime.security_option, "label=x"),
        (parse.key_value, "=x"),
        (parse.strict_key_value, "x"),
        (parse.moment_ms, "yesterday"),
        (parse.words, "'open"),
        (parse.capability, "net admin"),
    ],
)
def test_wrong_values_are_explained(function: Callable[..., Any], text: str) -> None:
    arguments = (text, 0) if function is parse.moment_ms else (text,)
    with pytest.raises(ValueError) as raised:
        function(*arguments)
    message = str(raised.value)
    assert len(message) > 15, message
    assert "\n" not in message
