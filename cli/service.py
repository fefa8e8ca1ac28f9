"""`service …`: create, list, look at, scale, update, roll back and remove services."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse, rollout
from swarmpy.cli.errors import CliError, NotFound, UsageRefused
from swarmpy.cli.exec import exec_
from swarmpy.cli.flags import service_flags
from swarmpy.cli.flags_workload import MODES, mode_value
from swarmpy.cli.logs import logs
from swarmpy.cli.options import (
    DockerGroup,
    Value,
    connect,
    converge_timeout_s,
    for_each,
    format_option,
    gave_timeout,
    limit_option,
    list_options,
    wait_options,
)
from swarmpy.cli.task import FILTER_KEYS, print_tasks

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

ADJECTIVES = (
    *("amber", "brave", "calm", "clever", "eager", "fast", "gentle", "happy", "keen", "lucid"),
    *("mellow", "nimble", "proud", "quiet", "sharp", "sunny", "swift", "tidy", "vivid", "wise"),
)
ANIMALS = (
    *("ant", "bee", "crane", "dingo", "eagle", "finch", "gecko", "heron", "ibis", "jay"),
    *("koala", "lark", "mole", "newt", "otter", "panda", "quail", "robin", "seal", "wren"),
)


@click.group(cls=DockerGroup)
def service() -> None:
    """Manage services: what runs in the cluster, and how often."""


service.add_command(logs, "logs")
service.add_command(exec_, "exec")
rollout.add_to(service)


@service.command("create", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", help="Name of the service, also its DNS name")
@click.option("--mode", default="replicated", callback=mode_value, metavar="MODE", help=", ".join(MODES))
@service_flags(update=False)
@wait_options
@click.pass_context
def create(
    ctx: click.Context,
    /,
    image: str,
    command: tuple[str, ...],
    name: str | None,
    mode: str,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
    **flags: Any,
) -> None:
    """Create a service, and wait until its tasks run."""
    from swarmpy.cli.edit import new_service

    wanted = new_service(name or random_name(), image, command, mode, flags)
    client = connect(ctx)
    answer = client.create(wanted)
    click.echo(answer.object.service.meta.id)
    if not detach:
        wait(ctx, client, None, answer, timeout_ms, quiet=quiet)


@service.command("ls")
@list_options("id, name, label, mode")
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the services."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views import SERVICE_COLUMNS, service_rows

    chosen = select("service", client.find("service"), filters)
    rows = service_rows(chosen, [] if quiet else client.find("task"), whole=no_trunc or quiet)
    print_rows(SERVICE_COLUMNS, rows, template, quiet=quiet)


@service.command("ps")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@list_options(FILTER_KEYS)
@click.option("--no-resolve", is_flag=True, help="Show ids instead of names")
@click.option("--up-to-date", is_flag=True, help="Only tasks of the present revision")
@click.pass_context
def ps(
    ctx: click.Context,
    names: tuple[str, ...],
    filters: Any,
    quiet: bool,
    no_trunc: bool,
    template: str,
    no_resolve: bool,
    up_to_date: bool,
) -> None:
    """List the tasks of services, the earlier ones of each slot below it."""
    client = connect(ctx)
    versions = {found.meta.id: found.spec_version for found in (client.get("service", n) for n in names)}
    tasks = [
        task
        for identity, version in versions.items()
        for task in client.find("task", service=identity)
        if task.service_id == identity and (not up_to_date or task.spec_version == version)
    ]
    print_tasks(client, tasks, filters, template, quiet=quiet, whole=no_trunc, resolve=not no_resolve)


@service.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about services."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("service", name) for name in names], template, pretty=pretty)


@service.command("update")
@click.argument("name", metavar="SERVICE")
@click.option("--image", help="New image")
@click.option("--args", type=Value(parse.words, "command"), help="New arguments, in shell quoting")
@click.option("--force", is_flag=True, help="Replace the tasks even if nothing changed")
@click.option("--rollback", is_flag=True, help="Go back to the specification before the last update")
@service_flags(update=True)
@wait_options
@click.pass_context
def update(
    ctx: click.Context,
    /,
    name: str,
    rollback: bool,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
    **flags: Any,
) -> None:
    """Change a service, and wait until the new tasks run."""
    if rollback:
        if any(value not in (None, (), False) for value in flags.values()):
            raise UsageRefused(
                "--rollback goes back to the earlier specification: leave the other flags out."
            )
        return rollout.act(ctx, name, "rollback", detach=detach, quiet=quiet, timeout_ms=timeout_ms)
    client = connect(ctx)
    from swarmpy.cli.edit import apply

    def edit(found: Any) -> None:
        apply(found, flags, lambda network: network_id(client, network))

    change(ctx, name, edit, detach=detach, quiet=quiet, timeout_ms=timeout_ms, client=client)
    return None


@service.command("scale")
@click.argument(
    "scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...", type=Value(parse.scale, "scale")
)
@wait_options
@click.pass_context
def scale(
    ctx: click.Context,
    scales: tuple[tuple[str, int, str], ...],
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
) -> None:
    """Set how many tasks services have: web=5, web=+2, web=-1."""
    client = connect(ctx)
    from swarmpy.cli.edit_workload import replicas_of
    from swarmpy.cli.edit_workload import scale as scale_spec

    done: list[tuple[Any, Any]] = []
    wanted = {name: (count, sign) for name, count, sign in scales}

    def scale_one(name: str) -> None:
        def edit(found: Any) -> None:
            scale_spec(name, found.spec, *wanted[name])

        before, answer = client.change("service", name, edit)
        click.echo(f"{name} scaled to {replicas_of(answer.object.service.spec)}")
        done.append((before, answer))

    failure: click.exceptions.Exit | CliError | None = None
    try:
        for_each(tuple(wanted), scale_one)
    except (click.exceptions.Exit, CliError) as error:
        failure = error
    if not detach:
        for before, answer in done:
            wait(ctx, client, before, answer, timeout_ms, quiet=quiet)
    if failure is not None:
        raise failure


@service.command("wait")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@click.option("-q", "--quiet", is_flag=True, help="No progress")
@limit_option
@click.pass_context
def wait_for(ctx: click.Context, names: tuple[str, ...], quiet: bool, timeout_ms: int | None) -> None:
    """Wait until services are as they should be, whoever changed them: what `update` waits for."""
    client = connect(ctx)
    from swarmpy.cli.client import wrap
    from swarmpy.proto import control_pb2

    def one(name: str) -> None:
        found = client.get("service", name)
        wait(ctx, client, found, control_pb2.WriteResponse(object=wrap(found)), timeout_ms, quiet=quiet)
        click.echo(name)

    for_each(names, one)


@service.command("stop")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@wait_options
@click.pass_context
def stop(
    ctx: click.Context, names: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Stop all tasks of services; `start` brings back as many as there were."""
    set_stopped(ctx, names, True, detach=detach, quiet=quiet, timeout_ms=timeout_ms)


