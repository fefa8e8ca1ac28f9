"""Builds of swarmpy for tests: this code under another version number, whole or broken."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

TOP = Path(__file__).parent.parent
ROOMS = ("cli", "node", "overlay", "proto", "raft")


def tree(directory: Path, version: str, *, whole: bool, **replaced: str) -> Path:
    """The code with that version; `replaced`: texts of modules, by names like node__agent__process."""
    package = directory / "swarmpy"
    package.mkdir(parents=True)
    for room in ROOMS:
        if whole or any(name.startswith(f"{room}__") for name in replaced):
            shutil.copytree(TOP / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (package / room).symlink_to(TOP / room)
    for name, text in replaced.items():
        (package / (name.replace("__", "/") + ".py")).write_text(text)
    info = directory / f"swarmpy-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: swarmpy\nVersion: {version}\n\n")
    return directory


def wheel(directory: Path, version: str, **replaced: str) -> Path:
    """A wheel of that version."""
    source = tree(directory / f"tree-{version}", version, whole=True, **replaced)
    target = directory / f"swarmpy-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(source))
    return target


def program(directory: Path, version: str, **replaced: str) -> Path:
    """A single file that starts that version, like the packed executable: it takes `-P -m MODULE`, too."""
    home = directory / f"build-{version}"
    source = tree(home / "source", version, whole=False, **replaced)
    python = _environment(home, [source, Path(sysconfig.get_path("purelib"))])
    target = directory / f"swarmpy-{version}"
    target.write_text(
        "#!/bin/sh\n"
        f'case "${{1-}}" in -P) exec {python} "$@";; esac\n'
        f'exec {python} -P -m swarmpy.cli.main "$@"\n'
    )
    target.chmod(0o755)
    return target


def _environment(home: Path, paths: list[Path]) -> Path:
    """A Python that finds modules at these places and that its children are, too."""
    number = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / number / "site-packages"
    packages.mkdir(parents=True)
    (packages / "paths.pth").write_text("".join(f"{path}\n" for path in paths))
    base = Path(sys.base_prefix) / "bin" / number
    (home / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(base)
    return home / "bin" / "python"
