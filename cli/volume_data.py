"""`volume mv`, `volume backup` and `volume restore`: the contents of volumes on their way."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import CliError, Conflict, NotConverged, NotFound, UsageRefused
from swarmpy.cli.options import DockerCommand, connect

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

CHUNK_BYTES = 256 * 1024
GZIP_MAGIC = b"\x1f\x8b"
USAGE_S = 120.0
HOME_WAIT_S = 5.0
MOVE_TIMEOUT_S = 7 * 24 * 3600.0
COPYING, STOPPING, FINAL, DONE, FAILED = range(1, 6)  # VolumeMoveState
FORCE_HELP = "Replace an existing file"


@click.command("mv", cls=DockerCommand)
@click.argument("name", metavar="VOLUME")
@click.argument("node", metavar="NODE")
@click.option("--plan", "planned", is_flag=True, help="Only show what would be copied and which tasks stop")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until it is there")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@click.pass_context
def mv(ctx: click.Context, name: str, node: str, planned: bool, detach: bool, quiet: bool) -> None:
    """Move a volume to another node.

    It is copied while its tasks run; then they stop for the last difference and start on the other node.
    Until that the volume is where it was, whatever happens. To end a move, move to the node where it is.
    """
    client = connect(ctx)
    found = client.get("volume", name)
    target = client.get("node", node)
    if planned:
        show_plan(client, found, target)
        raise click.exceptions.Exit(0 if found.node_id == target.meta.id else 2)

    def edit(volume: Any) -> None:
        volume.spec.node_id = target.meta.id
        volume.spec.moves += 1

    _, answer = client.change("volume", found.meta.id, edit)
    moved = answer.object.volume
    if not detach:
        follow(client, moved, target, quiet=quiet)
    click.echo(moved.meta.name)


def show_plan(client: Client, volume: Any, target: Any) -> None:
    """What a move would do."""
    from swarmpy.cli.output import size_word
    from swarmpy.cli.volume import node_names

    nodes = node_names(client)
    if volume.node_id == target.meta.id:
        click.echo(f"Volume {volume.meta.name} is on node {target.meta.name} already.")
        return
    tasks = sorted(
        f"{task.service_name}.{task.slot or nodes.get(task.node_id, '')}"
        for task in client.find("task")
        if task.status.state <= 512 and any(use.volume_id == volume.meta.id for use in task.volumes)
    )
    home = nodes.get(volume.node_id, "")
    if home:
        here = usage(client, volume.meta.name)
        there = usage(client, volume.meta.name, target.meta.name)
        size = f"{size_word(here.used_bytes)} in {here.files} files"
        click.echo(f"~ volume {volume.meta.name}: {home} -> {target.meta.name}, copies {size}")
        if there.free_bytes < here.used_bytes:
            click.echo(f"! node {target.meta.name} has only {size_word(there.free_bytes)} left", err=True)
    else:
        click.echo(f"~ volume {volume.meta.name}: to {target.meta.name}, nothing is in it yet")
    for task in tasks:
        click.echo(f"~ task {task}: stops for the last difference, starts on {target.meta.name}")


def usage(client: Client, name: str, node: str = "") -> Any:
    """What a volume takes where it is; with a node what is free there."""
    from swarmpy.proto import volumes_pb2

    return called(client, "Usage", volumes_pb2.VolumeRequest(volume=name, node=node), USAGE_S)


def called(client: Client, method: str, request: Any, timeout_s: float) -> Any:
    """The one answer of a call to Volumes."""
    from swarmpy.proto import volumes_pb2_grpc

    return client.service_unary(volumes_pb2_grpc.VolumesStub, method, request, timeout_s)


def follow(client: Client, volume: Any, target: Any, *, quiet: bool) -> None:
    """Until the move is over; NotConverged when it failed."""
    from swarmpy.cli.watch import RESTART, Watcher

    number, shown = volume.spec.moves, ""
    with Watcher(client, ["volume"], filters={"id": volume.meta.id}) as watcher:
        while True:
            event = watcher.get(MOVE_TIMEOUT_S)
            if event is None:
                raise NotConverged(f"Volume {volume.meta.name} did not arrive within a week.")
            if event is RESTART or not event.HasField("object"):
                continue
            now = event.object.volume
            if now.meta.id != volume.meta.id or now.move.number < number:
                continue
            line = progress_of(now, target.meta.name)
            if line != shown and not quiet:
                click.echo(line, err=True)
                shown = line
            if now.node_id == target.meta.id:
                return
            if now.move.number > number or now.move.state in {FAILED, 0}:
                why = now.move.message or "another move was asked for"
                raise NotConverged(f"Volume {now.meta.name} was not moved, everything is as it was: {why}.")


def progress_of(volume: Any, target: str) -> str:
    """One line about a move."""
    from swarmpy.cli.output import size_word

    move = volume.move
    report = next((r for r in volume.reports if r.node_id == move.to_id and r.move == move.number), None)
    if move.state == DONE or volume.node_id == volume.spec.node_id:
        stopped_ms = move.ended_ms - move.stopping_ms if move.stopping_ms else 0
        span = f", tasks told to stop {stopped_ms / 1000:.1f} s before" if stopped_ms else ""
        return f"{volume.meta.name}: on {target}{span}"
    words = {
        COPYING: "copying while its tasks run",
        STOPPING: "stopping its tasks",
        FINAL: "copying the last difference",
        FAILED: "failed",
    }
    line = f"{volume.meta.name}: {words.get(move.state, 'waiting')}"
    if report is not None and move.state in {COPYING, FINAL}:
        done, total = size_word(report.done_bytes), size_word(report.total_bytes)
        line += f", round {report.round}: {done} of {total}"
    return line


@click.command("backup", cls=DockerCommand)
@click.argument("name", metavar="VOLUME")
@click.argument("file", metavar="FILE")
@click.option("--node", default="", help="Of a volume that every node has its own of")
@click.option("--force", is_flag=True, help=FORCE_HELP)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings")
@click.pass_context
def backup(ctx: click.Context, name: str, file: str, node: str, force: bool, quiet: bool) -> None:
    """Write a volume's contents to FILE as a tar archive (- = standard output; .gz, .tgz = compressed)."""
    if file == "-" and os.isatty(1):
        raise UsageRefused("The standard output is a terminal: send the archive into a file or a pipe.")
    if file != "-" and os.path.lexists(file) and not force:
        raise Conflict(f"{file} exists: use --force to replace it.")
    client = connect(ctx)
    from swarmpy.cli.output import size_word
    from swarmpy.proto import volumes_pb2, volumes_pb2_grpc

    request = volumes_pb2.VolumeRequest(volume=name, node=node)
    call = client.service_call(volumes_pb2_grpc.VolumesStub, "Backup", request, MOVE_TIMEOUT_S)
    answers = client.answers(call)
    place = None
    try:
        with target_file(file) as write:
            for answer in answers:
                if answer.HasField("place"):
                    place = answer.place
                    warn_of_users(name, place.users, "files written meanwhile are in it as they were met")
                else:
                    write(answer.data)
            if place is None:
                raise CliError(f"Nothing came of volume {name}: try again.")
    except OSError as error:
        raise CliError(f"{error.filename or file}: {error.strerror}.") from None
    if not quiet:
        size = size_word(place.used_bytes)
        click.echo(f"Backed up volume {name} of node {place.node_name} ({size}).", err=True)


