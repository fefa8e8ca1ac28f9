"""`image where|inspect|history|save|tag|prune`: what the cluster's images are, where, and which may go."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.options import connect, format_option, refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarmpy.cli.client import Client

WHERE_COLUMNS = (("NODE", "Node"), ("STATE", "State"), ("HAS", "Has"), ("UNPACKED", "Unpacked"))
HISTORY_COLUMNS = (
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
)
USAGE_COLUMNS = (
    ("NODE", "Node"), ("IMAGES", "Images"), ("BLOBS", "Blobs"), ("LAYERS", "Layers"), ("PARTIAL", "Partial"),
    ("RECLAIMABLE", "Reclaimable"), ("DISK", "Disk"),
)  # fmt: skip
LOOK_TIMEOUT_S = 60.0
PRUNE_TIMEOUT_S = 900.0
COMMAND_LENGTH = 45


def images_unary(client: Client, method: str, request: Any, timeout_s: float = LOOK_TIMEOUT_S) -> Any:
    """One answer of the Images service."""
    from swarmpy.proto import images_pb2_grpc

    return client.service_unary(images_pb2_grpc.ImagesStub, method, request, timeout_s)


@click.command("where")
@click.argument("image", metavar="IMAGE")
@format_option
@click.pass_context
def where(ctx: click.Context, image: str, template: str) -> None:
    """Show which nodes hold an image, whole or in part."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows, size_word
    from swarmpy.proto import images_pb2

    answer = images_unary(client, "Where", images_pb2.WhereRequest(image=image))
    rows = [
        {
            "Node": node.node_name,
            "State": "unknown" if node.warning else state_word(node),
            "Has": size_word(node.present_bytes) if node.present_bytes else "-",
            "Unpacked": "yes" if node.unpacked else "no",
            "Warning": node.warning,
        }
        for node in answer.nodes
    ]
    print_rows(WHERE_COLUMNS, rows, template)
    warn(answer.nodes)


def state_word(node: Any) -> str:
    if node.complete:
        return "complete"
    if node.total_bytes:
        return f"partial ({node.present_bytes * 100 // node.total_bytes} %)"
    return "absent"


def warn(nodes: Sequence[Any]) -> None:
    for node in nodes:
        if node.warning:
            click.echo(f"Warning: node {node.node_name} could not say: {node.warning}", err=True)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@format_option
@refused("--platform", why="each node holds the image for its own platform")
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], template: str) -> None:
    """Show everything about images, from a node that holds them."""
    client = connect(ctx)
    from swarmpy.cli.output import filled
    from swarmpy.proto import images_pb2

    whole = [
        described(images_unary(client, "Inspect", images_pb2.ImageReadRequest(image=name))) for name in names
    ]
    if template in {"", "table"}:
        click.echo(json.dumps(whole, indent=4, ensure_ascii=False))
    elif template == "json":
        click.echo(json.dumps(whole, ensure_ascii=False))
    else:
        for value in whole:
            click.echo(filled(template, value))


def described(found: Any) -> dict[str, Any]:
    """In Docker's words."""
    config = json.loads(found.config)
    names = [name for name in found.references if "@" not in name]
    return {
        "Id": json.loads(found.manifest)["config"]["digest"],
        "Digest": found.digest,
        "RepoTags": names,
        "RepoDigests": sorted({f"{name.rpartition(':')[0]}@{found.digest}" for name in names}),
        "Created": config.get("created", ""),
        "Author": config.get("author", ""),
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", ""),
        "Size": found.size_bytes,
        "Config": config.get("config") or {},
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in found.layers]},
        "Layers": [
            {"Digest": layer.digest, "Size": layer.size_bytes, "MediaType": layer.media_type}
            for layer in found.layers
        ],
    }


@click.command("history")
@click.argument("image", metavar="IMAGE")
@click.option("--no-trunc", is_flag=True, help="Do not shorten")
@click.option("-q", "--quiet", is_flag=True, hidden=True)
@click.option("-H", "--human", is_flag=True, hidden=True, expose_value=False)  # they always are
@format_option
@click.pass_context
def history(ctx: click.Context, image: str, no_trunc: bool, quiet: bool, template: str) -> None:
    """Show how an image was made, the newest step first."""
    client = connect(ctx)
    from swarmpy.cli.output import ago, print_rows, size_word
    from swarmpy.cli.task import now_ms
    from swarmpy.proto import images_pb2

    found = images_unary(client, "Inspect", images_pb2.ImageReadRequest(image=image))
    sizes = [layer.size_bytes for layer in found.layers]
    rows = []
    for step in json.loads(found.config).get("history") or []:
        size = 0 if step.get("empty_layer") or not sizes else sizes.pop(0)
        command = " ".join(str(step.get("created_by", "")).split())
        rows.append(
            {
                "ID": "<missing>",
                "CreatedSince": ago(made_ms, now_ms()) if (made_ms := time_ms(step)) else "-",
                "CreatedBy": command
                if no_trunc or len(command) <= COMMAND_LENGTH
                else command[: COMMAND_LENGTH - 1] + "…",
                "Size": size_word(size),
                "Comment": str(step.get("comment", "")),
            }
        )
    print_rows(HISTORY_COLUMNS, rows[::-1], template, quiet=quiet)


