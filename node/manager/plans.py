"""Plans: what writes would come to, without writing anything.

The checks are the Writer's own, so a plan is refused where the write would be. The planners run in
a thread, on a copy of the tables (see node/plan/sandbox.py): the leader goes on meanwhile, and one plan at a
time is enough for people.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from swarmpy.node.manager.errors import Conflict, Invalid, NotFound, Refused
from swarmpy.node.manager.queries import public
from swarmpy.node.plan import outcome, planners, rebalance
from swarmpy.node.plan.explain import WhatIfRefused, explain
from swarmpy.node.plan.sandbox import Rest, Sandbox, run_to_rest
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Draft, Store, View
from swarmpy.raft.tables import Entity, LookupFailed, Rows, kind_of, unwrap, wrap

WRITES_MAX = 200
WAITING_MAX = 8
TASKS_MAX = 5_000
NEW_ID = "planned"


class Writes(Protocol):
    """The checks of the Writer; none of them writes."""

    def over(self, view: View) -> Writes: ...

    async def created(self, obj: Entity, *, by_manager: bool = False) -> Entity: ...

    async def updated(self, obj: Entity, *, pinned: bool = False) -> Entity: ...

    def rolled_out(self, request: control_pb2.RolloutRequest, actor: str) -> objects_pb2.Service: ...

    def deleted(self, kind: store_pb2.Kind, ref: str, force: bool) -> tuple[Entity, store_pb2.Change]: ...


class Plans:
    """Plans of one manager, made while it leads."""

    def __init__(self, store: Store, writes: Writes) -> None:
        self._store, self._writes = store, writes
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0

    async def plan(
        self, request: control_pb2.PlanRequest, now_ms: int, actor: str
    ) -> control_pb2.PlanResponse:
        """Raises what the writes would raise."""
        if not 1 <= len(request.writes) <= WRITES_MAX:
            raise Invalid(f"writes: there are {len(request.writes)}, a plan is of 1 to {WRITES_MAX}")
        response = control_pb2.PlanResponse()
        draft = Draft(self._store)  # so that a service may use the network made before it
        changes = []
        for number, write in enumerate(request.writes):
            change = await self._change(self._writes.over(draft), write, response, actor)
            _give_id(change, number)  # others may refer to it
            if change.WhichOneof("action") == "put":
                draft.put(unwrap(change.put))
            else:
                draft.delete(change.delete.kind, change.delete.id)
            changes.append(change)
        async with self._turn():
            store = self._store
            response.index = store.index
            rows, index, epoch = store.copy_rows(), store.index, store.epoch
            await asyncio.to_thread(foretell, rows, index, epoch, changes, now_ms, response)
        return response

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for one's turn; Refused where too many wait already."""
        if self._waiting >= WAITING_MAX:
            raise Refused(f"{WAITING_MAX} plans are being made already: plan again shortly")
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                yield
        finally:
            self._waiting -= 1

    async def explain(self, request: control_pb2.ExplainRequest, now_ms: int) -> control_pb2.ExplainResponse:
        """Why a task is where it is; worked out on a copy, in a thread."""
        async with self._turn():
            rows, index, epoch = self._store.copy_rows(), self._store.index, self._store.epoch
            return await asyncio.to_thread(lambda: explained(Sandbox(rows, index, epoch), request, now_ms))

    async def rebalance(
        self, request: control_pb2.RebalanceRequest, now_ms: int
    ) -> tuple[control_pb2.RebalanceResponse, list[store_pb2.Change]]:
        """Which tasks would move; worked out on a copy, in a thread."""
        async with self._turn():
            rows, index, epoch = self._store.copy_rows(), self._store.index, self._store.epoch
            return await asyncio.to_thread(
                lambda: rebalance_plan(Sandbox(rows, index, epoch), request, now_ms)
            )

    async def _change(
        self, writes: Writes, write: control_pb2.PlannedWrite, response: control_pb2.PlanResponse, actor: str
    ) -> store_pb2.Change:
        """The change that a write would propose; notes the difference of the object."""
        old: Entity | None = None
        match write.WhichOneof("write"):
            case "create":
                new = await writes.created(_object(write.create.object))
                action = control_pb2.EVENT_CREATE
                # A volume that is there already in the same form is given back as it is.
                change = store_pb2.Change(put=wrap(new), expected_version=new.meta.version)
            case "update":
                asked = _object(write.update.object)
                old = self._store.get(kind_of(asked), asked.meta.id)
                new = await writes.updated(asked, pinned=write.update.pinned)
                if old is not None and asked.meta.version != old.meta.version:
                    raise Conflict("the object changed since it was read: plan again")
                action = control_pb2.EVENT_UPDATE
                change = store_pb2.Change(put=wrap(new), expected_version=new.meta.version)
            case "rollout":
                rolled = writes.rolled_out(write.rollout, actor)
                old, new = self._store.service(rolled.meta.id), rolled
                action = control_pb2.EVENT_UPDATE
                change = store_pb2.Change(put=wrap(new), expected_version=new.meta.version)
            case "delete":
                asked_for = write.delete
                new, change = writes.deleted(asked_for.kind, asked_for.ref, asked_for.force)
                action = control_pb2.EVENT_DELETE
            case _:
                raise Invalid("writes: one of them is empty")
        entry = response.objects.add(kind=kind_of(new), name=new.meta.name or new.meta.id, action=action)
        entry.object.CopyFrom(wrap(public(new)))
        if action != control_pb2.EVENT_DELETE:
            entry.fields.extend(differences(old, new))
        return change


