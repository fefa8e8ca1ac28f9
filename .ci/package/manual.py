"""Man pages from the command line itself: swarmpy(1), swarmpy-service(1), swarmpy-service-create(1), …

python .ci/package/manual.py DIRECTORY
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
from swarmpy.cli.main import root


def quoted(text: str) -> str:
    """Text for troff: no line is a request by accident."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in {".", "'"} else line for line in plain.splitlines())


def pages(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(file name, text) of a command and everything below it."""
    context = click.Context(command, info_name=path[-1], parent=None)
    yield f"{'-'.join(path)}.1", page(command, context, path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from pages(below, (*path, name))


def page(command: click.Command, context: click.Context, path: tuple[str, ...]) -> str:
    name = "-".join(path)
    first = (command.help or command.short_help or "").strip().split("\n")[0].replace("\b", "")
    pieces = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{quoted(name.upper())}" 1 "" "swarmpy {version("swarmpy")}" "swarmpy"',
        ".SH NAME", f"{quoted(name)} \\- {quoted(first.rstrip('.'))}",
        ".SH SYNOPSIS", f".B {quoted(' '.join(path))}", quoted(pieces),
    ]  # fmt: skip
    rest = (command.help or "").strip().replace("\b", "")
    if rest:
        lines += [".SH DESCRIPTION", ".nf" if "\b" in (command.help or "") else ".PP", quoted(rest), ".fi"]
    records = [found for param in command.get_params(context) if (found := param.get_help_record(context))]
    if records:
        lines.append(".SH OPTIONS")
        for flag, text in records:
            lines += [".TP", f".B {quoted(flag)}", quoted(text) if text else "\\&"]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                lines += [
                    ".TP",
                    f".BR {quoted('-'.join((*path, below)))} (1)",
                    quoted(found.get_short_help_str(200)),
                ]
    if command.epilog:
        lines += [".SH EXIT STATUS", quoted(command.epilog)]
    return "\n".join(lines) + "\n"


def write_all(directory: Path) -> int:
    """How many pages were written, compressed, the same bytes every time."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, text in pages(root, ("swarmpy",)):
        (directory / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        count += 1
    return count


if __name__ == "__main__":
    print(f"{write_all(Path(sys.argv[1]))} pages")
