"""`backup …`: a file with the cluster's whole state; and `recover`, when most managers are gone for good."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.daemon_backup import PATH, opening_options
from swarmpy.cli.errors import CliError, Conflict, NotConverged, UsageRefused
from swarmpy.cli.options import MILLISECONDS, DockerCommand, DockerGroup, connect, format_option

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

RECOVER_TIMEOUT_S = 90.0
OPENS = {"passphrase": "passphrase", "cluster_key_id": "cluster's backup key", None: "not encrypted"}


@click.group(cls=DockerGroup)
def backup() -> None:
    """Back up the cluster's state: services, networks, addresses, identities, tokens (no volumes, no images)."""


@backup.command("create")
@click.argument("file", type=PATH)
@click.option(
    "--passphrase-file",
    type=PATH,
    help="Seal with the passphrase in this file's first line; - = standard input",
)
@click.option("--encrypt", is_flag=True, hidden=True, expose_value=False)  # the default
@click.option("--unencrypted", is_flag=True, help="Write the cluster's private keys in the clear")
@click.option("--force", is_flag=True, help="Replace an existing file")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing")
@click.pass_context
def create(
    ctx: click.Context, file: Path, passphrase_file: Path | None, unencrypted: bool, force: bool, quiet: bool
) -> None:
    """Write a backup while everything runs, consistent at one moment.

    Sealed with a passphrase, or else with the cluster's backup key (`swarmpy backup key`).
    """
    from swarmpy.cli import daemon_backup
    from swarmpy.proto import recovery_pb2

    if unencrypted and passphrase_file is not None:
        raise UsageRefused("--unencrypted and --passphrase-file exclude each other.")
    secret = daemon_backup.secret_of(passphrase_file, None)
    if file.exists() and not force:
        raise Conflict(f"{file} exists: use --force to replace it.")
    client = connect(ctx)
    client.status()
    with_key = passphrase_file is None and not unencrypted
    stream = streamed(client, "Backup", recovery_pb2.BackupRequest(with_key=with_key))
    first = next(stream, None)
    if first is None or (with_key and not first.cluster_key):
        raise CliError("The manager sent no backup: it runs another version.")
    chunks = (chunk.data for chunk in stream)
    size = daemon_backup.write(file, first.header, chunks, secret, first.cluster_key, force)
    if not quiet:
        click.echo(f"{file}: {size} bytes, the cluster at index {first.header.index}.")
        if with_key:
            key_warning(client)


def key_warning(client: Client) -> None:
    """Nobody can open what only the cluster has the key of."""
    from swarmpy.proto import recovery_pb2

    if not called(client, "ListBackups", recovery_pb2.ListBackupsRequest(local=True)).key_shown:
        click.echo(
            "Warning: it is sealed with the cluster's backup key, which nobody has yet. "
            "Run `swarmpy backup key` and keep what it shows outside the cluster.", err=True,
        )  # fmt: skip


@backup.command("ls")
@format_option
@click.pass_context
def ls(ctx: click.Context, template: str) -> None:
    """List the scheduled backups, which lie on the managers' disks."""
    client = connect(ctx)
    from swarmpy.cli.output import moment, print_rows, size_word, span
    from swarmpy.proto import recovery_pb2

    answer = called(client, "ListBackups", recovery_pb2.ListBackupsRequest())
    rows = [
        {
            "Manager": entry.hostname or entry.node_id, "Created": moment(entry.header.created_ms),
            "Index": entry.header.index or "", "Size": size_word(entry.size_bytes) if entry.size_bytes else "",
            "Path": entry.path or entry.problem, "Problem": entry.problem,
        }
        for entry in sorted(answer.files, key=lambda entry: (entry.header.created_ms, entry.node_id))
    ]  # fmt: skip
    columns = [(name.upper(), name) for name in ("Manager", "Created", "Index", "Size", "Path")]
    print_rows(columns, rows, template)
    if template not in {"", "table"}:
        return
    every = "off" if answer.interval_ms < 0 else f"every {span(answer.interval_ms // 1000)}"
    last = moment(answer.last_ms) or "none yet"
    click.echo(f"\nScheduled: {every}, {answer.keep} kept on each manager; the last one: {last}.")
    if answer.last_problem:
        click.echo(f"Warning: the last one failed: {answer.last_problem}.", err=True)
    if not answer.key_shown:
        click.echo("Warning: nobody has the key that opens them: run `swarmpy backup key`.", err=True)


