"""The documents say what the code does: commands, flags, targets, links, exit codes, versions, test names."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from swarmpy.cli import errors
from swarmpy.cli.main import root

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def code(document: Path) -> Iterator[str]:
    """Every line of every code block, and every piece of inline code."""
    text = document.read_text()
    for block in FENCE.findall(text):
        yield from (line.removeprefix("$ ").strip() for line in block.splitlines())
    yield from INLINE.findall(FENCE.sub("", text))


def commands(document: Path) -> Iterator[list[str]]:
    """The words of every swarmpy command line, without comments."""
    for line in code(document):
        inner = re.findall(r"\$\(([^()]*)\)", line)
        outer = re.sub(r"\$\([^()]*\)", "VALUE", line)
        for part in (part for text in (outer, *inner) for part in re.split(r" && |; | \|\|? ", text)):
            if re.match(r"!? ?swarmpy( |$)", part):
                yield shlex.split(part.replace("…", "...").lstrip("! "), comments=True)[1:]


def unknown(words: list[str]) -> str:
    """What of a command line the program does not know, or ""."""
    command: click.Command = root
    context = click.Context(root)
    words = list(words)
    while words:
        word = words.pop(0)
        flags = {flag: option for option in command.params for flag in [*option.opts, *option.secondary_opts]}
        if word.startswith("-"):
            name, has_value, _ = word.partition("=")
            if name in {"-h", "--help"}:
                return ""
            if name not in flags:
                return f"{command.name} has no flag {name}"
            option = flags[name]
            assert isinstance(option, click.Option)
            if not has_value and not option.is_flag and words:
                words.pop(0)
        elif isinstance(command, click.Group):
            if word.isupper() or word == "...":
                return ""
            for name in word.split("|"):
                found = command.get_command(context, name)
                if found is None:
                    return f"{command.name} has no command {name}"
            assert found is not None
            command = found
    return ""


@by_document
def test_commands_and_flags_exist(document: Path) -> None:
    problems = [
        f"{' '.join(words)}: {problem}" for words in commands(document) if (problem := unknown(words))
    ]
    assert not problems, "\n".join(problems)


def test_the_check_of_commands_can_fail() -> None:
    assert unknown(["service", "explode"]) == "service has no command explode"
    assert unknown(["service", "create", "--replica", "3"]) == "create has no flag --replica"
    assert not unknown(["--context", "demo", "service", "create", "--replicas", "3", "-p", "80:80", "web:1"])


def test_the_list_of_commands_is_complete() -> None:
    """The table at the top of docs/cli.md is the click tree."""
    table = (ROOT / "docs/cli.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| (\(top\)|`\w+`) \| (`.*) \|$", table, re.MULTILINE)
    written = {noun.strip("`"): set(re.findall(r"`([\w-]+)`", verbs)) for noun, verbs in rows}
    context = click.Context(root)
    nouns: dict[str, set[str]] = {"(top)": set()}
    for name, entry in getattr(root, "entries").items():  # noqa: B009
        command = root.get_command(context, name) if isinstance(root, click.Group) else None
        assert command is not None
        if isinstance(command, click.Group) and name != "demo":
            nouns[name] = set(command.list_commands(context))
        elif not entry.hidden and name != "daemon":
            nouns["(top)"].add(name)
    assert written == nouns


@by_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match for line in code(document) for match in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= targets, f"not in the Makefile: {sorted(named - targets)}"


@by_document
def test_links_resolve(document: Path) -> None:
    text = FENCE.sub("", document.read_text())
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link.partition("#")[0]).exists()]
    assert not missing, f"broken links: {missing}"


@by_document
def test_files_named_exist(document: Path) -> None:
    rooms = r"(?:cli|node|overlay|proto|raft|tests|docs|bench|\.ci)/"
    named = {
        piece for piece in code(document) if re.fullmatch(rooms + r"[\w./]+\.(?:py|proto|md|json)", piece)
    }
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"no such files: {missing}"


def test_exit_codes_are_those_of_the_program() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, click.ClickException)
    ]
    codes = {kind.exit_code for kind in kinds} | {0, errors.INTERRUPTED}
    section = (ROOT / "docs/cli.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == codes
    assert {int(number) for number in re.findall(r"(\d+) [a-zC]", root.epilog or "")} == codes


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert sections[1] == version, "the newest section of CHANGELOG.md is not the version in pyproject.toml"


@pytest.mark.parametrize("page", ["security.md", "reliability.md"])
def test_tests_named_as_proof_exist(page: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}" for file, name in named
        if not re.search(rf"^(?:async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    ]  # fmt: skip
    assert not missing, f"no such tests: {missing}"


def test_ports_are_those_of_the_program() -> None:
    from swarmpy.node.config import Ports

    rows = re.findall(r"^\| (\d+) \| (?:tcp|udp) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(port) for port in rows} == set(vars(Ports()).values())
