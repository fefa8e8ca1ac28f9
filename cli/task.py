"""`task ls`, `task inspect`, and the list of tasks that `service ps` and `node ps` share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.exec import exec_
from swarmpy.cli.logs import logs
from swarmpy.cli.options import DockerGroup, connect, format_option, list_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

FILTER_KEYS = "id, name, service, node, desired-state, label"


@click.group(cls=DockerGroup)
def task() -> None:
    """Look at tasks: one task is one container of a service."""


task.add_command(exec_, "exec")
task.add_command(logs, "logs")


@task.command("ls")
@list_options(FILTER_KEYS)
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the tasks of all services."""
    client = connect(ctx)
    print_tasks(client, client.find("task"), filters, template, quiet=quiet, whole=no_trunc, tree=False)


@task.command("inspect")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, tasks: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about tasks."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("task", ref) for ref in tasks], template, pretty=pretty)


def print_tasks(
    client: Client,
    tasks: list[Any],
    filters: Any,
    template: str,
    *,
    quiet: bool,
    whole: bool,
    tree: bool = True,
    resolve: bool = True,
) -> None:
    """A table of tasks; `node=` takes ids and names."""
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views import TASK_COLUMNS, task_rows

    nodes = node_names(client) if resolve or any(key == "node" for key, _ in filters) else {}
    ids = {name: node_id for node_id, name in nodes.items()}
    wanted = [(key, ids.get(value, value) if key == "node" else value) for key, value in filters]
    chosen = select("task", tasks, wanted)
    rows = task_rows(
        chosen, nodes if resolve else {}, now_ms(), whole=whole or quiet, tree=tree and template == "table"
    )
    print_rows(TASK_COLUMNS, rows, template, quiet=quiet)


def node_names(client: Client) -> dict[str, str]:
    """Node names by id."""
    return {node.meta.id: node.meta.name or node.meta.id for node in client.find("node")}


def now_ms() -> int:
    """The clock, for words like `5 minutes ago`."""
    return int(time.time() * 1000)
