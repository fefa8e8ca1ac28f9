"""`image build` with the real buildah: what arrives, what is said when it fails, that nothing stays."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.image_build import bases
from swarmpy.cli.main import root

from tests.contract.cli_double import Double, Server

needs_buildah = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("buildah") is None or not Path("/bin/busybox").exists(),
    reason="needs root, buildah and busybox-static",
)


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def host(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    with tempfile.TemporaryDirectory(prefix="swarmpy-cli-", dir="/tmp") as directory:
        server = Server(Path(directory) / "control.sock", double)
        server.start()
        yield f"unix://{server.path}"
        server.stop()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def context(tmp_path: Path, *lines: str) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    shutil.copy("/bin/busybox", directory / "busybox")
    (directory / "Containerfile").write_text("\n".join(("FROM scratch", "COPY busybox /bin/", *lines)))
    return directory


def build(host: str, *arguments: str) -> Result:
    return CliRunner().invoke(root, ["-H", host, "image", "build", *arguments])


@pytest.mark.root
@needs_buildah
def test_an_image_is_built_into_the_cluster(host: str, double: Double, tmp_path: Path) -> None:
    directory = context(
        tmp_path, "ARG WORD=none", 'RUN ["/bin/busybox", "mkdir", "/made"]', "ENV SAID=$WORD", "LABEL a=b"
    )
    double.accepts_anything = True
    result = build(host, "-t", "built:1", "--build-arg", "WORD=hello", str(directory))
    assert result.exit_code == 0, result.output
    assert result.stdout == "Built: built:1\n"
    assert "STEP 3" in result.stderr
    assert double.chunks[0].reference == "built:1"
    with tarfile.open(fileobj=io.BytesIO(double.loaded)) as tar:
        listing = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(tar.extractfile(listing[0]["Config"]))  # type: ignore[arg-type]
    assert "SAID=hello" in config["config"]["Env"]
    assert len(config["rootfs"]["diff_ids"]) >= 1


@pytest.mark.root
@needs_buildah
def test_a_step_that_fails_says_so(host: str, double: Double, tmp_path: Path) -> None:
    directory = context(tmp_path, 'RUN ["/bin/busybox", "false"]')
    result = build(host, "-t", "built:1", str(directory))
    assert result.exit_code == 1
    assert "buildah bud failed" in result.stderr
    assert not double.loaded


@pytest.mark.root
@needs_buildah
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(host: str, tmp_path: Path, number: signal.Signals) -> None:
    directory = context(tmp_path, 'RUN ["/bin/busybox", "sleep", "4242"]')
    argv = [
        sys.executable,
        "-P",
        "-m",
        "swarmpy.cli.main",
        "-H",
        host,
        "image",
        "build",
        "-t",
        "a",
        str(directory),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "sleep" in line:
                break
        deadline = time.monotonic() + 10
        while not sleepers():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert not sleepers()


def sleepers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(b"sleep\x004242\x00"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_without_buildah_the_way_is_named(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = build(host, "-t", "a", str(tmp_path))
    assert result.exit_code == 1
    assert "apt-get install buildah" in result.stderr


def test_what_a_file_begins_from(tmp_path: Path) -> None:
    file = tmp_path / "Containerfile"
    file.write_text(
        "ARG V=1\nFROM --platform=linux/amd64 base:1 AS one\nFROM scratch\nFROM one AS Two\nFROM other:$V\n"
        "COPY --from=two /a /b\nCOPY --chown=1 --from=tools:3 /a /b\nCOPY --from=0 /a /b\n"
        "RUN --mount=type=bind,from=mounted:2 true\nFROM base:1\n"
    )
    assert bases(file) == ["base:1", "tools:3", "mounted:2"]
