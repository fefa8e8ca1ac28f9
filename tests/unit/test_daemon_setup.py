"""Starting a node's daemon, and telling it from every other process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from swarmpy.cli.main import root
from swarmpy.node import daemon, daemon_setup
from swarmpy.node.daemon_setup import SetupError


@contextmanager
def process(*arguments: str) -> Iterator[int]:
    """A process with these arguments, which waits."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        started.stdout.readline()
        try:
            yield started.pid
        finally:
            started.kill()


@pytest.mark.parametrize(
    ("module", "directory", "ours"),
    [
        ("swarmpy.node.daemon", "own", True),
        ("swarmpy.node.daemon", "other", False),
        ("swarmpy.node.daemon_roles", "own", False),
        ("swarmpy.cli.main", "own", False),
    ],
)
def test_a_stale_pid_names_nobody(tmp_path: Path, module: str, directory: str, ours: bool) -> None:
    """The number in daemon.pid may belong to another node's processes by now: they must not be killed for it."""
    state = tmp_path / "own"
    (state / "run").mkdir(parents=True)
    with process("-m", module, "--state-dir", str(tmp_path / directory)) as pid:
        (state / "run" / "daemon.pid").write_text(f"{pid}\n")
        assert daemon_setup.daemon_pid(state) == (pid if ours else None)
    assert daemon_setup.daemon_pid(state) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Access denied >&2; exit 4", r"\(Access denied\).*systemctl status swarmpy"),
        ("echo Created symlink >&2; exec sleep 9", r"\(it takes more than 0.3 s\).*systemctl status swarmpy"),
    ],
)
def test_systemd_that_refuses_or_is_slow_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text(f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(daemon_setup, "UNIT_START_S", 0.3)
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(daemon_setup, "under_systemd", lambda: True)
    monkeypatch.setattr(daemon_setup, "UNIT_PATH", tmp_path / "swarmpy.service")
    with pytest.raises(SetupError, match=said):
        daemon_setup.start(tmp_path / "state")


def test_a_relative_state_directory_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit file, the daemon and `leave` from elsewhere must all mean the same directory."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["daemon", "--state-dir", "here"])
    assert f"{tmp_path}/here holds no node" in result.stderr


WRITER = """
import os, sys
from pathlib import Path
from swarmpy.node import daemon
path = Path(sys.argv[1])
os.write(2, b"1" * 3000)
daemon.bound_log(path, 5000)
os.write(2, b"2" * 3000)
daemon.bound_log(path, 5000)
os.write(2, b"3" * 10)
daemon.bound_log(path, 5000)
"""


def test_the_background_daemons_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / daemon.LOG_NAME
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", WRITER, str(log)], stderr=output, timeout=30, check=True)
    assert log.read_bytes() == b"3" * 10
    assert (tmp_path / f"{daemon.LOG_NAME}.1").read_bytes() == b"1" * 3000 + b"2" * 3000


def test_a_log_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / daemon.LOG_NAME).touch()
    other = tmp_path / "journal"
    with other.open("ab") as output:
        command = [sys.executable, "-c", WRITER, str(tmp_path / daemon.LOG_NAME)]
        subprocess.run(command, stderr=output, timeout=30, check=True)
    assert other.stat().st_size == 6010


def test_a_full_disk_does_not_end_the_supervisor() -> None:
    with Path("/dev/full").open("ab") as output:
        command = [sys.executable, "-c", "from swarmpy.node import daemon; daemon.say('a role ended')"]
        subprocess.run(command, stderr=output, timeout=30, check=True)


@pytest.mark.parametrize(
    ("options", "cidr", "said"),
    [
        ({"advertise_addr": "10.64.3.4"}, "", "10.64.3.4 lies within 10.64.0.0/10"),
        ({"advertise_addr": "192.0.2.1", "data_path_addr": "10.100.0.1"}, "", "10.100.0.1 lies within"),
        ({"advertise_addr": "172.20.0.1"}, "172.16.0.0/12", "172.20.0.1 lies within 172.16.0.0/12"),
        ({"advertise_addr": "192.0.2.1", "data_path_addr": "eth0"}, "", "'eth0' is not an IP address"),
    ],
)
def test_a_node_with_an_address_of_the_overlay_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], cidr: str, said: str
) -> None:
    monkeypatch.setattr(daemon_setup, "fresh", lambda path: daemon_setup.Paths(path))  # needs root
    with pytest.raises(daemon_setup.SetupError, match=re.escape(said)):
        daemon_setup.init(
            daemon_setup.NodeOptions(tmp_path / "state", **options),
            daemon_setup.ClusterOptions(cluster_cidr=cidr),
        )
    assert not (tmp_path / "state").exists()
