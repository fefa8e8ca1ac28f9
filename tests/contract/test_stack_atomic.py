"""`stack deploy --atomic` against a Control server whose services run, fail or are rolled back by their image."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from click.testing import Result
from swarmpy.proto import objects_pb2

from tests.contract.cli_double import Double, Refusal
from tests.contract.test_cli_commands import Run, double, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]
FILE = """
services:
  web:
    image: {web}
    depends_on: [db]
  db:
    image: {db}
    secrets: [key]
secrets:
  key: {{content: one}}
"""


class Shop:
    def __init__(self, run: Run, double: Double, directory: Path) -> None:
        self.run, self.double, self.file = run, double, directory / "compose.yml"

    def deploy(self, *flags: str, db: str = "ok:1", web: str = "ok:1") -> Result:
        self.file.write_text(FILE.format(db=db, web=web))
        return self.run("--timeout", "20", "stack", "deploy", "-c", str(self.file), *flags, "shop")

    def names(self, kind: str) -> list[str]:
        return sorted(one.meta.name for one in self.double.objects[kind].values())

    def image(self, name: str) -> str:
        return str(self.double.find("service", name).spec.task.container.image)

    def states(self) -> list[int]:
        return [one.state for one in self.double.objects["stack"].values()]


@pytest.fixture
def shop(run: Run, double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("swarmpy.cli.wait.STABLE_S", 0.1)
    return Shop(run, double, tmp_path)


def test_a_new_stack_that_fails_leaves_nothing(shop: Shop) -> None:
    result = shop.deploy("--atomic", web="bad")
    assert result.exit_code == 6, result.output
    assert "Everything that was changed is as it was before" in result.output
    assert "shop_web.1 failed 3 times" in result.output
    assert [shop.names(kind) for kind in ("service", "network", "secret")] == [[], [], []]
    assert shop.states() == [objects_pb2.STACK_UNDONE]


@pytest.mark.parametrize("web", ["bad", "rollback"])
def test_what_was_changed_goes_back(shop: Shop, web: str) -> None:
    assert shop.deploy().exit_code == 0
    before = {name: shop.double.find("service", name).spec for name in shop.names("service")}
    result = shop.deploy("--atomic", db="ok:2", web=web)
    assert result.exit_code == 6, result.output
    lines = result.output.splitlines()
    assert lines.index("Service shop_web: back") < lines.index("Service shop_db: back")
    assert {name: shop.double.find("service", name).spec for name in shop.names("service")} == before
    assert shop.states() == [objects_pb2.STACK_COMPLETE, objects_pb2.STACK_UNDONE]


def test_a_service_that_fails_keeps_the_later_ones_from_being_changed(shop: Shop) -> None:
    assert shop.deploy().exit_code == 0
    result = shop.deploy("--atomic", db="bad", web="ok:2")
    assert (result.exit_code, "shop_web" in result.output) == (6, False), result.output
    assert (shop.image("shop_db"), shop.image("shop_web")) == ("ok:1", "ok:1")


def test_one_that_succeeds_stays(shop: Shop) -> None:
    result = shop.deploy("--atomic", db="ok:2", web="ok:3")
    assert result.exit_code == 0, result.output
    assert (shop.image("shop_db"), shop.image("shop_web")) == ("ok:2", "ok:3")
    assert shop.states() == [objects_pb2.STACK_COMPLETE]
    again = shop.deploy("--atomic", db="ok:2", web="ok:3")
    assert "shop_web: as it is" in again.output, again.output
    assert len(shop.states()) == 1, "nothing changed, nothing is kept"


def test_where_the_way_back_fails_it_says_what_to_do(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.deploy().exit_code == 0
    play = shop.double.play

    def plays(service: objects_pb2.Service) -> None:
        play(service)
        if service.spec.task.container.image == "bad":
            full = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "the disk is full")
            shop.double.refuse.append(("Update", full))

    monkeypatch.setattr(shop.double, "play", plays)
    result = shop.deploy("--atomic", web="bad")
    assert result.exit_code == 1, result.output
    assert "Not all of it could be taken back: The disk is full" in result.output
    assert "`swarmpy stack rollback shop` goes on" in result.output


def test_it_waits(shop: Shop) -> None:
    assert shop.deploy("--atomic", "-d").exit_code == 2
