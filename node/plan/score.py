"""Which of the suitable nodes a task goes to, and which task of too many goes first.

A `Ranking` holds the candidate nodes of one group of equal tasks. Placement preferences
(`spread=node.labels.zone`) make a tree: at each level the branch that is furthest below its share wins
(shares are equal, or weights: Sainte-Laguë's method, so that 10 tasks at 60 % and 40 % become 6 and 4);
nodes without the label are a branch of their own. With `max-skew` no branch may have more than that
many tasks above the emptiest one, even if the task then waits. At a leaf the nodes come in the order

    spread     not faulty for this service, no PreferNoSchedule, soft affinities, fewest tasks of the
               service, then the sum of: all tasks, 10 × reserved part, 5 × measured use, -1 where the
               image is there already (so a tenth of a node counts as one task, a fifth in use as well)
    binpack    the same first three, then the fullest node by tasks and reservations, less 5 × measured use
    random     the same first three, then a number made of the ids

and last by id. A node that cannot take the group's next task cannot take any later one, as a group only
fills nodes up: it leaves the ranking. So a placement costs O(log nodes) plus the number of branches.

`worst_first` is the same scorer turned round, for scaling down.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from swarmpy.node.plan.affinity import Neighbours
from swarmpy.node.plan.filters import FULL_WEIGHT, Demand, NodeInfo
from swarmpy.node.plan.taints import is_second_choice
from swarmpy.proto import types_pb2

SPREAD, BINPACK, RANDOM = "spread", "binpack", "random"
STRATEGIES = (SPREAD, BINPACK, RANDOM)
IMAGE_WEIGHT = 1.0  # an image that is there already counts as one task less
Key = tuple[bool, bool, int, int, float]


@dataclass(slots=True)
class Group:
    """What equal tasks of one service have in common for ranking."""

    demand: Demand
    preferences: Sequence[types_pb2.Preference] = ()
    faulty: Set[str] = frozenset()
    tolerations: Sequence[types_pb2.Toleration] = ()
    neighbours: Neighbours = field(default_factory=Neighbours)
    strategy: str = SPREAD
    holders: Set[str] = frozenset()  # nodes that have the image

    def problem(self, info: NodeInfo) -> str | None:
        """The dynamic filters."""
        problem = self.demand.problem(info)
        if problem is None and self.neighbours.hard:
            problem = self.neighbours.problem(info)
        return problem

    def key(self, info: NodeInfo) -> Key:
        """The order at a leaf: the smallest is the best."""
        parts = self.parts(info)
        return parts[0], parts[1], -parts[2], parts[3], parts[4]

    @property
    def is_plain(self) -> bool:
        """Whether untainted nodes are told apart by their tasks of the service and their fullness alone."""
        return self.strategy == SPREAD and not self.faulty and not self.neighbours.soft and not self.holders

    def entries(self, nodes: Sequence[NodeInfo]) -> list[tuple[Key, str, NodeInfo]]:
        """Keys of many nodes; the usual group, with nothing special, costs a fraction of a microsecond each."""
        if not self.is_plain or any(info.tainted for info in nodes):
            return [(self.key(info), info.node_id, info) for info in nodes]
        service_id = self.demand.service_id
        return [
            ((False, False, 0, info.tasks_of.get(service_id, 0), info.fullness), info.node_id, info)
            for info in nodes
        ]

    def parts(self, info: NodeInfo) -> tuple[bool, bool, int, int, float]:
        """Faulty, second choice by taint, affinity, tasks of the service, and the strategy's number."""
        count = info.tasks_of.get(self.demand.service_id, 0)
        second = info.tainted and is_second_choice(info.node, self.tolerations)
        wish = self.neighbours.wish(info) if self.neighbours.soft else 0
        bonus = IMAGE_WEIGHT if info.node_id in self.holders else 0.0
        if self.strategy == SPREAD:
            return info.node_id in self.faulty, second, wish, count, info.fullness - bonus
        if self.strategy == BINPACK:
            number = info.load - (info.tasks + FULL_WEIGHT * info.reserved()) - bonus
        else:
            text = f"{self.demand.service_id}/{info.node_id}/{count}/{info.tasks}"
            number = float(zlib.crc32(text.encode()))
        return info.node_id in self.faulty, second, wish, 0, number


class Shares:
    """How one preference divides tasks among the values of its key."""

    def __init__(self, preference: types_pb2.Preference, values: Iterable[str]) -> None:
        given = {weight.value: weight.percent for weight in preference.weights}
        others = [value for value in values if value not in given]
        rest = max(0, 100 - sum(given.values())) / len(others) if others and given else 1.0
        self._weights = {value: float(percent) for value, percent in given.items()}
        self._weights.update(dict.fromkeys(others, rest))

    def need(self, value: str, placed: int) -> float:
        """How full a value is for its share: the smallest gets the next task."""
        weight = self._weights[value]
        return (placed + 0.5) / weight if weight else float("inf")