@contextlib.contextmanager
def target_file(file: str) -> Iterator[Callable[[bytes], Any]]:
    """A file that appears under its name when it is whole."""
    if file == "-":
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    part = Path(f"{file}.part")
    opened: IO[bytes] = open(part, "wb")  # noqa: SIM115
    done = False
    try:
        with opened:
            if file.endswith((".gz", ".tgz")):
                with gzip.GzipFile(fileobj=opened, mode="wb", compresslevel=1) as packed:
                    yield packed.write
            else:
                yield opened.write
            opened.flush()
            os.fsync(opened.fileno())
        part.rename(file)
        done = True
    finally:
        if not done:
            part.unlink(missing_ok=True)


def warn_of_users(name: str, users: int, why: str) -> None:
    if users:
        many = "1 container" if users == 1 else f"{users} containers"
        click.echo(f"Warning: volume {name} is in use by {many}: {why}.", err=True)


@click.command("restore", cls=DockerCommand)
@click.argument("name", metavar="VOLUME")
@click.argument("file", metavar="FILE")
@click.option("--node", default="", help="Where to make the volume, if there is none of that name yet")
@click.option("--force", is_flag=True, help="Replace what is in the volume")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings")
@click.pass_context
def restore(ctx: click.Context, name: str, file: str, node: str, force: bool, quiet: bool) -> None:
    """Put the contents of a backup in the place of a volume's, at once when all of it has come.

    Any tar archive will do. A volume that does not exist is made.
    """
    if file != "-" and not os.path.isfile(file):
        raise CliError(f"{file}: there is no such file.")
    client = connect(ctx)
    from swarmpy.cli.output import size_word

    made = ready_for_restore(client, name, node)
    try:
        found = usage(client, name, node) if not made else None
        if found is not None and found.files and not force:
            raise Conflict(f"Volume {name} has {found.files} files in it: use --force to replace them.")
        warn_of_users(name, found.users if found else 0, "their open files stay what they were")
        answer = send(client, name, node, file)
    except CliError:
        if made:
            with contextlib.suppress(CliError):
                client.delete("volume", name)
        raise
    if not quiet:
        what = f"{answer.files} files, {size_word(answer.bytes)}"
        click.echo(f"Restored volume {name} on node {answer.place.node_name} ({what}).", err=True)
    click.echo(name)