def differences(old: Entity | None, new: Entity) -> list[control_pb2.FieldChange]:
    """What the user changes: the spec, the labels, and what the write itself sets in motion."""
    found = [*outcome.field_changes(None if old is None else old.meta, new.meta, "meta")]
    found = [change for change in found if change.path.startswith(("meta.name", "meta.labels"))]
    spec = getattr(new, "spec", None)
    if spec is not None:
        changed = list(outcome.field_changes(getattr(old, "spec", None), spec, "spec"))
        named = {change.path.removesuffix(".source") for change in changed if change.path.endswith(".source")}
        found += [change for change in changed if change.path.removesuffix(".id") not in named]
    if isinstance(new, objects_pb2.Service) and isinstance(old, objects_pb2.Service):
        before, after = old.update_status, new.update_status
        if after.state and after.state != before.state:
            found += [
                change
                for change in outcome.field_changes(before, after, "update_status")
                if change.path.endswith(".state")
            ]
    return found


def foretell(
    rows: list[Rows],
    index: int,
    epoch: int,
    changes: list[store_pb2.Change],
    now_ms: int,
    response: control_pb2.PlanResponse,
) -> None:
    """Fill in what the cluster would do. Runs in a thread, on values of its own."""
    before, after = Sandbox(rows, index, epoch), Sandbox(rows, index, epoch)
    run_to_rest(before, planners.all_planners(), (), now_ms)
    for number, change in enumerate(changes):
        _give_id(change, number)
    rest: Rest = run_to_rest(after, planners.all_planners(), changes, now_ms)
    tasks, staying = outcome.task_changes(before, after)
    response.tasks.extend(tasks[:TASKS_MAX])
    response.staying, response.took_ms, response.cut = staying, rest.took_ms, rest.cut
    if len(tasks) > TASKS_MAX:
        response.warnings.append(f"{len(tasks)} slots change, the first {TASKS_MAX} are listed")
    for entry in response.objects:
        if entry.kind == store_pb2.KIND_SERVICE and entry.object.service.spec.HasField("global"):
            nodes = [node for node in after.nodes() if node.status.state == types_pb2.NODE_READY]
            if not nodes:
                response.warnings.append("no node is up: a global service starts nothing now")


def _give_id(change: store_pb2.Change, number: int) -> None:
    """New objects may not have an id yet."""
    if change.WhichOneof("action") == "put":
        entity = unwrap(change.put)
        entity.meta.id = entity.meta.id or f"{NEW_ID}{number}"


def _object(wrapped: store_pb2.Object) -> Entity:
    if wrapped.WhichOneof("kind") is None:
        raise Invalid("object: is empty")
    return unwrap(wrapped)


def explained(store: View, request: control_pb2.ExplainRequest, now_ms: int) -> control_pb2.ExplainResponse:
    """The explanation of a task (by name, id or beginning of the id) or of a service."""
    service = task = None
    try:
        found = store.find(store_pb2.KIND_SERVICE, request.target)
        assert isinstance(found, objects_pb2.Service)
        service = found
    except LookupFailed:
        task = _task(store, request.target)
        service = store.service(task.service_id)
    if service is None:
        raise NotFound(f"the service of task {request.target!r} is gone")
    try:
        return explain(store, service, task, request, now_ms)
    except WhatIfRefused as error:
        raise NotFound(str(error)) from error


def _task(store: View, target: str) -> objects_pb2.Task:
    """By id, name, SERVICE.SLOT, or the beginning of an id."""
    ids = store.ids_named(store_pb2.KIND_TASK, target)
    task = store.task(ids[0]) if ids else None
    if task is None:
        name, _, slot = target.rpartition(".")
        owner = store.by_name(store_pb2.KIND_SERVICE, name) if name and slot.isdigit() else None
        if owner is not None:
            tasks = store.tasks_of_slot(owner.meta.id, int(slot))
            task = max(tasks, key=lambda one: (one.meta.created_ms, one.meta.id), default=None)
    if task is None:
        try:
            found = store.find(store_pb2.KIND_TASK, target)
            assert isinstance(found, objects_pb2.Task)
            return found
        except LookupFailed as error:
            raise NotFound(f"there is no service or task {target!r}") from error
    return task


def rebalance_plan(
    store: View, request: control_pb2.RebalanceRequest, now_ms: int
) -> tuple[control_pb2.RebalanceResponse, list[store_pb2.Change]]:
    """Which tasks would move, and the changes that let them."""
    service_id = ""
    if request.service:
        try:
            service_id = store.find(store_pb2.KIND_SERVICE, request.service).meta.id
        except LookupFailed as error:
            raise NotFound(f"there is no service {request.service!r}") from error
    if request.max_moves > WRITES_MAX:
        raise Invalid(f"max_moves: is {request.max_moves}, at most {WRITES_MAX}")
    found = rebalance.moves_for(
        store, now_ms, service_id=service_id, most=request.max_moves or rebalance.MOVES
    )
    response = control_pb2.RebalanceResponse(index=store.index, skipped=found.skipped)
    for move in found.moves:
        task = move.task
        response.moves.add(
            action=control_pb2.PLAN_MOVE, service=task.service_name, slot=str(task.slot), task_id=task.meta.id,
            from_node=outcome.node_name(store, store, task.node_id),
            to_node=outcome.node_name(store, store, move.to_node_id),
        )  # fmt: skip
    return response, list(rebalance.changes_of(found.moves, now_ms))
