"""`doctor`: what this machine lacks, and how well the nodes of the cluster reach each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from swarmpy.cli.daemon import state_dir_option
from swarmpy.cli.errors import NoManager
from swarmpy.cli.options import DockerCommand, connect, settings_of

PROBLEMS = 1
STREAM_S = 900.0


@click.command("doctor", cls=DockerCommand)
@click.option("--local", is_flag=True, help="This machine alone")
@click.option(
    "--packets", type=click.IntRange(1, 1000), default=20, help="Echo packets per pair of nodes (20)"
)
@state_dir_option
@click.option(
    "--format", "template", type=click.Choice(["table", "json"]), default="table", help="table or json"
)
@click.pass_context
def doctor(ctx: click.Context, local: bool, packets: int, state_dir: Path, template: str) -> None:
    """Look for what will not work, and say how to mend it.

    Before `init` or `join`: this machine alone. On a manager, or with --host: every node's machine, too, and
    from every node to every other round trip time, loss, path MTU, ports and clock, and what the leader fails
    to plan. The exit code is 1 when
    something failed, 0 when there are at most warnings.
    """
    from swarmpy.node import daemon_doctor

    checks = daemon_doctor.local_checks(state_dir)
    reports: list[Any] = []
    planners: list[str] = []
    note = ""
    if not local:
        try:
            planners, reports = ask_cluster(ctx, packets)
        except NoManager as error:
            settings = settings_of(ctx)
            if settings.hosts or settings.context:
                raise
            note = no_cluster(error, worker=daemon_doctor.is_worker(state_dir))
    from swarmpy.cli.views_doctor import as_document, failed, lines

    if template == "json":
        click.echo(json.dumps(as_document(checks, reports, planners), indent=4, ensure_ascii=False))
    else:
        for line in lines(checks, reports, planners):
            click.echo(line)
    if note:
        click.echo(note, err=True)
    if failed(checks, reports, planners):
        raise click.exceptions.Exit(PROBLEMS)


def no_cluster(error: NoManager, *, worker: bool) -> str:
    if worker:
        return "This node is a worker: run doctor on a manager to see how the nodes reach each other."
    if "No manager runs here" in error.message:
        return "No node runs here yet: only this machine was looked at."
    return f"Only this machine was looked at: {error.message}"


def ask_cluster(ctx: click.Context, packets: int) -> tuple[list[str], list[Any]]:
    """What the leader's planners fail for, and every node's report."""
    from swarmpy.proto import diagnosis_pb2

    client = connect(ctx)
    planners = list(client.status().problems)
    call = client.diagnosis_call("Doctor", diagnosis_pb2.DoctorRequest(packets=packets), STREAM_S)
    return planners, sorted(client.answers(call), key=lambda report: (report.name, report.node_id))
