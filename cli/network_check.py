"""`network verify` and `network trace`: what the nodes' networks are, and the way of one connection."""

from __future__ import annotations

import json
from typing import Any

import click
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.options import DockerCommand, connect, format_option

VERIFY_TIMEOUT_S = 120.0
TRACE_TIMEOUT_S = 60.0
COLUMNS = (
    ("NODE", "Node"), ("STATE", "State"), ("KERNEL", "KernelObjects"), ("NAMES", "DNSNames"),
    ("DIFFERENCES", "Count"),
)  # fmt: skip


@click.command("verify", cls=DockerCommand)
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option("--repair", is_flag=True, help="Put right what differs")
@format_option
@click.pass_context
def verify(ctx: click.Context, nodes: tuple[str, ...], repair: bool, template: str) -> None:
    """Compare every node's kernel and DNS with what the managers have; ends with 1 where they differ."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows
    from swarmpy.proto import networks_pb2

    request = networks_pb2.VerifyRequest(nodes=nodes, repair=repair)
    answers = list(client.networks_stream("Verify", request, VERIFY_TIMEOUT_S))
    answers.sort(key=lambda answer: answer.node_name)
    print_rows(COLUMNS, [row(answer) for answer in answers], template)
    for answer in answers if template in {"", "table"} else ():
        for problem in answer.problems:
            click.echo(f"{answer.node_name}: {problem}", err=True)
        for problem in answer.remaining:
            click.echo(f"{answer.node_name}: still: {problem}", err=True)
        if answer.error:
            click.echo(f"{answer.node_name}: {answer.error}", err=True)
    bad = [answer.node_name for answer in answers if state_of(answer) not in {"clean", "repaired"}]
    if bad:
        advice = "" if repair else ": `swarmpy network verify --repair` puts it right"
        raise CliError(
            f"{len(bad)} of {len(answers)} nodes are not as they should be ({', '.join(bad)}){advice}."
        )


def state_of(answer: Any) -> str:
    """clean, different, repaired, or unknown."""
    if answer.error:
        return "unknown"
    if not answer.problems:
        return "clean"
    return "repaired" if answer.repaired else "different"


def row(answer: Any) -> dict[str, Any]:
    """One node."""
    return {
        "Node": answer.node_name,
        "State": state_of(answer),
        "KernelObjects": answer.kernel_objects,
        "DNSNames": answer.dns_names,
        "Count": len(answer.problems),
        "Problems": list(answer.problems),
        "Remaining": list(answer.remaining),
        "Error": answer.error,
        "ID": answer.node_id,
    }


def split_target(text: str) -> tuple[str, int, str]:
    """`web:80`, `db:53/udp`, `[fd00::1]:80`."""
    rest, _, protocol = text.partition("/")
    host, colon, port = rest.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageRefused(f"{text!r} is not NAME:PORT[/PROTOCOL]: write for example web:80 or db:53/udp.")
    if protocol not in {"", "tcp", "udp", "sctp"}:
        raise UsageRefused(f"{protocol!r} is no protocol: use tcp, udp or sctp.")
    return host.strip("[]"), int(port), protocol or "tcp"


@click.command("trace", cls=DockerCommand)
@click.argument("source", metavar="SERVICE[.SLOT]|TASK|NODE")
@click.argument("target", metavar="NAME:PORT[/PROTOCOL]")
@click.option("--format", "template", default="table", metavar="FORMAT", help="table or json")
@click.pass_context
def trace(ctx: click.Context, source: str, target: str, template: str) -> None:
    """Follow a connection from a task or node: DNS, balancing, rules, routes, arrival, and a real attempt.

    Ends with 1 when the connection is not accepted.
    """
    host, port, protocol = split_target(target)
    client = connect(ctx)
    from swarmpy.cli.output import document, print_table
    from swarmpy.proto import networks_pb2

    request = networks_pb2.TraceRequest(source=source, target=host, port=port, protocol=protocol)
    answer = client.networks_unary("Trace", request, TRACE_TIMEOUT_S)
    if template == "json":
        click.echo(json.dumps(document(answer, defaults=True), ensure_ascii=False))
    else:
        lines = [
            [step.node_name, ("✗ " if step.failed else "  ") + step.what, step.text] for step in answer.steps
        ]
        print_table([["NODE", "  STEP", "WHAT HAPPENS"], *lines])
    if not answer.reached:
        stops = next((step for step in answer.steps if step.failed), None)
        where = (
            f"it stops at {stops.what} on {stops.node_name}: {stops.text}" if stops else "no reason was found"
        )
        raise CliError(f"{source} does not reach {target}: {where}.")
