"""`system df|prune`: what the nodes' disks hold, and freeing it."""

from __future__ import annotations

import click
from swarmpy.cli.options import DockerGroup, connect, format_option, refused


@click.group(cls=DockerGroup)
def system() -> None:
    """Look after the nodes' disks."""


@system.command("df")
@format_option
@refused(
    "-v", "--verbose", why="`image ls`, `image where` and `volume ls` show the single things", switch=True
)
@click.pass_context
def df(ctx: click.Context, template: str) -> None:
    """Show what images take on every node's disk."""
    client = connect(ctx)
    from swarmpy.cli.image_look import USAGE_COLUMNS, images_unary, usage_rows, warn
    from swarmpy.cli.output import print_rows
    from swarmpy.proto import images_pb2

    nodes = images_unary(client, "Usage", images_pb2.UsageRequest()).nodes
    print_rows(USAGE_COLUMNS, usage_rows(nodes), template)
    warn(nodes)


@system.command("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Also images that no service uses any more")
@click.option("--plan", is_flag=True, help="Only show what would go")
@click.option("-f", "--force", is_flag=True, help="Do not ask")
@refused("--volumes", why="`volume prune` says which volumes go", switch=True)
@refused("--filter")
@click.pass_context
def prune(ctx: click.Context, every: bool, plan: bool, force: bool) -> None:
    """Remove images that nothing needs. Containers of ended tasks and networks go by themselves."""
    client = connect(ctx)
    from swarmpy.cli.image_look import do_prune

    if not plan and not force:
        click.confirm("This removes images that nothing needs, on every node. Go on?", abort=True, err=True)
    do_prune(client, every=every, keep_revisions=50, plan=plan)
