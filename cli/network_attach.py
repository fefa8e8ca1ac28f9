"""`network connect`, `disconnect` and `prune`: which services are on a network.

Tasks get their addresses when they are made, so a service that joins or leaves a network gets new tasks, by
its own update policy; nothing is plugged into running containers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, NotFound, UsageRefused
from swarmpy.cli.options import FILTER, DockerCommand, Value, connect, refused, wait_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client


IPV4 = functools.partial(parse.ip_address, version=4)
IPV6 = functools.partial(parse.ip_address, version=6)
RUNNING = 512  # types.proto; this module loads without protobuf


@click.command("connect", cls=DockerCommand)
@click.argument("network", metavar="NETWORK")
@click.argument("service", metavar="SERVICE")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="One more name of it there")
@click.option(
    "--ip", "addresses", multiple=True, type=Value(IPV4, "ip"), help="Its virtual or tasks' address there"
)
@click.option("--ip6", "addresses6", multiple=True, type=Value(IPV6, "ip6"), help="IPv6 of a task's --ip")
@refused("--link", "--link-local-ip", "--driver-opt")
@wait_options
@click.pass_context
def connect_(
    ctx: click.Context,
    /,
    network: str,
    service: str,
    aliases: tuple[str, ...],
    addresses: tuple[str, ...],
    addresses6: tuple[str, ...],
    **wait: Any,
) -> None:
    """Put a service on one more network; its tasks are replaced as in an update."""
    client = connect(ctx)
    from swarmpy.cli.edit import placed
    from swarmpy.cli.service import change

    joined = client.get("network", network)
    check_service(client, service)

    def edit(found: Any) -> None:
        references = found.spec.task.networks
        if not references:
            references.add(target=default_network(client))
        known = next((r for r in references if r.target in {joined.meta.id, joined.meta.name}), None)
        if known is None:
            known = references.add(target=joined.meta.id)
        elif not (aliases or addresses or addresses6):
            raise CliError(f"Service {service} is on network {network} already.")
        known.aliases[:] = sorted({*known.aliases, *aliases})
        if addresses or addresses6:
            placed(known, addresses, addresses6)

    change(ctx, service, edit, client=client, **wait)


@click.command("disconnect", cls=DockerCommand)
@click.argument("network", metavar="NETWORK")
@click.argument("service", metavar="SERVICE")
@click.option("-f", "--force", is_flag=True, hidden=True, expose_value=False)
@wait_options
@click.pass_context
def disconnect(ctx: click.Context, /, network: str, service: str, **wait: Any) -> None:
    """Take a service off a network; its tasks are replaced as in an update."""
    client = connect(ctx)
    from swarmpy.cli.service import change

    left = client.get("network", network)
    check_service(client, service)

    def edit(found: Any) -> None:
        references = found.spec.task.networks
        kept = [r for r in references if r.target not in {left.meta.id, left.meta.name}]
        if len(kept) == len(references):
            on = "it names none, so it is on the default one" if not references else "see `service inspect`"
            raise CliError(f"Service {service} is not on network {network} by its own choice: {on}.")
        if not kept:
            raise CliError(
                f"Network {network} is the last one of service {service}: connect it to another one first."
            )
        del references[:]
        references.extend(kept)

    change(ctx, service, edit, client=client, **wait)


def attached(network: Any, services: Any, tasks: Any, nodes: dict[str, str]) -> dict[str, Any]:
    """Who is on a network: services with their virtual address and names, running tasks with theirs."""
    on = {}
    for service in services:
        references = service.spec.task.networks
        mine = [r for r in references if r.target == network.meta.id]
        if mine or (network.is_default and not references):
            mine_vips = [vip for vip in service.endpoint.vips if vip.network_id == network.meta.id]
            vips = [ip for vip in mine_vips for ip in (vip.address, vip.address6) if ip]
            aliases = [alias for reference in mine for alias in reference.aliases]
            on[service.meta.id] = {"name": service.meta.name, "vip": " ".join(vips), "aliases": aliases}
    return {
        "attached_services": sorted(on.values(), key=lambda entry: str(entry["name"])),
        "attached_tasks": sorted(
            (
                {
                    "name": task.meta.name, "node": nodes.get(task.node_id, task.node_id),
                    "address": " ".join(filter(None, (address.address, address.address6))),
                    "ready": task.status.ready,
                }
                for task in tasks
                if task.status.state <= RUNNING
                for address in task.status.addresses
                if address.network_id == network.meta.id
            ),
            key=lambda entry: str(entry["name"]),
        ),
    }  # fmt: skip


def check_service(client: Client, name: str) -> None:
    """Docker connects containers; here a task follows its service."""
    try:
        client.get("service", name)
    except NotFound:
        for task in client.find("task"):
            if name in {task.meta.name, task.meta.id, f"{task.service_name}.{task.slot}"}:
                raise UsageRefused(
                    f"{name} is a task of service {task.service_name}: networks belong to the service, "
                    "name that."
                ) from None
        raise


def default_network(client: Client) -> str:
    """The id of the network a service without --network is on."""
    return next((str(found.meta.id) for found in client.find("network") if found.is_default), "default")


@click.command("prune", cls=DockerCommand)
@click.option("-f", "--force", is_flag=True, help="Do not ask")
@click.option("--filter", "filters", type=FILTER, multiple=True, help="Only label=KEY[=VALUE]")
@click.option("-q", "--quiet", is_flag=True, help="Only ids")
@click.pass_context
def prune(ctx: click.Context, force: bool, filters: Any, quiet: bool) -> None:
    """Remove all networks that no service uses."""
    client = connect(ctx)
    from swarmpy.cli.filters import select

    used = {r.target for service in client.find("service") for r in service.spec.task.networks}
    networks = [
        found for found in client.find("network") if not found.is_default and not found.pending_delete
    ]
    unused = [found for found in select("network", networks, filters) if found.meta.id not in used]
    if unused and not force:
        names = ", ".join(sorted(found.meta.name for found in unused))
        question = f"Remove the networks that no service uses ({names})?"
        if not click.confirm(question, err=True):
            return
    for found in sorted(unused, key=lambda found: found.meta.name):
        client.delete("network", found.meta.id)
        click.echo(found.meta.id if quiet else found.meta.name)
