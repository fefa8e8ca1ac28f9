"""Placement constraints: `node.labels.zone==east` and its relatives, read once and asked per node.

Swarm's keys and operators, AND-ed, values compared without case, a missing label is unequal to
everything; added are `>` `>=` `<` `<=` (numbers, sizes for node.memory, else text), `in (a, b)`,
`~ pattern` and `exists`:

    node.id node.hostname node.ip node.role node.platform.os node.platform.arch
    node.cpu (number of CPUs)  node.memory (bytes: 8g, 512m)  node.zone (the label zone)
    node.kernel (its release, ordered by its numbers: >= 5.15)
    node.labels.KEY engine.labels.KEY
    node.has(IMAGE) (alone, or == or != true or false): every blob of the image is there; see `held`

A pattern is searched for by the leader, so it must not be able to take long: no repeated group,
no back reference, two repetitions at most, and only the first 256 characters of a value count.

    ValueError
    └── ConstraintError     the text is no constraint; the message says why
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt

from swarmpy.proto import objects_pb2, types_pb2

MAX_CONSTRAINT_CHARACTERS = 512
PATTERN_REPETITIONS_MAX = 2
PATTERN_TEXT_MAX = 256
_PATTERN = re.compile(
    r"^\s*(?P<key>[A-Za-z][A-Za-z0-9._/-]*?)\s*"
    r"(?:(?P<op>==|!=|>=|<=|>|<|~)\s*(?P<value>.*?)"
    r"|\s(?P<word>in)\s*\((?P<list>[^()]*)\)|\s(?P<exists>exists))\s*$"
)
_HAS = re.compile(
    r"^\s*node\.has\(\s*(?P<image>[A-Za-z0-9][A-Za-z0-9._:/@+-]*)\s*\)\s*(?:(?P<op>==|!=)\s*(?P<value>true|false))?\s*$",
    re.IGNORECASE,
)
HAS_IMAGE = "node.has"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_PLAIN_KEYS = {
    "node.id",
    "node.hostname",
    "node.ip",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    "node.cpu",
    "node.memory",
    "node.zone",
    "node.kernel",
}
_LABEL_PREFIXES = ("node.labels.", "engine.labels.")
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">": gt, ">=": ge, "<": lt, "<=": le,
}  # fmt: skip
_ROLES = {types_pb2.ROLE_WORKER: "worker", types_pb2.ROLE_MANAGER: "manager"}


class ConstraintError(ValueError):
    """A placement constraint that cannot be read."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One parsed placement constraint; `matches` is its whole behaviour."""

    text: str
    key: str
    operator: str
    values: tuple[str, ...]
    nodes: frozenset[str] | None = (
        None  # of node.has: those that have it; None = not looked up, and not asked
    )

    def matches(self, node: objects_pb2.Node) -> bool:
        """Whether the node meets the constraint."""
        if self.key == HAS_IMAGE:
            return self.nodes is None or (node.meta.id in self.nodes) == (self.operator == "==")
        if self.key == "node.ip":
            return self._matches_address(node)
        actual = node_value(node, self.key)
        if self.operator == "exists":
            return actual is not None
        if actual is None:
            return self.operator == "!="
        if self.key == "node.platform.arch":
            return _compare(architecture(actual), self.operator, tuple(map(architecture, self.values)))
        if self.key == "node.kernel" and self.operator in _ORDERS:
            order = _release_order(actual, self.values[0])
            return _ORDERS[self.operator](order, 0)
        return _compare(actual, self.operator, self.values)

    def _matches_address(self, node: objects_pb2.Node) -> bool:
        text = node.status.address or node.description.address
        if self.operator == "exists":
            return bool(text)
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return self.operator == "!="
        inside = any(address in ipaddress.ip_network(value, strict=False) for value in self.values)
        return inside != (self.operator == "!=")


def parse_constraint(text: str) -> Constraint:
    """Read one constraint; raises ConstraintError with a sentence for the user."""
    if len(text) > MAX_CONSTRAINT_CHARACTERS:
        raise ConstraintError(
            f"constraint is {len(text)} characters long, the limit is {MAX_CONSTRAINT_CHARACTERS}"
        )
    if has := _HAS.match(text):
        negated = (has["op"] == "!=") != ((has["value"] or "").lower() == "false")
        return Constraint(text, HAS_IMAGE, "!=" if negated else "==", (has["image"],))
    match = _PATTERN.match(text)
    if match is None:
        raise ConstraintError(
            f"{text!r} is no constraint: write KEY==VALUE, KEY!=VALUE, KEY>VALUE, KEY in (A,B), KEY exists"
        )
    key = _checked_key(match["key"], text)
    if match["exists"]:
        return Constraint(text, key, "exists", ())
    operator = match["op"] or "in"
    raw = match["list"].split(",") if operator == "in" else [match["value"]]
    values = tuple(value.strip().strip("\"'") for value in raw)
    if not all(values):
        raise ConstraintError(f"constraint {text!r} has an empty value")
    _check_values(key, operator, values, text)
    return Constraint(text, key, operator, values)