def ready_for_restore(client: Client, name: str, node: str) -> bool:
    """See that there is a volume with a home; whether it was made for this."""
    from swarmpy.proto import objects_pb2

    try:
        found = client.get("volume", name)
    except NotFound:
        wanted = objects_pb2.Volume(spec=objects_pb2.VolumeSpec(node_id=node or emptiest(client)))
        wanted.meta.name = name
        client.create(wanted)
        return True
    if not found.node_id and not found.spec.per_node:
        home = client.get("node", node).meta.id if node else found.spec.node_id or emptiest(client)

        def edit(volume: Any) -> None:
            volume.spec.node_id = home
            volume.spec.moves += 1

        client.change("volume", found.meta.id, edit)
        deadline = time.monotonic() + HOME_WAIT_S
        while not client.get("volume", found.meta.id).node_id and time.monotonic() < deadline:
            time.sleep(0.1)
    return False


def emptiest(client: Client) -> str:
    """The ready node with the fewest volumes."""
    counts: dict[str, int] = {str(node.meta.id): 0 for node in client.find("node") if node.status.state == 2}
    if not counts:
        raise CliError("No node is ready to take the volume: see `swarmpy node ls`.")
    for volume in client.find("volume"):
        if volume.node_id in counts:
            counts[volume.node_id] += 1
    return min((count, node_id) for node_id, count in counts.items())[1]


def send(client: Client, name: str, node: str, file: str) -> Any:
    """Stream the archive; the home node's answer."""
    from swarmpy.proto import volumes_pb2

    failed: list[OSError] = []

    def requests() -> Iterator[Any]:
        start = volumes_pb2.VolumeRequest(volume=name, node=node)
        yield volumes_pb2.VolumeRestoreRequest(start=start)
        try:
            with source_file(file) as archive:
                while data := archive.read(CHUNK_BYTES):
                    yield volumes_pb2.VolumeRestoreRequest(data=data)
        except (OSError, EOFError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(0, str(error), file))
            return  # without its end: the node changes nothing
        yield volumes_pb2.VolumeRestoreRequest(end=True)

    try:
        return called(client, "Restore", requests(), MOVE_TIMEOUT_S)
    except CliError:
        if failed:
            raise CliError(f"{failed[0].filename or file}: {failed[0].strerror or failed[0]}.") from None
        raise


@contextlib.contextmanager
def source_file(file: str) -> Iterator[Any]:
    """The archive, unpacked where it is compressed."""
    with contextlib.ExitStack() as stack:
        raw: Any = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))
        if raw.peek(2)[:2] == GZIP_MAGIC:
            yield stack.enter_context(gzip.GzipFile(fileobj=raw, mode="rb"))
        else:
            yield raw
