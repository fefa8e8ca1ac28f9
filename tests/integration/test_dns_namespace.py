"""The resolver as pods meet it: its link-local address, real C library clients, one view per pod."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.overlay.nametable import NetworkEntry, ServiceEntry, Table, TaskEntry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox (apt install busybox-static)"),
]

NODE, POD_A, POD_B = (f"dnst{os.getpid()}{letter}" for letter in "nab")
TABLE = Table(
    networks=(NetworkEntry("n1", "front", "10.201.0.0/16"), NetworkEntry("n2", "back", "10.202.0.0/16")),
    services=(
        ServiceEntry(
            "web", ("n1",), {"n1": "10.201.0.2"},
            tasks=tuple(TaskEntry(i, f"web.{i}.x", {"n1": f"10.201.2.{i}"}) for i in range(1, 101)),
        ),
        ServiceEntry("db", ("n2",), {"n2": "10.202.0.2"}),
    ),
    pods={"10.201.1.1": ("n1",), "10.202.1.1": ("n2", "n1")},
)  # fmt: skip


def sh(*command: str, check: bool = True) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def inside(namespace: str, *command: str, check: bool = True) -> str:
    return sh("ip", "netns", "exec", namespace, *command, check=check)


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Iterator[Path]:
    """A node with two pods and its DNS process, started before its address exists."""
    (tmp_path / "table.json").write_text(TABLE.to_json())
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 169.254.1.53\noptions ndots:0 timeout:2 attempts:2\n")
    process = None
    try:
        for namespace in (NODE, POD_A, POD_B):
            sh("ip", "netns", "add", namespace)
            inside(namespace, "ip", "link", "set", "lo", "up")
        code = "import sys; from swarmpy.overlay.dns import run; sys.exit(run(sys.argv[1:]))"
        reading, writing = os.pipe()
        process = subprocess.Popen(
            ["ip", "netns", "exec", NODE, sys.executable, "-c", code, "--table", str(tmp_path / "table.json"),
             "--ready-fd", str(writing)],
            pass_fds=[writing],
        )  # fmt: skip
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            assert ready.read() == b"ready\n"
        inside(NODE, "ip", "address", "add", "169.254.1.53/32", "dev", "lo")
        for namespace, link, address in ((POD_A, "pod-a", "10.201.1.1"), (POD_B, "pod-b", "10.202.1.1")):
            inside(NODE, "ip", "link", "add", link, "type", "veth", "peer", "eth0", "netns", namespace)
            inside(NODE, "ip", "link", "set", link, "up")
            inside(NODE, "ip", "route", "add", f"{address}/32", "dev", link)
            inside(namespace, "ip", "address", "add", f"{address}/32", "dev", "eth0")
            inside(namespace, "ip", "link", "set", "eth0", "up")
            inside(namespace, "ip", "route", "add", "169.254.1.53/32", "dev", "eth0", "src", address)
        yield conf
    finally:
        if process is not None:
            process.terminate()
            process.wait(timeout=20)
        for namespace in (NODE, POD_A, POD_B):
            sh("ip", "netns", "delete", namespace, check=False)


def lookup(namespace: str, conf: Path, *command: str) -> str:
    """Run a client that reads /etc/resolv.conf, with ours in its place."""
    script = f'mount --bind "{conf}" /etc/resolv.conf && exec "$@"'
    return inside(namespace, "unshare", "-m", "sh", "-c", script, "sh", *command, check=False)


def addresses(text: str) -> set[str]:
    return {line.split()[0] for line in text.splitlines() if line.strip()}


def test_pods_resolve_what_they_may_see(resolv_conf: Path) -> None:
    def glibc(namespace: str, name: str) -> set[str]:
        return addresses(lookup(namespace, resolv_conf, "getent", "ahosts", name))

    assert glibc(POD_A, "web") == {"10.201.0.2"}
    assert glibc(POD_A, "db") == set()
    assert glibc(POD_B, "db") == {"10.202.0.2"}
    assert glibc(POD_B, "web.front.swarm.internal") == {"10.201.0.2"}
    # More than a datagram holds: the C library comes again by TCP.
    assert glibc(POD_A, "tasks.web") == {f"10.201.2.{i}" for i in range(1, 101)}
    assert "web.7.x.front.swarm.internal" in lookup(POD_A, resolv_conf, "getent", "hosts", "10.201.2.7")
    answer = lookup(POD_A, resolv_conf, "busybox", "nslookup", "web")
    assert "10.201.0.2" in answer
    assert "can't find" not in answer
    assert glibc(NODE, "db") == {"10.202.0.2"}
