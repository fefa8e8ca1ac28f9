"""The stories that `make vm-test` plays: read as they should be, and every command in them exists as written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from swarmpy.cli.main import root

from vagrant.lab import LabError
from vagrant.machines import ACTS, NODES
from vagrant.vmtest import STORIES, Step, Story, stories_of

ALL = [story for path in STORIES for story in stories_of(path)]
COMMAND = re.compile(r"(?<!-u )\bswarmpy (?=[a-z-])([^|;&<>()\"\n]|\"[^\"\n]*\")+")


def told(tmp_path: Path, text: str, directory: str = "scenarios") -> list[Story]:
    path = tmp_path / directory / "story.md"
    path.parent.mkdir()
    path.write_text(text)
    return list(stories_of(path))


def test_a_story_is_its_steps_in_order(tmp_path: Path) -> None:
    (story,) = told(
        tmp_path,
        "# A title\nprose\n<!-- on node1 until 5s within 9s -->\n\n```sh\none\ntwo\n```\n## Part\n"
        "<!-- lab: power-cut node2 -->\n<!-- carry /root/x from node1 to node3 -->\n",
    )
    assert (story.name, story.title) == ("story", "A title")
    assert story.steps == (
        Step(3, "node1", "one\ntwo", until_s=5, within_s=9),
        Step(10, "node2", act="power-cut"),
        Step(11, "node1", "/root/x", act="carry to node3"),
    )


def test_a_document_has_one_story_for_each_heading_with_steps(tmp_path: Path) -> None:
    step = "<!-- on node1 -->\n```sh\ntrue\n```\n"
    stories = told(tmp_path, f"# Title\n## One\n{step}## Prose alone\nwords\n## Two\n{step}", "docs")
    assert [story.name for story in stories] == ["story: One", "story: Two"]


@pytest.mark.parametrize("text", ["<!-- on node1 -->\nprose\n", "<!-- on node1 -->\n```sh\ntrue\n"])
def test_a_comment_without_its_block_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LabError, match="code block"):
        told(tmp_path, text)


def test_every_comment_of_every_story_is_understood() -> None:
    for path in STORIES:
        written = re.findall(r"^<!-- (?:on|lab|carry)\b.*$", path.read_text(), re.MULTILINE)
        expected = sum(len(NODES) if line.startswith("<!-- on all") else 1 for line in written)
        assert sum(len(story.steps) for story in stories_of(path)) == expected, path
    for story in ALL:
        for step in story.steps:
            assert step.node in NODES, (story.name, step.line)
            assert not step.act or step.act in ACTS or step.act.startswith("carry to "), (
                story.name,
                step.line,
            )


def test_every_check_of_a_story_can_fail_it() -> None:
    """To a shell with `set -e`, a command with `!` in front is no failure, but as the last one."""
    for story in ALL:
        for step in story.steps:
            lines = step.script.splitlines()
            assert not [line for line in lines[:-1] if line.startswith("! ")], (story.name, step.line)


@pytest.mark.parametrize("story", ALL, ids=lambda story: story.name)
def test_every_command_and_option_of_a_story_exists(story: Story) -> None:
    for step in story.steps:
        for words in commands(step.script):
            check(words, f"{story.name} line {step.line}: swarmpy {' '.join(words)}")


def commands(script: str) -> Iterator[list[str]]:
    for found in COMMAND.finditer(script):
        with_quotes = found[0].replace("'", " ' ") if found[0].count("'") % 2 else found[0]
        yield shlex.split(with_quotes.replace(" ' ", " "))[1:]


def check(words: list[str], where: str) -> None:
    """Walk down the groups; every word with dashes is an option of the command that it follows."""
    command: click.Command = root
    for word in words:
        if word.startswith("--"):
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            assert word.partition("=")[0] in known | {"--help", "--version"}, f"{where}: no option {word}"
            continue
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            found = command.get_command(click.Context(command), word)
            if found is not None:
                command = found
            else:
                assert len(words) > 1 and words[words.index(word) - 1].startswith("-"), f"{where}: no {word}"
