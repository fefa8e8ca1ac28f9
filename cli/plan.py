"""`--plan` and `--check-index` of everything that writes.

With `--plan` a command sends what it would write to be planned, shows what would follow, and ends
with 0 (nothing would change), 2 (something would) or 1 and above (refused, as the write would be).
`--check-index N` writes only if neither the object nor a node changed since the plan that showed N.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from swarmpy.proto import control_pb2

Function = TypeVar("Function", bound=Callable[..., Any])
PLAN_KEY = "swarmpy.plan"
CHECK_KEY = "swarmpy.check_index"
CHANGES = 2
LISTED_MAX = 60
VERBS = {"event_create": "create", "event_update": "change", "event_delete": "remove"}
SIGNS = {"create": "+", "change": "~", "remove": "-"}


class Planned(click.exceptions.Exit):
    """Ends a command that only planned."""


def plan_options(function: Function) -> Function:
    """--plan and --check-index."""

    def remember(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def note(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
            if value:
                ctx.meta[key] = value

        return note

    plan = click.option(
        "--plan",
        is_flag=True,
        expose_value=False,
        callback=remember(PLAN_KEY),
        help="Only show what would change, start, stop and move; exit 0: nothing, 2: something, 1: refused",
    )
    check = click.option(
        "--check-index",
        type=click.IntRange(1),
        expose_value=False,
        callback=remember(CHECK_KEY),
        metavar="INDEX",
        help="Refuse if the object or a node changed since the plan that showed this index",
    )
    return plan(check(function))


def end(response: control_pb2.PlanResponse) -> Planned:
    """Shows a plan; what the command ends with."""
    for line in lines(response):
        click.echo(line)
    return Planned(CHANGES if changes(response) else 0)


def changes(response: control_pb2.PlanResponse) -> bool:
    """Whether anything would be different afterwards."""
    return bool(response.tasks) or any(entry.fields or word(entry) != "change" for entry in response.objects)


def word(entry: control_pb2.ObjectChange) -> str:
    from swarmpy.proto import control_pb2

    return VERBS[control_pb2.EventAction.Name(entry.action).lower()]


def lines(response: control_pb2.PlanResponse) -> Iterable[str]:
    """The plan, for people."""
    from swarmpy.proto import store_pb2

    for entry in response.objects:
        noun = store_pb2.Kind.Name(entry.kind).removeprefix("KIND_").lower()
        verb = word(entry)
        if verb == "change" and not entry.fields:
            yield f"  {noun} {entry.name}: as it is"
            continue
        yield f"{SIGNS[verb]} {verb} {noun} {entry.name}"
        width = max((len(field.path) for field in entry.fields), default=0)
        for field in entry.fields:
            yield f"    {field.path.ljust(width)}  {shown(field.old)} -> {shown(field.new)}"
    yield from task_lines(response)
    for warning in response.warnings:
        yield f"Warning: {warning}"
    if response.cut:
        yield "Warning: the plan was ended at its bound; more would follow."
    yield f"Planned at index {response.index}: repeat with --check-index {response.index} instead of --plan."


def task_lines(response: control_pb2.PlanResponse) -> Iterable[str]:
    """One line for each slot that changes, and a count."""
    from swarmpy.proto import control_pb2

    words = {
        control_pb2.PLAN_START: "start", control_pb2.PLAN_STOP: "stop", control_pb2.PLAN_REPLACE: "replace",
        control_pb2.PLAN_MOVE: "move", control_pb2.PLAN_WAIT: "wait",
    }  # fmt: skip
    counts = dict.fromkeys(words.values(), 0)
    for number, task in enumerate(response.tasks):
        verb = words.get(task.action, "change")
        counts[verb] = counts.get(verb, 0) + 1
        if number < LISTED_MAX:
            yield f"    {verb:<8} {task.service}.{task.slot}{where(task, verb)}"
    if len(response.tasks) > LISTED_MAX:
        yield f"    … and {len(response.tasks) - LISTED_MAX} more"
    parts = [f"{count} {verb}" for verb, count in counts.items() if count]
    yield f"Tasks: {', '.join([*parts, f'{response.staying} stay'])}."


def where(task: control_pb2.PlannedTask, verb: str) -> str:
    """From where to where, or why not."""
    if verb == "move":
        return f"  {task.from_node} -> {task.to_node}"
    if verb == "wait":
        came = f" (now on {task.from_node})" if task.from_node else ""
        return f"{came}  {task.reason or 'for a node'}"
    place = task.to_node or task.from_node
    return f"  on {place}" if place else ""


def shown(value: str) -> str:
    """A field's value; what is not set is a dash, what has spaces is quoted."""
    if not value:
        return "-"
    return json.dumps(value, ensure_ascii=False) if any(c.isspace() for c in value) else value
