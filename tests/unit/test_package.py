"""What `make binary` and `make deb` are made of, without packing: the entry program, the stub, the man pages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / ".ci" / "package"
SOURCE = PACKAGE.parents[1] / ".src"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"package_{name}", PACKAGE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def entry(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PACKAGE / "entry.py"), *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
    )  # fmt: skip


def test_the_program_is_the_command_line_or_a_module_as_python_would_run_it() -> None:
    assert entry("--version").stdout.startswith("swarmpy ")
    as_module = entry("-P", "-S", "-m", "swarmpy.cli.main", "--version")
    assert as_module.stdout == entry("--version").stdout, as_module.stderr
    assert entry("-P", "x").returncode == 1
    assert entry("service", "--explode").returncode == 2


def test_children_do_not_inherit_the_loaders_path() -> None:
    ask = ("-P", "-m", "swarmpy.proto")  # whatever fails to run: only what happens before counts
    program = module("entry")
    before = dict(os.environ)
    try:
        os.environ["LD_LIBRARY_PATH"] = "/unpacked"
        os.environ["LD_LIBRARY_PATH_ORIG"] = "/users/own"
        program.own_libraries_only_here()
        assert os.environ["LD_LIBRARY_PATH"] == "/users/own"
        assert "LD_LIBRARY_PATH_ORIG" not in os.environ
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert entry(*ask).returncode != 0


def test_every_module_is_named() -> None:
    names = module("binary").modules()
    assert {"swarmpy.cli.service", "swarmpy.node.daemon_roles", "swarmpy.node.image.unpack"} <= set(names)
    assert all(importlib.util.find_spec(name) is not None for name in names)


def test_the_single_file_unpacks_once_and_runs_from_there(tmp_path: Path) -> None:
    binary = module("binary")
    tree, target = tmp_path / "tree", tmp_path / "one" / "swarmpy"
    tree.mkdir()
    (tree / "swarmpy").write_text('#!/bin/sh\necho "$0 $* of $SWARMPY_BINARY"\n')
    (tree / "swarmpy").chmod(0o755)
    binary.single_file(tree, target)
    env = {**os.environ, "SWARMPY_UNPACK_DIR": str(tmp_path / "cache")}
    runs = [
        subprocess.run([str(target), "node", "ls"], capture_output=True, text=True, check=True, env=env)
        for _ in "12"
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.endswith(f"node ls of {target}\n")
    assert len(os.listdir(tmp_path / "cache")) == 1, "unpacked once, nothing left of the unpacking"
    binary.single_file(tree, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == target.read_bytes(), "the same tree gives the same file"


def test_there_is_a_man_page_for_every_command(tmp_path: Path) -> None:
    import gzip

    manual = module("manual")
    assert manual.write_all(tmp_path) > 100
    text = gzip.decompress((tmp_path / "swarmpy-service-create.1.gz").read_bytes()).decode()
    for part in (".SH SYNOPSIS", ".SH OPTIONS", "\\-\\-replicas"):
        assert part in text
    known = {".TH", ".SH", ".TP", ".PP", ".B", ".BR", ".nf", ".fi"}
    assert {line.split()[0] for line in text.splitlines() if line.startswith(("'", "."))} <= known


@pytest.mark.parametrize("line", [".x", "'y", "a\\b", "--flag"])
def test_no_text_is_a_request_of_troff(line: str) -> None:
    shown = module("manual").quoted(line)
    assert not shown.startswith((".", "'"))
    assert "\\b" not in shown.replace("\\e", "")
