"""Ways to put swarmpy and its libraries into one file or directory: size, time to build, time to start.

The first start is with an empty cache of the way's own (PyInstaller's single file has none: it unpacks at every
start); the file itself is in the page cache. Starts alternate between the ways. `shiv` and `pex` need a Python of
the same minor version on the machine, the others bring theirs. Tools are installed into a virtual environment of
the benchmark's own, from PyPI. What does not get ready in time, or does not work, is shown with the reason.

    python -m bench.binary [--only shiv,pex] [--rounds 11] [--limit 480]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from bench.harness import say

TOP = Path(__file__).resolve().parent.parent
COMMANDS = {"--version": ["--version"], "node ls --help": ["node", "ls", "--help"]}
TOOLS = ("pyinstaller>=6.10", "shiv", "pex", "nuitka")


@dataclass
class Way:
    """One way. `program` starts it; `cache` is what its first start fills."""

    name: str
    program: list[str] = field(default_factory=list)
    own_python: bool = True
    size_bytes: int = 0
    cache: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    build_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    warm_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COMMANDS})
    problem: str = ""


class Builder:
    """Makes the ways below `work`."""

    def __init__(self, work: Path, limit_s: float) -> None:
        self._work = work
        self._limit_s = limit_s
        self._python = work / "tools" / "bin" / "python"
        self._binary = self._package_module()
        self._wheel = ""

    @staticmethod
    def _package_module() -> ModuleType:
        spec = importlib.util.spec_from_file_location("binary", TOP / ".ci/package/binary.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def tools(self) -> None:
        """The packers, swarmpy itself, and what it needs."""
        run([sys.executable, "-m", "venv", str(self._work / "tools")], self._limit_s)
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self._work / "wheel")], 120)
        self._wheel = str(next((self._work / "wheel").glob("*.whl")))
        install = [str(self._python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run([*install, *TOOLS, self._wheel], self._limit_s)

    def installed(self, way: Way) -> None:
        way.program = [str(self._work / "tools" / "bin" / "swarmpy")]
        packages = next((self._work / "tools" / "lib").glob("python*")) / "site-packages"
        way.own_python = False
        way.size_bytes = sum(
            size_of(path) for path in packages.iterdir()
            if path.name.split("-")[0].lower() not in {"pip", "pyinstaller", "shiv", "pex", "nuitka", "setuptools"}
        )  # fmt: skip

    def make_binary(self, way: Way) -> None:
        tree = self._binary.packed(self._work / "ours", "--onedir", str(self._python))
        target = self._work / "ours" / "swarmpy"
        self._binary.single_file(tree, target)
        way.program, way.size_bytes = [str(target)], size_of(target)
        way.cache = self._work / "cache-ours"
        way.environment = {"SWARMPY_UNPACK_DIR": str(way.cache)}

    def onedir(self, way: Way) -> None:
        tree = self._binary.packed(self._work / "onedir", "--onedir", str(self._python))
        way.program, way.size_bytes = [str(tree / "swarmpy")], size_of(tree)

    def onefile(self, way: Way) -> None:
        target = self._binary.packed(self._work / "onefile", "--onefile", str(self._python))
        way.program, way.size_bytes = [str(target)], size_of(target)

    def shiv(self, way: Way) -> None:
        target = self._work / "swarmpy.shiv"
        tool = [str(self._python), "-m", "shiv", "--compressed", "-c", "swarmpy", "-o", str(target)]
        run([*tool, self._wheel], self._limit_s)
        way.program, way.size_bytes, way.own_python = [sys.executable, str(target)], size_of(target), False
        way.cache = self._work / "cache-shiv"
        way.environment = {"SHIV_ROOT": str(way.cache)}

    def pex(self, way: Way) -> None:
        target = self._work / "swarmpy.pex"
        tool = [str(self._python), "-m", "pex", "-c", "swarmpy", "-o", str(target), "--venv", "prepend"]
        run([*tool, self._wheel], self._limit_s, PEX_ROOT=str(self._work / "pex-build"))
        way.program, way.size_bytes, way.own_python = [sys.executable, str(target)], size_of(target), False
        way.cache = self._work / "cache-pex"
        way.environment = {"PEX_ROOT": str(way.cache)}

    def nuitka(self, way: Way) -> None:
        out = self._work / "nuitka"
        if shutil.which("patchelf") is None:
            raise Impossible("patchelf is missing: apt-get install patchelf")
        tool = [
            "nice", "-n", "19", str(self._python), "-m", "nuitka", "--standalone",
            "--assume-yes-for-downloads", "--quiet",
            f"--output-dir={out}", "--include-package=swarmpy", "--include-distribution-metadata=swarmpy",
            "--nofollow-import-to=tkinter", "--jobs=2", str(TOP / ".ci/package/entry.py"),
        ]  # fmt: skip
        run(tool, self._limit_s)
        way.program, way.size_bytes = [str(out / "entry.dist" / "entry.bin")], size_of(out / "entry.dist")


class Impossible(Exception):
    """A way cannot be made here; the message says why."""


def run(argv: list[str], timeout_s: float, **variables: str) -> None:
    """Run a tool, which may not take longer."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=TOP,
            env={**os.environ, **variables},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Impossible(f"not ready within {timeout_s:g} s") from None
    if done.returncode:
        raise Impossible((done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()[-1][:160])


def size_of(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(found.lstat().st_size for found in path.rglob("*") if not found.is_dir() or found.is_symlink())


def start(way: Way, arguments: list[str]) -> float:
    """Seconds from start to end."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    began = time.perf_counter()
    done = subprocess.run(
        [*way.program, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd="/",
        env={**environment, **way.environment},
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode or not done.stdout.strip():
        raise Impossible(
            f"{' '.join(arguments)}: {(done.stderr.strip() or 'no output').splitlines()[-1][:160]}"
        )
    return took


def measure(ways: list[Way], rounds: int) -> None:
    for _ in range(rounds):
        for way in ways:
            if way.problem:
                continue
            try:
                if way.cache is not None:
                    shutil.rmtree(way.cache, ignore_errors=True)
                    way.first_s.append(start(way, COMMANDS["--version"]))
                for name, arguments in COMMANDS.items():
                    way.warm_s[name].append(start(way, arguments))
            except (Impossible, subprocess.TimeoutExpired) as error:
                way.problem = str(error)


def table(ways: list[Way]) -> list[list[str]]:
    rows = [["way", "own Python", "MB", "build s", "first --version s", *(f"{name} s" for name in COMMANDS)]]
    for way in ways:
        if way.problem:
            rows.append([way.name, f"not run: {way.problem}"])
            continue
        first = f"{statistics.median(way.first_s):.2f}" if way.first_s else "as warm"
        warm = [f"{statistics.median(values):.3f}" for values in way.warm_s.values()]
        yes = "yes" if way.own_python else "no"
        rows.append([way.name, yes, f"{way.size_bytes / 1e6:.1f}", f"{way.build_s:.0f}", first, *warm])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds a way may take to be built")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmpy-bench-binary-") as directory:
        builder = Builder(Path(directory), options.limit)
        say("installing the tools")
        builder.tools()
        makers: dict[str, Callable[[Way], None]] = {
            "installed": builder.installed, "make binary": builder.make_binary,
            "pyinstaller onedir": builder.onedir, "pyinstaller onefile": builder.onefile,
            "shiv": builder.shiv, "pex": builder.pex, "nuitka": builder.nuitka,
        }  # fmt: skip
        chosen = options.only.split(",") if options.only else list(makers)
        ways = []
        for name in chosen:
            say(f"building: {name}")
            way, began = Way(name), time.monotonic()
            try:
                makers[name](way)
            except (Impossible, subprocess.CalledProcessError, OSError) as error:
                way.problem = str(error)
            way.build_s = time.monotonic() - began
            ways.append(way)
        say("measuring")
        measure(ways, options.rounds)
    if options.format == "json":
        print(json.dumps([{**vars(way), "cache": None, "program": None} for way in ways]))
        return
    rows = table(ways)
    widths = [max(len(row[i]) for row in rows if len(row) == len(rows[0])) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


if __name__ == "__main__":
    main()
