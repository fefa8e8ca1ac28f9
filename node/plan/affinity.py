"""Services that want to be near each other, or apart. Pure.

A rule names another service (or the own one) and a place: the node, or all nodes with the same value
of a key (`topology=node.labels.rack`). Hard rules are a filter, soft ones a part of the score. A hard
anti-affinity works both ways: a service is kept away from whoever wants it away. The first tasks of a
service that wants to be near itself go anywhere. A node without the topology's key is no place: near
nothing, apart from everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarmpy.node.plan.base import View
from swarmpy.node.plan.filters import NodeInfo, node_value
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

__all__ = ["Neighbour", "Neighbours", "Repulsion", "neighbours_of", "repulsions_in", "service_named"]


@dataclass(frozen=True, slots=True)
class Repulsion:
    """`owner` must not share a place with `target`."""

    owner_id: str
    owner_name: str
    target_id: str
    topology: str


@dataclass(slots=True)
class Neighbour:
    """One rule, and how many tasks of the other service each place has."""

    service_id: str
    service_name: str
    anti: bool
    soft: int
    topology: str
    own: bool
    counts: dict[str, int] = field(default_factory=dict)

    def place(self, info: NodeInfo) -> str | None:
        return node_value(info.node, self.topology) if self.topology else info.node_id

    def is_near(self, info: NodeInfo) -> bool:
        place = self.place(info)
        return place is not None and self.counts.get(place, 0) > 0

    def problem(self, info: NodeInfo) -> str | None:
        """The hard rule's verdict."""
        where = f" in the same {self.topology}" if self.topology else ""
        if self.anti:
            return f"have service {self.service_name}{where}" if self.is_near(info) else None
        if self.is_near(info) or (self.own and not self.counts):
            return None
        return f"do not have service {self.service_name}{where}"


@dataclass(slots=True)
class Neighbours:
    """All rules of one group of tasks."""

    hard: tuple[Neighbour, ...] = ()
    soft: tuple[Neighbour, ...] = ()

    def problem(self, info: NodeInfo) -> str | None:
        for rule in self.hard:
            if (problem := rule.problem(info)) is not None:
                return problem
        return None

    def wish(self, info: NodeInfo) -> int:
        """The soft rules' sum: higher is better."""
        total = 0
        for rule in self.soft:
            if rule.is_near(info):
                total += -rule.soft if rule.anti else rule.soft
        return total

    @property
    def shifts(self) -> bool:
        """Whether a placement changes the wishes of other nodes than its own."""
        return any(rule.own for rule in self.soft)

    def unplaced(self, info: NodeInfo) -> None:
        """Undo `placed`."""
        self._count(info, -1)

    def placed(self, info: NodeInfo) -> None:
        """One more task of the own service is there."""
        self._count(info, 1)

    def _count(self, info: NodeInfo, more: int) -> None:
        for rule in (*self.hard, *self.soft):
            place = rule.place(info) if rule.own else None
            if place is not None:
                rule.counts[place] = rule.counts.get(place, 0) + more
                if not rule.counts[place]:
                    del rule.counts[place]


def service_named(view: View, ref: str, namespace: str) -> objects_pb2.Service | None:
    """A service by name in the namespace, or by id."""
    found = view.by_name(store_pb2.KIND_SERVICE, ref, namespace) or view.service(ref)
    return found if isinstance(found, objects_pb2.Service) else None


def repulsions_in(view: View) -> dict[str, list[Repulsion]]:
    """The hard anti-affinities of all services, by whom they keep away."""
    found: dict[str, list[Repulsion]] = {}
    for service in view.services():
        for rule in service.spec.task.placement.affinities:
            target = service_named(view, rule.service, service.meta.namespace) if rule.anti else None
            if target is None or rule.soft or target.meta.id == service.meta.id:
                continue
            repulsion = Repulsion(service.meta.id, service.meta.name, target.meta.id, rule.topology)
            found.setdefault(target.meta.id, []).append(repulsion)
    return found


def neighbours_of(
    view: View,
    service_id: str,
    namespace: str,
    affinities: Iterable[types_pb2.Affinity],
    repulsions: Sequence[Repulsion],
    infos: Mapping[str, NodeInfo],
) -> Neighbours:
    """The rules of a service's tasks, counted over the nodes as they are booked now."""
    rules = []
    for affinity in affinities:
        target = service_named(view, affinity.service, namespace)
        target_id = target.meta.id if target is not None else ""
        name = target.meta.name if target is not None else affinity.service
        own = bool(target_id) and target_id == service_id
        rules.append(Neighbour(target_id, name, affinity.anti, affinity.soft, affinity.topology, own))
    rules += [Neighbour(one.owner_id, one.owner_name, True, 0, one.topology, own=False) for one in repulsions]
    for rule in rules:
        for info in infos.values():
            count = info.tasks_of.get(rule.service_id, 0) if rule.service_id else 0
            place = rule.place(info) if count else None
            if place is not None:
                rule.counts[place] = rule.counts.get(place, 0) + count
    return Neighbours(
        tuple(rule for rule in rules if not rule.soft), tuple(rule for rule in rules if rule.soft)
    )
