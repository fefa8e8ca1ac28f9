"""Machines that cannot be a node, and users who may not: one sentence, an exit code, nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import SWARMPY, Done, missing

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "ready")]
AS_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--")
INIT = ("init", "--no-start", "--advertise-addr", "10.9.9.9", "--state-dir")


def run(*command: str, path: str = "") -> Done:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SWARMPY_")}
    if path:
        env["PATH"] = path
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=env, stdin=subprocess.DEVNULL
    )


def sentence(done: Done, code: int, *words: str) -> None:
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0], f"{word!r} missing in: {lines[0]}"


def nobody_can_run() -> bool:
    return run(*AS_NOBODY, sys.executable, "-c", "import swarmpy.cli.main").returncode == 0


@pytest.mark.parametrize(
    "command", [("init",), ("join", "--token", "x", "10.0.0.1"), ("demo",), ("demo", "up"), ("demo", "down")]
)
def test_without_root(command: tuple[str, ...], tmp_path: Path) -> None:
    if not nobody_can_run():
        pytest.skip("this Python cannot be read by other users")
    state = () if command[0] == "demo" else ("--state-dir", str(tmp_path / "state"))
    sentence(run(*AS_NOBODY, *SWARMPY, *command, *state), 7, "root", "sudo")


def test_daemon_without_root(tmp_path: Path) -> None:
    if not nobody_can_run():
        pytest.skip("this Python cannot be read by other users")
    open_directory = Path("/tmp") / f"swarmpy-test-open-{os.getpid()}"
    open_directory.mkdir(mode=0o755)
    try:
        (open_directory / "node.json").write_text("{}")
        sentence(run(*AS_NOBODY, *SWARMPY, "daemon", "--state-dir", str(open_directory)), 7, "root", "sudo")
        sentence(run(*AS_NOBODY, *SWARMPY, "leave", "--state-dir", str(open_directory)), 7, "root", "sudo")
    finally:
        shutil.rmtree(open_directory)


def test_without_any_oci_runtime(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("conmon", "nft"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    state = tmp_path / "state"
    sentence(run(*SWARMPY, *INIT, str(state), path=str(tools)), 1, "crun", "apt-get install")
    assert not state.exists()


def test_without_any_tool(tmp_path: Path) -> None:
    state = tmp_path / "state"
    sentence(
        run(*SWARMPY, *INIT, str(state), path=str(tmp_path)), 1, "conmon", "nft", "crun", "apt-get install"
    )
    assert not state.exists()


def test_kernel_refuses_the_overlay(tmp_path: Path) -> None:
    """Root without CAP_NET_ADMIN: the kernel itself refuses to make a VXLAN device, by netlink."""
    state = tmp_path / "state"
    sentence(run(*WITHOUT_NET_ADMIN, *SWARMPY, *INIT, str(state)), 1, "overlay network", "CAP_NET_ADMIN")
    assert not state.exists()


def test_init_twice(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert run(*SWARMPY, *INIT, str(state)).returncode == 0
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    sentence(run(*SWARMPY, *INIT, str(state)), 5, "already holds a node", "swarmpy leave")
    assert before == {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--advertise-addr", "not-an-address"), 1, ("--advertise-addr", "not-an-address")),
        (("--manager-port", "0"), 2, ("--manager-port",)),
        (("--cluster-cidr", "300.0.0.0/8"), 1, ("cidr",)),
    ],
)
def test_init_with_bad_flags(
    tmp_path: Path, flags: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    done = run(*SWARMPY, "init", "--no-start", "--state-dir", str(state), *flags)
    assert done.returncode == code, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert all(word in errors[0] for word in words), errors[0]
    assert not state.exists()


def test_no_cluster_here(tmp_path: Path) -> None:
    env = {**os.environ, "SWARMPY_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [*SWARMPY, "node", "ls"], capture_output=True, text=True, timeout=60, check=False, env=env
    )
    sentence(done, 3, "swarmpy init")
