"""`image …`: load once for the whole cluster, pull, list, remove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
from swarmpy.cli import image_look as look
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.image_build import build
from swarmpy.cli.image_push import push
from swarmpy.cli.image_show import CHUNK_BYTES, show
from swarmpy.cli.options import DockerGroup, connect, for_each, list_options, refused
from swarmpy.cli.plan import plan_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client
    from swarmpy.proto.control_pb2 import ImageChunk


@click.group(cls=DockerGroup)
def image() -> None:
    """Manage the cluster's images."""


for command in (look.where, look.inspect, look.history, look.save, look.tag, look.prune, push, build):
    image.add_command(command)


@image.command("load")
@click.argument("archive", required=False, type=click.Path(dir_okay=False))
@click.option(
    "-i", "--input", "source", type=click.Path(dir_okay=False), help="Archive (else standard input)"
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@click.option(
    "--name", "-t", "reference", default="", help="Name for an archive that holds none (a root file system)"
)
@click.option("--format", "form", type=click.Choice(["auto", "docker", "oci", "rootfs"]), default="auto",
              help="What the archive is: docker save, OCI layout or a root file system")  # fmt: skip
@refused("--platform", why="the archive's image for the node's platform is taken")
@click.pass_context
def load(
    ctx: click.Context, archive: str | None, source: str | None, quiet: bool, reference: str, form: str
) -> None:
    """Put an archive's images into the cluster; every node gets them from there, without a registry."""
    path = source or archive
    if path in {None, "-"} and sys.stdin.isatty():
        raise UsageRefused("The archive is missing: name a file with -i, or pipe one into the command.")
    try:
        stream: BinaryIO = sys.stdin.buffer if path in {None, "-"} else Path(str(path)).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}.") from None
    client = connect(ctx)
    faults: list[str] = []
    with stream:
        images = show(client.load_image(chunks(stream, reference, form, faults)), quiet=quiet)
    if faults:
        raise CliError(f"{path or 'standard input'} could not be read to its end: {faults[0]}.")
    from swarmpy.cli.views import familiar_name

    for name in images:
        click.echo(f"Loaded image: {familiar_name(name)}")


def chunks(stream: BinaryIO, reference: str, form: str, faults: list[str]) -> Iterator[ImageChunk]:
    """The archive in pieces; read errors go to `faults`, because grpc swallows those of its iterators."""
    from swarmpy.proto import control_pb2

    first = control_pb2.ImageChunk(reference=reference, format="" if form == "auto" else form)
    yield first
    try:
        while data := stream.read(CHUNK_BYTES):
            yield control_pb2.ImageChunk(data=data)
    except OSError as error:
        faults.append(str(error))


@image.command("pull")
@click.argument("reference", metavar="IMAGE")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@refused("-a", "--all-tags", switch=True)
@refused("--platform", why="each node takes the image for its own platform")
@click.pass_context
def pull(ctx: click.Context, reference: str, quiet: bool) -> None:
    """Fetch an image from its registry into the cluster."""
    client = connect(ctx)
    for name in show(client.pull_image(reference), quiet=quiet):
        click.echo(name)


@image.command("ls")
@click.option("-a", "--all", is_flag=True, hidden=True, expose_value=False)  # there are no intermediate ones
@list_options("id, reference, label")
@click.pass_context
def ls(
    ctx: click.Context, filters: list[tuple[str, str]], quiet: bool, no_trunc: bool, template: str
) -> None:
    """List the images that the cluster holds."""
    client = connect(ctx)
    from swarmpy.cli.filters import select
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.task import node_names, now_ms
    from swarmpy.cli.views import IMAGE_COLUMNS, image_rows

    chosen = select("image", client.find("image"), filters)
    names = {} if quiet else node_names(client)
    print_rows(IMAGE_COLUMNS, image_rows(chosen, names, now_ms(), whole=no_trunc), template, quiet=quiet)


@image.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Also an image that a service uses")
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove images from the cluster."""
    client = connect(ctx)

    def remove(name: str) -> None:
        client.delete("image", image_id(client, name), force=force)
        click.echo(f"Deleted: {name}")

    for_each(names, remove)


def image_id(client: Client, name: str) -> str:
    """The id of the image of that name, digest or beginning of one of these; else the name itself."""
    from swarmpy.cli.views import familiar_name

    images = client.find("image")
    bare = name.removeprefix("sha256:")
    for matches in (
        [i for i in images if name in {i.meta.id, i.meta.name, familiar_name(i.meta.name), i.digest}],
        [i for i in images if f"{name}:latest" in {i.meta.name, familiar_name(i.meta.name)}],
        [i for i in images if len(bare) >= 6 and i.digest.removeprefix("sha256:").startswith(bare)],
    ):
        if len(matches) == 1:
            return str(matches[0].meta.id)
        if matches:
            raise CliError(f"{name} is the name of {len(matches)} images: say which, with its tag.")
    return name
