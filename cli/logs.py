"""`service logs` and `logs`: the lines of a service's tasks, or of one task, from all nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, Disconnected, NoManager, NotFound, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client


@click.command("logs", cls=DockerCommand)
@click.argument("name", metavar="SERVICE|TASK")
@click.option("-f", "--follow", is_flag=True, help="Keep showing new lines")
@click.option("-n", "--tail", default="all", help="Only the last lines of each task")
@click.option("--since", metavar="TIME", help="From then on: 10m, 2026-01-31T12:00:00Z or seconds")
@click.option("--until", metavar="TIME", help="Up to then")
@click.option("-t", "--timestamps", is_flag=True, help="Show when")
@click.option("--raw", is_flag=True, help="Only the lines themselves")
@click.option("--no-trunc", is_flag=True, help="Show whole ids")
@click.option("--no-task-ids", is_flag=True, help="Show no task ids")
@click.option("--no-resolve", is_flag=True, help="Show ids instead of names")
@click.option("--details", is_flag=True, hidden=True)
@click.pass_context
def logs(
    ctx: click.Context,
    /,
    name: str,
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    **how: bool,
) -> None:
    """Show the logs of a service or a task; what a node that is away cannot give is a warning."""
    number = tail_number(tail)
    since_ms, until_ms = moment("--since", since), moment("--until", until)
    client = connect(ctx)
    from swarmpy.proto import control_pb2

    request = control_pb2.LogsRequest(follow=follow, tail=number, since_ms=since_ms, until_ms=until_ms)
    try:
        request.service = client.get("service", name).meta.id
    except NotFound:
        try:
            request.task = client.get("task", name).meta.id
        except NotFound:
            raise NotFound(f"No service or task is named {name!r}: see `swarmpy service ls`.") from None
    out, err = sys.stdout.buffer, sys.stderr.buffer
    for line in lines(client, request):
        if line.warning:
            click.echo(f"Warning: {line.warning}", err=True)
            continue
        text = prefix(line, **how) + line.line.rstrip(b"\n") + b"\n"
        stream = err if line.stderr else out
        stream.write(text)
        stream.flush()


def lines(client: Client, request: Any) -> Iterator[Any]:
    """The lines; when following, a lost manager is replaced by another."""
    last_ns = 0
    lost_at: float | None = None
    while True:
        try:
            for line in client.stream("Logs", request, None if request.follow else 3600):
                lost_at, last_ns = None, max(last_ns, line.time_ns)
                yield line
        except Disconnected as error:
            now = time.monotonic()
            lost_at = lost_at or now
            if now - lost_at > client.timeout_s:
                raise NoManager(f"Lost the managers while reading logs: {error.message}") from None
            if last_ns and not request.follow:
                raise CliError(f"The logs broke off: {error.message} Run the command again.") from None
            if last_ns:
                request.since_ms, request.tail = last_ns // 10**6 + 1, -1
            client.next_host()
            time.sleep(0.2)
            continue
        return


def prefix(
    line: Any,
    *,
    timestamps: bool,
    raw: bool,
    no_trunc: bool,
    no_task_ids: bool,
    no_resolve: bool,
    details: bool,
) -> bytes:
    """`web.1.4f7…@node    | `, Docker's way to say whose line it is."""
    when = ""
    if timestamps:
        moment_ = datetime.fromtimestamp(line.time_ns // 10**9, UTC)
        when = f"{moment_:%Y-%m-%dT%H:%M:%S}.{line.time_ns % 10**9:09d}Z "
    if raw:
        return when.encode()
    short = line.task_id if no_trunc else line.task_id[:12]
    slot = line.task_name.removesuffix(f".{line.task_id}")
    who = short if no_resolve else slot if no_task_ids else f"{slot}.{short}"
    return f"{when}{who}@{line.node_name}    | ".encode()


def tail_number(text: str) -> int:
    """`all` or a number; -1 = all."""
    if text == "all":
        return -1
    if not text.isdigit() or int(text) >= 2**31:
        raise UsageRefused(f"--tail: {text!r} is neither a number nor all.")
    return int(text)


def moment(flag: str, text: str | None) -> int:
    """A point in time in ms, 0 = none."""
    if text is None:
        return 0
    try:
        return parse.moment_ms(text, int(time.time() * 1000))
    except ValueError as error:
        raise UsageRefused(f"{flag}: {error}.") from None
