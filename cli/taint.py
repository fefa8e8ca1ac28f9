"""`node taint …`: nodes that take tasks only of services that tolerate them."""

from __future__ import annotations

from typing import Any

import click
from swarmpy.cli import parse_placement
from swarmpy.cli.options import DockerGroup, Value, connect
from swarmpy.cli.plan import plan_options

TAINT = Value(parse_placement.taint, "KEY[=VALUE]:EFFECT")
PATTERN = Value(parse_placement.toleration, "KEY[=VALUE][:EFFECT]")


@click.group(cls=DockerGroup)
def taint() -> None:
    """Keep tasks off a node unless their service tolerates it (--toleration)."""


@taint.command("add")
@click.argument("name", metavar="NODE")
@click.argument("taints", nargs=-1, required=True, type=TAINT, metavar="KEY[=VALUE]:EFFECT...")
@plan_options
@click.pass_context
def add(ctx: click.Context, name: str, taints: tuple[Any, ...]) -> None:
    """Add taints; effects: NoSchedule, PreferNoSchedule, NoExecute (stops what runs there, too)."""
    client = connect(ctx)
    from swarmpy.cli.edit_placement import add_taints
    from swarmpy.cli.node import own

    client.change("node", own(client, name), lambda found: add_taints(found.spec, taints))
    click.echo(name)


@taint.command("rm")
@click.argument("name", metavar="NODE")
@click.argument("taints", nargs=-1, required=True, type=PATTERN, metavar="KEY[=VALUE][:EFFECT]...")
@plan_options
@click.pass_context
def rm(ctx: click.Context, name: str, taints: tuple[Any, ...]) -> None:
    """Remove taints; KEY alone removes all of that key."""
    client = connect(ctx)
    from swarmpy.cli.edit_placement import remove_taints
    from swarmpy.cli.node import own

    client.change("node", own(client, name), lambda found: remove_taints(found.spec, taints))
    click.echo(name)


@taint.command("ls")
@click.argument("name", metavar="NODE")
@click.pass_context
def ls(ctx: click.Context, name: str) -> None:
    """List a node's taints, one a line."""
    client = connect(ctx)
    from swarmpy.cli.edit_placement import EFFECTS
    from swarmpy.cli.node import own

    words = {number: word for word, number in EFFECTS.items()}
    for found in client.get("node", own(client, name)).spec.taints:
        value = f"={found.value}" if found.value else ""
        click.echo(f"{found.key}{value}:{words[found.effect]}")