@backup.command("inspect")
@click.argument("file", type=PATH)
@opening_options
@click.option("--header", "only_header", is_flag=True, help="Only what can be read without a key")
def inspect(file: Path, passphrase_file: Path | None, key_file: Path | None, only_header: bool) -> None:
    """Show what FILE is a backup of and, with its key, verify it to its end."""
    from swarmpy.cli import daemon_backup
    from swarmpy.cli.output import moment

    header = daemon_backup.header_of(file)
    kind = header.WhichOneof("key")
    shown: dict[str, Any] = {
        "file": str(file), "cluster": header.cluster_id, "index": header.index, "term": header.term,
        "created": moment(header.created_ms), "version": header.version, "maker": header.node_id,
        "sealed": OPENS[kind],
    }  # fmt: skip
    keyed = passphrase_file is not None or key_file is not None
    if not only_header and (keyed or kind is None):
        secret = daemon_backup.secret_of(passphrase_file, key_file)
        shown |= {"verified": True, **daemon_backup.contents_of(file, secret)}
    else:
        shown["verified"] = False
    click.echo(json.dumps(shown, indent=4, ensure_ascii=False))


@backup.command("key")
@click.option("--rotate", is_flag=True, help="Make a new key; older backups still need the old one")
@click.option("-q", "--quiet", is_flag=True, help="Only the key")
@click.pass_context
def key(ctx: click.Context, rotate: bool, quiet: bool) -> None:
    """Show the key that opens backups, once: keep it outside the cluster."""
    client = connect(ctx)
    from swarmpy.cli import daemon_backup
    from swarmpy.proto import recovery_pb2

    client.status()
    answer = called(client, "BackupKey", recovery_pb2.BackupKeyRequest(rotate=rotate))
    text = daemon_backup.key_text(answer.key)
    if quiet:
        click.echo(text)
        return
    click.echo(f"The cluster's backup key, shown this once:\n\n    {text}\n")
    click.echo("Keep it outside the cluster: `swarmpy restore --key-file` needs it.")


@backup.command("schedule")
@click.option("--every", "every_ms", type=MILLISECONDS, help="How often, for example 6h")
@click.option("--keep", type=click.IntRange(1, 1000), help="How many to keep on each manager")
@click.option("--off", is_flag=True, help="No scheduled backups")
@click.pass_context
def schedule(ctx: click.Context, every_ms: int | None, keep: int | None, off: bool) -> None:
    """Choose how often the leader makes a backup, and how many are kept."""
    if off and every_ms is not None:
        raise UsageRefused("--off and --every exclude each other.")
    if not off and every_ms is None and keep is None:
        raise UsageRefused("Say what to change: --every, --keep or --off.")
    client = connect(ctx)

    def edit(cluster: Any) -> None:
        if off or every_ms is not None:
            cluster.spec.backup_interval_ms = -1 if off else every_ms
        if keep is not None:
            cluster.spec.backup_keep = keep

    client.change("cluster", "cluster", edit)
    click.echo("No scheduled backups." if off else "Scheduled.")


