"""The part of Go's templates that people use with --format.

`{{.Name}}`, `{{.Spec.Task.Container.Image}}`, `{{json .}}`, `{{.Labels | json}}`,
`{{index .Labels "a.b"}}`, `{{len .X}}`, `{{upper .X}}`, `{{lower .X}}`, `{{join .X ","}}`, and \\t \\n
outside. Fields are found without regard to case and underscores, so `.SpecVersion` finds
`spec_version`. Pure: text and values in, text out; ValueError says what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\||[^\s|]+')
NO_VALUE = "<no value>"


def render(template: str, value: Any) -> str:
    """The template filled in with the value."""
    if template.count("{{") != template.count("}}"):
        raise ValueError(f"the template {template!r} has an open '{{{{'")
    plain = template.replace("\\t", "\t").replace("\\n", "\n")
    return ACTION.sub(lambda match: text_of(evaluate(match[1], value)), plain)


def headers(template: str) -> str:
    """The template's heading: each action becomes the last field's name in capitals."""

    def heading(match: re.Match[str]) -> str:
        fields = re.findall(r"\.(\w+)", match[1])
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", fields[-1]).upper() if fields else ""

    return ACTION.sub(heading, template.replace("\\t", "\t").replace("\\n", "\n"))


def evaluate(expression: str, value: Any) -> Any:
    """One action: an operand or a function, and what it is piped into."""
    result: Any = None
    stages: list[list[str]] = [[]]
    for word in TOKEN.findall(expression):
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    for position, tokens in enumerate(stages):
        if not tokens:
            raise ValueError(f"{{{{{expression}}}}} is empty")
        piped = [result] if position else []
        if tokens[0].startswith((".", '"')):
            if len(tokens) > 1 or piped:
                raise ValueError(f"{{{{{expression}}}}} is not understood")
            result = operand(tokens[0], value)
        else:
            result = call(tokens[0], [operand(token, value) for token in tokens[1:]] + piped)
    return result


def operand(word: str, value: Any) -> Any:
    """`.A.B`, a quoted text or a number."""
    if word.startswith('"'):
        return json.loads(word)
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if not re.fullmatch(r"\.|(\.\w+)+", word):
        raise ValueError(f"{word!r} is not a field: write .Name")
    for depth, name in enumerate(word.split(".")[1:] if word != "." else ()):
        value = field(value, name, depth)
    return value


def field(value: Any, name: str, depth: int) -> Any:
    """A member by its name in any spelling; an unknown one at the top is an error."""
    if isinstance(value, Mapping):
        if name in value:
            return value[name]
        wanted = squeeze(name)
        for key in value:
            if squeeze(key) == wanted:
                return value[key]
        if depth == 0:
            raise ValueError(f"there is no field .{name}: use one of {', '.join(f'.{key}' for key in value)}")
    return NO_VALUE


def squeeze(name: str) -> str:
    """A name without case and underscores."""
    return name.replace("_", "").lower()


def call(name: str, arguments: list[Any]) -> Any:
    """A template function."""
    match name, arguments:
        case "json", [item]:
            return json.dumps(item, ensure_ascii=False)
        case "len", [item] if isinstance(item, Mapping | Sequence):
            return len(item)
        case "upper", [item]:
            return text_of(item).upper()
        case "lower", [item]:
            return text_of(item).lower()
        case "join", [list() as items, str() as separator]:
            return separator.join(text_of(item) for item in items)
        case "index", [dict() as items, str() as key]:
            return items.get(key, "")
        case "index", [list() as items, int() as position] if 0 <= position < len(items):
            return items[position]
    raise ValueError(f"{{{{{name} …}}}} is not understood: use json, index, len, upper, lower, join")


def text_of(value: Any) -> str:
    """As shown: text as it is, true and false in small letters, structures as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
