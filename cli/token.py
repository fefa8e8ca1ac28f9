"""`token`, and Docker's `swarm join-token`: what a machine needs to join the cluster.

The two permanent tokens join any number of nodes until they are rotated. With --ttl, --uses or --labels a temporary
one is made: only its hash is kept, so its text is shown this once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import (
    MILLISECONDS,
    DockerCommand,
    DockerGroup,
    Value,
    connect,
    for_each,
    format_option,
    list_options,
)
from swarmpy.cli.plan import plan_options

if TYPE_CHECKING:
    from swarmpy.cli.output import Row

TTL_MS = 24 * 3_600_000
USES = 1
ROLES = ("worker", "manager")
KEY = Value(parse.key_value, "key=value")
COLUMNS = (
    ("ID", "ID"),
    ("ROLE", "Role"),
    ("STATE", "State"),
    ("USES", "Uses"),
    ("EXPIRES", "Expires"),
    ("LABELS", "LabelsText"),
)


@click.group(cls=DockerGroup)
@click.option("--rotate", is_flag=True, hidden=True)
@click.option("-q", "--quiet", is_flag=True, hidden=True)
@click.pass_context
def token(ctx: click.Context, rotate: bool, quiet: bool) -> None:
    """Show, make, list and remove the tokens by which machines join."""
    if (rotate or quiet) and ctx.invoked_subcommand not in ROLES:  # Docker's order: join-token -q worker
        raise UsageRefused("--rotate and -q in front of the command go with `worker` and `manager`.")


def add_role(role: str) -> None:
    @token.command(role, cls=DockerCommand)
    @click.option(
        "--rotate", is_flag=True, help="Make a new permanent token; the old one joins nobody any more"
    )
    @click.option("--ttl", "ttl_ms", type=MILLISECONDS, help="Make a temporary token, valid so long (24h)")
    @click.option(
        "--uses",
        type=click.IntRange(0),
        metavar="N",
        help="Make a temporary token that joins N nodes (1); 0: any number",
    )
    @click.option(
        "--labels", "--label", "labels", type=KEY, multiple=True,
        help="Make a temporary token; nodes get the label KEY=VALUE (repeat for more)",
    )  # fmt: skip
    @click.option("-q", "--quiet", is_flag=True, help="Only the token")
    @format_option
    @click.pass_context
    def show(
        ctx: click.Context,
        rotate: bool,
        ttl_ms: int | None,
        uses: int | None,
        labels: Any,
        quiet: bool,
        template: str,
    ) -> None:
        before = ctx.parent.params if ctx.parent is not None else {}
        rotate, quiet = rotate or before["rotate"], quiet or before["quiet"]
        temporary = ttl_ms is not None or uses is not None or bool(labels)
        if rotate and temporary:
            raise UsageRefused("--rotate is for the permanent token: a temporary one is new each time.")
        if ttl_ms == 0:
            raise UsageRefused("--ttl: a token has to be valid for some time.")
        client = connect(ctx)
        from swarmpy.proto import control_pb2, types_pb2

        number = types_pb2.ROLE_MANAGER if role == "manager" else types_pb2.ROLE_WORKER
        request = control_pb2.TokenRequest(role=number, rotate=rotate)
        if temporary:
            request.ttl_ms = TTL_MS if ttl_ms is None else ttl_ms
            request.uses = USES if uses is None else uses
            request.labels.update(dict(labels))
        print_token(client.token(request), role, quiet=quiet, rotated=rotate, template=template)

    show.help = f"Show the command that joins a {role}."


def print_token(answer: Any, role: str, *, quiet: bool, rotated: bool, template: str) -> None:
    """The token, or the whole command and what it is good for."""
    from swarmpy.cli.output import moment, print_filled

    if quiet:
        click.echo(answer.token)
        return
    if print_filled(answer, template):
        return
    if rotated:
        click.echo(f"Successfully rotated the {role} join token.\n")
    click.echo(f"To add a {role} to this cluster, run the following command on it:\n")
    click.echo(f"    swarmpy join --token {answer.token} {','.join(answer.join_addresses)}\n")
    if answer.HasField("made"):
        made = answer.made
        count = "one node" if made.uses_max == 1 else f"{made.uses_max or 'any number of'} nodes"
        labels = f", with the labels {labels_text(made)}" if made.labels else ""
        click.echo(f"It joins {count} until {moment(made.expires_ms)}{labels}. It is not shown again;")
        click.echo(f"take it back with: swarmpy token rm {made.meta.id}")


@token.command("ls")
@list_options("id, role")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the temporary tokens; the last hour's that ended, too."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.task import now_ms

    found = select("token", client.find("token"), filters)
    print_rows(COLUMNS, rows(found, now_ms(), whole=no_trunc or quiet), template, quiet=quiet)


@token.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="TOKEN...")
@plan_options
@click.pass_context
def rm(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """Remove temporary tokens: they join nobody any more; nodes that joined by them stay."""
    client = connect(ctx)

    def remove(identity: str) -> None:
        client.delete("token", identity)
        click.echo(identity)

    for_each(ids, remove)


def rows(tokens: Iterable[Any], now_ms: int, *, whole: bool) -> list[Row]:
    """The newest first. The managers judge by the leader's clock, this by ours."""
    from swarmpy.cli.output import ago, moment, short_id

    return [
        {
            "ID": short_id(item.meta.id, whole=whole),
            "Role": "manager" if item.role else "worker",
            "State": state_of(item, now_ms),
            "Uses": f"{item.uses}/{item.uses_max or 'any'}",
            "Expires": moment(item.expires_ms),
            "CreatedAt": ago(item.meta.created_ms, now_ms),
            "Labels": dict(sorted(item.labels.items())),
            "LabelsText": labels_text(item),
        }
        for item in sorted(tokens, key=lambda item: (-item.meta.created_ms, item.meta.id))
    ]


def state_of(item: Any, now_ms: int) -> str:
    """`valid`, or why it joins nobody any more."""
    if item.uses_max and item.uses >= item.uses_max:
        return "used up"
    return "expired" if now_ms >= item.expires_ms else "valid"


def labels_text(item: Any) -> str:
    """KEY=VALUE, in order."""
    return ",".join(f"{key}={value}" for key, value in sorted(item.labels.items()))


for _role in ROLES:
    add_role(_role)
token.add_command(ls)
token.add_command(rm)
