"""The replicated state of the cluster: tables changed only by `Store.apply`.

Rules:
- A transaction is applied whole or refused whole. A refusal is a
  TransactionResult with an error_code, never an exception.
- An older epoch is refused, whatever consensus lets through: a deposed leader
  cannot write. Only `new_epoch` moves the epoch, and only upwards.
- Optimistic locking: `meta.version` is the log index of the last write, and a
  change says which version it was made from.
- A request id is carried out at most once; its first answer is given again.
  Only successes are remembered: a refusal changed nothing and may be retried.
- A `check` makes every replica note its hash at that index; whoever compares the
  notes of several replicas learns whether they hold the same state.
- Stored messages are values: a write stores a new one. Whoever gets one from a
  View must not change it (copy first).
- A state of a higher level than this version understands is not applied: StateTooNew (raft/levels).
- No clock, no randomness: every replica computes the same state and hash.

Reading is a View (raft/view.py); the Store is the View of what is committed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft import levels
from swarmpy.raft import snapshot as snapshots
from swarmpy.raft.tables import (
    KINDS,
    Entity,
    Key,
    Rows,
    Tables,
    copy_entity,
    id_problem,
    key_of,
    members_of,
    name_key,
    name_problem,
    noun,
    unwrap,
)
from swarmpy.raft.view import ChangeEvent, Commit, Draft, View

__all__ = ["ChangeEvent", "Commit", "Draft", "Store", "View", "result_of", "transaction"]

CHANGES_MAX = 200
TRANSACTION_BYTES_MAX = 1_500_000
REQUESTS_KEPT = 10_000
REQUEST_ID_LENGTH_MAX = 128
CHECKS_KEPT = 8

CONFLICT = "CONFLICT"
NAME_TAKEN = "NAME_TAKEN"
NOT_FOUND = "NOT_FOUND"
STALE_EPOCH = "STALE_EPOCH"
INVALID = "INVALID"
EXISTS = "EXISTS"


class _Staged(NamedTuple):
    """A change that passed its checks: `new` is None for a delete."""

    key: Key
    new: Entity | None


class _Refused(Exception):
    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Store(View):
    """The state machine under the log; see the module's rules.

    `listeners` are called synchronously after a transaction with at least one
    event and after a check; `restore_listeners` after a snapshot replaced everything. A listener
    must not raise and must not change the store.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[Commit], None]] = []
        self.restore_listeners: list[Callable[[], None]] = []
        self._tables = Tables()
        self._requests: dict[str, store_pb2.TransactionResult] = {}
        # Their order again: to find the first key of a dict that lost many from its front takes long.
        self._request_order: deque[str] = deque()
        self._checks: dict[int, bytes] = {}
        self._index = 0
        self._epoch = 0

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

    def answer_of(self, request_id: str) -> store_pb2.TransactionResult | None:
        """The first answer to a request that was carried out, as long as it is remembered."""
        return self._requests.get(request_id) if request_id else None

    def check_at(self, index: int) -> bytes | None:
        """This replica's hash at a recent check; None if it was not here then, or long ago."""
        return self._checks.get(index)

    def scrub(self, limit: int) -> Key | None:
        """Hash the next `limit` objects anew: the first that is not what was stored, else None."""
        return self._tables.scrub(limit)

    def copy_rows(self) -> list[Rows]:
        """Every object as of now, for somebody who works with them while the store goes on."""
        return self._tables.copy()

    def task_ids_in_state(self, state: types_pb2.TaskState) -> list[str]:
        return list(members_of(self._tables.tasks.by_state, state))

    def services_with_tasks(self) -> set[str]:
        return {str(service_id) for service_id in self._tables.tasks.by_service}

    def nodes_with_tasks(self) -> set[str]:
        return {str(node_id) for node_id in self._tables.tasks.by_node}

    def count_on_node(self, node_id: str) -> int:
        return len(members_of(self._tables.tasks.by_node, node_id))

    def tasks_of_service_in_state(
        self, service_id: str, state: types_pb2.TaskState
    ) -> list[objects_pb2.Task]:
        return self._tables.tasks.both(service_id, state)

    def _tasks(self, index: str, value: object) -> list[objects_pb2.Task]:
        return self._tables.tasks.select(getattr(self._tables.tasks, index), value)

    def apply(self, index: int, command: bytes) -> bytes:
        """Carry out one Transaction (bytes); the answer is a TransactionResult (bytes). StateTooNew."""
        self._index = index
        try:
            return self._apply(index, command).SerializeToString()
        except _Refused as refused:
            return store_pb2.TransactionResult(
                index=index, error_code=refused.code, error=str(refused)
            ).SerializeToString()

    def _apply(self, index: int, command: bytes) -> store_pb2.TransactionResult:
        request = _decode(command)
        self._check_epoch(request)
        first = self._requests.get(request.request_id) if request.request_id else None
        if first is not None:
            again = store_pb2.TransactionResult()
            again.CopyFrom(first)
            again.duplicate = True
            return again
        staged = self._stage(request)
        if request.new_epoch:
            self._epoch = request.epoch
        events = tuple(self._carry_out(change, index, request.now_ms) for change in staged)
        result = store_pb2.TransactionResult(
            index=index, touched=[store_pb2.ObjectKey(kind=c.key[0], id=c.key[1]) for c in staged]
        )
        if request.request_id:
            self._requests[request.request_id] = result
            self._request_order.append(request.request_id)
            if len(self._requests) > REQUESTS_KEPT:
                del self._requests[self._request_order.popleft()]
        if request.check:
            self._checks[index] = self.state_hash()
            if len(self._checks) > CHECKS_KEPT:
                del self._checks[next(iter(self._checks))]
        if events or request.check:
            commit = Commit(index, request.now_ms, events, request.actor)
            for listener in tuple(self.listeners):
                listener(commit)
        return result

    def _check_epoch(self, request: store_pb2.Transaction) -> None:
        if request.new_epoch and request.epoch <= self._epoch:
            raise _Refused(STALE_EPOCH, f"epoch {request.epoch} is not above the current one, {self._epoch}")
        if request.epoch < self._epoch:
            raise _Refused(
                STALE_EPOCH,
                f"the transaction is of epoch {request.epoch}, the cluster is in epoch {self._epoch}: "
                "its leader has been replaced, send the request again",
            )
        if request.epoch > self._epoch and not request.new_epoch:
            raise _Refused(
                INVALID, f"epoch {request.epoch} was never begun, the current one is {self._epoch}"
            )

    def _stage(self, request: store_pb2.Transaction) -> list[_Staged]:
        staged: dict[Key, _Staged] = {}
        for change in request.changes:
            entry = self._check(change)
            if entry.key in staged:
                raise _Refused(INVALID, f"{_title(entry.key)} is changed twice in one transaction")
            staged[entry.key] = entry
        self._check_names(staged)
        return list(staged.values())

    def _check(self, change: store_pb2.Change) -> _Staged:
        action = change.WhichOneof("action")
        if action == "put":
            return self._check_put(change)
        if action != "delete" or change.delete.kind not in KINDS:
            raise _Refused(INVALID, "a change is neither a put nor a delete of a known kind of object")
        key = (change.delete.kind, change.delete.id)
        old = self.get(*key)
        expected = 0 if change.any_version else change.expected_version
        if old is None and not expected:
            raise _Refused(NOT_FOUND, f"{_title(key)} does not exist")
        _check_version(key, old, expected)
        return _Staged(key, None)

    def _check_put(self, change: store_pb2.Change) -> _Staged:
        try:
            new = copy_entity(unwrap(change.put))
        except ValueError as error:
            raise _Refused(INVALID, str(error)) from error
        if isinstance(new, objects_pb2.Cluster):
            levels.check(new.state_level)
        key = key_of(new)
        problem = id_problem(*key) or name_problem(key[0], new.meta.name)
        if problem:
            raise _Refused(INVALID, problem)
        old = self.get(*key)
        if change.any_version:
            if old is None:
                raise _Refused(NOT_FOUND, f"{_title(key)} does not exist")
        elif change.expected_version:
            _check_version(key, old, change.expected_version)
        elif old is not None:
            raise _Refused(EXISTS, f"{_title(key)} exists already")
        return _Staged(key, new)

    def _check_names(self, staged: dict[Key, _Staged]) -> None:
        taken: dict[tuple[int, tuple[str, str]], str] = {}
        for (kind, identity), new in staged.values():
            if new is None or not KINDS[kind].unique_name or not new.meta.name:
                continue
            name = (kind, name_key(kind, new.meta.namespace, new.meta.name))
            others = [
                i for i in self.ids_named(kind, new.meta.name, new.meta.namespace) if (kind, i) not in staged
            ]
            owner = taken.setdefault(name, identity)
            if others or owner != identity:
                holder = others[0] if others else owner
                raise _Refused(
                    NAME_TAKEN,
                    f"{noun(kind)} name {new.meta.name!r} is taken by {holder}: "
                    "choose another name or remove that one",
                )

    def _carry_out(self, change: _Staged, index: int, now_ms: int) -> ChangeEvent:
        (kind, identity), new = change
        if new is None:
            return ChangeEvent(kind, identity, self._tables.remove(kind, identity), None)
        old = self.get(kind, identity)
        new.meta.version = index
        new.meta.updated_ms = now_ms
        new.meta.created_ms = now_ms if old is None else old.meta.created_ms
        self._tables.put(new)
        return ChangeEvent(kind, identity, old, new)

    def snapshot(self) -> Iterator[bytes]:
        """Everything as of this call, in chunks; may be iterated later and in another thread."""
        cluster = self.cluster()
        level = cluster.state_level if cluster is not None else 0
        header = store_pb2.SnapshotHeader(index=self._index, epoch=self._epoch, state_level=level)
        return snapshots.write(header, self._tables.copy(), self._requests.copy())

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace everything by a snapshot; raises SnapshotDamaged or StateTooNew and then changes nothing."""
        self.prepare(chunks)()()

    def prepare(self, chunks: Iterable[bytes]) -> Callable[[], Callable[[], None]]:
        """The slow part of `restore`, which another thread may do; what it gives does the rest.

        That gives the slow end: freeing the former objects at once would take as long as reading them.
        """
        tables = Tables()
        read = snapshots.read(chunks)
        for entity in read.entities:
            tables.put(entity)

        def replace() -> Callable[[], None]:
            former, self._tables = self._tables, tables
            self._requests = dict(read.requests)
            self._request_order = deque(self._requests)
            self._checks = {}
            self._index = read.header.index
            self._epoch = read.header.epoch
            for listener in tuple(self.restore_listeners):
                listener()
            return former.clear

        return replace

    def state_hash(self) -> bytes:
        """32 bytes, equal on replicas that hold the same objects, epoch and answered requests."""
        last = next(reversed(self._requests), "")
        head = f"{self._epoch}/{self._tables.digest:x}/{len(self._requests)}/{last}"
        return hashlib.sha256(head.encode()).digest()

    def mutated(self) -> list[Key]:
        """Objects that somebody changed in place, against the rules: for tests, it hashes everything."""
        return self._tables.mutated()


def transaction(
    changes: Iterable[store_pb2.Change],
    *,
    epoch: int,
    now_ms: int,
    request_id: str = "",
    actor: str = "",
    new_epoch: bool = False,
    check: bool = False,
) -> bytes:
    """A Transaction as the log carries it."""
    return store_pb2.Transaction(
        epoch=epoch,
        request_id=request_id,
        now_ms=now_ms,
        changes=changes,
        actor=actor,
        new_epoch=new_epoch,
        check=check,
    ).SerializeToString()


def result_of(answer: bytes) -> store_pb2.TransactionResult:
    """The answer of `Store.apply`, decoded."""
    return store_pb2.TransactionResult.FromString(answer)


def _decode(command: bytes) -> store_pb2.Transaction:
    if len(command) > TRANSACTION_BYTES_MAX:
        raise _Refused(INVALID, f"the transaction has {len(command)} bytes, at most {TRANSACTION_BYTES_MAX}")
    try:
        request = store_pb2.Transaction.FromString(command)
    except DecodeError as error:
        raise _Refused(INVALID, "the command is not a transaction") from error
    if len(request.changes) > CHANGES_MAX:
        raise _Refused(INVALID, f"the transaction has {len(request.changes)} changes, at most {CHANGES_MAX}")
    if len(request.request_id) > REQUEST_ID_LENGTH_MAX:
        raise _Refused(INVALID, f"the request id is longer than {REQUEST_ID_LENGTH_MAX} characters")
    return request


def _check_version(key: Key, old: Entity | None, expected: int) -> None:
    if not expected:
        return
    if old is None:
        raise _Refused(CONFLICT, f"{_title(key)} is gone: it was deleted meanwhile")
    if old.meta.version != expected:
        raise _Refused(
            CONFLICT,
            f"{_title(key)} was changed meanwhile (version {old.meta.version}, "
            f"the change was made from {expected}): read it again and repeat",
        )


def _title(key: Key) -> str:
    return f"{noun(key[0])} {key[1]!r}"
