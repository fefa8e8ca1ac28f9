"""`image push`: what it finds on this machine, and what it says when there is nothing."""

from __future__ import annotations

import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from swarmpy.cli.image_show import Lines
from swarmpy.cli.main import root

from tests.contract.cli_double import Double, Server


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the only one on PATH; `docker` there has an image app:1."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "docker"
    script.write_text(
        '#!/bin/sh\ncase "$1 $2 $5" in\n'
        '"image inspect app:1") exit 0;;\n'
        '"save app:1 ") printf good; exit 0;;\n'
        '"save broken ") printf go; echo "no space" >&2; exit 1;;\n'
        "esac\nexit 1\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setattr("swarmpy.cli.image_push.ENGINES", ("docker",))
    return directory


def push(double: Double, *arguments: str) -> tuple[int, str, str]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-cli-", dir="/tmp") as directory:
        server = Server(Path(directory) / "control.sock", double)
        server.start()
        try:
            result = CliRunner().invoke(root, ["-H", f"unix://{server.path}", "image", "push", *arguments])
        finally:
            server.stop()
    return result.exit_code, result.stdout, result.stderr


def test_from_an_engine(engines: Path, tmp_path: Path) -> None:
    double = Double()
    code, out, err = push(double, "app:1")
    assert (code, out) == (0, "Pushed: app:1\n"), err
    assert double.loaded == b"good"
    assert double.chunks[0].reference == "app:1"
    code, _, err = push(double, "--from", "docker", "broken")
    assert code == 1
    assert "`docker save broken` failed: no space" in err


def test_from_files(engines: Path, tmp_path: Path) -> None:
    double = Double()
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"good")
    assert push(double, str(archive), "-t", "web:3")[:2] == (0, "Pushed: web:3\n")
    layout = tmp_path / "layout"
    layout.mkdir()
    code, _, err = push(double, str(layout))
    assert code == 1
    assert "no index.json" in err
    (layout / "index.json").write_text("{}")
    push(double, str(layout))
    (tmp_path / "sent.tar").write_bytes(double.loaded)
    with tarfile.open(tmp_path / "sent.tar") as tar:
        assert "./index.json" in tar.getnames()


def test_nothing_of_that_name(engines: Path, tmp_path: Path) -> None:
    code, _, err = push(Double(), "nowhere:1")
    assert code == 4
    assert "nowhere:1 is no file here, and no image of docker" in err
    assert "swarmpy image pull nowhere:1" in err


def test_layers_are_redrawn_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(terminal=True)
    lines.tell("sha256:" + "a" * 64, "downloading", 1 << 20, 4 << 20)
    lines.tell("sha256:" + "b" * 64, "downloading", 0, 4 << 20)
    lines.tell("sha256:" + "a" * 64, "downloaded", 4 << 20, 4 << 20)
    text = capsys.readouterr().err
    assert text.count("\x1b[1A") == 1
    assert text.count("\x1b[2A") == 1
    assert text.splitlines()[-2].removeprefix("\x1b[2A").startswith("aaaaaaaaaaaa: downloaded")
    plain = Lines(terminal=False)
    for done in (0, 1, 2):
        plain.tell("sha256:" + "a" * 64, "downloading", done, 2)
    assert capsys.readouterr().err == "aaaaaaaaaaaa: downloading\n"
