"""`secret …` and `config …`: content that services are given as files, and that never changes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import DockerGroup, Value, connect, for_each, format_option, list_options, refused
from swarmpy.cli.plan import plan_options

KEY = Value(parse.key_value, "key=value")
BYTES_MAX = {"secret": 500 * 1024, "config": 1000 * 1024}
COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("CREATED", "CreatedAt"),
    ("SIZE", "Size"),
    ("LABELS", "LabelsText"),
)
USE_COLUMNS = (("SERVICE", "Service"), ("CONTAINER", "Container"), ("TARGET", "Target"))
DRIVER = "secrets come from a file or standard input, not from a driver"


def content(noun: str, file: str) -> bytes:
    """The bytes of FILE, or of standard input."""
    limit = BYTES_MAX[noun]
    try:
        if file == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(limit + 1)
    except OSError as error:
        raise UsageRefused(f"{file}: {error.strerror or error}.") from None
    if not data:
        raise UsageRefused(f"{'Standard input' if file == '-' else file} is empty: a {noun} needs content.")
    if len(data) > limit:
        raise UsageRefused(f"{file}: larger than {limit // 1024} KiB, the most that a {noun} may have.")
    return data


def message(noun: str, name: str, data: bytes, labels: dict[str, str], template: str) -> Any:
    """The object to create."""
    from swarmpy.proto import objects_pb2

    made = objects_pb2.Secret() if noun == "secret" else objects_pb2.Config()
    made.data, made.template_driver = data, template
    made.meta.name = name
    made.meta.labels.update(labels)
    return made


def add_create(group: click.Group, noun: str) -> None:
    @group.command("create")
    @click.argument("name", metavar=noun.upper())
    @click.argument("file", metavar="FILE|-")
    @click.option("-l", "--label", "labels", type=KEY, multiple=True, help="Label: KEY=VALUE")
    @click.option(
        "--template-driver",
        type=click.Choice(["golang"]),
        default=None,
        help="Each task's own values are filled in: {{.Task.Slot}}, {{.Node.Hostname}} …",
    )
    @refused("-d", "--driver", why=DRIVER)
    @plan_options
    @click.pass_context
    def create(ctx: click.Context, name: str, file: str, labels: Any, template_driver: str | None) -> None:
        data = content(noun, file)
        client = connect(ctx)
        answer = client.create(message(noun, name, data, dict(labels), template_driver or ""))
        click.echo(getattr(answer.object, noun).meta.id)

    create.help = f"Create a {noun} from a file, or from standard input (-)."


def add_ls(group: click.Group, noun: str) -> None:
    @group.command("ls")
    @list_options("id, name, label")
    @click.pass_context
    def ls(ctx: click.Context, filters: Any, quiet: bool, no_trunc: bool, template: str) -> None:
        client = connect(ctx)
        from swarmpy.cli.filters import select
        from swarmpy.cli.output import print_rows
        from swarmpy.cli.views_payload import rows

        found = select(noun, client.find(noun), filters)
        print_rows(
            COLUMNS, rows(found, time.time_ns() // 1_000_000, whole=no_trunc or quiet), template, quiet=quiet
        )

    ls.help = f"List the {noun}s."


def add_inspect(group: click.Group, noun: str) -> None:
    @group.command("inspect")
    @click.argument("names", nargs=-1, required=True, metavar=f"{noun.upper()}...")
    @click.option("--pretty", is_flag=True, help="In a form for people")
    @format_option
    @click.pass_context
    def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool, template: str) -> None:
        client = connect(ctx)
        from swarmpy.cli.output import print_documents

        found = [client.get(noun, name) for name in names]
        texts = [bytes(item.data).decode(errors="replace") for item in found]
        if pretty and noun == "config":
            for item in found:
                item.data = b""
        for item, text in zip(found, texts, strict=True) if pretty else ():
            print_documents([item], template, pretty=True)
            if noun == "config":
                click.echo(f"Data:\n{text}", nl=not text.endswith("\n"))
        if not pretty:
            print_documents(found, template, pretty=False)

    shows = "but its content" if noun == "secret" else "with its content (base64; as text with --pretty)"
    inspect.help = f"Show everything about {noun}s, {shows}."


def add_rm(group: click.Group, noun: str) -> None:
    @group.command("rm")
    @click.argument("names", nargs=-1, required=True, metavar=f"{noun.upper()}...")
    @plan_options
    @click.pass_context
    def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
        client = connect(ctx)

        def remove(name: str) -> None:
            client.delete(noun, name)
            click.echo(name)

        for_each(names, remove)

    rm.help = f"Remove {noun}s that nothing uses."


def add_where_used(group: click.Group, noun: str) -> None:
    @group.command("where-used")
    @click.argument("name", metavar=noun.upper())
    @format_option
    @click.pass_context
    def where_used(ctx: click.Context, name: str, template: str) -> None:
        client = connect(ctx)
        from swarmpy.cli.output import print_rows

        found = client.get(noun, name)
        rows = [
            {"Service": user, "Container": container, "Target": use.target or use.source}
            for user, task in users(client)
            for container, spec in containers(task)
            for use in getattr(spec, f"{noun}s")
            if use.id == found.meta.id
        ]
        print_rows(USE_COLUMNS, sorted(rows, key=lambda row: row["Service"]), template, quiet=False)

    where_used.help = (
        f"List the services and schedules that use a {noun}, and where their containers find it."
    )


def users(client: Any) -> list[tuple[str, Any]]:
    """Services and schedules, by name, with what their tasks are."""
    return [
        *((service.meta.name, service.spec.task) for service in client.find("service")),
        *((f"{cron.meta.name} (cron)", cron.spec.service.task) for cron in client.find("schedule")),
    ]


def containers(task: Any) -> list[tuple[str, Any]]:
    """All containers of a task by name."""
    return [
        ("main", task.container),
        *((one.name, one.container) for one in (*task.sidecars, *task.init_containers)),
    ]


def add_get(group: click.Group, noun: str) -> None:
    @group.command("get")
    @click.argument("name", metavar=noun.upper())
    @click.pass_context
    def get(ctx: click.Context, name: str) -> None:
        click.echo(bytes(connect(ctx).get(noun, name).data), nl=False)

    get.help = f"Write the content of a {noun} to standard output."


def noun_group(noun: str, text: str) -> click.Group:
    group = DockerGroup(noun, help=text)
    add_create(group, noun)
    add_ls(group, noun)
    add_inspect(group, noun)
    if noun == "config":
        add_get(group, noun)
    add_where_used(group, noun)
    add_rm(group, noun)
    return group


secret = noun_group("secret", "Manage secrets: files that only the tasks which need them see, in memory.")
config = noun_group("config", "Manage configs: files that tasks are given without another image.")
