"""`network …`: the overlay networks that services use."""

from __future__ import annotations

import ipaddress
from typing import Any

import click
from swarmpy.cli import network_attach, network_check, parse
from swarmpy.cli.errors import NotFound, UsageRefused
from swarmpy.cli.network_policy import policy
from swarmpy.cli.options import DockerGroup, Value, connect, for_each, format_option, list_options, refused
from swarmpy.cli.plan import plan_options

KEY = Value(parse.key_value, "key=value")


@click.group(cls=DockerGroup)
def network() -> None:
    """Manage networks."""


for command in (
    network_attach.connect_,
    network_attach.disconnect,
    network_attach.prune,
    network_check.verify,
    network_check.trace,
):
    network.add_command(command)


def driver_value(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """-d/--driver."""
    if value != "overlay":
        raise UsageRefused(f"--driver {value} is not built: networks of the cluster are overlay networks.")
    return value


ATTACHABLE_NOTE = (
    "--attachable changes nothing: there are no containers outside services and jobs, and these may join "
    "every network. A single container is a job: swarmpy job run --network NETWORK IMAGE"
)


def subnet_value(text: str) -> str:
    """--subnet."""
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not an IPv4 subnet ({error}): write for example 10.90.0.0/16; "
            "--ipv6 gives the network an IPv6 subnet of the cluster's choice"
        ) from None


network.add_command(policy)


def ipv4_value(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Docker's default, and all that there is."""
    if not value:
        raise UsageRefused("--ipv4=false is not built: every network has IPv4, with --ipv6 both.")


@network.command("create")
@click.argument("name", metavar="NETWORK")
@click.option("-d", "--driver", default="overlay", callback=driver_value, expose_value=False, help="overlay")
@click.option("--subnet", type=Value(subnet_value, "subnet"), help="Address range, for example 10.90.0.0/16")
@click.option("--internal", is_flag=True, help="No way out of the cluster")
@click.option(
    "--attachable", is_flag=True, help="Accepted as in Docker; services and jobs may join every network"
)
@click.option(
    "--default-policy",
    type=click.Choice(["allow", "deny"]),
    default="allow",
    help="deny: only what a policy allows comes in (allow)",
)
@click.option("-o", "--opt", "options", type=KEY, multiple=True, help="Option: KEY=VALUE")
@click.option("--label", "labels", type=KEY, multiple=True, help="Label: KEY=VALUE")
@click.option("--scope", type=click.Choice(["swarm"]), hidden=True, expose_value=False)
@refused("--gateway", why="every node has its own gateway address")
@refused("--ip-range", why="every node gets a block of the subnet")
@refused("--aux-address")
@refused("--ipam-driver")
@refused("--ipam-opt")
@refused("--config-from")
@refused("--config-only", switch=True)
@click.option("--ipv6", is_flag=True, help="IPv6 addresses beside the IPv4 ones")
@click.option("--ipv4/--no-ipv4", default=True, callback=ipv4_value, expose_value=False, hidden=True)
@refused("--ingress", why="published ports need no network of their own", switch=True)
@plan_options
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    subnet: str | None,
    internal: bool,
    attachable: bool,
    ipv6: bool,
    default_policy: str,
    options: Any,
    labels: Any,
) -> None:
    """Create a network."""
    client = connect(ctx)
    from swarmpy.proto import objects_pb2

    spec = objects_pb2.NetworkSpec(
        subnet=subnet or "", internal=internal, attachable=attachable, ipv6=ipv6, options=dict(options)
    )
    spec.default_deny = default_policy == "deny"
    if attachable:
        click.echo(ATTACHABLE_NOTE, err=True)
    wanted = objects_pb2.Network(spec=spec)
    wanted.meta.name = name
    wanted.meta.labels.update(dict(labels))
    click.echo(client.create(wanted).object.network.meta.id)


@network.command("ls")
@list_options("id, name, label")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the networks."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views import NETWORK_COLUMNS, network_rows

    rows = network_rows(select("network", client.find("network"), filters), whole=no_trunc or quiet)
    print_rows(NETWORK_COLUMNS, rows, template, quiet=quiet)


@network.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about networks, and who is on them."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    networks = [client.get("network", name) for name in names]
    services, tasks = client.find("service"), client.find("task")
    nodes = {node.meta.id: node.meta.name for node in client.find("node")}
    more = [network_attach.attached(found, services, tasks, nodes) for found in networks]
    print_documents(networks, template, pretty=pretty, more=more)


@network.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
@click.option("-f", "--force", is_flag=True, help="No error for a network that does not exist")
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove networks that no service uses."""
    from swarmpy.cli.pipeline import removals

    delete = removals(connect(ctx), "network", names)

    def remove(name: str) -> None:
        try:
            delete(name)
        except NotFound:
            if not force:
                raise
            return
        click.echo(name)

    for_each(names, remove)
