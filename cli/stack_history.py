"""`stack history`, `stack rollback`, `stack export`: the revisions of a stack as a whole."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.options import DockerCommand, connect, format_option, wait_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client
    from swarmpy.cli.compose import Project
    from swarmpy.cli.compose_files import ComposeFiles

NAME = click.argument("name", metavar="STACK")
COLUMNS = (
    ("REVISION", "Revision"),
    ("CREATED", "CreatedAt"),
    ("STATE", "State"),
    ("SERVICES", "ServicesText"),
    ("MESSAGE", "Message"),
)
STATES = ("unfinished", "complete", "failed", "taken back")


def add_to(group: click.Group) -> None:
    for command in (history, rollback, export):
        group.add_command(command)


def keeper_of(client: Client, source: ComposeFiles, project: Project, steps: Any) -> Any:
    """What writes the revision of a deployment from files."""
    from swarmpy.cli.compose_dump import dump
    from swarmpy.cli.compose_export import self_contained
    from swarmpy.cli.stack_revisions import Keeper

    messages = {write.name: write.message for level in steps.levels for write in level}
    environments = {
        one.name: list(messages[f"{project.stack}_{one.name}"].spec.task.container.env)
        for one in project.services
    }  # fmt: skip
    declared = {"secrets": project.secrets, "configs": project.configs}
    versions = {
        noun: {
            key: steps.versions[noun[:-1]][shared.name]
            for key, shared in group.items()
            if shared.name in steps.versions[noun[:-1]]
        }
        for noun, group in declared.items()
    }
    assert source.root is not None
    text = dump(self_contained(source.root, environments, versions))
    return Keeper(client, project.stack, zlib.compress(text.encode()))


@click.command("history", cls=DockerCommand)
@NAME
@format_option
@click.pass_context
def history(ctx: click.Context, name: str, template: str) -> None:
    """List the revisions of a stack that are kept, the newest first."""
    client = connect(ctx)
    from swarmpy.cli.output import ago, print_rows
    from swarmpy.cli.stack_revisions import listed, present
    from swarmpy.cli.task import now_ms

    found = listed(client, name)
    now = present(found)
    rows = [
        {
            "ID": one.meta.name,
            "Revision": str(one.revision),
            "CreatedAt": ago(one.meta.created_ms, now_ms()),
            "State": STATES[one.state] + (" (present)" if one is now else ""),
            "Services": [service.name for service in one.services],
            "ServicesText": str(len(one.services)),
            "Message": one.message,
        }
        for one in found
    ]
    print_rows(COLUMNS, rows, template)


@click.command("rollback", cls=DockerCommand)
@NAME
@click.option(
    "--to", "number", type=click.IntRange(1), metavar="REVISION",
    help="Revision (`stack history`); else the one before the present one that is complete",
)  # fmt: skip
@wait_options
@click.pass_context
def rollback(
    ctx: click.Context, name: str, number: int | None, detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Make of a stack what it was at an earlier revision: images, secrets, configs, networks, settings."""
    client = connect(ctx)
    from swarmpy.cli import plan, stack_apply, stack_revisions
    from swarmpy.cli.stack import carry_out

    client.only_now("change anything")
    target = stack_revisions.whole(client, name, number or 0)
    steps = stack_revisions.steps_back(client, target)
    answer = stack_apply.planned(client, steps)
    if client.planning:
        raise plan.end(answer)
    said = f"back to revision {target.revision}"
    if not quiet:
        click.echo(f"Stack {name}: {said}")
    keeper = stack_revisions.Keeper(client, name, target.file, said)
    carry_out(ctx, client, steps, answer, keeper, timeout_ms, detach=detach, quiet=quiet)
    stack_apply.remove_rest(client, name, set(), ("secret", "config"), quiet=True)


@click.command("export", cls=DockerCommand)
@NAME
@click.option(
    "--revision", "number", type=click.IntRange(1), help="Revision (`stack history`); else the present one"
)
@click.option(
    "--spec", is_flag=True, help="What was stored instead: services with digests and versions, as JSON"
)
@click.pass_context
def export(ctx: click.Context, name: str, number: int | None, spec: bool) -> None:
    """Print a revision as one compose file: variables filled in, secrets and configs by their versions."""
    client = connect(ctx)
    from swarmpy.cli import stack_revisions
    from swarmpy.cli.output import print_documents

    found = stack_revisions.present(stack_revisions.listed(client, name))
    chosen = number or (int(found.revision) if found is not None else 0)
    revision = stack_revisions.whole(client, name, chosen)
    if spec:
        revision.file = b""
        print_documents([revision], "")
        return
    click.echo(stack_revisions.file_of(revision), nl=False)
