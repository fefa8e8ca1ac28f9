"""--secret and --config of services: Docker's value syntax, as pure functions (see parse)."""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.cli.parse import csv_pairs, octal

KEYS = ("source", "target", "uid", "gid", "mode")
OTHER_NAMES = {"src": "source"}


@dataclass(frozen=True)
class FileValue:
    """One --secret or --config; mode None = 0444."""

    source: str
    target: str = ""
    uid: int = 0
    gid: int = 0
    mode: int | None = None


def file_value(text: str) -> FileValue:
    """`NAME`, or `source=NAME,target=FILE,uid=0,gid=0,mode=0444`."""
    if "=" not in text and "," not in text:
        return named(text)
    values: dict[str, str] = {}
    for key, value in csv_pairs(text):
        name = OTHER_NAMES.get(key, key)
        if name not in KEYS:
            raise ValueError(f"{key!r} is not a key here: use {', '.join(KEYS)}")
        values[name] = value
    made = named(values.get("source", ""))
    mode = values.get("mode", "")
    return FileValue(
        made.source, values.get("target", ""), number(values, "uid"), number(values, "gid"),
        octal(mode) if mode else None,
    )  # fmt: skip


def named(source: str) -> FileValue:
    if not source:
        raise ValueError("it names nothing: write NAME, or source=NAME")
    return FileValue(source)


def number(values: dict[str, str], key: str) -> int:
    text = values.get(key, "0")
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{key} is {text!r}: write a number, names are not known outside of the image")
    return int(text)
