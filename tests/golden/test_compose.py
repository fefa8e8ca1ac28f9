"""Compose files and what becomes of them: services and what they use, notes, or every problem with its line.

`REWRITE_GOLDEN=1 pytest tests/golden/test_compose.py` writes what came out; read the difference. A folder is
several files, one over the other in the order of their names; files that begin with _ are only referred to.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from swarmpy.cli import compose_files, compose_keys, compose_spec, edit
from swarmpy.cli.compose import Shared
from swarmpy.cli.compose_files import ComposeFiles
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.output import document
from swarmpy.cli.service import service as service_group

FOLDER = Path(__file__).parent / "compose"
CASES = sorted(path for path in FOLDER.iterdir() if path.suffix == ".yml" or path.is_dir())
SHOWN = (
    "external", "labels", "options", "internal", "attachable", "ipv6", "subnet", "data", "template_driver",
)  # fmt: skip
ENVIRONMENT = {"TAG": "2", "EMPTY": "", "FROM_HERE": "here", "TOKEN": "t0ken"}


def shared_line(shared: Shared) -> str:
    empty = Shared(shared.noun, shared.key, shared.name, False, shared.item)
    told = {
        name: value.decode() if isinstance(value, bytes) else value
        for name in SHOWN
        if (value := getattr(shared, name)) != getattr(empty, name)
    }  # fmt: skip
    return f"{shared.noun} {shared.name} {json.dumps(told) if told else ''}".rstrip()


def outcome(case: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What a person should see of it; the place of the files is DIR."""
    monkeypatch.setattr(compose_files, "PROBLEMS_SHOWN", 1000)
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, ENVIRONMENT[name])
    files = sorted(case.glob("[!_]*.yml")) if case.is_dir() else [case]
    source = ComposeFiles([str(file) for file in files], [], ["debug"] if case.is_dir() else [])
    try:
        project = source.project("shop")
        messages = [
            [compose_spec.service_message(project, one, source.report) for one in level]
            for level in project.levels
        ]
        source.refuse_problems()
    except UsageRefused as error:
        yield error.message
        return
    yield from (f"note: {notice}" for notice in source.report.notices)
    for noun in ("network", "secret", "config"):
        yield from (shared_line(shared) for shared in compose_spec.used(project, noun).values())
    for number, level in enumerate(messages):
        for message in level:
            yield f"\n--- service {message.meta.name} (level {number})"
            yield json.dumps(document(message), indent=2, ensure_ascii=False)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_compose(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        "\n".join(outcome(case, monkeypatch)).replace(str(FOLDER), "DIR").replace(str(FOLDER.parent), "UP")
        + "\n"
    )
    golden = case.with_suffix(".txt")
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_a_file_and_a_command_line_make_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("""
services:
  web:
    image: app:1
    command: [serve]
    environment: {A: "1"}
    ports: ["8080:80", {target: 9000, published: 9000, mode: host}]
    networks: {front: {aliases: [www]}}
    volumes: ["/srv:/srv:ro"]
    secrets: [{source: key, mode: 0400}]
    healthcheck: {test: ok, interval: 2s}
    deploy:
      replicas: 3
      resources: {limits: {cpus: "0.5", memory: 64m}}
      update_config: {parallelism: 2, order: stop-first}
      placement: {constraints: [node.role == worker]}
networks: {front: }
secrets: {key: {content: x}}
""")
    source = ComposeFiles([str(tmp_path / "c.yml")], [], [])
    project = source.project("shop")
    from_file = compose_spec.service_message(project, project.services[0], source.report)
    words = shlex.split(
        "--name shop_web --replicas 3 -e A=1 -p 8080:80 -p published=9000,target=9000,mode=host "
        "--network name=shop_front,alias=web,alias=www --mount type=bind,src=/srv,dst=/srv,readonly "
        "--secret source=shop_key,target=key,mode=0400 --health-cmd ok --health-interval 2s --limit-cpu 0.5 "
        "--limit-memory 64m --update-parallelism 2 --update-order stop-first --constraint 'node.role == worker' "
        "-l com.docker.stack.namespace=shop -l com.docker.stack.image=app:1 "
        "--container-label com.docker.stack.namespace=shop app:1 serve"
    )
    command = service_group.get_command(click.Context(service_group), "create")
    assert command is not None
    given = dict(command.make_context("create", words).params)
    image, arguments = given.pop("image"), given.pop("command")
    assert from_file == edit.new_service(given.pop("name"), image, arguments, given.pop("mode"), given)


def test_every_key_is_documented() -> None:
    written = (FOLDER.parent.parent.parent / "docs/compose.md").read_text()
    groups = (compose_keys.SUPPORTED, compose_keys.IGNORED, compose_keys.REFUSED, compose_keys.DEPLOY)
    assert not [key for group in groups for key in group if f"`{key}`" not in written]


def test_every_key_is_in_a_golden_file() -> None:
    written = "\n".join(path.read_text() for path in FOLDER.rglob("*.yml"))
    groups = (compose_keys.SUPPORTED, compose_keys.IGNORED, compose_keys.REFUSED, compose_keys.DEPLOY)
    missing = [key for group in groups for key in group if f"{key}:" not in written]
    assert not missing