@click.command(cls=DockerCommand)
@click.option("-y", "--yes", is_flag=True, help="Do not ask")
@click.option("--force", is_flag=True, help="Although another manager has more, or a majority answers")
@click.pass_context
def recover(ctx: click.Context, yes: bool, force: bool) -> None:
    """Go on with this manager alone, when a majority of the managers is gone for good.

    Run it on the surviving manager with the newest log. Services, addresses, certificates and
    containers stay; workers come back by themselves; managers that return become workers.
    """
    client = connect(ctx)
    from swarmpy.proto import recovery_pb2

    rows = called(client, "Survey", recovery_pb2.SurveyRequest()).rows
    show_survey(rows)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageRefused("Nobody can be asked here: say --yes to go on with this manager alone.")
        click.confirm(
            "\nMake this manager the only one? The others must be gone for good, or be able to reach this one "
            "when they return.", abort=True,
        )  # fmt: skip
    began = time.monotonic()
    answer = called(client, "Recover", recovery_pb2.RecoverRequest(force=force))
    wait_for_lead(client, rows[0].node_id, rows[0].position.generation)
    click.echo(
        f"Recovered in {time.monotonic() - began:.1f} s: this manager leads alone, with everything up to "
        f"entry {answer.last_index}."
    )
    click.echo("Make managers of other nodes with `swarmpy node promote`: three survive the loss of one.")


def show_survey(rows: Any) -> None:
    """What every manager has."""
    from swarmpy.cli.output import print_rows

    shown = []
    for row in rows:
        at = row.position
        shown.append(
            {
                "Manager": (row.hostname or row.node_id) + (" (this one)" if row.here else ""),
                "Address": row.address, "Term": at.term or "", "Last": at.last_index or "",
                "LastTerm": at.last_term or "", "Applied": at.applied_index or "",
                "State": row.problem or ("follows a leader" if at.leader_id else "answers, no leader"),
            }
        )  # fmt: skip
    columns = [
        ("MANAGER", "Manager"), ("ADDRESS", "Address"), ("TERM", "Term"), ("LAST ENTRY", "Last"),
        ("OF TERM", "LastTerm"), ("APPLIED", "Applied"), ("STATE", "State"),
    ]  # fmt: skip
    print_rows(columns, shown)


def wait_for_lead(client: Client, node_id: str, generation: int) -> None:
    """Until the manager is back and leads its new cluster."""
    import grpc
    from swarmpy.proto import recovery_pb2

    deadline = time.monotonic() + RECOVER_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            answer = recovery_stub(client).Position(recovery_pb2.PositionRequest(), timeout=5)
            if answer.leader_id == node_id and answer.generation > generation:
                return
        except grpc.RpcError:
            client.close()
        time.sleep(0.05)
    raise NotConverged(
        f"the manager does not lead after {RECOVER_TIMEOUT_S:g} s: see its log, and run `swarmpy recover` again"
    )


# -- the service


def recovery_stub(client: Client) -> Any:
    """The Recovery service at the client's current manager."""
    from swarmpy.proto import recovery_pb2_grpc

    client.stub()
    return recovery_pb2_grpc.RecoveryStub(client._channel)


def called(client: Client, method: str, request: Any) -> Any:
    """One answer of the first manager that gives one, within the time limit; a refusal is final."""
    import grpc
    from swarmpy.cli.client import PAUSE_S, RETRY_CODES, meaning

    began = time.monotonic()
    while True:
        for _ in client.hosts:
            left = max(0.5, client.timeout_s - (time.monotonic() - began))
            try:
                return getattr(recovery_stub(client), method)(request, timeout=left)
            except grpc.RpcError as error:
                if error.code() not in RETRY_CODES:
                    raise meaning(error) from None
                last = error.details() or ""
                client.next_host()
        client._before_next_round(time.monotonic() - began, last)
        time.sleep(PAUSE_S)


def streamed(client: Client, method: str, request: Any) -> Iterator[Any]:
    """One stream; an error ends it with a sentence."""
    import grpc
    from swarmpy.cli.client import STREAM_S, meaning

    try:
        yield from getattr(recovery_stub(client), method)(request, timeout=STREAM_S)
    except grpc.RpcError as error:
        raise meaning(error) from None
