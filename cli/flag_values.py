"""The flags of `service create` as a table: how the text of each is read, for files that use their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click
from swarmpy.cli import flags as tables
from swarmpy.cli import parse

TEXTS = ("image", "user", "workdir")


class Kind(NamedTuple):
    """Its name among the values of a command, how a text is read, whether it may be repeated."""

    dest: str
    convert: Callable[[str], Any]
    several: bool


def kinds(wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Kind]:
    """Flag without dashes -> Kind, of those that `wanted` wants; plain lists (cap-add …) are always there."""

    def reading(kind: Any) -> Callable[[str], Any]:
        return lambda text: kind.convert(text, None, None)

    result = {name: Kind(name, str, False) for name in TEXTS}
    for flag in tables.LISTS:
        if wanted(flag.name):
            result[flag.name] = Kind(f"{flag.name.replace('-', '_')}_add", reading(flag.add), True)
    for name, kind, _ in tables.PLAIN_LISTS:
        result[name] = Kind(name.replace("-", "_"), reading(kind), True)
    for name, kind, _ in tables.SCALARS:
        if wanted(name):
            result[name] = Kind(name.replace("-", "_"), reading(kind), False)
    for _, dest, _ in tables.SWITCHES:
        if wanted(dest):
            result[dest.replace("_", "-")] = Kind(dest, parse.boolean, False)
    return result


def read(kind: Kind, text: str) -> Any:
    """The value of a text. Raises ValueError."""
    try:
        return kind.convert(text)
    except click.UsageError as error:
        raise ValueError(error.message.rstrip(".")) from None
