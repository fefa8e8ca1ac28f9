"""`events`: every change of the cluster's objects as it happens, tasks included."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import FILTER, DockerCommand, connect, format_option

KIND_NAMES = (
    *("cluster", "node", "service", "task", "network", "image"),
    *("volume", "policy", "autoscaler", "schedule", "credential", "secret", "config", "token", "stack"),
)
FILTER_KEYS = ("type", "kind", "event", "id", "name", "service", "node", "label")
WAKE_S = 3600.0


@click.command(cls=DockerCommand)
@click.option(
    "-f",
    "--filter",
    "filters",
    type=FILTER,
    multiple=True,
    help="Only KEY=VALUE; keys: " + ", ".join(FILTER_KEYS),
)
@click.option(
    "--since",
    "index",
    type=click.IntRange(0),
    default=0,
    metavar="INDEX",
    help="Begin after that index, as far back as the managers remember",
)
@format_option
@click.pass_context
def events(ctx: click.Context, filters: Any, index: int, template: str) -> None:
    """Show changes as they happen, until Ctrl-C."""
    wanted: dict[str, set[str]] = {}
    for key, value in filters:
        if key not in FILTER_KEYS:
            raise UsageRefused(f"{key!r} is not a filter of events: use {', '.join(FILTER_KEYS)}.")
        wanted.setdefault("type" if key == "kind" else key, set()).add(value)
    kinds = wanted.get("type", set(KIND_NAMES))
    if unknown := kinds - set(KIND_NAMES):
        raise UsageRefused(f"{min(unknown)!r} is not a kind of object: use {', '.join(KIND_NAMES)}.")
    client = connect(ctx)
    client.status()
    from swarmpy.cli.output import filled
    from swarmpy.cli.watch import RESTART, Watcher
    from swarmpy.proto import control_pb2

    seen, gap, failing = index, False, False
    with Watcher(client, sorted(kinds), resume_index=index) as watcher:
        next_is_first = True
        while True:
            event = watcher.get(WAKE_S)
            if event is None:
                continue
            if event is RESTART:
                gap, next_is_first = not next_is_first, False
                continue
            if event.action == control_pb2.EVENT_SYNC and gap and 0 < seen < event.index:
                click.echo(
                    f"Warning: changes between index {seen} and {event.index} may be missing.", err=True
                )
            gap = gap and event.action != control_pb2.EVENT_SYNC
            seen = max(seen, event.index)
            row = row_of(event)
            if row is not None and row["Type"] == "cluster":
                failing = say_mended(row, failing)
            if row is None or not passes(row, wanted):
                continue
            if template == "json":
                click.echo(json.dumps(row, ensure_ascii=False))
            elif template in {"", "table"}:
                click.echo(line_of(row))
            else:
                click.echo(filled(template, row))


def row_of(event: Any) -> dict[str, Any] | None:
    """An event as plain values; None for what is no change."""
    from swarmpy.cli.client import inner
    from swarmpy.cli.views import NODE_STATE_WORDS, state_word, task_name
    from swarmpy.proto import control_pb2

    found = inner(event.object)
    if event.action == control_pb2.EVENT_SYNC or found is None:
        return None
    kind = found.DESCRIPTOR.name.lower()
    attributes: dict[str, str] = {}
    if kind == "task":
        attributes = {
            "service": found.service_name,
            "node": found.node_id,
            "state": state_word(found.status.state).lower(),
            "desired": state_word(found.desired_state).lower(),
        }
        attributes["reason"] = found.status.reason or found.stop_reason
        if text := found.status.error or found.status.message:
            attributes["message"] = text
    elif kind == "node":
        attributes = {"state": NODE_STATE_WORDS.get(found.status.state, "Unknown").lower()}
    elif kind == "service" and found.spec.HasField("task"):
        attributes = {"image": found.spec.task.container.image}
        if found.spec.HasField("replicated"):
            attributes["replicas"] = str(found.spec.replicated.replicas)
        if status := found.update_status.message:
            attributes["update"] = status
    elif kind == "cluster":
        attributes = {"problem": "; ".join(map(trouble, found.planner_troubles))}
    elif kind == "autoscaler" and found.status.decisions:
        last = found.status.decisions[-1]
        attributes = {"from": str(getattr(last, "from")), "to": str(last.to), "message": last.reason}
    return {
        "Time": event.time_ms,
        "Index": event.index,
        "Type": kind,
        "Action": control_pb2.EventAction.Name(event.action).removeprefix("EVENT_").lower(),
        "ID": found.meta.id,
        "Name": task_name(found) if kind == "task" else found.meta.name,
        "Labels": dict(found.meta.labels),
        "Attributes": {key: value for key, value in attributes.items() if value},
    }


def trouble(found: Any) -> str:
    """What a planner of the leader fails for."""
    more = f" and {found.keys - 1} more" if found.keys > 1 else ""
    return f"planner {found.planner} fails for {found.key or 'the cluster'}{more}: {found.error}"


def say_mended(row: dict[str, Any], failing: bool) -> bool:
    """Note in a change of the cluster that nothing fails any more; whether something does."""
    attributes = row["Attributes"]
    if failing and "problem" not in attributes:
        attributes["message"] = "no planner fails any more"
    return "problem" in attributes


def passes(row: dict[str, Any], wanted: dict[str, set[str]]) -> bool:
    """Whether an event is to be shown."""
    attributes, kind = row["Attributes"], row["Type"]
    for key, values in wanted.items():
        if key == "label":
            ok = all(
                text.partition("=")[0] in row["Labels"]
                and ("=" not in text or row["Labels"][text.partition("=")[0]] == text.partition("=")[2])
                for text in values
            )
        elif key in {"service", "node"}:
            own = {row["Name"], row["ID"]} if kind == key else {attributes.get(key, "")}
            ok = bool(own & values)
        elif key == "event":
            ok = row["Action"] in values
        else:
            ok = row[{"type": "Type", "id": "ID", "name": "Name"}[key]] in values
        if not ok:
            return False
    return True


def line_of(row: dict[str, Any]) -> str:
    """One line for people."""
    when = datetime.fromtimestamp(row["Time"] / 1000, UTC).isoformat(timespec="milliseconds")
    details = ", ".join(f"{key}={value}" for key, value in {"name": row["Name"], **row["Attributes"]}.items())
    return (
        f"{when.replace('+00:00', 'Z')} {row['Index']} {row['Type']} {row['Action']} {row['ID']} ({details})"
    )
