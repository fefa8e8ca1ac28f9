"""`demo`: a whole cluster on this machine, to try swarmpy and to develop against it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from swarmpy.cli.errors import CliError, Forbidden
from swarmpy.cli.options import DockerCommand


def say(line: str) -> None:
    """One line of progress, at once even through a pipe."""
    click.echo(line)
    sys.stdout.flush()


def refusals(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the demo's errors into sentences with an exit code."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from swarmpy.node import demo as demo_module

        try:
            return function(*args, **kwargs)
        except demo_module.REFUSALS as error:
            refusal = Forbidden if "sudo" in str(error) else CliError
            raise refusal(str(error)) from None

    return wrapped


@click.group(invoke_without_command=True)
@click.option("--keep", is_flag=True, help="Leave the cluster running at the end")
@click.option("-n", "--nodes", type=int, default=5, show_default=True)
@click.option("--managers", type=int, default=3, show_default=True)
@click.pass_context
def demo(ctx: click.Context, keep: bool, nodes: int, managers: int) -> None:
    """A whole cluster on this machine: each node in its own network namespace.

    Without a command: the tour. It builds the cluster, deploys a service, kills the leader and a worker while
    requests run, says what it saw, and removes everything again.
    """
    if ctx.invoked_subcommand is None:
        _tour(nodes, managers, keep)


@refusals
def _tour(nodes: int, managers: int, keep: bool) -> None:
    from swarmpy.node import demo_tour

    if not demo_tour.run(nodes, managers, keep=keep, say=say):
        raise CliError("the tour did not show what it promises; see the lines marked FAILED above")


@demo.command(cls=DockerCommand)
@click.option("-n", "--nodes", type=int, default=5, show_default=True)
@click.option("--managers", type=int, default=3, show_default=True)
@click.option("--keep", is_flag=True, help="Accepted for symmetry: `up` always leaves the cluster running")
@click.option("--uplink", is_flag=True, help="NAT to the outside, for pulling images")
@refusals
def up(nodes: int, managers: int, keep: bool, uplink: bool) -> None:
    """Build the cluster and leave it running."""
    from swarmpy.node import demo as demo_module

    demo_module.up(nodes, managers, say, uplink=uplink)
    say("\nThe cluster runs. Try:\n")
    for line in demo_module.NEXT_COMMANDS:
        say(f"    {line}")


@demo.command(cls=DockerCommand)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@refusals
def status(form: str) -> None:
    """Show the nodes, their processes and any partition."""
    from swarmpy.cli.output import aligned
    from swarmpy.node import demo as demo_module

    rows = demo_module.overview()
    if form == "json":
        click.echo(json.dumps(rows))
        return
    columns = ["name", "address", "role", "daemon", "agent", "manager", "dns", "processes", "group"]
    table = [[str(row[column]) for column in columns] for row in rows]
    for line in aligned([[column.upper() for column in columns], *table]):
        click.echo(line)


@demo.command(cls=DockerCommand)
@click.argument("node")
@click.option(
    "--process", "part", type=click.Choice(["all", "manager", "agent", "dns"]), default="all", show_default=True,
    help="What to kill with SIGKILL",
)  # fmt: skip
@refusals
def kill(node: str, part: str) -> None:
    """Kill a node like a power cut, or one of its processes."""
    from swarmpy.node import demo as demo_module

    pids = demo_module.kill(node, part)
    click.echo(f"Killed {len(pids)} process{'es' if len(pids) != 1 else ''} of {node}.")


@demo.command(cls=DockerCommand)
@click.argument("node")
@refusals
def start(node: str) -> None:
    """Start a killed node again."""
    from swarmpy.node import demo as demo_module

    demo_module.revive(node)
    click.echo(f"Started {node}.")


@demo.command(cls=DockerCommand)
@click.argument("groups")
@refusals
def partition(groups: str) -> None:
    """Cut the links between groups of nodes: `n1,n2|n3,n4,n5`."""
    from swarmpy.node import demo as demo_module

    parsed = [[name.strip() for name in group.split(",") if name.strip()] for group in groups.split("|")]
    demo_module.partition([group for group in parsed if group])
    click.echo("Links cut. Mend them with `swarmpy demo heal`.")


@demo.command(cls=DockerCommand)
@refusals
def heal() -> None:
    """Mend all cut links."""
    from swarmpy.node import demo as demo_module

    demo_module.heal()
    click.echo("All links work again.")


@demo.command(cls=DockerCommand, context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@refusals
def shell(node: str, command: tuple[str, ...]) -> None:
    """A shell (or COMMAND) on a node: in its network, with SWARMPY_STATE_DIR set to its state."""
    from swarmpy.node import demo as demo_module

    target = demo_module.Demo.load().node(node)
    argv = demo_module.inside(target, list(command) or [os.environ.get("SHELL", "/bin/sh")])
    environment = {**os.environ, "SWARMPY_STATE_DIR": str(target.state), "PS1": f"{node}# "}
    environment.pop("SWARMPY_HOST", None)
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment.get('PATH', os.defpath)}"
    os.execvpe(argv[0], argv, environment)  # noqa: S606


@demo.command(cls=DockerCommand)
@refusals
def down() -> None:
    """Remove the demo cluster and everything of it."""
    from swarmpy.node import demo as demo_module

    demo_module.down(say)
    say("Everything of the demo is removed.")
