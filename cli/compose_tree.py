"""Reading the tree of a compose file: typed looks at items that collect every problem with its place. Pure.

`Report.problems` end the command, all at once; `Report.notices` are what Docker's swarm mode ignores, too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from swarmpy.cli.yaml_tree import Item

TRUE, FALSE = {"true", "yes", "on"}, {"false", "no", "off"}
EXTENSION = "x-"


@dataclass
class Report:
    """What was found wrong or ignored, as sentences with file and line."""

    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def refuse(self, item: Item, path: str, text: str) -> None:
        self.problems.append(f"{place(item)}: {path}: {text}")

    def notice(self, item: Item, path: str, text: str) -> None:
        self.notices.append(f"{place(item)}: {path}: {text}")


def place(item: Item) -> str:
    return f"{item.file}, line {item.line}"


def mapping(item: Item, path: str, report: Report) -> dict[str, Item]:
    """A map without its extensions (x-…); nothing where the value is missing."""
    if isinstance(item.value, dict):
        return {key: value for key, value in item.value.items() if not key.startswith(EXTENSION)}
    if item.tag != "null":
        report.refuse(item, path, "a map is wanted here, KEY: VALUE on each line")
    return {}


def known(item: Item, path: str, keys: Iterable[str], report: Report) -> dict[str, Item]:
    """A map that may have only these keys."""
    allowed = tuple(keys)
    found = mapping(item, path, report)
    for key, value in found.items():
        if key not in allowed:
            report.refuse(value, f"{path}.{key}" if path else key, unknown(key, allowed))
    return {key: value for key, value in found.items() if key in allowed}


def unknown(key: str, allowed: Iterable[str]) -> str:
    allowed = sorted(allowed)
    near = difflib.get_close_matches(key, allowed, 1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(allowed)}"
    return f"is not a key that is known here; {hint}"


def sequence(item: Item, path: str, report: Report) -> list[Item]:
    """A list, or nothing at all."""
    return [] if item.tag == "null" else entries(item, path, report)


def entries(item: Item, path: str, report: Report) -> list[Item]:
    """A list; a key with nothing behind it is refused, too."""
    if isinstance(item.value, list):
        return item.value
    report.refuse(item, path, "a list is wanted here, each entry with a dash")
    return []


def text(item: Item, path: str, report: Report) -> str:
    if isinstance(item.value, str):
        return item.value
    report.refuse(item, path, "a text or a number is wanted here")
    return ""


def boolean(item: Item, path: str, report: Report) -> bool:
    word = item.value.lower() if isinstance(item.value, str) else ""
    if word not in TRUE | FALSE:
        report.refuse(item, path, "true or false is wanted here")
    return word in TRUE


def texts(item: Item, path: str, report: Report, *, single: bool = False) -> list[tuple[str, Item]]:
    """The entries of a list of texts; with `single` one text alone will do."""
    if single and isinstance(item.value, str):
        return [(item.value, item)] if item.tag != "null" else []
    entries = sequence(item, path, report)
    return [(text(entry, f"{path}[{number}]", report), entry) for number, entry in enumerate(entries)]


def pairs(item: Item, path: str, report: Report, separators: str = "=") -> list[tuple[str, str | None, Item]]:
    """NAME and value of a map, or of a list of NAME=value; None where there is no value."""
    if isinstance(item.value, dict):
        return [
            (name, None if value.tag == "null" else text(value, f"{path}.{name}", report), value)
            for name, value in item.value.items()
        ]
    result = []
    for entry, at in texts(item, path, report):
        cut = min((entry.index(sign) for sign in separators if sign in entry), default=-1)
        name, value = (entry, None) if cut < 0 else (entry[:cut], entry[cut + 1 :])
        if not name:
            report.refuse(at, path, f"{entry!r} names nothing before the {separators[0]!r}")
        result.append((name, value, at))
    return result


def csv_text(values: Mapping[str, str]) -> str:
    """`key=value,key=value` as the flags take it, quoted where need be."""
    fields = [f"{key}={value}" for key, value in values.items()]
    return ",".join(
        f'"{one.replace(chr(34), chr(34) * 2)}"' if set(one) & set(',"\n') else one for one in fields
    )
