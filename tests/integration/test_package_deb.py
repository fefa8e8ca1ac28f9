"""The Debian package in a fresh root made of Debian's packages: installed, at work, purged, nothing left.

Slow: it builds the package (PyInstaller) and fetches what it depends on from the machine's Debian mirror.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
TOOLS = ("mmdebstrap", "dpkg-deb", "chroot")
LACKING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


class Root:
    """A Debian without an init system; commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *argv: str, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            ["chroot", str(self.path), *argv], capture_output=True, text=True, timeout=timeout_s, check=False,
            env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done

    def files(self) -> set[str]:
        """Everything in it but what apt and dpkg keep of their own work."""
        changing = ("var/cache", "var/lib/dpkg", "var/lib/apt", "var/log", "proc", "tmp", "run")
        found = set()
        for directory, names, files in os.walk(self.path):
            here = os.path.relpath(directory, self.path)
            names[:] = [name for name in names if os.path.normpath(f"{here}/{name}") not in changing]
            found |= {os.path.normpath(f"{here}/{name}") for name in (*names, *files)}
        return found - {"etc/ld.so.cache"}


@pytest.fixture(scope="module")
def package() -> Path:
    ready = sorted((TOP / "dist").glob("swarmpy_*.deb"))
    newest = max(
        path.stat().st_mtime for room in ("cli", "node", ".ci") for path in (TOP / room).rglob("*.py")
    )
    if not ready or ready[-1].stat().st_mtime < newest:
        subprocess.run(["make", "deb"], cwd=TOP, check=True, capture_output=True, timeout=600)
        ready = sorted((TOP / "dist").glob("swarmpy_*.deb"))
    return ready[-1]


@pytest.fixture(scope="module")
def root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """With everything the package depends on, so that a purge leaves exactly what was there before."""
    path = tmp_path_factory.mktemp("debian") / "root"
    path.parent.chmod(0o755)
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", "--include=crun,conmon,nftables,iproute2",
            "--dpkgopt=path-include=/usr/share/man/*", '--aptopt=Acquire::Languages "none"', "bookworm", str(path),
        ],
        check=True, capture_output=True, timeout=1500,
    )  # fmt: skip
    shutil.copy(package, path / "tmp" / "swarmpy.deb")
    subprocess.run(["mount", "-t", "proc", "proc", str(path / "proc")], check=True)
    yield Root(path)
    subprocess.run(["umount", str(path / "proc")], check=True)
    shutil.rmtree(path)


def test_installed_it_works_and_purged_it_leaves_nothing(root: Root) -> None:
    before = root.files()
    root.run("dpkg", "-i", "/tmp/swarmpy.deb")
    said = root.run("swarmpy", "--version").stdout
    assert said.startswith("swarmpy ")
    assert root.run("python3", "--version", check=False).returncode == 127  # its own Python is all there is
    assert "NODE" in root.run("swarmpy", "node", "ls", "--help").stdout.upper()

    pages = root.path / "usr/share/man/man1"
    assert len(list(pages.glob("swarmpy-*.1.gz"))) > 100
    assert "\\-\\-replicas" in gzip.decompress((pages / "swarmpy-service-create.1.gz").read_bytes()).decode()
    bash = root.path / "usr/share/bash-completion/completions/swarmpy"
    assert root.run("bash", "-n", f"/{bash.relative_to(root.path)}").returncode == 0
    assert "swarmpy" in (root.path / "usr/share/zsh/vendor-completions/_swarmpy").read_text()
    assert "swarmpy" in (root.path / "usr/share/fish/vendor_completions.d/swarmpy.fish").read_text()

    refused = root.run("swarmpy", "node", "ls", check=False)
    assert refused.returncode == 3
    assert "No manager runs here" in refused.stderr
    root.run("sh", "-c", "mkdir -p /var/lib/swarmpy && echo {} >/var/lib/swarmpy/node.json")
    kept = root.run("dpkg", "--purge", "swarmpy", check=False)
    assert kept.returncode != 0
    assert "run 'swarmpy leave'" in kept.stderr
    shutil.rmtree(root.path / "var/lib/swarmpy")

    root.run("dpkg", "--purge", "swarmpy")
    assert root.files() - before == set()
    assert root.run("dpkg", "-s", "swarmpy", check=False).returncode != 0
