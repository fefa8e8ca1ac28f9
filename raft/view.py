"""Reading the cluster's objects, and drafts of changes to them.

A View is what planners, servers and tests read from. The Store is a View of
what is committed. A Draft is a View of a base plus changes that are not
proposed yet, so that a planner can build on its own decisions.

Messages from a View are values: copy one before changing it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import (
    Ambiguous,
    Entity,
    Key,
    NotFound,
    Tables,
    copy_entity,
    key_of,
    noun,
    wrap,
)


@dataclass(frozen=True)
class ChangeEvent:
    """One object's change: created (old None), updated, or deleted (new None)."""

    kind: store_pb2.Kind
    id: str
    old: Entity | None
    new: Entity | None

    @cached_property
    def is_relabelled(self) -> bool:
        """Whether it has other labels, version and times than before, and is otherwise the same."""
        if self.old is None or self.new is None:
            return False
        like_old = copy_entity(self.new)
        like_old.meta.labels.clear()
        like_old.meta.labels.update(self.old.meta.labels)
        like_old.meta.version, like_old.meta.updated_ms = self.old.meta.version, self.old.meta.updated_ms
        return like_old == self.old


@dataclass(frozen=True)
class Commit:
    """What one applied transaction changed, in the transaction's order."""

    index: int
    now_ms: int
    events: tuple[ChangeEvent, ...]
    actor: str