class Ranking:
    """The candidates for one group of equal tasks, best first. `everyone` counts for shares and skew."""

    def __init__(
        self, candidates: Iterable[NodeInfo], group: Group, everyone: Iterable[NodeInfo] = (), level: int = 0
    ) -> None:
        self._group = group
        nodes = list(candidates)
        service_id = group.demand.service_id
        self._branches: dict[str, Ranking] = {}
        self._heap: list[tuple[Key, str, NodeInfo]] = []
        if level < len(group.preferences):
            counted = list(everyone) or nodes
            self.placed = sum(info.tasks_of.get(service_id, 0) for info in counted)
            preference = group.preferences[level]
            self._skew_max = preference.max_skew
            inside, around = _by_value(nodes, preference.spread), _by_value(counted, preference.spread)
            for value in sorted(inside):
                self._branches[value] = Ranking(inside[value], group, around[value], level + 1)
            self._shares = Shares(preference, inside)
            self._closed: list[int] = []  # tasks in the branches that are full
        else:
            self.placed = sum(info.tasks_of.get(service_id, 0) for info in everyone) if level else 0
            self._heap = group.entries(nodes)
            heapq.heapify(self._heap)

    def place(self) -> NodeInfo | None:
        """Book the next task on the best node and return the node; None if no node can take it."""
        if self._heap:
            return self._place_here()
        while self._branches:
            value = min(self._branches, key=lambda value: self._need(value))
            branch = self._branches[value]
            if self._skew_max and branch.placed + 1 - self._floor() > self._skew_max:
                return None  # the branches below are full, and this one must wait for them
            info = branch.place()
            if info is not None:
                self.placed += 1
                return info
            self._closed.append(branch.placed)
            del self._branches[value]
        return None

    def _need(self, value: str) -> float:
        return self._shares.need(value, self._branches[value].placed)

    def _floor(self) -> int:
        return min([*self._closed, *(branch.placed for branch in self._branches.values())])

    def _place_here(self) -> NodeInfo | None:
        heap, group = self._heap, self._group
        while heap:
            info = heap[0][2]
            if group.problem(info) is None:
                group.demand.take(info)
                self.placed += 1
                if group.neighbours.hard or group.neighbours.soft:
                    group.neighbours.placed(info)
                if group.neighbours.shifts:
                    heap[:] = [(group.key(one), one.node_id, one) for _, _, one in heap]
                    heapq.heapify(heap)
                else:
                    heapq.heapreplace(heap, (group.key(info), info.node_id, info))
                return info
            heapq.heappop(heap)
        return None


class Least:
    """Nodes by fullness, for many plain groups of few tasks: what `Ranking` would choose, without its heap of all.

    Nodes only fill up while it is in use, so what it remembers of one is at most what is true: an entry is
    looked at again when it comes first.
    """

    def __init__(self, nodes: Iterable[NodeInfo]) -> None:
        self._heap = [(info.fullness, info.node_id, info) for info in nodes]
        self.is_plain = not any(info.tainted for _, _, info in self._heap)
        heapq.heapify(self._heap)

    def place(self, group: Group) -> NodeInfo | None:
        """As `Ranking.place`; None if every node that can take the task has one of its service already."""
        heap, service_id = self._heap, group.demand.service_id
        aside: list[tuple[float, str, NodeInfo]] = []
        found = None
        while heap:
            fullness, node_id, info = heap[0]
            if fullness != info.fullness:
                heapq.heapreplace(heap, (info.fullness, node_id, info))
            elif service_id in info.tasks_of or group.problem(info) is not None:
                aside.append(heapq.heappop(heap))
            else:
                group.demand.take(info)
                if group.neighbours.hard:
                    group.neighbours.placed(info)
                found = info
                break
        for entry in aside:
            heapq.heappush(heap, entry)
        return found


def _by_value(nodes: Iterable[NodeInfo], key: str) -> dict[str, list[NodeInfo]]:
    groups: dict[str, list[NodeInfo]] = {}
    for info in nodes:
        groups.setdefault(info.value(key), []).append(info)
    return groups


def worst_first(infos: Iterable[NodeInfo], group: Group, level: int = 0) -> Iterator[str]:
    """Ids of the nodes to take tasks of the service from, one after the other, until there are none."""
    service_id = group.demand.service_id
    nodes = [info for info in infos if info.tasks_of.get(service_id)]
    if level == len(group.preferences):
        heap = [(_turned(group.key(info)), info.node_id, info) for info in nodes]
        heapq.heapify(heap)
        while heap:
            info = heap[0][2]
            yield info.node_id
            group.demand.give_back(info)
            if info.tasks_of.get(service_id):
                heapq.heapreplace(heap, (_turned(group.key(info)), info.node_id, info))
            else:
                heapq.heappop(heap)
        return
    preference = group.preferences[level]
    inside = _by_value(nodes, preference.spread)
    shares = Shares(preference, inside)
    counts = {v: sum(info.tasks_of.get(service_id, 0) for info in some) for v, some in inside.items()}
    branches = {value: worst_first(some, group, level + 1) for value, some in inside.items()}
    while branches:
        value = max(sorted(branches), key=lambda value: shares.need(value, counts[value] - 1))
        node_id = next(branches[value], None)
        if node_id is None:
            del branches[value]
        else:
            counts[value] -= 1
            yield node_id


def _turned(key: Key) -> tuple[int, int, int, int, float]:
    return -key[0], -key[1], -key[2], -key[3], -key[4]
