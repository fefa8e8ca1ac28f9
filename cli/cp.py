"""`cp`: files between this machine and a running task, as `docker cp` does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

CHUNK_BYTES = 256 * 1024
Target = tuple[str, str, str]


@click.command("cp", cls=DockerCommand)
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@click.option("-a", "--archive", is_flag=True, help="Keep user and group ids")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what a link in SOURCE leads to")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is done")
@click.option("--container", default="", metavar="NAME", help="That container of a pod (main)")
@click.pass_context
def cp(
    ctx: click.Context,
    source: str,
    destination: str,
    archive: bool,
    follow_link: bool,
    quiet: bool,
    container: str,
) -> None:
    """Copy files out of or into a running task.

    One of SOURCE and DESTINATION is TARGET:PATH, with SERVICE, SERVICE.SLOT or a task as the target; the
    other is a path here, or - for a tar archive by the standard input or output. A directory is copied with
    all that is in it; PATH/. means what is in it, without itself.
    """
    there, here = target_of(source), target_of(destination)
    if (there is None) == (here is None):
        raise UsageRefused(
            "Exactly one of SOURCE and DESTINATION is in a task: write it as TARGET:PATH (web.1:/etc/hosts); "
            "a path here that holds a colon begins with ./"
        )
    client = connect(ctx)
    if there is not None:
        size = fetch(client, (*there, container), destination, follow_link=follow_link, keep_owner=archive)
        what = f"Copied {source} to {destination}"
    else:
        assert here is not None
        size = put(client, source, (*here, container), follow_link=follow_link, keep_owner=archive)
        what = f"Copied {source} to {destination}"
    if not quiet and destination != "-":
        from swarmpy.cli.output import size_word

        click.echo(f"{what} ({size_word(size)}).", err=True)


def target_of(text: str) -> tuple[str, str] | None:
    """(target, path) of TARGET:PATH; None for a path of this machine."""
    target, colon, path = text.partition(":")
    if not colon or not target or text.startswith((".", "/")) or "/" in target:
        return None
    return target, path if path.startswith("/") else f"/{path}"


def fetch(client: Client, there: Target, destination: str, *, follow_link: bool, keep_owner: bool) -> int:
    """From a task; the bytes of the files."""
    from swarmpy.cli.archive import ArchiveError, unpack
    from swarmpy.proto import tasks_pb2

    request = tasks_pb2.CopyFromRequest(
        target=there[0], path=there[1], follow_link=follow_link, container=there[2]
    )
    answers = client.tasks_stream("CopyFrom", request)
    chunks = (answer.data for answer in answers if answer.WhichOneof("message") == "data")
    if destination == "-":
        if os.isatty(1):
            raise UsageRefused(
                "The standard output is a terminal: send the tar archive into a file or a pipe."
            )
        return sum(sys.stdout.buffer.write(chunk) for chunk in chunks)
    try:
        return unpack(ChunkReader(chunks), destination, keep_owner=keep_owner)
    except ArchiveError as error:
        raise CliError(f"{error}.") from None
    except OSError as error:
        raise CliError(f"{error.filename or destination}: {error.strerror}.") from None


def put(client: Client, source: str, here: Target, *, follow_link: bool, keep_owner: bool) -> int:
    """Into a task; the bytes of the files."""
    from swarmpy.cli.archive import pack
    from swarmpy.proto import tasks_pb2

    if source != "-" and not os.path.lexists(source):
        raise CliError(f"{source} does not exist here.")
    failed: list[OSError] = []

    def requests() -> Iterator[Any]:
        start = tasks_pb2.CopyToStart(target=here[0], path=here[1], keep_owner=keep_owner, container=here[2])
        yield tasks_pb2.CopyToRequest(start=start)
        chunks: Iterable[bytes] = from_file(sys.stdin.buffer) if source == "-" else pack(source, follow_link)
        try:
            for chunk in chunks:
                yield tasks_pb2.CopyToRequest(data=chunk)
        except OSError as error:
            failed.append(error)  # the stream then ends without its end: the task's node refuses it
            return
        yield tasks_pb2.CopyToRequest(end=True)

    try:
        answer = client.tasks_unary("CopyTo", requests())
    except CliError:
        if failed:
            raise CliError(f"{failed[0].filename or source}: {failed[0].strerror}.") from None
        raise
    return int(answer.bytes)


def from_file(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(CHUNK_BYTES):
        yield data


class ChunkReader:
    """Chunks as the file that tarfile reads."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (more := next(self._chunks, None)) is not None:
            self._rest += more
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
