"""`stack …`: compose files as services, networks, secrets and configs of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import CliError, NotFound, UsageRefused
from swarmpy.cli.options import (
    DockerGroup,
    connect,
    converge_timeout_s,
    for_each,
    format_option,
    gave_timeout,
    limit_option,
    list_options,
)
from swarmpy.cli.plan import plan_options
from swarmpy.cli.stack_history import add_to
from swarmpy.cli.task import FILTER_KEYS, print_tasks

if TYPE_CHECKING:
    from swarmpy.cli.client import Client
    from swarmpy.cli.compose_files import ComposeFiles

NAMESPACE = "com.docker.stack.namespace"
COLUMNS = (("NAME", "Name"), ("SERVICES", "Services"), ("RUNNING", "Running"))
RUNNING = 512


class StackGroup(DockerGroup):
    """With Docker's other names of the verbs."""

    verbs = {"list": "ls", "remove": "rm", "up": "deploy", "down": "rm"}  # noqa: RUF012


@click.group(cls=StackGroup)
def stack() -> None:
    """Manage stacks: applications of several services from compose files."""


def file_options(function: Any) -> Any:
    """Which files, and what fills them in."""
    files = click.option(
        "-c", "--compose-file", "files", multiple=True, metavar="FILE",
        help="Compose file, - for standard input; a later one goes over the earlier",
    )  # fmt: skip
    env = click.option(
        "--env-file", "env_files", multiple=True, type=click.Path(exists=True, dir_okay=False),
        help="File of variables for ${…} (.env beside the first file)",
    )  # fmt: skip
    profile = click.option(
        "--profile", "profiles", multiple=True, help="Also services of this profile; * for all"
    )
    return files(env(profile(function)))


def opened(files: Sequence[str], env_files: Sequence[str], profiles: Sequence[str]) -> ComposeFiles:
    from swarmpy.cli.compose_files import ComposeFiles

    if not files:
        raise UsageRefused("Name the compose file: -c compose.yml (or - for standard input).")
    return ComposeFiles(files, env_files, profiles)


@stack.command("deploy")
@click.argument("name", metavar="STACK")
@file_options
@click.option("--prune", is_flag=True, help="Remove what is of the stack and not in the file any more")
@click.option(
    "--resolve-image", type=click.Choice(["always", "changed", "never"]), default="always",
    help="Ask for the images' digests: each time, or where the name changed (always)",
)  # fmt: skip
@click.option(
    "--with-registry-auth", is_flag=True, help="Nothing to say: nodes get what `registry login` keeps"
)
@click.option(
    "--atomic", is_flag=True,
    help="One service after the other, each once those before it run; if one fails, all go back (exit 6)",
)  # fmt: skip
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the tasks")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, and not what is ignored")
@limit_option
@plan_options
@click.pass_context
def deploy(
    ctx: click.Context,
    name: str,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    prune: bool,
    resolve_image: str,
    with_registry_auth: bool,
    atomic: bool,
    detach: bool,
    quiet: bool,
    timeout_ms: int | None,
) -> None:
    """Make or change a stack as its compose file says, and wait until it runs."""
    if resolve_image == "never":
        raise UsageRefused(
            "--resolve-image never is not built: the managers pin each image's digest; use changed."
        )
    if atomic and detach:
        raise UsageRefused("--atomic waits for each service: leave --detach out.")
    source = opened(files, env_files, profiles)
    project = source.project(name)
    client = connect(ctx)
    from swarmpy.cli import plan, stack_apply, stack_history

    client.only_now("change anything")
    steps = stack_apply.steps_of(
        client, project, source.report, prune=prune, resolve=resolve_image == "always"
    )
    source.refuse_problems()
    for notice in () if quiet else dict.fromkeys(source.report.notices):
        click.echo(f"Note: {notice}.", err=True)
    answer = stack_apply.planned(client, steps)
    if client.planning:
        raise plan.end(answer)
    keeper = stack_history.keeper_of(client, source, project, steps)
    carry_out(ctx, client, steps, answer, keeper, timeout_ms, detach=detach, quiet=quiet, atomic=atomic)
    nouns = ("secret", "config", *(("network",) if prune else ()))
    stack_apply.remove_rest(client, name, steps.names, nouns, quiet=True)


def carry_out(
    ctx: click.Context, client: Client, steps: Any, answer: Any, keeper: Any, timeout_ms: int | None, *,
    detach: bool, quiet: bool, atomic: bool = False,
) -> None:  # fmt: skip
    """Write what differs, kept as a revision where anything does; then remove services that go."""
    from swarmpy.cli import stack_apply, stack_revisions
    from swarmpy.cli.stack_deployment import Deployment

    same = stack_apply.unchanged(answer, steps)
    if stack_apply.changes_nothing(steps, same) and stack_revisions.is_complete(client, keeper.stack):
        keeper = None
    waits = None if detach else converging(ctx, client, timeout_ms, quiet=quiet)
    vanishes = None if detach else vanishing(client, converge_timeout_s(ctx, timeout_ms))
    name = steps.stack
    Deployment(client, name, waits, keeper, atomic=atomic, vanishes=vanishes).run(steps, same)
    stack_apply.remove_services(client, steps.removed, vanishes)


