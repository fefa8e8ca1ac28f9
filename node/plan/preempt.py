"""Room for important tasks: stops tasks of lower priority where a waiting one fits nowhere.

Only services that ask for it (`--preempt`) push others out, and only those whose priority is lower by 10
or more and whose disruption budget allows it. The node is the one where the least is lost: the lowest
highest priority among the victims, then their number. Of a node's tasks those of the lowest priority go
first, among them the youngest; a victim that turns out not to be needed stays.

Room that is being made (tasks told to stop) counts as free here, so a plan that is applied makes the next
one empty, and nothing is stopped twice for the same task. The scheduler serves the higher priority first
when the victims are gone.

Key: "". Writes Task.desired_state. Looks when a task says that it fits nowhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from swarmpy.node.plan.base import ChangeEvent, NewId, Plan, View, desired_running, is_terminal
from swarmpy.node.plan.budgets import Budgets, is_available
from swarmpy.node.plan.filters import ConstraintError, Demand, NodeInfo, demand_of
from swarmpy.node.plan.groups import PREEMPTION_GAP, Wanted, priority_of, wanted_by
from swarmpy.node.plan.inventory import GroupKey, Inventory
from swarmpy.node.plan.score import Ranking
from swarmpy.node.plan.tasks import SHUTDOWN, Edits
from swarmpy.node.plan.volumes import Places, differs_by_task
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import Commit

PREEMPTED = "PREEMPTED"
NODES_MAX = 50  # looked at for one task: those with the most free memory and CPU
RESCUES_PER_PLAN = 5
_Loss = tuple[int, int, str]


class PreemptionPlanner:
    """See the module."""

    name = "preempt"
    debounce_ms = 50  # the scheduler goes first

    def __init__(self, inventory: Inventory | None = None) -> None:
        self._inventory = inventory if inventory is not None else Inventory()

    def attach(self, view: View) -> None:
        self._inventory.attach(view)

    def note(self, commit: Commit, view: View) -> None:
        self._inventory.note(commit, view)

    def dirty(self, event: ChangeEvent, view: View) -> Iterable[str]:
        new, old = event.new, event.old
        if isinstance(new, objects_pb2.Task) and new.status.state == types_pb2.TASK_PENDING:
            changed = not isinstance(old, objects_pb2.Task) or old.status.message != new.status.message
            return ("",) if changed and _may_preempt(view, new.service_id) else ()
        if isinstance(new, objects_pb2.Service) and isinstance(old, objects_pb2.Service):
            same = (old.spec.preempt, old.spec.priority) == (new.spec.preempt, new.spec.priority)
            return () if same and old.spec.min_available == new.spec.min_available else ("",)
        ended = isinstance(new, objects_pb2.Task) and new.status.state == types_pb2.TASK_RUNNING
        if ended and any(_may_preempt(view, key[0]) for key in self._inventory.waiting):
            return ("",)  # a budget may have room again
        return ()

    def all_keys(self, view: View) -> Iterable[str]:
        return ("",)

    def plan(self, view: View, keys: Sequence[str], now_ms: int, new_id: NewId) -> Plan:
        if not self._inventory.advance(view, 0):
            return Plan(wake_ms=now_ms + 100)  # the scheduler is making the picture
        infos = self._inventory.current(view)
        keys_waiting = [key for key in self._inventory.waiting if _may_preempt(view, key[0])]
        if not keys_waiting:
            return Plan()
        run = _Run(view, now_ms, self._inventory, infos)
        try:
            run.free_what_leaves()
            for key in sorted(keys_waiting, key=lambda key: (-priority_of(view.service(key[0])), key)):
                run.make_room(key)
        finally:
            run.undo()
        return Plan(run.edits.changes)


def _may_preempt(view: View, service_id: str) -> bool:
    service = view.service(service_id)
    return service is not None and service.spec.preempt and not service.pending_delete


class _Run:
    """One plan over a picture in which what is told to stop is gone already."""

    def __init__(self, view: View, now_ms: int, inventory: Inventory, infos: dict[str, NodeInfo]) -> None:
        self.view, self.now_ms, self.inventory, self.infos = view, now_ms, inventory, infos
        self.edits = Edits(now_ms=now_ms)
        self._budgets = Budgets(view)
        self._volumes = Places(view, lambda: "")
        self._booked: list[tuple[Demand, NodeInfo]] = []
        self._freed: list[tuple[Demand, NodeInfo]] = []
        self._rescues = 0

    def undo(self) -> None:
        for demand, info in self._booked:
            demand.give_back(info)
        for demand, info in self._freed:
            demand.take(info)

    def free_what_leaves(self) -> None:
        for task in self.inventory.leaving.values():
            self._free(task)

    def _free(self, task: objects_pb2.Task) -> None:
        info = self.infos.get(task.node_id)
        if info is not None:
            demand = demand_of(task)
            demand.give_back(info)
            self._freed.append((demand, info))

    def make_room(self, key: GroupKey) -> None:
        """Work out what has to go for the tasks of a group that will not fit by themselves."""
        tasks = list(self.inventory.waiting[key].values())
        priority = priority_of(self.view.service(key[0]))
        if not differs_by_task(tasks[0].spec):
            self._make_room(tasks, priority)
            return
        for task in tasks:  # each has volumes of its own
            self._make_room([task], priority)

    def _make_room(self, tasks: list[objects_pb2.Task], priority: int) -> None:
        try:
            wanted = wanted_by(self.view, tasks[0], self.inventory, self.infos, self.now_ms)
        except ConstraintError:
            return
        # Where its volumes are not, nothing is stopped for a task: it could not use the room.
        candidates = [
            info
            for info in self.infos.values()
            if wanted.static_problem(info) is None and self._volumes.problem(tasks[0], info.node) is None
        ]
        ranking = Ranking(candidates, wanted.group)
        missing = 0
        for _ in tasks:
            info = ranking.place()
            if info is None:
                missing += 1
            else:
                self._booked.append((wanted.group.demand, info))
        for _ in range(missing):
            if self._rescues >= RESCUES_PER_PLAN or not self._rescue(wanted, candidates, priority):
                return
            self._rescues += 1

    def _rescue(self, wanted: Wanted, candidates: list[NodeInfo], priority: int) -> bool:
        best: tuple[_Loss, NodeInfo, list[objects_pb2.Task]] | None = None
        roomy = heapq.nsmallest(
            NODES_MAX, candidates, key=lambda i: (-i.free_memory_bytes, -i.free_nano_cpus, i.node_id)
        )
        for info in roomy:
            victims = self._victims(wanted, info, priority)
            if victims is None:
                continue
            loss = (max(self._priority(task) for task in victims), len(victims), info.node_id)
            if best is None or loss < best[0]:
                best = (loss, info, victims)
        if best is None:
            return False
        for task in best[2]:
            self._free(task)
            self._budgets.take(task)
            self.edits.desire(task, SHUTDOWN, PREEMPTED)
        wanted.group.demand.take(best[1])
        self._booked.append((wanted.group.demand, best[1]))
        return True

    def _victims(self, wanted: Wanted, info: NodeInfo, priority: int) -> list[objects_pb2.Task] | None:
        """What has to stop on the node, or None if that is not enough or not allowed."""
        weaker = [
            task
            for task in self.view.tasks_of_node(info.node_id)
            if desired_running(task)
            and not is_terminal(task.status.state)
            and self.edits.wanted(task) < SHUTDOWN
            and self._priority(task) + PREEMPTION_GAP <= priority
        ]
        weaker.sort(key=lambda task: (self._priority(task), -task.meta.created_ms, task.meta.id))
        given: list[tuple[objects_pb2.Task, Demand]] = []
        counts: dict[str, int] = {}
        try:
            for task in weaker:
                if wanted.group.problem(info) is None:
                    break
                if is_available(task, self.view):
                    count = counts[task.service_id] = counts.get(task.service_id, 0) + 1
                    if self._budgets.left(task.service_id) < count:
                        continue
                demand = demand_of(task)
                demand.give_back(info)
                given.append((task, demand))
            if not given or wanted.group.problem(info) is not None:
                return None
            needed = []
            for task, demand in reversed(given):  # those of the highest priority may stay first
                demand.take(info)
                if wanted.group.problem(info) is None:
                    continue
                demand.give_back(info)
                needed.append((task, demand))
            given = needed
            return [task for task, _ in needed]
        finally:
            for _, demand in given:
                demand.take(info)

    def _priority(self, task: objects_pb2.Task) -> int:
        return priority_of(self.view.service(task.service_id))
