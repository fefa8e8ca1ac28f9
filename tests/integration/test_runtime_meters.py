"""What meters read of real processes: a network of many interfaces, connections where nothing else moves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.runtime import RuntimeFailure, cgroups, system
from swarmpy.node.runtime.inside import Inside
from swarmpy.node.runtime.meters import Meters
from swarmpy.node.runtime.oci import Oci

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip: network namespaces"
    ),
]
PAIRS = 40  # their lines are several times what the kernel gives at once
FRAME_BYTES = 60
PROGRAM = f"""
import contextlib, socket, subprocess, sys
for which in ("all", "default"):  # nothing is sent but what is told
    with contextlib.suppress(OSError):
        open(f"/proc/sys/net/ipv6/conf/{{which}}/disable_ipv6", "w").write("1")
links = "".join(f"link add a{{n}} up type veth peer name b{{n}}\\nlink set b{{n}} up\\n" for n in range({PAIRS}))
subprocess.run(["ip", "-batch", "-"], input="link set lo up\\n" + links, text=True, check=True)
server, kept = socket.create_server(("127.0.0.1", 8080)), []
print("ready", flush=True)
for line in sys.stdin:
    if line == "connect\\n":
        kept += [socket.create_connection(("127.0.0.1", 8080)), server.accept()[0]]
    for n in range({PAIRS} if line == "send\\n" else 0):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((f"a{{n}}", 0))
            raw.send(bytes({FRAME_BYTES}))
    print("done", flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process in a network of its own that does what it is told by lines."""
    argv = ["unshare", "--net", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def inside_of(child: subprocess.Popen[str]) -> Inside:
    """Its control groups are not there: nothing but its network ever changes."""
    started = system.start_time(child.pid)
    assert started is not None
    group = cgroups.Cgroup(cgroups.detect(), "/swarmpy-test-nothing")
    return Inside("a", child.pid, started, False, Path("/"), group, Oci("crun", Path("/")))


def test_every_interface_of_a_large_network_is_counted(child: subprocess.Popen[str]) -> None:
    kept = Meters()
    try:
        before = kept.sample(inside_of(child))
        tell(child, "send")
        after = kept.sample(inside_of(child))
    finally:
        kept.close()
    assert after.sent_bytes - before.sent_bytes == PAIRS * FRAME_BYTES
    assert after.received_bytes - before.received_bytes == PAIRS * FRAME_BYTES


def test_connections_are_seen_at_once_where_nothing_else_moves(child: subprocess.Popen[str]) -> None:
    inside, kept = inside_of(child), Meters()
    before = len(os.listdir("/proc/self/fd"))
    try:
        assert kept.sample(inside).accepted == 0
        for number in (1, 2, 3):
            tell(child, "connect")
            sample = kept.sample(inside)
            assert (sample.accepted, sample.connections) == (number, 2 * number)
        child.kill()
        child.wait()
        with pytest.raises(RuntimeFailure, match="it has ended"):
            kept.sample(inside)
        assert len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(RuntimeFailure, match="it has ended"):  # nor is it opened again
            kept.sample(inside)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        kept.close()