def converging(ctx: click.Context, client: Client, timeout_ms: int | None, *, quiet: bool) -> Any:
    from swarmpy.cli.wait import service_converges

    patient, limit_s = gave_timeout(ctx, timeout_ms), converge_timeout_s(ctx, timeout_ms)

    def waits(before: Any, answer: Any, *, back: bool = False) -> None:
        service_converges(
            client, before, answer, limit_s=limit_s, patient=patient, quiet=quiet, wanted_back=back
        )

    return waits


def vanishing(client: Client, limit_s: float) -> Any:
    from swarmpy.cli.wait import service_vanishes

    return lambda found, answer: service_vanishes(client, found, answer, limit_s)


def services_of(client: Client, name: str) -> list[Any]:
    """NotFound where the stack has none."""
    from swarmpy.cli.stack_apply import of_stack

    found = of_stack(client, "service", name)
    if not found:
        raise NotFound(f"There is no stack {name!r}: see `swarmpy stack ls`.")
    return found


@stack.command("ls")
@format_option
@click.pass_context
def ls(ctx: click.Context, template: str) -> None:
    """List the stacks."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows

    count: dict[str, int] = {}
    running: dict[str, int] = {}
    owner: dict[str, str] = {}
    for service in client.find("service"):
        if name := service.meta.labels.get(NAMESPACE):
            count[name] = count.get(name, 0) + 1
            owner[service.meta.id] = name
    for task in client.find("task"):
        if task.service_id in owner and task.status.state == RUNNING == task.desired_state:
            running[owner[task.service_id]] = running.get(owner[task.service_id], 0) + 1
    rows = [
        {"ID": name, "Name": name, "Services": str(count[name]), "Running": str(running.get(name, 0))}
        for name in sorted(count)
    ]
    print_rows(COLUMNS, rows, template)


@stack.command("services")
@click.argument("name", metavar="STACK")
@list_options("id, name, label, mode")
@click.pass_context
def services(ctx: click.Context, name: str, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the services of a stack."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views import SERVICE_COLUMNS, service_rows

    chosen = select("service", services_of(client, name), filters)
    rows = service_rows(chosen, [] if quiet else client.find("task"), whole=no_trunc or quiet)
    print_rows(SERVICE_COLUMNS, rows, template, quiet=quiet)


@stack.command("ps")
@click.argument("name", metavar="STACK")
@list_options(FILTER_KEYS)
@click.option("--no-resolve", is_flag=True, help="Show ids instead of names")
@click.pass_context
def ps(
    ctx: click.Context, name: str, filters: Any, quiet: bool, no_trunc: bool, template: str, no_resolve: bool
) -> None:
    """List the tasks of a stack."""
    client = connect(ctx)
    ids = {service.meta.id for service in services_of(client, name)}
    tasks = [task for task in client.find("task") if task.service_id in ids]
    print_tasks(client, tasks, filters, template, quiet=quiet, whole=no_trunc, resolve=not no_resolve)


@stack.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="STACK...")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the tasks to end; networks may stay")
@click.option("-v", "--volumes", is_flag=True, help="Also its volumes, with all that is in them")
@limit_option
@plan_options
@click.pass_context
def rm(
    ctx: click.Context, names: tuple[str, ...], detach: bool, volumes: bool, timeout_ms: int | None
) -> None:
    """Remove stacks: services, then secrets, configs and networks. Volumes stay, but with -v."""
    client = connect(ctx)
    from swarmpy.cli import stack_apply

    limit_s = converge_timeout_s(ctx, timeout_ms)

    def remove(name: str) -> None:
        nouns = ("stack", "secret", "config", "network", *(("volume",) if volumes else ()))
        found = stack_apply.of_stack(client, "service", name)
        if not found and not any(stack_apply.of_stack(client, noun, name) for noun in nouns):
            raise NotFound(f"There is no stack {name!r}: see `swarmpy stack ls`.")
        if client.planning:
            raise stack_apply.planned_removal(client, name, found, nouns)
        stack_apply.remove_services(client, found, None if detach else vanishing(client, limit_s))
        if not stack_apply.remove_rest(client, name, set(), nouns, quiet=False):
            again = f"`swarmpy stack rm {name}` again"
            raise CliError(
                f"Not all of stack {name} could be removed: what is left is named above; {again} goes on."
            )

    for_each(names, remove)


@stack.command("config")
@file_options
@click.option("--skip-interpolation", is_flag=True, help="Leave variables as they are written")
@click.pass_context
def config(
    ctx: click.Context,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    skip_interpolation: bool,
) -> None:
    """Print the compose files as one, with variables filled in; refuse what `deploy` would refuse."""
    from swarmpy.cli.compose_dump import dump
    from swarmpy.cli.compose_export import escaped

    source = opened(files, env_files, profiles)
    tree = source.tree(interpolate=not skip_interpolation)
    if not skip_interpolation:
        source.check(tree)
        tree = escaped(tree)
    source.refuse_problems()
    for notice in dict.fromkeys(source.report.notices):
        click.echo(f"Note: {notice}.", err=True)
    click.echo(dump(tree), nl=False)


add_to(stack)
