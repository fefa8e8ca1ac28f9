"""`job …`: tasks that run to their end. A job is a service; `service` commands work on it, too."""

from __future__ import annotations

import sys
from typing import Any

import click
from swarmpy.cli.flags import service_flags
from swarmpy.cli.logs import logs
from swarmpy.cli.options import (
    MILLISECONDS,
    DockerGroup,
    connect,
    converge_timeout_s,
    for_each,
    gave_timeout,
    list_options,
    wait_options,
)
from swarmpy.cli.plan import plan_options
from swarmpy.cli.service import random_name, rm

FOREVER_S = 7 * 24 * 3600.0
MODES = {"replicated_job", "global_job"}


@click.group(cls=DockerGroup)
def job() -> None:
    """Run tasks to their end, once or on a schedule (see cron)."""


job.add_command(rm, "rm")
job.add_command(logs, "logs")


@job.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", help="Name of the job")
@click.option("--completions", type=click.IntRange(1, 10_000), help="How many tasks have to succeed (1)")
@click.option("--parallelism", type=click.IntRange(1, 10_000), help="How many of them run at once (all)")
@click.option("--ttl", type=MILLISECONDS, help="Remove the job so long after its end (never)")
@click.option("--deadline", type=MILLISECONDS, help="Give the job up after this time (never)")
@click.option("--global", "everywhere", is_flag=True, help="Once on every node instead")
@click.option("--indexed", is_flag=True, hidden=True, expose_value=False)  # every task knows its index
@service_flags(update=False)
@wait_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    image: str,
    command: tuple[str, ...],
    name: str | None,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
    **flags: Any,
) -> None:
    """Run a job, wait for its end, show its output. Ends with the code of the task that failed last."""
    wanted = job_service(name or random_name(), image, command, flags)
    client = connect(ctx)
    answer = client.create(wanted)
    created = answer.object.service
    if detach:
        click.echo(created.meta.id)
        return
    if not quiet:
        click.echo(created.meta.name, err=True)
    from swarmpy.cli.errors import NotConverged
    from swarmpy.cli.wait import service_converges

    limit_s = converge_timeout_s(ctx, timeout_ms) if gave_timeout(ctx, timeout_ms) else FOREVER_S
    failure: NotConverged | None = None
    try:
        service_converges(client, None, answer, limit_s=limit_s, patient=True, quiet=quiet)
    except NotConverged as error:
        failure = error
    show_output(client, created.meta.id)
    if failure is not None:
        failure.show()
        raise click.exceptions.Exit(last_code(client, created.meta.id) or failure.exit_code)


def job_service(name: str, image: str, command: tuple[str, ...], flags: dict[str, Any]) -> Any:
    """The service of a job; also of every run of a schedule."""
    from swarmpy.cli.edit import new_service

    everywhere = flags.pop("everywhere", False)
    for short, long in (
        ("completions", "replicas"),
        ("parallelism", "max_concurrent"),
        ("ttl", "job_ttl"),
        ("deadline", "job_deadline"),
    ):
        value = flags.pop(short, None)
        if value is not None:
            flags[long] = value
    return new_service(name, image, command, "global-job" if everywhere else "replicated-job", flags)


def show_output(client: Any, service_id: str) -> None:
    """What the tasks wrote; a node that cannot give it is a warning."""
    from swarmpy.cli.logs import lines
    from swarmpy.proto import control_pb2

    out, err = sys.stdout.buffer, sys.stderr.buffer
    for line in lines(client, control_pb2.LogsRequest(targets=[service_id], tail=-1)):
        if line.warning:
            click.echo(f"Warning: {line.warning}", err=True)
        else:
            (err if line.stderr else out).write(line.line.rstrip(b"\n") + b"\n")
    out.flush()


def last_code(client: Any, service_id: str) -> int:
    """The exit code of the task that failed last; 0 if none gave one."""
    tasks = [task for task in client.find("task", service=service_id) if task.service_id == service_id]
    failed = [task for task in tasks if task.status.exited and task.status.exit_code > 0]
    failed.sort(key=lambda task: task.status.since_ms)
    return int(failed[-1].status.exit_code) if failed else 0


@job.command("ls")
@list_options("id, name, label, mode")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the jobs: what `job run`, `--mode replicated-job` and schedules made."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.task import now_ms
    from swarmpy.cli.views_workload import JOB_COLUMNS, job_rows

    jobs = [one for one in client.find("service") if one.spec.WhichOneof("mode") in MODES]
    rows = job_rows(select("service", jobs, filters), now_ms(), whole=no_trunc or quiet)
    print_rows(JOB_COLUMNS, rows, template, quiet=quiet)


@job.command("retry")
@click.argument("names", nargs=-1, required=True, metavar="JOB...")
@plan_options
@click.pass_context
def retry(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Run jobs again from the beginning; does not wait."""
    client = connect(ctx)

    def again(name: str) -> None:
        def edit(found: Any) -> None:
            if found.spec.WhichOneof("mode") not in MODES:
                raise click.UsageError(f"{name} is not a job.")
            found.spec.task.force_update += 1

        client.change("service", name, edit)
        click.echo(name)

    for_each(names, again)
