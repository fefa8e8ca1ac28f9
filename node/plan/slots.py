"""What one slot of a service needs next: the convergence shared by replicated and global.

For each slot, level-based and from data alone:
1. runnable tasks that ended or whose node is lost are wanted SHUTDOWN;
2. of several runnable tasks the best current one is kept, and an outdated one
   only beside a current one that does not run yet (a start-first update);
3. a task waiting in desired READY starts when its restart delay is over and,
   unless tasks may overlap, its predecessor has stopped (or had time enough, where neither ordered nor fenced);
4. a slot without a runnable task gets one: at once where the old one was told
   to stop or its node is lost, by the restart policy where it ended by itself: prepared
   meanwhile, or, where not even that worked, made when it is due.

A task that is marked as leaving (a drained node, a rebalancing) gets a successor elsewhere, as many at
once as an update replaces, and stops when that runs.

By default tasks overlap (start-first) unless they take a host port, write to a
volume, are limited per node or have static addresses; the update's order overrides that. Those of ordered and of
fenced services never do, however long that takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from swarmpy.node.plan import pods, resize, restart, statics
from swarmpy.node.plan.base import (
    UPDATE_PARALLELISM,
    NewId,
    View,
    desired_running,
    earliest,
    is_live,
    is_lost,
    is_terminal,
    may_run,
)
from swarmpy.node.plan.budgets import Budgets, is_available
from swarmpy.node.plan.partition import stop_limit_ms
from swarmpy.node.plan.tasks import (
    OWN_END_STATES,
    READY,
    RUNNING,
    SHUTDOWN,
    Edits,
    age_order,
    host_ports_of,
    is_up,
    new_task,
)
from swarmpy.proto import objects_pb2, types_pb2

_ROLLBACKS = (
    objects_pb2.UPDATE_ROLLBACK_STARTED,
    objects_pb2.UPDATE_ROLLBACK_PAUSED,
    objects_pb2.UPDATE_ROLLBACK_COMPLETED,
)


_BOTH_HALVES = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_WAITING, objects_pb2.UPDATE_PAUSED)


def _unknown(_task_id: str) -> int | None:
    return None


class Phase(Enum):
    """Where a slot is, after its plan."""

    CURRENT = auto()  # has a runnable task of the present spec
    OUTDATED = auto()  # runs an older spec, nothing newer is under way
    FINISHED = auto()  # ended, and the restart policy wants no more
    EMPTY = auto()  # nothing runs, and nothing may be started


@dataclass(slots=True)
class Slot:
    """All tasks of one slot, oldest first, and what planning found."""

    number: int = 0
    node_id: str = ""  # of a global service's slot
    tasks: list[objects_pb2.Task] = field(default_factory=list)
    leaving: list[objects_pb2.Task] = field(default_factory=list)  # wanted REMOVE; they may still run
    phase: Phase = Phase.EMPTY
    current: objects_pb2.Task | None = None  # in the store already; a new one shows as None
    created: bool = False  # this plan makes a task here

    @property
    def newest(self) -> objects_pb2.Task | None:
        return self.tasks[-1] if self.tasks else None


def serves(slot: Slot, view: View) -> bool:
    """Whether a task of the slot runs and is ready."""
    return any(is_available(task, view) for task in slot.tasks)


def is_outdated(task: objects_pb2.Task, service: objects_pb2.Service) -> bool:
    """Whether a task differs from what its service would make now."""
    if task.spec_version == service.spec_version:
        return False
    if not resize.same_but_limits(task.spec, service.spec.task):
        return True
    return not _same_ports(task.host_ports, host_ports_of(service.spec))


def _same_ports(taken: Iterable[types_pb2.Port], wanted: Iterable[types_pb2.Port]) -> bool:
    have, want = list(taken), list(wanted)
    if len(have) != len(want):
        return False
    return all(
        (a.protocol, a.target, a.address) == (b.protocol, b.target, b.address)
        and b.published in (0, a.published)
        for a, b in zip(have, want, strict=True)
    )


def active_config(service: objects_pb2.Service) -> types_pb2.UpdateConfig:
    """The rollback's configuration while rolling back, else the update's."""
    return service.spec.rollback if service.update_status.state in _ROLLBACKS else service.spec.update


def may_overlap(service: objects_pb2.Service) -> bool:
    """Whether an old and a new task of a slot may run beside each other."""
    if service.spec.HasField("ordered") or service.spec.task.fenced:
        return False
    order = active_config(service).order
    if order != types_pb2.ORDER_AUTO:
        return order == types_pb2.ORDER_START_FIRST
    writes = any(
        mount.type == types_pb2.MOUNT_VOLUME and not mount.read_only
        for mount in pods.mounts(service.spec.task)
    )
    limited = service.spec.task.placement.max_replicas_per_node > 0
    alone = limited or bool(statics.networks_of(service.spec.task))
    return not writes and not alone and not host_ports_of(service.spec)


@dataclass(slots=True)
class ServicePlanner:
    """One planning run for one service: edits and the time to look again."""

    view: View
    service: objects_pb2.Service
    now_ms: int
    new_id: NewId
    edits: Edits = field(default_factory=Edits)
    wake_ms: int | None = None
    overlap: bool = False

    moves_known: int = -1
    moves_begun: int = 0
    hidden: tuple[int, ...] = ()
    before: objects_pb2.Task | None = None
    probe_ms: Callable[[str], int | None] = _unknown  # mean time of a task's health checks

    def __post_init__(self) -> None:
        self.overlap = may_overlap(self.service)
        self.edits.now_ms = self.now_ms
        self.hidden = tuple(self.service.update_status.hidden_versions)

    @property
    def keeps_both(self) -> bool:
        """A blue-green update runs old and new beside each other until it is over."""
        return bool(self.hidden) and self.service.update_status.state in _BOTH_HALVES

    def wake(self, time_ms: int) -> None:
        """Look again at a time, if it is still to come."""
        if time_ms > self.now_ms:
            self.wake_ms = earliest(self.wake_ms, time_ms)

    def settle(self, slot: Slot, *, may_start: bool = True, as_before: bool = False) -> None:
        """Bring one slot forward; sets its phase. With `as_before` it is filled with the revision before."""
        slot.tasks.sort(key=age_order)
        alive = []
        for task in slot.tasks:
            if is_live(task, self.view):
                alive.append(task)
            elif desired_running(task):
                self.edits.desire(task, SHUTDOWN, "NODE_LOST")
        kept = self._keep_best(alive)
        for task in kept:
            self._start_if_due(task, slot)
        if may_start and self._is_to_move(slot, kept):
            self._move(slot, kept)
            return
        current = [task for task in kept if not self._is_outdated(task)]
        for task in current:
            if task.spec != self.service.spec.task and not is_terminal(task.status.state):
                self.edits.change_limits(task, self.service)
        if current:
            slot.phase, slot.current = Phase.CURRENT, current[0]
        elif kept:
            slot.phase = Phase.OUTDATED
        elif may_start:
            self._refill(slot)
        elif as_before:
            self._refill_as_before(slot)

    def _is_outdated(self, task: objects_pb2.Task) -> bool:
        wanted = self.service.spec.task
        return is_outdated(task, self.service) or not resize.fits(self.view, task, wanted)

    def _keep_best(self, alive: list[objects_pb2.Task]) -> list[objects_pb2.Task]:
        if len(alive) <= 1:
            return alive
        best = sorted(alive, key=lambda task: (-task.status.state, *age_order(task)))
        if any(task.leaving_ms for task in alive) and not self.keeps_both:
            return self._keep_leaving(best)
        current = [task for task in best if not self._is_outdated(task)]
        outdated = [task for task in best if self._is_outdated(task)]
        if self.hidden:  # of two old ones, the one with the traffic
            outdated.sort(key=lambda task: task.spec_version in self.hidden)
        kept = current[:1]
        if not current or (self.overlap and (not is_up(current[0]) or self.keeps_both)):
            kept += outdated[:1]
        kept_ids = {task.meta.id for task in kept}
        for task in alive:
            if task.meta.id not in kept_ids:
                self.edits.desire(task, SHUTDOWN, "REPLACED")
        return kept

    def _keep_leaving(self, best: list[objects_pb2.Task]) -> list[objects_pb2.Task]:
        """A task that leaves goes when its successor runs; of several successors the best stays."""
        coming = [
            task
            for task in best
            if not task.leaving_ms and (task.status.state >= RUNNING or not self._is_outdated(task))
        ]
        coming.sort(key=lambda task: self._is_outdated(task))
        kept = coming[:1]
        if not coming or (self.overlap and not is_up(coming[0])):
            kept += [task for task in best if task.leaving_ms][:1]
        kept_ids = {task.meta.id for task in kept}
        for task in best:
            if task.meta.id not in kept_ids:
                self.edits.desire(task, SHUTDOWN, "MOVED")
        return kept

    def _is_to_move(self, slot: Slot, kept: list[objects_pb2.Task]) -> bool:
        """Nothing but leaving tasks is there, and the slot is bound to no node."""
        return bool(kept) and not slot.node_id and not self.keeps_both and all(t.leaving_ms for t in kept)

    def _move(self, slot: Slot, kept: list[objects_pb2.Task]) -> None:
        """Start the successor of a task that is to leave its node, as many at once as an update replaces."""
        slot.phase = Phase.OUTDATED if self._is_outdated(kept[0]) else Phase.CURRENT
        slot.current = kept[0] if slot.phase is Phase.CURRENT else None
        config = self.service.spec.update
        at_once = config.parallelism if config.HasField("parallelism") else UPDATE_PARALLELISM
        if at_once and self._moves_under_way() >= at_once:
            return
        carried = kept[0].restart if kept[0].HasField("restart") else None
        tried = self.failed_attempt(slot)
        if tried is not None and tried.meta.created_ms >= kept[0].leaving_ms:
            carried = restart.successor(tried, self.now_ms)
            if carried is None or self._is_held(tried, carried):
                return  # the restart policy gave the move up, or not yet: better here than nowhere
        if not self.overlap and not all(map(Budgets(self.view).allows, kept)):
            return  # the budget has room again when other tasks of the service run
        self.moves_begun += 1
        if not self.overlap:
            for task in kept:
                self.edits.desire(task, SHUTDOWN, "MOVED")
        self.start(slot, carried)

    def _moves_under_way(self) -> int:
        """Slots in which a successor of a leaving task does not run yet, with those of this plan."""
        if self.moves_known < 0:
            slots: dict[int, list[objects_pb2.Task]] = {}
            for task in self.view.tasks_of_service(self.service.meta.id):
                slots.setdefault(task.slot, []).append(task)
            self.moves_known = sum(map(self._is_moving, slots.values()))
        return self.moves_known + self.moves_begun

    def _is_moving(self, tasks: list[objects_pb2.Task]) -> bool:
        """The slot has given up, or is about to, a task that leaves, and its successor does not run yet."""
        if not any(task.leaving_ms for task in tasks):
            return False
        there = [
            task for task in tasks if not is_terminal(task.status.state) and not is_lost(task, self.view)
        ]
        wanted = {task.meta.id for task in there if self.edits.wanted(task) <= RUNNING}
        if any(task.leaving_ms and task.meta.id not in wanted for task in there):
            return True
        return not all(is_up(task) for task in there if task.meta.id in wanted and not task.leaving_ms)

    def _start_if_due(self, task: objects_pb2.Task, slot: Slot) -> None:
        if task.desired_state != READY:
            return
        if task.restart.start_after_ms > self.now_ms:
            self.wake(task.restart.start_after_ms)
            return
        limit_ms = task.meta.created_ms + stop_limit_ms(task.spec)
        for_ever = task.spec.fenced or self.service.spec.HasField("ordered")
        if self._is_blocked(slot, task) and (for_ever or self.now_ms < limit_ms):
            self.wake(limit_ms)
            return
        self.edits.desire(task, RUNNING)

    def _is_blocked(self, slot: Slot, successor: objects_pb2.Task | None) -> bool:
        """Whether a predecessor still runs that the successor must not run beside."""
        return not self.overlap and any(
            may_run(task, self.view)
            for task in (*slot.tasks, *slot.leaving)
            if successor is None or task.meta.id != successor.meta.id
        )

    def _refill(self, slot: Slot) -> None:
        last = slot.newest
        if last is None or last.status.state not in OWN_END_STATES:
            carried = last.restart if last is not None and not is_outdated(last, self.service) else None
            self.start(slot, carried)
            return
        carried = restart.successor(last, self.now_ms)
        if not is_outdated(last, self.service):
            if carried is None:
                slot.phase = Phase.FINISHED
            elif self._is_held(last, carried):
                slot.created, slot.phase, slot.current = True, Phase.CURRENT, None
            else:
                self.start(slot, carried)
        elif carried is None:
            slot.phase = Phase.OUTDATED
        else:
            self.start(slot, None)

    def _refill_as_before(self, slot: Slot) -> None:
        """The slot's last task again, of the revision that it was; a new slot gets what most others run."""
        last = slot.newest
        if last is None:
            if (like := self._most_run()) is not None:
                self.start(slot, None, like=like)
                slot.phase = Phase.OUTDATED
            return
        if last.spec_version == self.service.spec_version:
            return
        carried = last.restart
        if last.status.state in OWN_END_STATES:
            again = restart.successor(last, self.now_ms)
            if again is None:
                slot.phase = Phase.FINISHED
                return
            carried = again
        slot.phase = Phase.OUTDATED
        if not self._is_held(last, carried):
            self.start(slot, carried, like=last)
            slot.phase = Phase.OUTDATED

    def _most_run(self) -> objects_pb2.Task | None:
        """A task of the revision before that most live tasks are of, the newest of several; None = nothing runs."""
        if self.before is None:
            tasks = self.view.tasks_of_service(self.service.meta.id)
            old = [t for t in tasks if t.spec_version != self.service.spec_version and is_live(t, self.view)]
            counts = Counter(task.spec_version for task in old)
            self.before = max(old, key=lambda t: (counts[t.spec_version], t.spec_version), default=None)
        return self.before

    def _is_held(self, last: objects_pb2.Task, carried: objects_pb2.Restart | None) -> bool:
        """What could not even be prepared is not prepared again before its time: else it would fail again at once."""
        if carried is None or carried.start_after_ms <= self.now_ms or restart.was_prepared(last):
            return False
        self.wake(carried.start_after_ms)
        return True

    def start(
        self, slot: Slot, carried: objects_pb2.Restart | None, like: objects_pb2.Task | None = None
    ) -> None:
        """Make the slot's next task, waiting in READY where it may not run yet; with `like` as that one was."""
        due_ms = carried.start_after_ms if carried is not None else 0
        waits = due_ms > self.now_ms or self._is_blocked(slot, None)
        task = new_task(
            self.service,
            self.new_id,
            self.now_ms,
            slot=slot.number,
            node_id=slot.node_id,
            desired=READY if waits else RUNNING,
            restart=carried,
        )
        if like is not None:
            task.spec.CopyFrom(like.spec)
            task.spec_version = like.spec_version
            del task.host_ports[:]
            task.host_ports.extend(like.host_ports)
        self.edits.create(task)
        self.wake(due_ms)
        slot.created, slot.phase, slot.current = True, Phase.CURRENT, None

    def can_replace(self, slot: Slot) -> bool:
        """Whether the restart policy still lets the present spec into an outdated slot."""
        tried = self.failed_attempt(slot)
        return tried is None or restart.successor(tried, self.now_ms) is not None

    def replace(self, slot: Slot) -> bool:
        """Put the present spec in an outdated slot; False if the restart policy gave it up."""
        if not self.can_replace(slot):
            return False
        tried = self.failed_attempt(slot)
        carried = None if tried is None else restart.successor(tried, self.now_ms)
        if tried is not None and self._is_held(tried, carried):
            slot.created = True  # it is at it
            return True
        if not self.overlap:
            for task in slot.tasks:
                if desired_running(task):
                    self.edits.desire(task, SHUTDOWN, "UPDATED")
        self.start(slot, carried)
        return True

    def failed_attempt(self, slot: Slot) -> objects_pb2.Task | None:
        """The newest task of the present spec that ended by itself in a slot."""
        for task in reversed(slot.tasks):
            if task.spec_version == self.service.spec_version and task.status.state in OWN_END_STATES:
                return task
        return None
