"""`volume …`: data that outlives tasks, and the node where it is."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import NotFound, UsageRefused
from swarmpy.cli.options import (
    FILTER,
    DockerGroup,
    Value,
    connect,
    for_each,
    format_option,
    list_options,
    refused,
)
from swarmpy.cli.plan import plan_options
from swarmpy.cli.volume_data import backup, mv, restore

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

KEY = Value(parse.key_value, "key=value")
STRICT_KEY = Value(parse.strict_key_value, "key=value")
CLUSTER_VOLUMES = "cluster volumes of CSI drivers are not built; use --opt type=nfs or type=cifs"


@click.group(cls=DockerGroup)
def volume() -> None:
    """Manage volumes."""


def driver_value(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """-d/--driver."""
    if value != "local":
        raise UsageRefused(f"--driver {value} is not built: volumes are of the driver local.")
    return value


@volume.command("create")
@click.argument("name", required=False, metavar="[VOLUME]")
@click.option("-d", "--driver", default="local", callback=driver_value, help="local")
@click.option(
    "-o",
    "--opt",
    "options",
    type=STRICT_KEY,
    multiple=True,
    help="size=10g; or type=nfs|cifs|tmpfs|none|ext4…, device=…, o=… as for mount",
)
@click.option("--label", "labels", type=KEY, multiple=True, help="Label: KEY=VALUE")
@click.option("--node", default="", help="The node where it is; else where its first task is placed")
@click.option("--per-node", is_flag=True, help="Every node has its own contents")
@click.option("--name", "old_name", hidden=True)
@refused("--availability", why=CLUSTER_VOLUMES)
@refused("--group", why=CLUSTER_VOLUMES)
@refused("--limit-bytes", why=CLUSTER_VOLUMES)
@refused("--required-bytes", why=CLUSTER_VOLUMES)
@refused("--scope", why=CLUSTER_VOLUMES)
@refused("--secret", why=CLUSTER_VOLUMES)
@refused("--sharing", why=CLUSTER_VOLUMES)
@refused("--topology-preferred", why=CLUSTER_VOLUMES)
@refused("--topology-required", why=CLUSTER_VOLUMES)
@refused("--type", why=CLUSTER_VOLUMES)
@plan_options
@click.pass_context
def create(
    ctx: click.Context,
    name: str | None,
    driver: str,
    options: Any,
    labels: Any,
    node: str,
    per_node: bool,
    old_name: str | None,
) -> None:
    """Create a volume, or do nothing where the same one exists. Tasks create those they miss by themselves."""
    client = connect(ctx)
    from swarmpy.proto import objects_pb2

    if name and old_name:
        raise UsageRefused("The volume's name is given twice: as --name and as an argument.")
    spec = objects_pb2.VolumeSpec(driver=driver, options=dict(options), node_id=node, per_node=per_node)
    wanted = objects_pb2.Volume(spec=spec)
    wanted.meta.name = name or old_name or f"{uuid.uuid4().hex}{uuid.uuid4().hex}"
    wanted.meta.labels.update(dict(labels))
    click.echo(client.create(wanted).object.volume.meta.name)


@volume.command("ls")
@list_options("name, label, driver, node, dangling, id")
@refused("--cluster", why=CLUSTER_VOLUMES, switch=True)
@click.pass_context
def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
    """List the volumes."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows
    from swarmpy.cli.views_volume import VOLUME_COLUMNS, volume_rows

    nodes = node_names(client)
    used = used_ids(client)
    found = chosen(client, filters, used)
    print_rows(VOLUME_COLUMNS, volume_rows(found, nodes, used), template, quiet=quiet)


def node_names(client: Client) -> dict[str, str]:
    """Node id -> host name."""
    return {node.meta.id: node.meta.name for node in client.find("node")}


def used_ids(client: Client) -> frozenset[str]:
    """The ids of the volumes that tasks have now."""
    tasks = (task for task in client.find("task") if task.status.state <= 512)
    return frozenset(use.volume_id for task in tasks for use in task.volumes)


def chosen(client: Client, filters: Any, used: frozenset[str]) -> list[Any]:
    """The volumes that pass -f; `dangling` and `node` need more than the volume itself."""
    from swarmpy.cli.filters import select

    dangling = [parse.boolean(value) for key, value in filters if key == "dangling"]
    ids = {node.meta.name: node.meta.id for node in client.find("node")}
    others = [(k, ids.get(v, v) if k == "node" else v) for k, v in filters if k != "dangling"]
    found = select("volume", client.find("volume"), others)
    return [item for item in found if not dangling or (item.meta.id not in used) in dangling]


@volume.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("--pretty", is_flag=True, help="In a form for people")
@format_option
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
    """Show everything about volumes."""
    client = connect(ctx)
    from swarmpy.cli.output import print_documents

    print_documents([client.get("volume", name) for name in names], template, pretty=pretty)


