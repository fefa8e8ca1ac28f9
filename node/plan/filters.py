"""Which nodes a task may run on: one verdict, with its reason, per node.

A filter is a value that looks at one `NodeInfo` (a node and what is still free
on it) and answers with nothing, or with the reason why not. Reasons are short
phrases beginning with a plural verb ("lack memory (need 1 GiB)"), so that the
scheduler can count them into one sentence for people. Static filters (availability, constraints,
platform) hold for a whole group of equal tasks; dynamic ones (resources, host
ports, replicas per node) change with every placement.

Constraints have Swarm's keys and operators, AND-ed, values compared without
case, a missing label is unequal to everything; added are `>` `>=` `<` `<=`
(numbers, else text), `in (a, b)`, `~ pattern` and `exists`:

    node.id node.hostname node.ip node.role node.platform.os node.platform.arch
    node.labels.KEY engine.labels.KEY

    ValueError
    └── ConstraintError     the text is no constraint; the message says why
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from swarmpy.node.plan.base import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN
from swarmpy.proto import objects_pb2, types_pb2

MAX_CONSTRAINT_CHARACTERS = 512
_PATTERN = re.compile(
    r"^\s*(?P<key>[A-Za-z][A-Za-z0-9._/-]*?)\s*"
    r"(?:(?P<op>==|!=|>=|<=|>|<|~)\s*(?P<value>.*?)"
    r"|\s(?P<word>in)\s*\((?P<list>[^()]*)\)|\s(?P<exists>exists))\s*$"
)
_PLAIN_KEYS = {
    "node.id",
    "node.hostname",
    "node.ip",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
}
_LABEL_PREFIXES = ("node.labels.", "engine.labels.")
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_ROLES = {types_pb2.ROLE_WORKER: "worker", types_pb2.ROLE_MANAGER: "manager"}
_PORT_RANGE = DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1
_SINGULAR = {"are": "is", "do": "does", "lack": "lacks", "have": "has"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


HostPort: TypeAlias = tuple[int, int, str]  # protocol, number, address ("" = all)


class ConstraintError(ValueError):
    """A placement constraint that cannot be read."""


@dataclass(slots=True)
class NodeInfo:
    """A node and what its tasks leave free; placements update it."""

    node: objects_pb2.Node
    node_id: str
    free_nano_cpus: int
    free_memory_bytes: int
    free_generic: dict[str, int]
    ports: set[HostPort] = field(default_factory=set)
    mesh_ports: frozenset[HostPort] = frozenset()  # published on every node
    tasks: int = 0
    tasks_of: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Constraint:
    """One parsed placement constraint; `matches` is its whole behaviour."""

    text: str
    key: str
    operator: str
    values: tuple[str, ...]

    def matches(self, node: objects_pb2.Node) -> bool:
        """Whether the node meets the constraint."""
        if self.key == "node.ip":
            return self._matches_address(node)
        actual = node_value(node, self.key)
        if self.operator == "exists":
            return actual is not None
        if actual is None:
            return self.operator == "!="
        if self.key == "node.platform.arch":
            return _compare(architecture(actual), self.operator, tuple(map(architecture, self.values)))
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
    known = ", ".join([*sorted(_PLAIN_KEYS), *(prefix + "KEY" for prefix in _LABEL_PREFIXES)])
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
    if operator == "~":
        try:
            re.compile(values[0])
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
            return re.search(values[0], actual, re.IGNORECASE) is not None
        case ">":
            return _order(low, wanted[0]) > 0
        case ">=":
            return _order(low, wanted[0]) >= 0
        case "<":
            return _order(low, wanted[0]) < 0
        case _:
            return _order(low, wanted[0]) <= 0


def _order(left: str, right: str) -> float:
    """Below, at or above zero: as numbers where both are, else as text."""
    try:
        return float(left) - float(right)
    except ValueError:
        return (left > right) - (left < right)


def availability_problem(node: objects_pb2.Node) -> str | None:
    """Why a node takes no new tasks at all."""
    if node.removed:
        return "are being removed"
    if node.status.state != types_pb2.NODE_READY:
        return "are down"
    if node.spec.availability == types_pb2.AVAILABILITY_DRAIN:
        return "are drained"
    if node.spec.availability == types_pb2.AVAILABILITY_PAUSE:
        return "are paused"
    return None


def placement_problem(
    node: objects_pb2.Node, constraints: Iterable[Constraint], platforms: Iterable[types_pb2.Platform]
) -> str | None:
    """Why a node is no place for a task, whatever else runs there."""
    for constraint in constraints:
        if not constraint.matches(node):
            return f"do not meet constraint {constraint.text}"
    platforms = list(platforms)
    if platforms and not any(_runs(node.description.platform, wanted) for wanted in platforms):
        names = " or ".join(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in platforms)
        return f"are not of platform {names}"
    return None


def _runs(have: types_pb2.Platform, wanted: types_pb2.Platform) -> bool:
    if wanted.os and wanted.os.lower() != have.os.lower():
        return False
    return not wanted.architecture or architecture(wanted.architecture) == architecture(have.architecture)


def constraints_of(placement: types_pb2.Placement) -> tuple[Constraint, ...]:
    """Parse all constraints of a placement."""
    return tuple(parse_constraint(text) for text in placement.constraints)


def eligible(node: objects_pb2.Node, spec: types_pb2.TaskSpec) -> bool:
    """Whether constraints and platform let the node run the task; an unreadable constraint lets none."""
    try:
        constraints = constraints_of(spec.placement)
    except ConstraintError:
        return False
    return placement_problem(node, constraints, spec.placement.platforms) is None


@dataclass(frozen=True, slots=True)
class Demand:
    """What one task takes from a node."""

    nano_cpus: int
    memory_bytes: int
    generic: tuple[tuple[str, int], ...]
    ports: tuple[HostPort, ...]  # those with a fixed number
    free_ports: int  # how many more with a number of our choice
    service_id: str
    max_per_node: int

    def problem(self, info: NodeInfo) -> str | None:
        """Why the node cannot take the task now; None if it can."""
        if self.nano_cpus and self.nano_cpus > info.free_nano_cpus:
            return f"lack CPU (need {self.nano_cpus / 1e9:g})"
        if self.memory_bytes and self.memory_bytes > info.free_memory_bytes:
            return f"lack memory (need {format_bytes(self.memory_bytes)})"
        for name, count in self.generic:
            if count > info.free_generic.get(name, 0):
                return f"lack {name} (need {count})"
        for port in self.ports:
            if port_taken(info.ports, port) or port_taken(info.mesh_ports, port):
                return f"have host port {port[1]}/{_protocol(port[0])} in use"
        if self.free_ports and self.free_ports > _PORT_RANGE - len(info.ports) - len(info.mesh_ports):
            return f"have no host port left in {DYNAMIC_PORT_MIN}–{DYNAMIC_PORT_MAX}"
        if self.max_per_node and info.tasks_of.get(self.service_id, 0) >= self.max_per_node:
            return f"are at the limit of {self.max_per_node} replicas per node"
        return None

    def take(self, info: NodeInfo) -> None:
        """Book the task on the node."""
        info.tasks += 1
        info.free_nano_cpus -= self.nano_cpus
        info.free_memory_bytes -= self.memory_bytes
        if self.ports:
            info.ports.update(self.ports)
        for name, count in self.generic:
            info.free_generic[name] = info.free_generic.get(name, 0) - count
        info.tasks_of[self.service_id] = info.tasks_of.get(self.service_id, 0) + 1


def demand_of(task: objects_pb2.Task) -> Demand:
    """What a task takes: its reservations and its host ports."""
    wanted = task.spec.resources.reservations
    return Demand(
        nano_cpus=wanted.nano_cpus,
        memory_bytes=wanted.memory_bytes,
        generic=tuple(sorted(wanted.generic.items())),
        ports=tuple((p.protocol, p.published, p.address) for p in task.host_ports if p.published),
        free_ports=sum(not p.published for p in task.host_ports),
        service_id=task.service_id,
        max_per_node=task.spec.placement.max_replicas_per_node,
    )


def port_taken(used: Set[HostPort], port: HostPort) -> bool:
    """Whether a host port collides: same protocol and number on the same or on all addresses."""
    if not used:
        return False
    protocol, number, address = port
    if port in used or (protocol, number, "") in used:
        return True
    return not address and any(p == protocol and n == number for p, n, _ in used)


def format_bytes(count: int) -> str:
    """`1073741824` as `1 GiB`."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"


def _protocol(value: types_pb2.Protocol | int) -> str:
    return types_pb2.Protocol.Name(value).removeprefix("PROTOCOL_").lower()


def sentence(reasons: Iterable[tuple[str, int]], total: int) -> str:
    """One sentence of counted reasons: `no suitable node: 2 of 5 are down; 3 lack …`."""
    if not total:
        return "no suitable node: the cluster has no nodes"
    first, *rest = sorted(reasons, key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {_agree(reason, count)}" for reason, count in rest]
    return "; ".join([f"no suitable node: {first[1]} of {total} {_agree(first[0], first[1])}", *parts])


def _agree(reason: str, count: int) -> str:
    verb, _, tail = reason.partition(" ")
    return f"{_SINGULAR[verb]} {tail}" if count == 1 else reason
