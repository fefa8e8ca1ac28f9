"""`registry …`: what is kept, and that a change of one thing leaves the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from swarmpy.cli.main import root

from tests.contract.cli_double import Double, Server

Run = Callable[..., Result]


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def run(double: Double) -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="swarmpy-cli-", dir="/tmp") as directory:
        server = Server(Path(directory) / "control.sock", double)
        server.start()
        yield lambda *arguments, **more: CliRunner().invoke(
            root, ["-H", f"unix://{server.path}", "registry", *arguments], **more
        )
        server.stop()


def kept(double: Double, name: str) -> Any:
    return next(found for found in double.objects["credential"].values() if found.meta.name == name)


def test_login_mirror_trust_logout(run: Run, double: Double, tmp_path: Path) -> None:
    login = run("login", "--no-check", "-u", "alice", "--password-stdin", "R.example:5000", input="secret\n")
    assert (login.exit_code, login.stdout) == (0, "Login kept: r.example:5000\n"), login.output
    found = kept(double, "r.example:5000")
    assert (found.username, found.password) == ("alice", "secret")
    assert run("mirror", "r.example:5000", "m1.example/x", "m2.example", "--insecure").exit_code == 0
    found = kept(double, "r.example:5000")
    assert (list(found.mirrors), found.username, found.insecure) == (
        ["m1.example/x", "m2.example"],
        "alice",
        False,
    )
    assert kept(double, "m1.example").insecure
    ca = tmp_path / "ca.pem"
    ca.write_text("PEM")
    assert run("trust", "r.example:5000", "--ca", str(ca)).exit_code == 0
    found = kept(double, "r.example:5000")
    assert (found.ca, len(found.mirrors)) == ("PEM", 2)
    listed = run("ls")
    assert "secret" not in listed.output
    assert "r.example:5000   alice" in listed.stdout
    assert "m1.example/x, m2.example" in listed.stdout
    assert run("mirror", "r.example:5000", "--rm").exit_code == 0
    assert not kept(double, "r.example:5000").mirrors
    assert run("logout", "r.example:5000", "m1.example", "m2.example").exit_code == 0
    assert not double.objects["credential"]


def test_docker_hub_and_helpers(run: Run, double: Double) -> None:
    assert run("login", "--helper", "docker-credential-pass").exit_code == 0
    assert kept(double, "docker.io").helper == "docker-credential-pass"
    assert run("login", "--no-check", "-u", "a", "-p", "b").exit_code == 0
    found = kept(double, "docker.io")
    assert (found.helper, found.username) == ("", "a")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["login", "--helper", "x", "-u", "a"], "one or the other"),
        (["login", "-u", "a", "-p", "b", "--password-stdin"], "exclude each other"),
        (["mirror", "docker.io"], "Name mirrors"),
        (["mirror", "docker.io", "m", "--rm"], "Name mirrors"),
        (["trust", "r.example"], "--ca FILE or --insecure"),
    ],
)
def test_what_makes_no_sense(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