class View(ABC):
    """Read access to the objects. Lists are in id order; nothing returned may be changed."""

    @property
    @abstractmethod
    def index(self) -> int: ...

    @property
    @abstractmethod
    def epoch(self) -> int: ...

    @abstractmethod
    def get(self, kind: store_pb2.Kind, identity: str) -> Entity | None: ...

    @abstractmethod
    def all(self, kind: store_pb2.Kind) -> Iterable[Entity]: ...

    @abstractmethod
    def count(self, kind: store_pb2.Kind) -> int: ...

    @abstractmethod
    def ids_named(self, kind: store_pb2.Kind, name: str, namespace: str = "") -> Sequence[str]: ...

    @abstractmethod
    def ids_with_prefix(self, kind: store_pb2.Kind, prefix: str, limit: int) -> Sequence[str]: ...

    @abstractmethod
    def _tasks(self, index: str, value: object) -> list[objects_pb2.Task]: ...

    def by_name(self, kind: store_pb2.Kind, name: str, namespace: str = "") -> Entity | None:
        """The object with this name. Nodes may share one: then the lowest id (use `find`)."""
        ids = self.ids_named(kind, name, namespace)
        return self.get(kind, ids[0]) if ids else None

    def find(self, kind: store_pb2.Kind, ref: str, namespace: str = "") -> Entity:
        """By id, else by name, else by unique id prefix; raises NotFound or Ambiguous."""
        word = noun(kind)
        if ref:
            exact = self.get(kind, ref)
            if exact is not None:
                return exact
            named = () if kind == store_pb2.KIND_TASK else self.ids_named(kind, ref, namespace)
            ids = named or self.ids_with_prefix(kind, ref, 10)
            if len(ids) > 1:
                raise Ambiguous(
                    f"{word} {ref!r} is ambiguous, it fits {', '.join(ids)}: give the whole id", tuple(ids)
                )
            if ids:
                found = self.get(kind, ids[0])
                assert found is not None
                return found
        raise NotFound(f"no {word} {ref!r}: it is neither an id, a name nor the beginning of an id")

    def cluster(self) -> objects_pb2.Cluster | None:
        return next(iter(cast(Iterable[objects_pb2.Cluster], self.all(store_pb2.KIND_CLUSTER))), None)

    def node(self, identity: str) -> objects_pb2.Node | None:
        return cast(objects_pb2.Node | None, self.get(store_pb2.KIND_NODE, identity))

    def service(self, identity: str) -> objects_pb2.Service | None:
        return cast(objects_pb2.Service | None, self.get(store_pb2.KIND_SERVICE, identity))

    def task(self, identity: str) -> objects_pb2.Task | None:
        return cast(objects_pb2.Task | None, self.get(store_pb2.KIND_TASK, identity))

    def network(self, identity: str) -> objects_pb2.Network | None:
        return cast(objects_pb2.Network | None, self.get(store_pb2.KIND_NETWORK, identity))

    def image(self, identity: str) -> objects_pb2.Image | None:
        return cast(objects_pb2.Image | None, self.get(store_pb2.KIND_IMAGE, identity))

    def schedule(self, identity: str) -> objects_pb2.Schedule | None:
        return cast(objects_pb2.Schedule | None, self.get(store_pb2.KIND_SCHEDULE, identity))

    def autoscaler(self, identity: str) -> objects_pb2.Autoscaler | None:
        return cast(objects_pb2.Autoscaler | None, self.get(store_pb2.KIND_AUTOSCALER, identity))

    def autoscalers(self) -> Iterable[objects_pb2.Autoscaler]:
        return cast(Iterable[objects_pb2.Autoscaler], self.all(store_pb2.KIND_AUTOSCALER))

    def schedules(self) -> Iterable[objects_pb2.Schedule]:
        return cast(Iterable[objects_pb2.Schedule], self.all(store_pb2.KIND_SCHEDULE))

    def volume(self, identity: str) -> objects_pb2.Volume | None:
        return cast(objects_pb2.Volume | None, self.get(store_pb2.KIND_VOLUME, identity))

    def nodes(self) -> Iterable[objects_pb2.Node]:
        return cast(Iterable[objects_pb2.Node], self.all(store_pb2.KIND_NODE))

    def services(self) -> Iterable[objects_pb2.Service]:
        return cast(Iterable[objects_pb2.Service], self.all(store_pb2.KIND_SERVICE))

    def tasks(self) -> Iterable[objects_pb2.Task]:
        return cast(Iterable[objects_pb2.Task], self.all(store_pb2.KIND_TASK))

    def networks(self) -> Iterable[objects_pb2.Network]:
        return cast(Iterable[objects_pb2.Network], self.all(store_pb2.KIND_NETWORK))

    def images(self) -> Iterable[objects_pb2.Image]:
        return cast(Iterable[objects_pb2.Image], self.all(store_pb2.KIND_IMAGE))

    def volumes(self) -> Iterable[objects_pb2.Volume]:
        return cast(Iterable[objects_pb2.Volume], self.all(store_pb2.KIND_VOLUME))

    def policies(self) -> Iterable[objects_pb2.Policy]:
        return cast(Iterable[objects_pb2.Policy], self.all(store_pb2.KIND_POLICY))

    def tasks_of_service(self, service_id: str) -> list[objects_pb2.Task]:
        return self._tasks("by_service", service_id)

    def tasks_of_slot(self, service_id: str, slot: int) -> list[objects_pb2.Task]:
        return self._tasks("by_slot", (service_id, slot))

    def tasks_of_node(self, node_id: str) -> list[objects_pb2.Task]:
        """Tasks assigned to the node; "" gives those not assigned yet."""
        return self._tasks("by_node", node_id)

    def services_with_tasks(self) -> set[str]:
        """The ids of the services that tasks are of; "" for tasks of none."""
        return {task.service_id for task in self.tasks()}

    def nodes_with_tasks(self) -> set[str]:
        """The ids of the nodes that tasks are assigned to; "" for those not assigned yet."""
        return {task.node_id for task in self.tasks()}

    def count_on_node(self, node_id: str) -> int:
        """How many tasks are assigned to the node, those that have ended included."""
        return len(self.tasks_of_node(node_id))

    def tasks_in_state(self, state: types_pb2.TaskState) -> list[objects_pb2.Task]:
        """By observed state."""
        return self._tasks("by_state", state)

    def tasks_of_service_in_state(
        self, service_id: str, state: types_pb2.TaskState
    ) -> list[objects_pb2.Task]:
        """A service's tasks by observed state."""
        return [task for task in self.tasks_of_service(service_id) if task.status.state == state]

    def task_ids_in_state(self, state: types_pb2.TaskState) -> list[str]:
        """Their ids alone, in no order."""
        return [task.meta.id for task in self.tasks_in_state(state)]

    def tasks_desired(self, state: types_pb2.TaskState) -> list[objects_pb2.Task]:
        """By desired state."""
        return self._tasks("by_desired", state)


