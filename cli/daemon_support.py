"""`support-bundle` and `uninstall`: what to send when something is broken, and how to be rid of it all."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import click
from swarmpy.cli.daemon import refusal, state_dir_option
from swarmpy.cli.errors import CliError, Forbidden
from swarmpy.cli.options import DockerCommand, connect

CLUSTER_TIMEOUT_S = 15.0
CACHE = Path("/var/cache/swarmpy")


@click.command("support-bundle", cls=DockerCommand)
@state_dir_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.pass_context
def support_bundle(ctx: click.Context, state_dir: Path, file: Path | None) -> None:
    """Collect what helps to find a fault into FILE (swarmpy-support-TIME.tar.gz), without secrets.

    Of this machine: facts, doctor, logs of the daemon, links, routes, rules. Of the cluster, where a manager
    answers: status and all objects; values of variables, labels and options are hidden, keys and tokens are
    not there at all. Look through it before you send it.
    """
    from swarmpy.node import daemon_bundle

    if os.geteuid() != 0:
        raise Forbidden("the daemon's files belong to root: run this with sudo")
    target = file or Path(f"swarmpy-support-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
    partial = target.with_name(target.name + ".partial")
    count = 0
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as output, tarfile.open(fileobj=output, mode="w:gz") as archive:
            for name, content in (*daemon_bundle.files(state_dir), *of_cluster(ctx, daemon_bundle.redacted)):
                entry = tarfile.TarInfo(f"swarmpy-support/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(content))
                count += 1
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CliError(f"{target} cannot be written: {error.strerror or error}") from None
    click.echo(
        f"{target}: {count} files, {target.stat().st_size / 1e6:.1f} MB. Look through it before you send it."
    )


def of_cluster(ctx: click.Context, redacted: Any) -> list[tuple[str, bytes]]:
    """Status and objects, or why there are none."""
    from google.protobuf.json_format import MessageToDict
    from swarmpy.proto import control_pb2, store_pb2

    client = connect(ctx)
    client.timeout_s = min(client.timeout_s, CLUSTER_TIMEOUT_S)
    found: list[tuple[str, Any]] = []
    try:
        status = client.call("Status", control_pb2.StatusRequest())
        found.append(("cluster/status.json", MessageToDict(status, preserving_proto_field_name=True)))
        for kind_info in store_pb2.Object.DESCRIPTOR.fields:
            name = kind_info.name
            try:
                objects = client.call("List", control_pb2.ListRequest(kind=f"KIND_{name.upper()}")).objects
            except CliError as error:
                found.append((f"cluster/{name}.txt", {"problem": error.message}))
                continue
            shown = [redacted(MessageToDict(one, preserving_proto_field_name=True)) for one in objects]
            found.append((f"cluster/{name}.json", shown))
    except CliError as error:
        found.append(("cluster/problem.json", {"problem": error.message}))
    return [(name, json.dumps(value, indent=2, ensure_ascii=False).encode()) for name, value in found]


@click.command("uninstall", cls=DockerCommand)
@state_dir_option
@click.option("-f", "--force", is_flag=True, help="Also where the other managers cannot be asked; do not ask")
def uninstall(state_dir: Path, force: bool) -> None:
    """Take everything of swarmpy off this machine: the node, its containers and volumes, its unit, its caches.

    The node leaves its cluster first. The program itself goes the way it came: with the package manager, with
    pip, or, where it is a single file, it is removed here.
    """
    from swarmpy.node import daemon_leave

    if os.geteuid() != 0:
        raise Forbidden("a node belongs to root: run this with sudo")
    if not force:
        question = "This stops the node's containers and removes its volumes and images. Go on?"
        click.confirm(question, abort=True, err=True)
    if (state_dir / "node.json").exists():
        try:
            daemon_leave.leave(state_dir, force=force, say=click.echo)
        except daemon_leave.LeaveRefused as error:
            raise refusal(error) from None
        click.echo("Node left the cluster.")
    shutil.rmtree(state_dir, ignore_errors=True)
    shutil.rmtree(CACHE, ignore_errors=True)
    installed = os.environ.get("SWARMPY_INSTALLED", "")  # where another build carries out the command
    binary = (
        os.environ.get("SWARMPY_BINARY", "")
        if not installed
        else installed
        if os.path.exists(installed)
        else ""
    )
    if binary and Path("/usr/lib/swarmpy/swarmpy").exists() and binary == "/usr/bin/swarmpy":
        click.echo("Left: the package. Remove it with `apt-get remove swarmpy`.")
    elif binary:
        Path(binary).unlink(missing_ok=True)
        click.echo(f"Removed {binary}.")
    else:
        click.echo(
            "Left: the program. Remove it the way it was installed, for example `pip uninstall swarmpy`."
        )
