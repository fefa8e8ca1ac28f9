"""`stats` and `top`: what tasks, services and nodes use; live on a terminal, else one round.

Rates need two samples: a single round takes two, a second apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import CliError, Disconnected, NoManager, UsageRefused
from swarmpy.cli.options import MILLISECONDS_OR_SECONDS, DockerCommand, connect, format_option

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

INTERVAL_MS = 1000
GATHER_S = 0.3
MINUS = "--"
TASK_COLUMNS = (
    ("TASK", "Task"), ("NODE", "Node"), ("CPU %", "CPUPerc"), ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"), ("NET I/O", "NetIO"), ("BLOCK I/O", "BlockIO"), ("PIDS", "PIDs"),
    ("PRESSURE C/M/IO", "Pressure"),
)  # fmt: skip
SERVICE_COLUMNS = (
    ("SERVICE", "Service"), ("TASKS", "Tasks"), ("CPU %", "CPUPerc"), ("MEMORY", "Memory"),
    ("NET I/O", "NetIO"), ("BLOCK I/O", "BlockIO"), ("PIDS", "PIDs"),
)  # fmt: skip
NODE_COLUMNS = (
    ("NODE", "Node"), ("TASKS", "Tasks"), ("CPU %", "CPUPerc"), ("CPUS", "CPUs"), ("LOAD", "Load"),
    ("MEMORY / TOTAL", "MemUsage"), ("MEM %", "MemPerc"),
)  # fmt: skip
PROCESS_COLUMNS = (
    ("PID", "PID"), ("IN TASK", "InnerPID"), ("USER", "User"), ("STATE", "State"), ("CPU TIME", "CPUTime"),
    ("MEMORY", "Memory"), ("STARTED", "Started"), ("COMMAND", "Command"),
)  # fmt: skip


@click.command("stats", cls=DockerCommand)
@click.argument("targets", nargs=-1, metavar="[SERVICE|TASK...]")
@click.option("--no-stream", is_flag=True, help="One round instead of a live table")
@click.option("--no-trunc", is_flag=True, help="Whole task ids")
@click.option(
    "--interval", "interval_ms", type=MILLISECONDS_OR_SECONDS, default=INTERVAL_MS, help="Between rounds (1s)"
)
@click.option("--containers", is_flag=True, help="Also each container of tasks that have several")
@click.option("-a", "--all", "everything", is_flag=True, hidden=True)
@format_option
@click.pass_context
def stats(
    ctx: click.Context,
    targets: tuple[str, ...],
    no_stream: bool,
    no_trunc: bool,
    interval_ms: int,
    containers: bool,
    everything: bool,
    template: str,
) -> None:
    """Show what running tasks use: of the whole cluster, or of some services and tasks."""
    if everything:
        raise UsageRefused("--all is not built: tasks that do not run use nothing.")

    def rows(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
        found = [task_row(before.get(key), stats, no_trunc) for key, stats in now.items()]
        return sorted(found, key=lambda row: row["Task"])

    asked = {"nodes": False, "containers": containers}
    show(connect(ctx), targets, asked, interval_ms, no_stream, template, TASK_COLUMNS, rows)


@click.command("top", cls=DockerCommand)
@click.argument("target", required=False, metavar="[SERVICE[.SLOT]|TASK]")
@click.option("--nodes", is_flag=True, help="Nodes instead of services")
@click.option("--container", default="", metavar="NAME", help="With a task: that container of its pod (main)")
@click.option("--no-stream", is_flag=True, help="One round instead of a live table")
@click.option(
    "--interval", "interval_ms", type=MILLISECONDS_OR_SECONDS, default=INTERVAL_MS, help="Between rounds (1s)"
)
@format_option
@click.pass_context
def top(
    ctx: click.Context,
    target: str | None,
    nodes: bool,
    container: str,
    no_stream: bool,
    interval_ms: int,
    template: str,
) -> None:
    """Show which services, or nodes, use the most; with a task, its processes."""
    client = connect(ctx)
    if target is not None:
        if nodes:
            raise UsageRefused("--nodes cannot be combined with a task.")
        show_processes(client, target, container, template)
    elif nodes:
        show(client, (), {"nodes": True}, interval_ms, no_stream, template, NODE_COLUMNS, node_rows)
    else:
        show(client, (), {}, interval_ms, no_stream, template, SERVICE_COLUMNS, service_rows)


def show_processes(client: Client, target: str, container: str, template: str) -> None:
    from swarmpy.cli.output import ago, print_rows, size_word
    from swarmpy.proto import tasks_pb2

    answer = client.tasks_unary("Processes", tasks_pb2.ProcessesRequest(target=target, container=container))
    now_ms = int(time.time() * 1000)
    rows = [
        {
            "PID": found.pid, "PPID": found.parent_pid, "InnerPID": found.inner_pid, "User": found.user,
            "State": found.state, "CPUTime": f"{found.cpu_ns / 1e9:.2f}s", "Memory": size_word(found.memory_bytes),
            "Started": ago(found.started_ms, now_ms), "Command": found.command,
        }
        for found in answer.processes
    ]  # fmt: skip
    print_rows(PROCESS_COLUMNS, rows, template)


def show(
    client: Client, targets: tuple[str, ...], asked: dict[str, bool], interval_ms: int, once: bool, template: str,
    columns: tuple[tuple[str, str], ...], rows: Any,
) -> None:  # fmt: skip
    """Rounds of rows; a table on a terminal is drawn over the one before."""
    from swarmpy.cli.output import print_rows

    if not 500 <= interval_ms <= 3_600_000:
        raise UsageRefused("--interval: between 0.5s and an hour.")
    table = template in {"", "table"} or template.startswith("table ")
    drawn = table and sys.stdout.isatty() and not once
    before: dict[str, Any] = {}
    for number, (now, warnings) in enumerate(rounds(client, targets, asked, interval_ms)):
        found = rows(before, now)
        before = now
        if once and number == 0 and now:
            continue
        if drawn:
            click.echo("\x1b[H\x1b[J", nl=False)
        print_rows(columns, found, template)
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        sys.stdout.flush()
        if once:
            return


def rounds(
    client: Client, targets: tuple[str, ...], asked: dict[str, bool], interval_ms: int
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(samples by id, warnings) once an interval, from a stream that a lost manager does not end."""
    import queue
    import threading

    from swarmpy.proto import tasks_pb2

    request = tasks_pb2.StatsRequest(targets=targets, interval_ms=interval_ms, **asked)
    answers: queue.Queue[Any] = queue.Queue(1000)
    forked = client.fork()

    def read() -> None:
        lost = time.monotonic()
        while True:
            try:
                for answer in forked.tasks_stream("Stats", request):
                    lost = time.monotonic()
                    answers.put(answer)
                return
            except Disconnected as error:
                if time.monotonic() - lost > client.timeout_s:
                    answers.put(NoManager(f"Lost the managers: {error.message}"))
                    return
                forked.next_host()
                time.sleep(0.2)
            except CliError as error:
                answers.put(error)
                return

    threading.Thread(target=read, name="stats", daemon=True).start()
    latest: dict[str, Any] = {}  # by node
    warned: dict[str, str] = {}
    deadline = time.monotonic() + max(GATHER_S, 2.0)
    while True:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield samples(latest.values(), asked.get("nodes", False)), list(warned.values())
            deadline = time.monotonic() + interval_ms / 1000
            continue
        if isinstance(answer, CliError):
            raise answer
        if not latest:
            deadline = min(deadline, time.monotonic() + GATHER_S)
        if answer.warning:
            latest.pop(answer.node_id, None)
            warned[answer.node_id] = answer.warning
        else:
            latest[answer.node_id] = answer
            warned.pop(answer.node_id, None)


