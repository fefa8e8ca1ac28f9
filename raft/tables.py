"""The kinds of object, and tables of them with indexes.

A table maps ids to protobuf messages. Messages in a table are never changed in
place: a write puts a new message, so whoever holds an old one holds a value.
Everything here is deterministic: the same writes give the same `digest`.

Adding a kind: a message in objects.proto, an enum value and a oneof field in
store.proto, one line in KINDS.

Errors:
    LookupFailed
    ├── NotFound      no object answers to the reference
    └── Ambiguous     several do; `.ids` names them
"""

from __future__ import annotations

import hashlib
import re
import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TypeAlias, cast

from swarmpy.proto import objects_pb2, store_pb2

Entity: TypeAlias = (
    objects_pb2.Cluster
    | objects_pb2.Node
    | objects_pb2.Service
    | objects_pb2.Task
    | objects_pb2.Network
    | objects_pb2.Image
    | objects_pb2.Credential
    | objects_pb2.Schedule
    | objects_pb2.Autoscaler
    | objects_pb2.Volume
    | objects_pb2.Policy
    | objects_pb2.Secret
    | objects_pb2.Config
    | objects_pb2.Token
    | objects_pb2.Stack
)
Key: TypeAlias = tuple[store_pb2.Kind, str]

_LABEL = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]*[A-Za-z0-9])?")
_PRINTABLE = re.compile(r"[!-~]+")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
ID_LENGTH_MAX = 128
_DIGEST_MODULUS = 1 << 256


class LookupFailed(Exception):
    """A reference did not lead to exactly one object."""


class NotFound(LookupFailed):
    pass