@service.command("start")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@wait_options
@click.pass_context
def start(
    ctx: click.Context, names: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None
) -> None:
    """Start services that were stopped."""
    set_stopped(ctx, names, False, detach=detach, quiet=quiet, timeout_ms=timeout_ms)


def set_stopped(
    ctx: click.Context,
    names: tuple[str, ...],
    stopped: bool,
    *,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
) -> None:
    def edit(found: Any) -> None:
        found.spec.stopped = stopped

    def change_one(name: str) -> None:
        change(ctx, name, edit, detach=detach, quiet=quiet, timeout_ms=timeout_ms)

    for_each(names, change_one)


@service.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@wait_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], detach: bool, quiet: bool, timeout_ms: int | None) -> None:
    """Remove services, and wait until their tasks are gone."""
    from swarmpy.cli.pipeline import removals

    client = connect(ctx)
    known: dict[str, Any] = {}
    for name in names:
        try:
            known[name] = client.get("service", name)
        except CliError as error:
            known[name] = error
    delete = removals(
        client, "service", [seen.meta.id for seen in known.values() if not isinstance(seen, CliError)]
    )
    removed: list[tuple[Any, Any]] = []

    def remove(name: str) -> None:
        if isinstance(known[name], CliError):
            raise known[name]
        removed.append((known[name], delete(known[name].meta.id)))
        click.echo(name)

    failure: click.exceptions.Exit | CliError | None = None
    try:
        for_each(names, remove)
    except (click.exceptions.Exit, CliError) as error:
        failure = error
    if not detach:
        from swarmpy.cli.wait import service_vanishes

        for found, answer in removed:
            service_vanishes(client, found, answer, converge_timeout_s(ctx, timeout_ms))
    if failure is not None:
        raise failure


def change(
    ctx: click.Context,
    name: str,
    edit: Callable[[Any], None],
    *,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
    client: Client | None = None,
) -> None:
    """Read, edit, write, wait."""
    client = client or connect(ctx)
    before, answer = client.change("service", name, edit)
    click.echo(name)
    if not detach:
        wait(ctx, client, before, answer, timeout_ms, quiet=quiet)


def wait(
    ctx: click.Context, client: Client, before: Any, answer: Any, timeout_ms: int | None, *, quiet: bool
) -> None:
    """Until the service has converged."""
    from swarmpy.cli.wait import service_converges

    patient = gave_timeout(ctx, timeout_ms)
    limit_s = converge_timeout_s(ctx, timeout_ms)
    service_converges(client, before, answer, limit_s=limit_s, patient=patient, quiet=quiet)


def network_id(client: Client, name: str) -> str:
    """A network's id; what does not exist keeps its name, the managers then say so."""
    try:
        found = client.get("network", name)
    except NotFound:
        return name
    return str(found.meta.id)


def random_name() -> str:
    """A name for a service that was given none."""
    return f"{secrets.choice(ADJECTIVES)}-{secrets.choice(ANIMALS)}-{secrets.randbelow(1000)}"
