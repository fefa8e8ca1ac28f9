"""Compose files and what becomes of them: services and what they use, notes, or every problem with its line.

`REWRITE_GOLDEN=1 pytest tests/golden/test_compose.py` writes what came out; read the difference. A folder is
several files, one over the other in the order of their names; files that begin with _ are only referred to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.cli import compose_files, compose_keys, compose_spec
from swarmpy.cli.compose import Shared
from swarmpy.cli.compose_files import ComposeFiles
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.output import document

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


def test_every_key_is_documented() -> None:
    written = (FOLDER.parent.parent.parent / "docs/compose.md").read_text()
    groups = (compose_keys.SUPPORTED, compose_keys.IGNORED, compose_keys.REFUSED, compose_keys.DEPLOY)
    assert not [key for group in groups for key in group if f"`{key}`" not in written]


def test_every_key_is_in_a_golden_file() -> None:
    written = "\n".join(path.read_text() for path in FOLDER.rglob("*.yml"))
    groups = (compose_keys.SUPPORTED, compose_keys.IGNORED, compose_keys.REFUSED, compose_keys.DEPLOY)
    missing = [key for group in groups for key in group if f"{key}:" not in written]
    assert not missing