def samples(answers: Iterable[Any], nodes: bool) -> dict[str, Any]:
    if nodes:
        return {answer.node.node_id: answer.node for answer in answers if answer.HasField("node")}
    return {f"{stats.task_id} {stats.container}": stats for answer in answers for stats in answer.tasks}


def rate(before: Any, now: Any, field: str) -> float | None:
    """Of a counter of ns, per second of the clock; None without two samples."""
    passed = now.time_ns - before.time_ns if before is not None else 0
    return None if passed <= 0 else max(0.0, (getattr(now, field) - getattr(before, field)) / passed)


def percent(value: float | None) -> str:
    return MINUS if value is None else f"{value * 100:.2f}%"


def task_row(before: Any, now: Any, whole: bool) -> dict[str, Any]:
    from swarmpy.cli.output import size_word

    limit = now.memory_limit_bytes
    name = now.task_name.removesuffix(f".{now.task_id}") or now.task_id
    pressures = [rate(before, now, f"{what}_pressure_ns") for what in ("cpu", "memory", "io")]
    return {
        "Task": f"{name}.{now.task_id if whole else now.task_id[:12]}" + (now.container and f"  {now.container}"),
        "ID": now.task_id, "Name": name, "Container": now.container,
        "Service": now.service_name, "Node": now.node_name, "CPUPerc": percent(rate(before, now, "cpu_ns")),
        "MemUsage": f"{size_word(now.memory_bytes)} / {size_word(limit) if limit else MINUS}",
        "MemPerc": percent(now.memory_bytes / limit if limit else None),
        "NetIO": f"{size_word(now.received_bytes)} / {size_word(now.sent_bytes)}",
        "BlockIO": f"{size_word(now.read_bytes)} / {size_word(now.written_bytes)}",
        "PIDs": f"{now.pids}" + (f"/{now.pids_limit}" if now.pids_limit else ""),
        "Pressure": "/".join(percent(value) for value in pressures) if now.pressure else MINUS,
    }  # fmt: skip


