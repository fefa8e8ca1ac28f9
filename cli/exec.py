"""`exec` and `attach`: a program in a running task with this terminal as its own, and the task's own program.

The terminal is set raw only after the task answered, and set back whatever happens. ctrl-p ctrl-q leaves an
attachment (and an exec, whose program then ends).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

UNKNOWN_CODE = 125
PARALLEL = 5


class RunCommand(DockerCommand):
    """Options end at the first argument: what follows the target is the program's."""

    allow_interspersed_args = False


@click.command("exec", cls=RunCommand)
@click.argument("target", metavar="SERVICE[.SLOT]|TASK")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG...]")
@click.option("-i", "--interactive", is_flag=True, help="Pass on this command's input")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal")
@click.option("-d", "--detach", is_flag=True, help="Start it and leave it alone")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Add an environment variable")
@click.option("--env-file", multiple=True, metavar="FILE", help="Environment variables from a file")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as that user")
@click.option("-w", "--workdir", default="", metavar="PATH", help="Start in that directory")
@click.option("--privileged", is_flag=True, help="With all capabilities")
@click.option("--container", default="", metavar="NAME", help="In that container of a pod (main)")
@click.option("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave the session")
@click.option("--all", "everywhere", is_flag=True, help="In every running task of the service")
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=PARALLEL, help="With --all: so many at a time (5)"
)
@click.pass_context
def exec_(
    ctx: click.Context,
    /,
    target: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    detach_keys: str,
    everywhere: bool,
    parallel: int,
    **how: Any,
) -> None:
    """Run a program in a running task, anywhere in the cluster, and end with its exit code.

    Of a service the first running task is taken; SERVICE.SLOT (web.2; web.NODE for a global service)
    names another one.
    """
    command = command[1:] if command[:1] == ("--",) else command
    if not command:
        raise UsageRefused("COMMAND: say what to run.")
    if everywhere and (how["interactive"] or how["tty"]):
        raise UsageRefused("--all cannot be combined with -i or -t: one terminal cannot serve many tasks.")
    if how["tty"] and how["interactive"] and not os.isatty(0) and not how["detach"]:
        raise UsageRefused("-t: the input of this command is not a terminal; leave -t out.")
    client = connect(ctx)
    from swarmpy.cli.edit import env_lines
    from swarmpy.proto import tasks_pb2

    variables = [line for file in env_file for line in env_lines(file)]
    start = tasks_pb2.ExecStart(
        target=target, argv=command, tty=how["tty"], stdin=how["interactive"],
        env=parse.environment([*variables, *env], os.environ),
        user=how["user"], workdir=how["workdir"], privileged=how["privileged"], detach=how["detach"],
        container=how["container"],
    )  # fmt: skip
    if everywhere:
        raise click.exceptions.Exit(run_everywhere(client, start, parallel))
    from swarmpy.cli.session import Session

    first = tasks_pb2.SessionInput(exec=start)
    session = Session(client, "Exec", first, stdin=how["interactive"] and not how["detach"], keys=detach_keys)
    code = session.run()
    if how["detach"]:
        return
    raise click.exceptions.Exit(UNKNOWN_CODE if code is None else code)


@click.command("attach", cls=DockerCommand)
@click.argument("target", metavar="SERVICE[.SLOT]|TASK")
@click.option("--no-stdin", is_flag=True, help="Only watch")
@click.option("--container", default="", metavar="NAME", help="Of that container of a pod (main)")
@click.option(
    "--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave the task running"
)
@click.option("--sig-proxy", is_flag=True, hidden=True)
@click.pass_context
def attach(
    ctx: click.Context, target: str, no_stdin: bool, container: str, detach_keys: str, sig_proxy: bool
) -> None:
    """Take part in a running task's own input and output; ctrl-p ctrl-q leaves it running.

    Input reaches only tasks that keep theirs open. Ctrl-C ends this command, and the program too when it
    has a terminal. Ends with the program's exit code.
    """
    if sig_proxy:
        raise UsageRefused("--sig-proxy is not built yet: leave it out.")
    client = connect(ctx)
    from swarmpy.cli.session import Session
    from swarmpy.proto import tasks_pb2

    start = tasks_pb2.AttachStart(target=target, stdin=not no_stdin, container=container)
    first = tasks_pb2.SessionInput(attach=start)
    code = Session(client, "Attach", first, stdin=not no_stdin, keys=detach_keys).run()
    raise click.exceptions.Exit(UNKNOWN_CODE if code is None else code)


def run_everywhere(client: Client, start: Any, parallel: int) -> int:
    """In each running task; lines are shown with the task's name. The first code that is not 0."""
    tasks = running_tasks(client, start.target)
    lock = threading.Lock()
    width = max(len(name) for _, name in tasks)

    def one(task_id: str, name: str) -> int:
        from swarmpy.proto import tasks_pb2

        own = tasks_pb2.ExecStart()
        own.CopyFrom(start)
        own.target = task_id
        forked = client.fork()
        try:
            return output_lines(forked, own, f"{name.ljust(width)} | ".encode(), lock)
        except CliError as error:
            with lock:
                click.echo(f"{name.ljust(width)} | Error: {error.message}", err=True)
            return error.exit_code
        finally:
            forked.close()

    with futures.ThreadPoolExecutor(parallel) as pool:
        codes = list(pool.map(lambda task: one(*task), tasks))
    failed = [code for code in codes if code]
    if failed:
        click.echo(f"{len(failed)} of {len(codes)} tasks failed.", err=True)
    return failed[0] if failed else 0


def running_tasks(client: Client, service: str) -> list[tuple[str, str]]:
    """(id, short name) by slot."""
    from swarmpy.proto import types_pb2

    found = client.get("service", service)
    names = {node.meta.id: node.meta.name for node in client.find("node")}
    tasks = [
        task
        for task in client.find("task", service=found.meta.id)
        if task.service_id == found.meta.id and task.status.state == types_pb2.TASK_RUNNING
    ]
    if not tasks:
        raise CliError(f"No task of {service} runs: see `swarmpy service ps {service}`.")
    tasks.sort(key=lambda task: (task.slot, names.get(task.node_id, "")))
    return [
        (task.meta.id, f"{task.service_name}.{task.slot or names.get(task.node_id, task.node_id)}")
        for task in tasks
    ]


def output_lines(client: Client, start: Any, prefix: bytes, lock: threading.Lock) -> int:
    """Run it and show whole lines as they come; its exit code."""
    from swarmpy.proto import tasks_pb2

    rest = {"stdout": b"", "stderr": b""}
    streams: dict[str, Callable[[bytes], int]] = {
        "stdout": sys.stdout.buffer.write, "stderr": sys.stderr.buffer.write,
    }  # fmt: skip

    def show(stream: str, lines: list[bytes]) -> None:
        with lock:
            for line in lines:
                streams[stream](prefix + line + b"\n")
            (sys.stdout if stream == "stdout" else sys.stderr).flush()

    code = UNKNOWN_CODE
    for answer in client.tasks_stream("Exec", iter([tasks_pb2.SessionInput(exec=start)])):
        kind = answer.WhichOneof("message")
        if kind in rest:
            *lines, rest[kind] = (rest[kind] + getattr(answer, kind)).split(b"\n")
            show(kind, lines)
        elif kind == "exit" and not answer.exit.unknown:
            code = answer.exit.code
    for stream, last in rest.items():
        if last:
            show(stream, [last])
    return 0 if start.detach else code
