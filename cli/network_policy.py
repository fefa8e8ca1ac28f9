"""`network policy …`: who may open connections to whom."""

from __future__ import annotations

import ipaddress
from typing import Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import DockerGroup, Value, connect, for_each, format_option, list_options
from swarmpy.cli.plan import plan_options

KEY = Value(parse.key_value, "key=value")
PROTOCOLS = ("tcp", "udp", "sctp")
DENIED = 1


def selector_value(text: str) -> dict[str, str]:
    """`app=web,tier=front`: a service that has all of these; `*`: every service."""
    if text == "*":
        return {}
    labels: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ValueError(
                f"{text!r} selects no services: write LABEL=VALUE[,LABEL=VALUE], service.name=NAME or '*'"
            )
        labels[key] = value
    return labels


def block_value(text: str) -> tuple[str, tuple[str, ...]]:
    """`10.0.0.0/8,except=10.1.0.0/16`, or the exceptions without the word."""
    first, *rest = text.split(",")
    try:
        whole = ipaddress.ip_network(first)
        holes = [ipaddress.ip_network(part.removeprefix("except=")) for part in rest]
    except ValueError as error:
        raise ValueError(f"{text!r} is not CIDR[,EXCEPT-CIDR…]: {error}") from None
    for hole in holes:
        if hole.version != whole.version or not hole.subnet_of(whole):  # type: ignore[arg-type]
            raise ValueError(f"{text!r}: {hole} is not part of {whole}")
    return str(whole), tuple(map(str, holes))


def port_value(text: str) -> tuple[str, int, int]:
    """`5432`, `8000-8010/tcp`, `53/udp`: the containers' ports."""
    ports, _, protocol = text.partition("/")
    first, dash, last = ports.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        low = high = 0
    if not 1 <= low <= high <= 65535 or (protocol or "tcp") not in PROTOCOLS:
        raise ValueError(f"{text!r} is not PORT[-PORT][/tcp|udp|sctp], from 1 to 65535")
    return protocol or "tcp", low, high


def target_value(text: str) -> tuple[str, str, int]:
    """`db:5432`, `db.1:53/udp`, `[fd00::1]:80`: (who, protocol, port)."""
    who, colon, port = text.rpartition(":")
    try:
        protocol, low, high = port_value(port)
    except ValueError:
        colon = ""
    if not colon or not who or low != high:
        raise ValueError(f"{text!r} is not TARGET:PORT[/udp]: write for example db:5432")
    return who.strip("[]"), protocol, low


SELECTOR, BLOCK = Value(selector_value, "label=value"), Value(block_value, "cidr")
PORT, TARGET = Value(port_value, "port"), Value(target_value, "target:port")


@click.group(cls=DockerGroup)
def policy() -> None:
    """Say which services may connect to which."""


@policy.command("create")
@click.argument("name", required=False, default="", metavar="[POLICY]")
@click.option("--from", "sources", type=SELECTOR, multiple=True, help="Who connects: LABEL=VALUE[,…], or '*'")
@click.option("--to", "targets", type=SELECTOR, multiple=True, help="Connected to: LABEL=VALUE[,…], or '*'")
@click.option(
    "--port", "ports", type=PORT, multiple=True, help="Container's port: PORT[-PORT][/udp]; none = all"
)
@click.option(
    "--ip-block", "blocks", type=BLOCK, multiple=True, help="Addresses at the other end: CIDR[,EXCEPT…]"
)
@click.option(
    "--direction",
    type=click.Choice(["ingress", "egress"]),
    default="ingress",
    help="ingress restricts --to, egress restricts --from (ingress)",
)
@click.option("--network", default="", help="Only in this network")
@click.option("--label", "labels", type=KEY, multiple=True, help="Label: KEY=VALUE")
@plan_options
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    sources: Any,
    targets: Any,
    ports: Any,
    blocks: Any,
    direction: str,
    network: str,
    labels: Any,
) -> None:
    """Allow connections, and refuse the others of the services it is about.

    A service that any policy of a direction selects takes part only in connections that one of them allows.
    Without anybody at the other end a policy allows nothing.
    """
    subjects, peers = (targets, sources) if direction == "ingress" else (sources, targets)
    if not subjects:
        flag = "--to" if direction == "ingress" else "--from"
        raise UsageRefused(f"Say whose {direction} traffic it is about: {flag} LABEL=VALUE, or {flag} '*'.")
    client = connect(ctx)
    from swarmpy.proto import objects_pb2

    spec = objects_pb2.PolicySpec(
        direction="POLICY_" + direction.upper(),
        subjects=[objects_pb2.PolicySelector(labels=labels) for labels in subjects],
        peers=[objects_pb2.PolicySelector(labels=labels) for labels in peers],
        blocks=[objects_pb2.PolicyBlock(cidr=cidr, excluded=holes) for cidr, holes in blocks],
        ports=[
            objects_pb2.PolicyPort(protocol="PROTOCOL_" + word.upper(), first=low, last=high)
            for word, low, high in ports
        ],
        network=network,
    )
    wanted = objects_pb2.Policy(spec=spec)
    wanted.meta.name = name
    wanted.meta.labels.update(dict(labels))
    click.echo(client.create(wanted).object.policy.meta.id)


@policy.command("ls")
@list_options("id, name, label")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the policies."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views_policy import POLICY_COLUMNS, policy_rows

    networks = {network.meta.id: network.meta.name for network in client.find("network")}
    rows = policy_rows(select("policy", client.find("policy"), filters), networks, whole=no_trunc or quiet)
    print_rows(POLICY_COLUMNS, rows, template, quiet=quiet)


@policy.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="POLICY...")
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about policies."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("policy", name) for name in names], template, pretty=pretty)


@policy.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="POLICY...")
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Remove policies."""
    client = connect(ctx)

    def remove(name: str) -> None:
        client.delete("policy", name)
        click.echo(name)

    for_each(names, remove)


@policy.command("default")
@click.argument("network", metavar="NETWORK")
@click.argument("what", type=click.Choice(["allow", "deny"]))
@plan_options
@click.pass_context
def default(ctx: click.Context, network: str, what: str) -> None:
    """Say what happens in a network where no policy selects a service."""
    client = connect(ctx)

    def edit(found: Any) -> None:
        found.spec.default_deny = what == "deny"

    client.change("network", network, edit)
    click.echo(network)


@policy.command("test")
@click.argument("source", metavar="SOURCE")
@click.argument("target", type=TARGET, metavar="TARGET:PORT[/udp]")
@click.option("--format", "template", default="", metavar="FORMAT", help="json, or a template")
@click.pass_context
def test(ctx: click.Context, source: str, target: Any, template: str) -> None:
    """Say whether SOURCE may connect to TARGET, and why; nothing is sent.

    Both are services, SERVICE.SLOT, tasks, or addresses. The exit code is 0 when it may, 1 when not.
    """
    client = connect(ctx)
    from swarmpy.proto import diagnosis_pb2

    who, word, port = target
    request = diagnosis_pb2.PolicyTestRequest(
        source=source, target=who, protocol="PROTOCOL_" + word.upper(), port=port
    )
    answer = client.diagnosis_unary("TestPolicy", request)
    if template:
        from swarmpy.cli.output import print_documents

        print_documents([answer], template)
    else:
        for verdict in answer.verdicts:
            where = f" in network {verdict.network}" if verdict.network else ""
            word = "allowed" if verdict.allowed else "denied"
            click.echo(f"{word}{where}: {'; '.join(verdict.reasons)}")
    if not answer.allowed:
        raise click.exceptions.Exit(DENIED)
