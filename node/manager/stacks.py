"""Revisions of stacks: what each deployment wanted, as the command that deploys wrote it. Runs on the leader only.

The ten newest of a stack are kept, and the newest that is complete however many failed after it. A kept one that was
not taken back holds the secrets and configs that it refers to (`payloads.users_of`), so that going back finds them.
Nothing here acts on services: a rollback is a deployment of what an earlier revision holds.
"""

from __future__ import annotations

import re

from swarmpy.node import payloads
from swarmpy.node.manager import levels
from swarmpy.node.manager.errors import Invalid, NotFound, Refused
from swarmpy.node.manager.targets import STACK_LABEL
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.levels import STACKS
from swarmpy.raft.store import View

KEPT = 10
BYTES_MAX = 1_000_000  # of one: it is written in one transaction
ALL_BYTES_MAX = 64 * 1024 * 1024  # of all together: every manager has them in memory
MESSAGE_MAX = 1_000
_NAME = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]{0,38}[A-Za-z0-9])?")


def created(view: View, wanted: objects_pb2.Stack, new_id: str) -> objects_pb2.Stack:
    """The next revision, to be stored. Raises Invalid or Refused."""
    levels.require(view, STACKS, "a revision of a stack")
    if not _NAME.fullmatch(wanted.stack):
        raise Invalid(f"stack: {wanted.stack[:60]!r} is no name of a stack")
    made = objects_pb2.Stack(
        stack=wanted.stack, state=wanted.state, message=wanted.message[:MESSAGE_MAX], file=wanted.file,
        services=wanted.services, networks=wanted.networks,
        revision=max((one.revision for one in of(view, wanted.stack)), default=0) + 1,
    )  # fmt: skip
    made.meta.id, made.meta.name = new_id, f"{made.stack}.{made.revision}"
    made.meta.labels[STACK_LABEL] = made.stack
    return _checked(view, made)


def changed(view: View, wanted: objects_pb2.Stack) -> objects_pb2.Stack:
    """How its deployment ended, and what it came to."""
    stored = view.get(store_pb2.KIND_STACK, wanted.meta.id)
    if not isinstance(stored, objects_pb2.Stack):
        raise NotFound(f"there is no revision {wanted.meta.name or wanted.meta.id!r} of a stack")
    made = objects_pb2.Stack()
    made.CopyFrom(stored)
    made.state, made.message = wanted.state, wanted.message[:MESSAGE_MAX]
    del made.services[:]
    made.services.extend(wanted.services)
    return _checked(view, made)


def surplus(view: View, new: objects_pb2.Stack) -> list[store_pb2.Change]:
    """The removal of what is kept no longer once `new` is there."""
    others = of(view, new.stack)
    whole = [one.revision for one in others if one.state == objects_pb2.STACK_COMPLETE]
    free = [one for one in others if not whole or one.revision != whole[-1]]
    return [
        store_pb2.Change(
            delete=store_pb2.ObjectKey(kind=store_pb2.KIND_STACK, id=one.meta.id),
            expected_version=one.meta.version,
        )
        for one in free[: max(0, len(others) - KEPT + 1)]
    ]


def of(view: View, stack: str) -> list[objects_pb2.Stack]:
    """Its revisions, the oldest first."""
    found = (one for one in view.all(store_pb2.KIND_STACK) if isinstance(one, objects_pb2.Stack))
    return sorted((one for one in found if one.stack == stack), key=lambda one: one.revision)


def outline(one: objects_pb2.Stack) -> objects_pb2.Stack:
    """What a list shows: not the file, and of services what they are called."""
    shown = objects_pb2.Stack(
        meta=one.meta, stack=one.stack, revision=one.revision, state=one.state, message=one.message,
        payload_ids=one.payload_ids,
    )  # fmt: skip
    for service in one.services:
        shown.services.add(name=service.name)
    return shown


def _checked(view: View, made: objects_pb2.Stack) -> objects_pb2.Stack:
    del made.payload_ids[:]
    if made.state != objects_pb2.STACK_UNDONE:
        made.payload_ids.extend(sorted(_payloads(view, made)))
    size = made.ByteSize()
    if size > BYTES_MAX:
        raise Refused(
            f"a revision of stack {made.stack} has {size} bytes, at most {BYTES_MAX}: make two stacks of it"
        )
    others = sum(one.ByteSize() for one in view.all(store_pb2.KIND_STACK) if one.meta.id != made.meta.id)
    if others + size > ALL_BYTES_MAX:
        raise Refused(
            f"the revisions of all stacks would have {others + size} bytes, at most {ALL_BYTES_MAX}: remove stacks"
        )
    return made


def _payloads(view: View, made: objects_pb2.Stack) -> set[str]:
    """Ids of the secrets and configs that its services refer to, as far as they are there."""
    found = set()
    for service in made.services:
        for use in payloads.uses_of_task(service.spec.task):
            name = use.reference.source
            there = view.by_name(use.kind, name, "") or view.get(use.kind, use.reference.id or name)
            if there is not None:
                found.add(there.meta.id)
    return found
