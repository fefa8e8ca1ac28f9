"""`.ci/setup` installs what is missing, once, and says what it cannot do: run with stand-ins for apt and Python."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BORROWED = ("bash", "cat", "cut", "dirname", "env", "id", "ldd", "rm", "sha256sum", "ps", "nsenter")
PYTHON = """#!/bin/sh
echo "python $*" >> {log}
case "$*" in
*version_info*) exit {old} ;;
"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
--version) echo Python 3.99 ;;
esac
"""
APT = """#!/bin/sh
echo "apt $*" >> {log}
case "$*" in *install*) for tool in crun runc conmon nft ip tini; do cp {bin}/true {bin}/$tool; done ;; esac
"""


class Machine:
    """A clone whose setup sees only the tools in `bin`."""

    def __init__(self, directory: Path, *, apt: bool = True, old_python: bool = False) -> None:
        self.clone, self.bin, self.log = directory / "clone", directory / "bin", directory / "log"
        (self.clone / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        # The script adds the sbin directories to the PATH: here they are empty.
        text = (ROOT / ".ci/setup").read_text().replace("$PATH:/usr/sbin:/sbin", "$PATH")
        self.program(
            self.clone / ".ci/setup", text.replace("[ -x /bin/busybox ] && ! ldd /bin/busybox", "! false")
        )
        shutil.copy(ROOT / "pyproject.toml", self.clone)
        for tool in (*BORROWED, "true", "mkdir", "cp"):
            found = shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        self.program(self.bin / "python3", PYTHON.format(log=self.log, old=int(old_python)))
        if apt:
            self.program(self.bin / "apt-get", APT.format(log=self.log, bin=self.bin))
        self.program(self.bin / "sudo", '#!/bin/sh\nexec "$@"\n')

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            [str(self.bin / "bash"), str(self.clone / ".ci/setup"), *arguments], env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def calls(self, program: str) -> list[str]:
        """What was asked of apt or pip since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(program) and "version_info" not in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_installed_once(machine: Machine) -> None:
    done = machine.setup("dev")
    assert done.returncode == 0, done.stderr
    apt = machine.calls("apt")
    assert len(apt) == 2
    assert set(apt[1].split()) >= {"install", "crun", "runc", "conmon", "nftables", "iproute2", "tini"}
    again = machine.setup("dev")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert machine.calls("apt") == []
    assert machine.setup().returncode == 0
    assert machine.calls("python -m") == [], "what is there for development is enough to run"


def test_a_changed_pyproject_installs_anew_and_keeps_the_environment(machine: Machine) -> None:
    machine.setup()
    assert any("-m pip install" in call and "-e ." in call for call in machine.calls("python"))
    with (machine.clone / "pyproject.toml").open("a") as file:
        file.write("# another dependency\n")
    machine.setup("dev")
    calls = machine.calls("python")
    assert any("-e .[dev]" in call for call in calls)
    assert not any("venv" in call for call in calls)


def test_without_apt_the_missing_packages_are_named(tmp_path: Path) -> None:
    done = Machine(tmp_path, apt=False).setup()
    assert done.returncode == 1
    assert "has no apt-get: install the equivalents of crun runc conmon nftables iproute2 tini" in done.stderr


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    done = Machine(tmp_path, old_python=True).setup()
    assert done.returncode == 1
    assert "python3 is older than 3.11 here" in done.stderr