class Ambiguous(LookupFailed):
    def __init__(self, message: str, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


@dataclass(frozen=True)
class KindInfo:
    """How one kind is called and named. `field` is its oneof field in store_pb2.Object."""

    message: type[Entity]
    field: str
    name_length_max: int = 63
    label_name: bool = True  # letters, digits, - and _; otherwise any printable text
    unique_name: bool = True
    fold_case: bool = True  # names end up in DNS, where case does not count
    name_optional: bool = False


KINDS: dict[store_pb2.Kind, KindInfo] = {
    store_pb2.KIND_CLUSTER: KindInfo(objects_pb2.Cluster, "cluster", name_optional=True),
    store_pb2.KIND_NODE: KindInfo(
        objects_pb2.Node, "node", 253, label_name=False, unique_name=False, name_optional=True
    ),
    store_pb2.KIND_SERVICE: KindInfo(objects_pb2.Service, "service"),
    store_pb2.KIND_TASK: KindInfo(
        objects_pb2.Task, "task", 255, label_name=False, unique_name=False, name_optional=True
    ),
    store_pb2.KIND_NETWORK: KindInfo(objects_pb2.Network, "network"),
    store_pb2.KIND_IMAGE: KindInfo(objects_pb2.Image, "image", 512, label_name=False, fold_case=False),
    store_pb2.KIND_AUTOSCALER: KindInfo(objects_pb2.Autoscaler, "autoscaler"),
    store_pb2.KIND_SCHEDULE: KindInfo(objects_pb2.Schedule, "schedule", 52),
    store_pb2.KIND_VOLUME: KindInfo(objects_pb2.Volume, "volume", 128, label_name=False, fold_case=False),
    store_pb2.KIND_POLICY: KindInfo(objects_pb2.Policy, "policy"),
    store_pb2.KIND_CREDENTIAL: KindInfo(objects_pb2.Credential, "credential", 255, label_name=False),
    store_pb2.KIND_SECRET: KindInfo(objects_pb2.Secret, "secret", 64, label_name=False, fold_case=False),
    store_pb2.KIND_CONFIG: KindInfo(objects_pb2.Config, "config", 64, label_name=False, fold_case=False),
    store_pb2.KIND_STACK: KindInfo(objects_pb2.Stack, "stack", 64, label_name=False, fold_case=False),
    store_pb2.KIND_TOKEN: KindInfo(objects_pb2.Token, "token", name_optional=True),
}
_KIND_OF_TYPE: dict[type, store_pb2.Kind] = {info.message: kind for kind, info in KINDS.items()}
_KIND_OF_FIELD: dict[str, store_pb2.Kind] = {info.field: kind for kind, info in KINDS.items()}


def kind_of(entity: Entity) -> store_pb2.Kind:
    return _KIND_OF_TYPE[type(entity)]


def key_of(entity: Entity) -> Key:
    return (_KIND_OF_TYPE[type(entity)], sys.intern(entity.meta.id))


def noun(kind: store_pb2.Kind) -> str:
    """The word for people: "service", "task", …"""
    return KINDS[kind].field


def wrap(entity: Entity) -> store_pb2.Object:
    """The object as the log and the API carry it (a copy)."""
    wrapped = store_pb2.Object()
    getattr(wrapped, noun(kind_of(entity))).CopyFrom(entity)
    return wrapped


def unwrap(wrapped: store_pb2.Object) -> Entity:
    """The message inside; ValueError if there is none. Shares memory with `wrapped`."""
    field = wrapped.WhichOneof("kind")
    if field is None or field not in _KIND_OF_FIELD:
        raise ValueError("the object has no kind that this version knows")
    return cast(Entity, getattr(wrapped, field))


def copy_entity(entity: Entity) -> Entity:
    copied = type(entity)()
    copied.CopyFrom(entity)  # type: ignore[arg-type]
    return copied


def name_problem(kind: store_pb2.Kind, name: str) -> str:
    """A sentence saying why the name is refused, or "" when it is fine."""
    info = KINDS[kind]
    if not name:
        return "" if info.name_optional else f"a {info.field} needs a name"
    if len(name) > info.name_length_max:
        return f"{info.field} name {name[:40]!r}… has {len(name)} characters, at most {info.name_length_max}"
    if info.label_name and not _LABEL.fullmatch(name):
        return (
            f"{info.field} name {name!r} is refused: use letters, digits, '-' and '_', "
            "starting and ending with a letter or digit"
        )
    if not info.label_name and not _PRINTABLE.fullmatch(name):
        return f"{info.field} name {name!r} is refused: it may not hold spaces or control characters"
    return ""


def id_problem(kind: store_pb2.Kind, identity: str) -> str:
    if not identity:
        return f"a {noun(kind)} needs an id"
    if len(identity) > ID_LENGTH_MAX or not _ID.fullmatch(identity):
        return f"{noun(kind)} id {identity[:40]!r} is refused: 1–{ID_LENGTH_MAX} of letters, digits, '_.:-'"
    return ""


def name_key(kind: store_pb2.Kind, namespace: str, name: str) -> tuple[str, str]:
    return (namespace, name.lower() if KINDS[kind].fold_case else name)


def digest_of(entity: Entity) -> int:
    """A number that stands for this exact content; sums of them do not depend on order."""
    kind, identity = key_of(entity)
    text = entity.SerializeToString(deterministic=True)
    head = b"%d\0%s\0" % (kind, identity.encode())
    return int.from_bytes(hashlib.sha256(head + text).digest(), "big")


Rows: TypeAlias = tuple[tuple[str, ...], dict[str, Entity]]


def in_order(kinds: list[Rows]) -> Iterator[Entity]:
    """What `Tables.copy` gave, kinds and ids in order; never long in one step, for other threads' sake."""
    return (rows[identity] for ids, rows in kinds for identity in ids)


# One id stands for itself: a set of one takes 200 bytes more, and most names and slots have one.
_Index: TypeAlias = dict[object, str | set[str]]
_NOTHING: frozenset[str] = frozenset()


def _link(index: _Index, value: object, identity: str) -> None:
    members = index.get(value)
    if members is None:
        index[value] = identity
    elif isinstance(members, str):
        index[value] = {members, identity}
    else:
        members.add(identity)


def _unlink(index: _Index, value: object, identity: str) -> None:
    members = index[value]
    if not isinstance(members, str):
        members.discard(identity)
        if members:
            return
    del index[value]


def members_of(index: _Index, value: object) -> Set[str]:
    """The ids found there, in no order."""
    members = index.get(value, _NOTHING)
    return {members} if isinstance(members, str) else members


class Table:
    """All objects of one kind: by id, by name, and ids in order."""

    def __init__(self, kind: store_pb2.Kind) -> None:
        self.kind = kind
        self.rows: dict[str, Entity] = {}
        self._sorted: list[str] = []
        self._names: _Index = {}

    def put(self, entity: Entity) -> Entity | None:
        identity = sys.intern(entity.meta.id)  # every index holds it: once is enough
        old = self.rows.get(identity)
        self.rows[identity] = entity
        name = self._name_of(entity)
        if old is None:
            insort(self._sorted, identity)
            _link(self._names, name, identity)
        elif (old_name := self._name_of(old)) != name:
            _unlink(self._names, old_name, identity)
            _link(self._names, name, identity)
        return old

    def remove(self, identity: str) -> Entity | None:
        old = self.rows.pop(identity, None)
        if old is not None:
            del self._sorted[bisect_left(self._sorted, identity)]
            _unlink(self._names, self._name_of(old), identity)
        return old

    def __iter__(self) -> Iterator[Entity]:
        return map(self.rows.__getitem__, tuple(self._sorted))

    def __len__(self) -> int:
        return len(self.rows)

    def copy(self) -> Rows:
        """The ids in order, and the objects."""
        return tuple(self._sorted), self.rows.copy()

    def named(self, namespace: str, name: str) -> list[str]:
        return sorted(members_of(self._names, name_key(self.kind, namespace, name)))

    def with_prefix(self, prefix: str, limit: int) -> list[str]:
        """At most `limit` ids that begin with `prefix`, in order."""
        start = bisect_left(self._sorted, prefix)
        return [i for i in self._sorted[start : start + limit] if i.startswith(prefix)]

    def _name_of(self, entity: Entity) -> tuple[str, str]:
        return name_key(self.kind, entity.meta.namespace, entity.meta.name)


class TaskTable(Table):
    """Tasks, also by service, slot, node, observed state and desired state."""

    def __init__(self, kind: store_pb2.Kind) -> None:
        super().__init__(kind)
        self.by_service: _Index = {}
        self.by_slot: _Index = {}
        self.by_node: _Index = {}
        self.by_state: _Index = {}
        self.by_desired: _Index = {}

    def put(self, entity: Entity) -> Entity | None:
        old = super().put(entity)
        places = self._places(cast(objects_pb2.Task, entity))
        identity = sys.intern(entity.meta.id)
        if old is None:
            for index, value in places:
                _link(index, value, identity)
            return None
        for (index, value), (_, former) in zip(
            places, self._places(cast(objects_pb2.Task, old)), strict=True
        ):
            if value != former:
                _unlink(index, former, identity)
                _link(index, value, identity)
        return old

    def remove(self, identity: str) -> Entity | None:
        old = super().remove(identity)
        if old is not None:
            for index, value in self._places(cast(objects_pb2.Task, old)):
                _unlink(index, value, identity)
        return old

    def _places(self, task: objects_pb2.Task) -> tuple[tuple[_Index, object], ...]:
        """Under what it is found in which index."""
        service_id = sys.intern(task.service_id)
        return (
            (self.by_service, service_id),
            (self.by_slot, (service_id, task.slot)),
            (self.by_node, task.node_id),
            (self.by_state, task.status.state),
            (self.by_desired, task.desired_state),
        )

    def select(self, index: _Index, value: object) -> list[objects_pb2.Task]:
        rows = self.rows
        return [cast(objects_pb2.Task, rows[i]) for i in sorted(members_of(index, value))]

    def both(self, service_id: str, state: int) -> list[objects_pb2.Task]:
        """Of a service and in a state; costs the smaller of the two sets."""
        found = members_of(self.by_service, service_id) & members_of(self.by_state, state)
        return [cast(objects_pb2.Task, self.rows[i]) for i in sorted(found)]


class Tables:
    """One table per kind, and a digest of everything in them."""

    def __init__(self, *, with_digest: bool = True) -> None:
        self.tasks = TaskTable(store_pb2.KIND_TASK)
        self.by_kind: dict[store_pb2.Kind, Table] = {
            kind: self.tasks if kind == store_pb2.KIND_TASK else Table(kind) for kind in KINDS
        }
        self.digest = 0
        self._digests: dict[Key, int] | None = {} if with_digest else None
        self._unscrubbed: list[Key] = []

    def put(self, entity: Entity) -> Entity | None:
        """Store it as it is; returns what was there before."""
        key = key_of(entity)
        if self._digests is not None:
            number = digest_of(entity)
            self.digest = (self.digest + number - self._digests.get(key, 0)) % _DIGEST_MODULUS
            self._digests[key] = number
        return self.by_kind[key[0]].put(entity)

    def remove(self, kind: store_pb2.Kind, identity: str) -> Entity | None:
        if self._digests is not None:
            self.digest = (self.digest - self._digests.pop((kind, identity), 0)) % _DIGEST_MODULUS
        return self.by_kind[kind].remove(identity)

    def rows(self) -> list[Entity]:
        """Every object of every kind as of now: kinds and ids in order."""
        return list(in_order(self.copy()))

    def copy(self) -> list[Rows]:
        """Every object of every kind as of now; takes the loop a few milliseconds at 100,000."""
        return [self.by_kind[kind].copy() for kind in sorted(self.by_kind)]

    def clear(self) -> None:
        """Let go of everything bit by bit, so that other threads get their turns."""
        for table in self.by_kind.values():
            while table.rows:
                table.rows.popitem()
        while self._digests:
            self._digests.popitem()

    def scrub(self, limit: int) -> Key | None:
        """Compare the next `limit` objects with their digests; goes round through all of them."""
        digests = self._digests or {}
        if not self._unscrubbed:
            self._unscrubbed = list(digests)
        batch = self._unscrubbed[-limit:]
        del self._unscrubbed[-limit:]
        for key in batch:
            row = self.by_kind[key[0]].rows.get(key[1])
            if digests.get(key) != (digest_of(row) if row is not None else None):
                return key
        return None

    def mutated(self) -> list[Key]:
        """Objects that are not what was put: somebody changed a stored message in place."""
        digests = self._digests or {}
        return [key_of(row) for row in self.rows() if digests.get(key_of(row), 0) != digest_of(row)]
