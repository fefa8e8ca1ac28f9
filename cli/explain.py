"""`explain`: why a task is where it is, or nowhere; `rebalance`: move tasks to where they would go now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import NotConverged
from swarmpy.cli.options import (
    DockerCommand,
    Value,
    connect,
    converge_timeout_s,
    format_option,
    wait_options,
)

if TYPE_CHECKING:
    from swarmpy.cli.client import Client
    from swarmpy.proto import control_pb2


def node_label(text: str) -> tuple[str, str]:
    """`NODE:KEY=VALUE` -> (NODE:KEY, VALUE)."""
    where, equals, value = text.partition("=")
    node, colon, key = where.partition(":")
    if not (node and colon and key and equals):
        raise ValueError(f"{text!r} is not a label of a node: write NODE:KEY=VALUE, for example n2:zone=east")
    return where, value


@click.command("explain", cls=DockerCommand)
@click.argument("target", metavar="TASK|SERVICE")
@click.option(
    "--label", "labels", type=Value(node_label, "node:key=value"), multiple=True, help="What if a node had it"
)
@click.option(
    "--reserve-memory", type=Value(parse.size_bytes, "bytes"), help="What if this were reserved instead"
)
@click.option(
    "--reserve-cpu", type=Value(parse.nano_cpus, "decimal"), help="What if this were reserved instead"
)
@format_option
@click.pass_context
def explain(
    ctx: click.Context,
    target: str,
    labels: Any,
    reserve_memory: int | None,
    reserve_cpu: int | None,
    template: str,
) -> None:
    """Show every node, what keeps a task away from it, and the smallest change that would place it."""
    client = connect(ctx)
    from swarmpy.proto import control_pb2, types_pb2

    request = control_pb2.ExplainRequest(
        target=target,
        labels=dict(labels),
        reserve=reserve_memory is not None or reserve_cpu is not None,
        reservations=types_pb2.Resources(nano_cpus=reserve_cpu or 0, memory_bytes=reserve_memory or 0),
    )
    answer = client.call("Explain", request)
    if template != "table":
        from swarmpy.cli.output import print_documents

        print_documents([answer], template if template != "json" else "table")
        return
    show(answer, what_if=bool(labels) or request.reserve)


def show(answer: control_pb2.ExplainResponse, *, what_if: bool) -> None:
    """For people."""
    from swarmpy.cli.output import ago, aligned, size_word
    from swarmpy.cli.task import now_ms

    supposed = " (what if)" if what_if else ""
    click.echo(f"{answer.task}: {answer.state}{supposed}  {answer.message}".rstrip())
    cells = [["RANK", "NODE", "OF SERVICE", "TASKS", "SCORE", "USED", "FREE CPU", "FREE MEMORY", "WHY NOT"]]
    for node in answer.nodes:
        problems = [f"{check.name}: {check.problem}" for check in node.filters if check.problem]
        notes = [*problems, *(["failed here lately"] if node.faulty else [])]
        notes += ["second choice by taint"] if node.second_choice else []
        cells.append(
            [
                str(node.rank or "-"),
                node.node + (" *" if node.here else ""),
                str(node.service_tasks),
                str(node.tasks),
                f"{node.score:.1f}" if node.rank else "",
                f"{node.cpu_percent}%/{node.memory_percent}%",
                f"{node.free_nano_cpus / 1e9:g}",
                size_word(node.free_memory_bytes) if node.free_memory_bytes > 0 else "0B",
                "; ".join(notes),
            ]
        )
    for line in aligned(cells):
        click.echo(line.rstrip())
    for title, lines in (
        ("Would help:", list(answer.advice)),
        ("Lately:", [f"{ago(event.at_ms, now_ms())}  {event.what}" for event in answer.events]),
    ):
        if lines:
            click.echo(f"\n{title}")
        for line in lines:
            click.echo(f"  {line}")


@click.command("rebalance", cls=DockerCommand)
@click.option(
    "--max-moves", type=click.IntRange(1, 200), default=10, show_default=True, help="At most so many"
)
@click.option("--service", default="", help="Only this one")
@wait_options
@click.pass_context
def rebalance(
    ctx: click.Context, max_moves: int, service: str, detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Move tasks to where the scheduler would put them now, a successor first."""
    client = connect(ctx)
    from swarmpy.cli.client import new_request_id
    from swarmpy.cli.plan import CHANGES, Planned
    from swarmpy.proto import control_pb2

    answer = client.call(
        "Rebalance",
        control_pb2.RebalanceRequest(
            service=service, max_moves=max_moves, plan=client.planning, request_id=new_request_id(),
            check_index=client.check_index,
        ),
    )  # fmt: skip
    for move in answer.moves:
        click.echo(f"move     {move.service}.{move.slot}  {move.from_node} -> {move.to_node}")
    for line in [] if quiet else answer.skipped:
        click.echo(f"stays    {line}", err=True)
    if not answer.moves and not quiet:
        click.echo("Nothing to move: no task would be better off elsewhere by a whole task.", err=True)
    if client.planning:
        click.echo(
            f"Planned at index {answer.index}: repeat with --check-index {answer.index} instead of --plan."
        )
        raise Planned(CHANGES if answer.moves else 0)
    if answer.moves and not detach:
        moved(client, answer, converge_timeout_s(ctx, timeout_ms))


def moved(client: Client, answer: Any, limit_s: float) -> None:
    """Until the tasks that were to leave have left."""
    from swarmpy.cli.wait import Verdict, World, follow
    from swarmpy.proto import types_pb2

    ids = {move.task_id for move in answer.moves}

    def judge(world: World) -> Verdict:
        tasks = world.of("task")
        left = [
            tasks[task_id]
            for task_id in ids
            if task_id in tasks and tasks[task_id].status.state <= types_pb2.TASK_RUNNING
        ]
        return Verdict(done=not left, summary=f"{len(ids) - len(left)} of {len(ids)} tasks have moved")

    try:
        follow(client, ["task"], answer.index, limit_s, judge)
    except NotConverged as error:
        raise NotConverged(
            f"{error.message} They keep running where they are until a successor runs."
        ) from None
