"""Completion scripts, run by the shells they are for; man pages of every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SWARMPY = (sys.executable, "-P", "-m", "swarmpy.cli.main")
SOURCE = Path(__file__).resolve().parents[2] / ".src"
ENV = {**os.environ, "PYTHONPATH": str(SOURCE)}


def script(shell: str) -> str:
    done = subprocess.run(
        [*SWARMPY, "completion", shell], capture_output=True, text=True, check=True, env=ENV
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    assert "_SWARMPY_COMPLETE" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        assert subprocess.run([shell, "-n", str(tmp_path / "script")], check=False).returncode == 0


def test_bash_completes_commands_and_flags(tmp_path: Path) -> None:
    (tmp_path / "swarmpy").write_text(f'#!/bin/sh\nexec {" ".join(SWARMPY)} "$@"\n')
    (tmp_path / "swarmpy").chmod(0o755)
    (tmp_path / "script").write_text(script("bash"))
    ask = (
        f". {tmp_path}/script; COMP_WORDS=(swarmpy service cre); COMP_CWORD=2;"
        f" _swarmpy_completion {tmp_path}/swarmpy;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = {**ENV, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["create"], done.stderr


def test_an_unknown_shell_is_a_usage_error() -> None:
    done = subprocess.run(
        [*SWARMPY, "completion", "tcsh"], capture_output=True, text=True, check=False, env=ENV
    )
    assert done.returncode == 2
    assert "tcsh" in done.stderr