class Draft(View):
    """A base view plus changes that are not proposed yet.

    `changes()` gives them with the versions of the base, in the order in which
    objects were first touched. A put that equals the base is no change.
    """

    def __init__(self, base: View) -> None:
        self._base = base
        self._puts = Tables(with_digest=False)
        self._touched: dict[Key, None] = {}

    @property
    def index(self) -> int:
        return self._base.index

    @property
    def epoch(self) -> int:
        return self._base.epoch

    def put(self, entity: Entity) -> None:
        """Create or replace; a copy is kept. Putting what the base has is no change."""
        key = key_of(entity)
        if entity == self._base.get(*key):
            self._touched.pop(key, None)
            self._puts.remove(*key)
            return
        self._touched[key] = None
        self._puts.put(copy_entity(entity))

    def delete(self, kind: store_pb2.Kind, identity: str) -> None:
        """Nothing happens if there is no such object."""
        self._puts.remove(kind, identity)
        if self._base.get(kind, identity) is None:
            self._touched.pop((kind, identity), None)
        else:
            self._touched[(kind, identity)] = None

    def __len__(self) -> int:
        """How many changes there are."""
        return len(self._touched)

    def changes(self) -> list[store_pb2.Change]:
        made: list[store_pb2.Change] = []
        for kind, identity in self._touched:
            new, old = self._puts.by_kind[kind].rows.get(identity), self._base.get(kind, identity)
            version = old.meta.version if old is not None else 0
            if new is not None:
                made.append(store_pb2.Change(put=wrap(new), expected_version=version))
            else:
                key = store_pb2.ObjectKey(kind=kind, id=identity)
                made.append(store_pb2.Change(delete=key, expected_version=version))
        return made

    def get(self, kind: store_pb2.Kind, identity: str) -> Entity | None:
        if (kind, identity) in self._touched:
            return self._puts.by_kind[kind].rows.get(identity)
        return self._base.get(kind, identity)

    def all(self, kind: store_pb2.Kind) -> Iterable[Entity]:
        if not any(touched == kind for touched, _ in self._touched):
            return self._base.all(kind)
        kept = [e for e in self._base.all(kind) if (kind, e.meta.id) not in self._touched]
        return sorted([*kept, *self._puts.by_kind[kind]], key=_id_of)

    def count(self, kind: store_pb2.Kind) -> int:
        hidden = sum(k == kind and self._base.get(k, i) is not None for k, i in self._touched)
        return self._base.count(kind) - hidden + len(self._puts.by_kind[kind])

    def ids_named(self, kind: store_pb2.Kind, name: str, namespace: str = "") -> Sequence[str]:
        kept = [i for i in self._base.ids_named(kind, name, namespace) if (kind, i) not in self._touched]
        return sorted([*kept, *self._puts.by_kind[kind].named(namespace, name)])

    def ids_with_prefix(self, kind: store_pb2.Kind, prefix: str, limit: int) -> Sequence[str]:
        wide = self._base.ids_with_prefix(kind, prefix, limit + len(self._touched))
        kept = [i for i in wide if (kind, i) not in self._touched]
        return sorted([*kept, *self._puts.by_kind[kind].with_prefix(prefix, limit)])[:limit]

    def count_on_node(self, node_id: str) -> int:
        changed = any(kind == store_pb2.KIND_TASK for kind, _ in self._touched)
        return len(self.tasks_of_node(node_id)) if changed else self._base.count_on_node(node_id)

    def tasks_of_service_in_state(
        self, service_id: str, state: types_pb2.TaskState
    ) -> list[objects_pb2.Task]:
        base = self._base.tasks_of_service_in_state(service_id, state)
        touched = self._touched
        kept = (
            [task for task in base if (store_pb2.KIND_TASK, task.meta.id) not in touched] if touched else base
        )
        mine = [
            task
            for task in self._puts.tasks.select(self._puts.tasks.by_service, service_id)
            if task.status.state == state
        ]
        return sorted([*kept, *mine], key=_id_of) if mine else kept

    def _tasks(self, index: str, value: object) -> list[objects_pb2.Task]:
        base = self._base._tasks(index, value)
        if not self._touched:
            return base
        own = self._puts.tasks
        kept = [t for t in base if (store_pb2.KIND_TASK, t.meta.id) not in self._touched]
        mine = own.select(getattr(own, index), value)
        return sorted([*kept, *mine], key=_id_of) if mine else kept


def _id_of(entity: Entity) -> str:
    return entity.meta.id
