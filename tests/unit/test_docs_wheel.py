"""The wheel has everything, and runs without the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("node", "raft", "overlay", "proto", "cli")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as built from this tree, unpacked."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = directory.glob("*.whl")
    assert wheel.name == f"swarmpy-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def test_every_file_of_the_rooms_is_inside_and_nothing_else(unpacked: Path) -> None:
    here = {
        str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip
    inside = {
        str(path.relative_to(unpacked / "swarmpy"))
        for path in (unpacked / "swarmpy").rglob("*")
        if path.is_file()
    }
    assert here == inside
    assert "node/runtime/seccomp.json" in inside
    (information,) = unpacked.glob("*.dist-info")
    assert (information / "licenses" / "LICENSE").exists()
    assert "swarmpy.cli.main:main" in (information / "entry_points.txt").read_text()
    assert {path.name for path in unpacked.iterdir()} == {"swarmpy", information.name}


def test_it_runs(unpacked: Path, tmp_path: Path) -> None:
    """Every module is found in the wheel, and the command answers with its version."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    script = (
        "import swarmpy.node.runtime.spec as spec, swarmpy.node.demo as demo, swarmpy.cli.main as main;"
        "print(spec.__file__, demo.__file__, main.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment, cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert all(name.startswith(str(unpacked)) for name in done.stdout.split())
    done = subprocess.run(
        [sys.executable, "-P", "-m", "swarmpy.cli.main", "--version"], env=environment, cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"swarmpy {VERSION}\n"
