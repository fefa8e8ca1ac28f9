"""`restore`, `reattach`, and what of `backup` needs the node's own code: reading and writing the files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from swarmpy.cli.daemon import node_options, node_options_of, refusal, start_node, state_dir_option
from swarmpy.cli.errors import CliError, Conflict
from swarmpy.cli.options import DockerCommand

PATH = click.Path(path_type=Path)


def opening_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How a sealed backup is opened."""
    phrase = click.option(
        "--passphrase-file", type=PATH, help="File whose first line is the passphrase; - = standard input"
    )
    key = click.option("--key-file", type=PATH, help="File with the cluster's backup key; - = standard input")
    return phrase(key(function))


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refusals of the node's code and of the disk become one sentence."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        from swarmpy.node import daemon_recover

        try:
            return function(*args, **kwargs)
        except FileExistsError as error:
            raise Conflict(
                f"{error.filename2 or error.filename} exists: use --force to replace it."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CliError(
                    f"No space left for {args[0]}: nothing was written; free some or choose another place."
                ) from None
            raise CliError(f"{error.filename or args[0]}: {error.strerror or error}.") from None
        except daemon_recover.REFUSALS as error:
            raise refusal(error) from None

    return call


@told
def secret_of(passphrase_file: Path | None, key_file: Path | None) -> Any:
    from swarmpy.node import daemon_recover

    if passphrase_file is not None and key_file is not None:
        raise click.UsageError("--passphrase-file and --key-file exclude each other: give one.")
    return daemon_recover.secret_of(passphrase_file, key_file)


@told
def write(
    path: Path, header: Any, chunks: Iterable[bytes], secret: Any, cluster_key: bytes, force: bool
) -> int:
    """Write a backup; the key of the cluster seals it where there is one."""
    from swarmpy.node import daemon_recover

    if cluster_key:
        secret = daemon_recover.secret_of_key(cluster_key)
    return daemon_recover.new_backup(path, header, chunks, secret, replace=force)


@told
def header_of(path: Path) -> Any:
    from swarmpy.node import daemon_recover

    return daemon_recover.header_of(path)


@told
def contents_of(path: Path, secret: Any) -> dict[str, Any]:
    """What a backup holds, read and verified to its end."""
    from swarmpy.node import daemon_recover

    return daemon_recover.contents(daemon_recover.load(path, secret))


def key_text(key: bytes) -> str:
    from swarmpy.node import daemon_recover

    return daemon_recover.key_text(key)


@told
def _restore(file: Path, secret: Any, options: Any, force: bool) -> Any:
    from swarmpy.node import daemon_recover

    return daemon_recover.restore(file, secret, options, force=force)


@click.command(cls=DockerCommand)
@click.argument("file", type=PATH)
@opening_options
@click.option("--force", is_flag=True, help="Replace the state of the node that is here")
@node_options
def restore(
    file: Path, passphrase_file: Path | None, key_file: Path | None, force: bool, **values: Any
) -> None:
    """Make this machine the only manager of the cluster that FILE is a backup of.

    Stop the old managers first: a majority of them would go on as a second cluster.
    """
    secret = secret_of(passphrase_file, key_file)
    config = _restore(file, secret, node_options_of(values), force)
    click.echo(
        f"Cluster {config.cluster_id} restored; "
        f"this node is {config.hostname} ({config.node_id}) at {config.advertise_addr}."
    )
    start_node(values, manager=True)
    click.echo(
        "Nodes that knew a manager at this address come back by themselves; on the others run\n\n"
        f"    swarmpy reattach {config.advertise_addr}:{config.ports.manager}\n\n"
        "The other managers are workers now: make managers of them again with `swarmpy node promote`."
    )


@click.command(cls=DockerCommand)
@click.argument("address")
@state_dir_option
def reattach(address: str, state_dir: Path) -> None:
    """Show this node where a manager of its cluster is now: HOST[:PORT]. Containers keep running."""
    manager_id = _reattach(state_dir, address)
    click.echo(f"Manager {manager_id} found at {address}: this node attaches to it.")


@told
def _reattach(state_dir: Path, address: str) -> str:
    from swarmpy.node import daemon_recover

    return daemon_recover.reattach(state_dir, address)