def service_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    from swarmpy.cli.output import size_word

    services: dict[str, list[Any]] = {}
    for stats in now.values():
        services.setdefault(stats.service_name, []).append(stats)
    found = []
    for name, tasks in services.items():
        rates = [rate(before.get(f"{task.task_id} "), task, "cpu_ns") for task in tasks]
        known = [value for value in rates if value is not None]
        used = {field: sum(getattr(task, field) for task in tasks) for field in SUMMED}
        row = {
            "Service": name, "Tasks": len(tasks), "CPUPerc": percent(sum(known) if known else None),
            "Memory": size_word(used["memory_bytes"]), "PIDs": used["pids"],
            "NetIO": f"{size_word(used['received_bytes'])} / {size_word(used['sent_bytes'])}",
            "BlockIO": f"{size_word(used['read_bytes'])} / {size_word(used['written_bytes'])}",
        }  # fmt: skip
        found.append((-sum(known), -used["memory_bytes"], name, row))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]


SUMMED = ("memory_bytes", "pids", "received_bytes", "sent_bytes", "read_bytes", "written_bytes")


def node_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """CPU as a share of all the node's cores."""
    from swarmpy.cli.output import size_word

    found = []
    for node_id, node in now.items():
        busy = rate(before.get(node_id), node, "busy_ns")
        share = None if busy is None else busy / max(1, node.cpus)
        total = node.memory_total_bytes
        row = {
            "Node": node.node_name, "ID": node_id, "Tasks": node.tasks, "CPUPerc": percent(share),
            "CPUs": node.cpus, "Load": f"{node.load:.2f}",
            "MemUsage": f"{size_word(node.memory_bytes)} / {size_word(total)}",
            "MemPerc": percent(node.memory_bytes / total if total else None),
        }  # fmt: skip
        found.append((-(share or 0.0), node.node_name, row))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:2])]
