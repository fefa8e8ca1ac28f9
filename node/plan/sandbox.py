"""A copy of the cluster to try things in: what would follow if this were written now.

A `Sandbox` is a View of its own tables, made from what `Tables.copy` gave, so it may live in another
thread while the real store goes on. `run_to_rest` plays the leader's planners and obedient nodes on
it in virtual time: a task that is assigned runs at once, one that is to stop stops at once, nothing
fails, and where nothing is left to do now the clock jumps to the next timer. It ends when no task is
on its way and no update is under way, or at a bound, which it says.

It foretells decisions, not the world: images that do not exist and programs that crash are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from swarmpy.node.plan.base import ChangeEvent, Planner, View, copy_of, is_away, is_terminal
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit
from swarmpy.raft.tables import Entity, Rows, Tables, in_order, key_of, unwrap

ROUNDS_MAX = 4_000
HORIZON_MS = 24 * 3_600_000
KEYS_PER_PLAN = 100
_UNDER_WAY = (objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_ROLLBACK_STARTED)


class Sandbox(View):
    """Tables of its own. `put` and `delete` are the only changes; messages given to it stay values."""

    def __init__(self, rows: list[Rows], index: int, epoch: int) -> None:
        self._tables = Tables(with_digest=False)
        self._index, self._epoch = index, epoch
        for entity in in_order(rows):
            self._tables.put(entity)

    @property
    def index(self) -> int:
        return self._index

    @property
    def epoch(self) -> int:
        return self._epoch

    def get(self, kind: store_pb2.Kind, identity: str) -> Entity | None:
        return self._tables.by_kind[kind].rows.get(identity)

    def all(self, kind: store_pb2.Kind) -> Iterable[Entity]:
        return iter(self._tables.by_kind[kind])

    def count(self, kind: store_pb2.Kind) -> int:
        return len(self._tables.by_kind[kind])

    def ids_named(self, kind: store_pb2.Kind, name: str, namespace: str = "") -> Sequence[str]:
        return self._tables.by_kind[kind].named(namespace, name)

    def ids_with_prefix(self, kind: store_pb2.Kind, prefix: str, limit: int) -> Sequence[str]:
        return self._tables.by_kind[kind].with_prefix(prefix, limit)

    def _tasks(self, index: str, value: object) -> list[objects_pb2.Task]:
        return self._tables.tasks.select(getattr(self._tables.tasks, index), value)

    def put(self, entity: Entity, now_ms: int) -> ChangeEvent:
        """Store it under the next version. The message belongs to the sandbox from here on."""
        self._index += 1
        kind, identity = key_of(entity)
        old = self.get(kind, identity)
        entity.meta.version, entity.meta.updated_ms = self._index, now_ms
        entity.meta.created_ms = now_ms if old is None else old.meta.created_ms
        self._tables.put(entity)
        return ChangeEvent(kind, identity, old, entity)

    def delete(self, kind: store_pb2.Kind, identity: str) -> ChangeEvent:
        """Nothing happens if there is no such object."""
        self._index += 1
        return ChangeEvent(kind, identity, self._tables.remove(kind, identity), None)

    def apply(self, changes: Iterable[store_pb2.Change], now_ms: int) -> list[ChangeEvent]:
        """Carry changes out whatever versions they were made from."""
        events = []
        for change in changes:
            if change.WhichOneof("action") == "delete":
                events.append(self.delete(change.delete.kind, change.delete.id))
            else:
                events.append(self.put(unwrap(change.put), now_ms))
        return events


@dataclass
class _Line:
    """One planner with its dirty keys and wake times."""

    planner: Planner
    dirty: dict[str, None] = field(default_factory=dict)
    wakes: dict[str, int] = field(default_factory=dict)

    def take(self, now_ms: int) -> list[str]:
        for key in [key for key, wake_ms in self.wakes.items() if wake_ms <= now_ms]:
            del self.wakes[key]
            self.dirty[key] = None
        keys = list(self.dirty)[: getattr(self.planner, "keys_per_plan", KEYS_PER_PLAN)]
        for key in keys:
            del self.dirty[key]
            self.wakes.pop(key, None)
        return keys


@dataclass(frozen=True)
class Rest:
    """How a run ended. `took_ms` is virtual time; `cut` says that it was stopped before it came to rest."""

    took_ms: int
    rounds: int
    cut: bool


def run_to_rest(
    world: Sandbox, planners: Iterable[Planner], changes: Iterable[store_pb2.Change], now_ms: int
) -> Rest:
    """Write `changes` into the world and let the cluster follow, starting at `now_ms`."""
    at_rest = is_at_rest(world)
    run = _Run(world, [_Line(planner) for planner in planners], now_ms)
    run.feed(world.apply(changes, now_ms))
    if not at_rest:
        run.feed_all()
    return run.to_rest()


def is_at_rest(world: View) -> bool:
    """Nothing is on its way, so that nothing follows but from a change: saves looking at everything."""
    if not world.count(store_pb2.KIND_NETWORK):
        return False  # a cluster that is just being founded
    if any(
        service.update_status.state in _UNDER_WAY or service.pending_delete for service in world.services()
    ):
        return False
    return all(
        is_terminal(task.status.state)
        or (task.desired_state == task.status.state == types_pb2.TASK_RUNNING and not task.leaving_ms)
        for task in world.tasks()
    )


class _Run:
    def __init__(self, world: Sandbox, lines: list[_Line], now_ms: int) -> None:
        self.world, self.lines, self.now_ms, self.start_ms = world, lines, now_ms, now_ms
        self._ids = count(1)
        self._moved: dict[str, None] = {}  # tasks whose node has something to do
        for line in lines:
            if (attach := getattr(line.planner, "attach", None)) is not None:
                attach(world)

    def feed(self, happened: Iterable[ChangeEvent]) -> None:
        events = tuple(happened)
        commit = Commit(self.world.index, self.now_ms, events, "")
        for line in self.lines:
            if (note := getattr(line.planner, "note", None)) is not None:
                note(commit, self.world)
        for event in events:
            if event.kind == store_pb2.KIND_TASK:
                self._moved[event.id] = None
            for line in self.lines:
                line.dirty.update(dict.fromkeys(line.planner.dirty(event, self.world)))

    def feed_all(self) -> None:
        """What was under way before is under way here, too."""
        for line in self.lines:
            line.dirty.update(dict.fromkeys(line.planner.all_keys(self.world)))
        self._moved.update(dict.fromkeys(task.meta.id for task in self.world.tasks()))

    def to_rest(self) -> Rest:
        for rounds in range(1, ROUNDS_MAX + 1):
            if self._step():
                continue
            wakes = [wake_ms for line in self.lines for wake_ms in line.wakes.values()]
            at_once = bool(wakes) and min(wakes) <= self.now_ms + 1  # cut short: there is more of it
            if not wakes or not (at_once or self._under_way()):
                return Rest(self.now_ms - self.start_ms, rounds, cut=False)
            self.now_ms = max(self.now_ms + 1, min(wakes))
            if self.now_ms - self.start_ms > HORIZON_MS:
                return Rest(HORIZON_MS, rounds, cut=True)
        return Rest(self.now_ms - self.start_ms, ROUNDS_MAX, cut=True)

    def _step(self) -> bool:
        """Let every planner and every node act once; whether anything happened."""
        acted = False
        for line in self.lines:
            keys = line.take(self.now_ms)
            if not keys:
                continue
            plan = line.planner.plan(self.world, keys, self.now_ms, self._new_id)
            line.dirty.update(dict.fromkeys(plan.unseen))
            if plan.wake_ms is not None:
                wake_ms = plan.wake_ms if plan.changes else max(plan.wake_ms, self.now_ms + 1)
                line.wakes.update(dict.fromkeys(keys, wake_ms))
            if plan.changes:
                acted = True
                self.feed(self.world.apply(plan.changes, self.now_ms))
            acted = acted or bool(line.dirty)
        moved, self._moved = self._moved, {}
        events = [event for identity in moved for event in self._obey(identity)]
        self.feed(events)
        return acted or bool(events)

    def _new_id(self) -> str:
        return f"planned{next(self._ids):08d}"

    def _obey(self, identity: str) -> Iterator[ChangeEvent]:
        """What a node that always succeeds does with a task."""
        task = self.world.task(identity)
        if task is None or task.status.state < types_pb2.TASK_ASSIGNED or is_terminal(task.status.state):
            return
        if is_away(task, self.world):
            return
        wanted, state = task.desired_state, task.status.state
        if wanted > types_pb2.TASK_RUNNING:
            state = types_pb2.TASK_SHUTDOWN
        elif task.spec.pull_only:
            state = types_pb2.TASK_COMPLETE
        elif state < wanted:
            state = wanted
        if state != task.status.state or (state == types_pb2.TASK_RUNNING and not task.status.ready_ms):
            changed = copy_of(task)
            changed.status.state, changed.status.since_ms = state, self.now_ms
            changed.status.ready = state == types_pb2.TASK_RUNNING
            if changed.status.ready and not changed.status.started_ms:
                changed.status.started_ms = self.now_ms
            if changed.status.ready and not changed.status.ready_ms:
                changed.status.ready_ms = self.now_ms
            yield self.world.put(changed, self.now_ms)

    def _under_way(self) -> bool:
        """Whether some service is on its way to what it wants: only then a timer matters to the outcome."""
        if any(service.update_status.state in _UNDER_WAY for service in self.world.services()):
            return True
        return any(
            task.desired_state < types_pb2.TASK_RUNNING
            for task in self.world.tasks_desired(types_pb2.TASK_READY)
        )
