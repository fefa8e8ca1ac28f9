"""A minute of chaos on three managers; `make chaos` is the real thing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FAULTS = (
    "kill leader",
    "kill all",
    "pause",
    "cut off",
    "cut one way",
    "sync error",
    "disk full",
    "transfer",
    "demote and promote",
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces and mounts"),
    pytest.mark.skipif(
        shutil.which("gcc") is None, reason="needs gcc, for the library that makes disks fail"
    ),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (package nftables), to cut links"),
]


def test_nothing_is_lost_and_nothing_is_stale() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "0.7", "--managers", "3", "--format", "json"]
    command += [word for fault in FAULTS for word in ("--only", fault)]
    environment = {**os.environ, "SWARMPY_DEMO_ROOT": f"/var/lib/swarmpy-smoke-{os.getpid()}"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380, check=False
    )
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout)
    told = done.stdout + done.stderr
    assert figures["lost_acknowledged_writes"] == 0, told
    assert figures["anomalies"] == [], told
    assert done.returncode == 0, told
    assert figures["faults"] > 0
    assert figures["operations_by_outcome"]["cas ok"] > 0
    assert figures["watched_events"] > 0
