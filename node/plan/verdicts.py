"""Why a task is where it is, or nowhere: every node × filter × score, as data. Pure.

`judge` asks every filter about every node, also those that would not be asked any more when placing, and
gives the scorer's parts for each. It books nothing and needs nothing but a View, so it can be asked about
tasks that wait, tasks that run ("where would it go now?"), and tasks that do not exist yet: copy a task or
a view's objects, change them, and ask again. The best node comes first, then the others that fit, then
those that do not, the fewest problems first.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmpy.node.plan.base import View
from swarmpy.node.plan.filters import Check, ConstraintError, NodeInfo, demand_of, sentence
from swarmpy.node.plan.groups import Wanted, wanted_by
from swarmpy.node.plan.inventory import Inventory, picture_of
from swarmpy.node.plan.score import Ranking
from swarmpy.node.plan.volumes import Places
from swarmpy.proto import objects_pb2

EXACT_RANKS = 20  # with preferences each rank costs a ranking; below this the leaf's order has to do
SCORE_PARTS = ("faulty", "taint", "affinity", "service tasks", "number")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One node: each filter with its problem (None: passes), and the parts of its score in order."""

    node_id: str
    node_name: str
    checks: tuple[Check, ...]
    score: tuple[tuple[str, float], ...]
    rank: int  # 1 = the next task goes here, 0 = it does not fit

    @property
    def problems(self) -> list[str]:
        return [problem for _, problem in self.checks if problem]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The whole answer; `sentence` is what the scheduler would write if nothing fits, else ""."""

    verdicts: tuple[Verdict, ...]
    sentence: str

    @property
    def chosen(self) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if verdict.rank == 1), None)


def judge(
    view: View, task: objects_pb2.Task, now_ms: int, *, inventory: Inventory | None = None
) -> Judgement:
    """Every node's verdict on a task; what the task itself holds now does not count against it."""
    picture = inventory if inventory is not None else picture_of(view)
    infos = picture.current(view)
    own = infos.get(task.node_id) if picture.holds(task.meta.id) else None
    demand = demand_of(task)
    if own is not None:
        demand.give_back(own)
    try:
        wanted = wanted_by(view, task, picture, infos, now_ms)
        return _judged(view, task, wanted, infos)
    except ConstraintError as error:
        return Judgement((), f"no suitable node: {error}")
    finally:
        if own is not None:
            demand.take(own)


def _judged(view: View, task: objects_pb2.Task, wanted: Wanted, infos: dict[str, NodeInfo]) -> Judgement:
    volumes = Places(view, lambda: "volume")
    checks = {
        info.node_id: (*wanted.checks(info), ("volume", volumes.problem(task, info.node)))
        for info in infos.values()
    }
    static = {"ready", "taint", "constraint", "platform", "equipment", "volume"}
    candidates = [
        info
        for info in infos.values()
        if not any(problem for name, problem in checks[info.node_id] if name in static)
    ]
    order = _order(candidates, infos, wanted)
    ranks = {node_id: number for number, node_id in enumerate(order, 1)}
    made = [
        _verdict(info, wanted, checks[info.node_id], ranks.get(info.node_id, 0)) for info in infos.values()
    ]
    made.sort(key=lambda v: (v.rank == 0, v.rank, len(v.problems), v.node_name, v.node_id))
    if order:
        return Judgement(tuple(made), "")
    reasons: dict[str, int] = {}
    for verdict in made:
        first = next(iter(verdict.problems), "would go beyond the max-skew of their group")
        reasons[first] = reasons.get(first, 0) + 1
    return Judgement(tuple(made), sentence(reasons.items(), len(made)))


def _order(candidates: list[NodeInfo], infos: dict[str, NodeInfo], wanted: Wanted) -> list[str]:
    """The nodes that fit, in the order in which one task each would take them.

    As in the scheduler, a node that passes the static filters counts for its group's share and skew.
    """
    group = wanted.group
    simple = not group.preferences and not group.neighbours.shifts
    left, order = list(candidates), list[str]()
    while left and not simple and len(order) < EXACT_RANKS:
        best = Ranking(left, group, infos.values() if group.preferences else ()).place()
        if best is None:
            return order
        group.demand.give_back(best)
        group.neighbours.unplaced(best)
        order.append(best.node_id)
        left = [info for info in left if info is not best]
    fitting = [info for info in left if group.problem(info) is None]
    fitting.sort(key=lambda info: (group.key(info), info.node_id))
    return order + [info.node_id for info in fitting]


def _verdict(info: NodeInfo, wanted: Wanted, checks: tuple[Check, ...], rank: int) -> Verdict:
    parts = wanted.group.parts(info)
    score = tuple((name, float(value)) for name, value in zip(SCORE_PARTS, parts, strict=True))
    name = info.node.description.hostname or info.node.meta.name or info.node_id
    return Verdict(info.node_id, name, checks, score, rank)
