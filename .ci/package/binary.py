"""`make binary`: swarmpy and its Python as one file, dist/swarmpy.

PyInstaller puts interpreter, libraries and modules into a directory; a short shell script in front of a
compressed archive of that unpacks it once per build into a cache and runs it from there. Unpacking at every
start, as PyInstaller's own single file does, would cost each of a node's processes that time and its space in
/tmp again (bench/binary.py compares the ways). On a quiet machine `swarmpy --version` took 1.0 s the first time,
0.11 s from then on, and 0.10 s with an installed Python.

    python .ci/package/binary.py [--directory]     # --directory: only the tree, for make deb
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
WORK = TOP / "build" / "binary"
ROOMS = ("cli", "node", "overlay", "proto", "raft")
LEFT_OUT = (
    "zstandard._cffi",
    "tkinter",
    "test",
    "unittest",
    "pydoc_data",
    "lib2to3",
    "ensurepip",
    "idlelib",
    "curses",
    "pip",
    "setuptools",
)
STUB = """#!/bin/sh
# swarmpy @VERSION@: unpacks itself once, then runs from there. SWARMPY_UNPACK_DIR is where (default:
# /var/cache/swarmpy for root, else ~/.cache/swarmpy).
set -eu
if [ "$(id -u)" = 0 ]; then base=/var/cache/swarmpy; else base=${XDG_CACHE_HOME:-$HOME/.cache}/swarmpy; fi
base=${SWARMPY_UNPACK_DIR:-$base}
dir=$base/@HASH@
if [ ! -x "$dir/swarmpy" ]; then
    umask 022
    mkdir -p "$base"
    new=$(mktemp -d "$base/.new.XXXXXX")
    chmod 755 "$new"
    trap 'rm -rf "$new"' EXIT INT TERM
    tail -n +@LINES@ "$0" | tar -xzf - -C "$new"
    # Two that unpack at once: the second finds the first one's.
    mv -T "$new" "$dir" 2>/dev/null || [ -x "$dir/swarmpy" ] || { echo "swarmpy: cannot unpack to $dir" >&2; exit 1; }
    trap - EXIT INT TERM
    rm -rf "$new"
fi
SWARMPY_BINARY=$(readlink -f "$0")
export SWARMPY_BINARY
exec "$dir/swarmpy" "$@"
"""


def modules() -> list[str]:
    """Every module of swarmpy: commands and roles are imported by name, which no packer sees."""
    found = []
    for room in ROOMS:
        for path in sorted((TOP / room).rglob("*.py")):
            found.append(
                "swarmpy." + ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
            )
    return found


def tree() -> Path:
    """The directory that PyInstaller makes: `swarmpy` in it is the program."""
    return packed(WORK, "--onedir")


def packed(work: Path, form: str, python: str = sys.executable) -> Path:
    """What PyInstaller makes in `work`, as one directory or (`--onefile`) as one file."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    argv = [
        python, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", form, "--strip",
        "--name", "swarmpy",
        "--distpath", str(work / "dist"), "--workpath", str(work / "work"), "--specpath", str(work),
        "--paths", str(TOP / ".src"), "--copy-metadata", "swarmpy",
        "--add-data", f"{TOP / 'node/runtime/seccomp.json'}:swarmpy/node/runtime",
    ]  # fmt: skip
    for name in modules():
        argv += ["--hidden-import", name]
    for name in LEFT_OUT:
        argv += ["--exclude-module", name]
    subprocess.run([*argv, str(HERE / "entry.py")], check=True)
    return work / "dist" / "swarmpy"


def single_file(directory: Path, target: Path) -> None:
    """The script and, behind it, the archive of the directory."""
    archive = subprocess.run(
        ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-czf", "-", "-C", str(directory), "."],
        check=True, capture_output=True, env={**os.environ, "GZIP": "-9n"},
    ).stdout  # fmt: skip
    digest = hashlib.sha256(archive).hexdigest()[:16]
    stub = STUB.replace("@VERSION@", version()).replace("@HASH@", f"{version()}-{digest}")
    stub = stub.replace("@LINES@", str(stub.count("\n") + 1))
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(stub.encode() + archive)
    partial.chmod(0o755)
    partial.rename(target)


def version() -> str:
    from importlib.metadata import version as installed

    return installed("swarmpy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", action="store_true")
    options = parser.parse_args()
    directory = tree()
    if options.directory:
        print(directory)
        return
    target = TOP / "dist" / "swarmpy"
    single_file(directory, target)
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
