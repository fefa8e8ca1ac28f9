"""What a change comes to: fields that differ, and tasks that start, stop, move or stay.

`field_changes` compares two messages of one type by their fields, in the proto's names, lists by
position and maps by key. `task_changes` compares the cluster before and after a run in a sandbox:
slots, not tasks, because a slot is what outlives a replacement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from swarmpy.node.plan.base import View, is_live
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

TEXT_MAX = 200
HIDDEN_FIELDS = frozenset({"data", "root_key", "unlock_key", "backup_key", "worker_secret", "manager_secret"})


def field_changes(
    old: Message | None, new: Message | None, path: str = ""
) -> Iterator[control_pb2.FieldChange]:
    """Every field that differs. None stands for a message with nothing set."""
    descriptor = (new if new is not None else old).DESCRIPTOR  # type: ignore[union-attr]
    for field in descriptor.fields:
        where = f"{path}.{field.name}" if path else field.name
        if field.name in HIDDEN_FIELDS:
            if (_plain(old, field)) != (_plain(new, field)):
                yield control_pb2.FieldChange(path=where, old=_there(old, field), new=_there(new, field))
        elif field.is_repeated:
            yield from _repeated(_plain(old, field), _plain(new, field), field, where)
        elif field.message_type is not None:
            before, after = _message(old, field), _message(new, field)
            if before is None and after is None:
                continue
            changes = list(field_changes(before, after, where))
            if not changes and (before is None) != (after is None):
                changes = [control_pb2.FieldChange(path=where, old=_set(before), new=_set(after))]
            yield from changes
        else:
            was, now = _scalar(old, field), _scalar(new, field)
            if was != now:
                yield control_pb2.FieldChange(path=where, old=was, new=now)


def _repeated(old: Any, new: Any, field: Any, where: str) -> Iterator[control_pb2.FieldChange]:
    if field.message_type is None or not field.message_type.GetOptions().map_entry:
        yield from _listed(list(old or ()), list(new or ()), field, where)
        return
    value = field.message_type.fields_by_name["value"]
    before, after = dict(old or {}), dict(new or {})
    for key in sorted({*before, *after}):
        was, now = (_text(side[key], value) if key in side else "" for side in (before, after))
        if was != now or (key in before) != (key in after):
            yield control_pb2.FieldChange(path=f"{where}.{key}", old=was, new=now)


def _listed(before: list[Any], after: list[Any], field: Any, where: str) -> Iterator[control_pb2.FieldChange]:
    if field.message_type is not None:
        for position in range(max(len(before), len(after))):
            was, now = (side[position] if position < len(side) else None for side in (before, after))
            if was != now:
                yield from field_changes(was, now, f"{where}[{position}]")
    elif before != after:
        was, now = (" ".join(_text(item, field) for item in side)[:TEXT_MAX] for side in (before, after))
        yield control_pb2.FieldChange(path=where, old=was, new=now)


def _plain(message: Message | None, field: Any) -> Any:
    return None if message is None else getattr(message, field.name)


def _message(message: Message | None, field: Any) -> Message | None:
    return getattr(message, field.name) if message is not None and message.HasField(field.name) else None


def _scalar(message: Message | None, field: Any) -> str:
    if message is None:
        return ""
    value = getattr(message, field.name)
    if field.has_presence and not message.HasField(field.name):
        return ""
    if not field.has_presence and value == field.default_value:
        return ""
    return _text(value, field)


def _set(message: Message | None) -> str:
    return "" if message is None else "set"


def _there(message: Message | None, field: Any) -> str:
    return "(hidden)" if message is not None and getattr(message, field.name) else ""


def _text(value: Any, field: Any) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name).lower()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(value)[:TEXT_MAX]


@dataclass(frozen=True)
class Place:
    """One live task, as a plan speaks of it."""

    service: str
    slot: str
    task: objects_pb2.Task


def places(view: View) -> dict[tuple[str, str], Place]:
    """The task that counts in each slot: the one furthest along, of the newest version."""
    best: dict[tuple[str, str], Place] = {}
    for task in view.tasks():
        if not is_live(task, view):
            continue
        slot = str(task.slot) if task.slot else task.node_id
        known = best.get((task.service_id, slot))
        if known is None or _rank(task) > _rank(known.task):
            best[task.service_id, slot] = Place(task.service_name, slot, task)
    return best


def _rank(task: objects_pb2.Task) -> tuple[int, int, str]:
    return task.spec_version, task.status.state, task.meta.id


def task_changes(before: View, after: View) -> tuple[list[control_pb2.PlannedTask], int]:
    """What happens to each slot, in order of service and slot, and how many slots stay as they are."""
    old, new = places(before), places(after)
    found: list[control_pb2.PlannedTask] = []
    staying = 0
    for key in {**old, **new}:
        was, now = old.get(key), new.get(key)
        shown = now or was
        assert shown is not None
        planned = control_pb2.PlannedTask(service=shown.service)
        planned.slot = (
            str(shown.task.slot) if shown.task.slot else node_name(before, after, shown.task.node_id)
        )
        if was is not None:
            planned.task_id = was.task.meta.id
            planned.from_node = node_name(before, after, was.task.node_id)
        if now is not None:
            planned.to_node = node_name(before, after, now.task.node_id)
        if now is None:
            planned.action = control_pb2.PLAN_STOP
        elif (
            was is not None and was.task.meta.id == now.task.meta.id and was.task.node_id == now.task.node_id
        ):
            staying += 1
            continue
        elif not now.task.node_id:
            planned.action = control_pb2.PLAN_WAIT
            planned.reason = now.task.status.message
        elif was is None or not was.task.node_id:
            planned.action = control_pb2.PLAN_START
        elif was.task.node_id != now.task.node_id:
            planned.action = control_pb2.PLAN_MOVE
        else:
            planned.action = control_pb2.PLAN_REPLACE
        found.append(planned)
    found.sort(
        key=lambda item: (
            item.service,
            not item.slot.isdigit(),
            int(item.slot) if item.slot.isdigit() else 0,
            item.slot,
        )
    )
    return found, staying


def node_name(before: View, after: View, node_id: str) -> str:
    node = after.node(node_id) or before.node(node_id)
    return (node.meta.name or node_id) if node is not None else node_id


def waits(view: View, service_id: str) -> list[str]:
    """Why tasks of a service are not placed, each sentence once."""
    return sorted(
        {
            task.status.message
            for task in view.tasks_of_service(service_id)
            if task.status.state <= types_pb2.TASK_PENDING and is_live(task, view)
        }
    )
