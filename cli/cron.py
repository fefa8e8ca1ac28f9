"""`cron …`: jobs that are run at times."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click
from swarmpy.cli.flags import service_flags
from swarmpy.cli.job import job_service
from swarmpy.cli.options import (
    MILLISECONDS,
    DockerGroup,
    Value,
    connect,
    for_each,
    format_option,
    list_options,
)
from swarmpy.cli.plan import plan_options

NAMES = click.argument("names", nargs=-1, required=True, metavar="SCHEDULE...")
OVERLAPS = ("allow", "forbid", "replace")


def kept(text: str) -> tuple[int, int]:
    """`3:1` -> runs that succeeded, runs that failed."""
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    if match is None:
        raise ValueError(f"{text!r} is not SUCCEEDED:FAILED, for example 3:1")
    return int(match[1]), int(match[2])


@click.group(cls=DockerGroup)
def cron() -> None:
    """Run jobs at times."""


@cron.command("create", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", required=True, help="Name of the schedule; its runs are NAME-1, NAME-2, …")
@click.option(
    "--schedule",
    "expression",
    required=True,
    metavar="CRON",
    help="minute hour day month weekday, like '*/15 * * * *', or @daily",
)
@click.option("--tz", "time_zone", default="", metavar="ZONE", help="Time zone, like Europe/Berlin (UTC)")
@click.option(
    "--overlap",
    type=click.Choice(OVERLAPS),
    default="allow",
    help="When the last run is not over: run beside it, leave this one out, or replace it (allow)",
)
@click.option(
    "--start-deadline", type=MILLISECONDS, default="1h", help="A run that is later is left out (1h)"
)
@click.option("--keep", type=Value(kept, "ok:failed"), default="3:1", help="Ended runs that are kept (3:1)")
@click.option("--suspended", is_flag=True, help="Make it without running it")
@click.option(
    "--completions", type=click.IntRange(1, 10_000), help="How many tasks of a run have to succeed (1)"
)
@click.option("--parallelism", type=click.IntRange(1, 10_000), help="How many of them run at once (all)")
@click.option("--deadline", type=MILLISECONDS, help="Give a run up after this time (never)")
@click.option("--global", "everywhere", is_flag=True, help="Each run is once on every node")
@service_flags(update=False)
@plan_options
@click.pass_context
def create(
    ctx: click.Context,
    /,
    image: str,
    command: tuple[str, ...],
    name: str,
    expression: str,
    time_zone: str,
    overlap: str,
    start_deadline: int,
    keep: tuple[int, int],
    suspended: bool,
    **flags: Any,
) -> None:
    """Make a schedule. Any flag of `service create` says how its runs are."""
    from swarmpy.proto import objects_pb2

    service = job_service(name, image, command, flags)
    schedule = objects_pb2.Schedule()
    schedule.meta.name = name
    schedule.meta.labels.update(service.meta.labels)
    spec = schedule.spec
    spec.cron, spec.time_zone, spec.suspended = expression, time_zone, suspended
    spec.overlap = {
        "allow": objects_pb2.OVERLAP_ALLOW,
        "forbid": objects_pb2.OVERLAP_FORBID,
        "replace": objects_pb2.OVERLAP_REPLACE,
    }[overlap]
    spec.starting_deadline_ms = start_deadline
    spec.keep_succeeded, spec.keep_failed = keep
    spec.service.CopyFrom(service.spec)
    spec.labels.update(service.meta.labels)
    answer = connect(ctx).create(schedule)
    click.echo(answer.object.schedule.meta.id)


@cron.command("update")
@click.argument("name", metavar="SCHEDULE")
@click.option("--schedule", "expression", metavar="CRON", help="When it runs: five fields, or @daily")
@click.option("--tz", "time_zone", metavar="ZONE", help="Time zone, like Europe/Berlin")
@click.option("--overlap", type=click.Choice(OVERLAPS), help="When the last run is not over")
@click.option("--start-deadline", type=MILLISECONDS, help="A run that is later is left out")
@click.option("--keep", type=Value(kept, "ok:failed"), help="Ended runs that are kept")
@service_flags(update=True)
@plan_options
@click.pass_context
def update(
    ctx: click.Context,
    /,
    name: str,
    expression: str | None,
    time_zone: str | None,
    overlap: str | None,
    start_deadline: int | None,
    keep: tuple[int, int] | None,
    **flags: Any,
) -> None:
    """Change a schedule. Any flag of `service update` changes the runs from the next one on."""
    client = connect(ctx)
    from swarmpy.cli.edit import apply
    from swarmpy.cli.service import network_id
    from swarmpy.proto import objects_pb2

    def edit(found: Any) -> None:
        spec = found.spec
        if expression is not None:
            spec.cron = expression
        if time_zone is not None:
            spec.time_zone = time_zone
        if overlap is not None:
            spec.overlap = objects_pb2.Overlap.Value(f"OVERLAP_{overlap.upper()}")
        if start_deadline is not None:
            spec.starting_deadline_ms = start_deadline
        if keep is not None:
            spec.keep_succeeded, spec.keep_failed = keep
        run = objects_pb2.Service(spec=spec.service)
        run.meta.name, run.meta.namespace = found.meta.name, found.meta.namespace
        run.meta.labels.update(found.meta.labels)
        apply(run, flags, lambda network: network_id(client, network))
        spec.service.CopyFrom(run.spec)
        for labels in (found.meta.labels, spec.labels):
            labels.clear()
            labels.update(run.meta.labels)

    change(ctx, (name,), edit)


@cron.command("ls")
@list_options("id, name, label")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the schedules."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.task import now_ms
    from swarmpy.cli.views_workload import SCHEDULE_COLUMNS, schedule_rows

    chosen = select("schedule", client.find("schedule"), filters)
    services = [] if quiet else client.find("service")
    rows = schedule_rows(chosen, services, now_ms(), whole=no_trunc or quiet)
    print_rows(SCHEDULE_COLUMNS, rows, template, quiet=quiet)


@cron.command("inspect")
@NAMES
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about schedules."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("schedule", name) for name in names], template, pretty=pretty)


@cron.command("suspend")
@NAMES
@plan_options
@click.pass_context
def suspend(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Make no runs until resumed; what runs goes on."""
    change(ctx, names, lambda found: setattr(found.spec, "suspended", True))


@cron.command("resume")
@NAMES
@plan_options
@click.pass_context
def resume(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Make runs again, from the next time on."""
    change(ctx, names, lambda found: setattr(found.spec, "suspended", False))


@cron.command("trigger")
@NAMES
@plan_options
@click.pass_context
def trigger(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Make a run now, whatever the schedule and its overlap say."""

    def once_more(found: Any) -> None:
        found.spec.triggers += 1

    change(ctx, names, once_more)


@cron.command("rm")
@NAMES
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Remove schedules and all their runs."""
    client = connect(ctx)

    def remove(name: str) -> None:
        client.delete("schedule", client.get("schedule", name).meta.id)
        click.echo(name)

    for_each(names, remove)


def change(ctx: click.Context, names: tuple[str, ...], edit: Callable[[Any], None]) -> None:
    client = connect(ctx)

    def change_one(name: str) -> None:
        client.change("schedule", name, edit)
        click.echo(name)

    for_each(names, change_one)