def _checked_key(key: str, text: str) -> str:
    lowered = key.lower()
    if lowered in _PLAIN_KEYS:
        return lowered
    for prefix in _LABEL_PREFIXES:
        if lowered.startswith(prefix) and len(key) > len(prefix):
            return prefix + key[len(prefix) :]
    known = ", ".join(
        [*sorted(_PLAIN_KEYS), "node.has(IMAGE)", *(prefix + "KEY" for prefix in _LABEL_PREFIXES)]
    )
    raise ConstraintError(f"constraint {text!r} has the unknown key {key!r}; the keys are {known}")


def _check_values(key: str, operator: str, values: tuple[str, ...], text: str) -> None:
    if key == "node.ip":
        if operator not in {"==", "!=", "in"}:
            raise ConstraintError(f"constraint {text!r}: node.ip takes only ==, != and in")
        for value in values:
            try:
                ipaddress.ip_network(value, strict=False)
            except ValueError as error:
                raise ConstraintError(f"constraint {text!r}: {value!r} is no IP address or prefix") from error
    if key in {"node.cpu", "node.memory"}:
        for value in values:
            if not _SIZE.fullmatch(value) or (key == "node.cpu" and value[-1].isalpha()):
                example = "4 or 0.5" if key == "node.cpu" else "8g or 512m"
                raise ConstraintError(f"constraint {text!r}: {value!r} is no amount such as {example}")
    if key == "node.kernel" and operator in _ORDERS and not values[0][:1].isdigit():
        raise ConstraintError(f"constraint {text!r}: {values[0]!r} is no kernel release such as 5.15")
    if operator == "~":
        _check_pattern(values[0], text)


def _check_pattern(pattern: str, text: str) -> None:
    if re.search(r"\)[*+{]|\\[1-9]|\(\?P=", pattern):
        raise ConstraintError(f"constraint {text!r}: a repeated group or a back reference may take too long")
    if len(re.findall(r"(?<!\\)[*+{]", pattern)) > PATTERN_REPETITIONS_MAX:
        raise ConstraintError(
            f"constraint {text!r}: the pattern has more than {PATTERN_REPETITIONS_MAX} repetitions"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConstraintError(f"constraint {text!r}: bad pattern: {error}") from error


def node_value(node: objects_pb2.Node, key: str) -> str | None:
    """The value of a constraint or spread key on a node; None if it has none."""
    if key.startswith("node.labels."):
        return _label(node.meta.labels, key.removeprefix("node.labels."))
    if key.startswith("engine.labels."):
        return _label(node.description.labels, key.removeprefix("engine.labels."))
    match key:
        case "node.id":
            return node.meta.id
        case "node.hostname":
            return node.description.hostname or node.meta.name
        case "node.ip":
            return node.status.address or node.description.address
        case "node.role":
            return _ROLES[node.role]
        case "node.platform.os":
            return node.description.platform.os
        case "node.platform.arch":
            return architecture(node.description.platform.architecture)
        case "node.cpu":
            return f"{node.description.resources.nano_cpus / 1e9:g}"
        case "node.memory":
            return str(node.description.resources.memory_bytes)
        case "node.zone":
            zone = _label(node.meta.labels, "zone")
            return _label(node.description.labels, "zone") if zone is None else zone
        case "node.kernel":
            return node.description.kernel or None
    return None


def _label(labels: Mapping[str, str], key: str) -> str | None:
    return labels[key] if key in labels else None  # noqa: SIM401 - protobuf maps create on get of [] only


def architecture(name: str) -> str:
    """The OCI name of a machine architecture (`x86_64` is `amd64`)."""
    lowered = name.lower()
    return _ARCHITECTURES.get(lowered, lowered)


def _compare(actual: str, operator: str, values: tuple[str, ...]) -> bool:
    low, wanted = actual.lower(), [value.lower() for value in values]
    match operator:
        case "==" | "in":
            return low in wanted
        case "!=":
            return low != wanted[0]
        case "~":
            return re.search(values[0], actual[:PATTERN_TEXT_MAX], re.IGNORECASE) is not None
    return _ORDERS[operator](_order(low, wanted[0]), 0)


def _release_order(left: str, right: str) -> int:
    """Below, at or above zero: `5.10.0-28` is after `5.4` and before `5.15`."""
    one, other = ([int(number) for number in re.findall(r"[0-9]+", text)] for text in (left, right))
    return (one > other) - (one < other)


def _size_bytes(text: str) -> int:
    """`8g` as bytes; the text was checked when it was read."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return 0
    return int(float(match[1]) * 1024 ** " kmgt".index((match[2] or " ").lower()))


def _order(left: str, right: str) -> float:
    """Below, at or above zero: as numbers where both are, else as text."""
    try:
        return float(left) - float(right)
    except ValueError:
        return (left > right) - (left < right)


def constraints_of(placement: types_pb2.Placement) -> tuple[Constraint, ...]:
    """Parse all constraints of a placement."""
    return tuple(parse_constraint(text) for text in placement.constraints)
