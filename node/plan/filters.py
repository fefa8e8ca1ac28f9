"""Which nodes a task may run on: one verdict, with its reason, per node and filter.

A filter looks at one `NodeInfo` (a node and what is still free on it) and answers with nothing, or
with the reason why not. Reasons are short phrases beginning with a plural verb ("lack memory (need
1 GiB)"), so that the scheduler can count them into one sentence for people. Static filters (ready,
taints, constraints, platform, equipment) hold for a whole group of equal tasks; dynamic ones (resources, host
ports, replicas per node, affinity) change with every placement. `checks` gives all of them for one
node, whether or not an earlier one said no: that is what `verdicts` explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from swarmpy.node.plan import pods
from swarmpy.node.plan.base import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN
from swarmpy.node.plan.constraints import (
    Constraint,
    ConstraintError,
    architecture,
    constraints_of,
    node_value,
    parse_constraint,
)
from swarmpy.node.plan.load import LOAD_WEIGHT, part_in_use
from swarmpy.node.plan.taints import evicts, taint_problem
from swarmpy.proto import objects_pb2, types_pb2

__all__ = ["Constraint", "ConstraintError", "constraints_of", "node_value", "parse_constraint"]

NOTHING = pods.Equipment()
FULL_WEIGHT = 10.0  # a node that is reserved to the last counts as so many tasks
_PORT_RANGE = DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1
_SINGULAR = {"are": "is", "do": "does", "lack": "lacks", "have": "has", "would": "would"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


HostPort: TypeAlias = tuple[int, int, str]  # protocol, number, address ("" = all)
Check: TypeAlias = tuple[str, str | None]  # the filter's name, and its problem


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
    nano_cpus: int = 0  # the node's whole
    memory_bytes: int = 0
    named: dict[str, tuple[str, ...]] = field(default_factory=dict)  # all names of a resource that has names
    taken_names: dict[str, set[str]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)  # of spread keys, as they were asked for
    tainted: bool = False
    fullness: float = 0.0  # the scorer's sum of tasks, reservations and measured load; kept by bookings
    load: float = 0.0  # what the measured load counts

    def __post_init__(self) -> None:
        self.tainted = bool(self.node.spec.taints)
        self.load = LOAD_WEIGHT * part_in_use(self.node)
        self.weigh()

    def value(self, key: str) -> str:
        """The value of a spread key, "" where the node has none."""
        known = self.values.get(key)
        if known is None:
            known = self.values[key] = node_value(self.node, key) or ""
        return known

    def weigh(self) -> None:
        """Work out `fullness`."""
        self.fullness = self.tasks + FULL_WEIGHT * self.reserved() + self.load

    def reserved(self) -> float:
        """The reserved part of the node's CPUs and memory, their mean."""
        part = 0.0
        if self.nano_cpus and self.free_nano_cpus != self.nano_cpus:
            part = 1.0 - self.free_nano_cpus / self.nano_cpus
        if self.memory_bytes and self.free_memory_bytes != self.memory_bytes:
            part += 1.0 - self.free_memory_bytes / self.memory_bytes
        return part / 2


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
    return constraint_problem(node, constraints) or platform_problem(node, platforms)


def constraint_problem(node: objects_pb2.Node, constraints: Iterable[Constraint]) -> str | None:
    for constraint in constraints:
        if not constraint.matches(node):
            return f"do not meet constraint {constraint.text}"
    return None


def static_checks(
    node: objects_pb2.Node,
    placement: types_pb2.Placement,
    constraints: Iterable[Constraint],
    needs: pods.Equipment = NOTHING,
) -> Iterator[Check]:
    """The filters that hold for every task of a group, in the order in which they are asked."""
    yield "ready", availability_problem(node)
    yield "taint", taint_problem(node, placement.tolerations)
    yield "constraint", constraint_problem(node, constraints)
    yield "platform", platform_problem(node, placement.platforms)
    yield "equipment", equipment_problem(node, needs)


def static_problem(
    node: objects_pb2.Node,
    placement: types_pb2.Placement,
    constraints: Iterable[Constraint],
    needs: pods.Equipment = NOTHING,
) -> str | None:
    """The first static filter that says no."""
    checks = static_checks(node, placement, constraints, needs)
    return next((problem for _, problem in checks if problem), None)


def platform_problem(node: objects_pb2.Node, platforms: Iterable[types_pb2.Platform]) -> str | None:
    wanted = list(platforms)
    if not wanted or any(_runs(node.description.platform, one) for one in wanted):
        return None
    names = " or ".join(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in wanted)
    return f"are not of platform {names}"


def equipment_problem(node: objects_pb2.Node, needs: pods.Equipment) -> str | None:
    """A node of an older version does not say what it has; it refuses the task itself."""
    have = node.description.runtimes
    if not have:
        return None
    missing = next((name for name in needs.runtimes if name not in have), None)
    if missing is not None:
        return f"do not have the OCI runtime {missing}"
    return "have no GPU" if needs.gpus and not node.description.gpus else None


