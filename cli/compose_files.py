"""Reading compose files, and what they refer to: variables, files of variables, contents of secrets and configs.

Variables come from the environment of the command, then from --env-file, or .env beside the first file. All
relative paths are meant from the directory of the first file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swarmpy.cli import compose_vars, yaml_tree
from swarmpy.cli.compose import Project, Reading, check_stack_name, project
from swarmpy.cli.compose_merge import extended, merged
from swarmpy.cli.compose_service import Surroundings
from swarmpy.cli.compose_tree import Report
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.yaml_tree import Bounds, Item, YamlRefused

BOUNDS = Bounds(size_bytes=1024 * 1024, aliases=1000, entries=20_000, merges=True)
ENV_FILE_BYTES_MAX = 1024 * 1024
CONTENT_BYTES_MAX = 1000 * 1024
PROBLEMS_SHOWN = 20


class ComposeFiles:
    """The files of one command, read once."""

    def __init__(self, files: Sequence[str], env_files: Sequence[str], profiles: Sequence[str]) -> None:
        self.files = list(files)
        first = next((file for file in files if file != "-"), "")
        self.directory = Path(first).resolve().parent if first else Path.cwd()
        self.report = Report()
        self.root: Item | None = None  # what the project was made of
        self._unset: set[str] = set()
        self.environment = self._variables(env_files)
        self._profiles = profiles or [
            name for name in self.environment.get("COMPOSE_PROFILES", "").split(",") if name
        ]

    def _variables(self, env_files: Sequence[str]) -> Mapping[str, str]:
        paths = [Path(file) for file in env_files]
        if not paths and (self.directory / ".env").is_file():
            paths = [self.directory / ".env"]
        found: dict[str, str] = {}
        for path in paths:
            try:
                lines = compose_vars.variables(
                    read_text(path, ENV_FILE_BYTES_MAX), str(path), {**found, **os.environ}
                )
            except ValueError as error:
                raise UsageRefused(f"{error}.") from None
            found.update({name: value for name, value in lines.items() if value is not None})
        return {**found, **os.environ}

    def tree(self, *, interpolate: bool = True) -> Item:
        """All files as one, with variables filled in and what services extend."""
        root: Item | None = None
        for file in self.files:
            item = self._load(file, interpolate=interpolate)
            root = item if root is None else merged(root, item)
        assert root is not None
        services = root.value.get("services") if isinstance(root.value, dict) else None
        if services is None or not isinstance(services.value, dict) or not isinstance(root.value, dict):
            return root
        found = services.value
        whole = {
            name: extended(name, found, self._services_of, self.report)
            for name in found
            if isinstance(found[name].value, dict) or not name.startswith("x-")
        }
        return Item(
            {**root.value, "services": Item(whole, services.line, "map", services.file)},
            root.line,
            "map",
            root.file,
        )

    def project(self, stack: str) -> Project:
        """The whole as values. Raises UsageRefused with every problem there is."""
        if problem := check_stack_name(stack):
            raise UsageRefused(f"{problem}.")
        self.root = self.tree()
        made = self._read(self.root, stack)
        self.refuse_problems()
        return made

    def check(self, tree: Item) -> None:
        """Whether a stack could be made of it; what is wrong is in the report."""
        from swarmpy.cli.compose_spec import service_message

        name = tree.value.get("name") if isinstance(tree.value, dict) else None
        made = self._read(tree, name.value if name is not None and isinstance(name.value, str) else "stack")
        for one in made.services:
            service_message(made, one, self.report)

    def _read(self, tree: Item, stack: str) -> Project:
        around = Surroundings(self.environment, self._env_file, str(self.directory))
        return project(tree, stack, Reading(around, self._content, self._profiles), self.report)

    def refuse_problems(self) -> None:
        if self.report.problems:
            raise UsageRefused(problems_text(self.report.problems))

    def _load(self, file: str, *, interpolate: bool = True) -> Item:
        shown = "standard input" if file == "-" else file
        try:
            limit = BOUNDS.size_bytes
            text = sys.stdin.read(limit + 1) if file == "-" else read_text(Path(file), limit)
            item = yaml_tree.load(text, shown, BOUNDS)
        except (YamlRefused, ValueError) as error:
            raise UsageRefused(f"{error}.") from None
        return self._filled(item) if interpolate else item

    def _filled(self, item: Item) -> Item:
        if isinstance(item.value, dict):
            value: str | list[Item] | dict[str, Item] = {
                key: self._filled(one) for key, one in item.value.items()
            }
        elif isinstance(item.value, list):
            value = [self._filled(one) for one in item.value]
        elif "$" not in item.value:
            return item
        else:
            try:
                value = compose_vars.filled(
                    item.value, self.environment, lambda name: self._not_set(name, item)
                )
            except ValueError as error:
                self.report.problems.append(f"{item.file}, line {item.line}: {error}")
                value = ""
        return Item(value, item.line, item.tag, item.file)

    def _not_set(self, name: str, item: Item) -> None:
        if name not in self._unset:
            self._unset.add(name)
            self.report.notices.append(
                f"{item.file}, line {item.line}: variable {name} is not set: nothing takes its place"
            )

    def _services_of(self, file: Item, path: str) -> Mapping[str, Item]:
        """For extends."""
        assert isinstance(file.value, str)
        root = self._load(str(self.directory / file.value))
        services = root.value.get("services") if isinstance(root.value, dict) else None
        if services is None or not isinstance(services.value, dict):
            self.report.refuse(file, path, f"{file.value} has no services")
            return {}
        return services.value

    def _env_file(
        self, item: Item, name: str, required: bool, raw: bool, report: Report
    ) -> Mapping[str, str | None]:
        path = self.directory / name
        if not required and not path.exists():
            return {}
        try:
            text = read_text(path, ENV_FILE_BYTES_MAX)
            if raw:
                lines = [
                    line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
                ]
                parts = [line.partition("=") for line in lines]
                return {key: value if equals else None for key, equals, value in parts}
            return compose_vars.variables(text, str(path), self.environment)
        except ValueError as error:
            report.problems.append(f"{item.file}, line {item.line}: env_file: {error}")
            return {}

    def _content(self, item: Item, name: str, report: Report) -> bytes:
        path = self.directory / name
        try:
            return read_bytes(path, CONTENT_BYTES_MAX)
        except ValueError as error:
            report.problems.append(f"{item.file}, line {item.line}: file: {error}")
            return b""


def read_bytes(path: Path, limit: int) -> bytes:
    """Raises ValueError."""
    try:
        with path.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    if len(data) > limit:
        raise ValueError(f"{path}: larger than {limit // 1024} KiB")
    return data


def read_text(path: Path, limit: int) -> str:
    """Raises ValueError."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None


def place_in(problem: str) -> tuple[str, int]:
    """The file and line at the beginning of a problem, so that they come in the file's order."""
    match = re.match(r"(.*?), line (\d+): ", problem)
    return (match[1], int(match[2])) if match else ("", 0)


def problems_text(problems: Sequence[str]) -> str:
    """One sentence, or a list."""
    unique = sorted(dict.fromkeys(problems), key=place_in)
    if len(unique) == 1:
        return f"{unique[0]}."
    shown = unique[:PROBLEMS_SHOWN]
    more = [f"and {len(unique) - len(shown)} more"] if len(unique) > len(shown) else []
    return "\n  ".join([f"{len(unique)} things are not as they should be:", *shown, *more])
