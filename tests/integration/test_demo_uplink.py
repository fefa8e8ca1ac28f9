"""The demo's uplink: the only thing a demo may make in the machine's own network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]
REMOVE = "from swarmpy.node import demo_net; print(demo_net.left_forwarding()); demo_net.remove()"
SCRIPT = """
ip link add swarmpy-demo type bridge && nft add table ip swarmpy-demo && echo 1 > /proc/sys/net/ipv4/ip_forward &&
"$0" -c "$1" && ip -br link && nft list tables
"""


def down(name: str) -> list[str]:
    """What is there after the demo `name` was removed from a machine (a namespace) that has an uplink."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", SCRIPT, sys.executable, REMOVE],
        capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "SWARMPY_DEMO_ROOT": f"/var/lib/{name}"},
    )  # fmt: skip
    return done.stdout.split()


def test_a_demo_removes_its_own_uplink_only() -> None:
    name = f"swarmpy-uplink-{os.getpid()}"
    other = down(name)
    assert other[0] == "False"
    assert other.count("swarmpy-demo") == 2, "another demo's link and table were removed"
    run = Path("/run") / name
    run.mkdir()
    try:
        (run / "uplink").write_text("0\n")
        own = down(name)
        assert own[0] == "True", "forwarding was off before, and that is not said"
        assert "swarmpy-demo" not in own
        assert not list(run.iterdir())
    finally:
        shutil.rmtree(run)
