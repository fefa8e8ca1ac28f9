"""`service logs` and `logs`: the lines of services, stacks and tasks, from all nodes."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, Disconnected, NoManager, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client


@click.command("logs", cls=DockerCommand)
@click.argument("names", nargs=-1, required=True, metavar="SERVICE[.SLOT]|TASK|STACK...")
@click.option("-f", "--follow", is_flag=True, help="Keep showing new lines, of tasks started later too")
@click.option("-n", "--tail", default="all", help="Only the last lines of each task")
@click.option("--since", metavar="TIME", help="From then on: 10m, 2026-01-31T12:00:00Z or seconds")
@click.option("--until", metavar="TIME", help="Up to then")
@click.option("--grep", metavar="REGEX", help="Only lines that match; -n counts those")
@click.option("-p", "--previous", is_flag=True, help="Of the task before the present one of each slot")
@click.option("--container", default="", metavar="NAME", help="Only that container of pods")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line")
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
    names: tuple[str, ...],
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    grep: str | None,
    previous: bool,
    container: str,
    as_json: bool,
    **how: bool,
) -> None:
    """Show the logs of services, stacks or tasks, merged by time.

    What a node that is away cannot give is a warning. Logs of ended tasks are kept for a while.
    """
    number = tail_number(tail)
    since_ms, until_ms = moment("--since", since), moment("--until", until)
    pattern = pattern_of(grep)
    client = connect(ctx)
    from swarmpy.proto import control_pb2

    request = control_pb2.LogsRequest(
        targets=names, follow=follow, tail=number, since_ms=since_ms, until_ms=until_ms, previous=previous,
        container=container,
    )  # fmt: skip
    out, err = sys.stdout.buffer, sys.stderr.buffer
    for line in matching(client, request, pattern) if pattern else lines(client, request):
        if line.warning:
            click.echo(f"Warning: {line.warning}", err=True)
            continue
        if as_json:
            stream, text = out, json_line(line)
        else:
            stream = err if line.stderr else out
            text = prefix(line, **how) + line.line.rstrip(b"\n") + b"\n"
        stream.write(text)
        stream.flush()


def pattern_of(text: str | None) -> re.Pattern[bytes] | None:
    """Lines are bytes of any encoding, so is the pattern."""
    try:
        return re.compile(text.encode()) if text is not None else None
    except re.error as error:
        raise UsageRefused(f"--grep: {text!r} is not a regular expression: {error}.") from None


def matching(client: Client, request: Any, pattern: re.Pattern[bytes]) -> Iterator[Any]:
    """The lines that match, and warnings. With --tail the last matching ones: all the old are looked at first."""
    tail, follow, until_ms = request.tail, request.follow, request.until_ms
    request.tail = -1
    if tail >= 0:
        request.follow = False
        now_ms = int(time.time() * 1000)
        request.until_ms = min(until_ms or now_ms, now_ms) if follow else until_ms
        kept: dict[str, deque[tuple[int, Any]]] = {}
        for position, line in enumerate(lines(client, request)):
            if line.warning:
                yield line
            elif pattern.search(line.line):
                kept.setdefault(f"{line.task_id} {line.container}", deque(maxlen=tail)).append(
                    (position, line)
                )
        found = sorted((entry for queue in kept.values() for entry in queue), key=lambda entry: entry[0])
        yield from (line for _, line in found)
        if not follow:
            return
        request.follow, request.since_ms, request.until_ms = True, request.until_ms + 1, until_ms
    for line in lines(client, request):
        if line.warning or pattern.search(line.line):
            yield line


def json_line(line: Any) -> bytes:
    """One line with all that is known of it."""
    name = line.task_name.removesuffix(f".{line.task_id}")
    value = {
        "time": stamp(line.time_ns), "service": name.partition(".")[0], "task": name, "taskId": line.task_id,
        **({"container": line.container} if line.container else {}),
        "node": line.node_name, "stream": "stderr" if line.stderr else "stdout",
        "line": line.line.rstrip(b"\n").decode(errors="replace"),
    }  # fmt: skip
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def stamp(time_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    when = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


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
        when = f"{stamp(line.time_ns)} "
    if raw:
        return when.encode()
    short = line.task_id if no_trunc else line.task_id[:12]
    slot = line.task_name.removesuffix(f".{line.task_id}")
    who = short if no_resolve else slot if no_task_ids else f"{slot}.{short}"
    who += line.container and f"/{line.container}"
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
