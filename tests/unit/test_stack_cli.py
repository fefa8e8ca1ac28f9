"""`stack deploy` and its relatives against one real manager: what is written, in which order, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from swarmpy.cli import stack_apply, stack_deployment
from swarmpy.node.config import Paths
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.levels import LEVEL
from swarmpy.raft.tables import wrap

from tests.unit.test_manager_process import DIGEST, Running, paths, run
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]
SECRET, CONFIG, NETWORK = store_pb2.KIND_SECRET, store_pb2.KIND_CONFIG, store_pb2.KIND_NETWORK
CANARY = "canary-91ce"
IMAGE = f"app@{DIGEST}"
FILE = """
services:
  web:
    image: IMAGE
    depends_on: [db]
    ports: ["8080:80"]
    secrets: [key]
    configs: [site]
  db:
    image: IMAGE
    secrets: [key]
    volumes: ["data:/data"]
secrets: {key: {file: key}}
configs: {site: {file: site}}
volumes: {data: }
""".replace("IMAGE", IMAGE)


class Shop:
    """A directory with a compose file, and the command line over it."""

    def __init__(self, m: Running, directory: Path) -> None:
        self.m, self.directory = m, directory
        self.write("compose.yml", FILE)
        self.write("key", CANARY)
        self.write("site", "one")

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    async def deploy(self, *flags: str) -> Result:
        file = str(self.directory / "compose.yml")
        return await cli(self.m, "stack", "deploy", "-c", file, *flags, "shop")

    def names(self, kind: store_pb2.Kind) -> list[str]:
        return sorted(obj.meta.name for obj in self.m.store.all(kind) if obj.meta.name != "swarmpy")

    def service(self, name: str) -> objects_pb2.Service:
        found = self.m.store.by_name(store_pb2.KIND_SERVICE, name)
        assert isinstance(found, objects_pb2.Service)
        return found

    def uses(self, name: str) -> list[str]:
        container = self.service(name).spec.task.container
        return [reference.source for reference in (*container.secrets, *container.configs)]


def story(paths: Paths, directory: Path, told: Callable[[Shop], Any]) -> None:
    async def whole(m: Running) -> None:
        for node in m.store.nodes():  # what its agent would report
            said = objects_pb2.Node()
            said.CopyFrom(node)
            said.description.state_level = LEVEL
            change = store_pb2.Change(put=wrap(said), any_version=True)
            await m.process.leader.commit([change], "test")
        await m.until(lambda: m.store.cluster().state_level == LEVEL, "the level is in force")  # type: ignore[union-attr]
        await told(Shop(m, directory))

    run(paths, whole)


def test_made_once_changed_where_it_differs_and_removed(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        planned = await shop.deploy("--plan")
        assert planned.exit_code == 2, planned.output
        for line in (
            "+ create network shop_default",
            "+ create secret shop_key",
            "+ create service shop_web",
        ):
            assert line in planned.output
        assert CANARY not in planned.output
        assert shop.names(NETWORK) == shop.names(SECRET) == []
        made = await shop.deploy("-d")
        assert made.exit_code == 0, made.output
        assert made.stdout.splitlines() == [
            "Creating network shop_default", "Creating secret shop_key", "Creating config shop_site",
            "Creating service shop_db", "Creating service shop_web",
        ]  # fmt: skip
        web = shop.service("shop_web")
        assert [dependency.service for dependency in web.spec.depends_on] == ["shop_db"]
        assert [reference.aliases[:] for reference in web.spec.task.networks] == [["web"]]
        again = await shop.deploy("-d")
        assert again.stdout.splitlines() == ["Service shop_db: as it is", "Service shop_web: as it is"], (
            again.output
        )
        assert shop.m.store.count(SECRET) == 1
        now = shop.service("shop_web")
        assert (now.spec_version, now.spec, now.meta.labels) == (1, web.spec, web.meta.labels)
        assert (await shop.deploy("--plan")).exit_code == 0

        shop.write("site", "two")
        shop.write("compose.yml", FILE.replace('"8080:80"', '"8081:80"'))
        changed = await shop.deploy("-d")
        assert changed.stdout.splitlines() == [
            "Creating config shop_site.2", "Service shop_db: as it is", "Updating service shop_web",
        ]  # fmt: skip
        assert shop.uses("shop_web") == ["shop_key", "shop_site.2"]
        assert shop.names(CONFIG) == ["shop_site", "shop_site.2"], "a rollback finds what it needs"
        shop.write("site", "one")
        assert (await shop.deploy("-d")).exit_code == 0
        assert shop.uses("shop_web") == ["shop_key", "shop_site"], "what was there once is not made again"

        shop.write("compose.yml", FILE[: FILE.index("  db:")].replace("    depends_on: [db]\n", "")
                   + "secrets: {key: {file: key}}\nconfigs: {site: {file: site}}\n")  # fmt: skip
        pruned = await shop.deploy("-d", "--prune")
        assert "Removing service shop_db" in pruned.output, pruned.output
        await shop.m.until(lambda: shop.names(store_pb2.KIND_SERVICE) == ["shop_web"], "db is gone")
        foretold = await cli(shop.m, "stack", "rm", "shop", "--plan")
        assert foretold.exit_code == 2, foretold.output
        assert {"- remove network shop_default", "- remove service shop_web"} <= set(
            foretold.output.splitlines()
        )
        gone = await cli(shop.m, "stack", "rm", "shop")
        assert gone.exit_code == 0, gone.output
        for kind in (store_pb2.KIND_SERVICE, NETWORK, SECRET, CONFIG):
            await shop.m.until(lambda kind=kind: shop.names(kind) == [], "all of it is gone")
        assert (await cli(shop.m, "stack", "rm", "shop")).exit_code == 4

    story(paths, tmp_path, told)


def test_refused_before_anything_is_written(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        other = (await cli(shop.m, "service", "create", "-d", "--name", "shop_db", IMAGE)).exit_code
        assert other == 0
        result = await shop.deploy("-d")
        assert result.exit_code == 2
        assert "line 9: services.db: service shop_db exists and is not of this stack" in result.output
        shop.write(
            "compose.yml",
            FILE.replace("shop_db", "x") + "networks: {default: {external: true, name: absent}}\n",
        )
        await cli(shop.m, "service", "rm", "-d", "shop_db")
        await shop.m.until(lambda: not shop.names(store_pb2.KIND_SERVICE), "it is gone")
        result = await shop.deploy("-d")
        assert "network absent does not exist: swarmpy network create absent" in result.output
        shop.write("compose.yml", FILE.replace('"8080:80"', '"7377:80"'))
        result = await shop.deploy("-d")
        assert (result.exit_code, "7377 is used by swarmpy itself" in result.output) == (1, True), (
            result.output
        )
        shop.write("compose.yml", FILE.replace("    volumes:", '    ports: ["8080:81"]\n    volumes:'))
        assert "port 8080 is published by shop_db already" in (await shop.deploy("-d")).output
        assert shop.names(NETWORK) == shop.names(SECRET) == shop.names(CONFIG) == []
        assert (await cli(shop.m, "stack", "deploy", "shop")).exit_code == 2
        assert (await cli(shop.m, "stack", "deploy", "-c", "/none", "shop")).exit_code == 2
        assert (await cli(shop.m, "stack", "ps", "shop")).exit_code == 4

    story(paths, tmp_path, told)


def test_what_broke_off_is_continued(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(shop: Shop) -> None:
        write = stack_deployment.Deployment._write

        def broken(self: stack_deployment.Deployment, one: stack_apply.Write) -> Any:
            if one.name == "shop_web":
                one.message.spec.task.container.image = ""  # the managers refuse it
            return write(self, one)

        with monkeypatch.context() as patched:
            patched.setattr(stack_deployment.Deployment, "_write", broken)
            result = await shop.deploy("-d")
        assert result.exit_code == 1
        assert (
            "Done before that: network shop_default, secret shop_key, config shop_site, service shop_db"
            in result.output
        )
        assert shop.names(store_pb2.KIND_SERVICE) == ["shop_db"]
        result = await shop.deploy("-d")
        assert result.stdout.splitlines() == ["Service shop_db: as it is", "Creating service shop_web"]

    story(paths, tmp_path, told)


def test_what_the_file_does_not_say_stays(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        for command in (
            ("scale", "-d", "shop_web=5"),
            ("update", "-d", "--force", "shop_web"),
            ("stop", "-d", "shop_db"),
        ):
            assert (await cli(shop.m, "service", *command)).exit_code == 0
        assert (await shop.deploy("-d")).stdout.count("as it is") == 2
        assert shop.service("shop_web").spec.replicated.replicas == 5
        shop.write("compose.yml", FILE.replace("    ports:", "    deploy: {replicas: 2}\n    ports:"))
        assert (await shop.deploy("-d")).exit_code == 0
        web = shop.service("shop_web").spec
        assert (web.replicated.replicas, web.task.force_update) == (2, 1)
        assert shop.service("shop_db").spec.stopped

    story(paths, tmp_path, told)


def test_lists(paths: Paths, tmp_path: Path) -> None:
    async def told(shop: Shop) -> None:
        assert (await shop.deploy("-d")).exit_code == 0
        assert (await cli(shop.m, "stack", "ls")).stdout.split() == [
            "NAME",
            "SERVICES",
            "RUNNING",
            "shop",
            "2",
            "0",
        ]
        found = await cli(shop.m, "stack", "services", "--format", "{{.Name}} {{.Ports}}", "shop")
        assert found.stdout.splitlines() == ["shop_db ", "shop_web *:8080->80/tcp"]
        await shop.m.until(lambda: shop.m.store.count(store_pb2.KIND_TASK), "a task")
        assert "shop_db.1" in (await cli(shop.m, "stack", "ps", "shop")).stdout
        file = str(shop.directory / "compose.yml")
        shown = await cli(shop.m, "stack", "config", "-c", file)
        assert (shown.exit_code, "8080:80" in shown.stdout) == (0, True)

    story(paths, tmp_path, told)
