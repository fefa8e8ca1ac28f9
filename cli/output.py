"""How results are shown: tables, JSON, templates, inspect, and words for times and sizes."""

from __future__ import annotations

import base64
import json
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import template as templates
from swarmpy.cli.errors import UsageRefused

if TYPE_CHECKING:
    from google.protobuf.message import Message

Row = Mapping[str, Any]
GAP = "   "


def print_rows(
    columns: Sequence[tuple[str, str]], rows: Sequence[Row], template: str = "table", *, quiet: bool = False
) -> None:
    """Rows as a table (columns = heading and key), as one JSON object per line, or by a template."""
    if quiet:
        for row in rows:
            click.echo(row["ID"])
    elif template in {"", "table"}:
        cells = [
            [heading for heading, _ in columns],
            *([str(row[key]) for _, key in columns] for row in rows),
        ]
        print_table(cells)
    elif template == "json":
        for row in rows:
            click.echo(json.dumps(dict(row), ensure_ascii=False))
    elif template.startswith("table "):
        body = template.removeprefix("table ").lstrip()
        lines = [templates.headers(body), *(filled(body, row) for row in rows)]
        print_table([line.split("\t") for line in lines])
    else:
        for row in rows:
            click.echo(filled(template, row))


def filled(template: str, value: Any) -> str:
    """A template's text; a fault in it is a usage error."""
    try:
        return templates.render(template, value)
    except ValueError as error:
        raise UsageRefused(f"--format: {error}.") from None


def print_table(cells: list[list[str]]) -> None:
    """Left-aligned columns; the last one is not padded."""
    for line in aligned(cells):
        click.echo(line)


def aligned(cells: list[list[str]]) -> list[str]:
    """The lines of a table."""
    count = max((len(line) for line in cells), default=0)
    widths = [max((width(line[i]) for line in cells if i < len(line)), default=0) for i in range(count)]
    return [
        GAP.join(cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(line)).rstrip()
        for line in cells
    ]


def width(text: str) -> int:
    """Columns on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def print_filled(message: Message, template: str) -> bool:
    """Print one message as JSON or by a template; False where people are to read it: nothing is printed then."""
    if template in {"", "table"}:
        return False
    value = document(message, defaults=True)
    click.echo(json.dumps(value, ensure_ascii=False) if template == "json" else filled(template, value))
    return True


def print_documents(
    messages: Sequence[Message], template: str, *, pretty: bool = False, more: Sequence[Row] = ()
) -> None:
    """`inspect`: an indented JSON array, a template per object, or --pretty; `more` is added to each object."""
    whole = [
        {**document(message, defaults=template not in {"", "table", "json"} and not pretty), **extra}
        for message, extra in zip(messages, more or [{}] * len(messages), strict=True)
    ]
    if pretty:
        for value in whole:
            click.echo("\n".join(indented(value)))
    elif template in {"", "table"}:
        click.echo(json.dumps(whole, indent=4, ensure_ascii=False))
    elif template == "json":
        click.echo(json.dumps(whole, ensure_ascii=False))
    else:
        for value in whole:
            click.echo(filled(template, value))


def document(message: Message, *, defaults: bool = False) -> dict[str, Any]:
    """A message as plain values: enums by name, bytes as base64, numbers as numbers.

    Fields that are not set are left out, enums excepted; with `defaults` everything is there.
    """
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            if value or defaults:
                result[field.name] = repeated(field, value, defaults)
        elif field.has_presence:
            if message.HasField(field.name) or (defaults and field.message_type is None):
                result[field.name] = plain(field, value, defaults)
        elif value or defaults or field.enum_type is not None:
            result[field.name] = plain(field, value, defaults)
    return result


def repeated(field: Any, value: Any, defaults: bool) -> Any:
    """A list, or a map."""
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        inside = entry.fields_by_name["value"]
        return {str(key): plain(inside, value[key], defaults) for key in sorted(value)}
    return [plain(field, item, defaults) for item in value]


def plain(field: Any, value: Any, defaults: bool) -> Any:
    """One value."""
    if field.message_type is not None:
        return document(value, defaults=defaults)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return enum_word(field.enum_type.values, known.name) if known else value
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def enum_word(values: Sequence[Any], name: str) -> str:
    """`AVAILABILITY_DRAIN` -> `drain`: the name without what all names of the enum share."""
    names = [value.name for value in values]
    shared = 0
    while (
        len(names) > 1
        and len({other.split("_")[shared] for other in names if other.count("_") > shared}) == 1
    ):
        if any(other.count("_") <= shared for other in names):
            break
        shared += 1
    return "_".join(name.split("_")[shared:]).lower()


MAPS = {"labels", "sysctls", "options", "generic"}


def indented(value: Mapping[str, Any], depth: int = 0, *, verbatim: bool = False) -> Iterator[str]:
    """`key: value` lines, deeper levels further in."""
    for key, item in value.items():
        label = "  " * depth + (key if verbatim else key.replace("_", " ").capitalize()) + ":"
        if isinstance(item, dict):
            yield label
            yield from indented(item, depth + 1, verbatim=key in MAPS)
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield label
            for entry in item:
                lines = list(indented(entry, depth + 2))
                yield "  " * (depth + 1) + "- " + lines[0].lstrip() if lines else "  " * (depth + 1) + "-"
                yield from lines[1:]
        elif isinstance(item, list):
            yield f"{label} {' '.join(str(entry) for entry in item)}"
        else:
            yield f"{label} {item}"


def short_id(identifier: str, *, whole: bool) -> str:
    """Docker's twelve characters."""
    return identifier if whole else identifier[:12]


def moment(time_ms: int) -> str:
    """UTC, to the second; "" for never."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000)) if time_ms else ""


def ago(then_ms: int, now_ms: int) -> str:
    """`5 minutes ago`."""
    return f"{span(max(0, now_ms - then_ms) // 1000)} ago" if then_ms else ""


def span(seconds: int) -> str:
    """A duration in Docker's words."""
    steps = ((60, 1, "second"), (3600, 60, "minute"), (48 * 3600, 3600, "hour"), (14 * 86400, 86400, "day"),
             (60 * 86400, 7 * 86400, "week"), (730 * 86400, 30 * 86400, "month"))  # fmt: skip
    if seconds < 1:
        return "Less than a second"
    for limit, unit, name in steps:
        if seconds < limit:
            count = seconds // unit
            if count == 1 and name in {"minute", "hour"}:
                return f"About {'a' if name == 'minute' else 'an'} {name}"
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{seconds // (365 * 86400)} years"


def size_word(size_bytes: int) -> str:
    """`4.2MB`, units of 1000 as Docker shows images."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"
