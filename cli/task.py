"""`task ls`, `task inspect`, and the list of tasks that `service ps` and `node ps` share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import Changed
from swarmpy.cli.exec import exec_
from swarmpy.cli.logs import logs
from swarmpy.cli.options import (
    DockerGroup,
    connect,
    converge_timeout_s,
    for_each,
    format_option,
    gave_timeout,
    list_options,
    wait_options,
)
from swarmpy.cli.plan import plan_options

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


@task.command("history")
@click.argument("ref", metavar="TASK")
@click.option("--format", "template", default="table", metavar="FORMAT", help="table, json, or a template")
@click.pass_context
def history(ctx: click.Context, ref: str, template: str) -> None:
    """Show every state that a task went through, when and why."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views_workload import HISTORY_COLUMNS, history_rows

    print_rows(HISTORY_COLUMNS, history_rows(client.get("task", ref)), template, quiet=False)


@task.command("kill")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("-f", "--force", is_flag=True, help="Give the task up at once, whatever its node says")
@plan_options
@click.pass_context
def kill(ctx: click.Context, tasks: tuple[str, ...], force: bool) -> None:
    """Stop tasks; their services put new ones in their places."""
    client = connect(ctx)

    def stop(ref: str) -> None:
        stop_task(client, client.get("task", ref).meta.id, force=force)
        click.echo(ref)

    for_each(tasks, stop)


@task.command("restart")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@wait_options
@click.pass_context
def restart(
    ctx: click.Context, tasks: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Stop tasks and wait until new ones run in their places; one after the other."""
    client = connect(ctx)

    def again(ref: str) -> None:
        found = client.get("task", ref)
        answer = stop_task(client, found.meta.id)
        click.echo(ref)
        if not detach:
            from swarmpy.cli.wait import service_converges

            service = client.get("service", found.service_id)
            answer.object.service.CopyFrom(service)
            limit_s = converge_timeout_s(ctx, timeout_ms)
            patient = gave_timeout(ctx, timeout_ms)
            service_converges(client, service, answer, limit_s=limit_s, patient=patient, quiet=quiet)

    for_each(tasks, again)


def stop_task(client: Client, task_id: str, *, force: bool = False) -> Any:
    """A task changes often: when somebody else's write comes in between, again."""
    for pause_s in (0.05, 0.1, 0.2, 0.4):
        try:
            return client.delete("task", task_id, force=force)
        except Changed:
            time.sleep(pause_s)
    return client.delete("task", task_id, force=force)


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
        chosen,
        nodes if resolve else {},
        now_ms(),
        whole=whole or quiet,
        tree=tree and template == "table" and not quiet,
    )
    print_rows(TASK_COLUMNS, rows, template, quiet=quiet)


def node_names(client: Client) -> dict[str, str]:
    """Node names by id."""
    return {node.meta.id: node.meta.name or node.meta.id for node in client.find("node")}


def now_ms() -> int:
    """The clock, for words like `5 minutes ago`."""
    return int(time.time() * 1000)
