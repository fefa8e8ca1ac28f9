"""`image push`: from this machine into the cluster, once for all nodes. No registry is needed.

Where the image comes from, in this order: an archive (file), an OCI layout (directory), an engine on
this machine that has an image of that name (docker, podman, buildah).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from swarmpy.cli import archive
from swarmpy.cli.errors import CliError, NotFound
from swarmpy.cli.image_show import CHUNK_BYTES, show
from swarmpy.cli.options import connect

if TYPE_CHECKING:
    from swarmpy.proto.control_pb2 import ImageChunk

ENGINES = ("docker", "podman", "buildah")
LOOK_TIMEOUT_S = 20.0
STDERR_BYTES = 4000
EXISTS = {
    "docker": ("docker", "image", "inspect", "--format", "{{.Id}}"),
    "podman": ("podman", "image", "exists"),
    "buildah": ("buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}"),
}


@click.command("push")
@click.argument("source", metavar="IMAGE|ARCHIVE|DIRECTORY")
@click.option("-t", "--name", "reference", default="", help="Name in the cluster (its own otherwise)")
@click.option(
    "--from", "engine", type=click.Choice(ENGINES), help="Engine that has the image (the first that does)"
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@click.pass_context
def push(ctx: click.Context, source: str, reference: str, engine: str | None, quiet: bool) -> None:
    """Bring an image from this machine into the cluster; every node gets it from there."""
    client = connect(ctx)
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        data = opened(stack, source, engine, faults)
        if not reference and (engine or not Path(source).exists()):
            reference = source
        try:
            images = show(client.load_image(chunks(data, reference)), quiet=quiet)
        except CliError:
            if not faults:
                raise  # else what the managers say of half an archive is no news
        if faults:
            raise CliError(f"{source} could not be read to its end: {faults[0]}.")
    from swarmpy.cli.views import familiar_name

    for name in images:
        click.echo(f"Pushed: {familiar_name(name)}")


def chunks(data: Iterator[bytes], reference: str) -> Iterator[ImageChunk]:
    from swarmpy.proto import control_pb2

    yield control_pb2.ImageChunk(reference=reference)
    for piece in data:
        yield control_pb2.ImageChunk(data=piece)


def opened(
    stack: contextlib.ExitStack, source: str, engine: str | None, faults: list[str]
) -> Iterator[bytes]:
    path = Path(source)
    if engine is None and path.is_dir():
        if not (path / "index.json").exists():
            raise CliError(f"{source} is a directory, but no OCI layout: it has no index.json.")
        return told(archive.pack(f"{source}/.", follow_link=False), faults)
    if engine is None and path.exists():
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise CliError(f"{source} cannot be read: {error.strerror}.") from None
        return told(iter(lambda: file.read(CHUNK_BYTES), b""), faults)
    found = engine or next((name for name in ENGINES if has(name, source)), None)
    if found is None:
        here = [name for name in ENGINES if shutil.which(name)]
        raise NotFound(
            f"{source} is no file here, and no image of {' or '.join(here) or 'an engine (none is installed)'}: "
            f"for an image of a registry use `swarmpy image pull {source}`."
        )
    return told(exported(stack, found, source, faults), faults)


def has(engine: str, name: str) -> bool:
    """Whether the engine has an image of that name; an engine that does not run has none."""
    if shutil.which(engine) is None:
        return False
    try:
        return (
            subprocess.run(
                [*EXISTS[engine], name], capture_output=True, timeout=LOOK_TIMEOUT_S, check=False
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def exported(stack: contextlib.ExitStack, engine: str, name: str, faults: list[str]) -> Iterator[bytes]:
    """The engine's own archive of the image, as it is written."""
    if shutil.which(engine) is None:
        raise CliError(f"{engine} is not installed on this machine.")
    if engine == "buildah":  # it writes to files only
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmpy-push-"))
        target = Path(directory) / "image.tar"
        export(["buildah", "push", "-q", name, f"docker-archive:{target}"])
        file = stack.enter_context(target.open("rb"))
        return iter(lambda: file.read(CHUNK_BYTES), b"")
    return piped(stack, [engine, "save", name], faults)


def export(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CliError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:] or 'no message'}.")


def piped(stack: contextlib.ExitStack, command: list[str], faults: list[str]) -> Iterator[bytes]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stack.callback(end, process)
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[bytes] = []
    listener = threading.Thread(target=lambda: said.append(tail(process)), daemon=True)
    listener.start()
    while data := process.stdout.read(CHUNK_BYTES):
        yield data
    if process.wait():
        listener.join(timeout=5)
        text = b"".join(said).decode(errors="replace").strip()
        faults.append(f"`{' '.join(command)}` failed: {text[-500:] or f'status {process.returncode}'}")


def tail(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stderr is not None
    data = b""
    while more := os.read(process.stderr.fileno(), 65536):
        data = (data + more)[-STDERR_BYTES:]
    return data


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def told(pieces: Iterator[bytes], faults: list[str]) -> Iterator[bytes]:
    """Read errors go to `faults`, because grpc swallows those of its iterators."""
    try:
        yield from pieces
    except (OSError, CliError) as error:
        faults.append(str(error))
