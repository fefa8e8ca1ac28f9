"""`init` on a machine (here: a network namespace) of its own, without the demo round it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.config import Paths

from tests.integration.cluster import SWARMPY, missing

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "ready")]
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "machine")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state"
    yield state
    if state.exists():
        command = [*ALONE, *SWARMPY, "leave", "--force", "--state-dir", str(state)]
        subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert not Paths(state).run.exists()


def test_in_the_foreground_it_tells_how_to_join_before_it_becomes_the_daemon(state: Path) -> None:
    flags = ("--state-dir", str(state), "--hostname", "alone", "--advertise-addr", "127.0.0.1")
    with subprocess.Popen(
        [*ALONE, *SWARMPY, "init", "--foreground", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as daemon:  # fmt: skip
        try:
            assert daemon.stdout is not None
            said = next(line for line in daemon.stdout if "swarmpy join --token SWMPY-1-" in line)
            assert said.strip().endswith(" 127.0.0.1:7376")
            inside = ("nsenter", "--target", str(daemon.pid), "--net", "--")
            command = [*inside, *SWARMPY, "-H", f"unix://{state}/run/control.sock", "token", "worker"]
            token = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            assert said.strip() in token, "not the cluster's token"
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
