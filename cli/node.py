"""`node …`: list, look at and change nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse, parse_placement
from swarmpy.cli.options import (
    MILLISECONDS,
    DockerGroup,
    Value,
    connect,
    converge_timeout_s,
    for_each,
    format_option,
    list_options,
    wait_options,
)
from swarmpy.cli.plan import plan_options
from swarmpy.cli.taint import taint
from swarmpy.cli.task import FILTER_KEYS, print_tasks

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

KEY = Value(parse.key_value, "key=value")
RESOURCE = Value(parse_placement.node_resource, "kind=n|name")
AVAILABILITIES = ("active", "pause", "drain")
NAMES = click.argument("names", nargs=-1, required=True, metavar="NODE...")


@click.group(cls=DockerGroup)
def node() -> None:
    """Manage the nodes of the cluster."""


node.add_command(taint)


@node.command("ls")
@list_options("id, name, label, node.label, role, availability")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the nodes."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views_nodes import NODE_COLUMNS, node_rows

    chosen = select("node", client.find("node"), filters)
    tasks = [] if quiet else client.find("task")
    rows = node_rows(chosen, tasks, client.status(), time.time_ns() // 1_000_000)
    print_rows(NODE_COLUMNS, rows, template, quiet=quiet)


@node.command("inspect")
@NAMES
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about nodes; `self` is the manager that answers."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("node", own(client, name)) for name in names], template, pretty=pretty)


@node.command("ps")
@click.argument("names", nargs=-1, metavar="[NODE...]")
@list_options(FILTER_KEYS)
@click.option("--no-resolve", is_flag=True, help="Show ids instead of names")
@click.pass_context
def ps(
    ctx: click.Context,
    names: tuple[str, ...],
    filters: Any,
    quiet: bool,
    no_trunc: bool,
    template: str,
    no_resolve: bool,
) -> None:
    """List the tasks on nodes (the one that answers, if none is named)."""
    client = connect(ctx)
    ids = [client.get("node", own(client, name)).meta.id for name in names or ("self",)]
    tasks = [task for node_id in ids for task in client.find("task", node=node_id) if task.node_id == node_id]
    print_tasks(client, tasks, filters, template, quiet=quiet, whole=no_trunc, resolve=not no_resolve)


@node.command("update")
@click.argument("name", metavar="NODE")
@click.option("--availability", type=click.Choice(AVAILABILITIES), help="May the node take tasks")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="The node's role")
@click.option("--label-add", "added", type=KEY, multiple=True, help="Set a label: KEY=VALUE")
@click.option("--label-rm", "removed", multiple=True, help="Remove a label")
@click.option(
    "--generic-resource",
    "resources",
    type=RESOURCE,
    multiple=True,
    help="What the node has: gpu=2, or gpu=NAME for each one (/dev/… is passed to tasks)",
)
@click.option(
    "--overcommit",
    type=click.FloatRange(0.1, 10),
    help="So much of its CPUs and memory may be reserved: 1.5, or 0.9 to keep some (1)",
)
@click.option("--generic-resource-rm", "resources_gone", multiple=True, metavar="KIND", help="It has none")
@plan_options
@click.pass_context
def update(
    ctx: click.Context,
    name: str,
    availability: str | None,
    role: str | None,
    added: Any,
    removed: tuple[str, ...],
    resources: Any,
    resources_gone: tuple[str, ...],
    overcommit: float | None,
) -> None:
    """Change a node's resources, labels, availability or role; does not wait."""
    client = connect(ctx)
    from swarmpy.cli.edit_placement import edit_resources

    def edit(found: Any) -> None:
        for key in removed:
            found.meta.labels.pop(key, None)
        found.meta.labels.update(dict(added))
        if availability is not None:
            found.spec.availability = AVAILABILITIES.index(availability)
        if role is not None:
            found.spec.role = int(role == "manager")
        if overcommit is not None:
            percent = round(overcommit * 100)
            found.spec.room_percent = 0 if percent == 100 else percent
        edit_resources(found.spec, resources, resources_gone)

    client.change("node", own(client, name), edit)
    click.echo(name)


