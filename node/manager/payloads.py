"""Secrets and configs: made once, never changed, removed when nothing uses them, given to who runs them.

They are in the state like everything else, and the state's files are sealed (raft/seal). No read gives a
secret's content back, only Get gives a config's (`queries.public`). A node gets the content of what one of
its living tasks refers to, by a call of its own (`Fetch`): nothing of it is in its assignments, which are kept
on its disk.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import grpc
from swarmpy.node import payloads, templates
from swarmpy.node.ca.guard import current_caller
from swarmpy.node.manager import levels
from swarmpy.node.manager.answers import abort
from swarmpy.node.manager.errors import Forbidden, Invalid, ManagerError, NotFound, Refused, Taken
from swarmpy.node.manager.image_keep import is_living
from swarmpy.node.manager.tasks import Tasks
from swarmpy.node.plan import limits
from swarmpy.node.plan.base import is_terminal
from swarmpy.proto import objects_pb2, payloads_pb2, payloads_pb2_grpc, store_pb2, types_pb2
from swarmpy.raft.levels import PAYLOADS
from swarmpy.raft.store import Store, View
from swarmpy.raft.tables import kind_of, name_problem, noun

log = logging.getLogger(__name__)
Payload: TypeAlias = objects_pb2.Secret | objects_pb2.Config
Context = grpc.aio.ServicerContext[Any, Any]
BYTES_MAX = {store_pb2.KIND_SECRET: 500 * 1024, store_pb2.KIND_CONFIG: 1000 * 1024}
ALL_BYTES_MAX = 64 * 1024 * 1024  # of all together: every manager has them in memory
KINDS = (store_pb2.KIND_SECRET, store_pb2.KIND_CONFIG)
KINDS_OF_MESSAGE = (objects_pb2.Secret, objects_pb2.Config)
TEMPLATE_DRIVERS = {"", "golang"}
_NAME = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?")
_UNDER_WAY = {
    objects_pb2.UPDATE_UPDATING, objects_pb2.UPDATE_PAUSED, objects_pb2.UPDATE_WAITING,
    objects_pb2.UPDATE_ROLLBACK_STARTED, objects_pb2.UPDATE_ROLLBACK_PAUSED,
}  # fmt: skip


# -- users' writes --------------------------------------------------------------------


def created(view: View, wanted: Payload, new_id: str) -> Payload:
    """The object to store. Raises Invalid or Taken."""
    kind = kind_of(wanted)
    word = noun(kind)
    _check_versions(view, f"{word}s")
    made = type(wanted)(data=wanted.data, size_bytes=len(wanted.data), template_driver=wanted.template_driver)
    made.meta.id, made.meta.name = new_id, wanted.meta.name
    made.meta.namespace = wanted.meta.namespace
    made.meta.labels.update(wanted.meta.labels)
    _check_labels(made)
    problem = name_problem(kind, made.meta.name)
    if problem or not _NAME.fullmatch(made.meta.name):
        rule = "1 to 64 letters, digits, '-', '_' and '.', a letter or digit at both ends"
        raise Invalid(f"meta.name: {problem or f'{word} name {made.meta.name[:80]!r} is refused: {rule}'}")
    if not made.data:
        raise Invalid(f"data: a {word} has at least one byte")
    if len(made.data) > BYTES_MAX[kind]:
        raise Invalid(f"data: {len(made.data)} bytes, a {word} has at most {BYTES_MAX[kind]}")
    _check_template(made)
    if view.by_name(kind, made.meta.name, made.meta.namespace) is not None:
        raise Taken(
            f"a {word} named {made.meta.name!r} exists already, and its content never changes: choose another name"
        )
    present = sum(known.size_bytes for known in _all(view))
    if present + made.size_bytes > ALL_BYTES_MAX:
        raise Refused(
            f"all secrets and configs together would have {present + made.size_bytes} bytes, at most "
            f"{ALL_BYTES_MAX}: remove what is not used any more"
        )
    return made


def _check_versions(view: View, what: str) -> None:
    """Raises Refused until all managers keep them, and all nodes give them to their tasks."""
    levels.require(view, PAYLOADS, what)
    behind = [
        node.meta.name
        for node in view.nodes()
        if not node.removed and node.description.version and node.description.state_level < PAYLOADS
    ]
    if behind:
        raise Refused(
            f"{what} must be understood by every node, or its tasks would start without them: upgrade "
            f"{', '.join(sorted(behind))} first"
        )


def changed(view: View, wanted: Payload) -> Payload:
    """Labels; the content, where the request holds one, has to be what it is."""
    kind = kind_of(wanted)
    stored = view.get(kind, wanted.meta.id)
    if not isinstance(stored, (objects_pb2.Secret, objects_pb2.Config)):
        raise NotFound(f"there is no {noun(kind)} {wanted.meta.name or wanted.meta.id!r}")
    other = wanted.data and wanted.data != stored.data
    if other or wanted.template_driver != stored.template_driver:
        raise Taken(
            f"the content of {noun(kind)} {stored.meta.name!r} never changes: make another one and let "
            f"services use that (service update --{noun(kind)}-rm, --{noun(kind)}-add)"
        )
    made = type(stored)()
    made.CopyFrom(stored)  # type: ignore[arg-type]
    made.meta.labels.clear()
    made.meta.labels.update(wanted.meta.labels)
    _check_labels(made)
    return made


def removal(view: View, found: Payload) -> store_pb2.Change:
    """Raises Refused while something uses it."""
    users = sorted(users_of(view, kind_of(found), found.meta.id))
    if users:
        word = noun(kind_of(found))
        more = f" and {len(users) - 5} more" if len(users) > 5 else ""
        raise Refused(
            f"{word} {found.meta.name!r} is used by {', '.join(users[:5])}{more}: remove that, or take it away "
            f"with `swarmpy service update --{word}-rm {found.meta.name} SERVICE`, first"
        )
    key = store_pb2.ObjectKey(kind=kind_of(found), id=found.meta.id)
    return store_pb2.Change(delete=key, expected_version=found.meta.version)


def _check_labels(made: Payload) -> None:
    if problems := [*limits.labels(made.meta.labels, "meta.labels")]:
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))


def _check_template(made: Payload) -> None:
    if made.template_driver not in TEMPLATE_DRIVERS:
        raise Invalid(f"template_driver: is {made.template_driver[:40]!r}: write golang, or nothing")
    if not made.template_driver:
        return
    try:
        text = made.data.decode()
    except UnicodeDecodeError as error:
        raise Invalid("data: a template is UTF-8 text") from error
    if problem := templates.problem(text):
        raise Invalid(f"data: {problem}")


def _all(view: View) -> Iterator[Payload]:
    for kind in KINDS:
        for found in view.all(kind):
            assert isinstance(found, (objects_pb2.Secret, objects_pb2.Config))
            yield found


# -- who uses what ----------------------------------------------------------------------


def users_of(view: View, kind: store_pb2.Kind, identity: str) -> set[str]:
    """Services (also those that may go back to it now), schedules and tasks, as words."""

    def refers(spec: types_pb2.TaskSpec) -> bool:
        return any(use.kind == kind and use.reference.id == identity for use in payloads.uses_of_task(spec))

    found: set[str] = set()
    for service in view.services():
        specs = [service.spec.task]
        if service.update_status.state in _UNDER_WAY:
            specs += [earlier.task for earlier in service.previous_specs]
        if any(map(refers, specs)):
            found.add(f"service {service.meta.name}")
    for schedule in view.schedules():
        if refers(schedule.spec.service.task):
            found.add(f"schedule {schedule.meta.name}")
    for stack in view.all(store_pb2.KIND_STACK):
        assert isinstance(stack, objects_pb2.Stack)
        if identity in stack.payload_ids:
            found.add(f"stack {stack.stack} (revision {stack.revision})")
    if not found:  # the tasks of an earlier specification that still run
        found.update(
            f"task {task.meta.name}"
            for task in view.tasks()
            if not is_terminal(task.status.state) and refers(task.spec)
        )
    return found


def resolve(view: View, spec: objects_pb2.ServiceSpec, namespace: str) -> None:
    """Fill in ids; by name, so that what was made anew under a name is meant. Raises NotFound. In place."""
    for use in payloads.uses_of_task(spec.task):
        wanted = use.reference
        found = view.by_name(use.kind, wanted.source, namespace) or view.get(use.kind, wanted.source)
        if found is None:
            raise NotFound(
                f"there is no {use.noun} {wanted.source!r}: create it first (swarmpy {use.noun} create)"
            )
        wanted.source, wanted.id = found.meta.name, found.meta.id


def check_present(view: View, service: objects_pb2.Service) -> None:
    """Raises Refused where a specification, of an earlier revision, refers to something that is gone."""
    for use in payloads.uses_of_task(service.spec.task):
        if view.get(use.kind, use.reference.id) is None:
            raise Refused(
                f"that revision of service {service.meta.name} uses {use.noun} {use.reference.source!r}, which was "
                "removed: go back to another one with --to, see `swarmpy service history`"
            )


# -- what nodes get -----------------------------------------------------------------------


class Payloads(payloads_pb2_grpc.PayloadsServicer):
    """What nodes ask before they start a task; every manager answers."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store, self._tasks = store, tasks

    async def Fetch(
        self, request: payloads_pb2.PayloadRequest, context: Context
    ) -> payloads_pb2.PayloadResponse:
        node_id = current_caller().node_id
        try:
            await self._tasks.fresh()
            found = needed_by(self._store, node_id, request.kind, request.id)
        except ManagerError as error:
            await abort(context, error)
        log.info(
            "content given kind=%s id=%s name=%s node=%s",
            noun(kind_of(found)), found.meta.id, found.meta.name, node_id,
        )  # fmt: skip
        return payloads_pb2.PayloadResponse(data=found.data, template_driver=found.template_driver)


def needed_by(view: View, node_id: str, kind: store_pb2.Kind, identity: str) -> Payload:
    """Forbidden unless a living task of the node refers to it; NotFound where it is gone."""
    if kind not in KINDS or not _refer(view.tasks_of_node(node_id), kind, identity):
        raise Forbidden(f"no task of node {node_id} refers to that secret or config")
    found = view.get(kind, identity)
    if not isinstance(found, (objects_pb2.Secret, objects_pb2.Config)):
        raise NotFound(f"the {noun(kind)} was removed")
    return found


def _refer(tasks: Iterable[objects_pb2.Task], kind: store_pb2.Kind, identity: str) -> bool:
    return any(
        use.kind == kind and use.reference.id == identity
        for task in tasks
        if is_living(task)
        for use in payloads.uses_of_task(task.spec)
    )