def time_ms(step: dict[str, Any]) -> int:
    """0 where nobody noted when (tools that make the same bytes twice write 1970)."""
    from datetime import datetime

    try:
        return max(0, int(datetime.fromisoformat(str(step.get("created", ""))).timestamp() * 1000))
    except ValueError:
        return 0


@click.command("save")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False), help="File (else standard output)")
@refused("--platform", why="each node holds the image for its own platform")
@click.pass_context
def save(ctx: click.Context, names: tuple[str, ...], target: str | None) -> None:
    """Write images to an archive that `docker load` and `image load` read."""
    if target is None and sys.stdout.isatty():
        raise UsageRefused("An archive does not belong on a terminal: name a file with -o, or pipe it on.")
    client = connect(ctx)
    from swarmpy.proto import images_pb2, images_pb2_grpc

    call = client.service_call(images_pb2_grpc.ImagesStub, "Save", images_pb2.ImageSaveRequest(images=names))
    pieces = (piece.data for piece in client.answers(call))
    if target is None:
        for data in pieces:
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    fresh = Path(f"{target}.part")
    try:
        with fresh.open("wb") as file:
            written(file, pieces)
        fresh.replace(target)
    except OSError as error:
        raise CliError(f"{target} cannot be written: {error.strerror}.") from None
    finally:
        fresh.unlink(missing_ok=True)


def written(file: BinaryIO, pieces: Any) -> None:
    file.writelines(pieces)
    file.flush()
    os.fsync(file.fileno())


@click.command("tag")
@click.argument("image", metavar="IMAGE")
@click.argument("name", metavar="NAME")
@click.pass_context
def tag(ctx: click.Context, image: str, name: str) -> None:
    """Give an image one more name; a name that another image has moves."""
    client = connect(ctx)
    from swarmpy.cli.image import image_id
    from swarmpy.proto import objects_pb2

    found = client.get("image", image_id(client, image))
    wanted = objects_pb2.Image(digest=found.digest)
    wanted.meta.name = name
    client.create(wanted)


@click.command("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Also images that no service uses any more")
@click.option(
    "--keep-revisions", type=click.IntRange(0, 50), default=50, metavar="N",
    help="With -a: keep the images of so many former revisions of each service (all that can be rolled back to)",
)  # fmt: skip
@click.option("--plan", is_flag=True, help="Only show what would go")
@click.option("-f", "--force", is_flag=True, help="Do not ask")
@refused("--filter", why="say with -a and --keep-revisions what may go")
@click.pass_context
def prune(ctx: click.Context, every: bool, keep_revisions: int, plan: bool, force: bool) -> None:
    """Remove what no service, revision, task or name needs, on every node."""
    client = connect(ctx)
    if not plan and not force:
        what = (
            "all images that no service uses" if every else "everything in the nodes' stores that has no name"
        )
        click.confirm(f"This removes {what}, on every node. Go on?", abort=True, err=True)
    do_prune(client, every=every, keep_revisions=keep_revisions, plan=plan)


def do_prune(client: Client, *, every: bool, keep_revisions: int, plan: bool) -> None:
    from swarmpy.cli.output import size_word
    from swarmpy.cli.views import familiar_name
    from swarmpy.proto import images_pb2

    request = images_pb2.PruneImagesRequest(all=every, plan=plan, keep_revisions=keep_revisions)
    answer = images_unary(client, "Prune", request, PRUNE_TIMEOUT_S)
    for gone in answer.images:
        click.echo(f"{'Would remove' if plan else 'Removed'}: {familiar_name(gone.name)}")
    for node in answer.nodes:
        if node.reclaimable_bytes:
            click.echo(f"{node.node_name}: {size_word(node.reclaimable_bytes)}")
    click.echo(f"{'Would free' if plan else 'Freed'}: {size_word(answer.freed_bytes)}")
    warn(answer.nodes)


def usage_rows(nodes: Sequence[Any]) -> list[dict[str, Any]]:
    """`system df`."""
    from swarmpy.cli.output import size_word

    rows = []
    for node in nodes:
        used = node.disk_bytes - node.disk_free_bytes
        rows.append(
            {
                "Node": node.node_name,
                "Images": "?" if node.warning else node.images,
                "Blobs": size_word(node.blob_bytes),
                "Layers": size_word(node.layer_bytes),
                "Partial": size_word(node.partial_bytes),
                "Reclaimable": size_word(node.reclaimable_bytes),
                "Disk": f"{used * 100 // node.disk_bytes} %" if node.disk_bytes else "?",
                "DiskBytes": node.disk_bytes,
                "DiskFreeBytes": node.disk_free_bytes,
            }
        )
    return rows
