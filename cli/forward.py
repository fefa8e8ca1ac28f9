"""`port-forward`: connections to this machine that end inside a task."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

READ_BYTES = 64 * 1024
CONNECTIONS_MAX = 256


@click.command("port-forward", cls=DockerCommand)
@click.argument("target", metavar="SERVICE[.SLOT]|TASK")
@click.argument("ports", nargs=-1, required=True, metavar="[LOCAL:]REMOTE...")
@click.option("--address", default="127.0.0.1", metavar="ADDRESS", help="Listen there (127.0.0.1)")
@click.pass_context
def forward(ctx: click.Context, target: str, ports: tuple[str, ...], address: str) -> None:
    """Listen here and pass every TCP connection on to a port in a running task, until Ctrl-C.

    The port may be open on the task's loopback only. LOCAL 0 takes any free port. Each connection finds the
    service's first running task anew, so a replaced task is followed. UDP is not passed on.
    """
    pairs = [pair(text) for text in ports]
    client = connect(ctx)
    listeners = []
    try:
        for local, remote in pairs:
            listener = listening(address, local)
            listeners.append(listener)
            click.echo(f"Forwarding {address}:{listener.getsockname()[1]} -> {target}:{remote}")
        slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        for listener, (_, remote) in zip(listeners, pairs, strict=True):
            arguments = (client, listener, target, remote, slots)
            threading.Thread(target=accept, args=arguments, daemon=True).start()
        threading.Event().wait()
    finally:
        for listener in listeners:
            listener.close()


def pair(text: str) -> tuple[int, int]:
    """`8080:80`, `80`, `:80` (any local port)."""
    found = re.fullmatch(r"(?:([0-9]*):)?([0-9]+)(?:/tcp)?", text)
    if found is None:
        udp = " UDP is not passed on." if text.endswith("/udp") else ""
        raise UsageRefused(f"{text!r} is not [LOCAL:]REMOTE: write for example 8080:80.{udp}")
    try:
        remote = parse.port_number(found[2])
        local = remote if found[1] is None else parse.port_number(found[1] or "0", lowest=0)
    except ValueError as error:
        raise UsageRefused(f"{text!r}: {error}.") from None
    return local, remote


def listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise CliError(
            f"Cannot listen on {address}:{port}: {error.strerror}. Choose another LOCAL port."
        ) from None
    return listener


def accept(
    client: Client, listener: socket.socket, target: str, port: int, slots: threading.BoundedSemaphore
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed: the command ends
        slots.acquire()
        threading.Thread(target=serve, args=(client, connection, target, port, slots), daemon=True).start()


def serve(
    client: Client, connection: socket.socket, target: str, port: int, slots: threading.BoundedSemaphore
) -> None:
    """One connection, to its end."""
    forked = client.fork()
    try:
        with connection:
            carry(forked, connection, target, port)
    except CliError as error:
        click.echo(f"Error: {error.message}", err=True)
    except OSError:
        pass  # the client here went away
    finally:
        forked.close()
        slots.release()


def carry(client: Client, connection: socket.socket, target: str, port: int) -> None:
    from swarmpy.proto import tasks_pb2

    def requests() -> Iterator[Any]:
        yield tasks_pb2.ForwardInput(start=tasks_pb2.ForwardStart(target=target, port=port))
        try:
            while data := connection.recv(READ_BYTES):
                yield tasks_pb2.ForwardInput(data=data)
        except OSError:
            return
        yield tasks_pb2.ForwardInput(end=True)

    for answer in client.tasks_stream("Forward", requests()):
        kind = answer.WhichOneof("message")
        if kind == "data":
            connection.sendall(answer.data)
        elif kind == "end":
            connection.shutdown(socket.SHUT_WR)
