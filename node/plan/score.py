"""Which of the suitable nodes a task goes to: the emptiest first, spread over groups.

A `Ranking` holds the candidate nodes of one group of equal tasks. At a leaf, nodes
come in the order: not faulty for this service, fewest tasks of the service,
fewest tasks at all, id. Placement preferences (`spread=node.labels.zone`) make a
tree above the leaves: at each level the branch with the fewest tasks of the
service wins; nodes without the label are a branch of their own.

A node that cannot take the group's next task cannot take any later one, as a
group only fills nodes up: it leaves the ranking. So a placement costs
O(log nodes) plus the number of branches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence, Set

from swarmpy.node.plan.filters import Demand, NodeInfo, node_value

_Entry = tuple[bool, int, int, str, NodeInfo]


class Ranking:
    """The candidates for one group of equal tasks, best first."""

    def __init__(
        self, candidates: Iterable[NodeInfo], demand: Demand, spread: Sequence[str], faulty: Set[str]
    ) -> None:
        self._demand = demand
        nodes = list(candidates)
        self.placed = sum(info.tasks_of.get(demand.service_id, 0) for info in nodes) if spread else 0
        self._branches: dict[str, Ranking] = {}
        self._heap: list[_Entry] = []
        if spread:
            groups: dict[str, list[NodeInfo]] = {}
            for info in nodes:
                groups.setdefault(node_value(info.node, spread[0]) or "", []).append(info)
            for value in sorted(groups):
                self._branches[value] = branch = Ranking(groups[value], demand, spread[1:], faulty)
                branch.placed = sum(info.tasks_of.get(demand.service_id, 0) for info in groups[value])
        else:
            service_id = demand.service_id
            self._heap = [
                (node_id in faulty, info.tasks_of.get(service_id, 0), info.tasks, node_id, info)
                for info in nodes
                for node_id in (info.node_id,)
            ]
            heapq.heapify(self._heap)

    def place(self) -> NodeInfo | None:
        """Book the next task on the best node and return the node; None if no node can take it."""
        if self._heap:
            return self._place_here()
        while self._branches:
            value, branch = min(self._branches.items(), key=lambda item: item[1].placed)
            info = branch.place()
            if info is not None:
                self.placed += 1
                return info
            del self._branches[value]
        return None

    def _place_here(self) -> NodeInfo | None:
        heap, demand = self._heap, self._demand
        while heap:
            faulty, count, total, node_id, info = heap[0]
            if demand.problem(info) is None:
                demand.take(info)
                self.placed += 1
                heapq.heapreplace(heap, (faulty, count + 1, total + 1, node_id, info))
                return info
            heapq.heappop(heap)
        return None
