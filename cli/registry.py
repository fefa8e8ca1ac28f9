"""`registry …`: what the cluster needs to pull from registries. No command shows a password again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.options import DockerGroup, connect, for_each, format_option

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

COLUMNS = (
    ("REGISTRY", "Registry"), ("USER", "User"), ("HELPER", "Helper"), ("MIRRORS", "Mirrors"), ("TLS", "Tls"),
)  # fmt: skip
DEFAULT = "docker.io"
CHECK_TIMEOUT_S = 60.0
CA_BYTES_MAX = 16 * 1024


@click.group(cls=DockerGroup)
def registry() -> None:
    """Manage what pulling from registries takes."""


def host_of(name: str) -> str:
    """As the cluster knows it."""
    host = name.removeprefix("https://").removeprefix("http://").rstrip("/").lower()
    return DEFAULT if host in {"", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1"} else host


@registry.command("login")
@click.argument("host", default=DEFAULT, metavar="[REGISTRY]")
@click.option("-u", "--username", default="", help="User")
@click.option("-p", "--password", default="", help="Password or token (better from standard input)")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input")
@click.option(
    "--helper", default="", metavar="CMD", help="docker-credential program that managers run instead"
)
@click.option(
    "--ca", "ca_file", type=click.Path(exists=True, dir_okay=False), help="Who signs its certificate (PEM)"
)
@click.option("--insecure", is_flag=True, help="Plain HTTP, or a certificate that nobody vouches for")
@click.option("--no-check", is_flag=True, help="Do not try it before it is kept")
@click.pass_context
def login(
    ctx: click.Context,
    host: str,
    username: str,
    password: str,
    password_stdin: bool,
    helper: str,
    ca_file: str | None,
    insecure: bool,
    no_check: bool,
) -> None:
    """Keep user and password of a registry in the cluster's sealed state, for all nodes."""
    if helper and (username or password or password_stdin):
        raise UsageRefused("--helper finds user and password itself: give one or the other.")
    if password and password_stdin:
        raise UsageRefused("--password and --password-stdin exclude each other.")
    if not helper:
        username = username or click.prompt("Username", err=True)
        if password_stdin:
            password = sys.stdin.read().rstrip("\r\n")
        password = password or click.prompt("Password", hide_input=True, err=True)
    ca = Path(ca_file).read_text() if ca_file else ""
    if len(ca) > CA_BYTES_MAX:
        raise UsageRefused(f"--ca: {ca_file} has more than {CA_BYTES_MAX} bytes.")
    client = connect(ctx)
    host = host_of(host)
    if not no_check and not helper:
        check(client, host, username, password, ca, insecure=insecure)

    def edit(found: Any) -> None:
        found.username, found.password, found.helper = username, password, helper
        found.has_password = False
        found.insecure = insecure
        if ca or not insecure:
            found.ca = ca or found.ca

    keep(client, host, edit)
    click.echo(f"Login kept: {host}")


def check(client: Client, host: str, username: str, password: str, ca: str, *, insecure: bool) -> None:
    from swarmpy.proto import images_pb2, images_pb2_grpc, types_pb2

    access = types_pb2.RegistryAccess(
        registry=host, username=username, password=password, ca=ca, insecure=insecure
    )
    client.service_unary(
        images_pb2_grpc.ImagesStub,
        "CheckRegistry",
        images_pb2.CheckRegistryRequest(access=access),
        CHECK_TIMEOUT_S,
    )


def keep(client: Client, host: str, edit: Any) -> None:
    """Change what is known of a registry, or begin to know it."""
    from swarmpy.proto import objects_pb2

    known = next((found for found in client.find("credential") if found.meta.name == host), None)
    if known is not None:
        client.change("credential", known.meta.id, edit)
        return
    fresh = objects_pb2.Credential()
    fresh.meta.name = host
    edit(fresh)
    client.create(fresh)


@registry.command("trust")
@click.argument("host", metavar="REGISTRY")
@click.option(
    "--ca", "ca_file", type=click.Path(exists=True, dir_okay=False), help="Who signs its certificate (PEM)"
)
@click.option("--insecure", is_flag=True, help="Plain HTTP, or a certificate that nobody vouches for")
@click.pass_context
def trust(ctx: click.Context, host: str, ca_file: str | None, insecure: bool) -> None:
    """Say how a registry proves who it is, where the nodes' own authorities do not do."""
    if bool(ca_file) == insecure:
        raise UsageRefused("Give --ca FILE or --insecure.")
    client = connect(ctx)
    text = Path(ca_file).read_text() if ca_file else ""

    def edit(found: Any) -> None:
        found.ca, found.insecure = text, insecure

    keep(client, host_of(host), edit)
    click.echo(f"Kept: {host_of(host)}")


@registry.command("logout")
@click.argument("hosts", nargs=-1, metavar="[REGISTRY...]")
@click.pass_context
def logout(ctx: click.Context, hosts: tuple[str, ...]) -> None:
    """Forget registries: user, password, helper and mirrors."""
    client = connect(ctx)

    def forget(host: str) -> None:
        client.delete("credential", host_of(host))
        click.echo(f"Removed: {host_of(host)}")

    for_each(hosts or (DEFAULT,), forget)


@registry.command("ls")
@format_option
@click.pass_context
def ls(ctx: click.Context, template: str) -> None:
    """List the registries that the cluster knows something about."""
    client = connect(ctx)
    from swarmpy.cli.output import print_rows

    rows = [
        {
            "ID": found.meta.name,
            "Registry": found.meta.name,
            "User": found.username or "-",
            "Helper": found.helper or "-",
            "Mirrors": ", ".join(found.mirrors) or "-",
            "Tls": "insecure" if found.insecure else "own CA" if found.ca else "yes",
        }
        for found in sorted(client.find("credential"), key=lambda found: str(found.meta.name))
    ]
    print_rows(COLUMNS, rows, template)


@registry.command("mirror")
@click.argument("host", metavar="REGISTRY")
@click.argument("mirrors", nargs=-1, metavar="[HOST[/PATH]...]")
@click.option("--rm", "remove", is_flag=True, help="Ask no mirror any more")
@click.option(
    "--insecure", is_flag=True, help="The mirrors speak plain HTTP, or their certificate is their own"
)
@click.pass_context
def mirror(ctx: click.Context, host: str, mirrors: tuple[str, ...], remove: bool, insecure: bool) -> None:
    """Name the mirrors that nodes ask before the registry itself, in this order."""
    if bool(mirrors) == remove:
        raise UsageRefused("Name mirrors, or remove them with --rm.")
    client = connect(ctx)

    def edit(found: Any) -> None:
        del found.mirrors[:]
        found.mirrors.extend(mirrors)

    keep(client, host_of(host), edit)
    for name in mirrors if insecure else ():

        def mark(found: Any) -> None:
            found.insecure = True

        keep(client, host_of(name.partition("/")[0]), mark)
