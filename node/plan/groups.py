"""What a group of equal tasks asks of a node: spec, service and cluster put together. Pure.

The scheduler, preemption and explanations all judge nodes through this, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from swarmpy.node.plan import pods
from swarmpy.node.plan.affinity import neighbours_of
from swarmpy.node.plan.base import View
from swarmpy.node.plan.filters import (
    NOTHING,
    Check,
    Constraint,
    NodeInfo,
    constraints_of,
    demand_of,
    static_checks,
    static_problem,
)
from swarmpy.node.plan.held import holders_of, looked_up
from swarmpy.node.plan.inventory import Inventory
from swarmpy.node.plan.restart import faulty_nodes
from swarmpy.node.plan.score import SPREAD, Group
from swarmpy.proto import objects_pb2, types_pb2

PRIORITY = 50
PREEMPTION_GAP = 10


def priority_of(service: objects_pb2.Service | None) -> int:
    """0 to 100; 50 where nothing is said."""
    return service.spec.priority if service is not None and service.spec.HasField("priority") else PRIORITY


def strategy_of(view: View, service: objects_pb2.Service | None) -> str:
    """The service's, else the cluster's, else spread."""
    own = service.spec.strategy if service is not None else ""
    cluster = None if own else view.cluster()
    return own or (cluster.spec.strategy if cluster is not None else "") or SPREAD


@dataclass(slots=True)
class Wanted:
    """One group's filters and scorer."""

    placement: types_pb2.Placement
    constraints: tuple[Constraint, ...]
    group: Group
    needs: pods.Equipment = NOTHING

    @property
    def static_key(self) -> bytes:
        """Equal for groups that ask the static filters the same."""
        needs = "\0".join(("", *self.needs.runtimes, "" if self.needs.gpus else "-"))
        return self.placement.SerializeToString(deterministic=True) + needs.encode()

    def static_problem(self, info: NodeInfo) -> str | None:
        return static_problem(info.node, self.placement, self.constraints, self.needs)

    def problem(self, info: NodeInfo) -> str | None:
        """The first filter that says no."""
        return self.static_problem(info) or self.group.problem(info)

    def checks(self, info: NodeInfo) -> Iterator[Check]:
        """Every filter's answer for a node, in order."""
        yield from static_checks(info.node, self.placement, self.constraints, self.needs)
        yield from self.group.demand.checks(info)
        yield "affinity", self.group.neighbours.problem(info)


def wanted_by(
    view: View, task: objects_pb2.Task, inventory: Inventory, infos: Mapping[str, NodeInfo], now_ms: int
) -> Wanted:
    """What tasks like this one ask for; raises ConstraintError."""
    service = view.service(task.service_id)
    placement = task.spec.placement
    constraints = looked_up(view, constraints_of(placement))
    group = Group(demand_of(task), placement.preferences, tolerations=placement.tolerations)
    failed = inventory.failed.get(task.service_id)
    if failed:
        group.faulty = faulty_nodes(failed.values(), now_ms)
    repulsions = inventory.repulsions(view).get(task.service_id, ())
    if placement.affinities or repulsions:
        group.neighbours = neighbours_of(
            view, task.service_id, task.meta.namespace, placement.affinities, repulsions, infos
        )
    group.strategy = strategy_of(view, service)
    group.holders = holders_of(view, task.spec.container.image_digest)
    return Wanted(placement, constraints, group, pods.equipment(task.spec))