@volume.command("update")
@click.argument("name", metavar="VOLUME")
@click.option("--label-add", "added", type=KEY, multiple=True, help="Give a label: KEY=VALUE")
@click.option("--label-rm", "removed", multiple=True, metavar="KEY", help="Take a label away")
@refused("--availability", why=CLUSTER_VOLUMES)
@plan_options
@click.pass_context
def update(ctx: click.Context, name: str, added: Any, removed: tuple[str, ...]) -> None:
    """Change a volume's labels; what it is made of stays."""
    if not added and not removed:
        raise UsageRefused("Say what to change: --label-add or --label-rm.")
    client = connect(ctx)
    found = client.get("volume", name)

    def edit(changed: Any) -> None:
        for key in removed:
            changed.meta.labels.pop(key, None)
        changed.meta.labels.update(dict(added))

    client.change("volume", found.meta.id, edit)
    click.echo(found.meta.name)


@volume.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("-f", "--force", is_flag=True, help="No error where there is no such volume")
@plan_options
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool) -> None:
    """Remove volumes that nothing uses, with all that is in them."""
    client = connect(ctx)

    def remove(name: str) -> None:
        try:
            found = client.get("volume", name)
            client.delete("volume", found.meta.id)
        except NotFound:
            if not force:
                raise
        else:
            tell_delay(client, found)
        click.echo(name)

    for_each(names, remove)


def tell_delay(client: Client, found: Any) -> None:
    """What is on a node that is down goes when that is back."""
    down = {node.meta.id: node.meta.name for node in client.find("node") if node.status.state == 1}
    waiting = [down[node_id] for node_id in found.holders if node_id in down]
    if waiting:
        click.echo(
            f"Node {', '.join(waiting)} is down: what is there of volume {found.meta.name} is removed when it "
            "is back.",
            err=True,
        )


@volume.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also volumes with names: all that are unused")
@click.option("-f", "--force", is_flag=True, help="Do not ask")
@click.option(
    "--filter", "filters", type=FILTER, multiple=True, help="Only these: label=KEY[=VALUE], label!=…"
)
@click.option("--plan", "planned", is_flag=True, help="Only show which ones; exit 0: none, 2: some")
@click.pass_context
def prune(ctx: click.Context, everything: bool, force: bool, filters: Any, planned: bool) -> None:
    """Remove the volumes of the whole cluster that no task and no service uses.

    Volumes without names go with their tasks, so without --all there is nothing to remove.
    """
    client = connect(ctx)
    unused = [item for item in prunable(client, filters) if not item.pending_delete]
    if not everything:
        many = f": {len(unused)} unused" if unused else ""
        click.echo(f"Volumes with names are kept without --all{many}.", err=True)
        return
    if planned:
        for item in unused:
            click.echo(f"- volume {item.meta.name}")
        raise click.exceptions.Exit(2 if unused else 0)
    if unused and not force:
        for item in unused:
            click.echo(f"  {item.meta.name}", err=True)
        click.confirm(f"Remove these {len(unused)} volumes with all that is in them?", abort=True, err=True)

    from swarmpy.cli.pipeline import removals

    gone = tuple(item.meta.name for item in unused)
    delete = removals(client, "volume", gone)

    def remove(name: str) -> None:
        delete(name)
        click.echo(name)

    if unused:
        for_each(gone, remove)


def template_pattern(source: str) -> re.Pattern[str]:
    """The names that a source with placeholders may stand for: a slot that is not there now may come back."""
    parts = re.split(r"\{\{.*?\}\}", source)
    return re.compile(".+".join(re.escape(part) for part in parts))


def prunable(client: Client, filters: Any) -> list[Any]:
    """Volumes that no task has and no service names."""
    for key, _ in filters:
        if key not in {"label", "label!"}:
            raise UsageRefused(f"{key!r} is not a filter of prune: use label and label!.")
    from swarmpy.cli.filters import by_label

    used = used_ids(client)
    named = {
        (service.meta.namespace, mount.source)
        for service in client.find("service")
        for container in (
            service.spec.task.container,
            *(pod.container for pod in service.spec.task.init_containers),
            *(pod.container for pod in service.spec.task.sidecars),
        )
        for mount in container.mounts
    }
    templates = [(namespace, template_pattern(source)) for namespace, source in named if "{{" in source]
    return [
        item
        for item in sorted(client.find("volume"), key=lambda item: item.meta.name)
        if item.meta.id not in used
        and (item.meta.namespace, item.meta.name) not in named
        and not any(space == item.meta.namespace and p.fullmatch(item.meta.name) for space, p in templates)
        and all(by_label(item, value) == (key == "label") for key, value in filters)
    ]


for command in (mv, backup, restore):
    volume.add_command(command)
