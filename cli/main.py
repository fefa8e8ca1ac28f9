"""The command `swarmpy`: names, global flags, exit codes.

Start-up rule: nothing here, and nothing at the top of a noun's module, imports grpc or protobuf,
so `--help` answers at once. Commands live in one module per noun and are loaded when named.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from swarmpy.cli.context import Settings
from swarmpy.cli.errors import INTERRUPTED, CliError, UsageRefused
from swarmpy.cli.options import MILLISECONDS_OR_SECONDS, docker_arguments


@dataclass(frozen=True)
class Entry:
    """Where a command is, and its line in the help."""

    target: str
    help: str
    hidden: bool = False


COMMANDS = {
    "init": Entry("swarmpy.cli.daemon:init", "Make a new cluster with this machine as its first manager"),
    "join": Entry("swarmpy.cli.daemon:join", "Join this machine to a cluster"),
    "leave": Entry("swarmpy.cli.daemon:leave", "Take this machine out of its cluster"),
    "token": Entry("swarmpy.cli.token:token", "Show, make, list and remove the tokens for joining"),
    "status": Entry("swarmpy.cli.cluster:status", "Show the cluster and its managers"),
    "backup": Entry("swarmpy.cli.backup:backup", "Back up the cluster's state, show backups and their key"),
    "restore": Entry("swarmpy.cli.daemon_backup:restore", "Make a cluster again from a backup"),
    "recover": Entry("swarmpy.cli.backup:recover", "Go on when most managers are gone for good"),
    "reattach": Entry("swarmpy.cli.daemon_backup:reattach", "Show this node where a manager is now"),
    "ca": Entry("swarmpy.cli.ca:ca", "Show or rotate the cluster's root certificate"),
    "node": Entry("swarmpy.cli.node:node", "Manage nodes"),
    "service": Entry("swarmpy.cli.service:service", "Manage services"),
    "stack": Entry("swarmpy.cli.stack:stack", "Manage stacks: applications from compose files"),
    "task": Entry("swarmpy.cli.task:task", "Look at tasks, stop or restart one"),
    "job": Entry("swarmpy.cli.job:job", "Run tasks to their end"),
    "cron": Entry("swarmpy.cli.cron:cron", "Run jobs at times"),
    "image": Entry("swarmpy.cli.image:image", "Manage the cluster's images"),
    "registry": Entry("swarmpy.cli.registry:registry", "Manage what pulling from registries takes"),
    "system": Entry("swarmpy.cli.system:system", "Show and free what the nodes' disks hold"),
    "network": Entry("swarmpy.cli.network:network", "Manage networks"),
    "volume": Entry("swarmpy.cli.volume:volume", "Manage volumes"),
    "secret": Entry("swarmpy.cli.payload:secret", "Manage secrets"),
    "config": Entry("swarmpy.cli.payload:config", "Manage configs"),
    "logs": Entry("swarmpy.cli.logs:logs", "Show the logs of a service or task"),
    "exec": Entry("swarmpy.cli.exec:exec_", "Run a program in a running task"),
    "attach": Entry("swarmpy.cli.exec:attach", "Take part in a task's input and output"),
    "cp": Entry("swarmpy.cli.cp:cp", "Copy files between this machine and tasks"),
    "port-forward": Entry("swarmpy.cli.forward:forward", "Reach a task's port from this machine"),
    "stats": Entry("swarmpy.cli.stats:stats", "Show what tasks use, live"),
    "top": Entry("swarmpy.cli.stats:top", "Show what services and nodes use, or a task's processes"),
    "explain": Entry("swarmpy.cli.explain:explain", "Show why a task is where it is, or nowhere"),
    "rebalance": Entry("swarmpy.cli.explain:rebalance", "Move tasks to where they would be put now"),
    "events": Entry("swarmpy.cli.events:events", "Show changes as they happen"),
    "doctor": Entry(
        "swarmpy.cli.daemon_doctor:doctor", "Check this machine, and how well the nodes reach each other"
    ),
    "unlock": Entry("swarmpy.cli.lock:unlock", "Unlock the manager on this machine"),
    "unlock-key": Entry("swarmpy.cli.lock:unlock_key", "Show or rotate the key that unlocks managers"),
    "upgrade": Entry("swarmpy.cli.upgrade:upgrade", "Put another build of swarmpy on every node"),
    "support-bundle": Entry(
        "swarmpy.cli.daemon_support:support_bundle", "Collect what helps to find a fault"
    ),
    "uninstall": Entry("swarmpy.cli.daemon_support:uninstall", "Take everything of swarmpy off this machine"),
    "completion": Entry("swarmpy.cli.completion:completion", "Print the completion script for a shell"),
    "version": Entry("swarmpy.cli.cluster:version", "Show the versions of client and managers"),
    "demo": Entry("swarmpy.cli.demo:demo", "A whole cluster on this machine, to try and to develop"),
    "swarm": Entry("swarmpy.cli.cluster:swarm", "Docker's names: init, join, leave, join-token"),
    "daemon": Entry("swarmpy.cli.daemon:daemon", "Run this machine's node (what the init system starts)"),
    "agent": Entry("swarmpy.cli.daemon:agent", "The agent process", hidden=True),
    "manager": Entry("swarmpy.cli.daemon:manager", "The manager process", hidden=True),
    "dns": Entry("swarmpy.cli.daemon:dns", "The DNS process", hidden=True),
}
STARTS_DAEMONS = {"daemon", "init", "join", "restore", "demo", "swarm"}
SWARM_COMMANDS = {
    "init": COMMANDS["init"],
    "join": COMMANDS["join"],
    "leave": COMMANDS["leave"],
    "update": Entry("swarmpy.cli.lock:update", "Change the cluster's settings"),
    "ca": Entry("swarmpy.cli.ca:swarm_ca", "Show or rotate the cluster's root certificate"),
    "unlock": COMMANDS["unlock"],
    "unlock-key": COMMANDS["unlock-key"],
    "join-token": Entry("swarmpy.cli.token:token", "Show, make, list and remove the tokens for joining"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    entries: dict[str, Entry]

    def __init__(self, *args: Any, entries: dict[str, Entry] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        return load(entry.target, cmd_name) if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in self.entries.items() if not entry.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class RootGroup(LazyGroup):
    """The outermost command: turns every end into an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, docker_arguments(self, ctx, args))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            code = super().main(args, prog_name or "swarmpy", complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            said = known_and_absent(error) or error
            said.show()
            code = said.exit_code
        except UnicodeEncodeError as error:
            click.echo(f"Error: {error.object!r} is not valid UTF-8.", err=True)
            code = UsageRefused.exit_code
        except click.Abort:
            click.echo("Interrupted.", err=True)
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def known_and_absent(error: click.ClickException) -> UsageRefused | None:
    """The refusal of a command or flag that people know and that is not here; None = it is something else."""
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return None
    from swarmpy.cli import absent

    path = error.ctx.command_path.partition(" ")[2]
    if isinstance(error, click.NoSuchOption):
        why = absent.flag(path, error.option_name)
        return UsageRefused(f"{error.option_name} is not built yet: {why}.") if why else None
    if found := re.match(r"No such command '([^']+)'", error.message):
        words = f"{path} {found[1]}".strip()
        why = absent.command(words)
        return UsageRefused(f"`swarmpy {words}` is not built: {why}.") if why else None
    return None


def load(target: str, name: str) -> click.Command:
    """Import module:attribute; a part that is not installed is a refusal, not a traceback."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise CliError(
            f"`swarmpy {name}` is not part of this installation ({module_name} is missing)."
        ) from None
    command = getattr(module, attribute)
    assert isinstance(command, click.Command)
    return command


def show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """--version."""
    if value:
        from importlib.metadata import version

        click.echo(f"swarmpy {version('swarmpy')}")
        ctx.exit()


@click.command(
    "swarmpy",
    cls=RootGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no manager or no leader, 4 not found, "
    "5 name taken or changed meanwhile, 6 did not converge or rolled back, 7 not permitted, "
    "8 outcome of a change unknown, 130 Ctrl-C.",
)
@click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="ADDRESS",
    help="Manager to ask: unix:///path; repeat for more",
)
@click.option(
    "--context", "context", default="", metavar="NAME", help="Named list of managers (for example: demo)"
)
@click.option(
    "--timeout",
    "timeout_ms",
    type=MILLISECONDS_OR_SECONDS,
    help="Limit for reaching a leader (30s) and for waiting until tasks run (5m)",
)
@click.option(
    "--stale",
    is_flag=True,
    help="Read the copy of the manager that is asked, even if it is cut off; says how old that is",
)
@click.option(
    "--at",
    "at",
    default="",
    metavar="INDEX|TIME",
    help="Read the cluster as it was after that index, or then (10m ago, RFC 3339): ls, ps, inspect, history",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version",
)
@click.pass_context
def root(
    ctx: click.Context, hosts: tuple[str, ...], context: str, timeout_ms: int | None, stale: bool, at: str
) -> None:
    """A peer-to-peer container orchestrator with Docker Swarm's commands."""
    ctx.obj = Settings(hosts, context, timeout_ms, stale, at)


def become_current(link: Path = Path("/var/lib/swarmpy/builds/current")) -> None:
    """Run root's commands with the build that the node of this machine runs (node/builds).

    Not what starts daemons: which build these run is decided by what is installed. A build that is gone, or
    does not start, leaves the command to what is installed.
    """
    program = link / "swarmpy"
    if (
        "SWARMPY_BUILD" in os.environ
        or STARTS_DAEMONS.intersection(sys.argv[1:2])
        or not os.access(program, os.X_OK)
    ):
        return
    installed = os.environ.get("SWARMPY_BINARY") or f"{sys.executable} -P -m swarmpy.cli.main"
    environment = {**os.environ, "SWARMPY_INSTALLED": installed}
    with contextlib.suppress(OSError):
        os.execve(program, [str(program), "-P", "-m", "swarmpy.cli.main", *sys.argv[1:]], environment)  # noqa: S606


def main() -> None:
    """Entry point of the installed command."""
    become_current()
    root.main()


if __name__ == "__main__":
    main()
