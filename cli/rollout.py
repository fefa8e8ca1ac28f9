"""`service rollback|history|diff|promote|abort|pause|resume|restart`: updates by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.autoscale import autoscale
from swarmpy.cli.edit_rollout import SHARE
from swarmpy.cli.errors import NotFound
from swarmpy.cli.options import (
    DockerCommand,
    connect,
    converge_timeout_s,
    format_option,
    gave_timeout,
    wait_options,
)

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

NAME = click.argument("name", metavar="SERVICE")
ACTIONS = {"rollback": 0, "promote": 1, "abort": 2, "pause": 3, "resume": 4, "restart": 5}


def add_to(group: click.Group) -> None:
    """Give the noun `service` its verbs of updates."""
    for command in (rollback, history, diff, promote, abort, pause, resume, restart):
        group.add_command(command)
    group.add_command(autoscale)


@click.command("rollback", cls=DockerCommand)
@NAME
@click.option(
    "--to", "revision", type=click.IntRange(1), help="Revision (`service history`); else the one before"
)
@wait_options
@click.pass_context
def rollback(
    ctx: click.Context, name: str, revision: int | None, detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Go back to an earlier revision: what runs, its ports and networks."""
    act(ctx, name, "rollback", detach=detach, quiet=quiet, timeout_ms=timeout_ms, revision=revision or 0)


@click.command("promote", cls=DockerCommand)
@NAME
@wait_options
@click.pass_context
def promote(ctx: click.Context, name: str, detach: bool, quiet: bool, timeout_ms: int | None) -> None:
    """Let an update go on that waits after its canary, or switch to the new half of a blue-green one."""
    act(ctx, name, "promote", detach=detach, quiet=quiet, timeout_ms=timeout_ms)


@click.command("abort", cls=DockerCommand)
@NAME
@wait_options
@click.pass_context
def abort(ctx: click.Context, name: str, detach: bool, quiet: bool, timeout_ms: int | None) -> None:
    """Roll an update back that is under way, waits or is paused."""
    act(ctx, name, "abort", detach=detach, quiet=quiet, timeout_ms=timeout_ms)


@click.command("pause", cls=DockerCommand)
@NAME
@wait_options
@click.pass_context
def pause(ctx: click.Context, name: str, detach: bool, quiet: bool, timeout_ms: int | None) -> None:
    """Stop an update, or a rollback, where it is."""
    act(ctx, name, "pause", detach=True, quiet=quiet, timeout_ms=timeout_ms)


@click.command("resume", cls=DockerCommand)
@NAME
@wait_options
@click.pass_context
def resume(ctx: click.Context, name: str, detach: bool, quiet: bool, timeout_ms: int | None) -> None:
    """Go on with an update that is paused; what failed before counts no more."""
    act(ctx, name, "resume", detach=detach, quiet=quiet, timeout_ms=timeout_ms)


@click.command("restart", cls=DockerCommand)
@NAME
@click.option(
    "--batch", type=SHARE, default="", help="So many at once: 2, 25% (else the update's parallelism)"
)
@click.option("--wait", is_flag=True, hidden=True, expose_value=False)  # it waits unless -d
@wait_options
@click.pass_context
def restart(
    ctx: click.Context, name: str, batch: str, detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Replace every task by one like it, as an update does."""
    act(ctx, name, "restart", detach=detach, quiet=quiet, timeout_ms=timeout_ms, batch=batch)


@click.command("history", cls=DockerCommand)
@NAME
@format_option
@click.pass_context
def history(ctx: click.Context, name: str, template: str) -> None:
    """List the revisions of a service, the present one first."""
    client = connect(ctx)
    from swarmpy.cli.output import ago, print_rows
    from swarmpy.cli.task import now_ms
    from swarmpy.cli.views import image_name

    now = now_ms()
    rows: list[dict[str, str]] = []
    for number, since_ms, problem, spec in revisions(client.get("service", name)):
        rows.append(
            {
                "Revision": str(number),
                "Since": ago(since_ms, now) if since_ms else "",
                "Image": image_name(spec.task.container, whole=False),
                "Problem": problem or ("" if rows else "(present)"),
            }
        )
    columns = (("REVISION", "Revision"), ("SINCE", "Since"), ("IMAGE", "Image"), ("PROBLEM", "Problem"))
    print_rows(columns, rows, template, quiet=False)


@click.command("diff", cls=DockerCommand)
@NAME
@click.argument("first", required=False, type=click.IntRange(1), metavar="[REVISION")
@click.argument("second", required=False, type=click.IntRange(1), metavar="[REVISION]]")
@click.pass_context
def diff(ctx: click.Context, name: str, first: int | None, second: int | None) -> None:
    """Show the fields that differ between two revisions (the present one and the one before, if none are named)."""
    known = {number: spec for number, _, _, spec in revisions(connect(ctx).get("service", name))}
    order = list(known)
    if len(order) < 2 and first is None:
        click.echo(f"Service {name} has one revision so far.", err=True)
        return
    old, new = (order[1] if first is None else first), (order[0] if second is None else second)
    for number in (old, new):
        if number not in known:
            kept = ", ".join(map(str, sorted(known)))
            raise NotFound(f"Service {name} has no revision {number} (kept: {kept}).")
    from swarmpy.cli.plan import shown

    before, after = flat(known[old]), flat(known[new])
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    width = max(map(len, paths), default=0)
    for path in paths:
        click.echo(f"{path.ljust(width)}  {shown(before.get(path, ''))} -> {shown(after.get(path, ''))}")


def revisions(service: Any) -> Iterator[tuple[int, int, str, Any]]:
    """Number, since when (ms), problem and spec; the present one first."""
    yield service.spec_version, service.revision_ms or service.meta.created_ms, "", service.spec
    lowest = service.spec_version
    for position, spec in enumerate(service.previous_specs):
        if position < len(service.previous):
            entry = service.previous[position]
            lowest = entry.revision
            yield entry.revision, entry.since_ms, entry.problem, spec
        else:
            lowest -= 1
            yield lowest, 0, "", spec


def flat(message: Any) -> dict[str, str]:
    """What a spec runs, as paths and texts; replicas and policies are no part of a revision."""
    from swarmpy.cli.output import document

    result: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for position, inner in enumerate(value):
                walk(inner, f"{path}[{position}]")
        elif value not in (None, "", []):
            result[path] = " ".join(map(str, value)) if isinstance(value, list) else str(value)

    whole = document(message)
    walk({key: whole[key] for key in ("task", "endpoint") if key in whole}, "")
    return result


def act(
    ctx: click.Context,
    name: str,
    action: str,
    *,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
    **more: Any,
) -> None:
    """Send one action, and wait for what follows."""
    client: Client = connect(ctx)
    from swarmpy.proto import control_pb2

    before = client.get("service", name)
    answer = client.rollout(
        control_pb2.RolloutRequest(service=before.meta.id, action=ACTIONS[action], **more)  # type: ignore[arg-type]
    )
    click.echo(name)
    if detach:
        return
    from swarmpy.cli.wait import service_converges

    wait: Callable[..., None] = service_converges
    limit_s, patient = converge_timeout_s(ctx, timeout_ms), gave_timeout(ctx, timeout_ms)
    wait(
        client, before, answer, limit_s=limit_s, patient=patient, quiet=quiet, wanted_back=action != "resume"
    )