def _runs(have: types_pb2.Platform, wanted: types_pb2.Platform) -> bool:
    if wanted.os and wanted.os.lower() != have.os.lower():
        return False
    return not wanted.architecture or architecture(wanted.architecture) == architecture(have.architecture)


def eligible(node: objects_pb2.Node, spec: types_pb2.TaskSpec) -> bool:
    """Whether constraints, platform and taints let a task stay there; an unreadable constraint lets none."""
    try:
        constraints = constraints_of(spec.placement)
    except ConstraintError:
        return False
    if evicts(node, spec.placement.tolerations) is not None:
        return False
    return placement_problem(node, constraints, spec.placement.platforms) is None


def startable(node: objects_pb2.Node, spec: types_pb2.TaskSpec) -> bool:
    """Whether taints and equipment let a new task go there; the other filters are `eligible`'s."""
    if taint_problem(node, spec.placement.tolerations) is not None:
        return False
    return equipment_problem(node, pods.equipment(spec)) is None


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

    names: tuple[tuple[str, tuple[str, ...]], ...] = ()  # that a placed task holds

    def problem(self, info: NodeInfo) -> str | None:
        """Why the node cannot take the task now; None if it can."""
        if self.nano_cpus and self.nano_cpus > info.free_nano_cpus:
            return f"lack CPU (need {self.nano_cpus / 1e9:g})"
        if self.memory_bytes and self.memory_bytes > info.free_memory_bytes:
            return f"lack memory (need {format_bytes(self.memory_bytes)})"
        if self.generic and (problem := self._generic_problem(info)):
            return problem
        if (self.ports or self.free_ports) and (problem := self._port_problem(info)):
            return problem
        if self.max_per_node and info.tasks_of.get(self.service_id, 0) >= self.max_per_node:
            return f"are at the limit of {self.max_per_node} replicas per node"
        return None

    def checks(self, info: NodeInfo) -> Iterator[Check]:
        """Each dynamic filter's answer, whatever the others say."""
        bare = Demand(self.nano_cpus, self.memory_bytes, self.generic, (), 0, self.service_id, 0)
        yield "resource", bare.problem(info)
        yield "host port", self._port_problem(info)
        yield "max per node", Demand(0, 0, (), (), 0, self.service_id, self.max_per_node).problem(info)

    def _generic_problem(self, info: NodeInfo) -> str | None:
        for name, count in self.generic:
            if count > info.free_generic.get(name, 0):
                return f"lack {name} (need {count})"
        return None

    def _port_problem(self, info: NodeInfo) -> str | None:
        for port in self.ports:
            if port_taken(info.ports, port) or port_taken(info.mesh_ports, port):
                return f"have host port {port[1]}/{_protocol(port[0])} in use"
        if self.free_ports and self.free_ports > _PORT_RANGE - len(info.ports) - len(info.mesh_ports):
            return f"have no host port left in {DYNAMIC_PORT_MIN}–{DYNAMIC_PORT_MAX}"
        return None

    def take(self, info: NodeInfo) -> None:
        """Book the task on the node."""
        self._book(info, 1)
        if self.ports:
            info.ports.update(self.ports)
        for kind, names in self.names:
            info.taken_names.setdefault(kind, set()).update(names)

    def give_back(self, info: NodeInfo) -> None:
        """Undo `take`."""
        self._book(info, -1)
        if self.ports:
            info.ports.difference_update(self.ports)
        for kind, names in self.names:
            info.taken_names.setdefault(kind, set()).difference_update(names)

    def _book(self, info: NodeInfo, sign: int) -> None:
        info.tasks += sign
        info.free_nano_cpus -= sign * self.nano_cpus
        info.free_memory_bytes -= sign * self.memory_bytes
        for name, count in self.generic:
            info.free_generic[name] = info.free_generic.get(name, 0) - sign * count
        present = info.tasks_of.get(self.service_id, 0) + sign
        if present:
            info.tasks_of[self.service_id] = present
        else:
            info.tasks_of.pop(self.service_id, None)
        info.weigh()


def demand_of(task: objects_pb2.Task) -> Demand:
    """What a task takes: its reservations and its host ports."""
    wanted = pods.reservations(task.spec)
    return Demand(
        nano_cpus=wanted.nano_cpus,
        memory_bytes=wanted.memory_bytes,
        generic=tuple(sorted(wanted.generic.items())),
        ports=tuple((p.protocol, p.published, p.address) for p in task.host_ports if p.published),
        free_ports=sum(not p.published for p in task.host_ports),
        service_id=task.service_id,
        max_per_node=task.spec.placement.max_replicas_per_node,
        names=tuple((held.kind, tuple(held.names)) for held in task.assigned_resources if held.names),
    )


def choose_names(info: NodeInfo, kind: str, count: int) -> list[str]:
    """The first free names of a resource that has names, booked; none where it is only a number."""
    taken = info.taken_names.setdefault(kind, set())
    chosen = [name for name in info.named.get(kind, ()) if name not in taken][:count]
    taken.update(chosen)
    return chosen


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