@node.command("promote")
@NAMES
@wait_options
@click.pass_context
def promote(
    ctx: click.Context, names: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Make nodes managers."""
    change_role(ctx, names, 1, detach=detach, quiet=quiet, limit_s=converge_timeout_s(ctx, timeout_ms))


@node.command("demote")
@NAMES
@wait_options
@click.pass_context
def demote(
    ctx: click.Context, names: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Make managers plain workers."""
    change_role(ctx, names, 0, detach=detach, quiet=quiet, limit_s=converge_timeout_s(ctx, timeout_ms))


@node.command("transfer-lead")
@click.argument("name", metavar="[NODE]", default="")
@click.pass_context
def transfer_lead(ctx: click.Context, name: str) -> None:
    """Hand the lead to another manager (the most up-to-date one, if none is named)."""
    click.echo(connect(ctx).transfer_lead(name))


@node.command("drain")
@NAMES
@click.option(
    "--parallelism",
    type=click.IntRange(0),
    help="Tasks that leave at once, successors first (0: all, stopped at once)",
)
@click.option(
    "--deadline", "deadline_ms", type=MILLISECONDS, help="Stop what has not left by then (with --parallelism)"
)
@wait_options
@click.pass_context
def drain(
    ctx: click.Context, names: tuple[str, ...], parallelism: int | None, deadline_ms: int | None, detach: bool,
    quiet: bool, timeout_ms: int | None,
) -> None:  # fmt: skip
    """Move all tasks away from nodes and give them no new ones."""
    from swarmpy.cli.wait import node_empties

    if deadline_ms is not None and not parallelism:
        parallelism = 1
    limit_s = converge_timeout_s(ctx, timeout_ms)
    wait: Callable[..., None] | None = None if detach else partial(node_empties, limit_s=limit_s, quiet=quiet)
    change_availability(ctx, names, "drain", wait, (parallelism or 0, deadline_ms or 0))


@node.command("activate")
@NAMES
@plan_options
@click.pass_context
def activate(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Let nodes take tasks again."""
    change_availability(ctx, names, "active", None)


@node.command("pause")
@NAMES
@plan_options
@click.pass_context
def pause(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Give nodes no new tasks; those they have keep running."""
    change_availability(ctx, names, "pause", None)


@node.command("rm")
@NAMES
@click.option("-f", "--force", is_flag=True, help="Also a node that is not down")
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove nodes from the cluster; their certificates are void from then on."""
    from swarmpy.cli.pipeline import removals

    delete = removals(connect(ctx), "node", names, force=force)

    def remove(name: str) -> None:
        delete(name)
        click.echo(name)

    for_each(names, remove)


def own(client: Client, name: str) -> str:
    """A node's reference; `self` is the one that answers."""
    return client.status().node_id if name == "self" else name


def change_role(
    ctx: click.Context, names: tuple[str, ...], role: int, *, detach: bool, quiet: bool, limit_s: float
) -> None:
    """Promote or demote, and wait for it."""
    client = connect(ctx)
    from swarmpy.cli.wait import role_changes
    from swarmpy.proto import types_pb2

    wanted = "manager" if role else "worker"

    def change(name: str) -> None:
        before, answer = client.change(
            "node", own(client, name), lambda found: setattr(found.spec, "role", role)
        )
        if before.spec.role == role:
            click.echo(f"Node {name} is already a {wanted}.")
            return
        if not detach:
            role_changes(
                client,
                before.meta.id,
                types_pb2.ROLE_MANAGER if role else types_pb2.ROLE_WORKER,
                answer,
                limit_s,
            )
        if not quiet:
            word = "promoted to a manager" if role else "demoted to a worker"
            click.echo(f"Node {name} {word} in the cluster.")

    for_each(names, change)


def change_availability(
    ctx: click.Context,
    names: tuple[str, ...],
    availability: str,
    wait: Callable[..., None] | None,
    drain: tuple[int, int] = (0, 0),
) -> None:
    """Drain, pause or activate."""
    client = connect(ctx)
    number = AVAILABILITIES.index(availability)

    def edit(found: Any) -> None:
        found.spec.availability = number
        found.spec.drain_parallelism, found.spec.drain_deadline_ms = drain

    def change(name: str) -> None:
        before, answer = client.change("node", own(client, name), edit)
        if wait is not None:
            wait(client, before, answer)
        click.echo(name)

    for_each(names, change)
