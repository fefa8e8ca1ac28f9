"""Variables in compose files: `${NAME}` and its relatives, and files of variables (.env, env_file). Pure.

    $NAME ${NAME}          its value, nothing where it is not set
    ${NAME:-word}          word where it is not set or empty; ${NAME-word}: where it is not set
    ${NAME:?word}          refused, with word, where it is not set or empty; ${NAME?word} likewise
    ${NAME:+word}          word where it is set and not empty; ${NAME+word}: where it is set
    $$                     a dollar sign

A word may hold variables itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
DEPTH_MAX = 16
TEXT_LENGTH_MAX = 1 << 20
Unset = Callable[[str], None]


def filled(text: str, values: Mapping[str, str], unset: Unset = lambda name: None) -> str:
    """`text` with its variables; `unset` hears of those that have no value. Raises ValueError."""
    return _filled(text, values, unset, 0)


def _filled(text: str, values: Mapping[str, str], unset: Unset, depth: int) -> str:
    if depth > DEPTH_MAX:
        raise ValueError(f"variables nested deeper than {DEPTH_MAX} levels")
    result, position = [], 0
    while (dollar := text.find("$", position)) >= 0:
        result.append(text[position:dollar])
        rest = text[dollar + 1 :]
        if rest.startswith("$"):
            result.append("$")
            position = dollar + 2
        elif rest.startswith("{"):
            end = _closing(text, dollar + 2)
            result.append(_braced(text[dollar + 2 : end], values, unset, depth))
            position = end + 1
        elif match := _NAME.match(rest):
            result.append(_plain(match[0], values, unset))
            position = dollar + 1 + match.end()
        else:
            raise ValueError(f"a single $ in {text[:60]!r}: write $$ for a dollar sign")
        if sum(map(len, result)) > TEXT_LENGTH_MAX:
            raise ValueError(f"longer than {TEXT_LENGTH_MAX} characters once variables are filled in")
    return "".join([*result, text[position:]])


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` is closed."""
    depth, position = 1, start
    while position < len(text):
        if text.startswith("$$", position):
            position += 2
            continue
        if text.startswith("${", position):
            depth += 1
            position += 2
            continue
        if text[position] == "}":
            depth -= 1
            if not depth:
                return position
        position += 1
    raise ValueError(f"${{ without }} in {text[:60]!r}")


def _plain(name: str, values: Mapping[str, str], unset: Unset) -> str:
    if name not in values:
        unset(name)
    return values.get(name, "")


def _braced(inside: str, values: Mapping[str, str], unset: Unset, depth: int) -> str:
    match = _NAME.match(inside)
    if match is None:
        raise ValueError(f"${{{inside[:60]}}} names no variable: write ${{NAME}}, or $$ for a dollar sign")
    name, rest = match[0], inside[match.end() :]
    if not rest:
        return _plain(name, values, unset)
    operator = _OPERATOR.match(rest)
    if operator is None:
        raise ValueError(
            f"${{{inside[:60]}}} is not known: use ${{{name}:-DEFAULT}}, :?, :+ or their forms without :"
        )
    word, kind = rest[operator.end() :], operator[0][-1]
    there = name in values and (values[name] != "" or len(operator[0]) == 1)
    if kind == "+":
        return _filled(word, values, unset, depth + 1) if there else ""
    if there:
        return values[name]
    if kind == "?":
        said = _filled(word, values, unset, depth + 1)
        raise ValueError(f"variable {name} is not set{f': {said}' if said else ''}")
    return _filled(word, values, unset, depth + 1)


def variables(text: str, file: str, values: Mapping[str, str]) -> dict[str, str | None]:
    """A file of NAME=value lines: quotes, `export`, comments; None = a name alone. Raises ValueError.

    Single quotes keep everything; else variables are filled in, from `values` and the lines before.
    """
    found: dict[str, str | None] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip("\ufeff").strip().removeprefix("export ").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not _NAME.fullmatch(name) and not re.fullmatch(r"[^\s=#$'\"]+", name):
            raise ValueError(f"{file}, line {number}: {name[:40]!r} is not a variable name")
        if not equals:
            found[name] = None
            continue
        known = {**{key: one for key, one in found.items() if one is not None}, **values}
        try:
            found[name] = _value(value.strip(), known)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    return found


def _value(text: str, values: Mapping[str, str]) -> str:
    quote = text[:1]
    if quote in {"'", '"'}:
        end = text.rfind(quote)
        rest = text[end + 1 :].strip()
        if end == 0 or (rest and not rest.startswith("#")):
            raise ValueError(f"a quote is not closed: {text[:40]}")
        inside = text[1:end]
        if quote == "'":
            return inside
        escaped = inside.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
        return filled(escaped, values)
    return filled(re.split(r"\s#", text, maxsplit=1)[0].rstrip(), values)
