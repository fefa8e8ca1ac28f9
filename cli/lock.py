"""`unlock`, `unlock-key`, and `swarm update`: the cluster's lock and settings."""

from __future__ import annotations

import sys

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import MILLISECONDS, DockerCommand, Value, connect
from swarmpy.cli.plan import plan_options

BOOLEAN = Value(parse.boolean, "true|false")


@click.command(cls=DockerCommand)
@click.pass_context
def unlock(ctx: click.Context) -> None:
    """Give the manager on this machine the unlock key; asked for, or read from standard input."""
    terminal = sys.stdin.isatty()
    key = click.prompt("Please enter unlock key", hide_input=True) if terminal else sys.stdin.readline()
    if not key.strip():
        raise UsageRefused("no key was given: type it, or pass it on standard input.")
    client = connect(ctx)
    from swarmpy.proto import control_pb2

    client.call("Unlock", control_pb2.UnlockRequest(key=key.strip()))
    click.echo("Manager unlocked.")


@click.command("unlock-key", cls=DockerCommand)
@click.option("--rotate", is_flag=True, help="Make a new key; every manager that runs changes to it at once")
@click.option("-q", "--quiet", is_flag=True, help="Only the key")
@click.pass_context
def unlock_key(ctx: click.Context, rotate: bool, quiet: bool) -> None:
    """Show the key that unlocks managers after a restart."""
    client = connect(ctx)
    from swarmpy.proto import control_pb2

    key = client.call("UnlockKey", control_pb2.UnlockKeyRequest(rotate=rotate)).key
    if quiet:
        click.echo(key)
        return
    if not key:
        click.echo(
            "Autolock is off: managers start without a key. Turn it on: swarmpy swarm update --autolock"
        )
        return
    if rotate:
        click.echo("Successfully rotated manager unlock key.\n")
    show_key(key)
    if rotate:
        click.echo("\nKeep the old key, too, until every manager that is down now has been up again.")


def show_key(key: str) -> None:
    """What to do with it."""
    click.echo("To unlock a manager after it restarts, run `swarmpy unlock` and provide the following key:\n")
    click.echo(f"    {key}\n")
    click.echo(
        "Keep this key in a password manager, away from the managers: without it a manager that has\n"
        "restarted cannot be used again."
    )


@click.command("update", cls=click.Command)
@click.option(
    "--autolock", type=BOOLEAN, is_flag=False, flag_value="true", help="Managers start locked: true|false"
)
@click.option("--task-history-limit", type=click.IntRange(0, 1000), help="Dead tasks kept per slot")
@click.option("--dispatcher-heartbeat", type=MILLISECONDS, help="How often nodes report, for example 1s")
@click.option(
    "--auto-rebalance",
    type=BOOLEAN,
    is_flag=False,
    flag_value="true",
    help="Move tasks to nodes that came up: true|false",
)
@click.option(
    "--cert-expiry", type=MILLISECONDS, help="Lifetime of the nodes' certificates, for example 720h"
)
@click.option(
    "--strategy",
    type=click.Choice(["spread", "binpack", "random"]),
    help="How nodes are chosen for services that do not say (spread)",
)
@click.option(
    "--direct-routes",
    type=click.Choice(["auto", "off"]),
    help="Between nodes on one segment without VXLAN, where that works (auto)",
)
@plan_options
@click.pass_context
def update(
    ctx: click.Context,
    autolock: bool | None,
    task_history_limit: int | None,
    dispatcher_heartbeat: int | None,
    cert_expiry: int | None,
    auto_rebalance: bool | None,
    strategy: str | None,
    direct_routes: str | None,
) -> None:
    """Change the cluster's settings."""
    wanted = {
        "autolock": autolock, "task_history_limit": task_history_limit, "heartbeat_ms": dispatcher_heartbeat,
        "cert_expiry_ms": cert_expiry, "auto_rebalance": auto_rebalance, "strategy": strategy,
        "direct_routes": direct_routes,
    }  # fmt: skip
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise UsageRefused("nothing to change: name a setting, for example --autolock=true.")
    client = connect(ctx)
    from swarmpy.proto import control_pb2

    def edit(cluster: object) -> None:
        for name, value in given.items():
            setattr(cluster.spec, name, value)  # type: ignore[attr-defined]

    (cluster,) = client.find("cluster")
    before, _ = client.change("cluster", cluster.meta.id, edit)
    click.echo("Swarm updated.")
    if autolock and not before.spec.autolock:
        click.echo("")
        show_key(client.call("UnlockKey", control_pb2.UnlockKeyRequest()).key)
