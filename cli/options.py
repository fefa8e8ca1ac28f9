"""Flags and helpers that several nouns share.

`DockerCommand` accepts `--flag=true|false` for switches, which Docker's users write. `refused`
declares a flag of Docker's that is known but not built: it is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from swarmpy.cli import parse
from swarmpy.cli.context import Settings, hosts_of
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.plan import CHECK_KEY, PLAN_KEY, Planned, plan_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

Function = TypeVar("Function", bound=Callable[..., Any])
CONNECT_TIMEOUT_MS = 30_000
CONVERGE_TIMEOUT_MS = 300_000


class Value(click.ParamType[Any]):
    """A click type made of a function of parse.py."""

    def __init__(self, convert: Callable[[str], Any], name: str) -> None:
        self.function = convert
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.function(value)
        except ValueError as error:
            return self.fail(f"{error}.", param, ctx)


MILLISECONDS = Value(parse.duration_ms, "duration")
MILLISECONDS_OR_SECONDS = Value(parse.timeout_ms, "duration")
FILTER = Value(parse.filter_value, "key=value")


class DockerCommand(click.Command):
    """A command whose switches also take `=true` and `=false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, docker_arguments(self, ctx, args))


class DockerGroup(click.Group):
    """A noun: its commands are DockerCommands, and Docker's long names of verbs work."""

    command_class = DockerCommand
    verbs = {"list": "ls", "remove": "rm"}  # noqa: RUF012

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, self.verbs.get(cmd_name, ""))


def docker_arguments(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """`--switch=true` -> `--switch`, `--switch=false` -> `--no-switch` or nothing; stops where the options stop."""
    options = {name: p for p in command.get_params(ctx) if isinstance(p, click.Option) for name in p.opts}
    result: list[str] = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        if argument == "--" or (not argument.startswith("-") and not ctx.allow_interspersed_args):
            return [*result, argument, *rest]
        name, equals, value = argument.partition("=")
        option = options.get(name)
        if option is not None and option.is_flag and equals:
            result += switch(name, value, option.secondary_opts)
            continue
        result.append(argument)
        if takes_next(argument, options) and rest:
            result.append(rest.pop(0))
    return result


def switch(name: str, value: str, off: Sequence[str]) -> list[str]:
    """What is left of a switch that was given a value; `off` are the names that turn it off, if it has some."""
    try:
        return [name] if parse.boolean(value) else list(off[:1])
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}.") from None


def takes_next(argument: str, options: dict[str, click.Option]) -> bool:
    """Whether the next argument is the value of this one."""
    if argument.startswith("--"):
        return "=" not in argument and argument in options and not options[argument].is_flag
    if not argument.startswith("-") or argument == "-":
        return False
    for position, letter in enumerate(argument[1:], 1):
        option = options.get(f"-{letter}")
        if option is None or not option.is_flag:
            return option is not None and position == len(argument) - 1
    return False


def refused(*names: str, why: str = "", switch: bool = False) -> Callable[[Function], Function]:
    """A flag that Docker has and swarmpy has not yet."""

    def refuse(_ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value not in (None, False, ()):
            reason = why or "leave it out"
            name = min((name for name in param.opts if name.startswith("--")), key=len)
            raise UsageRefused(f"{name} is not built yet: {reason}.")

    kind: dict[str, Any] = {"is_flag": True} if switch else {"multiple": True}
    return click.option(*names, hidden=True, expose_value=False, callback=refuse, **kind)


def list_options(filters: str) -> Callable[[Function], Function]:
    """--format, -q, -f and --no-trunc of every list; `filters` names the keys for the help."""

    def decorate(function: Function) -> Function:
        keys = click.option(
            "-f",
            "--filter",
            "filters",
            type=FILTER,
            multiple=True,
            help=f"Show only KEY=VALUE; keys: {filters}",
        )
        quiet = click.option("-q", "--quiet", is_flag=True, help="Only ids")
        whole = click.option("--no-trunc", is_flag=True, help="Do not shorten")
        return format_option(keys(quiet(whole(function))))

    return decorate


def format_option(function: Function) -> Function:
    """--format."""
    option = click.option(
        "--format",
        "template",
        default="table",
        metavar="FORMAT",
        help="table, json, or a template like '{{.Name}}'",
    )
    return option(function)


def wait_options(function: Function) -> Function:
    """-d, -q and --timeout of everything that waits for the cluster, with --plan and --check-index."""
    detach = click.option("-d", "--detach", is_flag=True, help="Do not wait for the tasks")
    quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress")
    return detach(quiet(limit_option(plan_options(function))))


def limit_option(function: Function) -> Function:
    """--timeout of a wait, not of the command."""
    option = click.option(
        "--timeout", "timeout_ms", type=MILLISECONDS_OR_SECONDS, help="Give up waiting after this time (5m)"
    )
    return option(function)


def connect(ctx: click.Context) -> Client:
    """The client for this command's managers; closed with the command."""
    from swarmpy.cli.client import Client

    settings = settings_of(ctx)
    limit_ms = CONNECT_TIMEOUT_MS if settings.timeout_ms is None else settings.timeout_ms
    client = Client(
        hosts_of(settings),
        limit_ms / 1000,
        stale=settings.stale,
        planning=bool(ctx.meta.get(PLAN_KEY)),
        check_index=int(ctx.meta.get(CHECK_KEY, 0)),
    )
    if settings.at:
        client.at = moment(settings.at)
    ctx.call_on_close(client.close)
    return client


def moment(text: str) -> tuple[int, int]:
    """--at: (index, 0) or (0, ms since 1970)."""
    import time

    if text.isdigit():
        return int(text), 0
    try:
        return 0, parse.moment_ms(text, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise UsageRefused(f"--at: {error}, or the number of an index.") from None


def settings_of(ctx: click.Context) -> Settings:
    """The global flags; defaults when a noun is run on its own."""
    found = ctx.find_object(Settings)
    return found if found is not None else Settings()


def converge_timeout_s(ctx: click.Context, given_ms: int | None) -> float:
    """How long to wait for tasks."""
    own = given_ms if given_ms is not None else settings_of(ctx).timeout_ms
    return (CONVERGE_TIMEOUT_MS if own is None else own) / 1000


def gave_timeout(ctx: click.Context, given_ms: int | None) -> bool:
    """Whether the user chose the limit."""
    return given_ms is not None or settings_of(ctx).timeout_ms is not None


def for_each(names: tuple[str, ...], action: Callable[[str], None]) -> None:
    """Do it for every name, report each failure, end with the first one's code."""
    first: CliError | None = None
    planned: Planned | None = None
    for name in names:
        try:
            action(name)
        except Planned as end:
            planned = max(planned or end, end, key=lambda plan: plan.exit_code)
        except CliError as error:
            if len(names) == 1:
                raise
            error.show()
            first = first or error
    if first is not None:
        raise click.exceptions.Exit(first.exit_code)
    if planned is not None:
        raise planned
