"""A build of swarmpy as a file: what it is, whether it is whole, and its way into the cluster's image store.

Builds travel as images, because those already go from node to node in verified chunks: one layer with one
file. The same file gives the same image, so an upgrade that is run again finds what it brought before.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from swarmpy.cli.errors import CliError

NAME = "swarmpy-build"
FILE_BYTES_MAX = 512 << 20
VERSION_TIMEOUT_S = 180.0
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)*(?:[a-z.+-][0-9A-Za-z.+-]*)?")


@dataclass(frozen=True)
class Build:
    """A file that was looked at. `member` is its name in the layer: what kind of build it is."""

    path: Path
    version: str
    member: str
    architecture: str

    @property
    def reference(self) -> str:
        return f"{NAME}:{re.sub('[^A-Za-z0-9_.-]', '-', self.version)}"


def minor(version: str) -> tuple[int, int] | None:
    """Major and minor number; None for what is no version."""
    found = VERSION.fullmatch(version)
    return (int(found[1]), int(found[2])) if found else None


def too_far(one: str, other: str) -> bool:
    """Whether two versions may not run in one cluster: N and N-1 may."""
    first, second = minor(one), minor(other)
    if first is None or second is None:
        return True
    return first[0] != second[0] or abs(first[1] - second[1]) > 1


def look_at(path: Path) -> Build:
    """Check the file; a wheel is read, anything else is run in a place of its own. Raises CliError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}.") from None
    if not 0 < size <= FILE_BYTES_MAX:
        raise CliError(f"{path} has {size} bytes: a build has 1 to {FILE_BYTES_MAX}.")
    if head == b"!<arch>\n":
        raise CliError(
            f"{path} is a Debian package: it would replace what a node goes back to when it fails. Upgrade with the "
            "single-file executable (make binary), also where a package is installed, or install the package with "
            "apt on one node after the other (docs/operations.md, Another version)."
        )
    if head[:4] == b"PK\x03\x04":
        version, member = wheel_version(path), "swarmpy.whl"
    else:
        version, member = program_version(path), "swarmpy"
    if minor(version) is None:
        raise CliError(f"{path} calls itself version {version!r}, which is no version number.")
    machine = platform.machine()
    return Build(path, version, member, ARCHITECTURES.get(machine, machine))


def wheel_version(path: Path) -> str:
    import zipfile

    try:
        with zipfile.ZipFile(path) as wheel:
            damaged = wheel.testzip()
            if damaged is not None:
                raise CliError(f"{path} is damaged: {damaged} in it has another checksum.")
            name = next((n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")), "")
            lines = wheel.read(name).decode().splitlines() if name else []
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, OSError) as error:
        raise CliError(f"{path} is damaged: {error}.") from None
    fields = (
        dict(line.split(": ", 1) for line in lines[: lines.index("")] if ": " in line) if "" in lines else {}
    )
    if fields.get("Name") != "swarmpy" or "Version" not in fields:
        raise CliError(f"{path} is no wheel of swarmpy.")
    return fields["Version"]


def program_version(path: Path) -> str:
    """What `FILE --version` says, run from a copy that is removed again."""
    with tempfile.TemporaryDirectory(prefix="swarmpy-upgrade-") as scratch:
        copy = Path(scratch) / "swarmpy"
        shutil.copyfile(path, copy)
        copy.chmod(0o700)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SWARMPY_") and k != "PYTHONPATH"}
        environment = {
            **kept, "SWARMPY_UNPACK_DIR": f"{scratch}/unpacked", "PYINSTALLER_RESET_ENVIRONMENT": "1",
            "SWARMPY_BUILD": "-",
        }  # fmt: skip
        try:
            done = subprocess.run(
                [str(copy), "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL, env=environment, errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise CliError(f"{path} is no program that runs on this machine: {error.strerror}.") from None
        except subprocess.TimeoutExpired:
            raise CliError(f"{path} did not say its version within {VERSION_TIMEOUT_S:g} s.") from None
    said = done.stdout.strip()
    if done.returncode or not said.startswith("swarmpy "):
        why = (done.stderr.strip() or said or "it said nothing").splitlines()[-1][:200]
        raise CliError(
            f"{path} is no working build of swarmpy: `--version` ended with {done.returncode} and {why!r}."
        )
    return said.removeprefix("swarmpy ")


def archive(build: Build, directory: Path) -> Path:
    """An image archive (`docker save`) with the build as its one layer."""
    layer = directory / "layer.tar"
    with tarfile.open(layer, "w", format=tarfile.USTAR_FORMAT) as tar, build.path.open("rb") as file:
        member = tarfile.TarInfo(build.member)
        member.size, member.mode = build.path.stat().st_size, 0o755
        tar.addfile(member, file)
    with layer.open("rb") as file:
        diff_id = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": build.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Labels": {"swarmpy.version": build.version}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        },
        sort_keys=True,
    ).encode()
    listing = [{"Config": "config.json", "RepoTags": [build.reference], "Layers": ["layer.tar"]}]
    target = directory / "image.tar"
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(layer, "layer.tar", filter=_plain)
        for name, data in (("config.json", config), ("manifest.json", json.dumps(listing).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    layer.unlink()
    return target


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
