"""Messages that tell what to run name commands and flags that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from swarmpy.cli.main import root

ROOT = Path(__file__).parents[2]
ADVICE = re.compile(r"`swarmpy ([a-z][^`\n{]*)`")


def advice() -> Iterator[tuple[str, str]]:
    for room in ("cli", "node", "overlay", "raft"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for found in ADVICE.finditer(path.read_text()):
                yield str(path.relative_to(ROOT)), found.group(1)


def unknown(line: str) -> str:
    """The first word of a command line that swarmpy does not know, else ""."""
    words = line.split()
    command: click.Command = root
    context = click.Context(root)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return words[0]
        command = found
        words.pop(0)
    flags = {name for param in (*command.params, *root.params) for name in param.opts}
    return next((word for word in words if word.startswith("--") and word.split("=")[0] not in flags), "")


@pytest.mark.parametrize(("where", "line"), sorted(set(advice())))
def test_what_a_message_advises_exists(where: str, line: str) -> None:
    assert not unknown(line), f"{where}: `swarmpy {line}`"


def test_the_check_can_fail() -> None:
    assert unknown("image whittle") == "whittle"
    assert unknown("service ps --nonsense web") == "--nonsense"
